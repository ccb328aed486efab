"""Components whose rows need differences from their means, beside others for which products of the rows will do."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from strict import StrictGpu
from support import TYPES, blobs, factors_of, mixture_of, scaled_covariances, start_mixture, survey_of

from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.base import Kernel
from mpigmm.core.estep.choose import choose_kernel
from mpigmm.core.estep.differences import DifferenceKernel
from mpigmm.core.estep.quadratic import QuadraticKernel
from mpigmm.core.estep.split import SplitKernel
from mpigmm.core.estep.step import EStep
from mpigmm.core.estep.whitened import WhitenedKernel
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.compiled import CompiledOps
from mpigmm.core.ops.cuda import CudaOps
from mpigmm.core.ops.libraries import COMPILED, best_compiled
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.precision import choose_precision
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.core.triangle import lower_triangle
from mpigmm.parallel.threads import Workers, single_threaded_blas
from mpigmm.rows import Rows


def built_here() -> list[str]:
    best = best_compiled()
    assert best is not None, "the tests need a C compiler: make clean install"
    return list(COMPILED[: COMPILED.index(best) + 1])


@pytest.fixture(scope="module", params=["numpy", *built_here(), "cuda"])
def ops(request: pytest.FixtureRequest) -> Ops:
    if request.param == "cuda":
        return CudaOps(StrictGpu())
    return NUMPY if request.param == "numpy" else CompiledOps(request.param)


def uneven(covariance_type: str, rows: np.ndarray, n_tight: int, scale: float = 1e-6) -> Mixture:
    """A start some of whose components have collapsed onto rows; of `tied` the means are far away."""
    mixture = start_mixture(covariance_type, rows, 6)
    if covariance_type == "tied":
        mixture.means[:n_tight] += 1e4
        return mixture
    return scaled_covariances(mixture, np.where(np.arange(6) < n_tight, scale**2, 1.0))


def near(mixture: Mixture, rows: np.ndarray, n_tight: int) -> np.ndarray:
    """The rows, of which every tenth lies near one of the components that have collapsed."""
    random, rows = np.random.default_rng(5), rows.copy()
    for i in range(0, len(rows), 10):
        k = i // 10 % n_tight
        rows[i] = mixture.means[k] + 0.7 * np.sqrt(mixture.variances[k]) * random.standard_normal(rows.shape[1])
    return rows


def expected_statistics(mixture: Mixture, rows: np.ndarray, weights: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Log-likelihood, counts, first and second moments by their definitions, in extended precision."""
    wide = np.longdouble
    factors, kind = factors_of(mixture), mixture.covariances.name
    centred = [rows.astype(wide) - mean for mean in mixture.means]
    log_prob = np.empty((mixture.n_components, len(rows)), wide)
    for k, z in enumerate(centred):
        factor = factors if kind == "tied" else factors[k]
        y = z @ factor.astype(wide) if kind in ("full", "tied") else z * factor
        log_prob[k] = mixture.log_norm[k] - np.square(y).sum(axis=1) / 2
    top = log_prob.max(axis=0)
    log_density = top + np.log(np.exp(log_prob - top).sum(axis=0))
    resp = np.exp(log_prob - log_density) * weights
    first = np.array([r @ z for r, z in zip(resp, centred, strict=True)])
    if kind in ("full", "tied"):
        pairs = np.array([(z * r[:, None]).T @ z for r, z in zip(resp, centred, strict=True)])
        lower = lower_triangle(rows.shape[1])
        second = (pairs.sum(axis=0)[None] if kind == "tied" else pairs).reshape(-1, rows.shape[1] ** 2)[:, lower]
    else:
        second = np.array([r @ np.square(z) for r, z in zip(resp, centred, strict=True)])
        second = second.sum(axis=1) if kind == "spherical" else second
    return float(log_density @ weights), [np.asarray(a, float) for a in (resp.sum(axis=1), first, second.reshape(-1))]


