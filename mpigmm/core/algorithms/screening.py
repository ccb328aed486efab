"""The first mixture of a run, chosen among several by short runs of EM on a growing sample.

A maximum of the likelihood that EM reaches depends on its start, and no single way to make a start is best for all
rows. Several are therefore tried, each by a few steps of EM (Biernacki, Celeux and Govaert, Comput. Stat. Data Anal.
41, 2003, section 3), all on few rows, the best on more (successive halving: Karnin, Koren and Somekh, ICML 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mpigmm.core.algorithms.base import Problem
from mpigmm.core.algorithms.initialise import initialise, lloyd, nearest, partition_means, plus_plus
from mpigmm.core.algorithms.responsibilities import ProgressCallback, Sample, no_progress, partition_mixture
from mpigmm.core.algorithms.row_coordinates import RowCoordinates
from mpigmm.core.algorithms.short_runs import LEAST_GAIN, ShortRuns
from mpigmm.core.covariances.base import Covariances
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.base import Ops

FEW_ROWS, FEW_ROWS_EACH = 4096, 32
"""Rows on which candidates begin, at least so many for each component; then the whole sample is used."""

FIRST_STEPS, LAST_STEPS = 4, 5
"""Largest number of steps of EM with few rows, and with the whole sample."""

N_FINALISTS = 2
"""Candidates that run on the whole sample."""

N_AGREEING = 3
"""If so many candidates reach the same objective at once, the rows are easy, and the others are not tried."""

LEAST_BUDGET, MOST_BUDGET, BUDGET_PASSES = 4e9, 4e10, 4
"""Additions to statistics that screening may take, about a second and ten: those of BUDGET_PASSES passes over all rows,
but within these bounds. Candidates for which nothing is left are not tried."""

EIGENVECTOR_WORK = 10
"""Additions, over D^3, that take as long as the eigenvectors of a matrix."""

FIRST_NUMBER = 1000
"""Number, in the seeds, of the first candidate; the starts themselves have the numbers from 0 on."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way to make a start.

    Attributes
    ----------
    coordinates : callable
        A method of `RowCoordinates`, which returns those in which distances are measured.
    is_refined : bool
        Whether Lloyd's steps follow the seeding by k-means++.
    needs_axes : bool
        Whether the coordinates take the principal axes of the sample, which is costly with many features.
    """

    coordinates: Callable[[RowCoordinates], FloatArray]
    is_refined: bool = True
    needs_axes: bool = False


CANDIDATES = (
    Candidate(RowCoordinates.compressed),
    Candidate(RowCoordinates.whitened, needs_axes=True),
    Candidate(RowCoordinates.robust),
    Candidate(RowCoordinates.standardised, is_refined=False),
    Candidate(RowCoordinates.unscaled),  # with other seeds
)
"""What is tried besides k-means in standardised and in unscaled coordinates."""


class Done:
    """Tells how many candidates are done, whatever is done for the next one.

    Parameters
    ----------
    progress : callable
        A `ProgressCallback`.
    n_candidates : int

    Attributes
    ----------
    number : int
    """

    def __init__(self, progress: ProgressCallback, n_candidates: int) -> None:
        self.progress, self.n_candidates, self.number = progress, n_candidates, 0

    def __call__(self, *_: object) -> None:
        self.progress("candidate", self.number, self.n_candidates)


class Screening:
    """Makes candidates and runs them on a sample.

    Parameters
    ----------
    problem : Problem
    kind : type of Covariances
    n_components, n_init : int
        Number of components, and of starts by k-means on the whole sample; each brings further candidates.
    sample : tuple of ndarrays (m, D) and (m,)
        Rows and their sample weights.
    ops : Ops
        Array operations on the host.
    progress : callable
        A `ProgressCallback`.
    """

    def __init__(
        self,
        problem: Problem,
        kind: type[Covariances],
        n_components: int,
        n_init: int,
        sample: Sample,
        ops: Ops,
        progress: ProgressCallback = no_progress,
    ) -> None:
        self.problem, self.kind, self.n_components, self.n_init = problem, kind, n_components, n_init
        self.sample, self.few = sample, few_rows(sample, n_components, problem.seed)
        self.coordinates = RowCoordinates(self.few, problem.summary)
        self.more = self._affordable()
        self.done = Done(progress, self.n_candidates)
        self.runs = ShortRuns(problem, n_components, len(sample[0]), ops, self.done)

    @property
    def n_candidates(self) -> int:
        return self.n_init + sum(map(len, self.more))

    def start(self) -> tuple[Mixture, int]:
        """The best start, and the number of rows in the sample and in all E-steps.

        It is the finalist or the first start by k-means with the largest objective for the sample.
        """
        candidates = self.candidates()
        plain = next(candidates)
        if self.n_candidates == 1:
            return plain, len(self.sample[0])
        objectives: list[float] = []
        finalists: list[tuple[float, Mixture]] = []
        for candidate in chain([plain], candidates):
            ended = self._short_run(candidate)
            objectives.append(ended[0])
            finalists = best([*finalists, ended])
            self.done.number += 1
            if agree(objectives):
                finalists = finalists[:1]
                break
        judged = [self.runs.run(mixture, self.sample, LAST_STEPS) for _, mixture in finalists]
        judged.append((self.runs.objective(plain, self.sample), plain))
        return best(judged)[0][1], len(self.sample[0]) + self.runs.rows_seen

    def _short_run(self, candidate: Mixture) -> tuple[float, Mixture]:
        """The mixture after a few steps from a candidate, and its objective for the sample."""
        objective, mixture = self.runs.run(candidate, self.few, FIRST_STEPS)
        if self.few is not self.sample:
            objective = self.runs.objective(mixture, self.sample)
        return objective, mixture

    def candidates(self) -> Iterator[Mixture]:
        """The first mixtures of all short runs, made one by one."""
        for init in range(self.n_init):
            yield self._plain(init)
            for number, candidate in self.more[init]:
                yield self._made(candidate, (self.problem.seed, init, FIRST_NUMBER + number))

    def _plain(self, init: int) -> Mixture:
        """The start of this number without screening."""
        summary, safeguards, seed = self.problem.summary, self.problem.safeguards, (self.problem.seed, init)
        return initialise("kmeans", self.kind, self.n_components, self.sample, summary, safeguards, seed, self.done)

    def _made(self, candidate: Candidate, seed: Sequence[int]) -> Mixture:
        """The mixture of a partition of the few rows in the coordinates of a candidate."""
        summary, (rows, sample_weight) = self.problem.summary, self.few
        points = candidate.coordinates(self.coordinates)
        means = plus_plus(points, sample_weight, self.n_components, np.random.default_rng(seed), self.done)
        if candidate.is_refined:
            means, _ = lloyd(points, sample_weight, means, self.done)
        labels = nearest(points, means)
        centres = np.tile(summary.centre, (self.n_components, 1))
        means = partition_means(rows, sample_weight, labels, centres)
        return partition_mixture(self.kind, self.few, labels, means, summary, self.problem.safeguards, self.done)

    def _affordable(self) -> list[list[tuple[int, Candidate]]]:
        """For each start by k-means the further candidates, with their numbers, that the budget allows."""
        k, d, n_few, n_all = self.n_components, self.sample[0].shape[1], len(self.few[0]), len(self.sample[0])
        n_statistics = k * (1 + d) + self.kind.n_second(k, d)
        left = np.clip(BUDGET_PASSES * self.problem.grid.n_rows * n_statistics, LEAST_BUDGET, MOST_BUDGET)
        short_run = ((FIRST_STEPS + 1) * n_few + n_all) * n_statistics
        left -= self.n_init * short_run + N_FINALISTS * (LAST_STEPS + 1) * n_all * n_statistics
        found: list[list[tuple[int, Candidate]]] = []
        for init in range(self.n_init):
            found.append([])
            other = Candidate(RowCoordinates.standardised if init % 2 else RowCoordinates.unscaled)
            for number, candidate in enumerate((other, *CANDIDATES)):
                work = short_run + candidate.needs_axes * (n_few * d**2 + EIGENVECTOR_WORK * d**3)
                if work <= left:
                    left -= work
                    found[-1].append((number, candidate))
        return found


def few_rows(sample: Sample, n_components: int, seed: int) -> Sample:
    """Some rows of the sample, drawn at random and in their order; the sample itself if it has no more."""
    rows, sample_weight = sample
    n_rows = max(FEW_ROWS, FEW_ROWS_EACH * n_components)
    if len(rows) <= n_rows:
        return sample
    chosen = np.sort(np.random.default_rng((seed, FIRST_NUMBER)).choice(len(rows), n_rows, replace=False))
    return rows[chosen], sample_weight[chosen]


def agree(objectives: Sequence[float]) -> bool:
    """Whether the first candidates, which are made in different coordinates, have all reached the same objective."""
    return len(objectives) == N_AGREEING and max(objectives) - min(objectives) < LEAST_GAIN


def best(judged: list[tuple[float, Mixture]]) -> list[tuple[float, Mixture]]:
    """The mixtures of the largest objectives, the best first; of equal ones the first."""
    return sorted(judged, key=lambda each: -each[0])[:N_FINALISTS]
