"""Copies tiles of rows to a GPU while it computes, and keeps on it as many of them as fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpigmm.core.gpu.arrays import GpuArrays
from mpigmm.core.raw_types import raw_dtype
from mpigmm.rows import Fields, Rows

LEVELS = ("", "rows no longer stay on GPUs", "tiles are no longer copied ahead to GPUs")
"""Levels of use of GPU memory, from the most to the least, each with a message about the change to it."""


@dataclass
class DeviceTile:
    """Memory of the GPU for one tile.

    Attributes
    ----------
    rows : Rows
    free : mark
        After the last work that reads the memory.
    """

    rows: Rows
    free: Any


@dataclass
class PinnedTile:
    """Pinned memory of the host for one tile.

    Attributes
    ----------
    rows : Rows
    sent : mark
        After the last copy from the memory.
    """

    rows: Rows
    sent: Any = None


@dataclass
class CopiedTile:
    """A tile whose copy to the GPU is queued.

    Attributes
    ----------
    first, n_rows : int
        Number of its first row, and number of its rows.
    device_tile : DeviceTile
        Where it is copied to.
    copied : mark
        After the copy.
    """

    first: int
    n_rows: int
    device_tile: DeviceTile
    copied: Any


class Stage:
    """The rows of a rank that its GPU holds, and the copies of the others.

    Parameters
    ----------
    gpu : GpuArrays
    budget : int
        Bytes of rows that may stay on the GPU.

    Attributes
    ----------
    level : int
        Index in `LEVELS`: the higher, the less memory is used. No level changes the tiles, nor therefore the sums.
    held : dict
        Tiles that stay on the GPU, by the numbers of their first rows.
    """

    def __init__(self, gpu: GpuArrays, budget: int) -> None:
        self.gpu = gpu
        self.budget = budget
        self.level = 0
        self.held: dict[int, DeviceTile] = {}
        self._bytes_left = budget

    def holds(self, fields: Fields, n_rows: int) -> bool:
        """Whether all arrays of n_rows rows fit into what is left of the budget."""
        row_bytes = sum(field.n_columns * raw_dtype(np.dtype(field.dtype)).itemsize for field in fields.values())
        return n_rows * row_bytes <= self._bytes_left

    def stage_less(self, level: int) -> None:
        """Change to a level, and free the memory of all tiles that the GPU holds."""
        self.level = level
        self.held.clear()
        self._bytes_left = 0
        self.gpu.release()

    def tiles(self, held: Iterable[int], others: Iterator[Rows]) -> Iterator[Rows]:
        """The tiles of a pass, on the GPU: first those that it holds, by their first rows, then others from the host.

        The first of the others stay on the GPU from then on, as far as the budget allows. A tile that does not stay may
        be overwritten once the next one is requested.
        """
        for first in held:
            yield self.held[first].rows
        n_ahead = 1 if self.level == len(LEVELS) - 1 else 2
        all_pinned: deque[PinnedTile] = deque(maxlen=n_ahead)
        device_tiles: deque[DeviceTile] = deque(maxlen=n_ahead)
        ahead: deque[CopiedTile] = deque()
        for tile in others:
            pinned_tile = self._pinned_tile(all_pinned, tile)
            device_tile = self._held_tile(tile) or self._device_tile(device_tiles, pinned_tile)
            ahead.append(self._send(tile, pinned_tile, device_tile))
            if len(ahead) == n_ahead:
                yield from self._arrive(ahead.popleft())
        while ahead:
            yield from self._arrive(ahead.popleft())

    def _pinned_tile(self, ring: deque[PinnedTile], tile: Rows) -> PinnedTile:
        """Pinned memory for a tile, allocated for the first tiles of a pass, since no later one has more rows."""
        if len(ring) < (ring.maxlen or 0):
            pinned = tile.mapped(lambda a: self.gpu.streams.pinned(a.size, raw_dtype(a.dtype)).reshape(a.shape))
            ring.append(PinnedTile(pinned))
        else:
            ring.rotate(-1)
            self.gpu.streams.finish(ring[-1].sent)
        return ring[-1]

    def _device_tile(self, ring: deque[DeviceTile], pinned_tile: PinnedTile) -> DeviceTile:
        if len(ring) < (ring.maxlen or 0):
            ring.append(self._new_device_tile(pinned_tile.rows))
        else:
            ring.rotate(-1)
        return ring[-1]

    def _held_tile(self, tile: Rows) -> DeviceTile | None:
        """Memory for a tile that is to stay on the GPU; None where the budget does not allow it."""
        n_bytes = sum(array.size * raw_dtype(array.dtype).itemsize for array in tile.arrays.values())
        if n_bytes > self._bytes_left:
            return None
        self._bytes_left -= n_bytes
        self.held[tile.first] = self._new_device_tile(tile)
        return self.held[tile.first]

    def _new_device_tile(self, like: Rows) -> DeviceTile:
        """New memory of the GPU for as many rows as `like` has; work queued before may still use this memory."""
        gpu = self.gpu
        rows = like.mapped(lambda a: gpu.empty(a.size, raw_dtype(a.dtype)).reshape(a.shape))
        return DeviceTile(rows, gpu.streams.mark())

    def _send(self, tile: Rows, pinned_tile: PinnedTile, device_tile: DeviceTile) -> CopiedTile:
        """Queue the copy of a tile."""
        for name, array in tile.arrays.items():
            pinned = pinned_tile.rows.arrays[name][: len(tile)]
            pinned[:] = array
            pinned_tile.sent = self.gpu.streams.send(
                pinned, device_tile.rows.arrays[name][: len(tile)], device_tile.free
            )
        return CopiedTile(tile.first, len(tile), device_tile, pinned_tile.sent)

    def _arrive(self, sent: CopiedTile) -> Iterator[Rows]:
        """Yield a tile once queued work waits for its copy; the tile is free after the work queued meanwhile."""
        device_tile = sent.device_tile
        self.gpu.streams.await_copy(sent.copied)
        yield Rows(sent.first, device_tile.rows[: sent.n_rows].arrays)
        device_tile.free = self.gpu.streams.mark()
