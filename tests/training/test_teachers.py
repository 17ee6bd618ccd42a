"""Teachers: the loss by an independent formula, the same view for both, and no teacher that saw what is held out."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from several_clips import write_several

from earsight.calibration.calibrate import calibrate_run
from earsight.calibration.fit import Wanted
from earsight.data import open_dataset
from earsight.ensembles.build import make_ensemble
from earsight.errors import RecipeError, RunError
from earsight.evaluation.summary import read_predictions
from earsight.features.augment import draw
from earsight.features.device_cache import SpectrogramCache
from earsight.models.ensemble import Ensemble
from earsight.models.mahalanobis import statistics_of
from earsight.models.modelfile import load, load_card, save
from earsight.training import loop, teachers
from earsight.training import trial as trial_module
from earsight.training.batches import batches_of
from earsight.training.preparation import hold_out, prepare
from earsight.training.step import Step, distillation_loss
from earsight.training.teachers import TaughtBatches, Teacher, check_taught, open_teaching
from earsight.training.trial import Trial, run_trial

CPU = torch.device("cpu")
FOLDS, SEEDS = (1, 2), (0, 1)
TAUGHT = ("distillation.weight=1", "training.precision=float32", "training.epochs=2")


@pytest.fixture(scope="module")
def run(prepare_as, tmp_path_factory):
    """The teachers: two seeds on each of two folds."""
    folder = tmp_path_factory.mktemp("teachers") / "run"
    ready = prepare_as("training.epochs=2", "training.learning_rate=0.003")
    for fold in FOLDS:
        for seed in SEEDS:
            run_trial(ready, Trial(fold, seed), run=folder, device=CPU)
    return folder


@pytest.fixture(scope="module")
def teaching(run, synthetic):
    return open_teaching(run, synthetic)


@pytest.fixture(scope="module")
def student(synthetic, tiny, teaching):
    """What a student is trained on, with teachers of its own features."""
    return prepare(synthetic, tiny(*TAUGHT), teaching=teaching)


def member(run, fold, seed):
    return run / f"fold-{fold}" / f"seed-{seed}" / "model.safetensors"


def drawn(recipe, rows, seed=5):
    augment = recipe.override(["augment.probability=0.9", "augment.time_masks=2"]).augment
    generator = np.random.default_rng(seed)
    return [(part, draw(augment, batch=len(part), generator=generator)) for part in np.array_split(rows, 3)]


def said_by(run, fold, spectrograms, *, temperature):
    """Softened mean probabilities of a fold's seeds, from network input normalised as theirs is."""
    shares = []
    for seed in SEEDS:
        with torch.no_grad():
            logits = load(member(run, fold, seed))[1](spectrograms).numpy().astype(np.float64)
        shares.append(softmax(logits / temperature, axis=1))
    return np.mean(shares, axis=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_the_divergence_times_the_squared_temperature(temperature):
    generator = np.random.default_rng(0)
    z, t = generator.normal(0, 3, (5, 4)), generator.normal(0, 3, (5, 4))
    p, q = softmax(t / temperature, axis=1), softmax(z / temperature, axis=1)
    logits = torch.tensor(z, requires_grad=True)
    found = distillation_loss(logits, torch.log_softmax(torch.tensor(t) / temperature, dim=1), temperature=temperature)
    assert float(found.detach()) == pytest.approx(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())
    found.backward()
    np.testing.assert_allclose(logits.grad, temperature * (q - p) / 5, atol=1e-12)
    same = distillation_loss(
        torch.tensor(t), torch.log_softmax(torch.tensor(t) / temperature, 1), temperature=temperature
    )
    assert float(same) == pytest.approx(0, abs=1e-12)


def test_the_loss_of_several_labels_is_the_mean_divergence_of_each_class():
    generator = np.random.default_rng(1)
    z, t, temperature = generator.normal(0, 3, (5, 4)), generator.normal(0, 3, (5, 4)), 2.0
    p, q = (1 / (1 + np.exp(-one / temperature)) for one in (t, z))
    wanted = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    logits = torch.tensor(z, requires_grad=True)
    found = distillation_loss(logits, torch.tensor(t) / temperature, temperature=temperature, several=True)
    assert float(found.detach()) == pytest.approx(temperature**2 * wanted)
    found.backward()
    np.testing.assert_allclose(logits.grad, temperature * (q - p) / z.size, atol=1e-12)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_labels_and_teachers_share_the_loss(tiny, weight):
    generator = torch.Generator().manual_seed(0)
    inputs, said = torch.randn(6, 3, generator=generator), torch.randn(6, 4, generator=generator).log_softmax(1)
    targets = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).float()
    model = torch.nn.Linear(3, 4)
    recipe = tiny(f"distillation.weight={weight}", "distillation.temperature=3", "training.precision=float32")
    given = {"assemble": lambda *batch: batch, "training": recipe.training, "device": CPU}
    logits = model(inputs)
    hard = torch.nn.functional.cross_entropy(logits, targets)
    wanted = (1 - weight) * hard + weight * distillation_loss(logits, said, temperature=3.0)
    step = Step(model, torch.optim.SGD(model.parameters()), distillation=recipe.distillation, **given)
    assert float(step(inputs, targets, said, rate=0.0)) == pytest.approx(float(wanted))
    assert float(step(inputs, targets, rate=0.0)) == pytest.approx(float(hard)), "without teachers it is that of labels"


