"""`mpigmm.fit` as a call: the bits of the command, the same error on every rank, and nothing left behind."""

from __future__ import annotations

import _thread
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mpi4py import MPI
from support import TYPES, blobs, write_rows
from threadpoolctl import threadpool_info

import mpigmm
from mpigmm import errors, own_rows
from mpigmm import settings as settings_module
from mpigmm.core.algorithms import base
from mpigmm.core.estep.step import EStep
from mpigmm.data import malloc
from mpigmm.driver import e_step, em_loop, fit_rows, starts, survey_pass, worker
from mpigmm.options import EmOptions, FitOptions, ModelOptions, OutputOptions
from mpigmm.parallel import mpi
from mpigmm.parallel.comm import Comm

parallel = pytest.mark.parallel

ROWS = blobs(600, 3, 3)
WEIGHTS = np.random.default_rng(1).integers(0, 3, 600).astype(float)
SETTINGS: dict[str, Any] = {"model": {"n_components": 3}, "em": {"max_iter": 8, "tol": 0}, "compute": {"tile_rows": 64}}

pytestmark = [
    pytest.mark.filterwarnings("ignore:max_iter came before convergence"),
    pytest.mark.filterwarnings("ignore:.* on a node share"),
]


def cuts(comm: Comm, n_rows: int, kind: str) -> list[int]:
    """Where the rows of the ranks begin, and the number of rows."""
    if kind == "even":
        inner = [n_rows * rank // comm.size for rank in range(1, comm.size)]
    elif kind == "odd":  # all inside one tile but for the last
        inner = [70 + 9 * rank for rank in range(1, comm.size)]
    else:  # the first has none, and the last two, if there are so many
        inner = [0, *[n_rows] * comm.size][: comm.size - 1]
    return [0, *inner, n_rows]


def own(comm: Comm, rows: np.ndarray, kind: str = "even") -> np.ndarray:
    """The rows of this rank."""
    edges = cuts(comm, len(rows), kind)
    return rows[edges[comm.rank] : edges[comm.rank + 1]]


def bits(result: mpigmm.FitResult) -> bytes:
    mixture = result.mixture
    return b"".join(array.tobytes() for array in (mixture.weights, mixture.means, mixture.covariances))


def of_file(path: Path, settings: dict[str, Any], rows: np.ndarray, weights: np.ndarray | None = None) -> bytes:
    """Bits of the fit that this rank makes alone from a file of its own."""
    path = path / f"rows-{MPI.COMM_WORLD.rank}.h5"
    others = {} if weights is None else {"w": weights}
    write_rows(path, rows, **others)
    data = {"path": str(path)} | ({} if weights is None else {"weights": "/w"})
    given = settings.get("data", {})
    return bits(mpigmm.fit({**settings, "data": {**data, **given}}, comm=MPI.COMM_SELF))


@parallel
@pytest.mark.parametrize("kind", ["even", "odd", "empty"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_in_memory_give_the_bits_of_rows_in_a_file(
    comm: Comm, tmp_path: Path, covariance_type: str, kind: str
) -> None:
    settings = {**SETTINGS, "model": {"n_components": 3, "covariance_type": covariance_type}}
    result = mpigmm.fit(settings, own(comm, ROWS, kind), comm=MPI.COMM_WORLD)
    assert bits(result) == of_file(tmp_path, settings, ROWS)
    assert len(result.convergence) == result.summary["n_iter"] == 8 and result.summary["n_ranks"] == comm.size


SHAPES: dict[str, Callable[[np.ndarray], Any]] = {
    "columns": lambda rows: tuple(np.ascontiguousarray(column) for column in rows.T),
    "a column of another type": lambda rows: (rows[:, 0].astype(np.float32), *rows.T[1:]),
    "Fortran's order": np.asfortranarray,
    "every second column": lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
    "backwards": lambda rows: rows[::-1].copy()[::-1],
    "the other byte order": lambda rows: rows.astype(rows.dtype.newbyteorder()),
    "a list": lambda rows: rows.tolist() or np.empty((0, 3)),
    "at odd addresses": lambda rows: np.frombuffer(b"x" + rows.tobytes(), rows.dtype, rows.size, 1).reshape(rows.shape),
    "read-only": lambda rows: np.frombuffer(rows.tobytes()).reshape(rows.shape),
}


@parallel
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_any_layout(comm: Comm, tmp_path: Path, shape: str) -> None:
    given = SHAPES[shape](own(comm, ROWS, "empty" if shape in ("columns", "a list") else "odd"))
    rows = ROWS.copy()
    if shape == "a column of another type":
        rows[:, 0] = rows[:, 0].astype(np.float32)
    assert bits(mpigmm.fit(SETTINGS, given, comm=MPI.COMM_WORLD)) == of_file(tmp_path, SETTINGS, rows)


@parallel
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8", ">i8"])
def test_numbers_of_any_type(comm: Comm, tmp_path: Path, dtype: str) -> None:
    rows = np.abs(20 * ROWS).astype(dtype)
    assert bits(mpigmm.fit(SETTINGS, own(comm, rows, "odd"), comm=MPI.COMM_WORLD)) == of_file(tmp_path, SETTINGS, rows)


@parallel
@pytest.mark.parametrize("weights", [WEIGHTS, WEIGHTS.astype(np.int8), np.repeat(WEIGHTS, 2)[::2]], ids=str)
def test_weights_and_missing_values(comm: Comm, tmp_path: Path, weights: np.ndarray) -> None:
    rows = ROWS.copy()
    rows[5::50, 1] = np.nan
    settings = {**SETTINGS, "data": {"missing": "drop"}}
    result = mpigmm.fit(settings, own(comm, rows, "odd"), sample_weight=own(comm, weights, "odd"), comm=MPI.COMM_WORLD)
    assert bits(result) == of_file(tmp_path, settings, rows, WEIGHTS)
    assert result.summary["n_dropped"] == np.count_nonzero(WEIGHTS[5::50])


@parallel
def test_float32_and_several_threads(comm: Comm, tmp_path: Path) -> None:
    settings = {**SETTINGS, "compute": {"tile_rows": 32, "threads": 3, "precision": "float32"}}
    assert bits(mpigmm.fit(settings, own(comm, ROWS), comm=MPI.COMM_WORLD)) == of_file(tmp_path, settings, ROWS)


@parallel
def test_rows_are_not_changed_and_not_copied(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = own(comm, ROWS)
    before, seen = rows.tobytes(), []
    e_step = EStep.__call__

    def watched(self: EStep, tile: Any, statistics: Any) -> None:
        seen.append(np.shares_memory(tile.raw, rows))
        e_step(self, tile, statistics)

    monkeypatch.setattr(EStep, "__call__", watched)
    unscreened = {**SETTINGS, "init": {"screening": False}}  # short runs work on a sample, which is a copy
    mpigmm.fit({**unscreened, "compute": {"tile_rows": 50, "device": "cpu"}}, rows, comm=MPI.COMM_WORLD)
    cut = bool(cuts(comm, 600, "even")[comm.rank + 1] % 50)  # the last tile, of which another rank holds a part
    assert rows.tobytes() == before and seen.count(False) == 9 * cut and len(seen) > 9 * cut


@parallel
def test_disjoint_communicators_and_handles_of_fortran(comm: Comm, tmp_path: Path) -> None:
    half = MPI.COMM_WORLD.Split(comm.rank % 2, comm.rank)
    rows = ROWS[: 300 + 100 * (comm.rank % 2)]
    share = rows[len(rows) * half.rank // half.size : len(rows) * (half.rank + 1) // half.size]
    for given in (half, half.py2f()):
        assert bits(mpigmm.fit(SETTINGS, share, comm=given)) == of_file(tmp_path, SETTINGS, rows)
    half.Free()


@parallel
def test_a_communicator_is_freed_on_every_path(comm: Comm) -> None:
    alive = [1]  # the attribute of the original
    key = MPI.Comm.Create_keyval(lambda *_: alive.append(1) or True, lambda *_: alive.pop())
    world = MPI.COMM_WORLD.Dup()
    world.Set_attr(key, True)
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=world)
    with pytest.raises(errors.DataError):
        mpigmm.fit(SETTINGS, own(comm, np.full_like(ROWS, np.nan)), comm=world)
    with pytest.raises(errors.ConfigError):
        mpigmm.fit({"nonsense": {}}, own(comm, ROWS), comm=world)
    assert len(alive) == 1
    world.Delete_attr(key)
    world.Free()
    MPI.Comm.Free_keyval(key)


@pytest.fixture
def last(comm: Comm) -> bool:
    return comm.rank == comm.size - 1


def with_nan(rows: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(rows))[:, None] == len(rows) - 1, [[0, np.nan, 0]], rows)


ENDLESS: dict[str, Any] = {}
ENDLESS["model"] = ENDLESS

WRONG: dict[str, tuple[type[Exception], str, Callable[[np.ndarray], dict[str, Any]]]] = {
    "NaN": (
        errors.DataError,
        r"row \d+ of X.* holds NaN in column 1; set data.missing: drop",
        lambda rows: {"X": with_nan(rows)},
    ),
    "an unknown key": (
        errors.ConfigError,
        "unknown key em.tolerance; did you mean em.tol",
        lambda rows: {"config": {**SETTINGS, "em": {"tolerance": 1}}},
    ),
    "a value out of bounds": (
        errors.ConfigError,
        "model.n_components: 0 is not valid",
        lambda rows: {"config": {"model": {"n_components": 0}}},
    ),
    "data.path": (
        errors.ConfigError,
        "data.path: the rows are given as X",
        lambda rows: {"config": {**SETTINGS, "data": {"path": "rows.h5"}}},
    ),
    "no settings": (errors.ConfigError, "config: 3 is neither the path", lambda rows: {"config": 3}),
    "a vector": (errors.DataError, "X has shape .*: X.:, None. is one feature", lambda rows: {"X": rows[:, 0]}),
    "text": (errors.DataError, "X has dtype <U", lambda rows: {"X": rows.astype(str)}),
    "complex numbers": (errors.DataError, "X has dtype complex", lambda rows: {"X": rows.astype(complex)}),
    "columns of unlike length": (
        errors.DataError,
        r"X\[1\] has 1 entries, but X\[0\] has",
        lambda rows: {"X": (rows[:, 0], rows[:1, 1])},
    ),
    "a matrix in a tuple": (
        errors.DataError,
        r"X\[0\] has shape .*; in a tuple",
        lambda rows: {"X": (rows,)},
    ),
    "a number that no file holds": (
        errors.ConfigError,
        "em.max_iter: a number of thousands of digits",
        lambda rows: {"config": {"em": {"max_iter": 10**5000}}},
    ),
    "settings that contain themselves": (
        errors.ConfigError,
        "config: it is nested too deeply, or contains itself",
        lambda rows: {"config": ENDLESS},
    ),
    "a masked array": (errors.DataError, "X is a masked array", lambda rows: {"X": np.ma.masked_array(rows)}),
    "weights of another length": (
        errors.DataError,
        "sample_weight has shape",
        lambda rows: {"sample_weight": np.ones(len(rows) + 1)},
    ),
}
DIFFERENT: dict[str, tuple[type[Exception], str, Callable[[np.ndarray], dict[str, Any]]]] = {
    "fewer features": (errors.DataError, "X has 2 features on rank", lambda rows: {"X": rows[:, :2]}),
    "other settings": (
        errors.ConfigError,
        r"the ranks give different settings: em.max_iter is 8 on rank 0 and 9 on rank",
        lambda rows: {"config": {**SETTINGS, "em": {"max_iter": 9, "tol": 0}}},
    ),
    "no rows": (errors.ConfigError, "X is given on rank 0, but not on rank", lambda rows: {"X": None}),
    "weights": (
        errors.DataError,
        "sample_weight is given on rank .*, but not on rank 0",
        lambda rows: {"sample_weight": np.ones(len(rows))},
    ),
}


def refused(comm: Comm, kind: type[Exception], pattern: str, **call: Any) -> None:
    """Check that all ranks raise the same error within a second, and that the next call works."""
    arguments = {"config": SETTINGS, "X": own(comm, ROWS), "comm": MPI.COMM_WORLD, **call}
    begin = time.monotonic()
    with pytest.raises(kind, match=pattern) as caught:
        mpigmm.fit(**arguments)
    assert time.monotonic() - begin < 1.0 + 0.5 * (comm.size > 2)  # two cores
    messages = comm.allgather((type(caught.value), str(caught.value)))
    assert len(set(messages)) == 1 and isinstance(caught.value, errors.MpigmmError)
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)


@parallel
@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_on_one_rank_is_raised_on_all(comm: Comm, last: bool, what: str) -> None:
    kind, pattern, change = WRONG[what]
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)  # what follows loads nothing
    refused(comm, kind, pattern, **(change(own(comm, ROWS)) if last else {}))
    assert issubclass(kind, ValueError)


@parallel
@pytest.mark.parametrize("what", DIFFERENT)
def test_ranks_that_differ_are_told_in_what(comm: Comm, last: bool, what: str) -> None:
    if comm.size == 1:
        pytest.skip("one rank cannot differ from itself")
    kind, pattern, change = DIFFERENT[what]
    refused(comm, kind, pattern, **(change(own(comm, ROWS)) if last else {}))


@parallel
def test_settings_in_other_words_are_the_same(comm: Comm, last: bool) -> None:
    number = np.int64 if last else int
    em = {"max_iter": number(8), "tol": 0.0 if last else 0}
    settings = {"model": {"n_components": number(3)}, "em": em, "compute": {"tile_rows": 64}}
    expected = mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)
    options = FitOptions(model=ModelOptions(3), em=EmOptions(max_iter=8, tol=0), compute=expected_compute())
    for given in (settings, options if last else settings, {**settings, "init": {}} if last else settings):
        assert bits(mpigmm.fit(given, own(comm, ROWS), comm=MPI.COMM_WORLD)) == bits(expected)


