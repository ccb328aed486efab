"""First mixtures, and the sample of rows that they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.mixture._gaussian_mixture import _estimate_gaussian_parameters
from support import TYPES, blobs, survey_of, write_config, write_rows

from mpigmm.__main__ import serve
from mpigmm.core.algorithms.initialise import (
    COMPARISON_ROWS,
    LLOYD_STEPS,
    GivenParameters,
    initialise,
    lloyd,
    plus_plus,
)
from mpigmm.core.algorithms.responsibilities import partition_mixture
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.sampling import RowSampler
from mpigmm.errors import InterruptedRunError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest

ROWS = blobs(4000, 3, 5, separation=6)
SAFE = Safeguards(0.0, 0.0)


def test_lloyd_is_scikit_learns() -> None:
    weights = np.random.default_rng(0).random(len(ROWS))
    means = ROWS[:5]
    ours, labels = lloyd(ROWS, weights, means, least_change=0)
    theirs = KMeans(5, init=means, n_init=1, tol=0, max_iter=100).fit(ROWS, sample_weight=weights)
    np.testing.assert_allclose(ours, theirs.cluster_centers_, rtol=1e-9, atol=1e-9)
    assert (labels == theirs.labels_).all()


def test_lloyd_ends_where_few_rows_change_their_component() -> None:
    steps: list[int] = []
    rows = np.random.default_rng(0).standard_normal((20_000, 6))
    exact, _ = lloyd(rows, np.ones(20_000), rows[:8], least_change=0)
    means, labels = lloyd(rows, np.ones(20_000), rows[:8], lambda name, done, most: steps.append(done))
    moved = np.square(rows[:, None] - means).sum(axis=2)
    assert max(steps) < LLOYD_STEPS and (moved.argmin(axis=1) == labels).all()
    best = np.square(rows[:, None] - exact).sum(axis=2).min(axis=1).sum()
    assert moved.min(axis=1).sum() < 1.002 * best


@pytest.mark.parametrize("shares", ["equal", "uneven"])
def test_plus_plus_finds_hundreds_of_separated_components(shares: str) -> None:
    random, k = np.random.default_rng(5), 300
    weights = np.ones(k) if shares == "equal" else 0.1 + random.random(k)
    labels = random.choice(k, 64 * k, p=weights / weights.sum())
    rows = 100 * random.standard_normal((k, 10))[labels] + random.standard_normal((64 * k, 10))
    assert len(rows) > 2 * COMPARISON_ROWS
    means = plus_plus(rows, np.ones(len(rows)), k, np.random.default_rng(0))
    owner = {row.tobytes(): label for row, label in zip(rows, labels, strict=True)}
    assert len({owner[mean.tobytes()] for mean in means}) == k


def test_plus_plus_finds_separated_components() -> None:
    centres = np.array([[0, 0], [100, 0], [0, 100], [100, 100]])
    rows = np.concatenate([c + np.random.default_rng(1).standard_normal((200, 2)) for c in centres])
    means = plus_plus(rows, np.ones(800), 4, np.random.default_rng(0))
    assert len(np.unique(np.round(means / 100), axis=0)) == 4


@pytest.mark.parametrize("covariance_type", TYPES)
def test_kmeans_start_is_the_mixture_of_its_partition(covariance_type: str) -> None:
    rows = blobs(4000, 3, 5, separation=20)  # so far apart that k-means ends where no row changes its component
    survey = survey_of(rows)
    kind = COVARIANCE_TYPES[covariance_type]
    mixture = initialise("kmeans", kind, 5, (rows, np.ones(len(rows))), survey, SAFE, (0, 0))
    standard = (rows[:, None] - mixture.means) / rows.std(axis=0)
    labels = np.square(standard).sum(axis=2).argmin(axis=1)
    for k in range(5):
        part = rows[labels == k]
        assert mixture.weights[k] == pytest.approx(len(part) / len(rows), rel=1e-9)
        if covariance_type == "full":
            np.testing.assert_allclose(mixture.covariances.values[k], np.cov(part.T, bias=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_mixture_of_a_partition(covariance_type: str) -> None:
    weights, labels = np.random.default_rng(1).random(len(ROWS)), np.arange(len(ROWS)) % 4
    survey, kind = survey_of(ROWS, weights), COVARIANCE_TYPES[covariance_type]
    mixture = partition_mixture(kind, (ROWS, weights), labels, np.zeros((4, 3)), survey, SAFE)
    parts = [np.average(ROWS[labels == k], axis=0, weights=weights[labels == k]) for k in range(4)]
    scatters = np.array([np.cov(ROWS[labels == k].T, aweights=weights[labels == k], ddof=0) for k in range(4)])
    shares = np.bincount(labels, weights) / weights.sum()
    expected = {
        "full": scatters,
        "tied": np.einsum("k,kde->de", shares, scatters),
        "diag": np.diagonal(scatters, axis1=1, axis2=2),
        "spherical": np.trace(scatters, axis1=1, axis2=2) / 3,
    }
    np.testing.assert_allclose(mixture.weights, shares, rtol=1e-12)
    np.testing.assert_allclose(mixture.means, parts, rtol=1e-9)
    np.testing.assert_allclose(mixture.covariances.values, expected[covariance_type], rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_a_narrow_component_far_from_all_others_keeps_its_digits(covariance_type: str) -> None:
    near, narrow = ROWS, 1e9 + 2.0**-8 * np.random.default_rng(2).integers(-9, 10, (1000, 3))
    rows, labels = np.concatenate([near, narrow]), np.repeat([0, 1], [len(near), len(narrow)])
    means = np.stack([near.mean(axis=0), np.full(3, 1e9)])
    sample, kind = (rows, np.ones(len(rows))), COVARIANCE_TYPES[covariance_type]
    mixture = partition_mixture(kind, sample, labels, means, survey_of(rows), SAFE)
    exact = np.cov((narrow - 1e9).T, ddof=0)
    found = mixture.covariances.values[1]
    expected = {"full": exact, "diag": np.diagonal(exact), "spherical": np.trace(exact) / 3}[covariance_type]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_components", [2, 300])
def test_progress_is_told_in_order_and_stops_the_start(n_components: int) -> None:
    told: list[tuple[str, int, int]] = []
    sample = (ROWS, np.ones(len(ROWS)))
    inputs = "kmeans", COVARIANCE_TYPES["diag"], n_components, sample, survey_of(ROWS), SAFE, (0, 0)
    initialise(*inputs, lambda *line: told.append(line))
    names = list(dict.fromkeys(name for name, _, _ in told))
    assert names == ["k-means++, mean", "k-means, step", "moments of component"]
    for name in names:
        steps = [done for other, done, _ in told if other == name]
        assert steps == sorted(steps) and all(0 <= done <= most for other, done, most in told if other == name)

    def stop(name: str, done: int, most: int) -> None:
        if name == names[1]:
            raise InterruptedRunError(name)

    with pytest.raises(InterruptedRunError, match="k-means, step"):
        initialise(*inputs, stop)


@pytest.mark.parametrize("method", ["kmeans", "kmeans++", "random"])
def test_starts_follow_shift_and_scale(method: str) -> None:
    weights = np.ones(len(ROWS))
    scale, shift = np.array([0.25, 8.0, 1024.0]), np.array([3.0, -70.0, 5000.0])
    kind = COVARIANCE_TYPES["diag"]
    plain = initialise(method, kind, 5, (ROWS, weights), survey_of(ROWS), SAFE, (7, 0))
    moved_rows = ROWS * scale + shift
    moved = initialise(method, kind, 5, (moved_rows, weights), survey_of(moved_rows), SAFE, (7, 0))
    np.testing.assert_allclose((moved.means - shift) / scale, plain.means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moved.covariances.values / scale**2, plain.covariances.values, rtol=1e-7)


def test_random_means_are_different_rows_of_positive_weight() -> None:
    weights = np.where(np.arange(len(ROWS)) < 10, 1.0, 0.0)
    mixture = initialise("random", COVARIANCE_TYPES["full"], 10, (ROWS, weights), survey_of(ROWS), SAFE, (0, 0))
    np.testing.assert_allclose(np.sort(mixture.means, axis=0), np.sort(ROWS[:10], axis=0), rtol=1e-12)


def test_seeds_differ() -> None:
    survey, sample = survey_of(ROWS), (ROWS, np.ones(len(ROWS)))
    starts = [
        initialise("random", COVARIANCE_TYPES["diag"], 5, sample, survey, SAFE, seed).means
        for seed in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert (starts[0] == starts[3]).all()
    assert not (starts[0] == starts[1]).all()
    assert not (starts[0] == starts[2]).all()


def test_rows_are_chosen_by_number_alone() -> None:
    sampler = RowSampler(3, 0.1)
    whole = sampler.chosen(0, 100_000)
    parts = np.concatenate([sampler.chosen(start, 1000) + start for start in range(0, 100_000, 1000)])
    assert (whole == parts).all()
    assert len(whole) == pytest.approx(10_000, rel=0.05)
    more = RowSampler(3, 0.2).chosen(0, 100_000)
    assert set(whole) <= set(more)


def test_a_fit_tells_how_far_its_starts_are(
    comm: Comm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mpigmm.runs.pacing.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("mpigmm.runs.pacing.SHARE", 0.0)
    config = write_config(
        tmp_path / "run.yaml",
        data={"path": str(write_rows(tmp_path / "x.h5", ROWS))},
        model={"n_components": 20},
        em={"max_iter": 1},
        init={"n_init": 2, "screening": False},
        output={"dir": str(tmp_path / "out")},
    )
    assert serve(comm, ["fit", str(config)], StopRequest()) == 0
    told = capsys.readouterr().err
    for line in (
        "start 1/2  initialisation: k-means++, mean 19/20",
        "start 2/2  initialisation: k-means, step 0/100",
        "start 2/2  initialisation: moments of component 19/20",
    ):
        assert line in told, told


def test_every_second_start_measures_distances_in_the_units_of_the_data() -> None:
    rows = ROWS * np.array([1.0, 1e-3, 1e3])
    survey, weights = survey_of(rows), np.ones(len(rows))
    for init, scale in ((1, np.ones(3)), (2, np.sqrt(survey.variances))):
        standard = (rows - survey.centre) / scale
        means = plus_plus(standard, weights, 4, np.random.default_rng((0, init)))
        mixture = initialise("kmeans++", COVARIANCE_TYPES["diag"], 4, (rows, weights), survey, SAFE, (0, init))
        assert (mixture.means == means * scale + survey.centre).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_random_responsibilities_are_scikit_learns_m_step(covariance_type: str) -> None:
    weights = np.random.default_rng(2).random(len(ROWS))
    kind, survey = COVARIANCE_TYPES[covariance_type], survey_of(ROWS, weights)
    mixture = initialise("random_resp", kind, 3, (ROWS, weights), survey, SAFE, (5, 1))
    resp = np.random.default_rng((5, 1)).random((len(ROWS), 3))
    resp *= (weights / resp.sum(axis=1))[:, None]
    full = covariance_type == "tied"  # theirs assumes that the responsibilities of a row sum to one
    found, means, covariances = _estimate_gaussian_parameters(ROWS, resp, 0.0, "full" if full else covariance_type)
    covariances = np.einsum("k,kde->de", found / found.sum(), covariances) if full else covariances
    np.testing.assert_allclose(mixture.weights, found / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(mixture.means, means, rtol=1e-11)
    np.testing.assert_allclose(mixture.covariances.values, covariances, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_given_parameters_replace_those_that_are_computed(covariance_type: str) -> None:
    kind, survey, weights = COVARIANCE_TYPES[covariance_type], survey_of(ROWS), np.ones(len(ROWS))
    means = np.array([[0.0, 0.0, 0.0], [5.0, 5.0, -5.0]])
    given = GivenParameters(weights=np.array([0.25, 0.75]), means=means)
    mixture = initialise("random", kind, 2, (ROWS, weights), survey, SAFE, (0, 0), given=given)
    assert (mixture.means == means).all() and (mixture.weights == given.weights).all()
    labels = np.square((ROWS[:, None] - means) / np.sqrt(survey.variances)).sum(axis=2).argmin(axis=1)
    expected = partition_mixture(kind, (ROWS, weights), labels, means, survey, SAFE)
    assert (mixture.covariances.values == expected.covariances.values).all()
    assert given.mixture is None
    whole = GivenParameters(mixture.weights, mixture.means, mixture.covariances).mixture
    assert whole is not None and whole.digest() == mixture.digest()
