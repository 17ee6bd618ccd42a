"""An explanation is complete, audible, in seconds and hertz, and refuses what cannot be explained in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

import earsight.analysis.attribution as attribution_module
from earsight.errors import AudioError, DataError, ModelError
from earsight.features.filterbanks import FLOOR
from earsight.inference.classifier import Classifier, load_classifier
from earsight.models.backbones import build
from earsight.models.card import ModelCard
from earsight.models.ensemble import Ensemble, Member
from earsight.recipe import Recipe

RATE = 8000


def make_classifier(*settings: str, model: torch.nn.Module | None = None, **card: object) -> Classifier:
    """A network with random weights behind a small front end."""
    small = ["features.sample_rate_hz=8000", "features.clip_seconds=0.8", "features.frames=64", "features.bands=64"]
    recipe = Recipe().override([*small, "backbone.name=test_resnet", "backbone.weights=none", *settings])
    windows = len(recipe.features.windows_ms)
    about = {"mean": (-6.0,) * windows, "std": (4.0,) * windows} | card
    model = model or build("test_resnet", classes=3, weights="none", seed=2)
    return Classifier(ModelCard(classes=("cat", "dog", "rain"), recipe=recipe, **about), model)  # type: ignore[arg-type]


def chirp(seconds: float = 0.8, seed: int = 0) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    wave = 0.4 * np.sin(2 * np.pi * (300 + 1500 * times) * times) * (times > 0.2)
    return (wave + 0.01 * np.random.default_rng(seed).standard_normal(len(times))).astype(np.float32)


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture(scope="module")
def found(classifier):
    return classifier.explain(chirp(), rate=RATE)


def test_it_is_about_the_most_probable_class_and_complete(classifier, found):
    said = classifier.predict(chirp(), rate=RATE)
    assert (found.label, found.top_label, found.path) == (said.label, said.label, "")
    assert found.probability == pytest.approx(said.probabilities[0], abs=1e-6)
    target = classifier.classes.index(found.label)
    logits = classifier.logits(np.stack([chirp(), np.zeros(6400, dtype=np.float32)]))[:, target]
    assert found.attribution.difference == pytest.approx(float(logits[0] - logits[1]), rel=1e-3)
    assert abs(found.attribution.total - (logits[0] - logits[1])) <= 0.011 * abs(logits[0] - logits[1])
    assert found.attribution.values.shape == found.spectrogram.shape == (3, 64, 64)
    assert found.merged.shape == found.mask.shape == found.grad_cam.shape == (64, 64)
    assert found.merged.sum() == pytest.approx(found.attribution.total)
    assert found.edges.shape == (3, 65)
    assert (np.diff(found.band_hz) > 0).all()


def test_the_sounds_add_up_and_are_classified_again(classifier, found):
    np.testing.assert_allclose(found.used + found.unused, chirp(), atol=1e-7)
    for wave, share in ((found.used, found.used_probability), (found.unused, found.unused_probability)):
        again = classifier.predict(wave, rate=RATE)
        assert dict(zip(again.classes, again.probabilities, strict=True))[found.label] == pytest.approx(share, abs=1e-6)
    assert found.used_energy == pytest.approx(np.square(found.used).sum() / np.square(chirp()).sum(), rel=1e-4)


def test_a_class_can_be_asked_for(classifier, found):
    other = next(name for name in classifier.classes if name != found.label)
    asked = classifier.explain(chirp(), rate=RATE, label=other, curves=False)
    assert (asked.label, asked.top_label) == (other, found.label)
    assert asked.probability < found.probability
    assert asked.curves is None
    assert asked.verdict == ""
    assert np.corrcoef(asked.attribution.values.ravel(), found.attribution.values.ravel())[0, 1] < 0.9


def test_the_numbers_go_into_json_and_the_arrays_are_named(found):
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["completeness"]["error"] <= 0.01
    assert content["completeness"]["steps"] == found.attribution.steps
    assert set(content["faithfulness"]["deletion"]["area"]) == {"attribution", "positive part", "Grad-CAM", "loudest"}
    assert content["faithfulness"]["verdict"] == found.verdict
    assert set(found.arrays()) == {
        *("spectrogram", "attribution", "merged", "grad_cam", "mask", "column_edges_seconds", "band_hz")
    }


def test_the_same_seed_gives_the_same_explanation(classifier, found):
    again = classifier.explain(chirp(), rate=RATE)
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())
    for name, values in again.arrays().items():
        np.testing.assert_array_equal(values, found.arrays()[name])


def test_a_file_shorter_than_a_clip_keeps_its_length(classifier, tmp_path):
    soundfile.write(tmp_path / "x.wav", chirp(0.5), RATE, subtype="FLOAT")
    short = classifier.explain(tmp_path / "x.wav", curves=False)
    assert len(short.used) == len(short.unused) == len(short.wave) == 4000
    assert short.clip_seconds == pytest.approx(0.8)
    assert short.path == str(tmp_path / "x.wav")
    # The network gets zeros after the end: nothing there has an attribution.
    assert np.abs(short.merged[:, 46:]).max() < 1e-6 < np.abs(short.merged[:, :40]).max()


def test_a_longer_sound_is_cut_as_predict_cuts_it(classifier):
    longer = np.concatenate([chirp(), chirp(seed=3)])
    cut = classifier.explain(longer, rate=RATE, curves=False)
    assert len(cut.wave) == 6400
    np.testing.assert_array_equal(cut.wave, chirp())


def test_one_window_is_one_channel():
    single = make_classifier("features.windows_ms=[25]", "features.hops_ms=[10]")
    one = single.explain(chirp(), rate=RATE)
    assert one.attribution.values.shape == (1, 64, 64)
    assert one.attribution.complete
    triple = make_classifier("features.windows_ms=[25,25,25]", "features.hops_ms=[10,10,10]")
    three = triple.explain(chirp(), rate=RATE, curves=False)
    # Three equal channels are the same input; their attributions together are that of the one.
    assert three.label == one.label
    np.testing.assert_allclose(three.attribution.values.sum(axis=0), one.attribution.values[0], atol=1e-4)


@pytest.mark.parametrize("representation", ["mfcc", "log_spectrogram", "gammatone"])
def test_every_representation_is_explained_in_bands_of_frequency(representation):
    other = make_classifier(f"features.representation={representation}")
    found = other.explain(chirp(), rate=RATE, curves=False)
    with torch.no_grad():
        bands = other.front_end.band_energies(torch.from_numpy(chirp()[None]))[0, 0].numpy()
    np.testing.assert_allclose(found.spectrogram, bands, atol=1e-5)
    assert found.attribution.complete
    np.testing.assert_allclose(found.used + found.unused, chirp(), atol=1e-7)


def test_an_ensemble_is_explained_as_the_one_network_that_it_is():
    members = [
        Member(build("test_resnet", classes=3, weights="none", seed=seed).eval(), (-6.0,) * 3, (4.0,) * 3, 1.3, 0.5)
        for seed in (2, 3)
    ]
    together = make_classifier(model=Ensemble(members), mean=(0.0,) * 3, std=(1.0,) * 3)
    found = together.explain(chirp(), rate=RATE)
    assert found.attribution.complete
    # Its scores are log probabilities.
    assert found.attribution.score == pytest.approx(np.log(found.probability), abs=1e-4)
    assert found.grad_cam.max() > 0
    assert found.curves is not None


def test_a_label_that_the_model_does_not_know(classifier):
    with pytest.raises(DataError, match=r"label dgo: the model does not know it; did you mean 'dog'\?"):
        classifier.explain(chirp(), rate=RATE, label="dgo")
    with pytest.raises(DataError, match="its classes are cat, dog, rain"):
        classifier.explain(chirp(), rate=RATE, label="helicopter")


def test_a_sound_shorter_than_a_window(classifier, tmp_path):
    soundfile.write(tmp_path / "x.wav", chirp()[:799], RATE)
    with pytest.raises(AudioError, match=r"x\.wav: lasts 99\.9 ms, less than one window of 100 ms") as caught:
        classifier.explain(tmp_path / "x.wav")
    assert "\n" not in str(caught.value)
    soundfile.write(tmp_path / "y.wav", chirp()[-800:], RATE)
    assert classifier.explain(tmp_path / "y.wav", curves=False).attribution.complete


def test_silence_and_what_is_no_sound(classifier, tmp_path):
    with pytest.raises(AudioError, match="silent, so there is nothing"):
        classifier.explain(np.zeros(6400, dtype=np.float32), rate=RATE)
    (tmp_path / "x.wav").write_text("hello")
    with pytest.raises(AudioError, match="a text file"):
        classifier.explain(tmp_path / "x.wav")
    with pytest.raises(DataError, match="without its rate"):
        classifier.explain(chirp())


@pytest.mark.parametrize("quiet", [0.0, 1e-7])
def test_a_silent_window_is_not_the_one_that_is_explained(classifier, quiet):
    silent = np.full(6400, quiet, dtype=np.float32)
    sound = np.concatenate([silent, chirp(), silent])
    shares = {name: [] for name in classifier.classes}
    for wave in (silent, chirp()):
        for name, share in zip(classifier.classes, classifier.probabilities(wave[None])[0], strict=True):
            shares[name].append(share)
    assert any(still > loud for still, loud in shares.values()), "of some class silence has the higher share"
    for name in classifier.classes:
        found = classifier.explain(sound, rate=RATE, label=name, curves=False)
        assert (found.begin_seconds, found.windows) == (pytest.approx(0.8), 3)


def test_one_that_is_not_complete_is_refused(classifier, monkeypatch):
    real = attribution_module.integrated_gradients

    def rough(*arguments, **keywords):
        return real(*arguments, **keywords, tolerance=1e-9)

    monkeypatch.setattr(attribution_module, "integrated_gradients", rough)
    with pytest.raises(ModelError, match=r"after 32 steps \(.* % off; 1e-07 % is asked for\); allow more") as caught:
        classifier.explain(chirp(), rate=RATE, most_steps=32)
    assert "\n" not in str(caught.value)


def test_explaining_leaves_the_classifier_as_it_was(trained, synthetic):
    fresh, used = (load_classifier(trained / "model.safetensors") for _ in range(2))
    file = synthetic.file(3)
    found = used.explain(file, curves=False)
    assert used.predict(file) == fresh.predict(file)
    assert not used.model.training
    assert all(parameter.grad is None for parameter in used.model.parameters())
    assert not [module for module in used.model.modules() if module._forward_hooks]
    assert found.spectrogram.min() >= FLOOR - 1e-4
