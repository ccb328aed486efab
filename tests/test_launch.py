"""The program as users start it: exit codes, messages printed once, no hang."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import (
    blobs,
    clean_environment,
    launch,
    mpirun,
    write_config,
    write_rows,
)

from mpigmm.__main__ import parsed
from mpigmm.parallel.comm import NodeShare
from mpigmm.parallel.launcher import launched, launched_on_node, why_not_loaded
from mpigmm.parallel.threads import count_threads, crowding

ROWS = blobs(3000, 3, 3)
TEN_SECONDS = 10


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_rows(tmp_path / "x.h5", ROWS)
    return write_config(
        tmp_path / "run.yaml",
        data={"path": str(tmp_path / "x.h5")},
        model={"n_components": 3},
        output={"dir": str(tmp_path / "out")},
    )


@pytest.mark.parametrize("n_ranks", [0, 2])
def test_fit_predict_score_inspect(config: Path, n_ranks: int) -> None:
    model, out = config.parent / "out" / "model.h5", config.parent / "labels of rows.h5"
    fitted = mpirun(n_ranks, "fit", str(config))
    assert fitted.returncode == 0, fitted.stderr
    assert fitted.stdout.startswith(f"{model}: 3 components, converged after")
    assert "iteration 1  mean log-likelihood" in fitted.stderr
    assert mpirun(n_ranks, "predict", str(model), str(config.parent / "x.h5"), "--out", str(out)).returncode == 0
    scored = json.loads(mpirun(n_ranks, "score", str(model), str(config.parent / "x.h5")).stdout)
    told = json.loads((config.parent / "out" / "summary.json").read_text())
    for name in ("n_samples", "mean_log_likelihood", "aic", "bic"):
        assert scored[name] == pytest.approx(told[name], rel=1e-12)
    inspected = json.loads(mpirun(n_ranks, "inspect", str(model), "--json").stdout)
    assert (inspected["kind"], inspected["n_components"], inspected["n_samples"]) == ("model", 3, 3000)
    with h5py.File(out) as file:
        assert set(file) == {"labels", "log_density", "files", "offsets"}
        assert file["labels"].dtype == np.int32
        assert file["log_density"][()].mean() == pytest.approx(scored["mean_log_likelihood"], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "no.yaml"], "no.yaml cannot be read"),
        (["fit", "CONFIG", "model.n_component=3"], "did you mean model.n_components?"),
        (["fit", "CONFIG", "data.path=none.h5"], "none.h5 does not exist"),
        (["fit", "CONFIG", "em.tol=-1"], "em.tol: -1 is not valid"),
        (["fit", "CONFIG", "output.dir=/proc/x"], "output.dir: /proc/x cannot be written"),
        (["predict", "no-model.h5", "x.h5", "--out", "o.h5"], "no-model.h5 cannot be read"),
        (["fitt", "config.yaml"], "fitt"),
        (["fit"], "Missing argument"),
    ],
)
def test_mistakes_at_four_ranks(config: Path, arguments: list[str], message: str) -> None:
    begin = time.monotonic()
    done = mpirun(4, *(str(config) if argument == "CONFIG" else argument for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < TEN_SECONDS


@pytest.mark.parametrize("n_ranks", [0, 4])
def test_a_bad_row_late_in_the_data(config: Path, n_ranks: int) -> None:
    rows = ROWS.copy()
    rows[2876, 1] = np.nan
    write_rows(config.parent / "x.h5", rows)
    done = mpirun(n_ranks, "fit", str(config), "compute.tile_rows=100")
    assert done.returncode == 2
    assert done.stderr.count("row 2,876 of /X") == 1 and done.stderr.count("NaN in column 1") == 1


IMPATIENT = """
import sys
from mpigmm.__main__ import main
from mpigmm.runs import directory

directory.LOCK_SECONDS = 1.0
sys.argv[0] = "mpigmm"
main()
"""
"""The program, which waits a second instead of ten for a holder that may be about to end."""


@pytest.mark.timeout(60)
def test_a_directory_in_use_is_refused_naming_the_holder(config: Path) -> None:
    command = [sys.executable, "-m", "mpigmm", "fit", str(config), "em.tol=0", "em.max_iter=1000000"]
    with subprocess.Popen(command, env=clean_environment(), stderr=subprocess.DEVNULL) as holder:
        try:
            while not (config.parent / "out" / "convergence.jsonl").exists():
                time.sleep(0.05)
            done = launch(2, [sys.executable, "-c", IMPATIENT, "fit", str(config)], 30)
        finally:
            holder.kill()
    assert done.returncode == 2
    assert f"is in use by another run (process {holder.pid}" in done.stderr


CTRL_C = """
import os, pty, sys

