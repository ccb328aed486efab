"""Rows on their way to a GPU: copied ahead while it computes, and kept there as far as they fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE, Array
from mpigmm.core.gpu.arrays import GpuArrays
from mpigmm.core.raw_types import raw_dtype

HostTile = tuple[int, NDArray[Any], NDArray[Any] | None]
DeviceTile = tuple[int, Array, Array | None]
"""First row, rows and weights."""

LEVELS = ("", "rows no longer stay on GPUs", "tiles are no longer copied ahead to GPUs")
"""How little is staged, and what to say of it."""


@dataclass
class Place:
    """Room for a tile on the GPU; `used` marks the last work with what it holds."""

    rows: Array
    weights: Array | None
    used: Any


@dataclass
class Passage:
    """Room for a tile in pinned memory of the host; `sent` marks the last copy from it."""

    rows: NDArray[Any]
    weights: NDArray[Any] | None
    sent: Any = None


@dataclass
class Sent:
    """A tile that is being copied to its place; `mark` stands behind the copy."""

    first: int
    n_rows: int
    place: Place
    mark: Any


class Stage:
    """What a GPU holds of its rank's rows.

    Parameters
    ----------
    gpu : GpuArrays
    budget : int
        Bytes of rows that may stay on it.

    Attributes
    ----------
    level : int
        Of `LEVELS`: the higher, the less room it takes. The tiles, and so the sums, stay as they are.
    held : dict
        Tiles that stay, by their first rows.
    """

    def __init__(self, gpu: GpuArrays, budget: int) -> None:
        self.gpu = gpu
        self.budget = budget
        self.level = 0
        self.held: dict[int, Place] = {}
        self._room = budget

    def holds(self, dtype: np.dtype[Any], n_rows: int, n_features: int, weighted: bool) -> bool:
        """Whether so many rows may stay."""
        return n_rows * (n_features * raw_dtype(dtype).itemsize + 8 * weighted) <= self._room

    def stage_less(self, level: int) -> None:
        """Go to a level, and let go of what the GPU holds."""
        self.level = level
        self.held.clear()
        self._room = 0
        self.gpu.release()

    def tiles(self, others: Iterator[HostTile]) -> Iterator[DeviceTile]:
        """First row, rows and weights on the GPU: of all tiles held, and of others, some of which will be held.

        Each may be overwritten once the next is asked for.
        """
        for first, place in self.held.items():
            yield first, place.rows, place.weights
        n_places = 1 if self.level == len(LEVELS) - 1 else 2
        passages: deque[Passage] = deque(maxlen=n_places)
        places: deque[Place] = deque(maxlen=n_places)
        ahead: deque[Sent] = deque()
        for tile in others:
            passage = self._passage(passages, tile)
            place = self._held_place(passage, tile) or self._place(places, passage)
            ahead.append(self._send(tile, passage, place))
            if len(ahead) == n_places:
                yield from self._arrive(ahead.popleft())
        while ahead:
            yield from self._arrive(ahead.popleft())

    def _passage(self, ring: deque[Passage], tile: HostTile) -> Passage:
        """Room in pinned memory; the first tile of a sweep has as many rows as any."""
        if len(ring) < (ring.maxlen or 0):
            _, rows, weights = tile
            vector = self.gpu.streams.pinned(rows.size, raw_dtype(rows.dtype)).reshape(rows.shape)
            ring.append(Passage(vector, None if weights is None else self.gpu.streams.pinned(len(weights), DOUBLE)))
        else:
            ring.rotate(-1)
            self.gpu.streams.finish(ring[-1].sent)
        return ring[-1]

    def _place(self, ring: deque[Place], passage: Passage) -> Place:
        if len(ring) < (ring.maxlen or 0):
            ring.append(self._new_place(passage, len(passage.rows)))
        else:
            ring.rotate(-1)
        return ring[-1]

    def _held_place(self, passage: Passage, tile: HostTile) -> Place | None:
        """Room for a tile that is to stay, if there is any."""
        first, rows, weights = tile
        n_bytes = rows.size * passage.rows.itemsize + (0 if weights is None else 8 * len(weights))
        if n_bytes > self._room:
            return None
        self._room -= n_bytes
        self.held[first] = self._new_place(passage, len(rows))
        return self.held[first]

    def _new_place(self, passage: Passage, n_rows: int) -> Place:
        """Room on the GPU, which work that has been queued may still be using."""
        gpu, width = self.gpu, passage.rows.shape[1]
        rows = gpu.empty(n_rows * width, passage.rows.dtype).reshape(n_rows, width)
        return Place(rows, None if passage.weights is None else gpu.empty(n_rows, DOUBLE), gpu.streams.mark())

    def _send(self, tile: HostTile, passage: Passage, place: Place) -> Sent:
        """Begin to copy a tile."""
        first, rows, weights = tile
        n = len(rows)
        passage.rows[:n] = rows
        passage.sent = self.gpu.streams.send(passage.rows[:n], place.rows[:n], place.used)
        if passage.weights is not None and place.weights is not None:
            passage.weights[:n] = weights
            passage.sent = self.gpu.streams.send(passage.weights[:n], place.weights[:n], place.used)
        return Sent(first, n, place, passage.sent)

    def _arrive(self, sent: Sent) -> Iterator[DeviceTile]:
        """A tile, for the work that is queued until the next one is asked for."""
        place = sent.place
        self.gpu.streams.await_copy(sent.mark)
        yield sent.first, place.rows[: sent.n_rows], None if place.weights is None else place.weights[: sent.n_rows]
        place.used = self.gpu.streams.mark()
