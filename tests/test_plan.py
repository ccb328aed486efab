"""``plan``: arithmetic on the partition, and a model of the reduction."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
from support import mpirun, write_config

from mpigmm.commands.plan import Network

RANKS = ("--ranks", "1", "--ranks", "3", "--ranks", "4096")


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A billion rows that nobody has written: only their header may be read."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("X", (10**9, 20), "f4", chunks=(4096, 20))
    settings = {"data": {"path": str(tmp_path / "x.h5")}, "model": {"n_components": 6}}
    return str(write_config(tmp_path / "run.yaml", **settings, output={"dir": str(tmp_path / "out")}))


@pytest.mark.parametrize("n_ranks", [0, 2])
def test_a_plan(config: str, n_ranks: int, tmp_path: Path) -> None:
    done = mpirun(n_ranks, "plan", config, *RANKS, "--json", "compute.memory=1GB", "compute.tile_rows=5000")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["n_samples"] == 10**9 and plan["n_features"] == 20 and plan["tile_rows"] == 5000
    assert plan["bytes_reduced"] > 2 * 8 * (1 + 6 + 6 * 20 + 6 * 210)
    assert plan["network"]["origin"] == ("measured" if n_ranks else "assumed")
    assert [each["n_ranks"] for each in plan["plans"]] == [1, 3, 4096]
    assert [each["tiles_per_rank"] for each in plan["plans"]] == [200_000, 66_667, 49]
    assert [each["rows_bytes"] for each in plan["plans"]] == [80 * 10**9, 80 * 66_667 * 5000, 80 * 49 * 5000]
    assert [each["resident"] for each in plan["plans"]] == [False, False, True]
    for each in plan["plans"]:
        assert each["seconds"] > 0 and 0 < each["efficiency"] <= 1.01
    assert not (tmp_path / "out").exists()


def test_a_plan_in_words(config: str) -> None:
    done = mpirun(0, "plan", config, *RANKS, "--latency", "5e-6", "--bandwidth", "1e9")
    assert done.returncode == 0, done.stderr
    assert "a message takes 5 us, and 1 GB/s (given)" in done.stdout
    assert "4096" in done.stdout and "streamed" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "0"], "Invalid value for '--ranks'"),
        (["model.n_components=2000000000"], "1000000000 rows; lower it"),
    ],
)
def test_mistakes(config: str, words: list[str], message: str) -> None:
    done = mpirun(0, "plan", config, *words)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_a_reduction_takes_messages_and_bytes() -> None:
    network = Network(latency=1e-6, bandwidth=1e9, origin="given")
    assert network.seconds(1, 10**6) == 0.0
    assert network.seconds(2, 10**6) == pytest.approx(2e-6 + 1e-3)
    assert network.seconds(1024, 10**6) == pytest.approx(20e-6 + 2e-3 * 1023 / 1024)
