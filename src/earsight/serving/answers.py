"""Combine the predictions of a sound's windows into one `Answer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earsight.inference import predictions
from earsight.inference.events import EventRules, events_of
from earsight.inference.predictions import Prediction
from earsight.serving.decoder_pool import Decoded
from earsight.serving.schemas import Answer, ClassShare, EventBody, PredictionBody, Sound, Window


@dataclass(frozen=True)
class Options:
    """The parameters of ``POST /predict``, described there."""

    top: int
    hop: float | None
    at: float
    explain: bool
    spectrogram: bool
    label: str | None


def answer_of(
    found: Sequence[tuple[float, Prediction]],
    decoded: Decoded,
    *,
    name: str,
    options: Options,
    clip: float,
    extras: Mapping[str, Any],
) -> Answer:
    """The answer to one request.

    ``found`` holds where each window begins in the decoded part, in seconds, and its prediction, at least one; ``name``
    is the file's, as its sender has it; ``clip`` the length of a window in seconds; ``extras`` are ``spectrogram``,
    ``waveform``, ``explanation`` and ``notes`` of the `Answer`.
    """
    shift = options.at if options.hop is None else 0.0
    windows = [
        Window(
            **_prediction([one], top=options.top),
            start_seconds=round(shift + start, 3),
            end_seconds=round(min(shift + start + clip, decoded.seconds), 3),
        )
        for start, one in found
    ]
    return Answer(
        **_prediction([one for _, one in found], top=options.top),
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
        events=None if options.hop is None else _events(found, decoded, hop=options.hop, clip=clip),
        **extras,
    )


def _events(found: Sequence[tuple[float, Prediction]], decoded: Decoded, *, hop: float, clip: float) -> list[EventBody]:
    """The events that `earsight predict` would find in these windows."""
    spans = (predictions.Window(start, min(start + clip, decoded.seconds), one) for start, one in found)
    events = events_of(spans, EventRules(), hop_seconds=hop, window_seconds=clip)
    return [
        EventBody(
            label=one.label,
            start_seconds=round(one.begin_seconds, 3),
            end_seconds=round(one.end_seconds, 3),
            score=round(one.score, 6),
        )
        for one in sorted(events, key=lambda event: event.begin_seconds)
    ]


def _prediction(found: Sequence[Prediction], *, top: int) -> dict[str, Any]:
    """A prediction as its schema has it; of several windows mean probabilities, and unknown where most of them are."""
    first, alone = found[0], len(found) == 1
    total = dict.fromkeys(first.classes, 0.0)
    for one in found:
        for label, probability in zip(one.classes, one.probabilities, strict=True):
            total[label] += probability / len(found)
    ranked = sorted(total.items(), key=lambda pair: -pair[1])  # the order of equal ones stays
    return PredictionBody(
        label=ranked[0][0],
        unknown=2 * sum(one.unknown for one in found) > len(found),
        novelty=first.novelty if alone else None,
        plausible=list(first.plausible) if alone else [],
        classes=[ClassShare(label=label, probability=round(share, 6)) for label, share in ranked[:top]],
    ).model_dump()
