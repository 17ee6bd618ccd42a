"""The Ray cluster that trials run on: a running one, or one started on this machine for the command.

Comes in: ``ray`` or ``ray://HOST:PORT``, and what a trial takes. Goes out: a connected `Cluster`. Ray is imported only
when a cluster is asked for.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from earsight.errors import RunError, counted
from earsight.files import remove_stale
from earsight.portable import socket_folder

REACH_SECONDS = 10.0  # that a cluster may take to answer at its address
TIDY_SECONDS = 1.0  # that workers may take to end after a cluster that was started here
NODES_SECONDS = 5.0  # that other nodes may take to tidy up
SCRATCH = "earsight-trial-"  # how a worker's scratch folder begins
STORE_BYTES = 256 * 2**20  # for objects in a cluster that is started here: its trials read and write the disk itself
_SOCKET_BYTES = len("/ray/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store")
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_CLIENT = re.compile(r"ray://(?P<host>[^/:\s]+|\[[^\]]+\]):(?P<port>\d+)")


@dataclass(frozen=True)
class Cluster:
    """A connected cluster: what a trial reserves (parts of a GPU too), the threads it computes with, and a line."""

    cpus: float
    gpus: float
    threads: int
    description: str

    @property
    def machine(self) -> dict[str, Any]:
        """What the description of a run's machine holds of it."""
        return {"threads": self.threads, "cluster": self.description}

    @property
    def device(self) -> str:
        """Kind of device that a trial computes on."""
        return "cuda" if self.gpus else "cpu"


def check_place(on: str) -> None:
    """Raise `RunError` for what is neither ``local`` nor a cluster, and for a cluster where Ray is not installed."""
    if on == "local":
        return
    if on != "ray" and not _CLIENT.fullmatch(on):
        raise RunError(f"--on {on}: unknown; expected local, ray, or ray://HOST:PORT (of a Ray Client server)")
    _ray()


@contextmanager
def connected(
    on: str,
    *,
    cpus: float | None = None,
    gpus: float | None = None,
    threads: int | None = None,
    device: str = "auto",
    unit: str = "trial",
) -> Iterator[Cluster]:
    """Connect to a cluster that `check_place` accepts, for as long as the block runs.

    ``on`` is ``ray`` for the cluster of ``$RAY_ADDRESS``, or that of this machine, or one that is started here;
    ``ray://HOST:PORT`` for a Ray Client server. ``cpus``, ``gpus`` and ``threads`` are of each trial; default as many
    CPUs as threads or the reverse, else one, and one GPU if the cluster has GPUs. ``device`` is ``auto``, ``cpu`` or
    ``cuda``; ``unit`` is what the cluster runs, for messages.

    RunError if Ray is not installed, the cluster cannot be reached, or no node of it has what a trial takes.
    """
    ray = _ray()
    if device not in ("auto", "cpu", "cuda"):
        raise RunError(f"--device {device}: on a cluster Ray chooses the card; expected auto, cpu or cuda")
    try:
        before = signal.getsignal(signal.SIGTERM)
        where = _connect(ray, on)
        if before and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own handler would end this process without a word
        yield _fitted(ray, where, cpus=cpus, gpus=gpus, threads=threads, device=device, unit=unit)
    finally:
        _tidy_nodes(ray)
        ray.shutdown()
        _remove_scratch()


def _tidy_nodes(ray: Any) -> None:
    """Do so on all nodes of a cluster that stays: where a search is stopped, Tune kills its workers."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with suppress(ray.exceptions.RayError, ConnectionError, RuntimeError):  # the cluster is gone
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
        if len(nodes) > 1:
            tidy = ray.remote(num_cpus=0, max_retries=0)(_remove_scratch)
            places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
            tasks = [tidy.options(scheduling_strategy=place).remote() for place in places]
            ray.wait(tasks, num_returns=len(tasks), timeout=NODES_SECONDS)


def _remove_scratch() -> None:
    """Remove what workers of this machine left that were killed; those that Ray started end a moment after it."""
    until = time.monotonic() + TIDY_SECONDS
    while remove_stale(SCRATCH) and time.monotonic() < until:
        time.sleep(0.1)


def _ray() -> Any:
    """Ray, without its usage reports and its warning of a default that changes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import grpc  # noqa: F401 (Ray's client needs it, and an installation of Ray alone does not bring it)
        import ray
    except ImportError as error:
        raise RunError(
            f"Ray is not installed ({error}); python -m pip install 'earsight[ray]', or take --on local"
        ) from error
    return ray


