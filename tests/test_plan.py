"""``plan``: arithmetic on the partition, and a model of the reduction."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
from support import TYPES, mpirun, write_config

from mpigmm.__main__ import serve
from mpigmm.commands.plan import about, plan_text
from mpigmm.core.algorithms.initialise import sample_size
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.data.file_source import read_header
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver import iteration_costs
from mpigmm.driver.iteration_costs import Size, affordable_components, scaled_bytes, seconds_a_row
from mpigmm.driver.measure import row_flops
from mpigmm.driver.network import Network
from mpigmm.driver.reduction import empty_buffer
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest

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
    start = plan["initialisation"]
    assert start["method"] == "kmeans" and start["rows"] == 16384 and start["n_init"] == 1
    assert start["seconds"] > 0 and start["bytes"] > 2 * 16384 * 20 * 8
    assert plan["measured_components"] == start["components"] == 6
    assert not (tmp_path / "out").exists()


def test_a_plan_in_words(config: str) -> None:
    done = mpirun(0, "plan", config, *RANKS, "--latency", "5e-6", "--bandwidth", "1e9")
    assert done.returncode == 0, done.stderr
    assert "a message takes 5 us, and 1 GB/s (given)" in done.stdout
    assert "init.method kmeans: about " in done.stdout and "from a sample of 16,384 rows" in done.stdout
    assert "4096" in done.stdout and "streamed" in done.stdout


def test_a_plan_of_an_algorithm_that_takes_batches_tells_what_it_times() -> None:
    plan: dict[str, Any] = {"n_samples": 9, "n_features": 1, "n_components": 2, "covariance_type": "full", "plans": []}
    plan |= {"precision": "float64", "device": "cpu", "tile_rows": 3, "threads_per_rank": 1, "bytes_reduced": 9}
    plan |= {"memory_bytes": 9, "network": {"latency": 1, "bandwidth": 1, "origin": "given"}, "measured_ranks": 1}
    plan |= {"measured_components": 2, "initialisation": {"rows": 0}}
    remark = "em.algorithm stepwise: an iteration above is a pass over all rows"
    assert remark in plan_text({**plan, "algorithm": "stepwise"})
    assert "em.algorithm" not in plan_text({**plan, "algorithm": "batch"})


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


@pytest.mark.parametrize(("k", "d", "tile_rows"), [(6, 20, 5000), (200_000, 20, 1016), (17, 2900, 16376), (3, 1, 1)])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_is_measured_is_bounded(covariance_type: str, k: int, d: int, tile_rows: int) -> None:
    covariance = COVARIANCE_TYPES[covariance_type]
    size = Size.affordable(covariance, k, d, tile_rows)
    flops = size.rows * size.components * row_flops(covariance, k, d) / k
    assert flops <= iteration_costs.MEASURED_FLOPS or (size.rows, size.components) == (
        iteration_costs.LEAST_ROWS,
        iteration_costs.LEAST_COMPONENTS,
    )
    assert 1 <= size.components <= k and 1 <= size.tile_rows <= min(tile_rows, size.rows)
    if k < 10:
        assert size == Size(tile_rows, max(4, -(-4 * k // tile_rows)) * tile_rows, k)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_bytes_reduced_are_scaled_exactly(covariance_type: str) -> None:
    covariance = COVARIANCE_TYPES[covariance_type]

    def n_bytes(k: int) -> int:
        size = 1 + k + 5 * k + covariance.n_second(k, 5)
        return int(empty_buffer(3 * size).nbytes)

    assert scaled_bytes(n_bytes(7), covariance, 7, 1000, 5) == n_bytes(1000)


def test_a_large_plan_is_measured_in_small(
    config: str, comm: Comm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration_costs, "MEASURED_FLOPS", 1e8)
    monkeypatch.setattr(iteration_costs, "MEASURED_ENTRIES", 1e6)
    large = ["model.n_components=200000", "model.covariance_type=diag", "init.n_init=3"]
    begin = time.monotonic()
    assert serve(comm, ["plan", config, "--ranks", "1", "--json", *large], StopRequest()) == 0
    assert time.monotonic() - begin < 20
    plan = json.loads(capsys.readouterr().out)
    assert plan["bytes_reduced"] > 2 * 8 * 200_000 * 41 and plan["plans"][0]["work_bytes"] > 4 * 8 * 200_000 * 20
    assert plan["measured_components"] < 2000 and plan["initialisation"]["rows"] == 64 * 200_000
    assert plan["initialisation"]["seconds"] > 10_000 and plan["initialisation"]["n_init"] == 3
    assert serve(comm, ["plan", config, *large], StopRequest()) == 0
    told = capsys.readouterr().out
    assert (
        "and scaled to 200,000" in told and "3 times on 1 rank, less on more, from a sample of 12,800,000 rows" in told
    )


def test_components_of_the_first_mixture_that_is_measured(config: str) -> None:
    header = read_header(str(Path(config).with_name("x.h5")), "/X")
    assert affordable_components(6, header) == 6
    few = affordable_components(200_000, header)
    assert few * sample_size(few, 20) * 20 <= iteration_costs.MEASURED_ENTRIES < 2 * few * sample_size(2 * few, 20) * 20


def test_seconds_in_words() -> None:
    assert (seconds_a_row(5.0, 100, 1.0, 20), seconds_a_row(5.0, 100, 6.0, 20)) == (0.05, 0.05)
    assert (about(1.234), about(300), about(2e5)) == ("1.2 s", "00:05:00", "2.3 days")


def test_independent_features_take_no_matrices() -> None:
    source = SyntheticSource(10, 3, 5, 1.0, correlated=False)
    assert source.mixing.shape == (5, 3, 3) and source.mixing.strides[0] == 0
    assert source.read(0, 10).values.shape == (10, 3)
