"""The log-likelihood of rows under a mixture and what else is known of their posteriors, summed over all ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from mpigmm.core.arrays import HOST, Array, BoolArray
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, carry
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.data.source import Header
from mpigmm.driver.posteriors import PosteriorFunction, ScoreTask, for_each_posterior
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.worker import RankContext
from mpigmm.errors import DataError
from mpigmm.rows import Rows

N_TOTALS, N_COUNTED = 3, 3
"""Numbers of the sums that are no component's (log-densities, entropies, sample weights), and of the counts of rows."""

LEAST_RESP = 2.0**-64
"""Responsibility up to which a component is left out of a posterior's entropy, to which it adds less than 3e-18."""

LEAST_LOG_DENSITY = -(2.0**900)
"""Least log-density of a row that can be summed: the format holds the sum of 2^50 such rows."""


@dataclass(frozen=True)
class Score:
    """Sums over rows, each times its sample weight. Rows that are left out have no part in them.

    Attributes
    ----------
    log_likelihood : float
        -inf if the log-density of a row is.
    entropy : float
        Of the posteriors; zero unless it was asked for.
    total_weight : float
        Sum of the sample weights.
    n_samples : int
        Number of rows with a positive weight.
    n_impossible : int
        Number of those of them with a log-density of -inf.
    n_dropped : int
        Number of rows with a positive weight that are left out.
    counts : ndarray of shape (K,)
        Sum of the responsibilities of each component, in which rows with a log-density of -inf have no part; of shape
        (0,) unless it was asked for.
    log_density_sums : ndarray of shape (K,)
        Sum of the log-densities of the same rows times their responsibilities, of shape (0,) like `counts`.
    """

    log_likelihood: float
    entropy: float
    total_weight: float
    n_samples: int
    n_impossible: int
    n_dropped: int
    counts: FloatArray
    log_density_sums: FloatArray

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood per unit of weight."""
        return self.log_likelihood / self.total_weight

    @property
    def mean_log_density(self) -> FloatArray:
        """For each component, sum_i w_i r_ik log p(x_i) / counts_k over rows of weight w_i; NaN where counts_k is
        zero."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.log_density_sums / np.where(self.counts > 0, self.counts, np.nan))


@dataclass
class ScoreSums:
    """The sums of some rows.

    Parameters
    ----------
    header : Header
        Of the rows.
    with_entropy : bool
        Whether to sum entropies, too.
    n_components : int
        K, to sum what `Score` tells of each component, too; or 0.
    drop : bool
        Whether rows may be left out, which have the log-density NaN.
    ops : Ops
        In whose memory the rows are.
    host_ops : Ops
        For sums on the host.
    """

    header: Header
    with_entropy: bool = False
    n_components: int = 0
    drop: bool = False
    ops: Ops = NUMPY
    host_ops: Ops = NUMPY
    total: ExactSum = field(init=False)
    counted: IntArray = field(init=False)

    def __post_init__(self) -> None:
        self.total = ExactSum(FixedPoint.unbounded(N_TOTALS + 2 * self.n_components))
        self.counted = np.zeros(N_COUNTED, np.int64)

    def add(self, rows: Rows, resp: Array, log_density: Array) -> None:
        """Add a tile's rows. Raises `DataError` for a log-density that is too low for the sum."""
        arrays = self.ops.arrays
        density = arrays.get(log_density)
        weight = np.ones(len(rows)) if rows.sample_weight is None else arrays.get(rows.sample_weight)
        is_impossible, is_dropped = np.isneginf(density), np.isnan(density) & self.drop
        possible = ~is_impossible & ~is_dropped
        self._check(rows, density, possible)
        weighs = weight > 0
        for i, kind in enumerate((~is_dropped, is_impossible, is_dropped)):
            self.counted[i] += np.count_nonzero(weighs & kind)
        log_likelihood = (weight[possible] * density[possible]).sum()
        counted, density = np.where(possible, weight, 0.0), np.where(possible, density, 0.0)
        sums = [np.array([log_likelihood, self._entropy(resp, counted), weight[~is_dropped].sum()])]
        if self.n_components:
            sums.append(self._of_components(resp, counted, density))
        self.total.add(np.concatenate(sums), self.host_ops)

    def _check(self, rows: Rows, density: FloatArray, possible: BoolArray) -> None:
        bad = possible & ~(density >= LEAST_LOG_DENSITY)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{self.header.where(rows.first + row)} has log-density {density[row]:g}, too low for a sum: it is "
                "too many standard deviations from every component; rescale the data, or leave the row out"
            )

    def _entropy(self, resp: Array, weight: FloatArray) -> float:
        """The sum over rows of weights (n,) times entropies, -sum_k r_k log r_k, of posteriors (K, n); zero if not
        asked for."""
        if not self.with_entropy:
            return 0.0
        xp, arrays = self.ops.xp, self.ops.arrays
        if arrays is HOST:
            component, row = np.nonzero(resp > LEAST_RESP)
            held = resp[component, row]
            return -float((held * np.log(held) * weight[row]).sum())
        terms = resp * xp.log(xp.where(resp > LEAST_RESP, resp, 1.0))
        return -float(arrays.get((terms * arrays.put(weight)).sum()))

    def _of_components(self, resp: Array, weight: FloatArray, density: FloatArray) -> FloatArray:
        """For each component, the sums of responsibilities (K, n) times weights (n,), and after them the sums of these
        times log-densities (n,)."""
        arrays = self.ops.arrays
        factors = arrays.put(np.stack([weight, weight * density]))
        return np.asarray(arrays.get(self.ops.xp.matmul(factors, resp.T))).reshape(-1)

    def packed(self) -> IntArray:
        """Limbs of the sums and counts of rows, an int64 vector that can be added over threads and ranks."""
        return np.append(carry(self.total.limbs), self.counted)

    @staticmethod
    def unpacked(packed: IntArray) -> Score:
        """The score from a sum of `packed`."""
        n_limbs = FixedPoint.unbounded(1).n_limbs
        limbs = packed[:-N_COUNTED].reshape(n_limbs, -1)
        values = FixedPoint.unbounded(limbs.shape[1]).value(limbs)
        log_likelihood, entropy, total_weight = map(float, values[:N_TOTALS])
        n_samples, n_impossible, n_dropped = map(int, packed[-N_COUNTED:])
        counts, log_density_sums = values[N_TOTALS:].reshape(2, -1)
        log_likelihood = -math.inf if n_impossible else log_likelihood
        return Score(
            log_likelihood, entropy, total_weight, n_samples, n_impossible, n_dropped, counts, log_density_sums
        )


def summed_scores(
    context: RankContext, task: ScoreTask, *, with_entropy: bool = False, of_components: bool = False
) -> Score:
    """The sums over the rows of all ranks. Collective; raises `AgreedError`."""
    n_components = task.mixture.n_components if of_components else 0
    parts: list[ScoreSums] = []

    def new_sums() -> ScoreSums:
        return ScoreSums(task.header, with_entropy, n_components, task.drop, context.ops, context.host_ops)

    def new_function() -> PosteriorFunction:
        parts.append(new_sums())
        return parts[-1].add

    def add_own(total: IntArray) -> None:
        parts.clear()
        for_each_posterior(context, task, new_function)
        for part in parts:
            total += part.packed()

    sums, _ = Reduction(context).reduce(new_sums().packed().size, add_own, task.mixture.checksum(), on_host=True)
    return ScoreSums.unpacked(sums)
