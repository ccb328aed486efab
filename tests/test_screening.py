"""Starts that are screened: what is tried, which start is chosen, and what screening leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture
from support import TYPES, assert_same_bits, blobs, survey_of

import mpigmm
from mpigmm.core.algorithms import screening
from mpigmm.core.algorithms.base import Grid, Problem
from mpigmm.core.algorithms.initialise import initialise
from mpigmm.core.algorithms.responsibilities import Sample, partition_mixture
from mpigmm.core.algorithms.row_coordinates import RowCoordinates
from mpigmm.core.algorithms.screening import Screening, few_rows
from mpigmm.core.algorithms.short_runs import LEAST_GAIN, ShortRuns
from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.priors import NoPrior
from mpigmm.errors import ConfigError, InterruptedRunError, MpigmmWarning
from mpigmm.options import FitOptions, InitOptions, ModelOptions

pytestmark = pytest.mark.filterwarnings("ignore:max_iter came before convergence")

K = 5
SKEWED = np.exp(blobs(6000, 3, K, separation=0.8)) * [1.0, 1e-3, 1e3]
"""Rows of long tails and uneven scales."""

ROWS = SKEWED[:2000]
EQUAL = np.ones(len(ROWS))
OPS = ops_by_name(best_ops())
SAFE = Safeguards(1e-6, 0.0)


def problem_of(rows: np.ndarray, weights: np.ndarray | None = None, n_rows: int = 10**6, reg: float = 1e-6) -> Problem:
    survey = survey_of(rows, weights)
    return Problem(survey, Safeguards(reg, 0.0), NoPrior(survey), DOUBLE, Grid(n_rows, 1000), 3)


def screening_of(rows: np.ndarray, covariance_type: str, **others: Any) -> Screening:
    sample, settings = (rows, np.ones(len(rows))), {"n_components": K, "n_init": 1, "ops": OPS, **others}
    return Screening(problem_of(rows), COVARIANCE_TYPES[covariance_type], sample=sample, **settings)


def scikit_learns(mixture: Mixture, rows: np.ndarray, n_steps: int, reg: float = 1e-6) -> tuple[float, GaussianMixture]:
    """Mean log-likelihood after steps of EM, and scikit-learn's estimator with it."""
    kind, covariances = mixture.covariances.name, mixture.covariances.values
    precisions = np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances
    theirs = GaussianMixture(
        len(mixture.means),
        covariance_type=kind,
        tol=0,
        reg_covar=reg,
        max_iter=n_steps,
        weights_init=mixture.weights,
        means_init=mixture.means,
        precisions_init=precisions,
    )
    with pytest.warns(UserWarning, match="did not converge"):
        theirs.fit(rows)
    return theirs.score(rows), theirs


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_short_run_is_scikit_learns(covariance_type: str) -> None:
    start = next(screening_of(ROWS, covariance_type).candidates())
    runs = ShortRuns(problem_of(ROWS), K, len(ROWS), NUMPY, lambda: None)
    objective, mixture = runs.run(start, (ROWS, EQUAL), 4)
    expected, theirs = scikit_learns(start, ROWS, 4)
    assert objective == pytest.approx(expected, rel=1e-7)
    assert objective == runs.objective(mixture, (ROWS, EQUAL))
    np.testing.assert_allclose(mixture.weights, theirs.weights_, rtol=1e-6)
    assert runs.rows_seen == 6 * len(ROWS)


def test_a_short_run_ends_where_it_gains_little_and_before_a_step_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = ShortRuns(problem_of(ROWS), K, len(ROWS), NUMPY, lambda: None)
    start = next(screening_of(ROWS, "diag").candidates())
    last, mixture = runs.run(start, (ROWS, EQUAL), 1000)
    assert runs.run(mixture, (ROWS, EQUAL), 1)[0] - last < LEAST_GAIN

    def fails(*_: object) -> None:
        raise SingularCovarianceError("component 1")

    monkeypatch.setattr(ShortRuns, "_m_step", fails)
    objective, same = runs.run(start, (ROWS, EQUAL), 3)
    assert same is start and objective == runs.objective(start, (ROWS, EQUAL))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_count_rows_in_short_runs_and_coordinates(covariance_type: str) -> None:
    weights = np.random.default_rng(1).integers(1, 4, len(ROWS))
    repeated, problem = np.repeat(ROWS, weights, axis=0), problem_of(ROWS, weights.astype(float))
    start = next(screening_of(ROWS, covariance_type).candidates())
    ends = [
        ShortRuns(problem, K, len(rows), NUMPY, lambda: None).run(start, (rows, weight), 3)
        for rows, weight in ((ROWS, weights.astype(float)), (repeated, np.ones(len(repeated))))
    ]
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-12)
    np.testing.assert_allclose(ends[0][1].means, ends[1][1].means, rtol=1e-9)
    one = RowCoordinates((ROWS, weights.astype(float)), problem.summary)
    other = RowCoordinates((repeated, np.ones(len(repeated))), problem.summary)
    assert (one.robust_scales == other.robust_scales).all()
    np.testing.assert_allclose(np.repeat(one.compressed(), weights, axis=0), other.compressed(), rtol=1e-12)
    assert np.cov(one.whitened().T, fweights=weights, ddof=0) == pytest.approx(np.eye(3), abs=1e-9)


