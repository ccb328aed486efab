"""First mixtures of hundreds of components: k-means|| and Lloyd's steps on a sample that ranks and threads share."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from support import blobs

import mpigmm
from mpigmm.api import source_of
from mpigmm.core.algorithms import kmeans_parallel
from mpigmm.core.algorithms.initialise import GivenParameters
from mpigmm.core.algorithms.kmeans_parallel import (
    MOST_ROUNDS,
    ROUNDS,
    IntegerScale,
    Points,
    SampleShare,
    are_enough,
    drawn_rows,
    largest_terms,
)
from mpigmm.driver import distributed_kmeans
from mpigmm.driver.distributed_kmeans import SampleKMeans, grid_rows, is_distributed
from mpigmm.driver.fit_rows import fit_rows
from mpigmm.driver.memory_recorder import MemoryRecorder
from mpigmm.errors import AgreedError
from mpigmm.options import FitOptions, InitOptions, ModelOptions
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.voice import Voice
from mpigmm.settings import agreed_options

pytestmark = [pytest.mark.filterwarnings("ignore::mpigmm.errors.MpigmmWarning"), pytest.mark.timeout(60)]
K = 40
ROWS = blobs(4000, 3, K, separation=2)
WEIGHTS = np.random.default_rng(1).integers(0, 4, len(ROWS)) / 4
SETTINGS: dict[str, Any] = {"model": {"n_components": K, "covariance_type": "diag"}, "compute": {"tile_rows": 300}}


@pytest.fixture(autouse=True)
def few_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems are distributed as large ones are."""
    monkeypatch.setattr(distributed_kmeans, "MANY_COMPONENTS", K)


def first_mixture(
    rows: np.ndarray,
    weights: np.ndarray | None = None,
    comm: Comm | None = None,
    stop: StopRequest | None = None,
    **sections: Any,
) -> mpigmm.Mixture:
    """The mixture with which a fit begins: the result of a fit without iterations."""
    comm = comm or SingleProcess()
    options = agreed_options(comm, {**SETTINGS, **sections}, in_memory=True)
    options = replace(options, em=replace(options.em, max_iter=0))
    source = source_of(comm, options, rows, weights, None, is_alone=False)
    new_recorder = partial(MemoryRecorder, options, source.header, Voice())
    recorder = fit_rows(comm, options, source, new_recorder, stop or StopRequest())
    return mpigmm.Mixture.from_model(comm.bcast(recorder.outcome).model)


