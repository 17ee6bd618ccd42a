"""The loop: what it asks of its source, how it picks an epoch, and that it learns."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from earsight.errors import RunError
from earsight.evaluation.metrics import accuracy
from earsight.features.augment import draw
from earsight.features.filterbanks import FLOOR
from earsight.models.backbones import build
from earsight.recipe import Augment
from earsight.training import loop
from earsight.training.batches import Data
from earsight.training.loop import fit, predict

STILL = Augment(probability=0.0, mixup=0.0, pitch_semitones=0, time_masks=0, band_masks=0, shift=False)
"""No augmentation at all."""


class Shapes:
    """Log-mel spectrograms of four classes: a bar at one of four heights in noise; remembers what it was asked."""

    stretches = False
    silence = torch.full((32,), FLOOR)

    def __init__(self, rows=64, windows=3):
        generator = np.random.default_rng(0)
        self.labels = np.arange(rows) % 4
        spectrograms = generator.normal(-6, 1.0, (rows, windows, 32, 32))
        for row, label in enumerate(self.labels):
            spectrograms[row, :, 8 * label : 8 * label + 4] += 6
        self.spectrograms = torch.from_numpy(spectrograms.astype(np.float32))
        self.asked = []

    def read(self, rows, *, draws=None):
        self.asked.append((rows.tolist(), draws))
        return self.spectrograms[torch.from_numpy(rows)].clone()


def data_of(source, windows=3):
    mean, std = torch.full((windows,), -5.0), torch.full((windows,), 3.0)
    return Data(source=source, labels=source.labels, classes=4, mean=mean, std=std, device=torch.device("cpu"))


def tiny_model(seed=0, classes=4):
    return build("test_resnet", classes=classes, weights="none", seed=seed).to(memory_format=torch.channels_last)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_it_learns(tiny, optimizer):
    source = Shapes()
    data = data_of(source)
    rate = {"adam": 3e-3, "adamw": 3e-3, "sgd": 3e-2}[optimizer]
    recipe = tiny(f"training.optimizer={optimizer}", f"training.learning_rate={rate}", "training.epochs=10")
    recipe = recipe.model_copy(update={"augment": STILL})
    model = tiny_model()
    fitted = fit(model, data, np.arange(48), recipe=recipe, seed=0)
    logits = predict(model, data, np.arange(48, 64))
    assert accuracy(source.labels[48:], logits.argmax(axis=1)) >= 0.9
    assert [record["epoch"] for record in fitted.history] == list(range(1, 11))
    assert fitted.history[-1]["loss"] < 0.5 * fitted.history[0]["loss"]
    assert fitted.epoch == 10
    assert same(fitted.state, model.state_dict())


def test_every_row_is_seen_once_an_epoch_and_in_a_new_order(tiny):
    source, rows = Shapes(), np.array([3, 5, 8, 13, 21, 34, 55, 1, 2, 60])
    fit(tiny_model(), data_of(source), rows, recipe=tiny("training.batch_size=4", "training.epochs=3"), seed=0)
    sizes = [len(asked) for asked, _ in source.asked]
    assert sizes == [5, 5] * 3
    epochs = [source.asked[k][0] + source.asked[k + 1][0] for k in (0, 2, 4)]
    assert all(sorted(epoch) == sorted(rows) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_of_two_copies_an_epoch_shows_one_as_it_is_and_one_changed(tiny):
    rows, steps = np.array([3, 5, 8, 13, 21, 34, 55, 1, 2, 60]), []
    source = Shapes()
    recipe = tiny("training.batch_size=5", "training.epochs=2", "augment.copies=2", "augment.probability=1")
    recipe = recipe.override(["augment.mixup=0.3", "augment.shift=true"])
    fit(tiny_model(), data_of(source), rows, recipe=recipe, seed=0, on_step=lambda *news: steps.append(news[:2]))
    assert [len(asked) for asked, _ in source.asked] == [5] * 8, "twice the steps of one copy"
    assert steps[-1] == (8, 8)
    for epoch in (source.asked[:4], source.asked[4:]):
        shown = [(row, roll > 0) for asked, draws in epoch for row, roll in zip(asked, draws.roll, strict=True)]
        assert sorted(shown) == sorted((int(row), changed) for row in rows for changed in (False, True))
        for _, draws in epoch:
            kept = draws.roll == 0
            assert (draws.share[kept] == 1).all()
            assert (draws.speed[kept] == 1).all()
            assert (np.diff(draws.time_masks[kept]) == 0).all()
            assert (draws.share[~kept] < 1).all()


def test_the_order_can_have_a_seed_of_its_own(tiny):
    fitted = {}
    for name, seed, extra in (("a", 0, ["training.seed=5"]), ("b", 9, ["training.seed=5"]), ("c", 5, [])):
        recipe = tiny("training.epochs=1", *extra)
        fitted[name] = fit(tiny_model(), data_of(Shapes()), np.arange(32), recipe=recipe, seed=seed).state
    assert same(fitted["a"], fitted["b"])
    assert same(fitted["a"], fitted["c"])


def test_another_seed_is_another_order_and_other_weights(tiny):
    found = {}
    for seed in (0, 0, 1):
        source = Shapes()
        fitted = fit(tiny_model(), data_of(source), np.arange(32), recipe=tiny("training.epochs=1"), seed=seed)
        found.setdefault(seed, []).append((source.asked[0][0], fitted.state))
    assert found[0][0][0] == found[0][1][0] != found[1][0][0]
    assert same(found[0][0][1], found[0][1][1])
    assert not same(found[0][0][1], found[1][0][1])


def test_steps_and_epochs_are_told(tiny):
    steps, epochs = [], []
    recipe = tiny("training.batch_size=16", "training.schedule=constant", "training.learning_rate=0.001")
    fit(
        tiny_model(),
        data_of(Shapes()),
        np.arange(48),
        recipe=recipe,
        seed=0,
        on_step=lambda *told: steps.append(told),
        on_epoch=lambda history: epochs.append(json.loads(json.dumps(history))),
    )
    assert [step[:2] for step in steps] == [(done, 9) for done in range(1, 10)]
    assert [len(history) for history in epochs] == [1, 2, 3]
    assert epochs[0][0]["loss"] == pytest.approx(np.mean([step[2] for step in steps[:3]]))
    assert epochs[0][0]["learning_rate"] == 0.001


def test_the_best_epoch_of_the_score_rows_is_kept(tiny, monkeypatch):
    # Scores are said rather than computed: epoch 2 is best, and 4 only equals it.
    scores = iter([0.25, 0.75, 0.5, 0.75])
    states = []
    monkeypatch.setattr(loop, "accuracy", lambda *_: next(scores))
    model, source = tiny_model(), Shapes()

    def keep(history):
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    recipe = tiny("training.epochs=4")
    fitted = fit(
        model, data_of(source), np.arange(32), recipe=recipe, seed=0, score_rows=np.arange(40, 64), on_epoch=keep
    )
    assert fitted.epoch == 2
    assert same(fitted.state, states[1])
    assert same(model.state_dict(), states[1])
    scored = [asked for asked, draws in source.asked if draws is None]
    assert scored == [list(range(40, 64))] * 4


def test_scoring_does_not_change_what_is_trained(tiny):
    first, second = tiny_model(), tiny_model()
    recipe = tiny("training.epochs=2", "training.ema=0.5")
    states = [[], []]
    for model, rows, kept in ((first, None, states[0]), (second, np.arange(40, 64), states[1])):
        fit(
            model,
            data_of(Shapes()),
            np.arange(32),
            recipe=recipe,
            seed=0,
            score_rows=rows,
            on_epoch=lambda _, model=model, kept=kept: kept.append(
                {name: value.clone() for name, value in model.state_dict().items()}
            ),
        )
    assert all(same(*pair) for pair in zip(*states, strict=True))


@pytest.mark.parametrize("extra", [[], ["training.ema=0.5"]])
@pytest.mark.parametrize("score_rows", [None, np.arange(32, 40)])
def test_watching_changes_no_bit_and_tells_what_each_epoch_gets_wrong(tiny, extra, score_rows):
    recipe, watched = tiny(*extra, "training.learning_rate=0.003"), np.arange(40, 64)
    plain = fit(tiny_model(), data_of(Shapes()), np.arange(32), recipe=recipe, seed=0, score_rows=score_rows)
    source, model, seen = Shapes(), tiny_model(), []

    def answer(history):
        # Without a running mean the model is, after each epoch, what the record is about.
        seen.append(predict(model, data_of(Shapes()), watched).argmax(axis=1) != source.labels[watched])

    found = fit(
        model,
        data_of(source),
        np.arange(32),
        recipe=recipe,
        seed=0,
        score_rows=score_rows,
        watch_rows=watched,
        on_epoch=answer,
    )
    assert same(found.state, plain.state)
    assert found.epoch == plain.epoch
    records = [record.pop("held_out") for record in found.history]
    assert [{**record, "seconds": 0} for record in found.history] == [
        {**record, "seconds": 0} for record in plain.history
    ]
    for record, wrong in zip(records, seen, strict=True):
        assert record["accuracy"] == pytest.approx(1 - len(record["wrong"]) / 24)
        if not extra:
            assert record["wrong"] == np.flatnonzero(wrong).tolist()
    # The last record is about what is left, the running mean where there is one.
    if score_rows is None:
        final = predict(model, data_of(source), watched).argmax(axis=1) != source.labels[watched]
        assert records[-1]["wrong"] == np.flatnonzero(final).tolist()
    trained = {row for rows, draws in source.asked if draws is not None for row in rows}
    assert trained == set(range(32))


def test_the_running_mean_is_what_is_left(tiny):
    plain, mean = tiny_model(), tiny_model()
    fit(plain, data_of(Shapes()), np.arange(32), recipe=tiny(), seed=0)
    fitted = fit(mean, data_of(Shapes()), np.arange(32), recipe=tiny("training.ema=0.9"), seed=0)
    assert same(fitted.state, mean.state_dict())
    assert not same(plain.state_dict(), mean.state_dict())


@pytest.mark.parametrize("extra", [[], ["training.ema=0.9"], ["training.optimizer=sgd"], ["training.optimizer=adam"]])
@pytest.mark.parametrize("score_rows", [None, np.arange(40, 64)])
def test_stopped_after_any_epoch_it_ends_with_the_same_bits(tiny, tmp_path, monkeypatch, extra, score_rows):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    recipe, rows, watched = tiny(*extra, "training.batch_size=16"), np.arange(40), np.arange(56, 64)
    whole = fit(tiny_model(), data_of(Shapes()), rows, recipe=recipe, seed=3, score_rows=score_rows, watch_rows=watched)

    class StoppedError(Exception):
        pass

    def stop(done, total, loss):
        # Two or three batches an epoch: once in the second epoch, once in the third.
        if done in (total // 3 + 1, total - 1) and done not in stopped:
            stopped.append(done)
            raise StoppedError

    stopped = []
    path = tmp_path / "checkpoint.safetensors"
    for attempt in range(3):
        model = tiny_model(seed=3 * attempt)  # what it held before it went on must not matter
        try:
            again = fit(
                model,
                data_of(Shapes()),
                rows,
                recipe=recipe,
                seed=3,
                score_rows=score_rows,
                watch_rows=watched,
                checkpoint=path,
                on_step=stop,
            )
        except StoppedError:
            continue
        break
    assert len(stopped) == 2
    assert same(again.state, whole.state)
    assert again.epoch == whole.epoch
    without_time = [[{**record, "seconds": 0} for record in fitted.history] for fitted in (whole, again)]
    assert without_time[0] == without_time[1]


def test_a_loss_that_is_not_finite_stops_with_the_remedy(tiny, tmp_path):
    recipe = tiny("training.optimizer=sgd", "training.learning_rate=10", "training.schedule=constant")
    source = Shapes()
    source.spectrograms *= 1e18
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    said = r"^epoch 2: the loss is no longer finite, .* 10; lower it with overrides training.learning_rate=1$"
    with pytest.raises(RunError, match=said):
        fit(
            model, data_of(source), np.arange(32), recipe=recipe, seed=0, checkpoint=tmp_path / "checkpoint.safetensors"
        )
    assert not list(tmp_path.iterdir())


def test_logits_that_are_not_finite_are_not_scored(tiny):
    source = Shapes()
    source.spectrograms[50] = float("inf")
    with pytest.raises(RunError, match=r"^epoch 1: .*lower it with overrides training\.learning_rate=0\.0001$"):
        fit(tiny_model(), data_of(source), np.arange(32), recipe=tiny(), seed=0, score_rows=np.arange(40, 64))


def test_spectrograms_are_normalised_changed_and_copied_to_three_channels(tiny):
    source = Shapes(windows=1)
    data = data_of(source, windows=1)
    plain = data.spectrograms(np.arange(5))
    assert plain.shape == (5, 3, 32, 32)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        torch.testing.assert_close(plain[:, channel], (source.spectrograms[:5, 0] + 5) / 3)
    draws = draw(
        tiny("augment.mixup=0", "augment.time_masks=0", "augment.band_masks=0", "augment.shift=false").augment,
        batch=5,
        generator=np.random.default_rng(0),
    )
    draws = replace(draws, speed=np.full(5, 2.0), place=np.zeros(5))
    source.silence = torch.where(torch.arange(32) == 7, 2.0, FLOOR)  # row by row, as MFCCs have it
    changed = data.spectrograms(np.arange(5), draws=draws)
    silence = torch.full((5, 3, 32, 15), (FLOOR + 5) / 3)
    silence[:, :, 7] = (2 + 5) / 3
    torch.testing.assert_close(changed[..., 17:], silence, atol=1e-5, rtol=0)
    torch.testing.assert_close(changed[..., :16], plain[..., ::2], atol=1e-5, rtol=0)
    source.stretches = True
    torch.testing.assert_close(data.spectrograms(np.arange(5), draws=draws), plain)


def test_predictions_do_not_depend_on_the_batch_and_leave_the_model_alone():
    data, model = data_of(Shapes()), tiny_model()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = predict(model, data, np.arange(10))
    assert (logits.shape, logits.dtype) == ((10, 4), np.float32)
    np.testing.assert_allclose(predict(model, data, np.arange(10), batch_size=3), logits, atol=1e-5)
    assert same(before, model.state_dict())
    assert predict(model, data, np.arange(0)).shape == (0, 4)


def test_class_weights_reach_the_loss(tiny):
    source = Shapes()
    rows = np.flatnonzero((source.labels == 0) | (np.arange(64) < 8))
    losses = {}
    for kind in ("none", "balanced"):
        recipe = tiny(f"training.class_weights={kind}", "training.epochs=1", "training.batch_size=4096")
        recipe = recipe.model_copy(update={"augment": STILL})
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
        before = model(data_of(source).spectrograms(rows)).detach()
        targets = torch.from_numpy(source.labels[rows])
        each = nn.functional.cross_entropy(before, targets, reduction="none")
        counts = torch.bincount(targets)
        weights = torch.ones(4) if kind == "none" else len(rows) / (4 * counts)
        losses[kind] = fit(model, data_of(source), rows, recipe=recipe, seed=0).history[0]["loss"]
        assert losses[kind] == pytest.approx(float((each * weights[targets]).mean()), rel=0.02)
    assert losses["none"] != pytest.approx(losses["balanced"], rel=0.05)