def expected_compute() -> Any:
    from mpigmm.options import ComputeOptions

    device = os.environ.get("MPIGMM_TEST_DEVICE")
    return ComputeOptions(tile_rows=64, **({"device": "gpu"} if device else {}))


@parallel
def test_too_few_rows_and_none(comm: Comm) -> None:
    few, weights = own(comm, ROWS[:2]), np.zeros(len(own(comm, ROWS)))
    refused(comm, errors.DataError, "components need at least as many rows, but X has 0", X=ROWS[:0])
    refused(comm, errors.DataError, "3 components need at least as many rows, but X has 2; lower it", X=few)
    refused(comm, errors.DataError, "but X has 0 usable ones of 600; lower it, or check X", sample_weight=weights)


FAULTS = {
    "settings": (settings_module, "digest"),
    "rows": (own_rows, "common_header"),
    "devices": (fit_rows, "choose_devices"),
    "layout": (fit_rows, "lay_out"),
    "threads": (worker, "Workers"),
    "borders": (worker, "complete_tiles"),
    "centre": (survey_pass, "usable_values"),
    "survey": (survey_pass, "empty_survey"),
    "starts": (fit_rows, "Starts"),
    "format of the sums": (e_step, "sum_format"),
    "kernels": (e_step, "prepared"),
    "M-step": (base, "m_step"),
    "log": (em_loop, "log_line"),
    "end of a start": (starts, "with_ended"),
    "usage": (fit_rows, "usage"),
}