process, terminal = pty.fork()
if not process:
    os.execvp(sys.argv[1], sys.argv[1:])
said = b""
try:
    while part := os.read(terminal, 65536):
        if b"log-likelihood" in part and b"log-likelihood" not in said:
            os.write(terminal, b"\\x03")
        said += part
except OSError:
    pass
os.waitpid(process, 0)
sys.stdout.buffer.write(said)
"""
"""Runs a command in a terminal, and presses Ctrl-C once it has shown an iteration."""


@pytest.mark.parametrize("n_ranks", [0, 2])
def test_ctrl_c_in_a_terminal_leaves_one_line_that_says_what_is_saved(config: Path, n_ranks: int) -> None:
    """Open MPI 5's mpirun drops what ranks write from then on, and MPICH's adds lines of its own."""
    command = [sys.executable, "-m", "mpigmm", "fit", str(config), "em.tol=0", "em.max_iter=10000000"]
    launcher = ["mpirun", "-n", str(n_ranks)] if n_ranks else []
    said = launch(0, [sys.executable, "-c", CTRL_C, *launcher, *command], 30).stdout.replace("\r\n", "\n")
    iteration = len((config.parent / "out" / "convergence.jsonl").read_text().splitlines())
    found = re.findall("mpigmm: .*", said[said.index("^C") :])
    assert found == [
        f"mpigmm: interrupted by {'SIGTERM' if n_ranks and 'mpiexec' not in said else 'SIGINT'} after iteration "
        f"{iteration}, which is saved in {config.parent / 'out' / 'checkpoint.h5'}; run the same command again to go on"
    ], said


def test_a_launcher_that_mpi_does_not_see(config: Path) -> None:
    told = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}
    done = mpirun(0, "fit", str(config), **told)
    assert done.returncode == 2
    assert "the launcher started 4 processes" in done.stderr
    silent = mpirun(0, "fit", str(config), **(told | {"SLURM_PROCID": "3"}))
    assert (silent.returncode, silent.stderr) == (2, "")


def test_predict_refuses_a_bad_row_and_leaves_nothing(config: Path) -> None:
    assert mpirun(0, "fit", str(config), "em.max_iter=2").returncode == 0
    holes = ROWS.copy()
    holes[2500, 2] = np.inf
    bad, out = str(write_rows(config.parent / "bad.h5", holes)), config.parent / "o.h5"
    done = mpirun(2, "predict", str(config.parent / "out" / "model.h5"), bad, "--out", str(out))
    assert (done.returncode, done.stderr.count("row 2,500 of /X")) == (2, 1), done.stderr
    assert not out.exists() and not list(config.parent.glob(".*.tmp"))


def test_predict_is_complete_and_in_order_on_any_ranks(config: Path) -> None:
    rows = blobs(9001, 3, 3, 1)
    path = str(write_rows(config.parent / "more.h5", rows))
    assert mpirun(0, "fit", str(config), "data.columns=[2,0]").returncode == 0
    model = str(config.parent / "out" / "model.h5")
    outputs = []
    for n_ranks in (0, 3):
        out = config.parent / f"{n_ranks}.h5"
        assert mpirun(n_ranks, "predict", model, path, "--out", str(out), "--proba", "2").returncode == 0
        with h5py.File(out) as file:
            outputs.append({name: file[name][()] for name in file})
    assert (config.parent / "0.h5").read_bytes() == (config.parent / "3.h5").read_bytes()
    for name, values in outputs[0].items():
        assert len(values) == (1 if name in ("files", "offsets") else 9001)
    assert (outputs[0]["components"][:, 0] == outputs[0]["labels"]).all()
    assert (np.diff(outputs[0]["proba"], axis=1) <= 0).all()


def test_ranks_other_than_root_import_no_user_interface() -> None:
    code = (
        "import sys; from mpigmm.__main__ import serve, StopRequest; from mpigmm.parallel.mpi import MpiComm;"
        "c = MpiComm();"
        "serve(c, ['--version'], StopRequest());"
        "found = {m for m in sys.modules} & {'typer', 'rich', 'yaml', 'pydantic', 'matplotlib', 'sklearn'};"
        "sys.stdout.write(f'{c.rank} loaded {sorted(found)}\\n')"  # at once: ranks may run into one another
    )
    assert "1 loaded []" in launch(2, [sys.executable, "-c", code], 60).stdout


MANY = "9" * 400


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "run.yaml", "--ranks", MANY],
        ["plan", "run.yaml", "--latency", "1e400"],
        ["plan", "run.yaml", "--bandwidth", "1e400"],
        ["bench", "--n-samples", MANY],
        ["bench", "--n-features", MANY],
        ["bench", "--n-components", MANY],
        ["bench", "--iterations", MANY],
        ["bench", "--separation", "1e400"],
        ["bench", f"model.n_components={MANY}"],
    ],
    ids=lambda arguments: arguments[-2],
)
def test_numbers_of_any_length_are_refused_in_words(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed(arguments) == (None, 2)
    told = capsys.readouterr().err
    assert arguments[-2].lstrip("-") in told or "model.n_components: " in told
    assert "Traceback" not in told


@pytest.mark.parametrize("text", [MANY, "²", "-1", "", "4x", "1e3"])
def test_what_launchers_do_not_write_is_ignored(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    for name in ("PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert count_threads("auto", NodeShare(1, 1)) == 3 and launched() == (0, 1)


@pytest.mark.parametrize(
    ("own", "others", "launched_here", "ranks", "processors"),
    [
        ({0, 1, 2, 3}, [], None, 1, 4),  # a process alone has the machine
        ({0, 1, 2, 3}, [{0, 1, 2, 3}], None, 2, 2),
        ({0, 1}, [{2, 3}], 2, 2, 2),  # bound to processors of its own
        ({0, 1, 2}, [{2, 3, 4}, {5}], None, 3, 2),
        ({0, 1, 2, 3, 4, 5}, [set(range(6))] * 2, 3, 3, 2),
        ({0, 1, 2, 3}, [], 4, 4, 1),  # three ranks in other communicators
        ({0}, [{0}] * 7, 8, 8, 1),
    ],
)
def test_processors_are_shared_by_the_ranks_that_may_run_on_them(
    own: set[int], others: list[set[int]], launched_here: int | None, ranks: int, processors: int
) -> None:
    assert NodeShare.of(own, others, launched_here) == NodeShare(ranks, processors)


@pytest.mark.parametrize(
    ("per_node", "node", "tasks"),
    [("4", "0", 4), ("4(x2),3", "1", 4), ("4(x2),3", "2", 3), ("4(x2),3", "3", None), ("", "0", None), ("x", "", None)],
)
def test_tasks_of_a_node_in_slurms_words(
    monkeypatch: pytest.MonkeyPatch, per_node: str, node: str, tasks: int | None
) -> None:
    for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", per_node)
    monkeypatch.setenv("SLURM_NODEID", node)
    assert launched_on_node() == tasks
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "7")
    assert launched_on_node() == 7


LOOKED = "cannot load MPI library\n/opt/x/libmpi.so.40: cannot open shared object file: No such file or directory\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'mpi4py'", name="mpi4py"), "mpi4py is not installed"),
        (RuntimeError(LOOKED + "/usr/bin/python: undefined symbol: MPI_Get_version"), "no library of MPI is found"),
        (
            RuntimeError(LOOKED + "/opt/lib/libfabric.so.1: cannot open shared object file: No such file or directory"),
            "libfabric.so.1: cannot open shared object file: No such file or directory",
        ),
        (ImportError("cannot import name 'MPI' from 'mpi4py' (/a/b/__init__.py)"), "cannot import name 'MPI'"),
    ],
)
def test_an_mpi_that_cannot_be_loaded_is_told_without_folders(error: Exception, reason: str) -> None:
    told = why_not_loaded(error)
    assert reason in told and "/" not in told and "\n" not in told


@pytest.mark.parametrize(
    ("threads", "ranks", "processors", "bound", "warning"),
    [
        (1, 4, 4, 4, None),
        (2, 2, 4, 2, None),
        (2, 4, 4, 4, "4 ranks of 2 threads on a node share 4 processors"),
        (4, 2, 64, 2, "2 ranks of 4 threads on a node share the 2 to which each is bound"),
        (2, 1, 1, 1, "1 rank of 2 threads on a node shares the 1 to which each is bound"),
    ],
)
def test_a_crowded_node(
    monkeypatch: pytest.MonkeyPatch, threads: int, ranks: int, processors: int, bound: int, warning: str | None
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(bound)))
    said = crowding(threads, ranks)
    assert said is None if warning is None else warning in str(said)


def test_a_crowded_node_is_told_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.h5", blobs(200, 2, 2))
    config = write_config(tmp_path / "run.yaml", data={"path": str(tmp_path / "x.h5")}, em={"max_iter": 2})
    threads = (os.cpu_count() or 1) + 1
    done = mpirun(2, "fit", str(config), f"output.dir={tmp_path / 'out'}", f"compute.threads={threads}")
    assert done.returncode == 0 and done.stderr.count(f"2 ranks of {threads} threads on a node share") == 1
