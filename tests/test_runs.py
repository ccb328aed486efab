"""Files of a run: whole or absent, checked, and refused when damaged."""

from __future__ import annotations

import json
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support import blobs, file_size_limit, read_lines, start_mixture

from mpigmm.core.algorithms.batch import BatchState
from mpigmm.core.mixture import Mixture
from mpigmm.data.files import write_whole
from mpigmm.errors import DataError, InterruptedRunError, OutputError
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs import guarded, hdf5
from mpigmm.runs.checkpoint import (
    NO_LINES,
    Checkpoint,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from mpigmm.runs.convergence import COLUMNS, ConvergenceLog
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model, save_model
from mpigmm.runs.state import Ended, Fitted, Progress

MIXTURE = start_mixture("full", blobs(50, 2, 2), 2)


def same(one: Mixture, other: Mixture) -> bool:
    theirs = other.arrays()
    return all(values.tobytes() == theirs[name].tobytes() for name, values in one.arrays().items())


def test_model_file_as_the_contract_says(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    save_model(path, Model(MIXTURE, 50, -1.5, 7, True, {"em": {"tol": 0.1}}))
    with h5py.File(path) as file:
        assert file["covariances"].shape == (2, 2, 2)
        assert file.attrs["format"] == "mpigmm-model"
        assert file.attrs["n_components"] == 2
        assert json.loads(file.attrs["config"]) == {"em": {"tol": 0.1}}
    model = load_model(path)
    assert same(model.mixture, MIXTURE)
    assert (model.n_iter, model.converged, model.mean_log_likelihood) == (7, True, -1.5)


def test_a_model_that_others_wrote_is_accepted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["weights"], file["means"], file["covariances"] = [1.0], [[0, 0]], [[1.0, 2.0]]
        file.attrs.update(format="mpigmm-model", format_version=1, covariance_type="diag")
    assert load_model(tmp_path / "theirs.h5").mixture.covariances.values.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.7, 0.7]}, "sum 1"),
        ({"weights": [1.0]}, "shapes"),
        ({"means": np.full((2, 2), np.nan)}, "not finite"),
        ({"covariances": np.zeros((2, 2, 2))}, "component 0 is not positive definite"),
        ({"covariances": np.ones((2, 2))}, "shape"),
        ({"covariances": None}, "lacks the dataset /covariances"),
        ({"means": np.array([[b"a", b"b"], [b"c", b"d"]])}, "does not hold a mixture"),
    ],
)
def test_parameters_that_are_no_mixture(tmp_path: Path, change: dict[str, object], message: str) -> None:
    values = MIXTURE.arrays() | change
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        for name, value in values.items():
            if value is not None:
                file[name] = value
        file.attrs.update(format="mpigmm-model", format_version=1, covariance_type="full")
    with pytest.raises(DataError, match=message):
        load_model(tmp_path / "bad.h5")


def flipped(whole: bytes, place: int) -> bytes:
    damaged = bytearray(whole)
    damaged[place] ^= 0x10
    return bytes(damaged)


def test_every_flipped_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.h5"
    save_checkpoint(tmp_path, checkpoint(10))
    whole = path.read_bytes()
    for place in [*range(100), *np.random.default_rng(0).integers(len(whole), size=50)]:
        path.write_bytes(flipped(whole, place))
        with pytest.raises(DataError, match="damaged"):
            read_checkpoint(path)
    for length in (0, 100, 600, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="damaged"):
            read_checkpoint(path)


def test_a_damaged_model_is_refused_or_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    save_model(path, Model(MIXTURE))
    whole = path.read_bytes()
    means = whole.index(MIXTURE.means.tobytes())
    for damaged in (flipped(whole, means + 3), flipped(flipped(whole, means + 3), 2), whole[:600], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged" if damaged[2] == whole[2] else "checksum"):
            load_model(path)
    path.write_bytes(flipped(whole, 2))
    assert same(load_model(path).mixture, MIXTURE)


def test_what_others_add_to_a_model_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    save_model(path, Model(MIXTURE, 50, -1.5, np.int64(7), np.bool_(True), {"em": {"tol": 0.1}}))
    with h5py.File(path, "r+") as file:
        file.attrs["note"], file["labels"] = "the good one", np.arange(5)
    found = load_model(path)
    assert same(found.mixture, MIXTURE) and found.n_iter == 7 and found.config == {"em": {"tol": 0.1}}
    with h5py.File(path, "r+") as file:
        file["means"][0, 0] += 1e-9
    with pytest.raises(DataError, match="damaged"):
        load_model(path)


LOOP = """
import os, signal, sys
sys.path[:] = sys.argv[3:]
from mpigmm.runs.guarded import limit_processor_time
{strike}
while True:
    pass
"""


@pytest.mark.parametrize(
    ("strike", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "comes to no end"),
    ],
)
def test_a_file_that_crashes_hdf5_or_keeps_it_busy_ends_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strike: str, message: str
) -> None:
    (tmp_path / "theirs.h5").write_bytes(hdf5.SIGNATURE)
    monkeypatch.setattr(guarded, "CODE", LOOP.format(strike=strike))
    with pytest.raises(DataError, match=f"theirs.h5 cannot be read as HDF5 .*{message}"):
        load_model(tmp_path / "theirs.h5")


def test_a_file_that_keeps_hdf5_busy_is_not_deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.h5").write_bytes(hdf5.SIGNATURE)
    monkeypatch.setattr(guarded, "CODE", LOOP.format(strike=""))
    stop, begin = StopRequest(), time.monotonic()
    stop.deadline = begin + 0.5
    with pytest.raises(InterruptedRunError, match="end of its time"):
        load_model(tmp_path / "theirs.h5", stop.check)
    assert time.monotonic() < begin + 5


