"""A Ray cluster of two nodes, one of which shares no file with the driver: always the bits of a local run."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import ray_jobs
import torch
from safetensors.torch import save_file
from several_clips import write_several

from earsight.data.layouts import open_dataset
from earsight.errors import DataError, RunError
from earsight.evaluation.summary import read_predictions
from earsight.execution.ray_cluster import Cluster
from earsight.execution.ray_driver import Driver, Unit, open_driver, run_units
from earsight.execution.ray_worker import work
from earsight.execution.schedule import Group, run_groups
from earsight.files import sealed
from earsight.models.backbones import build
from earsight.training.checkpoint import checkpoints
from earsight.training.preparation import prepare
from earsight.training.teachers import open_teaching
from earsight.training.trial import Trial, is_done, run_inner, run_trial
from earsight.tuning.search import STOPPED, candidate, search
from earsight.tuning.space import make_points

CLUSTER = Cluster(cpus=1, gpus=0, threads=1, description="")
TRIALS = [Trial(1, 0), Trial(2, 0)]
CPU = torch.device("cpu")
LEFT = ["DONE", "history.jsonl", "model.safetensors", "predictions.npz", "trial.json"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head that shares the file system, and a node that does not; both with room for one trial."""
    from ray.cluster_utils import Cluster as Nodes

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    scratch = tmp_path_factory.mktemp("elsewhere")
    here = {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), os.environ.get("PYTHONPATH", "")])
    }
    there = {"EARSIGHT_UNSHARED": "1", "EARSIGHT_CACHE": str(scratch / "cache"), "TMPDIR": str(scratch)}
    soon = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_timeout_ms": 500}
    common = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Nodes()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited, as by a job that a script put in the background
    cluster.add_node(**common, _system_config={**soon, "health_check_failure_threshold": 3}, env_vars=here)
    apart = cluster.add_node(**common, env_vars={**here, **there})
    signal.signal(signal.SIGINT, before)
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": ray_jobs.often_and_gated,
            "env_vars": {"EARSIGHT_TEST_GATES": str(scratch)},
        },
    )
    yield apart, scratch
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def long(prepare_as, tmp_path_factory):
    """A recipe whose trials wait at the gates, and begin from weights in a file."""
    weights = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_file(dict(build("test_resnet", classes=10, weights="none", seed=5).state_dict()), weights)
    return prepare_as(f"training.epochs={ray_jobs.LONG}", "training.ema=0.9", f"backbone.weights={weights}")


def children(pid):
    """All processes below one."""
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    out, edge = [], {pid}
    while edge:
        edge = {child for child, parent in pairs if parent in edge}
        out += edge
    return out


def epochs(folder):
    """The lines of a trial's history."""
    return (folder / "history.jsonl").read_text().splitlines()


def test_a_search_has_the_bits_of_local_ones_on_whatever_node(nodes, synthetic, prepare_as, tmp_path):
    base = prepare_as(f"training.epochs={ray_jobs.SEARCHED}").recipe
    points = make_points(base, grid=["training.learning_rate=1e-2,1e-3,1e-4"])
    ready = replace(prepare_as(), recipe=base)

    def go(cluster, **options):
        said, told = [], []

        def say(line):
            said.append(line)
            if sum(": torch " in other for other in said) == 2:
                (nodes[1] / "both").touch()

        candidates = [
            candidate(point, replace(ready, recipe=point.recipe), out=tmp_path, trials=TRIALS[:1]) for point in points
        ]
        search(
            candidates,
            out=tmp_path,
            device=CPU,
            cluster=cluster,
            metric="accuracy",
            progress=lambda *step: told.append(step),
            say=say,
            **options,
        )
        return candidates, said, told

    candidates, said, _ = go(CLUSTER, asha=True)
    assert sum("its files come back" in line for line in said) == 1
    assert any(one.done for one in candidates)
    for one in candidates:
        assert one.done != (one.run / STOPPED).is_file()
        names = sorted(path.name for path in one.units[0].folder.iterdir() if not path.name.startswith("."))
        expected = ["DONE", "history.jsonl", "inner.npz", "trial.json"]
        assert names == (expected if one.done else ["history.jsonl", "trial.json"])
    # All of them here, without ASHA: those that are done are not run again, and those that were stopped are.
    before = {one.run: one.units[0].folder.joinpath("DONE").stat().st_mtime_ns for one in candidates if one.done}
    candidates, _, told = go(None, asha=False)
    for one in candidates:
        again = run_inner(one.prepared, TRIALS[0], run=tmp_path / "local" / one.run.name, device=CPU)
        ours, theirs = (read_predictions(folder / "inner.npz") for folder in (again, one.units[0].folder))
        assert ours.logits.tobytes() == theirs.logits.tobytes()
    for run, when in before.items():
        assert (run / "fold-1" / "seed-0" / "DONE").stat().st_mtime_ns == when
    assert told == [] or told[-1][:2] == (18 * (len(points) - len(before)),) * 2
    # With nothing left to do, a cluster is not even asked.
    assert go(replace(CLUSTER, cpus=1e9), asha=True)[1:] == ([], [])


