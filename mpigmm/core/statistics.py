"""Sufficient statistics: what one E-step yields, and what ranks add."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mpigmm.core.arrays import HOST, Arrays
from mpigmm.core.exact import FloatArray

Layout = Mapping[str, tuple[int, ...]]
"""Names of the sums and their shapes, in the order in which they stand in one vector."""


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Named sums over rows, as views of one vector.

    Attributes
    ----------
    flat : ndarray of shape (size,), float64
    arrays : dict of str to ndarray
        The views, by the names of the layout.
    """

    flat: FloatArray
    arrays: dict[str, FloatArray]

    @classmethod
    def of(cls, flat: FloatArray, layout: Layout) -> SufficientStatistics:
        """Views of a vector."""
        arrays, stop = {}, 0
        for name, shape in layout.items():
            start, stop = stop, stop + math.prod(shape)
            arrays[name] = flat[start:stop].reshape(shape)
        return cls(flat, arrays)

    @classmethod
    def empty(cls, layout: Layout, arrays: Arrays = HOST) -> SufficientStatistics:
        """Uninitialised sums in the memory of an array library."""
        return cls.of(arrays.empty(sum(map(math.prod, layout.values()))), layout)

    @property
    def log_likelihood(self) -> FloatArray:
        """Sum over rows of sample weight times log-density, shape (1,)."""
        return self.arrays["log_likelihood"]

    @property
    def counts(self) -> FloatArray:
        """N_k = sum_i w_i r_ik, shape (K,)."""
        return self.arrays["counts"]

    @property
    def first_moments(self) -> FloatArray:
        """sum_i w_i r_ik (x_i - c_k), shape (K, D), about the means c_k that entered the E-step."""
        return self.arrays["first_moments"]

    @property
    def second_moments(self) -> FloatArray:
        """sum_i w_i r_ik (x_i - c_k)(x_i - c_k)^T, packed as `SecondMoments` says, shape (n_second,)."""
        return self.arrays["second_moments"]


def layout_of(n_components: int, n_features: int, n_second: int) -> Layout:
    """The sums of an E-step of K components in D dimensions with so many packed second moments."""
    return {
        "log_likelihood": (1,),
        "counts": (n_components,),
        "first_moments": (n_components, n_features),
        "second_moments": (n_second,),
    }
