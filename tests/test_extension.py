"""What the package does not know, added through its registries alone, is fitted like what it knows: on any number of
ranks, streamed, killed and resumed, with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extension import PlainKernel, extended, plain_kernel
from inside import run_verb
from mpi4py import MPI
from support import assert_same_bits, blobs, launch, mpirun, read_lines, read_model, write_config, write_rows

from mpigmm.__main__ import serve
from mpigmm.core.algorithms import ALGORITHMS
from mpigmm.core.algorithms.base import EStepPass, Rejected, Report, Summed
from mpigmm.core.algorithms.batch import BatchEM, BatchState
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.covariances.diag import Diag
from mpigmm.core.mixture import Mixture
from mpigmm.errors import AgreedError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest

pytestmark = pytest.mark.parallel
of_one_rank = pytest.mark.skipif(
    MpiComm().size > 1 and "MPIGMM_TEST_DEVICE" not in os.environ, reason="of one rank: the same as in the serial tests"
)

ROWS = blobs(6000, 3, 4, separation=2.0)
KINDS = ("unit", "classification", "shrinking", "plain")


@pytest.fixture(autouse=True)
def registries(request: pytest.FixtureRequest) -> Iterator[None]:
    """The registries with the extensions; with the kernel where a test is for it, which would be used by all others."""
    case = getattr(request.node, "callspec", None)
    with extended(), plain_kernel() if case and "plain" in case.params.get("kind", "") else nullcontext():
        yield


class Alone(MpiComm):
    """This rank without the others."""

    def __init__(self) -> None:
        super().__init__(MPI.COMM_SELF)

    def check_launcher(self) -> None: ...


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


def settings(path: Path, kind: str, out: Path, **compute: Any) -> Path:
    """A config of nine iterations, with the extensions that the kind names."""
    return write_config(
        path / f"{out.name}.yaml",
        data={"path": str(path / "x.h5")},
        model={
            "n_components": 4,
            "covariance_type": "unit" if "unit" in kind else "diag",
            "prior": "shrinking" if "shrinking" in kind else "none",
        },
        init={"method": "kmeans++", "seed": 3},
        em={"max_iter": 9, "tol": 0, "algorithm": "classification" if "classification" in kind else "batch"},
        compute={"tile_rows": 256} | compute,
        output={"dir": str(out), "checkpoint_iterations": 1},
    )


def write_data(comm: Comm, path: Path) -> None:
    """The rows, written by root for all ranks."""
    if comm.is_root:
        write_rows(path / "x.h5", ROWS)
    comm.mpi.Barrier()


def fit_alone(path: Path, kind: str, name: str, *overrides: str) -> dict[str, np.ndarray]:
    """The model that this rank fits by itself, with its rows in memory."""
    out = path / name
    assert run_verb(Alone(), "fit", str(settings(path, kind, out)), *overrides) == (0, "")
    return read_model(out / "model.h5")


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_streamed_and_resumed(comm: Comm, shared_path: Path, kind: str) -> None:
    write_data(comm, shared_path)
    uses = PlainKernel.uses
    expected = fit_alone(shared_path, kind, f"alone-{comm.rank}")
    assert (PlainKernel.uses > uses) == (kind == "plain")
    out = shared_path / "together"
    config = settings(shared_path, kind, out, memory=1) if comm.is_root else None
    command = ["fit", str(comm.bcast(config))]
    with pytest.raises(AgreedError) as stopped:
        serve(comm, command, StopAfter(5 * 24 // comm.size))
    assert stopped.value.exit_code == 75
    assert 0 < len(read_lines(out / "convergence.jsonl")) < 9
    assert run_verb(comm, *command) == (0, "")
    assert len(read_lines(out / "convergence.jsonl")) == 9
    assert_same_bits(expected, read_model(out / "model.h5"))


@pytest.mark.parametrize("kind", ["unit, classification", "shrinking, plain"])
def test_a_killed_run_goes_on(comm: Comm, tmp_path: Path, kind: str) -> None:
    """Under mpirun, with a command line that knows the extensions."""
    if comm.size > 1:
        pytest.skip("launches ranks of its own")
    write_data(comm, tmp_path)
    many = ["em.max_iter=40", "compute.tile_rows=16"]
    expected = fit_alone(tmp_path, kind, "alone", *many)
    out = tmp_path / "killed"
    program = str(Path(__file__).with_name("extension.py"))
    command = [sys.executable, program, "fit", str(settings(tmp_path, kind, out, memory=1)), *many]

    def kill(process: subprocess.Popen[str]) -> None:
        log = out / "convergence.jsonl"
        while process.poll() is None and not (log.exists() and len(read_lines(log)) > 1):
            time.sleep(0.005)
        for rank in running(program):
            os.kill(rank, signal.SIGKILL)

    assert launch(3, command, 30, kill).returncode != 0
    assert 0 < len(read_lines(out / "convergence.jsonl")) < 40
    done = launch(3, command, 30)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    assert_same_bits(expected, read_model(out / "model.h5"))


def running(program: str) -> list[int]:
    """Processes of Python that run a program."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"python" in command[0] and program.encode() in command:
            found.append(int(path.parent.name))
    return found


