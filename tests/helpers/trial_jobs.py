"""What another process does in the trials' tests; a module of its own, so that a fresh process can import it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from earsight.execution.processes import run_at_once
from earsight.training import loop
from earsight.training.trial import run_trial

CONTEXT = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    # Each process is then forked in milliseconds from one that has imported torch.
    CONTEXT.set_forkserver_preload(["earsight.training.trial", "earsight.features.store", "timm"])


def train(prepared, trial, run, log, kill):
    """One trial that keeps a checkpoint at every epoch and writes every step down.

    ``kill`` is (steps, seconds after them) until this very process kills itself, or None.
    """
    torch.set_num_threads(1)
    loop.CHECKPOINT_SECONDS = 0.0
    told = []

    def note(done, total, loss):
        with log.open("ab", buffering=0) as file:
            file.write(f"{done}\n".encode())
        told.append(done)
        if kill and len(told) == kill[0]:
            threading.Timer(kill[1], os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(0.01)

    run_trial(prepared, trial, run=run, device=torch.device("cpu"), on_step=note)


class Broken:
    """A store that cannot be read, by a mistake that is nobody's but ours."""

    stretches, errors, folder = False, {}, Path("broken")

    def statistics(self, rows):
        raise ZeroDivisionError("nothing to read")


BROKEN = Broken()


def run_group(prepared, trials, run, log):
    """Trials two at a time, in a group of processes of its own; the workers' numbers are written down at a step."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as on a terminal: in the background it may be ignored
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited by the workers, as below `trap "" TERM`
    torch.set_num_threads(1)

    def note(*_):
        if not log.exists():
            part = log.with_name("part")
            part.write_text(" ".join(str(process.pid) for process in multiprocessing.active_children()))
            part.replace(log)

    try:
        run_at_once(prepared, trials, run=run, device=torch.device("cpu"), jobs=2, on_step=note, on_end=note)
    except KeyboardInterrupt:
        sys.exit(130)
