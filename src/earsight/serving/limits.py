"""The limits of a service: sizes in bytes, lengths and times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields

from earsight.errors import ServiceError


@dataclass(frozen=True)
class Limits:
    """Limits of requests; `ServiceError` if one is not above 0."""

    body_bytes: int = 50 * 1000 * 1000  # of one upload
    upload_seconds: float = 600.0  # from a request's first byte to its last
    pace_bytes: int = 100_000  # that any `pace_seconds` of an upload must bring
    pace_seconds: float = 10.0
    sound_seconds: float = 900.0  # length of a sound
    windows: int = 4000  # windows of one sound
    decode_seconds: float = 20.0  # of a decoder's time, for one sound
    decode_bytes: int = 1 << 30  # of a decoder's memory
    queue: int = 64  # requests at a time, from their first byte to their answer
    explanations: int = 4  # of them, those that wait for an explanation or get one; they are made one after the other
    explanation_seconds: float = 20.0  # for the steps of Integrated Gradients, which are doubled until they are enough
    batch: int = 16  # windows in a batch of the network; 1 is one request after the other
    wait_seconds: float = 0.004  # how long a batch waits to be filled; 0 is allowed
    decoders: int = 2  # processes that decode
    stop_seconds: float = 15.0  # how long requests in flight may take to end when the service is stopped

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (value > 0 or (one.name == "wait_seconds" and value == 0)):
                raise ServiceError(f"{one.name} is {value}; expected a number above 0")
