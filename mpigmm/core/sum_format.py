"""The fixed-point format of the sums of an E-step, chosen from numbers that all ranks share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.covariances.base import Covariances
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import LIMB_BITS, TOP_BITS, FixedPoint, FloatArray
from mpigmm.core.mixture import Mixture

EMPTY_COUNT = 1e-8
"""A component is empty if its count is at most this share of the mean sample weight."""

LARGEST_SUM, LEAST_UNIT = 2.0**960, -1022
"""Bound of the magnitudes of all sums, and least exponent of the unit of a limb: the unit and its inverse are normal
numbers of float64."""

WANTED_BITS, LEAST_BITS, SPARE_BITS = 53, 44, 12
"""Numbers of significant bits of each component's second moments: the number to aim for, the least that is accepted,
and what is added to the first number while the new mixture is unknown."""

MOST_LIMBS = 16
"""Largest number of limbs, enough for components whose standard deviation is 1e-90 of the data's range."""


class SumRangeError(Exception):
    """A sum may leave the range of float64, or would need more than `MOST_LIMBS` limbs."""


def sum_format(mixture: Mixture, summary: DataSummary, n_limbs: int | None = None) -> FixedPoint:
    """The fixed-point format of an E-step's sums.

    The bounds of the sums follow from the range of each feature, the total weight, and the mixture's means and
    precision matrices. Raises `SumRangeError`.

    Parameters
    ----------
    mixture : Mixture
        The mixture that enters the E-step.
    summary : DataSummary
    n_limbs : int, optional
        By default, as many as give the second moments `WANTED_BITS` + `SPARE_BITS` significant bits if the counts and
        variances of the new mixture equal those of this one.
    """
    deviations = summary.max_abs_deviation_from_means(mixture.means)
    log_bound = log_density_bound(mixture, deviations)
    check_bounds(deviations, log_bound, summary.total_weight)
    if n_limbs is None:
        n_limbs = first_limbs(mixture, summary, deviations, log_bound)
    return bounded_format(mixture.covariances, deviations, log_bound, summary.total_weight, n_limbs)


def labels_format(mixture: Mixture, summary: DataSummary, spread: FloatArray, n_limbs: int | None = None) -> FixedPoint:
    """The format of the sums of an M-step with given responsibilities; raises `SumRangeError`.

    Parameters
    ----------
    mixture : Mixture
        Moments are about its means.
    summary : DataSummary
    spread : ndarray of shape (D,)
        Variances that are expected of the components.
    n_limbs : int, optional
        By default, as many as are enough if all components are of one size and have these variances.
    """
    deviations = summary.max_abs_deviation_from_means(mixture.means)
    check_bounds(deviations, 1.0, summary.total_weight)
    if n_limbs is None:
        counts = np.full(mixture.n_components, summary.total_weight / mixture.n_components)
        bits = moment_bits(deviations, counts, spread, summary.total_weight)
        n_limbs = min(limbs_for(bits.max() + WANTED_BITS + SPARE_BITS, summary), MOST_LIMBS)
    return bounded_format(mixture.covariances, deviations, 1.0, summary.total_weight, n_limbs)


def bounded_format(
    covariances: Covariances, deviations: FloatArray, log_bound: float, total_weight: float, n_limbs: int
) -> FixedPoint:
    """The format of sums with this number of limbs.

    Deviations (K, D) bound |x_d - mean_kd| over all rows x, and log_bound the magnitudes of their log-densities.
    """
    bounds = [
        np.array([log_bound]),
        np.ones(len(deviations)),
        deviations.reshape(-1),
        covariances.bounds(deviations),
    ]
    top = np.concatenate([exponents(part, total_weight) for part in bounds])
    return FixedPoint(np.maximum(top, LEAST_UNIT + TOP_BITS + LIMB_BITS * (n_limbs - 1), out=top), n_limbs)


def first_limbs(mixture: Mixture, summary: DataSummary, deviations: FloatArray, log_bound: float) -> int:
    """Number of limbs if nothing is known of the new mixture; raises `SumRangeError`."""
    counts = np.maximum(mixture.weights * summary.total_weight, least_count(summary))
    bits = moment_bits(deviations, counts, mixture.variances, summary.total_weight)
    n_limbs = limbs_for(max(bits.max() + WANTED_BITS + SPARE_BITS, np.log2(log_bound) + LEAST_BITS), summary)
    if n_limbs > MOST_LIMBS:
        which = int(bits.argmax())
        raise SumRangeError(f"component {which} is too narrow, against the range of the data, for exact sums")
    return n_limbs


def log_density_bound(mixture: Mixture, deviations: FloatArray) -> float:
    """Upper bound, at least 1, of the magnitude of the log-density of any row.

    Deviations (K, D) bound |x_d - mean_kd| over all rows x.
    """
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
    """Exponents of powers of two that exceed the sums over all rows, given upper bounds of one row's terms.

    The bounds are overwritten.
    """
    bounds *= total_weight
    found = np.empty(bounds.shape, np.int32)
    np.frexp(bounds, out=(bounds, found))
    found += 1
    return found


def moment_bits(deviations: FloatArray, counts: FloatArray, spread: FloatArray, total_weight: float) -> FloatArray:
    """log2 (K,) of the largest ratio, over features, of the bound of a component's second moment to the moment itself.

    Parameters
    ----------
    deviations : ndarray of shape (K, D)
        Upper bounds of |x_d - mean_kd| over all rows x, for the means that entered the E-step.
    counts : ndarray of shape (K,)
    spread : ndarray of shape (K, D)
        Mean of (x_d - mean_kd)^2 over the rows of each component.
    total_weight : float
    """
    with np.errstate(divide="ignore"):
        share = np.log2(total_weight) - np.log2(counts)
        bits = 2 * np.log2(deviations) - np.log2(np.maximum(spread, np.finfo(float).tiny)) + share[:, None]
    return np.asarray(bits.max(axis=1))


def limbs_for(bits: float, summary: DataSummary) -> int:
    """Number of limbs whose sums have an error of at most 2^-bits of their bound.

    A sum has at most as many terms as there are rows, each rounded once, and the roundings are independent: their sum
    grows with the square root of the number of terms.
    """
    bits = max(bits, 0.0) + 0.5 * np.log2(summary.n_samples)
    return max(2, 1 + int(np.ceil((bits - TOP_BITS + 2) / LIMB_BITS)))


def refined_limbs(n_limbs: int, old: Mixture, new: Mixture, counts: FloatArray, summary: DataSummary) -> int:
    """Number of limbs with which an iteration must be repeated, or n_limbs where it need not be.

    It must be repeated where a component has become so much smaller or narrower that its second moments have fewer than
    `LEAST_BITS` significant bits.

    Parameters
    ----------
    n_limbs : int
        Number of limbs of the iteration's sums.
    old, new : Mixture
        The mixtures before and after the M-step.
    counts : ndarray of shape (K,)
        Counts N_k of the E-step.
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
    """Largest count N_k with which a component is empty."""
    return EMPTY_COUNT * summary.total_weight / summary.n_samples
