"""Runs one trial on a Ray node, after fetching the inputs that the node lacks.

Comes in: prepared data, a `Job` and the driver's mailbox. Goes out: the trial's folder where the node shares the run
folder; else checkpoints into the mailbox and the trial's files as the result. A file with a secret shows whether the
folder is shared, since an equal path does not. Spectrograms and waves are found by the hash of their content, or
fetched once into the node's own cache.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from earsight.cache import made_cache
from earsight.errors import DataError, EarsightError, RunError
from earsight.execution.ray_cluster import SCRATCH
from earsight.execution.ray_mailbox import Files
from earsight.features.row_file import DESCRIPTION
from earsight.features.store import store_key
from earsight.files import publish_folder, scratch_folder
from earsight.openmp import ask_for_short_slices
from earsight.signals import keep_stops
from earsight.training.preparation import Prepared
from earsight.training.trial import BusyError, Epoch, Step, Trial, run_inner, run_trial
from earsight.version import __version__

REPORT_SECONDS = 0.5  # between two reports of a trial's progress
BUSY_SECONDS = 60.0  # for which a worker that Ray counts as dead may still hold a trial's lock
SEND_COST = 0.05  # share of a trial's time that sending checkpoints may take
STATE = ("trial.json", "history.jsonl", "checkpoint.safetensors")  # files to resume from, in order of writing


@dataclass(frozen=True)
class Job:
    """A trial to run, under its number in the mailbox.

    ``run`` is the run folder on the driver; ``token`` a file there and its secret, by which a node finds whether it
    shares the folder; ``weights`` name and content of the recipe's weights file, ``teachers`` those of the model files
    that teach the trial's fold; ``version`` the driver's earsight.
    """

    number: int
    trial: Trial
    run: Path
    token: tuple[Path, str]
    weights: tuple[str, Any] | None
    threads: int
    device: str
    inner: bool
    teachers: tuple[tuple[str, Any], ...] = ()
    version: str = __version__


def work(prepared: Prepared, job: Job, mailbox: Any, *, on_epoch: Epoch | None = None) -> Files | Exception:
    """Run a trial in this process: the remote function of a task, whose data may lie elsewhere on this node.

    Returns the trial's files, DONE last, or none if they were written in the run folder. Errors are returned, not
    raised, because Ray would wrap them. ``on_epoch`` (inner trials) gets all records after each epoch.
    """
    cancel_by_sigint()
    try:
        return _run(prepared, job, mailbox, on_epoch)
    except EarsightError as error:
        return error
    except OSError as error:
        return DataError(f"{node_name()}: {error.filename or 'its disk'}: {error.strerror or error}")
    except Exception as error:  # of any kind, so perhaps one that cannot be sent
        return RuntimeError(f"{node_name()}: {type(error).__name__}: {error}\n{traceback.format_exc()}")


def cancel_by_sigint() -> None:
    """Let SIGINT end this process, as `ray.cancel` needs it: below a script's background job it would be ignored."""
    if threading.current_thread() is threading.main_thread():  # not so in the workers of Ray Tune
        signal.signal(signal.SIGINT, signal.default_int_handler)
        keep_stops()


def _run(prepared: Prepared, job: Job, mailbox: Any, on_epoch: Epoch | None) -> Files:
    import ray

    if job.version != __version__:
        raise RunError(
            f"{node_name()}: has earsight {__version__} and the driver {job.version}; install the same on every node"
        )
    ask_for_short_slices()
    torch.set_num_threads(job.threads)
    token, secret = job.token
    shared = not _alone() and os.access(token, os.R_OK) and token.read_text(encoding="utf-8") == secret
    taught, teaching = prepared.taught, prepared.teaching
    if taught is not None and teaching is not None:
        teaching = replace(teaching, store=replace(taught.store, folder=_store_folder(taught, mailbox)))
    prepared = replace(prepared, store=replace(prepared.store, folder=_store_folder(prepared, mailbox)))
    files = "writes in the run folder" if shared else "does not share the run folder: its files come back as bytes"
    mailbox.note.remote(f"{node_name()}: torch {torch.__version__} on {job.device}, {files}")
    options: dict[str, Any] = {"device": torch.device(job.device), "weights": None}
    with scratch_folder(SCRATCH) as scratch:
        if job.weights:
            file = scratch / job.weights[0]
            file.write_bytes(ray.get(job.weights[1]))
            options["weights"] = str(file)
        if teaching is not None:
            models = tuple(scratch / f"teacher-{number}-{name}" for number, (name, _) in enumerate(job.teachers))
            for model, (_, content) in zip(models, job.teachers, strict=True):
                model.write_bytes(ray.get(content))
            prepared = replace(prepared, teaching=replace(teaching, files={job.trial.fold: models}))
        train: Callable[..., Path] = partial(run_trial, prepared, job.trial, **options)
        if job.inner:
            train = partial(run_inner, prepared, job.trial, **options, on_epoch=on_epoch)
        if not shared:
            return _run_apart(scratch, job, mailbox, train, on_epoch)
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                train(run=job.run, on_step=_reporter(job, mailbox))
                return {}
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


