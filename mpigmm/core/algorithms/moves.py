"""Moves of split-and-merge EM: two components become one, and another becomes two.

All of them are M-steps from sums that a mixture expects, and hold for every type of covariances.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from mpigmm.core.algorithms.base import Problem
from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.algorithms.statistics_algebra import added, mixture_statistics, moved
from mpigmm.core.arrays import Indices
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics

Move = tuple[int, int, int]
"""Numbers of two components to merge, and of one to split."""

HALF_MEAN = float(np.sqrt(2 / np.pi))
"""Mean of the positive half of a standard normal distribution."""

N_NEAREST = 8
"""Number of other components with which the merge of a component is considered: those with the nearest means."""

N_BEST = 32
"""Numbers of merges and of splits that are combined to moves: those with the largest gains."""


def halved(mixture: Mixture, problem: Problem, number: int) -> Mixture:
    """The mixture of 2K components in which each is cut in two through its mean, in a random direction.

    The halves of component k have the numbers k and K + k, and together its weight, mean and covariance. Their means
    are those of the halves of a normal distribution. Directions are drawn from the seed of the problem and `number`.
    """
    both = np.tile(np.arange(mixture.n_components), 2)
    directions = np.random.default_rng((problem.seed, number)).standard_normal(mixture.means.shape)
    deviations = np.stack([one_deviation(mixture, k, own) for k, own in enumerate(directions)])
    doubled = Mixture(mixture.weights[both] / 2, mixture.means[both], mixture.covariances.select(both))
    statistics = mixture_statistics(doubled, problem.summary.total_weight)
    signed = np.concatenate([deviations, -deviations])
    statistics.first_moments[:] = statistics.counts[:, None] * HALF_MEAN * signed
    return _estimated(doubled, statistics, problem)


def one_deviation(mixture: Mixture, component: int, direction: FloatArray) -> FloatArray:
    """The vector P a / sqrt(a^T P a), where P is a component's covariance and a a direction in units of its deviations.

    It is one standard deviation long, whatever the units of the features are, and longer in directions of large
    variance. P minus t^2 times its square is positive definite for t < 1.
    """
    one = mixture.covariances.select(np.array([component]))
    features = np.arange(mixture.n_features)
    covariance = one.of_features(features).reshape(len(features), -1)
    scaled = direction / np.sqrt(np.diagonal(covariance))
    image = covariance @ scaled
    return np.asarray(image / np.sqrt(scaled @ image))


def merged(mixture: Mixture, first: Indices, second: Indices, problem: Problem) -> Mixture:
    """The mixture whose components have the weight, mean and covariance of pairs of components together."""
    weights = mixture.weights[first] + mixture.weights[second]
    means = mixture.means[first] + (mixture.weights[second] / weights)[:, None] * (
        mixture.means[second] - mixture.means[first]
    )
    kind = mixture.covariances.second_moments
    parts = []
    for own in (first, second):
        expected = mixture_statistics(selected(mixture, own), problem.summary.total_weight)
        parts.append(moved(expected, kind, means - mixture.means[own]))
    return _estimated(Mixture(weights, means, mixture.covariances.select(first)), added(*parts), problem)


def selected(mixture: Mixture, numbers: Indices) -> Mixture:
    """Components with these numbers, with the weights that they have in the mixture."""
    return Mixture(mixture.weights[numbers], mixture.means[numbers], mixture.covariances.select(numbers))


def moved_mixture(mixture: Mixture, halves: Mixture, move: Move, problem: Problem) -> Mixture:
    """The mixture after a move (i, j, k): i is i and j together, j and k are the halves of k.

    Parameters
    ----------
    mixture : Mixture
    halves : Mixture
        Of 2K components, where k and K + k are halves of component k.
    move : tuple of int
    problem : Problem
    """
    i, j, k = move
    means, sums = mixture.means.copy(), mixture_statistics(mixture, problem.summary.total_weight)
    is_shared = mixture.covariances.second_moments is SecondMoments.PAIRS_SUMMED
    lines = sums.second_moments.reshape(1 if is_shared else len(means), -1)
    one = merged(mixture, np.array([i]), np.array([j]), problem)
    two = selected(halves, np.array([k, mixture.n_components + k]))
    for new, places, weight in ((one, [i], mixture.weights[[i, j]].sum()), (two, [j, k], mixture.weights[k])):
        expected = mixture_statistics(new, problem.summary.total_weight * weight / new.weights.sum())
        means[places], sums.counts[places] = new.means, expected.counts
        if not is_shared:
            lines[places] = expected.second_moments.reshape(len(places), -1)
    return _estimated(Mixture(mixture.weights, means, mixture.covariances), sums, problem)


def best_moves(mixture: Mixture, halves: Mixture, problem: Problem, most: int) -> tuple[Move, ...]:
    """Moves (i, j, k), at most so many, in the order in which they should be tried.

    The gain of a move is that of its split, minus that of the split which its merge reverses. Of the moves whose merge
    and whose split were taken least often before, the one with the largest gain is next, so that one split that does
    not succeed is not tried with all merges.
    """
    n = mixture.n_components
    splits = np.full(n, -np.inf)
    held = np.flatnonzero((halves.weights[:n] > 0) & (halves.weights[n:] > 0))
    splits[held] = split_gains(halves, held, n + held, problem)
    best = [int(k) for k in np.argsort(-splits, kind="stable")[:N_BEST] if splits[k] > -np.inf]
    pairs, losses = merge_candidates(mixture, problem)
    gains = {
        (i, j, k): splits[k] - loss
        for (i, j), loss in zip(pairs[:N_BEST].tolist(), losses[:N_BEST], strict=True)
        for k in best
        if k not in (i, j)
    }
    taken: Counter[Any] = Counter()
    moves: list[Move] = []
    while gains and len(moves) < most:
        move = max(gains, key=lambda m: (-taken[m[:2]] - taken[m[2]], gains[m]))
        moves.append(move)
        del gains[move]
        taken.update((move[:2], move[2]))
    return tuple(moves)


def merge_candidates(mixture: Mixture, problem: Problem) -> tuple[Indices, FloatArray]:
    """Pairs (n, 2) of near components, and bounds of what the log-likelihood of a row loses if they are merged (n,);
    the least loss comes first."""
    pairs, losses = [], []
    for i in range(mixture.n_components):
        others = neighbours(mixture, i)
        others = others[others > i]
        if len(others):
            first = np.full_like(others, i)
            pairs += [(i, int(j)) for j in others]
            losses += split_gains(mixture, first, others, problem).tolist()
    order = np.argsort(losses, kind="stable")
    return np.array(pairs, np.intp).reshape(-1, 2)[order], np.array(losses)[order]


def neighbours(mixture: Mixture, component: int) -> Indices:
    """The other components of positive weight whose means are nearest, measured by the variances of both, ascending."""
    squared = np.square(mixture.means - mixture.means[component])
    distances = (squared / (mixture.variances + mixture.variances[component])).sum(axis=1)
    distances[(mixture.weights == 0) | (np.arange(len(distances)) == component)] = np.inf
    near = np.argsort(distances, kind="stable")[:N_NEAREST]
    return np.sort(near[np.isfinite(distances[near])]) if mixture.weights[component] > 0 else near[:0]


def split_gains(mixture: Mixture, first: Indices, second: Indices, problem: Problem) -> FloatArray:
    """Upper bounds of what the log-likelihood of a row gains (n,) from two components each in place of their merge.

    With weights w, covariances P and w_ij = w_i + w_j the bound is

        (w_ij log |P_ij| - w_i log |P_i| - w_j log |P_j|) / 2

    (Runnalls, IEEE Trans. Aerosp. Electron. Syst. 43, 2007). It is -inf where a component is singular.
    """
    own = log_dets(mixture)
    together = np.empty(len(first))
    step = 1 if mixture.covariances.second_moments is SecondMoments.PAIRS_SUMMED else len(first)
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        together[part] = log_dets(merged(mixture, first[part], second[part], problem))
    weights = mixture.weights[first], mixture.weights[second]
    gains = 0.5 * (weights[0] * (together - own[first]) + weights[1] * (together - own[second]))
    return np.where(np.isfinite(gains), gains, -np.inf)


def log_dets(mixture: Mixture) -> FloatArray:
    """log |P_k| (K,) of the covariances; NaN where one cannot be factored."""
    try:
        found = -2 * mixture.covariances.factors.log_determinants(mixture.n_features)
    except SingularCovarianceError:
        return np.full(mixture.n_components, np.nan)
    return np.broadcast_to(found, mixture.weights.shape)


def _estimated(about: Mixture, statistics: SufficientStatistics, problem: Problem) -> Mixture:
    """The result of an M-step, without a prior and without new parameters for empty components."""
    safeguards = replace(problem.safeguards, reseed=False)
    new, _ = m_step(about, statistics, problem.summary, safeguards, NoPrior(problem.summary))
    return new
