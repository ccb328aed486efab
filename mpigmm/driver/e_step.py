"""The E-step over the rows of all ranks: tiles on every rank, then one reduction."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mpigmm.core.algorithms.base import EStepPass, Problem, Rejected, Summed
from mpigmm.core.arrays import DOUBLE, Array
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import SumRangeError, sum_format
from mpigmm.core.tile import Tile
from mpigmm.driver.reduction import PassStatus, Reduction
from mpigmm.driver.worker import RankContext, Tiles
from mpigmm.errors import DataError, DegenerateError

T = TypeVar("T")


@dataclass(eq=False)
class PassRequest:
    """A pass over all rows that a fit needs before it can go on.

    Attributes
    ----------
    problem : Problem
    e_step_pass : EStepPass
    answer : tuple of Summed and PassStatus, or Rejected, or None
        The result of the pass; None until it is computed.
    """

    problem: Problem
    e_step_pass: EStepPass
    answer: tuple[Summed, PassStatus] | Rejected | None = None

    def compute(self, reduction: Reduction) -> None:
        """Compute the answer. Collective; raises `AgreedError`."""
        try:
            self.answer = sum_e_step(reduction, self.problem, self.e_step_pass)
        except (SingularCovarianceError, SumRangeError) as error:
            self.answer = Rejected(error)

    def take(self) -> tuple[Summed, PassStatus] | Rejected:
        """The answer, to which this object no longer refers."""
        answer, self.answer = self.answer, None
        assert answer is not None
        return answer


Fit = Generator[PassRequest, None, T]
"""A fit that is suspended whenever it needs a pass over the rows; all ranks run the same fits in the same order.

Whoever runs it computes the answer of each request before resuming it, and so decides whether one fit or several share
a reading of the rows."""


def run_alone(reduction: Reduction, fit: Fit[T]) -> T:
    """Run one fit until it ends, and return its result. Collective; raises `AgreedError`."""
    while True:
        try:
            request = next(fit)
        except StopIteration as end:
            result: T = end.value
            return result
        request.compute(reduction)


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
