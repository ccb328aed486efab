"""Where rounding leaves an E-step enough digits, component by component."""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import SINGLE
from mpigmm.core.estep.inputs import BoolArray, EStepInputs
from mpigmm.core.exact import FloatArray

LARGEST_SINGLE_ERROR = 3e-5
"""Error of a row's log-density from quadratic features in float32, in nats, up to which they are used."""

SUM_UNIT = 2.0**-23
"""Rounding error of float32 sums, relative to the square root of the sum of their terms' squares."""

LARGEST_TERMS = 2.0**14
"""Sum of the magnitudes of a squared distance's terms up to which it keeps about twelve digits after the point."""

LARGEST_RATIO = 4096.0
"""Squared distance of a mean from the centre, in units of the variance, up to which squares of the rows leave about
twelve digits."""


def is_well_conditioned(inputs: EStepInputs, factors: FloatArray) -> BoolArray:
    """Components (K,) whose squared distances may be computed from products of two features.

    The terms whose sum is the distance must not be too large for rows about a standard deviation from the component.
    None may where the magnitudes of the rows are unknown: then it is unknown, too, how well the mixture fits them.

    Parameters
    ----------
    inputs : EStepInputs
    factors : ndarray of shape (K, D, D) or (1, D, D)
        Upper triangular.
    """
    if not inputs.is_bounded:
        return np.zeros(inputs.n_components, bool)
    if inputs.dtype == SINGLE:
        squares = np.square(inputs.means) + inputs.variances
        terms = np.square(factors @ factors.transpose(0, 2, 1))
        error = single_error(np.sqrt(squares[:, None, :] @ terms @ squares[:, :, None])[:, :, 0])
        return ~inputs.in_double & (error <= LARGEST_SINGLE_ERROR)
    largest = np.minimum(np.abs(inputs.means) + np.sqrt(inputs.variances), inputs.max_abs_deviation)
    terms = np.abs(factors @ factors.transpose(0, 2, 1))
    sums = (largest[:, None, :] @ terms @ largest[:, :, None]).reshape(-1)
    return np.asarray(~inputs.in_double & (sums <= LARGEST_TERMS))


def is_well_conditioned_by_squares(inputs: EStepInputs, terms: FloatArray) -> BoolArray:
    """Components (K,) whose squared distances may be computed from squares of features.

    Parameters
    ----------
    inputs : EStepInputs
    terms : ndarray of shape (K, D), or (K, 1) where the squares enter by their sum
        Squared distances of the means from the tiles' centre, in units of the variances.
    """
    if not inputs.is_bounded:
        return np.zeros(len(terms), bool)
    if inputs.dtype == SINGLE:
        return ~inputs.in_double & (single_error(terms + 1.0) <= LARGEST_SINGLE_ERROR)
    return np.asarray(~inputs.in_double & (terms.max(axis=1) <= LARGEST_RATIO))


def single_error(terms: FloatArray) -> FloatArray:
    """Rounding error (K,) of a row's log-density in float32, whose distance is the sum of terms (K, n)."""
    return np.asarray(SUM_UNIT * np.sqrt(np.square(terms).sum(axis=-1)))
