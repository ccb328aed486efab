"""The M-step of which each rank computes some components."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import run_verb
from mpi4py import MPI
from support import assert_same_bits, blobs, factors_of, read_lines, read_model, write_config, write_rows

from mpigmm.core import exact
from mpigmm.core.covariances import full
from mpigmm.core.covariances.base import MStepSums, Safeguards
from mpigmm.core.covariances.full import Full
from mpigmm.core.mixture import Mixture
from mpigmm.driver import e_step
from mpigmm.driver.shared_update import SharedUpdate
from mpigmm.errors import AgreedError
from mpigmm.parallel import mpi
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import MpiComm
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

pytestmark = pytest.mark.parallel

N_COMPONENTS, N_FEATURES = 7, 3
WAYS = [("batch", "none"), ("batch", "anderson"), ("stepwise", "none")]


@pytest.fixture(autouse=True)
def is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few components are shared as many are, and few sums by the threads."""
    monkeypatch.setattr(full, "SHARED_ENTRIES", 1)
    monkeypatch.setattr(e_step, "SHARED_SUMS", 1)
    monkeypatch.setattr(exact, "LOCKED_AT_ONCE", 16)


def arguments(case: str, n_components: int) -> tuple[MStepSums, Any, Any, Safeguards, Any]:
    """Arguments of `Covariances.update`."""
    random = np.random.default_rng(1)
    counts, n_pairs = random.uniform(5, 50, n_components), N_FEATURES * (N_FEATURES + 1) // 2
    second = np.tile(np.array([2.0, 0.3, 3.0, 0.1, 0.2, 4.0]), (n_components, 1))
    second = counts[:, None] * (second + 0.1 * random.random((n_components, n_pairs)))
    deltas, empty = 0.1 * random.standard_normal((n_components, N_FEATURES)), np.zeros(n_components, bool)
    floor = 1e-3
    if case == "floored":
        second[n_components // 2] = 0.0
    elif case == "singular":
        second[n_components - 1], floor, deltas[n_components - 1] = 0.0, 0.0, 0.0
    elif case == "empty":
        empty[0] = True
    sums = MStepSums(counts, counts, counts, deltas * counts[:, None], second.reshape(-1))
    return sums, deltas, empty, Safeguards(0.0, floor), np.ones(N_FEATURES)


@pytest.mark.parametrize("n_components", [2, N_COMPONENTS])
@pytest.mark.parametrize("case", ["plain", "floored", "singular", "empty"])
@pytest.mark.parametrize("piece_bytes", [64, 1 << 28])
def test_any_number_of_ranks(
    comm: Comm, monkeypatch: pytest.MonkeyPatch, case: str, n_components: int, piece_bytes: int
) -> None:
    monkeypatch.setattr(mpi, "PIECE_BYTES", piece_bytes)
    old = Full(np.tile(np.eye(N_FEATURES), (n_components, 1, 1)))
    expected, whose = old.update(*arguments(case, n_components))
    found, whose_too = SharedUpdate(comm)(old, *arguments(case, n_components))
    assert list(whose) == list(whose_too)
    assert found.arrays()["covariances"].tobytes() == expected.arrays()["covariances"].tobytes()
    assert ("factors" in vars(found)) == ("factors" in vars(expected)) == (case != "singular")
    if case != "singular":
        assert found.factors.array.tobytes() == expected.factors.array.tobytes()


def out_of_memory(*arguments: object) -> None:
    raise MemoryError


def test_a_rank_that_fails_ends_all(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    if comm.size == 1:
        return
    if comm.rank == 1:
        monkeypatch.setattr(Full, "update", out_of_memory)
    old = Full(np.tile(np.eye(N_FEATURES), (N_COMPONENTS, 1, 1)))
    with pytest.raises(AgreedError, match="rank 1 is out of memory"):
        SharedUpdate(comm)(old, *arguments("plain", N_COMPONENTS))


class Alone(MpiComm):
    """This rank without the others."""

    def __init__(self) -> None:
        super().__init__(MPI.COMM_SELF)

    def check_launcher(self) -> None: ...


def settings(path: Path, rows: np.ndarray, means: np.ndarray, **sections: dict[str, Any]) -> str:
    """A config file, with rows and a first mixture, for the fits of one test."""
    write_rows(path / "x.h5", rows)
    covariances = Full(np.tile(np.eye(rows.shape[1]), (len(means), 1, 1)))
    mixture = Mixture(np.full(len(means), 1 / len(means)), means, covariances)
    save_model(path / "start.h5", Model(mixture, 0, 0.0, 0, False))
    config = {
        "data": {"path": str(path / "x.h5")},
        "model": {"n_components": len(means), "covariance_type": "full"} | sections.pop("model", {}),
        "init": {"method": "file", "file": str(path / "start.h5")},
        "em": {"tol": 0, "max_iter": 6} | sections.pop("em", {}),
        "compute": {"tile_rows": 256},
    }
    return str(write_config(path / "run.yaml", **config))


@pytest.mark.parametrize(("algorithm", "acceleration"), WAYS)
def test_a_fit_and_its_resumption(comm: Comm, shared_path: Path, algorithm: str, acceleration: str) -> None:
    rows, em = blobs(3000, N_FEATURES, N_COMPONENTS), {"algorithm": algorithm, "accelerate": acceleration}
    config = comm.bcast(settings(shared_path, rows, rows[:N_COMPONENTS], em=em) if comm.is_root else None)
    own, together = (shared_path / name for name in (f"alone-{comm.rank}", "together"))
    assert run_verb(Alone(), "fit", config, f"output.dir={own}") == (0, "")
    if algorithm == "batch":
        assert run_verb(comm, "fit", config, f"output.dir={together}", "em.max_iter=3") == (0, "")
    assert run_verb(comm, "fit", config, f"output.dir={together}", "compute.threads=3") == (0, "")
    assert_same_bits(read_model(own / "model.h5"), read_model(together / "model.h5"))
    logs = [read_lines(path / "convergence.jsonl") for path in (own, together)]
    assert [line["mean_log_likelihood"] for line in logs[0]] == [line["mean_log_likelihood"] for line in logs[1]]


@pytest.mark.parametrize("which", [0, 4, N_COMPONENTS - 1])
def test_one_singular_component_ends_all_ranks_alike(comm: Comm, shared_path: Path, which: int) -> None:
    means = 100.0 * np.arange(N_COMPONENTS)[:, None] * np.ones(N_FEATURES)
    rows = np.repeat(means, 40, axis=0) + np.random.default_rng(0).standard_normal((40 * N_COMPONENTS, N_FEATURES))
    rows[40 * which : 40 * which + 40] = means[which]
    model = {"reg_covar": 0, "variance_floor": 0}
    config = comm.bcast(settings(shared_path, rows, means, model=model) if comm.is_root else None)
    code, message = run_verb(comm, "fit", config, f"output.dir={shared_path / 'out'}")
    assert code == 2 and f"component {which} is not positive definite after iteration 1; raise model.reg" in message


def test_factors_come_with_the_covariances(comm: Comm) -> None:
    old = Full(np.tile(np.eye(N_FEATURES), (N_COMPONENTS, 1, 1)))
    new, _ = SharedUpdate(comm)(old, *arguments("plain", N_COMPONENTS))
    weights, means = np.full(N_COMPONENTS, 1 / N_COMPONENTS), np.zeros((N_COMPONENTS, N_FEATURES))
    fresh = Full(new.arrays()["covariances"].copy())
    assert factors_of(Mixture(weights, means, new)).tobytes() == fresh.factors.array.tobytes()
