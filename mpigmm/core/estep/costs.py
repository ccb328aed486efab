"""Estimated costs of the kernels for `full` covariances, in nanoseconds per row, on a core of a server or on a GPU.

k is the number of components and d that of features. A choice by these formulae is the same on every rank and in every
run; a choice by measured times would not be.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.tile_rows import most_rows

Number = TypeVar("Number", float, FloatArray)

LEAST_FEATURES = 16
"""Least number of features for which pruning is considered. With fewer, choosing rows costs more than computing with
all of them."""

MOST_QUADRATIC_FEATURES = 4096
"""Largest number of quadratic features of a row; with more, the array of a tile's quadratic features is too large."""


def n_quadratic_features(n_features: int) -> int:
    """Number of entries of phi(x) = [1, x, x_i x_j with j <= i]."""
    return 1 + n_features + n_features * (n_features + 1) // 2


def quadratic_e(k: int, d: int, ops: Ops) -> float:
    """Cost of log-densities by quadratic features, the cost of the features included."""
    return quadratic_m(k, d, ops) + ops.costs.feature_product * d * d / 2


def quadratic_m(k: int, d: int, ops: Ops) -> float:
    """Cost of statistics by quadratic features: a matrix product, which costs more per component if there are few."""
    return 2 * n_quadratic_features(d) * (k + ops.costs.product_overhead) / ops.costs.flops


def whitened_e(k: int, d: Number, ops: Ops) -> Number:
    """Cost of log-densities by whitened coordinates, for one or several numbers of features."""
    return k * (d * (d + 1) / ops.costs.triangular_flops + ops.costs.coordinate * d)


def pair_m(d: int, ops: Ops) -> float:
    """Cost of the statistics of one pair of row and component, by a symmetric matrix product."""
    return d * (d + 1) / ops.costs.triangular_flops + 2 * ops.costs.coordinate * d


def use_quadratic_features(k: int, d: int, ops: Ops) -> bool:
    """Whether quadratic features cost less than whitened coordinates to compute all pairs of row and component."""
    quadratic = quadratic_e(k, d, ops) + quadratic_m(k, d, ops)
    whitened = whitened_e(k, d, ops) + k * pair_m(d, ops)
    return n_quadratic_features(d) <= MOST_QUADRATIC_FEATURES and quadratic < whitened


def bounded_e(k: int, d: int, leading: FloatArray, ops: Ops) -> tuple[FloatArray, FloatArray]:
    """Costs of bounds of the log-densities by the leading features, and of completing the log-density of one pair.

    Parameters
    ----------
    k, d : int
    leading : ndarray of shape (n,)
        Numbers of leading features.
    ops : Ops

    Returns
    -------
    bounds, pair : ndarray of shape (n,)
        For each number of leading features, nanoseconds per row, and per pair of row and component.
    """
    costs = ops.costs
    bound = whitened_e(k, leading, ops) + 5 * k * costs.access
    rest = 2 * (d - leading) * (d + 1) / costs.flops + 2 * costs.access * d
    return np.asarray(bound + 2 * k * costs.call / most_rows(d, k)), np.asarray(rest)
