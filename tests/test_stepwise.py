"""Stepwise EM: its recursion, its batches, what it holds out, where it ends; and that fits keep their promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from strict import StrictGpu
from support import (
    TYPES,
    assert_same_bits,
    blobs,
    dense_covariances,
    mixture_of,
    mpirun,
    start_mixture,
    statistics_of,
    survey_of,
    write_config,
    write_rows,
)

import mpigmm
from mpigmm.config import resolve
from mpigmm.core.algorithms import stepwise as stepwise_module
from mpigmm.core.algorithms.base import EStepPass, Grid, Problem, Report, Summed
from mpigmm.core.algorithms.batch import BatchEM
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.algorithms.stepwise import StepwiseEM, StepwiseState
from mpigmm.core.algorithms.tile_batches import TileBatches, default_batch_tiles, held_out_tiles
from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.mixture import Mixture
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.driver import devices
from mpigmm.driver.messages import projected_text, unconverged_text
from mpigmm.errors import ConfigError, MpigmmWarning, OutputError
from mpigmm.options import EmOptions, FitOptions
from mpigmm.parallel.mpi import MpiComm
from mpigmm.runs.state import Ended, Fitted

ROWS, TILE_ROWS, K = blobs(1000, 3, 3, separation=1.5), 48, 3
STEPWISE = EmOptions(algorithm="stepwise", max_iter=3, tol=0.0, batch_tiles=4, step_offset=2.0)
HELD_OUT = replace(STEPWISE, held_out=0.2)

pytestmark = pytest.mark.filterwarnings(f"ignore::{MpigmmWarning.__module__}.{MpigmmWarning.__name__}")


def stepwise(
    em: EmOptions = STEPWISE,
    sample_weight: np.ndarray | None = None,
    dtype: np.dtype = DOUBLE,
    reg_covar: float = 0.0,
    tile_rows: int = TILE_ROWS,
    rows: np.ndarray = ROWS,
) -> StepwiseEM:
    survey = survey_of(rows, sample_weight)
    grid = Grid(len(rows), tile_rows)
    return StepwiseEM(Problem(survey, Safeguards(reg_covar, 0.0), NoPrior(survey), dtype, grid, 7), em)


def rows_of(algorithm: StepwiseEM, tiles: np.ndarray | None) -> np.ndarray:
    """Numbers of the rows of tiles."""
    grid = algorithm.problem.grid
    of_tile = np.arange(grid.n_rows) // grid.tile_rows
    return np.flatnonzero(np.isin(of_tile, np.arange(grid.n_tiles) if tiles is None else tiles))


def summed(
    algorithm: StepwiseEM, wanted: EStepPass, sample_weight: np.ndarray | None, rows: np.ndarray = ROWS
) -> Summed:
    """The sums of a pass over rows in memory."""
    own = rows_of(algorithm, wanted.tiles)
    weight = None if sample_weight is None else sample_weight[own]
    dtype, in_double = wanted.precision.dtype, wanted.precision.in_double
    sums = statistics_of(
        wanted.mixture,
        rows[own],
        algorithm.problem.summary,
        weight,
        dtype=dtype,
        in_double=in_double,
        n_limbs=wanted.n_limbs,
    )
    return Summed(wanted, SufficientStatistics.of(sums.value(), wanted.mixture.layout), sums.form.n_limbs)


def play(
    algorithm: StepwiseEM,
    state: StepwiseState,
    sample_weight: np.ndarray | None = None,
    rows: np.ndarray = ROWS,
) -> Iterator[tuple[StepwiseState, Report, EStepPass]]:
    """The passes of a start until it has ended: the state after each, its report, and what was asked for."""
    while not algorithm.is_finished(state):
        wanted = algorithm.e_step_pass(state)
        state, report = algorithm.update(state, summed(algorithm, wanted, sample_weight, rows))
        yield state, report, wanted


def log_densities(mixture: Mixture, rows: np.ndarray) -> np.ndarray:
    """Weighted log-densities (n, K) by SciPy."""
    parts = zip(mixture.weights, mixture.means, dense_covariances(mixture), strict=True)
    return np.stack([np.log(w) + multivariate_normal(m, c).logpdf(rows) for w, m, c in parts], axis=1)


def raw_moments(rows: np.ndarray, resp: np.ndarray) -> list[np.ndarray]:
    """Counts, sums and sums of products (K,), (K, D), (K, D, D) of rows with these responsibilities."""
    return [resp.sum(axis=0), resp.T @ rows, np.einsum("nk,nd,ne->kde", resp, rows, rows)]


def of_moments(covariance_type: str, counts: np.ndarray, first: np.ndarray, second: np.ndarray) -> Mixture:
    """The M-step from raw moments."""
    means = first / counts[:, None]
    full = second / counts[:, None, None] - np.einsum("kd,ke->kde", means, means)
    weights = counts / counts.sum()
    values = {
        "full": full,
        "tied": np.einsum("k,kde->de", weights, full),
        "diag": np.einsum("kdd->kd", full),
        "spherical": np.einsum("kdd->k", full) / full.shape[1],
    }
    return mixture_of(covariance_type, weights, means, values[covariance_type])


def expected_moments(mixture: Mixture) -> list[np.ndarray]:
    """Raw moments, per row, of rows drawn from a mixture."""
    products = dense_covariances(mixture) + np.einsum("kd,ke->kde", mixture.means, mixture.means)
    weights = mixture.weights
    return [weights, weights[:, None] * mixture.means, weights[:, None, None] * products]


def by_hand(mixture: Mixture, batches: list[np.ndarray], em: EmOptions) -> Iterator[tuple[Mixture, float]]:
    """The recursion of Cappé and Moulines over batches of rows: each mixture, and the mean before it."""
    running, kind = expected_moments(mixture), mixture.covariances.name
    for t, rows in enumerate(batches, 1):
        log_prob = log_densities(mixture, rows)
        total = logsumexp(log_prob, axis=1)
        size = (t + em.step_offset) ** -em.step_exponent
        new = raw_moments(rows, np.exp(log_prob - total[:, None]))
        running = [(1 - size) * old + size * one / len(rows) for old, one in zip(running, new, strict=True)]
        mixture = of_moments(kind, *running)
        yield mixture, float(total.mean())


@pytest.mark.parametrize("covariance_type", TYPES)
def test_it_is_the_recursion_written_by_hand(covariance_type: str) -> None:
    algorithm, first = stepwise(replace(STEPWISE, polish=0)), start_mixture(covariance_type, ROWS, K)
    found = list(play(algorithm, algorithm.start(first)))
    batches = [ROWS[rows_of(algorithm, wanted.tiles)] for _, _, wanted in found]
    assert len(batches) == 18  # 3 passes of 21 tiles, 4 a batch
    for (state, report, _), (mixture, mean) in zip(found, by_hand(first, batches, STEPWISE), strict=True):
        assert abs(report.mean_log_likelihood - mean) < 1e-10
        for name, array in mixture.arrays().items():
            np.testing.assert_allclose(state.mixture.arrays()[name], array, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_stand_for_repetitions_of_rows(covariance_type: str) -> None:
    """Of whole tiles, so that the batches are those of the repeated rows with tiles as much larger."""
    first = start_mixture(covariance_type, ROWS, K)
    plain, weighted = stepwise(), stepwise(sample_weight=np.full(len(ROWS), 3.0))
    rows = np.repeat(ROWS, 3, axis=0)
    repeated = stepwise(tile_rows=3 * TILE_ROWS, rows=rows)
    ends = [
        list(play(plain, plain.start(first)))[-1][0].mixture,
        list(play(weighted, weighted.start(first), np.full(len(ROWS), 3.0)))[-1][0].mixture,
        list(play(repeated, repeated.start(first), rows=rows))[-1][0].mixture,
    ]
    for end in ends[1:]:
        for name, array in ends[0].arrays().items():
            np.testing.assert_allclose(end.arrays()[name], array, rtol=1e-9, atol=1e-9)


def test_a_batch_counts_as_much_as_its_rows_weigh() -> None:
    """Half of the rows weigh almost nothing, so that they are as good as absent."""
    sample_weight = np.where(np.arange(len(ROWS)) < len(ROWS) // 2, 1e-9, 1.0)
    em = replace(STEPWISE, max_iter=30, polish=0, batch_tiles=1, step_exponent=1.0)
    first = start_mixture("full", ROWS[len(ROWS) // 2 :], 1)
    algorithm = stepwise(em, sample_weight=sample_weight)
    found = list(play(algorithm, algorithm.start(first), sample_weight))[-1][0].mixture
    np.testing.assert_allclose(found.means[0], ROWS[len(ROWS) // 2 :].mean(axis=0), atol=0.02)


def test_a_batch_without_weight_changes_nothing_and_the_weights_of_rows_count() -> None:
    algorithm, state = stepwise(), StepwiseState(start_mixture("full", ROWS, K), np.empty(0))
    state = algorithm.start(state.mixture)
    tiles = algorithm.e_step_pass(state).tiles
    sample_weight = np.ones(len(ROWS))
    sample_weight[rows_of(algorithm, tiles)] = 0.0
    algorithm = stepwise(sample_weight=sample_weight)
    (after, report, _), (later, _, _) = (lambda passes: (next(passes), next(passes)))(
        play(algorithm, algorithm.start(state.mixture), sample_weight)
    )
    assert after.mixture is state.mixture and (after.running == state.running).all() and after.n_steps == 0
    assert not report.again and report.mean_log_likelihood == 0.0 and later.n_steps == 1
    drawn = np.random.default_rng(0).uniform(0, 2, len(ROWS))
    algorithm = stepwise(replace(STEPWISE, polish=0), sample_weight=drawn)
    state, report, wanted = next(play(algorithm, algorithm.start(state.mixture), drawn))
    own = rows_of(algorithm, wanted.tiles)
    total = logsumexp(log_densities(wanted.mixture, ROWS[own]), axis=1)
    assert abs(report.mean_log_likelihood - np.average(total, weights=drawn[own])) < 1e-10


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
@pytest.mark.parametrize("em", [STEPWISE, HELD_OUT], ids=["all", "held-out"])
def test_a_stored_state_goes_on_in_the_same_bits(em: EmOptions, dtype: np.dtype) -> None:
    algorithm, first = stepwise(em, dtype=dtype), start_mixture("full", ROWS, K)
    passes = list(play(algorithm, algorithm.start(first)))
    for n, (state, report, _) in enumerate(passes):
        if not report.again:
            arrays = {name: array.copy() for name, array in StepwiseEM.to_arrays(state).items()}
            rest = list(play(algorithm, StepwiseEM.from_arrays("full", arrays)))
            assert [told for _, told, _ in rest] == [told for _, told, _ in passes[n + 1 :]]
            if rest:
                assert_same_bits(StepwiseEM.to_arrays(rest[-1][0]), StepwiseEM.to_arrays(passes[-1][0]))


def test_a_step_of_size_one_over_all_tiles_is_batch_em() -> None:
    first = start_mixture("full", ROWS, K)
    algorithm = stepwise(replace(STEPWISE, polish=3))
    batch = BatchEM(algorithm.problem, EmOptions())
    passes, expected = list(play(algorithm, algorithm.start(first))), batch.start(first)
    for _, report, wanted in passes:
        expected, told = batch.update(expected, summed(algorithm, wanted, None))
        assert wanted.tiles is None and report.mean_log_likelihood == told.mean_log_likelihood
    state = passes[-1][0]
    assert_same_bits(state.mixture.arrays(), expected.mixture.arrays())
    assert state.n_polished == 3 and report.change == told.change


def test_a_component_without_rows_is_reseeded_and_the_statistics_follow() -> None:
    first = start_mixture("full", ROWS, K)
    weights = np.array([0.0, 0.5, 0.5])
    algorithm = stepwise()
    algorithm = StepwiseEM(
        replace(algorithm.problem, safeguards=Safeguards(0.0, 0.0, reseed=True)), replace(STEPWISE, polish=0)
    )
    passes = play(algorithm, algorithm.start(Mixture(weights, first.means, first.covariances)))
    state, report, _ = next(passes)
    assert list(report.repairs.reseeded) == [0] and (state.mixture.weights > 0.1).all()
    sums = SufficientStatistics.of(state.running, state.mixture.layout)
    np.testing.assert_allclose(sums.counts, state.mixture.weights)
    assert np.abs(sums.first_moments).max() == 0
    assert not any(report.repairs for _, report, _ in passes)


@pytest.mark.parametrize(("n_tiles", "batch_tiles"), [(1, 1), (7, 3), (64, 8), (65, 8), (9, 4), (100, 7), (5, 9)])
def test_batches_cover_each_tile_once_a_pass_and_are_balanced(n_tiles: int, batch_tiles: int) -> None:
    tiles = np.arange(n_tiles) * 3 + 1
    batches = TileBatches(tiles, batch_tiles, 5)
    orders = []
    for which in range(3):
        found = [batches.batch(which * batches.n_batches + place) for place in range(batches.n_batches)]
        sizes = [len(batch) for batch in found]
        assert max(sizes) <= batch_tiles and max(sizes) - min(sizes) <= 1 and min(sizes) > 0
        assert all((np.diff(batch) > 0).all() for batch in found)
        assert sorted(np.concatenate(found)) == tiles.tolist()
        orders.append(np.concatenate(found).tolist())
    assert batch_tiles > n_tiles or n_tiles == 1 or (orders[0] != orders[1] != orders[2])
    again = TileBatches(tiles, batch_tiles, 5)
    assert again.batch(2 * batches.n_batches).tolist() == batches.batch(2 * batches.n_batches).tolist()


def test_a_batch_has_a_tile_from_each_part_of_the_data() -> None:
    batches = TileBatches(np.arange(64), 8, 0)
    for number in range(batches.n_batches):
        assert (batches.batch(number) // 8).tolist() == list(range(8))
    other = TileBatches(np.arange(64), 8, 1)
    assert any((other.batch(n) != batches.batch(n)).any() for n in range(batches.n_batches))
    assert default_batch_tiles(10) == 1 and default_batch_tiles(8192) == 8


def test_held_out_tiles_are_spread_and_never_used() -> None:
    assert held_out_tiles(50, 0.1, 3).tolist() == held_out_tiles(50, 0.1, 3).tolist()
    assert (held_out_tiles(50, 0.1, 3) // 10).tolist() == [0, 1, 2, 3, 4]
    assert not len(held_out_tiles(50, 0.0, 3)) and len(held_out_tiles(50, 1e-6, 3)) == 1
    assert [len(held_out_tiles(n, 0.9, 3)) for n in (1, 2, 3, 4, 5, 20)] == [1, 1, 2, 3, 4, 18]
    algorithm, first = stepwise(HELD_OUT), start_mixture("diag", ROWS, K)
    held_out = set(held_out_tiles(21, 0.2, 7).tolist())
    before, evaluated = first, 0
    for state, report, wanted in play(algorithm, algorithm.start(first)):
        assert wanted.tiles is not None
        if set(wanted.tiles.tolist()) == held_out:
            total = logsumexp(log_densities(before, ROWS[rows_of(algorithm, wanted.tiles)]), axis=1)
            assert report.held_out is not None and abs(report.held_out - total.mean()) < 1e-10
            assert state.mixture is before
            evaluated += 1
        else:
            assert not held_out & set(wanted.tiles.tolist()) and report.held_out is None
        before = state.mixture
    assert evaluated == 3  # two passes over the batches, and one of polishing


@pytest.mark.parametrize("polish", [0, 1, 2, 5])
@pytest.mark.parametrize("held_out", [0.0, 0.3])
@pytest.mark.parametrize("rows_seen", [0, 400, 2900])
def test_max_iter_bounds_the_passes(polish: int, held_out: float, rows_seen: int) -> None:
    algorithm = stepwise(replace(STEPWISE, polish=polish, held_out=held_out))
    state = first = algorithm.initialised(algorithm.start(start_mixture("diag", ROWS, K)), rows_seen)
    seen = rows_seen
    for state, _, wanted in play(algorithm, first):  # noqa: B007
        seen += algorithm.problem.grid.rows_of(wanted.tiles)
    most = min(polish, (3000 - rows_seen) // 1000)
    assert seen == state.rows_seen <= 3000 and state.n_polished == most
    assert seen > 3000 - (5 * TILE_ROWS + held_out * 1100)  # no further batch fits


@pytest.mark.parametrize(("polish", "rows_left"), [(0, 200), (1, 1392)])
def test_a_step_that_is_repeated_with_more_digits_stays_the_same_step(
    polish: int, rows_left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the repeated pass has used up the rows that were left."""
    monkeypatch.setattr(stepwise_module, "refined_limbs", lambda n_limbs, *rest: 5)
    algorithm = stepwise(replace(STEPWISE, polish=polish))
    state = algorithm.initialised(algorithm.start(start_mixture("diag", ROWS, K)), 3000 - rows_left)
    wanted = [(pass_.tiles, pass_.n_limbs) for _, _, pass_ in play(algorithm, state)]
    for (tiles, n_limbs), (repeated, more) in zip(wanted[::2], wanted[1::2], strict=True):
        assert n_limbs is None and more == 5
        assert (tiles is repeated is None) or tiles.tolist() == repeated.tolist()
    assert [tiles is None for tiles, _ in wanted[::2]] == [False] + [True] * polish


