"""Sufficient statistics, and the format in which an `ExactSum` of them is the whole of the parallel algorithm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.backend import HOST, Backend
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import LIMB_BITS, TOP_BITS, FixedPoint, FloatArray
from mpigmm.core.mixture import Mixture, variances

EMPTY_COUNT = 1e-8
"""A component that holds less of the rows' mean weight than this is empty."""

LARGEST_SUM, LEAST_UNIT = 2.0**960, -1022
"""Bound of all sums, and exponent of the least unit of a limb: it and its inverse are normal numbers."""

WANTED_BITS, LEAST_BITS, SPARE_BITS = 53, 44, 12
"""Of each component's second moments above the resolution of the sums: wanted, enough, and more to begin with."""

MOST_LIMBS = 16
"""Enough for components whose deviation is 1e-90 of the data's range."""


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


def statistics_format(mixture: Mixture, survey: DataSummary, n_limbs: int | None = None) -> FixedPoint:
    """The fixed-point format of an iteration, from numbers that all ranks share.

    The bounds follow from the data's box about each mean, the total weight and the mixture's precisions. Raises
    `OverflowError` where a sum may leave the range of float64.

    Parameters
    ----------
    mixture : Mixture
        The one that enters the E-step.
    survey : DataSummary
    n_limbs : int, optional
        Where left out, as many as give the moments `WANTED_BITS`, were the new mixture's counts and variances those of
        this one, and `SPARE_BITS` more, for they are not.
    """
    extents = survey.max_abs_deviation_from_means(mixture.means)
    log_bound = log_density_bound(mixture, extents)
    check_bounds(extents, log_bound, survey.total_weight)
    if n_limbs is None:
        counts = np.maximum(mixture.weights * survey.total_weight, least_count(survey))
        bits = moment_bits(extents, counts, variances(mixture), survey.total_weight)
        n_limbs = limbs_for(max(bits.max() + WANTED_BITS + SPARE_BITS, np.log2(log_bound) + LEAST_BITS), survey)
        if n_limbs > MOST_LIMBS:
            which = int(bits.argmax())
            raise OverflowError(f"component {which} is too narrow, against the range of the data, for exact sums")
    second = mixture.covariance.second_bounds(extents)
    bounds = [np.array([log_bound]), np.ones(mixture.n_components), extents.reshape(-1), second]
    top = np.concatenate([exponents(part, survey.total_weight) for part in bounds])
    return FixedPoint(np.maximum(top, LEAST_UNIT + TOP_BITS + LIMB_BITS * (n_limbs - 1), out=top), n_limbs)


def log_density_bound(mixture: Mixture, extents: FloatArray) -> float:
    """Upper bound of a row's log density in magnitude, at least 1."""
    with np.errstate(over="ignore"):
        farthest = mixture.covariance.distance_bounds(mixture.precisions_cholesky, extents)
    upper = np.abs(mixture.log_constants.max()) + np.log(mixture.n_components)
    lower = np.abs((mixture.log_constants - 0.5 * farthest).max())
    return float(max(upper, lower, 1.0))


def check_bounds(extents: FloatArray, log_bound: float, total_weight: float) -> None:
    """Raise `OverflowError` where a sum over rows may exceed `LARGEST_SUM`."""
    with np.errstate(over="ignore"):
        far = ~(np.square(extents).sum(axis=1) * total_weight < LARGEST_SUM)
    if far.any():
        which = int(far.argmax())
        raise OverflowError(
            f"the mean of component {which} is too far from the rows for float64 to square the distance"
        )
    if not log_bound * total_weight < LARGEST_SUM:
        raise OverflowError("rows lie too many standard deviations from every component for float64")


def exponents(bounds: FloatArray, total_weight: float) -> NDArray[np.int32]:
    """Exponents of powers of two above the bounds of sums, from those of a row's part; uses these up."""
    bounds *= total_weight
    found = np.empty(bounds.shape, np.int32)
    np.frexp(bounds, out=(bounds, found))
    found += 1
    return found


def moment_bits(extents: FloatArray, counts: FloatArray, spread: FloatArray, total_weight: float) -> FloatArray:
    """How many bits the bound of each component's second moments exceeds the moments themselves by, at most (K,).

    Parameters
    ----------
    extents : ndarray of shape (K, D)
        Greatest distances of rows from the means that entered the E-step.
    counts : ndarray of shape (K,)
    spread : ndarray of shape (K, D)
        Mean square of such distances over the rows of a component.
    total_weight : float
    """
    with np.errstate(divide="ignore"):
        share = np.log2(total_weight) - np.log2(counts)
        bits = 2 * np.log2(extents) - np.log2(np.maximum(spread, np.finfo(float).tiny)) + share[:, None]
    return np.asarray(bits.max(axis=1))


def limbs_for(bits: float, survey: DataSummary) -> int:
    """Limbs that hold so many bits below the bound of a sum, the roundings of its parts included.

    The sum has at most as many parts as there are rows; their roundings are independent of one another.
    """
    bits = max(bits, 0.0) + 0.5 * np.log2(survey.n_samples)
    return max(2, 1 + int(np.ceil((bits - TOP_BITS + 2) / LIMB_BITS)))


def refined_limbs(n_limbs: int, old: Mixture, new: Mixture, counts: FloatArray, survey: DataSummary) -> int:
    """Limbs with which an iteration is to be taken again, or n_limbs where its sums have given the new mixture enough.

    This is not so where a component has become so much smaller or narrower than it was that fewer than `LEAST_BITS` of
    its second moments lie above the format's resolution.

    Parameters
    ----------
    n_limbs : int
        Of the sums.
    old, new : Mixture
        Those before and after the M-step.
    counts : ndarray of shape (K,)
        Of the sums.
    survey : DataSummary
    """
    spread = variances(new) + np.square(new.means - old.means)
    held = np.where(counts > least_count(survey), counts, np.inf)
    bits = float(moment_bits(survey.max_abs_deviation_from_means(old.means), held, spread, survey.total_weight).max())
    if not np.isfinite(bits) or limbs_for(bits + LEAST_BITS, survey) <= n_limbs:
        return n_limbs
    return min(limbs_for(bits + WANTED_BITS, survey), 2 * n_limbs, MOST_LIMBS)


def least_count(survey: DataSummary) -> float:
    """What an empty component holds at most."""
    return EMPTY_COUNT * survey.total_weight / survey.n_samples
