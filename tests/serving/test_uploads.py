"""How slow an upload may be: by a clock that the test moves."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from earsight.serving.limits import Limits
from earsight.serving.refusals import Refusal
from earsight.serving.uploads import Pace, uploaded

LIMITS = Limits()


@given(st.lists(st.tuples(st.integers(1, 15_000), st.integers(0, 150_000)), max_size=30))
def test_the_deadline_is_the_end_of_the_first_ten_seconds_that_bring_too_little(steps):
    """Times in milliseconds; against every window of ten seconds, one by one."""
    pace, now, came = Pace(LIMITS, 0.0), 0, []
    for wait, count in steps:
        now += wait
        came.append((now, count))
        pace.add(count, now / 1000)

    def lacks(end: int) -> bool:
        return sum(count for at, count in came if end - 10_000 < at <= end) < 100_000

    ends = [10_000, now, *(at + 10_000 for at, _ in came)]  # sums fall at these alone
    first = min(end for end in ends if end >= max(10_000, now) and lacks(end)) / 1000
    assert max(pace.deadline, now / 1000) == pytest.approx(max(min(600, first), now / 1000))


class Jumping(selectors.DefaultSelector):
    """Instead of waiting, the clock goes on."""

    now = 0.0

    def select(self, timeout: float | None = None):
        found = super().select(0 if timeout else timeout)
        if not found and timeout:
            self.now += timeout
        return found


class Clocked(asyncio.SelectorEventLoop):
    """An event loop with that clock."""

    def __init__(self) -> None:
        self._clock = Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def send(folder, pieces: list[tuple[float, int]], *, ends: bool = True) -> int:
    """Upload pieces (seconds to wait, bytes), then end, or wait for ever; the size of the file."""
    left = list(pieces)

    async def receive():
        if not left and not ends:
            await asyncio.Event().wait()
        wait, count = left.pop(0)
        await asyncio.sleep(wait)
        return {"type": "http.request", "body": bytes(count), "more_body": bool(left) or not ends}

    async def upload() -> int:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        async with uploaded(request, folder=folder, limits=LIMITS) as found:
            return found.path.stat().st_size

    loop = Clocked()
    try:
        return loop.run_until_complete(upload())
    finally:
        loop.close()


def refusal_of(ask: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as found:
        ask()
    return found.value


def test_a_slow_line_is_enough_and_a_slower_one_is_not(tmp_path):
    assert send(tmp_path, [(1.0, 12_000)] * 590) == 590 * 12_000  # nearly ten minutes
    for pieces in ([(1.0, 9_000)] * 30, [(0.0, 1_000_000), (10.1, 1)], [(1.0, 12_000)] * 601):
        error = refusal_of(lambda pieces=pieces: send(tmp_path, pieces))
        assert (error.status, error.code, error.close) == (408, "upload_timeout", True)
        assert "10 kB/s for 10 s, or took more than 600 s" in error.message
    assert refusal_of(lambda: send(tmp_path, [(0.0, 5)], ends=False)).status == 408
    assert list(tmp_path.iterdir()) == []


def test_a_small_upload_may_take_ten_seconds(tmp_path):
    assert send(tmp_path, [(9.9, 10)]) == 10
    assert send(tmp_path, [(5.0, 100_000), (4.9, 10), (5.0, 1_000)]) == 101_010
    assert refusal_of(lambda: send(tmp_path, [(5.0, 99_000), (5.1, 10)])).status == 408
