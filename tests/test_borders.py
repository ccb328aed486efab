"""Which rank holds which tile, where the rows lie in the memory of the ranks, and what they send one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpigmm.data.array_source import ArrayHeader, ArraySource
from mpigmm.driver.borders import complete_tiles, held_rows, last_tile, lent_rows
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import count_tiles, held_tiles


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 25))
def test_each_tile_has_one_rank_and_each_row_one_tile(lengths: list[int], tile_rows: int) -> None:
    header = ArrayHeader.of(lengths, "float64", 2, is_weighted=False)
    n_rows = sum(lengths)
    tiles, sent = [], []
    for rank in range(len(lengths)):
        held = held_rows(header, rank)
        own = held_tiles(held, tile_rows)
        tiles += own
        lent, last = lent_rows(held, tile_rows), last_tile(held, tile_rows, n_rows)
        sent += lent
        covered = [row for tile in own for row in range(tile * tile_rows, min((tile + 1) * tile_rows, n_rows))]
        assert [*lent, *(row for row in covered if row in held)] == list(held)
        assert (own and last.start in held) or not last
    assert tiles == list(range(count_tiles(n_rows, tile_rows)))
    assert len(sent) == len(set(sent))


@pytest.mark.parallel
@pytest.mark.parametrize("tile_rows", [1, 3, 7, 40, 1000])
@pytest.mark.parametrize("lengths", [[5], [0, 12, 1, 30], [1, 1, 1, 1], [50, 0, 0, 2], [0, 0, 0, 9]], ids=str)
def test_rows_of_cut_tiles_arrive(comm: Comm, lengths: list[int], tile_rows: int) -> None:
    lengths = (lengths * 4)[: comm.size]
    n_rows = sum(lengths)
    rows, weights = np.arange(3.0 * n_rows).reshape(n_rows, 3), np.arange(float(n_rows))
    header = ArrayHeader.of(lengths, "float64", 3, is_weighted=True)
    held = held_rows(header, comm.rank)
    own = slice(held.start, held.stop)
    for values in (rows[own], tuple(rows[own].T)):
        source = ArraySource(header, comm.rank, values, weights[own])
        complete_tiles(comm, source, tile_rows)
        for tile in held_tiles(held, tile_rows):
            start, stop = tile * tile_rows, min((tile + 1) * tile_rows, n_rows)
            found = source.read(start, stop)
            assert found.first == start and (found.values == rows[start:stop]).all()
            assert found.sample_weight is not None and (found.sample_weight == weights[start:stop]).all()
