"""Where float32 leaves enough digits, component by component, judged from numbers that all ranks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpigmm.core.backend import DOUBLE, SINGLE
from mpigmm.core.covariance import BoolArray
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.mixture import Mixture, precision_diagonals, variances
from mpigmm.core.statistics import Moments

UNIT = 2.0**-24
"""Rounding error of float32, relative."""

TOLERANCE = 1e-4
"""What rounding may cost in the log density of a row, in nats."""

LARGEST_RATIO = 4096.0
"""Second moment about an old mean over conditional variance up to which float32 products leave the variance enough."""

LARGEST_SCALE, LARGEST_WEIGHT, LARGEST_DISTANCE = 1e12, 1e6, 1e30
"""What float32 has room for, with the squares of the first, and their inverses, times the second."""


MOST_EXACT = 0.5
"""Share of the components in float64 up to which float32 tiles pay."""


@dataclass(frozen=True, eq=False)
class Precision:
    """How an iteration is computed.

    Attributes
    ----------
    dtype : dtype
        Of the tiles.
    exact : ndarray of bool, (K,)
        Components that float32 would leave too few digits, and that are computed in float64.
    """

    dtype: np.dtype[Any]
    exact: BoolArray

    @classmethod
    def of(cls, dtype: np.dtype[Any], exact: BoolArray) -> Precision:
        """That of tiles in float32 with these components in float64, or float64 where they are too many."""
        return (
            cls(SINGLE, exact) if dtype == SINGLE and exact.mean() <= MOST_EXACT else cls(DOUBLE, np.zeros_like(exact))
        )


def choose_precision(wanted: np.dtype[Any], mixture: Mixture, survey: DataSummary) -> Precision:
    """The precision of an iteration that starts from a mixture."""
    if wanted == DOUBLE or not fits_range(mixture, survey):
        return Precision.of(DOUBLE, np.zeros(mixture.n_components, bool))
    return Precision.of(SINGLE, needs_double(mixture, survey))


def finer_precision(
    precision: Precision, old: Mixture, new: Mixture, moments: Moments, survey: DataSummary
) -> Precision | None:
    """That in which an iteration from an old mixture to a new one is taken again; None where it kept its digits."""
    if precision.dtype == DOUBLE:
        return None
    if is_far(old, moments, survey):
        return Precision.of(DOUBLE, precision.exact)
    lost = loses_digits(old, new) & ~precision.exact
    return Precision.of(SINGLE, precision.exact | lost) if lost.any() else None


def fits_range(mixture: Mixture, survey: DataSummary) -> bool:
    """Whether scales, weights and distances have room in float32."""
    diagonals = precision_diagonals(mixture)
    distances = mixture.covariance.distance_bounds(
        mixture.precisions_cholesky, survey.max_abs_deviation_from_means(mixture.means)
    )
    scales = (survey.max_abs_deviation.max(), np.sqrt(diagonals.max()), 1 / np.sqrt(diagonals.min()))
    weight = survey.total_weight / survey.n_samples
    has_room = max(scales) < LARGEST_SCALE and 1 / LARGEST_WEIGHT < weight < LARGEST_WEIGHT
    return bool(has_room and distances.max() < LARGEST_DISTANCE)


def needs_double(mixture: Mixture, survey: DataSummary) -> BoolArray:
    """Components (K,) for whose rows whitened coordinates in float32 do not give the log density to `TOLERANCE`.

    A coordinate sum_d U_dj (x_d - mu_d) is rounded by UNIT times its terms, independently of one another; half a
    squared distance of D of them, each about one, by the root of the sum of squares: UNIT (2 sum_d P_dd m_d^2)^(1/2)
    with P the precision matrix and m_d^2 a row's mean square about the centre.
    """
    squares = np.square(mixture.means - survey.centre) + variances(mixture)
    error = UNIT * np.sqrt(2 * (precision_diagonals(mixture) * squares).sum(axis=1))
    return np.asarray(error > TOLERANCE)


def is_far(mixture: Mixture, moments: Moments, survey: DataSummary) -> bool:
    """Whether the rows lie so far from a mixture that float32 does not give their log densities to `TOLERANCE`.

    The mean squared distance is, but for the entropy of the responsibilities, twice the mean of the log-constants
    less the mean log density. For rows of the mixture it is D; float32 rounds what it exceeds that by by UNIT of it.
    """
    held = moments.counts > 0
    constants = moments.counts[held] @ mixture.log_constants[held]
    distance = 2 * (constants - moments.log_likelihood[0]) / survey.total_weight
    return bool(UNIT * (distance - 2 * mixture.n_features) > TOLERANCE)


def loses_digits(old: Mixture, new: Mixture) -> BoolArray:
    """Components (K,) whose covariances from float32 products are not those of float64 ones, to what `TOLERANCE` asks.

    They are differences of moments about the old means; what is left of a feature's variance, given the other
    features, is the inverse of the precision's diagonal.
    """
    moments = variances(new) + np.square(new.means - old.means)
    return np.asarray((precision_diagonals(new) * moments).max(axis=1) > LARGEST_RATIO)
