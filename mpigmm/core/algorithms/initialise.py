"""The first mixture of a run, from a sample of rows that is the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.covariances.base import Covariances, Safeguards
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.choose import choose_kernel
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.core.tile_rows import most_rows
from mpigmm.rows import Rows

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

Labels = NDArray[np.intp]
Sample = tuple[FloatArray, FloatArray]
"""Rows (m, D) and their sample weights (m,)."""

ProgressCallback = Callable[[str, int, int], None]
"""Called often with the name of the work in progress, the number of its steps that are done, and their largest number.
It raises an exception to stop the run."""


def no_progress(name: str, done: int, most: int) -> None:
    """The `ProgressCallback` that does nothing."""


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
) -> Mixture:
    """A first mixture.

    Parameters
    ----------
    method : {"kmeans", "kmeans++", "random"}
        "kmeans" makes the mixture of the partition that k-means finds. The others choose means among the rows; all
        components then have equal weights and the covariance of the sample.
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
    """
    rows, sample_weight = sample
    random = np.random.default_rng(seed)
    scale = np.sqrt(np.where(summary.variances > 0, summary.variances, 1.0))
    standard = rows - summary.centre
    standard /= scale
    if method == "random":
        means = standard[choose_rows(sample_weight, n_components, random)]
    else:
        means = plus_plus(standard, sample_weight, n_components, random, progress)
    if method != "kmeans":
        means = means * scale + summary.centre
        return Mixture(
            np.full(n_components, 1 / n_components),
            means,
            sample_covariance(kind, sample, summary, safeguards).select(np.zeros(n_components, np.intp)),
        )
    means, labels = lloyd(standard, sample_weight, means, progress)
    del standard  # as large as the memory that is needed next
    means = means * scale + summary.centre
    return partition_mixture(kind, sample, labels, means, summary, safeguards, progress)


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


def partition_mixture(
    kind: type[Covariances],
    sample: Sample,
    labels: Labels,
    means: FloatArray,
    summary: DataSummary,
    safeguards: Safeguards,
    progress: ProgressCallback = no_progress,
) -> Mixture:
    """The mixture of a partition: an M-step in which each row has responsibility one for the component of its label.

    Labels (m,) are indices of the means (K, D).
    """
    rows, sample_weight = sample
    start, (n_components, n_features) = isotropic(kind, means), means.shape
    total = SufficientStatistics.empty(start.layout)
    total.flat[:] = 0.0
    second = total.second_moments.reshape(-1, kind.n_second(1, n_features))  # of each component, or of all together
    tile = Tile(n_features, min(len(rows), most_rows(n_features, 1)), NUMPY)
    order = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[order], np.arange(n_components + 1))
    for k, own in enumerate(np.split(order, edges[1:-1])):
        progress("moments of component", k, n_components)
        statistics = component_statistics(isotropic(kind, means[k : k + 1]), tile, rows, sample_weight, own)
        total.counts[k], total.first_moments[k] = statistics.counts[0], statistics.first_moments[0]
        second[k % len(second)] += statistics.second_moments
    mixture, _ = m_step(start, total, summary, safeguards, NoPrior(summary))
    return mixture


def isotropic(kind: type[Covariances], means: FloatArray) -> Mixture:
    """The mixture with means (K, D), unit variances and equal weights."""
    return Mixture(np.full(len(means), 1 / len(means)), means, kind.isotropic(*means.shape))


def component_statistics(
    one: Mixture, tile: Tile, rows: FloatArray, sample_weight: FloatArray, own: Labels
) -> SufficientStatistics:
    """Statistics of the rows with indices own, each with responsibility one for the only component of a mixture.

    The tile's centre is the component's mean, so that rows that lie close together, but far from all others, keep their
    digits.
    """
    centre = one.means[0]
    kernel = choose_kernel(one.e_step_inputs(centre))
    total, part = SufficientStatistics.empty(one.layout), SufficientStatistics.empty(one.layout)
    total.flat[:] = 0.0
    for first in range(0, len(own), tile.max_rows):
        some = own[first : first + tile.max_rows]
        tile.fill(Rows.of(rows[some], sample_weight[some]), centre, mask=False)
        part.counts[:] = sample_weight[some].sum()
        kernel.accumulate(tile, sample_weight[None, some], part.first_moments, part.second_moments)
        total.flat[1:] += part.flat[1:]
    return total
