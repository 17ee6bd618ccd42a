"""ONNX files: their outputs and metadata, and that a wrong one is not written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import onnx
from earsight import __version__
from earsight.calibration.apply import calibrated, raw_outputs
from earsight.cli import app
from earsight.data import audio
from earsight.errors import DataError, ModelError
from earsight.inference.classifier import Classifier, load_classifier
from earsight.models.card import described, ensemble_card
from earsight.models.mahalanobis import MahalanobisStatistics, attach_statistics, statistics_of
from earsight.models.modelfile import load, save
from earsight.onnx import export, tracing
from earsight.onnx.session import ALLOWED, OnnxModel, compare, probes
from earsight.onnx.tracing import OPSET, Graphs, as_bytes, graphs_of, joined

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"


def invoke(*arguments, code=0):
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture(scope="module")
def model(trained):
    return trained / "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def graphs(model):
    card, network = load(model)
    return graphs_of(card, network)


@pytest.fixture(scope="module")
def exported(model, graphs, folder, synthetic_folder):
    """What the verb prints; tracing takes long, and was done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "graphs_of", lambda *_: graphs)
        done = invoke(model, "--out", folder / "m.onnx", "--data", synthetic_folder, "--threads", "1", "--json")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def exact(model, graphs, folder):
    """The file as it is joined here."""
    path = folder / "exact.onnx"
    path.write_bytes(as_bytes(joined(graphs, load(model)[0], version=__version__)))
    return path


@pytest.fixture(scope="module")
def classifier(model):
    return load_classifier(model)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 1000, 22049, 22050, 22051, 60000])
def test_waves_of_any_length_and_number(exact, classifier, batch, length):
    waves = np.random.default_rng(length).normal(0, 0.2, (batch, length)).astype(np.float32)
    found = OnnxModel(exact.read_bytes())(waves)
    fitted = np.stack([audio.fit(wave, classifier.samples) for wave in waves])
    assert np.abs(found["probabilities"] - classifier.probabilities(fitted)).max() < 1e-5
    assert np.abs(found["logits"] - classifier.logits(fitted)).max() < 1e-3
    assert found["probabilities"].dtype == found["logits"].dtype == np.float32


def test_what_the_file_says_of_itself(exact, model, classifier):
    found = onnx.load(exact)
    onnx.checker.check_model(found)
    assert [(one.domain, one.version) for one in found.opset_import] == [("", OPSET)]
    assert found.ir_version <= 10  # what ONNX Runtime 1.20 reads
    assert (found.producer_name, found.producer_version) == ("earsight", __version__)
    facts = {one.key: json.loads(one.value) for one in found.metadata_props}
    assert facts == {
        "earsight_version": __version__,
        "classes": list(classifier.classes),
        "sample_rate_hz": 22050,
        "clip_seconds": 1.0,
        "band_hz": [0.0, 11025.0],
        "channel": "mix",
        "windows": 1,
        "long_sounds": facts["long_sounds"],
        "card": json.loads(json.dumps(described(classifier.card))),
    }
    session = onnxruntime.InferenceSession(exact)
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("waves", ["batch", "samples"])]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [
        ("probabilities", ["batch", 10]),
        ("logits", ["batch", 10]),
    ]
    # The exporter notes where each operator came from.
    data = exact.read_bytes()
    assert not any(place.encode() in data for place in (sys.prefix, str(Path(tracing.__file__).parents[2])))


def test_the_result_of_the_verb(exported, exact, folder):
    assert exported["parity"]["probabilities"] <= ALLOWED == exported["parity"]["allowed"]
    assert exported["parity"]["clips_of_the_data_set"] == export.PARITY_CLIPS
    assert exported["bytes"] == (folder / "m.onnx").stat().st_size
    assert (folder / "m.onnx").read_bytes() == exact.read_bytes()
    assert exported["skipped"] == []


def test_int8_was_removed(model, folder):
    done = invoke(model, "--int8", "--out", folder / "small.onnx", code=2)
    assert done.stderr.startswith("earsight: --int8 was removed: it was no faster")
    assert not (folder / "small.onnx").exists()
    assert "--int8" not in invoke("--help").stdout


def _about(network, draw):
    """Let a network carry a made-up reference."""
    channels = network.get_classifier().in_features
    directions = torch.linalg.qr(torch.randn(channels, 4, generator=draw))[0].T.contiguous()
    means = torch.randn(10, channels, generator=draw) / channels**0.5
    attach_statistics(network, MahalanobisStatistics(means, directions, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.05])))


