"""Batch EM: an E-step over all rows, then an M-step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mpigmm.core.algorithms.base import Algorithm, EStepPass, Rejected, Report, Summed
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.precision import Precision
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import refined_limbs


@dataclass(frozen=True, eq=False)
class BatchState:
    """The state of batch EM between two passes.

    Attributes
    ----------
    mixture : Mixture
    objective : float or None
        Objective of the last mixture; None before the first step.
    precision : Precision or None
        Precision in which the next pass repeats the step; None if the next pass is the first of a step.
    n_limbs : int or None
        Number of limbs with which the next pass repeats the step; None if it is chosen anew.
    """

    mixture: Mixture
    objective: float | None = None
    precision: Precision | None = None
    n_limbs: int | None = None


class BatchEM(Algorithm[BatchState]):
    """Expectation-maximisation (EM) in which each step uses all rows (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39,
    1977).

    A step is repeated if the new mixture shows that the sums had too few bits, or that float32 had too few digits.
    """

    name = "batch"

    def start(self, mixture: Mixture, objective: float | None = None) -> BatchState:
        return BatchState(mixture, objective)

    def e_step_pass(self, state: BatchState) -> EStepPass:
        precision = state.precision or self.problem.first_precision(state.mixture)
        return EStepPass(state.mixture, precision, state.n_limbs)

    def update(self, state: BatchState, outcome: Summed | Rejected) -> tuple[BatchState, Report]:
        if isinstance(outcome, Rejected):
            raise outcome.error
        problem, statistics, old = self.problem, outcome.statistics, state.mixture
        old.covariances.release()  # the M-step does not need its factors, which take as much memory as the new ones
        new, repairs = problem.m_step(old, statistics)
        report = self._report(state, statistics, repairs)
        n_limbs = refined_limbs(outcome.n_limbs, old, new, statistics.counts, problem.summary)
        if n_limbs != outcome.n_limbs:
            again = replace(state, precision=outcome.of.precision, n_limbs=n_limbs)
            return again, replace(report, again=True)
        precision = problem.finer_precision(outcome, new)
        if precision is not None:
            return replace(state, precision=precision, n_limbs=None), replace(report, again=True)
        return BatchState(new, report.objective), report

    @classmethod
    def mixture(cls, state: BatchState) -> Mixture:
        return state.mixture

    @classmethod
    def to_arrays(cls, state: BatchState) -> dict[str, FloatArray]:
        objective = np.nan if state.objective is None else state.objective
        return {**state.mixture.arrays(), "objective": np.array(objective)}

    @classmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, FloatArray]) -> BatchState:
        objective = float(arrays["objective"])
        return BatchState(Mixture.from_arrays(covariance_type, arrays), None if np.isnan(objective) else objective)

    def _report(self, state: BatchState, statistics: SufficientStatistics, repairs: Repairs) -> Report:
        mean = float(statistics.log_likelihood[0]) / self.problem.summary.total_weight
        objective = self.problem.objective(mean, state.mixture)
        change = None if state.objective is None else objective - state.objective
        return Report(mean, objective, change, repairs)
