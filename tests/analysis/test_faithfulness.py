"""Deletion and insertion curves that are known beforehand, and planted evidence that they must find."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from earsight.analysis.attribution import integrated_gradients
from earsight.analysis.faithfulness import TILE_BANDS, TILE_SECONDS, Curves, measure_curves, tiles, verdict
from earsight.analysis.time_axis import column_seconds

SHAPE = (1, 3, 64, 40)


@pytest.fixture(scope="module")
def tile_of(front_end):
    return tiles(front_end)


def test_tiles_are_bands_by_moments_in_every_channel(front_end, tile_of):
    assert tile_of.shape == (3, 64, 40)
    across = 5  # 0.5 s
    assert set(np.unique(tile_of)) == set(range(across * 64 // TILE_BANDS))
    for window in range(3):
        moments = np.floor(column_seconds(front_end, window=window).clip(0, 0.4999) / TILE_SECONDS)
        np.testing.assert_array_equal(tile_of[window] % across, np.broadcast_to(moments, (64, 40)))
        np.testing.assert_array_equal(tile_of[window] // across, (np.arange(64) // TILE_BANDS)[:, None].repeat(40, 1))


def curves_of(weights, tile_of, maps, **settings):
    """Curves where the probability is the weighted share of the spectrogram's cells that are not silent."""
    shares = torch.from_numpy(weights / weights.sum()).float()
    return measure_curves(
        lambda spectrograms: (spectrograms * shares).sum(dim=(1, 2, 3)),
        torch.ones(SHAPE),
        silence=torch.zeros(SHAPE),
        tile_of=tile_of,
        maps=maps,
        **settings,
    )


def test_curves_of_a_class_that_needs_every_cell_alike(tile_of):
    by_tile = 1 / np.bincount(tile_of.ravel())[tile_of]
    found = curves_of(by_tile, tile_of, {"any": np.random.default_rng(0).normal(size=(3, 64, 40))}, points=10)
    np.testing.assert_allclose(found.deletion["any"], 1 - found.shares, atol=1e-5)
    np.testing.assert_allclose(found.insertion["any"], found.shares, atol=1e-5)
    np.testing.assert_allclose(found.random_deletion, np.tile(1 - found.shares, (10, 1)), atol=1e-5)
    for kind in ("deletion", "insertion"):
        assert found.areas(kind).ranked["any"] == pytest.approx(0.5, abs=1e-5)


def test_curves_of_a_class_that_needs_a_few_tiles(tile_of):
    used = np.isin(tile_of, [3, 7, 20, 21])  # 4 of 40 tiles
    by_tile = np.where(used, 1 / np.bincount(tile_of.ravel())[tile_of], 0.0)
    found = curves_of(by_tile, tile_of, {"right": used * 5.0, "wrong": -1.0 * used}, points=40, seed=3)
    share = found.shares
    np.testing.assert_allclose(found.deletion["right"], np.maximum(0, 1 - 10 * share), atol=1e-5)
    np.testing.assert_allclose(found.insertion["right"], np.minimum(1, 10 * share), atol=1e-5)
    np.testing.assert_allclose(found.deletion["wrong"], np.minimum(1, 10 - 10 * share), atol=1e-5)
    deletion, insertion = found.areas("deletion"), found.areas("insertion")
    assert deletion.ranked["right"] == pytest.approx(0.05, abs=1e-4)
    assert insertion.ranked["right"] == pytest.approx(0.95, abs=1e-4)
    assert deletion.ranked["right"] < deletion.low < deletion.random.mean() < deletion.high < deletion.ranked["wrong"]
    assert deletion.random.mean() == pytest.approx(0.5, abs=0.1)
    assert verdict(found, "right", rival="wrong") == (
        "Believe the right: better than random orders in deletion and insertion, "
        "better than wrong first in deletion and insertion."
    )
    assert verdict(found, "wrong", rival="right") == (
        "Do not believe the wrong: better than random orders in neither curve, "
        "better than right first in neither curve."
    )


