"""Draws and what they do: properties of the stretch, masks, mixup, and that a draw replays."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earsight.features.augment import Draws, apply, draw, mix_targets, one_hot, pitch_steps, stretch_matrix
from earsight.recipe import Augment

SPEEDS = st.floats(0.5, 2.0)
UNIT = st.floats(0.0, 1.0, exclude_max=True)
FRAMES = st.integers(16, 120)
SILENCE = torch.tensor([-3.0, -2.0, -1.0])[:, None] + torch.arange(16) / 16


def matrix(speed, *, frames, place=0.0, roll=0.0):
    return stretch_matrix(np.array([speed]), place=np.array([place]), roll=np.array([roll]), frames=frames)[0].double()


def neutral(batch, **changes):
    fields = {
        "semitones": np.zeros(batch, dtype=np.int64),
        "speed": np.ones(batch),
        "place": np.full(batch, 0.3),
        "roll": np.zeros(batch),
        "time_masks": np.zeros((batch, 0, 2)),
        "band_masks": np.zeros((batch, 0, 2)),
        "partner": np.arange(batch)[::-1].copy(),
        "share": np.ones(batch),
    }
    return Draws(**{**fields, **changes})


def spectrograms(batch=4, bands=16, frames=40, seed=0):
    return torch.randn(batch, 3, bands, frames, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    return all(np.array_equal(getattr(first, f.name), getattr(second, f.name)) for f in dataclasses.fields(Draws))


@given(frames=FRAMES, place=UNIT)
def test_speed_one_and_no_roll_is_the_identity(frames, place):
    assert torch.equal(matrix(1.0, frames=frames, place=place), torch.eye(frames, dtype=torch.float64))


@settings(deadline=None)
@given(speed=SPEEDS, place=UNIT, roll=UNIT, frames=FRAMES)
def test_every_column_weighs_one_or_nothing(speed, place, roll, frames):
    weights = matrix(speed, frames=frames, place=place, roll=roll)
    sums = weights.sum(dim=0)
    assert (weights >= 0).all()
    assert ((sums - 1).abs() < 1e-6).logical_or(sums == 0).all()


@settings(deadline=None)
@given(speed=SPEEDS, place=UNIT, frames=FRAMES)
def test_a_ramp_rises_at_the_speed(speed, place, frames):
    weights = matrix(speed, frames=frames, place=place)
    read = (torch.arange(frames, dtype=torch.float64) @ weights)[weights.sum(dim=0) > 0.5]
    np.testing.assert_allclose(np.diff(read), speed, atol=1e-4)
    # A slower sound is cropped at the drawn place, and never leaves room.
    if speed <= 1:
        assert len(read) == frames
        assert float(read[0]) == pytest.approx(place * (frames - 1) * (1 - speed), abs=1e-3)


@settings(deadline=None)
@given(roll=UNIT, frames=FRAMES)
def test_the_roll_is_circular_and_forwards(roll, frames):
    values = torch.arange(frames, dtype=torch.float64)
    rolled = values @ matrix(1.0, frames=frames, roll=roll)
    assert torch.equal(rolled, torch.roll(values, int(roll * frames)))


@settings(deadline=None)
@given(speed=st.floats(1.0, 2.0), place=UNIT, frames=FRAMES)
def test_a_faster_sound_leaves_its_share_of_columns_empty(speed, place, frames):
    wanted = frames * (1 - 1 / speed)
    empty = matrix(speed, frames=frames, place=place).sum(dim=0) == 0
    assert abs(int(empty.sum()) - wanted) < 1 / speed + 1
    at_start = matrix(speed, frames=frames).sum(dim=0) == 0
    assert abs(int(at_start.sum()) - wanted) < 1
    # One piece of sound: it begins once and ends once.
    edges = np.diff(np.concatenate([[1], empty.numpy().astype(int), [1]]))
    assert (edges == -1).sum() == 1


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
def test_a_sound_keeps_its_own_time_scale(speed):
    frames, first, second = 100, 40, 60
    weights = matrix(speed, frames=frames, place=0.5)
    columns = np.arange(frames)
    places = [float((weights[row] * torch.from_numpy(columns)).sum() / weights[row].sum()) for row in (first, second)]
    assert places[1] - places[0] == pytest.approx((second - first) / speed, abs=1.01)


def test_draws_come_from_the_generator_alone():
    section = Augment()
    first = draw(section, batch=50, generator=np.random.default_rng([1, 2]))
    np.random.default_rng(9).random()
    assert same(first, draw(section, batch=50, generator=np.random.default_rng([1, 2])))
    assert not same(first, draw(section, batch=50, generator=np.random.default_rng([1, 3])))


def test_draws_lie_in_their_ranges():
    section = Augment(
        pitch_semitones=3,
        stretch=(0.8, 1.5),
        time_masks=2,
        band_masks=3,
        time_mask_fraction=0.2,
        band_mask_fraction=0.4,
    )
    found = draw(section, batch=4000, generator=np.random.default_rng(0))
    assert set(found.semitones) == set(range(-3, 4)) == set(pitch_steps(section))
    assert 0.8 <= found.speed.min() < 0.81 < 1.49 < found.speed.max() <= 1.5
    assert 0 <= found.roll.min() < 0.01 < 0.99 < found.roll.max() < 1
    assert 0 <= found.place.min() < 0.01 < 0.99 < found.place.max() < 1
    for masks, count, fraction in ((found.time_masks, 2, 0.2), (found.band_masks, 3, 0.4)):
        width = masks[..., 1] - masks[..., 0]
        assert masks.shape == (4000, count, 2)
        assert masks.min() >= 0
        assert masks.max() <= 1 + 1e-12
        assert 0 <= width.min() < 0.01
        assert 0.98 * fraction < width.max() <= fraction + 1e-12
    assert 0.5 <= found.share.min() < 0.55
    assert found.share.max() <= 1
    assert sorted(found.partner) == list(range(4000))


def test_probability_zero_changes_nothing():
    found = draw(Augment(probability=0.0, mixup=1.0), batch=8, generator=np.random.default_rng(0))
    batch = spectrograms(8)
    assert (found.semitones == 0).all()
    assert (found.share == 1).all()
    torch.testing.assert_close(apply(batch, found, silence=SILENCE), batch, atol=1e-6, rtol=0)


def test_probability_is_the_share_that_is_changed():
    found = draw(Augment(probability=0.3), batch=5000, generator=np.random.default_rng(0))
    plain = (found.speed == 1) & (found.roll == 0) & (found.semitones == 0) & (found.share == 1)
    plain &= (found.time_masks[..., 1] == found.time_masks[..., 0]).all(axis=1)
    assert plain.mean() == pytest.approx(0.7, abs=0.03)
    assert (found.speed != 1).mean() == pytest.approx(0.3, abs=0.03)


def test_switches_turn_each_change_off():
    section = Augment(shift=False, mixup=0.0, time_masks=0, band_masks=0, pitch_semitones=0, stretch=(1.0, 1.0))
    batch = spectrograms(8)
    found = draw(section, batch=8, generator=np.random.default_rng(0))
    torch.testing.assert_close(apply(batch, found, silence=SILENCE), batch, atol=1e-6, rtol=0)
    assert pitch_steps(section) == (0,)
    assert pitch_steps(Augment(backend="waveform", pitch_semitones=2)) == (0,)


def test_neutral_draws_are_the_identity_and_leave_the_input_alone():
    batch = spectrograms()
    before = batch.clone()
    torch.testing.assert_close(apply(batch, neutral(4), silence=SILENCE), before, atol=1e-6, rtol=0)
    assert torch.equal(batch, before)


def test_masks_are_zero_exactly_where_drawn():
    time, bands = np.array([[[0.25, 0.5], [0.9, 1.0]]]), np.array([[[0.0, 0.125], [0.5, 0.5]]])
    out = apply(
        torch.full((1, 3, 16, 40), 2.0), neutral(1, time_masks=time, band_masks=bands), silence=SILENCE, stretch=False
    )
    expected = torch.full((16, 40), 2.0)
    expected[:, 10:20] = expected[:, 36:] = 0
    expected[:2] = 0
    assert torch.equal(out, expected.expand(1, 3, 16, 40))


def test_each_example_has_its_own_masks():
    time = np.array([[[0.0, 0.5]], [[0.5, 1.0]]])
    out = apply(torch.ones(2, 3, 16, 40), neutral(2, time_masks=time), silence=SILENCE)
    assert (out[0, :, :, :20] == 0).all()
    assert (out[0, :, :, 20:] == 1).all()
    assert (out[1, :, :, 20:] == 0).all()
    assert (out[1, :, :, :20] == 1).all()


def test_room_that_a_faster_sound_leaves_is_silent_in_each_channel():
    out = apply(torch.zeros(1, 3, 16, 40) + 5, neutral(1, speed=np.array([2.0]), place=np.zeros(1)), silence=SILENCE)
    assert (out[..., :20] == 5).all()
    torch.testing.assert_close(out[0, :, :, 20:], SILENCE[:, :, None].expand(3, 16, 20), atol=1e-6, rtol=0)


def test_without_stretch_only_masks_and_mixup_are_left():
    batch = spectrograms()
    draws = neutral(4, speed=np.full(4, 1.5), roll=np.full(4, 0.5))
    assert torch.equal(apply(batch, draws, silence=SILENCE, stretch=False), batch)
    assert not torch.equal(apply(batch, draws, silence=SILENCE), batch)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0.05, 4))
def test_spectrograms_and_targets_are_mixed_in_the_same_shares(seed, alpha):
    generator = np.random.default_rng(seed)
    found = draw(Augment(mixup=alpha), batch=6, generator=generator)
    mixing = neutral(6, partner=found.partner, share=found.share)
    labels = generator.integers(0, 5, 6)
    levels = torch.tensor([-2.0, 0.5, 1.0, 7.0, 20.0])
    constant = levels[torch.from_numpy(labels)][:, None, None, None].expand(6, 3, 16, 40)
    mixed = apply(constant, mixing, silence=SILENCE)
    targets = mix_targets(one_hot(labels, classes=5), found)
    torch.testing.assert_close(mixed[:, 0, 0, 0], targets @ levels, atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    # The label that an example shows most is its own.
    assert (targets.gather(1, torch.from_numpy(labels)[:, None])[:, 0] >= 0.5 - 1e-6).all()


def test_a_draw_replays():
    found = draw(Augment(), batch=4, generator=np.random.default_rng(3))
    batch = spectrograms()
    first = apply(batch, found, silence=SILENCE)
    assert torch.equal(first, apply(batch, found, silence=SILENCE))
    assert not torch.allclose(first, batch)


def test_label_smoothing_is_torchs():
    labels, logits = np.array([0, 2, 1]), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    ours = torch.nn.functional.cross_entropy(logits, one_hot(labels, classes=4, smoothing=0.1))
    theirs = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.1)
    torch.testing.assert_close(ours, theirs)
