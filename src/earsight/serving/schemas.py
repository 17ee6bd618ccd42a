"""What the service answers, as its OpenAPI description tells it. Times in seconds, rates in Hz."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ClassShare(BaseModel):
    """One class and how probable it is."""

    label: str = Field(description="The class, as it was named in training.")
    probability: float = Field(description="From 0 to 1, at the model's calibrated temperature.")


class Opinion(BaseModel):
    """What the model says of one window of sound."""

    label: str = Field(description="The most probable class, also of an unknown sound.")
    unknown: bool = Field(
        description="The sound is unlike every class that the model knows. Always false of a model that was not "
        "calibrated for it."
    )
    novelty: float | None = Field(description="How unlike every class it is, on the model file's own scale; or null.")
    plausible: list[str] = Field(
        description="The classes among which the sound's is, with the coverage that the model file states; empty of a "
        "model that was not calibrated."
    )
    classes: list[ClassShare] = Field(description="The most probable classes, in order; as many as `top` says.")


class Window(Opinion):
    """An opinion of a part of a longer sound."""

    start_seconds: float = Field(description="Where the window begins in the sound.")
    end_seconds: float = Field(description="Where it ends; the last one may be filled up with silence.")


class Happening(BaseModel):
    """A class that is heard for some time, as `earsight predict --events` finds it."""

    label: str
    start_seconds: float = Field(description="Where it begins in the sound.")
    end_seconds: float = Field(description="Where it ends.")
    score: float = Field(description="The highest probability of the class in it.")


class Sound(BaseModel):
    """The sound that was sent."""

    name: str = Field(description="The file's name as the form gave it; empty for a raw body.")
    seconds: float = Field(description="Its length.")
    sample_rate_hz: int = Field(description="Its rate.")
    channels: int = Field(description="Its channels, which are averaged.")
    format: str = Field(description="Its container as told from its bytes, such as FLAC.")


class SpectrogramImage(BaseModel):
    """What the network sees: log power in bands, one channel a window length, each drawn as grey levels."""

    windows_ms: list[float] = Field(description="The window length of each channel.")
    bands_hz: list[float] = Field(description="Middle of each row, from the lowest.")
    seconds: float = Field(description="Length of the time axis.")
    low: float = Field(description="Natural log power at grey level 0.")
    high: float = Field(description="Natural log power at grey level 255.")
    rows: int
    columns: int
    levels: str = Field(description="Base64 of windows x rows x columns bytes, the lowest band first.")


class Waveform(BaseModel):
    """The outline of the part that was heard."""

    start_seconds: float
    seconds: float
    low: list[float] = Field(description="Lowest sample in each of equal parts; full scale is 1.")
    high: list[float] = Field(description="Highest sample in each of them.")


class ExplanationBody(BaseModel):
    """What speaks for the first class: Integrated Gradients, as a spectrogram and as two sounds."""

    label: str = Field(description="The class that is explained.")
    probability: float = Field(description="Of that class.")
    completeness_error: float = Field(
        description="How far the attributions' sum is from the score's change, as a share."
    )
    rows: int
    columns: int
    largest: float = Field(
        description="The attribution at level 127, in units of the score, averaged over neighbouring cells."
    )
    levels: str = Field(
        description="Base64 of rows x columns signed bytes, the lowest band first: above 0 speaks for the class."
    )
    used_probability: float = Field(description="Of the class, when the network hears only what it used.")
    unused_probability: float = Field(description="Of the class, when the network hears the rest.")
    used_energy: float = Field(description="Share of the sound's energy in what was used.")
    used_wav: str = Field(description="Base64 of a WAV file: only what the network used.")
    unused_wav: str = Field(description="Base64 of a WAV file: the rest.")


class Answer(Opinion):
    """What the model says of a sound: of its first window, or of all together where there is a timeline."""

    sound: Sound
    start_seconds: float = Field(description="Where the part begins that the opinion is of.")
    end_seconds: float = Field(description="Where it ends.")
    timeline: list[Window] | None = Field(description="One opinion a window, where `hop` was given; else null.")
    events: list[Happening] | None = Field(
        description="From when to when which class is heard, by a threshold of 0.5 and hysteresis; null without `hop`."
    )
    spectrogram: SpectrogramImage | None = Field(
        description="Of the first window, where `spectrogram` was asked for; else null."
    )
    waveform: Waveform | None = Field(description="Where `spectrogram` was asked for; else null.")
    explanation: ExplanationBody | None = Field(
        description="Where `explain` was asked for and could be had; else null."
    )
    notes: list[str] = Field(description="What could not be done, and why.")


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
    tells_unknown: bool = Field(description="Whether the model was calibrated to tell sounds unlike its classes.")
    earsight: str = Field(description="Version of the service.")
    most_bytes: int = Field(description="Of an upload.")
    most_seconds: float = Field(description="Of a sound.")
    most_windows: int = Field(description="Of a timeline.")