@pytest.mark.parametrize("rows_seen", [3000, 3001, 4500])
def test_a_start_ends_whose_initialisation_has_used_up_the_passes(rows_seen: int) -> None:
    algorithm = stepwise()
    first = start_mixture("diag", ROWS, K)
    assert algorithm.is_finished(algorithm.initialised(algorithm.start(first), rows_seen))


def test_the_tolerance_ends_the_batches_and_polishing_follows() -> None:
    algorithm = stepwise(replace(STEPWISE, max_iter=100, tol=1e-2, polish=2))
    passes = list(play(algorithm, algorithm.start(start_mixture("full", ROWS, K))))
    state = passes[-1][0]
    assert algorithm.has_converged(state) and state.n_polished == 2
    changes = [report.change for _, report, _ in passes if report.change is not None]
    objectives = np.array([report.objective for _, report, _ in passes[:-2]]).reshape(-1, 6)
    n_rows = np.reshape([algorithm.problem.grid.rows_of(wanted.tiles) for _, _, wanted in passes[:-2]], (-1, 6))
    np.testing.assert_allclose(changes[:-1], np.diff((objectives * n_rows).sum(axis=1) / len(ROWS)), atol=1e-12)
    assert all(abs(change) >= 1e-2 for change in changes[:-2]) and abs(changes[-2]) < 1e-2


