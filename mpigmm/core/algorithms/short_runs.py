"""A few steps of EM on a sample of the rows, in the memory of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mpigmm.core.algorithms.base import Problem
from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.algorithms.responsibilities import Sample
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.estep.step import EStep
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.base import Ops
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.core.tile_rows import most_rows
from mpigmm.rows import Rows

LEAST_GAIN = 1e-3
"""A short run ends where the mean log-likelihood of a row changes by less."""


class ShortRuns:
    """EM on samples of the rows, with the M-step of the fit. A mixture that fails has the objective minus infinity.

    Sums of a sample are scaled to the total weight of all rows, so that priors and thresholds mean what they mean in
    the fit. Empty components become halves of others whatever the options say: rows that the sample lacks may need
    them.

    Parameters
    ----------
    problem : Problem
    n_components, max_rows : int
        Of the mixtures, and of the largest sample.
    ops : Ops
        Array operations on the host.
    check : callable
        Called before each tile; may raise.

    Attributes
    ----------
    rows_seen : int
        Rows of all E-steps.
    """

    def __init__(
        self,
        problem: Problem,
        n_components: int,
        max_rows: int,
        ops: Ops,
        check: Callable[[], None],
    ) -> None:
        n_features = len(problem.summary.centre)
        self.problem, self.ops, self.check = problem, ops, check
        self.safeguards = replace(problem.safeguards, reseed=True)
        self.rows_seen = 0
        self._tile = Tile(n_features, min(max_rows, most_rows(n_features, n_components)), ops)

    def objective(self, mixture: Mixture, sample: Sample) -> float:
        """The objective of a mixture for a sample: its mean log-likelihood, and the prior's part."""
        try:
            return self._objective(mixture, self._statistics(mixture, sample))
        except SingularCovarianceError:
            return -np.inf

    def run(self, mixture: Mixture, sample: Sample, n_steps: int) -> tuple[float, Mixture]:
        """The mixture after at most n_steps steps of EM on a sample, and its objective for the sample.

        Where a step fails, it is the mixture before the step.
        """
        reached = -np.inf, mixture
        try:
            for n_done in range(n_steps + 1):
                statistics = self._statistics(mixture, sample)
                last, reached = reached[0], (self._objective(mixture, statistics), mixture)
                if n_done == n_steps or not reached[0] - last >= LEAST_GAIN:
                    break
                mixture = self._m_step(mixture, statistics)
        except SingularCovarianceError:
            pass
        return reached

    def _statistics(self, mixture: Mixture, sample: Sample) -> SufficientStatistics:
        """Sums of an E-step over a sample, scaled to the total weight of all rows."""
        rows, tile = Rows.of(*sample), self._tile
        summary = self.problem.centred(mixture)
        e_step = EStep(mixture.e_step_inputs(summary.centre, summary.max_abs_deviation, ops=self.ops))
        total, part = SufficientStatistics.empty(mixture.layout), SufficientStatistics.empty(mixture.layout)
        total.flat[:] = 0.0
        for first in range(0, len(rows), tile.max_rows):
            self.check()
            tile.fill(rows[first : first + tile.max_rows], summary.centre, mask=False)
            e_step(tile, part)
            total.flat[:] += part.flat
        self.rows_seen += len(rows)
        total.flat[:] *= summary.total_weight / sample[1].sum()
        return total

    def _objective(self, mixture: Mixture, statistics: SufficientStatistics) -> float:
        mean = float(statistics.log_likelihood[0]) / self.problem.summary.total_weight
        return self.problem.objective(mean, mixture) if np.isfinite(mean) else -np.inf

    def _m_step(self, mixture: Mixture, statistics: SufficientStatistics) -> Mixture:
        return m_step(mixture, statistics, self.problem.summary, self.safeguards, self.problem.prior)[0]
