"""What happens on a node of a cluster: one trial, with whatever of its files the node lacks brought there and back.

Comes in: an `Order` with prepared data, and the driver's mailbox. Goes out: the trial's folder where the node sees the
run folder (it writes there itself, as a local trial does), and otherwise the trial's files, into the mailbox. Whether
it sees the folder is found by a file with a secret in it, never guessed from a path that exists on both sides. Spectrograms
and waves are looked for by their key, which names their content; those that are missing are fetched into the node's own
cache.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from earsight.errors import DataError, EarsightError, RunError
from earsight.execution.ray_files import alone, fetched, node_name, sha256
from earsight.execution.ray_mailbox import Files
from earsight.features.row_file import DESCRIPTION
from earsight.features.store import store_key
from earsight.training.preparation import Prepared
from earsight.training.trial import BusyError, Epoch, Step, Trial, run_inner, run_trial
from earsight.version import __version__

TELL_SECONDS = 0.5
"""Between two words of a trial on how far it is."""
BUSY_SECONDS = 60.0
"""How long a trial's lock may be held by a worker that Ray has given up and that has not ended yet."""
SHIP_COST = 0.05
"""Share of a trial's time that sending checkpoints may take."""


@dataclass(frozen=True)
class Order:
    """A trial to run.

    Attributes
    ----------
    number : int
        Its name in the mailbox.
    trial : Trial
    run : Path
        The run folder as the driver sees it, absolute.
    token : (Path, str)
        A file on the driver that is there if run folders are shared, and what is in it.
    weights : (str, str) or None
        Path and SHA-256 of the file that the recipe's weights come from, if they come from a file.
    threads : int
    device : str
        ``cpu`` or ``cuda``.
    inner : bool
        Whether it is a trial on the training folds alone.
    version : str
        Of the driver's earsight.
    """

    number: int
    trial: Trial
    run: Path
    token: tuple[Path, str]
    weights: tuple[str, str] | None
    threads: int
    device: str
    inner: bool = False
    version: str = __version__


def work(prepared: Prepared, order: Order, mailbox: Any, *, on_epoch: Epoch | None = None) -> Exception | None:
    """Run a trial here, as `work_here` does; what goes wrong is returned, so that it passes between machines whole."""
    try:
        work_here(prepared, order, mailbox, on_epoch=on_epoch)
        return None
    except EarsightError as error:
        return error
    except OSError as error:
        return DataError(f"{node_name()}: {error.filename or 'its disk'}: {error.strerror or error}")
    except Exception as error:  # of any kind, so perhaps one that cannot be sent
        return RuntimeError(f"{node_name()}: {type(error).__name__}: {error}\n{traceback.format_exc()}")


def work_here(prepared: Prepared, order: Order, mailbox: Any, *, on_epoch: Epoch | None = None) -> None:
    """Run a trial here.

    Parameters
    ----------
    prepared : Prepared
        As on the driver; its spectrograms may lie elsewhere here.
    order : Order
    mailbox : actor handle
        Of a `earsight.execution.ray_mailbox.Mailbox`.
    on_epoch : callable, optional
        For trials on the training folds alone: called with all records so far after each epoch.

    Raises
    ------
    RunError
        If the node has another version of earsight, or another process holds the trial.
    DataError
        If what the trial reads cannot be brought here.
    """
    import ray

    if order.version != __version__:
        raise RunError(
            f"{node_name()}: has earsight {__version__} and the driver {order.version}; install the same on every node"
        )
    torch.set_num_threads(order.threads)
    seen = sees(*order.token)
    prepared = _with_spectrograms(prepared, mailbox)
    weights = _weights(order.weights, mailbox)
    _introduce(order, mailbox, seen=seen)

    def run(folder: Path, on_step: Step) -> Path:
        device = torch.device(order.device)
        if not order.inner:
            return run_trial(prepared, order.trial, run=folder, device=device, weights=weights, on_step=on_step)

        def note(records: list[dict[str, Any]]) -> None:
            if not seen:
                names = ("trial.json", "history.jsonl")
                ray.get(mailbox.keep.remote(order.number, _read(order.trial.folder(folder), names)))
            if on_epoch:
                on_epoch(records)

        return run_inner(
            *(prepared, order.trial), run=folder, device=device, weights=weights, on_step=on_step, on_epoch=note
        )

    if seen:
        _when_free(lambda: run(order.run, _teller(order, mailbox)))
        return
    with TemporaryDirectory(prefix="earsight-trial-") as scratch:
        _apart(Path(scratch), order, mailbox, run)


