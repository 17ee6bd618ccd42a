"""Trials: the same bits from the same seed, also across kills; and nothing of the held-out fold in training."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import trial_jobs
from filelock import FileLock
from safetensors.torch import load_file, save_file

from earsight.data.layouts import open_dataset
from earsight.errors import DataError, EarsightError, RunError
from earsight.evaluation.summary import read_predictions, write_summary
from earsight.models.backbones import build
from earsight.models.modelfile import load, load_card
from earsight.training import loop
from earsight.training import trial as trial_module
from earsight.training.batches import Data
from earsight.training.loop import predict
from earsight.training.preparation import hold_out, prepare
from earsight.training.trial import Trial, check_run, is_done, run_trial

FILES = ["DONE", "history.jsonl", "model.safetensors", "predictions.npz", "trial.json"]


class Spy:
    """A store that remembers which rows it was asked for, in training, in scoring, and for the statistics."""

    stretches = False

    def __init__(self, store):
        self.store, self.errors, self.folder, self.sounds = store, store.errors, store.folder, store.sounds
        self.silence = store.silence
        self.trained, self.scored, self.measured = set(), set(), set()

    def read(self, rows, *, draws=None):
        (self.scored if draws is None else self.trained).update(rows.tolist())
        return self.store.read(rows, draws=draws)

    def statistics(self, rows):
        self.measured.update(rows.tolist())
        return self.store.statistics(rows)


@pytest.fixture(scope="module")
def first_run(prepared, cpu, tmp_path_factory):
    """Fold 1, seed 0 of the tiny recipe, run without a break."""
    run = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    run_trial(prepared, Trial(1, 0), run=run, device=cpu)
    return run


def logits(run, trial):
    return read_predictions(trial.folder(run) / "predictions.npz").logits


def model_bytes(run, trial):
    return (trial.folder(run) / "model.safetensors").read_bytes()


def test_a_trial_leaves_its_files(first_run, prepared):
    folder = Trial(1, 0).folder(first_run)
    assert folder == first_run / "fold-1" / "seed-0"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    found = read_predictions(folder / "predictions.npz")
    held_out = np.flatnonzero(prepared.dataset.folds == 1)
    assert found.clips.tolist() == [prepared.dataset.clips[row].path for row in held_out]
    assert np.array_equal(found.labels, prepared.dataset.labels[held_out])
    assert found.classes == prepared.dataset.classes
    assert (found.logits.shape, found.logits.dtype) == ((20, 10), np.float32)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2, 3]
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert {"clip", "label", "logits", "classes"} <= set(arrays)


def test_the_model_file_predicts_the_same(first_run, prepared, cpu):
    card, model = load(Trial(1, 0).folder(first_run) / "model.safetensors")
    data = Data(
        source=prepared.store,
        labels=prepared.dataset.labels,
        classes=10,
        mean=torch.tensor(card.mean),
        std=torch.tensor(card.std),
        device=cpu,
    )
    again = predict(model, data, np.flatnonzero(prepared.dataset.folds == 1))
    np.testing.assert_allclose(again, logits(first_run, Trial(1, 0)), atol=1e-4)
    assert card.classes == prepared.dataset.classes
    assert card.recipe == prepared.recipe
    assert (card.trained_on["fold"], card.trained_on["clips"]) == (1, 80)


def test_the_seed_decides_every_bit(first_run, prepared, cpu, tmp_path):
    run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    run_trial(prepared, Trial(1, 1), run=tmp_path, device=cpu)
    assert np.array_equal(logits(tmp_path, Trial(1, 0)), logits(first_run, Trial(1, 0)))
    assert model_bytes(tmp_path, Trial(1, 0)) == model_bytes(first_run, Trial(1, 0))
    assert not np.array_equal(logits(tmp_path, Trial(1, 1)), logits(first_run, Trial(1, 0)))


def test_the_seed_reaches_the_start_and_the_order(prepared, cpu, tmp_path, monkeypatch):
    found, build = {}, trial_module.starting_model

    def start(*arguments, seed, **keywords):
        found["start"] = seed
        return build(*arguments, seed=seed, **keywords)

    def order(*arguments, seed, **keywords):
        found["order"] = seed
        raise StoppedError

    monkeypatch.setattr(trial_module, "starting_model", start)
    monkeypatch.setattr(trial_module, "fit", order)
    with pytest.raises(StoppedError):
        run_trial(prepared, Trial(1, 41), run=tmp_path, device=cpu)
    assert found == {"start": 41, "order": 41}


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL elsewhere")
@pytest.mark.parametrize("extra", ["training.ema=0", "training.ema=0.9"])
def test_killed_at_random_instants_it_ends_with_the_same_bits(prepare_as, cpu, tmp_path, extra):
    prepared, trial, steps = prepare_as("training.epochs=12", extra), Trial(1, 0), 24
    run_trial(prepared, trial, run=tmp_path / "whole", device=cpu)
    run, generator = tmp_path / "killed", np.random.default_rng()
    checkpoint = trial.folder(run) / "checkpoint.safetensors"
    kills, last = [], 0
    for attempt in range(6):
        log = tmp_path / f"steps{attempt}"
        log.touch()
        kill = None
        if attempt < 5:
            # In a step, between two, or in a checkpoint; the fifth time anywhere up to the last step and while the
            # trial is written down.
            before = steps - last
            count = generator.integers(1, 4) if attempt < 4 else generator.integers(1, before + 1)
            kill = (int(count), float(generator.uniform(0, 0.03)))
        begun = checkpoint.is_file()
        job = (prepared, trial, run, log, kill)
        process = trial_jobs.CONTEXT.Process(target=trial_jobs.train, args=job, daemon=True)
        process.start()
        process.join()
        told = [int(step) for step in log.read_text().split()]
        if begun and told:
            assert told[0] > 1, "it began anew instead of going on from the checkpoint"
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills.append(kill)
        last = told[-1] // 2 * 2
    assert len(kills) >= 3
    assert is_done(trial.folder(run))
    assert np.array_equal(logits(run, trial), logits(tmp_path / "whole", trial)), kills
    assert model_bytes(run, trial) == model_bytes(tmp_path / "whole", trial), kills
    assert sorted(path.name for path in trial.folder(run).iterdir()) == FILES


@pytest.mark.parametrize("spoilt", [1, 2])
def test_damaged_checkpoints_do_not_change_a_bit(prepared, cpu, first_run, tmp_path, monkeypatch, caplog, spoilt):
    """The one before the newest is taken, or none: the trial ends with the bits of one that nothing happened to."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_COST", 1e9)
    with pytest.raises(StoppedError):
        run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu, on_step=stopped_after(4))
    folder, steps = Trial(1, 0).folder(tmp_path), []
    for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors")[:spoilt]:
        data = bytearray((folder / name).read_bytes())
        data[-1000] ^= 4
        (folder / name).write_bytes(data)
    run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu, on_step=lambda done, *_: steps.append(done))
    assert steps[0] == (3 if spoilt == 1 else 1)
    assert "is damaged" in caplog.text
    assert model_bytes(tmp_path, Trial(1, 0)) == model_bytes(first_run, Trial(1, 0))
    assert np.array_equal(logits(tmp_path, Trial(1, 0)), logits(first_run, Trial(1, 0)))
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_a_checkpoint_or_a_folder_of_another_trial_is_not_gone_on_with(
    prepared, cpu, first_run, tmp_path, monkeypatch, caplog
):
    """It has seen what this one holds out."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_COST", 1e9)
    for trial in (Trial(1, 0), Trial(2, 0)):
        with pytest.raises(StoppedError):
            run_trial(prepared, trial, run=tmp_path, device=cpu, on_step=stopped_after(2))
    first, second = (trial.folder(tmp_path) for trial in (Trial(1, 0), Trial(2, 0)))
    (second / "checkpoint.safetensors").replace(first / "checkpoint.safetensors")
    run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    assert "is damaged, or of another model or trial; training begins anew" in caplog.text
    assert model_bytes(tmp_path, Trial(1, 0)) == model_bytes(first_run, Trial(1, 0))
    shutil.rmtree(second.parent)
    first.parent.rename(second.parent)
    for trial in (Trial(1, 0), Trial(2, 0)):
        with pytest.raises(RunError, match=f"{second}: holds files of fold 1 seed 0, so folders were copied or exch"):
            run_trial(prepared, trial, run=tmp_path, device=cpu)


def test_a_damaged_identity_is_named(prepared, cpu, first_run, tmp_path):
    folder = Trial(1, 0).folder(tmp_path)
    shutil.copytree(Trial(1, 0).folder(first_run), folder)
    place = folder / "trial.json"
    data = place.read_bytes()
    for at in range(0, len(data), 5):
        place.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        try:
            run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
        except RunError as error:
            assert str(folder) in str(error)  # noqa: PT017 (a lost name of the digest changes nothing)
        else:
            assert b'"digest"' not in place.read_bytes()


@pytest.mark.parametrize("protocol", ["last", "inner"])
def test_held_out_rows_never_reach_training(prepare_as, cpu, tmp_path, monkeypatch, protocol):
    prepared = prepare_as(f"training.protocol={protocol}", "training.inner_fraction=0.3", "training.epochs=2")
    spy = Spy(prepared.store)
    asked_in_fit = {}
    fit = trial_module.fit

    def watched(*arguments, **keywords):
        fitted = fit(*arguments, **keywords)
        asked_in_fit.update(trained=set(spy.trained), scored=set(spy.scored))
        return fitted

    monkeypatch.setattr(trial_module, "fit", watched)
    run_trial(replace(prepared, store=spy), Trial(2, 0), run=tmp_path, device=cpu)
    dataset = prepared.dataset
    held_out = set(np.flatnonzero(dataset.folds == 2).tolist())
    rest = set(range(100)) - held_out
    trained, scored = asked_in_fit["trained"], asked_in_fit["scored"]
    assert not (trained | scored) & held_out
    assert spy.measured == trained
    # Unchanged, every row is read once more: the training rows for what they look like to the fitted network.
    assert spy.scored == held_out | trained | scored
    if protocol == "last":
        assert (trained, scored) == (rest, set())
    else:
        assert trained | scored == rest
        assert not trained & scored
        assert 16 <= len(scored) <= 32
        groups = [{dataset.groups[row] for row in rows} for rows in (trained, scored)]
        assert not groups[0] & groups[1]
        assert {dataset.labels[row] for row in trained} == set(range(10))
    about = read_predictions(Trial(2, 0).folder(tmp_path) / "predictions.npz").about
    assert about["protocol"] == protocol


def _noted(fitted, spy, asked):
    """What was fitted; the rows that were scored until then are noted down."""
    asked["scored"] = set(spy.scored)
    return fitted


def test_protocol_test_scores_on_the_held_out_fold_and_says_so(prepare_as, cpu, tmp_path, monkeypatch):
    prepared = prepare_as("training.protocol=test")
    spy = Spy(prepared.store)
    asked = {}
    monkeypatch.setattr(trial_module, "fit", lambda *a, fit=trial_module.fit, **k: _noted(fit(*a, **k), spy, asked))
    run_trial(replace(prepared, store=spy), Trial(2, 0), run=tmp_path, device=cpu)
    held_out = set(np.flatnonzero(prepared.dataset.folds == 2).tolist())
    assert asked["scored"] == held_out
    assert spy.trained == spy.measured == set(range(100)) - held_out
    summary = write_summary(tmp_path, machine={})
    assert summary["protocol"] == "test"
    history = [json.loads(line) for line in (Trial(2, 0).folder(tmp_path) / "history.jsonl").read_text().splitlines()]
    best = max(history, key=lambda record: record["accuracy"])
    assert summary["folds"][0]["epoch"] == best["epoch"]
    assert summary["accuracy"]["mean"] == best["accuracy"]


@pytest.mark.parametrize("protocol", ["last", "inner", "test"])
def test_a_watched_trial_has_the_same_bits_and_tells_every_epoch(prepare_as, cpu, tmp_path, protocol):
    trial = Trial(2, 0)
    for watch in ("false", "true"):
        prepared = prepare_as(
            f"training.protocol={protocol}", f"training.watch={watch}", "training.learning_rate=0.003"
        )
        run_trial(prepared, trial, run=tmp_path / watch, device=cpu)
    assert np.array_equal(logits(tmp_path / "false", trial), logits(tmp_path / "true", trial))
    weights = [load_file(trial.folder(tmp_path / watch) / "model.safetensors") for watch in ("false", "true")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0].keys() | weights[1].keys())
    history = [
        json.loads(line) for line in (trial.folder(tmp_path / "true") / "history.jsonl").read_text().splitlines()
    ]
    found = read_predictions(trial.folder(tmp_path / "true") / "predictions.npz")
    reported = history[found.about["epoch"] - 1]["held_out"]
    assert reported["wrong"] == np.flatnonzero(~found.correct).tolist()
    assert len(history) == 3
    plain = (trial.folder(tmp_path / "false") / "history.jsonl").read_text()
    assert "held_out" not in plain


def test_seeds_of_a_pretrained_run_differ_in_head_and_batch_order_alone(prepare_as, cpu, tmp_path, monkeypatch):
    # The weights file stands for ImageNet's: any file with the backbone's shapes.
    save_file(build("test_resnet", classes=1000, weights="none", seed=99).state_dict(), tmp_path / "w.safetensors")
    plain = ["augment.probability=0", "augment.mixup=0", "backbone.dropout=0", "training.protocol=inner"]
    prepared = prepare_as(*plain, f"backbone.weights={tmp_path / 'w.safetensors'}", "training.epochs=2")
    begun, asked, fit = {}, {}, trial_module.fit

    class Noted:
        """A source that writes down the rows it was asked for in training."""

        stretches = False

        def __init__(self, source):
            self.source, self.silence, self.orders = source, source.silence, []

        def read(self, rows, *, draws):
            if draws is not None:
                self.orders.extend(rows.tolist())
            return self.source.read(rows, draws=draws)

    def begin(model, data, rows, *, seed, score_rows, **keywords):
        begun[seed] = {key: value.clone() for key, value in model.state_dict().items()}
        noted = Noted(data.source)
        fitted = fit(model, replace(data, source=noted), rows, seed=seed, score_rows=score_rows, **keywords)
        asked[seed] = (rows.tolist(), score_rows.tolist(), data.mean.tolist(), data.std.tolist(), noted.orders)
        return fitted

    monkeypatch.setattr(trial_module, "fit", begin)
    for seed in (0, 1):
        run_trial(prepared, Trial(1, seed), run=tmp_path / "run", device=cpu)
    differing = {key for key in begun[0] if not torch.equal(begun[0][key], begun[1][key])}
    assert differing == {"fc.weight", "fc.bias"}
    assert asked[0][:4] == asked[1][:4], "the same rows train and score, under the same normalisation"
    orders = [asked[seed][4] for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(2 * asked[0][0])


def test_normalisation_knows_nothing_of_the_held_out_fold(prepared, synthetic_folder, tiny, cpu, first_run, tmp_path):
    folder = shutil.copytree(synthetic_folder, tmp_path / "changed")
    dataset = open_dataset(folder)
    assert dataset.digest == prepared.dataset.digest
    row = int(np.flatnonzero(dataset.folds == 1)[0])
    loud = np.random.default_rng(0).uniform(-1, 1, 22050)
    soundfile.write(dataset.file(row), loud, 22050, subtype="PCM_16")
    changed = prepare(dataset, tiny(), cache=tmp_path / "cache")
    assert not np.allclose(changed.store.moments[row], prepared.store.moments[row])
    for fold in (1, 2):
        run_trial(changed, Trial(fold, 0), run=tmp_path / "run", device=cpu)
    card = load_card(Trial(1, 0).folder(tmp_path / "run") / "model.safetensors")
    before = load_card(Trial(1, 0).folder(first_run) / "model.safetensors")
    assert (card.mean, card.std) == (before.mean, before.std)
    # Nor do the weights; but the clip's own logits are others.
    first, second = logits(first_run, Trial(1, 0)), logits(tmp_path / "run", Trial(1, 0))
    assert np.array_equal(first[1:], second[1:])
    assert not np.array_equal(first[0], second[0])
    # Where the clip is trained on, it counts.
    trained = load_card(Trial(2, 0).folder(tmp_path / "run") / "model.safetensors")
    rows = np.flatnonzero(dataset.folds != 2)
    assert trained.mean != tuple(prepared.store.statistics(rows)[0])
    np.testing.assert_allclose(trained.mean, changed.store.statistics(rows)[0])


def test_without_normalisation_spectrograms_pass_as_they_are(prepare_as, cpu, tmp_path):
    run_trial(prepare_as("normalize=none", "training.epochs=1"), Trial(1, 0), run=tmp_path, device=cpu)
    card = load_card(Trial(1, 0).folder(tmp_path) / "model.safetensors")
    assert (card.mean, card.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_the_waveform_backend_trains_too(prepare_as, cpu, tmp_path):
    prepared = prepare_as("augment.backend=waveform", "training.epochs=1")
    assert prepared.store.semitones == (0,)
    run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    assert logits(tmp_path, Trial(1, 0)).shape == (20, 10)


def test_a_finished_trial_is_not_run_again(first_run, prepared, cpu, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it was trained again")

    monkeypatch.setattr(trial_module, "fit", never)
    monkeypatch.setattr(trial_module, "starting_model", never)
    before = {path: path.stat().st_mtime_ns for path in Trial(1, 0).folder(first_run).iterdir()}
    assert run_trial(prepared, Trial(1, 0), run=first_run, device=cpu) == Trial(1, 0).folder(first_run)
    assert before == {path: path.stat().st_mtime_ns for path in Trial(1, 0).folder(first_run).iterdir()}


class StoppedError(Exception):
    pass


def stopped_after(steps):
    def stop(done, *_):
        if done > steps:
            raise StoppedError

    return stop


def test_a_kill_just_after_done_leaves_nothing_for_good(prepared, cpu, first_run, tmp_path):
    folder = Trial(1, 0).folder(tmp_path)
    shutil.copytree(Trial(1, 0).folder(first_run), folder)
    for name in ("checkpoint.safetensors", ".checkpoint.safetensors.part", ".tmpAbCdEf"):
        (folder / name).write_bytes(b"half")
    run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_a_folder_of_another_recipe_or_data_set_is_refused(prepared, prepare_as, cpu, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(StoppedError):  # two steps are an epoch
        run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu, on_step=stopped_after(2))
    check_run(prepared.dataset, prepared.recipe, tmp_path)
    other = prepare_as("training.learning_rate=0.01")
    for trial in (Trial(1, 0), Trial(2, 0)):
        with pytest.raises(RunError, match="another recipe; name another folder with out, or remove it"):
            run_trial(other, trial, run=tmp_path, device=cpu)
    clips = tuple(replace(clip, fold=1 + clip.fold % 5) for clip in prepared.dataset.clips)
    moved = replace(prepared, dataset=replace(prepared.dataset, clips=clips))
    with pytest.raises(RunError, match="another data set"):
        run_trial(moved, Trial(1, 0), run=tmp_path, device=cpu)
    # The name is no part of a recipe.
    check_run(prepared.dataset, prepare_as("name=another").recipe, tmp_path)


def test_a_trial_that_trained_nothing_holds_no_folder(prepared, prepare_as, cpu, tmp_path):
    with pytest.raises(StoppedError):
        run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu, on_step=stopped_after(0))
    other = prepare_as("training.epochs=1")
    run_trial(other, Trial(1, 0), run=tmp_path, device=cpu)
    with pytest.raises(RunError, match="another recipe"):
        run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)


def test_a_fold_without_clips(prepared, cpu, tmp_path):
    with pytest.raises(DataError, match=r"fold 9: has no usable clip; the folds are \[1, 2, 3, 4, 5\]"):
        run_trial(prepared, Trial(9, 0), run=tmp_path, device=cpu)


def test_a_label_that_is_nowhere_outside_the_fold(prepared, cpu, tmp_path):
    name = prepared.dataset.classes[3]
    clips = tuple(replace(clip, fold=1 if clip.label == name else clip.fold) for clip in prepared.dataset.clips)
    moved = replace(prepared, dataset=replace(prepared.dataset, clips=clips))
    with pytest.raises(DataError, match=f"fold 1: no clip of {name} outside it, so it cannot be learnt"):
        run_trial(moved, Trial(1, 0), run=tmp_path, device=cpu)


def test_unreadable_clips_stop_or_are_left_out_and_named(synthetic_folder, tiny, cpu, tmp_path):
    dataset = open_dataset(shutil.copytree(synthetic_folder, tmp_path / "bad"))
    rows = [int(np.flatnonzero(dataset.folds == fold)[0]) for fold in (1, 2)]
    for row in rows:
        dataset.file(row).write_bytes(b"no sound at all")
    recipe = tiny("training.epochs=1")
    with pytest.raises(DataError) as caught:
        prepare(dataset, recipe, cache=tmp_path / "cache")
    assert "2 of 100 clips cannot be read" in str(caught.value)
    assert "skip_bad" in str(caught.value)
    assert all(dataset.clips[row].path in str(caught.value) for row in rows)
    prepared = prepare(dataset, recipe, cache=tmp_path / "cache", skip_bad=True)
    assert prepared.skipped == tuple(dataset.clips[row].path for row in sorted(rows))
    spy = Spy(prepared.store)
    run_trial(replace(prepared, store=spy), Trial(1, 0), run=tmp_path / "run", device=cpu)
    assert not (spy.trained | spy.scored | spy.measured) & set(rows)
    summary = write_summary(tmp_path / "run", machine={})
    assert summary["dataset"]["skipped"] == list(prepared.skipped)
    assert summary["folds"][0]["clips"] == 19


def test_a_class_without_a_readable_clip(synthetic_folder, tiny, tmp_path):
    dataset = open_dataset(shutil.copytree(synthetic_folder, tmp_path / "bad"))
    for row in np.flatnonzero(dataset.labels == 4):
        dataset.file(int(row)).write_bytes(b"no sound at all")
    with pytest.raises(DataError, match=f"class {dataset.classes[4]}: not one of its clips can be read"):
        prepare(dataset, tiny(), cache=tmp_path / "cache", skip_bad=True)


def test_a_training_that_diverges_leaves_no_model(prepare_as, cpu, tmp_path):
    prepared = prepare_as("training.optimizer=sgd", "training.learning_rate=10", "training.epochs=30", "normalize=none")
    bad = replace(prepared, store=Overflowing(prepared.store))
    # The loss shows it in some runs, the running variance at the end in others; either way the remedy is named.
    with pytest.raises(EarsightError, match=r"lower.* training\.learning_rate"):
        run_trial(bad, Trial(1, 0), run=tmp_path, device=cpu)
    assert not is_done(Trial(1, 0).folder(tmp_path))
    assert not list(tmp_path.glob("**/model.safetensors"))


class Overflowing(Spy):
    def read(self, rows, *, draws=None):
        return super().read(rows, draws=draws) * 1e18


def test_a_hold_out_is_fold_one(synthetic):
    held = hold_out(synthetic, fraction=0.2, seed=0)
    assert held.fold_numbers == (1, 2)
    assert (held.folds == 1).sum() == 20
    assert not set(held.groups[held.folds == 1]) & set(held.groups[held.folds == 2])
    assert [clip.path for clip in held.clips] == [clip.path for clip in synthetic.clips]
    assert held.digest == hold_out(synthetic, fraction=0.2, seed=0).digest != hold_out(synthetic, seed=1).digest


def test_a_summary_is_rebuilt_to_the_same_bytes(first_run):
    machine = {"device": "here"}
    write_summary(first_run, machine=machine)
    path = first_run / "summary.json"
    before = path.read_bytes()
    path.unlink()
    write_summary(first_run, machine=machine)
    assert path.read_bytes() == before


def test_two_processes_do_not_train_one_trial(prepared, cpu, tmp_path):
    folder = Trial(1, 0).folder(tmp_path)
    folder.mkdir(parents=True)
    with FileLock(folder.with_name(".seed-0.lock")), pytest.raises(RunError, match="another process is training this"):
        run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    run_trial(prepared, Trial(1, 0), run=tmp_path, device=cpu)
    assert is_done(folder)
