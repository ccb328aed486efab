"""The compiled operations against NumPy's."""

from __future__ import annotations

from ctypes import CDLL, c_ssize_t, c_void_p
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import (
    TYPES,
    assert_same_bits,
    blobs,
    fit_all,
    mpirun,
    read_model,
    start_mixture,
    survey_of,
    write_config,
    write_rows,
)

from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import FixedPoint
from mpigmm.core.ops.compiled import CompiledOps
from mpigmm.core.ops.groups import ProductGroup, Products
from mpigmm.core.ops.libraries import COMPILED, best_compiled, load_library
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.driver.e_step import check_log_likelihood
from mpigmm.errors import DataError
from mpigmm.rows import Rows
from mpigmm.runs.checkpoint import read_checkpoint, save_checkpoint

LARGE = blobs(200_000, 16, 4, separation=2.0).astype(np.float32)
LARGE_TYPES = ("full", "diag", "tied")
WITHOUT = """import ctypes
own = ctypes.CDLL
def other(name, *arguments, **options):
    if "_ops_" in str(name):
        raise OSError("cannot open shared object file")
    return own(name, *arguments, **options)
ctypes.CDLL = other
"""
"""What makes Python find none of the libraries."""

PRECISIONS = pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])


def built_here() -> list[str]:
    """Sets of instructions that there is a library for and this processor has."""
    best = best_compiled()
    assert best is not None, "the tests need a C compiler: make clean install"
    return list(COMPILED[: COMPILED.index(best) + 1])


@pytest.fixture(scope="module", params=built_here())
def compiled(request: pytest.FixtureRequest) -> CompiledOps:
    return CompiledOps(request.param)


