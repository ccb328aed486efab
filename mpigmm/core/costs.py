"""What the kernels of `full` cost, in nanoseconds a row on one core of a present-day server.

A choice by these formulae is the same on every rank and in every run; a choice by timing would not be.
"""

from __future__ import annotations

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.loops import Loops
from mpigmm.core.tile import default_rows

LEAST_FEATURES = 16
"""With fewer features, picking rows costs more than computing with all of them."""

LARGEST_PACKED = 4096
"""Lines of phi that a tile has room for."""

FLOPS = 45.0
"""Of a matrix product, a nanosecond."""

TOUCH = 0.3
"""To read and write one number that is in the cache."""


def n_packed(n_features: int) -> int:
    """Lines of phi(x) = [1, x, x_i x_j]."""
    return 1 + n_features + n_features * (n_features + 1) // 2


def packed_e(k: int, d: int, loops: Loops) -> float:
    """An E-step by phi."""
    return packed_m(k, d, loops) + loops.phi * d * d / 2


def packed_m(k: int, d: int, loops: Loops) -> float:
    """The M-step; a product with few lines is as dear as one with a few more."""
    return 2 * n_packed(d) * (k + loops.thin) / FLOPS


def cholesky_e(k: int, d: int) -> float:
    return k * (d * (d + 1) / FLOPS + TOUCH * d)


def cholesky_m(k: int, d: int) -> float:
    return k * pair_m(d)


def pair_m(d: int) -> float:
    """Statistics of one row for one component, by a symmetric product."""
    return 1.2 * d * (d + 1) / FLOPS + 3 * TOUCH * d


def packs(k: int, d: int, loops: Loops) -> bool:
    """Whether phi is the cheaper way to compute with all rows and components."""
    packed = packed_e(k, d, loops) + packed_m(k, d, loops)
    return n_packed(d) <= LARGEST_PACKED and packed < cholesky_e(k, d) + min(1.0, loops.picking) * cholesky_m(k, d)


def bounded_e(k: int, d: int, leading: FloatArray, call: float) -> tuple[FloatArray, FloatArray]:
    """An E-step that bounds distances by the leading features, and what each pair computed in full adds.

    Parameters
    ----------
    k, d : int
    leading : ndarray of shape (n,)
    call : float
        Nanoseconds to pick some rows of a tile, however few.
    """
    bound = k * (2 * leading * (leading + 1) / FLOPS + TOUCH * leading + 5 * TOUCH)
    rest = 2 * (d - leading) * (d + 1) / FLOPS + 2 * TOUCH * d
    return np.asarray(bound + 2 * k * call / default_rows(d, k)), np.asarray(rest)
