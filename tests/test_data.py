"""Reading: every dtype, layout, selection and spread over files gives the same rows."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support import mpirun, write_config, write_rows

from mpigmm.data.block import Block
from mpigmm.data.datasets import open_hdf5, raw_offset
from mpigmm.data.file_source import FileSource, read_header
from mpigmm.data.output import Column, Content, RowWriter
from mpigmm.data.source import Header
from mpigmm.data.unfinished import UnfinishedFile
from mpigmm.errors import DataError
from mpigmm.parallel.partition import count_tiles, own_tiles
from mpigmm.rows import Rows

ROWS = np.arange(600, dtype=np.float64).reshape(100, 6)


def read_all(header: Header) -> np.ndarray:
    return FileSource(header).read(0, header.n_rows).values


@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i2"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    path = write_rows(tmp_path / "x.h5", (ROWS % 100).astype(dtype))
    header = read_header(str(path), "/X")
    assert read_all(header).astype(float).tolist() == (ROWS % 100).tolist()
    with open_hdf5(str(path)) as file:
        straight = raw_offset(file["X"], header.dtype)
        assert straight == (None if dtype.startswith(">") else file["X"].id.get_offset()), (
            "read past HDF5 where it can be"
        )
    assert np.dtype(header.dtype).itemsize == np.dtype(dtype).itemsize


@pytest.mark.parametrize("options", [{"chunks": (7, 4)}, {"chunks": (16, 6), "compression": "gzip"}, {"shuffle": True}])
def test_chunked_and_compressed(tmp_path: Path, options: dict[str, object]) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("X", data=ROWS, **options)
    source = FileSource(read_header(str(tmp_path / "x.h5"), "/X"))
    assert (source.read(13, 42).values == ROWS[13:42]).all()


def test_no_chunk_is_decompressed_twice(tmp_path: Path) -> None:
    """Chunks of 80 MB, wider than HDF5's cache is made as a rule: each byte of the file is read about once."""
    rows = np.random.default_rng(0).integers(0, 4, (40_000, 500)).astype("f8")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("X", data=rows, chunks=(20_000, 500), compression="gzip", compression_opts=1)
    source = FileSource(read_header(str(tmp_path / "x.h5"), "/X"))
    before = bytes_read()
    for start in range(0, 40_000, 1024):
        stop = min(start + 1024, 40_000)
        assert (source.read(start, stop).values == rows[start:stop]).all()
    assert bytes_read() - before < 1.2 * (tmp_path / "x.h5").stat().st_size


def bytes_read() -> int:
    """Bytes that this process has asked files for."""
    return int(Path("/proc/self/io").read_text().split()[1])


WRITE_ZSTD = """
import sys, h5py, hdf5plugin, numpy as np
with h5py.File(sys.argv[1], "w") as file:
    file.create_dataset("X", data=np.arange(600.0).reshape(100, 6) % 7, chunks=(32, 6), **hdf5plugin.Zstd())
    file["plain"] = file["X"][()]
    file.create_dataset("w", data=np.ones(100), chunks=(32,), **hdf5plugin.Zstd())
"""


