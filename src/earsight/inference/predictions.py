"""Predictions of clips, windows of a recording, and events, as plain data classes.

Times are in seconds from the recording's start, probabilities are 0 to 1. Nothing here needs numpy or torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

UNKNOWN = "unknown"
"""What is shown for a sound unlike any class; beside it stands the OOD score, never the nearest class's probability."""
NONE = "none"
"""What is shown where no class reaches its threshold."""
LOST = {
    "silent": "silent, or nearly: all samples are the same to -120 dB of full scale",
    "cancelled": "{} cancelled by averaging channels", "lacking": "the chosen channel is nearly silent",
    "above": "{} of a moment too high for the model", "below": "{} too low for it",
}  # fmt: skip
"""What stands beside an answer from less than the sound, by the kinds of `Prediction.left_out`."""


def share_words(probability: float) -> str:
    """A probability for people, as ``63.9 %``: none is certain, so that the ends are ``>99.9 %`` and ``<0.1 %``."""
    shown = f"{100 * probability:.1f}"
    return f"{ {'100.0': '>99.9', '0.0': '<0.1'}.get(shown, shown) } %"


def error_words(share: float, limit: float) -> str:
    """An error in per cent, as ``1.002 %``: with as many digits as tell it from a limit, 0.01 here."""
    texts = [f"{100 * share:.{digits}f}" for digits in range(1, 7)]
    return f"{next((text for text in texts if float(text) != 100 * limit), texts[0])} %"


@dataclass(frozen=True)
class Prediction:
    """The classes of one sound, most probable first, and their probabilities, which add up to 1.

    With ``several`` classes at a time each probability is by itself, and ``named`` are those that reach their
    thresholds, most probable first; there may be none.

    ``unknown``: the OOD score is above the model's threshold, for the sound is unlike any of its classes. ``novelty``:
    that score, higher for sounds less like any class; None where the model was not calibrated. ``plausible``: the
    prediction set, most probable first, which holds the sound's class with the coverage that the model file states, if
    the sound is of a known class; empty where the model was not calibrated.

    A sound that is longer than the model's window by more than a tenth is cut into several ``windows``, whose
    probabilities are averaged; ``agreement`` is the share of them whose most probable class is the label.
    ``calibrated`` says whether the model's temperature, threshold and prediction sets were fitted to answers from so
    many windows, one or several; None where it has none.

    Of a damaged or cut file that was classified all the same, ``damage`` says what is wrong with it, and
    ``read_seconds`` how many seconds before that were used; of others they are empty and None.

    ``left_out`` says what of the sound the network did not get, where that is much: the share of energy ``above`` the
    bands in some moment (around ``above_hz`` Hz), ``below`` them, and, in some window, ``cancelled`` by averaging
    channels or ``lacking`` in the chosen one; ``silent`` is 1 where it is silence, or a constant. Windows of recordings
    have the last alone.
    """

    path: str  # the file as it was named; empty for an array
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str = ""  # why there is no prediction; empty where there is one
    unknown: bool = False
    novelty: float | None = None
    plausible: tuple[str, ...] = ()
    windows: int = 1
    agreement: float = 1.0
    calibrated: bool | None = None
    damage: str = ""
    read_seconds: float | None = None
    left_out: dict[str, float] = field(default_factory=dict, hash=False)
    several: bool = False
    named: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The most probable class, also of an unknown sound; empty where there is none."""
        return self.classes[0] if self.classes else ""

    @property
    def words(self) -> str:
        """The answer for people: beside `unknown` its OOD score."""
        return f"{UNKNOWN}, OOD score {self.novelty:.4g}" if self.unknown and self.novelty is not None else self.answer

    @property
    def answer(self) -> str:
        """``unknown`` for an unknown sound, else the label; of several classes those named, or ``none``."""
        if self.several and not self.unknown:
            return ";".join(self.named) or NONE
        return UNKNOWN if self.unknown else self.label

    def _first(self, number: int) -> list[tuple[str, float]]:
        return list(zip(self.classes, self.probabilities, strict=True))[:number]

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share_words(p)}" for name, p in self._first(3)) + ", ..." * (len(self.classes) > 3)
        start = f"{self.words}: " if self.unknown or self.several else ""
        return f"<Prediction of {self.path or 'an array'}: {self.error or start + shares + self._long}>"

    @property
    def _long(self) -> str:
        found = [f"{self.windows} windows, {100 * self.agreement:.0f} % agree"] if self.windows > 1 else []
        found += self.lost
        return f" ({'; '.join(found)})" if found else ""

    @property
    def lost(self) -> list[str]:
        """What of the sound the network did not get, in words."""
        shown = {kind: f"{100 * share:.0f} %" for kind, share in self.left_out.items()}
        return [words.format(shown[kind]) for kind, words in LOST.items() if kind in shown]

    def _repr_html_(self) -> str:
        """A bar a class, for notebooks: the first ten."""
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(share_words(p))}</td><td style='min-width:12em'><div style="
            f"'background:currentColor;opacity:.4;height:.8em;width:{100 * p:.1f}%'></div></td></tr>"
            for name, p in self._first(10)
        )
        return f"<p><b>{escape(self.error or self.words)}</b> {escape(self.path + self._long)}</p><table>{rows}</table>"


@dataclass(frozen=True)
class Frames:
    """The frames that a window adds to those before it (`earsight.inference.activity`).

    ``first``: the number of the first; ``levels``: a byte for each frame and band; ``spreads``: of each band's level in
    steady noise.
    """

    first: int
    levels: bytes
    spreads: tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """The prediction of one window of a recording; the last one ends with the sound."""

    begin_seconds: float
    end_seconds: float
    found: Prediction
    frames: Frames | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Event:
    """One class, detected for some time, in so many windows: its highest and its mean probability in them."""

    label: str
    begin_seconds: float
    end_seconds: float
    score: float
    mean: float
    windows: int

    def __repr__(self) -> str:
        span, mean = f"{self.begin_seconds:.3f} to {self.end_seconds:.3f} s", share_words(self.mean)
        return f"<Event {self.label}: {span}, {share_words(self.score)} (mean {mean}, windows: {self.windows})>"