def test_the_teachers_see_the_students_very_view(run, student):
    """Stretched, masked and mixed: what they say is recomputed from the batch that the student gets."""
    trial, rows = Trial(1, 0), np.flatnonzero(student.dataset.folds != 1)
    data = trial_module._data(student, rows, device=CPU)
    teacher = trial_module._teacher(student, student.teaching, trial, data)
    batches = TaughtBatches(batches_of(data, smoothing=0.0), teacher)
    count = 0
    for batch in batches.epoch(drawn(student.recipe, rows)):
        spectrograms, targets, said = batches.assemble(*batch)
        wanted = said_by(run, 1, spectrograms, temperature=2.0)
        np.testing.assert_allclose(np.exp(said.numpy()), wanted, atol=1e-4)
        assert targets.shape == said.shape
        assert not said.requires_grad
        count += len(said)
    assert count == len(rows)


def test_teachers_of_other_features_see_the_same_clips_under_the_same_draws(synthetic, tiny, prepare_as, tmp_path):
    other = prepare_as("features.bands=40", "features.frames=48", "training.epochs=1")
    for seed in SEEDS:
        run_trial(other, Trial(1, seed), run=tmp_path / "run", device=CPU)
    ready = prepare(synthetic, tiny(*TAUGHT), teaching=open_teaching(tmp_path / "run", synthetic))
    rows = np.flatnonzero(synthetic.folds != 1)
    ours, theirs = (trial_module._data(one, rows, device=CPU) for one in (ready, other))
    teacher = trial_module._teacher(ready, ready.teaching, Trial(1, 0), ours)
    for data in (ours, replace(ours, source=SpectrogramCache(ready.store, CPU))):
        batches = TaughtBatches(batches_of(data, smoothing=0.0), teacher)
        draws = drawn(ready.recipe, rows)
        for (part, own), batch in zip(draws, batches.epoch(draws), strict=True):
            spectrograms, _, said = batches.assemble(*batch)
            assert spectrograms.shape[2:] == (32, 32)
            view = theirs.spectrograms(part, draws=own)
            assert view.shape[2:] == (40, 48)
            np.testing.assert_allclose(
                np.exp(said.numpy()), said_by(tmp_path / "run", 1, view, temperature=2.0), atol=1e-4
            )
    # And a whole trial of it.
    run_trial(ready, Trial(1, 0), run=tmp_path / "student", device=CPU)