def test_work_without_end_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits = {}
    monkeypatch.setattr(guarded.resource, "setrlimit", lambda what, limits: set_limits.update({what: limits}))
    with open(tmp_path / "theirs.h5", "wb") as file:
        file.truncate(10**8)
    guarded.limit_processor_time(tmp_path / "theirs.h5")
    assert set_limits[resource.RLIMIT_CPU][0] == 30


def checkpoint(iteration: int) -> Checkpoint:
    ended = Ended(0, 3, -1.0, -1.5, (1e-4, 1e-5), True, 4, 4.5)
    progress = Progress(
        1, iteration, BatchState(MIXTURE, -2.5), -2.0, (0.5,), 7, 9000, (ended,), Fitted(MIXTURE, ended)
    )
    history = np.arange(2.0 * len(COLUMNS)).reshape(2, -1)
    identity = {"model.n_components": 2, "em.algorithm": "batch"}
    return Checkpoint(progress, identity, "50x2 f8 00", 64, "numpy", "em: {tol: 0}\n", history)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) == (None, None)
    save_checkpoint(tmp_path, checkpoint(10))
    save_checkpoint(tmp_path, checkpoint(20))
    found, warning = load_checkpoint(tmp_path)
    assert found is not None and found.progress.iteration == 20 and warning is None
    assert found.progress.best is not None and same(found.progress.best.mixture, MIXTURE)
    assert found.progress.best.ended == found.progress.ended[0] == Ended(0, 3, -1.0, -1.5, (1e-4, 1e-5), True, 4, 4.5)
    assert found.mixture is not None and same(found.mixture, MIXTURE) and found.progress.state.objective == -2.5
    assert found.identity == checkpoint(20).identity and found.config == "em: {tol: 0}\n"
    assert found.history.tobytes() == checkpoint(20).history.tobytes()
    (tmp_path / "checkpoint.h5").write_bytes(b"x" * 2000)
    found, warning = load_checkpoint(tmp_path)
    assert found is not None and found.progress.iteration == 10
    assert warning is not None and "checkpoint.previous.h5" in warning
    (tmp_path / "checkpoint.previous.h5").write_bytes(b"")
    with pytest.raises(DataError, match="--restart"):
        load_checkpoint(tmp_path)


def log_row(init: int, iteration: int) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS, 0) | {"init": init, "iteration": iteration, "change": None, "seconds": 0.1}


def test_the_log_is_made_anew_from_a_checkpoints_table(tmp_path: Path) -> None:
    path = tmp_path / "convergence.jsonl"
    log = ConvergenceLog(path, NO_LINES)
    for iteration in range(1, 4):
        log.append(log_row(0, iteration))
    log.close()
    assert read_lines(path) == [log_row(0, iteration) for iteration in range(1, 4)]
    with open(path, "ab") as file:
        file.write(b'{"init": 0, "iter')
    again = ConvergenceLog(path, log.table()[:2])
    again.append(log_row(1, 1))
    again.close()
    assert read_lines(path) == [log_row(0, 1), log_row(0, 2), log_row(1, 1)]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with file_size_limit(2), pytest.raises(OutputError, match=r"file cannot be written \(File too large\)"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_lines_that_a_full_disk_refuses_are_written_later_and_none_is_torn(tmp_path: Path) -> None:
    path, lines = tmp_path / "convergence.jsonl", [log_row(0, iteration) for iteration in range(10)]
    log = ConvergenceLog(path, NO_LINES)
    with file_size_limit(600):
        for line in lines:
            with suppress(OutputError):
                log.append(line)
        assert 0 < len(read_lines(path)) < 10
        with pytest.raises(OutputError, match="cannot be written"):
            log.sync()
    log.sync()
    log.close()
    assert read_lines(path) == lines


def test_a_checkpoint_that_cannot_be_written_leaves_both_earlier_ones(tmp_path: Path) -> None:
    for iteration in (10, 20):
        save_checkpoint(tmp_path, checkpoint(iteration))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with file_size_limit(1000), pytest.raises(OutputError, match=r"checkpoint\.h5 cannot be written"):
        save_checkpoint(tmp_path, checkpoint(30))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"n_samples": "abc"}, "attribute of another type"),
        ({"n_iter": [1, 2]}, "attribute of another type"),
        ({"format": ["mpigmm-model"]}, "is not an mpigmm-model file"),
        ({"format_version": "1"}, "format_version '1'"),
        ({"config": "{"}, "not JSON"),
        ({"covariance_type": "round"}, "none of full, tied, diag, spherical"),
    ],
)
def test_attributes_of_other_types(tmp_path: Path, attributes: dict[str, object], message: str) -> None:
    save_model(tmp_path / "ours.h5", Model(MIXTURE))
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "model.h5", "w") as file:
        for name in ours:
            ours.copy(name, file)
        file.attrs.update({**ours.attrs, **attributes})
    with pytest.raises(DataError, match=message):
        load_model(tmp_path / "model.h5")


def test_fixed_length_strings_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["weights"], file["means"], file["covariances"] = [1.0], [[0, 0]], [2.0]
        file.attrs.update(format=np.bytes_("mpigmm-model"), format_version=1, covariance_type=np.bytes_("spherical"))
    assert load_model(tmp_path / "theirs.h5").mixture.covariances.name == "spherical"
