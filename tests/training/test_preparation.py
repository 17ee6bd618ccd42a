"""Where a training's data lie, and that it does not matter."""

import itertools
import shutil

import numpy as np
import pytest
import soundfile
import torch

from earsight.data.layouts import open_dataset
from earsight.errors import DataError
from earsight.evaluation.summary import read_predictions
from earsight.features import row_file
from earsight.features.augment_waveform import WaveformSource
from earsight.features.device_cache import SpectrogramCache, WaveCache
from earsight.features.store import Store, store_bytes
from earsight.features.waves import Waves, waves_bytes
from earsight.recipe import Recipe
from earsight.training import preparation
from earsight.training.preparation import SHARE, prepare, resolved, source_of, wanted_source
from earsight.training.trial import Trial, check_run, run_trial

GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def predictions(run):
    return read_predictions(Trial(1, 0).folder(run) / "predictions.npz").logits


def test_a_gpu_takes_what_fits(synthetic, tiny, cpu, monkeypatch):
    recipe = resolved(synthetic, tiny())
    spectrograms, waves = store_bytes(100, recipe.features, (-1, 0, 1)), waves_bytes(100, recipe.features)
    assert waves < spectrograms

    def with_memory(size, *overrides, device=GPU):
        monkeypatch.setattr(preparation, "memory_bytes", lambda _: size / SHARE)
        return wanted_source(100, tiny(*overrides), device)

    assert with_memory(spectrograms + 1) == "spectrograms"
    assert with_memory(spectrograms - 1) == "waves"
    assert with_memory(waves + 1) == "waves"
    assert with_memory(waves - 1) == "store"
    assert with_memory(0, "training.source=waves") == "waves"
    assert with_memory(1e12, "training.source=store") == "store"
    assert with_memory(1e12, "augment.backend=waveform", "training.source=waves") == "store"
    monkeypatch.undo()
    assert wanted_source(100, recipe, cpu) == "store"


@pytest.mark.parametrize(
    ("overrides", "kept", "kind"),
    [
        ([], Store, Store),
        (["training.source=store"], Store, Store),
        (["training.source=spectrograms"], Store, SpectrogramCache),
        (["training.source=waves"], Waves, WaveCache),
        (["training.source=waves", "augment.backend=waveform"], Store, WaveformSource),
    ],
)
def test_a_recipe_names_the_source(synthetic, tiny, cpu, cache, overrides, kept, kind):
    prepared = prepare(synthetic, tiny(*overrides), cache=cache, device=cpu)
    assert type(prepared.store) is kept
    source = source_of(prepared, cpu)
    assert type(source) is kind
    if kind in (SpectrogramCache, WaveCache):
        assert source_of(prepared, cpu) is source  # for the next trial of the process
    # Without a device to train on, other verbs get the spectrograms.
    assert type(prepare(synthetic, tiny(*overrides), cache=cache).store) is Store


@pytest.mark.parametrize("kind", ["waves", "spectrograms"])
def test_a_device_cache_is_not_taken_for_other_pitch_steps(synthetic, tiny, cpu, cache, kind):
    """Waves of one and the same folder serve all pitch steps; the cache on the device holds those of its recipe."""
    for reach in (1, 2, 1):
        recipe = tiny(f"training.source={kind}", f"augment.pitch_semitones={reach}")
        prepared = prepare(synthetic, recipe, cache=cache, device=cpu)
        assert source_of(prepared, cpu).semitones == tuple(range(-reach, reach + 1))


def test_trials_give_the_same_from_every_source(synthetic, tiny, cpu, cache, tmp_path):
    found, identities = {}, set()
    for name in ("store", "spectrograms", "waves"):
        recipe = tiny(f"training.source={name}", "training.precision=float32", "training.epochs=2")
        prepared = prepare(synthetic, recipe, cache=cache, device=cpu)
        identities.add(prepared.identity)
        run_trial(prepared, Trial(1, 0), run=tmp_path / name, device=cpu)
        found[name] = predictions(tmp_path / name)
    for name in ("spectrograms", "waves"):
        np.testing.assert_allclose(found[name], found["store"], atol=0.05)
    assert len(identities) == 1  # of the same sounds: a run may go on from another source
    assert np.abs(found["store"]).max() > 0.2


def test_auto_and_its_own_choice_are_one_recipe(tiny):
    digests = {tiny(*overrides).digest for overrides in ([], ["training.source=auto"], ["training.compile=auto"])}
    assert digests == {tiny().digest}
    assert tiny("training.source=waves").digest != tiny().digest