def settings_of(comm: MpiComm, place: Path, **em: Any) -> dict[str, Any]:
    """A fit to rows in a file, which root writes. Collective."""
    with comm.together():
        if comm.is_root:
            write_rows(place / "rows.h5", ROWS)
    options = {"algorithm": "stepwise", "max_iter": 4, "tol": 0, "batch_tiles": 3, "held_out": 0.1}
    return {
        "model": {"n_components": K},
        "data": {"path": str(place / "rows.h5")},
        "em": {**options, **em},
        "compute": {"tile_rows": TILE_ROWS},
    }


def with_compute(settings: dict[str, Any], **compute: Any) -> dict[str, Any]:
    return {**settings, "compute": {**settings["compute"], **compute}}


def bits_of(found: mpigmm.FitResult) -> dict[str, np.ndarray]:
    log = found.convergence
    history = {name: np.array(log[name]) for name in ("mean_log_likelihood", "objective", "e_steps", "held_out")}
    return {name: getattr(found.mixture, name) for name in ("weights", "means", "covariances")} | history


@pytest.mark.parallel
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_same_bits_on_any_number_of_ranks_and_threads_and_streamed(
    comm: MpiComm, shared_path: Path, precision: str
) -> None:
    settings = with_compute(settings_of(comm, shared_path), precision=precision)
    found = mpigmm.fit(settings, comm=comm.mpi)
    bits, log = bits_of(found), found.convergence
    in_memory = {key: settings[key] for key in settings if key != "data"}
    assert_same_bits(bits_of(mpigmm.fit(in_memory, ROWS)), bits)  # on each rank alone
    for compute in ({"memory": 1}, {"threads": 3}):
        assert_same_bits(bits_of(mpigmm.fit(with_compute(settings, **compute), comm=comm.mpi)), bits)
    summary = found.summary
    assert summary["passes"] == log["passes"][-1] <= 4 and not summary["converged"]
    assert summary["e_steps"] == log["e_steps"][-1] == len(log["e_steps"]) + 3
    assert np.isfinite(np.array(log["held_out"])).sum() == 3


