"""The first mixture, from a sample of rows that does not depend on how the data are spread over ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.covariance import Covariance
from mpigmm.core.em import Safeguards, m_step
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.statistics import Moments
from mpigmm.core.survey import Survey
from mpigmm.core.tile import Tile, default_rows

LEAST_TRIALS = 16
"""Rows tried for each mean of k-means++, beside log K: fewer leave some of many clusters without a mean."""

LLOYD_STEPS = 100
CHUNK_ENTRIES = 1 << 20
"""Distances computed at a time: bounds the memory of k-means."""

Labels = NDArray[np.intp]


def sample_size(n_components: int, n_features: int) -> int:
    """Rows on which an initialisation works: enough for each component, few against the data, 64 MB as a rule."""
    return max(min(16384, 2**23 // n_features), 64 * n_components)


def initialise(
    method: str,
    covariance: Covariance,
    n_components: int,
    sample: tuple[FloatArray, FloatArray],
    survey: Survey,
    safeguards: Safeguards,
    seed: tuple[int, int],
    check: Callable[[], None] = lambda: None,
) -> Mixture:
    """A first mixture.

    Parameters
    ----------
    method : {"kmeans", "kmeans++", "random"}
        k-means gives the mixture of its partition; the other two give means, with equal weights and the
        covariance of the sample.
    covariance : Covariance
    n_components : int
    sample : tuple of ndarrays (m, D) and (m,)
        Rows and their weights, m >= 1.
    survey : Survey
    safeguards : Safeguards
    seed : tuple of int
        Seed of the run and number of the start.
    check : callable
        Called now and then, to raise where the run is to stop.
    """
    rows, weights = sample
    random = np.random.default_rng(seed)
    scale = np.sqrt(np.where(survey.variances > 0, survey.variances, 1.0))
    standard = rows - survey.centre
    standard /= scale
    if method == "random":
        means = standard[choose_rows(weights, n_components, random)]
    else:
        means = plus_plus(standard, weights, n_components, random, check)
    if method != "kmeans":
        one = np.zeros(len(rows), np.intp)
        whole = partition_mixture(covariance, rows, weights, one, rows.mean(axis=0)[None], survey, safeguards)
        shape = covariance.shape(n_components, rows.shape[1])
        return Mixture(
            covariance,
            np.full(n_components, 1 / n_components),
            means * scale + survey.centre,
            np.broadcast_to(whole.covariances, shape).copy(),
        )
    means, labels = lloyd(standard, weights, means, check)
    del standard  # large, like what follows
    return partition_mixture(covariance, rows, weights, labels, means * scale + survey.centre, survey, safeguards)


def choose_rows(weights: FloatArray, n_components: int, random: np.random.Generator) -> Labels:
    """Different rows at random, with probability proportional to weight; rows twice where there are too few."""
    again = bool(np.count_nonzero(weights) < n_components)
    return np.asarray(random.choice(len(weights), n_components, replace=again, p=weights / weights.sum()), np.intp)


def plus_plus(
    rows: FloatArray,
    weights: FloatArray,
    n_components: int,
    random: np.random.Generator,
    check: Callable[[], None] = lambda: None,
) -> FloatArray:
    """Greedy k-means++ seeding (Arthur and Vassilvitskii, SODA 2007): means (K, D) among the rows (m, D)."""
    n_trials = LEAST_TRIALS + int(np.log(n_components))
    lengths = np.einsum("md,md->m", rows, rows)

    def distances(candidates: Labels) -> FloatArray:
        squared = lengths - 2 * rows[candidates] @ rows.T + lengths[candidates, None]
        result: FloatArray = np.maximum(squared, 0.0, out=squared)
        return result

    chosen = [int(random.choice(len(rows), p=weights / weights.sum()))]
    closest = distances(np.array(chosen))[0]
    for _ in range(1, n_components):
        check()
        cumulated = np.cumsum(closest * weights)
        if cumulated[-1] <= 0:
            cumulated = np.cumsum(weights)
        draws = random.random(n_trials) * cumulated[-1]
        candidates = np.minimum(np.searchsorted(cumulated, draws, side="right"), len(rows) - 1)
        options = np.minimum(closest, distances(candidates))
        best = int((options @ weights).argmin())
        chosen.append(int(candidates[best]))
        closest = options[best]
    return rows[chosen]


def lloyd(
    rows: FloatArray, weights: FloatArray, means: FloatArray, check: Callable[[], None] = lambda: None
) -> tuple[FloatArray, Labels]:
    """Lloyd's steps from means (K, D) until no row changes its component; means and labels (m,)."""
    labels = nearest(rows, means)
    for _ in range(LLOYD_STEPS):
        check()
        counts = np.bincount(labels, weights, len(means))
        sums = np.stack([np.bincount(labels, weights * column, len(means)) for column in rows.T], axis=1)
        held = counts > 0
        means = np.where(held[:, None], sums / np.where(held, counts, 1.0)[:, None], means)
        previous, labels = labels, nearest(rows, means)
        if np.array_equal(previous, labels):
            break
    return means, labels


def nearest(rows: FloatArray, means: FloatArray) -> Labels:
    """Index (m,) of the nearest mean of each row."""
    labels = np.empty(len(rows), np.intp)
    lengths = np.square(means).sum(axis=1)
    step = max(1, CHUNK_ENTRIES // len(means))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        labels[start : start + step] = (lengths - part @ (2 * means.T)).argmin(axis=1)
    return labels


def partition_mixture(
    covariance: Covariance,
    rows: FloatArray,
    weights: FloatArray,
    labels: Labels,
    means: FloatArray,
    survey: Survey,
    safeguards: Safeguards,
) -> Mixture:
    """The mixture of a partition: an M-step in which each row belongs to its label's component alone."""
    shape = covariance.shape(*means.shape)
    unit = covariance.regularise(np.zeros(shape), 1.0)
    start = Mixture(covariance, np.full(len(means), 1 / len(means)), means, unit)
    as_they_are = np.zeros(rows.shape[1])  # for rows of a narrow component may lie far from the centre
    kernel = covariance.kernel(start.parameters(as_they_are))
    sums, moments = Moments.empty(start), Moments.empty(start)
    sums.flat[:] = 0.0
    tile = Tile(rows.shape[1], min(len(rows), default_rows(rows.shape[1], len(means))))
    for first in range(0, len(rows), tile.max_rows):
        part = slice(first, first + tile.max_rows)
        tile.fill(rows[part], weights[part], as_they_are, mask=False)
        resp = np.zeros((len(means), tile.n_rows))
        resp[labels[part], np.arange(tile.n_rows)] = weights[part]
        moments.counts[:] = resp.sum(axis=1)
        kernel.accumulate(tile, resp, moments.first_moments, moments.second_moments)
        sums.flat[1:] += moments.flat[1:]
    mixture, _ = m_step(start, sums, survey, safeguards)
    return mixture
