"""Predictions of clips, windows of a recording, and events, as plain data classes.

Times are in seconds from the recording's start, probabilities are 0 to 1. Nothing here needs numpy or torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The classes of one sound, most probable first.

    Attributes
    ----------
    path : str
        The file as it was named; empty for an array.
    classes : tuple of str
        Most probable first.
    probabilities : tuple of float
        Of ``classes``, adding up to 1 over all of the model's classes.
    error : str
        Why there is no prediction; empty where there is one.
    unknown : bool
        The OOD score is above the model's threshold: the sound is unlike any of its classes.
    novelty : float, optional
        The OOD score; higher for sounds less like any class. None where the model was not calibrated.
    plausible : tuple of str
        The prediction set, most probable first: it holds the sound's class with the coverage that the model file
        states, if the sound is of a known class. Empty where the model was not calibrated.
    """

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str = ""
    unknown: bool = False
    novelty: float | None = None
    plausible: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The most probable class, also of an unknown sound; empty where there is none."""
        return self.classes[0] if self.classes else ""

    @property
    def answer(self) -> str:
        """``unknown`` for an unknown sound, else the label."""
        return "unknown" if self.unknown else self.label


@dataclass(frozen=True)
class Window:
    """The prediction of one window of a recording; the last one ends with the sound."""

    begin_seconds: float
    end_seconds: float
    found: Prediction


@dataclass(frozen=True)
class Event:
    """One class, detected for some time.

    Attributes
    ----------
    label : str
    begin_seconds, end_seconds : float
    score, mean : float
        The highest and the mean probability of the class in the event's windows.
    windows : int
        How many windows detected it.
    """

    label: str
    begin_seconds: float
    end_seconds: float
    score: float
    mean: float
    windows: int
