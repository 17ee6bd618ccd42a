"""On a Ray cluster sounds get the bits that they get here, also when a worker dies; what goes wrong is one line."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import ray
import soundfile

from earsight.errors import DataError, EarsightError
from earsight.execution.ray_cluster import Cluster
from earsight.inference import ray_inference
from earsight.inference.classifier import load_classifier
from earsight.inference.clips import predict_clips
from earsight.inference.journal import FileOutput
from earsight.inference.model import Model
from earsight.inference.ray_inference import RayInference
from earsight.inference.transcribe import TranscriptOptions, transcribe
from earsight.models.modelfile import load, save

ONE = Cluster(cpus=1, gpus=0, threads=1, description="")


@pytest.fixture(scope="module")
def classifier(trained):
    return load_classifier(trained / "model.safetensors")


@pytest.fixture(scope="module")
def remote(trained):
    """Two workers on this machine."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    common = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, object_store_memory=80 * 2**20, **common)
    yield RayInference(ONE, trained / "model.safetensors")
    ray.shutdown()


def test_clips_have_the_bits_of_here(remote, classifier, synthetic, tmp_path):
    (tmp_path / "x.wav").write_text("hello")
    files = [synthetic.file(row) for row in range(11)] + [tmp_path / "x.wav"] * 5 + [tmp_path / "absent.wav"]
    there = list(predict_clips(classifier, files, batch_size=4, remote=remote))
    assert there == list(predict_clips(classifier, files, batch_size=4))
    assert [bool(found.error) for found in there] == [False] * 11 + [True] * 6


def test_long_files_have_the_bits_of_here(remote, classifier, synthetic, tmp_path):
    generator = np.random.default_rng(0)
    names = [synthetic.file(0)]
    for seconds in (2.3, 25.0, 1.05):
        names.append(tmp_path / f"{seconds}.wav")
        soundfile.write(names[-1], generator.normal(0, 0.1, round(seconds * 22050)), 22050)
    (tmp_path / "cut.mp3").write_bytes(_cut(tmp_path / "whole.mp3", generator))
    names.append(tmp_path / "cut.mp3")
    there = list(predict_clips(classifier, names, batch_size=4, remote=remote))
    assert there == list(predict_clips(classifier, names, batch_size=4))
    assert [one.windows for one in there] == [1, 3, 25, 1, 1]
    assert "truncated" in there[-1].error


def _cut(path, generator):
    soundfile.write(path, generator.normal(0, 0.1, 30 * 22050), 22050)
    content = path.read_bytes()
    return content[: len(content) // 2]


def test_clips_have_the_bits_of_here_by_kernels_too(remote, trained, classifier, synthetic):
    files = [synthetic.file(row) for row in range(5)]
    fast = RayInference(ONE, trained / "model.safetensors", kernels=True)
    there = [list(predict_clips(classifier, files, batch_size=4, remote=where)) for where in (fast, remote)]
    kernels = load_classifier(trained / "model.safetensors").use_kernels()
    here = [list(predict_clips(one, files, batch_size=4)) for one in (kernels, classifier)]
    assert there == here
    assert here[0] != here[1]


def test_recordings_have_the_bytes_of_here(remote, classifier, synthetic, tmp_path):
    wave, rate = soundfile.read(synthetic.file(0), dtype="float32")
    soundfile.write(tmp_path / "long.wav", np.tile(wave, 40), rate)
    (tmp_path / "x.wav").write_text("hello")
    names = [str(tmp_path / "long.wav"), str(tmp_path / "x.wav"), str(synthetic.file(1))]
    written = {}
    for name, where in (("here", None), ("there", remote)):
        output = FileOutput(tmp_path / name, folder=False, settings={}, resume=False)
        options = TranscriptOptions(hop_seconds=0.5, kinds=("windows",), form="csv")
        assert transcribe(classifier, names, options, output, remote=where).failed == 1
        written[name] = (tmp_path / name).read_bytes()
    assert written["there"] == written["here"]
    assert written["here"].count(b"\n") > 40


def test_sounds_of_several_labels_have_the_bits_of_here(remote, trained, synthetic, tmp_path):
    card, network = load(trained / "model.safetensors")
    rules = {name: {"threshold": 0.02 * n, "rule": "best-f1", "ci95": [0, 1]} for n, name in enumerate(card.classes)}
    path = tmp_path / "several.safetensors"
    save(path, state=network.state_dict(), card=replace(card, several=True, thresholds=rules))
    here, there = load_classifier(path), RayInference(ONE, path)
    files = [synthetic.file(row) for row in range(6)]
    answers = list(predict_clips(here, files, batch_size=4, remote=there))
    assert answers == list(predict_clips(here, files, batch_size=4))
    assert any(len(one.named) > 1 for one in answers)
    written = []
    for name, where in (("here", None), ("there", there)):
        output = FileOutput(tmp_path / name, folder=False, settings={}, resume=False)
        options = TranscriptOptions(hop_seconds=0.5, kinds=("windows",), form="csv")
        assert transcribe(here, [str(file) for file in files[:2]], options, output, remote=where).failed == 0
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert len(list(csv.reader(written[0].decode().splitlines()))) > 2


def test_what_is_read_ahead_is_bounded_and_none_is_no_job(remote):
    read = []

    def jobs():
        for number in range(100):
            read.append(number)
            yield number, None if number % 2 else number

    def twice(classifier: Model, number: int) -> int:
        return 2 * number

    found = remote.map(twice, jobs())
    assert [next(found) for _ in range(4)] == [(0, 0), (1, None), (2, 4), (3, None)]
    assert len(read) <= 4 + 3 * 2
    found.close()


def test_a_worker_that_dies_costs_nothing(remote, tmp_path):
    died = tmp_path / "died"

    def compute(classifier: Model, number: int) -> int:
        if number == 2 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert [found for _, found in remote.map(compute, ((n, n) for n in range(6)))] == list(range(6))
    assert died.exists()


def test_what_goes_wrong_is_one_line(remote, trained, monkeypatch):
    def refuse(classifier: Model, job: int) -> None:
        raise DataError("no sound; send another")

    def break_down(classifier: Model, job: int) -> None:
        raise ValueError("no such thing")

    def die(classifier: Model, job: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"^no sound; send another$"):
        list(remote.map(refuse, [(0, 0)]))
    with pytest.raises(EarsightError, match=r"a node cannot run earsight \(.*no such thing"):
        list(remote.map(break_down, [(0, 0)]))
    monkeypatch.setattr(ray_inference, "RETRIES", 0)
    short = RayInference(ONE, trained / "model.safetensors")
    with pytest.raises(EarsightError, match=r"the worker of one batch died 1 time,.*resume goes on"):
        list(short.map(die, [(0, 0)]))
    monkeypatch.setitem(remote._order, "version", "99.0")
    with pytest.raises(EarsightError, match=r"a node has earsight .*, here it is 99\.0"):
        list(remote.map(refuse, [(0, 0)]))
