"""k-means on rows that several workers hold: the start of k-means|| and Lloyd's steps, each worker on its own share.

The start is that of Bahmani et al. (Scalable k-means++, VLDB 2012): a few rounds draw many candidates for the means at
once, and k-means++ chooses the means among the candidates, each of which has the weight of the rows nearest to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mpigmm.core.algorithms.initialise import CHUNK_ENTRIES, LEAST_CHUNK_ROWS, draw, plus_plus
from mpigmm.core.algorithms.responsibilities import Labels, ProgressCallback, no_progress
from mpigmm.core.exact import FloatArray, IntArray

ROUNDS, MOST_ROUNDS = 4, 16
"""Rounds that draw candidates, K in each. More than ROUNDS follow, up to MOST_ROUNDS, while there are fewer than 2 K
candidates: a row far from all others takes the place of many."""

GRID_ROWS = 512
"""Rows of a chunk, the unit of work. Chunks start at multiples of GRID_ROWS of the sample, so that the same matrix
products are computed on any number of workers."""

SUM_BITS = 62
"""Sums of integers over all rows stay below 2^SUM_BITS."""

LARGEST_EXPONENT = 1023
"""Exponent of the largest power of two in float64."""


@dataclass(frozen=True, eq=False)
class IntegerScale:
    """Rounds sample weights and weighted rows to integers, whose sums do not depend on their order.

    Attributes
    ----------
    factors : ndarray of shape (1 + D,)
        Powers of two, by which weights and the features of weighted rows are multiplied before they are rounded.
    """

    factors: FloatArray

    @classmethod
    def of(cls, largest: FloatArray, n_rows: int) -> IntegerScale:
        """The scale for n_rows rows, of which the largest weight and magnitudes of weighted features are (1 + D,)."""
        _, exponents = np.frexp(largest)
        return cls(np.ldexp(1.0, np.minimum(SUM_BITS - 1 - n_rows.bit_length() - exponents, LARGEST_EXPONENT)))

    def terms(self, rows: FloatArray, sample_weight: FloatArray) -> IntArray:
        """The integers (n, 1 + D) of rows (n, D) and their weights (n,)."""
        terms = np.empty((len(rows), len(self.factors)), np.int64)
        for own, column, factor in zip(terms.T, weighted_columns(rows, sample_weight), self.factors, strict=True):
            own[:] = np.rint(column * factor)
        return terms

    def counts(self, sums: IntArray) -> FloatArray:
        """The weights (K,) that sums of terms (K, 1 + D) stand for."""
        return np.asarray(sums[:, 0] / self.factors[0])

    def means(self, sums: IntArray, previous: FloatArray) -> FloatArray:
        """The means (K, D) of the rows whose terms are summed (K, 1 + D); previous (K, D) where there is no weight."""
        counts = self.counts(sums)
        held = counts > 0
        means = sums[:, 1:] / self.factors[1:] / np.where(held, counts, 1.0)[:, None]
        return np.where(held[:, None], means, previous)


def weighted_columns(rows: FloatArray, sample_weight: FloatArray) -> Iterator[FloatArray]:
    """The weights (n,) of rows (n, D), then each of their features times the weights."""
    yield sample_weight
    for feature in rows.T:
        yield feature * sample_weight


def largest_terms(rows: FloatArray, sample_weight: FloatArray) -> FloatArray:
    """The largest weight, and the largest magnitude of each weighted feature, (1 + D,); zeros if there are no rows."""
    return np.array([np.abs(column).max(initial=0.0) for column in weighted_columns(rows, sample_weight)])


class Points:
    """Points among which the nearest one to a row is sought.

    Parameters
    ----------
    points : ndarray of shape (n, D)
    labels : ndarray of shape (n,)
        Their labels, which rows get.
    """

    def __init__(self, points: FloatArray, labels: Labels) -> None:
        self.labels = labels
        self._linear = np.ascontiguousarray(-2.0 * points.T)
        self._squared_norms = np.square(points).sum(axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    def nearest(self, rows: FloatArray) -> tuple[Labels, FloatArray]:
        """The label (m,) of the point nearest to each row (m, D), and its squared distance less the row's squared
        norm."""
        squared = rows @ self._linear
        squared += self._squared_norms
        best = squared.argmin(axis=1)
        return self.labels[best], squared[np.arange(len(rows)), best]


class SampleShare:
    """The rows of one worker, each with the label of the nearest point that it was offered.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        They begin with a chunk of the grid.
    sample_weight : ndarray of shape (n,)
    scale : IntegerScale
    check : callable
        Called often; it may raise an exception to stop the run.

    Attributes
    ----------
    sample_weight, labels : ndarray of shape (n,)
    """

    def __init__(
        self, rows: FloatArray, sample_weight: FloatArray, scale: IntegerScale, check: Callable[[], None]
    ) -> None:
        self.labels = np.zeros(len(rows), np.intp)
        self.sample_weight, self._rows, self._check = sample_weight, rows, check
        self._terms = scale.terms(rows, sample_weight)
        self._squared_norms = np.square(rows).sum(axis=1)
        self._closest = np.full(len(rows), np.inf)  # squared distance from the point of the row's label

    def forget(self) -> None:
        """Forget the points that were offered."""
        self._closest[:] = np.inf

    def masses(self) -> FloatArray:
        """Sample weight times squared distance from the nearest point, (n,)."""
        masses: FloatArray = self.sample_weight * self._closest
        return masses

    def offer(self, points: Points) -> None:
        """Give each row the label of the nearest of the points, if that is nearer than all points so far."""
        for chunk in self._chunks():
            self._offer(np.arange(chunk.start, chunk.stop), points)

    def sums(self, n_labels: int) -> IntArray:
        """Sums of the terms of the rows of each label, (n_labels, 1 + D)."""
        return sums_by_label(self.labels, self._terms, n_labels)

    def move(self, means: FloatArray, moved: Points, still: Points) -> tuple[IntArray, int]:
        """Offer the means to the rows after some of them have moved.

        A mean that has not moved is no nearer to a row than the row's own mean was. So the means that have moved are
        offered to all rows, and the others only to rows that are now farther from their mean than before (Kaukoranta,
        Fränti and Nevalainen, IEEE Transactions on Image Processing 9, 2000).

        Parameters
        ----------
        means : ndarray of shape (K, D)
        moved, still : Points
            The means that have moved, and the others.

        Returns
        -------
        change : ndarray of int64, (K, 1 + D)
            By how much the sums of each label have changed.
        weight : int
            Weight of the rows whose label has changed, as an integer.
        """
        previous, has_moved = self.labels.copy(), np.zeros(len(means), np.bool_)
        has_moved[moved.labels] = True
        for chunk in self._chunks():
            before = self._closest[chunk].copy()
            own = chunk.start + np.flatnonzero(has_moved[self.labels[chunk]])
            self._closest[own] = np.square(self._rows[own] - means[self.labels[own]]).sum(axis=1)
            self._offer(np.arange(chunk.start, chunk.stop), moved)
            self._offer(chunk.start + np.flatnonzero(self._closest[chunk] > before), still)
        changed = np.flatnonzero(previous != self.labels)
        labels, terms = np.concatenate([self.labels[changed], previous[changed]]), self._terms[changed]
        return sums_by_label(labels, np.concatenate([terms, -terms]), len(means)), int(terms[:, 0].sum())

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self._rows), GRID_ROWS):
            self._check()
            yield slice(start, min(start + GRID_ROWS, len(self._rows)))

    def _offer(self, own: Labels, points: Points) -> None:
        """Offer points to the rows with indices own, so many at a time that their distances fit into the cache."""
        if not len(own) or not len(points):
            return
        height = max(LEAST_CHUNK_ROWS, CHUNK_ENTRIES // (len(points) + self._rows.shape[1]))
        for some in np.array_split(own, -(-len(own) // height)):
            labels, squared = points.nearest(self._rows[some])
            squared = np.maximum(squared + self._squared_norms[some], 0.0)
            nearer = squared < self._closest[some]
            self._closest[some[nearer]], self.labels[some[nearer]] = squared[nearer], labels[nearer]


def sums_by_label(labels: Labels, terms: IntArray, n_labels: int) -> IntArray:
    """Sums of the integers (n, c) of each label, (n_labels, c)."""
    sums = np.zeros((n_labels, terms.shape[1]), np.int64)
    if len(labels):
        order = np.argsort(labels, kind="stable")
        found, starts = np.unique(labels[order], return_index=True)
        sums[found] = np.add.reduceat(terms[order], starts, axis=0)
    return sums


def drawn_rows(masses: FloatArray, n_draws: int, random: np.random.Generator) -> Labels:
    """Different indices, at most n_draws, drawn with probability proportional to masses (m,); none if these are zero.

    The cumulated masses are cut into n_draws parts of equal mass, each of which gives one index.
    """
    cumulated = np.cumsum(masses)
    if not cumulated[-1] > 0:
        return np.empty(0, np.intp)
    return np.unique(draw(cumulated, (np.arange(n_draws) + random.random(n_draws)) / n_draws))


def are_enough(n_rounds: int, n_candidates: int, n_components: int) -> bool:
    """Whether so many candidates, after so many rounds, are enough to choose the means from."""
    least = ROUNDS if n_candidates >= 2 * n_components else MOST_ROUNDS
    return n_rounds >= least


def chosen_means(
    points: FloatArray,
    weights: FloatArray,
    n_components: int,
    random: np.random.Generator,
    progress: ProgressCallback = no_progress,
) -> FloatArray:
    """Means (K, D) chosen by greedy k-means++ among those of the points (n, D) whose weights (n,) are above zero."""
    held = weights > 0
    return plus_plus(points[held], weights[held], n_components, random, progress)
