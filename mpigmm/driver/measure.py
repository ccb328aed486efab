"""Measurements that `bench`, `plan` and `load_balance` have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mpigmm.core.algorithms.base import EStepPass, Problem
from mpigmm.core.covariances.base import Covariances
from mpigmm.core.covariances.full import Full
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import sum_format
from mpigmm.core.tile import Tile
from mpigmm.data.malloc import keep_freed_memory
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.e_step import prepared, sum_e_step
from mpigmm.driver.reduction import Reduction, empty_buffer
from mpigmm.driver.shared_update import SharedUpdate
from mpigmm.driver.worker import RankContext, Tiles
from mpigmm.parallel.comm import Comm

PRODUCT_SIZE = 1024
STREAM_BYTES = 1 << 26
GPU_PRODUCT_SIZE, GPU_STREAM_BYTES = 8192, 1 << 30
"""Order of the matrices that are multiplied, and bytes of the vector that is read, to measure a machine's limits."""

SAMPLED_ROWS = 1024
"""Expected rows of the sample that the survey of synthetic rows draws, to compute their centre."""

PROBES = 5
"""Measurements of which the median is taken."""


def timed_iterations(
    reduction: Reduction, problem: Problem, e_step_pass: EStepPass, iterations: int
) -> tuple[float, float, float, float]:
    """Median seconds of an iteration, of its tiles, of its reduction and of its M-step. Collective.

    The first E-step is not timed.
    """
    keep_freed_memory()
    problem = replace(problem, update_covariances=SharedUpdate(reduction.context.comm))
    sum_e_step(reduction, problem, e_step_pass)
    taken = []
    for _ in range(iterations):
        begin, spent = time.perf_counter(), reduction.clock.communicate
        summed, status = sum_e_step(reduction, problem, e_step_pass)
        m_begin = time.perf_counter()
        problem.m_step(e_step_pass.mixture, summed.statistics)
        end = time.perf_counter()
        taken.append((end - begin, status.compute, reduction.clock.communicate - spent, end - m_begin))
    seconds, compute, communicate, m_seconds = (float(np.median(column)) for column in zip(*taken, strict=True))
    return seconds, compute, communicate, m_seconds


def is_correlated(kind: type[Covariances]) -> bool:
    """Whether synthetic rows for a type of covariances are correlated, differently in each component."""
    return issubclass(kind, Full)


def true_mixture(source: SyntheticSource, kind: type[Covariances]) -> Mixture:
    """The mixture that synthetic rows are drawn from."""
    k, d = source.means.shape
    own = Full(source.mixing.transpose(0, 2, 1) @ source.mixing) if is_correlated(kind) else kind.isotropic(k, d)
    return Mixture(np.full(k, 1 / k), source.means, own)


def row_flops(kind: type[Covariances], n_components: int, n_features: int) -> float:
    """Floating-point operations of a row without pruning: two products of F numbers for each component.

    F = 1 + D + D (D + 1) / 2 for `full`, 1 + 2 D for `diag`, 2 + D for `spherical`. For `tied` F = 1 + D, and each row
    is whitened and added to the second moments once.
    """
    k, d = n_components, n_features
    if kind.second_moments is SecondMoments.PAIRS_SUMMED:
        return float(4 * k * (1 + d) + 2 * d * d + d * (d + 1))
    return float(4 * (k * (1 + d) + kind.n_second(k, d)))


def machine_limits(context: RankContext, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Flop/s of matrix products and bytes/s of reading memory, of all threads and ranks together. Collective."""
    arrays, is_gpu = context.ops.arrays, context.stage is not None
    size, n_bytes = (GPU_PRODUCT_SIZE, GPU_STREAM_BYTES) if is_gpu else (PRODUCT_SIZE, STREAM_BYTES)
    with context.comm.together(), context.guarded():
        matrix, stream = arrays.xp.ones((size, size), dtype), arrays.xp.ones(n_bytes // 8)

    def product(worker: int) -> None:
        arrays.xp.matmul(matrix, matrix, out=arrays.xp.empty_like(matrix))
        arrays.synchronize()

    def read(worker: int) -> None:
        stream.sum()
        arrays.synchronize()

    def rate(work: Callable[[int], object], amount: float) -> float:
        taken = [seconds_of(context.comm, lambda: run(work)) for _ in range(PROBES)]
        return float(context.comm.sum(np.array([int(n_workers * amount)]))[0] / np.median(taken))

    n_workers = 1 if is_gpu else context.n_threads
    run = (lambda work: work(0)) if is_gpu else context.workers.run
    return rate(product, 2.0 * size**3), rate(read, n_bytes)


def seconds_of(comm: Comm, work: Callable[[], object]) -> float:
    """Seconds from a common begin until all ranks have done `work`. Collective."""
    comm.agree(None)
    begin = time.perf_counter()
    with comm.together():
        work()
    return time.perf_counter() - begin


def compute_responsibilities(context: RankContext, problem: Problem, e_step_pass: EStepPass) -> None:
    """Compute the responsibilities of this rank's rows, and the statistics if the kernel computes both at once."""
    arrays = context.ops.arrays

    def tile_function(tile: Tile, tiles: Tiles) -> None:
        statistics = SufficientStatistics.empty(e_step_pass.mixture.layout, arrays)
        for rows in tiles:
            tile.fill(rows, centre, mask=False, dtype=e_step_pass.precision.dtype)
            if not e_step.at_once(tile, statistics):
                e_step.posterior(tile)

    with context.guarded():
        e_step, centre = prepared(context, problem, e_step_pass)
        context.for_each_device_tile(tile_function)
        arrays.synchronize()


def reduction_seconds(context: RankContext, problem: Problem, mixture: Mixture) -> tuple[float, int]:
    """Seconds of the reduction alone, and the bytes that a rank sums in it. Collective."""
    form = sum_format(mixture, problem.summary)
    buffer = empty_buffer(form.n_limbs * form.top.size, context.summing_arrays)
    taken = []
    for _ in range(PROBES):
        context.comm.agree(None)
        begin = time.perf_counter()
        context.comm.sum(buffer)
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken)), buffer.nbytes
