"""An update: new rows are folded into a mixture of which the sufficient statistics were kept.

The recursion is that of incremental EM (Neal and Hinton, A view of the EM algorithm that justifies incremental, sparse,
and other variants, 1998) for a stream of blocks of rows, each of which is visited once; with a factor below one, the
statistics are those of an exponential window (Sato and Ishii, On-line EM algorithm for the normalized Gaussian network,
Neural Comput. 12, 2000).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpigmm.core.algorithms.base import Problem, Rejected, Report, Summed
from mpigmm.core.algorithms.batch import BatchEM, BatchState
from mpigmm.core.algorithms.statistics_algebra import added, moved, scaled
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import FloatArray
from mpigmm.core.kept_statistics import KeptStatistics
from mpigmm.core.mixture import Mixture
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import refined_limbs
from mpigmm.options import EmOptions


@dataclass(frozen=True, eq=False)
class UpdateState(BatchState):
    """The state of an update.

    Attributes
    ----------
    kept : KeptStatistics or None
        Those of all rows, about the means of the mixture; None before the update.
    """

    kept: KeptStatistics | None = None


class UpdateStep(BatchEM):
    """One step of the recursion S <- F S + s(rows; theta), theta <- M(S).

    s are the statistics of new rows under the mixture theta, and M is the M-step. Components that are empty, in the
    sense of `m_step`, get weight zero and keep their means and covariances, to which ``reg_covar`` is not added again.
    The safeguards must not re-seed them.

    Parameters
    ----------
    problem : Problem
        Its summary is that of the new rows.
    kept : KeptStatistics
        S, about the means of the mixture theta.
    forget : float
        F, from 0 to 1.
    """

    name = "update"

    def __init__(self, problem: Problem, kept: KeptStatistics, forget: float) -> None:
        super().__init__(problem, EmOptions())
        self.kept = kept
        self.forget = forget

    def update(self, state: BatchState, outcome: Summed | Rejected) -> tuple[BatchState, Report]:
        if isinstance(outcome, Rejected):
            raise outcome.error
        problem, old = self.problem, state.mixture
        sums = added(scaled(self.kept.statistics, self.forget), outcome.statistics)
        summary = self._summary(old, outcome.statistics)
        new, repairs = replace(problem, summary=summary, prior=type(problem.prior)(summary)).m_step(old, sums)
        new = with_empty_of(old, new)
        report = self._report(state, outcome.statistics, repairs)
        n_limbs = refined_limbs(outcome.n_limbs, old, new, sums.counts, problem.summary)
        if n_limbs != outcome.n_limbs:
            return replace(state, precision=outcome.of.precision, n_limbs=n_limbs), replace(report, again=True)
        precision = problem.finer_precision(outcome, new)
        if precision is not None:
            return replace(state, precision=precision, n_limbs=None), replace(report, again=True)
        about_new = moved(sums, old.covariances.second_moments, new.means - old.means)
        kept = KeptStatistics.of(about_new, summary.variances, self._n_samples, summary.total_weight)
        return UpdateState(new, report.objective, kept=kept), report

    @property
    def _n_samples(self) -> float:
        """Number of all rows, the old ones multiplied by the factor."""
        return self.forget * self.kept.n_samples + self.problem.summary.n_samples

    def _summary(self, mixture: Mixture, statistics: SufficientStatistics) -> DataSummary:
        """The summary of all rows, as far as the M-step needs it: number, total weight and variances.

        The variances are those within the old rows and within the new ones, and what the distance between the means of
        both adds to them.
        """
        kept, new, centre = self.kept, self.problem.summary, self.problem.summary.centre
        old_weight = self.forget * kept.total_weight
        total = old_weight + new.total_weight
        distance = data_mean(mixture, statistics, centre) - data_mean(mixture, kept.statistics, centre)
        between = np.square(distance) * (old_weight / total) * (new.total_weight / total)
        variances = (old_weight * kept.variances + new.total_weight * new.variances) / total + between
        n_samples = int(np.ceil(self._n_samples))
        return replace(new, n_samples=n_samples, total_weight=total, variances=variances)


def with_empty_of(old: Mixture, new: Mixture) -> Mixture:
    """The new mixture, whose components of weight zero have the covariances of the old one."""
    empty = new.weights == 0
    if not empty.any():
        return new
    return replace(new, covariances=new.covariances.with_components_of(old.covariances, empty))


def data_mean(mixture: Mixture, statistics: SufficientStatistics, centre: FloatArray) -> FloatArray:
    """The mean of the rows minus a centre (D,), from their statistics about the means of a mixture."""
    counts = statistics.counts
    sums = counts @ (mixture.means - centre) + statistics.first_moments.sum(axis=0)
    return np.asarray(sums / counts.sum())