def found_statistics(
    ops: Ops, mixture: Mixture, rows: np.ndarray, weights: np.ndarray | None, survey: DataSummary, dtype: np.dtype
) -> SufficientStatistics:
    put = ops.arrays.put
    in_double = choose_precision(dtype, mixture, survey).in_double
    tile, statistics = Tile(rows.shape[1], len(rows), ops), SufficientStatistics.empty(mixture.layout, ops.arrays)
    tile.fill(Rows.of(rows, weights).mapped(put), put(survey.centre), mask=False, dtype=dtype)
    EStep(mixture.e_step_inputs(survey.centre, survey.max_abs_deviation, dtype, ops, in_double))(tile, statistics)
    return SufficientStatistics.of(ops.arrays.get(statistics.flat), mixture.layout)


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
@pytest.mark.parametrize("n_tight", [1, 5, 6])
@pytest.mark.parametrize("n_features", [1, 5, 18])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_are_those_of_the_definition(
    ops: Ops, covariance_type: str, n_features: int, n_tight: int, dtype: np.dtype
) -> None:
    weighted, n_tight = n_tight == 5, min(n_tight, 3 if dtype == SINGLE else 6)  # more would take all rows to float64
    rows = blobs(333, n_features, 3)
    mixture = uneven(covariance_type, rows, n_tight)
    rows = near(mixture, rows, n_tight)
    weights = np.random.default_rng(7).random(len(rows)) + 0.1 if weighted else None
    survey = survey_of(rows, weights, tile_rows=len(rows))
    if dtype == SINGLE and choose_precision(SINGLE, mixture, survey).dtype == DOUBLE:
        pytest.skip("computed in float64")
    statistics = found_statistics(ops, mixture, rows, weights, survey, dtype)
    log_likelihood, expected = expected_statistics(mixture, rows, np.ones(len(rows)) if weights is None else weights)
    # relative to the size that the parts of a sum have: a row's own place is rounded to one unit in its last
    deviations = np.sqrt(mixture.variances)
    tolerance = 1e-9 if dtype == DOUBLE else 2e-3
    unit = 1e-14 if dtype == DOUBLE else 1e-7
    allowed = (1e-9 if dtype == DOUBLE else 1e-4) * len(rows) + unit * abs(log_likelihood)
    assert abs(statistics.log_likelihood[0] - log_likelihood) <= allowed
    np.testing.assert_allclose(statistics.counts, expected[0], rtol=tolerance, atol=tolerance)
    error = np.abs(statistics.first_moments - expected[1]) / deviations / (1 + statistics.counts[:, None])
    assert error.max() <= tolerance
    if covariance_type == "tied":
        scale = np.abs(expected[2]).max()
    else:
        size = {"full": deviations[:, :, None] * deviations[:, None, :], "diag": deviations**2}
        size["spherical"] = (deviations**2).sum(axis=1)
        whole = size[covariance_type].reshape(6, -1) * (1 + statistics.counts[:, None])
        scale = whole[:, lower_triangle(n_features)] if covariance_type == "full" else whole
        scale = np.maximum(scale.reshape(-1), np.abs(expected[2]))
    assert (np.abs(statistics.second_moments - expected[2]) / scale).max() <= tolerance


@pytest.mark.parametrize("n_features", [5, 20, 100])
@pytest.mark.parametrize("bounded", [True, False], ids=["fit", "predict"])
def test_three_ways_to_compute_components_of_one_mixture(ops: Ops, n_features: int, bounded: bool) -> None:
    """Some by quadratic features or pruned, some by differences, and one too narrow to whiten rows for."""
    rows = blobs(333, n_features, 3)
    mixture = scaled_covariances(start_mixture("full", rows, 10), [1.0] * 7 + [1e-12, 1e-12, 1e-18])
    survey, put = survey_of(rows, tile_rows=333), ops.arrays.put
    tile = Tile(n_features, 333, ops)
    tile.fill(Rows.of(put(rows)), put(survey.centre), mask=False)
    max_abs_deviation = survey.max_abs_deviation if bounded else None
    e_step = EStep(mixture.e_step_inputs(survey.centre, max_abs_deviation, ops=ops))
    log_likelihood, expected = expected_statistics(mixture, rows, np.ones(333))
    resp, log_density = map(ops.arrays.get, e_step.posterior(tile))
    assert abs(log_density.sum() / log_likelihood - 1) < 1e-12
    np.testing.assert_allclose(resp.sum(axis=1), expected[0], rtol=1e-9, atol=1e-9)


def test_threads_share_a_group() -> None:
    """Whichever of them makes its arrays, none reads what another has let go."""
    rows = blobs(512, 100, 4)
    mixture = start_mixture("diag", rows, 40)
    survey = survey_of(rows, tile_rows=512)
    for _ in range(20):
        ops = CompiledOps(built_here()[-1])
        e_step = EStep(mixture.e_step_inputs(survey.centre, ops=ops))

        def sums(worker: int, own: Ops = ops, e_step: EStep = e_step) -> bytes:
            statistics, tile = SufficientStatistics.empty(mixture.layout), Tile(100, 512, own)
            tile.fill(Rows.of(rows), survey.centre, mask=False)
            e_step(tile, statistics)
            return statistics.flat.tobytes()

        with single_threaded_blas, closing(Workers(4)) as workers:
            assert len(set(workers.run(sums))) == 1


