"""Sufficient statistics, and the format in which an `ExactSum` of them is the whole of the parallel algorithm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpigmm.core.backend import HOST, Backend
from mpigmm.core.exact import FixedPoint, FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.survey import Survey

LARGEST_TOP, LEAST_TOP = 960, -750
"""Exponents of sums between which every limb's unit is a normal number."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What one E-step yields, as views of one flat vector.

    Attributes
    ----------
    flat : ndarray of shape (size,), float64
    log_likelihood : ndarray of shape (1,)
        Sum over rows of weight times log density.
    counts : ndarray of shape (K,)
        N_k = sum_i w_i r_ik.
    first_moments : ndarray of shape (K, D)
        sum_i w_i r_ik (x_i - c_k), about the means c_k that entered the E-step.
    second_moments : ndarray of shape (n_second,)
        The same of (x_i - c_k)(x_i - c_k)^T, packed as the covariance type wants.
    """

    flat: FloatArray
    log_likelihood: FloatArray
    counts: FloatArray
    first_moments: FloatArray
    second_moments: FloatArray

    @classmethod
    def of(cls, flat: FloatArray, mixture: Mixture) -> Moments:
        """Views of flat for the shape of mixture."""
        k, d = mixture.means.shape
        return cls(flat, flat[:1], flat[1 : 1 + k], flat[1 + k : 1 + k + k * d].reshape(k, d), flat[1 + k + k * d :])

    @classmethod
    def empty(cls, mixture: Mixture, backend: Backend = HOST) -> Moments:
        """Uninitialised moments for the shape of mixture, in a backend's memory."""
        k, d = mixture.means.shape
        return cls.of(backend.empty(1 + k + k * d + mixture.covariance.n_second(k, d)), mixture)


def statistics_format(mixture: Mixture, survey: Survey) -> FixedPoint:
    """The fixed-point format of an iteration, from numbers that all ranks share.

    The bounds follow from the data's box about each mean, the total weight and the mixture's precisions. The
    resolution is below 2^-53 of the variance floor of an average row's component. Raises `OverflowError`.
    """
    extents = survey.extents(mixture.means)
    farthest = mixture.covariance.distance_bounds(mixture.precisions_cholesky, extents)
    upper = np.abs(mixture.log_constants.max()) + np.log(mixture.n_components)
    lower = np.abs((mixture.log_constants - 0.5 * farthest).max())
    per_row = np.concatenate(
        [
            [max(upper, lower, 1.0)],
            np.ones(mixture.n_components),
            extents.reshape(-1),
            mixture.covariance.second_bounds(extents),
        ]
    )
    bounds = per_row * survey.total_weight
    if not (bounds < 2.0**LARGEST_TOP).all():
        raise OverflowError("rows lie too many standard deviations from every component for float64")
    top = np.maximum(np.frexp(bounds)[1] + 1, LEAST_TOP)
    return FixedPoint(top.astype(np.int32), survey.n_limbs)
