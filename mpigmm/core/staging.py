"""Rows on their way to a GPU: copied ahead while it computes, and kept there as far as they fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpigmm.core.backend import Gpu
from mpigmm.core.cuda import readable
from mpigmm.rows import Fields, Rows

LEVELS = ("", "rows no longer stay on GPUs", "tiles are no longer copied ahead to GPUs")
"""How little is staged, and what to say of it."""


@dataclass
class Place:
    """Memory of the GPU for a tile, and an event after the last work that reads it."""

    rows: Rows
    used: Any


@dataclass
class Passage:
    """Pinned memory of the host for a tile, and an event after the last copy from it."""

    rows: Rows
    sent: Any = None


@dataclass
class Sent:
    """A tile that is being copied to its place, and an event after the copy."""

    first: int
    n_rows: int
    place: Place
    mark: Any


class Stage:
    """What a GPU holds of its rank's rows.

    Parameters
    ----------
    gpu : Gpu
    budget : int
        Bytes of rows that may stay on it.

    Attributes
    ----------
    level : int
        Of `LEVELS`: the higher, the less room it takes. The tiles, and so the sums, stay as they are.
    held : dict
        Tiles that stay, by their first rows.
    """

    def __init__(self, gpu: Gpu, budget: int) -> None:
        self.gpu = gpu
        self.budget = budget
        self.level = 0
        self.held: dict[int, Place] = {}
        self._room = budget

    def holds(self, fields: Fields, n_rows: int) -> bool:
        """Whether all arrays of this many rows fit into the memory for tiles that stay."""
        row_bytes = sum(field.n_columns * readable(np.dtype(field.dtype)).itemsize for field in fields.values())
        return n_rows * row_bytes <= self._room

    def stage_less(self, level: int) -> None:
        """Go to a level, and let go of what the GPU holds."""
        self.level = level
        self.held.clear()
        self._room = 0
        self.gpu.release()

    def tiles(self, others: Iterator[Rows]) -> Iterator[Rows]:
        """Tiles on the GPU: those that stay there, then the others, some of which will stay from now on.

        Each may be overwritten once the next is asked for.
        """
        for place in self.held.values():
            yield place.rows
        n_places = 1 if self.level == len(LEVELS) - 1 else 2
        passages: deque[Passage] = deque(maxlen=n_places)
        places: deque[Place] = deque(maxlen=n_places)
        ahead: deque[Sent] = deque()
        for tile in others:
            passage = self._passage(passages, tile)
            place = self._held_place(tile) or self._place(places, passage)
            ahead.append(self._send(tile, passage, place))
            if len(ahead) == n_places:
                yield from self._arrive(ahead.popleft())
        while ahead:
            yield from self._arrive(ahead.popleft())

    def _passage(self, ring: deque[Passage], tile: Rows) -> Passage:
        """Pinned memory; no tile of a sweep has more rows than the first, for which it is taken."""
        if len(ring) < (ring.maxlen or 0):
            pinned = tile.mapped(lambda a: self.gpu.pinned(a.size, readable(a.dtype)).reshape(a.shape))
            ring.append(Passage(pinned))
        else:
            ring.rotate(-1)
            self.gpu.finish(ring[-1].sent)
        return ring[-1]

    def _place(self, ring: deque[Place], passage: Passage) -> Place:
        if len(ring) < (ring.maxlen or 0):
            ring.append(self._new_place(passage.rows))
        else:
            ring.rotate(-1)
        return ring[-1]

    def _held_place(self, tile: Rows) -> Place | None:
        """Memory for a tile that is to stay, if there is enough left."""
        n_bytes = sum(array.size * readable(array.dtype).itemsize for array in tile.arrays.values())
        if n_bytes > self._room:
            return None
        self._room -= n_bytes
        self.held[tile.first] = self._new_place(tile)
        return self.held[tile.first]

    def _new_place(self, like: Rows) -> Place:
        """Memory of the GPU for as many rows, which work that is queued may still be using."""
        gpu = self.gpu
        rows = like.mapped(lambda a: gpu.empty(a.size, readable(a.dtype)).reshape(a.shape))
        return Place(rows, gpu.mark())

    def _send(self, tile: Rows, passage: Passage, place: Place) -> Sent:
        """Begin to copy a tile."""
        for name, array in tile.arrays.items():
            pinned = passage.rows.arrays[name][: len(tile)]
            pinned[:] = array
            passage.sent = self.gpu.send(pinned, place.rows.arrays[name][: len(tile)], place.used)
        return Sent(tile.first, len(tile), place, passage.sent)

    def _arrive(self, sent: Sent) -> Iterator[Rows]:
        """A tile, for the work that is queued until the next one is asked for."""
        place = sent.place
        self.gpu.await_copy(sent.mark)
        yield Rows(sent.first, place.rows[: sent.n_rows].arrays)
        place.used = self.gpu.mark()
