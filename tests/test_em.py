"""The mathematics, against scikit-learn and by its properties."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture
from support import (
    TYPES,
    blobs,
    factors_of,
    fit_in_memory,
    mixture_of,
    start_mixture,
    statistics_of,
    survey_of,
    with_covariances,
)

from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.estep.base import Kernel
from mpigmm.core.estep.pruned import PrunedKernel
from mpigmm.core.estep.quadratic import FullQuadraticKernel, QuadraticKernel
from mpigmm.core.estep.step import EStep
from mpigmm.core.estep.whitened import WhitenedKernel
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import FEW, Tile
from mpigmm.rows import Rows

ROWS = blobs(3000, 4, 3)


def oracle(start: Mixture, rows: np.ndarray, n_iter: int, reg_covar: float = 0.0) -> GaussianMixture:
    """scikit-learn from the same start."""
    cholesky = factors_of(start)
    dense = start.covariances.name in ("full", "tied")
    precisions = cholesky @ np.swapaxes(cholesky, -1, -2) if dense else cholesky**2
    model = GaussianMixture(
        start.n_components,
        covariance_type=start.covariances.name,
        tol=0,
        reg_covar=reg_covar,
        max_iter=n_iter,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(rows)


def assert_close(mixture: Mixture, model: GaussianMixture, relative: float) -> None:
    np.testing.assert_allclose(mixture.weights, model.weights_, rtol=relative)
    np.testing.assert_allclose(mixture.means, model.means_, rtol=relative, atol=relative)
    np.testing.assert_allclose(mixture.covariances.values, model.covariances_, rtol=relative, atol=relative)


@pytest.mark.parametrize("n_iter", [1, 5, 50])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_scikit_learn_gets_the_same(covariance_type: str, n_iter: int) -> None:
    start = start_mixture(covariance_type, ROWS, 3)
    mixture, history, _ = fit_in_memory(start, ROWS, n_iter, safeguards=Safeguards(1e-6, 0.0))
    model = oracle(start, ROWS, n_iter, 1e-6)
    assert_close(mixture, model, 1e-8)
    assert history[-1] == pytest.approx(model.lower_bound_, rel=1e-8)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_posterior_is_scikit_learns(covariance_type: str) -> None:
    mixture, _, _ = fit_in_memory(start_mixture(covariance_type, ROWS, 3), ROWS, 10)
    model = oracle(mixture, ROWS, 1)
    model.weights_, model.means_, model.covariances_ = mixture.weights, mixture.means, mixture.covariances.values
    model.precisions_cholesky_ = factors_of(mixture)
    tile = Tile(4, len(ROWS), NUMPY)
    tile.fill(Rows.of(ROWS), ROWS.mean(axis=0), mask=False)
    resp, log_density = EStep(mixture.e_step_inputs(ROWS.mean(axis=0))).posterior(tile)
    np.testing.assert_allclose(resp.T, model.predict_proba(ROWS), atol=1e-10)
    np.testing.assert_allclose(log_density, model.score_samples(ROWS), rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_likelihood_never_falls(covariance_type: str, seed: int) -> None:
    rows = blobs(800, 3, 4, seed, separation=1.0)
    _, history, repaired = fit_in_memory(start_mixture(covariance_type, rows, 4, seed), rows, 80)
    assert repaired == 0
    falls = -np.diff(history) / np.abs(history[:-1])
    assert falls.max() <= 1e-10


@pytest.mark.parametrize("covariance_type", TYPES)
def test_parts_add_to_the_whole(covariance_type: str) -> None:
    mixture, survey = start_mixture(covariance_type, ROWS, 3), survey_of(ROWS)
    whole = statistics_of(mixture, ROWS, survey)
    parts = statistics_of(mixture, ROWS[:1024], survey) + statistics_of(mixture, ROWS[1024:], survey)
    assert whole.value().tobytes() == parts.value().tobytes()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_moments_by_brute_force(covariance_type: str) -> None:
    rows = ROWS[:200]
    mixture, survey = start_mixture(covariance_type, rows, 3), survey_of(rows)
    statistics = SufficientStatistics.of(statistics_of(mixture, rows, survey).value(), mixture.layout)
    tile = Tile(4, 200, NUMPY)
    tile.fill(Rows.of(rows), survey.centre, mask=False)
    resp = EStep(mixture.e_step_inputs(survey.centre)).posterior(tile)[0]
    counts = [sum(resp[k]) for k in range(3)]
    first = [sum(resp[k, i] * (rows[i] - mixture.means[k]) for i in range(200)) for k in range(3)]
    np.testing.assert_allclose(statistics.counts, counts, rtol=1e-12)
    np.testing.assert_allclose(statistics.first_moments, first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weight_is_repetition_and_zero_is_absence(covariance_type: str) -> None:
    random = np.random.default_rng(1)
    weights = random.integers(0, 4, size=len(ROWS)).astype(float)
    start = start_mixture(covariance_type, ROWS, 3)
    weighted, history, _ = fit_in_memory(start, np.where(weights[:, None] == 0, 1e9, ROWS), 20, weights)
    repeated, expected, _ = fit_in_memory(start, np.repeat(ROWS, weights.astype(int), axis=0), 20)
    np.testing.assert_allclose(history, expected, rtol=1e-10)
    for name, values in weighted.arrays().items():
        np.testing.assert_allclose(values, repeated.arrays()[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_offset_costs_nothing(covariance_type: str) -> None:
    offset = 1e7
    far = ROWS + offset
    near = far - offset
    start = start_mixture(covariance_type, near, 3)
    moved = Mixture(start.weights, start.means + offset, start.covariances)
    centred, _, _ = fit_in_memory(start, near, 30)
    shifted, _, _ = fit_in_memory(moved, far, 30)
    np.testing.assert_allclose(shifted.covariances.values, centred.covariances.values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(shifted.means - offset, centred.means, atol=1e-6)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_scales_cost_nothing(covariance_type: str) -> None:
    scale = np.array([1e-6, 1.0, 1e6, 1e3])
    start = start_mixture(covariance_type, ROWS, 3)
    stretch = {"diag": scale**2}.get(covariance_type, np.outer(scale, scale))
    scaled = Mixture(start.weights, start.means * scale, start.covariances)
    scaled = with_covariances(scaled, start.covariances.values * stretch)
    plain, _, _ = fit_in_memory(start, ROWS, 30)
    other, _, _ = fit_in_memory(scaled, ROWS * scale, 30)
    np.testing.assert_allclose(other.means / scale, plain.means, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(other.covariances.values / stretch, plain.covariances.values, rtol=1e-7, atol=1e-7)


def test_tight_components_far_apart() -> None:
    """Spread over standard deviation 1e6: moments about the data's mean would lose twelve digits."""
    random = np.random.default_rng(0)
    parts = [centre + 1e-3 * random.standard_normal((500, 2)) for centre in ([0, 0], [1e3, -1e3])]
    rows = np.concatenate(parts)
    covariances = np.eye(2)[None].repeat(2, axis=0) * 1e-5
    start = mixture_of("full", np.full(2, 0.5), np.array([[0.0, 0], [1e3, -1e3]]), covariances)
    mixture, _, _ = fit_in_memory(start, rows, 5)
    for k, part in enumerate(parts):
        np.testing.assert_allclose(mixture.covariances.values[k], np.cov(part.T, bias=True), rtol=1e-8, atol=1e-16)


