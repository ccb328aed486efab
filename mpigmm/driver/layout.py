"""The layout of a run: the rows of a tile, the tiles and threads of each rank, and where its rows are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpigmm.core.covariances.base import Covariances
from mpigmm.core.gpu.staging import Stage
from mpigmm.core.tile_rows import batch_tile_rows, gpu_rows, host_rows
from mpigmm.data.block import rows_of_tiles
from mpigmm.data.memory import memory_budget
from mpigmm.data.source import Header, Source
from mpigmm.driver.devices import CPU, Devices
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import count_tiles, held_tiles, own_tiles
from mpigmm.parallel.threads import count_threads, crowding


@dataclass(frozen=True)
class Layout:
    """How the rows are cut into tiles, and where this rank keeps its rows and sums its statistics.

    Attributes
    ----------
    tile_rows : int
        Rows of a tile; the same on all ranks.
    n_tiles : int
        Number of tiles of all ranks.
    tiles : range
        Numbers of this rank's tiles on the global grid.
    n_threads : int
        Threads of this rank, at most one a tile.
    memory : int
        Bytes of rows that this rank may keep in the memory of the host.
    fits_host : bool
        Whether this rank's rows fit into this memory.
    fits_gpu : bool
        Whether its rows fit into the memory that it may take on its GPU; False without one.
    gpu_bytes : int
        Bytes of rows that may stay on this rank's GPU; 0 without one.
    sums_on_gpu : bool
        Whether MPI sums statistics in the memory of GPUs; the same on all ranks.
    warning : str or None
        For the user, where the ranks of this node have more threads than it has processors.
    """

    tile_rows: int
    n_tiles: int
    tiles: range
    n_threads: int
    memory: int
    fits_host: bool
    fits_gpu: bool
    gpu_bytes: int
    sums_on_gpu: bool
    warning: str | None

    @property
    def resident(self) -> bool:
        """Whether the rows are kept in the memory of the host: if they fit there, and not on the GPU."""
        return self.fits_host and not self.fits_gpu


def lay_out(
    comm: Comm,
    source: Source,
    tile_rows: int,
    compute: ComputeOptions,
    devices: Devices,
    speeds: list[int] | None = None,
) -> Layout:
    """The layout of a source's rows. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm, source, tile_rows, compute, devices
    speeds : list of int, optional
        Rows a second of every rank, in proportion to which the tiles are distributed; equal where left out. Rows that
        lie in the memory of the ranks stay where they are.
    """
    header, held = source.header, source.held
    share = comm.node_share()
    n_threads = count_threads(compute.threads, share)
    if held is None:
        tiles = own_tiles(count_tiles(header.n_rows, tile_rows), comm.rank, speeds or [1] * comm.size)
    else:
        tiles = held_tiles(held, tile_rows)
    n_rows = len(rows_of_tiles(tiles, tile_rows, header.n_rows))
    sums_on_gpu = devices.device == "gpu" and all_gpu_aware(comm, compute)
    with comm.together():
        n_bytes = n_rows * header.row_bytes
        memory = memory_budget(compute.memory, share.n_ranks) if held is None else n_bytes
        gpu_bytes = gpu_budget(devices, comm.rank, compute)
        return Layout(
            tile_rows=tile_rows,
            n_tiles=count_tiles(header.n_rows, tile_rows),
            tiles=tiles,
            n_threads=max(1, min(n_threads, len(tiles))),
            memory=memory,
            fits_host=n_bytes <= memory,
            fits_gpu=devices.ops is not None and fits_gpu(devices, header, n_rows, gpu_bytes),
            gpu_bytes=gpu_bytes,
            sums_on_gpu=sums_on_gpu,
            warning=crowding_warning(n_threads, share.n_ranks),
        )


def choose_tile_rows(
    compute: ComputeOptions,
    devices: Devices,
    header: Header,
    kind: type[Covariances],
    n_components: int,
    recorded: int | None = None,
    *,
    takes_batches: bool = False,
) -> int:
    """Rows of a tile: ``compute.tile_rows`` or, where that is ``auto``, those that the run began with (`recorded`).

    For a new run ``auto`` is the default for the rows with this header, the type of covariances and the number of
    components: that of GPUs if every rank has one, else that of processors. An algorithm that takes batches has smaller
    tiles.
    """
    if compute.tile_rows != "auto":
        return int(compute.tile_rows)
    if recorded is not None:
        return recorded
    n_features, dtype = header.n_features, np.dtype(compute.precision)
    on_gpu = CPU not in devices.kinds
    if on_gpu:
        tile_rows = gpu_rows(n_features, n_components, dtype)
    else:
        n_second = kind.n_second(n_components, n_features)
        tile_rows = host_rows(header.n_rows, n_features, n_components, n_second, dtype)
    return min(tile_rows, batch_tile_rows(header.n_rows, dtype, on_gpu=on_gpu)) if takes_batches else tile_rows


def row_budget(devices: Devices, rank: int, compute: ComputeOptions) -> int:
    """Bytes of rows that this rank may hold on its GPU or, without one, in the memory of a node of its own."""
    return gpu_budget(devices, rank, compute) if devices.ops is not None else memory_budget(compute.memory, 1)


def gpu_budget(devices: Devices, rank: int, compute: ComputeOptions) -> int:
    """Bytes of rows that may stay on this rank's GPU; 0 without a GPU.

    This is ``compute.memory``, but at most this rank's share of half of the free memory of the GPU.
    """
    if devices.ops is None:
        return 0
    gpu = devices.ops.arrays
    with gpu.guarded():
        share = gpu.memory() // 2 // devices.sharing[rank]
    return share if compute.memory == "auto" else min(int(compute.memory), share)


def fits_gpu(devices: Devices, header: Header, n_rows: int, n_bytes: int) -> bool:
    """Whether n_rows rows fit into n_bytes bytes of this rank's GPU."""
    assert devices.ops is not None
    return Stage(devices.ops.arrays, n_bytes).holds(header.kept_fields, n_rows)


def all_gpu_aware(comm: Comm, compute: ComputeOptions) -> bool:
    """Whether the MPI of every rank can sum arrays on GPUs, or ``compute.gpu_aware_mpi`` says so. Collective.

    All ranks must sum in the same kind of memory: a sum of some arrays on GPUs and some on the host may never end.
    """
    aware = compute.gpu_aware_mpi
    return all(comm.allgather(comm.is_gpu_aware if aware == "auto" else aware))


def crowding_warning(n_threads: int, ranks_on_node: int) -> str | None:
    """A warning, with the remedy, where this node's ranks have more threads than processors."""
    crowded = crowding(n_threads, ranks_on_node)
    return crowded and f"{crowded}; start fewer ranks on it, or lower compute.threads"
