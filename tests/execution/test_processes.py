"""Trials at once in processes: the bits of one after the other, and no process or half file left by any end."""

import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing import util
from pathlib import Path

import pytest
import torch
import trial_jobs
from filelock import FileLock

from earsight.errors import RunError
from earsight.evaluation.summary import read_predictions
from earsight.execution.processes import _short_sockets, _work, run_at_once
from earsight.execution.schedule import run_trials
from earsight.training.trial import Trial, is_done

TRIALS = [Trial(1, 0), Trial(2, 0), Trial(1, 1)]


@pytest.fixture(scope="module")
def short(prepare_as):
    return prepare_as("training.epochs=2", "training.ema=0.9")


@pytest.fixture(scope="module")
def serial(short, tmp_path_factory):
    """The trials one after the other, in this process."""
    run = tmp_path_factory.mktemp("serial")
    torch.set_num_threads(1)
    run_trials(short, TRIALS, run=run, device=torch.device("cpu"), progress=lambda *_: None, say=lambda _: None)
    return run


def bits(run, trial):
    folder = trial.folder(run)
    return read_predictions(folder / "predictions.npz").logits.tobytes(), (folder / "model.safetensors").read_bytes()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pids):
    """Return when all of these processes have ended; the time limit of every test stops the wait for one that stays."""
    while any(map(alive, pids)):
        time.sleep(0.02)


def test_at_once_they_end_with_the_bits_of_one_after_the_other(short, serial, cpu, tmp_path):
    told, said = [], []

    def go(trials):
        run_trials(
            short,
            trials,
            run=tmp_path,
            device=cpu,
            progress=lambda done, total, note: told.append((done, total, note)),
            say=said.append,
            jobs=2,
        )

    go(TRIALS[:1])
    go(TRIALS)
    for trial in TRIALS:
        assert bits(tmp_path, trial) == bits(serial, trial)
    assert not multiprocessing.active_children()
    # One bar for all: it starts after the four steps that were done before, and only rises.
    later = [done for done, total, _ in told if total == 12]
    assert later == list(range(5, 13))
    names = {note.split(",")[0] for _, total, note in told if total == 12}
    assert names == {"fold 2 seed 0", "fold 1 seed 1"}
    assert sum("done before" in line for line in said) == 1
    assert len(said) == 4
    go(TRIALS)
    assert len(said) == 7


def test_sockets_have_short_paths_where_the_temporary_folder_has_a_long_one(tmp_path, monkeypatch):
    monkeypatch.delitem(multiprocessing.process.current_process()._config, "tempdir", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 90)))
    with _short_sockets():
        address = multiprocessing.connection.arbitrary_address("AF_UNIX")
    assert len(address) < 60
    assert Path(util.get_temp_dir()) == Path(address).parent  # of workers and their pipes too
    assert tempfile.gettempdir() == str(tmp_path / ("t" * 90))


def test_what_a_trial_raises_is_raised_here_and_ends_the_others(short, serial, cpu, tmp_path):
    folder = Trial(2, 0).folder(tmp_path)
    folder.mkdir(parents=True)
    with FileLock(folder.with_name(".seed-0.lock")), pytest.raises(RunError, match="another process is training this"):
        run_trials(short, TRIALS, run=tmp_path, device=cpu, progress=lambda *_: None, say=lambda _: None, jobs=3)
    assert not multiprocessing.active_children()
    run_trials(short, TRIALS, run=tmp_path, device=cpu, progress=lambda *_: None, say=lambda _: None, jobs=2)
    for trial in TRIALS:
        assert bits(tmp_path, trial) == bits(serial, trial)


