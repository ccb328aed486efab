"""The first mixture of a run, from a sample of rows that is the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mpigmm.core.algorithms.responsibilities import (
    Labels,
    ProgressCallback,
    Sample,
    no_progress,
    partition_mixture,
    resp_mixture,
)
from mpigmm.core.covariances.base import Covariances, Safeguards
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture

LEAST_TRIALS = 16
"""Candidates for each mean of k-means++, to which log K is added. With fewer candidates, some of many separate groups
of rows get no mean."""

COMPARISON_ROWS = 8192
"""Largest number of rows on which candidates for a mean are compared. From more rows, so many are drawn with
probability proportional to sample weight times squared distance from the nearest mean: the sum that the best candidate
minimises is then estimated without bias."""

FEW_COMPONENTS = 32
"""Number of components up to which a dense matrix product sums the rows of each component faster than a sparse one."""

LLOYD_STEPS = 100
LEAST_CHANGE = 1e-3
"""k-means makes at most LLOYD_STEPS of Lloyd's steps, and ends with a step in which at most the share LEAST_CHANGE of
the total weight moves to another mean: EM improves the result anyway."""

CHUNK_ENTRIES, LEAST_CHUNK_ROWS = 1 << 17, 32
"""k-means computes distances for so many rows at a time that rows and distances have about CHUNK_ENTRIES entries, which
fit into the cache, but for at least LEAST_CHUNK_ROWS rows, so that a matrix product is fast."""


@dataclass(frozen=True, eq=False)
class GivenParameters:
    """Parameters of the first mixture that the caller knows; None stands for those that are to be computed.

    Attributes
    ----------
    weights : ndarray of shape (K,) or None
    means : ndarray of shape (K, D) or None
    covariances : Covariances or None
    objective : float or None
        Objective of an earlier iteration, from which the change in the first iteration is counted.
    """

    weights: FloatArray | None = None
    means: FloatArray | None = None
    covariances: Covariances | None = None
    objective: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no parameter of the mixture is given."""
        return self.weights is None and self.means is None and self.covariances is None

    @property
    def mixture(self) -> Mixture | None:
        """The mixture, if all of its parameters are given."""
        if self.weights is None or self.means is None or self.covariances is None:
            return None
        return Mixture(self.weights, self.means, self.covariances)

    def applied(self, mixture: Mixture) -> Mixture:
        """The mixture with the parameters that are given in place of its own."""
        given = {name: getattr(self, name) for name in ("weights", "means", "covariances")}
        return replace(mixture, **{name: value for name, value in given.items() if value is not None})


NOTHING_GIVEN = GivenParameters()


