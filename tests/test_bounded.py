"""Components of `diag`, `spherical` and `tied` whose pairs with most rows are zero, which bounds show."""

from __future__ import annotations

import numpy as np
import pytest
from support import mixture_of, scaled_covariances

from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.estep.pruned_diagonal import PrunedDiagonalKernel
from mpigmm.core.estep.step import EStep
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.compiled import CompiledOps
from mpigmm.core.ops.groups import MINOR_NATS, NATS
from mpigmm.core.ops.libraries import COMPILED, best_compiled
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

best = best_compiled()
assert best is not None, "the tests need a C compiler: make clean install"
BUILT = COMPILED[: COMPILED.index(best) + 1]
SHAPES = [(333, 40, 64), (97, 17, 33), (700, 3, 50), (1, 9, 20), (64, 100, 10), (150, 5, 1)]
"""Rows, features, components."""


def apart(covariance_type: str, n: int, d: int, k: int, spread: float = 6.0) -> tuple[np.ndarray, Mixture]:
    """Rows of components of different widths that lie apart, and their mixture."""
    random = np.random.default_rng(n + d + k)
    means = spread * random.standard_normal((k, d)) + 50
    deviations = np.exp(0.5 * random.standard_normal((k, 1 if covariance_type == "spherical" else d)))
    labels = random.integers(k, size=n)
    noise = deviations[labels] * random.standard_normal((n, d))
    covariances = deviations[:, 0] ** 2 if covariance_type == "spherical" else deviations**2
    if covariance_type == "tied":
        factor = np.eye(d) + 0.3 / np.sqrt(d) * random.standard_normal((d, d))
        noise, covariances = random.standard_normal((n, d)) @ factor.T, factor @ factor.T
    return means[labels] + noise, mixture_of(covariance_type, random.dirichlet(np.full(k, 5.0)), means, covariances)


def step_and_tile(
    ops: Ops, mixture: Mixture, rows: np.ndarray, weights: np.ndarray | None = None, dtype: np.dtype = DOUBLE
) -> tuple[EStep, Tile]:
    """The E-step of the mixture as in a fit, and a tile with the rows, masked where they are not finite."""
    with np.errstate(invalid="ignore"):
        centre = np.nanmedian(np.asarray(rows, float), axis=0)
        reach = np.nanmax(np.abs(rows - centre), axis=0)
    tile = Tile(rows.shape[1], len(rows), ops)
    tile.fill(Rows.of(rows, weights), centre, mask=bool(np.isnan(rows).any()), dtype=dtype)
    return EStep(mixture.e_step_inputs(centre, reach, dtype, ops)), tile


def statistics_of(
    ops: Ops, mixture: Mixture, rows: np.ndarray, weights: np.ndarray | None = None, dtype: np.dtype = DOUBLE
) -> SufficientStatistics:
    step, tile = step_and_tile(ops, mixture, rows, weights, dtype)
    statistics = SufficientStatistics.empty(mixture.layout)
    step(tile, statistics)
    return statistics


def assert_same(found: SufficientStatistics, expected: SufficientStatistics, mixture: Mixture, relative: float) -> None:
    """Each sum relative to its scale: a moment's is the count times a power of the standard deviation."""
    deviations, weight = np.sqrt(mixture.variances), 1e-3 + expected.counts[:, None]
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=relative)
    np.testing.assert_allclose(found.counts, expected.counts, rtol=relative, atol=relative)
    assert (np.abs(found.first_moments - expected.first_moments) / deviations / weight).max() <= relative
    scale = (deviations**2).max(axis=1, keepdims=True) * weight
    if mixture.covariances.name == "tied":
        scale = scale.sum(keepdims=True)
    second = np.abs(found.second_moments - expected.second_moments).reshape(len(scale), -1)
    assert (second / scale).max() <= relative * mixture.n_features


def is_bounded(ops: Ops, mixture: Mixture, rows: np.ndarray) -> bool:
    """Whether the rows are computed by bounds, none of them with all components."""
    step, tile = step_and_tile(ops, mixture, rows)
    kernel = step._kernel
    return isinstance(kernel, PrunedDiagonalKernel) and ops.bounded_sweep(tile, kernel.group) is not None


@pytest.mark.parametrize("shape", SHAPES, ids="x".join(["%d"] * 3).__mod__)
@pytest.mark.parametrize("covariance_type", ["diag", "spherical", "tied"])
@pytest.mark.parametrize("name", BUILT)
def test_statistics_are_those_of_all_pairs(name: str, covariance_type: str, shape: tuple[int, int, int]) -> None:
    spread = (3.0 if covariance_type == "tied" else 12.0) * (1.0 if shape[1] > 9 else 3.0)
    rows, mixture = apart(covariance_type, *shape, spread=spread)
    if min(shape) > 2:
        assert is_bounded(CompiledOps(name), mixture, rows)
    for weights in (None, np.random.default_rng(1).random(len(rows)) * (np.arange(len(rows)) % 5 != 1)):
        expected = statistics_of(NUMPY, mixture, rows, weights)
        assert_same(statistics_of(CompiledOps(name), mixture, rows, weights), expected, mixture, 1e-11)
        single = statistics_of(CompiledOps(name), mixture, rows, weights, SINGLE)
        assert_same(single, expected, mixture, 2e-4)


