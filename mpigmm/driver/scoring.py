"""The log-likelihood of rows under a mixture, and the entropy of their posteriors, summed over all ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from mpigmm.core.estep.step import posterior_entropy
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, LimbOps, carry
from mpigmm.data.source import Header
from mpigmm.driver.posteriors import PosteriorFunction, ScoreTask, for_each_posterior
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.worker import RankContext
from mpigmm.errors import DataError
from mpigmm.rows import Rows

FORM = FixedPoint.unbounded(3)
"""Format of the sums, of magnitudes from 2^-980 to 2^959: of log-densities, entropies and sample weights."""

LEAST_LOG_DENSITY = -(2.0**900)
"""Least log-density of a row that can be summed: the format holds the sum of 2^50 such rows."""


@dataclass(frozen=True)
class Score:
    """Sums over rows, each times its sample weight.

    Attributes
    ----------
    log_likelihood : float
        -inf if the log-density of a row is.
    entropy : float
        Of the posteriors; zero unless it was asked for.
    total_weight : float
        Sum of the sample weights.
    n_impossible : int
        Number of rows with a log-density of -inf.
    """

    log_likelihood: float
    entropy: float
    total_weight: float
    n_impossible: int

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood per unit of weight."""
        return self.log_likelihood / self.total_weight


@dataclass
class ScoreSums:
    """The sums of some rows.

    Parameters
    ----------
    header : Header
        Of the rows.
    with_entropy : bool
        Whether to sum entropies, too.
    ops : LimbOps, optional
    """

    header: Header
    with_entropy: bool = False
    ops: LimbOps | None = None
    total: ExactSum = field(default_factory=lambda: ExactSum(FORM))
    n_impossible: int = 0

    def add(self, rows: Rows, resp: FloatArray, log_density: FloatArray) -> None:
        """Add a tile's rows. Raises `DataError` for a log-density that is too low for the sum."""
        weight = np.ones(len(rows)) if rows.sample_weight is None else rows.sample_weight
        possible = ~np.isneginf(log_density)
        bad = possible & ~(log_density >= LEAST_LOG_DENSITY)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{self.header.where(rows.first + row)} has log-density {log_density[row]:g}, too low for a sum: it is "
                "too many standard deviations from every component; rescale the data, or leave the row out"
            )
        self.n_impossible += int(np.count_nonzero(~possible & (weight > 0)))
        entropy = (weight[possible] * posterior_entropy(resp)[possible]).sum() if self.with_entropy else 0.0
        log_likelihood = (weight[possible] * log_density[possible]).sum()
        self.total.add(np.array([log_likelihood, entropy, weight.sum()]), self.ops)

    def packed(self) -> IntArray:
        """Limbs of the sums and number of impossible rows, an int64 vector that can be added over threads and ranks."""
        return np.append(carry(self.total.limbs), self.n_impossible)

    @staticmethod
    def unpacked(packed: IntArray) -> Score:
        """The score from a sum of `packed`."""
        n_impossible = int(packed[-1])
        log_likelihood, entropy, total_weight = map(float, FORM.value(packed[:-1].reshape(-1, FORM.top.size)))
        return Score(-math.inf if n_impossible else log_likelihood, entropy, total_weight, n_impossible)


def summed_scores(context: RankContext, task: ScoreTask, *, with_entropy: bool = False) -> Score:
    """The sums over the rows of all ranks. Collective; raises `AgreedError`."""
    parts: list[ScoreSums] = []

    def new_function() -> PosteriorFunction:
        parts.append(ScoreSums(task.header, with_entropy, context.host_ops))
        return parts[-1].add

    def add_own(total: IntArray) -> None:
        parts.clear()
        for_each_posterior(context, task, new_function)
        for part in parts:
            total += part.packed()

    sums, _ = Reduction(context).reduce(
        ScoreSums(task.header).packed().size, add_own, task.mixture.checksum(), on_host=True
    )
    return ScoreSums.unpacked(sums)
