"""What lies around a tile's rows, and what its buffers held before, has no influence on the results."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from support import TYPES, mixture_of

from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.estep.step import EStep
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.compiled import CompiledOps
from mpigmm.core.ops.libraries import COMPILED, best_compiled
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

best = best_compiled()
assert best is not None, "the tests need a C compiler: make clean install"
BUILT = COMPILED[: COMPILED.index(best) + 1]
SHAPES = [(131, 3, 4), (67, 26, 9), (301, 12, 40), (1, 33, 17)]
"""Rows, features, components."""


def mixture_and_rows(covariance_type: str, n: int, d: int, k: int) -> tuple[Mixture, np.ndarray]:
    random = np.random.default_rng(n)
    means = 9 * random.standard_normal((k, d))
    matrix = np.eye(d) + 0.1
    covariances = {"full": np.tile(matrix, (k, 1, 1)), "tied": matrix, "diag": np.ones((k, d)), "spherical": np.ones(k)}
    rows = means[random.integers(k, size=n)] + random.standard_normal((n, d))
    return mixture_of(covariance_type, np.full(k, 1 / k), means, covariances[covariance_type]), rows


def before_a_gap(rows: np.ndarray) -> np.ndarray:
    """A copy of the rows whose last byte is the last of a page; the next page may not be read."""
    n_bytes = -(-rows.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    place = mmap.mmap(-1, n_bytes + mmap.PAGESIZE)
    whole = np.frombuffer(place, np.uint8)
    gap = ctypes.c_void_p(whole.ctypes.data + n_bytes)
    assert ctypes.CDLL(None, use_errno=True).mprotect(gap, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = whole[n_bytes - rows.nbytes : n_bytes].view(rows.dtype).reshape(rows.shape)
    copy[:] = rows
    return copy


def results(mixture: Mixture, tile: Tile, rows: np.ndarray, dtype: np.dtype) -> list[bytes]:
    """The bits of a tile's statistics and posteriors."""
    centre = mixture.means.mean(axis=0)
    tile.fill(Rows.of(rows), centre, mask=False, dtype=dtype)
    step = EStep(mixture.e_step_inputs(centre, np.full(len(centre), 100.0), dtype, tile.ops))
    statistics = SufficientStatistics.empty(mixture.layout)
    step(tile, statistics)
    return [statistics.flat.tobytes(), *(array.tobytes() for array in step.posterior(tile))]


@pytest.mark.parametrize("shape", SHAPES, ids="x".join(["%d"] * 3).__mod__)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("name", BUILT)
def test_neither_neighbours_nor_old_content_matter(
    name: str, covariance_type: str, shape: tuple[int, int, int]
) -> None:
    (n, d, _), ops = shape, CompiledOps(name)
    mixture, rows = mixture_and_rows(covariance_type, *shape)
    for raw in ("f8", "f4", "u1"):
        own = rows.astype(raw) if raw != "u1" else rows.clip(0, 255).astype(raw)
        for dtype in (DOUBLE, SINGLE):
            expected = results(mixture, Tile(d, n, ops), before_a_gap(own), dtype)
            used = Tile(d, n + 50, ops)
            results(mixture, used, np.full((n + 50, d), 1e3), SINGLE if dtype == DOUBLE else DOUBLE)
            for buffer in used._buffers.values():
                buffer[:] = 0xFF
            shifted = np.empty(own.nbytes + own.itemsize, np.uint8)[own.itemsize :].view(own.dtype).reshape(own.shape)
            shifted[:] = own
            assert results(mixture, used, shifted, dtype) == expected