@parallel
@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_on_one_rank_at_any_place_is_raised_on_all(
    comm: Comm, last: bool, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    module, name = FAULTS[place]
    kind = ZeroDivisionError if place in ("rows", "survey", "M-step") else MemoryError
    function, calls = getattr(module, name), []

    def failing(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if last and len(calls) == 1:
            raise kind("a test")
        return function(*arguments, **named)

    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        rank = comm.size - 1
        out_of_memory = f"rank {rank} is out of memory; use "
        pattern = out_of_memory if kind is MemoryError else f"rank {rank} failed:\nTraceback(.*\n)*.*a test"
        begin = time.monotonic()
        with pytest.raises(errors.MpigmmError, match=pattern):
            mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)
        assert time.monotonic() - begin < 1.5 and (calls or not last)
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)


class Slow:
    """Lets every E-step of a tile take some time, and tells when the first begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.has_begun = threading.Event()
        e_step = EStep.__call__

        def slow(*arguments: Any) -> None:
            self.has_begun.set()
            time.sleep(seconds)
            e_step(*arguments)

        monkeypatch.setattr(EStep, "__call__", slow)


@parallel
@pytest.mark.parametrize("how", ["signal", "interrupt_main"])
@pytest.mark.parametrize("on", ["the last rank", "all ranks", "a rank without rows"])
def test_an_interrupt_on_one_rank_is_raised_on_all(
    comm: Comm, monkeypatch: pytest.MonkeyPatch, how: str, on: str
) -> None:
    unscreened = {**SETTINGS, "init": {"screening": False}}  # so that all ranks begin their first E-step together
    settings = {**unscreened, "em": {"max_iter": 100_000, "tol": 0}}
    kind = "empty" if on == "a rank without rows" else "even"
    hit = {"the last rank": comm.size - 1, "a rank without rows": 0}.get(on, comm.rank)
    slow = Slow(monkeypatch, 0.01)
    raised: list[float] = []

    def interrupt() -> None:
        slow.has_begun.wait(10)
        time.sleep(0.2)
        raised.append(time.monotonic())
        if how == "signal":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            _thread.interrupt_main()

    if comm.rank == hit:
        if on == "a rank without rows" and comm.size > 1:
            slow.has_begun.set()
        threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt, match="interrupted by KeyboardInterrupt") as caught:
        mpigmm.fit(settings, own(comm, ROWS, kind), comm=MPI.COMM_WORLD)
    first = min(comm.allgather(min(raised, default=np.inf)))
    assert isinstance(caught.value, errors.InterruptedCallError) and time.monotonic() - first < 1.0
    monkeypatch.undo()
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)


@parallel
def test_an_interrupt_of_a_rank_that_waits_for_a_late_one(comm: Comm, last: bool) -> None:
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)
    if last and comm.size > 1:
        time.sleep(0.6)
    else:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    settings = {**SETTINGS, "em": {"max_iter": 1_000_000, "tol": 0}}
    with pytest.raises(errors.InterruptedCallError):
        mpigmm.fit(settings, own(comm, ROWS), comm=MPI.COMM_WORLD)
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)


@parallel
@pytest.mark.parametrize(("place", "name"), [(EStep, "__call__"), (base, "m_step")], ids=["pass", "M-step"])
def test_an_interrupt_where_only_one_thread_may_call_mpi(
    comm: Comm, last: bool, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    monkeypatch.setattr(mpi, "is_for_threads", lambda: False)
    assert bits(mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)) == bits(mpigmm.fit(SETTINGS, ROWS))
    function = getattr(place, name)

    def interrupted(*arguments: Any) -> Any:
        if last:
            raise KeyboardInterrupt
        return function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted)
        with pytest.raises(errors.InterruptedCallError, match=f"KeyboardInterrupt on rank {comm.size - 1}"):
            mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)
    mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)


def test_what_a_handler_of_the_host_raises_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    class AlarmError(Exception):
        pass

    def ring(*_: object) -> None:
        raise AlarmError

    previous = signal.signal(signal.SIGALRM, ring)
    Slow(monkeypatch, 0.01)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(AlarmError):
            mpigmm.fit({**SETTINGS, "em": {"max_iter": 100_000, "tol": 0}}, ROWS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@parallel
def test_nothing_is_left_behind(comm: Comm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> list[Any]:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
        pools = sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info())
        return [handlers, pools, threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), np.geterr()]

    monkeypatch.setattr(malloc.PROCESS, "is_ours", False)  # which a command of another test may have set
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda *_: pytest.fail("malloc is set"))
    settings = {**SETTINGS, "compute": {"tile_rows": 16, "threads": 2, "device": "cpu"}}
    result = mpigmm.fit(settings, own(comm, ROWS), comm=MPI.COMM_WORLD)
    before = state()
    for _ in range(3):
        again = mpigmm.fit(settings, own(comm, ROWS), comm=MPI.COMM_WORLD)
        again.mixture.predict(ROWS)
        with pytest.raises(errors.DataError):
            mpigmm.fit(settings, own(comm, np.full_like(ROWS, np.nan)), comm=MPI.COMM_WORLD)
    assert state() == before and bits(again) == bits(result)
    assert capfd.readouterr() == ("", "")


def test_every_library_and_thread_is_limited_until_the_last_fit_ends() -> None:
    code = """
