"""The loop over the steps of an algorithm: it requests a pass over the rows of all ranks, then makes the same update on
every rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpigmm.core.algorithms import algorithm_type
from mpigmm.core.algorithms.base import Algorithm, EStepPass, Grid, NoTilesLeftError, Problem, Rejected, Report, Summed
from mpigmm.core.algorithms.m_step import CovarianceUpdate, update_alone
from mpigmm.core.algorithms.projection import has_converged, with_change
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.kept_statistics import KeptStatistics
from mpigmm.core.mixture import Mixture
from mpigmm.core.precision import Precision, finer_precision
from mpigmm.core.priors import PRIORS
from mpigmm.core.sum_format import SumRangeError
from mpigmm.data.malloc import keep_freed_memory
from mpigmm.driver.e_step import Fit, PassRequest
from mpigmm.driver.reduction import PassStatus, Reduction
from mpigmm.driver.shared_update import SharedUpdate
from mpigmm.driver.stopping import goes_on
from mpigmm.errors import AgreedError, CollapsedError, ConfigError
from mpigmm.options import EmOptions, FitOptions
from mpigmm.runs.state import Progress

Record = Callable[[Progress, dict[str, Any], Repairs], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an E-step with the last mixture of a start finds.

    Attributes
    ----------
    mean_log_likelihood : float
        Of all rows, per unit of weight.
    objective : float
        The same plus the log-density of the prior, per unit of weight.
    statistics : KeptStatistics or None
        None where they were not asked for.
    """

    mean_log_likelihood: float
    objective: float
    statistics: KeptStatistics | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """A step of an algorithm, and the passes that it took.

    Attributes
    ----------
    state : object
        The new one.
    report : Report
    summed : Summed
        The sums of the last pass.
    status : PassStatus
        Of the last pass.
    e_steps, rows_seen : int
        Number of passes, and of the rows in all of them.
    """

    state: Any
    report: Report
    summed: Summed
    status: PassStatus
    e_steps: int
    rows_seen: int


class EmLoop:
    """Steps of an algorithm until it has converged. It knows neither the algorithm's state nor its mathematics.

    Parameters
    ----------
    reduction : Reduction
    algorithm : Algorithm
    """

    def __init__(self, reduction: Reduction, algorithm: Algorithm[Any]) -> None:
        self.reduction = reduction
        self.context = reduction.context
        self.algorithm = algorithm
        keep_freed_memory()

    @property
    def problem(self) -> Problem:
        return self.algorithm.problem

    def run(self, progress: Progress, em: EmOptions, record: Record) -> Fit[Progress]:
        """Iterate until the start has converged or `em.max_iter` is reached; returns the last progress. Collective.

        Parameters
        ----------
        progress : Progress
            Of the start so far, with a state of the algorithm.
        em : EmOptions
        record : callable
            Called on this rank after every iteration with its progress, log line and repairs; an error that it raises
            ends all ranks at the next reduction.
        """
        begin, is_last = time.perf_counter(), False
        while self._goes_on(progress, em):
            if is_last:
                self.context.comm.agree(self.reduction.error or self.context.stop.out_of_time())
            old = self.algorithm.mixture(progress.state)
            step = yield from self.step(progress.state, progress.iteration + 1)
            old.release()  # frees its Cholesky factors: a caller may refer to the mixture until the loop ends
            progress = advanced(progress, step)
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            line = log_line(progress, step, self.problem.grid, seconds)
            made, is_last = step.report.repairs, step.status.is_last
            del step  # with the old mixture, which takes as much memory as the new one
            self.reduction.note(lambda p=progress, text=line, repairs=made: record(p, text, repairs))  # type: ignore[misc]
        self.reduction.agree()
        return progress

    def _goes_on(self, progress: Progress, em: EmOptions) -> bool:
        if self.algorithm.decides_end:
            return not self.algorithm.is_finished(progress.state)
        return goes_on(progress.iteration, progress.changes, em)

    def has_converged(self, progress: Progress, em: EmOptions) -> bool:
        """Whether a start that has ended with this progress has converged."""
        if self.algorithm.decides_end:
            return self.algorithm.has_converged(progress.state)
        return has_converged(progress.changes, em)

    def step(self, state: Any, iteration: int) -> Fit[Step]:
        """One step of the algorithm: passes until its report does not say `again`. Collective; raises `AgreedError`."""
        e_steps = rows_seen = 0
        while True:
            answer = yield from self._answer(state)
            if isinstance(answer, Rejected):
                state, _ = self._updated(state, answer, iteration)
                continue
            summed, status = answer
            e_steps += 1
            rows_seen += self.problem.grid.rows_of(summed.of.tiles)
            state, report = self._updated(state, summed, iteration)
            if not report.again:
                return Step(state, report, summed, status, e_steps, rows_seen)

    def _answer(self, state: Any) -> Fit[tuple[Summed, PassStatus] | Rejected]:
        """The answer to the pass that the algorithm needs."""
        try:
            request = PassRequest(self.problem, self.algorithm.e_step_pass(state))
        except (SingularCovarianceError, SumRangeError) as error:
            return Rejected(error)
        yield request
        return request.take()

    def _updated(self, state: Any, outcome: Summed | Rejected, iteration: int) -> tuple[Any, Report]:
        """The update after a pass; raises the same `AgreedError` on all ranks where the algorithm cannot continue."""
        try:
            return self.algorithm.update(state, outcome)
        except (SingularCovarianceError, SumRangeError) as error:
            raise degenerate(error, f" after iteration {iteration}") from None

    def evaluate(self, mixture: Mixture, *, keep: bool = False) -> Fit[Evaluation]:
        """The log-likelihood of all rows under the last mixture of a start, and where `keep` is true, its statistics.

        Collective; raises `AgreedError`.
        """
        summed = yield from self._evaluated(mixture)
        mean = float(summed.statistics.log_likelihood[0]) / self.problem.summary.total_weight
        objective = self.problem.objective(mean, mixture)
        if not keep:
            return Evaluation(mean, objective)
        finer = finer_precision(summed.of.precision, mixture, mixture, summed.statistics, self.problem.summary)
        if finer is not None:  # float32 has enough digits for the log-likelihood, but not for an M-step
            summed = yield from self._evaluated(mixture, finer)
        return Evaluation(mean, objective, KeptStatistics.of_rows(summed.statistics, self.problem.summary))

    def _evaluated(self, mixture: Mixture, precision: Precision | None = None) -> Fit[Summed]:
        """The sums under the last mixture of a start. Collective; raises `AgreedError`."""
        try:
            precision = precision or self.problem.first_precision(mixture)
            request = PassRequest(self.problem, EStepPass(mixture, precision))
        except (SingularCovarianceError, SumRangeError) as error:
            raise degenerate(error, " in the end") from None
        yield request
        answer = request.take()
        if isinstance(answer, Rejected):
            raise degenerate(answer.error, " in the end")
        return answer[0]