def test_an_error_of_any_kind_comes_back(short, cpu, tmp_path):
    broken = replace(short, store=trial_jobs.BROKEN)
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError: nothing to read(.|\n)*trial_jobs\.py"):
        run_trials(broken, TRIALS[:2], run=tmp_path, device=cpu, progress=lambda *_: None, say=lambda _: None, jobs=2)


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL elsewhere")
def test_a_process_that_dies_is_named_and_its_trial_goes_on(short, serial, cpu, tmp_path):
    def kill(*_):
        for process in multiprocessing.active_children():
            process.kill()

    ended = []
    with pytest.raises(RunError, match=r"^fold \d seed \d: its process died \(exit code -9\).* a lower jobs$"):
        run_at_once(short, TRIALS, run=tmp_path, device=cpu, jobs=2, on_step=kill, on_end=ended.append)
    assert not ended
    assert not multiprocessing.active_children()
    run_at_once(short, TRIALS, run=tmp_path, device=cpu, jobs=2, on_step=lambda *_: None, on_end=ended.append)
    assert sorted(ended, key=TRIALS.index) == TRIALS
    for trial in TRIALS:
        assert bits(tmp_path, trial) == bits(serial, trial)


@pytest.mark.parametrize("given", ["plain.py", "-"])
def test_a_script_without_a_guard_is_told_of_it(given, tmp_path):
    """The processes that read it anew end silently, and the one that started them says why, as it does of a pipe."""
    code = """
from earsight.execution import processes
from earsight.training.trial import Trial
print("read")
processes.check_script(2)
processes.run_at_once(None, [Trial(1, 0)], run=None, device=None, jobs=2, on_step=print, on_end=print)
"""
    (tmp_path / "plain.py").write_text(code)
    done = subprocess.run(
        [sys.executable, given],
        input=code,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    *_, last = done.stderr.splitlines()
    assert "if __name__ == '__main__':" in last
    assert ("its process ended before it began" if given == "plain.py" else "a file, not <stdin>") in last


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_workers_end_by_themselves(short, cpu, tmp_path):
    """They tidy up: temporary files are not left as by a kill."""

    def stop(*_):
        for worker in multiprocessing.active_children() if sys.platform == "linux" else ():
            assert b"GOMP_SPINCOUNT=" in Path(f"/proc/{worker.pid}/environ").read_bytes()
        workers.extend(multiprocessing.active_children())
        raise KeyboardInterrupt

    workers = []
    # Workers have the environment of the server that forks them: one of an earlier test did not get ours.
    forkserver._forkserver._stop()
    with pytest.raises(KeyboardInterrupt):
        run_at_once(short, TRIALS, run=tmp_path, device=cpu, jobs=2, on_step=stop, on_end=stop)
    assert [worker.exitcode for worker in workers] == [143, 143]


def _told_to_stop_while_it_ends(pipe):
    """A worker whose parent ends it by SIGTERM when it has seen the end of its pipe, and leaves."""
    util.Finalize(None, os.kill, (os.getpid(), signal.SIGTERM), exitpriority=1)
    _work(pipe, None, None, None, 1)


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_worker_that_ends_by_itself_is_not_stopped_once_more(capfd):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_told_to_stop_while_it_ends, args=(theirs,))
    process.start()
    theirs.close()
    ours.close()
    process.join()
    assert process.exitcode == 0
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_kill_leave_no_process(prepare_as, tmp_path, how, capfd):
    """Ctrl-C goes to the whole group of processes; SIGKILL to the parent alone."""
    prepared = prepare_as("training.epochs=4000")
    log = tmp_path / "pids"
    process = trial_jobs.CONTEXT.Process(target=trial_jobs.run_group, args=(prepared, TRIALS, tmp_path / "run", log))
    process.start()
    while not log.exists():
        assert process.is_alive()
        time.sleep(0.02)
    pids = [int(pid) for pid in log.read_text().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        os.kill(process.pid, how)
    process.join()
    assert process.exitcode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    wait_until_gone(pids)
    assert not any(is_done(trial.folder(tmp_path / "run")) for trial in TRIALS)
    assert "Traceback" not in capfd.readouterr().err
