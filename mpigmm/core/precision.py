"""The precision of an iteration, component by component, chosen from numbers that all ranks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE, SINGLE, BoolArray
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.mixture import Mixture
from mpigmm.core.statistics import SufficientStatistics

UNIT = 2.0**-24
"""Relative rounding error of float32."""

TOLERANCE = 1e-4
"""Largest error of a row's log-density, in nats, that float32 may cause."""

LARGEST_MOMENT_RATIO = 4096.0
"""Largest ratio of a feature's second moment about the old mean to its variance given all other features with which
float32 products leave the variance enough digits."""

LARGEST_SCALE, LARGEST_WEIGHT, LARGEST_DISTANCE = 1e12, 1e6, 1e30
"""Largest scale of the features, mean sample weight (and its inverse) and squared distance with which all computed
numbers stay in the range of float32. Among them is the product of a weight and the square of a scale."""

MOST_IN_DOUBLE = 0.5
"""Largest share of components in float64 with which tiles in float32 are faster than tiles in float64."""


@dataclass(frozen=True, eq=False)
class Precision:
    """How an iteration is computed.

    Attributes
    ----------
    dtype : dtype
        float32 or float64, of the tiles.
    in_double : ndarray of bool, shape (K,)
        Components that are computed in float64 because float32 has too few digits for them.
    """

    dtype: np.dtype[Any]
    in_double: BoolArray

    @classmethod
    def of(cls, dtype: np.dtype[Any], in_double: BoolArray) -> Precision:
        """Tiles in float32 and the components in_double in float64, or tiles in float64 where these are too many."""
        if dtype == SINGLE and in_double.mean() <= MOST_IN_DOUBLE:
            return cls(SINGLE, in_double)
        return cls.double(len(in_double))

    @classmethod
    def double(cls, n_components: int) -> Precision:
        """Everything in float64."""
        return cls(DOUBLE, np.zeros(n_components, bool))


def choose_precision(wanted: np.dtype[Any], mixture: Mixture, summary: DataSummary) -> Precision:
    """The precision in which an iteration from a mixture is tried first; `wanted` is float32 or float64."""
    if wanted == DOUBLE or not fits_range(mixture, summary):
        return Precision.double(mixture.n_components)
    return Precision.of(SINGLE, needs_double(mixture, summary))


def finer_precision(
    precision: Precision, old: Mixture, new: Mixture, statistics: SufficientStatistics, summary: DataSummary
) -> Precision | None:
    """The precision in which an iteration from an old to a new mixture must be repeated; None where it need not be."""
    if precision.dtype == DOUBLE:
        return None
    if is_far(old, statistics, summary):
        return Precision.double(old.n_components)
    lost = loses_digits(old, new) & ~precision.in_double
    return Precision.of(SINGLE, precision.in_double | lost) if lost.any() else None


def fits_range(mixture: Mixture, summary: DataSummary) -> bool:
    """Whether all numbers of an E-step lie in the range of float32."""
    diagonals = mixture.precision_diagonals
    distances = mixture.covariances.factors.distance_bounds(summary.max_abs_deviation_from_means(mixture.means))
    scales = (summary.max_abs_deviation.max(), np.sqrt(diagonals.max()), 1 / np.sqrt(diagonals.min()))
    weight = summary.total_weight / summary.n_samples
    is_in_range = max(scales) < LARGEST_SCALE and 1 / LARGEST_WEIGHT < weight < LARGEST_WEIGHT
    return bool(is_in_range and distances.max() < LARGEST_DISTANCE)


def needs_double(mixture: Mixture, summary: DataSummary) -> BoolArray:
    """Components (K,) for whose rows float32 does not give the log-density to `TOLERANCE`.

    Each term of a whitened coordinate sum_d U_dj (x_d - mu_d) has a relative rounding error `UNIT`, independent of the
    others. The squared distance over two, a sum of D squared coordinates of size one, then has the error
    `UNIT` (2 sum_d P_dd m_d^2)^(1/2), where P is the precision matrix and m_d^2 the mean square of x_d - centre_d over
    the component's rows.
    """
    squares = np.square(mixture.means - summary.centre) + mixture.variances
    error = UNIT * np.sqrt(2 * (mixture.precision_diagonals * squares).sum(axis=1))
    return np.asarray(error > TOLERANCE)


def is_far(mixture: Mixture, statistics: SufficientStatistics, summary: DataSummary) -> bool:
    """Whether the rows are so far from a mixture that float32 does not give their log-densities to `TOLERANCE`.

    Apart from the entropy of the responsibilities, the mean squared distance is twice the mean of `Mixture.log_norm`
    minus twice the mean log-density. It is D for rows drawn from the mixture; an excess over 2 D has a rounding error
    of `UNIT` times the excess in float32.
    """
    held = statistics.counts > 0
    log_norm = statistics.counts[held] @ mixture.log_norm[held]
    distance = 2 * (log_norm - statistics.log_likelihood[0]) / summary.total_weight
    return bool(UNIT * (distance - 2 * mixture.n_features) > TOLERANCE)


def loses_digits(old: Mixture, new: Mixture) -> BoolArray:
    """Components (K,) whose covariances, computed from float32 products, are too inexact for `TOLERANCE`.

    A covariance is the difference of a second moment about the old mean and the square of the mean's change. The
    inverse of entry d of the precision matrix's diagonal is the variance of feature d given all others; the ratio of
    the moment to this variance must not exceed `LARGEST_MOMENT_RATIO`.
    """
    moments = new.variances + np.square(new.means - old.means)
    return np.asarray((new.precision_diagonals * moments).max(axis=1) > LARGEST_MOMENT_RATIO)
