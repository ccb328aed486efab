"""What a picture shows of a mixture: ellipses, quantiles and densities of one or two features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from mpigmm.core.arrays import Indices
from mpigmm.core.covariances.full import Full
from mpigmm.core.draw import draw_rows
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

PAIRS_AT_ONCE = 2**22
"""Pairs of point and component for which log-densities are computed together."""

N_DRAWS = 4096
"""Random rows from which the levels of a density are estimated."""

CELL_DEVIATION = 0.6
"""Standard deviation of the average over a cell of a grid, in cells. The density then has no detail that the grid
misses."""

BISECTIONS = 60


def separating_features(mixture: Mixture, most: int) -> Indices:
    """Numbers, ascending, of the features that separate the components best: at most `most` of them.

    They are those with the largest share of the variance of the means in the variance of all rows.
    """
    deviations = mixture.means - mixture.weights @ mixture.means
    between = mixture.weights @ np.square(deviations)
    share = between / (between + mixture.weights @ mixture.variances)
    return np.sort(np.argsort(-share, kind="stable")[:most])


def quantile(mixture: Mixture, feature: int, share: float) -> float:
    """The value of a feature below which this share, above 0 and below 1, of the probability lies."""
    means, deviations = mixture.means[:, feature], np.sqrt(mixture.variances[:, feature])
    low, high = (means - 40 * deviations).min(), (means + 40 * deviations).max()
    for _ in range(BISECTIONS):
        middle = low + (high - low) / 2
        if mixture.weights @ ndtr((middle - means) / deviations) < share:
            low = middle
        else:
            high = middle
    return float(high)


def outlines(mixture: Mixture, radius: float, n_points: int = 73) -> FloatArray:
    """Closed ellipses (K, n_points, 2) of a mixture of two features: the points at this Mahalanobis distance.

    They are m + radius L u for unit vectors u, where m is the mean and L L^T the covariance. Unlike eigenvectors, L is
    accurate for features of very different scales. A covariance that is not positive definite gives a line.
    """
    angle = np.linspace(0, 2 * np.pi, n_points)
    covariances = mixture.covariance_matrices(np.arange(2))
    deviation = np.sqrt(covariances[:, 0, 0])
    slope = covariances[:, 0, 1] / deviation
    rest = np.sqrt(np.maximum(covariances[:, 1, 1] - slope**2, 0.0))
    across = np.outer(deviation, np.cos(angle))
    up = np.outer(slope, np.cos(angle)) + np.outer(rest, np.sin(angle))
    return mixture.means[:, None, :] + radius * np.stack([across, up], axis=-1)


def density(mixture: Mixture, points: FloatArray) -> FloatArray:
    """The density p(x) (n,) at points x (n, D)."""
    ops, found = ops_by_name(best_ops()), np.empty(len(points))
    centre = mixture.weights @ mixture.means
    e_step = EStep(mixture.e_step_inputs(centre, ops=ops))
    tile = Tile(mixture.n_features, max(1, PAIRS_AT_ONCE // mixture.n_components), ops)
    for start in range(0, len(points), tile.max_rows):
        part = slice(start, start + tile.max_rows)
        tile.fill(Rows.of(points[part]), centre, mask=False)
        found[part] = np.exp(e_step.posterior(tile)[1])
    return found


@dataclass(frozen=True, eq=False)
class DensityMap:
    """The density of a mixture of one or two features on a grid over a box, averaged over the cells of the grid.

    Attributes
    ----------
    axes : tuple of ndarray of shape (n_points,)
        The grid's values of each feature.
    values : ndarray of shape (n_points,) or (n_points, n_points)
        The density in the units of the box: its integral over a box that holds everything is one. The second feature
        changes along the first axis of the array.
    mixture : Mixture
        The mixture with this density, in the units of the box.
    """

    axes: tuple[FloatArray, ...]
    values: FloatArray
    mixture: Mixture

    @classmethod
    def of(cls, mixture: Mixture, box: FloatArray, n_points: int) -> DensityMap:
        """The density of a mixture of one or two features in a box (D, 2) of lower and upper limits."""
        averaged = in_units_of(box, mixture, CELL_DEVIATION / (n_points - 1))
        grid = np.meshgrid(*[np.linspace(0, 1, n_points)] * mixture.n_features)
        points = np.stack([values.reshape(-1) for values in grid], axis=1)
        axes = tuple(np.linspace(low, high, n_points) for low, high in box)
        return cls(axes, density(averaged, points).reshape(grid[0].shape), averaged)

    def parts(self) -> FloatArray:
        """The density of each component times its weight, (K, n_points), of a mixture of one feature."""
        deviations = np.sqrt(self.mixture.variances)
        scaled = (np.linspace(0, 1, len(self.values)) - self.mixture.means) / deviations
        return np.asarray(self.mixture.weights[:, None] * np.exp(-0.5 * scaled**2) / (deviations * np.sqrt(2 * np.pi)))

    def levels(self, shares: FloatArray) -> FloatArray:
        """For each share, the density that is exceeded in a region that holds this share of the probability.

        It is a quantile of the density at random rows (Hyndman, Computing and graphing highest density regions, Amer.
        Statist. 50, 1996).
        """
        drawn = density(self.mixture, draw_rows(self.mixture, 0, 0, N_DRAWS)[0])
        return np.asarray(np.quantile(drawn, 1 - shares))


def in_units_of(box: FloatArray, mixture: Mixture, noise: float) -> Mixture:
    """The mixture, of type ``full``, of rows in units in which the box (D, 2) reaches from zero to one, plus noise.

    The noise is normal, with this standard deviation in each feature.
    """
    low, size = box[:, 0], box[:, 1] - box[:, 0]
    scaled = mixture.covariance_matrices(np.arange(len(size))) / np.outer(size, size)
    covariances = scaled + noise**2 * np.eye(len(size))
    return Mixture(mixture.weights, (mixture.means - low) / size, Full(covariances))
