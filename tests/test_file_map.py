"""Rows of files that are used in place, in the operating system's cache."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mpigmm.data.block import Block
from mpigmm.data.file_map import load_library
from mpigmm.data.file_source import FileSource, read_header
from mpigmm.data.malloc import PROCESS
from mpigmm.errors import DataError
from mpigmm.rows import Rows

N, TILE = 30_000, 700
ROWS = np.random.default_rng(0).normal(size=(N, 5))

pytestmark = pytest.mark.skipif(load_library() is None, reason="the library was not compiled")


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is one of mpigmm's own."""
    monkeypatch.setattr(PROCESS, "is_ours", True)


def write(path: Path, rows: np.ndarray = ROWS, **layout: Any) -> Path:
    """Rows, with weights in HDF5."""
    if path.suffix == ".npy":
        np.save(path, rows)
        return path
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=rows, **layout)
        file["w"] = np.arange(len(rows))
    return path


def opened(path: Path, **options: Any) -> FileSource:
    return FileSource(read_header(str(path), "/X", **options))


def is_in_place(source: FileSource, start: int = 100, stop: int = 300) -> bool:
    """Whether rows are lent without a copy; they must be the same in any case."""
    place, expected = Rows.empty(0, 500, source.header.fields), source.read(start, stop)
    loan = source.lend(start, stop, place)
    assert loan.rows.first == start and loan.rows.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(loan.rows.arrays[name], array, strict=True)
    loan.end()
    return not np.shares_memory(loan.rows.values, place.values)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1"])
@pytest.mark.parametrize("suffix", ["h5", "npy"])
def test_contiguous_rows_are_used_in_place(tmp_path: Path, suffix: str, dtype: str) -> None:
    assert is_in_place(opened(write(tmp_path / f"x.{suffix}", (10 * ROWS).astype(dtype))))


def test_vectors_and_weights_are_rows_too(tmp_path: Path) -> None:
    assert is_in_place(opened(write(tmp_path / "x.h5", ROWS[:, 0])))
    assert is_in_place(opened(write(tmp_path / "x.h5"), sample_weight="/w"))


@pytest.mark.parametrize("layout", [{"chunks": (100, 5)}, {"dtype": ">f8"}, {"dtype": "f4", "compression": "gzip"}])
def test_other_rows_are_copied(tmp_path: Path, layout: dict[str, Any]) -> None:
    assert not is_in_place(opened(write(tmp_path / "x.h5", **layout)))


def test_some_columns_several_files_and_other_programs_take_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.h5")
    assert not is_in_place(opened(path, columns=[2, 0]))
    write(tmp_path / "b.h5")
    both = opened(tmp_path / "*.h5")
    assert not is_in_place(both, N - 100, N + 100) and is_in_place(both, N, N + 100)
    monkeypatch.setattr(PROCESS, "is_ours", False)
    assert not is_in_place(opened(path))


@pytest.mark.parametrize("suffix", ["h5", "npy"])
@pytest.mark.parametrize("is_cold", [False, True])
def test_tiles_of_a_block_are_those_of_the_file(tmp_path: Path, suffix: str, is_cold: bool) -> None:
    path = write(tmp_path / f"x.{suffix}", np.tile(ROWS, (20, 1)))
    tiles = range(-(-20 * N // TILE))
    block = Block(opened(path), tiles, TILE, resident=False)
    for _ in range(2):
        if is_cold:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for worker in range(2):
            for rows in block.read(tiles[worker::2], 2):
                assert (rows.values == np.take(ROWS, range(rows.first, rows.first + len(rows)), 0, mode="wrap")).all()


@pytest.mark.parametrize("size", [0, 5, 4096, N * 20, N * 40 - 1])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, size: int, when: str) -> None:
    path = write(tmp_path / "x.npy")
    source = opened(path)
    place = Rows.empty(0, N, source.header.fields)
    source.lend(0, 10, place).end()
    if when == "before":
        os.truncate(path, size)
        for ahead in (True, False):
            with pytest.raises(DataError, match=r"x.npy has shrunk while it was being read"):
                source.lend(0, N, place, ahead=ahead)
        return
    loan = source.lend(0, N, place, ahead=False)
    os.truncate(path, size)
    assert np.isfinite(loan.rows.values.sum())  # the missing rows are zeros, and nothing kills the process
    with pytest.raises(DataError, match=r"x.npy has shrunk while it was being read"):
        loan.end()


def test_a_file_that_is_cut_off_and_restored_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy")
    source, whole = opened(path), path.read_bytes()
    loan = source.lend(0, N, Rows.empty(0, N, source.header.fields), ahead=False)
    os.truncate(path, 4096)
    loan.rows.values.sum()
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"rows 0 to 30,000 of .*x.npy cannot be read \(Input/output error\)"):
        loan.end()


def test_rows_outlive_their_source(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "x.npy"))
    rows = source.lend(0, 10, Rows.empty(0, 10, source.header.fields)).rows
    del source
    assert (rows.values == ROWS[:10]).all()


FOREIGN = """
import mmap, os, signal, sys
import numpy as np
from mpigmm.data.malloc import PROCESS
from mpigmm.data.file_map import map_array
PROCESS.is_ours = True
signal.signal(signal.SIGBUS, getattr(signal, sys.argv[3]))
own = np.load(sys.argv[1], mmap_mode="r")
with open(sys.argv[1], "rb") as file:
    mapped = map_array(sys.argv[1], file.fileno(), own.offset, own.shape, own.dtype)
with open(sys.argv[2], "w+b") as file:
    file.write(bytes(8192))
    file.flush()
    other = mmap.mmap(file.fileno(), 8192)
    if sys.argv[4] == "kill":
        os.kill(os.getpid(), signal.SIGBUS)
        print("alive")
    else:
        os.truncate(sys.argv[2], 0)
        print(other[5000])
"""


@pytest.mark.parametrize("how", ["touch", "kill"])
def test_another_programs_bus_error_is_not_ours(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", FOREIGN, str(write(tmp_path / "x.npy")), str(tmp_path / "other"), "SIG_DFL", how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGBUS and not done.stdout, done.stderr
    if how == "kill":
        ignored = subprocess.run([*command[:-2], "SIG_IGN", how], capture_output=True, text=True, timeout=60)
        assert ignored.returncode == 0 and ignored.stdout == "alive\n", ignored.stderr


def resident_bytes(path: Path) -> int:
    """Bytes of a file that are in this process's memory."""
    maps = Path("/proc/self/smaps").read_text().split("VmFlags")
    lines = (line for part in maps if str(path) in part for line in part.splitlines() if line.startswith("Rss:"))
    return 1024 * sum(int(line.split()[1]) for line in lines)


def test_the_first_rows_stay_in_memory_and_the_others_do_not(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy", np.zeros((100_000, 100)))
    tiles, memory = range(-(-100_000 // TILE)), 30 << 20
    for kept, most in ((0, 24 << 20), (memory, memory + (24 << 20))):
        block = Block(opened(path), tiles[5:], TILE, False, kept)
        for _ in range(2):
            for rows in block.read(tiles[5:]):
                assert not rows.values.any()
        assert kept - (4 << 20) <= resident_bytes(path) <= most
        del block, rows
