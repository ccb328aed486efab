"""What the kernels of `full` cost, in nanoseconds a row on one core of a present-day server, or on a GPU.

A choice by these formulae is the same on every rank and in every run; a choice by timing would not be.
"""

from __future__ import annotations

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.tile import default_rows

LEAST_FEATURES = 16
"""With fewer features, picking rows costs more than computing with all of them."""

LARGEST_PACKED = 4096
"""Lines of phi that a tile has room for."""


def n_packed(n_features: int) -> int:
    """Lines of phi(x) = [1, x, x_i x_j]."""
    return 1 + n_features + n_features * (n_features + 1) // 2


def packed_e(k: int, d: int, ops: Ops) -> float:
    """An E-step by phi."""
    return packed_m(k, d, ops) + ops.costs.feature_product * d * d / 2


def packed_m(k: int, d: int, ops: Ops) -> float:
    """The M-step; a product with few lines is as dear as one with a few more."""
    return 2 * n_packed(d) * (k + ops.costs.product_overhead) / ops.costs.flops


def cholesky_e(k: int, d: int, ops: Ops) -> float:
    return k * (d * (d + 1) / ops.costs.flops + ops.costs.access * d)


def cholesky_m(k: int, d: int, ops: Ops) -> float:
    return k * pair_m(d, ops)


def pair_m(d: int, ops: Ops) -> float:
    """Statistics of one row for one component, by a symmetric product."""
    return 1.2 * d * (d + 1) / ops.costs.flops + 3 * ops.costs.access * d


def packs(k: int, d: int, ops: Ops) -> bool:
    """Whether phi is the cheaper way to compute with all rows and components."""
    packed = packed_e(k, d, ops) + packed_m(k, d, ops)
    one_by_one = cholesky_e(k, d, ops) + min(1.0, ops.costs.pruned_moment) * cholesky_m(k, d, ops)
    return n_packed(d) <= LARGEST_PACKED and packed < one_by_one


def bounded_e(k: int, d: int, leading: FloatArray, ops: Ops) -> tuple[FloatArray, FloatArray]:
    """An E-step that bounds distances by the leading features, and what each pair computed in full adds.

    Parameters
    ----------
    k, d : int
    leading : ndarray of shape (n,)
    ops : Ops
    """
    bound = k * (2 * leading * (leading + 1) / ops.costs.flops + ops.costs.access * leading + 5 * ops.costs.access)
    rest = 2 * (d - leading) * (d + 1) / ops.costs.flops + 2 * ops.costs.access * d
    return np.asarray(bound + 2 * k * ops.costs.call / default_rows(d, k)), np.asarray(rest)