def _connect(ray: Any, on: str) -> str:
    """Connect; returns a description of the cluster."""
    address = os.environ.get("RAY_ADDRESS") or "auto" if on == "ray" else on
    if address != "local":
        _knock(address)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error holds them too
                ray.init(address=address, **_QUIET)
            return f"the Ray cluster at {ray.get_runtime_context().gcs_address if on == 'ray' else on}"
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            if address != "auto":
                reason = " ".join(str(error).split())[:300]
                raise RunError(
                    f"--on {on}: no Ray cluster answers at {address} ({reason}); if it asks for a token, set "
                    "RAY_AUTH_MODE=token here"
                ) from error
    usual, place = tempfile.gettempdir(), socket_folder(_SOCKET_BYTES)
    ray.init(
        address="local",
        _temp_dir=None if place == usual or "RAY_TMPDIR" in os.environ else f"{place}/ray",
        num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        **_QUIET,
    )
    return "a Ray cluster that was started here, for no other was found"


def _knock(address: str) -> None:
    """Find in bounded time whether a gRPC server listens, as all of Ray's are; Ray itself would try for minutes."""
    import grpc

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=REACH_SECONDS)
    except (OSError, OverflowError, grpc.FutureTimeoutError) as error:
        reason = str(error) or "what answers is not Ray"
        raise RunError(
            f"{address}: no Ray cluster can be reached there ({reason}); start one with `ray start --head` (of ray:// "
            "`ray start --head --ray-client-server-port PORT`), or mend the address"
        ) from error


def _fitted(
    ray: Any,
    where: str,
    *,
    cpus: float | None,
    gpus: float | None,
    threads: int | None,
    device: str,
    unit: str = "trial",
) -> Cluster:
    """The connected cluster, with a trial's resources, which at least one node must have."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cards = sum(node.get("GPU", 0) for node in nodes)
    if gpus is None:
        gpus = 1.0 if device == "cuda" or (device == "auto" and cards) else 0.0
    elif device == "cpu" and gpus:
        raise RunError(f"--gpus-per-trial {gpus:g}: contradicts --device cpu; leave one of them out")
    elif device == "cuda" and not gpus:
        raise RunError("--gpus-per-trial 0: contradicts --device cuda; leave one of them out")
    if gpus > 1 and gpus != int(gpus):
        raise RunError(f"--gpus-per-trial {gpus:g}: Ray gives parts of one card or whole cards; such as 0.2 or 1")
    cpus = float(threads or 1) if cpus is None else cpus
    threads = threads or max(1, int(cpus))
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most: dict[str, float] = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        raise RunError(
            f"no node has what a {unit} takes ({cpus:g} CPUs, {gpus:g} GPUs); the largest has "
            f"{most.get('CPU', 0):g} CPUs and {most.get('GPU', 0):g} GPUs: lower "
            + ("--cpus-per-trial or --gpus-per-trial" if unit == "trial" else "--threads, or give --device cpu")
        )
    cores = sum(node.get("CPU", 0) for node in nodes)
    text = f"{where}: {counted(len(nodes), 'node')}, {cores:g} CPUs, {cards:g} GPUs"
    share = f"{cpus:g} CPU{'s' * (cpus != 1)}" + (f" and {gpus:g} GPU" if gpus else "")
    return Cluster(cpus, gpus, threads, f"{text}; a {unit} takes {share}, {counted(threads, 'thread')}")


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Raise `RunError` where the cluster is gone, or where a node cannot run earsight at all."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:  # workers return their errors: this one is from before they began
        reason = str(error.cause or error).splitlines()[-1]
        raise RunError(f"a node cannot run earsight ({reason}); install the same version on every node") from error
    except (RayError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"the Ray cluster is gone ({reason}); the same command goes on from the checkpoints") from error
