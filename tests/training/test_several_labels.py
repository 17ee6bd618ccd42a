"""Training on clips with several labels: loss and masks, mixup, class weights, the head's start, and whole trials."""

import dataclasses

import numpy as np
import pytest
import torch
from several_clips import write_several
from torch import nn

from earsight.data import open_dataset
from earsight.errors import RecipeError
from earsight.evaluation.multilabel import mean_average_precision
from earsight.evaluation.summary import read_predictions, write_summary
from earsight.features.augment import mix_marks, mix_targets, one_hot, smoothed
from earsight.models.mahalanobis import mahalanobis_statistics, statistics_of
from earsight.models.modelfile import load, load_card
from earsight.training.optim import class_weights, start_at_prior
from earsight.training.preparation import hold_out, prepare, resolved
from earsight.training.step import Step, binary_loss
from earsight.training.trial import Trial, check_run, run_inner, run_trial


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_dataset(write_several(tmp_path_factory.mktemp("several") / "clips"))


@pytest.fixture(scope="module")
def ready(data, tiny):
    return prepare(data, tiny("training.epochs=12", "augment.mixup=0.2", "training.learning_rate=0.005"), workers=1)


def test_the_loss_is_torchs_over_what_is_known():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(5, 3, generator=generator), torch.rand(5, 3, generator=generator)
    wanted = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert torch.allclose(binary_loss(logits, targets), wanted)
    targets[1, 2] = targets[4, 0] = torch.nan
    known = ~targets.isnan()
    weights = torch.tensor([1.0, 3.0, 0.5])
    wanted = nn.functional.binary_cross_entropy_with_logits(
        logits[known], targets[known], pos_weight=weights.expand(5, 3)[known]
    )
    logits.requires_grad_()
    found = binary_loss(logits, targets, weights=weights)
    assert torch.allclose(found, wanted)
    found.backward()
    assert logits.grad[1, 2] == logits.grad[4, 0] == 0
    assert torch.isfinite(logits.grad).all()
    assert binary_loss(logits, torch.full((5, 3), torch.nan)) == 0


def test_marks_are_mixed_as_targets_are_and_masks_stay():
    marks = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    partner, share = torch.tensor([1, 2, 0]), torch.tensor([[0.75], [0.5], [1.0]])
    assert torch.allclose(mix_marks(marks, partner, share), torch.tensor([[0.75, 0.25], [0.5, 1], [1, 1]]))
    marks[1, 0] = torch.nan
    found = mix_marks(marks, partner, share)
    assert found.isnan().tolist() == [[True, False], [True, False], [False, False]]
    assert smoothed(marks, 0.2)[0].tolist() == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("several", [False, True])
def test_one_step_moves_weights_by_the_loss_that_is_meant(several):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, targets = torch.randn(6, 4), torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(3, 1)
    from earsight.recipe import Training

    step = Step(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        assemble=lambda a, b: (a, b),
        training=Training(precision="float32"),
        device=torch.device("cpu"),
        several=several,
    )
    loss = step(x, targets, rate=0.5).item()
    other = nn.Linear(4, 3)
    other.load_state_dict(before)
    kind = nn.functional.binary_cross_entropy_with_logits if several else nn.functional.cross_entropy
    wanted = kind(other(x), targets)
    wanted.backward()
    assert loss == pytest.approx(wanted.item())
    torch.testing.assert_close(model.weight, other.weight - 0.5 * other.weight.grad)


def test_class_weights_are_negatives_to_a_positive():
    labels = np.array([[1, 0], [0, 1], [0, np.nan], [0, 1]], dtype=np.float32)
    assert class_weights(labels, classes=2, kind="balanced").tolist() == [3.0, 0.5]
    assert class_weights(labels, classes=2, kind="none") is None
    rare = np.zeros((1000, 1), dtype=np.float32)
    assert class_weights(rare, classes=1, kind="balanced").tolist() == [100.0]


def test_the_head_starts_at_the_prior(data, tiny):
    from earsight.models.stages import starting_model

    model = starting_model(tiny(), classes=3)
    weight = model.get_classifier().weight.clone()
    labels = np.array([[1, 0, np.nan]] * 3 + [[0, 0, 1]], dtype=np.float32)
    start_at_prior(model, labels)
    shares = torch.sigmoid(model.get_classifier().bias).tolist()
    assert shares == pytest.approx([3.5 / 5, 0.5 / 5, 1.5 / 2])
    assert torch.equal(weight, model.get_classifier().weight)


def test_a_trial_learns_and_writes_what_it_predicts(ready, tmp_path, cpu):
    folder = run_trial(ready, Trial(1, 0), run=tmp_path, device=cpu)
    found = read_predictions(folder / "predictions.npz")
    rows = np.flatnonzero(ready.dataset.folds == 1)
    np.testing.assert_array_equal(found.marks, ready.dataset.targets[rows])
    assert found.classes == ("high", "low", "middle")
    score = mean_average_precision(found.marks, found.logits)
    assert score > 0.8
    card, network = load(folder / "model.safetensors")
    assert card.several
    assert card.trained_on["held_out_average_precision"] == pytest.approx(score)
    assert "held_out_accuracy" not in card.trained_on
    assert card.recipe.training.labels == "several"
    assert found.distance is not None
    assert statistics_of(network)[0] is not None
    summary = write_summary(tmp_path, machine={})
    assert summary["average_precision"]["mean"] == pytest.approx(score)
    # Again gives the same bits.
    again = run_trial(ready, Trial(1, 0), run=tmp_path / "again", device=cpu)
    np.testing.assert_array_equal(read_predictions(again / "predictions.npz").logits, found.logits)


