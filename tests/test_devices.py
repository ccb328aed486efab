"""Ranks with GPUs, with processors, and with both, on as many ranks as run the tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from inside import run_verb
from mpi4py import MPI
from strict import StrictGpu, StrictStreams, too_little
from support import TYPES, assert_same_bits, blobs, read_lines, read_model, write_config, write_rows

from mpigmm.__main__ import serve
from mpigmm.core.gpu.arrays import DeviceError, NoDeviceError
from mpigmm.data.output import RowWriter
from mpigmm.driver import devices, load_balance, measure
from mpigmm.driver.devices import assign
from mpigmm.errors import AgreedError, InterruptedRunError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.parallel,
    pytest.mark.timeout(300),
    pytest.mark.skipif("MPIGMM_TEST_DEVICE" in os.environ, reason="each test chooses its devices: the same as without"),
]
ROWS = blobs(3000, 5, 3)
WEIGHTS = np.random.default_rng(0).random(len(ROWS))
GPUS = [f"000{i}:00" for i in range(4)]
Offer = Callable[..., None]


@pytest.fixture
def case(comm: Comm, shared_path: Path) -> Path:
    """A directory with rows and a config, the same for all ranks."""
    if comm.is_root:
        write_rows(shared_path / "x.h5", ROWS, w=WEIGHTS)
        write_config(
            shared_path / "run.yaml",
            data={"path": str(shared_path / "x.h5"), "weights": "/w"},
            model={"n_components": 3},
            em={"max_iter": 6, "tol": 0},
            compute={"tile_rows": 200},
            output={"dir": str(shared_path / "out"), "checkpoint_iterations": 1},
        )
    comm.mpi.Barrier()
    return shared_path


@pytest.fixture
def offer(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Give this rank a stand-in for a GPU, or a reason why it has none."""

    def give(gpu: StrictGpu | str | None) -> None:
        def see() -> list[str]:
            if isinstance(gpu, str):
                raise NoDeviceError(gpu)
            return [] if gpu is None else GPUS

        monkeypatch.setattr(devices, "has_driver", lambda: True)
        monkeypatch.setattr(devices, "visible_gpus", see)
        monkeypatch.setattr(devices, "open_gpu", lambda number: gpu)

    return give


def fit(comm: Comm, case: Path, name: str, *arguments: str) -> Path:
    """Run fit on all ranks; its directory."""
    out = case / name
    assert serve(comm, ["fit", str(case / "run.yaml"), f"output.dir={out}", *arguments], StopRequest()) == 0
    return out


def refused(comm: Comm, case: Path, name: str, *arguments: str) -> str:
    """The one message with which all ranks end, as the user's to mend."""
    with pytest.raises(AgreedError) as caught:
        fit(comm, case, name, *arguments)
    assert caught.value.exit_code == 2
    assert len(set(comm.allgather(str(caught.value)))) == 1
    return str(caught.value)


def assert_close(one: Path, other: Path) -> None:
    found, expected = read_model(one / "model.h5"), read_model(other / "model.h5")
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-9 * np.abs(values).max())


def summary(out: Path) -> dict[str, object]:
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fit_on_gpus_agrees_with_one_on_processors(
    comm: Comm, case: Path, offer: Offer, covariance_type: str
) -> None:
    kind = f"model.covariance_type={covariance_type}"
    offer(StrictGpu())
    gpu = fit(comm, case, "gpu", kind, "compute.device=gpu")
    cpu = fit(comm, case, "cpu", kind, "compute.device=cpu")
    assert_close(gpu, cpu)
    told = summary(gpu)
    assert told["device"] == "gpu" and told["devices"] == {"strict": comm.size} and told["reproducible"] is True
    assert [line["iteration"] for line in read_lines(gpu / "convergence.jsonl")] == list(range(1, 7))


