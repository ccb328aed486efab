"""First mixtures, and the sample of rows that they come from."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from support import TYPES, blobs, survey_of

from mpigmm.core.covariance import covariance_class
from mpigmm.core.em import Safeguards
from mpigmm.core.initialise import initialise, lloyd, plus_plus
from mpigmm.core.survey import RowSampler

ROWS = blobs(4000, 3, 5, separation=6)
SAFE = Safeguards(0.0, 0.0)


def test_lloyd_is_scikit_learns() -> None:
    weights = np.random.default_rng(0).random(len(ROWS))
    means = ROWS[:5]
    ours, labels = lloyd(ROWS, weights, means)
    theirs = KMeans(5, init=means, n_init=1, tol=0, max_iter=100).fit(ROWS, sample_weight=weights)
    np.testing.assert_allclose(ours, theirs.cluster_centers_, rtol=1e-9, atol=1e-9)
    assert (labels == theirs.labels_).all()


def test_plus_plus_finds_separated_components() -> None:
    centres = np.array([[0, 0], [100, 0], [0, 100], [100, 100]])
    rows = np.concatenate([c + np.random.default_rng(1).standard_normal((200, 2)) for c in centres])
    means = plus_plus(rows, np.ones(800), 4, np.random.default_rng(0))
    assert len(np.unique(np.round(means / 100), axis=0)) == 4


@pytest.mark.parametrize("covariance_type", TYPES)
def test_kmeans_start_is_the_mixture_of_its_partition(covariance_type: str) -> None:
    survey = survey_of(ROWS)
    covariance = covariance_class(covariance_type)()
    mixture = initialise("kmeans", covariance, 5, (ROWS, np.ones(len(ROWS))), survey, SAFE, (0, 0))
    standard = (ROWS[:, None] - mixture.means) / ROWS.std(axis=0)
    labels = np.square(standard).sum(axis=2).argmin(axis=1)
    for k in range(5):
        part = ROWS[labels == k]
        assert mixture.weights[k] == pytest.approx(len(part) / len(ROWS), rel=1e-9)
        if covariance_type == "full":
            np.testing.assert_allclose(mixture.covariances[k], np.cov(part.T, bias=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["kmeans", "kmeans++", "random"])
def test_starts_follow_shift_and_scale(method: str) -> None:
    weights = np.ones(len(ROWS))
    scale, shift = np.array([0.25, 8.0, 1024.0]), np.array([3.0, -70.0, 5000.0])
    covariance = covariance_class("diag")()
    plain = initialise(method, covariance, 5, (ROWS, weights), survey_of(ROWS), SAFE, (7, 0))
    moved_rows = ROWS * scale + shift
    moved = initialise(method, covariance, 5, (moved_rows, weights), survey_of(moved_rows), SAFE, (7, 0))
    np.testing.assert_allclose((moved.means - shift) / scale, plain.means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moved.covariances / scale**2, plain.covariances, rtol=1e-7)


def test_random_means_are_different_rows_of_positive_weight() -> None:
    weights = np.where(np.arange(len(ROWS)) < 10, 1.0, 0.0)
    mixture = initialise("random", covariance_class("full")(), 10, (ROWS, weights), survey_of(ROWS), SAFE, (0, 0))
    np.testing.assert_allclose(np.sort(mixture.means, axis=0), np.sort(ROWS[:10], axis=0), rtol=1e-12)


def test_seeds_differ() -> None:
    survey, sample = survey_of(ROWS), (ROWS, np.ones(len(ROWS)))
    starts = [
        initialise("random", covariance_class("diag")(), 5, sample, survey, SAFE, seed).means
        for seed in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert (starts[0] == starts[3]).all()
    assert not (starts[0] == starts[1]).all()
    assert not (starts[0] == starts[2]).all()


def test_rows_are_chosen_by_number_alone() -> None:
    sampler = RowSampler(3, 0.1)
    whole = sampler.chosen(0, 100_000)
    parts = np.concatenate([sampler.chosen(start, 1000) + start for start in range(0, 100_000, 1000)])
    assert (whole == parts).all()
    assert len(whole) == pytest.approx(10_000, rel=0.05)
    more = RowSampler(3, 0.2).chosen(0, 100_000)
    assert set(whole) <= set(more)
