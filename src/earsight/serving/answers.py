"""Predictions of windows as one answer.

Comes in: what the model says of each window, and what was asked. Goes out: an `Answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from earsight.inference import recordings
from earsight.inference.classifier import Prediction
from earsight.inference.events import EventRules, events_of
from earsight.serving.decoder_pool import Heard
from earsight.serving.schemas import (
    Answer,
    ClassShare,
    ExplanationBody,
    Happening,
    Opinion,
    Sound,
    SpectrogramImage,
    Waveform,
    Window,
)


@dataclass(frozen=True)
class Question:
    """What is asked of a sound; see the parameters of ``POST /predict``."""

    top: int = 5
    hop: float | None = None
    at: float = 0.0
    explain: bool = False
    spectrogram: bool = False
    label: str | None = None


def answered(
    found: Sequence[tuple[float, Prediction]],
    heard: Heard,
    *,
    name: str,
    question: Question,
    clip: float,
    spectrogram: SpectrogramImage | None,
    waveform: Waveform | None,
    explanation: ExplanationBody | None,
    notes: list[str],
) -> Answer:
    """The answer to a question.

    Parameters
    ----------
    found : sequence of (float, Prediction)
        Where each window begins in what was heard, in seconds, and what the model says of it; at least one.
    heard : Heard
    name : str
        Of the file, as its sender has it.
    question : Question
    clip : float
        Length of a window in seconds.
    spectrogram, waveform, explanation, notes
        What else was asked for.
    """
    whole = question.hop is not None
    shift = 0.0 if whole else question.at
    windows = [
        Window(
            **_opinion(one, top=question.top),
            start_seconds=round(shift + start, 3),
            end_seconds=round(min(shift + start + clip, heard.seconds), 3),
        )
        for start, one in found
    ]
    every = [one for _, one in found]
    return Answer(
        **(_opinion(every[0], top=question.top) if len(every) == 1 else _of_all(every, top=question.top)),
        sound=Sound(
            name=name,
            seconds=round(heard.seconds, 3),
            sample_rate_hz=heard.sample_rate_hz,
            channels=heard.channels,
            format=heard.format,
        ),
        start_seconds=windows[0].start_seconds,
        end_seconds=windows[-1].end_seconds,
        timeline=windows if whole else None,
        events=_events(found, heard, hop=question.hop, clip=clip) if question.hop is not None else None,
        spectrogram=spectrogram,
        waveform=waveform,
        explanation=explanation,
        notes=notes,
    )


def _events(found: Sequence[tuple[float, Prediction]], heard: Heard, *, hop: float, clip: float) -> list[Happening]:
    """The events that `earsight predict` would find in these windows."""
    spans = (recordings.Window(start, min(start + clip, heard.seconds), one) for start, one in found)
    events = events_of(spans, EventRules(), hop_seconds=hop, window_seconds=clip)
    return [
        Happening(
            label=one.label,
            start_seconds=round(one.begin_seconds, 3),
            end_seconds=round(one.end_seconds, 3),
            score=round(one.score, 6),
        )
        for one in sorted(events, key=lambda event: event.begin_seconds)
    ]


def _opinion(found: Prediction, *, top: int) -> dict[str, Any]:
    return Opinion(
        label=found.label,
        unknown=found.unknown,
        novelty=found.novelty,
        plausible=list(found.plausible),
        classes=_shares(dict(zip(found.classes, found.probabilities, strict=True)), top=top),
    ).model_dump()


def _of_all(found: Sequence[Prediction], *, top: int) -> dict[str, Any]:
    """The opinion of several windows: mean probabilities; unknown where most of the windows are."""
    total = dict.fromkeys(found[0].classes, 0.0)
    for one in found:
        for label, share in zip(one.classes, one.probabilities, strict=True):
            total[label] += share / len(found)
    ranked = dict(sorted(total.items(), key=lambda pair: -pair[1]))
    return Opinion(
        label=next(iter(ranked)),
        unknown=2 * sum(one.unknown for one in found) > len(found),
        novelty=None,
        plausible=[],
        classes=_shares(ranked, top=top),
    ).model_dump()


def _shares(ranked: dict[str, float], *, top: int) -> list[ClassShare]:
    return [ClassShare(label=label, probability=round(share, 6)) for label, share in list(ranked.items())[:top]]
