"""A kernel that computes some components by one kernel and the others by another."""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import DOUBLE, Indices
from mpigmm.core.estep.base import Kernel
from mpigmm.core.estep.differences import DifferenceKernel
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.estep.quadratic import QuadraticKernel
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile


class SplitKernel(Kernel):
    """Joins the results of two kernels, each of which computes some of the components.

    Parameters
    ----------
    inputs : EStepInputs
        Those of all components.
    fast, safe : Kernel
        A fast kernel, and one for the components that the fast kernel does not support.
    fast_components, safe_components : ndarray of int
        Numbers of the components that each computes.
    """

    def __init__(
        self, inputs: EStepInputs, fast: Kernel, safe: Kernel, fast_components: Indices, safe_components: Indices
    ) -> None:
        self.fast, self.safe = fast, safe
        self._ops = inputs.ops
        self._components = inputs.ops.arrays.put(fast_components), inputs.ops.arrays.put(safe_components)
        self._is_summed = inputs.second_moments is SecondMoments.PAIRS_SUMMED

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        for kernel, components in zip((self.fast, self.safe), self._components, strict=True):
            height, n = len(components), tile.n_rows
            # a new array, since the kernels use the tile's buffers themselves
            part = self._ops.arrays.empty(height * n, tile.dtype).reshape(height, n)
            kernel.log_prob(tile, part)
            out[components] = part

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        seconds = []
        for kernel, components in zip((self.fast, self.safe), self._components, strict=True):
            own_first, own_second = self._empty_moments(tile, len(components), len(first), second)
            kernel.accumulate(tile, resp[components], own_first, own_second)
            first[components] = own_first
            seconds.append(own_second)
        self._combine(seconds, len(first), second)

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        fast = self.fast.dense_part()
        if not (self._ops.fuses and isinstance(fast, QuadraticKernel) and isinstance(self.safe, DifferenceKernel)):
            return False
        chosen, left = self._components
        counts, first, second = statistics.counts, statistics.first_moments, statistics.second_moments
        sums = self._ops.sweep(tile, fast.group, self.safe.group)
        own_first, own_second = self._empty_moments(tile, len(chosen), len(counts), second)
        own_counts = np.empty(len(chosen))
        fast.move_all(sums, own_counts, own_first, own_second)
        statistics.log_likelihood[0] = sums.log_likelihood
        counts[chosen], counts[left] = own_counts, sums.counts
        first[chosen], first[left] = own_first, sums.first
        self._combine([own_second, sums.second], len(counts), second)
        return True

    def _empty_moments(
        self, tile: Tile, n_own: int, n_components: int, second: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Uninitialised first and packed second moments of n_own of the components, in the memory of the tiles."""
        size = second.shape[0] if self._is_summed else second.shape[0] // n_components * n_own
        empty = self._ops.arrays.empty
        return empty(n_own * tile.n_features, DOUBLE).reshape(n_own, tile.n_features), empty(size, DOUBLE)

    def _combine(self, seconds: list[FloatArray], n_components: int, second: FloatArray) -> None:
        """Join or, if they are summed over components, add the second moments of both kernels, into second."""
        if self._is_summed:
            second[:] = seconds[0] + seconds[1].reshape(-1)
            return
        by_component = second.reshape(n_components, -1)
        for components, own in zip(self._components, seconds, strict=True):
            by_component[components] = own.reshape(len(components), -1)
