"""Sufficient statistics: the sums over rows that an E-step computes and an M-step uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mpigmm.core.arrays import HOST, Arrays
from mpigmm.core.exact import FloatArray

Layout = Mapping[str, tuple[int, ...]]
"""Names and shapes of the sums, in the order in which one vector contains them."""


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Named sums over rows, as views of one vector.

    Attributes
    ----------
    flat : ndarray of shape (size,), float64
    arrays : dict of str to ndarray
        The views, by name.
    """

    flat: FloatArray
    arrays: dict[str, FloatArray]

    @classmethod
    def of(cls, flat: FloatArray, layout: Layout) -> SufficientStatistics:
        """The statistics in a vector `flat` that is arranged as the layout says."""
        arrays, stop = {}, 0
        for name, shape in layout.items():
            start, stop = stop, stop + math.prod(shape)
            arrays[name] = flat[start:stop].reshape(shape)
        return cls(flat, arrays)

    @classmethod
    def empty(cls, layout: Layout, arrays: Arrays = HOST) -> SufficientStatistics:
        """Uninitialised statistics in a new vector of `arrays`."""
        return cls.of(arrays.empty(sum(map(math.prod, layout.values()))), layout)

    @property
    def log_likelihood(self) -> FloatArray:
        """Sum over rows of sample weight times log-density, shape (1,)."""
        return self.arrays["log_likelihood"]

    @property
    def counts(self) -> FloatArray:
        """N_k = sum_i w_i r_ik, shape (K,): over rows i, sample weight times responsibility of component k."""
        return self.arrays["counts"]

    @property
    def first_moments(self) -> FloatArray:
        """sum_i w_i r_ik (x_i - c_k), shape (K, D), about the means c_k that entered the E-step."""
        return self.arrays["first_moments"]

    @property
    def second_moments(self) -> FloatArray:
        """sum_i w_i r_ik (x_i - c_k)(x_i - c_k)^T, packed, shape (n_second,).

        `Covariances.second_moments` tells which of these entries, or of their sums, it contains.
        """
        return self.arrays["second_moments"]


def layout_of(n_components: int, n_features: int, n_second: int) -> Layout:
    """Names and shapes of the sums of an E-step of K components and D features, with n_second packed second moments."""
    return {
        "log_likelihood": (1,),
        "counts": (n_components,),
        "first_moments": (n_components, n_features),
        "second_moments": (n_second,),
    }
