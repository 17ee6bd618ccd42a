"""Clips longer than a window: trained by drawn windows, judged by all, the same bits across kills and sources."""

import json
import signal

import numpy as np
import pytest
import torch
import trial_jobs
from long_clips import RATE, write_long
from typer.testing import CliRunner

from earsight.cli import app
from earsight.data import audio
from earsight.data.layouts import open_dataset
from earsight.evaluation.summary import read_predictions
from earsight.features.store import open_store, store_key
from earsight.features.waves import open_waves
from earsight.features.windows import single_windows
from earsight.files import write_state
from earsight.models.modelfile import load
from earsight.recipe import Recipe
from earsight.training.preparation import prepare, resolved, source_of
from earsight.training.trial import Trial, run_inner, run_trial

QUICK = [
    *("features.clip_seconds=2", "features.frames=32", "features.bands=32", "backbone.name=test_resnet"),
    *("backbone.weights=none", "augment.pitch_semitones=0", "training.batch_size=8", "training.epochs=2"),
]


def recipe(*overrides):
    return Recipe().override([*QUICK, *overrides])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips of 5.5 s, with one of 1.5 s, for windows of 2 s."""
    folder = write_long(tmp_path_factory.mktemp("long") / "data", clips=6, seconds=5.5, at=4.6, lasts=0.4)
    write_long(folder / "short", clips=1, seconds=1.5, at=0.5)
    for label in ("high", "low"):
        (folder / "short" / label / "0.wav").rename(folder / label / "short.wav")
    (folder / "short" / "high").rmdir(), (folder / "short" / "low").rmdir(), (folder / "short").rmdir()
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder, folds=2)


@pytest.fixture(scope="module")
def ready(dataset, tmp_path_factory):
    return prepare(dataset, recipe("training.precision=float32"), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def first_run(ready, cpu, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    run_trial(ready, Trial(1, 0), run=run, device=cpu)
    return run


def logits(run):
    return read_predictions(Trial(1, 0).folder(run) / "predictions.npz").logits


def test_sounds_late_in_long_clips_are_learnt(cpu, tmp_path):
    """Clips of 40 s whose sound is at 35 s, while a window is 30 s at most."""
    dataset = open_dataset(write_long(tmp_path / "data"), folds=2)
    assert dataset.hints.clip_seconds == 30
    quick = ["features.frames=96", "features.bands=32", "backbone.name=test_resnet", "backbone.weights=none"]
    quick += ["augment.pitch_semitones=0", "augment.mixup=0", "training.batch_size=5", "training.epochs=20"]
    correct = {}
    for windows in ("auto", "first"):
        asked = Recipe().override([*quick, f"training.windows={windows}"])
        prepared = prepare(dataset, asked, cache=tmp_path / "cache")
        run_trial(prepared, Trial(1, 0), run=tmp_path / windows, device=cpu)
        correct[windows] = read_predictions(Trial(1, 0).folder(tmp_path / windows) / "predictions.npz").correct.mean()
    assert correct == {"auto": 1, "first": 0.5}


def test_auto_goes_by_the_data_set(dataset, synthetic, tiny):
    assert resolved(dataset, recipe()).training.windows == "all"
    assert resolved(dataset, recipe("features.clip_seconds=5")).training.windows == "first"  # 5.5 is a tenth more
    assert resolved(dataset, recipe("training.windows=first")).training.windows == "first"
    assert resolved(synthetic, tiny()).training.windows == "first"  # in ESC-50's layout, though twice a window long
    assert resolved(synthetic, tiny("training.windows=all")).training.windows == "all"


def test_digests_of_earlier_recipes_hold():
    plain = recipe()
    assert plain.digest == recipe("training.windows=first").digest == recipe("training.most_seconds=600").digest
    assert len({plain.digest, recipe("training.windows=all").digest, recipe("training.most_seconds=60").digest}) == 3


def test_rows_are_the_windows_of_the_clips(dataset, ready):
    found = ready.windows
    assert ready.store.shape[0] == len(found.clips) == 12 * 5 + 2  # 0, 1, 2, 2.75, 3.5 s
    waves = open_waves(dataset, ready.recipe.features, cache=ready.store.folder.parent, windows=found)
    for row in range(len(found.clips)):
        whole = audio.read(dataset.file(int(found.clips[row])), sample_rate_hz=RATE)
        begin = int(found.begins[row])
        part = audio.fit(whole[begin : begin + 2 * RATE], 2 * RATE)
        assert np.array_equal(waves.read_waves(np.array([row]))[0].numpy(), part)
    rows = np.arange(len(found.clips))
    torch.testing.assert_close(ready.store.read(rows), waves.read(rows), atol=1 / 2048 + 1e-4, rtol=0)


def test_short_clips_keep_their_key_and_long_ones_get_their_own(dataset, ready):
    features, cache = ready.recipe.features, ready.store.folder.parent
    plain = store_key(dataset, features, (0,), cache=cache)
    assert store_key(dataset, features, (0,), cache=cache, windows=single_windows(14)) == plain
    assert store_key(dataset, features, (0,), cache=cache, windows=ready.windows) != plain


def test_a_build_goes_on_in_the_middle_of_a_clip(dataset, ready, tmp_path):
    keyed = {"semitones": (0,), "windows": ready.windows}

    class StopError(Exception):
        pass

    def stop(done, total):
        if done == 9:
            raise StopError

    with pytest.raises(StopError):
        open_store(dataset, ready.recipe.features, cache=tmp_path, workers=1, progress=stop, **keyed)
    counts = []
    again = open_store(
        dataset, ready.recipe.features, cache=tmp_path, progress=lambda done, _: counts.append(done), **keyed
    )
    assert counts[0] >= 9
    assert (again.folder / "pictures.i16").read_bytes() == (ready.store.folder / "pictures.i16").read_bytes()


def test_a_damaged_row_is_made_anew_from_its_part(dataset, ready, tmp_path):
    keyed = {"semitones": (0,), "windows": ready.windows, "cache": tmp_path}
    store = open_store(dataset, ready.recipe.features, **keyed)
    row = int(np.flatnonzero(ready.windows.begins == 3.5 * RATE)[0])
    with (store.folder / "pictures.i16").open("r+b") as file:
        file.seek(row * store.layout.row_bytes + 100)
        file.write(b"\xff" * 50)
    rows = np.array([row])
    assert torch.equal(store.read(rows), ready.store.read(rows))


def test_predictions_are_one_row_a_clip_by_the_mean_of_its_windows(first_run, dataset, ready, cpu):
    found = read_predictions(Trial(1, 0).folder(first_run) / "predictions.npz")
    held_out = np.flatnonzero(dataset.folds == 1)
    assert found.clips.tolist() == [dataset.clips[clip].path for clip in held_out]
    assert found.logits.shape == (len(held_out), 2)
    with np.load(Trial(1, 0).folder(first_run) / "predictions.npz") as arrays:
        distance = arrays["distance"]
    assert distance.shape == (len(held_out),)
    card, model = load(Trial(1, 0).folder(first_run) / "model.safetensors")
    assert card.recipe.training.windows == "all"
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    for clip, row in zip(held_out, found.logits, strict=True):
        rows = np.flatnonzero(ready.windows.judged & (ready.windows.clips == clip))
        assert len(rows) in (1, 3)
        with torch.inference_mode():
            shares = model((ready.store.read(rows) - mean) / std).softmax(1).mean(0)
        np.testing.assert_allclose(np.exp(row) / np.exp(row).sum(), shares, atol=1e-4)
    train = np.flatnonzero(dataset.folds != 1)
    expected = ready.store.statistics(np.flatnonzero(ready.windows.judged & np.isin(ready.windows.clips, train)))
    np.testing.assert_allclose(card.mean, expected[0], rtol=1e-6)


def test_training_draws_other_windows_of_the_training_clips_in_each_epoch(ready, cpu, tmp_path, monkeypatch):
    asked = []
    read = type(ready.store).read

    def spy(self, rows, *, draws=None):
        asked.append((draws is not None, rows.tolist()))
        return read(self, rows, draws=draws)

    monkeypatch.setattr(type(ready.store), "read", spy)
    run_trial(ready, Trial(1, 0), run=tmp_path, device=cpu)
    drawn = np.array([row for training, rows in asked if training for row in rows])
    train = np.flatnonzero(ready.dataset.folds != 1)
    first, second = drawn[: len(train)], drawn[len(train) :]
    for epoch in (first, second):
        assert sorted(ready.windows.clips[epoch].tolist()) == train.tolist()
    assert set(first) != set(second)


def test_sources_give_the_same(first_run, dataset, cpu, tmp_path):
    pytest.importorskip("python_stretch")
    identities = set()
    for kind in ("training.source=spectrograms", "training.source=waves", "augment.backend=waveform"):
        asked = recipe("training.precision=float32", kind, "augment.probability=0")
        prepared = prepare(dataset, asked, cache=tmp_path / "cache", device=cpu)
        identities.add(prepared.identity)
        run_trial(prepared, Trial(1, 0), run=tmp_path / kind, device=cpu)
        source = source_of(prepared, cpu)
        rows = np.arange(len(prepared.windows.clips))
        assert source.read(rows, draws=None).shape == (62, 3, 32, 32)
    found = [logits(tmp_path / kind) for kind in ("training.source=spectrograms", "training.source=waves")]
    np.testing.assert_allclose(found[0], found[1], atol=0.05)
    np.testing.assert_allclose(found[0], logits(tmp_path / "augment.backend=waveform"), atol=0.05)
    assert len(identities) == 1


def test_the_inner_protocol_and_inner_trials(dataset, ready, cpu, tmp_path):
    asked = recipe("training.protocol=inner", "training.watch=true", "training.epochs=2")
    prepared = prepare(dataset, asked, cache=ready.store.folder.parent)
    run_trial(prepared, Trial(1, 0), run=tmp_path / "run", device=cpu)
    history = (Trial(1, 0).folder(tmp_path / "run") / "history.jsonl").read_text().splitlines()
    assert all({"accuracy", "held_out"} <= json.loads(line).keys() for line in history)
    run_inner(prepared, Trial(1, 0), run=tmp_path / "inner", device=cpu)
    found = read_predictions(Trial(1, 0).folder(tmp_path / "inner") / "inner.npz")
    assert len(set(found.clips.tolist())) == len(found.clips)


def test_killed_in_the_middle_it_ends_with_the_same_bits(first_run, ready, tmp_path):
    log = tmp_path / "log"
    for kill in ((1, 0.0), (2, 0.005), None):
        process = trial_jobs.CONTEXT.Process(
            target=trial_jobs.train, args=(ready, Trial(1, 0), tmp_path / "run", log, kill)
        )
        process.start()
        process.join(120)
        assert process.exitcode == (0 if kill is None else -signal.SIGKILL)
    assert np.array_equal(logits(tmp_path / "run"), logits(first_run))
    one, two = (Trial(1, 0).folder(run) / "model.safetensors" for run in (tmp_path / "run", first_run))
    assert one.read_bytes() == two.read_bytes()


def test_an_unreadable_long_clip_is_left_out_whole(folder, cpu, tmp_path):
    import shutil

    dataset = open_dataset(shutil.copytree(folder, tmp_path / "data"), folds=2)
    content = dataset.file(3).read_bytes()
    dataset.file(3).write_bytes(content[: len(content) // 2])
    prepared = prepare(dataset, recipe(), cache=tmp_path / "cache", skip_bad=True)
    assert prepared.skipped == (dataset.clips[3].path,)
    assert np.flatnonzero(~prepared.usable).tolist() == [3]
    assert {int(prepared.windows.clips[row]) for row in prepared.store.errors} == {3}
    run_trial(prepared, Trial(int(dataset.clips[3].fold), 0), run=tmp_path / "run", device=cpu)


def invoke(*arguments):
    settings = [part for override in QUICK for part in ("--set", override)]
    result = CliRunner().invoke(app, [*map(str, arguments), "--threads", "1", *settings])
    assert result.exit_code == 0, result.output
    return result.output


def test_train_prints_what_it_uses(folder, tmp_path):
    output = invoke("train", folder, "--out", tmp_path / "run")
    assert "sound: 8000 Hz, windows of 2 s; of 14 clips 12 are cut and 2 padded with silence" in output
    assert "those cut have 36 windows" in output


def test_a_run_of_an_earlier_version_goes_on_as_it_began(folder, tmp_path):
    run = tmp_path / "run"
    invoke("crossval", folder, "--out", run, "--splits", 2, "--folds", 1, "--set", "training.windows=first")
    trial = run / "fold-1" / "seed-0" / "trial.json"
    content = {
        name: value for name, value in json.loads(trial.read_text()).items() if name not in ("windows", "digest")
    }
    trial.write_text(json.dumps(content))
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(
        "".join(line for line in text.splitlines(keepends=True) if "windows: first" not in line)
    )
    before = logits(run)
    output = invoke("crossval", folder, "--out", run, "--splits", 2)
    assert "of those cut only the first 2 s are used" in output
    assert np.array_equal(logits(run), before)
    assert (run / "fold-2" / "seed-0" / "DONE").is_file()


def test_a_run_goes_on_after_an_ensemble_was_made_in_it(folder, tmp_path):
    """An ensemble's trials name no windows, and are no trials of an earlier version."""
    run = tmp_path / "run"
    invoke("crossval", folder, "--out", run, "--splits", 2, "--folds", 1)
    place = run / "ensemble" / "fold-1" / "seed-0" / "trial.json"
    place.parent.mkdir(parents=True)
    write_state(place, {"recipe": "r", "dataset": "d", "fold": 1, "seed": 0, "ensemble": True})
    assert "those cut have" in invoke("crossval", folder, "--out", run, "--splits", 2)
    assert (run / "fold-2" / "seed-0" / "DONE").is_file()
