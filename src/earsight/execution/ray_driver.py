"""The driver's end of the mailbox: orders go out to a cluster's nodes; words, checkpoints and trials' files come home.

Comes in: the units to run. Goes out: an order for each; and in the run folders, the files of those trials that ran
where the run folder is not seen. Each is written beside its name and renamed, DONE last of all.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from earsight.execution.ray_cluster import Cluster
from earsight.execution.ray_files import parts_of, sha256
from earsight.execution.ray_mailbox import Files, Mailbox
from earsight.execution.ray_worker import Order
from earsight.recipe import Recipe
from earsight.training.artifacts import tidy
from earsight.training.preparation import Prepared
from earsight.training.trial import Trial, is_done, lock_trial

_STATE = ("trial.json", "history.jsonl", "checkpoint.safetensors")
"""What a trial goes on from, in the order of writing."""
_OLD_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Unit:
    """A trial, what it is trained on, and its run folder."""

    prepared: Prepared
    trial: Trial
    run: Path

    @property
    def folder(self) -> Path:
        """The trial's folder."""
        return self.trial.folder(self.run)

    @property
    def name(self) -> str:
        """For messages."""
        return f"fold {self.trial.fold} seed {self.trial.seed}"


@dataclass
class Post:
    """What goes to and fro between the driver and the nodes; made by `open_post`.

    Attributes
    ----------
    ray : module
    units : sequence of Unit
    say : callable
        Called with what nodes say of themselves.
    mailbox : actor handle
    tokens : mapping of Path to (Path, str)
        By run folder, a file that is there if it is shared, and the secret in that file.
    """

    ray: Any
    units: Sequence[Unit]
    say: Callable[[str], None]
    mailbox: Any
    tokens: Mapping[Path, tuple[Path, str]]
    _locks: dict[int, ExitStack] = field(default_factory=dict)
    _data: dict[int, Any] = field(default_factory=dict)
    _supplied: dict[str, list[tuple[str, int, Any]]] = field(default_factory=dict)

    def order(self, number: int, cluster: Cluster, *, inner: bool) -> tuple[Any, Order]:
        """A unit's data, as a reference, and its order; the state that it goes on from is put into the mailbox."""
        unit = self.units[number]
        self._unlock(number)
        state = {name: path for name in _STATE if (path := unit.folder / name).is_file()}
        if _STATE[-1] in state:
            kept = {name: path.read_bytes() for name, path in state.items()}
            self.ray.get(self.mailbox.keep.remote(number, kept, fresh=False))
        prepared = unit.prepared
        if id(prepared) not in self._data:
            self._data[id(prepared)] = self.ray.put(_absolute(prepared))
        run = unit.run.absolute()
        order = Order(
            number=number,
            trial=unit.trial,
            run=run,
            token=self.tokens[run],
            weights=_weights(prepared.recipe),
            threads=cluster.threads,
            device=cluster.device,
            inner=inner,
        )
        return self._data[id(prepared)], order

    def collect(self) -> dict[str, Any]:
        """Take what has come: keep checkpoints, say notes, supply what is wanted; return all the news."""
        news: dict[str, Any] = self.ray.get(self.mailbox.news.remote())
        for text in news["notes"]:
            self.say(text)
        for number, names in news["kept"].items():
            if "DONE" not in names:
                files = self.ray.get(self.mailbox.kept.remote(number))
                self._write(number, files, [name for name in _STATE if name in names and name in files])
        for name in news["wanted"]:
            if name not in self._supplied:
                self._supplied[name] = parts_of(Path(name), self.ray.put)
            self.ray.get(self.mailbox.supply.remote(name, self._supplied[name]))
        return news

    def receive(self, number: int) -> None:
        """Put the files of a trial that has ended into its folder, if it was run where that is not seen."""
        folder = self.units[number].folder
        if not is_done(folder):
            files = self.ray.get(self.mailbox.kept.remote(number))
            names = [name for name in files if name not in ("checkpoint.safetensors", "DONE")]
            self._write(number, files, [*sorted(names), "DONE"])
            tidy(folder)
        self.ray.get(self.mailbox.drop.remote(number))
        self._unlock(number)

    def close(self) -> None:
        """Let go of what is held here."""
        for number in list(self._locks):
            self._unlock(number)
        for token, _ in self.tokens.values():
            token.unlink(missing_ok=True)

    def _write(self, number: int, files: Files, order: Sequence[str]) -> None:
        folder = self.units[number].folder
        if number not in self._locks:
            self._locks[number] = ExitStack()
            self._locks[number].enter_context(lock_trial(folder))
        for name in order:
            temporary = folder / f".{Path(name).name}.part"
            temporary.write_bytes(files[name])
            temporary.replace(folder / Path(name).name)

    def _unlock(self, number: int) -> None:
        if number in self._locks:
            self._locks.pop(number).close()


@contextmanager
def open_post(
    ray: Any, units: Sequence[Unit], *, say: Callable[[str], None], root: Path | None = None
) -> Iterator[Post]:
    """Open a mailbox for units, on the node that the driver is connected to.

    ``root`` is the folder that holds all of the units' run folders, if there is one.
    """
    runs = dict.fromkeys(unit.run.absolute() for unit in units)
    name, secret = f".shared-{secrets.token_hex(8)}", secrets.token_hex(16)
    tokens = {run: ((root.absolute() if root else run) / name, secret) for run in runs}
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=beside_driver(ray))(Mailbox).remote()
    post = Post(ray, units, say, mailbox, tokens)
    try:
        for token, _ in tokens.values():
            token.parent.mkdir(parents=True, exist_ok=True)
            for other in token.parent.glob(".shared-*"):
                if other.stat().st_mtime < time.time() - _OLD_SECONDS:  # of a driver that was killed
                    other.unlink(missing_ok=True)
            token.write_text(secret, encoding="utf-8")
        yield post
    finally:
        post.close()


def beside_driver(ray: Any) -> Any:
    """Where an actor or a task stays on the node that the driver is connected to: without it there is no cluster."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _absolute(prepared: Prepared) -> Prepared:
    """The same with paths that mean the same in another folder."""
    dataset = replace(prepared.dataset, root=prepared.dataset.root.absolute())
    return replace(
        prepared,
        dataset=dataset,
        store=replace(prepared.store, folder=prepared.store.folder.absolute()),
        key=prepared.key or prepared.store.folder.name,
    )


def _weights(recipe: Recipe) -> tuple[str, str] | None:
    """Path and digest of the file that a recipe's weights come from, if it names one."""
    if recipe.backbone.weights in ("imagenet", "none"):
        return None
    path = Path(recipe.backbone.weights).absolute()
    return str(path), sha256(path)
