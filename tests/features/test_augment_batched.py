"""Draws as tensors: held to `apply`, which does the same with one matrix an example, and free of looks at values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from earsight.features.augment import BatchedDraws, apply, apply_batched, batch_draws, draw
from earsight.recipe import Augment

CPU = torch.device("cpu")
SILENCE = torch.tensor([-3.0, -2.0, -1.0])[:, None] + torch.linspace(0, 1, 16)


def spectrograms(batch, frames=40, bands=16):
    return torch.from_numpy(np.random.default_rng(batch).normal(size=(batch, 3, bands, frames)).astype(np.float32))


def packed(draws, rows=None, semitones=(-2, -1, 0, 1, 2)):
    rows = np.arange(len(draws.speed)) if rows is None else rows
    return batch_draws([(rows, draws)], semitones=semitones, device=CPU)


@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 9),
    frames=st.integers(16, 70),
    stretch=st.tuples(st.floats(0.5, 1.0), st.floats(1.0, 2.0)),
    masks=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    mixup=st.sampled_from([0.0, 0.3, 1.0]),
    probability=st.sampled_from([0.0, 0.5, 1.0]),
    shift=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_it_is_what_the_matrices_do(seed, batch, frames, stretch, masks, mixup, probability, shift):
    augment = Augment(
        stretch=stretch,
        time_masks=masks[0],
        band_masks=masks[1],
        mixup=mixup,
        probability=probability,
        shift=shift,
    )
    draws = draw(augment, batch=batch, generator=np.random.default_rng(seed))
    given = spectrograms(batch, frames)
    expected = apply(given.clone(), draws, silence=SILENCE)
    torch.testing.assert_close(apply_batched(given, packed(draws), silence=SILENCE), expected, atol=1e-5, rtol=0)


def test_examples_without_a_change_keep_every_bit():
    draws = draw(Augment(probability=0.0), batch=5, generator=np.random.default_rng(0))
    given = spectrograms(5)
    assert torch.equal(apply_batched(given, packed(draws), silence=SILENCE), given)


def test_batches_are_packed_one_after_the_other():
    generator, augment = np.random.default_rng(0), Augment(probability=1.0, time_masks=2, band_masks=1)
    parts = [(np.array(rows), draw(augment, batch=len(rows), generator=generator)) for rows in ([7, 3, 9], [1, 0])]
    whole = batch_draws(parts, semitones=(-2, -1, 0, 1, 2), device=CPU)
    assert whole.whole[:, 0].tolist() == [7, 3, 9, 1, 0]
    for start, (rows, draws) in zip((0, 3), parts, strict=True):
        part = whole[start : start + len(rows)]
        assert (np.array([-2, -1, 0, 1, 2])[part.whole[:, 1]] == draws.semitones).all()
        given = spectrograms(len(rows))
        torch.testing.assert_close(
            apply_batched(given, part, silence=SILENCE), apply(given, draws, silence=SILENCE), atol=1e-5, rtol=0
        )
        np.testing.assert_allclose(part.share, draws.share, rtol=1e-6)


def test_what_was_recorded_with_some_draws_replays_with_others():
    """A trace without values: a look at one would end it, and a branch taken on one would show in the replay."""
    generator = np.random.default_rng(0)
    calm, wild = (draw(Augment(probability=probability), batch=6, generator=generator) for probability in (0.0, 1.0))

    def work(given, whole, real):
        return apply_batched(given, BatchedDraws(whole, real, time_masks=1), silence=SILENCE)

    first = packed(calm)
    recorded = make_fx(work, tracing_mode="fake", _allow_non_fake_inputs=True)(spectrograms(6), first.whole, first.real)
    second = packed(wild)
    found = recorded(spectrograms(6), second.whole, second.real)
    torch.testing.assert_close(found, apply(spectrograms(6), wild, silence=SILENCE), atol=1e-5, rtol=0)


def test_a_look_at_a_value_would_be_seen():
    def work(given):
        return given if float(given.sum()) > 0 else -given

    with pytest.raises(GuardOnDataDependentSymNode):
        make_fx(work, tracing_mode="fake")(spectrograms(2))
