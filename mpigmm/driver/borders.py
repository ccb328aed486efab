"""Tiles that the borders of the ranks cut, where rows lie in the memory of the ranks."""

from __future__ import annotations

import numpy as np

from mpigmm.data.array_source import ArraySource
from mpigmm.data.source import Header, locate
from mpigmm.parallel.comm import Comm, Transfer
from mpigmm.parallel.partition import held_tiles
from mpigmm.rows import Rows


def complete_tiles(comm: Comm, source: ArraySource, tile_rows: int) -> None:
    """Give each rank the rows of its last tile that other ranks hold. Collective; raises `AgreedError`.

    A tile belongs to the rank that holds its first row. Each rank sends at most one piece of its rows to one rank, and
    keeps memory for at most one tile.
    """
    header = source.header
    held = held_rows(header, comm.rank)
    cut, outgoing, incoming = None, [], []
    with comm.together():
        first = lent_rows(held, tile_rows)
        if first:
            to, _ = locate(first.start // tile_rows * tile_rows, header.lengths)
            lent = source.read(first.start, first.stop)
            outgoing = [Transfer(to, np.ascontiguousarray(array)) for array in lent.arrays.values()]
        tile = last_tile(held, tile_rows, header.n_rows)
        if tile.stop > held.stop:
            cut = Rows.empty(tile.start, len(tile), header.fields)
            source.copy_into(cut[: held.stop - tile.start])
            incoming = missing_parts(comm, header, cut)
    comm.transfer(outgoing, incoming)
    if cut is not None:
        source.keep(cut)


def held_rows(header: Header, rank: int) -> range:
    """Numbers of the rows that a rank holds."""
    first = header.first_rows[rank]
    return range(first, first + header.lengths[rank])


def lent_rows(held: range, tile_rows: int) -> range:
    """Those of a rank's rows that belong to a tile of another rank: the ones before its first tile."""
    return range(held.start, min(held.stop, held_tiles(held, tile_rows).start * tile_rows))


def last_tile(held: range, tile_rows: int, n_rows: int) -> range:
    """Numbers of the rows of a rank's last tile, on a grid over n_rows; none where the rank has no tile."""
    tiles = held_tiles(held, tile_rows)
    start = max(tiles.start, tiles.stop - 1) * tile_rows
    return range(start, min(start + tile_rows, n_rows)) if tiles else range(held.stop, held.stop)


def missing_parts(comm: Comm, header: Header, cut: Rows) -> list[Transfer]:
    """The parts of a cut tile that the ranks after this one send."""
    parts, stop = [], cut.first + len(cut)
    for rank in range(comm.rank + 1, comm.size):
        held = held_rows(header, rank)
        if held.start >= stop:
            break
        part = cut[held.start - cut.first : min(held.stop, stop) - cut.first]
        parts += [Transfer(rank, array) for array in part.arrays.values() if len(array)]
    return parts