@pytest.mark.parallel
def test_same_bits_as_without_a_gpu_that_holds_few_tiles(
    comm: MpiComm, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["stand-in"])
    monkeypatch.setattr(devices, "open_gpu", lambda number: StrictGpu())
    settings = settings_of(comm, shared_path)
    whole = bits_of(mpigmm.fit(with_compute(settings, device="gpu"), comm=comm.mpi))
    assert_same_bits(bits_of(mpigmm.fit(with_compute(settings, device="gpu", memory=5000), comm=comm.mpi)), whole)


class Killed(BaseException):
    """Ends a fit as a kill would: nothing is saved any more."""


@pytest.mark.parallel
def test_a_fit_that_is_killed_goes_on_in_the_same_bits(
    comm: MpiComm, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, update = settings_of(comm, shared_path), StepwiseEM.update
    output = {"dir": str(shared_path / "run"), "checkpoint_iterations": 1}
    expected = bits_of(mpigmm.fit(settings, comm=comm.mpi))
    for last in np.random.default_rng(1).integers(2, 9, 2):
        left = iter(range(int(last)))

        def killed(self: StepwiseEM, *arguments: Any, left: Iterator[int] = left) -> Any:
            if next(left, None) is None:
                raise Killed
            return update(self, *arguments)

        monkeypatch.setattr(StepwiseEM, "update", killed)
        with pytest.raises(BaseException):  # noqa: B017
            mpigmm.fit({**settings, "output": output}, comm=comm.mpi)
        monkeypatch.setattr(StepwiseEM, "update", update)
    found = mpigmm.fit({**settings, "output": output}, comm=comm.mpi)
    assert found.summary["resumed_from"] is not None and found.summary["resumed_from"] > 0
    assert_same_bits(bits_of(found), expected)
    with pytest.raises(OutputError, match=r"em\.max_iter was 4, is 5"):
        mpigmm.fit({**settings, "em": {**settings["em"], "max_iter": 5}, "output": output}, comm=comm.mpi)


@pytest.mark.parallel
def test_starts_and_selections_share_passes(comm: MpiComm, shared_path: Path) -> None:
    settings = settings_of(comm, shared_path)
    several = {**settings, "init": {"n_init": 2}}
    found = mpigmm.fit(several, comm=comm.mpi)
    assert found.summary["init"] in (0, 1) and set(found.convergence["init"]) == {0, 1}
    assert_same_bits(bits_of(mpigmm.fit(with_compute(several, memory=1), comm=comm.mpi)), bits_of(found))
    swept = {key: settings[key] for key in ("data", "em", "compute")}
    swept["select"] = {"n_components": [2, 3], "seeds": [0]}
    best = [mpigmm.select(with_compute(swept, memory=memory), comm=comm.mpi).mixture for memory in ("auto", 1)]
    alone = mpigmm.fit({**settings, "model": {"n_components": len(best[0].weights)}}, comm=comm.mpi).mixture
    for mixture in best:
        assert mixture.means.tobytes() == alone.means.tobytes()


@pytest.mark.parametrize(
    ("em", "message"),
    [
        ({"held_out": 0.1}, r"em\.held_out: has no meaning with em\.algorithm: batch"),
        ({"polish": 2}, r"em\.polish: has no meaning"),
        ({"batch_tiles": 4}, r"em\.batch_tiles: has no meaning"),
        ({"step_exponent": 0.7}, r"em\.step_exponent: has no meaning"),
        ({"step_offset": 0}, r"em\.step_offset: has no meaning"),
        ({"algorithm": "stepwise", "step_exponent": 0.4}, r"em\.step_exponent: 0\.4 is not valid"),
        ({"algorithm": "stepwise", "batch_tiles": 0}, r"em\.batch_tiles: 0 is not valid"),
        ({"algorithm": "stepwise", "held_out": 1}, r"em\.held_out: 1 is not valid"),
    ],
)
def test_faults_name_the_key(em: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"data": {"path": "x.h5"}, "em": em}, [])


