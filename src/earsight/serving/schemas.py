"""Response bodies of the service, as in its OpenAPI description. Times in seconds, rates in Hz."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ClassShare(BaseModel):
    """One class and its probability."""

    label: str = Field(description="The class, as it was named in training.")
    probability: float = Field(description="From 0 to 1, at the model's calibrated temperature.")


class PredictionBody(BaseModel):
    """The model's prediction for a part of a sound."""

    label: str = Field(description="The most probable class, also of an unknown sound.")
    unknown: bool = Field(description="Whether the sound is out of distribution; false without a calibrated threshold.")
    novelty: float | None = Field(description="The OOD score, on the model file's own scale; or null.")
    plausible: list[str] = Field(
        description="The prediction set: holds the sound's class with the coverage that the model file states; empty "
        "without a calibration."
    )
    classes: list[ClassShare] = Field(
        description="The most probable classes, in order; as many as `top` says, and all of `labels`."
    )
    labels: list[str] | None = Field(
        default=None,
        description="Of a model whose classes may sound together: those that reach their thresholds, maybe none; their "
        "probabilities are each by itself. Null of a model that names one class.",
    )


class Window(PredictionBody):
    """The prediction for one window of a longer sound."""

    start_seconds: float = Field(description="Where the window begins in the sound.")
    end_seconds: float = Field(description="Where it ends; the last one may be filled up with silence.")


class EventBody(BaseModel):
    """A class and when it sounds, as `earsight predict --events` finds it."""

    label: str
    start_seconds: float = Field(description="Where it begins in the sound.")
    end_seconds: float = Field(description="Where it ends.")
    score: float = Field(description="The highest probability of the class in it.")


class Sound(BaseModel):
    """The sound that was sent."""

    name: str = Field(description="The file's name as the form gave it; empty for a raw body.")
    seconds: float = Field(description="Its length.")
    sample_rate_hz: int = Field(description="Its rate.")
    channels: int = Field(description="Its channels, which are averaged, or of which the model chooses one.")
    format: str = Field(description="Its container, found from its bytes, such as FLAC.")


class SpectrogramImage(BaseModel):
    """The network's input: log power in bands, one channel a window length, each drawn as grey levels."""

    windows_ms: list[float] = Field(description="The window length of each channel.")
    bands_hz: list[float] = Field(description="Middle of each row, from the lowest.")
    start_seconds: float = Field(description="Where the window begins in the sound.")
    seconds: float = Field(description="Length of the time axis.")
    low: float = Field(description="Natural log power at grey level 0.")
    high: float = Field(description="Natural log power at grey level 255.")
    rows: int
    columns: int
    levels: str = Field(description="Base64 of windows x rows x columns bytes, the lowest band first.")


class Waveform(BaseModel):
    """The outline of the part that was classified."""

    start_seconds: float
    seconds: float
    low: list[float] = Field(description="Lowest sample in each of equal parts; full scale is 1.")
    high: list[float] = Field(description="Highest sample in each of them.")


class ExplanationBody(BaseModel):
    """The attribution of one class's score: Integrated Gradients, as a spectrogram and as two sounds."""

    label: str = Field(description="The class that is explained.")
    probability: float = Field(description="Of that class, in the window that is explained.")
    start_seconds: float = Field(description="Where that window begins in the sound: the one that speaks most for it.")
    end_seconds: float = Field(description="Where it ends.")
    completeness_error: float = Field(description="Attributions' sum less the score's change, as a share of it.")
    complete: bool = Field(description="Whether that is at most 1 %; if not, the service's time for it was over.")
    steps: int = Field(description="Steps of Integrated Gradients.")
    verdict: str = Field(description="Whether to believe the attribution, and its positive part, by its curves.")
    believed: Literal["yes", "with care", "no"] = Field(description="The same of the attribution, in a word.")
    rows: int
    columns: int
    largest: float = Field(description="The attribution at level 127, in units of the score, neighbours averaged.")
    levels: str = Field(description="Base64 of rows x columns signed bytes, the lowest band first; + is for the class.")
    used_probability: float = Field(description="Of the class, of the part of the sound that the network used.")
    unused_probability: float = Field(description="Of the class, of the rest.")
    used_energy: float = Field(description="Share of the sound's energy in what was used.")
    used_wav: str = Field(description="Base64 of a WAV file: only what the network used.")
    unused_wav: str = Field(description="Base64 of a WAV file: the rest.")


class Answer(PredictionBody):
    """The prediction for a sound: from one window, or from several together where it is longer by more than a tenth."""

    windows: int = Field(description="How many windows it is from; their probabilities are averaged.")
    agreement: float = Field(description="Share of them whose most probable class is the label.")
    calibrated: bool | None = Field(
        description="Whether the model's temperature, OOD threshold and prediction sets were fitted to answers from as "
        "many windows, one or several; null where it has none."
    )
    sound: Sound
    start_seconds: float = Field(description="Where the part begins that the prediction is for.")
    end_seconds: float = Field(description="Where it ends.")
    timeline: list[Window] | None = Field(description="One prediction a window, where `hop` was given; else null.")
    events: list[EventBody] | None = Field(
        description="When which class sounds, by the model's threshold of the class, else 0.5, and hysteresis; null "
        "without `hop`."
    )
    spectrogram: SpectrogramImage | None = Field(
        description="With `spectrogram`, of the window that speaks most for the class (with `hop`, the first)."
    )
    waveform: Waveform | None = Field(description="With `spectrogram`; else null.")
    explanation: ExplanationBody | None = Field(description="With `explain`, if it could be computed; else null.")
    notes: list[str] = Field(description="Parts that are missing, and why; and in words what `left_out` says.")
    left_out: dict[str, float] = Field(
        description="What of the sound the network did not get, where that is much: the share of energy `above` the "
        "model's bands in some moment (around `above_hz` Hz), `below` them, `cancelled` by averaging channels, or "
        "`lacking` in the chosen channel; `silent` is 1 where all samples are the same, to -120 dB."
    )


class ErrorContent(BaseModel):
    """Why there is no answer."""

    code: str = Field(description="One word for programs, such as `too_large`.")
    message: str = Field(description="What was found, and what was expected.")
    what_to_do: str


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorContent


class Health(BaseModel):
    """Whether the service can answer."""

    status: str = Field(description="`ok`; `degraded` while a decoding process is being replaced.")
    decoders: int = Field(description="Decoding processes at work.")
    in_flight: int = Field(description="Requests that have no answer yet.")


class ModelBody(BaseModel):
    """The model, and what the service takes."""

    classes: list[str]
    sample_rate_hz: int = Field(description="Sounds are resampled to it.")
    clip_seconds: float = Field(description="Length of a window.")
    backbone: str
    trained_on: str = Field(description="Name of the data set.")
    several: bool = Field(default=False, description="Whether classes may sound together.")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="From which probability on a class is named, where the model file says so."
    )
    unknown_above: float | None = Field(default=None, description="That threshold; null where there is none.")
    tells_unknown: bool = Field(description="Whether the model has a calibrated OOD threshold.")
    earsight: str = Field(description="Version of the service.")
    most_bytes: int = Field(description="Of an upload.")
    most_seconds: float = Field(description="Of a sound.")
    most_windows: int = Field(description="Of a timeline.")
    explanation_seconds: float = Field(description="For the steps of one explanation; its verdict takes some more.")
    formats: list[str] = Field(description="Names of common kinds of files that it reads.")
