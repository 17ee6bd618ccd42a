"""How much the service takes from whoever asks it: sizes in bytes, lengths and times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields

from earsight.errors import ServiceError


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Parameters
    ----------
    body_bytes : int
        Of one upload.
    upload_seconds : float
        From a request's first byte to its last.
    sound_seconds : float
        Length of a sound.
    windows : int
        Windows of one sound.
    decode_seconds : float
        Of a decoder's time, for one sound.
    decode_bytes : int
        Of a decoder's memory.
    queue : int
        Requests at a time, from their first byte to their answer.
    explanations : int
        Of them, those that wait for an explanation or get one; they are made one after the other.
    explanation_steps : int
        Bound of the steps of Integrated Gradients.
    batch : int
        Sounds that the network sees at a time; 1 is one request after the other.
    wait_seconds : float
        How long a batch waits to be filled.
    decoders : int
        Processes that decode.
    stop_seconds : float
        How long requests in flight may take to end when the service is stopped.

    Raises
    ------
    ServiceError
        If a limit is none.
    """

    body_bytes: int = 50 * 1000 * 1000
    upload_seconds: float = 30.0
    sound_seconds: float = 900.0
    windows: int = 4000
    decode_seconds: float = 20.0
    decode_bytes: int = 1 << 30
    queue: int = 64
    explanations: int = 4
    explanation_steps: int = 256
    batch: int = 16
    wait_seconds: float = 0.004
    decoders: int = 2
    stop_seconds: float = 15.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (value > 0 or (one.name == "wait_seconds" and value == 0)):
                raise ServiceError(f"{one.name} is {value}; expected a number above 0")
