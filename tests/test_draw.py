"""Rows drawn from a mixture: the same to the last bit in whatever ranges they are drawn, and distributed as the mixture
says; and the precision matrices that its factors give."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from extension import UnitVariances
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support import TYPES, mixture_of, scaled_covariances

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.draw import BLOCK_ROWS, draw_components, draw_rows
from mpigmm.core.mixture import Mixture


def random_mixture(covariance_type: str, n_components: int, n_features: int, seed: int = 0) -> Mixture:
    """A mixture of random weights, means and covariances."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((n_components, n_features, 2 * n_features)) / np.sqrt(n_features)
    full = mixing @ mixing.transpose(0, 2, 1)
    full = (full + full.transpose(0, 2, 1)) / 2
    variances = np.diagonal(full, axis1=1, axis2=2)
    covariances = {"full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]}[covariance_type]
    weights = random.dirichlet(np.full(n_components, 5.0))
    return mixture_of(covariance_type, weights, 5 * random.standard_normal((n_components, n_features)), covariances)


def matrices_of(mixture: Mixture) -> np.ndarray:
    """The covariances as matrices (K, D, D)."""
    values, (k, d) = mixture.covariances.values, mixture.means.shape
    if mixture.covariances.name in ("full", "tied"):
        return np.broadcast_to(values, (k, d, d))
    return np.eye(d) * np.reshape(values, (k, -1))[:, :, None]


def assert_same_draw(mixture: Mixture, seed: int, edges: list[int]) -> None:
    """The ranges between the edges, drawn one by one, are the whole range."""
    whole = draw_rows(mixture, seed, edges[0], edges[-1])
    parts = [draw_rows(mixture, seed, start, stop) for start, stop in pairwise(edges)]
    for expected, found in zip(whole, map(np.concatenate, zip(*parts, strict=True)), strict=True):
        assert (expected.dtype, expected.shape) == (found.dtype, found.shape)
        assert expected.tobytes() == found.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TYPES),
    st.sampled_from([(1, 1), (1, 4), (3, 1), (5, 2), (4, 7), (40, 3)]),
    st.integers(0, 2**63 - 1),
    st.lists(st.integers(0, 4 * BLOCK_ROWS), min_size=2, max_size=6),
    st.sampled_from([0, BLOCK_ROWS * 2**40 + 17]),
)
def test_any_ranges_give_the_same_bits(
    covariance_type: str, shape: tuple[int, int], seed: int, edges: list[int], offset: int
) -> None:
    assert_same_draw(random_mixture(covariance_type, *shape), seed, sorted(offset + edge for edge in edges))


@pytest.mark.parametrize("n_features", [31, 100, 257])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_any_ranges_of_wide_rows_give_the_same_bits(covariance_type: str, n_features: int) -> None:
    """With so many features that BLAS divides the matrices, and so does not treat all rows alike."""
    assert_same_draw(random_mixture(covariance_type, 3, n_features), 1, [0, 1, 2, 130, 131, 1023, 1500, 2049])


@pytest.mark.parametrize("start", [0, 5, BLOCK_ROWS])
def test_no_rows(start: int) -> None:
    rows, components = draw_rows(random_mixture("full", 3, 2), 0, start, start)
    assert rows.shape == (0, 2) and components.shape == (0,)