@pytest.mark.parametrize("spread", [1.0, 300.0], ids=["apart", "overlapping"])
@pytest.mark.parametrize("raw", ["f8", "f4", "u1"])
@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@pytest.mark.parametrize("name", built_here())
def test_what_bounds_leave_out_changes_nothing(name: str, covariance_type: str, raw: str, spread: float) -> None:
    """Rows like images: a dozen components, most of which the first features rule out, or none."""
    random, n_features = np.random.default_rng(0), 83
    means = random.uniform(0, 255, (12, n_features))
    deviations = np.exp(random.uniform(np.log(0.3), np.log(60), means.shape))
    rows = np.clip(
        np.rint(means[random.integers(12, size=300)] + 20 * random.standard_normal((300, n_features))), 0, 255
    )
    covariances = spread * np.square(deviations if covariance_type == "diag" else deviations[:, 0])
    mixture = mixture_of(covariance_type, np.full(12, 1 / 12), means, covariances)
    survey = survey_of(rows, tile_rows=300)
    found, expected = (
        found_statistics(ops, mixture, rows.astype(raw), None, survey, DOUBLE).flat
        for ops in (CompiledOps(name), NUMPY)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


def kernel_of(mixture: Mixture, survey: DataSummary) -> Kernel:
    return choose_kernel(mixture.e_step_inputs(survey.centre, survey.max_abs_deviation))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_component_does_not_decide_for_all(covariance_type: str) -> None:
    rows = blobs(500, 5, 3)
    mixture = uneven(covariance_type, rows, 1)
    survey = survey_of(near(mixture, rows, 1))
    kernel = kernel_of(mixture, survey)
    assert isinstance(kernel, SplitKernel) and isinstance(kernel.fast, QuadraticKernel)
    assert len(kernel.fast.means) == 5 and len(kernel.safe.group.means) == 1
    assert isinstance(kernel_of(start_mixture(covariance_type, rows, 6), survey), QuadraticKernel)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_row_does_not_decide_for_all(covariance_type: str) -> None:
    rows = blobs(500, 5, 3)
    rows[17] = 1e6
    assert isinstance(kernel_of(start_mixture(covariance_type, blobs(500, 5, 3), 6), survey_of(rows)), QuadraticKernel)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_that_nothing_is_known_of_are_not_taken_by_products(covariance_type: str) -> None:
    rows = blobs(500, 5, 3)
    inputs = start_mixture(covariance_type, rows, 6).e_step_inputs(rows[0], ops=CompiledOps(built_here()[-1]))
    assert isinstance(choose_kernel(inputs), WhitenedKernel if covariance_type == "full" else DifferenceKernel)


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
def test_a_row_without_a_density_has_no_responsibilities(ops: Ops, dtype: np.dtype) -> None:
    log_prob = np.zeros((3, 40), dtype)
    log_prob[:, 7] = -np.inf
    tile = Tile(2, 40, ops)
    tile.fill(Rows.of(ops.arrays.put(np.zeros((40, 2)))), ops.arrays.put(np.zeros(2)), mask=False, dtype=dtype)
    resp, log_density = map(ops.arrays.get, ops.log_sum_exp(ops.arrays.put(log_prob), tile))
    assert log_density[7] == -np.inf and (resp[:, 7] == 0).all()
    assert np.isfinite(np.delete(log_density, 7)).all() and np.allclose(np.delete(resp, 7, axis=1), 1 / 3)


@pytest.mark.parametrize("bits", [0x7FF0000000000001, 0x7FF8000000000000, 0xFFF00000000FFFFF, 0x7FFFFFFFFFFFFFFF])
def test_every_nan_stays_one(ops: Ops, bits: int) -> None:
    log_prob = np.zeros((3, 40))
    log_prob[1, 7] = np.array([bits], np.uint64).view(float)[0]
    tile = Tile(2, 40, ops)
    tile.fill(Rows.of(ops.arrays.put(np.zeros((40, 2)))), ops.arrays.put(np.zeros(2)), mask=False)
    with np.errstate(invalid="ignore"):
        resp, log_density = map(ops.arrays.get, ops.log_sum_exp(ops.arrays.put(log_prob), tile))
    assert np.isnan(log_density[7]) and np.isnan(resp[1, 7])
    assert np.isfinite(np.delete(log_density, 7)).all()
