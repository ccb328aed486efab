"""Arithmetic of sufficient statistics: sums of two sets of rows, sums about other means, and those that a mixture
expects."""

from __future__ import annotations

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.triangle import lower_triangle


def scaled(statistics: SufficientStatistics, factor: float) -> SufficientStatistics:
    """The statistics of rows whose sample weights are multiplied by a factor."""
    return _like(statistics, statistics.flat * factor)


def added(first: SufficientStatistics, second: SufficientStatistics) -> SufficientStatistics:
    """The statistics of the rows of both, whose moments are about the same means."""
    return _like(first, first.flat + second.flat)


def moved(statistics: SufficientStatistics, kind: SecondMoments, deltas: FloatArray) -> SufficientStatistics:
    """The same sums with moments about other means c' = c + delta.

    With N the counts, F the first and S the second moments about c (the parallel axis theorem)::

        F' = F - N delta
        S' = S - F delta^T - delta F^T + N delta delta^T

    Parameters
    ----------
    statistics : SufficientStatistics
    kind : SecondMoments
        Of its second moments.
    deltas : ndarray of shape (K, D)
        New means minus old ones.
    """
    result = _like(statistics, statistics.flat.copy())
    counts = statistics.counts[:, None]
    result.first_moments[:] -= counts * deltas
    halves = 0.5 * counts * deltas - statistics.first_moments
    if kind is SecondMoments.PAIRS_SUMMED:
        product = halves.T @ deltas
        result.second_moments[:] += (product + product.T).reshape(-1)[lower_triangle(deltas.shape[1])]
    elif kind is SecondMoments.PAIRS_OF_EACH:
        for line, half, delta in zip(result.second_moments.reshape(len(deltas), -1), halves, deltas, strict=True):
            product = np.outer(half, delta)
            line += (product + product.T).reshape(-1)[lower_triangle(len(delta))]
    else:
        squares = 2.0 * halves * deltas
        parts = squares if kind is SecondMoments.EACH_FEATURE else squares.sum(axis=1)
        result.second_moments[:] += parts.reshape(-1)
    return result


def mixture_statistics(mixture: Mixture, total_weight: float) -> SufficientStatistics:
    """The expected statistics of rows from a mixture, about its means: an M-step gives the mixture again.

    The log-likelihood among them is zero.

    Parameters
    ----------
    mixture : Mixture
    total_weight : float
        Sum of the sample weights of the rows.
    """
    result = SufficientStatistics.empty(mixture.layout)
    result.flat[:] = 0.0
    counts = result.counts
    counts[:] = total_weight * mixture.weights
    features, kind = np.arange(mixture.n_features), mixture.covariances.second_moments
    if kind in (SecondMoments.EACH_FEATURE, SecondMoments.ALL_FEATURES):
        squares = counts[:, None] * mixture.variances
        parts = squares if kind is SecondMoments.EACH_FEATURE else squares.sum(axis=1)
        result.second_moments[:] = parts.reshape(-1)
        return result
    triangle = lower_triangle(mixture.n_features)
    matrices = mixture.covariances.of_features(features)
    if kind is SecondMoments.PAIRS_SUMMED:
        result.second_moments[:] = counts.sum() * matrices.reshape(-1)[triangle]
    else:
        result.second_moments.reshape(len(counts), -1)[:] = (
            counts[:, None] * matrices.reshape(len(counts), -1)[:, triangle]
        )
    return result


def _like(statistics: SufficientStatistics, flat: FloatArray) -> SufficientStatistics:
    """Statistics in a vector that is arranged like that of others."""
    layout = {name: array.shape for name, array in statistics.arrays.items()}
    return SufficientStatistics.of(flat, layout)
