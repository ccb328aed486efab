"""This rank's part of a run: its rows, its threads, and one sweep over the former by the latter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mpigmm.core.loops import LOOPS, NUMPY, Loops, best_loops, loops_by_name
from mpigmm.core.tile import Tile
from mpigmm.data.block import Block, memory_budget, return_freed_memory
from mpigmm.data.source import Header, Rows, Source
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.errors import UserError
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm, host
from mpigmm.parallel.partition import count_tiles, own_tiles
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import count_threads, crowding, hold_blas, run_workers

T = TypeVar("T")
Tiles = Iterator[tuple[int, Rows, Rows | None]]


@dataclass
class Team:
    """A rank's rows and threads.

    Attributes
    ----------
    comm : Comm
    block : Block
    n_threads : int
    stop : StopRequest
        Looked at before every tile.
    loops : Loops
    warning : str or None
        What this node's user should know.
    """

    comm: Comm
    block: Block
    n_threads: int
    stop: StopRequest
    loops: Loops = NUMPY
    warning: str | None = None

    def __post_init__(self) -> None:
        header = self.block.source.header
        most = min(self.block.tile_rows, header.n_rows)
        self.block.n_readers = self.n_threads
        self._tiles = [Tile(header.n_features, most, self.loops) for _ in range(self.n_threads)]

    @property
    def header(self) -> Header:
        return self.block.source.header

    def sweep(self, visit: Callable[[Tile, Tiles], T]) -> list[T]:
        """Results of visit(work space, tiles), one a thread; together the threads see each tile of the rank once."""
        return run_workers(
            self.n_threads,
            lambda worker: visit(self._tiles[worker], self._watched(self.block.share(worker, self.n_threads))),
        )

    def _watched(self, tiles: Tiles) -> Tiles:
        for tile in tiles:
            self.stop.check()
            yield tile


def gather_team(
    comm: Comm, header: Header, tile_rows: int, compute: ComputeOptions, stop: StopRequest, loops: str = NUMPY.name
) -> Team:
    """`build_team` for the rows of files. Collective."""
    return build_team(comm, Source(header), tile_rows, compute, stop, loops)


def build_team(
    comm: Comm,
    source: Source | SyntheticSource,
    tile_rows: int,
    compute: ComputeOptions,
    stop: StopRequest,
    loops: str = NUMPY.name,
) -> Team:
    """Give this rank its tiles, threads and loops, and load its rows if they fit. Collective."""
    return_freed_memory()
    ranks_on_node = comm.ranks_on_node()
    n_threads = count_threads(compute.threads, ranks_on_node)
    tiles = own_tiles(count_tiles(source.header.n_rows, tile_rows), comm.rank, comm.size)
    with comm.together():
        memory = memory_budget(compute.memory, ranks_on_node)
        block = Block(source, tiles, tile_rows, memory)
        block.load(stop.check)
        team = Team(comm, block, max(1, min(n_threads, len(tiles))), stop, load_loops(loops))
        hold_blas()
        team.warning = crowding(n_threads, ranks_on_node)
        return team


def common_loops(comm: Comm) -> str:
    """Name of the best loops that every rank has. Collective."""
    with comm.together():
        own = LOOPS.index(best_loops())
    return LOOPS[-int(comm.max(np.array([-float(own)]))[0])]


def load_loops(name: str) -> Loops:
    """The loops of that name; raises `UserError`."""
    try:
        return loops_by_name(name)
    except ImportError as error:
        raise UserError(
            f"{name}, the loops that this run computes with, cannot be had on {host()}: {error}; run on processors "
            "like those that it began on, with mpigmm installed where there is a C compiler, or add --restart to start "
            "over"
        ) from None
