"""Planted attributions give the numbers that they must, and the sums agree with scipy's and with plain loops."""

import numpy as np
import pytest
from scipy import stats

from earsight.analysis import boundaries
from earsight.analysis.boundaries import NAMES, bootstrap_mean, measure_clip
from earsight.features.filterbanks import FLOOR

SHAPE = (3, 32, 100)


def draw(seed=0):
    """A spectrogram of smooth hills in noise, all of it above silence."""
    random = np.random.default_rng(seed)
    bands, columns = np.mgrid[:32, :100]
    spectrogram = np.zeros(SHAPE)
    for _ in range(6):
        band, column, width = random.integers(32), random.integers(100), random.uniform(3, 8)
        spectrogram += 8 * np.exp(-((bands - band) ** 2 + (columns - column) ** 2) / (2 * width**2))
    return spectrogram - 6 + 0.3 * random.standard_normal(SHAPE)


def change(spectrogram):
    return np.stack([np.hypot(*np.gradient(channel)) for channel in spectrogram])


def test_attributions_on_what_changes():
    spectrogram = draw()
    found = measure_clip(-change(spectrogram), spectrogram)["attribution"]
    assert set(found.observed) == set(found.shifted) == set(NAMES)
    for kind in ("spearman", "pearson"):
        assert found.observed[f"{kind}_gradient"] == pytest.approx(1)
        assert found.observed[f"{kind}_gradient_given_energy"] == pytest.approx(1)
        assert abs(found.shifted[f"{kind}_gradient_given_energy"]) < 0.15
        assert abs(found.observed[f"{kind}_energy_given_gradient"]) < 1e-6


def test_attributions_on_what_is_loud():
    spectrogram = draw()
    found = measure_clip((spectrogram - FLOOR) ** 2, spectrogram)
    assert found["attribution"].observed["spearman_energy"] == pytest.approx(1)
    assert abs(found["attribution"].observed["spearman_gradient_given_energy"]) < 1e-5
    # Divided by the height above silence, it is that height.
    assert found["sensitivity"].observed["pearson_energy"] == pytest.approx(1)
    uneven = measure_clip((spectrogram - FLOOR) * change(spectrogram), spectrogram)
    assert uneven["sensitivity"].observed["pearson_gradient"] == pytest.approx(1)
    assert uneven["attribution"].observed["pearson_gradient"] < 0.99


def test_attributions_that_know_nothing():
    spectrogram = draw()
    found = measure_clip(np.random.default_rng(9).standard_normal(SHAPE), spectrogram)["attribution"]
    for name in NAMES:
        wanted = 1.0 if name.startswith("density") else 0.0
        assert found.observed[name] == pytest.approx(wanted, abs=0.06)
        assert found.shifted[name] == pytest.approx(wanted, abs=0.03)


def test_correlations_are_scipys_and_partial_ones_are_those_of_residuals():
    spectrogram = draw(1)
    values = np.random.default_rng(2).standard_normal(SHAPE) * (1 + change(spectrogram)) * (spectrogram - FLOOR)
    found = measure_clip(values, spectrogram)["attribution"].observed
    by_channel = {name: [] for name in NAMES}
    for channel, power in zip(values, spectrogram, strict=True):
        size, edges, loud = np.abs(channel).ravel(), np.hypot(*np.gradient(power)).ravel(), power.ravel()
        for kind, form in (("spearman", stats.rankdata), ("pearson", np.asarray)):
            a, g, e = (form(cells) for cells in (size, edges, loud))
            by_channel[f"{kind}_gradient"].append(stats.pearsonr(a, g)[0])
            by_channel[f"{kind}_energy"].append(stats.pearsonr(a, e)[0])
            left = [cells - np.polyval(np.polyfit(e, cells, 1), e) for cells in (a, g)]
            by_channel[f"{kind}_gradient_given_energy"].append(stats.pearsonr(*left)[0])
            left = [cells - np.polyval(np.polyfit(g, cells, 1), g) for cells in (a, e)]
            by_channel[f"{kind}_energy_given_gradient"].append(stats.pearsonr(*left)[0])
        assert by_channel["spearman_gradient"][-1] == pytest.approx(stats.spearmanr(size, edges)[0])
    for name, channels in by_channel.items():
        if channels:
            assert found[name] == pytest.approx(np.mean(channels), abs=1e-6), name


