"""The loop over iterations of EM: an E-step over the tiles, one reduction over ranks, the same M-step on every rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE, Array
from mpigmm.core.covariance import SingularCovarianceError
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.em import EStep, Repairs, Safeguards, check_log_likelihood, m_step
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.precision import Precision, choose_precision, finer_precision
from mpigmm.core.statistics import Moments, refined_limbs, statistics_format
from mpigmm.core.tile import Tile
from mpigmm.data.malloc import keep_freed_memory
from mpigmm.driver.reduction import PassStatus, Reduction
from mpigmm.driver.stopping import goes_on
from mpigmm.driver.worker import Tiles
from mpigmm.errors import AgreedError, DegenerateError
from mpigmm.options import EmOptions
from mpigmm.runs.state import Progress

Record = Callable[[Progress, dict[str, Any], Repairs], None]


@dataclass(frozen=True)
class EStepResult:
    """What an E-step over all rows yields.

    Attributes
    ----------
    moments : Moments
        Sums over all rows, the same on every rank.
    dtype : dtype
        Of the tiles.
    n_limbs : int
        Of the sums.
    status : PassStatus
        Of the reduction.
    """

    moments: Moments
    dtype: np.dtype[Any]
    n_limbs: int
    status: PassStatus


class EmLoop:
    """EM from one mixture to the next.

    Parameters
    ----------
    reduction : Reduction
    survey : DataSummary
    safeguards : Safeguards
    precision : str
        float32 or float64: the precision of the tiles, as far as the mixture allows float32.
    """

    def __init__(self, reduction: Reduction, survey: DataSummary, safeguards: Safeguards, precision: str) -> None:
        self.reduction = reduction
        self.context = reduction.context
        self.survey = survey
        self.safeguards = safeguards
        self.precision = np.dtype(precision)
        keep_freed_memory()

    def run(self, progress: Progress, em: EmOptions, record: Record) -> Progress:
        """Iterate until the start has converged or `em.max_iter` is reached; returns the last progress. Collective.

        Parameters
        ----------
        progress : Progress
            Where to go on, with a mixture.
        em : EmOptions
        record : callable
            Called on this rank after every iteration with its progress, log line and repairs; an error that it raises
            ends all ranks at the next reduction.
        """
        begin, is_last = time.perf_counter(), False
        while goes_on(progress.iteration, progress.change, em):
            assert progress.mixture is not None
            if is_last:
                self.context.comm.agree(self.reduction.error or self.context.stop.out_of_time())
            result, mixture, repairs = self.advance(progress.mixture, progress.iteration + 1)
            progress.mixture.release()  # its factors: a caller may keep the mixture itself until the loop ends
            progress, change = self._advanced(progress, result, mixture, repairs)
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            line = log_line(progress, change, repairs, result, seconds)
            self.reduction.note(lambda p=progress, text=line, made=repairs: record(p, text, made))  # type: ignore[misc]
            is_last = result.status.is_last
        self.reduction.agree()
        return progress

    def _advanced(
        self, progress: Progress, result: EStepResult, mixture: Mixture, repairs: Repairs
    ) -> tuple[Progress, float | None]:
        """Progress after one more iteration, and by how much that changed the mean log-likelihood."""
        mean = self._mean(result)
        change = None if progress.mean_log_likelihood is None else mean - progress.mean_log_likelihood
        return replace(
            progress,
            iteration=progress.iteration + 1,
            mixture=mixture,
            mean_log_likelihood=mean,
            change=None if repairs else change,
        ), change

    def mean_log_likelihood(self, mixture: Mixture) -> float:
        """Mean log-likelihood of all rows under a mixture, per unit of weight. Collective."""
        return self._mean(self.e_step(mixture, choose_precision(self.precision, mixture, self._survey(mixture))))

    def _mean(self, result: EStepResult) -> float:
        return float(result.moments.log_likelihood[0]) / self.survey.total_weight

    def advance(self, mixture: Mixture, iteration: int) -> tuple[EStepResult, Mixture, Repairs]:
        """One iteration: its E-step, the new mixture, and the repairs made. Collective; raises `AgreedError`.

        It is taken again in finer precision where float32 turns out to be too coarse for the new mixture.
        """
        precision: Precision | None = choose_precision(self.precision, mixture, self._survey(mixture))
        while precision is not None:
            used = precision
            try:
                result, new, repairs = self._resolved(mixture, used, iteration)
                precision = finer_precision(used, mixture, new, result.moments, self.survey)
            except AgreedError:
                if used.dtype == DOUBLE:
                    raise
                precision = Precision.of(DOUBLE, used.exact)
        return result, new, repairs

    def _resolved(self, mixture: Mixture, precision: Precision, iteration: int) -> tuple[EStepResult, Mixture, Repairs]:
        """An E-step and an M-step; both again where the resolution of the sums was too coarse for the new mixture.
        Collective."""
        n_limbs = None
        while True:
            result = self.e_step(mixture, precision, n_limbs)
            new, repairs = self.m_step(mixture, result.moments)
            n_limbs = refined_limbs(result.n_limbs, mixture, new, result.moments.counts, self.survey)
            if n_limbs == result.n_limbs:
                factor(new, iteration)
                return result, new, repairs

    def e_step(self, mixture: Mixture, precision: Precision, n_limbs: int | None = None) -> EStepResult:
        """The E-step over all rows. Collective; raises `AgreedError`."""
        form = sums_format(mixture, self.survey, n_limbs)
        shape = form.n_limbs, form.top.size

        def add_own(total: Array) -> None:
            self._add_own(form, total.reshape(shape), mixture, precision)

        sums, status = self.reduction.reduce(form.n_limbs * form.top.size, add_own, mixture.checksum())
        moments = Moments.of(form.value(sums.reshape(shape)), mixture)
        return EStepResult(moments, precision.dtype, form.n_limbs, status)

    def m_step(self, mixture: Mixture, moments: Moments) -> tuple[Mixture, Repairs]:
        """The M-step, identical on all ranks."""
        return m_step(mixture, moments, self.survey, self.safeguards)

    def _survey(self, mixture: Mixture) -> DataSummary:
        """The survey, with a centre that is safe for a mixture."""
        return replace(self.survey, centre=safe_centre(mixture, self.survey.centre))

    def _add_own(self, form: FixedPoint, total: IntArray, mixture: Mixture, precision: Precision) -> None:
        """Add the statistics of this rank's tiles to limbs of zero; one of the threads adds to these limbs directly."""
        ops = self.context.ops
        survey, dtype = self._survey(mixture), precision.dtype
        e_step = EStep(mixture, survey.centre, survey.max_abs_deviation, dtype, ops, precision.exact)
        centre = ops.arrays.put(survey.centre)
        _ = form.quanta  # computed here once, and not by every thread
        limbs = iter([total])

        def tile_function(tile: Tile, tiles: Tiles) -> tuple[ExactSum, FloatArray]:
            statistics, moments = ExactSum(form, next(limbs, None)), Moments.empty(mixture, ops.arrays)
            seen = ops.arrays.zeros(1, DOUBLE)
            for rows in tiles:
                tile.fill(rows, centre, mask=survey.masked, dtype=dtype)
                e_step(tile, moments)
                seen += moments.log_likelihood
                statistics.add(moments.flat, ops)
            return statistics, seen

        for statistics, seen in self.context.for_each_device_tile(tile_function):
            check_log_likelihood(ops.arrays.get(seen))
            ops.carry(statistics.limbs)
            if statistics.limbs is not total:
                total += statistics.limbs
        ops.carry(total)


