"""The job scripts under a real SLURM of two virtual nodes: ``make test-slurm``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from slurm import Cluster, cluster, missing
from support import assert_same_bits, blobs, clean_environment, mpirun, read_lines, read_model, write_config, write_rows

JOBS = Path(__file__).parent.parent / "jobs"
WORLDS = {"own": Path(sys.executable).parent, "debian": Path(__file__).parent.parent / ".venv-debian" / "bin"}
SIZE = ("--nodes=2", "--ntasks-per-node=2")
ONE_NODE = ("--nodes=1", "--ntasks-per-node=2")

WHY_NOT = missing() if os.environ.get("MPIGMM_TEST_SLURM") else "run by make test-slurm"
needs_slurm = pytest.mark.skipif(WHY_NOT is not None, reason=f"real SLURM: {WHY_NOT}")


@pytest.mark.parametrize("path", sorted(JOBS.iterdir()), ids=lambda path: path.name)
def test_job_scripts_parse_and_name_no_site(path: Path) -> None:
    text = path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)
    assert "LAUNCHER" in text and "python -m mpigmm fit" in text
    assert not any(word in text for word in ("--partition", "--account", "--qos", "-A ", "-q "))
    assert "\n# module load " in text and "mem=" in text and any(word in text for word in ("--output=", "-o mpigmm"))


@pytest.mark.parametrize("name", ["fit.pbs", "fit.lsf", "fit.sbatch", "fit-gpu.sbatch"])
def test_a_job_script_hands_further_settings_to_fit(tmp_path: Path, name: str) -> None:
    (tmp_path / "data.columns=0").touch()  # which data.columns=[0,2] would match as a pattern
    settings = ["em.max_iter=500", "data.columns=[0,2]"]
    told = {"LAUNCHER": "echo", "PBS_O_WORKDIR": str(tmp_path)}
    if name.endswith(".sbatch"):
        arguments = ["run.yaml", *settings]
    else:
        arguments, told = [], told | {"CONFIG": "run.yaml", "SETTINGS": " ".join(settings)}
    command = ["bash", str(JOBS / name), *arguments]
    done = subprocess.run(
        command, env=clean_environment() | told, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("python -m mpigmm fit run.yaml em.max_iter=500 data.columns=[0,2]"), done.stderr


REQUEUED = "requeue 77"
SIGNAL_AT_ONCE = "trap '[[ $BASH_COMMAND != \"fit=\\$!\" ]] || kill -USR1 $$' DEBUG"
"""Has bash signal itself as it has started the launcher, and does not know its number yet."""


@pytest.mark.parametrize(
    ("launcher", "before", "restarts", "exit_code", "printed"),
    [
        ("exit 0", "", "0", 0, ""),
        ("exit 2", "", "0", 2, ""),
        ("exit 75", "", "99", 0, REQUEUED),
        ("exit 75", "", "100", 75, "gone back to the queue 100 times"),
        ("trap 'exit 75' USR1; sleep 5 >/dev/null 2>&1 & wait", "", "0", 0, REQUEUED),
        ("exec sleep 5", SIGNAL_AT_ONCE, "0", 0, REQUEUED),
    ],
    ids=["done", "mistake", "interrupted", "too often", "signalled", "signalled at once"],
)
def test_what_the_requeue_script_makes_of_exit_codes(
    tmp_path: Path, launcher: str, before: str, restarts: str, exit_code: int, printed: str
) -> None:
    for name, text in (("launcher", launcher), ("scontrol", 'echo "$@"'), ("before", before)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = clean_environment() | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LAUNCHER": str(tmp_path / "launcher"),
        "BASH_ENV": str(tmp_path / "before"),
        "SLURM_JOB_ID": "77",
        "SLURM_RESTART_COUNT": restarts,
    }
    command = ["bash", str(JOBS / "fit-requeue.sbatch"), "run.yaml"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        if "trap" in launcher:
            time.sleep(0.3)
            job.send_signal(signal.SIGUSR1)
        output, _ = job.communicate(timeout=20)
    assert job.returncode % 256 == exit_code and printed in output and (REQUEUED in output) == (printed == REQUEUED)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both nodes have one /dev/shm here, where Open MPI 4 names a rank's memory by host and local rank: TCP it is."""
    environment = clean_environment() | {"PATH": f"{WORLDS['own']}:{os.environ['PATH']}", "SLURM_MPI_TYPE": "pmix"}
    environment["OMPI_MCA_btl"] = "self,tcp"
    for name in ("PRTE_MCA_rmaps_default_mapping_policy", "OMPI_MCA_rmaps_base_oversubscribe"):
        environment.pop(name, None)
    with cluster(tmp_path_factory.mktemp("slurm"), environment) as found:
        yield found


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, and in the directory ``whole`` the run that nothing happened to."""
    place = tmp_path_factory.mktemp("problem")
    write_rows(place / "x.h5", blobs(100_000, 4, 6, separation=0.5))
    config = write_config(
        place / "run.yaml",
        data={"path": str(place / "x.h5")},
        model={"n_components": 6},
        em={"tol": 0, "max_iter": 40},
        output={"checkpoint_iterations": 5},
    )
    assert mpirun(1, "fit", str(config), f"output.dir={place / 'whole'}").returncode == 0
    return config


def assert_as_whole(problem: Path, name: str) -> None:
    assert_same_bits(*(read_model(problem.parent / run / "model.h5") for run in (name, "whole")))


def fit(problem: Path, name: str) -> tuple[str, str]:
    return str(problem), f"output.dir={problem.parent / name}"


@needs_slurm
@pytest.mark.timeout(120)
def test_a_run_over_two_nodes(slurm: Cluster, problem: Path) -> None:
    job = slurm.submit(*SIZE, str(JOBS / "fit.sbatch"), *fit(problem, "two"), LAUNCHER="mpirun")
    assert slurm.ended(job) == "COMPLETED", slurm.output()
    assert json.loads((problem.parent / "two" / "summary.json").read_text())["n_ranks"] == 4
    assert_as_whole(problem, "two")


@needs_slurm
@pytest.mark.timeout(120)
@pytest.mark.parametrize("world", WORLDS)
def test_a_run_that_srun_starts(slurm: Cluster, problem: Path, world: str) -> None:
    if not (WORLDS[world] / "python").exists():
        pytest.skip(f"no {WORLDS[world]}: make test-slurm makes it")
    name, path = f"srun-{world}", f"{WORLDS[world]}:{slurm.environment['PATH']}"
    job = slurm.submit(*ONE_NODE, str(JOBS / "fit.sbatch"), *fit(problem, name), PATH=path)
    assert slurm.ended(job) == "COMPLETED", slurm.output()
    assert json.loads((problem.parent / name / "summary.json").read_text())["n_ranks"] == 2
    if world == "own":
        assert_as_whole(problem, name)
    one, other = (read_model(problem.parent / run / "model.h5") for run in (name, "whole"))
    for each in one:
        np.testing.assert_allclose(one[each], other[each], rtol=1e-6, atol=1e-9)


@needs_slurm
@pytest.mark.timeout(120)
def test_a_mistake_ends_the_job_with_its_message(slurm: Cluster, problem: Path) -> None:
    job = slurm.submit(*ONE_NODE, "--gpus-per-node=0", str(JOBS / "fit-gpu.sbatch"), *fit(problem, "gpu"))
    assert slurm.ended(job) == "FAILED", slurm.output()
    assert slurm.output().count("compute.device: gpu cannot be had on") == 1


@needs_slurm
@pytest.mark.timeout(300)
def test_a_job_that_meets_its_limit_goes_back_to_the_queue_and_ends_in_the_same_bits(
    slurm: Cluster, problem: Path
) -> None:
    """Endless at first, so that it meets its limit on any machine; given an end while it waits to go on."""
    config, out = problem.with_name("again.yaml"), problem.parent / "again"
    config.write_text(f"{problem.read_text()}compute: {{threads: 1}}\n".replace("max_iter: 40", "max_iter: 1000000"))
    limit, script = ("--time=1", "--signal=B:USR1@30"), str(JOBS / "fit-requeue.sbatch")
    job = slurm.submit(*SIZE, *limit, script, str(config), f"output.dir={out}", LAUNCHER="mpirun")
    stopped = "interrupted by SIGUSR1 after iteration"
    slurm.until(slurm.output, lambda text: stopped in text, 90, job)
    n_iter = len(read_lines(out / "convergence.jsonl")) + 50
    config.write_text(config.read_text().replace("max_iter: 1000000", f"max_iter: {n_iter}"))
    whole = mpirun(2, "fit", *fit(config, "longer"), timeout=200)
    assert whole.returncode == 0, whole.stderr
    assert slurm.ended(job, 200) == "COMPLETED", slurm.output()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["resumed_from"] == n_iter - 50 and summary["n_iter"] == n_iter
    assert_same_bits(*(read_model(problem.parent / run / "model.h5") for run in ("again", "longer")))


@needs_slurm
@pytest.mark.timeout(240)
def test_a_job_whose_limit_is_too_short_for_the_first_mixture_does_not_go_back_for_ever(
    slurm: Cluster, problem: Path
) -> None:
    limit, script = ("--time=1", "--signal=B:USR1@40"), str(JOBS / "fit-requeue.sbatch")
    endless = (*fit(problem, "too short"), "model.n_components=50000", "compute.threads=1")
    job = slurm.submit(*ONE_NODE, *limit, script, *endless, LAUNCHER="mpirun")
    assert slurm.ended(job, 200) == "FAILED", slurm.output()
    told = slurm.output(job)
    assert told.count("interrupted by SIGUSR1") == 1 and told.count("two starts in a row have saved nothing new") == 1


@needs_slurm
@pytest.mark.timeout(120)
def test_a_cancelled_job_leaves_its_work_and_no_process(slurm: Cluster, problem: Path) -> None:
    endless = ("em.max_iter=1000000", "output.checkpoint_iterations=1000000")
    job = slurm.submit(*ONE_NODE, str(JOBS / "fit.sbatch"), *fit(problem, "cancelled"), *endless)
    log = problem.parent / "cancelled" / "convergence.jsonl"
    slurm.until(lambda: len(read_lines(log)) if log.exists() else 0, lambda lines: lines > 5, 60, job)
    slurm.command("scancel", job)
    assert slurm.ended(job) == "CANCELLED"
    lines = len(read_lines(log))
    again = mpirun(2, "fit", *fit(problem, "cancelled"), f"em.max_iter={lines + 1}")
    assert f"after iteration {lines}" in again.stderr, again.stderr


@needs_slurm
@pytest.mark.timeout(120)
def test_an_array_of_restarts_and_a_scaling_run(slurm: Cluster, problem: Path) -> None:
    array, scaling = problem.parent / "array", problem.parent / "scaling"
    restarts = slurm.submit(
        *ONE_NODE, "--array=0-1", str(JOBS / "select-array.sbatch"), str(problem), "em.max_iter=5", RUNS=str(array)
    )
    scaled = slurm.submit("--exclusive=user", *ONE_NODE, str(JOBS / "scaling.sbatch"), str(problem), RUNS=str(scaling))
    assert slurm.ended(restarts) == "COMPLETED" and slurm.ended(scaled) == "COMPLETED", slurm.output()
    assert [json.loads((array / seed / "summary.json").read_text())["n_iter"] for seed in "01"] == [5, 5]
    assert "ranks  s/iteration  efficiency\n    1 " in slurm.output()