def test_one_curve_that_convinces_is_told_apart(tile_of):
    flat, steep = np.linspace(1, 0, 5), np.array([1, 0, 0, 0, 0.0])
    random = np.linspace(1, 0, 5) + np.array([[0.01], [-0.01], [0.0]])
    found = Curves(np.linspace(0, 1, 5), {"a": steep, "b": flat}, {"a": flat, "b": flat}, random, random)
    assert verdict(found, "a", rival="b") == (
        "Believe with care the a: better than random orders in deletion alone, better than b first in deletion alone."
    )


def test_the_interval_of_random_orders_is_that_of_one_more(tile_of):
    weights = np.random.default_rng(1).random((3, 64, 40)) ** 8
    areas = curves_of(weights, tile_of, {"any": weights}, random_orders=6).areas("deletion")
    spread = areas.random.std(ddof=1) * np.sqrt(1 + 1 / 6)
    assert (areas.low, areas.high) == pytest.approx(stats.t.interval(0.95, 5, loc=areas.random.mean(), scale=spread))
    assert len(areas.random) == 6


def test_the_seed_decides_the_random_orders_alone(tile_of):
    weights = np.random.default_rng(1).random((3, 64, 40)) ** 8
    first, again, other = (curves_of(weights, tile_of, {"any": weights}, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.random_deletion, again.random_deletion)
    assert not np.array_equal(first.random_deletion, other.random_deletion)
    np.testing.assert_array_equal(first.deletion["any"], other.deletion["any"])


def test_one_window_is_one_channel():
    one = np.arange(64 * 40).reshape(1, 64, 40) // 256
    sizes = []

    def probability(spectrograms):
        sizes.append(spectrograms.shape)
        return spectrograms.mean(dim=(1, 2, 3))

    found = measure_curves(
        probability,
        torch.ones(1, 1, 64, 40),
        silence=torch.zeros(1, 1, 64, 40),
        tile_of=one,
        maps={"a": one},
        points=20,
    )
    np.testing.assert_allclose(found.deletion["a"], 1 - found.shares, atol=1e-6)
    assert {shape[1:] for shape in sizes} == {(1, 64, 40)}
    assert max(shape[0] for shape in sizes) <= 16


class LooksAtOnePlace(nn.Module):
    """Two classes, told apart by a curved function of one region and nothing else."""

    def forward(self, spectrograms):
        evidence = spectrograms[:, :2, :, :20].mean(dim=(1, 2, 3))
        score = 6 * torch.tanh(4 * (evidence - 0.5))
        return torch.stack([-score, score], dim=1)


def test_planted_evidence_is_found_and_believed(tile_of):
    generator = torch.Generator().manual_seed(0)
    spectrogram = torch.rand(SHAPE, generator=generator) + 0.5
    silence = torch.zeros(SHAPE)
    spectrogram[:, :, 40:, 25:] += 2  # the loudest place says nothing
    network = LooksAtOnePlace()
    found = integrated_gradients(network, spectrogram, silence=silence, target=1)
    inside = np.zeros((3, 64, 40), dtype=bool)
    inside[:2, :, :20] = True
    assert found.complete
    assert np.abs(found.values[~inside]).max() == 0
    assert (found.values[inside] > 0).all()
    curves = measure_curves(
        lambda spectrograms: torch.softmax(network(spectrograms), dim=1)[:, 1],
        spectrogram,
        silence=silence,
        tile_of=tile_of,
        maps={"attribution": found.values, "loudest": spectrogram[0].numpy()},
    )
    deletion, insertion = curves.areas("deletion"), curves.areas("insertion")
    assert deletion.ranked["attribution"] < min(deletion.low - 0.05, deletion.random.mean() - 0.2)
    assert insertion.ranked["attribution"] > max(insertion.high + 0.05, insertion.random.mean() + 0.2)
    assert verdict(curves, "attribution", rival="loudest").startswith("Believe the attribution: ")
    content = curves.to_dict()
    assert content["deletion"]["area"] == deletion.ranked
    assert len(content["shares"]) == len(content["insertion"]["curves"]["loudest"]) == 21