from threadpoolctl import threadpool_info
import numpy
from mpigmm.parallel.threads import single_threaded_blas
def counts(): return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
before = counts()
with single_threaded_blas:
    import scipy.linalg
    with single_threaded_blas:
        assert set(counts()) == {1}, counts()
    assert set(counts()) == {1}, counts()
assert set(counts()) == set(before), (before, counts())
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr


def test_several_fits_at_once_in_threads_of_the_host() -> None:
    before = threadpool_info()
    expected = bits(mpigmm.fit(SETTINGS, ROWS))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(bits(mpigmm.fit(SETTINGS, ROWS)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4 and threadpool_info() == before


@parallel
def test_with_a_directory_it_resumes_and_writes_what_the_command_writes(comm: Comm, shared_path: Path) -> None:
    out = shared_path / "out"
    settings = {**SETTINGS, "output": {"dir": str(out)}}
    short = {**settings, "em": {"max_iter": 3, "tol": 0}}
    first = mpigmm.fit(short, own(comm, ROWS), comm=MPI.COMM_WORLD)
    result = mpigmm.fit(settings, own(comm, ROWS, "odd"), comm=MPI.COMM_WORLD)
    assert len(first.convergence) == 3 and result.summary["resumed_from"] == 3
    assert result.convergence["iteration"].tolist() == list(range(1, 9))
    assert bits(result) == bits(mpigmm.fit(SETTINGS, ROWS, comm=MPI.COMM_SELF))
    again = mpigmm.fit(settings, own(comm, ROWS), comm=MPI.COMM_WORLD)
    assert bits(again) == bits(result) and again.summary == result.summary
    assert again.convergence.tobytes() == result.convergence.tobytes()
    assert bits(mpigmm.fit(out / "config.yaml", own(comm, ROWS), comm=MPI.COMM_WORLD)) == bits(result)
    loaded = mpigmm.Mixture.load(out / "model.h5")
    assert loaded.weights.tobytes() == result.mixture.weights.tobytes()
    with pytest.raises(errors.OutputError, match=r"of another problem: model\.n_components was 3, is 2"):
        mpigmm.fit({**settings, "model": {"n_components": 2}}, own(comm, ROWS), comm=MPI.COMM_WORLD)
    with pytest.raises(errors.DataError, match=r"the rows of X are not those.*give restart=True to start over"):
        mpigmm.fit(settings, own(comm, ROWS + 1), comm=MPI.COMM_WORLD)
    fresh = mpigmm.fit({**settings, "init": {"seed": 1}}, own(comm, ROWS), comm=MPI.COMM_WORLD, restart=True)
    assert fresh.summary["resumed_from"] is None


def test_two_threads_do_not_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, 0.02)
    settings = {**SETTINGS, "output": {"dir": str(tmp_path / "out")}}
    (tmp_path / "link").symlink_to(tmp_path / "out")
    other = threading.Thread(target=lambda: mpigmm.fit(settings, ROWS))
    other.start()
    slow.has_begun.wait(10)
    for name in ("out", "link"):
        with pytest.raises(errors.OutputError, match=r"is in use by another run \(a thread of this process\)"):
            mpigmm.fit({**settings, "output": {"dir": str(tmp_path / name)}}, ROWS)
    other.join()
    assert len(mpigmm.fit(settings, ROWS).convergence) == 8


def test_an_error_is_not_hidden_by_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_rows, "usage", lambda reduction: 1 / 0)
    settings = {**SETTINGS, "compute": {"threads": 64, "tile_rows": 8}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(errors.MpigmmError, match="ZeroDivisionError"):
            mpigmm.fit(settings, ROWS)


def test_an_interrupted_call_with_a_directory_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unscreened = {
        **SETTINGS,
        "init": {"screening": False},
    }  # so that the first slow E-step is that of the first iteration
    settings = {**unscreened, "output": {"dir": str(tmp_path / "out")}, "compute": {"tile_rows": 64, "device": "cpu"}}
    slow = Slow(monkeypatch, 0.02)
    timer = threading.Timer(0.9, _thread.interrupt_main)
    timer.start()
    with pytest.raises(errors.InterruptedCallError, match="repeat the call with the same settings to go on"):
        mpigmm.fit(settings, ROWS)
    assert slow.has_begun.is_set()
    monkeypatch.undo()
    result = mpigmm.fit(settings, ROWS)
    assert result.summary["resumed_from"] > 0 and len(result.convergence) == 8
    assert bits(result) == bits(mpigmm.fit({**settings, "output": {}}, ROWS))


@parallel
def test_a_mixture_in_a_file_as_the_start(comm: Comm, shared_path: Path) -> None:
    first = mpigmm.fit({**SETTINGS, "em": {"max_iter": 3, "tol": 0}}, own(comm, ROWS), comm=MPI.COMM_WORLD)
    path = shared_path / "start.h5"
    if comm.is_root:
        first.mixture.save(path)
    MPI.COMM_WORLD.Barrier()
    settings = {**SETTINGS, "init": {"method": "file", "file": path}, "em": {"max_iter": 5, "tol": 0}}
    whole = mpigmm.fit(SETTINGS, own(comm, ROWS), comm=MPI.COMM_WORLD)
    assert bits(mpigmm.fit(settings, own(comm, ROWS), comm=MPI.COMM_WORLD)) == bits(whole)


def test_what_a_file_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "rows.h5", ROWS)
    for settings in (SETTINGS, FitOptions(model=ModelOptions(3))):
        with pytest.raises(errors.ConfigError, match=r"data\.path is missing; .* or give the rows as X"):
            mpigmm.fit(settings)
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{path: {path}}}\nmodel: {{n_components: 3}}\nem: {{max_iter: 8, tol: 0}}\n")
    os.chdir(tmp_path)
    from_path, from_text = mpigmm.fit(config), mpigmm.fit(str(config))
    assert bits(from_path) == bits(from_text) and sorted(p.name for p in tmp_path.iterdir()) == ["rows.h5", "run.yaml"]
    with pytest.raises(errors.ConfigError, match="sample_weight: it belongs to X"):
        mpigmm.fit(config, sample_weight=WEIGHTS)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    with pytest.raises(errors.ConfigError, match=r"started 4 processes; give comm=MPI.COMM_WORLD.*comm=MPI.COMM_SELF"):
        mpigmm.fit(config)
    mpigmm.fit(SETTINGS, ROWS)


