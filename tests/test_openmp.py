"""The command line and its workers have OpenMP's threads wait by sleeping; `import earsight` changes nothing."""

import os
import subprocess
import sys
import threading
import time

import pytest

from earsight.openmp import (
    SLICE_NS,
    SPINS,
    Crowding,
    ask_for_short_slices,
    spin_briefly,
    spinning_briefly,
    time_slice,
    times,
)

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def printed(code, **environment):
    command = [sys.executable, "-c", "import os, sys\n" + code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout


SHOW = "print([os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')], 'torch' in sys.modules)"
AT_THE_VERB = f"from earsight import cli\ndef app():\n    {SHOW}\n    sys.exit(0)\ncli.app = app\ncli.main()"


@pytest.mark.parametrize(
    ("code", "environment", "wanted"),
    [
        (AT_THE_VERB, {}, f"['{SPINS}', None] False\n"),
        (AT_THE_VERB, {"OMP_WAIT_POLICY": "active"}, "[None, 'active'] False\n"),
        (AT_THE_VERB, {"GOMP_SPINCOUNT": "7"}, "['7', None] False\n"),
        (f"import earsight, earsight.execution.processes\n{SHOW}", {}, "[None, None] True\n"),
    ],
)
def test_who_changes_the_environment(code, environment, wanted):
    assert printed(code, **environment) == wanted


def test_for_a_block_only():
    with spinning_briefly():
        assert os.environ["GOMP_SPINCOUNT"] == str(SPINS)
    assert not os.environ.keys() & set(NAMES)
    spin_briefly()
    with spinning_briefly():
        pass
    assert os.environ["GOMP_SPINCOUNT"] == str(SPINS), "it was there before"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp is that of torch's wheels for Linux")
def test_torch_reads_it():
    shown = subprocess.run(
        [sys.executable, "-c", "from earsight.openmp import spin_briefly; spin_briefly(); import torch"],
        env=os.environ | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in shown


SLICES = """
import threading
from earsight.openmp import ask_for_short_slices, time_slice
nice = min(os.nice(0) + 3, 19)
os.nice(3)
found = [time_slice()]
ask_for_short_slices()
thread = threading.Thread(target=lambda: found.append(time_slice()))
thread.start(); thread.join()
print(*found, time_slice(), os.nice(0) - nice)
"""


def test_threads_ask_for_short_slices_and_keep_their_niceness():
    before, thread, after, off = map(int, printed(SLICES).split())
    # Linux before 6.12, and other systems, have no slices to ask for: 0 before, and 0 after.
    assert thread == after == (SLICE_NS if before else 0)
    assert off == 0, "its niceness is as it was"


def test_the_command_line_asks_for_short_slices():
    code = "from earsight import cli\nfrom earsight.openmp import time_slice\nbefore = time_slice()\ndef app():\n"
    code += "    print(before, time_slice())\n    sys.exit(0)\ncli.app = app\ncli.main()"
    before, after = map(int, printed(code).split())
    assert after == (SLICE_NS if before else 0)


@pytest.mark.parametrize("machine", ["armv7l", "AMD64"])
def test_other_machines_are_left_alone(monkeypatch, machine):
    before = time_slice()
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert time_slice() == 0
    ask_for_short_slices()
    monkeypatch.undo()
    assert time_slice() == before


def test_batch_processes_keep_their_policy():
    code = "from earsight.openmp import ask_for_short_slices, time_slice\n"
    code += "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\nask_for_short_slices()\n"
    assert printed(code + "print(os.sched_getscheduler(0) == os.SCHED_BATCH, time_slice())") == "True 0\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the times are Linux's")
def test_times_are_those_of_all_threads():
    """Of one that is still there, too, and in seconds: those that the process has used by its own clock."""
    go, end = threading.Event(), threading.Event()

    def work():
        while time.thread_time() < 0.3:
            pass
        go.set()
        end.wait()

    before, used = times()[0], time.process_time()
    thread = threading.Thread(target=work)
    thread.start()
    go.wait()
    ran, used = times()[0] - before, time.process_time() - used
    end.set()
    thread.join()
    assert ran == pytest.approx(used, rel=0.1)


@pytest.mark.parametrize(
    ("threads", "seen", "said"),
    [
        (2, [(0, 0), (9, 10), (9, 12)], [None, "57%"]),  # after 20 s of threads' time
        (2, [(5, 7), (15, 18), (15, 99)], ["52%", None]),  # since the beginning, and once
        (2, [(0, 0), (11, 11), (16, 25), (17, 26)], [None, None, "71%"]),  # no longer than they ran; anew from there
        (2, [(0, 0), (0, 0)], [None]),  # no such times here
        (1, [], [None]),
    ],
)
def test_others_that_hold_the_cores_are_named_once(monkeypatch, threads, seen, said):
    monkeypatch.setattr("earsight.openmp.times", iter(seen).__next__)
    crowding = Crowding(threads)
    for wanted in said:
        note = crowding.note()
        assert (wanted is None) == (note is None)
        assert wanted is None or wanted in note
