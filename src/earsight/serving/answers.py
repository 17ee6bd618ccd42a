"""Put the predictions of a sound and its windows into one `Answer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earsight.inference import predictions
from earsight.inference.activity import frames_of
from earsight.inference.events import EventRules, events_of
from earsight.inference.predictions import Prediction
from earsight.recipe import Features
from earsight.serving.decoder_pool import Decoded
from earsight.serving.schemas import Answer, ClassShare, EventBody, PredictionBody, Sound, Window


@dataclass(frozen=True)
class Options:
    """The parameters of ``POST /predict``, described there."""

    top: int
    hop: float | None
    at: float | None
    explain: bool
    spectrogram: bool
    label: str | None
    first: bool

    @property
    def one_window(self) -> bool:
        """Whether one window was asked for, however long the sound is."""
        return self.first or self.at is not None

    @property
    def start(self) -> float:
        """Where the decoded part begins, in seconds."""
        return self.at or 0.0


def answer_of(
    whole: Prediction,
    found: Sequence[tuple[float, Prediction]],
    decoded: Decoded,
    *,
    name: str,
    options: Options,
    features: Features,
    extras: Mapping[str, Any],
    rules: EventRules | None = None,
) -> Answer:
    """The answer to one request.

    ``whole`` is the prediction for the sound; ``found`` holds where each window begins in the decoded part, in seconds,
    and its prediction, at least one; ``name`` is the file's, as its sender has it; ``features`` the model's; ``extras``
    are ``spectrogram``, ``waveform``, ``explanation`` and ``notes`` of the `Answer`; ``rules`` make events.
    """
    clip = features.samples / features.rate
    windows = [
        Window(
            **_prediction(one, top=options.top),
            start_seconds=round(options.start + start, 3),
            end_seconds=round(min(options.start + start + clip, decoded.seconds), 3),
        )
        for start, one in found
    ]
    return Answer(
        **_prediction(whole, top=options.top),
        windows=whole.windows,
        agreement=round(whole.agreement, 6),
        calibrated=whole.calibrated,
        sound=Sound(
            name=name,
            seconds=round(decoded.seconds, 3),
            sample_rate_hz=decoded.sample_rate_hz,
            channels=decoded.channels,
            format=decoded.format,
        ),
        start_seconds=windows[0].start_seconds,
        end_seconds=windows[-1].end_seconds,
        timeline=None if options.hop is None else windows,
        events=None if options.hop is None else _events(found, decoded, rules, options.hop, features),
        left_out=decoded.loss.to_dict(),
        **extras,
    )


def _events(
    found: Sequence[tuple[float, Prediction]],
    decoded: Decoded,
    rules: EventRules | None,
    hop: float,
    features: Features,
) -> list[EventBody]:
    """The events that `earsight predict` would find in these windows."""
    clip = features.samples / features.rate

    def spans() -> Iterator[predictions.Window]:
        covered = 0
        for start, one in found:
            begin = round(start * features.rate)
            wave = decoded.part(begin, features.samples)
            new = frames_of(wave, begin=begin, covered=covered, rate_hz=features.rate, band_hz=features.band_hz)
            covered = begin + len(wave)
            yield predictions.Window(start, min(start + clip, decoded.seconds), one, new)

    events = events_of(spans(), rules or EventRules(), hop_seconds=hop, window_seconds=clip)
    return [
        EventBody(
            label=one.label,
            start_seconds=round(one.begin_seconds, 3),
            end_seconds=round(one.end_seconds, 3),
            score=round(one.score, 6),
        )
        for one in events
    ]


def mean_of(found: Sequence[Prediction], *, threshold: Callable[[str], float] = lambda label: 0.5) -> Prediction:
    """The mean of the probabilities of windows that overlap; of several it is unknown where most of them are.

    ``threshold`` gives that of a class, where classes may sound together.
    """
    first = found[0]
    if len(found) == 1:
        return first
    total = dict.fromkeys(first.classes, 0.0)
    for one in found:
        for label, probability in zip(one.classes, one.probabilities, strict=True):
            total[label] += probability / len(found)
    ranked = sorted(total.items(), key=lambda pair: -pair[1])  # the order of equal ones stays
    return Prediction(
        first.path,
        tuple(label for label, _ in ranked),
        tuple(share for _, share in ranked),
        unknown=2 * sum(one.unknown for one in found) > len(found),
        windows=len(found),
        agreement=sum(one.label == ranked[0][0] for one in found) / len(found),
        calibrated=None if first.calibrated is None else False,
        several=first.several,
        named=tuple(label for label, share in ranked if first.several and share >= threshold(label)),
    )


def _prediction(found: Prediction, *, top: int) -> dict[str, Any]:
    """A prediction as its schema has it."""
    ranked = [
        (label, share)
        for place, (label, share) in enumerate(zip(found.classes, found.probabilities, strict=True))
        if place < top or label in found.named
    ]
    return PredictionBody(
        label=found.label,
        unknown=found.unknown,
        novelty=found.novelty,
        plausible=list(found.plausible),
        classes=[ClassShare(label=label, probability=round(share, 6)) for label, share in ranked],
        labels=list(found.named) if found.several else None,
    ).model_dump()
