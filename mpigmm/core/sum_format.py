"""The fixed-point format of an iteration's sums, from numbers that all ranks share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import LIMB_BITS, TOP_BITS, FixedPoint, FloatArray
from mpigmm.core.mixture import Mixture

EMPTY_COUNT = 1e-8
"""A component is empty where its count is less than this share of the rows' mean weight."""

LARGEST_SUM, LEAST_UNIT = 2.0**960, -1022
"""Bound of all sums, and exponent of the least unit of a limb: it and its inverse are normal numbers."""

WANTED_BITS, LEAST_BITS, SPARE_BITS = 53, 44, 12
"""Bits of each component's second moments above the resolution of the sums: wanted, sufficient, and added to the wanted
ones at first."""

MOST_LIMBS = 16
"""Enough for components whose standard deviation is 1e-90 of the data's range."""


class SumRangeError(Exception):
    """A sum may leave the range of float64, or would need more than `MOST_LIMBS` limbs."""


def sum_format(mixture: Mixture, summary: DataSummary, n_limbs: int | None = None) -> FixedPoint:
    """The fixed-point format of an E-step's sums.

    The bounds follow from the data's box about each mean, the total weight and the mixture's precisions. Raises
    `SumRangeError`.

    Parameters
    ----------
    mixture : Mixture
        The one that enters the E-step.
    summary : DataSummary
    n_limbs : int, optional
        Where left out, as many as give the moments `WANTED_BITS` if the new mixture's counts and variances are those of
        this one, and `SPARE_BITS` more, since they are not.
    """
    deviations = summary.max_abs_deviation_from_means(mixture.means)
    log_bound = log_density_bound(mixture, deviations)
    check_bounds(deviations, log_bound, summary.total_weight)
    if n_limbs is None:
        n_limbs = first_limbs(mixture, summary, deviations, log_bound)
    bounds = [
        np.array([log_bound]),
        np.ones(mixture.n_components),
        deviations.reshape(-1),
        mixture.covariances.bounds(deviations),
    ]
    top = np.concatenate([exponents(part, summary.total_weight) for part in bounds])
    return FixedPoint(np.maximum(top, LEAST_UNIT + TOP_BITS + LIMB_BITS * (n_limbs - 1), out=top), n_limbs)


def first_limbs(mixture: Mixture, summary: DataSummary, deviations: FloatArray, log_bound: float) -> int:
    """Limbs where nothing is known of the new mixture; raises `SumRangeError`."""
    counts = np.maximum(mixture.weights * summary.total_weight, least_count(summary))
    bits = moment_bits(deviations, counts, mixture.variances, summary.total_weight)
    n_limbs = limbs_for(max(bits.max() + WANTED_BITS + SPARE_BITS, np.log2(log_bound) + LEAST_BITS), summary)
    if n_limbs > MOST_LIMBS:
        which = int(bits.argmax())
        raise SumRangeError(f"component {which} is too narrow, against the range of the data, for exact sums")
    return n_limbs


def log_density_bound(mixture: Mixture, deviations: FloatArray) -> float:
    """Upper bound of the magnitude of a row's log-density, at least 1."""
    with np.errstate(over="ignore"):
        farthest = mixture.covariances.factors.distance_bounds(deviations)
    upper = np.abs(mixture.log_norm.max()) + np.log(mixture.n_components)
    lower = np.abs((mixture.log_norm - 0.5 * farthest).max())
    return float(max(upper, lower, 1.0))


def check_bounds(deviations: FloatArray, log_bound: float, total_weight: float) -> None:
    """Raise `SumRangeError` where a sum over rows may exceed `LARGEST_SUM`."""
    with np.errstate(over="ignore"):
        far = ~(np.square(deviations).sum(axis=1) * total_weight < LARGEST_SUM)
    if far.any():
        which = int(far.argmax())
        raise SumRangeError(
            f"the mean of component {which} is too far from the rows for float64 to square the distance"
        )
    if not log_bound * total_weight < LARGEST_SUM:
        raise SumRangeError("rows lie too many standard deviations from every component for float64")


def exponents(bounds: FloatArray, total_weight: float) -> NDArray[np.int32]:
    """Exponents of powers of two above the bounds of sums, given those of one row's part, which are overwritten."""
    bounds *= total_weight
    found = np.empty(bounds.shape, np.int32)
    np.frexp(bounds, out=(bounds, found))
    found += 1
    return found


def moment_bits(deviations: FloatArray, counts: FloatArray, spread: FloatArray, total_weight: float) -> FloatArray:
    """Largest number of bits (K,) by which the bound of a component's second moments exceeds the moments themselves.

    Parameters
    ----------
    deviations : ndarray of shape (K, D)
        Largest distances of rows from the means that entered the E-step.
    counts : ndarray of shape (K,)
    spread : ndarray of shape (K, D)
        Mean square of such distances over the rows of a component.
    total_weight : float
    """
    with np.errstate(divide="ignore"):
        share = np.log2(total_weight) - np.log2(counts)
        bits = 2 * np.log2(deviations) - np.log2(np.maximum(spread, np.finfo(float).tiny)) + share[:, None]
    return np.asarray(bits.max(axis=1))


def limbs_for(bits: float, summary: DataSummary) -> int:
    """Limbs that hold so many bits below the bound of a sum, the roundings of its parts included.

    The sum has at most as many parts as there are rows; their roundings are independent of one another.
    """
    bits = max(bits, 0.0) + 0.5 * np.log2(summary.n_samples)
    return max(2, 1 + int(np.ceil((bits - TOP_BITS + 2) / LIMB_BITS)))


def refined_limbs(n_limbs: int, old: Mixture, new: Mixture, counts: FloatArray, summary: DataSummary) -> int:
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
    summary : DataSummary
    """
    spread = new.variances + np.square(new.means - old.means)
    held = np.where(counts > least_count(summary), counts, np.inf)
    deviations = summary.max_abs_deviation_from_means(old.means)
    bits = float(moment_bits(deviations, held, spread, summary.total_weight).max())
    if not np.isfinite(bits) or limbs_for(bits + LEAST_BITS, summary) <= n_limbs:
        return n_limbs
    return min(limbs_for(bits + WANTED_BITS, summary), 2 * n_limbs, MOST_LIMBS)


def least_count(summary: DataSummary) -> float:
    """Largest count of a component that is called empty."""
    return EMPTY_COUNT * summary.total_weight / summary.n_samples
