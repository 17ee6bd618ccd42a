"""A result that is not finite is an error of that sound, and never a number that is printed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earsight.errors import ModelError
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.clips import predict_clips
from earsight.models.modelfile import load, save
from test_cli import invoke


@pytest.fixture(scope="module")
def broken(trained, tmp_path_factory) -> Path:
    """A model file whose weights are finite and whose logits are not."""
    card, model = load(trained / "model.safetensors")
    state = model.state_dict()
    path = tmp_path_factory.mktemp("broken") / "model.safetensors"
    save(path, state=state | {"fc.weight": state["fc.weight"].sign() * 3e38}, card=card)
    return path


@pytest.fixture
def sounds(synthetic) -> list[str]:
    return [str(synthetic.file(row)) for row in range(3)]


def test_no_array_is_handed_out(broken):
    classifier = load_classifier(broken)
    wave = np.random.default_rng(0).normal(0, 0.1, (2, classifier.samples)).astype(np.float32)
    for ask in (classifier.logits, classifier.probabilities, classifier.outputs):
        with pytest.raises(ModelError, match="2 of 2 sounds: the model gives NaN or infinity"):
            ask(wave)
    with pytest.raises(ModelError, match="the sound: the model gives NaN"):
        classifier.predict(wave[0], rate=classifier.sample_rate_hz)
    found = classifier.predict_waves(wave, name="a.wav")
    assert [(one.path, one.classes, one.novelty, bool(one.error)) for one in found] == [("a.wav", (), None, True)] * 2


def test_only_the_sound_without_a_result_has_an_error(trained, sounds, monkeypatch):
    classifier = load_classifier(trained / "model.safetensors")
    whole = list(classifier.predict_files(sounds))
    original = Classifier.raw_of

    def spoilt(self, spectrograms):
        found = original(self, spectrograms)
        found.logits[1, 0] = np.nan
        return found

    monkeypatch.setattr(Classifier, "raw_of", spoilt)
    found = list(predict_clips(classifier, sounds))
    assert (found[0], found[2]) == (whole[0], whole[2])
    assert (found[1].path, found[1].classes) == (sounds[1], ())
    assert "NaN" in found[1].error


def test_events_end_in_the_error(broken, sounds):
    classifier = load_classifier(broken)
    windows = list(classifier.recording(sounds[0]))
    assert all(one.found.error for one in windows)
    with pytest.raises(ModelError, match=r"at 0\.00 s: the model gives NaN"):
        list(classifier.events(sounds[0]))


@pytest.mark.parametrize("how", [(), ("--hop", 0.5), ("--hop", 0.5, "--rows", "windows")])
def test_json_and_csv_rows(broken, sounds, how):
    result = invoke("predict", broken, *sounds, *how, "--json", "--threads", 1, code=1)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
    assert {row["path"] for row in rows} == set(sounds)
    assert all("the model gives NaN or infinity" in row["error"] for row in rows)
    assert "3 of the files could not be read" in result.stderr
    text = invoke("predict", broken, *sounds, *how, "--csv", "--threads", 1, code=1).stdout
    table = list(csv.DictReader(text.splitlines(), strict=True))
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    assert not any(row["label"] for row in table)
    assert all(row["error"] for row in table)


def test_tables_that_have_no_place_for_it_say_so_beside(broken, sounds):
    how = ("--hop", 0.5, "--rows", "windows", "--format", "audacity", "--threads", 1)
    result = invoke("predict", broken, sounds[0], *how, code=1)
    assert result.stdout == ""
    assert "without a prediction: the model gives NaN" in result.stderr


@pytest.mark.parametrize("how", [(), ("--hop", 1), ("--hop", 1, "--rows", "windows")])
def test_json_where_nothing_could_be_read(trained, tmp_path, how):
    (tmp_path / "bad.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    names = [tmp_path / name for name in ("bad.wav", "empty.wav", "absent.wav")]
    result = invoke("predict", trained / "model.safetensors", *names, *how, "--json", "--threads", 1, code=1)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(name) for name in names]
    assert all(row["error"] for row in rows)


def test_a_network_that_cannot_take_its_spectrograms(trained, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Kernel size can't be greater than actual input size")

    monkeypatch.setattr("earsight.inference.model.folded", refuse)
    classifier = load_classifier(trained / "model.safetensors")
    with pytest.raises(ModelError, match=r"test_resnet cannot be run on spectrograms of 32 x 32 \(Kernel size"):
        classifier.logits(np.zeros((1, classifier.samples), np.float32))
