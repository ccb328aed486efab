"""Many components: what an iteration does for each component, beside the rows."""

from __future__ import annotations

import numpy as np
import pytest

from mpigmm.core.covariances.full import Full
from mpigmm.core.estep.pruned import PAIR_COMPONENTS, PAIR_ROWS, expected_share, sampled_rows
from mpigmm.core.mixture import Mixture


def random_mixture(n_components: int, n_features: int, seed: int = 0) -> Mixture:
    """A mixture of type full with uneven weights and correlated features."""
    random = np.random.default_rng(seed)
    roots = np.eye(n_features) + 0.2 * random.standard_normal((n_components, n_features, n_features))
    means = 3.0 * random.standard_normal((n_components, n_features))
    weights = random.dirichlet(np.ones(n_components))
    return Mixture(weights, means, Full(roots @ roots.transpose(0, 2, 1)))


def share_of_all(mixture: Mixture, least: np.ndarray, leading: np.ndarray) -> np.ndarray:
    """`expected_share` from all pairs of components."""
    shares = np.zeros(len(leading))
    for mean, own_least, weight in zip(mixture.means, least, mixture.weights, strict=True):
        whitened = mixture.covariances.factors.whiten(mean - mixture.means)
        bounds = mixture.log_norm[:, None] - 0.5 * np.cumsum(whitened**2, axis=1)[:, leading - 1]
        shares += weight * (bounds >= own_least).mean(axis=0)
    return shares


@pytest.mark.parametrize("n_components", [7, PAIR_ROWS + 1, PAIR_COMPONENTS + 1])
def test_a_sample_of_many_components_gives_their_share_of_pairs(n_components: int) -> None:
    mixture, leading = random_mixture(n_components, 6), np.array([2, 4, 6])
    least = mixture.log_norm - 20.0
    factors = mixture.covariances.factors.array
    found = expected_share(mixture.means, factors, mixture.log_norm, least, leading)
    tolerance = 1e-12 if n_components <= PAIR_ROWS else 0.05
    np.testing.assert_allclose(found, share_of_all(mixture, least, leading), atol=tolerance)


def test_components_are_sampled_in_proportion_to_their_weights() -> None:
    weights = np.random.default_rng(0).dirichlet(np.full(5 * PAIR_ROWS, 0.1))
    sampled, shares = sampled_rows(weights)
    times = np.bincount(sampled, minlength=len(weights)) / PAIR_ROWS
    assert np.abs(times - weights).max() <= 1 / PAIR_ROWS
    assert np.isclose(shares.sum(), 1.0)
