"""What a trial takes of a cluster's nodes, and what no node has."""

import tempfile

import pytest
from filelock import FileLock
from ray import exceptions as ray_exceptions

from earsight.errors import RunError
from earsight.execution import ray_cluster


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, (1, 0, 1)),
        ({"threads": 2}, (2, 0, 2)),
        ({"cpus": 0.5}, (0.5, 0, 1)),
        ({"cpus": 3, "threads": 1}, (3, 0, 1)),
        ({"cards": 1}, (1, 1, 1)),
        ({"cards": 1, "gpus": 0.2}, (1, 0.2, 1)),
        ({"cards": 1, "device": "cpu"}, (1, 0, 1)),
        ({"cpus": 5}, "no node has what a trial takes (5 CPUs, 0 GPUs); the largest has 4 CPUs and 0 GPUs"),
        ({"gpus": 0.2}, "no node has what a trial takes (1 CPUs, 0.2 GPUs)"),
        ({"device": "cuda"}, "no node has what a trial takes (1 CPUs, 1 GPUs)"),
        ({"cards": 2, "gpus": 1.5}, "--gpus-per-trial 1.5: Ray gives parts of one card or whole cards"),
        ({"cards": 1, "gpus": 1, "device": "cpu"}, "contradicts device cpu"),
        ({"cards": 1, "gpus": 0, "device": "cuda"}, "contradicts device cuda"),
    ],
)
def test_what_a_trial_takes(asked, wanted):
    class Ray:
        @staticmethod
        def nodes():
            small = {"Alive": True, "Resources": {"CPU": 2}}
            large = {"Alive": True, "Resources": {"CPU": 4, "GPU": asked.pop("cards", 0)}}
            return [small, large, {"Alive": False, "Resources": {"CPU": 99, "GPU": 99}}]

    options = {"cpus": None, "gpus": None, "threads": None, "device": "auto"} | {
        name: value for name, value in asked.items() if name != "cards"
    }
    if isinstance(wanted, str):
        with pytest.raises(RunError) as error:
            ray_cluster._fitted(Ray, "here", **options)
        assert wanted in str(error.value)
    else:
        fitted = ray_cluster._fitted(Ray, "here", **options)
        assert (fitted.cpus, fitted.gpus, fitted.threads) == wanted
        assert fitted.device == ("cuda" if wanted[1] else "cpu")


@pytest.mark.parametrize(
    ("usual", "own", "expected"),
    [("/tmp", "", None), ("/var/tmp/" + "t" * 40, "", "/tmp/ray"), ("/var/tmp/" + "t" * 40, "/mine", None)],
)
def test_a_cluster_that_is_started_here_has_short_paths(monkeypatch, usual, own, expected):
    """Where TMPDIR is long, unless the user has said where Ray shall write."""
    asked = {}

    class Ray:
        @staticmethod
        def init(**words):
            asked.update(words)

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    if own:
        monkeypatch.setenv("RAY_TMPDIR", own)
    monkeypatch.setattr(tempfile, "tempdir", usual)
    assert "started here" in ray_cluster._connect(Ray, "local")
    assert asked["_temp_dir"] == expected


def test_at_the_end_the_folders_of_killed_workers_are_removed(tmp_path, monkeypatch):
    """Whether the block ends or is interrupted; those of workers that still end are waited for."""

    class Ray:
        exceptions = ray_exceptions

        @staticmethod
        def is_initialized():
            return True

        @staticmethod
        def nodes():
            return [{"Alive": True, "NodeID": "0", "Resources": {"CPU": 2}}]

        @staticmethod
        def shutdown():
            left = tmp_path / "earsight-trial-0123"
            left.mkdir()
            left.with_suffix(".lock").touch()

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ray_cluster, "_ray", lambda: Ray)
    monkeypatch.setattr(ray_cluster, "_connect", lambda *_: "here")
    with pytest.raises(KeyboardInterrupt), ray_cluster.connected("ray"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_nodes_of_a_cluster_that_stays_are_tidied_too(tmp_path, monkeypatch):
    """Each living node by a task that takes no CPU of it; a folder in use stays, and a dead node is not waited for."""
    asked, waited = [], []
    ids = {name: f"{number:056x}" for number, name in enumerate(("first", "second", "dead"), start=1)}

    class Task:
        def __init__(self, function, **options):
            self.function, self.kept = function, options

        def options(self, **options):
            return Task(self.function, **self.kept, **options)

        def remote(self):
            place = self.kept["scheduling_strategy"]
            node = next(name for name, held in ids.items() if held == place.node_id)
            asked.append((node, place.soft, self.kept["num_cpus"], self.kept["max_retries"]))
            with monkeypatch.context() as there:
                there.setattr(tempfile, "tempdir", str(tmp_path / node))
                self.function()
            return node

    class Ray:
        exceptions = ray_exceptions
        down = None

        @staticmethod
        def is_initialized():
            return True

        @staticmethod
        def nodes():
            return [{"Alive": name != "dead", "NodeID": ids[name]} for name in ("first", "second", "dead")]

        @staticmethod
        def remote(**options):
            return lambda function: Task(function, **options)

        @classmethod
        def wait(cls, tasks, *, num_returns, timeout):
            waited.append((tasks, num_returns, timeout))
            if cls.down:
                raise cls.down

        @staticmethod
        def shutdown():
            asked.append("shutdown")

    for node in ("first", "second", "dead", "here"):
        for name in ("earsight-trial-0123", "earsight-trial-4567"):
            (tmp_path / node / name).mkdir(parents=True)
            (tmp_path / node / f"{name}.lock").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    monkeypatch.setattr(ray_cluster, "_ray", lambda: Ray)
    monkeypatch.setattr(ray_cluster, "_connect", lambda *_: "here")
    monkeypatch.setattr(ray_cluster, "_fitted", lambda *_, **__: None)
    monkeypatch.setattr(ray_cluster, "TIDY_SECONDS", 0.0)
    wanted = [("first", False, 0, 0), ("second", False, 0, 0), "shutdown"]
    with FileLock(tmp_path / "second" / "earsight-trial-4567.lock"):
        with pytest.raises(KeyboardInterrupt), ray_cluster.connected("ray"):
            raise KeyboardInterrupt(143)
        used = ["earsight-trial-4567", "earsight-trial-4567.lock"]
        left = {node.name: sorted(path.name for path in node.iterdir()) for node in tmp_path.iterdir()}
        assert left == {"first": [], "second": used, "here": [], "dead": left["dead"]}
        assert len(left["dead"]) == 4
    assert asked == wanted
    assert waited == [(["first", "second"], 2, ray_cluster.NODES_SECONDS)]
    for down in (ray_exceptions.RaySystemError("gone"), ConnectionError("gone"), RuntimeError("never connected")):
        Ray.down = down  # the cluster has gone meanwhile: that hides nothing of what ended the block
        with pytest.raises(KeyError), ray_cluster.connected("ray"):
            raise KeyError("first")
    assert asked == wanted * 4