def sample_size(n_components: int, n_features: int) -> int:
    """Number of rows to sample: at most 16384 rows or 64 MB, but at least 64 for each component."""
    return max(min(16384, 2**23 // n_features), 64 * n_components)


def initialise(
    method: str,
    kind: type[Covariances],
    n_components: int,
    sample: Sample,
    summary: DataSummary,
    safeguards: Safeguards,
    seed: tuple[int, int],
    progress: ProgressCallback = no_progress,
    given: GivenParameters = NOTHING_GIVEN,
) -> Mixture:
    """A first mixture.

    Parameters
    ----------
    method : {"kmeans", "kmeans++", "random", "random_resp"}
        "kmeans" makes the mixture of the partition that k-means finds, "random_resp" that of random responsibilities.
        The others choose means among the rows; all components then have equal weights and the covariance of the
        sample. Where means are given, the mixture is that of the partition by the nearest mean, whatever the method.
    kind : type of Covariances
    n_components : int
    sample : tuple of ndarrays (m, D) and (m,)
        Rows and their sample weights, m >= 1.
    summary : DataSummary
    safeguards : Safeguards
    seed : tuple of int
        Seed of the run, and number of the initialisation among those that the run tries.
    progress : callable
        A `ProgressCallback`.
    given : GivenParameters
        These replace parameters of the mixture.
    """
    rows, sample_weight = sample
    random = np.random.default_rng(seed)
    if given.means is None and method == "random_resp":
        resp = random.random((len(rows), n_components)).T
        return given.applied(resp_mixture(kind, sample, resp / resp.sum(axis=0), summary, safeguards, progress))
    scale = scales(summary, seed[1])
    standard = rows - summary.centre
    standard /= scale
    if given.means is not None:
        labels = nearest(standard, (given.means - summary.centre) / scale)
        return given.applied(partition_mixture(kind, sample, labels, given.means, summary, safeguards, progress))
    if method == "random":
        means = standard[choose_rows(sample_weight, n_components, random)]
    else:
        means = plus_plus(standard, sample_weight, n_components, random, progress)
    if method != "kmeans":
        means = means * scale + summary.centre
        return given.applied(equal_mixture(kind, means, sample, summary, safeguards))
    means, labels = lloyd(standard, sample_weight, means, progress)
    del standard  # as large as the memory that is needed next
    means = means * scale + summary.centre
    return given.applied(partition_mixture(kind, sample, labels, means, summary, safeguards, progress))


def scales(summary: DataSummary, init: int) -> FloatArray:
    """The units (D,) in which distances are measured by the initialisation with this number.

    They are the standard deviations of the features, but one in every second initialisation. Neither finds the best
    mixture of all data: with one unit for all, a feature of large variance decides alone, which it may do rightly.
    """
    is_scaled = (summary.variances > 0) & (init % 2 == 0)
    return np.sqrt(np.where(is_scaled, summary.variances, 1.0))


def equal_mixture(
    kind: type[Covariances], means: FloatArray, sample: Sample, summary: DataSummary, safeguards: Safeguards
) -> Mixture:
    """The mixture with means (K, D) and equal weights, each component with the covariance of a sample's rows."""
    n_components = len(means)
    covariances = sample_covariance(kind, sample, summary, safeguards).select(np.zeros(n_components, np.intp))
    return Mixture(np.full(n_components, 1 / n_components), means, covariances)


def sample_covariance(
    kind: type[Covariances], sample: Sample, summary: DataSummary, safeguards: Safeguards
) -> Covariances:
    """The covariance of all rows of a sample, as the covariances of one component."""
    rows, _ = sample
    mean, labels = rows.mean(axis=0)[None], np.zeros(len(rows), np.intp)
    return partition_mixture(kind, sample, labels, mean, summary, safeguards).covariances


def choose_rows(sample_weight: FloatArray, n_components: int, random: np.random.Generator) -> Labels:
    """Indices (K,) of random rows, drawn with probability proportional to sample weight.

    They differ, unless fewer than K rows have weight > 0.
    """
    again = bool(np.count_nonzero(sample_weight) < n_components)
    return np.asarray(
        random.choice(len(sample_weight), n_components, replace=again, p=sample_weight / sample_weight.sum()), np.intp
    )


def plus_plus(
    rows: FloatArray,
    sample_weight: FloatArray,
    n_components: int,
    random: np.random.Generator,
    progress: ProgressCallback = no_progress,
) -> FloatArray:
    """Means (K, D) chosen among rows (m, D) by greedy k-means++ (Arthur and Vassilvitskii, SODA 2007)."""
    n_trials = LEAST_TRIALS + int(np.log(n_components))
    squared_norms = np.einsum("md,md->m", rows, rows)
    closest = np.full(len(rows), np.inf)
    chosen = [int(random.choice(len(rows), p=sample_weight / sample_weight.sum()))]
    while len(chosen) < n_components:
        progress("k-means++, mean", len(chosen), n_components)
        squared = squared_distances(rows, squared_norms, rows[chosen[-1:]])[0]
        np.minimum(closest, squared, out=closest)
        chosen.append(best_candidate(rows, squared_norms, closest, sample_weight, n_trials, random))
    return rows[chosen]


def best_candidate(
    rows: FloatArray,
    squared_norms: FloatArray,
    closest: FloatArray,
    sample_weight: FloatArray,
    n_trials: int,
    random: np.random.Generator,
) -> int:
    """Index of the row that is the best next mean among candidates drawn in proportion to sample_weight times closest.

    The best candidate leaves the least weighted sum of squared distances from the nearest mean.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
    squared_norms, closest, sample_weight : ndarray of shape (m,)
        Squared norms of the rows, their squared distances from the nearest mean so far, and their weights.
    n_trials : int
        Number of candidates.
    random : Generator
    """
    cumulated = np.cumsum(closest * sample_weight)
    if cumulated[-1] <= 0:
        return int(draw(np.cumsum(sample_weight), random.random(1))[0])
    candidates = draw(cumulated, random.random(n_trials))
    if len(rows) <= COMPARISON_ROWS:
        compared, masses = np.arange(len(rows)), sample_weight
    else:
        compared = draw(cumulated, (np.arange(COMPARISON_ROWS) + random.random()) / COMPARISON_ROWS)
        masses = 1.0 / closest[compared]
    squared = squared_distances(rows[compared], squared_norms[compared], rows[candidates])
    remaining = np.minimum(squared, closest[compared], out=squared) @ masses
    return int(candidates[remaining.argmin()])


def draw(cumulated: FloatArray, uniform: FloatArray) -> Labels:
    """Indices drawn with probability proportional to numbers, given the cumulated sums (m,) of these numbers.

    Each of the uniform random numbers in [0, 1) gives one index.
    """
    thresholds = np.minimum(uniform * cumulated[-1], np.nextafter(cumulated[-1], 0.0))
    return np.asarray(np.searchsorted(cumulated, thresholds, side="right"))


def squared_distances(rows: FloatArray, squared_norms: FloatArray, means: FloatArray) -> FloatArray:
    """Squared distances (K, m) of rows (m, D), whose squared norms are (m,), from means (K, D)."""
    squared = (-2.0 * means) @ rows.T
    squared += squared_norms
    squared += np.square(means).sum(axis=1)[:, None]
    result: FloatArray = np.maximum(squared, 0.0, out=squared)
    return result


def lloyd(
    rows: FloatArray,
    sample_weight: FloatArray,
    means: FloatArray,
    progress: ProgressCallback = no_progress,
    least_change: float = LEAST_CHANGE,
) -> tuple[FloatArray, Labels]:
    """k-means by Lloyd's steps from means (K, D); returns the means and, for each row, the index (m,) of the nearest.

    It ends with a step in which at most the share least_change of the total weight moves to another mean, or after
    `LLOYD_STEPS`.
    """
    least = least_change * sample_weight.sum()
    labels = nearest(rows, means, partial(progress, "k-means, step", 0, LLOYD_STEPS))
    for done in range(1, LLOYD_STEPS + 1):
        means = partition_means(rows, sample_weight, labels, means)
        previous, labels = labels, nearest(rows, means, partial(progress, "k-means, step", done, LLOYD_STEPS))
        if sample_weight @ (previous != labels) <= least:
            break
    return means, labels


def partition_means(rows: FloatArray, sample_weight: FloatArray, labels: Labels, means: FloatArray) -> FloatArray:
    """Weighted mean of the rows of each label, (K, D); where a label has no weight, the mean given in means (K, D)."""
    if len(means) <= FEW_COMPONENTS:
        sums = (sample_weight * (labels == np.arange(len(means))[:, None])) @ rows
    else:
        from scipy.sparse import csr_matrix  # only root needs it, and it opens hundreds of files

        sums = csr_matrix((sample_weight, labels, np.arange(len(rows) + 1)), (len(rows), len(means))).T @ rows
    counts = np.bincount(labels, sample_weight, len(means))
    held = counts > 0
    return np.where(held[:, None], sums / np.where(held, counts, 1.0)[:, None], means)


def nearest(rows: FloatArray, means: FloatArray, check: Callable[[], None] = lambda: None) -> Labels:
    """Index (m,) of the mean (K, D) nearest to each row (m, D); calls check often, which may raise."""
    labels, squared_norms = np.empty(len(rows), np.intp), np.square(means).sum(axis=1)
    linear = np.ascontiguousarray(-2.0 * means.T)
    height = max(LEAST_CHUNK_ROWS, CHUNK_ENTRIES // sum(means.shape))
    squared = np.empty((height, len(means)))
    for start in range(0, len(rows), height):
        check()
        found = labels[start : start + height]
        part = np.matmul(rows[start : start + height], linear, out=squared[: len(found)])
        part += squared_norms
        part.argmin(axis=1, out=found)
    return labels
