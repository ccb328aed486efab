"""The first mixture, from a sample of rows that does not depend on how the data are spread over ranks."""

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
from mpigmm.core.tile import Tile, default_rows
from mpigmm.rows import Rows

LEAST_TRIALS = 16
"""Rows tried for each mean of k-means++, beside log K: fewer leave some of many clusters without a mean."""

JUDGES = 8192
"""Rows on which candidates for a mean are compared: drawn in proportion to their squared distance from the nearest mean
so far, the weight of a row in the sum that the best candidate makes least."""

FEW_COMPONENTS = 32
"""Components up to which a dense product sums the rows of each faster than a sparse one."""

LLOYD_STEPS = 100
LEAST_CHANGE = 1e-3
"""Share of the rows' weight, changing its component in a step of Lloyd's, up to which the steps end: EM goes on."""

CHUNK_ENTRIES, LEAST_CHUNK_ROWS = 1 << 17, 32
"""Distances that k-means computes at a time: few enough for the cache, on enough rows for a matrix product."""

Labels = NDArray[np.intp]
Sample = tuple[FloatArray, FloatArray]
"""Some rows (m, D) and their weights (m,)."""

Step = Callable[[str, int, int], None]
"""Called often with the name of what is under way, the steps of it that are done, and how many there are at most;
raises where the run is to stop."""


def silent(name: str, done: int, most: int) -> None:
    """The `Step` that does nothing."""