def by_root(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> Any:
    """The result of work() where root alone makes the first mixture."""
    with monkeypatch.context() as patch:
        patch.setattr(distributed_kmeans, "MANY_COMPONENTS", 10**6)
        return work()


def own_rows(comm: Comm, n_rows: int = len(ROWS)) -> slice:
    """The rows of this rank, of which there are none on the first of several ranks."""
    edges = [0, *[n_rows * rank // 5 for rank in range(comm.size - 1)], n_rows]
    return slice(edges[comm.rank], edges[comm.rank + 1])


def bits(mixture: mpigmm.Mixture) -> dict[str, bytes]:
    return {name: getattr(mixture, name).tobytes() for name in ("weights", "means", "covariances")}


def inertia(rows: np.ndarray, means: np.ndarray) -> float:
    """Sum of squared distances of rows from the nearest mean, in units of the features' deviations."""
    _, squared = brute_force(rows / rows.std(axis=0), means / rows.std(axis=0))
    return float(squared.sum())


def brute_force(rows: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest point to each row, and its squared distance."""
    squared = np.square(rows[:, None] - points).sum(axis=2)
    return squared.argmin(axis=1), squared.min(axis=1)


def uneven(n_rows: int) -> np.ndarray:
    """Rows of components of uneven sizes, widths and tails, and some far from all."""
    random = np.random.default_rng(7)
    shares = 1 / np.arange(1, 31)
    labels = random.choice(30, n_rows, p=shares / shares.sum())
    tails = random.standard_t(3, (n_rows, 5)) * random.lognormal(0, 0.7, 30)[labels][:, None]
    return (3 * random.standard_normal((30, 5)))[labels] + tails


def ladder(n_rows: int) -> np.ndarray:
    """Rows near zero, and some each of which is three times as far away as the one before."""
    rows = np.random.default_rng(3).standard_normal((n_rows, 2))
    rows[:12] = 3.0 ** np.arange(12)[:, None]
    return rows


KINDS = {
    "blobs": lambda: blobs(4000, 4, K),
    "uneven": lambda: uneven(4000),
    "noise": lambda: np.random.default_rng(0).standard_normal((4000, 6)),
    "curve": lambda: np.sin(np.random.default_rng(0).random((4000, 1)) * np.arange(1, 9) * 3),
    "ladder": lambda: ladder(4000),
    "grid": lambda: np.random.default_rng(0).integers(0, 9, (4000, 3)).astype(float),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_partition_is_as_good_as_that_of_greedy_k_means_plus_plus(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = KINDS[kind]()

    def found() -> float:
        starts = [first_mixture(rows, init={"seed": seed}) for seed in range(3)]
        return float(np.median([inertia(rows, start.means) for start in starts]))

    assert found() < 1.05 * by_root(monkeypatch, found)


def test_hundreds_of_separated_components_are_found() -> None:
    random, k = np.random.default_rng(5), 300
    shares = 0.1 + random.random(k)
    labels = random.choice(k, 30 * k, p=shares / shares.sum())
    rows = 100 * random.standard_normal((k, 10))[labels] + random.standard_normal((30 * k, 10))
    mixture = first_mixture(rows, model={"n_components": k, "covariance_type": "spherical"})
    assert len({labels[np.square(rows - mean).sum(axis=1).argmin()] for mean in mixture.means}) == k


@pytest.mark.parallel
@pytest.mark.parametrize("method", ["kmeans", "kmeans++"])
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_the_bits_do_not_depend_on_ranks_and_threads(comm: MpiComm, method: str, covariance_type: str) -> None:
    own = own_rows(comm)
    sections = {
        "model": {"n_components": K, "covariance_type": covariance_type},
        "init": {"method": method, "n_init": 2, "seed": 3},
    }
    expected = bits(first_mixture(ROWS, WEIGHTS, **sections))
    for threads in (1, 3):
        compute = {"tile_rows": 300, "threads": threads}
        assert bits(first_mixture(ROWS[own], WEIGHTS[own], comm, **sections, compute=compute)) == expected


@pytest.mark.parallel
def test_a_fit_has_the_same_bits_too(comm: MpiComm) -> None:
    settings = {**SETTINGS, "em": {"max_iter": 3, "tol": 0}}
    own = own_rows(comm)
    alone, together = mpigmm.fit(settings, ROWS), mpigmm.fit(settings, ROWS[own], comm=comm.mpi)
    assert bits(alone.mixture) == bits(together.mixture)


def test_the_means_of_the_other_method_are_rows() -> None:
    mixture = first_mixture(ROWS, init={"method": "kmeans++"})
    distances = np.square(ROWS[:, None] - mixture.means).sum(axis=2).min(axis=0)
    assert distances.max() < 1e-24 and len(np.unique(mixture.means, axis=0)) == K
    assert (mixture.weights == 1 / K).all()


def test_k_means_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same means, until no row moves."""
    seen: list[Any] = []
    partition_mixture = distributed_kmeans.partition_mixture

    def note(kind: Any, *others: Any) -> Any:
        seen.append(others)
        return partition_mixture(kind, *others)

    random = np.random.default_rng(0)
    first = random.standard_normal((K, 3))
    monkeypatch.setattr(distributed_kmeans, "partition_mixture", note)
    monkeypatch.setattr(distributed_kmeans, "LEAST_CHANGE", 0.0)
    monkeypatch.setattr(SampleKMeans, "start", lambda *arguments: first)
    first_mixture(ROWS, WEIGHTS)
    (rows, weights), labels, means, survey = seen[0][:4]
    centre, scale = survey.centre, np.sqrt(survey.variances)
    theirs = KMeans(K, init=first, n_init=1, tol=0, max_iter=100)
    theirs.fit((ROWS - centre) / scale, sample_weight=WEIGHTS)
    assert (rows == ROWS[WEIGHTS > 0]).all() and (weights == WEIGHTS[WEIGHTS > 0]).all()
    np.testing.assert_allclose((means - centre) / scale, theirs.cluster_centers_, rtol=1e-9, atol=1e-9)
    assert (labels == theirs.labels_[WEIGHTS > 0]).all()


@pytest.mark.parallel
@pytest.mark.parametrize("name", ["offer", "sums", "move"])
def test_an_error_on_one_rank_ends_all(comm: MpiComm, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(SampleShare, name, lambda *arguments: 1 / 0)
    with pytest.raises(AgreedError, match="ZeroDivisionError"):
        first_mixture(ROWS[own_rows(comm)], comm=comm)


@pytest.mark.parallel
def test_an_error_on_root_ends_all(comm: MpiComm, monkeypatch: pytest.MonkeyPatch) -> None:
    if comm.is_root:
        monkeypatch.setattr(distributed_kmeans, "chosen_means", lambda *arguments: 1 / 0)
    with pytest.raises(AgreedError, match="rank 0 failed"):
        first_mixture(ROWS[own_rows(comm)], comm=comm)


@pytest.mark.parallel
@pytest.mark.parametrize("where", ["k-means||", "k-means++", "k-means, step", "moments"])
def test_a_request_to_stop_on_one_rank_ends_all(comm: MpiComm, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the last rank, or on root where root alone works, it arrives as the work in progress is reported."""
    stop = StopRequest()
    report = MemoryRecorder.initialisation

    def struck(recorder: MemoryRecorder, init: int, name: str, done: int, most: int) -> None:
        report(recorder, init, name, done, most)
        if name.startswith(where):
            stop.received = signal.SIGTERM

    if comm.is_root:
        monkeypatch.setattr(MemoryRecorder, "initialisation", struck)
    with pytest.raises(AgreedError, match="interrupted by SIGTERM"):
        first_mixture(ROWS[own_rows(comm)], comm=comm, stop=stop)


@pytest.mark.parallel
def test_a_request_to_stop_on_another_rank_ends_all(comm: MpiComm, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, move = StopRequest(), SampleShare.move

    def struck(*arguments: Any) -> Any:
        stop.received = signal.SIGTERM
        return move(*arguments)

    if comm.rank == comm.size - 1:
        monkeypatch.setattr(SampleShare, "move", struck)
    with pytest.raises(AgreedError, match="interrupted by SIGTERM"):
        first_mixture(ROWS[own_rows(comm)], comm=comm, stop=stop)


def test_fewer_distinct_rows_than_components() -> None:
    rows = np.repeat(np.random.default_rng(0).standard_normal((7, 3)), 100, axis=0)
    rows[:, 1] = 5.0  # a constant feature
    for method in ("kmeans", "kmeans++"):
        result = mpigmm.fit({**SETTINGS, "init": {"method": method}, "em": {"max_iter": 3}}, rows)
        assert np.isfinite(result.summary["mean_log_likelihood"])
    _, squared = brute_force(np.unique(rows, axis=0), first_mixture(rows, init={"method": "kmeans++"}).means)
    assert squared.max() < 1e-24


def test_rows_that_are_all_alike() -> None:
    assert np.isfinite(first_mixture(np.ones((K, 2))).means).all()
    assert (first_mixture(np.ones((K, 2)), init={"method": "kmeans++"}).means == 1.0).all()


def test_few_rows_and_any_units() -> None:
    rows = ROWS[:K] * [1e-90, 1.0, 1e90]
    mixture = first_mixture(rows, np.full(K, 1e-50), model={"n_components": K, "reg_covar": 0, "variance_floor": 1e-3})
    assert np.isfinite(mixture.means).all() and (np.abs(mixture.means) <= np.abs(rows).max(axis=0)).all()


def test_given_weights_and_small_problems() -> None:
    """Given means, and other methods, are left to root, as is a small number of components."""
    model, nothing = ModelOptions(n_components=K), GivenParameters()

    def distributed(method: str = "kmeans", k: int = K, given: GivenParameters = nothing) -> bool:
        options = FitOptions(model=replace(model, n_components=k), init=InitOptions(method=method))
        return is_distributed(options, given)

    assert distributed() and distributed("kmeans++") and distributed(given=GivenParameters(weights=np.ones(K) / K))
    assert not any(map(distributed, ["random", "random_resp", "labels", "file"]))
    assert not distributed(k=K - 1) and not distributed(given=GivenParameters(means=ROWS[:K]))


@pytest.mark.parallel
def test_progress_is_told_in_order(comm: MpiComm, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(MemoryRecorder, "initialisation", lambda recorder, init, *line: told.append(line))
    first_mixture(ROWS[own_rows(comm)], comm=comm)
    names = ["k-means||, round", "k-means++, mean", "k-means, step", "moments of component"] if comm.is_root else []
    assert list(dict.fromkeys(name for name, _, _ in told)) == names
    for name in names:
        steps = [done for other, done, _ in told if other == name]
        assert steps == sorted(steps) and all(0 <= done <= most for other, done, most in told if other == name)


def share_of(rows: np.ndarray, weights: np.ndarray) -> tuple[SampleShare, IntegerScale]:
    scale = IntegerScale.of(largest_terms(rows, weights), len(rows))
    return SampleShare(rows, weights, scale, lambda: None), scale


def test_points_that_are_offered_one_after_the_other() -> None:
    share, _ = share_of(ROWS, WEIGHTS)
    points = ROWS[::37]
    for start in range(0, len(points), 25):
        some = points[start : start + 25]
        share.offer(Points(some, np.arange(start, start + len(some))))
    labels, squared = brute_force(ROWS, points)
    assert (share.labels == labels).all()
    np.testing.assert_allclose(share.masses(), WEIGHTS * squared, rtol=1e-9, atol=1e-12)
    share.forget()
    share.offer(Points(points[:3], np.arange(3)))
    assert (share.labels == brute_force(ROWS, points[:3])[0]).all()


def test_means_that_move_are_compared_as_all_means_are() -> None:
    share, scale = share_of(ROWS, WEIGHTS)
    means = ROWS[:K].copy()
    share.offer(Points(means, np.arange(K)))
    sums, random = share.sums(K), np.random.default_rng(4)
    for _ in range(12):
        previous = share.labels.copy()
        moved = random.random(K) < random.choice([0.05, 0.5, 1.0])
        means[moved] += random.standard_normal((moved.sum(), 3)) * random.choice([0.01, 0.3, 2.0])
        moves = [Points(means[which], np.flatnonzero(which)) for which in (moved, ~moved)]
        change, weight = share.move(means, *moves)
        labels, squared = brute_force(ROWS, means)
        assert (share.labels == labels).all()
        np.testing.assert_allclose(share.masses(), WEIGHTS * squared, rtol=1e-9, atol=1e-12)
        sums += change
        assert (sums == share.sums(K)).all()
        assert weight / scale.factors[0] == WEIGHTS[previous != labels].sum()


def test_sums_are_means_and_do_not_depend_on_the_parts() -> None:
    whole, scale = share_of(ROWS, WEIGHTS)
    whole.offer(Points(ROWS[:K], np.arange(K)))
    parts = np.zeros((K, 4), np.int64)
    for part in (slice(0, 512), slice(512, 3584), slice(3584, None)):
        share = SampleShare(ROWS[part], WEIGHTS[part], scale, lambda: None)
        share.offer(Points(ROWS[:K], np.arange(K)))
        parts += share.sums(K)
    assert (parts == whole.sums(K)).all()
    sums, held = np.zeros((K, 4), np.int64), np.arange(K) != 3
    sums[held] = parts[held]
    means, previous = scale.means(sums, np.full((K, 3), 9.0)), scale.means(parts, np.zeros((K, 3)))
    assert (means[3] == 9.0).all() and (means[held] == previous[held]).all()
    for label in range(K):
        own = whole.labels == label
        if WEIGHTS[own].sum():
            np.testing.assert_allclose(previous[label], np.average(ROWS[own], axis=0, weights=WEIGHTS[own]), rtol=1e-9)


@pytest.mark.parametrize(("magnitude", "precision"), [(1e-305, 1e-3), (1e-140, 1e-12), (1.0, 1e-12), (1e140, 1e-12)])
def test_integers_do_not_overflow(magnitude: float, precision: float) -> None:
    rows = np.full((1025, 2), magnitude)
    share, scale = share_of(rows, np.full(1025, 0.7))
    sums = share.sums(1)
    assert (sums > 0).all() and (sums < 2**62).all()
    np.testing.assert_allclose(scale.means(sums, rows[:1]), rows[:1], rtol=precision)
    np.testing.assert_allclose(scale.counts(sums), 0.7 * 1025, rtol=1e-12)


def test_rows_are_drawn_in_proportion_to_their_masses() -> None:
    random, masses = np.random.default_rng(0), np.array([0.0, 1.0, 2.0, 0.0, 7.0])
    found = np.bincount(np.concatenate([drawn_rows(masses, 1, random) for _ in range(4000)]), minlength=5)
    np.testing.assert_allclose(found / 4000, masses / 10, atol=0.03)
    assert list(drawn_rows(masses, 1000, random)) == [1, 2, 4]
    assert len(drawn_rows(np.zeros(5), 3, random)) == 0
    assert len(drawn_rows(np.ones(5000), 100, random)) == 100


def test_rounds_go_on_while_there_are_few_candidates() -> None:
    assert not are_enough(ROUNDS - 1, 10 * K, K) and are_enough(ROUNDS, 2 * K, K)
    assert not are_enough(ROUNDS, 2 * K - 1, K) and are_enough(MOST_ROUNDS, 1, K)


@pytest.mark.parametrize(("n_rows", "n_shares"), [(0, 3), (1, 3), (512, 2), (513, 2), (9000, 4), (9000, 64)])
def test_shares_are_whole_chunks(n_rows: int, n_shares: int) -> None:
    found = [grid_rows(n_rows, share, n_shares) for share in range(n_shares)]
    assert found[0].start == 0 and found[-1].stop == n_rows
    assert all(one.stop == other.start for one, other in itertools.pairwise(found))
    assert all(own.start % kmeans_parallel.GRID_ROWS == 0 or own.start == own.stop for own in found)