@pytest.mark.parametrize(
    ("comm", "message"),
    [
        ("world", "is neither a communicator"),
        (1.5, "is neither"),
        (True, "is neither"),
        (-99, "comm: "),
        (MPI.COMM_NULL, "an intracommunicator is needed"),
    ],
)
def test_what_is_no_communicator(comm: object, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        mpigmm.fit(SETTINGS, ROWS, comm=comm)


def test_options_may_be_given_as_such(tmp_path: Path) -> None:
    em, output = EmOptions(max_iter=8, tol=0), OutputOptions(str(tmp_path / "o"))
    options = FitOptions(model=ModelOptions(3), em=em, output=output)
    assert mpigmm.fit(options, ROWS).summary["n_iter"] == 8
    with pytest.raises(errors.ConfigError, match=r"em\.max_iter: 0 is not valid"):
        mpigmm.fit(FitOptions(em=EmOptions(max_iter=0)), ROWS)


def test_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(errors.MpigmmWarning, match="max_iter came before convergence") as caught:
        mpigmm.fit({**SETTINGS, "init": {"method": "random"}, "em": {"max_iter": 2}}, ROWS, verbose=True)
    assert caught[0].filename == __file__
    out, err = capsys.readouterr()
    assert (
        "fitted: 3 components, stopped after 2 iterations" in out
        and "iteration 2  mean" in err
        and "warning" not in err
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mpigmm.fit({**SETTINGS, "em": {"max_iter": 500, "tol": 1e-3}}, ROWS)
    assert capsys.readouterr() == ("", "")


SECOND_FIT = """
import sys
import numpy as np
import mpigmm
assert not {"numpy.linalg", "mpi4py", "h5py", "scipy"} & set(sys.modules) - BEFORE, "import mpigmm loads too much"
rows = np.random.default_rng(0).standard_normal((500, 3))
settings = {"model": {"n_components": 2}}
mpigmm.fit(settings, rows)
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)))
mixture = mpigmm.fit(settings, rows).mixture
mixture.predict(rows), mixture.bic(rows), mixture.sample(10)
bad = ("open", "os.open", "subprocess.Popen", "os.fork", "os.posix_spawn", "signal.signal", "socket.connect")
assert not [event for event, _ in seen if event in bad], seen
assert not {"mpi4py", "h5py"} & set(sys.modules)
"""


def test_a_process_alone_starts_no_mpi_and_opens_no_file() -> None:
    program = "import sys, numpy; BEFORE = set(sys.modules)" + SECOND_FIT
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_package_names_what_it_offers() -> None:
    assert {"fit", "FitResult", "Mixture", "errors", "__version__"} <= set(dir(mpigmm))
    stub = (Path(mpigmm.__file__).parent / "__init__.pyi").read_text()
    assert set(re.findall(r"as (\w+)$", stub, re.MULTILINE)) == set(mpigmm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mpigmm.nothing


@pytest.fixture(autouse=True)
def _stay(tmp_path: Path) -> Iterator[None]:
    here = os.getcwd()  # noqa: PTH109
    yield
    os.chdir(here)


def test_a_model_file_of_a_fit_is_that_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    result = mpigmm.fit(SETTINGS, ROWS)
    result.mixture.save(path)
    with h5py.File(path) as file:
        assert file.attrs["n_iter"] == 8 and file.attrs["n_samples"] == 600
        assert file["means"][()].tobytes() == result.mixture.means.tobytes()