def test_robust_coordinates_are_those_of_the_middle_of_the_rows() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((20_000, 4)) * [1, 10, 100, 1]
    rows[::50] *= 1e6
    rows[:, 3] = np.where(random.random(20_000) < 0.8, 0.0, rows[:, 3])  # its quartiles are equal
    scales = RowCoordinates((rows, np.ones(20_000)), survey_of(rows)).robust_scales
    np.testing.assert_allclose(scales[:3], [1, 10, 100], rtol=0.05)
    assert 0.3 < scales[3] < 1
    constant = np.ones((9, 2))
    assert (RowCoordinates((constant, np.ones(9)), survey_of(constant)).robust_scales == 1).all()
    assert np.isfinite(RowCoordinates((constant, np.ones(9)), survey_of(constant)).whitened()).all()


def test_a_feature_of_which_most_values_are_tiny() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((2000, 2))
    rows[:, 1] = np.where(random.random(2000) < 0.8, 10.0 ** random.uniform(-300, -200, 2000), random.random(2000))
    assert 0.1 < RowCoordinates((rows, EQUAL), survey_of(rows)).robust_scales[1] < 1
    settings: dict[str, Any] = {"model": {"n_components": 3}, "em": {"max_iter": 2}}
    with pytest.warns(MpigmmWarning, match="a million standard deviations from the rest"):
        assert np.isfinite(mpigmm.fit(settings, rows).mixture.means).all()


def brute_force(found: Screening, sample: Sample) -> float:
    """The largest objective that short runs from all candidates reach on a sample, two of them the long way."""
    runs = ShortRuns(found.problem, K, len(sample[0]), OPS, lambda: None)
    ended = [runs.run(each, found.few, screening.FIRST_STEPS)[1] for each in found.candidates()]
    ended.sort(key=lambda mixture: -runs.objective(mixture, sample))
    return max(runs.run(mixture, sample, screening.LAST_STEPS)[0] for mixture in ended[:2])


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("n_rows", "n_init"), [(2000, 1), (6000, 2)])
def test_the_start_is_that_of_the_best_candidate(covariance_type: str, n_rows: int, n_init: int) -> None:
    rows = SKEWED[:n_rows]
    found, sample = screening_of(rows, covariance_type, n_init=n_init), (rows, np.ones(n_rows))
    mixture, rows_seen = found.start()
    assert found.n_candidates == found.done.number == 7 * n_init
    runs = ShortRuns(found.problem, K, n_rows, OPS, lambda: None)
    reached = runs.objective(mixture, sample)
    assert reached == brute_force(found, sample)
    assert rows_seen == n_rows + found.runs.rows_seen > 10 * n_rows


@pytest.mark.parametrize("n_rows", [2000, 6000])
def test_the_unscreened_starts_are_among_the_candidates_and_are_not_better(n_rows: int) -> None:
    rows = SKEWED[:n_rows]
    found, sample, problem = screening_of(rows, "full", n_init=2), (rows, np.ones(n_rows)), problem_of(rows)
    reached, candidates = found.runs.objective(found.start()[0], sample), list(found.candidates())
    for init in range(2):
        start = initialise("kmeans", found.kind, K, sample, problem.summary, problem.safeguards, (3, init))
        assert start.digest() == candidates[7 * init].digest()
        assert found.runs.objective(start, sample) < reached


def test_the_start_without_screening_is_never_beaten_on_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    found = screening_of(ROWS, "full")
    plain = next(found.candidates())

    def worse(self: ShortRuns, mixture: Mixture, sample: Sample, n_steps: int) -> tuple[float, Mixture]:
        bad = partition_mixture(found.kind, sample, np.zeros(len(ROWS), np.intp), plain.means, survey_of(ROWS), SAFE)
        return self.objective(bad, sample), bad

    monkeypatch.setattr(ShortRuns, "run", worse)
    assert found.start()[0].digest() == plain.digest()