def tile_statistics(
    mixture: Mixture, rows: np.ndarray, max_abs_deviation: np.ndarray | None, weighted: bool = False
) -> tuple[Kernel, SufficientStatistics]:
    """Statistics of one tile, with sample weights between 0 and 1 where `weighted`, and the kernel that found them."""
    sample_weight = np.random.default_rng(0).random(len(rows)) if weighted else None
    tile, statistics = Tile(rows.shape[1], len(rows), NUMPY), SufficientStatistics.empty(mixture.layout)
    tile.fill(Rows.of(rows, sample_weight), rows.mean(axis=0), mask=False)
    e_step = EStep(mixture.e_step_inputs(rows.mean(axis=0), max_abs_deviation))
    e_step(tile, statistics)
    return e_step._kernel, statistics


def max_abs_deviation_of(rows: np.ndarray) -> np.ndarray:
    return np.abs(rows - rows.mean(axis=0)).max(axis=0)


def assert_same_statistics(one: SufficientStatistics, other: SufficientStatistics, relative: float) -> None:
    for part in ("log_likelihood", "counts", "first_moments", "second_moments"):
        values, expected = getattr(one, part), getattr(other, part)
        np.testing.assert_allclose(values, expected, rtol=relative, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_kernels_of_quadratic_features_and_of_differences_agree(covariance_type: str, weighted: bool) -> None:
    mixture = start_mixture(covariance_type, ROWS, 3)
    quadratic, statistics = tile_statistics(mixture, ROWS, max_abs_deviation_of(ROWS), weighted)
    other, expected = tile_statistics(mixture, ROWS, None, weighted)
    assert isinstance(quadratic, QuadraticKernel) and not isinstance(other, QuadraticKernel)
    assert_same_statistics(statistics, expected, 1e-11)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_far_from_the_centre_have_no_quadratic_features(covariance_type: str) -> None:
    inputs = start_mixture(covariance_type, ROWS, 3).e_step_inputs(np.full(4, -1e7), np.full(4, 1e8))
    assert not isinstance(EStep(inputs)._kernel, QuadraticKernel)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n_components", "dense"), [(6, WhitenedKernel), (40, FullQuadraticKernel)])
@pytest.mark.parametrize("separation", [3.0, 0.5, 0.1])
def test_leaving_out_what_is_zero_changes_nothing(
    separation: float, n_components: int, dense: type, weighted: bool
) -> None:
    rows = blobs(2000, 64, n_components, separation=separation)
    covariances = np.repeat((np.eye(64) + 0.2)[None], n_components, axis=0)
    means = separation * np.random.default_rng(0).standard_normal((n_components, 64))
    mixture = mixture_of("full", np.full(n_components, 1 / n_components), means, covariances)
    kernel, statistics = tile_statistics(mixture, rows, max_abs_deviation_of(rows), weighted)
    assert isinstance(kernel, PrunedKernel) and isinstance(kernel.dense, dense)
    assert bool(kernel.n_leading) == (separation == 3.0)
    expected = tile_statistics(mixture, rows, None, weighted)[1]
    assert_same_statistics(statistics, expected, 1e-12)


@pytest.mark.parametrize("examples_show_it", [True, False])
def test_a_tile_in_which_too_much_matters_is_computed_whole(examples_show_it: bool) -> None:
    """Rows that all components explain about as badly, though the components lie far apart."""
    means = 10 * np.random.default_rng(0).standard_normal((6, 64))
    mixture = mixture_of("full", np.full(6, 1 / 6), means, np.repeat(np.eye(64)[None], 6, axis=0))
    rows = np.random.default_rng(1).standard_normal((600, 64)) * np.where(np.arange(64) < 32, 0.01, 3.0) + means.mean(0)
    if not examples_show_it:
        rows[:: 600 // FEW] = means[0]
    kernel, statistics = tile_statistics(mixture, rows, max_abs_deviation_of(rows))
    assert isinstance(kernel, PrunedKernel) and kernel.n_leading and "dense" in vars(kernel)
    assert_same_statistics(statistics, tile_statistics(mixture, rows, None)[1], 1e-12)


def test_masked_rows_do_not_make_a_tile_dense() -> None:
    """They lie at the centre, which is as far from each component."""
    mixture = mixture_of("full", np.full(6, 1 / 6), 20 * np.eye(6, 64), np.repeat(np.eye(64)[None], 6, axis=0))
    rows = mixture.means[np.arange(500) % 6] + np.random.default_rng(1).standard_normal((500, 64))
    rows[:400] = np.nan
    tile, statistics = Tile(64, 500, NUMPY), SufficientStatistics.empty(mixture.layout)
    tile.fill(Rows.of(rows), np.zeros(64), mask=True)
    e_step = EStep(mixture.e_step_inputs(np.zeros(64), np.full(64, 100.0)))
    e_step(tile, statistics)
    kernel = e_step._kernel
    assert isinstance(kernel, PrunedKernel) and kernel.n_leading and "dense" not in vars(kernel)
    assert_same_statistics(statistics, tile_statistics(mixture, rows[400:], None)[1], 1e-9)
