"""The inputs of an E-step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mpigmm.core.arrays import BoolArray, Indices
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import Factors, IsotropicFactors
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.groups import SecondMoments

LARGEST_ROUNDING = 1e-8
"""Largest rounding error of whitened coordinates that are computed from the rows and not from their differences from
the mean. The error of the log-likelihood of N rows is about sqrt(N) times this."""


@dataclass(frozen=True, eq=False)
class EStepInputs:
    """All that a kernel needs to know of a mixture, or of some of its components, and of the tiles.

    Attributes
    ----------
    means : ndarray of shape (K, D)
        The means minus the centre of the tiles.
    variances : ndarray of shape (K, D)
        Diagonals of the covariances.
    factors : Factors
        Factors of the precision matrices.
    log_norm : ndarray of shape (K,)
        log weights_k + log det U_k - D/2 log 2 pi: a component's weighted log-density at its mean.
    second_moments : SecondMoments
        Which second moments the M-step needs.
    max_abs_deviation : ndarray of shape (D,)
        Upper bounds of |x_d - centre_d| over all rows x; infinite if unknown.
    dtype : dtype
        float32 or float64, of the tiles.
    ops : Ops
        The array operations, whose arrays the tiles use.
    in_double : ndarray of bool, shape (K,)
        Components to compute in float64 even if the tiles are of float32.
    is_part : bool
        Whether the mixture has other components too.
    is_posterior : bool
        Whether responsibilities are posterior probabilities, so that those of negligible pairs of row and component may
        be zero.
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
    is_posterior: bool = True

    @property
    def n_components(self) -> int:
        return len(self.means)

    @property
    def n_features(self) -> int:
        return int(self.means.shape[1])

    @property
    def sums_to_weight(self) -> bool:
        """Whether the responsibilities of a row sum to its sample weight."""
        return self.is_posterior and not self.is_part

    @property
    def is_bounded(self) -> bool:
        """Whether upper bounds of the rows are known."""
        return bool(np.isfinite(self.max_abs_deviation).all())

    @cached_property
    def distance_bounds(self) -> FloatArray:
        """Upper bounds (K,) of the squared Mahalanobis distances of all rows; infinite where there are none."""
        if not self.is_bounded:
            return np.full(self.n_components, np.inf)
        return self.factors.distance_bounds(np.abs(self.means) + self.max_abs_deviation)

    @cached_property
    def can_whiten_rows(self) -> BoolArray:
        """Components (K,) so near to the tiles' centre that rows may be whitened before the whitened mean is
        subtracted.

        A whitened coordinate of a row near the mean then has a rounding error of 2^-53 times the sum of the magnitudes
        of its terms, which must not exceed `LARGEST_ROUNDING`.
        """
        return 2.0**-53 * self.factors.largest_terms(self.means) <= LARGEST_ROUNDING

    @cached_property
    def whitened(self) -> EStepInputs:
        """The inputs for rows that are multiplied by the factor which all components share: all variances are one."""
        return replace(
            self,
            means=self.factors.whiten(self.means),
            variances=np.ones(self.means.shape),
            factors=IsotropicFactors(np.ones(self.n_components)),
            second_moments=SecondMoments.ALL_FEATURES,
        )

    def put(self, array: FloatArray, dtype: np.dtype[Any] | None = None) -> FloatArray:
        """An array in the memory of the tiles, contiguous, by default with their dtype."""
        moved: FloatArray = self.ops.arrays.put(np.ascontiguousarray(array, dtype or self.dtype))
        return moved

    def part(self, components: Indices) -> EStepInputs:
        """The inputs for the components with these numbers."""
        return replace(
            self,
            means=self.means[components],
            variances=self.variances[components],
            factors=self.factors.select(components),
            log_norm=self.log_norm[components],
            in_double=self.in_double[components],
            is_part=True,
        )
