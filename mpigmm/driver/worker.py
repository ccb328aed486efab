"""This rank's part of a run: its rows, its threads, and one sweep over the former by the latter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mpigmm.core.backend import HOST, Backend, DeviceError, DeviceMemoryError
from mpigmm.core.loops import LOOPS, NUMPY, Loops, best_loops, loops_by_name
from mpigmm.core.staging import LEVELS, Stage
from mpigmm.core.tile import Tile
from mpigmm.data.block import Block, return_freed_memory
from mpigmm.data.memory import memory_budget
from mpigmm.data.source import Header, Rows, Source
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.devices import Devices
from mpigmm.errors import UserError
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm, gpu_aware, host
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
    devices : Devices
        Those of all ranks.
    stage : Stage or None
        Of this rank's GPU, where it has one.
    sums_on_gpu : bool
        Whether MPI sums what lies there.
    """

    comm: Comm
    block: Block
    n_threads: int
    stop: StopRequest
    loops: Loops
    warning: str | None
    devices: Devices
    stage: Stage | None
    sums_on_gpu: bool

    def __post_init__(self) -> None:
        header = self.block.source.header
        most = min(self.block.tile_rows, header.n_rows)
        self._level = 0
        self._tiles = [Tile(header.n_features, most, self.loops) for _ in range(self.n_threads)]

    @property
    def header(self) -> Header:
        return self.block.source.header

    def sweep(self, visit: Callable[[Tile, Tiles], T]) -> list[T]:
        """Results of visit(work space, tiles), one a thread; together the threads see each tile of the rank once."""
        self.block.n_readers = self.n_threads
        self.stop.pace.begin(len(self.block.tiles))
        return run_workers(
            self.n_threads,
            lambda worker: visit(self._tiles[worker], self._watched(self.block.share(worker, self.n_threads))),
        )

    @property
    def engine(self) -> Loops:
        """What the E-step computes with: the GPU's loops where there is one, else `loops`."""
        return self.devices.engine or self.loops

    @property
    def summing_backend(self) -> Backend:
        """In whose memory MPI finds what it sums."""
        return self.engine.backend if self.sums_on_gpu else HOST

    def sweep_engine(self, visit: Callable[[Tile, Tiles], T]) -> list[T]:
        """The same of the engine's tiles: those of a GPU, by one thread, where there is one."""
        if self.stage is None:
            return self.sweep(visit)
        self.block.load(self.stop.check)
        self.block.n_readers = 1
        self.stop.pace.begin(len(self.block.tiles))
        tile = Tile(self.header.n_features, min(self.block.tile_rows, self.header.n_rows), self.engine)
        return [visit(tile, self._watched(self.stage.tiles(self.block.share(0, 1, self.stage.held))))]

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Work with the engine, whose GPU may fail: `DeviceMemoryError` and `DeviceError` say what to do about it."""
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
                f"rows ({error}); lower compute.tile_rows and add --restart, let fewer ranks share it, or set "
                "compute.device: cpu"
            ) from None
        except DeviceError as error:
            raise DeviceError(
                f"the GPU of rank {rank} ({gpu.name} on {host()}) failed: {error}; run the same command again to go on "
                "from the last checkpoint, on another node if it fails again"
            ) from None

    @property
    def can_stage_less(self) -> bool:
        """Whether GPUs can do with less room; the same on all ranks."""
        return self._level + 1 < len(LEVELS)

    def stage_less(self) -> str:
        """Have GPUs do with less room, and say how. All ranks at once."""
        self._level += 1
        if self.stage is not None:
            with self.guarded():
                self.stage.stage_less(self._level)
            self.block.resident = self.block.fits
        return LEVELS[self._level]

    def _watched(self, tiles: Tiles) -> Tiles:
        for tile in tiles:
            self.stop.check()
            yield tile
            self.stop.pace.step()


def build_team(
    comm: Comm,
    source: Source | SyntheticSource,
    tile_rows: int,
    compute: ComputeOptions,
    stop: StopRequest,
    loops: str = NUMPY.name,
    devices: Devices | None = None,
    speeds: Sequence[int] | None = None,
) -> Team:
    """Give this rank its tiles, threads, loops and device, and load its rows if they fit. Collective.

    Parameters
    ----------
    comm, source, tile_rows, compute, stop
    loops : str
        Name of the loops on processors.
    devices : Devices, optional
        Processors where left out.
    speeds : sequence of int, optional
        Of all ranks, in proportion to which they share the tiles; equal where left out.
    """
    return_freed_memory()
    ranks_on_node = comm.ranks_on_node()
    n_threads = count_threads(compute.threads, ranks_on_node)
    tiles = own_tiles(count_tiles(source.header.n_rows, tile_rows), comm.rank, speeds or [1] * comm.size)
    sums_on_gpu = devices is not None and devices.device == "gpu" and all_aware(comm, compute)
    with comm.together():
        memory = memory_budget(compute.memory, ranks_on_node)
        stage = stage_of(devices, comm.rank, compute.memory) if devices else None
        block = Block(source, tiles, tile_rows, memory)
        header = source.header
        if stage is not None and stage.holds(
            np.dtype(header.dtype), block.stop - block.start, header.n_features, header.weights is not None
        ):
            block.resident = False
        block.load(stop.check)
        team = Team(
            comm,
            block,
            max(1, min(n_threads, len(tiles))),
            stop,
            load_loops(loops),
            crowding(n_threads, ranks_on_node),
            devices or Devices.cpus(comm.size),
            stage,
            sums_on_gpu,
        )
        hold_blas()
        return team


def all_aware(comm: Comm, compute: ComputeOptions) -> bool:
    """Whether MPI is to sum what lies on GPUs: on all ranks or on none, for one that brings memory of the host to a sum
    of GPUs' may wait for ever. Collective."""
    aware = compute.gpu_aware_mpi
    return all(comm.allgather(gpu_aware() if aware == "auto" else aware))


def stage_of(devices: Devices, rank: int, memory: int | str) -> Stage | None:
    """A stage that holds what `compute.memory` grants, and no more than this rank's share of half of what the GPU has
    free."""
    if devices.engine is None:
        return None
    gpu = devices.engine.backend
    with gpu.guarded():
        share = gpu.memory() // 2 // devices.sharing[rank]
    return Stage(gpu, share if memory == "auto" else min(int(memory), share))


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
