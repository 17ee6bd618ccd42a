"""Signals that stop a process like Ctrl-C, by a KeyboardInterrupt, so that workers and temporary files are removed."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from earsight.portable import interrupt

_RECEIVED: list[int] = []


def stop_at(*kinds: int) -> None:
    """Let the first of these signals raise KeyboardInterrupt(128 + number), and ensure that it is not lost."""
    for kind in kinds:
        signal.signal(kind, _stop)
    keep_stops()


def stop_status(error: KeyboardInterrupt) -> int:
    """The exit code of a stop, by the convention of shells: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

    Ray raises a KeyboardInterrupt of its own, without the number, in place of the one that a signal raised in it.
    """
    found = error.args[0] if error.args else None
    return found if isinstance(found, int) else 128 + _RECEIVED[0] if _RECEIVED else 130


def keep_stops() -> None:
    """Raise a KeyboardInterrupt again if it came where Python drops exceptions, such as in a ``__del__``."""
    sys.unraisablehook = _dropped


@contextmanager
def stops_wait() -> Iterator[None]:
    """Hold signals with handlers in Python back until the block ends: for calls in which an exception would be lost."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread alone
        yield
        return
    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {kind: found for kind in kinds if callable(found := signal.getsignal(kind))}
    waiting: list[int] = []
    for kind in handlers:
        signal.signal(kind, lambda number, _frame: waiting.append(number))
    try:
        yield
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)


def _stop(number: int, _frame: object) -> None:
    _RECEIVED.append(number)
    signal.signal(number, signal.SIG_IGN)  # a second one, such as to a group of processes, does not disturb the end
    raise KeyboardInterrupt(128 + number)


def _dropped(event: Any) -> None:
    if not isinstance(event.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(event)
        return
    number = stop_status(event.exc_value) - 128
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, _stop)
    again = threading.Timer(0.05, interrupt, (number,))
    again.daemon = True
    again.start()
