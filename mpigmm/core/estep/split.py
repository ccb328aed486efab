"""Some components by one kernel, the others by another."""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import DOUBLE
from mpigmm.core.estep.base import Kernel
from mpigmm.core.estep.differences import DifferenceKernel
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.estep.quadratic import QuadraticKernel
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import Places
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile


class SplitKernel(Kernel):
    """Two kernels, each for its own components.

    Parameters
    ----------
    inputs : EStepInputs
        Of all components.
    fast, safe : Kernel
    fast_places, safe_places : ndarray of int
        Numbers of the components of each.
    """

    def __init__(
        self, inputs: EStepInputs, fast: Kernel, safe: Kernel, fast_places: Places, safe_places: Places
    ) -> None:
        self.fast, self.safe = fast, safe
        self._ops = inputs.ops
        self._places = inputs.ops.arrays.put(fast_places), inputs.ops.arrays.put(safe_places)
        self._is_summed = inputs.second_moments is SecondMoments.PAIRS_SUMMED

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        for kernel, places in zip((self.fast, self.safe), self._places, strict=True):
            # the tile's buffers are taken: the kernels themselves use them
            part = self._ops.arrays.empty(len(places) * tile.n_rows, tile.dtype).reshape(len(places), tile.n_rows)
            kernel.log_prob(tile, part)
            out[places] = part

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        seconds = []
        for kernel, places in zip((self.fast, self.safe), self._places, strict=True):
            own_first, own_second = self._empty_moments(tile, len(places), len(first), second)
            kernel.accumulate(tile, resp[places], own_first, own_second)
            first[places] = own_first
            seconds.append(own_second)
        self._combine(seconds, len(first), second)

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        fast = self.fast.dense_part()
        if not (self._ops.fuses and isinstance(fast, QuadraticKernel) and isinstance(self.safe, DifferenceKernel)):
            return False
        chosen, left = self._places
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
        """First and packed second moments of some components, uninitialised, in the memory of the tiles."""
        size = second.shape[0] if self._is_summed else second.shape[0] // n_components * n_own
        empty = self._ops.arrays.empty
        return empty(n_own * tile.n_features, DOUBLE).reshape(n_own, tile.n_features), empty(size, DOUBLE)

    def _combine(self, seconds: list[FloatArray], n_components: int, second: FloatArray) -> None:
        """Second moments of all components, or their sum, from those of the two kernels."""
        if self._is_summed:
            second[:] = seconds[0] + seconds[1].reshape(-1)
            return
        by_component = second.reshape(n_components, -1)
        for places, own in zip(self._places, seconds, strict=True):
            by_component[places] = own.reshape(len(places), -1)