def test_one_tile_cannot_be_held_out() -> None:
    with pytest.raises(ConfigError, match=r"em\.held_out: there is 1 tile of 1000 rows; lower compute\.tile_rows"):
        mpigmm.fit(
            {
                "model": {"n_components": 2},
                "em": {"algorithm": "stepwise", "held_out": 0.1},
                "compute": {"tile_rows": 2000},
            },
            ROWS,
        )


def test_an_option_that_cannot_be_met_leaves_the_files_of_an_earlier_run(tmp_path: Path) -> None:
    rows, run = write_rows(tmp_path / "rows.h5", ROWS), tmp_path / "run"
    config = write_config(tmp_path / "c.yaml", data={"path": str(rows)}, em={"max_iter": 2}, output={"dir": str(run)})
    assert mpirun(0, "fit", str(config)).returncode == 0
    before = {path.name: path.read_bytes() for path in run.glob("[!.]*")}
    wrong = ["em.algorithm=stepwise", "em.held_out=0.1", "compute.tile_rows=2000"]
    result = mpirun(0, "fit", str(config), *wrong, "--restart")
    assert result.returncode == 2 and "em.held_out: there is 1 tile of 1000 rows" in result.stderr
    assert {path.name: path.read_bytes() for path in run.glob("[!.]*")} == before


