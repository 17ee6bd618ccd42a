"""One channel, one band and bats' rates: whoever is asked gives the numbers of the same wave."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
import soundfile
from at_port import serving

from earsight import __version__
from earsight.data.layouts import open_dataset
from earsight.inference.classifier import load_classifier
from earsight.inference.clips import predict_clips
from earsight.inference.explanation import explain
from earsight.inference.scoring import evaluate
from earsight.models.backbones import build
from earsight.models.card import ModelCard
from earsight.models.modelfile import load, save
from earsight.onnx.session import OnnxModel
from earsight.onnx.tracing import as_bytes, graphs_of, joined
from earsight.recipe import load_recipe
from test_cli import invoke

LIMITS = {"ordinary": (8000, 1000, 3000), "bats": (256000, 20000, 100000)}


@pytest.fixture(scope="module", params=LIMITS)
def given(request, tmp_path_factory):
    """A model of one channel and a band, and two stereo sounds of half a second, whose left channels are another's."""
    rate, low, high = LIMITS[request.param]
    settings = ("backbone.name=test_resnet", "backbone.weights=none", "features.bands=32", "features.frames=32")
    band = (f"features.fmin_hz={low}", f"features.fmax_hz={high}", "features.channel=right")
    recipe = load_recipe(overrides=[*settings, *band])
    card = ModelCard(
        classes=("fm", "steady"),
        recipe=recipe.resolve(sample_rate_hz=rate, clip_seconds=0.5, frames=32),
        mean=(-6.0, -6.0, -6.0),
        std=(3.0, 3.0, 3.0),
        trained_on={"dataset": "nothing"},
        calibration={"sets": {"method": "lac", "threshold": 0.9, "coverage": 0.9, "ci95": [0.5, 1]}, "clips": 9}
        | {"folds": [1], "own_held_out": False},
    )
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "model.safetensors"
    save(path, state=build("test_resnet", classes=2, weights="none", seed=1).state_dict(), card=card)
    t, draws = np.arange(rate // 2) / rate, np.random.default_rng(0)
    waves = {}
    for label, sweep in (("fm", 0.5), ("steady", 0.0)):
        middle = (low + high) / 2
        right = 0.2 * np.sin(2 * np.pi * (middle * t + sweep * middle * (t**2 - t / 2)))
        right += 0.01 * draws.standard_normal(len(t))
        left = right[::-1] * np.linspace(2, 0, len(t)) + 0.2 * draws.standard_normal(len(t))
        (folder / "sounds" / label).mkdir(parents=True)
        where = folder / "sounds" / label / "0.wav"
        soundfile.write(where, np.stack([left, right], axis=1), rate, subtype="FLOAT")
        waves[label] = where, left.astype(np.float32), right.astype(np.float32)
    return path, folder / "sounds", waves, rate


def test_every_way_of_asking_gives_the_numbers_of_the_right_channel(given):
    model, sounds, waves, rate = given
    classifier = load_classifier(model)
    network = OnnxModel(as_bytes(joined(graphs_of(*load(model)), load(model)[0], version=__version__)))
    losses = []
    with serving(classifier) as (client, _):
        for label, (path, left, right) in waves.items():
            expected = classifier.probabilities(right[None])[0]
            other, mean = (classifier.probabilities(one[None])[0] for one in (left, (left + right) / 2))
            assert min(np.abs(other - expected).max(), np.abs(mean - expected).max()) > 1e-4
            losses.append(-np.log(expected[classifier.classes.index(label)]))
            same = pytest.approx(dict(zip(classifier.classes, expected.tolist(), strict=True)), abs=1e-5)
            stereo = np.stack([left, right])
            asked = [path, BytesIO(path.read_bytes()), path.read_bytes()]
            assert classifier.left_out == []
            for found in (*map(classifier.predict, asked), classifier.predict(stereo, rate=rate)):
                assert dict(zip(found.classes, found.probabilities, strict=True)) == same
            assert dict(zip(classifier.classes, network(right[None])["probabilities"][0].tolist(), strict=True)) == same
            (found,) = predict_clips(classifier, [path])
            assert dict(zip(found.classes, found.probabilities, strict=True)) == same
            row = json.loads(invoke("predict", model, path, "--json", "--top", 2).stdout)
            assert (row["classes"], "left_out" in row) == (same, False)
            answer = client.post("/predict", content=path.read_bytes()).json()
            assert {one["label"]: one["probability"] for one in answer["classes"]} == same
            about = explain(classifier, path, label=label, curves=False)
            assert about.probability == pytest.approx(float(expected[classifier.classes.index(label)]), abs=1e-5)
    scored = evaluate(classifier, open_dataset(sounds, folds=None, testing=True))
    assert scored["confidence"]["log_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