def test_masked_labels_teach_nothing(tmp_path, tiny, cpu):
    """A class that is masked in every training clip keeps the weights that it began with."""
    dataset = open_dataset(write_several(tmp_path / "clips", clips=12))
    masked = [
        clip
        if clip.fold == 1
        else dataclasses.replace(clip, label=clip.label.replace("low", "").strip(";"), unknown=("low",))
        for clip in dataset.clips
    ]
    masked = [dataclasses.replace(clip, label=clip.label.replace(";;", ";")) for clip in masked]
    dataset = dataclasses.replace(dataset, clips=tuple(masked))
    made = prepare(dataset, tiny("training.epochs=2", "training.weight_decay=0"), workers=1)
    start = check_run(made.dataset, made.recipe, tmp_path / "run")
    folder = run_trial(made, Trial(1, 0), run=tmp_path / "run", device=cpu, start=start)
    from earsight.models.stages import starting_model

    before = starting_model(made.recipe, classes=3, seed=0).get_classifier().weight
    _, network = load(folder / "model.safetensors")
    after = network.get_classifier().weight
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])
    # What is measured leaves masks out too.
    assert not np.isnan(read_predictions(folder / "predictions.npz").marks).any()


@pytest.mark.parametrize("protocol", ["inner", "test"])
def test_epochs_are_picked_by_mean_average_precision(data, tiny, tmp_path, cpu, protocol):
    made = prepare(data, tiny(f"training.protocol={protocol}", "training.watch=true"), workers=1)
    folder = run_trial(made, Trial(2, 0), run=tmp_path, device=cpu)
    import json

    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    scores = [record["average_precision"] for record in history]
    about = read_predictions(folder / "predictions.npz").about
    assert about["epoch"] == 1 + int(np.argmax(scores))
    assert set(history[0]["held_out"]) == {"average_precision"}
    assert all(record["log_loss"] > 0 for record in history)


def test_an_inner_run_of_several_labels(data, tiny, tmp_path, cpu):
    folder = run_inner(prepare(data, tiny(), workers=1), Trial(2, 0), run=tmp_path, device=cpu)
    found = read_predictions(folder / "inner.npz")
    assert found.targets is not None
    assert set(np.unique(data.folds[[int(clip[:3]) for clip in found.clips]])) <= {1, 3}


def test_recipe_and_data_must_agree(data, synthetic, tiny):
    assert resolved(data, tiny()).training.labels == "several"
    assert resolved(synthetic, tiny()).training.labels == "single"
    assert resolved(synthetic, tiny()).digest == tiny("training.windows=first").digest
    with pytest.raises(RecipeError, match=r"training\.labels is single, and the data set has several"):
        resolved(data, tiny("training.labels=single"))
    with pytest.raises(RecipeError, match=r"training\.labels is several, and the data set was opened with one"):
        resolved(synthetic, tiny("training.labels=several"))


def test_one_label_a_clip_can_be_learnt_by_sigmoids(synthetic_folder, tiny, tmp_path, cpu):
    dataset = open_dataset(synthetic_folder, labels="several", folds=5)
    made = prepare(dataset, tiny("training.epochs=2"), workers=1)
    found = read_predictions(run_trial(made, Trial(1, 0), run=tmp_path, device=cpu) / "predictions.npz")
    assert (found.marks.sum(axis=1) == 1).all()


def test_a_hold_out_is_stratified_by_all_labels(data):
    held = hold_out(data, seed=0)
    rows = held.folds == 1
    assert 0.1 < rows.mean() < 0.3
    assert not {data.groups[n] for n in np.flatnonzero(rows)} & {data.groups[n] for n in np.flatnonzero(~rows)}


def test_single_labels_are_mixed_as_before():
    """The path of one label a clip has its old functions, and their bits."""
    labels = np.array([0, 2, 1])
    hot = one_hot(labels, classes=3, smoothing=0.1)
    assert hot.sum(dim=1).tolist() == pytest.approx([1, 1, 1])

    class Draws:
        share, partner = np.array([0.7, 1.0, 0.5]), np.array([1, 0, 2])

    mixed = mix_targets(hot, Draws)
    assert torch.equal(mixed[1], hot[1])


def test_statistics_of_several_labels():
    generator = np.random.default_rng(0)
    centres = np.eye(3, 8)
    labels = (generator.random((200, 3)) < 0.4).astype(np.float32)
    features = labels @ centres + 0.05 * generator.normal(size=(200, 8)) + 0.01
    found = mahalanobis_statistics(features, labels, classes=3)
    assert found.means.shape == (3, 8)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(found.means[0], unit[labels[:, 0] == 1].mean(axis=0), rtol=1e-5)
    near, far = torch.tensor(features[:50]), torch.tensor(-features[:50])
    assert found.distance(near).mean() < 0.5 * found.distance(far).mean()
    # A class without a clip has the mean of all.
    labels[:, 1] = 0
    found = mahalanobis_statistics(features, labels, classes=3)
    np.testing.assert_allclose(found.means[1], unit.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_cards_of_several_labels_say_so(ready, tmp_path, cpu):
    folder = run_trial(ready, Trial(3, 0), run=tmp_path, device=cpu)
    assert load_card(folder / "model.safetensors").several
