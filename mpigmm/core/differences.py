"""Components by differences from their means, in float64; and components some of which are computed so, and the others
faster."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariance import BoolArray, Covariance, Kernel, Parameters
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.groups import NATS, DifferenceGroup, SecondMoments
from mpigmm.core.packed import PackedKernel
from mpigmm.core.tile import Tile

if TYPE_CHECKING:
    from mpigmm.core.statistics import Moments


NO_MATRIX, NO_MATRICES = np.empty((0, 0)), np.empty((0, 0, 0))


def split(
    covariance: Covariance,
    parameters: Parameters,
    is_ready: BoolArray,
    ready: Callable[[Parameters], Kernel],
    differences: Callable[[Parameters], DifferenceGroup],
) -> Kernel:
    """A kernel for the components (K,) that are ready for it, and differences for the others."""
    if is_ready.all():
        return ready(parameters)
    if not is_ready.any():
        return DifferenceKernel(differences(parameters), parameters.ops)
    chosen, left, put = np.flatnonzero(is_ready), np.flatnonzero(~is_ready), parameters.ops.arrays.put
    return SplitKernel(
        ready(covariance.part(parameters, chosen)),
        DifferenceKernel(differences(covariance.part(parameters, left)), parameters.ops),
        put(chosen),
        put(left),
    )


def least_responsibilities(farthest: FloatArray) -> FloatArray:
    """Responsibilities (K,) up to which moments may leave rows out, none of which is farther, squared, than (K,)."""
    return np.asarray(math.exp(-NATS) / np.maximum(1.0, farthest))


def difference_group(
    parameters: Parameters,
    second_moments: SecondMoments,
    farthest: FloatArray,
    *,
    precisions: FloatArray = NO_MATRIX,
    whiten: FloatArray = NO_MATRIX,
    subtracted: FloatArray | None = None,
    factors: FloatArray = NO_MATRICES,
) -> DifferenceGroup:
    """A group in the tiles' memory, none of whose rows are farther, squared, from the components than (K,).

    Where nothing else is given to be subtracted, the means are.
    """
    means = parameters.means
    arrays = (
        means,
        parameters.log_constants,
        least_responsibilities(farthest),
        precisions,
        whiten,
        means if subtracted is None else subtracted,
        factors,
    )
    return DifferenceGroup(second_moments, *(parameters.put(array, DOUBLE) for array in arrays))


class DifferenceKernel(Kernel):
    """Good for any rows; of tiles in float32 the rows are taken in float64.

    Parameters
    ----------
    group : DifferenceGroup
    """

    def __init__(self, group: DifferenceGroup, ops: Ops) -> None:
        self.group = group
        self.ops = ops

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        self.ops.difference_log_prob(tile, self.group, out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        self.ops.difference_moments(tile, self.group, resp, first, second.reshape(self.group.second_shape))

    def fused(self, tile: Tile, moments: Moments) -> bool:
        if not self.ops.fuses:
            return False
        sums = self.ops.sweep(tile, None, self.group)
        moments.log_likelihood[0] = sums.log_likelihood
        moments.counts[:], moments.first_moments[:] = sums.counts, sums.first
        moments.second_moments[:] = sums.second.reshape(-1)
        return True


class SplitKernel(Kernel):
    """Some components by one kernel, the others by differences.

    Parameters
    ----------
    ready : Kernel
        Of the former.
    others : DifferenceKernel
    chosen, left : ndarray of int
        Numbers of the components of either, on the tiles' backend.
    """

    def __init__(
        self, ready: Kernel, others: DifferenceKernel, chosen: NDArray[np.intp], left: NDArray[np.intp]
    ) -> None:
        self.ready, self.others = ready, others
        self.ops = others.ops
        self._places = chosen, left
        self._summed = others.group.second_moments is SecondMoments.PAIRS_SUMMED

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        for kernel, places in zip((self.ready, self.others), self._places, strict=True):
            # not of the tile's buffers, which the kernels themselves use
            part = tile.ops.arrays.empty(len(places) * tile.n_rows, tile.dtype).reshape(len(places), tile.n_rows)
            kernel.log_prob(tile, part)
            out[places] = part

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        seconds = []
        for kernel, places in zip((self.ready, self.others), self._places, strict=True):
            own_first, own_second = self._room(tile, len(places), len(first), second)
            kernel.accumulate(tile, resp[places], own_first, own_second)
            first[places] = own_first
            seconds.append(own_second)
        self._combine(seconds, len(first), second)

    def fused(self, tile: Tile, moments: Moments) -> bool:
        ready = self.ready.dense_part()
        if not (self.ops.fuses and isinstance(ready, PackedKernel)):
            return False
        chosen, left = self._places
        n_components, second = len(moments.counts), moments.second_moments
        sums = self.ops.sweep(tile, ready.group, self.others.group)
        own_first, own_second = self._room(tile, len(chosen), n_components, second)
        own_counts = np.empty(len(chosen))
        ready.move_all(sums, own_counts, own_first, own_second)
        moments.log_likelihood[0] = sums.log_likelihood
        moments.counts[chosen], moments.counts[left] = own_counts, sums.counts
        moments.first_moments[chosen], moments.first_moments[left] = own_first, sums.first
        self._combine([own_second, sums.second], n_components, second)
        return True

    def _room(self, tile: Tile, n_own: int, n_components: int, second: FloatArray) -> tuple[FloatArray, FloatArray]:
        """First and second moments of some components, uninitialised, on the tiles' backend."""
        size = second.shape[0] if self._summed else second.shape[0] // n_components * n_own
        empty = tile.ops.arrays.empty
        return empty(n_own * tile.n_features, DOUBLE).reshape(n_own, tile.n_features), empty(size, DOUBLE)

    def _combine(self, seconds: list[FloatArray], n_components: int, second: FloatArray) -> None:
        """Second moments of all components, or their sum, from those of either part."""
        if self._summed:
            second[:] = seconds[0] + seconds[1].reshape(-1)
            return
        by_component = second.reshape(n_components, -1)
        for places, own in zip(self._places, seconds, strict=True):
            by_component[places] = own.reshape(len(places), -1)