@pytest.mark.parametrize("members", [1, 2])
def test_novelty_as_a_distance(model, members, graphs, tmp_path):
    """Of a model that is calibrated to say unknown, and of an ensemble of two."""
    card, network = load(model)
    draw = torch.Generator().manual_seed(0)
    _about(network, draw)
    calibration = {"unknown": {"score": "distance", "threshold": 1.5, "rate": 0.05}}
    card = replace(card, temperature=0.7, calibration=calibration)
    if members == 2:
        other = load(model)[1]
        with torch.no_grad():
            other.get_classifier().weight.mul_(-1)
        _about(other, draw)
        two = ensemble_card([card, replace(card, mean=(-5.0,) * 3)], weights=(0.25, 0.75), trained_on={})
        networks = torch.nn.ModuleList([network, other])
        state = {f"networks.{key}": value for key, value in networks.state_dict().items()}
        references = [*statistics_of(network), *statistics_of(other)]
        save(tmp_path / "two", state=state, card=replace(two, calibration=calibration), statistics=references)
        card, network = load(tmp_path / "two")
    classifier = Classifier(card, network)
    made = Graphs(graphs.front_end, *tracing.network_graphs(card, network))
    whole = joined(made, card, version="1")
    assert json.loads({one.key: one.value for one in whole.metadata_props}["unknown_above"]) == 1.5
    sounds = dict(probes(classifier))
    found = compare(classifier, OnnxModel(as_bytes(whole)), OnnxModel(as_bytes(made.front_end)), sounds.items())
    assert found.probabilities < 1e-5
    assert found.novelty is not None
    assert found.novelty < ALLOWED
    told = [float(classifier.outputs(sounds[name]).ood_score[0]) for name in ("noise", "silence", "synthetic sounds")]
    assert np.ptp(told) > 100 * ALLOWED


@pytest.mark.parametrize("score", ["energy", "doubt"])
def test_novelty_of_the_logits_alone(model, score):
    card, _ = load(model)
    card = replace(card, temperature=0.7, calibration={"unknown": {"score": score, "threshold": -3.0, "rate": 0.05}})
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)) * 4
    expected = calibrated(card, raw_outputs(card, torch.nn.Identity(), logits))
    probabilities, novelty = tracing._Calibration(card, torch.nn.Identity())(logits, [])
    assert np.abs(probabilities.numpy() - expected.probabilities).max() < 1e-6
    assert np.abs(novelty.numpy() - expected.ood_score).max() < 1e-9


def test_a_file_that_answers_otherwise_is_not_written(model, graphs, tmp_path, monkeypatch):
    card, network = load(model)
    other = Classifier(replace(card, temperature=1.01 * card.temperature), network)
    monkeypatch.setattr(export, "load_classifier", lambda _: other)
    monkeypatch.setattr(export, "graphs_of", lambda *_: graphs)
    with pytest.raises(ModelError, match=r"not written, .* a probability differs by [\d.]+e-0[1-4]"):
        export.export_onnx(model, out=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_value_that_is_no_number_does_not_pass(classifier, exact, graphs):
    class Broken:
        def __call__(self, waves):
            return {"probabilities": np.full((len(waves), 10), np.nan, dtype=np.float32)}

    found = compare(classifier, Broken(), OnnxModel(as_bytes(graphs.front_end)), probes(classifier))
    assert found.probabilities == float("inf")
    with pytest.raises(ModelError, match="differs by inf"):
        export._check_parity(found, Path("m.onnx"))


def test_the_probes_are_of_every_kind(classifier):
    kinds = dict(probes(classifier, [np.ones(5, dtype=np.float32)]))
    lengths = {waves.shape[1] for waves in kinds.values()}
    assert min(lengths) == 1
    assert max(lengths) == 3 * classifier.samples
    assert {len(waves) for waves in kinds.values()} == {1, 2, 3, 10}
    assert not kinds["silence"].any()
    assert len({wave.tobytes() for wave in kinds["synthetic sounds"]}) == 10


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"RIFF    WAVE"), "not a safetensors file"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_is_no_model(tmp_path, write, message):
    write(tmp_path / "m.safetensors")
    done = invoke(tmp_path / "m.safetensors", code=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.onnx"))


def test_places_that_cannot_be_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "graphs_of", lambda *_: pytest.fail("worked before it looked"))
    for target, message in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "missing" / "m.onnx", "there is no folder"),
        (model, "is the model file itself"),
    ):
        done = invoke(model, "--out", target, code=2)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    monkeypatch.setattr(export.os, "access", lambda *_: False)
    with pytest.raises(ModelError, match="is read-only"):
        export.export_onnx(model, out=tmp_path / "m.onnx")