def test_chance_is_the_mean_over_all_far_shifts():
    spectrogram, values = draw(3), np.abs(np.random.default_rng(4).standard_normal(SHAPE))
    found = measure_clip(values, spectrogram)["attribution"].shifted
    wanted = [
        np.mean(
            [
                stats.pearsonr(np.roll(size, by, axis=1).ravel(), np.hypot(*np.gradient(power)).ravel())[0]
                for size, power in zip(values, spectrogram, strict=True)
            ]
        )
        for by in range(10, 91)
    ]
    assert found["pearson_gradient"] == pytest.approx(np.mean(wanted), abs=1e-9)


def test_moving_on_a_ring_is_a_roll():
    random = np.random.default_rng(0)
    moved, fixed = random.normal(size=(5, 13)), random.normal(size=(5, 13))
    wanted = [(np.roll(moved, by, axis=1) * fixed).mean() for by in range(13)]
    np.testing.assert_allclose(boundaries._circular_correlation(moved, fixed), wanted, atol=1e-12)


def test_densities_of_a_loud_block():
    spectrogram = np.full(SHAPE, -8.0) + 0.01 * np.random.default_rng(0).standard_normal(SHAPE)
    block = np.zeros(SHAPE, dtype=bool)
    block[:, 6:26, 30:70] = True  # a quarter of the cells
    spectrogram[block] += 10
    edge = np.zeros(SHAPE)
    edge[:, 6:26, 30:70] = 1
    edge[:, 7:25, 31:69] = 0
    found = measure_clip(edge + 1e-9 * spectrogram, spectrogram)["attribution"]
    inner, outer = 18 * 38, 22 * 42
    ring = (outer - inner) / (32 * 100)
    assert found.observed["density_boundary"] == pytest.approx(1 / ring, rel=1e-6)
    assert found.observed["density_inside"] == pytest.approx(0, abs=1e-6)
    assert found.observed["density_outside"] == pytest.approx(0, abs=1e-6)
    assert found.shifted["density_boundary"] < 0.5 / ring
    filled = measure_clip(block * 1.0 + 1e-9 * spectrogram, spectrogram)["attribution"]
    assert filled.observed["density_inside"] == pytest.approx(4, rel=1e-6)


def test_columns_of_silence_do_not_count():
    spectrogram, values = draw(5), np.random.default_rng(6).standard_normal(SHAPE)
    wide = np.full((3, 32, 160), FLOOR)
    wide[:, :, :100] = spectrogram
    more = np.zeros((3, 32, 160))
    more[:, :, :100] = values
    alone, with_silence = measure_clip(values, spectrogram), measure_clip(more, wide)
    for kind in ("attribution", "sensitivity"):
        for name in NAMES:
            # The last column with sound has a steep edge to the silence after it, which moves plain correlations.
            reach = 0.1 if name.startswith("pearson") else 0.03
            assert with_silence[kind].observed[name] == pytest.approx(alone[kind].observed[name], abs=reach), name


@pytest.mark.parametrize("columns", [0, 19])
def test_too_little_sound_is_left_out(columns):
    spectrogram = np.full(SHAPE, FLOOR)
    spectrogram[:, :, :columns] = draw()[:, :, :columns]
    assert measure_clip(np.ones(SHAPE), spectrogram) is None
    assert measure_clip(np.zeros(SHAPE), draw()) is None


def test_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(2.0, 0.5, size=200)
    found = bootstrap_mean(values)
    reach = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - reach, abs=0.006)
    assert found.high == pytest.approx(values.mean() + reach, abs=0.006)
    assert bootstrap_mean(values) == found