def sees(path: Path, secret: str) -> bool:
    """Whether this node sees a file that the driver wrote."""
    try:
        return not alone() and path.read_text(encoding="utf-8") == secret
    except OSError:
        return False


def _apart(scratch: Path, order: Order, mailbox: Any, run: Callable[[Path, Step], Path]) -> None:
    """Run a trial in a folder of this node alone: begin with its kept state, send each newer one, then its files."""
    import ray

    folder = order.trial.folder(scratch)
    folder.mkdir(parents=True)
    for name, content in ray.get(mailbox.kept.remote(order.number)).items():
        (folder / name).write_bytes(content)
    tell = _teller(order, mailbox)
    checkpoint = folder / "checkpoint.safetensors"
    sent, free = _age(checkpoint), 0.0

    def on_step(done: int, total: int, loss: float) -> None:
        nonlocal sent, free
        tell(done, total, loss)
        if _age(checkpoint) != sent and time.monotonic() >= free:
            began = time.monotonic()
            sent = _age(checkpoint)
            names = ("trial.json", "history.jsonl", checkpoint.name)
            ray.get(mailbox.keep.remote(order.number, _read(folder, names)))
            ended = time.monotonic()
            free = ended + (ended - began) / SHIP_COST

    run(scratch, on_step)
    ray.get(mailbox.keep.remote(order.number, _read(folder, [path.name for path in folder.iterdir()])))


def _read(folder: Path, names: Iterable[str]) -> Files:
    return {name: (folder / name).read_bytes() for name in names if not name.startswith(".")}


def _age(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _teller(order: Order, mailbox: Any) -> Step:
    told = float("-inf")

    def tell(done: int, total: int, loss: float) -> None:
        nonlocal told
        now = time.monotonic()
        if done == total or now - told >= TELL_SECONDS:
            told = now
            mailbox.tell.remote(order.number, done, total, loss)

    return tell


def _when_free(run: Callable[[], Path]) -> None:
    """Run a trial once its lock is let go."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            run()
            return
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _introduce(order: Order, mailbox: Any, *, seen: bool) -> None:
    """Say once what this node is and where files go."""
    files = "writes in the run folder" if seen else "does not share the run folder: its files come back as bytes"
    mailbox.note.remote(f"{node_name()}: torch {torch.__version__} on {order.device}, {files}")


def _with_spectrograms(prepared: Prepared, mailbox: Any) -> Prepared:
    """The same data with spectrograms or waves that this node can read."""
    store = prepared.store
    if (
        prepared.recipe.augment.backend == "waveform"
        and store_key(prepared.dataset, prepared.recipe.features, store.semitones) != prepared.key
    ):
        raise DataError(
            f"{node_name()}: the sounds in {prepared.dataset.root} are not there as they are on the driver, and "
            "augment.backend=waveform reads them at every step; put the data set at the same path on shared storage, "
            "or take augment.backend=spectrogram"
        )
    if not alone() and (store.folder / DESCRIPTION).is_file():  # its name is the key of its content
        return prepared
    place = fetched(store.folder, store.folder.name, mailbox, marker=DESCRIPTION)
    return replace(prepared, store=replace(store, folder=place))


def _weights(wanted: tuple[str, str] | None, mailbox: Any) -> str | None:
    """Path of the file of weights on this node."""
    if wanted is None:
        return None
    path, digest = Path(wanted[0]), wanted[1]
    if not alone() and path.is_file() and sha256(path) == digest:
        return str(path)
    return str(fetched(path, f"weights-{digest[:16]}", mailbox, marker=path.name) / path.name)
