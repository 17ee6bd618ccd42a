"""How long a trial takes: the steps after the warm-up count, and nothing is left behind."""

import tempfile
from pathlib import Path

import pytest

from earsight.execution import timing
from earsight.execution.timing import TIMED_STEPS, WARM_UP_STEPS, seconds_per_trial
from earsight.training.trial import Trial


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves on."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def steps(clock, seconds, total):
    """A trial whose steps take these seconds."""

    def run(prepared, trial, *, run, device, on_step):
        for place, one in enumerate(seconds):
            clock[0] += one
            on_step(place + 1, total, 0.5)

    return run


def test_the_first_steps_do_not_count(clock, monkeypatch):
    monkeypatch.setattr(timing, "run_trial", steps(clock, [9.0] * WARM_UP_STEPS + [0.5] * TIMED_STEPS + [99.0], 600))
    assert seconds_per_trial(None, Trial(1, 0), device=None) == pytest.approx(300.0)


def test_a_trial_of_a_few_steps_counts_as_a_whole(clock, monkeypatch):
    monkeypatch.setattr(timing, "run_trial", steps(clock, [2.0] * WARM_UP_STEPS, WARM_UP_STEPS))
    assert seconds_per_trial(None, Trial(1, 0), device=None) == pytest.approx(2.0 * WARM_UP_STEPS)


def test_a_real_trial_is_begun_and_thrown_away(prepare_as, cpu, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "earsight-timing-killed").mkdir()  # as a killed one leaves it
    (tmp_path / "earsight-timing-killed.lock").touch()
    told = []
    run_trial = timing.run_trial

    def watched(*arguments, on_step, **keywords):
        return run_trial(*arguments, on_step=lambda *step: (told.append(step), on_step(*step)), **keywords)

    monkeypatch.setattr(timing, "run_trial", watched)
    assert seconds_per_trial(prepare_as("training.epochs=50"), Trial(1, 0), device=cpu) > 0
    assert [step for step, _, _ in told] == list(range(1, WARM_UP_STEPS + TIMED_STEPS + 1))
    assert told[0][1] == 100
    assert list(Path(tmp_path).iterdir()) == []
