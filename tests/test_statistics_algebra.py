"""Sums about other means, of two sets of rows, and those that a mixture expects."""

from __future__ import annotations

import numpy as np
import pytest
from support import TYPES, blobs, start_mixture, statistics_of, survey_of

from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.algorithms.statistics_algebra import added, mixture_statistics, moved, scaled
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.mixture import Mixture
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics

ROWS = blobs(900, 4, 3)
SURVEY = survey_of(ROWS)


def sums(mixture: Mixture, rows: np.ndarray) -> SufficientStatistics:
    return SufficientStatistics.of(statistics_of(mixture, rows, SURVEY).value(), mixture.layout)


def m_step_of(mixture: Mixture, statistics: SufficientStatistics) -> Mixture:
    return m_step(mixture, statistics, SURVEY, Safeguards(0.0, 0.0), NoPrior(SURVEY))[0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sums_about_other_means_give_the_same_m_step(covariance_type: str) -> None:
    mixture = start_mixture(covariance_type, ROWS, 3)
    statistics, deltas = sums(mixture, ROWS), np.random.default_rng(0).normal(size=mixture.means.shape)
    elsewhere = Mixture(mixture.weights, mixture.means + deltas, mixture.covariances)
    again = moved(statistics, mixture.covariances.second_moments, deltas)
    expected, found = m_step_of(mixture, statistics), m_step_of(elsewhere, again)
    for name, array in expected.arrays().items():
        np.testing.assert_allclose(found.arrays()[name], array, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sums_of_two_sets_of_rows_and_of_repeated_rows(covariance_type: str) -> None:
    mixture = start_mixture(covariance_type, ROWS, 3)
    both = added(sums(mixture, ROWS[:400]), sums(mixture, ROWS[400:]))
    np.testing.assert_allclose(both.flat, sums(mixture, ROWS).flat, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(scaled(both, 2.0).flat, added(both, both).flat, rtol=1e-14)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_sums_that_a_mixture_expects_give_it_again(covariance_type: str) -> None:
    mixture = m_step_of(*(lambda start: (start, sums(start, ROWS)))(start_mixture(covariance_type, ROWS, 3)))
    found = m_step_of(mixture, mixture_statistics(mixture, SURVEY.total_weight))
    for name, array in mixture.arrays().items():
        np.testing.assert_allclose(found.arrays()[name], array, rtol=1e-12, atol=1e-14)
