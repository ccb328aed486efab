"""A rank's rows as tiles of the global grid: in memory where they fit, else read anew each time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import numpy as np

from mpigmm.data.source import Rows, Source
from mpigmm.data.synthetic import SyntheticSource

TILES_AHEAD = 2
"""Tiles that each thread has read for it while it computes another."""

READ_BYTES = 1 << 25
"""Bytes asked of a file at a time when rows are loaded."""


class Block:
    """Tiles of one rank.

    Parameters
    ----------
    source : Source or SyntheticSource
    tiles : range
        Numbers of the tiles on the global grid.
    tile_rows : int
        Rows of a whole tile.
    memory : int
        Bytes that may be held; if all rows fit they are loaded once, else every pass reads them.

    Attributes
    ----------
    fits : bool
        Whether the rank's rows and weights do.
    resident : bool
        Whether `load` is to load them; may be changed before.
    seconds_read : float
        Spent on waiting for rows so far.
    n_readers : int
        Threads that share the tiles, among which the seconds of reading are divided.
    """

    def __init__(self, source: Source | SyntheticSource, tiles: range, tile_rows: int, memory: int) -> None:
        self.source = source
        self.tiles = tiles
        self.tile_rows = tile_rows
        self.start = min(tiles.start * tile_rows, source.header.n_rows)
        self.stop = min(tiles.stop * tile_rows, source.header.n_rows)
        self.fits = (self.stop - self.start) * source.header.row_bytes <= memory
        self.resident = self.fits
        self.seconds_read = 0.0
        self.n_readers = 1
        self._rows: Rows | None = None
        self._weights: Rows | None = None

    def load(self, check: Callable[[], None]) -> None:
        """Read the rows into memory, if they are to be resident and are not yet there; check() is called before every
        read and may raise."""
        if not self.resident or self.start == self.stop or self._rows is not None:
            return
        header = self.source.header
        begin = time.perf_counter()
        self._rows = np.empty((self.stop - self.start, header.n_features), header.dtype)
        self._weights = None if header.weights is None else np.empty(self.stop - self.start)
        step = max(1, READ_BYTES // header.row_bytes)
        for first in range(self.start, self.stop, step):
            check()
            rows, weights = self.source.read(first, min(first + step, self.stop))
            part = slice(first - self.start, first - self.start + len(rows))
            self._rows[part] = rows
            if self._weights is not None and weights is not None:
                self._weights[part] = weights
        self.seconds_read += time.perf_counter() - begin

    def share(self, worker: int, n_workers: int, held: Container[int] = ()) -> Iterator[tuple[int, Rows, Rows | None]]:
        """First row, rows and weights of every n_workers-th tile, in ascending order, but for those held elsewhere, by
        their first rows."""
        tiles = [tile for tile in self.tiles[worker::n_workers] if tile * self.tile_rows not in held]
        return self._resident(tiles) if self._rows is not None else self._streamed(tiles)

    def _resident(self, tiles: Sequence[int]) -> Iterator[tuple[int, Rows, Rows | None]]:
        assert self._rows is not None
        for tile in tiles:
            first, stop = self._extent(tile)
            part = slice(first - self.start, stop - self.start)
            yield first, self._rows[part], None if self._weights is None else self._weights[part]

    def _streamed(self, tiles: Sequence[int]) -> Iterator[tuple[int, Rows, Rows | None]]:
        """Tiles as they are read, by a thread that keeps some tiles ahead; each is overwritten once it is done with."""
        header = self.source.header
        waiting: deque[tuple[int, Future[tuple[Rows, Rows | None]]]] = deque()
        most = min(self.tile_rows, self.stop - self.start)
        places = cycle([np.empty((most, header.n_features), header.dtype) for _ in range(TILES_AHEAD + 1)])
        with ThreadPoolExecutor(1) as reader:
            for tile, place in zip(tiles, places, strict=False):
                first, stop = self._extent(tile)
                waiting.append((first, reader.submit(self.source.read, first, stop, place)))
                if len(waiting) > TILES_AHEAD:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)

    def _next(self, waiting: deque[tuple[int, Future[tuple[Rows, Rows | None]]]]) -> tuple[int, Rows, Rows | None]:
        first, reading = waiting.popleft()
        begin = time.perf_counter()
        rows, weights = reading.result()
        self.seconds_read += (time.perf_counter() - begin) / self.n_readers
        return first, rows, weights

    def _extent(self, tile: int) -> tuple[int, int]:
        first = tile * self.tile_rows
        return first, min(first + self.tile_rows, self.stop)
