"""Emptied, collapsing and impossible components: repaired and counted, or refused with a message; never NaN."""

from __future__ import annotations

import numpy as np
import pytest
from support import TYPES, blobs, fit_in_memory, start_mixture, statistics_of, survey_of

from mpigmm.core.covariance import SingularCovarianceError, covariance_class
from mpigmm.core.em import Safeguards, m_step, split_heaviest
from mpigmm.core.initialise import initialise
from mpigmm.core.mixture import Mixture
from mpigmm.core.statistics import Moments

ROWS = blobs(1000, 3, 2)


def assert_finite(mixture: Mixture) -> None:
    for values in (mixture.weights, mixture.means, mixture.covariances, mixture.precisions_cholesky):
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
    np.testing.assert_allclose(mixture.covariances, np.broadcast_to(whole, mixture.covariances.shape), rtol=1e-10)


def test_splitting_keeps_weight_and_mean() -> None:
    mixture = start_mixture("full", ROWS, 3)
    mixture.weights[:] = [0.7, 0.3, 0.0]
    mean = mixture.means[0].copy()
    split_heaviest(mixture, 2, ROWS.var(axis=0))
    assert mixture.weights == pytest.approx([0.35, 0.3, 0.35])
    assert (mixture.means[0] + mixture.means[2]) / 2 == pytest.approx(mean)
    assert not np.allclose(mixture.means[0], mixture.means[2])


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
        spread = [np.diag(c) if c.ndim == 2 else c for c in mixture.covariances]
        assert (np.array(spread) >= 0.99e-4 * variances).all()


def test_without_floor_a_collapse_is_named() -> None:
    rows = np.concatenate([ROWS, np.full((50, 3), 8.0)])
    start = start_mixture("full", ROWS, 2)
    start.means[1] = 8.0
    start.covariances[1] *= 1e-4
    with pytest.raises(SingularCovarianceError) as caught:
        fit_in_memory(start, rows, 30)
        raise AssertionError("no collapse")
    assert caught.value.component == 1


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("method", ["kmeans", "kmeans++", "random"])
def test_more_components_than_distinct_rows(covariance_type: str, method: str) -> None:
    rows = np.repeat(np.array([[0.0, 0.0], [1.0, 5.0], [2.0, 1.0]]), 20, axis=0)
    survey, safeguards = survey_of(rows), Safeguards(1e-6, 1e-12)
    sample = rows, np.ones(len(rows))
    start = initialise(method, covariance_class(covariance_type)(), 6, sample, survey, safeguards, (0, 0))
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
    start = initialise("kmeans", covariance_class(covariance_type)(), 3, sample, survey, safeguards, (0, 0))
    mixture, _, _ = fit_in_memory(start, rows, 10, safeguards=safeguards)
    assert_finite(mixture)
    assert mixture.means[:, 3] == pytest.approx(0.1)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_row_one_component_one_feature(covariance_type: str) -> None:
    rows = np.array([[2.5]])
    start = Mixture(
        covariance_class(covariance_type)(),
        np.ones(1),
        np.array([[2.0]]),
        np.ones(covariance_class(covariance_type)().shape(1, 1)),
    )
    mixture, _, _ = fit_in_memory(start, rows, 3, safeguards=Safeguards(1e-3, 0.0))
    assert mixture.means[0, 0] == pytest.approx(2.5)
    assert mixture.covariances.item() == pytest.approx(1e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_that_are_all_zero(covariance_type: str) -> None:
    rows, covariance = np.zeros((20, 2)), covariance_class(covariance_type)()
    start = Mixture(
        covariance, np.full(2, 0.5), np.zeros((2, 2)), start_mixture(covariance_type, ROWS[:, :2], 2).covariances
    )
    mixture, _, _ = fit_in_memory(start, rows, 3, safeguards=Safeguards(1e-3, 1e-12))
    assert mixture.means.tolist() == [[0.0, 0.0]] * 2
    assert np.asarray(covariance.diagonals(mixture.covariances)) == pytest.approx(1e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_floor_tells_whose_covariances_it_raised(covariance_type: str) -> None:
    start = start_mixture(covariance_type, ROWS, 4)
    start.covariances[0] = 0.0
    covariance = start.covariance
    lifted, whose = covariance.floor(start.covariances, 1e-3, ROWS.var(axis=0))
    assert list(whose) == ([None] if covariance_type == "tied" else [0])
    assert (covariance.diagonals(lifted) > 0).all()


def test_all_components_empty_but_one() -> None:
    mixture, survey = start_mixture("diag", ROWS, 4), survey_of(ROWS)
    moments = Moments.empty(mixture)
    moments.flat[:] = 0.0
    moments.counts[2] = len(ROWS)
    moments.second_moments.reshape(4, 3)[2] = len(ROWS)
    new, repairs = m_step(mixture, moments, survey, Safeguards(0.0, 0.0))
    assert repairs.reseeded == [0, 1, 3]
    assert_finite(new)
    assert len(np.unique(new.means, axis=0)) == 4


def test_a_spherical_split_lies_along_the_data() -> None:
    mixture = start_mixture("spherical", ROWS, 3)
    split_heaviest(mixture, 2, np.array([0.0, 5.0, 1.0]))
    assert mixture.means[0, 1] != mixture.means[2, 1]
    assert mixture.means[0, 0] == mixture.means[2, 0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_factors_after_a_repair_are_those_of_the_covariances(covariance_type: str) -> None:
    rows = blobs(300, 3, 2)
    survey, mixture = survey_of(rows), start_mixture(covariance_type, rows, 3)
    mixture.means[2] = 1e3
    moments = Moments.of(statistics_of(mixture, rows, survey).value(), mixture)
    new, repairs = m_step(mixture, moments, survey, Safeguards(1e-6, 1e-12))
    assert repairs.reseeded == [2]
    fresh = Mixture(new.covariance, new.weights, new.means, new.covariances)
    assert new.precisions_cholesky.tobytes() == fresh.precisions_cholesky.tobytes()
