"""The E-step over the rows of all ranks: tiles on every rank, then one reduction."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mpigmm.core.algorithms.base import EStepPass, Problem, Rejected, Summed
from mpigmm.core.arrays import DOUBLE, Array
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, SharedSum
from mpigmm.core.mixture import GOLDEN
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import SumRangeError, sum_format
from mpigmm.core.tile import Tile
from mpigmm.driver.reduction import PassStatus, Reduction
from mpigmm.driver.worker import RankContext, Tiles
from mpigmm.errors import DataError, DegenerateError
from mpigmm.rows import Rows

T = TypeVar("T")

SHARED_SUMS = 1 << 19
"""Number of sums from which the threads of a rank share their memory."""


@dataclass(eq=False)
class PassRequest:
    """A pass over rows that a fit needs before it can go on.

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

    def take(self) -> tuple[Summed, PassStatus] | Rejected:
        """The answer, to which this object no longer refers."""
        answer, self.answer = self.answer, None
        assert answer is not None
        return answer


Fit = Generator[PassRequest, None, T]
"""A fit that is suspended whenever it needs a pass over the rows; all ranks run the same fits in the same order.

Whoever runs it computes the answer of each request before resuming it, and so decides whether one fit or several share
a reading of the rows."""


@dataclass(eq=False)
class FitClock:
    """Seconds that a fit has taken; fits that share passes share their time in equal parts."""

    seconds: float = 0.0


def run_fits(reduction: Reduction, fits: Mapping[FitClock, Fit[None]]) -> None:
    """Run several fits until all have ended; those that go on share each reading of the rows and each reduction.

    Collective; raises `AgreedError`.
    """
    while fits:
        begin = time.perf_counter()
        requests = {clock: request for clock, fit in fits.items() if (request := next(fit, None)) is not None}
        answer_requests(reduction, list(requests.values()))
        for clock in fits:
            clock.seconds += (time.perf_counter() - begin) / len(fits)
        fits = {clock: fits[clock] for clock in requests}


def sum_e_step(reduction: Reduction, problem: Problem, e_step_pass: EStepPass) -> tuple[Summed, PassStatus]:
    """Compute the sums over all rows that a pass asks for. Collective; raises `AgreedError`.

    Raises `SingularCovarianceError` or `SumRangeError`, on all ranks alike and before they communicate, where the sums
    cannot be computed.
    """
    request = PassRequest(problem, e_step_pass)
    answer_requests(reduction, [request])
    answer = request.take()
    if isinstance(answer, Rejected):
        raise answer.error
    return answer


def answer_requests(reduction: Reduction, requests: Sequence[PassRequest]) -> None:
    """Compute the answers of several requests, with one reading of the rows and one reduction. Collective.

    Raises `AgreedError`. Each answer has the bits that it would have alone.
    """
    possible, forms, ends = [], [], [0]
    for request in requests:
        try:
            form = sum_format(request.e_step_pass.mixture, request.problem.summary, request.e_step_pass.n_limbs)
        except (SingularCovarianceError, SumRangeError) as error:
            request.answer = Rejected(error)
            continue
        possible.append(request)
        forms.append(form)
        ends.append(ends[-1] + form.n_limbs * form.top.size)

    def parts_of(sums: Array) -> list[Array]:
        return [sums[a:b].reshape(form.n_limbs, -1) for form, a, b in zip(forms, ends[:-1], ends[1:], strict=True)]

    if possible:
        checksum = combined(request.e_step_pass.mixture.checksum() for request in possible)
        sums, status = reduction.reduce(
            ends[-1], lambda total: add_tiles(reduction.context, possible, forms, parts_of(total)), checksum
        )
        for request, form, part in zip(possible, forms, parts_of(sums), strict=True):
            statistics = SufficientStatistics.of(form.value(part), request.e_step_pass.mixture.layout)
            request.answer = Summed(request.e_step_pass, statistics, form.n_limbs), status


def combined(checksums: Iterable[int]) -> int:
    """One checksum of 20 bits for several."""
    return functools.reduce(lambda mixed, checksum: ((mixed << 20 | checksum) * GOLDEN % 2**64) >> 44, checksums)


