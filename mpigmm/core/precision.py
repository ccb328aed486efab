"""Where float32 tiles leave enough digits, judged from the mixture and the survey alone: every rank judges alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpigmm.core.backend import DOUBLE, SINGLE
from mpigmm.core.mixture import Mixture, precision_diagonals, variances
from mpigmm.core.survey import Survey

UNIT = 2.0**-24
"""Rounding error of float32, relative."""

TOLERANCE = 1e-4
"""What rounding may cost in the log density of a row, in nats."""

LARGEST_RATIO = 4096.0
"""Second moment about an old mean over conditional variance up to which float32 products leave the variance enough."""

LARGEST_SCALE, LARGEST_WEIGHT, LARGEST_DISTANCE = 1e12, 1e6, 1e30
"""What float32 has room for, with the squares of the first, and their inverses, times the second."""


def precisions_that_do(wanted: np.dtype[Any], mixture: Mixture, survey: Survey) -> tuple[np.dtype[Any], ...]:
    """Precisions for an iteration that starts from a mixture, the preferred one first and float64 last."""
    return (SINGLE, DOUBLE) if wanted == SINGLE and fits_single(mixture, survey) else (DOUBLE,)


def fits_single(mixture: Mixture, survey: Survey) -> bool:
    """Whether whitened coordinates in float32 give a row's log density to `TOLERANCE`.

    A coordinate sum_d U_dj (x_d - mu_d) is rounded by UNIT times its terms, independently of one another; half a
    squared distance of D of them, each about one, by the root of the sum of squares: UNIT (2 sum_d P_dd m_d^2)^(1/2)
    with P the precision matrix and m_d^2 a row's mean square about the centre.
    """
    diagonals = precision_diagonals(mixture)
    squares = np.square(mixture.means - survey.centre) + variances(mixture)
    distances = mixture.covariance.distance_bounds(mixture.precisions_cholesky, survey.extents(mixture.means))
    scales = (survey.reach.max(), np.sqrt(diagonals.max()), 1 / np.sqrt(diagonals.min()))
    weight = survey.total_weight / survey.n_samples
    has_room = max(scales) < LARGEST_SCALE and 1 / LARGEST_WEIGHT < weight < LARGEST_WEIGHT
    error = UNIT * np.sqrt(2 * (diagonals * squares).sum(axis=1).max())
    return bool(has_room and distances.max() < LARGEST_DISTANCE and error <= TOLERANCE)


def keeps_digits(old: Mixture, new: Mixture) -> bool:
    """Whether covariances from float32 products are those of float64 ones, to what `TOLERANCE` asks.

    They are differences of moments about the old means; what is left of a feature's variance, given the other
    features, is the inverse of the precision's diagonal.
    """
    moments = variances(new) + np.square(new.means - old.means)
    return bool((precision_diagonals(new) * moments).max() <= LARGEST_RATIO)
