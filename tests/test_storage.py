"""Disks that fill up, data that go away under a run, and ranks that raise: all launched, none hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support import assert_same_bits, blobs, launch, mpirun, read_lines, read_model, write_config, write_rows

from mpigmm.runs.checkpoint import load_checkpoint

ROWS = blobs(10_000, 4, 6, separation=0.5)
BLOCK = 1 << 16
TEN_SECONDS = 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, timeout=30).returncode:
        pytest.skip("mounting a small file system wants root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_rows(tmp_path / "x.h5", ROWS)
    return write_config(
        tmp_path / "run.yaml",
        data={"path": str(tmp_path / "x.h5")},
        model={"n_components": 6},
        em={"tol": 0, "max_iter": 300},
        compute={"tile_rows": 500, "memory": "64kB"},
        output={"dir": str(tmp_path / "out"), "checkpoint_iterations": 1},
    )


def fill(place: Path) -> None:
    """Leave no byte of a disk."""
    with open(place / "filler", "ab", buffering=0) as file:
        for size in (BLOCK, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def n_lines(out: Path) -> int:
    """Lines that a run has logged."""
    log = out / "convergence.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def once_under_way(out: Path, strike: Callable[[], object], lines: int = 5) -> Callable[[object], None]:
    """Strike as soon as a run has logged some iterations."""

    def during(process: object) -> None:
        while n_lines(out) < lines:
            time.sleep(0.01)
        strike()

    return during


def test_a_disk_that_fills_during_checkpoints_costs_nothing(small_disk: Path, config: Path) -> None:
    out, filler = small_disk / "out", small_disk / "filler"
    command = ("fit", str(config), f"output.dir={out}")
    full = mpirun(2, *command, during=once_under_way(out, lambda: fill(small_disk)))
    assert full.returncode == 2, full.stderr
    assert full.stderr.count("checkpoint.h5 cannot be written (No space left on device)") == 1
    assert "the run goes on, and will try again" in full.stderr
    assert full.stderr.count("run the same command again to go on") == 1
    assert not list(out.glob(".*.tmp")) and not (out / "model.h5").exists()
    filler.unlink()
    again = mpirun(2, *command, "em.max_iter=100")  # the full disk came long before
    assert again.returncode == 0 and "resuming start 1 after iteration" in again.stderr, again.stderr
    straight = config.parent / "straight"
    rarely = "output.checkpoint_iterations=100"
    assert mpirun(0, "fit", str(config), f"output.dir={straight}", "em.max_iter=100", rarely).returncode == 0
    assert_same_bits(read_model(out / "model.h5"), read_model(straight / "model.h5"))
    assert [line["mean_log_likelihood"] for line in read_lines(out / "convergence.jsonl")] == [
        line["mean_log_likelihood"] for line in read_lines(straight / "convergence.jsonl")
    ]


def test_a_disk_that_has_room_again_is_used_again(small_disk: Path, config: Path) -> None:
    out, filler = small_disk / "out", small_disk / "filler"

    def fill_for_a_while(process: subprocess.Popen[str]) -> None:
        once_under_way(out, lambda: fill(small_disk))(process)
        time.sleep(0.3)
        filler.unlink()
        once_under_way(out, lambda: process.send_signal(signal.SIGUSR1), n_lines(out) + 50)(process)

    done = mpirun(2, "fit", str(config), f"output.dir={out}", "em.max_iter=100000", during=fill_for_a_while)
    assert done.returncode == 75 and done.stderr.count("the run goes on, and will try again") in (1, 2), done.stderr
    lines = [line["iteration"] for line in read_lines(out / "convergence.jsonl")]
    assert lines == list(range(1, len(lines) + 1))
    assert load_checkpoint(out)[0].progress.iteration == len(lines)


def test_predict_on_a_full_disk_leaves_what_was_there(small_disk: Path, config: Path) -> None:
    assert mpirun(0, "fit", str(config), "em.max_iter=2").returncode == 0
    out, model = small_disk / "labels.h5", config.parent / "out" / "model.h5"
    out.write_bytes(b"earlier labels")
    rows = write_rows(config.parent / "many.h5", np.tile(ROWS, (30, 1)))  # 3.6 MB of labels and densities
    for _ in range(2):  # a disk with some room, and one without any
        done = mpirun(2, "predict", str(model), str(rows), "--out", str(out), "--overwrite")
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("No space left on device") == 1 and "labels.h5" in done.stderr
        assert [path.name for path in small_disk.iterdir() if path.name != "filler"] == ["labels.h5"]
        assert out.read_bytes() == b"earlier labels"
        fill(small_disk)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_data_cut_off_under_a_run_that_streams(config: Path, n_ranks: int) -> None:
    path, out = config.parent / "x.h5", config.parent / "out"
    whole = path.read_bytes()
    command, endless = ("fit", str(config)), ("em.max_iter=100000",)
    done = mpirun(n_ranks, *command, *endless, during=once_under_way(out, lambda: os.truncate(path, len(whole) // 2)))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(f"{path} has shrunk while it was being read") == 1
    path.write_bytes(whole)
    again = mpirun(2, *command, "em.max_iter=8")
    assert again.returncode == 0, again.stderr


def test_data_removed_under_a_run_that_streams(config: Path) -> None:
    """The files that a rank holds open stay readable, here; the answer is what it would have been."""
    out = config.parent / "out"
    done = mpirun(3, "fit", str(config), "em.max_iter=100", during=once_under_way(out, (config.parent / "x.h5").unlink))
    assert done.returncode == 0, done.stderr
    again = mpirun(2, "fit", str(config), "em.max_iter=70")
    assert again.returncode == 2 and again.stderr.count("x.h5 does not exist; check the path") == 1


BROKEN = """
import sys
from mpi4py import MPI
from mpigmm.__main__ import main
from mpigmm.core.estep import step
from mpigmm.core.algorithms import batch

def broken(*arguments):
    raise FloatingPointError("inside the mathematics")

if MPI.COMM_WORLD.rank == 1:
    {where} = broken
sys.argv = ["mpigmm", "fit", {config!r}]
main()
"""


@pytest.mark.parametrize("where", ["step.EStep.__call__", "batch.BatchEM.update"])
def test_a_rank_that_raises_inside_the_maths_ends_all(config: Path, where: str) -> None:
    begin = time.monotonic()
    done = launch(3, [sys.executable, "-c", BROKEN.format(where=where, config=str(config))], 60)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("FloatingPointError: inside the mathematics") == 1, done.stderr
    assert "rank 1 failed" in done.stderr
    assert time.monotonic() - begin < TEN_SECONDS