def _run_apart(scratch: Path, job: Job, mailbox: Any, train: Callable[..., Path], on_epoch: Epoch | None) -> Files:
    """Train in a scratch folder: start from the mailbox's state, send newer states, return the trial's files."""
    import ray

    folder, report = job.trial.folder(scratch), _reporter(job, mailbox)
    folder.mkdir(parents=True)
    for name, content in ray.get(mailbox.state.remote(job.number)).items():
        (folder / name).write_bytes(content)
    checkpoint = folder / STATE[-1]
    sent, free = checkpoint.exists() and checkpoint.stat().st_mtime_ns, 0.0

    def send(names: Sequence[str]) -> None:
        ray.get(mailbox.put_state.remote(job.number, _read(folder, names)))

    def on_step(done: int, total: int, loss: float) -> None:
        nonlocal sent, free
        report(done, total, loss)
        began, newest = time.monotonic(), checkpoint.exists() and checkpoint.stat().st_mtime_ns
        if began >= free and newest != sent:
            send(STATE)
            ended = time.monotonic()
            sent, free = newest, ended + (ended - began) / SEND_COST

    def on_records(records: list[dict[str, Any]]) -> None:
        send(STATE[:-1])
        if on_epoch:
            on_epoch(records)

    if job.inner:
        train = partial(train, on_epoch=on_records)
    train(run=scratch, on_step=on_step)
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return _read(folder, sorted(names, key=lambda name: name == "DONE"))


def _read(folder: Path, names: Sequence[str]) -> Files:
    return {name: (folder / name).read_bytes() for name in names}


def _reporter(job: Job, mailbox: Any) -> Step:
    """A callback that puts a trial's progress into the mailbox now and then, and at its end."""
    last = float("-inf")

    def report(done: int, total: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= REPORT_SECONDS:
            last = now
            mailbox.report.remote(job.number, done, total, loss)

    return report


def _store_folder(prepared: Prepared, mailbox: Any) -> Path:
    """Folder of the spectrograms or waves on this node, fetched into the node's cache if missing."""
    import ray

    source, key = prepared.store.folder, prepared.store.folder.name
    sounds = prepared.recipe.augment.backend == "waveform"
    made_of = (prepared.dataset, prepared.recipe.features, prepared.store.semitones)
    if sounds and store_key(*made_of, windows=prepared.windows) != prepared.key:
        raise DataError(
            f"{node_name()}: the sounds in {prepared.dataset.root} are not there as they are on the driver, and "
            "augment.backend=waveform reads them at every step; put the data set at the same path on shared storage, "
            "or take augment.backend=spectrogram"
        )
    if not _alone() and (source / DESCRIPTION).is_file():  # the folder's name is the key of its content
        return source
    target = made_cache() / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{key}.lock")):
        if (target / DESCRIPTION).is_file():
            return target
        mailbox.note.remote(f"{node_name()}: lacks {source}, and gets it into {target}")
        while (parts := ray.get(mailbox.artifact.remote(str(source)))) is None:
            time.sleep(0.1)
        building = target.with_name(f"{key}.fetching")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        needed, free = sum(size for _, size, _ in parts), shutil.disk_usage(building).free
        if needed > 0.98 * free:
            raise DataError(
                f"{node_name()}: sees no {source} of the driver; its {needed / 1e9:.1f} GB do not fit here either, "
                f"where {target.parent} has {free / 1e9:.1f} GB free; make room, or put it on storage that the nodes "
                "share"
            )
        for name, _, reference in parts:
            with (building / name).open("ab") as file:
                file.write(ray.get(reference))
        publish_folder(building, target)
    return target


def _alone() -> bool:
    """Whether this node must not use the driver's file system, even if it is shared."""
    return bool(os.environ.get("EARSIGHT_UNSHARED"))


def node_name() -> str:
    """The node's name for messages: that of the machine, and Ray's own, of which a machine can have several."""
    import ray

    return f"node {socket.gethostname()} ({ray.get_runtime_context().get_node_id()[:6]})"
