"""First mixtures of hundreds of components and more: k-means on a sample of the rows, by all ranks."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms.base import Problem
from mpigmm.core.algorithms.initialise import (
    LLOYD_STEPS,
    GivenParameters,
    equal_mixture,
    scales,
)
from mpigmm.core.algorithms.kmeans_parallel import (
    GRID_ROWS,
    LEAST_MOVED,
    ROUNDS,
    IntegerScale,
    Points,
    SampleShare,
    are_enough,
    chosen_means,
    drawn_rows,
    largest_terms,
)
from mpigmm.core.algorithms.responsibilities import Labels, ProgressCallback, partition_mixture
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.exact import FloatArray, IntArray
from mpigmm.core.mixture import Mixture
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.survey_pass import Sample
from mpigmm.options import MANY_COMPONENTS, FitOptions
from mpigmm.parallel.comm import ROOT, Comm, Transfer
from mpigmm.parallel.partition import count_tiles, own_tiles

T = TypeVar("T")


def is_distributed(options: FitOptions, given: GivenParameters) -> bool:
    """Whether all ranks compute the first mixtures of a fit."""
    by_kmeans = options.init.method in ("kmeans", "kmeans++") and given.means is None
    return by_kmeans and options.model.n_components >= MANY_COMPONENTS


def distributed_mixture(
    reduction: Reduction,
    options: FitOptions,
    problem: Problem,
    sample: Sample,
    init: int,
    progress: ProgressCallback,
    given: GivenParameters,
) -> Mixture | None:
    """The first mixture of start number init, on root; None on other ranks. Collective; raises `AgreedError`.

    It is the same for any number of ranks and threads.

    Parameters
    ----------
    reduction, options, problem
    sample : tuple of ndarrays
        On root, rows (m, D) and their weights (m,).
    init : int
    progress : callable
        A `ProgressCallback`, which raises no exception: it is called between collective calls.
    given : GivenParameters
        These replace parameters of the mixture.
    """
    summary, comm = problem.summary, reduction.context.comm
    random = np.random.default_rng((options.init.seed, init))
    kmeans = SampleKMeans(reduction, sample, summary.centre, scales(summary, init), progress)
    means, labels = kmeans.start(options.model.n_components, random), None
    if options.init.method == "kmeans":
        means, labels = kmeans.lloyd(means)
    mixture = None
    with comm.together():
        if comm.is_root:
            mixture = given.applied(root_mixture(options, problem, sample, kmeans.unscaled(means), labels, kmeans.step))
    return mixture


def root_mixture(
    options: FitOptions,
    problem: Problem,
    sample: Sample,
    means: FloatArray,
    labels: Labels | None,
    progress: ProgressCallback,
) -> Mixture:
    """The mixture of a partition of the sample by labels (m,) or, without labels, that of equal components, with means
    (K, D)."""
    kind = COVARIANCE_TYPES[options.model.covariance_type]
    if labels is None:
        return equal_mixture(kind, means, sample, problem.summary, problem.safeguards)
    return partition_mixture(kind, sample, labels, means, problem.summary, problem.safeguards, progress)


class SampleKMeans:
    """k-means on a sample whose rows are divided among ranks and their threads. All methods are collective.

    The rows are those of the sample minus a centre (D,), divided by scales (D,).

    Parameters
    ----------
    reduction : Reduction
    sample : tuple of ndarrays
        On root, rows (m, D) and their weights (m,).
    centre, scale : ndarray of shape (D,)
    progress : callable
        A `ProgressCallback`, which raises no exception: it is called between collective calls.
    """

    def __init__(
        self, reduction: Reduction, sample: Sample, centre: FloatArray, scale: FloatArray, progress: ProgressCallback
    ) -> None:
        self._reduction, self._progress = reduction, progress
        self._context, self._comm = reduction.context, reduction.context.comm
        self._sample, self._centre, self._scale = sample, centre, scale
        n_rows = self._comm.bcast(len(sample[0]))
        rows, sample_weight = scattered(self._comm, sample, n_rows)
        with self._comm.together():
            standard = self._standard(rows)
            largest = largest_terms(standard, sample_weight)
        self._integers = IntegerScale.of(self._comm.max(largest), n_rows)
        with self._comm.together():
            self._shares = self._divided(standard, sample_weight)

    def start(self, n_components: int, random: np.random.Generator) -> FloatArray:
        """Means (K, D) by k-means||: rows of the sample."""
        candidates = self._candidates(n_components, random)
        sums = self._sum((len(candidates), 1 + candidates.shape[1]), lambda share: share.sums(len(candidates)))
        weights = self._integers.counts(sums)
        return self._on_root(lambda: chosen_means(candidates, weights, n_components, random, self.step))

    def lloyd(self, means: FloatArray) -> tuple[FloatArray, Labels]:
        """Means (K, D) after Lloyd's steps, at most `LLOYD_STEPS`, and on root the label (m,) of each row; other ranks
        have no labels."""
        n_components, n_features = means.shape
        every = np.arange(n_components)
        self._progress("k-means, step", 0, LLOYD_STEPS)
        self._each(SampleShare.forget)
        self._offer(Points(means, every))
        sums = self._sum((n_components, 1 + n_features), lambda share: share.sums(n_components))
        least = LEAST_MOVED * float(sums[:, 0].sum())
        for done in range(1, LLOYD_STEPS + 1):
            self._progress("k-means, step", done, LLOYD_STEPS)
            previous, means = means, self._integers.means(sums, means)
            change, weight = self._move(means, (means != previous).any(axis=1))
            sums += change
            if weight <= least:
                break
        return means, self._gathered(lambda share: share.labels.astype(np.float64)).astype(np.intp)

    def unscaled(self, means: FloatArray) -> FloatArray:
        """Means (K, D) in the units of the data."""
        return means * self._scale + self._centre

    def step(self, name: str, done: int, most: int) -> None:
        """Report the progress of work on root, and end it if the run is to stop."""
        self._context.stop.check()
        self._progress(name, done, most)

    def _candidates(self, n_components: int, random: np.random.Generator) -> FloatArray:
        """Candidates (n, D) for the means, which are rows of the sample."""
        masses = self._gathered(lambda share: share.sample_weight)
        points = self._drawn(masses, 1, random)
        parts, n_rounds = [points], 0
        while len(points):
            count = sum(map(len, parts))
            self._offer(Points(points, np.arange(count - len(points), count)))
            if are_enough(n_rounds, count, n_components):
                break
            self._progress("k-means||, round", n_rounds, max(ROUNDS, n_rounds + 1))
            points = self._drawn(self._gathered(SampleShare.masses), n_components, random)
            parts.append(points)
            n_rounds += 1
        return np.concatenate(parts)

    def _drawn(self, masses: FloatArray, n_draws: int, random: np.random.Generator) -> FloatArray:
        """Rows (n, D) of the sample, at most n_draws, drawn with probability proportional to masses (m,) on root."""
        return self._on_root(lambda: self._standard(self._sample[0][drawn_rows(masses, n_draws, random)]))

    def _standard(self, rows: FloatArray) -> FloatArray:
        """Rows (n, D) minus the centre, divided by the scales."""
        standard = rows - self._centre
        standard /= self._scale
        return standard

    def _move(self, means: FloatArray, has_moved: NDArray[np.bool_]) -> tuple[IntArray, int]:
        """By how much the sums of each label (K, 1 + D) change, and the weight of the rows that change their label,
        when means (K, D) move."""
        still, moved = (np.flatnonzero(has_moved == which) for which in (False, True))
        points = Points(means[moved], moved), Points(means[still], still)
        n_components, n_features = means.shape
        shape = n_components, 1 + n_features

        def changes(share: SampleShare) -> IntArray:
            change, weight = share.move(means, *points)
            return np.append(change, weight)

        sums = self._sum((n_components * (1 + n_features) + 1,), changes, checksum(means))
        return sums[:-1].reshape(shape), int(sums[-1])

    def _offer(self, points: Points) -> None:
        self._each(lambda share: share.offer(points))

    def _each(self, work: Callable[[SampleShare], T]) -> list[T]:
        """Results of work for each of this rank's shares, by all threads. Collective."""
        with self._comm.together():
            return self._run(work)

    def _run(self, work: Callable[[SampleShare], T]) -> list[T]:
        return self._context.workers.run(lambda worker: work(self._shares[worker]))

    def _sum(self, shape: tuple[int, ...], own: Callable[[SampleShare], IntArray], check: int = 0) -> IntArray:
        """The sum over all shares of integers of this shape, of which own(share) are those of one share."""

        def add_own(total: IntArray) -> None:
            for part in self._run(own):
                total += part.reshape(-1)

        sums, _ = self._reduction.reduce(int(np.prod(shape)), add_own, check, on_host=True)
        return sums.reshape(shape)

    def _gathered(self, own: Callable[[SampleShare], FloatArray]) -> FloatArray:
        """On root, a number (m,) for each row of the sample, of which own(share) are those of one share."""
        return self._comm.concatenate(np.concatenate(self._each(own)))

    def _on_root(self, work: Callable[[], FloatArray]) -> FloatArray:
        """The result of work(), which root does, on every rank."""
        result = None
        with self._comm.together():
            if self._comm.is_root:
                result = work()
        return self._comm.bcast(result)

    def _divided(self, rows: FloatArray, sample_weight: FloatArray) -> list[SampleShare]:
        """A share of this rank's rows for each of its threads: whole chunks of the grid."""
        n_threads, check = self._context.n_threads, self._context.stop.check
        shares = [grid_rows(len(rows), thread, n_threads) for thread in range(n_threads)]
        return [SampleShare(rows[own], sample_weight[own], self._integers, check) for own in shares]