def test_messages_give_advice_that_stepwise_em_can_follow() -> None:
    options = FitOptions(em=replace(STEPWISE, tol=1e-4))
    assert unconverged_text(options, Repairs(floored=[0])).endswith("raise em.max_iter")
    ended = Ended(0, 9, -1.0, -1.0, (8e-5, 7.2e-5, 6.5e-5), True, 9, 3.0)
    said = projected_text(Fitted(start_mixture("full", ROWS, K), ended), options.em)
    assert said is not None and said.endswith("lower em.tol")


def test_few_passes_do_what_batch_em_takes_many_for() -> None:
    """On overlapping components, from the same start."""
    rows = blobs(40_000, 3, 4, separation=1.2)
    held_out = blobs(80_000, 3, 4, separation=1.2)[40_000:]
    model: dict[str, Any] = {"model": {"n_components": 4}, "compute": {"tile_rows": 64}, "init": {"screening": False}}
    batch = mpigmm.fit({**model, "em": {"max_iter": 500, "tol": 1e-7}}, rows)
    few = mpigmm.fit({**model, "em": {"algorithm": "stepwise", "max_iter": 3, "tol": 0}}, rows)
    score: Callable[[mpigmm.FitResult], float] = lambda found: float(found.mixture.score_samples(held_out).mean())  # noqa: E731
    assert batch.summary["n_iter"] > 30 and few.summary["passes"] <= 3
    assert abs(score(few) - score(batch)) < 1e-3
