"""Split-and-merge EM: moves, and fits with `em.split_merge`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import run_verb
from support import (
    TYPES,
    assert_same_bits,
    dense_covariances,
    mixture_of,
    random_mixture,
    read_lines,
    read_model,
    survey_of,
    write_config,
    write_rows,
)

import mpigmm
from mpigmm.__main__ import serve
from mpigmm.api import FitResult
from mpigmm.core.algorithms import ACCELERATIONS, ALGORITHMS, algorithm_type
from mpigmm.core.algorithms.base import Grid, Problem
from mpigmm.core.algorithms.moves import best_moves, halved, merged, moved_mixture, split_gains
from mpigmm.core.algorithms.split_merge import PROBE_STEPS
from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.priors import NoPrior
from mpigmm.errors import AgreedError, ConfigError
from mpigmm.options import EmOptions
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.stop import StopRequest

CENTRES = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0]])


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Rows of four clusters, and the number of each row's cluster."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 1200)
    return CENTRES[labels] + random.standard_normal((1200, 2)), labels


ROWS, TRUE = clusters()
STUCK = np.select([(TRUE == 0) & (ROWS[:, 0] < 0), TRUE == 0, TRUE == 1], [0, 1, 2], 3)
"""Starting labels: two components have one cluster, and one component has two."""


def problem_of(rows: np.ndarray) -> Problem:
    survey = survey_of(rows)
    return Problem(survey, Safeguards(0.0, 0.0), NoPrior(survey), DOUBLE, Grid(len(rows), 256))


def fitted(labels: np.ndarray = STUCK, covariance_type: str = "full", **sections: Any) -> FitResult:
    """The fit from starting labels."""
    em = {"tol": 1e-5, "max_iter": 500, "split_merge": 3, **sections.pop("em", {})}
    model = {"n_components": 4, "covariance_type": covariance_type}
    return mpigmm.fit({"model": model, "init": {"method": "labels"}, "em": em, **sections}, ROWS, labels=labels)


@pytest.mark.parametrize("accelerate", ACCELERATIONS)
def test_its_runs_may_be_accelerated(accelerate: str) -> None:
    good, found = fitted(TRUE, em={"split_merge": 0}), fitted(em={"accelerate": accelerate})
    assert found.summary["mean_log_likelihood"] == pytest.approx(good.summary["mean_log_likelihood"], abs=1e-4)


@pytest.mark.skipif("stepwise" not in ALGORITHMS, reason="needs the algorithm")
@pytest.mark.parametrize("em", [{"split_merge": 1}, {"split_merge": 0, "criterion": "aitken"}])
def test_what_stepwise_em_has_no_use_for(em: dict[str, Any]) -> None:
    key = "criterion" if "criterion" in em else "split_merge"
    with pytest.raises(ConfigError, match=rf"em\.{key}: has no meaning with em\.algorithm: stepwise"):
        fitted(em={"algorithm": "stepwise", **em})


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_stuck_fit_finds_the_clusters(covariance_type: str) -> None:
    stuck, good = (fitted(labels, covariance_type, em={"split_merge": 0}) for labels in (STUCK, TRUE))
    found = fitted(STUCK, covariance_type)
    levels = [each.summary["mean_log_likelihood"] for each in (stuck, good, found)]
    assert levels[1] - levels[0] > 0.1 and levels[2] == pytest.approx(levels[1], abs=1e-4)
    order = np.argsort(found.mixture.means @ [1.0, 10.0])
    assert np.abs(found.mixture.means[order] - CENTRES).max() < 0.2
    assert found.summary["converged"] and 0 <= (found.summary["projected_gain"] or 0) < 1e-3


def test_the_log_tells_of_runs_and_counts_every_pass() -> None:
    stuck, found = fitted(em={"split_merge": 0}), fitted()
    log, first = found.convergence, len(stuck.convergence)
    assert np.array_equal(log["objective"][:first], stuck.convergence["objective"])
    probe = slice(first, first + PROBE_STEPS)
    assert (log["objective"][probe] == log["objective"][first - 1]).all() and np.isnan(log["change"][probe]).all()
    has_none = np.flatnonzero(np.isnan(log["change"]))
    assert len(has_none) == 1 + 2 * PROBE_STEPS + 3  # the first run, the probes of two accepted mixtures, three moves
    assert log["e_steps"].tolist() == list(range(1, len(log) + 1)) and (np.diff(log["passes"]) == 1).all()
    for key in ("passes", "e_steps"):
        assert found.summary[key] == log[key][-1]
    assert found.summary["n_iter"] == len(log)
    assert found.summary["mean_log_likelihood"] >= log["objective"].max()


def test_where_no_move_succeeds_the_result_is_that_of_the_fit_without() -> None:
    plain, found = fitted(TRUE, em={"split_merge": 0}), fitted(TRUE)
    assert len(found.convergence) > len(plain.convergence)
    assert_same_bits(plain.mixture._model.mixture.arrays(), found.mixture._model.mixture.arrays())
    for key in ("mean_log_likelihood", "projected_gain", "converged"):
        assert found.summary[key] == plain.summary[key]


def test_too_few_components_for_a_move() -> None:
    settings = {"model": {"n_components": 2}, "em": {"split_merge": 5, "max_iter": 300}}
    plain = mpigmm.fit({**settings, "em": {"max_iter": 300}}, ROWS)
    found = mpigmm.fit(settings, ROWS)
    assert len(found.convergence) == len(plain.convergence)


@pytest.mark.parametrize("criterion", ["change", "aitken"])
def test_in_float32_and_under_both_criteria(criterion: str) -> None:
    good = fitted(TRUE, em={"split_merge": 0})
    found = fitted(em={"criterion": criterion}, compute={"precision": "float32"})
    assert found.summary["mean_log_likelihood"] == pytest.approx(good.summary["mean_log_likelihood"], abs=1e-3)


class StopAfter(StopRequest):
    """A request that comes as if by a signal once it has been asked for so often."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self._left = checks

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.received = signal.SIGTERM
        super().check()