def prepared(context: RankContext, problem: Problem, e_step_pass: EStepPass) -> tuple[EStep, Array]:
    """The E-step of a pass on this rank's device, and the centre that tiles subtract from their rows."""
    summary, precision = problem.centred(e_step_pass.mixture), e_step_pass.precision
    inputs = e_step_pass.mixture.e_step_inputs(
        summary.centre, summary.max_abs_deviation, precision.dtype, context.ops, precision.in_double
    )
    return EStep(inputs, e_step_pass.responsibilities), context.ops.arrays.put(summary.centre)


class TileSums:
    """The sums that a thread adds up for one request.

    Parameters
    ----------
    context : RankContext
    request : PassRequest
    e_step, centre
        As `prepared` returns them.
    sums : ExactSum or SharedSum
        To which to add.
    """

    def __init__(
        self,
        context: RankContext,
        request: PassRequest,
        e_step: EStep,
        centre: Array,
        sums: ExactSum | SharedSum,
    ) -> None:
        self.e_step, self.centre, self.ops = e_step, centre, context.ops
        self.masked, self.dtype = request.problem.summary.masked, request.e_step_pass.precision.dtype
        self.tile_rows, tiles = request.problem.grid.tile_rows, request.e_step_pass.tiles
        self.tiles = None if tiles is None else frozenset(tiles.tolist())
        self.sums = sums
        self.statistics = SufficientStatistics.empty(request.e_step_pass.mixture.layout, self.ops.arrays)
        self.seen = self.ops.arrays.zeros(1, DOUBLE)

    def add(self, tile: Tile, rows: Rows) -> None:
        """Add the statistics of a tile's rows, if the request is about this tile."""
        if self.tiles is not None and rows.first // self.tile_rows not in self.tiles:
            return
        tile.fill(rows, self.centre, mask=self.masked, dtype=self.dtype)
        self.e_step(tile, self.statistics)
        self.seen += self.statistics.log_likelihood
        self.sums.add(self.statistics.flat, self.ops)


def add_tiles(
    context: RankContext, requests: Sequence[PassRequest], forms: Sequence[FixedPoint], totals: Sequence[IntArray]
) -> None:
    """Add the statistics of this rank's tiles to the totals, limbs of zeros, which one of the threads uses as its own.

    There is a total, in its format, for each request.
    """
    ops = context.ops
    steps = [prepared(context, request.problem, request.e_step_pass) for request in requests]
    for form in forms:
        _ = form.quanta  # computed here once, and not by every thread
    n_threads = context.n_threads if context.stage is None else 1
    threads = iter(range(n_threads))
    sums = [sums_of_threads(form, total, n_threads) for form, total in zip(forms, totals, strict=True)]

    def tile_function(tile: Tile, tiles: Tiles) -> list[TileSums]:
        thread = next(threads)
        parts = [
            TileSums(context, request, *step, of_request[thread])
            for request, step, of_request in zip(requests, steps, sums, strict=True)
        ]
        for rows in tiles:
            for part in parts:
                part.add(tile, rows)
        return parts

    for parts in context.for_each_device_tile(tile_function, tiles=wanted_tiles(context.block.tiles, requests)):
        for part, total in zip(parts, totals, strict=True):
            check_log_likelihood(ops.arrays.get(part.seen))
            if part.sums.limbs is not total:
                ops.carry(part.sums.limbs)
                total += part.sums.limbs
    for total in totals:
        ops.carry(total)


def sums_of_threads(form: FixedPoint, total: IntArray, n_threads: int) -> list[ExactSum | SharedSum]:
    """The sums of each thread: the first adds to the total, limbs of zeros, and the others to limbs of their own.

    If there are many sums, all threads add to the total.
    """
    if n_threads > 1 and form.top.size >= SHARED_SUMS:
        return [SharedSum(form, total)] * n_threads
    return [ExactSum(form, total), *(ExactSum(form) for _ in range(1, n_threads))]


def wanted_tiles(own: range, requests: Sequence[PassRequest]) -> Sequence[int]:
    """Numbers of those of a rank's own tiles that some of the requests are about."""
    asked = [request.e_step_pass.tiles for request in requests]
    some = [tiles for tiles in asked if tiles is not None]
    if len(some) < len(asked):
        return own
    tiles = some[0] if len(some) == 1 else functools.reduce(np.union1d, some)
    wanted: list[int] = tiles[slice(*np.searchsorted(tiles, (own.start, own.stop)))].tolist()
    return wanted


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