def scattered(comm: Comm, sample: Sample, n_rows: int) -> Sample:
    """This rank's rows of a sample that root has, and their weights: whole chunks of the grid. Collective."""
    n_features = sample[0].shape[1]
    own = grid_rows(n_rows, comm.rank, comm.size)
    outgoing, incoming = [], []
    with comm.together():
        if comm.is_root:
            part = sample[0][own], sample[1][own]
            for rank in range(1, comm.size):
                outgoing += [Transfer(rank, array[grid_rows(n_rows, rank, comm.size)]) for array in sample]
        else:
            part = np.empty((own.stop - own.start, n_features)), np.empty(own.stop - own.start)
            incoming = [Transfer(ROOT, array) for array in part]
    comm.transfer(outgoing, incoming)
    return part


def grid_rows(n_rows: int, share: int, n_shares: int) -> slice:
    """The rows, among n_rows, of one of n_shares equal shares of the grid's chunks; there may be none."""
    chunks = own_tiles(count_tiles(n_rows, GRID_ROWS), share, [1] * n_shares)
    return slice(min(chunks.start * GRID_ROWS, n_rows), min(chunks.stop * GRID_ROWS, n_rows))


def checksum(means: FloatArray) -> int:
    """A hash of 20 bits of means; see `Mixture.checksum`."""
    return zlib.crc32(means.tobytes()) >> 12
