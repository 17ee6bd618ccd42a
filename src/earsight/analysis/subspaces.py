"""SVCCA and linear CKA of two sets of features, from covariances summed over blocks.

Comes in: blocks of rows of two feature matrices, (rows, dimensions of x) and (rows, dimensions of y), where row i of
both is of the same input. Goes out: correlations between 0 and 1. Memory is that of three covariance matrices in
float64, for any number of rows.

SVCCA (Raghu, Gilmer, Yosinski and Sohl-Dickstein 2017, arXiv 1706.05806): centre both; keep of each the first
directions of its singular value decomposition that explain 99 % of its variance; canonical correlations of what is
left; their mean. With X = U S V', all of it follows from the covariances: V and S² are the eigenvectors and eigenvalues
of X'X, and the canonical correlations are the singular values of Sx⁻¹ Vx' X'Y Vy Sy⁻¹.

Linear CKA (Kornblith, Norouzi, Lee and Hinton 2019, arXiv 1905.00414): |X'Y|² / (|X'X| |Y'Y|), Frobenius norms, of
centred features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earsight.errors import DataError

VARIANCE_KEPT = 0.99
_NEGLIGIBLE = 1e-12
"""Share of the greatest eigenvalue below which a direction counts as rounding error."""

_Matrix = NDArray[np.float64]


class Covariances:
    """Means and co-moments of two feature matrices, updated block by block (Chan, Golub and LeVeque 1979)."""

    def __init__(self, x_dimensions: int, y_dimensions: int) -> None:
        self.rows = 0
        self.x_mean, self.y_mean = np.zeros(x_dimensions), np.zeros(y_dimensions)
        self.xx = np.zeros((x_dimensions, x_dimensions))
        self.yy = np.zeros((y_dimensions, y_dimensions))
        self.xy = np.zeros((x_dimensions, y_dimensions))

    def add(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
        """Add some rows of both, (rows, dimensions); DataError if a value is not finite."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise DataError("an output of the network is not finite: its training diverged; train it again")
        if not len(x):
            return
        rows = self.rows + len(x)
        x_step, y_step = x.mean(axis=0) - self.x_mean, y.mean(axis=0) - self.y_mean
        # Deviations from the block's mean, and of that mean from the mean so far: no two large numbers are subtracted.
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        share = self.rows * (len(x) / rows)
        self.xx += x.T @ x + share * np.outer(x_step, x_step)
        self.yy += y.T @ y + share * np.outer(y_step, y_step)
        self.xy += x.T @ y + share * np.outer(x_step, y_step)
        self.x_mean += x_step * (len(x) / rows)
        self.y_mean += y_step * (len(x) / rows)
        self.rows = rows


@dataclass(frozen=True)
class Likeness:
    """Similarity of two sets of features.

    ``svcca`` is the mean canonical correlation of the kept directions, None where the rows are too few for it to mean
    anything; ``cka`` is linear; ``kept`` are the numbers of directions that explain 99 % of the variance, of x and of
    y; ``chance`` is the SVCCA that independent features of as many kept directions would show on as many independent
    rows.
    """

    svcca: float | None
    cka: float
    rows: int
    kept: tuple[int, int]
    chance: float


def likeness(found: Covariances, *, variance: float = VARIANCE_KEPT) -> Likeness:
    """SVCCA and linear CKA; the kept directions explain a share ``variance``. DataError if one side does not vary."""
    x_axes, x_scales = _leading(found.xx, variance)
    y_axes, y_scales = _leading(found.yy, variance)
    kept = (len(x_scales), len(y_scales))
    svcca = None
    # With fewer rows any two sets of features have perfectly correlated combinations.
    if found.rows - 1 > sum(kept):
        between = (x_axes.T @ found.xy @ y_axes) / x_scales[:, None] / y_scales
        correlations = np.linalg.svd(between, compute_uv=False)
        svcca = float(np.clip(correlations, 0, 1).mean())
    norms = float(np.linalg.norm(found.xx) * np.linalg.norm(found.yy))
    cka = float(np.linalg.norm(found.xy) ** 2 / norms)
    return Likeness(svcca=svcca, cka=min(cka, 1.0), rows=found.rows, kept=kept, chance=chance(*kept, rows=found.rows))


def chance(first: int, second: int, *, rows: int) -> float:
    """Mean canonical correlation to expect of independent features, for many rows and dimensions.

    The squares of the correlations follow the limit law of Wachter (1980, Annals of Statistics 8, 937): with shares
    a <= b of the two dimensions in the rows, density sqrt((high - l)(l - low)) / (2 pi a l (1 - l)) between
    low, high = (sqrt(a (1 - b)) -+ sqrt(b (1 - a)))². Takes the dimensions of the two and the number of independent
    rows; 1 where the rows are no more than the dimensions together.
    """
    a, b = sorted((first / max(rows - 1, 1), second / max(rows - 1, 1)))
    if a + b >= 1:
        return 1.0
    low, high = ((np.sqrt(a * (1 - b)) + sign * np.sqrt(b * (1 - a))) ** 2 for sign in (-1, 1))
    # Equal steps of the angle take the square root at both ends out of the integral.
    angles = (np.arange(2000) + 0.5) * np.pi / 2000
    squares = (low + high) / 2 + (high - low) / 2 * np.cos(angles)
    weights = np.sin(angles) ** 2 / (squares * (1 - squares))
    return float((np.sqrt(squares) * weights).sum() / weights.sum())


def _leading(covariance: _Matrix, variance: float) -> tuple[_Matrix, _Matrix]:
    """The first principal axes, (dimensions, kept), and the square roots of their eigenvalues, (kept,)."""
    values, axes = np.linalg.eigh(covariance)
    values, axes = values[::-1], axes[:, ::-1]
    if not values[0] > 0:
        raise DataError("an output of the network is the same for every clip, so nothing can be compared with it")
    real = values > _NEGLIGIBLE * values[0]
    share = np.cumsum(values[real]) / values[real].sum()
    # Up to the direction that reaches the share, inclusive, with a tolerance for rounding.
    kept = int(np.searchsorted(share, variance - 1e-12)) + 1
    return axes[:, :kept], np.sqrt(values[:kept])