def sample_size(n_components: int, n_features: int) -> int:
    """Rows on which an initialisation works: enough for each component, few against the data, 64 MB as a rule."""
    return max(min(16384, 2**23 // n_features), 64 * n_components)


def initialise(
    method: str,
    kind: type[Covariances],
    n_components: int,
    sample: Sample,
    summary: DataSummary,
    safeguards: Safeguards,
    seed: tuple[int, int],
    step: Step = silent,
) -> Mixture:
    """A first mixture.

    Parameters
    ----------
    method : {"kmeans", "kmeans++", "random"}
        k-means gives the mixture of its partition; the other two give means, with equal weights and the
        covariance of the sample.
    kind : type of Covariances
    n_components : int
    sample : tuple of ndarrays (m, D) and (m,)
        Rows and their weights, m >= 1.
    summary : DataSummary
    safeguards : Safeguards
    seed : tuple of int
        Seed of the run and number of the start.
    step : callable
        A `Step`.
    """
    rows, sample_weight = sample
    random = np.random.default_rng(seed)
    scale = np.sqrt(np.where(summary.variances > 0, summary.variances, 1.0))
    standard = rows - summary.centre
    standard /= scale
    if method == "random":
        means = standard[choose_rows(sample_weight, n_components, random)]
    else:
        means = plus_plus(standard, sample_weight, n_components, random, step)
    if method != "kmeans":
        means = means * scale + summary.centre
        return Mixture(
            np.full(n_components, 1 / n_components),
            means,
            sample_covariance(kind, sample, summary, safeguards).select(np.zeros(n_components, np.intp)),
        )
    means, labels = lloyd(standard, sample_weight, means, step)
    del standard  # large, as is the memory that is needed next
    means = means * scale + summary.centre
    return partition_mixture(kind, sample, labels, means, summary, safeguards, step)


def sample_covariance(
    kind: type[Covariances], sample: Sample, summary: DataSummary, safeguards: Safeguards
) -> Covariances:
    """The covariance of all rows of a sample, as that of one component."""
    rows, _ = sample
    mean, labels = rows.mean(axis=0)[None], np.zeros(len(rows), np.intp)
    return partition_mixture(kind, sample, labels, mean, summary, safeguards).covariances


def choose_rows(weights: FloatArray, n_components: int, random: np.random.Generator) -> Labels:
    """Different rows at random, with probability proportional to weight; rows twice where there are too few."""
    again = bool(np.count_nonzero(weights) < n_components)
    return np.asarray(random.choice(len(weights), n_components, replace=again, p=weights / weights.sum()), np.intp)


def plus_plus(
    rows: FloatArray, weights: FloatArray, n_components: int, random: np.random.Generator, step: Step = silent
) -> FloatArray:
    """Greedy k-means++ seeding (Arthur and Vassilvitskii, SODA 2007): means (K, D) among the rows (m, D)."""
    n_trials = LEAST_TRIALS + int(np.log(n_components))
    lengths = np.einsum("md,md->m", rows, rows)
    closest = np.full(len(rows), np.inf)
    chosen = [int(random.choice(len(rows), p=weights / weights.sum()))]
    while len(chosen) < n_components:
        step("k-means++, mean", len(chosen), n_components)
        squared = squared_distances(rows, lengths, rows[chosen[-1:]])[0]
        np.minimum(closest, squared, out=closest)
        chosen.append(best_candidate(rows, lengths, closest, weights, n_trials, random))
    return rows[chosen]


def best_candidate(
    rows: FloatArray,
    lengths: FloatArray,
    closest: FloatArray,
    weights: FloatArray,
    n_trials: int,
    random: np.random.Generator,
) -> int:
    """The best of some rows as one more mean, which are drawn in proportion to weights and closest.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
    lengths, closest, weights : ndarray of shape (m,)
        Squared lengths of the rows, their squared distances from the nearest mean so far, and their weights.
    n_trials : int
        Rows to try.
    random : Generator
    """
    cumulated = np.cumsum(closest * weights)
    if cumulated[-1] <= 0:
        return int(draw(np.cumsum(weights), random.random(1))[0])
    candidates = draw(cumulated, random.random(n_trials))
    if len(rows) <= JUDGES:
        judges, masses = np.arange(len(rows)), weights
    else:
        judges = draw(cumulated, (np.arange(JUDGES) + random.random()) / JUDGES)
        masses = 1.0 / closest[judges]
    squared = squared_distances(rows[judges], lengths[judges], rows[candidates])
    remaining = np.minimum(squared, closest[judges], out=squared) @ masses
    return int(candidates[remaining.argmin()])


def draw(cumulated: FloatArray, uniform: FloatArray) -> Labels:
    """Indices of numbers, given their cumulated sums (m,), drawn in proportion to them by uniform numbers in [0, 1)."""
    places = np.minimum(uniform * cumulated[-1], np.nextafter(cumulated[-1], 0.0))
    return np.asarray(np.searchsorted(cumulated, places, side="right"))


def squared_distances(rows: FloatArray, lengths: FloatArray, means: FloatArray) -> FloatArray:
    """Squared distances (K, m) of rows (m, D), whose squared lengths are (m,), from means (K, D)."""
    squared = (-2.0 * means) @ rows.T
    squared += lengths
    squared += np.square(means).sum(axis=1)[:, None]
    result: FloatArray = np.maximum(squared, 0.0, out=squared)
    return result


def lloyd(
    rows: FloatArray,
    weights: FloatArray,
    means: FloatArray,
    step: Step = silent,
    least_change: float = LEAST_CHANGE,
) -> tuple[FloatArray, Labels]:
    """Lloyd's steps from means (K, D) until no more than least_change of the weight changes its component; means and
    labels (m,)."""
    labels, least = nearest(rows, means, partial(step, "k-means, step", 0, LLOYD_STEPS)), least_change * weights.sum()
    for done in range(1, LLOYD_STEPS + 1):
        means = partition_means(rows, weights, labels, means)
        previous, labels = labels, nearest(rows, means, partial(step, "k-means, step", done, LLOYD_STEPS))
        if weights @ (previous != labels) <= least:
            break
    return means, labels


def partition_means(rows: FloatArray, weights: FloatArray, labels: Labels, means: FloatArray) -> FloatArray:
    """Weighted mean of the rows of each label; that of means (K, D) where there are none."""
    if len(means) <= FEW_COMPONENTS:
        sums = (weights * (labels == np.arange(len(means))[:, None])) @ rows
    else:
        from scipy.sparse import csr_matrix  # by root alone: it opens hundreds of files

        sums = csr_matrix((weights, labels, np.arange(len(rows) + 1)), (len(rows), len(means))).T @ rows
    counts = np.bincount(labels, weights, len(means))
    held = counts > 0
    return np.where(held[:, None], sums / np.where(held, counts, 1.0)[:, None], means)


def nearest(rows: FloatArray, means: FloatArray, check: Callable[[], None] = lambda: None) -> Labels:
    """Index (m,) of the nearest mean of each row; check is called often."""
    labels, lengths = np.empty(len(rows), np.intp), np.square(means).sum(axis=1)
    lines = np.ascontiguousarray(-2.0 * means.T)
    height = max(LEAST_CHUNK_ROWS, CHUNK_ENTRIES // sum(means.shape))
    squared = np.empty((height, len(means)))
    for start in range(0, len(rows), height):
        check()
        found = labels[start : start + height]
        part = np.matmul(rows[start : start + height], lines, out=squared[: len(found)])
        part += lengths
        part.argmin(axis=1, out=found)
    return labels


def partition_mixture(
    kind: type[Covariances],
    sample: Sample,
    labels: Labels,
    means: FloatArray,
    summary: DataSummary,
    safeguards: Safeguards,
    step: Step = silent,
) -> Mixture:
    """The mixture of a partition: an M-step in which each row belongs to its label's component alone."""
    rows, sample_weight = sample
    start, (n_components, n_features) = isotropic(kind, means), means.shape
    total = SufficientStatistics.empty(start.layout)
    total.flat[:] = 0.0
    second = total.second_moments.reshape(-1, kind.n_second(1, n_features))  # a line for each component, or one for all
    tile = Tile(n_features, min(len(rows), default_rows(n_features, 1)), NUMPY)
    order = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[order], np.arange(n_components + 1))
    for k, own in enumerate(np.split(order, edges[1:-1])):
        step("moments of component", k, n_components)
        statistics = component_statistics(isotropic(kind, means[k : k + 1]), tile, rows, sample_weight, own)
        total.counts[k], total.first_moments[k] = statistics.counts[0], statistics.first_moments[0]
        second[k % len(second)] += statistics.second_moments
    mixture, _ = m_step(start, total, summary, safeguards, NoPrior(summary))
    return mixture


def isotropic(kind: type[Covariances], means: FloatArray) -> Mixture:
    """The mixture of unit variances and equal weights about means (K, D)."""
    return Mixture(np.full(len(means), 1 / len(means)), means, kind.isotropic(*means.shape))


def component_statistics(
    one: Mixture, tile: Tile, rows: FloatArray, sample_weight: FloatArray, own: Labels
) -> SufficientStatistics:
    """Statistics of the rows with indices own, all of which belong to the only component of a mixture.

    The tile's centre is the component's mean: its rows may lie far from all others, and near to one another.
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
