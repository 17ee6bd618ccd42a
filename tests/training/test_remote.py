"""Trials on a Ray cluster of two nodes, one of which shares no file with the driver: the bits of a local run."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import ray_jobs
import torch

from earsight.training.cluster import Cluster
from earsight.training.post import Unit
from earsight.training.remote import run_units
from earsight.training.trial import Trial, is_done, run_trial

ray = pytest.importorskip("ray")
CLUSTER = Cluster(cpus=1, gpus=0, threads=1, description="")
TRIALS = [Trial(1, 0), Trial(2, 0)]


def children(pid):
    """All processes below one, as Linux and macOS list them."""
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    out, edge = [], {pid}
    while edge:
        edge = {child for child, parent in pairs if parent in edge}
        out += edge
    return out


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head that shares the file system, and a node that does not; both with room for one trial."""
    from ray.cluster_utils import Cluster as Nodes

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    here = str(Path(__file__).parent)
    paths = {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    config = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_timeout_ms": 500}
    common = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Nodes()
    nodes.add_node(**common, _system_config={**config, "health_check_failure_threshold": 3}, env_vars=paths)
    cache = str(tmp_path_factory.mktemp("elsewhere"))
    other = {**paths, "EARSIGHT_UNSHARED": "1", "EARSIGHT_CACHE": cache}
    apart = nodes.add_node(**common, env_vars=other)
    ray.init(
        address=nodes.address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"worker_process_setup_hook": ray_jobs.often_and_slowly},
    )
    yield nodes, apart
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def long(prepare_as):
    return prepare_as("training.epochs=40", "training.ema=0.9")


@pytest.fixture(scope="module")
def local(long, tmp_path_factory):
    run = tmp_path_factory.mktemp("local")
    torch.set_num_threads(1)
    for trial in TRIALS:
        run_trial(long, trial, run=run, device=torch.device("cpu"))
    return run


def whole(run, trial):
    """The bytes of what a trial leaves, but for what holds times."""
    folder = trial.folder(run)
    assert is_done(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["DONE", "history.jsonl", "model.safetensors", "predictions.npz", "trial.json"]
    )
    return (folder / "model.safetensors").read_bytes(), (folder / "trial.json").read_bytes()


def test_a_node_is_killed_and_the_bits_are_those_of_the_local_run(nodes, long, local, tmp_path):
    _, apart = nodes
    said, steps = [], {trial: [] for trial in TRIALS}

    def on_step(unit, done, total, loss):
        steps[unit.trial].append(done)
        marks = [trial.folder(tmp_path) / "checkpoint.safetensors" for trial in TRIALS]
        if all(mark.is_file() for mark in marks) and not killed:
            raylet = apart.all_processes["raylet"][0].process.pid
            killed.extend([*children(raylet), raylet])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    killed, ended = [], []
    units = [Unit(long, trial, tmp_path) for trial in TRIALS]
    run_units(CLUSTER, units, on_step=on_step, on_end=ended.append, say=said.append)
    print(said)
    print(steps)
    assert killed
    assert len([line for line in said if "its worker died" in line]) == 1
    assert sorted(unit.trial.fold for unit in ended) == [1, 2]
    for trial in TRIALS:
        assert whole(tmp_path, trial) == whole(local, trial)