def test_seeds_and_blocks_differ() -> None:
    mixture = random_mixture("diag", 3, 2)
    draws = [draw_rows(mixture, seed, 0, 3 * BLOCK_ROWS) for seed in (0, 1, 2, 2**63 - 1)]
    values = np.concatenate([(rows - mixture.means[components]).ravel() for rows, components in draws])
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_mean_and_covariance_of_each_component(covariance_type: str) -> None:
    """Within five standard errors; that of entry (i, j) of the covariance is ((S_ii S_jj + S_ij^2) / n)^1/2."""
    mixture = random_mixture(covariance_type, 3, 4)
    rows, components = draw_rows(mixture, 2, 0, 60_000)
    for k, covariance in enumerate(matrices_of(mixture)):
        own = rows[components == k] - mixture.means[k]
        variances = np.diagonal(covariance)
        assert (np.abs(own.mean(axis=0)) < 5 * np.sqrt(variances / len(own))).all()
        errors = np.sqrt((np.outer(variances, variances) + covariance**2) / len(own))
        assert (np.abs(own.T @ own / len(own) - covariance) < 5 * errors).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_whitened_rows_are_standard_normal(covariance_type: str) -> None:
    """By the test of Kolmogorov and Smirnov: each coordinate of the rows, and their squared Mahalanobis distances."""
    mixture = random_mixture(covariance_type, 3, 5)
    rows, components = draw_rows(mixture, 3, 0, 30_000)
    whitened = np.empty_like(rows)
    for k, covariance in enumerate(matrices_of(mixture)):
        own = components == k
        whitened[own] = np.linalg.solve(np.linalg.cholesky(covariance), (rows[own] - mixture.means[k]).T).T
    assert all(stats.kstest(coordinate, "norm").pvalue > 1e-5 for coordinate in whitened.T)
    assert stats.kstest(np.square(whitened).sum(axis=1), "chi2", (5,)).pvalue > 1e-5
    assert stats.kstest(whitened[1:, 0] + whitened[:-1, 0], "norm", (0, np.sqrt(2))).pvalue > 1e-5


def test_frequencies_of_components() -> None:
    mixture = random_mixture("spherical", 20, 1)
    _, components = draw_rows(mixture, 4, 0, 100_000)
    expected = 100_000 * mixture.weights / mixture.weights.sum()
    assert stats.chisquare(np.bincount(components, minlength=20), expected).pvalue > 1e-5


@pytest.mark.parametrize("scale", [1.0, 1 - 2**-50, 1 + 2**-50])
def test_components_without_weight_are_never_drawn(scale: float) -> None:
    """Not even by the least and the largest random number, with weights whose sum is 1 up to rounding."""
    weights = scale * np.array([0.0, 0.3, 0.0, 0.0, 0.6, 0.1, 0.0])
    uniform = np.array([0.0, 0.3, 1 - 2.0**-53, *np.random.default_rng(0).random(10_000)])
    assert set(draw_components(weights, uniform)) == {1, 4, 5}
    assert list(draw_components(weights, uniform[[0, 2]])) == [1, 5]


def test_a_singular_covariance_is_refused() -> None:
    for covariance_type in TYPES:
        singular = scaled_covariances(
            random_mixture(covariance_type, 3, 2), 0.0 if covariance_type == "tied" else [1, 0, 1]
        )
        for stop in (0, 10):
            with pytest.raises(SingularCovarianceError):
                draw_rows(singular, 0, 0, stop)


@pytest.mark.parametrize("n_features", [1, 3, 50])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_precisions_are_the_inverses(covariance_type: str, n_features: int) -> None:
    mixture = random_mixture(covariance_type, 4, n_features)
    precisions = mixture.covariances.precisions
    assert precisions.shape == COVARIANCE_TYPES[covariance_type].shape(4, n_features)
    expected = np.linalg.inv(matrices_of(mixture))
    found = matrices_of(mixture_of(covariance_type, mixture.weights, mixture.means, precisions))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert np.array_equal(found, found.transpose(0, 2, 1))
    np.testing.assert_allclose(np.diagonal(found, axis1=1, axis2=2), mixture.precision_diagonals, rtol=1e-13)


def test_a_type_from_outside_the_package() -> None:
    """It needs nothing but its factors."""
    mixture = Mixture(np.array([0.5, 0.5]), np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]), UnitVariances(2, 3))
    rows, components = draw_rows(mixture, 5, 10, 20_000)
    assert stats.kstest((rows - mixture.means[components]).ravel(), "norm").pvalue > 1e-5
    assert np.array_equal(mixture.covariances.precisions, [1.0, 1.0])
