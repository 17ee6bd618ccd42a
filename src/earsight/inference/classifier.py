"""`Classifier`: one object for predicting clips, files, recordings and events, and for explaining.

Comes in: the path of a model file, then audio files or waves. Goes out: `Prediction`s, `Window`s, `Event`s and
`Explanation`s. What a single clip needs is in `earsight.inference.model`; nothing in this folder but `scoring` imports
this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from earsight.calibration.apply import own_thresholds
from earsight.errors import EarsightError
from earsight.inference.clips import predict_clips
from earsight.inference.events import EventRules, events_of
from earsight.inference.explanation import explain
from earsight.inference.model import Model
from earsight.inference.predictions import Event, Prediction
from earsight.inference.recordings import Recording


class Classifier(Model):
    """A loaded model: `predict` takes files and waves, `logits` a batch of waves; see `Model` for its parameters."""

    def predict_files(
        self, paths: Iterable[str | Path], *, batch_size: int = 16, first: bool = False, damaged: bool = False
    ) -> Iterator[Prediction]:
        """Classify many files in constant memory, in order; an unreadable one gives a `Prediction` with its error.

        Long files are classified whole, or with ``first`` through their first window, as by `predict`; damaged and cut
        ones with ``damaged`` by what is whole before the damage, which their `Prediction` says.
        """
        return predict_clips(self, paths, batch_size=batch_size, first=first, damaged=damaged)

    def recording(self, path: str | Path, *, hop_seconds: float = 1.0) -> Recording:
        """A recording of any length; iterating gives a `Window` every ``hop_seconds``, in constant memory.

        EarsightError if the hop is no length; iterating raises AudioError, after what could be read of the file.
        """
        return Recording(self, path, hop_seconds=hop_seconds)

    def events(self, path: str | Path, *, hop_seconds: float = 1.0, rules: EventRules | None = None) -> Iterator[Event]:
        """Detect sound events in a recording of any length; yields each when it has ended, in constant memory.

        ``hop_seconds`` and errors are those of `recording`; ``rules`` are threshold, release, shortest event and
        longest gap; by default with the model's own threshold of each class, where it has one.
        """
        if rules and (strange := sorted(set(rules.of_class) - set(self.classes))):
            raise EarsightError(f"of_class has {strange[0]!r}, which is none of the classes: {', '.join(self.classes)}")
        windows = self.recording(path, hop_seconds=hop_seconds)
        rules = rules or EventRules(of_class=own_thresholds(self.card))
        rules = replace(rules, never=self.card.background or "")
        return events_of(windows, rules, hop_seconds=hop_seconds, window_seconds=self.clip_seconds)

    explain = explain


def load_classifier(path: str | Path, *, device: torch.device | None = None) -> Classifier:
    """Load a model file; ModelError if it is not a whole model file of this version of earsight."""
    return Classifier.load(path, device=device)
