"""Which components the E-step can compute accurately from products of features, in spite of rounding errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpigmm.core.arrays import SINGLE, BoolArray
from mpigmm.core.chunks import chunks
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray

LARGEST_SINGLE_ERROR = 3e-5
"""Largest rounding error of a row's log-density, in nats, with which quadratic features are used in float32."""

SUM_UNIT = 2.0**-23
"""Rounding error of a float32 sum, relative to the square root of the sum of the squares of its terms."""

LARGEST_TERMS = 2.0**14
"""Largest sum of the magnitudes of the terms of a squared distance; the distance then has about twelve correct decimals
in float64."""

LARGEST_RATIO = 4096.0
"""Largest squared distance of a mean from the centre, in units of the variance, with which squares of features are
used; the squared distance of a row then has about twelve correct decimals in float64."""


def is_well_conditioned(inputs: EStepInputs, factors: FloatArray) -> BoolArray:
    """Components (K,) whose squared distances may be computed from products of two features.

    The distance is a sum of terms, which must not be too large for rows about a standard deviation from the mean. No
    component qualifies if the magnitudes of the rows are unknown, since it is then unknown how well the mixture fits
    them.

    Parameters
    ----------
    inputs : EStepInputs
    factors : ndarray of shape (K, D, D) or (1, D, D)
        Upper triangular factors U_k of the precision matrices.
    """
    if not inputs.is_bounded:
        return np.zeros(inputs.n_components, bool)
    if inputs.dtype == SINGLE:
        squares = np.square(inputs.means) + inputs.variances
        error = single_error(np.sqrt(quadratic_forms(squares, factors, np.square))[:, None])
        return ~inputs.in_double & (error <= LARGEST_SINGLE_ERROR)
    largest = np.minimum(np.abs(inputs.means) + np.sqrt(inputs.variances), inputs.max_abs_deviation)
    return np.asarray(~inputs.in_double & (quadratic_forms(largest, factors, np.abs) <= LARGEST_TERMS))


def quadratic_forms(
    vectors: FloatArray, factors: FloatArray, of_entries: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """v_k^T f(P_k) v_k (K,) for vectors v (K, D), precisions P_k = U_k U_k^T of factors (K, D, D) or (1, D, D), and a
    function f of their entries."""
    if len(factors) == 1:
        return np.asarray((vectors @ of_entries(factors[0] @ factors[0].T) * vectors).sum(axis=1))
    forms = np.empty(len(vectors))
    for some in chunks(len(vectors), factors[0].size):
        terms = of_entries(factors[some] @ factors[some].transpose(0, 2, 1))
        forms[some] = ((vectors[some, None] @ terms)[:, 0] * vectors[some]).sum(axis=1)
    return forms


def is_well_conditioned_by_squares(inputs: EStepInputs, terms: FloatArray) -> BoolArray:
    """Components (K,) whose squared distances may be computed from squares of features.

    Parameters
    ----------
    inputs : EStepInputs
    terms : ndarray of shape (K, D), or (K, 1) where a distance uses only the sum of the squares
        Squared differences of the means and the tiles' centre, in units of the variances.
    """
    if not inputs.is_bounded:
        return np.zeros(len(terms), bool)
    if inputs.dtype == SINGLE:
        return ~inputs.in_double & (single_error(terms + 1.0) <= LARGEST_SINGLE_ERROR)
    return np.asarray(~inputs.in_double & (terms.max(axis=1) <= LARGEST_RATIO))


def single_error(terms: FloatArray) -> FloatArray:
    """Rounding error (K,) of a row's log-density in float32 if the squared distance is the sum of terms (K, n)."""
    return np.asarray(SUM_UNIT * np.sqrt(np.square(terms).sum(axis=-1)))