def brute_force(kind: str, mixture: dict[str, np.ndarray], n_iter: int) -> dict[str, np.ndarray]:
    """The iterations of an extension in a few lines of NumPy, from the parameters of its first mixture."""
    weights, means = mixture["weights"], mixture["means"]
    variances = mixture.get("covariances", np.ones_like(means))
    centre, spread = np.median(ROWS, axis=0), ROWS.var(axis=0)
    for _ in range(n_iter):
        squares = np.square(ROWS[:, None] - means) / variances + np.log(2 * np.pi * variances)
        log_prob = np.log(weights) - 0.5 * squares.sum(axis=2)
        resp = np.exp(log_prob - log_prob.max(axis=1, keepdims=True))
        resp /= resp.sum(axis=1, keepdims=True)
        if kind == "classification":
            resp = np.eye(4)[log_prob.argmax(axis=1)]
        prior = 5.0 if kind == "shrinking" else 0.0
        counts = resp.sum(axis=0)
        weights = (counts + 0.4 * prior) / (counts + 0.4 * prior).sum()
        means = (resp.T @ ROWS + prior * centre) / (counts + prior)[:, None]
        second = np.einsum("nk,nkd->kd", resp, np.square(ROWS[:, None] - means))
        second += prior * (np.square(means - centre) + spread)
        variances = second / (counts + prior)[:, None] + 1e-6 if kind != "unit" else variances
    return {"weights": weights, "means": means, "covariances": variances}


@of_one_rank
@pytest.mark.parametrize("kind", KINDS)
def test_the_mathematics_by_brute_force(comm: Comm, shared_path: Path, kind: str) -> None:
    write_data(comm, shared_path)
    first = fit_alone(shared_path, kind, f"first-{comm.rank}", "em.max_iter=1")
    later = fit_alone(shared_path, kind, f"later-{comm.rank}", "em.max_iter=6")
    expected = brute_force(kind, first, 5)
    for name, values in later.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-8, atol=1e-10)


@of_one_rank
@pytest.mark.parametrize("kind", ["unit", "classification", "shrinking"])
def test_the_objective_never_falls(comm: Comm, shared_path: Path, kind: str) -> None:
    write_data(comm, shared_path)
    fit_alone(shared_path, kind, f"alone-{comm.rank}", "em.max_iter=30", "model.reg_covar=0", "model.variance_floor=0")
    lines = read_lines(shared_path / f"alone-{comm.rank}" / "convergence.jsonl")
    assert all(line["change"] >= -1e-10 for line in lines[1:])


class Reckless(BatchEM):
    """Batch EM that proposes a mixture with singular covariances first, and takes no for an answer."""

    name = "reckless"

    def start(self, mixture: Mixture, objective: float | None = None) -> BatchState:
        self.is_reckless = True
        return super().start(mixture, objective)

    def e_step_pass(self, state: BatchState) -> EStepPass:
        if self.is_reckless:
            state = replace(state, mixture=replace(state.mixture, covariances=Diag(np.zeros((4, 3)))))
        return super().e_step_pass(state)

    def update(self, state: BatchState, outcome: Summed | Rejected) -> tuple[BatchState, Report]:
        if isinstance(outcome, Rejected):
            self.is_reckless = False
            return state, Report(0.0, 0.0, None, Repairs(), again=True)
        self.is_reckless = True
        return super().update(state, outcome)


@of_one_rank
def test_a_proposal_that_cannot_be_factored_is_rejected(
    comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(comm, shared_path)
    monkeypatch.setitem(ALGORITHMS, "reckless", Reckless)
    expected = fit_alone(shared_path, "none", f"alone-{comm.rank}")
    found = fit_alone(shared_path, "none", f"reckless-{comm.rank}", "em.algorithm=reckless")
    assert_same_bits(expected, found)


class Careless(BatchEM):
    """Batch EM that accepts singular covariances."""

    name = "careless"

    def update(self, state: BatchState, outcome: Summed | Rejected) -> tuple[BatchState, Report]:
        state, report = super().update(state, outcome)
        return replace(state, mixture=replace(state.mixture, covariances=Diag(np.zeros((4, 3))))), report


@of_one_rank
@pytest.mark.parametrize(("max_iter", "when"), [(1, "in the end"), (2, "after iteration 2")])
def test_a_singular_mixture_that_was_accepted_ends_the_fit(
    comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch, max_iter: int, when: str
) -> None:
    write_data(comm, shared_path)
    monkeypatch.setitem(ALGORITHMS, "careless", Careless)
    config = str(settings(shared_path, "none", shared_path / f"careless-{comm.rank}"))
    code, message = run_verb(Alone(), "fit", config, "em.algorithm=careless", f"em.max_iter={max_iter}")
    assert code == 2 and f"component 0 is not positive definite {when}; raise model.reg_covar" in message


def test_what_is_not_registered_is_refused_by_name(comm: Comm, shared_path: Path) -> None:
    write_data(comm, shared_path)
    for override in ("model.covariance_type=unknown", "em.algorithm=unknown", "model.prior=unknown"):
        config = str(settings(shared_path, "plain", shared_path / f"refused-{comm.rank}"))
        code, message = run_verb(Alone(), "fit", config, override)
        assert code == 2 and message == ""  # root has told it, before there was anything to agree on


def test_without_the_registries_a_model_of_theirs_is_refused_by_name(comm: Comm, tmp_path: Path) -> None:
    if comm.size > 1:
        pytest.skip("launches a process of its own")
    write_data(comm, tmp_path)
    fit_alone(tmp_path, "unit", "alone")
    for name, message in (
        ("model.h5", "'unit' is none of full, tied, diag, spherical"),
        ("checkpoint.h5", "model.covariance_type 'unit', which this installation does not have"),
    ):
        done = mpirun(0, "inspect", str(tmp_path / "alone" / name))
        assert done.returncode == 2 and message in done.stderr