def test_a_missing_extra_is_one_line_with_the_remedy(model, monkeypatch):
    real = tracing.importlib.util.find_spec
    gone = ("onnxruntime", "onnxscript")
    monkeypatch.setattr(tracing.importlib.util, "find_spec", lambda name: None if name in gone else real(name))
    done = invoke(model, code=2)
    assert done.stderr == (
        "earsight: export to ONNX needs onnxruntime, onnxscript: python -m pip install 'earsight[onnx]'\n"
    )


def test_a_network_that_onnx_has_no_words_for(model):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x  # what it does depends on what it sees

    with pytest.raises(ModelError, match=r"the odd does not go into ONNX .*; choose another backbone"):
        tracing._graph(Odd(), (torch.ones(2, 3),), ({0: "batch"},), inputs=["x"], outputs=["y"])


def test_a_clip_that_cannot_be_read(classifier, synthetic):
    clips = (replace(synthetic.clips[0], path="gone.wav"), *synthetic.clips[1:4])
    broken = replace(synthetic, clips=clips)
    with pytest.raises(DataError, match=r"gone\.wav: no such file.*\n.*skip_bad"):
        export._clips(classifier, broken, skip_bad=False)
    waves, skipped = export._clips(classifier, broken, skip_bad=True)
    assert [len(wave) for wave in waves] == [classifier.samples] * 3
    assert skipped == ["gone.wav"]


def test_labels_that_the_model_does_not_know(model, synthetic, tmp_path):
    clips = tuple(replace(clip, label="yeti") for clip in synthetic.clips)
    with pytest.raises(DataError, match="does not know yeti"):
        export.export_onnx(model, out=tmp_path / "m.onnx", dataset=replace(synthetic, clips=clips, classes=("yeti",)))


def test_the_example_needs_neither_earsight_nor_torch(exact, synthetic, classifier, tmp_path):
    code = (
        "import runpy, sys\n"
        "for name in ('earsight', 'torch', 'timm', 'soxr', 'scipy', 'onnx'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    sound = synthetic.file(3)
    command = [sys.executable, "-c", code, str(EXAMPLE), str(exact), str(sound)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    path, answer = done.stdout.rstrip("\n").split("\t")
    expected = classifier.predict(sound)
    label, share, _ = answer.split()
    assert path == str(sound)
    assert label == expected.label
    assert float(share) == pytest.approx(100 * expected.probabilities[0], abs=0.06)


def test_the_example_asks_for_the_models_rate(exact, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "other.wav", np.zeros(100), 44100)
    command = [sys.executable, str(EXAMPLE), str(exact), str(tmp_path / "other.wav")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("is at 44100 Hz and the model takes 22050 Hz: resample it first")


@pytest.mark.parametrize("score", ["energy", "distance"])
def test_classes_that_sound_together_have_sigmoids(model, score):
    card, network = load(model)
    temperatures = tuple(np.linspace(0.5, 2, len(card.classes)).tolist())
    card = replace(
        card,
        several=True,
        temperatures=temperatures,
        thresholds={card.classes[0]: {"threshold": 0.3, "rule": "best-f1", "ci95": [0.2, 0.4]}},
        calibration={"unknown": {"score": score, "threshold": 1.0, "rate": 0.05}},
    )
    parts = graphs_of(card, network)
    data = as_bytes(joined(parts, card, version=__version__))
    classifier = Classifier(card, network)
    waves = np.random.default_rng(0).normal(0, 0.2, (2, classifier.samples)).astype(np.float32)
    found, wanted = OnnxModel(data)(waves), classifier.outputs(waves)
    np.testing.assert_allclose(found["probabilities"], wanted.probabilities, atol=1e-5)
    logits = classifier.logits(waves) / np.array(temperatures)
    np.testing.assert_allclose(found["probabilities"], 1 / (1 + np.exp(-logits)), atol=1e-5)
    np.testing.assert_allclose(found["novelty"], wanted.ood_score, rtol=1e-4)
    facts = {one.key: json.loads(one.value) for one in onnx.load_from_string(data).metadata_props}
    assert (facts["several"], facts["thresholds"]) == (True, {card.classes[0]: 0.3})
    assert not np.allclose(found["probabilities"].sum(axis=1), 1)