def test_from_a_device_they_see_the_same(run, student):
    rows = np.flatnonzero(student.dataset.folds != 1)
    host = trial_module._data(student, rows, device=CPU)
    found = []
    for data in (host, replace(host, source=SpectrogramCache(student.store, CPU))):
        batches = TaughtBatches(
            batches_of(data, smoothing=0.0), trial_module._teacher(student, student.teaching, Trial(1, 0), data)
        )
        found.append([batches.assemble(*batch)[2] for batch in batches.epoch(drawn(student.recipe, rows))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_an_ensemble_teaches_as_it_was_made(run, synthetic, tmp_path):
    """Each member at its calibrated temperature and share, all softened alike."""
    made = shutil.copytree(run, tmp_path / "run")
    calibrate_run(made, Wanted())
    make_ensemble([made], out=tmp_path / "e", device=CPU, method="greedy")
    teaching = open_teaching(tmp_path / "e", synthetic)
    card, network = load(teaching.files[1][0])
    raw = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 3 - 8
    parts = (
        list(zip(card.members, network.networks, card.weights, strict=True)) if card.members else [(card, network, 1)]
    )
    logs = []
    for one, module, weight in parts:
        mean, std = (torch.tensor(values)[:, None, None] for values in (one.mean, one.std))
        with torch.no_grad():
            logits = module((raw - mean) / std).numpy().astype(np.float64)
        scale = one.temperature if card.members else 1.0
        logs.append(log_softmax(logits / (5.0 * scale), axis=1) + np.log(weight))
    found = teaching.network(1, temperature=5.0)
    assert isinstance(found, Ensemble)
    np.testing.assert_allclose(found(raw).numpy(), logsumexp(logs, axis=0), atol=1e-3)


def test_each_fold_is_taught_by_those_that_held_it_out(run, student, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(teachers, "load", lambda path: asked.append(path) or load(path))
    run_trial(student, Trial(2, 0), run=tmp_path, device=CPU)
    assert asked == [member(run, 2, seed) for seed in SEEDS]


def test_nothing_of_the_held_out_fold_is_read_before_the_student_is_tested(student, monkeypatch, tmp_path):
    """Neither by the student nor, where they have spectrograms of their own, by the teachers."""
    taught = replace(student.teaching, store=student.store)
    asked, fitted = [], []
    read, fit = type(student.store).read, loop.fit

    def reading(store, rows, *, draws=None):
        if not fitted:
            asked.extend(rows.tolist())
        return read(store, rows, draws=draws)

    def fitting(*args, **more):
        out = fit(*args, **more)
        fitted.append(out)
        return out

    monkeypatch.setattr(type(student.store), "read", reading)
    monkeypatch.setattr(trial_module, "fit", fitting)
    run_trial(replace(student, teaching=taught), Trial(1, 0), run=tmp_path, device=CPU)
    assert len(fitted) == 1
    train = np.flatnonzero(student.dataset.folds != 1)
    assert set(asked) == set(train.tolist())
    assert len(asked) >= 2 * 2 * len(train), "two epochs, for the student and for its teachers"


def test_a_student_learns_what_its_teachers_say_and_not_the_labels(student, prepare_as, run, tmp_path):
    """With weight 1 other labels change nothing; without teachers they do."""
    recipe = student.recipe
    data = trial_module._data(student, np.flatnonzero(student.dataset.folds != 1), device=CPU)
    rows = np.flatnonzero(student.dataset.folds != 1)
    turned = replace(data, labels=(data.labels + 1) % 10)
    found = []
    for given in (data, turned):
        model = trial_module.starting_model(recipe, classes=10, seed=0)
        teacher = trial_module._teacher(student, student.teaching, Trial(1, 0), given)
        found.append(loop.fit(model, given, rows, recipe=recipe, seed=0, teacher=teacher))
    assert [one["loss"] for one in found[0].history] == [one["loss"] for one in found[1].history]
    assert all(torch.equal(found[0].state[name], found[1].state[name]) for name in found[0].state)
    assert found[0].history[-1]["loss"] < found[0].history[0]["loss"]


def stopped_after(steps):
    def stop(done, *_):
        if done == steps:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_student_ends_with_the_same_bits(student, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    trial, steps = Trial(1, 0), []
    whole = run_trial(student, trial, run=tmp_path / "whole", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        run_trial(student, trial, run=tmp_path / "cut", device=CPU, on_step=stopped_after(4))
    cut = run_trial(student, trial, run=tmp_path / "cut", device=CPU, on_step=lambda done, *_: steps.append(done))
    assert steps[0] == 3, "it goes on behind the first epoch"
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert np.array_equal(*(read_predictions(one / "predictions.npz").logits for one in (cut, whole)))


def test_a_trial_says_who_taught_it_and_goes_on_with_no_others(student, run, tmp_path, synthetic):
    folder = run_trial(student, Trial(1, 0), run=tmp_path / "out", device=CPU)
    digest = student.teaching.digests[1]
    assert json.loads((folder / "trial.json").read_text())["teachers"] == digest
    assert read_predictions(folder / "predictions.npz").about["teachers"] == digest
    assert load_card(folder / "model.safetensors").trained_on["teachers"] == digest
    assert digest != student.teaching.digests[2]
    fewer = shutil.copytree(run, tmp_path / "fewer")
    shutil.rmtree(fewer / "fold-1" / "seed-1")
    other = replace(student, teaching=open_teaching(fewer, synthetic))
    with pytest.raises(RunError, match=r"seed-0: holds a trial of another set of teachers; name another folder"):
        run_trial(other, Trial(1, 1), run=tmp_path / "out", device=CPU)


def test_a_calibration_of_the_teachers_changes_neither_their_name_nor_what_they_say(run, teaching, synthetic, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    calibrate_run(copy, Wanted())
    again = open_teaching(copy, synthetic)
    assert load_card(again.files[1][0]).temperature != load_card(teaching.files[1][0]).temperature
    assert again.digests == teaching.digests
    raw = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(*(one.network(1, temperature=2.0)(raw) for one in (again, teaching)))


def spoilt(run, tmp_path, **changes):
    """The run with another origin in the card of a file."""
    copy = shutil.copytree(run, tmp_path / "spoilt")
    path = member(copy, 1, 1)
    card, network = load(path)
    card = replace(card, trained_on={**card.trained_on, **changes})
    save(path, state=network.state_dict(), card=card, statistics=statistics_of(network))
    return copy


def test_a_teacher_that_saw_the_held_out_fold_is_refused(run, synthetic, tmp_path):
    """Files exchanged, a card that does not say so, another split, fewer clips held out, an epoch chosen by them."""
    exchanged = shutil.copytree(run, tmp_path / "exchanged")
    member(exchanged, 1, 0).write_bytes(member(run, 2, 0).read_bytes())
    with pytest.raises(RunError, match="holds files of fold 2 seed 0, so folders were copied or exchanged"):
        open_teaching(exchanged, synthetic)
    with pytest.raises(
        RunError, match=r"seed-1/model\.safetensors: does not say that it held out fold 1; a teacher must"
    ):
        open_teaching(spoilt(run, tmp_path / "a", fold=None), synthetic)
    with pytest.raises(RunError, match="another data set, or another split of it, so it may have seen"):
        open_teaching(run, hold_out(synthetic, seed=3))
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    path = member(moved, 1, 0).with_name("predictions.npz")
    with np.load(path) as file:
        arrays = dict(file)
    lost = str(arrays["clip"][0])
    np.savez(path, **{name: part[1:] if part.shape[:1] == (20,) else part for name, part in arrays.items()})
    with pytest.raises(RunError, match=f"does not say that it held out clips of fold 1, such as {lost}; a teacher"):
        open_teaching(moved, synthetic)


def test_teachers_whose_epoch_the_held_out_fold_chose_are_refused(prepare_as, synthetic, tmp_path):
    run_trial(prepare_as("training.protocol=test", "training.epochs=1"), Trial(1, 0), run=tmp_path, device=CPU)
    with pytest.raises(RunError, match="protocol test, so the held-out clips chose its epoch"):
        open_teaching(tmp_path, synthetic)


def test_teachers_of_other_classes_or_folds_are_refused(run, synthetic):
    renamed = tuple(f"new {name}" for name in synthetic.classes)
    other = replace(
        synthetic,
        clips=tuple(replace(clip, label=f"new {clip.label}") for clip in synthetic.clips),
        classes=renamed,
    )
    with pytest.raises(RunError, match="has other classes than the data set"):
        open_teaching(run, other)
    with pytest.raises(
        RunError, match=r"no finished trial held out fold 3, 4, so nothing can teach it; it has fold 1, 2"
    ):
        open_teaching(run, synthetic, folds=[1, 3, 4])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["distillation.weight=0"], "distillation.weight is 0, so nothing is learnt from the teachers"),
        (["training.class_weights=balanced"], "about labels, which distillation.weight=1 does not use"),
        (["training.label_smoothing=0.1"], "about labels, which distillation.weight=1 does not use"),
        (["training.protocol=inner"], "the teachers were trained on the inner clips"),
        (["features.clip_seconds=0.8"], r"clip_seconds is 0.8 and the teachers' 0.5: .* set features.clip_seconds=0.5"),
    ],
)
def test_recipes_that_do_not_fit_their_teachers(synthetic, tiny, teaching, given, message):
    with pytest.raises(RecipeError, match=message):
        check_taught(synthetic, tiny(*TAUGHT, *given), teaching)


def test_labels_count_below_a_weight_of_one(synthetic, tiny, teaching):
    check_taught(synthetic, tiny("distillation.weight=0.9", "training.label_smoothing=0.1"), teaching)


def test_without_teachers_no_recipe_that_needs_them_is_trained(prepare_as, tmp_path):
    with pytest.raises(RecipeError, match=r"there are no teachers; `earsight distil RUN`"):
        run_trial(prepare_as("distillation.weight=0.5"), Trial(1, 0), run=tmp_path, device=CPU)


def test_recipes_without_teachers_keep_their_digests(tiny):
    plain = tiny()
    assert tiny("distillation.weight=0", "distillation.temperature=2").digest == plain.digest
    assert (
        len({tiny(one).digest for one in ("distillation.weight=1", "distillation.temperature=3")} | {plain.digest}) == 3
    )


def test_of_several_labels_a_student_is_taught_too(tiny, tmp_path):
    data = open_dataset(write_several(tmp_path / "clips"))
    options = ("training.epochs=1", "training.learning_rate=0.005", "augment.mixup=0.2")
    for seed in SEEDS:
        run_trial(prepare(data, tiny(*options), workers=1), Trial(1, seed), run=tmp_path / "run", device=CPU)
    teaching = open_teaching(tmp_path / "run", data)
    ready = prepare(data, tiny(*options, *TAUGHT), workers=1, teaching=teaching)
    rows = np.flatnonzero(data.folds != 1)
    own = trial_module._data(ready, rows, device=CPU)
    batches = TaughtBatches(
        batches_of(own, smoothing=0.0), trial_module._teacher(ready, ready.teaching, Trial(1, 0), own)
    )
    spectrograms, _, said = batches.assemble(*next(batches.epoch(drawn(ready.recipe, rows))))
    with torch.no_grad():
        logits = [load(member(tmp_path / "run", 1, seed))[1](spectrograms).double() for seed in SEEDS]
    wanted = torch.stack([(one / 2).sigmoid() for one in logits]).mean(dim=0)
    torch.testing.assert_close(said.double().sigmoid(), wanted, atol=1e-4, rtol=0)
    folder = run_trial(ready, Trial(1, 0), run=tmp_path / "student", device=CPU)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert all(record["loss"] > 0 for record in history)


def test_teachers_are_left_as_they_are(run, student):
    """No step of the student's changes them, or the statistics of their batch norms."""
    rows = np.flatnonzero(student.dataset.folds != 1)
    data = trial_module._data(student, rows, device=CPU)
    teacher = trial_module._teacher(student, student.teaching, Trial(1, 0), data)
    assert isinstance(teacher, Teacher)
    before = {name: value.clone() for name, value in teacher._network.state_dict().items()}
    loop.fit(
        trial_module.starting_model(student.recipe, classes=10, seed=0),
        data,
        rows,
        recipe=student.recipe,
        seed=0,
        teacher=teacher,
    )
    assert not teacher._network.training
    assert all(torch.equal(value, before[name]) for name, value in teacher._network.state_dict().items())