def of_each(own: CDLL, name: str, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    getattr(own, name)(c_void_p(x.ctypes.data), c_ssize_t(len(x)), c_void_p(out.ctypes.data))
    return out


@PRECISIONS
@pytest.mark.parametrize("name", built_here())
def test_exponential_is_right_to_the_last_places(name: str, dtype: np.dtype) -> None:
    lowest, function = (-80, "exponentials_single") if dtype == SINGLE else (-600, "exponentials_double")
    x = np.concatenate([np.linspace(lowest, 0, 100_001), -(2.0 ** np.arange(-60, 6)), np.zeros(13)]).astype(dtype)
    found, expected = of_each(load_library(name), function, x), np.exp(x.astype(np.longdouble))
    assert np.abs(found / expected - 1).max() < 2.5 * np.finfo(dtype).eps
    assert found[-1] == 1.0


@pytest.mark.parametrize("name", built_here())
def test_logarithm_is_right_to_the_last_place(name: str) -> None:
    x = np.concatenate([np.linspace(1, 3, 100_001), 2.0 ** np.arange(1, 1000), 1 + 2.0 ** -np.arange(1, 53)])
    found, expected = of_each(load_library(name), "logarithms", x), np.log(x.astype(np.longdouble))
    assert found[0] == expected[0] == 0
    assert np.abs(found[1:] / expected[1:] - 1).max() < 1.5 * np.finfo(float).eps
    assert np.isnan(of_each(load_library(name), "logarithms", np.array([np.nan, np.inf]))).all()


@PRECISIONS
@pytest.mark.parametrize("raw", ["f8", "f4", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("shape", [(1, 1), (15, 3), (64, 16), (1000, 33)])
def test_rows_are_centred_and_transposed_or_not(
    compiled: CompiledOps, shape: tuple[int, int], raw: str, dtype: np.dtype
) -> None:
    random = np.random.default_rng(0)
    rows, centre = (100 * random.random(shape)).astype(raw), random.random(shape[1])
    tiles = [Tile(shape[1], 1000, ops) for ops in (NUMPY, compiled)]
    for tile in tiles:
        tile.fill(Rows.of(rows), centre, mask=False, dtype=dtype)
    assert tiles[0].rows.tobytes() == tiles[1].rows.tobytes()
    assert tiles[0].by_row().tobytes() == tiles[1].by_row().tobytes()


@PRECISIONS
@pytest.mark.parametrize("n_components", [1, 2, 9])
def test_responsibilities(compiled: CompiledOps, n_components: int, dtype: np.dtype) -> None:
    log_prob = (np.random.default_rng(1).standard_normal((n_components, 777)) * 300 - 500).astype(dtype)
    log_prob[0, 3] = -np.inf if n_components > 1 else -1e4
    found = []
    for ops in (NUMPY, compiled):
        tile = Tile(40, 777, ops)
        tile.fill(Rows.of(np.zeros((777, 40))), np.zeros(40), mask=False, dtype=dtype)
        found.append([each.copy() for each in ops.log_sum_exp(log_prob.copy(), tile)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=4 * np.finfo(dtype).eps, atol=1e-30)


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_what_is_not_finite_is_seen(compiled: CompiledOps, value: float) -> None:
    tile = Tile(2, 9, compiled)
    tile.fill(Rows.of(np.zeros((9, 2))), np.zeros(2), mask=False)
    log_prob = np.zeros((3, 9))
    log_prob[slice(None) if value < 0 else 1, 4] = value
    _, log_density = compiled.log_sum_exp(log_prob, tile)
    assert not np.isfinite(log_density[4]) and np.isfinite(np.delete(log_density, 4)).all()


@pytest.mark.parametrize("n_limbs", [1, 2, 3, 48])
def test_sums_are_the_same_to_the_bit(compiled: CompiledOps, n_limbs: int) -> None:
    random = np.random.default_rng(n_limbs)
    top = random.integers(-30, 40, 1500).astype(np.int32) if n_limbs < 48 else np.full(1500, 960, np.int32)
    form = FixedPoint(top, n_limbs)
    plain, fast = form.zeros(), form.zeros()
    for _ in range(5):
        values = random.standard_normal(1500) * np.ldexp(1.0, np.minimum(top, 300) - 3 - random.integers(0, 90, 1500))
        values[random.integers(1500) : random.integers(1500)] = random.choice([0.0, -0.0])  # components without rows
        form.add(plain, values.copy())
        compiled.add(form, fast, values.copy())
    assert (plain == fast).all()


@PRECISIONS
@pytest.mark.parametrize("n_features", [2, 24, 70, 150])
@pytest.mark.parametrize("separation", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics(
    compiled: CompiledOps, covariance_type: str, separation: float, n_features: int, dtype: np.dtype
) -> None:
    rows = blobs(700, n_features, 5, separation=separation)
    weights = np.random.default_rng(2).random(700)
    weights[::7] = 0
    survey, mixture = survey_of(rows, weights), start_mixture(covariance_type, rows, 5)
    found = []
    for ops in (NUMPY, compiled):
        tile, statistics = Tile(n_features, 700, ops), SufficientStatistics.empty(mixture.layout)
        tile.fill(Rows.of(rows, weights), survey.centre, mask=True, dtype=dtype)
        EStep(mixture.e_step_inputs(survey.centre, survey.max_abs_deviation, dtype, ops))(tile, statistics)
        found.append(statistics.flat)
    scale = np.abs(found[0]).max()
    np.testing.assert_allclose(*found, rtol=0, atol=scale * (1e-12 if dtype == DOUBLE else 1e-5))


@PRECISIONS
@pytest.mark.parametrize("n_rows", [1, 300])
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (2, 1), (17, 5), (40, 3), (24, 19)])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_sweep(
    compiled: CompiledOps, covariance_type: str, n_components: int, n_features: int, n_rows: int, dtype: np.dtype
) -> None:
    check_sweep(compiled, covariance_type, n_components, n_features, n_rows, np.dtype("f4"), dtype)


@PRECISIONS
@pytest.mark.parametrize("raw", ["f8", "i2"])
@pytest.mark.parametrize("n_rows", [1, 13, 300])
@pytest.mark.parametrize(
    ("n_components", "n_features"),
    [(3, 2), (10, 4), (2, 7), (13, 8), (1, 9), (13, 33), (3, 15), (8, 31), (1, 64), (10, 100)],
)
def test_vectors_of_features(
    compiled: CompiledOps, n_components: int, n_features: int, n_rows: int, raw: str, dtype: np.dtype
) -> None:
    check_sweep(compiled, "diag", n_components, n_features, n_rows, np.dtype(raw), dtype)


def check_sweep(
    compiled: CompiledOps,
    covariance_type: str,
    n_components: int,
    n_features: int,
    n_rows: int,
    raw: np.dtype,
    dtype: np.dtype,
) -> None:
    rows = blobs(400, n_features, 3)
    survey, mixture = survey_of(rows), start_mixture(covariance_type, rows, n_components)
    found = []
    for ops in (NUMPY, compiled):
        tile, statistics = Tile(n_features, 400, ops), SufficientStatistics.empty(mixture.layout)
        tile.fill(Rows.of(rows[:n_rows].astype(raw)), survey.centre, mask=False, dtype=dtype)
        EStep(mixture.e_step_inputs(survey.centre, survey.max_abs_deviation, dtype, ops))(tile, statistics)
        found.append(statistics.flat)
    scale = np.abs(found[0]).max()
    np.testing.assert_allclose(*found, rtol=0, atol=scale * (1e-12 if dtype == DOUBLE else 1e-5))


@PRECISIONS
@pytest.mark.parametrize("raw", ["f8", "i2"])
@pytest.mark.parametrize(
    ("n_rows", "n_components", "n_features"), [(1, 1, 1), (33, 2, 7), (700, 13, 5), (300, 10, 100), (65, 40, 33)]
)
@pytest.mark.parametrize(
    ("kind", "is_whitened"), [*((kind, False) for kind in Products), (Products.SQUARED_NORM, True)]
)
def test_log_densities_by_products(
    compiled: CompiledOps,
    kind: Products,
    is_whitened: bool,
    n_rows: int,
    n_components: int,
    n_features: int,
    raw: str,
    dtype: np.dtype,
) -> None:
    random, d = np.random.default_rng(0), n_features
    rows, centre = (10 * random.random((n_rows, d))).astype(raw), 10 * random.random(d)
    whiten = np.tril(random.standard_normal((d, d))) if is_whitened else np.empty((0, 0))
    n_products = {Products.PAIRS: d * (d + 1) // 2, Products.SQUARES: d, Products.SQUARED_NORM: 1}[kind]
    coefficients = random.standard_normal((n_components, 1 + d + n_products))
    tile, found = Tile(d, n_rows, compiled), np.full((n_components, n_rows), np.nan, dtype)
    tile.fill(Rows.of(rows), centre, mask=False, dtype=dtype)
    compiled.product_log_prob(tile, ProductGroup(kind, whiten.astype(dtype), coefficients.astype(dtype)), found)
    centred = (rows - centre).T
    used = whiten @ centred if is_whitened else centred
    lower = np.tril_indices(d)
    products = {
        Products.PAIRS: used[lower[0]] * used[lower[1]],
        Products.SQUARES: used**2,
        Products.SQUARED_NORM: (used**2).sum(axis=0, keepdims=True),
    }[kind]
    phi = np.vstack([np.ones(n_rows), centred, products])
    scale = np.abs(coefficients) @ np.abs(phi)
    assert (np.abs(found - coefficients @ phi) < 20 * d * np.finfo(dtype).eps * scale).all()


@PRECISIONS
@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_used"), [(1, 1, 1), (33, 7, 7), (700, 24, 5), (64, 61, 61), (40, 256, 256)]
)
def test_log_densities_of_whitened_rows(
    compiled: CompiledOps, n_rows: int, n_features: int, n_used: int, dtype: np.dtype
) -> None:
    random = np.random.default_rng(0)
    rows, centre, log_norm = random.standard_normal((n_rows, n_features)), random.random(n_features), random.random(3)
    coefficients = np.tril(random.standard_normal((3, n_used, 1 + n_used)), 1)
    tile = Tile(n_features, n_rows, compiled)
    tile.fill(Rows.of(rows), centre, mask=False, dtype=dtype)
    found = np.empty((3, n_rows), dtype)
    compiled.whitened_log_prob(tile, compiled.whitening(coefficients, dtype), log_norm.astype(dtype), found)
    augmented = np.vstack([np.ones(n_rows), (rows - centre)[:, :n_used].T])
    expected = log_norm[:, None] - 0.5 * np.square(coefficients @ augmented).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-13 if dtype == DOUBLE else 1e-4)


@PRECISIONS
@pytest.mark.parametrize(("n_rows", "n_features"), [(1, 1), (3, 8), (200, 7), (65, 64), (300, 61), (150, 256)])
def test_moments_of_pairs(compiled: CompiledOps, n_rows: int, n_features: int, dtype: np.dtype) -> None:
    random = np.random.default_rng(1)
    rows, means, resp = random.random((n_rows, n_features)), random.random((2, n_features)), random.random((2, n_rows))
    least = np.array([0.0, 0.5], dtype)
    tile = Tile(n_features, n_rows, compiled)
    tile.fill(Rows.of(rows), np.zeros(n_features), mask=False, dtype=dtype)
    some, every = ((np.empty((2, n_features)), np.empty((2, n_features * (n_features + 1) // 2))) for _ in range(2))
    compiled.pruned_moments(tile, resp.astype(dtype), means.astype(dtype), least, *some)
    compiled.pair_moments(tile, resp.astype(dtype), means.astype(dtype), *every)
    for found, used in ((some, np.where(resp > least[:, None], resp, 0)), (every, resp)):
        for k in range(2):
            away = rows - means[k]
            second = (away.T @ (used[k][:, None] * away))[np.tril_indices(n_features)]
            np.testing.assert_allclose(found[0][k], used[k] @ away, atol=n_rows * 4 * np.finfo(dtype).eps)
            np.testing.assert_allclose(found[1][k], second, atol=n_rows * 4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_row_that_turned_bad_is_seen(compiled: CompiledOps, covariance_type: str) -> None:
    rows = blobs(400, 4, 3)
    survey, mixture = survey_of(rows), start_mixture(covariance_type, rows, 3)
    rows[333, 2] = np.nan
    tile = Tile(4, 400, compiled)
    tile.fill(Rows.of(rows), survey.centre, mask=False)
    statistics = SufficientStatistics.empty(mixture.layout)
    EStep(mixture.e_step_inputs(survey.centre, survey.max_abs_deviation, ops=compiled))(tile, statistics)
    with pytest.raises(DataError, match="changed since they were surveyed"):
        check_log_likelihood(statistics.log_likelihood)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_same_bits_on_any_number_of_ranks_and_threads(tmp_path: Path, precision: str) -> None:
    write_rows(tmp_path / "x.h5", LARGE)
    config = write_config(
        tmp_path / "run.yaml",
        data={"path": str(tmp_path / "x.h5")},
        model={"n_components": 4},
        em={"tol": 0, "max_iter": 4},
        compute={"precision": precision},
    )
    ways = {"one": [], "threads": ["compute.threads=2", "compute.memory=1MB"], "ranks": []}
    for n_ranks, names in ((0, ("one", "threads")), (3, ("ranks",))):
        fits = [
            [str(config), f"model.covariance_type={kind}", f"output.dir={tmp_path / kind / name}", *ways[name]]
            for kind in LARGE_TYPES
            for name in names
        ]
        fit_all(n_ranks, fits, 100)
    for kind in LARGE_TYPES:
        one, *others = (read_model(tmp_path / kind / name / "model.h5") for name in ways)
        for other in others:
            assert_same_bits(one, other)


@pytest.mark.timeout(240)
def test_a_run_goes_on_with_the_operations_that_it_began_with(tmp_path: Path) -> None:
    """With NumPy's where others have come since, and not at all where its own are gone."""
    write_rows(tmp_path / "x.h5", LARGE)
    write_config(tmp_path / "run.yaml", data={"path": str(tmp_path / "x.h5")}, model={"n_components": 4}, em={"tol": 0})
    without = tmp_path / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text(WITHOUT)
    config = (str(tmp_path / "run.yaml"), "model.covariance_type=diag")
    begun = mpirun(2, "fit", *config, f"output.dir={tmp_path / 'a'}", "em.max_iter=2")
    assert begun.returncode == 0, begun.stderr
    finished = mpirun(2, "fit", *config, f"output.dir={tmp_path / 'a'}", "em.max_iter=2", PYTHONPATH=str(without))
    assert finished.returncode == 0 and "is finished already" in finished.stderr, finished.stderr
    refused = mpirun(2, "fit", *config, f"output.dir={tmp_path / 'a'}", "em.max_iter=3", PYTHONPATH=str(without))
    assert refused.returncode == 2, refused.stderr
    assert f"{best_compiled()}, the array operations that this run computes with, cannot be had on" in refused.stderr
    assert "where there is a C compiler" in refused.stderr
    checkpoint = read_checkpoint(tmp_path / "a" / "checkpoint.h5")
    assert checkpoint.ops == best_compiled()
    for i, name in enumerate(["numpy", "compiled-generic"]):
        (tmp_path / str(i)).mkdir()
        save_checkpoint(tmp_path / str(i), replace(checkpoint, ops=name))
        resumed = mpirun(2, "fit", *config, f"output.dir={tmp_path / str(i)}", "em.max_iter=3")
        assert resumed.returncode == 0 and "after iteration 2" in resumed.stderr, resumed.stderr
        assert read_checkpoint(tmp_path / str(i) / "checkpoint.h5").ops == name