@pytest.mark.parametrize("raw", ["f4", "i2", "u1"])
@pytest.mark.parametrize("covariance_type", ["diag", "tied"])
@pytest.mark.parametrize("name", BUILT)
def test_rows_of_any_type_and_masked_rows(name: str, covariance_type: str, raw: str) -> None:
    rows, mixture = apart(covariance_type, 300, 21, 30, spread=5.0)
    assert is_bounded(CompiledOps(name), mixture, rows)
    rows = np.rint(rows).clip(0, 255).astype(raw)
    assert_same(statistics_of(CompiledOps(name), mixture, rows), statistics_of(NUMPY, mixture, rows), mixture, 1e-11)
    if raw == "f4":
        rows[::7, 3] = np.nan
        used = rows[~np.isnan(rows).any(axis=1)]
        expected = statistics_of(NUMPY, mixture, used)
        assert_same(statistics_of(CompiledOps(name), mixture, rows), expected, mixture, 1e-9)


@pytest.mark.parametrize("shape", [(333, 24, 64), (1100, 40, 80), (97, 27, 70)], ids="x".join(["%d"] * 3).__mod__)
@pytest.mark.parametrize(("covariance_type", "spread"), [("diag", 6.5), ("spherical", 11.0), ("tied", 8.0)])
@pytest.mark.parametrize("name", BUILT)
def test_minor_pairs(name: str, covariance_type: str, spread: float, shape: tuple[int, int, int]) -> None:
    """Also with rows far from all components, and components that have no minor pairs."""
    rows, mixture = apart(covariance_type, *shape, spread=spread / np.sqrt(shape[1]))
    rows[5], rows[6] = rows[5] + 60, rows[6] - 200
    if covariance_type != "tied":
        mixture = scaled_covariances(mixture, np.where(np.arange(shape[2]) % 50 == 4, 1e-16, 1.0))
    ops = CompiledOps(name)
    step, tile = step_and_tile(ops, mixture, rows)
    assert isinstance(step._kernel, PrunedDiagonalKernel)
    group = step._kernel.group
    assert np.isfinite(group.minor.offsets).sum() >= shape[2] - 4 and ops.bounded_sweep(tile, group) is not None
    resp, _ = step.posterior(tile)
    assert ((resp > 0) & (resp < np.exp(-MINOR_NATS))).mean() > 0.01
    for weights in (None, np.random.default_rng(1).random(len(rows)) * (np.arange(len(rows)) % 5 != 1)):
        found = statistics_of(ops, mixture, rows, weights)
        expected = statistics_of(NUMPY, mixture, rows, weights)
        assert_same(found, expected, mixture, 1e-11)


@pytest.mark.parametrize("power", [-300, -130, 130, 460])
@pytest.mark.parametrize(("covariance_type", "spread"), [("diag", 6.5), ("tied", 8.0)])
def test_minor_pairs_have_weights_of_any_scale(covariance_type: str, spread: float, power: int) -> None:
    """Weights times a power of two give the same sums times that power, to the last bit."""
    rows, mixture = apart(covariance_type, 333, 24, 64, spread=spread / np.sqrt(24))
    ops, weights = CompiledOps(BUILT[-1]), np.random.default_rng(1).random(333)
    found = statistics_of(ops, mixture, rows, weights * 2.0**power)
    np.testing.assert_array_equal(found.flat, statistics_of(ops, mixture, rows, weights).flat * 2.0**power)


@pytest.mark.parametrize("examples_show_it", [True, False])
def test_a_tile_whose_rows_are_unlike_the_mixture(examples_show_it: bool) -> None:
    """All its pairs are computed, whether the rows that are tried first show that too many matter or not."""
    rows, mixture = apart("diag", 2048, 12, 40)
    rows[:] = mixture.means.mean(axis=0) + 1e-3 * rows
    if not examples_show_it:
        rows[::64] = mixture.means[0]
    ops = CompiledOps(BUILT[-1])
    step, tile = step_and_tile(ops, mixture, rows)
    assert isinstance(step._kernel, PrunedDiagonalKernel) and ops.bounded_sweep(tile, step._kernel.group) is None
    assert_same(statistics_of(ops, mixture, rows), statistics_of(NUMPY, mixture, rows), mixture, 1e-11)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@pytest.mark.parametrize("name", BUILT)
