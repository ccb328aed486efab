"""float32 tiles: as good as float64 ones to 1e-4 of a row's log-likelihood, or not used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support import (
    TYPES,
    assert_same_bits,
    blobs,
    factors_of,
    fit_all,
    mpirun,
    read_lines,
    read_model,
    scaled_covariances,
    start_mixture,
    statistics_of,
    survey_of,
    with_covariances,
    write_config,
    write_rows,
)

from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.mixture import Mixture
from mpigmm.core.precision import (
    LARGEST_MOMENT_RATIO,
    Precision,
    choose_precision,
    finer_precision,
    loses_digits,
    needs_double,
)
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics

DEFAULTS = Safeguards(1e-6, 1e-12)


def statistics_in(
    precision: Precision, mixture: Mixture, rows: np.ndarray, survey: DataSummary
) -> SufficientStatistics:
    sample_weight = np.random.default_rng(3).random(len(rows)) + 0.5
    dtype, in_double = precision.dtype, precision.in_double
    sums = statistics_of(mixture, rows, survey, sample_weight, dtype=dtype, in_double=in_double)
    return SufficientStatistics.of(sums.value(), mixture.layout)


@pytest.mark.parametrize("n_features", [2, 7, 40])
@pytest.mark.parametrize("separation", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_iteration_is_that_of_float64(covariance_type: str, separation: float, n_features: int) -> None:
    rows = blobs(3000, n_features, 4, seed=n_features, separation=separation) + 1e4
    survey = survey_of(rows)
    mixture = start_mixture(covariance_type, rows, 4)
    for _ in range(8):
        expected = statistics_in(Precision.double(4), mixture, rows, survey)
        new, _ = m_step(mixture, expected, survey, DEFAULTS, NoPrior(survey))
        precision = choose_precision(SINGLE, mixture, survey)
        if precision.dtype == SINGLE:
            found = statistics_in(precision, mixture, rows, survey)
            weight = expected.counts.sum()
            assert abs(found.log_likelihood[0] - expected.log_likelihood[0]) <= 2e-5 * weight
            similar, _ = m_step(mixture, found, survey, DEFAULTS, NoPrior(survey))
            if finer_precision(precision, mixture, similar, found, survey) is None:
                spread = np.sqrt(rows.var(axis=0).mean())
                np.testing.assert_allclose(similar.means, new.means, atol=1e-4 * spread)
                np.testing.assert_allclose(factors_of(similar), factors_of(new), rtol=0.01, atol=1e-3)
        mixture = new


def test_float32_is_not_always_refused() -> None:
    for covariance_type in TYPES:
        rows = blobs(3000, 20, 4, separation=3.0) + 1e4
        precision = choose_precision(SINGLE, start_mixture(covariance_type, rows, 4), survey_of(rows))
        assert precision.dtype == SINGLE and not precision.in_double.any()


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
    means = np.stack([rows[:50].mean(axis=0), mixture.means[1]])
    variances = np.stack([rows[:50].var(axis=0), mixture.covariances.values[1]])
    small = with_covariances(Mixture(mixture.weights, means, mixture.covariances), variances)
    assert needs_double(small, survey_of(rows)).tolist() == [True, False]
    precision = choose_precision(SINGLE, small, survey_of(rows))
    assert precision.dtype == SINGLE and precision.in_double.tolist() == [True, False]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_variance_that_shrinks_at_once_is_refused(covariance_type: str) -> None:
    rows = blobs(500, 3, 2)
    old = start_mixture(covariance_type, rows, 2)
    assert not loses_digits(old, old).any()
    shrunk = scaled_covariances(old, 1 / (2 * LARGEST_MOMENT_RATIO))
    assert not loses_digits(shrunk, old).any()
    assert loses_digits(Mixture(old.weights, old.means + 1e3, old.covariances), shrunk).all()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


def config_of(place: Path, name: str, rows: np.ndarray) -> str:
    """A config of twelve iterations in float32, and its rows."""
    return str(
        write_config(
            place / f"{name}.yaml",
            data={"path": str(write_rows(place / f"{name}.h5", rows))},
            model={"n_components": 4},
            em={"tol": 0, "max_iter": 12},
            compute={"precision": "float32", "tile_rows": 500},
        )
    )


Fits = dict[tuple[str, int, str], tuple[Path, str]]
"""Directories of fits, and what these said, by covariance type, ranks and precision."""


def fits_of(config: str, cases: Sequence[tuple[int, str]]) -> Fits:
    """Fit every covariance type on so many ranks in a precision, in one launch for each number of ranks."""
    found: Fits = {}
    for n_ranks in sorted({n_ranks for n_ranks, _ in cases}):
        keys = [(kind, n, precision) for n, precision in cases for kind in TYPES if n == n_ranks]
        outs = [Path(config).with_name("-".join([Path(config).stem, *map(str, key)])) for key in keys]
        options = [
            [config, f"output.dir={out}", f"model.covariance_type={kind}", f"compute.precision={precision}"]
            for out, (kind, _, precision) in zip(outs, keys, strict=True)
        ]
        found |= dict(zip(keys, zip(outs, fit_all(n_ranks, options), strict=True), strict=True))
    return found


@pytest.fixture(scope="module")
def easy(place: Path) -> Fits:
    rows = blobs(4000, 5, 4, separation=2.0)
    return fits_of(config_of(place, "easy", rows), [(0, "float32"), (0, "float64"), (3, "float32")])


@pytest.fixture(scope="module")
def hard(place: Path) -> Fits:
    """A component of equal rows, which alone is computed in float64, and features of which one is nearly the sum of two
    others, so that every matrix needs it."""
    rows = blobs(4000, 5, 4, separation=2.0)
    rows[:, 4] = rows[:, 0] + rows[:, 1] + 1e-6 * rows[:, 4]
    rows[:1000] = 50.0
    return fits_of(config_of(place, "hard", rows), [(0, "float64"), (2, "float32")])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fit_is_that_of_float64_on_any_number_of_ranks(easy: Fits, covariance_type: str) -> None:
    one, said = easy[covariance_type, 0, "float32"]
    three, _ = easy[covariance_type, 3, "float32"]
    assert_same_bits(read_model(one / "model.h5"), read_model(three / "model.h5"))
    lines = read_lines(one / "convergence.jsonl")
    assert {line["precision_bits"] for line in lines} == {32} and "computed in" not in said
    double, _ = easy[covariance_type, 0, "float64"]
    for line, other in zip(lines, read_lines(double / "convergence.jsonl"), strict=True):
        assert abs(line["mean_log_likelihood"] - other["mean_log_likelihood"]) < 1e-4


@pytest.mark.timeout(120)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_where_float32_does_not_do_float64_is_used_and_said(hard: Fits, covariance_type: str) -> None:
    out, said = hard[covariance_type, 2, "float32"]
    bits = [line["precision_bits"] for line in read_lines(out / "convergence.jsonl")]
    dense = covariance_type in ("full", "tied")
    assert bits[-1] == (64 if dense else 32)
    assert ("computed in float64: in float32 rounding would cost more than 1e-4" in said) == dense
    model = read_model(out / "model.h5")["covariances"]
    smallest = np.linalg.eigvalsh(model).min() if dense else model.min()
    assert smallest > 0
    double, _ = hard[covariance_type, 0, "float64"]
    last, other = (read_lines(place / "convergence.jsonl")[-1]["mean_log_likelihood"] for place in (out, double))
    assert abs(last - other) < 1e-4
    if set(bits) == {64}:
        assert_same_bits(read_model(out / "model.h5"), read_model(double / "model.h5"))


@pytest.mark.timeout(120)
def test_a_run_goes_on_in_its_own_precision_alone(place: Path) -> None:
    config = config_of(place, "own", blobs(4000, 5, 4))
    out, whole = (["fit", config, f"output.dir={place / name}"] for name in ("out", "whole"))
    fit_all(0, [out[1:], [*whole[1:], "em.max_iter=20"]])
    again = mpirun(0, *out, "em.max_iter=20")
    assert again.returncode == 0, again.stderr
    assert_same_bits(read_model(place / "out" / "model.h5"), read_model(place / "whole" / "model.h5"))
    other = mpirun(0, *out, "compute.precision=float64")
    assert other.returncode == 2 and "compute.precision was 'float32', is 'float64'" in other.stderr
