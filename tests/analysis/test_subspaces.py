"""SVCCA and CKA against their definitions on whole matrices, scikit-learn, and what theory says of noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA

from earsight.analysis.subspaces import Covariances, Likeness, chance, likeness
from earsight.errors import DataError


def gathered(x: np.ndarray, y: np.ndarray, *, cuts: tuple[int, ...] = ()) -> Covariances:
    out = Covariances(x.shape[1], y.shape[1])
    for ours, theirs in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        out.add(ours, theirs)
    return out


def found(x: np.ndarray, y: np.ndarray, **more: float) -> Likeness:
    return likeness(gathered(x, y), **more)


def mixed(generator: np.random.Generator, rows: int, dimensions: int, shared: np.ndarray) -> np.ndarray:
    """Features that are partly those of ``shared``, with variances that fall over three decades."""
    raw = shared @ generator.normal(size=(shared.shape[1], dimensions)) + generator.normal(size=(rows, dimensions))
    return raw * np.logspace(0, -1.5, dimensions) + generator.normal(size=dimensions)


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """SVCCA from the singular value decompositions of whole matrices, as the paper says it."""
    bases = []
    for raw in (x, y):
        u, s, _ = np.linalg.svd(raw - raw.mean(axis=0), full_matrices=False)
        share = np.cumsum(s**2) / np.sum(s**2)
        bases.append(u[:, : int(np.argmax(share >= 0.99)) + 1])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


@given(seed=st.integers(0, 10**6), p=st.integers(1, 12), q=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_it_is_the_definition(seed, p, q):
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(120, 3))
    x, y = (mixed(generator, 120, size, shared) for size in (p, q))
    result = found(x, y)
    assert result.svcca == pytest.approx(by_definition(x, y), abs=1e-9)
    assert result.kept == tuple(int(PCA(0.99, svd_solver="full").fit(raw).n_components_) for raw in (x, y))
    assert result.rows == 120


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(400, 4))
    x, y = mixed(generator, 400, 7, shared), mixed(generator, 400, 5, shared)
    parts = [PCA(0.99, svd_solver="full").fit_transform(raw) for raw in (x, y)]
    size = min(part.shape[1] for part in parts)
    ours, theirs = CCA(size, max_iter=20000, tol=1e-12).fit(*parts).transform(*parts)
    expected = np.mean([np.corrcoef(ours[:, i], theirs[:, i])[0, 1] for i in range(size)])
    assert found(x, y).svcca == pytest.approx(expected, abs=1e-4)


@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 90), max_size=8))
@settings(max_examples=40, deadline=None)
def test_blocks_are_the_whole(seed, cuts):
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(90, 2))
    # Large means, which a sum of squares in one go would lose the variances in.
    x, y = (mixed(generator, 90, size, shared) + 1e6 for size in (4, 6))
    whole, parts = gathered(x, y), gathered(x, y, cuts=tuple(sorted(cuts)))
    full = np.cov(np.hstack([x, y]).T) * 89
    for covariances in (whole, parts):
        np.testing.assert_allclose(covariances.xx, full[:4, :4], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(covariances.xy, full[:4, 4:], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(covariances.yy, full[4:, 4:], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(covariances.x_mean, x.mean(axis=0), rtol=1e-12)
        assert covariances.rows == 90
    assert likeness(parts).svcca == pytest.approx(likeness(whole).svcca, abs=1e-6)
    assert likeness(parts).cka == pytest.approx(likeness(whole).cka, abs=1e-6)


def test_equal_features_are_one():
    x = mixed(np.random.default_rng(0), 200, 9, np.zeros((200, 1)))
    result = found(x, x)
    assert result.svcca == pytest.approx(1, abs=1e-9)
    assert result.cka == pytest.approx(1, abs=1e-12)
    assert result.kept[0] < 9


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_invertible_maps_of_the_kept_subspace_change_nothing(seed):
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(300, 6))
    other = mixed(generator, 300, 8, latent)
    # Six directions, none of which a map of condition 3 brings below the hundredth that may be dropped.
    turn, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    back, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    moved = latent @ (turn * generator.uniform(1, 3, size=6)) @ back + generator.normal(size=6)
    spread = moved @ np.linalg.qr(generator.normal(size=(20, 6)))[0].T  # and embedded among twenty neurons
    assert found(spread, other).kept[0] == 6
    assert found(spread, other).svcca == pytest.approx(found(latent, other).svcca, abs=1e-9)
    assert found(latent, spread).svcca == pytest.approx(1, abs=1e-9)
    # CKA is for rotations and one scale alone, as its authors mean it to be.
    assert found(7 * latent @ turn, other).cka == pytest.approx(found(latent, other).cka, abs=1e-9)


@pytest.mark.parametrize(("p", "q", "rows"), [(40, 60, 2000), (60, 40, 2000), (30, 30, 300), (5, 200, 1000)])
def test_independent_noise_shows_what_theory_says(p, q, rows):
    generator = np.random.default_rng([p, q, rows])
    result = found(generator.normal(size=(rows, p)), generator.normal(size=(rows, q)), variance=1.0)
    assert result.kept == (p, q)
    assert result.svcca == pytest.approx(result.chance, abs=0.012)
    assert result.chance == chance(p, q, rows=rows)
    # The mean square is known exactly (the larger dimension over rows - 1), and a mean is at most its root.
    root = np.sqrt(max(p, q) / (rows - 1))
    assert 0.8 * root < result.chance < root


def test_chance_at_its_ends():
    assert chance(1, 1, rows=10**9) < 1e-4
    assert chance(50, 50, rows=100) == 1.0
    assert chance(50, 49, rows=110) < 1.0
    assert chance(10, 20, rows=500) == chance(20, 10, rows=500)


def test_cka_is_that_of_gram_matrices():
    generator = np.random.default_rng(5)
    x, y = mixed(generator, 60, 8, np.zeros((60, 1))), mixed(generator, 60, 5, np.zeros((60, 1)))
    centre = np.eye(60) - 1 / 60
    grams = [centre @ raw @ raw.T @ centre for raw in (x, y)]
    hsic = [np.sum(a * b) for a, b in ((grams[0], grams[1]), (grams[0], grams[0]), (grams[1], grams[1]))]
    assert found(x, y).cka == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), abs=1e-12)


def test_too_few_rows_give_no_value():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(21, 10)), generator.normal(size=(21, 10))
    few = found(x, y, variance=1.0)
    assert few.svcca is None
    assert few.chance == 1.0
    more = found(np.vstack([x, x[:1] + 1]), np.vstack([y, y[:1]]), variance=1.0)
    assert more.svcca is not None


def test_directions_of_rounding_are_not_kept():
    x = np.random.default_rng(0).normal(size=(100, 3))
    doubled = np.hstack([x, x])
    assert found(doubled, doubled, variance=1.0).kept == (3, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value):
    x = np.ones((4, 2))
    x[2, 1] = value
    with pytest.raises(DataError, match="not finite"):
        Covariances(2, 2).add(np.ones((4, 2)), x)


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_what_does_not_vary_is_refused(rows):
    covariances = gathered(np.full((rows, 3), 2.5), np.random.default_rng(0).normal(size=(rows, 3)))
    with pytest.raises(DataError, match="the same for every clip"):
        likeness(covariances)
