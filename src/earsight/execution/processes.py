"""Several trials at once on one device, each in its own process.

Comes in: prepared data and trials. Goes out: the trials' folders, each DONE, with the bits that the trials would have
one after the other at the same thread count. A trial's lock and checkpoint are those of `earsight.training.trial`:
after any stop the same call resumes from there. When the parent is killed, its workers end at their next step.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, util
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from earsight.errors import EarsightError, RunError
from earsight.openmp import ask_for_short_slices, spinning_briefly
from earsight.portable import socket_folder
from earsight.signals import stop_at, stop_status
from earsight.training.preparation import Prepared
from earsight.training.trial import Trial, run_trial

STOP_SECONDS = 10.0  # for a worker to tidy up before it is killed
# A fork of this process would share its GPU context and its locks.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


_GUARD = "put the script's calls below `if __name__ == '__main__':`, for the processes of --jobs read it anew"


@dataclass
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    trial: Trial
    answered: bool = False  # whether it has sent anything


def check_script(jobs: int) -> None:
    """RunError if several jobs cannot read the caller's script, no file; one of them that calls this ends."""
    if jobs == 1:
        return
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)  # its parent says why
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script and not Path(script).is_file():
        raise RunError(f"--jobs above 1 needs a script that is a file, not {script}: save it as one; {_GUARD}")


def run_at_once(
    prepared: Prepared,
    trials: Sequence[Trial],
    *,
    run: Path,
    device: torch.device,
    jobs: int,
    on_step: Callable[[Trial, int, int, float], None],
    on_end: Callable[[Trial], None],
) -> None:
    """Run trials in ``jobs`` processes, each by the first free one, with this process's number of threads.

    ``on_step`` is called with (trial, steps done, steps in all, loss), ``on_end`` with each trial that ends. RunError
    if a process dies; also whatever a trial raises. The other processes are ended; their trials resume when they are
    run again.
    """
    waiting = deque(trials)
    context = multiprocessing.get_context(_METHOD)
    if _METHOD == "forkserver":
        from multiprocessing import forkserver

        # Each process is then forked from one that has imported torch, and done nothing with it.
        context.set_forkserver_preload([__name__])
        with spinning_briefly(), _short_sockets():
            forkserver.ensure_running()
    workers: list[_Worker] = []
    try:
        while waiting and len(workers) < jobs:
            workers.append(_start(context, prepared, waiting.popleft(), run=run, device=device))
        busy = list(workers)
        while busy:
            pipes = {worker.pipe: worker for worker in busy}
            for pipe in connection.wait(list(pipes)):
                worker = pipes[pipe]  # type: ignore[index]
                news = _news(worker)
                if isinstance(news, tuple):
                    on_step(worker.trial, *news)
                    continue
                on_end(worker.trial)
                if waiting:
                    worker.trial = waiting.popleft()
                    worker.pipe.send(worker.trial)
                else:
                    busy.remove(worker)
    finally:
        for worker in workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join(STOP_SECONDS)
            worker.process.kill()
            worker.process.join()


@contextmanager
def _short_sockets() -> Iterator[None]:
    """Let multiprocessing put its sockets into a short folder, here and in all workers, where TMPDIR is long."""
    usual = tempfile.tempdir
    tempfile.tempdir = socket_folder(len("/pymp-12345678/listener-12345678"))
    try:
        util.get_temp_dir()  # it is made once, and removed when this process ends
        yield
    finally:
        tempfile.tempdir = usual


def _start(context: BaseContext, prepared: Prepared, trial: Trial, *, run: Path, device: torch.device) -> _Worker:
    ours, theirs = context.Pipe()
    arguments = (theirs, prepared, run, device, torch.get_num_threads())
    process = context.Process(target=_work, args=arguments, daemon=True)  # type: ignore[attr-defined]
    worker = _Worker(process, ours, trial)
    try:
        process.start()
        theirs.close()  # otherwise the parent never sees the end of the pipe
        ours.send(trial)
    except ConnectionError:
        raise _death(worker) from None
    return worker


def _news(worker: _Worker) -> tuple[int, int, float] | None:
    """Read a worker's message: its progress, or None when its trial has ended.

    RunError if the process has died; also whatever its trial raised.
    """
    try:
        news = worker.pipe.recv()
    except (EOFError, ConnectionError):
        raise _death(worker) from None
    worker.answered = True
    if isinstance(news, BaseException):
        raise news
    return news  # type: ignore[no-any-return]


def _death(worker: _Worker) -> RunError:
    """The error of a process that died, before it sent anything or later."""
    worker.process.join()
    name = f"fold {worker.trial.fold} seed {worker.trial.seed}: its process"
    if not worker.answered and worker.process.exitcode == 1:
        return RunError(f"{name} ended before it began: {_GUARD}")
    return RunError(
        f"{name} died (exit code {worker.process.exitcode}), perhaps for want of memory; the same command goes on, "
        "with a lower --jobs"
    )


def _work(pipe: connection.Connection, prepared: Prepared, run: Path, device: torch.device, threads: int) -> None:
    """Main loop of a worker: receive a trial, run it, send the outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    try:
        stop_at(signal.SIGTERM)  # the parent ends workers by SIGTERM, which a background job's children may ignore
        logging.getLogger("earsight.kernels").disabled = True  # the parent has reported the same
        ask_for_short_slices()
        torch.set_num_threads(threads)
        try:
            while True:
                trial = pipe.recv()
                pipe.send(_outcome(pipe, prepared, trial, run=run, device=device))
        except (EOFError, OSError):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent has ended, or closed the pipe: we end anyway
    except KeyboardInterrupt as error:
        raise SystemExit(stop_status(error)) from None


def _outcome(pipe: connection.Connection, prepared: Prepared, trial: Trial, *, run: Path, device: torch.device) -> Any:
    def reported(done: int, total: int, loss: float) -> None:
        pipe.send((done, total, loss))

    try:
        run_trial(prepared, trial, run=run, device=device, on_step=reported)
    except BrokenPipeError:
        raise
    except (EarsightError, OSError) as error:
        return error
    except Exception as error:  # of any kind, so perhaps one that cannot be pickled
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    return None
