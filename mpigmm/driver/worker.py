"""The rows, threads and device of one rank, and the loop that applies a function to each of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from mpigmm.core.algorithms.base import Grid
from mpigmm.core.arrays import HOST, Arrays
from mpigmm.core.gpu.arrays import DeviceError, DeviceMemoryError
from mpigmm.core.gpu.staging import LEVELS, Stage
from mpigmm.core.ops.base import Ops
from mpigmm.core.tile import Tile
from mpigmm.data.array_source import ArraySource
from mpigmm.data.block import Block
from mpigmm.data.malloc import return_freed_memory
from mpigmm.data.source import Header, Source
from mpigmm.driver.borders import complete_tiles
from mpigmm.driver.devices import Devices, load_ops
from mpigmm.driver.layout import Layout
from mpigmm.parallel.comm import Comm, host
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import Workers
from mpigmm.rows import Rows

T = TypeVar("T")
Tiles = Iterator[Rows]
TileFunction = Callable[[Tile, Tiles], T]
"""Called once by each thread with a tile to fill and the rows of that thread's tiles; returns the thread's result."""


@dataclass
class RankContext:
    """The rows, threads and device of one rank.

    Attributes
    ----------
    comm : Comm
    layout : Layout
    block : Block
        The rank's rows.
    stop : StopRequest
        Checked before every tile.
    host_ops : Ops
        Array operations on the host.
    devices : Devices
        The devices of all ranks.
    stage : Stage or None
        Rows on this rank's GPU, where it has one.
    """

    comm: Comm
    layout: Layout
    block: Block
    stop: StopRequest
    host_ops: Ops
    devices: Devices
    stage: Stage | None

    def __post_init__(self) -> None:
        self._level = 0
        self._tiles = [self._work_space(self.host_ops) for _ in range(self.n_threads)]
        self.workers = Workers(self.n_threads)

    @property
    def header(self) -> Header:
        return self.block.source.header

    @property
    def grid(self) -> Grid:
        """The tiles of all ranks."""
        return Grid(self.header.n_rows, self.block.tile_rows)

    @property
    def n_threads(self) -> int:
        return self.layout.n_threads

    @property
    def ops(self) -> Ops:
        """The array operations of the E-step: those of the rank's GPU or, without one, `host_ops`."""
        return self.devices.ops or self.host_ops

    @property
    def summing_arrays(self) -> Arrays:
        """The kind of memory in which MPI sums the statistics of E-steps."""
        return self.ops.arrays if self.layout.sums_on_gpu else HOST

    def for_each_tile(
        self,
        tile_function: TileFunction[T],
        *,
        with_labels: bool = False,
        tiles: Sequence[int] | None = None,
    ) -> list[T]:
        """Apply a function to tiles of the rank on the host, by all threads; returns a result for each thread.

        Each tile is given to one thread.

        Parameters
        ----------
        tile_function
        with_labels : bool
            Whether to read starting labels, where rows have them.
        tiles : sequence of int, optional
            Numbers of some of the rank's tiles; all by default.
        """
        fields = self.header.fields if with_labels else self.header.kept_fields
        tiles = self.block.tiles if tiles is None else tiles
        self.stop.pace.begin(len(tiles))

        def share(worker: int) -> Tiles:
            return self._checked(self.block.read(tiles[worker :: self.n_threads], self.n_threads, fields))

        return self.workers.run(lambda worker: tile_function(self._tiles[worker], share(worker)))

    def for_each_device_tile(self, tile_function: TileFunction[T], *, tiles: Sequence[int] | None = None) -> list[T]:
        """The same in the memory of `ops`: by one thread on the rank's GPU or, without one, as `for_each_tile`."""
        if self.stage is None:
            return self.for_each_tile(tile_function, tiles=tiles)
        self.block.load(self.stop.check)
        tiles = self.block.tiles if tiles is None else tiles
        self.stop.pace.begin(len(tiles))
        first_rows = [tile * self.block.tile_rows for tile in tiles]
        held = [first for first in first_rows if first in self.stage.held]
        others = [tile for tile, first in zip(tiles, first_rows, strict=True) if first not in self.stage.held]
        staged = self.stage.tiles(held, self.block.read(others))
        return [tile_function(self._work_space(self.ops), self._checked(staged))]

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A context for work on the rank's GPU, if any; raises `DeviceMemoryError` or `DeviceError` with the remedy."""
        if self.stage is None:
            yield
            return
        gpu, rank = self.stage.gpu, self.comm.rank
        try:
            with gpu.guarded():
                yield
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"the GPU of rank {rank} ({gpu.name} on {host()}) has no room for a tile of {self.block.tile_rows} "
                f"rows ({error}); lower compute.tile_rows (a fit then needs --restart), let fewer ranks share it, "
                "or set compute.device: cpu"
            ) from None
        except DeviceError as error:
            raise DeviceError(
                f"the GPU of rank {rank} ({gpu.name} on {host()}) failed: {error}; run the same command again to go on "
                "from what is saved, on another node if it fails again"
            ) from None

    @property
    def can_stage_less(self) -> bool:
        """Whether GPUs can hold less than they do now; the same on all ranks."""
        return self._level + 1 < len(LEVELS)

    def stage_less(self) -> str:
        """Let GPUs hold less, and the host keep their rows if they fit there; returns a text for the user.

        Called on all ranks alike.
        """
        self._level += 1
        if self.stage is not None:
            with self.guarded():
                self.stage.stage_less(self._level)
            if self.layout.fits_host:
                self.block.make_resident()
        return LEVELS[self._level]

    def close(self) -> None:
        """End the threads, and free the rows on the GPU."""
        self.workers.close()
        self.stage = None

    def _checked(self, tiles: Tiles) -> Tiles:
        """The tiles; before each it is checked whether the run is to stop."""
        for tile in tiles:
            self.stop.check()
            yield tile
            self.stop.pace.step()

    def _work_space(self, ops: Ops) -> Tile:
        return Tile(self.header.n_features, min(self.block.tile_rows, self.header.n_rows), ops)


def open_context(
    comm: Comm, source: Source, layout: Layout, devices: Devices, stop: StopRequest, ops: str
) -> RankContext:
    """This rank's context, with its rows in memory if the layout says so. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm, source, layout, devices, stop
    ops : str
        Name of the array operations on the host.
    """
    return_freed_memory()
    if isinstance(source, ArraySource):
        complete_tiles(comm, source, layout.tile_rows)
    with comm.together():
        stage = Stage(devices.ops.arrays, layout.gpu_bytes) if devices.ops is not None else None
        memory = 0 if layout.fits_gpu else layout.memory
        block = Block(source, layout.tiles, layout.tile_rows, layout.resident, memory)
        block.load(stop.check)
        return RankContext(comm, layout, block, stop, load_ops(ops), devices, stage)
