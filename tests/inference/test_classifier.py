"""Training and serving are one path: the model file alone says of the audio files what the store's spectrograms did."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import warnings

import numpy as np
import pytest
import soundfile
import torch
from scipy.special import softmax

import earsight
from earsight.data.layouts import open_dataset
from earsight.errors import AudioError, DataError, ModelError, SoundWarning
from earsight.evaluation.summary import read_predictions
from earsight.features.stft import SimdStft
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.predictions import Prediction
from earsight.models.fast.compiled import CompiledNetwork
from earsight.recipe import load_recipe
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial


@pytest.fixture(scope="module")
def classifier(trained):
    return load_classifier(trained / "model.safetensors")


def _as_array(classifier: Classifier, found: list[Prediction]) -> np.ndarray:
    """Probabilities (files, classes) in the order of the classes."""
    return np.array(
        [[dict(zip(p.classes, p.probabilities, strict=True))[c] for c in classifier.classes] for p in found]
    )


def _assert_same_as_the_store(folder, dataset, tmp_path):
    # The model file alone, elsewhere: nothing beside it may be needed.
    alone = shutil.copy(folder / "model.safetensors", tmp_path / "moved.safetensors")
    classifier = load_classifier(alone)
    stored = read_predictions(folder / "predictions.npz")
    found = list(classifier.predict_files([dataset.root / clip for clip in stored.clips]))
    assert [p.error for p in found] == [""] * len(found)
    wanted = softmax(stored.logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(_as_array(classifier, found), wanted, atol=1e-3, rtol=0)
    assert [p.label for p in found] == [classifier.classes[i] for i in stored.logits.argmax(axis=1)]
    return wanted


def test_the_model_file_alone_says_what_the_store_did(trained, synthetic, tmp_path):
    wanted = _assert_same_as_the_store(trained, synthetic, tmp_path)
    assert wanted.std(axis=0).max() > 0.01, "a model that says the same of every sound proves nothing"


def test_kernels_change_no_more_than_rounding(trained, synthetic):
    plain, fast = (load_classifier(trained / "model.safetensors") for _ in range(2))
    assert fast.use_kernels() is fast
    assert [type(power) for power in fast.front_end.kernels] == [SimdStft] * 3
    assert isinstance(fast._network(fast.spectrograms(torch.zeros(1, fast.samples))), CompiledNetwork)
    waves = np.stack([fast.waveform(synthetic.file(row))[0] for row in range(5)])
    np.testing.assert_allclose(fast.logits(waves), plain.logits(waves), atol=1e-3)
    spectrograms = fast.spectrograms(torch.from_numpy(waves))
    np.testing.assert_allclose(spectrograms, plain.spectrograms(torch.from_numpy(waves)), atol=1e-4)
    assert not torch.equal(spectrograms, plain.spectrograms(torch.from_numpy(waves)))  # the kernels were at work


@pytest.mark.parametrize("kernels_first", [True, False])
def test_reduced_precision_is_of_the_ffts_too(trained, synthetic, monkeypatch, kernels_first):
    monkeypatch.setattr("earsight.inference.model.why_not_reduced", lambda: None)
    plain, reduced = (load_classifier(trained / "model.safetensors") for _ in range(2))
    steps = [reduced.use_kernels, lambda: reduced.use_compiled_network(reduced=True)]
    for step in steps if kernels_first else reversed(steps):
        step()
    assert [power._tables["window"].dtype for power in reduced.front_end.kernels] == [torch.float32] * 3
    waves = torch.from_numpy(np.stack([reduced.waveform(synthetic.file(row))[0] for row in range(5)]))
    torch.testing.assert_close(reduced.spectrograms(waves), plain.spectrograms(waves), atol=1e-2, rtol=0)
    reduced.use_compiled_network()
    assert [power._tables["window"].dtype for power in reduced.front_end.kernels] == [torch.float64] * 3


@pytest.mark.real_audio
def test_the_same_on_real_clips_with_the_features_of_the_default_recipe(esc10, tmp_path):
    # A part of the clips: every fold keeps every class, and a fold is held out whole.
    rows = (esc10 / "meta" / "esc50.csv").read_text().splitlines()
    kept = [rows[0], *rows[1::4]]
    (tmp_path / "set" / "meta").mkdir(parents=True)
    (tmp_path / "set" / "meta" / "esc50.csv").write_text("\n".join(kept))
    (tmp_path / "set" / "audio").symlink_to(esc10 / "audio")
    dataset = open_dataset(tmp_path / "set")
    overrides = ["backbone.name=test_resnet", "backbone.weights=none", "training.epochs=1"]
    ready = prepare(dataset, load_recipe(overrides=[*overrides, "augment.pitch_semitones=0"]), cache=tmp_path)
    assert ready.recipe.features.rate == 44100
    folder = run_trial(ready, Trial(fold=1, seed=0), run=tmp_path / "run", device=torch.device("cpu"))
    _assert_same_as_the_store(folder, dataset, tmp_path)


def test_load_is_the_short_way(trained, synthetic):
    classifier = earsight.load(str(trained / "model.safetensors"))
    found = classifier.predict(synthetic.file(0))
    assert found.label == found.classes[0]
    assert sorted(found.classes) == sorted(synthetic.classes)
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-5)
    assert list(found.probabilities) == sorted(found.probabilities, reverse=True)
    assert found.path == str(synthetic.file(0))
    with pytest.raises(ModelError, match="no such file"):
        earsight.load("absent.safetensors")


@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
def test_batches_of_any_size_say_the_same(classifier, synthetic, tmp_path, batch_size):
    files = [synthetic.file(row) for row in range(0, 40, 3)]
    files.insert(2, tmp_path / "absent.wav")
    files.append(tmp_path / "absent.wav")
    found = list(classifier.predict_files(files, batch_size=batch_size))
    assert [p.path for p in found] == [str(file) for file in files]
    assert [bool(p.error) for p in found] == [file.name == "absent.wav" for file in files]
    good = [p for p in found if not p.error]
    alone = [classifier.predict(file) for file in files if file.name != "absent.wav"]
    np.testing.assert_allclose(_as_array(classifier, good), _as_array(classifier, alone), atol=1e-5, rtol=0)


def test_rows_come_while_the_names_do(classifier, synthetic):
    """Constant memory: names without end give rows, and little more is read than was given out."""
    read = []

    def names():
        for row in itertools.cycle(range(20)):
            read.append(row)
            yield synthetic.file(row)

    rows = classifier.predict_files(names(), batch_size=4)
    assert [next(rows).path for _ in range(6)] == [str(synthetic.file(row)) for row in range(6)]
    assert len(read) <= 4 * (2 + 2 * (os.cpu_count() or 1))
    rows.close()


def test_files_without_any_good_one(classifier, tmp_path):
    found = list(classifier.predict_files([tmp_path / "a.wav", tmp_path / "b.wav"]))
    assert [(p.label, p.classes, p.probabilities) for p in found] == [("", (), ())] * 2
    assert list(classifier.predict_files([])) == []


def test_an_unreadable_file_alone_is_an_error(classifier, tmp_path):
    (tmp_path / "x.wav").write_text("hello")
    with pytest.raises(AudioError, match="a text file"):
        classifier.predict(tmp_path / "x.wav")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("rate", [22050, 44100, 8000])
@pytest.mark.parametrize("channels", [1, 2])
def test_arrays_say_what_their_files_do(classifier, synthetic, tmp_path, dtype, rate, channels):
    import soxr

    plain, native = soundfile.read(synthetic.file(7), dtype="float32")
    wave = soxr.resample(plain, native, rate).astype(dtype)
    if channels == 2:
        wave = np.stack([wave, 0.5 * wave], axis=1)
    soundfile.write(tmp_path / "x.wav", wave.astype(np.float64), rate, subtype="FLOAT")
    ours = _as_array(classifier, [classifier.predict(wave, rate=rate)])
    np.testing.assert_allclose(ours, _as_array(classifier, [classifier.predict(tmp_path / "x.wav")]), atol=1e-4)
    assert classifier.predict(wave, rate=rate).path == ""


def test_a_rate_beside_a_file_and_masked_samples_are_refused(classifier, synthetic):
    path = synthetic.file(7)
    with path.open("rb") as file:
        for sound in (str(path), path, path.read_bytes(), file):
            with pytest.raises(DataError, match=r"rate=22050 was given with a sound file.*: leave rate out"):
                classifier.predict(sound, rate=22050)
    wave, rate = soundfile.read(path, dtype="float32")
    masked = np.ma.masked_greater(wave, np.sort(wave)[-10])
    with pytest.raises(DataError, match=r"a masked array, 9 of whose values are masked.*filled\(0\)"):
        classifier.predict(masked, rate=rate)
    found, same = (classifier.predict(one, rate=rate) for one in (np.ma.array(wave), wave))  # masks nothing
    np.testing.assert_array_equal(_as_array(classifier, [found]), _as_array(classifier, [same]))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_orientation_and_type_says_the_same(classifier, synthetic, tmp_path, channels):
    plain, rate = soundfile.read(synthetic.file(7), dtype="int16")
    shares = np.array([1.0, 0.5, -0.25])[:channels]
    wave = (plain[:, None] * shares).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", wave, rate, subtype="PCM_16")
    expected = classifier.predict(tmp_path / "x.wav")
    floats = (wave / 32768).astype(np.float32)
    ways = [
        *(wave, wave.T, wave.astype(">i2"), wave.astype(np.int32) << 16, np.asfortranarray(wave)),
        *(floats, floats.T, floats.astype(np.float64), floats[::-1][::-1], torch.from_numpy(floats)),
        *(torch.from_numpy(wave.T.copy()), torch.from_numpy(floats).requires_grad_()),
        *([wave[:, 0], torch.from_numpy(floats[:, 0]), floats[:, 0].tolist()] if channels == 1 else []),
    ]
    for way in ways:
        found = classifier.predict(way, rate=rate)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        assert found.classes == expected.classes
    content = (tmp_path / "x.wav").read_bytes()
    for given in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        assert classifier.predict(given).probabilities == expected.probabilities
    with (tmp_path / "x.wav").open("rb") as file:
        found = classifier.predict(file)
    assert found.probabilities == expected.probabilities
    assert found.path == str(tmp_path / "x.wav")
    with (tmp_path / "x.wav").open("rb") as file:
        file.read(44)  # somebody has looked at its header
        assert classifier.predict(file).probabilities == expected.probabilities


@pytest.mark.parametrize(("scale", "warned"), [(3000, True), (32767, True), (2.0, False), (90.0, False)])
def test_floats_at_the_scale_of_integers_are_named(classifier, synthetic, scale, warned):
    plain, rate = soundfile.read(synthetic.file(7), dtype="float64")
    wave = plain * scale / np.abs(plain).max()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        classifier.predict(wave, rate=rate)
        classifier.predict(np.round(wave).astype(np.int16), rate=rate)
    texts = [str(one.message) for one in said if one.category is SoundWarning]
    expected = f"the array holds floats up to {scale:.4g}, whose full scale is 1: if they were 16-bit samples, divide"
    assert [text[: len(expected)] for text in texts] == [expected] * warned


def test_a_wave_in_one_with_its_rate_is_refused_with_the_way_out(classifier):
    wave = np.zeros(8000, dtype=np.float32)
    for given in ((wave, 16000), (torch.from_numpy(wave), 16000), {"array": wave, "sampling_rate": 16000}):
        with pytest.raises(DataError, match=r"a wave together with its rate; .*predict\(wave, rate=rate\)"):
            classifier.predict(given)


def test_bytes_and_files_that_are_no_sound(classifier, tmp_path):
    with pytest.raises(AudioError, match="the bytes: a text file"):
        classifier.predict(b"hello")
    with pytest.raises(AudioError, match="the bytes: an empty file"):
        classifier.predict(b"")
    (tmp_path / "x.txt").write_text("hello")
    with (tmp_path / "x.txt").open() as file, pytest.raises(DataError, match="opened as text; open it with 'rb'"):
        classifier.predict(file)


def test_arrays_of_another_length(classifier, synthetic):
    """Longer ones are heard whole, or cut at the clip's length; shorter ones are padded, as files are."""
    plain, rate = soundfile.read(synthetic.file(3), dtype="float32")
    whole = classifier.predict(plain, rate=rate)
    longer = np.concatenate([plain, np.ones_like(plain)])
    assert classifier.predict(longer, rate=rate, first=True) == whole
    assert classifier.predict(longer, rate=rate).windows == 2
    half = plain[: len(plain) // 2]
    padded = classifier.predict(np.concatenate([half, np.zeros_like(half)]), rate=rate)
    assert classifier.predict(half, rate=rate).probabilities == pytest.approx(padded.probabilities, abs=1e-6)


@pytest.mark.parametrize(
    ("wave", "rate", "words"),
    [
        (np.ones(100, dtype=np.int64), 22050, "int64 .*full scale is not known"),
        (np.ones(100, dtype=bool), 22050, "bool"),
        (np.ones((16, 8), dtype=np.float32), 22050, "cannot tell samples from channels"),
        (np.ones((9, 100), dtype=np.float32), 22050, "cannot tell samples from channels"),
        (np.ones((2, 16), dtype=np.float32), 22050, "cannot tell samples from channels"),
        (np.ones(100, dtype=np.float32), "44100", "rate is '44100', a str; expected a number"),
        (np.ones(100, dtype=np.float32), True, "rate is True, a bool"),
        (np.ones(100, dtype=np.float32), float("nan"), "rate is nan"),
        (["a.wav", "b.wav"], None, r"a list of 2 was given.*predict_files\(paths\)"),
        ([[0.0, 1.0], [0.0]], 22050, "a list that is no array"),
        (None, None, "the sound is None; predict takes a path"),
        ({"a": 1}, None, "the sound is {'a': 1}; predict takes"),
        (np.ones(100, dtype=np.float32), None, "without its rate"),
        (np.ones(100, dtype=np.float32), 0, "rate is 0"),
        (np.ones(100, dtype=np.float32), -8000, "rate is -8000"),
        (np.ones(0, dtype=np.float32), 22050, r"\(0,\)"),
        (np.ones((2, 3, 4), dtype=np.float32), 22050, r"\(2, 3, 4\)"),
        (np.array([0.0, np.nan], dtype=np.float32), 22050, "not finite"),
        (np.array([0.0, np.inf], dtype=np.float32), 22050, "not finite"),
        (np.array([0.0, -1e30]), 22050, r"up to 1e\+30"),
    ],
)
def test_arrays_that_are_no_sound(classifier, wave, rate, words):
    with pytest.raises(DataError, match=words):
        classifier.predict(wave, rate=rate)


@pytest.mark.parametrize("method", ["logits", "probabilities", "outputs", "predict_waves"])
def test_batches_that_do_not_fit_are_refused(classifier, method):
    size = classifier.samples
    ask = getattr(classifier, method)
    for wave, words in (
        (np.zeros(size, dtype=np.float32), rf"\({size},\); expected floats \(batch, {size}\)"),
        (np.zeros((2, size - 1), dtype=np.float32), rf"\(2, {size - 1}\)"),
        (np.zeros((0, size), dtype=np.float32), rf"\(0, {size}\)"),
        (np.zeros((1, size), dtype=np.int16), "int16"),
        (np.full((1, size), np.nan, dtype=np.float32), "not finite"),
        (np.full((1, size), 1e12, dtype=np.float32), r"up to 1e\+12"),
    ):
        with pytest.raises(DataError, match=words):
            ask(wave)


def test_a_batch_may_have_any_float_type_and_order(classifier):
    waves = np.random.default_rng(0).standard_normal((2, classifier.samples))
    expected = classifier.probabilities(waves.astype(np.float32))
    np.testing.assert_array_equal(classifier.probabilities(waves), expected)
    np.testing.assert_array_equal(classifier.probabilities(np.asfortranarray(waves.astype(np.float32))), expected)


def test_spectrograms_carry_gradients_to_the_wave(classifier):
    waves = torch.randn(2, classifier.samples, generator=torch.Generator().manual_seed(0), requires_grad=True)
    classifier.model(classifier.spectrograms(waves))[:, 0].sum().backward()
    assert waves.grad is not None
    assert waves.grad.abs().sum() > 0


def test_the_calibrated_temperature_is_used(classifier, synthetic):
    from dataclasses import replace

    wave, _ = soundfile.read(synthetic.file(0), dtype="float32")
    warm = Classifier(replace(classifier.card, temperature=4.0), classifier.model)
    logits = classifier.logits(wave[None])
    np.testing.assert_allclose(warm.probabilities(wave[None]), softmax(logits / 4, axis=1), atol=1e-6)
    np.testing.assert_allclose(classifier.probabilities(wave[None]), softmax(logits, axis=1), atol=1e-6)