def em_loop(reduction: Reduction, options: FitOptions, summary: DataSummary) -> EmLoop:
    """The loop of the algorithm that the options name; raises the same `AgreedError` on all ranks."""
    context = reduction.context
    return EmLoop(reduction, algorithm_of(options, summary, context.grid, SharedUpdate(context.comm)))


def algorithm_of(
    options: FitOptions, summary: DataSummary, grid: Grid, update: CovarianceUpdate = update_alone
) -> Algorithm[Any]:
    """The algorithm that the options name, for rows with this summary; raises the same `AgreedError` on all ranks."""
    try:
        problem = replace(problem_of(options, summary, grid), update_covariances=update)
        return algorithm_type(options.em)(problem, options.em)
    except NoTilesLeftError:
        message = f"em.held_out: there is 1 tile of {grid.n_rows} rows; lower compute.tile_rows, or set it to 0"
        raise AgreedError(message, ConfigError) from None


def problem_of(options: FitOptions, summary: DataSummary, grid: Grid) -> Problem:
    """The problem that the options name, for rows with this summary on this grid of tiles."""
    model = options.model
    safeguards = Safeguards(model.reg_covar, model.variance_floor, options.em.reseed)
    prior, dtype = PRIORS[model.prior](summary), np.dtype(options.compute.precision)
    return Problem(summary, safeguards, prior, dtype, grid, options.init.seed)


def degenerate(error: SingularCovarianceError | SumRangeError, when: str) -> AgreedError:
    """The error for a fit that cannot go on, with the remedy; `when` tells when a covariance became singular."""
    if isinstance(error, SingularCovarianceError):
        message = f"{error}{when}; raise model.reg_covar or model.variance_floor, or lower model.n_components"
    else:
        message = (
            f"{error}; raise model.reg_covar or model.variance_floor, rescale the data, or choose another init.file"
        )
    return AgreedError(message, CollapsedError)


def advanced(progress: Progress, step: Step) -> Progress:
    """Progress after one more iteration."""
    return replace(
        progress,
        iteration=progress.iteration + 1,
        state=step.state,
        mean_log_likelihood=step.report.mean_log_likelihood,
        changes=with_change(progress.changes, None if step.report.repairs else step.report.change),
        e_steps=progress.e_steps + step.e_steps,
        rows_seen=progress.rows_seen + step.rows_seen,
    )


def log_line(progress: Progress, step: Step, grid: Grid, seconds: float) -> dict[str, Any]:
    """A line of ``convergence.jsonl``; its log-likelihood is that of the mixture which entered the iteration."""
    report, status = step.report, step.status
    return {
        "init": progress.init,
        "iteration": progress.iteration,
        "mean_log_likelihood": report.mean_log_likelihood,
        "objective": report.objective,
        "change": report.change,
        "seconds": seconds,
        "seconds_read": status.read,
        "seconds_compute": status.compute,
        "seconds_communicate": status.communicate,
        "imbalance": status.imbalance,
        "floored": len(report.repairs.floored),
        "reseeded": len(report.repairs.reseeded),
        "precision_bits": 8 * step.summed.of.precision.dtype.itemsize,
        "e_steps": progress.e_steps,
        "passes": progress.rows_seen / grid.n_rows,
        "held_out": report.held_out,
    }
