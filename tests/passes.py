"""An algorithm and its passes over rows in memory, without ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from support import statistics_of, survey_of

from mpigmm.core.algorithms import ACCELERATIONS, ALGORITHMS
from mpigmm.core.algorithms.base import Grid, Problem, Rejected, Report, Summed
from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.priors import NoPrior, Prior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import SumRangeError
from mpigmm.options import EmOptions

OPS, TILE_ROWS = ops_by_name(best_ops()), 1024


class Passes:
    """The passes of an algorithm over rows in memory.

    Attributes
    ----------
    state : object
        After the last pass.
    n : int
        E-steps made so far.
    """

    def __init__(
        self,
        name: str,
        rows: np.ndarray,
        safeguards: Safeguards = Safeguards(0.0, 0.0),  # noqa: B008
        dtype: np.dtype = DOUBLE,
        prior: Callable[..., Prior] = NoPrior,
    ) -> None:
        self.rows, self.survey, self.n = rows, survey_of(rows), 0
        problem = Problem(self.survey, safeguards, prior(self.survey), dtype, Grid(len(rows), TILE_ROWS))
        self.algorithm: Any = (ALGORITHMS | ACCELERATIONS)[name](problem, EmOptions())

    def reports(self, state: Any) -> Iterator[Report]:
        """The reports of passes without end, from a state."""
        self.state = state
        while True:
            yield self.take()

    def take(self) -> Report:
        self.state, report = self.algorithm.update(self.state, self.outcome())
        return report

    def outcome(self) -> Summed | Rejected:
        try:
            wanted = self.algorithm.e_step_pass(self.state)
            sums = statistics_of(
                wanted.mixture,
                self.rows,
                self.survey,
                tile_rows=TILE_ROWS,
                dtype=wanted.precision.dtype,
                ops=OPS,
                n_limbs=wanted.n_limbs,
                in_double=wanted.precision.in_double,
            )
        except (SingularCovarianceError, SumRangeError) as error:
            return Rejected(error)
        self.n += 1
        return Summed(wanted, SufficientStatistics.of(sums.value(), wanted.mixture.layout), sums.form.n_limbs)

    def objectives(self, start: Mixture, n: int) -> list[float]:
        """Objective of the accepted mixtures in so many passes."""
        reports = self.reports(self.algorithm.start(start))
        return [report.objective for _, report in zip(range(n), reports, strict=False) if not report.again]

    def e_steps_to(self, start: Mixture, limit: float, most: int) -> int:
        """E-steps until the objective reaches a limit."""
        for report in self.reports(self.algorithm.start(start)):
            if not report.again and report.objective >= limit:
                return self.n
            assert self.n < most, f"{report.objective} after {most} E-steps, and not {limit}"
        raise AssertionError