def test_unreadable_clips_are_left_out_of_waves_too(synthetic_folder, tiny, cpu, tmp_path):
    dataset = open_dataset(shutil.copytree(synthetic_folder, tmp_path / "bad"))
    row = int(np.flatnonzero(dataset.folds == 2)[0])
    dataset.file(row).write_bytes(b"no sound at all")
    recipe = tiny("training.source=waves", "training.epochs=1")
    with pytest.raises(DataError, match="1 of 100 clips cannot be read"):
        prepare(dataset, recipe, cache=tmp_path / "cache", device=cpu)
    prepared = prepare(dataset, recipe, cache=tmp_path / "cache", device=cpu, skip_bad=True)
    source = source_of(prepared, cpu)
    asked = set()
    pick = source.pick
    source.pick = lambda rows, steps: (asked.update(rows.tolist()), pick(rows, steps))[1]
    run_trial(prepared, Trial(1, 0), run=tmp_path / "run", device=cpu)
    assert asked == set(range(100)) - {row}
    check_run(prepared.dataset, prepared.recipe, tmp_path / "run", spectrograms=prepared.identity)


def test_clips_that_do_not_open_are_found_before_any_spectrogram_is_computed(tmp_path, monkeypatch):
    for name, label in itertools.product(range(6), "ab"):
        place = tmp_path / label / f"{name}.wav"
        place.parent.mkdir(exist_ok=True)
        soundfile.write(place, np.random.default_rng(name).normal(0, 0.1, 8000), 8000)
    (tmp_path / "b" / "5.wav").write_text("no sound")
    decoded, original = [], row_file.read_clip
    monkeypatch.setattr(row_file, "read_clip", lambda *given: decoded.append(given[1]) or original(*given))
    with pytest.raises(DataError, match=r"1 of 12 clips cannot be read: b/5.wav: a text file"):
        prepare(open_dataset(tmp_path), Recipe(), cache=tmp_path / "cache")
    assert decoded == [11]  # that one alone, for damage may lie behind what is used


@pytest.mark.parametrize("fault", ["NaN", "FLAC", "behind"])
def test_what_decoding_alone_shows_is_found_before_any_spectrogram_is_computed(tmp_path, monkeypatch, fault):
    for name, label in itertools.product(range(5), "ab"):
        place = tmp_path / label / f"{name}.x"
        place = place.with_suffix(".flac" if fault == "FLAC" else ".wav")
        place.parent.mkdir(exist_ok=True)
        wave = np.random.default_rng(name + 9 * (label == "b")).normal(0, 0.1, 24000)
        wave[20000] = np.nan if (name, label) == (4, "b") and fault != "FLAC" else 0
        soundfile.write(place, wave, 8000, **({} if fault == "FLAC" else {"subtype": "FLOAT"}))
    if fault == "FLAC":
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 0x55
        place.write_bytes(content)
    decoded, original = [], row_file.read_clip
    monkeypatch.setattr(row_file, "read_clip", lambda *given: decoded.append(given[1]) or original(*given))
    recipe = Recipe().override(["augment.pitch_semitones=0", "training.windows=first"])
    if fault == "behind":  # what is not used stops nothing
        short = recipe.override(["features.clip_seconds=2"])
        assert prepare(open_dataset(tmp_path), short, cache=tmp_path / "cache").skipped == ()
        return
    with pytest.raises(DataError, match=r"1 of 10 clips cannot be read: b/4\.\w+: (NaN|damaged at 1\.)"):
        prepare(open_dataset(tmp_path), recipe, cache=tmp_path / "cache")
    assert decoded == [9]


def test_damage_behind_what_is_used_of_a_clip_stops_nothing(tmp_path):
    for name, label in itertools.product(range(5), "ab"):
        place = tmp_path / "data" / label / f"{name}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, np.random.default_rng(name + 10 * (label == "b")).normal(0, 0.1, 24000), 8000)
    cut = tmp_path / "data" / "b" / "4.wav"
    cut.write_bytes(cut.read_bytes()[:32000])  # 2 s
    recipe = Recipe().override(["features.clip_seconds=1", "augment.pitch_semitones=0", "training.windows=first"])
    assert prepare(open_dataset(tmp_path / "data"), recipe, cache=tmp_path / "cache").skipped == ()
    every = recipe.override(["training.windows=all"])
    with pytest.raises(DataError, match=r"1 of 10 clips cannot be read: b/4.wav: truncated: 16\d+ bytes"):
        prepare(open_dataset(tmp_path / "data"), every, cache=tmp_path / "cache")
