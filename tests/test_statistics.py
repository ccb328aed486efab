"""The resolution of the sums: fine enough for every component, however narrow, and no finer than that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import (
    TYPES,
    assert_same_bits,
    blobs,
    fit_in_memory,
    mixture_of,
    read_model,
    scaled_covariances,
    start_mixture,
    statistics_of,
    step_in_memory,
    survey_of,
    with_covariances,
    write_config,
    write_rows,
)

from mpigmm.__main__ import serve
from mpigmm.core.algorithms.initialise import initialise
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import MOST_LIMBS, SumRangeError, sum_format
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

NEAR = blobs(1000, 3, 3)


def with_far_rows(far: float) -> np.ndarray:
    """Rows of deviation one, and some as far away as wide apart."""
    return np.concatenate([NEAR, far * (1 + 0.01 * np.random.default_rng(0).standard_normal((40, 3)))])


def far_start(covariance_type: str, rows: np.ndarray) -> Mixture:
    """One component for the far rows, the others as narrow as the near ones."""
    start, near = start_mixture(covariance_type, rows, 4), start_mixture(covariance_type, NEAR, 4)
    start.means[:] = near.means
    start.means[0] = rows[-1]
    return with_covariances(start, np.concatenate([start.covariances.values[:1], near.covariances.values[1:]]))


@pytest.mark.parametrize("far", [1e10, 1e20, 1e60])
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_rows_far_away_cost_the_others_no_digits(covariance_type: str, far: float) -> None:
    rows = with_far_rows(far)
    start = far_start(covariance_type, rows)
    mixture, history, repaired = fit_in_memory(start, rows, 8)
    assert repaired == 0
    assert (np.diff(history) / np.abs(history[:-1])).min() > -1e-14
    alone = Mixture(np.full(3, 1 / 3), start.means[1:], start.covariances.select(np.arange(1, 4)))
    alone, _, _ = fit_in_memory(alone, NEAR, 8)
    np.testing.assert_allclose(mixture.means[1:], alone.means, rtol=1e-8)
    np.testing.assert_allclose(mixture.covariances.values[1:], alone.covariances.values, rtol=1e-8)


@pytest.mark.parametrize("floor", [0.0, 1e-300])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_no_floor_and_hardly_one_are_alike(covariance_type: str, floor: float) -> None:
    start = start_mixture(covariance_type, NEAR, 3)
    expected, history, _ = fit_in_memory(start, NEAR, 5, safeguards=Safeguards(0.0, 1e-12))
    mixture, same, _ = fit_in_memory(start, NEAR, 5, safeguards=Safeguards(0.0, floor))
    assert history == same
    assert_same_bits(mixture.arrays(), expected.arrays())


@pytest.mark.parametrize("covariance_type", TYPES)
def test_two_limbs_are_as_good_as_many(covariance_type: str) -> None:
    mixture, survey = start_mixture(covariance_type, NEAR, 3), survey_of(NEAR)
    sums = statistics_of(mixture, NEAR, survey)
    assert sums.form.n_limbs == 2
    few, many = sums.value(), statistics_of(mixture, NEAR, survey, n_limbs=8).value()
    first, second = (SufficientStatistics.of(values, mixture.layout) for values in (few, many))
    np.testing.assert_allclose(first.second_moments, second.second_moments, rtol=1e-14, atol=1e-14 * len(NEAR))
    assert first.log_likelihood == pytest.approx(second.log_likelihood, rel=1e-15)


def test_an_iteration_is_taken_again_where_a_component_collapses() -> None:
    """From the deviation of rows far away to that of rows that differ in their eighth digit, in one step."""
    rows = np.concatenate([1e-8 * NEAR, 1e16 * np.array([[1.0, 1, 1], [-1, -1, -1], [1, -1, 1]])])
    survey = survey_of(rows)
    start = mixture_of("diag", np.full(2, 0.5), np.zeros((2, 3)), np.outer([1e20, 1e32], np.ones(3)))
    new, _, _, n_limbs = step_in_memory(start, rows, survey)
    assert sum_format(start, survey).n_limbs < n_limbs < MOST_LIMBS
    np.testing.assert_allclose(new.covariances.values[0], 1e-16 * NEAR.var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("n_limbs", range(2, MOST_LIMBS + 1))
def test_all_units_are_normal_numbers(n_limbs: int) -> None:
    rows = 1e-140 * NEAR
    form = sum_format(start_mixture("diag", rows, 3), survey_of(rows), n_limbs)
    least = form.quanta / 2.0 ** (40 * (n_limbs - 1))
    assert (least >= np.finfo(float).tiny).all() and np.isfinite(1 / least).all()


@pytest.mark.parametrize(
    ("mean", "variance", "message"),
    [
        (1e200, 1.0, "the mean of component 1 is too far from the rows"),
        (0.0, 1e-200, "component 1 is too narrow"),
        (0.0, 1e-300, "component 1 is too narrow"),
    ],
)
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_what_the_sums_cannot_hold_is_named(covariance_type: str, mean: float, variance: float, message: str) -> None:
    mixture = start_mixture(covariance_type, NEAR, 3)
    mixture.means[1] = mean
    with pytest.raises(SumRangeError, match=message):
        sum_format(scaled_covariances(mixture, [1.0, variance, 1.0]), survey_of(NEAR))


def test_rows_beyond_every_component_are_refused() -> None:
    rows, survey = 1e-30 * NEAR, survey_of(with_far_rows(1e139))
    with pytest.raises(SumRangeError, match="too many standard deviations from every component"):
        sum_format(start_mixture("diag", rows, 3), survey)


@pytest.mark.parallel
def test_a_fit_takes_it_again_on_any_ranks(comm: Comm, shared_path: Path) -> None:
    rows = with_far_rows(1e20)
    start = start_mixture("diag", rows, 4)
    start.means[0] = rows[-1]
    with comm.together():
        if comm.is_root:
            write_rows(shared_path / "x.h5", rows)
            save_model(shared_path / "start.h5", Model(start, 1, 0.0, 1, True, {}))
            write_config(
                shared_path / "run.yaml",
                data={"path": str(shared_path / "x.h5")},
                model={"n_components": 4, "covariance_type": "diag", "reg_covar": 0, "variance_floor": 0},
                init={"method": "file", "file": str(shared_path / "start.h5")},
                em={"max_iter": 6, "tol": 0},
                compute={"tile_rows": 256, "device": "cpu"},
                output={"dir": str(shared_path / "out")},
            )
    assert serve(comm, ["fit", str(shared_path / "run.yaml")], StopRequest()) == 0
    survey, ops, mixture, taken_again = survey_of(rows), ops_by_name(best_ops()), start, 0
    for _ in range(6):
        expected = sum_format(mixture, survey).n_limbs
        mixture, _, _, n_limbs = step_in_memory(mixture, rows, survey, ops=ops)
        taken_again += n_limbs > expected
    assert taken_again
    assert_same_bits(mixture.arrays(), read_model(shared_path / "out" / "model.h5"))


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_narrow_components_far_from_most_rows_keep_their_digits(covariance_type: str) -> None:
    """The median lies where a number near zero, less it, has four digits after the point."""
    near = 1e-8 * NEAR[:400]
    rows, survey = np.concatenate([NEAR + 1e12, near]), survey_of(np.concatenate([NEAR + 1e12, near]))
    sample, kind = (rows, np.ones(len(rows))), COVARIANCE_TYPES[covariance_type]
    start = initialise("kmeans", kind, 2, sample, survey, Safeguards(0.0, 0.0), (0, 0))
    expected = np.cov(near.T, bias=True)
    expected = {"diag": np.diag(expected), "spherical": np.diag(expected).mean()}.get(covariance_type, expected)
    for mixture, tolerance in ((start, 1e-2), (fit_in_memory(start, rows, 3)[0], 1e-10)):
        narrow = mixture.covariances.values[np.abs(mixture.means[:, 0]).argmin()]
        np.testing.assert_allclose(narrow, expected, rtol=tolerance, atol=1e-3 * tolerance * np.max(expected))
