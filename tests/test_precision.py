"""float32 tiles: as good as float64 ones to 1e-4 of a row's log-likelihood, or not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import (
    TYPES,
    assert_same_bits,
    blobs,
    mpirun,
    read_lines,
    read_model,
    start_mixture,
    statistics_of,
    survey_of,
    write_config,
    write_rows,
)

from mpigmm.core.backend import DOUBLE, SINGLE
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.em import Safeguards, m_step
from mpigmm.core.mixture import Mixture
from mpigmm.core.precision import (
    LARGEST_RATIO,
    Precision,
    choose_precision,
    finer_precision,
    loses_digits,
    needs_double,
)
from mpigmm.core.statistics import Moments

DEFAULTS = Safeguards(1e-6, 1e-12)


def moments_in(precision: Precision, mixture: Mixture, rows: np.ndarray, survey: DataSummary) -> Moments:
    weights = np.random.default_rng(3).random(len(rows)) + 0.5
    dtype, exact = precision.dtype, precision.exact
    return Moments.of(statistics_of(mixture, rows, survey, weights, dtype=dtype, exact=exact).value(), mixture)


def in_double(mixture: Mixture) -> Precision:
    return Precision.of(DOUBLE, np.zeros(mixture.n_components, bool))


@pytest.mark.parametrize("n_features", [2, 7, 40])
@pytest.mark.parametrize("separation", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_iteration_is_that_of_float64(covariance_type: str, separation: float, n_features: int) -> None:
    rows = blobs(3000, n_features, 4, seed=n_features, separation=separation) + 1e4
    survey = survey_of(rows)
    mixture = start_mixture(covariance_type, rows, 4)
    for _ in range(8):
        expected = moments_in(in_double(mixture), mixture, rows, survey)
        new, _ = m_step(mixture, expected, survey, DEFAULTS)
        precision = choose_precision(SINGLE, mixture, survey)
        if precision.dtype == SINGLE:
            found = moments_in(precision, mixture, rows, survey)
            weight = expected.counts.sum()
            assert abs(found.log_likelihood[0] - expected.log_likelihood[0]) <= 2e-5 * weight
            similar, _ = m_step(mixture, found, survey, DEFAULTS)
            if finer_precision(precision, mixture, similar, found, survey) is None:
                spread = np.sqrt(rows.var(axis=0).mean())
                np.testing.assert_allclose(similar.means, new.means, atol=1e-4 * spread)
                np.testing.assert_allclose(similar.precisions_cholesky, new.precisions_cholesky, rtol=0.01, atol=1e-3)
        mixture = new


def test_float32_is_not_always_refused() -> None:
    for covariance_type in TYPES:
        rows = blobs(3000, 20, 4, separation=3.0) + 1e4
        precision = choose_precision(SINGLE, start_mixture(covariance_type, rows, 4), survey_of(rows))
        assert precision.dtype == SINGLE and not precision.exact.any()


@pytest.mark.parametrize(
    "scale", [1e-20, 1e20], ids=lambda scale: f"{scale:g}"
)  # fmt: skip
def test_scales_without_room_in_float32_are_refused(scale: float) -> None:
    rows = scale * blobs(500, 3, 2)
    assert choose_precision(SINGLE, start_mixture("full", rows, 2), survey_of(rows)).dtype == DOUBLE


def test_a_small_component_far_from_the_centre_is_computed_in_float64() -> None:
    rows = blobs(500, 3, 2)
    rows[:50] = 1e3 + 1e-3 * rows[:50]
    mixture = start_mixture("diag", rows, 2)
    assert not needs_double(mixture, survey_of(rows)).any()
    mixture.means[0], mixture.covariances[0] = rows[:50].mean(axis=0), rows[:50].var(axis=0)
    small = Mixture(mixture.covariance, mixture.weights, mixture.means, mixture.covariances)
    assert needs_double(small, survey_of(rows)).tolist() == [True, False]
    precision = choose_precision(SINGLE, small, survey_of(rows))
    assert precision.dtype == SINGLE and precision.exact.tolist() == [True, False]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_variance_that_shrinks_at_once_is_refused(covariance_type: str) -> None:
    rows = blobs(500, 3, 2)
    old = start_mixture(covariance_type, rows, 2)
    assert not loses_digits(old, old).any()
    shrunk = Mixture(old.covariance, old.weights, old.means, old.covariances / (2 * LARGEST_RATIO))
    assert not loses_digits(shrunk, old).any()
    assert loses_digits(Mixture(*vars_of(old, old.means + 1e3)), shrunk).all()


def vars_of(mixture: Mixture, means: np.ndarray) -> tuple:
    return mixture.covariance, mixture.weights, means, mixture.covariances


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


def fit(place: Path, name: str, rows: np.ndarray, n_ranks: int, *overrides: str) -> tuple[Path, str]:
    write_rows(place / f"{name}.h5", rows)
    config = write_config(
        place / f"{name}.yaml",
        data={"path": str(place / f"{name}.h5")},
        model={"n_components": 4},
        em={"tol": 0, "max_iter": 12},
        compute={"precision": "float32", "tile_rows": 500},
    )
    out = place / f"{name}-{n_ranks}-{len(overrides)}"
    done = mpirun(n_ranks, "fit", str(config), f"output.dir={out}", *overrides)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


@pytest.mark.timeout(120)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fit_is_that_of_float64_on_any_number_of_ranks(place: Path, covariance_type: str) -> None:
    rows, kind = blobs(4000, 5, 4, separation=2.0), f"model.covariance_type={covariance_type}"
    one, said = fit(place, covariance_type, rows, 0, kind)
    three, _ = fit(place, covariance_type, rows, 3, kind)
    assert_same_bits(read_model(one / "model.h5"), read_model(three / "model.h5"))
    lines = read_lines(one / "convergence.jsonl")
    assert {line["precision_bits"] for line in lines} == {32} and "computed in" not in said
    double, _ = fit(place, covariance_type, rows, 0, kind, "compute.precision=float64")
    for line, other in zip(lines, read_lines(double / "convergence.jsonl"), strict=True):
        assert abs(line["mean_log_likelihood"] - other["mean_log_likelihood"]) < 1e-4


@pytest.mark.timeout(120)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_where_float32_does_not_do_float64_is_used_and_said(place: Path, covariance_type: str) -> None:
    """A component of equal rows, which alone is computed in float64, and features of which one is nearly the sum of two
    others, so that every matrix needs it."""
    rows = blobs(4000, 5, 4, separation=2.0)
    rows[:, 4] = rows[:, 0] + rows[:, 1] + 1e-6 * rows[:, 4]
    rows[:1000] = 50.0
    kind = f"model.covariance_type={covariance_type}"
    out, said = fit(place, f"hard-{covariance_type}", rows, 2, kind)
    bits = [line["precision_bits"] for line in read_lines(out / "convergence.jsonl")]
    dense = covariance_type in ("full", "tied")
    assert bits[-1] == (64 if dense else 32)
    assert ("computed in float64: in float32 rounding would cost more than 1e-4" in said) == dense
    model = read_model(out / "model.h5")["covariances"]
    smallest = np.linalg.eigvalsh(model).min() if dense else model.min()
    assert smallest > 0
    double, _ = fit(place, f"hard-{covariance_type}", rows, 0, kind, "compute.precision=float64")
    last, other = (read_lines(place / "convergence.jsonl")[-1]["mean_log_likelihood"] for place in (out, double))
    assert abs(last - other) < 1e-4
    if set(bits) == {64}:
        assert_same_bits(read_model(out / "model.h5"), read_model(double / "model.h5"))


@pytest.mark.timeout(120)
def test_a_run_goes_on_in_its_own_precision_alone(place: Path) -> None:
    rows = blobs(4000, 5, 4)
    out, _ = fit(place, "own", rows, 0)
    whole, _ = fit(place, "own", rows, 0, "em.max_iter=20")
    config = str(place / "own.yaml")
    again = mpirun(0, "fit", config, f"output.dir={out}", "em.max_iter=20")
    assert again.returncode == 0, again.stderr
    assert_same_bits(read_model(out / "model.h5"), read_model(whole / "model.h5"))
    other = mpirun(0, "fit", config, f"output.dir={out}", "compute.precision=float64")
    assert other.returncode == 2 and "compute.precision was 'float32', is 'float64'" in other.stderr