def sums_format(mixture: Mixture, survey: DataSummary, n_limbs: int | None = None) -> FixedPoint:
    """`statistics_format`; raises `AgreedError` with a remedy where a sum may leave the range of float64."""
    try:
        return statistics_format(mixture, survey, n_limbs)
    except OverflowError as error:
        remedy = "raise model.reg_covar or model.variance_floor, rescale the data, or choose another init.file"
        raise AgreedError(f"{error}; {remedy}", DegenerateError.exit_code) from None


def factor(mixture: Mixture, iteration: int) -> None:
    """Factor the covariances of an iteration's new mixture, on all ranks alike; raises `AgreedError`."""
    try:
        _ = mixture.precisions_cholesky
    except SingularCovarianceError as error:
        message = (
            f"{error} after iteration {iteration}; raise model.reg_covar or model.variance_floor, or lower "
            "model.n_components"
        )
        raise AgreedError(message, DegenerateError.exit_code) from None


def log_line(
    progress: Progress, change: float | None, repairs: Repairs, result: EStepResult, seconds: float
) -> dict[str, Any]:
    """A line of ``convergence.jsonl``; its log-likelihood is that of the mixture which entered the iteration."""
    status = result.status
    return {
        "init": progress.init,
        "iteration": progress.iteration,
        "mean_log_likelihood": progress.mean_log_likelihood,
        "change": change,
        "seconds": seconds,
        "seconds_read": status.read,
        "seconds_compute": status.compute,
        "seconds_communicate": status.communicate,
        "imbalance": status.imbalance,
        "floored": len(repairs.floored),
        "reseeded": len(repairs.reseeded),
        "precision_bits": 8 * result.dtype.itemsize,
    }
