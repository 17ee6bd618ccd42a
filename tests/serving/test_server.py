"""The verb: it starts with a model that passes its checks, says in one line why it does not, and stops in peace."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors
import safetensors.torch
import soundfile
import torch
from at_port import RATE, tone
from typer.testing import CliRunner

from earsight.cli import app
from earsight.errors import ModelError
from earsight.inference.classifier import load_classifier
from earsight.models.modelfile import distance, load_probe, probe_wave
from earsight.serving.server import bind, check_parity


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, ["serve", *map(str, words), "--threads", "1"])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("earsight: ")
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def rewritten(path: Path, change, folder: Path) -> Path:
    """The model file again, with its metadata changed."""
    with safetensors.safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["earsight"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(content)
    new = folder / "changed.safetensors"
    safetensors.torch.save_file(tensors, new, metadata={"earsight": json.dumps(content)})
    return new


# Parity


def test_the_probe_is_the_same_sound_in_every_version(classifier):
    wave = probe_wave(classifier.card.recipe.features)
    assert wave.shape == (RATE,)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() < 1
    # The first samples as they were when the first model files were written with their answers.
    assert wave[:4] == pytest.approx([0.492704, -0.012351, 0.000928, -0.014279], abs=1e-4)


def test_a_model_file_brings_its_answer(model_file, classifier):
    stored = load_probe(model_file)
    found = classifier.logits(probe_wave(classifier.card.recipe.features)[None])[0]
    assert distance(found, stored) < 1e-3
    assert check_parity(model_file, classifier) == ""


def test_a_machine_that_answers_otherwise_does_not_serve(model_file, classifier, tmp_path):
    # A front end that hears half a tone higher, as another version of some package might.
    other = load_classifier(model_file)
    original = other.front_end.band_energies
    other.front_end.band_energies = lambda waves, **more: original(torch.roll(waves, 100, dims=1) * 1.2, **more)
    with pytest.raises(ModelError, match="predicts otherwise here than where it was saved"):
        check_parity(model_file, other)

    def shift(content):
        content["probe"][0] += 0.2

    message = refused(rewritten(model_file, shift, tmp_path), "--port", 0)
    assert "off by" in message
    assert "train it again" in message


def test_an_older_file_is_served_with_a_note(model_file, classifier, tmp_path):
    old = rewritten(model_file, lambda content: content.pop("probe"), tmp_path)
    assert load_probe(old) is None
    assert "older than the parity check" in check_parity(old, classifier)


def test_an_answer_that_is_none_is_damage(model_file, tmp_path):
    for wrong in ([1.0], ["a", "b", "c"], "abc", [1.0, 2.0, None], {"a": 1}):
        with pytest.raises(ModelError, match="answer to the probe"):
            load_probe(rewritten(model_file, lambda content, wrong=wrong: content.update(probe=wrong), tmp_path))


def test_what_answers_nan_is_not_served(model_file, classifier):
    broken = load_classifier(model_file)
    broken._std = broken._std * 0
    broken._mean = broken._mean * float("nan")
    with pytest.raises(ModelError, match="NaN or infinite"):
        check_parity(model_file, broken)


# What does not start


def test_a_port_in_use(model_file):
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in refused(model_file, "--port", port)


def test_a_place_that_is_not_this_machine(model_file):
    assert "no such address" in refused(model_file, "--host", "no.such.host.invalid")
    assert "cannot be had" in refused(model_file, "--host", "192.0.2.1")


def test_files_that_are_no_model_of_this_version(model_file, tmp_path):
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"a": 1}))
    assert "is a pickle" in refused(tmp_path / "p.pt", "--port", 0)
    newer = rewritten(model_file, lambda content: content.update(format_version=99), tmp_path)
    assert "format version 99" in refused(newer, "--port", 0)
    assert "absent.safetensors" in refused(tmp_path / "absent.safetensors", "--port", 0)
    assert "--max-mb" in refused(model_file, "--max-mb", 0)


def test_a_missing_package_is_named_with_the_command(model_file, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "uvicorn" else find(name, *more)
    )
    message = refused(model_file)
    assert "uvicorn" in message
    assert "python -m pip install 'earsight[serve]'" in message


# What stops


def test_the_verb_serves_and_lets_what_is_in_flight_end(model_file):
    process = subprocess.Popen(
        [sys.executable, "-m", "earsight", "serve", str(model_file), "--port", "0", "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line
        file = io.BytesIO()
        soundfile.write(file, tone(), RATE, format="WAV")
        body = file.getvalue()
        half, go = threading.Event(), threading.Event()

        def slowly():
            yield body[:1000]
            half.set()
            assert go.wait(30)
            yield body[1000:]

        answers = []
        with httpx.Client(base_url=address.group(), timeout=30, trust_env=False) as client:
            assert client.get("/healthz").status_code == 200
            thread = threading.Thread(target=lambda: answers.append(client.post("/predict", content=slowly())))
            thread.start()
            assert half.wait(30)
            children = [
                int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            ]
            assert len(children) == 2
            process.send_signal(signal.SIGTERM)
            go.set()
            thread.join(30)
        assert answers[0].status_code == 200
        assert process.wait(30) == 0
        assert process.stderr.read() == "earsight: stopped; what was in flight has been answered\n"
        for pid in children:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_limits_are_numbers_above_zero():
    from earsight.errors import ServiceError
    from earsight.serving.limits import Limits

    for field in dataclasses.fields(Limits):
        with pytest.raises(ServiceError, match=field.name):
            Limits(**{field.name: -1})
