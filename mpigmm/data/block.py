"""A rank's rows as tiles of the global grid, read once and kept in memory, or read again in every pass."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import cycle

from mpigmm.data.source import Loan, Source
from mpigmm.rows import Fields, Rows

TILES_AHEAD = 2
"""Number of tiles that are read in advance for each thread, while it computes with an earlier one."""

READ_BYTES = 1 << 25
"""Size of one read, in bytes, when rows are loaded into memory."""


def rows_of_tiles(tiles: range, tile_rows: int, n_rows: int) -> range:
    """Numbers of the rows in consecutive tiles of a grid over n_rows, whose last tile may be shorter."""
    return range(min(tiles.start * tile_rows, n_rows), min(tiles.stop * tile_rows, n_rows))


class Block:
    """The tiles of one rank.

    Parameters
    ----------
    source : Source
        Where rows are read from.
    tiles : range
        Numbers of the tiles on the global grid.
    tile_rows : int
        Rows of a tile; the last tile of the grid may have fewer.
    resident : bool
        Whether `load` reads the rows into memory; if not, every pass reads them again.
    memory : int
        Bytes of rows that may stay in memory if the block is not resident: of the first ones, where they are used in
        place.

    Attributes
    ----------
    start, stop : int
        The rank has the rows from start to stop - 1.
    seconds_read : float
        Seconds for which threads have waited for rows so far, divided by the number of threads.
    """

    def __init__(self, source: Source, tiles: range, tile_rows: int, resident: bool, memory: int = 0) -> None:
        self.source = source
        self.tiles = tiles
        self.tile_rows = tile_rows
        rows = rows_of_tiles(tiles, tile_rows, source.header.n_rows)
        self.start, self.stop = rows.start, rows.stop
        self.seconds_read = 0.0
        self._resident = resident
        self._rows: Rows | None = None
        if not resident:
            source.leave_mapped(self.start, min(self.stop, self.start + memory // source.header.row_bytes))

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    @property
    def _most_rows(self) -> int:
        """Largest number of rows of a tile of this rank."""
        return min(self.tile_rows, self.n_rows)

    def make_resident(self) -> None:
        """From the next `load` on keep the rows in memory, instead of reading them again in every pass."""
        self._resident = True

    def load(self, check: Callable[[], None]) -> None:
        """Read the rows into memory, if the block is resident and does not hold them yet.

        check() is called before every read; an exception that it raises ends the loading, and the block holds no rows.
        """
        if not self._resident or not self.n_rows or self._rows is not None or self.source.held is not None:
            return
        begin, header = time.perf_counter(), self.source.header
        rows = Rows.empty(self.start, self.n_rows, header.kept_fields)
        step = max(1, READ_BYTES // header.row_bytes)
        for first in range(0, self.n_rows, step):
            check()
            part = rows[first : first + step]
            self.source.read(part.first, part.first + len(part), part)
        self._rows = rows
        self.seconds_read += time.perf_counter() - begin

    def read(self, tiles: Sequence[int], n_workers: int = 1, fields: Fields | None = None) -> Iterator[Rows]:
        """The rows of tiles of this rank, one tile after another.

        Parameters
        ----------
        tiles : sequence of int
            Their numbers on the global grid, in ascending order.
        n_workers : int
            Number of threads that read tiles at the same time; each calls this once for a pass.
        fields : dict of str to Field, optional
            The arrays of the tiles; by default those that every pass needs. Others are read anew even if the block is
            resident.
        """
        fields = self.source.header.kept_fields if fields is None else fields
        if self.source.held is not None:
            return self._held(tiles, fields)
        return (
            self._streamed(tiles, n_workers, fields) if self._rows is None else self._slices(self._rows, tiles, fields)
        )

    def _held(self, tiles: Sequence[int], fields: Fields) -> Iterator[Rows]:
        """Tiles of a source that holds the rows in memory; one that must be copied is valid until the next one."""
        buffer = None if self.source.has_views else Rows.empty(0, self._most_rows, fields)
        for tile in tiles:
            yield self.source.read(*self._extent(tile), buffer, fields)

    def _slices(self, rows: Rows, tiles: Sequence[int], fields: Fields) -> Iterator[Rows]:
        """Tiles as views of the rows in memory, with what is not there read from the source."""
        absent = {name: field for name, field in fields.items() if name not in rows.arrays}
        for tile in tiles:
            first, stop = self._extent(tile)
            views = rows[first - self.start : stop - self.start]
            others = self.source.read(first, stop, fields=absent).arrays if absent else {}
            yield Rows(first, {**views.arrays, **others})

    def _streamed(self, tiles: Sequence[int], n_workers: int, fields: Fields) -> Iterator[Rows]:
        """Tiles as the source lends them; another thread reads `TILES_AHEAD` of them in advance.

        It does not for tiles that are used in place in the operating system's cache: if all processors are busy, a
        thread costs more time than it saves. A tile is valid until the next one is requested.
        """
        waiting: deque[Callable[[], Loan]] = deque()
        buffers = cycle([Rows.empty(0, self._most_rows, fields) for _ in range(TILES_AHEAD + 1)])
        with ThreadPoolExecutor(1) as reader:
            for tile, buffer in zip(tiles, buffers, strict=False):
                waiting.append(self._begin(reader, tile, buffer))
                if len(waiting) > TILES_AHEAD:
                    yield from self._next(waiting, n_workers)
            while waiting:
                yield from self._next(waiting, n_workers)

    def _begin(self, reader: Executor, tile: int, buffer: Rows) -> Callable[[], Loan]:
        """A function that returns the rows of a tile; another thread reads them from now on if that takes time."""
        extent = self._extent(tile)
        if self.source.is_cached(*extent):
            return partial(self.source.lend, *extent, buffer, ahead=False)
        return reader.submit(self.source.lend, *extent, buffer).result

    def _next(self, waiting: deque[Callable[[], Loan]], n_workers: int) -> Iterator[Rows]:
        begin = time.perf_counter()
        loan = waiting.popleft()()
        self.seconds_read += (time.perf_counter() - begin) / n_workers
        yield loan.rows
        loan.end()

    def _extent(self, tile: int) -> tuple[int, int]:
        """The first row of a tile, and the first row after it."""
        first = tile * self.tile_rows
        return first, min(first + self.tile_rows, self.stop)