def test_only_negligible_pairs_are_left_out(name: str, covariance_type: str) -> None:
    """With components that have collapsed onto rows, one of weight zero, and rows that lie far from all components."""
    rows, mixture = apart(covariance_type, 500, 12, 40)
    mixture = scaled_covariances(mixture, np.where(np.arange(40) % 13 == 4, 1e-20, 1.0))
    mixture.weights[7] = 0.0
    mixture.means[4], mixture.means[17] = rows[20], rows[21]
    rows[40:44] = [[1e4], [-1e8], [1e15], [1e60]]
    ops = CompiledOps(name)
    step, tile = step_and_tile(ops, mixture, rows)
    assert isinstance(step._kernel, PrunedDiagonalKernel)
    resp, log_density = step.posterior(tile)
    roots = np.sqrt(mixture.precision_diagonals)[:, None, :]
    squares = np.square((rows - mixture.means[:, None, :]) * roots).sum(axis=2)
    expected = mixture.log_norm[:, None] - 0.5 * squares
    top = expected.max(axis=0)
    np.testing.assert_allclose(log_density, top + np.log(np.exp(expected - top).sum(axis=0)), rtol=1e-9)
    near = top > -1e4
    np.testing.assert_allclose(resp[:, near], np.exp((expected - log_density)[:, near]), rtol=1e-6, atol=1e-17)
    row = np.nonzero(resp == 0)[1]
    assert (expected[resp == 0] < (top - NATS + 1e-12 * np.abs(top))[row]).all()
    assert (resp > 0).mean() < 0.3 and (resp > 0).any(axis=0).all()


@pytest.mark.parametrize("name", BUILT)
def test_a_tile_in_which_too_many_pairs_matter_is_computed_whole(name: str) -> None:
    """Rows between the components, which all of them explain about as badly."""
    _, mixture = apart("diag", 300, 20, 30, spread=3.0)
    rows = mixture.means.mean(axis=0) + 0.01 * np.random.default_rng(1).standard_normal((300, 20))
    wide = scaled_covariances(mixture, np.full(30, 4.0))
    ops = CompiledOps(name)
    for own in (mixture, wide):
        assert not is_bounded(ops, own, rows) or own is mixture
        assert_same(statistics_of(ops, own, rows), statistics_of(NUMPY, own, rows), own, 1e-10)


@pytest.mark.parametrize("name", BUILT)
def test_masked_rows_take_no_pairs(name: str) -> None:
    """At the centre, where masked rows are, many components are about as likely."""
    rows, mixture = apart("diag", 400, 20, 64)
    mixture.means[:] = 50 + 6 * (mixture.means - 50) / np.linalg.norm(mixture.means - 50, axis=1, keepdims=True)
    rows[:200] = mixture.means[np.arange(200) % 64] + 1e-3
    rows[200:] = np.nan
    assert is_bounded(CompiledOps(name), mixture, rows)
    expected = statistics_of(NUMPY, mixture, rows[:200])
    assert_same(statistics_of(CompiledOps(name), mixture, rows), expected, mixture, 1e-11)


@pytest.mark.parametrize("name", BUILT)
def test_tied_components_of_which_one_is_far_from_the_centre_are_not_whitened_about_it(name: str) -> None:
    rows, mixture = apart("tied", 300, 12, 20, spread=5.0)
    assert is_bounded(CompiledOps(name), mixture, rows)
    mixture.means[3] += 1e7
    rows[7] = mixture.means[3] + 1
    step, _ = step_and_tile(CompiledOps(name), mixture, rows)
    assert not isinstance(step._kernel, PrunedDiagonalKernel)
    assert_same(statistics_of(CompiledOps(name), mixture, rows), statistics_of(NUMPY, mixture, rows), mixture, 1e-9)


@pytest.mark.parametrize("name", BUILT)
def test_tied_rows_between_components_are_computed_whole(name: str) -> None:
    rows, mixture = apart("tied", 300, 20, 30, spread=3.0)
    rows[100:] = mixture.means.mean(axis=0)
    ops = CompiledOps(name)
    step, _ = step_and_tile(ops, mixture, rows)
    assert isinstance(step._kernel, PrunedDiagonalKernel) and not is_bounded(ops, mixture, rows)
    assert_same(statistics_of(ops, mixture, rows), statistics_of(NUMPY, mixture, rows), mixture, 1e-10)


@pytest.mark.parametrize("covariance_type", ["diag", "tied"])
@pytest.mark.parametrize("name", BUILT)
def test_posteriors_without_bounds_of_the_rows(name: str, covariance_type: str) -> None:
    """As in `predict` and `score`."""
    rows, mixture = apart(covariance_type, 333, 16, 24)
    results = []
    for ops in (CompiledOps(name), NUMPY):
        tile = Tile(16, 333, ops)
        tile.fill(Rows.of(rows), rows[0], mask=False)
        results.append(EStep(mixture.e_step_inputs(rows[0], ops=ops)).posterior(tile))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-12)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-12)