def command(path: Path, name: str, **em: Any) -> list[str]:
    """A fit of the rows that is in a checkpoint after every iteration."""
    config = write_config(
        path / f"{name}.yaml",
        data={"path": str(path / "x.h5")},
        model={"n_components": 4},
        init={"method": "random", "seed": 3},
        em={"tol": 1e-4, "split_merge": 2, **em},
        compute={"tile_rows": 256, "memory": 1},
        output={"dir": str(path / name), "checkpoint_iterations": 1},
    )
    return ["fit", str(config)]


@pytest.mark.parallel
def test_any_number_of_ranks_interrupted_at_any_time(comm: Comm, shared_path: Path) -> None:
    """The rows are read anew in every pass; a rank asks once for each of its tiles whether to stop."""
    if comm.is_root:
        write_rows(shared_path / "x.h5", ROWS)
        for name in ("together", "alone"):
            command(shared_path, name)
    comm.mpi.Barrier()
    alone = str(shared_path / "alone")
    if comm.is_root:
        assert run_verb(SingleProcess(), "fit", f"{alone}.yaml") == (0, "")
    together, interrupted = shared_path / "together", 0
    while True:
        try:
            assert serve(comm, ["fit", f"{together}.yaml"], StopAfter(15 + 50 // comm.size)) == 0
            break
        except AgreedError as error:
            assert error.exit_code == 75
            interrupted += 1
        assert interrupted < 30
    assert interrupted > 2
    comm.mpi.Barrier()
    logs = [read_lines(Path(place) / "convergence.jsonl") for place in (alone, together)]
    keys = ("iteration", "objective", "change", "e_steps", "passes")
    told = [[[line[key] for key in keys] for line in log] for log in logs]
    assert told[0] == told[1] and len(told[0]) > 20
    assert_same_bits(read_model(Path(alone) / "model.h5"), read_model(together / "model.h5"))


def test_what_decides_the_moves_belongs_to_the_run(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.h5", ROWS)
    fit = command(tmp_path, "run")
    assert run_verb(SingleProcess(), *fit) == (0, "")
    for change in ("em.tol=1e-6", "em.max_iter=7", "em.criterion=aitken", "em.split_merge=3"):
        code, message = run_verb(SingleProcess(), *fit, change)
        assert code == 2 and change.partition("=")[0] in message and "--restart" in message


def test_errors() -> None:
    for em, message in (
        ({"split_merge": -1}, r"em\.split_merge: -1 is not valid; a whole number >= 0 expected"),
        ({"split_merge": 1.5}, r"em\.split_merge: 1\.5 is not valid"),
    ):
        with pytest.raises(ConfigError, match=message):
            fitted(em=em)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_halves_are_together_the_component(covariance_type: str) -> None:
    mixture, problem = random_mixture(covariance_type, 4, 3), problem_of(random_rows(3))
    halves = halved(mixture, problem, 0)
    assert not np.array_equal(halves.means, halved(mixture, problem, 1).means)
    numbers = np.arange(4)
    again = merged(halves, numbers, 4 + numbers, problem)
    assert np.allclose(again.means, mixture.means)
    if covariance_type != "tied":
        assert np.allclose(dense_covariances(again), dense_covariances(mixture))
    assert (split_gains(halves, numbers, 4 + numbers, problem) > 0).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_gain_of_a_split_is_the_bound_of_runnalls(covariance_type: str) -> None:
    mixture, problem = random_mixture(covariance_type, 3, 2), problem_of(random_rows(2))
    first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
    gains = split_gains(mixture, first, second, problem)
    dense = dense_covariances(mixture)
    for gain, i, j in zip(gains, first, second, strict=True):
        w = mixture.weights[[i, j]]
        a, b = w / w.sum()
        d = mixture.means[i] - mixture.means[j]
        both = a * dense[i] + b * dense[j] + a * b * np.outer(d, d)
        if covariance_type == "diag":
            both = np.diag(np.diag(both))
        if covariance_type == "spherical":
            both = np.trace(both) / 2 * np.eye(2)
        parts = [0.5 * w * np.linalg.slogdet(p)[1] for w, p in ((w.sum(), both), (w[0], dense[i]), (w[1], dense[j]))]
        assert gain == pytest.approx(parts[0] - parts[1] - parts[2])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_move_merges_two_components_and_takes_the_halves_of_a_third(covariance_type: str) -> None:
    mixture, problem = random_mixture(covariance_type, 5, 3), problem_of(random_rows(3))
    halves = halved(mixture, problem, 0)
    new = moved_mixture(mixture, halves, (1, 3, 2), problem)
    weights = mixture.weights
    expected = [weights[0], weights[[1, 3]].sum(), weights[2] / 2, weights[2] / 2, weights[4]]
    assert np.allclose(new.weights, expected)
    assert np.allclose(new.means[1], weights[[1, 3]] @ mixture.means[[1, 3]] / weights[[1, 3]].sum())
    assert np.allclose(new.means[[3, 2]], halves.means[[2, 7]])
    assert np.allclose(new.means[[0, 4]], mixture.means[[0, 4]])
    if covariance_type != "tied":
        dense, half = dense_covariances(new), dense_covariances(halves)
        assert np.allclose(dense[[0, 4]], dense_covariances(mixture)[[0, 4]])
        assert np.allclose(dense[[3, 2]], half[[2, 7]])


def test_the_move_that_unties_a_stuck_mixture_comes_first() -> None:
    means = np.array([[-0.6, 0.0], [0.6, 0.0], [6.0, 0.0], [3.0, 6.0]])
    covariances = np.array([np.diag([0.6, 1.0]), np.diag([0.6, 1.0]), np.eye(2), np.diag([10.0, 1.0])])
    mixture = mixture_of("full", np.array([0.125, 0.125, 0.25, 0.5]), means, covariances)
    problem = problem_of(ROWS)
    split = mixture_of(
        "full",
        np.tile(mixture.weights / 2, 2),
        np.tile(means, (2, 1)),
        np.tile(covariances, (2, 1, 1)),
    )
    split.means[[3, 7]] = [[0.0, 6.0], [6.0, 6.0]]
    split.covariances.values[[3, 7]] = np.eye(2)
    moves = best_moves(mixture, split, problem, 6)
    assert moves[0] == (0, 1, 3) and len(set(moves)) == len(moves) == 6
    assert all(k not in (i, j) and i < j for i, j, k in moves)
    assert len({k for *_, k in moves[:3]}) > 1  # a split that did not succeed is not tried with every merge


def test_a_component_without_rows_is_in_no_move() -> None:
    mixture, problem = random_mixture("full", 5, 3), problem_of(random_rows(3))
    weights = np.where(np.arange(5) == 2, 0.0, mixture.weights)
    mixture = mixture_of("full", weights / weights.sum(), mixture.means, mixture.covariances.values)
    moves = best_moves(mixture, halved(mixture, problem, 0), problem, 1000)
    assert len(moves) == 6 * 2 and not any(2 in move for move in moves)


def random_rows(n_features: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((300, n_features))


def test_any_algorithm_can_be_run() -> None:
    for name, em in (("SplitMergeBatchEM", EmOptions(split_merge=1)), ("BatchEM", EmOptions())):
        assert algorithm_type(em).__name__ == name
    assert algorithm_type(EmOptions(split_merge=1)) is algorithm_type(EmOptions(split_merge=9))
