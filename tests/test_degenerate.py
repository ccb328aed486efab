"""Emptied, collapsing and impossible components: repaired and counted, or refused with a message; never NaN."""

from __future__ import annotations

import numpy as np
import pytest
from support import (
    TYPES,
    blobs,
    factors_of,
    fit_in_memory,
    mixture_of,
    scaled_covariances,
    start_mixture,
    statistics_of,
    survey_of,
    with_covariances,
)

from mpigmm.core.algorithms.initialise import initialise
from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.algorithms.repair import reseed
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.mixture import Mixture
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics

ROWS = blobs(1000, 3, 2)


def assert_finite(mixture: Mixture) -> None:
    for values in (*mixture.arrays().values(), factors_of(mixture)):
        assert np.isfinite(values).all()
    assert mixture.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_emptied_component_takes_half_of_the_heaviest(covariance_type: str) -> None:
    start = start_mixture(covariance_type, ROWS, 3)
    start.means[1] = 1e6
    mixture, history, repaired = fit_in_memory(start, ROWS, 1)
    assert repaired == 1
    assert_finite(mixture)
    mixture, history, _ = fit_in_memory(mixture, ROWS, 20)
    assert_finite(mixture)
    assert mixture.weights.min() > 0.01
    assert (np.diff(history) > -1e-10).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_emptied_component_keeps_its_covariance_and_no_other(covariance_type: str) -> None:
    """With as many components as features, where the shapes do not tell whose a line of the covariances is."""
    rows = blobs(400, 2, 2) @ np.array([[2.0, 0.0], [1.0, 3.0]])
    start = start_mixture(covariance_type, rows, 2)
    start.means[0] = 1e6
    mixture, _, repaired = fit_in_memory(start, rows, 1)
    assert repaired == 1
    expected = {"full": np.cov(rows.T, bias=True), "diag": rows.var(axis=0), "spherical": rows.var(axis=0).mean()}
    whole = expected.get(covariance_type, expected["full"])
    found = mixture.covariances.values
    np.testing.assert_allclose(found, np.broadcast_to(whole, found.shape), rtol=1e-10)