def test_filters_of_hdf5plugin(tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    path = str(tmp_path / "x.h5")
    subprocess.run([sys.executable, "-c", WRITE_ZSTD, path], check=True, timeout=60)
    done = mpirun(0, "inspect", path)
    assert done.returncode == 0, done.stderr
    assert (read_all(read_header(path, "/X")) == np.arange(600.0).reshape(100, 6) % 7).all()
    (tmp_path / "hdf5plugin.py").write_text("raise ImportError('No module named hdf5plugin')")
    config = write_config(tmp_path / "run.yaml", data={"path": path}, output={"dir": str(tmp_path / "out")})
    done = mpirun(2, "fit", str(config), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2, done.stderr
    weighted = ("data.dataset=/plain", "data.weights=/w", "model.n_components=2", "em.max_iter=2")
    assert mpirun(2, "fit", str(config), *weighted).returncode == 0
    refused = mpirun(2, "fit", str(config), *weighted, PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2 and f"/w in {path} is compressed by filter 32015" in refused.stderr
    assert f"/X in {path} is compressed by filter 32015 (" in done.stderr and "mpigmm[filters]" in done.stderr


def test_several_files_are_one_matrix(tmp_path: Path) -> None:
    for i, (start, stop) in enumerate([(0, 10), (10, 10), (10, 55), (55, 100)]):
        write_rows(tmp_path / f"part{i}.h5", ROWS[start:stop], w=np.arange(start, stop))
    header = read_header(str(tmp_path / "part*.h5"), "/X", "/w")
    rows = FileSource(header).read(5, 95)
    assert (rows.values == ROWS[5:95]).all()
    assert rows.sample_weight is not None and (rows.sample_weight == np.arange(5, 95)).all()
    assert header.where(60) == f"row 5 of /X in {tmp_path / 'part3.h5'}"
    listed = read_header([str(tmp_path / "part3.h5"), str(tmp_path / "part0.h5")], "/X")
    assert (read_all(listed) == np.concatenate([ROWS[55:], ROWS[:10]])).all()


def test_files_of_a_glob_come_in_natural_order(tmp_path: Path) -> None:
    names = ["run1/p.2.h5", "run1/p.10.h5", "run1/p.010.h5", "run2/p.1.h5", "run10/p.0.h5"]
    for i, name in enumerate(sorted(names)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rows(tmp_path / name, ROWS[:1] + i)
    header = read_header(str(tmp_path / "run*" / "p.*.h5"), "/X")
    assert [str(Path(path).relative_to(tmp_path)) for path in header.paths] == [
        "run1/p.2.h5",
        "run1/p.010.h5",
        "run1/p.10.h5",
        "run2/p.1.h5",
        "run10/p.0.h5",
    ]
    assert header.first_rows == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("other", ["x.h5", "./x.h5", "hard.h5", "soft.h5", "folder/x.h5", "linked.h5", "*.h5"])
def test_the_same_rows_twice_are_refused(tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_rows(Path("x.h5"), ROWS)
    if other == "*.h5":
        Path("z.h5").hardlink_to(path)
    Path("folder").symlink_to(".")
    if other == "hard.h5":
        Path(other).hardlink_to(path)
    elif other == "soft.h5":
        Path(other).symlink_to(path)
    elif other == "linked.h5":
        with h5py.File(other, "w") as file:
            file["X"] = h5py.ExternalLink("x.h5", "/X")
    paths = other if other == "*.h5" else ["x.h5", other]
    with pytest.raises(DataError, match="its rows would count twice: name it once"):
        read_header(paths, "/X")
    write_rows(Path("other.h5"), ROWS)
    assert read_header(["x.h5", "other.h5"], "/X").n_rows == 200, "equal rows in two files are another matter"


def test_rows_and_columns(tmp_path: Path) -> None:
    header = read_header(str(write_rows(tmp_path / "x.h5", ROWS)), "/X", columns=[4, 1, 2], rows=[20, 90])
    assert (read_all(header) == ROWS[20:90][:, [4, 1, 2]]).all()
    assert header.where(0).startswith("row 20 ")
    assert header.column(0) == 4


def test_a_vector_is_one_feature(tmp_path: Path) -> None:
    header = read_header(str(write_rows(tmp_path / "x.h5", ROWS[:, 0])), "/X")
    assert header.n_features == 1
    assert (read_all(header)[:, 0] == ROWS[:, 0]).all()


def test_a_glob_is_not_taken_where_a_file_has_that_very_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "odd [1] 'näme'.h5", ROWS)
    write_rows(tmp_path / "odd 1 'näme'.h5", ROWS[:5])
    assert read_header(str(path), "/X").n_rows == 100


@pytest.mark.parametrize("n_tiles", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 64, 100])
def test_every_tile_has_one_owner(n_tiles: int, size: int) -> None:
    runs = [own_tiles(n_tiles, rank, [1] * size) for rank in range(size)]
    assert [tile for run in runs for tile in run] == list(range(n_tiles))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


@pytest.mark.parametrize("n_tiles", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("speeds", [[1, 2], [100, 1, 100], [7] * 5 + [300] * 3, [10**12, 1]])
def test_unlike_ranks_are_done_at_about_the_same_time(n_tiles: int, speeds: list[int]) -> None:
    runs = [own_tiles(n_tiles, rank, speeds) for rank in range(len(speeds))]
    assert [tile for run in runs for tile in run] == list(range(n_tiles))
    latest = max(len(run) / speed for run, speed in zip(runs, speeds, strict=True))
    for run, speed in zip(runs, speeds, strict=True):
        assert latest <= (len(run) + 1) / speed * (1 + 1e-12), "another rank would have been done sooner"


@pytest.mark.parametrize("resident", [False, True])
def test_threads_share_the_tiles_of_a_block(tmp_path: Path, resident: bool) -> None:
    source = FileSource(read_header(str(write_rows(tmp_path / "x.h5", ROWS)), "/X"))
    block = Block(source, own_tiles(count_tiles(100, 16), 1, [1, 1]), 16, resident)
    block.load(lambda: None)
    tiles = sorted(
        [tile for worker in range(3) for tile in block.read(block.tiles[worker::3], 3)], key=lambda tile: tile.first
    )
    assert [tile.first for tile in tiles] == [48, 64, 80, 96]
    assert (np.concatenate([tile.values for tile in tiles]) == ROWS[48:]).all()
    assert np.shares_memory(tiles[0].values, next(block.read(block.tiles)).values) == resident


def test_a_block_becomes_resident(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.h5", ROWS, w=np.arange(100.0))
    block = Block(FileSource(read_header(str(path), "/X", "/w")), range(4, 8), 12, resident=False)
    block.load(lambda: None)
    streamed = [(tile.first, tile.values.copy(), tile.sample_weight.copy()) for tile in block.read(block.tiles)]
    block.make_resident()
    block.load(lambda: None)
    path.unlink()
    for (first, values, sample_weight), tile in zip(streamed, block.read(block.tiles), strict=True):
        assert tile.first == first and (tile.values == values).all() and (tile.values == ROWS[first:][:12]).all()
        assert (tile.sample_weight == sample_weight).all() and (sample_weight == np.arange(100.0)[first:][:12]).all()


@pytest.mark.parametrize("tile_rows", [3, 10**12])
def test_streamed_tiles_are_whole_and_in_order(tmp_path: Path, tile_rows: int) -> None:
    """Their memory is used again, and no more of it asked for than there are rows."""
    source = FileSource(read_header(str(write_rows(tmp_path / "x.h5", ROWS)), "/X"))
    block = Block(source, range(count_tiles(100, tile_rows)), tile_rows, resident=False)
    for rows in block.read(block.tiles):
        np.testing.assert_array_equal(rows.values, ROWS[rows.first : rows.first + tile_rows])


def test_an_empty_block_has_no_tiles(tmp_path: Path) -> None:
    source = FileSource(read_header(str(write_rows(tmp_path / "x.h5", ROWS)), "/X"))
    block = Block(source, own_tiles(2, 5, [1] * 64), 50, resident=True)
    block.load(lambda: None)
    assert list(block.read(block.tiles)) == []


def test_reading_takes_no_lock(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.h5", ROWS)
    with open(path, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert read_header(str(path), "/X").n_rows == 100


def test_a_file_that_shrinks_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.h5", ROWS)
    source = FileSource(read_header(str(path), "/X"))
    write_rows(path, ROWS[:50])
    with pytest.raises(DataError, match="shrunk to 50 rows"):
        source.read(40, 60)


@pytest.mark.parametrize("user_block", [0, 512])
def test_a_file_that_is_cut_off_while_open_gives_no_zeros(tmp_path: Path, user_block: int) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=user_block) as file:
        file["X"] = ROWS
    source = FileSource(read_header(str(path), "/X"))
    assert (source.read(40, 60).values == ROWS[40:60]).all()
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match="has shrunk while it was being read"):
        source.read(40, 60)


def test_rows_written_by_offset_are_plain_hdf5(tmp_path: Path) -> None:
    path = str(tmp_path / "out.h5")
    columns = {"a": Column((), "int32"), "b": Column((6,), "float64")}
    unfinished = UnfinishedFile(path, "job", Content(100, columns, {"note": "x"}), 3)
    layout = unfinished.file
    assert not Path(path).exists()
    assert all(column.offset % 4096 == 0 for column in layout.columns.values())
    for start in (60, 0):
        writer = RowWriter(layout)
        writer.open()
        part = slice(start, 100 if start else 60)
        writer.write("a", start, np.arange(100)[part])
        writer.write("b", start, ROWS[part])
        writer.close()
    unfinished.publish()
    with h5py.File(path) as file:
        assert (file["a"][()] == np.arange(100)).all()
        assert (file["b"][()] == ROWS).all()
        assert file.attrs["note"] == "x"


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "<i4"])
@pytest.mark.parametrize("layout", [{}, {"chunks": (7, 2)}])
def test_rows_behind_a_user_block(tmp_path: Path, dtype: str, layout: dict[str, Any]) -> None:
    """Contiguous rows are read past HDF5, by their place in the file."""
    rows = np.arange(300).reshape(100, 3).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=1024) as file:
        file.create_dataset("before", data=np.ones(5))
        file.create_dataset("X", data=rows, **layout)
    source = FileSource(read_header(str(tmp_path / "x.h5"), "/X", None, None, None))
    place = np.zeros((50, 3), dtype)
    found = source.read(30, 71, Rows.of(place))
    assert np.shares_memory(found.values, place)
    np.testing.assert_array_equal(found.values, rows[30:71])
    np.testing.assert_array_equal(source.read(99, 100).values, rows[99:])