def test_one_answer_on_gpus(comm: Comm, case: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone or together, resident or streamed in any way, summed on the host or on the GPU, cut off or not."""
    offer(StrictGpu())
    on_gpu = "compute.device=gpu"
    whole = read_model(fit(comm, case, "whole", on_gpu) / "model.h5")
    monkeypatch.setattr(MpiComm, "check_launcher", lambda self: None)
    alone = fit(MpiComm(MPI.COMM_SELF), case, f"alone{comm.rank}", on_gpu)
    assert_same_bits(read_model(alone / "model.h5"), whole)
    others = {
        "streamed": ["compute.memory=1"],
        "in part": [f"compute.memory={48 * 500}"],
        "aware": ["compute.gpu_aware_mpi=true"],
        "plain": ["compute.gpu_aware_mpi=false"],
    }
    for name, arguments in others.items():
        assert_same_bits(read_model(fit(comm, case, name, on_gpu, *arguments) / "model.h5"), whole)
    fit(comm, case, "cut off", on_gpu, "em.max_iter=2")
    assert_same_bits(read_model(fit(comm, case, "cut off", on_gpu) / "model.h5"), whole)


def test_rows_that_fit_are_sent_once(comm: Comm, case: Path, offer: Offer) -> None:
    gpu = StrictGpu()
    offer(gpu)
    fit(comm, case, "once", "compute.device=gpu", "em.max_iter=1")
    once = gpu.streams.n_sent
    fit(comm, case, "again", "compute.device=gpu")
    assert gpu.streams.n_sent == 2 * once
    fit(comm, case, "streamed", "compute.device=gpu", "compute.memory=1")
    assert gpu.streams.n_sent == 2 * once + 7 * once


def test_mixed_ranks(comm: Comm, case: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    if comm.size == 1:
        pytest.skip("takes two ranks")
    offer(StrictGpu() if comm.rank else None)
    cpu = fit(comm, case, "cpu", "compute.device=cpu")
    auto = "compute.device=auto"
    mixed = fit(comm, case, "mixed", auto, "em.max_iter=3")
    found, _ = load_checkpoint(mixed)
    assert found is not None and found.devices == ("cpu", "strict") and len(found.speeds) == 2
    monkeypatch.setattr(load_balance, "own_speed", lambda *arguments: pytest.fail("measured again"))
    assert_close(fit(comm, case, "mixed", auto), cpu)
    told = summary(mixed)
    assert told["device"] == "mixed" and told["reproducible"] is False
    assert told["devices"] == {"cpu": 1, "strict": comm.size - 1}


def test_mixed_ranks_of_few_rows(comm: Comm, case: Path, offer: Offer) -> None:
    offer(StrictGpu() if comm.rank else None)
    arguments = ["compute.device=auto", "model.n_components=50", "compute.tile_rows=10", "data.rows=[0, 100]"]
    few = fit(comm, case, "few", *arguments, "compute.threads=1")
    assert summary(few)["n_samples"] == 100


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "run.yaml", "--ranks", "8", "compute.device=auto"],
        ["bench", "--n-samples=3000", "--n-features=4", "--n-components=3", "--device=auto"],
    ],
    ids=["plan", "bench"],
)
def test_mixed_ranks_plan_and_measure(
    comm: Comm,
    case: Path,
    offer: Offer,
    command: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(StrictGpu() if comm.rank else None)
    monkeypatch.setattr(measure, "GPU_PRODUCT_SIZE", 64)
    monkeypatch.setattr(measure, "GPU_STREAM_BYTES", 1 << 16)
    words = [str(case / word) if word.endswith(".yaml") else word for word in command]
    assert serve(comm, words, StopRequest()) == 0
    assert "K = 3, full" in comm.bcast(capfd.readouterr().out)


def test_another_device_goes_on(comm: Comm, case: Path, offer: Offer) -> None:
    """And what it ends with is no longer promised to the last bit, whatever ran last."""
    cpu = fit(comm, case, "cpu", "compute.device=cpu")
    offer(StrictGpu())
    fit(comm, case, "changed", "compute.device=gpu", "em.max_iter=3")
    changed = fit(comm, case, "changed", "compute.device=cpu")
    assert_close(changed, cpu)
    assert summary(changed)["device"] == "cpu" and summary(changed)["reproducible"] is False


@pytest.mark.parametrize("aware", ["true", "false"])
def test_a_gpu_out_of_memory_stages_less(
    comm: Comm, case: Path, offer: Offer, capfd: pytest.CaptureFixture[str], aware: str
) -> None:
    """On one rank for some iterations: all agree, say so, and end in the same bits."""
    offer(StrictGpu())
    whole = read_model(fit(comm, case, "whole", "compute.device=gpu") / "model.h5")
    for n_failures in (1, 2):
        gpu = StrictGpu()
        left = n_failures if comm.rank == comm.size - 1 else 0

        def fails(n_bytes: int, gpu: StrictGpu = gpu) -> None:
            nonlocal left
            if gpu.n_launched > 100 and left and n_bytes > 4096:
                left -= 1
                too_little(0)(n_bytes)

        gpu.fails = fails
        offer(gpu)
        capfd.readouterr()
        arguments = ["compute.device=gpu", f"compute.gpu_aware_mpi={aware}"]
        assert_same_bits(read_model(fit(comm, case, f"short{n_failures}", *arguments) / "model.h5"), whole)
        told = comm.bcast(capfd.readouterr().err)
        assert told.count("from here on rows no longer stay on GPUs") == 1
        assert told.count("from here on tiles are no longer copied ahead to GPUs") == n_failures - 1


def test_a_gpu_too_small_ends_all(comm: Comm, case: Path, offer: Offer) -> None:
    offer(StrictGpu(too_little(2000) if comm.rank == comm.size - 1 else lambda n_bytes: None))
    message = refused(comm, case, "small", "compute.device=gpu")
    assert f"the GPU of rank {comm.size - 1} (strict on " in message
    assert "no room for a tile of 200 rows" in message and "lower compute.tile_rows" in message


def test_a_lost_gpu_ends_all_and_the_run_goes_on(comm: Comm, case: Path, offer: Offer) -> None:
    offer(StrictGpu())
    whole = read_model(fit(comm, case, "whole", "compute.device=gpu") / "model.h5")
    gpu = StrictGpu()

    def breaks(n_bytes: int) -> None:
        if gpu.n_launched > 300 // comm.size and comm.rank == comm.size - 1:
            raise DeviceError("cudaErrorECCUncorrectable: uncorrectable ECC error encountered")

    gpu.fails = breaks
    offer(gpu)
    message = refused(comm, case, "lost", "compute.device=gpu")
    assert f"the GPU of rank {comm.size - 1} (strict on " in message and "ECC" in message
    assert "run the same command again to go on from what is saved" in message
    offer(StrictGpu())
    lost = fit(comm, case, "lost", "compute.device=gpu")
    assert_same_bits(read_model(lost / "model.h5"), whole)
    assert summary(lost)["resumed_from"]


def test_without_a_gpu(comm: Comm, case: Path, offer: Offer, capfd: pytest.CaptureFixture[str]) -> None:
    """`gpu` ends all ranks with the reason; `auto` says it once and lets the processors compute."""
    reason = "the driver knows CUDA 11.4, but this CuPy needs 12.9"
    offer(reason if comm.rank == comm.size - 1 else StrictGpu())
    message = refused(comm, case, "gpu", "compute.device=gpu")
    assert "compute.device: gpu cannot be had on " in message and reason in message
    offer(reason)
    capfd.readouterr()
    auto = fit(comm, case, "auto", "compute.device=auto")
    told = comm.bcast(capfd.readouterr().err)
    assert told.count(reason) == 1 and "the processors compute" in told
    assert summary(auto)["device"] == "cpu" and summary(auto)["reproducible"] is True


def test_a_machine_without_a_driver_is_not_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    assert devices.find_gpus("auto") == ([], None)


def test_rows_that_turn_bad_under_a_gpu(comm: Comm, case: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    send = StrictStreams.send
    offer(StrictGpu())

    def spoiled(self: StrictStreams, source: np.ndarray, *others: object) -> int:
        if self.n_sent == 3:
            source[:] = np.nan
        return send(self, source, *others)

    monkeypatch.setattr(StrictStreams, "send", spoiled)
    assert "have changed since they were surveyed" in refused(comm, case, "bad", "compute.device=gpu")


@pytest.mark.parametrize(
    ("places", "alone", "shared"),
    [
        ([("a", "xy"), ("a", "xy"), ("a", "xy"), ("b", "xy")], ["x", "y", None, "x"], ["x", "y", "x", "x"]),
        ([("a", "x"), ("a", "y"), ("a", "")], ["x", "y", None], ["x", "y", None]),
        ([("a", "x")] * 3, ["x", None, None], ["x", "x", "x"]),
        ([("a", "")], [None], [None]),
    ],
)
def test_who_gets_which_gpu(places: list[tuple[str, str]], alone: list[str | None], shared: list[str | None]) -> None:
    assert assign(places, share=False) == alone
    assert assign(places, share=True) == shared


def test_rows_are_labelled_and_scored_on_gpus(
    comm: Comm, case: Path, offer: Offer, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on processors, but for the last digits; with rows that are left out, and with weights."""
    if comm.is_root:
        rows = ROWS.copy()
        rows[[0, 1000, 2999], [1, 2, 0]] = np.nan, -np.inf, np.nan
        write_rows(case / "holes.h5", rows, w=np.arange(len(rows)) % 3 / 7)
    comm.mpi.Barrier()
    model = fit(comm, case, "cpu", "compute.device=cpu") / "model.h5"
    offer(StrictGpu() if comm.rank or comm.size == 1 else None)
    options = (str(model), str(case / "holes.h5"), "data.missing=drop", "compute.tile_rows=200")
    labelled, scored = [], []
    for device in ("cpu", "auto"):
        out, chosen = case / f"{device}.h5", (*options, f"compute.device={device}")
        capfd.readouterr()
        assert run_verb(comm, "predict", *chosen, "--proba", "2", "--anomaly", "0.1", "--out", str(out)) == (0, "")
        with h5py.File(out) as file:
            labelled.append({name: file[name][()] for name in ("labels", "log_density", "proba", "anomaly")})
        told = comm.bcast(capfd.readouterr().err)
        assert ("ranks compute on unlike devices" in told) == (device == "auto" and comm.size > 1)
        assert run_verb(comm, "score", *chosen, "data.weights=/w") == (0, "")
        scored.append(json.loads(comm.bcast(capfd.readouterr().out)))
    for name, expected in labelled[0].items():
        np.testing.assert_allclose(labelled[1][name], expected, rtol=1e-9, err_msg=name)
    assert (labelled[0]["labels"][[0, 1000, 2999]] == -1).all() and labelled[0]["anomaly"].sum() == 300
    for name, expected in scored[0].items():
        np.testing.assert_allclose(scored[1][name], expected, rtol=1e-9, err_msg=name)
    code, message = run_verb(comm, "score", *options, "data.missing=error", "compute.device=auto")
    assert code == 2 and "row 0 of /X in " in message and "holds NaN in column 1" in message


def test_an_interrupted_command_does_not_go_on_with_another_device(
    comm: Comm, case: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fit(comm, case, "cpu", "compute.device=cpu") / "model.h5"
    command = ("predict", str(model), str(case / "x.h5"), "compute.tile_rows=200", "--out", str(case / "l.h5"))
    offer(StrictGpu())
    finished: list[int] = []

    def finish_some(writer: RowWriter, tile: int) -> None:
        if len(finished) == 2:
            raise InterruptedRunError("interrupted")
        finished.append(tile)
        finish(writer, tile)

    finish = RowWriter.finish
    for device in ("gpu", "cpu"):
        monkeypatch.setattr(RowWriter, "finish", finish_some)
        finished.clear()
        assert run_verb(comm, *command, f"compute.device={device}")[0] == 75
    monkeypatch.setattr(RowWriter, "finish", lambda writer, tile: finished.append(tile))
    finished.clear()
    assert run_verb(comm, *command, "compute.device=gpu") == (0, "")
    assert sum(comm.allgather(len(finished))) == 15
