"""The E-step over the rows of all ranks: tiles on every rank, then one reduction."""

from __future__ import annotations

import numpy as np

from mpigmm.core.algorithms.base import EStepPass, Problem, Summed
from mpigmm.core.arrays import DOUBLE, Array
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import sum_format
from mpigmm.core.tile import Tile
from mpigmm.driver.reduction import PassStatus, Reduction
from mpigmm.driver.worker import RankContext, Tiles
from mpigmm.errors import DataError, DegenerateError


def sum_e_step(reduction: Reduction, problem: Problem, e_step_pass: EStepPass) -> tuple[Summed, PassStatus]:
    """Compute the sums over all rows that a pass asks for. Collective; raises `AgreedError`.

    Raises `SingularCovarianceError` or `SumRangeError`, on all ranks alike and before they communicate, where the sums
    cannot be computed.
    """
    form = sum_format(e_step_pass.mixture, problem.summary, e_step_pass.n_limbs)
    shape = form.n_limbs, form.top.size

    def add_own(total: Array) -> None:
        add_tiles(reduction.context, form, total.reshape(shape), problem, e_step_pass)

    sums, status = reduction.reduce(form.n_limbs * form.top.size, add_own, e_step_pass.mixture.checksum())
    statistics = SufficientStatistics.of(form.value(sums.reshape(shape)), e_step_pass.mixture.layout)
    return Summed(e_step_pass, statistics, form.n_limbs), status


def prepared(context: RankContext, problem: Problem, e_step_pass: EStepPass) -> tuple[EStep, Array]:
    """The E-step of a pass on this rank's device, and the centre that tiles subtract from their rows."""
    summary, precision = problem.centred(e_step_pass.mixture), e_step_pass.precision
    inputs = e_step_pass.mixture.e_step_inputs(
        summary.centre, summary.max_abs_deviation, precision.dtype, context.ops, precision.in_double
    )
    return EStep(inputs, e_step_pass.responsibilities), context.ops.arrays.put(summary.centre)


def add_tiles(
    context: RankContext, form: FixedPoint, total: IntArray, problem: Problem, e_step_pass: EStepPass
) -> None:
    """Add the statistics of this rank's tiles to `total`, limbs of zeros, which one of the threads uses as its own."""
    ops, dtype, layout = context.ops, e_step_pass.precision.dtype, e_step_pass.mixture.layout
    e_step, centre = prepared(context, problem, e_step_pass)
    masked = problem.summary.masked
    _ = form.quanta  # computed here once, and not by every thread
    limbs = iter([total])

    def tile_function(tile: Tile, tiles: Tiles) -> tuple[ExactSum, FloatArray]:
        sums, statistics = ExactSum(form, next(limbs, None)), SufficientStatistics.empty(layout, ops.arrays)
        log_likelihood, seen = statistics.log_likelihood, ops.arrays.zeros(1, DOUBLE)
        for rows in tiles:
            tile.fill(rows, centre, mask=masked, dtype=dtype)
            e_step(tile, statistics)
            seen += log_likelihood
            sums.add(statistics.flat, ops)
        return sums, seen

    for sums, seen in context.for_each_device_tile(tile_function):
        check_log_likelihood(ops.arrays.get(seen))
        ops.carry(sums.limbs)
        if sums.limbs is not total:
            total += sums.limbs
    ops.carry(total)


def check_log_likelihood(total: FloatArray) -> None:
    """Raise an error where the log-likelihood (1,) of a rank's tiles is not finite.

    `DegenerateError` where it is -inf, `DataError` where it is NaN or infinity.
    """
    if total[0] == -np.inf:
        raise DegenerateError(
            "a row lies too many standard deviations from every component for float64; raise model.reg_covar or "
            "model.variance_floor, rescale the data, or add --restart if the rows have changed since they were surveyed"
        )
    if not np.isfinite(total[0]):
        raise DataError(
            "the log-likelihood of a tile is not finite: the rows have changed since they were surveyed; leave the "
            "input alone while it is read, and add --restart"
        )
