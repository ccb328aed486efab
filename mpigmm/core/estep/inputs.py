"""What a kernel sees of a mixture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import Factors, Places
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.groups import SecondMoments

BoolArray = NDArray[np.bool_]

LARGEST_ROUNDING = 1e-8
"""Largest rounding error of whitened coordinates. It is what the log-likelihood of N rows loses, over sqrt(N)."""


@dataclass(frozen=True, eq=False)
class EStepInputs:
    """The components of an E-step, or some of them, and the tiles that it works on.

    Attributes
    ----------
    means : ndarray of shape (K, D)
        Minus the tiles' centre.
    variances : ndarray of shape (K, D)
        Diagonals of the covariances.
    factors : Factors
        Of the precisions.
    log_norm : ndarray of shape (K,)
        log weights_k + log |U_k| - D/2 log 2 pi: a component's weighted log-density at its mean.
    second_moments : SecondMoments
        Which second moments the M-step needs.
    max_abs_deviation : ndarray of shape (D,)
        Upper bounds of the magnitudes of the tiles' entries; infinite where they are unknown.
    dtype : dtype
        Of the tiles.
    ops : Ops
        The array operations to compute with, in whose memory the tiles lie.
    in_double : ndarray of bool, shape (K,)
        Components to compute in float64 whatever the dtype of the tiles.
    is_part : bool
        Whether these are some components of a mixture, so that a row's responsibilities do not sum to its weight.
    """

    means: FloatArray
    variances: FloatArray
    factors: Factors
    log_norm: FloatArray
    second_moments: SecondMoments
    max_abs_deviation: FloatArray
    dtype: np.dtype[Any]
    ops: Ops
    in_double: BoolArray
    is_part: bool = False

    @property
    def n_components(self) -> int:
        return len(self.means)

    @property
    def n_features(self) -> int:
        return int(self.means.shape[1])

    @property
    def is_bounded(self) -> bool:
        """Whether the magnitudes of the tiles' entries are known."""
        return bool(np.isfinite(self.max_abs_deviation).all())

    @cached_property
    def distance_bounds(self) -> FloatArray:
        """Upper bounds (K,) of the squared Mahalanobis distances of the rows; infinite where nothing bounds them."""
        if not self.is_bounded:
            return np.full(self.n_components, np.inf)
        return self.factors.distance_bounds(np.abs(self.means) + self.max_abs_deviation)

    @cached_property
    def can_whiten_rows(self) -> BoolArray:
        """Components (K,) so near to the tiles' centre that rows may be whitened before the whitened mean is
        subtracted.

        A coordinate of a row at the mean is rounded by 2^-53 of its terms.
        """
        return 2.0**-53 * self.factors.largest_terms(self.means) <= LARGEST_ROUNDING

    def put(self, array: FloatArray, dtype: np.dtype[Any] | None = None) -> FloatArray:
        """An array in the memory of the tiles, with their dtype or another."""
        moved: FloatArray = self.ops.arrays.put(np.ascontiguousarray(array, dtype or self.dtype))
        return moved

    def part(self, places: Places) -> EStepInputs:
        """Some of the components."""
        return replace(
            self,
            means=self.means[places],
            variances=self.variances[places],
            factors=self.factors.select(places),
            log_norm=self.log_norm[places],
            in_double=self.in_double[places],
            is_part=True,
        )
