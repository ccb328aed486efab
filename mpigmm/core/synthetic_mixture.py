"""Random mixtures of any type of covariances, for synthetic rows."""

from __future__ import annotations

import numpy as np

from mpigmm.core.covariances.base import Covariances, MStepSums, Safeguards
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.triangle import lower_triangle

MIXING = 0.5
"""Size of the random part of the matrices that mix independent features. The largest eigenvalue of a correlation matrix
is then about nine times the least, whatever the number of features is."""

NO_SAFEGUARDS = Safeguards(reg_covar=0.0, variance_floor=0.0, reseed=False)


def synthetic_mixture(
    kind: type[Covariances], n_components: int, n_features: int, separation: float, seed: int
) -> Mixture:
    """A random mixture that depends on its arguments alone.

    Weights are proportional to uniform numbers between 1/2 and 3/2, and means are standard normal numbers times the
    separation. Variances are between 1/2 and 2, with uniform logarithms. For types with correlations the correlation
    matrix is M^T M, where M is the identity plus `MIXING` / sqrt(D) times standard normal numbers, with columns of unit
    length.

    Parameters
    ----------
    kind : type of Covariances
    n_components, n_features : int
    separation : float
    seed : int
    """
    random = np.random.default_rng(seed)
    weights = random.uniform(0.5, 1.5, n_components)
    weights /= weights.sum()
    means = separation * random.standard_normal((n_components, n_features))
    none = np.zeros_like(means)
    sums = MStepSums(weights, weights, weights, none, random_moments(kind, weights, n_features, random))
    covariances, _ = kind.isotropic(n_components, n_features).update(
        sums, none, np.zeros(n_components, bool), NO_SAFEGUARDS, np.ones(n_features)
    )
    return Mixture(weights, means, covariances)


def random_moments(
    kind: type[Covariances], weights: FloatArray, n_features: int, random: np.random.Generator
) -> FloatArray:
    """Packed second moments of random covariances, of the kind that the M-step of a type needs."""
    if kind.second_moments == SecondMoments.PAIRS_SUMMED:
        return random_matrix(n_features, random)
    if kind.second_moments == SecondMoments.PAIRS_OF_EACH:
        return np.concatenate([weight * random_matrix(n_features, random) for weight in weights])
    if kind.second_moments == SecondMoments.EACH_FEATURE:
        return (weights[:, None] * random_variances((len(weights), n_features), random)).reshape(-1)
    return weights * n_features * random_variances((len(weights),), random)


def random_variances(shape: tuple[int, ...], random: np.random.Generator) -> FloatArray:
    """Variances between 1/2 and 2."""
    return np.exp2(random.uniform(-1.0, 1.0, shape))


def random_matrix(n_features: int, random: np.random.Generator) -> FloatArray:
    """The packed lower triangle of a random covariance matrix (D, D)."""
    mixing = MIXING / np.sqrt(n_features) * random.standard_normal((n_features, n_features))
    mixing.reshape(-1)[:: n_features + 1] += 1.0
    mixing *= np.sqrt(random_variances((n_features,), random) / np.square(mixing).sum(axis=0))
    return np.asarray((mixing.T @ mixing).reshape(-1)[lower_triangle(n_features)])