def test_rows_on_which_candidates_agree_need_few_of_them() -> None:
    found = screening_of(blobs(2000, 3, K, separation=20), "full")
    found.start()
    assert found.done.number == screening.N_AGREEING < found.n_candidates


def test_few_rows_are_a_sample_of_the_sample() -> None:
    sample = SKEWED, np.arange(6000.0)
    rows, weights = few_rows(sample, K, 0)
    assert len(rows) == screening.FEW_ROWS and (np.diff(weights) > 0).all()
    assert (rows == SKEWED[weights.astype(int)]).all()
    assert weights.mean() == pytest.approx(3000, rel=0.05)
    assert (few_rows(sample, K, 0)[1] == weights).all() and (few_rows(sample, K, 1)[1] != weights).any()
    assert few_rows(sample, 200, 0) is sample


def test_costly_mixtures_start_as_without_screening() -> None:
    rows = blobs(1000, 150, 3)
    sample, kind = (rows, np.ones(1000)), COVARIANCE_TYPES["full"]
    problem = problem_of(rows, n_rows=1000)
    mixture, rows_seen = Screening(problem, kind, 40, 1, sample, NUMPY).start()
    plain = initialise("kmeans", kind, 40, sample, problem.summary, problem.safeguards, (problem.seed, 0))
    assert_same_bits(mixture.arrays(), plain.arrays())
    assert rows_seen == 1000


def test_progress_is_told_in_order_and_stops_the_screening() -> None:
    told: list[tuple[str, int, int]] = []
    screening_of(ROWS, "diag", progress=lambda *line: told.append(line)).start()
    assert {(name, most) for name, _, most in told} == {("candidate", 7)}
    done = [done for _, done, _ in told]
    assert done == sorted(done) and set(done) == set(range(8))

    def stop(name: str, done: int, most: int) -> None:
        if done == 3:
            raise InterruptedRunError(name)

    with pytest.raises(InterruptedRunError, match="candidate"):
        screening_of(ROWS, "diag", progress=stop).start()


def test_what_is_screened() -> None:
    def starts(n_components: int = 3, **init: Any) -> int:
        return FitOptions(model=ModelOptions(n_components=n_components), init=InitOptions(n_init=4, **init)).n_starts

    assert starts() == 1
    assert starts(screening=False) == starts(n_components=1) == starts(n_components=256) == 4
    assert starts(method="random") == starts(method="kmeans++") == 4


def fit(**init: Any) -> mpigmm.FitResult:
    return mpigmm.fit({"model": {"n_components": K}, "em": {"max_iter": 3}, "init": init}, ROWS)


def test_without_screening_each_start_runs_on_all_rows() -> None:
    both, first = fit(n_init=2, screening=False), fit(screening=False)
    assert both.convergence["init"].tolist() == [0, 0, 0, 1, 1, 1]
    lines = both.convergence[both.convergence["init"] == 0]
    assert lines["mean_log_likelihood"].tolist() == first.convergence["mean_log_likelihood"].tolist()
    problem = problem_of(ROWS)
    start = initialise("kmeans", COVARIANCE_TYPES["full"], K, (ROWS, EQUAL), problem.summary, SAFE, (0, 0))
    assert lines["mean_log_likelihood"][0] == pytest.approx(scikit_learns(start, ROWS, 1)[1].lower_bounds_[0])


def test_passes_count_the_rows_of_the_short_runs() -> None:
    screened, plain = fit(), fit(screening=False)
    more = screened.convergence["passes"] - plain.convergence["passes"]
    assert (more == more[0]).all() and 6 < more[0] < 60
    assert screened.convergence["mean_log_likelihood"][0] > plain.convergence["mean_log_likelihood"][0]


def test_another_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"init\.screening: 'twice' is not valid; true or false expected"):
        fit(screening="twice")


def test_given_parameters_are_not_screened() -> None:
    means = ROWS[:K]
    one, other = (
        mpigmm.GaussianMixture(K, means_init=means, max_iter=0, init_params=method).fit(ROWS)
        for method in ("kmeans", "k-means++")
    )
    assert one.means_.tobytes() == other.means_.tobytes() == means.tobytes()


def test_whitening_that_takes_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "EIGENVECTOR_WORK", 1e12)
    tried = [candidate.coordinates for _, candidate in screening_of(ROWS, "diag").more[0]]
    robust, seeded = RowCoordinates.robust, RowCoordinates.standardised
    assert tried == [RowCoordinates.unscaled, RowCoordinates.compressed, robust, seeded, RowCoordinates.unscaled]
