"""Stepwise EM: an M-step after each batch of tiles, from running statistics.

The recursion is that of Cappé and Moulines (J. R. Stat. Soc. B 71, 2009); the names and the batches are those of Liang
and Klein (Proc. NAACL, 2009). See docs/algorithms/stepwise.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mpigmm.core.algorithms.base import Algorithm, EStepPass, NoTilesLeftError, Problem, Rejected, Report, Summed
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.algorithms.statistics_algebra import added, mixture_statistics, moved, scaled
from mpigmm.core.algorithms.tile_batches import TileBatches, default_batch_tiles, held_out_tiles
from mpigmm.core.exact import FloatArray, IntArray
from mpigmm.core.mixture import Mixture, MixtureError
from mpigmm.core.precision import Precision
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import refined_limbs
from mpigmm.options import EmOptions


@dataclass(frozen=True, eq=False)
class StepwiseState:
    """The state of stepwise EM between two passes.

    Attributes
    ----------
    mixture : Mixture
    running : ndarray of shape (size,)
        The running statistics about the mixture's means, per unit of sample weight, as one vector.
    n_steps : int
        Number of steps that have changed the running statistics.
    n_batches : int
        Number of batches that have been seen, those without weight included.
    n_polished : int
        Number of polishing iterations.
    rows_seen : int
        Rows in all passes, and of the initialisation.
    converged : bool
    pass_objective, pass_weight : float
        Over the batches of the current pass: sum of objective times weight, and sum of weights.
    last_objective : float or None
        Mean objective over the last whole pass or, after a polishing iteration, of the mixture that entered it.
    mean_log_likelihood : float
        Of the last batch that had weight; 0 before the first.
    precision : Precision or None
        Precision in which the next pass repeats the step; None if the next pass is the first of a step.
    n_limbs : int or None
        Number of limbs with which the next pass repeats the step; None if it is chosen anew.
    repeats_batch : bool or None
        Whether the step that the next pass repeats is over a batch, and not a polishing iteration; None if it repeats
        none.
    pending : Report or None
        The report of a step after which the next pass evaluates the held-out tiles.
    """

    mixture: Mixture
    running: FloatArray
    n_steps: int = 0
    n_batches: int = 0
    n_polished: int = 0
    rows_seen: int = 0
    converged: bool = False
    pass_objective: float = 0.0
    pass_weight: float = 0.0
    last_objective: float | None = None
    mean_log_likelihood: float = 0.0
    precision: Precision | None = None
    n_limbs: int | None = None
    repeats_batch: bool | None = None
    pending: Report | None = None


class StepwiseEM(Algorithm[StepwiseState]):
    """Stepwise (online) EM over batches of tiles, then polishing iterations of batch EM.

    The batches end when the mean objective over a pass has changed by less than the tolerance, or when another batch
    would leave too few rows for polishing: in all, no more rows are seen than `max_iter` times their number.
    """

    name = "stepwise"
    decides_end = True
    takes_batches = True

    def __init__(self, problem: Problem, em: EmOptions) -> None:
        super().__init__(problem, em)
        grid = problem.grid
        held_out = held_out_tiles(grid.n_tiles, em.held_out, problem.seed)
        training = np.setdiff1d(np.arange(grid.n_tiles), held_out)
        if not len(training):
            raise NoTilesLeftError
        batch_tiles = default_batch_tiles(len(training)) if em.batch_tiles == "auto" else em.batch_tiles
        self.held_out: IntArray | None = held_out if len(held_out) else None
        self.training: IntArray | None = training if len(held_out) else None
        self.batches = TileBatches(training, batch_tiles, problem.seed)

    def start(self, mixture: Mixture, objective: float | None = None) -> StepwiseState:
        return StepwiseState(mixture, mixture_statistics(mixture, 1.0).flat)

    def initialised(self, state: StepwiseState, rows_seen: int) -> StepwiseState:
        return replace(state, rows_seen=rows_seen)

    def e_step_pass(self, state: StepwiseState) -> EStepPass:
        precision = state.precision or self.problem.first_precision(state.mixture)
        return EStepPass(state.mixture, precision, state.n_limbs, tiles=self._tiles(state))

    def update(self, state: StepwiseState, outcome: Summed | Rejected) -> tuple[StepwiseState, Report]:
        if isinstance(outcome, Rejected):
            raise outcome.error
        takes_batch = self._takes_batch(state)
        state = replace(state, rows_seen=state.rows_seen + self.problem.grid.rows_of(outcome.of.tiles))
        weight = self._weight(outcome)
        if state.pending is not None:
            return self._evaluated(state, state.pending, outcome.statistics, weight)
        if not weight > 0:
            mean = state.mean_log_likelihood
            report = Report(mean, self.problem.objective(mean, state.mixture), None, Repairs())
            return self._counted(state, report, 0.0, takes_batch)
        return self._step(state, outcome, weight, takes_batch)

    def is_finished(self, state: StepwiseState) -> bool:
        if state.pending is not None or state.repeats_batch is not None:
            return False
        return not self._takes_batch(state) and not self._polishes(state)

    def has_converged(self, state: StepwiseState) -> bool:
        return state.converged

    @classmethod
    def mixture(cls, state: StepwiseState) -> Mixture:
        return state.mixture

    @classmethod
    def to_arrays(cls, state: StepwiseState) -> dict[str, FloatArray]:
        last = np.nan if state.last_objective is None else state.last_objective
        counts = [state.n_steps, state.n_batches, state.n_polished, state.rows_seen, state.converged]
        means = [state.pass_objective, state.pass_weight, last, state.mean_log_likelihood]
        return {
            **state.mixture.arrays(),
            "running_statistics": state.running,
            "stepwise_counts": np.array(counts, np.float64),
            "stepwise_means": np.array(means),
        }

    @classmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, FloatArray]) -> StepwiseState:
        mixture = Mixture.from_arrays(covariance_type, arrays)
        running = arrays["running_statistics"]
        if running.shape != SufficientStatistics.empty(mixture.layout).flat.shape or not np.isfinite(running).all():
            raise MixtureError("running_statistics are not those of the mixture")
        n_steps, n_batches, n_polished, rows_seen, converged = map(int, arrays["stepwise_counts"])
        pass_objective, pass_weight, last, mean = map(float, arrays["stepwise_means"])
        return StepwiseState(
            mixture,
            running,
            n_steps,
            n_batches,
            n_polished,
            rows_seen,
            bool(converged),
            pass_objective,
            pass_weight,
            None if np.isnan(last) else last,
            mean,
        )

    def _tiles(self, state: StepwiseState) -> IntArray | None:
        """The tiles of the next pass."""
        if state.pending is not None:
            return self.held_out
        return self.batches.batch(state.n_batches) if self._takes_batch(state) else self.training

    def _rows_left(self, state: StepwiseState) -> int:
        return self.em.max_iter * self.problem.grid.n_rows - state.rows_seen

    def _polishes(self, state: StepwiseState) -> bool:
        """Whether another polishing iteration is due, with its held-out evaluation, and the rows that are left are
        enough."""
        return state.n_polished < self.em.polish and self._rows_left(state) >= self.problem.grid.n_rows

    def _takes_batch(self, state: StepwiseState) -> bool:
        """Whether the next pass is over a batch: polishing has not begun, and leaves rows for it."""
        if state.repeats_batch is not None:
            return state.repeats_batch
        if state.converged or state.n_polished:
            return False
        grid, left = self.problem.grid, self._rows_left(state)
        rows = grid.rows_of(self.batches.batch(state.n_batches))
        if self.held_out is not None and self._ends_pass(state):
            rows += grid.rows_of(self.held_out)
        return left - rows >= grid.n_rows * min(self.em.polish, max(left // grid.n_rows, 0))

    def _ends_pass(self, state: StepwiseState) -> bool:
        """Whether the next batch is the last of a pass over the training tiles."""
        return (state.n_batches + 1) % self.batches.n_batches == 0

    def _weight(self, outcome: Summed) -> float:
        """Sum of the sample weights of the rows in a pass."""
        if outcome.of.tiles is None:
            return self.problem.summary.total_weight
        return float(outcome.statistics.counts.sum())

    def _step(
        self, state: StepwiseState, outcome: Summed, weight: float, takes_batch: bool
    ) -> tuple[StepwiseState, Report]:
        """Take a step, or tell that the pass must be repeated with more digits."""
        problem, old = self.problem, state.mixture
        summary, kind = problem.summary, old.covariances.second_moments
        size = self._step_size(state, outcome, weight) if takes_batch else 1.0
        of_all = scaled(outcome.statistics, summary.total_weight / weight)
        sums = self._blended(state, of_all, size)
        new, repairs = problem.m_step(old, sums)
        mean = float(outcome.statistics.log_likelihood[0]) / weight
        report = Report(mean, problem.objective(mean, old), None, repairs)
        own_counts = sums.counts * (weight / summary.total_weight / size)  # in which errors of the batch's sums matter
        n_limbs = refined_limbs(outcome.n_limbs, old, new, own_counts, summary)
        repeated = replace(state, repeats_batch=takes_batch)
        if n_limbs != outcome.n_limbs:
            again = replace(repeated, precision=outcome.of.precision, n_limbs=n_limbs)
            return again, replace(report, again=True)
        precision = problem.finer_precision(replace(outcome, statistics=of_all), new)
        if precision is not None:
            return replace(repeated, precision=precision, n_limbs=None), replace(report, again=True)
        running = scaled(moved(sums, kind, new.means - old.means), 1.0 / summary.total_weight)
        if repairs.reseeded:
            running = mixture_statistics(new, 1.0)
        state = replace(state, mixture=new, running=running.flat, n_steps=state.n_steps + takes_batch)
        return self._counted(state, report, weight, takes_batch)

    def _step_size(self, state: StepwiseState, outcome: Summed, weight: float) -> float:
        """The size of the step after a batch, in proportion to the weight of its rows, and at most 1.

        If it were not, a batch whose rows weigh little would count as much as others, and the limit of the running
        statistics would not be those of the weighted rows.
        """
        size = (state.n_steps + 1 + self.em.step_offset) ** -self.em.step_exponent
        summary, grid = self.problem.summary, self.problem.grid
        usual = summary.total_weight * grid.rows_of(outcome.of.tiles) / grid.n_rows
        return float(min(size * (weight / usual), 1.0))

    def _blended(self, state: StepwiseState, statistics: SufficientStatistics, size: float) -> SufficientStatistics:
        """The running statistics after a step of this size, scaled to the weight of all rows like the new ones."""
        if size == 1.0:
            return statistics
        running = SufficientStatistics.of(state.running, state.mixture.layout)
        return added(scaled(running, (1.0 - size) * self.problem.summary.total_weight), scaled(statistics, size))

    def _counted(
        self, state: StepwiseState, report: Report, weight: float, takes_batch: bool
    ) -> tuple[StepwiseState, Report]:
        """The state after a step, with its report, in the counts of the batches and polishing iterations."""
        mean = report.mean_log_likelihood
        state = replace(state, mean_log_likelihood=mean, precision=None, n_limbs=None, repeats_batch=None)
        if not takes_batch:
            last = state.last_objective if state.n_polished else None
            state = replace(state, n_polished=state.n_polished + 1)
            return self._passed(state, report, report.objective, last)
        state = replace(
            state,
            pass_objective=state.pass_objective + weight * report.objective,
            pass_weight=state.pass_weight + weight,
            n_batches=state.n_batches + 1,
        )
        if state.n_batches % self.batches.n_batches:
            return state, report
        objective = state.pass_objective / state.pass_weight if state.pass_weight else report.objective
        state = replace(state, pass_objective=0.0, pass_weight=0.0)
        return self._passed(state, report, objective, state.last_objective)

    def _passed(
        self, state: StepwiseState, report: Report, objective: float, last: float | None
    ) -> tuple[StepwiseState, Report]:
        """The state after a pass over all training tiles with this mean objective, that of the last pass given."""
        change = None if last is None else objective - last
        converged = state.converged or (change is not None and abs(change) < self.em.tol)
        state, report = replace(state, last_objective=objective, converged=converged), replace(report, change=change)
        if self.held_out is None:
            return state, report
        return replace(state, pending=report), replace(report, again=True)

    @staticmethod
    def _evaluated(
        state: StepwiseState, report: Report, statistics: SufficientStatistics, weight: float
    ) -> tuple[StepwiseState, Report]:
        """The state and the report of the last step after the held-out tiles have been evaluated."""
        mean = float(statistics.log_likelihood[0]) / weight if weight > 0 else None
        return replace(state, pending=None), replace(report, held_out=mean)