def test_splitting_keeps_weight_and_mean() -> None:
    start = start_mixture("full", ROWS, 3)
    start = Mixture(np.array([0.7, 0.3, 0.0]), start.means, start.covariances)
    mixture = reseed(start, [2], ROWS.var(axis=0))
    assert mixture.weights == pytest.approx([0.35, 0.3, 0.35])
    assert (mixture.means[0] + mixture.means[2]) / 2 == pytest.approx(start.means[0])
    assert not np.allclose(mixture.means[0], mixture.means[2])
    assert start.weights.tolist() == [0.7, 0.3, 0.0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_collapsing_component_is_floored_relative_to_the_data(covariance_type: str) -> None:
    scale = np.array([1e-6, 1.0, 1e6])
    rows = np.concatenate([ROWS, np.tile([8.0, 8.0, 8.0], (50, 1))]) * scale
    start = start_mixture(covariance_type, rows, 2)
    start.means[1] = rows[-1]
    mixture, _, repaired = fit_in_memory(start, rows, 60, safeguards=Safeguards(0.0, 1e-4))
    assert_finite(mixture)
    variances = rows.var(axis=0)
    if covariance_type in ("full", "diag"):
        assert repaired > 0
        spread = [np.diag(c) if c.ndim == 2 else c for c in mixture.covariances.values]
        assert (np.array(spread) >= 0.99e-4 * variances).all()


def test_without_floor_a_collapse_is_named() -> None:
    rows = np.concatenate([ROWS, np.full((50, 3), 8.0)])
    start = start_mixture("full", ROWS, 2)
    start.means[1] = 8.0
    with pytest.raises(SingularCovarianceError) as caught:
        fit_in_memory(scaled_covariances(start, [1.0, 1e-4]), rows, 30)
        raise AssertionError("no collapse")
    assert caught.value.component == 1


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("method", ["kmeans", "kmeans++", "random"])
def test_more_components_than_distinct_rows(covariance_type: str, method: str) -> None:
    rows = np.repeat(np.array([[0.0, 0.0], [1.0, 5.0], [2.0, 1.0]]), 20, axis=0)
    survey, safeguards = survey_of(rows), Safeguards(1e-6, 1e-12)
    sample = rows, np.ones(len(rows))
    start = initialise(method, COVARIANCE_TYPES[covariance_type], 6, sample, survey, safeguards, (0, 0))
    assert_finite(start)
    mixture, history, _ = fit_in_memory(start, rows, 30, safeguards=safeguards)
    assert_finite(mixture)
    assert np.isfinite(history).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_constant_feature_fits_with_regularisation(covariance_type: str) -> None:
    rows = np.column_stack([ROWS, np.full(len(ROWS), 0.1)])
    survey, safeguards = survey_of(rows), Safeguards(1e-6, 1e-12)
    assert survey.constant_features() == [3]
    sample = rows, np.ones(len(rows))
    start = initialise("kmeans", COVARIANCE_TYPES[covariance_type], 3, sample, survey, safeguards, (0, 0))
    mixture, _, _ = fit_in_memory(start, rows, 10, safeguards=safeguards)
    assert_finite(mixture)
    assert mixture.means[:, 3] == pytest.approx(0.1)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_row_one_component_one_feature(covariance_type: str) -> None:
    rows = np.array([[2.5]])
    start = Mixture(np.ones(1), np.array([[2.0]]), COVARIANCE_TYPES[covariance_type].isotropic(1, 1))
    mixture, _, _ = fit_in_memory(start, rows, 3, safeguards=Safeguards(1e-3, 0.0))
    assert mixture.means[0, 0] == pytest.approx(2.5)
    assert mixture.covariances.values.item() == pytest.approx(1e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_that_are_all_zero(covariance_type: str) -> None:
    rows = np.zeros((20, 2))
    start = Mixture(np.full(2, 0.5), rows[:2], start_mixture(covariance_type, ROWS[:, :2], 2).covariances)
    mixture, _, _ = fit_in_memory(start, rows, 3, safeguards=Safeguards(1e-3, 1e-12))
    assert mixture.means.tolist() == [[0.0, 0.0]] * 2
    assert mixture.variances == pytest.approx(1e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_floor_tells_whose_covariances_it_raised(covariance_type: str) -> None:
    start = start_mixture(covariance_type, ROWS, 4)
    values = start.covariances.values.copy()
    values[0] = 0.0
    raised, whose = with_covariances(start, values).covariances.floor(1e-3, ROWS.var(axis=0))
    assert list(whose) == ([None] if covariance_type == "tied" else [0])
    assert (raised.variances > 0).all()


def test_all_components_empty_but_one() -> None:
    mixture, survey = start_mixture("diag", ROWS, 4), survey_of(ROWS)
    statistics = SufficientStatistics.empty(mixture.layout)
    statistics.flat[:] = 0.0
    statistics.counts[2] = len(ROWS)
    statistics.second_moments.reshape(4, 3)[2] = len(ROWS)
    new, repairs = m_step(mixture, statistics, survey, Safeguards(0.0, 0.0), NoPrior(survey))
    assert repairs.reseeded == [0, 1, 3]
    assert_finite(new)
    assert len(np.unique(new.means, axis=0)) == 4


def test_a_spherical_split_lies_along_the_data() -> None:
    mixture = reseed(start_mixture("spherical", ROWS, 3), [2], np.array([0.0, 5.0, 1.0]))
    assert mixture.means[0, 1] != mixture.means[2, 1]
    assert mixture.means[0, 0] == mixture.means[2, 0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_factors_after_a_repair_are_those_of_the_covariances(covariance_type: str) -> None:
    rows = blobs(300, 3, 2)
    survey, mixture = survey_of(rows), start_mixture(covariance_type, rows, 3)
    mixture.means[2] = 1e3
    statistics = SufficientStatistics.of(statistics_of(mixture, rows, survey).value(), mixture.layout)
    new, repairs = m_step(mixture, statistics, survey, Safeguards(1e-6, 1e-12), NoPrior(survey))
    assert repairs.reseeded == [2]
    fresh = mixture_of(covariance_type, new.weights, new.means, new.covariances.values)
    assert factors_of(new).tobytes() == factors_of(fresh).tobytes()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_without_reseeding_an_empty_component_stays_where_it_is(covariance_type: str) -> None:
    start = start_mixture(covariance_type, ROWS, 3)
    start.means[2] = 1e6
    safe = Safeguards(0.0, 0.0, reseed=False)
    mixture, history, n_repaired = fit_in_memory(start, ROWS, 5, safeguards=safe)
    assert n_repaired == 0 and mixture.weights[2] == 0.0 and (mixture.means[2] == 1e6).all()
    others = Mixture(
        start.weights[:2] / start.weights[:2].sum(), start.means[:2], start.covariances.select(np.arange(2))
    )
    alone, expected, _ = fit_in_memory(others, ROWS, 5, safeguards=safe)
    np.testing.assert_allclose(mixture.means[:2], alone.means, rtol=1e-12)
    np.testing.assert_allclose(history[1:], expected[1:], rtol=1e-12)