def test_several_recipes_are_trained_side_by_side_and_what_is_done_is_not_again(nodes, prepare_as, tmp_path):
    kinds = {"one": prepare_as("training.epochs=2"), "two": prepare_as("training.epochs=1", "augment.mixup=0")}
    groups = [Group(prepared, TRIALS, tmp_path / name, name) for name, prepared in kinds.items()]
    run_trial(kinds["one"], TRIALS[0], run=tmp_path / "one", device=CPU)
    told, said = [], []
    run_groups(CLUSTER, groups, progress=lambda *step: told.append(step), say=said.append)
    assert sum("held-out clips" in line for line in said) == 4
    assert [line for line in said if "done before" in line] == [said[0]]
    assert told[-1][0] == told[-1][1] >= 8, "the three trials' four, two and two steps, and what was done before"
    for name, prepared in kinds.items():
        assert (tmp_path / name / "recipe.yaml").read_text() == sealed(prepared.recipe.to_yaml())
        for trial in TRIALS:
            local = run_trial(prepared, trial, run=tmp_path / "local" / name, device=CPU)
            folder = trial.folder(tmp_path / name)
            assert (folder / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()


def test_clips_of_several_labels_some_unknown_have_the_bits_of_a_local_run(nodes, tiny, tmp_path):
    data = open_dataset(write_several(tmp_path / "clips", clips=24, masked=True))
    ready = prepare(data, tiny("training.epochs=2"), workers=1)
    run_groups(CLUSTER, [Group(ready, TRIALS, tmp_path / "run", "several")], progress=lambda *_: None, say=str)
    for trial in TRIALS:
        local = run_trial(ready, trial, run=tmp_path / "local", device=CPU)
        there, here = (read_predictions(one / "predictions.npz") for one in (trial.folder(tmp_path / "run"), local))
        assert there.logits.tobytes() == here.logits.tobytes()
        assert np.isnan(there.targets).any()
        np.testing.assert_array_equal(there.targets, here.targets)


def test_students_have_the_bits_of_local_ones_and_their_teachers_travel(nodes, synthetic, prepare_as, tiny, tmp_path):
    """With spectrograms of the teachers' own, which travel too."""
    # 24 bands: of more, maps of 3 x 2 in bfloat16 get NaN from torch 2.14.1 on processors with AMX (docs/results.md).
    other = prepare_as("features.bands=24", "training.epochs=1")
    for trial in TRIALS:
        run_trial(other, trial, run=tmp_path / "teachers", device=CPU)
    teaching = open_teaching(tmp_path / "teachers", synthetic)
    ready = prepare(synthetic, tiny("training.epochs=2", "distillation.weight=0.8"), teaching=teaching)
    said = []
    run_groups(CLUSTER, [Group(ready, TRIALS, tmp_path / "far")], progress=lambda *_: None, say=said.append)
    assert any("does not share the run folder" in line for line in said)
    lacking = [line for line in said if "lacks" in line]
    assert {Path(line.split("lacks ")[1].split(",")[0]) for line in lacking} >= {teaching_store(ready)}
    for trial in TRIALS:
        near, far = run_trial(ready, trial, run=tmp_path / "near", device=CPU), trial.folder(tmp_path / "far")
        assert (near / "model.safetensors").read_bytes() == (far / "model.safetensors").read_bytes()


def teaching_store(prepared):
    """Where the spectrograms of a student's teachers lie."""
    return prepared.teaching.store.folder.absolute()


def test_what_a_trial_raises_is_raised_here(nodes, long, tmp_path):
    units = [Unit(long, Trial(9, 0), tmp_path)]
    with pytest.raises(DataError, match="fold 9: has no usable clip"):
        run_units(CLUSTER, units, on_step=print, on_end=print, say=lambda _: None)
    assert not list(tmp_path.glob(".shared-*"))


def test_another_version_is_refused(nodes, long, tmp_path):
    with open_driver(CLUSTER, [Unit(long, TRIALS[0], tmp_path)], say=print) as driver:
        reference, job = driver.job(0)
        outcome = work(ray.get(reference), replace(job, version="0.0.0"), driver.mailbox)
    with pytest.raises(RunError, match=r"^node .* has earsight .* and the driver 0\.0\.0; install the same"):
        raise outcome


def test_the_checkpoint_before_the_newest_travels_too(nodes, long, tmp_path):
    unit = Unit(long, TRIALS[0], tmp_path)
    unit.folder.mkdir(parents=True)
    newest, before = checkpoints(unit.folder)
    before.write_bytes(b"one")
    newest.write_bytes(b"two")
    with open_driver(CLUSTER, [unit], say=print) as driver:
        driver.job(0)
        assert ray.get(driver.mailbox.state.remote(0)) == {newest.name: b"two", before.name: b"one"}
        ray.get(driver.mailbox.put_state.remote(0, {newest.name: b"three"}))
        driver.collect()
        assert (newest.read_bytes(), before.read_bytes()) == (b"three", b"two")


def test_stopped_and_then_a_node_killed_it_ends_with_the_bits_of_a_local_run(nodes, long, tmp_path, monkeypatch):
    apart, scratch = nodes
    run, units = tmp_path / "run", [Unit(long, trial, tmp_path / "run") for trial in TRIALS]
    marks = [unit.folder / "checkpoint.safetensors" for unit in units]
    steps, said, ended, killed = [], [], [], []
    collect = Driver.collect

    def go(then):
        def watched(driver):
            news = collect(driver)
            then()
            return news

        monkeypatch.setattr(Driver, "collect", watched)
        run_units(CLUSTER, units, on_step=lambda *step: steps.append(step), on_end=ended.append, say=said.append)

    def at_the_gate(step):
        return {unit.trial for unit, done, _, _ in steps if done == step} == set(TRIALS)

    def stop():
        if at_the_gate(8):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(stop)
    assert not ended
    deadline = time.monotonic() + 60  # the workers tidy up on their way out, which the driver does not wait for
    while list(scratch.glob("earsight-trial-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(scratch.glob("earsight-trial-*"))
    assert not list(run.glob(".shared-*"))
    reached = {mark: mark.stat().st_mtime_ns for mark in marks}
    # Seconds of an epoch tell whether it was trained once: those of the first three are in both checkpoints.
    known = {unit.trial: epochs(unit.folder)[:3] for unit in units}
    assert max(done for _, done, _, _ in steps) <= 8
    (scratch / "first").touch()
    steps.clear()

    def kill():
        for trial, records in known.items():
            assert epochs(trial.folder(run))[:3] == records[:3], "it began anew after the stop"
        if not killed and at_the_gate(16) and all(mark.stat().st_mtime_ns > reached[mark] for mark in marks):
            raylet = apart.all_processes["raylet"][0].process.pid
            killed.extend([raylet, *children(raylet)])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            known.update({unit.trial: epochs(unit.folder)[:7] for unit in units})
            (scratch / "second").touch()

    go(kill)
    assert killed
    assert len([line for line in said if "its worker died at step 16" in line]) == 1
    assert len(ended) == 2
    for trial in TRIALS:
        folder, local = trial.folder(run), run_trial(long, trial, run=tmp_path / "local", device=CPU)
        assert is_done(folder)
        assert len(known[trial]) >= 6, "its history was at home when the node was killed"
        assert epochs(folder)[: len(known[trial])] == known[trial], "it began anew"
        assert sorted(path.name for path in folder.iterdir()) == LEFT
        for name in ("model.safetensors", "trial.json"):
            assert (folder / name).read_bytes() == (local / name).read_bytes()
        ours, theirs = (read_predictions(place / "predictions.npz") for place in (folder, local))
        assert ours.logits.tobytes() == theirs.logits.tobytes()
    assert sorted(path.name for path in run.iterdir()) == ["fold-1", "fold-2"]
