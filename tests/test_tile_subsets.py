"""Passes over some of the tiles: an algorithm that sees the even tiles in its first step, and the odd ones in its
second and last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strict import StrictGpu
from support import assert_same_bits, blobs, statistics_of, survey_of, write_rows

import mpigmm
from mpigmm.core.algorithms import ALGORITHMS
from mpigmm.core.algorithms.base import Algorithm, EStepPass, Report, Summed
from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.mixture import Mixture
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.driver import devices
from mpigmm.errors import MpigmmWarning
from mpigmm.parallel.mpi import MpiComm

ROWS, TILE_ROWS, K = blobs(1000, 3, 2, separation=2.0), 64, 2
SAFEGUARDS = Safeguards(1e-6, 1e-12)

pytestmark = pytest.mark.filterwarnings(f"ignore::{MpigmmWarning.__module__}.{MpigmmWarning.__name__}")


@dataclass(frozen=True, eq=False)
class HalvesState:
    mixture: Mixture
    step: int = 0


class HalvesEM(Algorithm[HalvesState]):
    name = "halves"
    decides_end = True

    def start(self, mixture: Mixture, objective: float | None = None) -> HalvesState:
        return HalvesState(mixture)

    def e_step_pass(self, state: HalvesState) -> EStepPass:
        tiles = np.arange(state.step, self.problem.grid.n_tiles, 2)
        return EStepPass(state.mixture, self.problem.first_precision(state.mixture), tiles=tiles)

    def update(self, state: HalvesState, outcome: Any) -> tuple[HalvesState, Report]:
        assert isinstance(outcome, Summed)
        statistics, problem = outcome.statistics, self.problem
        new, repairs = m_step(state.mixture, statistics, problem.summary, problem.safeguards, problem.prior)
        mean = float(statistics.log_likelihood[0] / statistics.counts.sum())
        return HalvesState(new, state.step + 1), Report(mean, mean, None, repairs)

    def is_finished(self, state: HalvesState) -> bool:
        return state.step == 2

    @classmethod
    def mixture(cls, state: HalvesState) -> Mixture:
        return state.mixture

    @classmethod
    def to_arrays(cls, state: HalvesState) -> dict[str, np.ndarray]:
        return {**state.mixture.arrays(), "step": np.array(float(state.step))}

    @classmethod
    def from_arrays(cls, covariance_type: str, arrays: Any) -> HalvesState:
        return HalvesState(Mixture.from_arrays(covariance_type, arrays), int(arrays["step"]))


def by_hand(start: Mixture) -> Mixture:
    """The M-steps by the rows of the even tiles, then by those of the odd ones."""
    survey, tiles = survey_of(ROWS), np.arange(len(ROWS)) // TILE_ROWS
    for which in (0, 1):
        sums = statistics_of(start, ROWS[tiles % 2 == which], survey)
        start, _ = m_step(
            start, SufficientStatistics.of(sums.value(), start.layout), survey, SAFEGUARDS, NoPrior(survey)
        )
    return start


def settings_of(comm: MpiComm, place: Path) -> dict[str, Any]:
    """A fit to rows in a file, which root writes. Collective."""
    with comm.together():
        if comm.is_root:
            write_rows(place / "rows.h5", ROWS)
    return {
        "model": {"n_components": K},
        "data": {"path": str(place / "rows.h5")},
        "init": {"method": "random"},
        "em": {"algorithm": "halves", "tol": 0},
        "compute": {"tile_rows": TILE_ROWS},
    }


def with_compute(settings: dict[str, Any], compute: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "compute": {**settings["compute"], **compute}}


def parameters(found: mpigmm.FitResult) -> dict[str, np.ndarray]:
    return {name: getattr(found.mixture, name) for name in ("weights", "means", "covariances")}


@pytest.mark.parallel
def test_an_algorithm_may_see_some_of_the_tiles(
    comm: MpiComm, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALGORITHMS, "halves", HalvesEM)
    settings = settings_of(comm, shared_path)
    first: list[Mixture] = []
    monkeypatch.setattr(
        HalvesEM, "start", lambda self, mixture, objective=None: first.append(mixture) or HalvesState(mixture)
    )
    found = mpigmm.fit(settings, comm=comm.mpi)
    log = found.convergence
    assert log["e_steps"].tolist() == [1, 2] and found.summary["e_steps"] == 2
    np.testing.assert_allclose(log["passes"], [1 + 0.512, 2])  # the sample has all rows
    expected = by_hand(first[0]).arrays()
    bits = parameters(found)
    for name, array in expected.items():
        np.testing.assert_allclose(bits[name], array, rtol=1e-9, atol=1e-9)
    for compute in ({"memory": 1}, {"threads": 3}):
        assert_same_bits(parameters(mpigmm.fit(with_compute(settings, compute), comm=comm.mpi)), bits)
    part = slice(*np.linspace(0, len(ROWS), comm.size + 1).astype(int)[comm.rank : comm.rank + 2])
    in_memory = {key: settings[key] for key in settings if key != "data"}
    assert_same_bits(parameters(mpigmm.fit(in_memory, ROWS[part], comm=comm.mpi)), bits)


@pytest.mark.parallel
def test_a_gpu_keeps_the_tiles_that_fit(comm: MpiComm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "halves", HalvesEM)
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["stand-in"])
    monkeypatch.setattr(devices, "open_gpu", lambda number: StrictGpu())
    settings = settings_of(comm, shared_path)
    whole = parameters(mpigmm.fit(with_compute(settings, {"device": "gpu"}), comm=comm.mpi))
    streamed = with_compute(settings, {"device": "gpu", "memory": 5000})
    assert_same_bits(parameters(mpigmm.fit(streamed, comm=comm.mpi)), whole)
