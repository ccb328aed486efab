"""What the kernels of `full` covariances cost, in nanoseconds a row on one core of a present-day server, or on a GPU.

A choice by these formulae is the same on every rank and in every run; a choice by timing would not be.
"""

from __future__ import annotations

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.tile import default_rows

LEAST_FEATURES = 16
"""Number of features up to which it costs more to choose rows than to compute with all of them."""

MOST_QUADRATIC_FEATURES = 4096
"""Quadratic features of a row that a tile has room for."""


def n_quadratic_features(n_features: int) -> int:
    """Entries of phi(x) = [1, x, x_i x_j with j <= i]."""
    return 1 + n_features + n_features * (n_features + 1) // 2


def quadratic_e(k: int, d: int, ops: Ops) -> float:
    """Log-densities by quadratic features."""
    return quadratic_m(k, d, ops) + ops.costs.feature_product * d * d / 2


def quadratic_m(k: int, d: int, ops: Ops) -> float:
    """Statistics by quadratic features; the product costs more a component where there are few of them."""
    return 2 * n_quadratic_features(d) * (k + ops.costs.product_overhead) / ops.costs.flops


def whitened_e(k: int, d: int, ops: Ops) -> float:
    """Log-densities by whitened coordinates."""
    return k * (d * (d + 1) / ops.costs.flops + ops.costs.access * d)


def pair_m(d: int, ops: Ops) -> float:
    """Statistics of one row for one component, by a symmetric product."""
    return 1.2 * d * (d + 1) / ops.costs.flops + 3 * ops.costs.access * d


def use_quadratic_features(k: int, d: int, ops: Ops) -> bool:
    """Whether quadratic features are the cheaper way to compute all pairs of row and component."""
    quadratic = quadratic_e(k, d, ops) + quadratic_m(k, d, ops)
    whitened = whitened_e(k, d, ops) + min(1.0, ops.costs.pruned_moment) * (k * pair_m(d, ops))
    return n_quadratic_features(d) <= MOST_QUADRATIC_FEATURES and quadratic < whitened


def bounded_e(k: int, d: int, leading: FloatArray, ops: Ops) -> tuple[FloatArray, FloatArray]:
    """Log-densities that bound distances by the leading features, and what each pair adds that is computed in full.

    Parameters
    ----------
    k, d : int
    leading : ndarray of shape (n,)
        Numbers of leading features to compare.
    ops : Ops
    """
    costs = ops.costs
    bound = k * (2 * leading * (leading + 1) / costs.flops + costs.access * leading + 5 * costs.access)
    rest = 2 * (d - leading) * (d + 1) / costs.flops + 2 * costs.access * d
    return np.asarray(bound + 2 * k * costs.call / default_rows(d, k)), np.asarray(rest)
