"""Rows in NetCDF-4, openPMD, Parquet and .npy files are read as they are, and their columns have names."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inside import run_verb
from support import blobs, write_config, write_rows

import mpigmm
from mpigmm.data.file_source import MOST_OPEN, FileHeader, FileSource, outline_of, read_header
from mpigmm.data.parquet_file import ParquetTable
from mpigmm.data.shared_cache import SharedCache
from mpigmm.errors import DataError
from mpigmm.parallel.comm import Comm
from mpigmm.runs.model_file import load_model

N, D = 3000, 4
X = blobs(N, D, 3)
NAMES = ("time", "depth", "salt", "heat")
WEIGHT = np.arange(N) % 3 + 0.5
LABELS = np.arange(N) % 3
NAN = np.nan


@pytest.fixture(autouse=True)
def in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(header: FileHeader) -> np.ndarray:
    return FileSource(header).read(0, header.n_rows).values


def write_columns(path: str, matrix: np.ndarray = X, group: str = "", **others: np.ndarray) -> str:
    """An HDF5 file with a vector for each column."""
    with h5py.File(path, "w") as file:
        for name, column in zip(NAMES, matrix.T, strict=False):
            file[f"{group}/{name}"] = column
        for name, values in others.items():
            file[name] = values
    return path


def write_parquet(path: str, columns: dict[str, Any], group_rows: int = 700) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    return path


def named(matrix: np.ndarray = X) -> dict[str, np.ndarray]:
    return dict(zip(NAMES, matrix.T, strict=False))


def fitted(data: dict[str, Any], memory: Any = "auto", **others: dict[str, Any]) -> mpigmm.Mixture:
    sections = {"model": {"n_components": 3}, "em": {"max_iter": 4, "tol": 0}, **others}
    compute = {"memory": memory, "threads": 2, "tile_rows": 256, "device": "cpu"}
    return mpigmm.fit({"data": data, "compute": compute, **sections}).mixture


def bits(mixture: mpigmm.Mixture) -> list[bytes]:
    return [mixture.weights.tobytes(), mixture.means.tobytes(), mixture.covariances.tobytes()]


# One answer, whatever the format

FILES: dict[str, tuple[Callable[[], object], dict[str, Any]]] = {
    "npy, C order": (lambda: np.save("x.npy", X), {"path": "x.npy"}),
    "npy, Fortran order": (lambda: np.save("x.npy", np.asfortranarray(X)), {"path": "x.npy"}),
    "npy, big-endian": (lambda: np.save("x.npy", X.astype(">f8")), {"path": "x.npy"}),
    "vectors": (lambda: write_columns("x.h5"), {"path": "x.h5", "dataset": list(NAMES)}),
    "Parquet": (lambda: write_parquet("x.parquet", named()), {"path": "x.parquet"}),
    "Parquet with a column that is left out": (
        lambda: write_parquet("x.parquet", {"id": np.arange(N), "name": ["a"] * N, **named()}),
        {"path": "x.parquet", "columns": list(NAMES)},
    ),
    "several formats": (
        lambda: (write_parquet("a.parquet", named(X[:1000])), np.save("b.npy", X[1000:1001]), write_rest("c.h5")),
        {"path": ["a.parquet", "b.npy", "c.h5"]},
    ),
}
"""What writes `X`, and the section ``data`` that reads it."""


def write_rest(path: str) -> None:
    """The last rows in a file that has their columns in another order, and names."""
    write_rows(Path(path), X[1001:][:, ::-1])
    with h5py.File(path, "r+") as file:
        file["X"].attrs["columns"] = NAMES[::-1]


@pytest.mark.parametrize("memory", ["auto", 1])
@pytest.mark.parametrize("case", FILES)
def test_the_bits_are_those_of_the_same_rows_in_hdf5(case: str, memory: Any) -> None:
    write, data = FILES[case]
    write()
    write_rows(Path("reference.h5"), X)
    assert bits(fitted(data, memory)) == bits(fitted({"path": "reference.h5"}))


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "i8", "f2", "f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_dtype_of_an_npy_file_is_read(dtype: str, order: Any) -> None:
    rows = (np.arange(60).reshape(20, 3) % 100).astype(dtype)
    np.save("x.npy", np.asarray(rows, order=order))
    header = read_header("x.npy", "/X")
    assert np.dtype(header.dtype) == rows.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read(header), rows)
    part = FileSource(read_header("x.npy", "/X", columns=[2, 0], rows=[3, 18])).read(1, 9)
    np.testing.assert_array_equal(part.values, rows[4:12][:, [2, 0]])
    np.save("v.npy", rows[:, 1])
    np.testing.assert_array_equal(read(read_header("v.npy", "/X"))[:, 0], rows[:, 1])


def test_weights_and_labels_are_columns_of_a_parquet_file() -> None:
    write_parquet("x.parquet", {"w": WEIGHT, **named(), "k": LABELS})
    write_rows(Path("x.h5"), X, w=WEIGHT, k=LABELS)
    start = {"init": {"method": "labels", "labels": "k"}}
    one = fitted({"path": "x.parquet", "weights": "w"}, **start)
    assert one.feature_names == NAMES and bits(one) == bits(fitted({"path": "x.h5", "weights": "w"}, **start))
    assert read_header("x.parquet", "/X", "w", columns=["w", "heat"]).feature_names == ("w", "heat")
    write_parquet("none.parquet", {**named(), "k": pd.array(np.where(LABELS, LABELS, None), "Int64")})
    write_rows(Path("none.h5"), X, k=np.where(LABELS, LABELS, -1))
    assert bits(fitted({"path": "none.parquet"}, **start)) == bits(fitted({"path": "none.h5"}, **start))


# NetCDF and openPMD

PACKED = {
    "float32 factors": ("i2", {"scale_factor": np.float32(0.5), "add_offset": np.float32(2)}, "f4"),
    "float64 factors": ("i2", {"scale_factor": 0.1, "_FillValue": np.int16(-999)}, "f8"),
    "an offset alone": ("u1", {"add_offset": 7.25}, "f8"),
    "integers with a fill value": ("i4", {"_FillValue": np.int32(-999)}, "f8"),
    "floats with a fill value": ("f4", {"_FillValue": np.float32(-999)}, "f4"),
    "floats with a factor": ("f4", {"scale_factor": 0.3}, "f8"),
    "two markers": ("i2", {"_FillValue": np.int16(-999), "missing_value": np.int16(4)}, "f8"),
    "a vector of markers": ("f8", {"missing_value": np.array([-999.0, 4.0])}, "f8"),
    "a marker that no value can have": ("u1", {"missing_value": 1e20}, "f8"),
    "a marker that float32 cannot hold": ("f4", {"missing_value": 1e300}, "f4"),
    "NaN as the marker": ("f8", {"_FillValue": NAN}, "f8"),
    "unsigned numbers": ("i1", {"_Unsigned": "true"}, "u1"),
    "unsigned numbers with a factor": (
        "i1",
        {"_Unsigned": "true", "scale_factor": 0.5, "_FillValue": np.int8(-1)},
        "f8",
    ),
    "no attributes": ("i2", {}, "i2"),
}


def unpacked(raw: np.ndarray, attributes: dict[str, Any], dtype: str) -> np.ndarray:
    """The values that the CF conventions give to stored numbers."""
    if "_Unsigned" in attributes:
        raw = raw.view(f"u{raw.itemsize}")
    values = raw.astype(dtype)
    values = values * np.dtype(dtype).type(attributes.get("scale_factor", 1))
    values = values + np.dtype(dtype).type(attributes.get("add_offset", 0))
    for name in ("_FillValue", "missing_value"):
        for marker in np.ravel(attributes.get(name, ())):
            values[raw == (marker.astype(raw.dtype) if abs(marker) < 1e9 else -1.5)] = NAN
    return values


@pytest.mark.parametrize("case", PACKED)
@pytest.mark.parametrize("shape", [(40,), (40, 3)])
def test_packed_numbers_are_unpacked(case: str, shape: tuple[int, ...]) -> None:
    stored, attributes, dtype = PACKED[case]
    raw = (np.arange(np.prod(shape)).reshape(shape) % 11).astype(stored)
    raw[3:5] = np.array(-999, "i8").astype(stored) if stored != "i1" else -1
    for options in ({}, {"chunks": True, "compression": "gzip"}):
        with h5py.File("x.h5", "w") as file:
            file.create_dataset("v", data=raw, **options)
            file["w"] = np.ones(40)
            file["v"].attrs.update(attributes)
        expected = unpacked(raw, attributes, dtype)
        for dataset in ("v", ["v"], ["w", "v"]) if len(shape) == 1 else ("v",):
            header = read_header("x.h5", dataset)
            assert dataset == ["w", "v"] or np.dtype(header.dtype) == dtype
            np.testing.assert_array_equal(read(header)[5:, -1], expected.reshape(40, -1)[5:, -1])
            np.testing.assert_array_equal(read(header)[:, -1], expected.reshape(40, -1)[:, -1])


def write_netcdf(path: str) -> np.ndarray:
    """A NetCDF-4 file of packed variables; returns its values."""
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"obs": N}
        heat = file.create_variable("heat", ("obs",), "i2", fillvalue=np.int16(-32768))
        heat.attrs["scale_factor"], heat.attrs["add_offset"] = 0.01, 20.0
        raw = np.round(X[:, 0] * 100).astype("i2")
        raw[7] = -32768
        heat[:] = raw
        salt = file.create_variable("salt", ("obs",), "f4", fillvalue=np.float32(1e20))
        salt[:] = np.where(np.arange(N) == 9, np.float32(1e20), X[:, 1].astype("f4"))
    values = np.column_stack([raw * 0.01 + 20.0, X[:, 1].astype("f4")])
    values[7, 0] = values[9, 1] = NAN
    return values


@pytest.mark.parametrize("memory", ["auto", 1])
def test_variables_of_netcdf_are_columns(memory: Any) -> None:
    values = write_netcdf("x.nc")
    data = {"path": "x.nc", "dataset": ["heat", "/salt"]}
    header = read_header("x.nc", ["heat", "/salt"])
    np.testing.assert_array_equal(read(header), values)
    assert header.feature_names == ("heat", "salt") and header.dtype == "<f8"
    with pytest.raises(DataError, match=r"^row 7 of x.nc holds NaN in column 0 \(heat\)"):
        fitted(data)
    write_rows(Path("x.h5"), values)
    one = fitted({**data, "missing": "drop"}, memory)
    assert bits(one) == bits(fitted({"path": "x.h5", "missing": "drop"}))


def test_records_of_openpmd_are_columns() -> None:
    base = "/data/0/particles/e"
    with h5py.File("x.h5", "w") as file:
        for i, name in enumerate(["position/x", "position/y", "momentum/x"]):
            file[f"{base}/{name}"] = X[:, i].astype("f4")
            file[f"{base}/{name}"].attrs["unitSI"] = 1e-6
        constant = file.create_group(f"{base}/weighting")
        constant.attrs["value"], constant.attrs["shape"] = 2.5, np.array([N], "u8")
    names = [f"{base}/{name}" for name in ("position/x", "momentum/x", "position/y")]
    header = read_header("x.h5", names, f"{base}/weighting")
    assert header.feature_names == ("position/x", "momentum/x", "position/y") and header.dtype == "<f4"
    rows = FileSource(header).read(5, 9)
    np.testing.assert_array_equal(rows.values, X[5:9][:, [0, 2, 1]].astype("f4"))
    assert (rows.sample_weight == 2.5).all()
    assert (read(read_header("x.h5", [names[0], f"{base}/weighting"]))[:, 1] == 2.5).all()
    assert read_header("x.h5", names[:1]).feature_names == ("x",)


# Parquet


def test_nulls_are_nan_and_columns_of_other_types_are_none() -> None:
    columns = {
        "x": pa.array([1.0, None, 3.0, 4.0]),
        "text": ["a", "b", "c", "d"],
        "n": pa.array([1, 2, None, 4], pa.int16()),
        "i": pa.array([1, 2, 3, 2**40]),
        "is": [True, False, True, True],
        "single": pa.array(np.array([1, 2, 3, 4], "f4")),
    }
    write_parquet("x.parquet", columns, 3)
    header = read_header("x.parquet", "/X")
    assert header.feature_names == ("x", "n", "i", "single") and header.dtype == "<f8"
    np.testing.assert_array_equal(read(header), [[1, 1, 1, 1], [NAN, 2, 2, 2], [3, NAN, 3, 3], [4, 4, 2**40, 4]])
    assert read_header("x.parquet", "/X", columns=["i"]).dtype == "<i8"
    assert read_header("x.parquet", "/X", columns=["single"]).dtype == "<f4"
    assert read_header("x.parquet", ["i", "x"]).feature_names == ("i", "x")
    kept = mpigmm.fit(
        {"data": {"path": "x.parquet", "missing": "drop", "columns": ["x", "n"]}, "model": {"n_components": 1}}
    )
    assert kept.summary["n_samples"] == 2 and kept.summary["n_dropped"] == 2


def test_the_index_of_pandas_is_no_column() -> None:
    frame = pd.DataFrame(named(), index=np.arange(N) * 7)
    frame.to_parquet("x.parquet")
    assert read_header("x.parquet", "/X").feature_names == NAMES
    assert read_header("x.parquet", "/X", columns=["__index_level_0__", "time"]).n_features == 2


@pytest.mark.parametrize("n_threads", [1, 4])
def test_row_groups_are_decoded_once_and_only_columns_that_are_used(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet("x.parquet", {**named(), "w": WEIGHT})
    decoded: list[tuple[int, str]] = []
    decode = ParquetTable.decode

    def count(self: ParquetTable, group: int, name: str) -> np.ndarray:
        decoded.append((group, name))
        return decode(self, group, name)

    monkeypatch.setattr(ParquetTable, "decode", count)
    source = FileSource(read_header("x.parquet", "/X", "w", columns=["salt", "time"]))

    def work(worker: int) -> None:
        for start in range(128 * worker, N, 128 * n_threads):
            rows = source.read(start, min(start + 128, N))
            np.testing.assert_array_equal(rows.values, X[rows.first :][:128][:, [2, 0]])
            np.testing.assert_array_equal(rows.sample_weight, WEIGHT[rows.first :][:128])

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(decoded) == sorted((group, name) for group in range(5) for name in ("salt", "time", "w"))


def test_the_cache_keeps_what_was_used_last() -> None:
    cache, decoded = SharedCache(), []
    cache._most = 100

    def decode(key: Any) -> np.ndarray:
        decoded.append(key)
        return np.zeros(key[1], "u1")

    for key in [("a", 40), ("b", 40), ("a", 40), ("c", 40), ("a", 40), ("b", 40)]:
        assert len(cache.get([key], decode)[0]) == 40
    assert decoded == [("a", 40), ("b", 40), ("c", 40), ("b", 40)]
    cache.reserve(1000)
    assert [len(part) for part in cache.get([("d", 900), ("b", 40)], decode)] == [900, 40] and len(decoded) == 5
    with pytest.raises(OSError, match="lost"):
        cache.get([("e", 1)], lambda key: (_ for _ in ()).throw(OSError("lost")))
    assert len(cache.get([("e", 1)], decode)[0]) == 1, "another attempt may succeed"


def test_the_cache_is_as_fast_with_many_parts_as_with_few() -> None:
    cache, part = SharedCache(), np.zeros(1)
    begin = time.monotonic()
    for number in range(20_000):
        cache.get([number], lambda key: part)
    assert time.monotonic() - begin < 5  # some 0.2 s; a minute, if each looked at all that are kept


def test_many_small_parquet_files_are_not_open_at_once() -> None:
    for number in range(100):
        write_parquet(f"{number}.parquet", {"a": X[number : number + 1, 0]})
    source = FileSource(read_header("*.parquet", "/X"))
    np.testing.assert_array_equal(source.read(0, 100).values, X[:100, :1])
    opened = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert 0 < sum(name.endswith(".parquet") for name in opened) <= MOST_OPEN


# Names


def test_a_model_keeps_the_names_and_finds_its_columns_by_them(comm: Comm, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet("x.parquet", named())
    config = write_config(
        Path("run.yaml"),
        data={"path": "x.parquet", "columns": ["salt", 0]},
        model={"n_components": 3},
        em={"max_iter": 4},
        output={"dir": "out"},
    )
    assert run_verb(comm, "fit", str(config)) == (0, "")
    assert "3,000 rows of 2 features (salt, time)" in capsys.readouterr().err
    mixture = mpigmm.Mixture.load("out/model.h5")
    assert mixture.feature_names == ("salt", "time")
    mixture.save("copy.h5")
    assert mpigmm.Mixture.load("copy.h5").feature_names == ("salt", "time")
    expected = mixture.predict(X[:, [2, 0]])
    write_parquet("other.parquet", {"id": np.arange(N), "time": X[:, 0], "salt": X[:, 2]})
    write_columns("x.h5")
    write_rows(Path("plain.h5"), X[:, [2, 0]])
    vectors = ["x.h5", "--dataset", "time,heat,salt"]
    for i, data in enumerate((["other.parquet"], ["x.parquet"], vectors, ["plain.h5"])):
        assert run_verb(comm, "predict", "out/model.h5", *data, "--out", f"{i}.h5") == (0, "")
        with h5py.File(f"{i}.h5") as file:
            np.testing.assert_array_equal(file["labels"][()], expected)
    assert run_verb(comm, "score", "out/model.h5", "other.parquet") == (0, "")
    write_parquet("less.parquet", {"time": X[:, 0], "salts": X[:, 2]})
    message = (
        "less.parquet has no column 'salt', to which out/model.h5 was fitted; it has salts, time; name its columns as "
        "those of the model"
    )
    assert run_verb(comm, "score", "out/model.h5", "less.parquet") == (2, message)


def test_a_model_without_names_or_with_odd_ones_is_read() -> None:
    write_rows(Path("x.h5"), X)
    mixture = fitted({"path": "x.h5"}, output={"dir": "out"})
    assert mixture.feature_names is None
    with h5py.File("out/model.h5") as file:
        assert "feature_names" not in file.attrs
    for text in ("[1, 2, 3, 4]", "{"):
        with h5py.File("out/model.h5", "r+") as file:
            file.attrs["feature_names"] = text
        assert load_model(Path("out/model.h5")).feature_names is None


def test_a_vector_dataset_list_is_recorded_and_read_again(comm: Comm) -> None:
    write_columns("x.h5", group="/a")
    write_columns("y.h5", group="/b")
    data = {"path": "x.h5", "dataset": [f"/a/{name}" for name in NAMES]}
    fitted(data, output={"dir": "out"})
    assert run_verb(comm, "score", "out/model.h5", "x.h5") == (0, "")
    assert run_verb(comm, "score", "out/model.h5", "y.h5", "--dataset", "/b/heat,/b/time,/b/salt,/b/depth") == (0, "")
    code, message = run_verb(comm, "score", "out/model.h5", "y.h5")
    assert code == 2 and "y.h5 has no dataset /a/time, /a/depth, /a/salt, ..., to which out/model.h5" in message
    mixture = fitted(data, output={"dir": "out"})
    assert mixture.feature_names == NAMES, "the same call is not another problem"


def test_the_columns_of_a_data_frame_are_the_names() -> None:
    frame = pd.DataFrame(named())
    settings = {"model": {"n_components": 2}, "em": {"max_iter": 2, "tol": 0}, "compute": {"device": "cpu"}}
    assert mpigmm.fit(settings, frame).mixture.feature_names == NAMES
    assert mpigmm.fit(settings, X).mixture.feature_names is None
    assert mpigmm.fit(settings, pd.DataFrame(X)).mixture.feature_names is None
    frame.iloc[5, 2] = NAN
    with pytest.raises(DataError, match=r"row 5 of X holds NaN in column 2 \(salt\)"):
        mpigmm.fit(settings, frame)
    assert mpigmm.GaussianMixture(2).fit(pd.DataFrame(named())).mixture_.feature_names == NAMES


def test_messages_name_columns() -> None:
    write_rows(Path("x.h5"), np.column_stack([X[:, 0], np.ones(N)]))
    with h5py.File("x.h5", "r+") as file:
        file["X"].attrs["columns"] = ["time", "one"]
    with pytest.raises(DataError, match=r"column 1 \(one\) of /X has the same value in every row"):
        fitted({"path": "x.h5"}, model={"n_components": 2, "reg_covar": 0})
    write_parquet("x.parquet", {"time": X[:, 0], "far": np.where(np.arange(N) == 11, np.inf, 1.0)})
    with pytest.raises(
        DataError, match=r"^row 11 of x.parquet holds an infinity in column 1 \(far\); set data.missing"
    ):
        fitted({"path": "x.parquet"})


def test_what_a_file_holds_can_be_told() -> None:
    write_parquet("x.parquet", {"a": [1, 2], "b": ["x", "y"]}, 1)
    assert outline_of("x.parquet") == {
        "format": "Parquet",
        "n_samples": 2,
        "columns": {"a": "int64", "b": "string"},
        "row_groups": 2,
    }
    np.save("x.npy", np.ones((5, 3), "f4"))
    assert outline_of("x.npy") == {
        "format": ".npy",
        "n_samples": 5,
        "n_features": 3,
        "columns": "float32",
        "order": "C",
    }
    assert outline_of(str(write_rows(Path("x.h5"), X))) == {}


# Mistakes


def prepare() -> None:
    write_columns("x.h5", short=X[:9, 0], table=X, scalar=np.float64(1), text=np.array([b"a"] * N))
    with h5py.File("x.h5", "r+") as file:
        file["packed"] = X[:, 0]
        file["packed"].attrs["scale_factor"] = "two"
    write_rows(Path("plain.h5"), X)
    np.save("x.npy", X)
    np.savez("x.npz", X)
    write_parquet("x.parquet", {**named(), "name": ["a"] * N, "is": [True] * N})
    write_parquet("more.parquet", {**named(), "more": X[:, 0]})
    write_parquet("texts.parquet", {"name": ["a"]})
    Path("x.csv").write_text("a,b\n1,2\n")
    Path("x y.tsv.gz").write_bytes(b"\x1f\x8b")
    Path("no.parquet").write_text("no")
    Path("no.npy").write_text("no")
    for name in ("x.npy", "x.parquet"):
        Path(f"cut.{name}").write_bytes(Path(name).read_bytes()[:-9])
    for name, header in (("minus", "{'descr': '<f8', 'fortran_order': False, 'shape': (-5, 3)}"), ("odd", "((((")):
        Path(f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n" + bytes(240))
    with h5py.File("openpmd.h5", "w") as file:
        for name, shape in (("text", b"a"), ("float", 2.0), ("minus", -3)):
            file.create_group(name).attrs.update({"value": 1.0, "shape": [shape]})
    Path("many").mkdir()
    Path("many/a.parquet").touch()


MISTAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "a column that is not there": (
        r"data.columns: x.parquet has no column 'sald'; it has salt, time, depth, heat",
        {"path": "x.parquet", "columns": ["time", "sald"]},
    ),
    "a column of text": (
        "column 'name' of x.parquet has type string; .*convert",
        {"path": "x.parquet", "columns": ["name"]},
    ),
    "a column of truth values": ("column 'is' of x.parquet has type bool", {"path": "x.parquet", "columns": ["is"]}),
    "a file of text": ("texts.parquet has no column of integers or floats; it has name", {"path": "texts.parquet"}),
    "a column twice": ("data.columns names a column twice", {"path": "x.parquet", "columns": [0, "time"]}),
    "a number too large": (r"data.columns: \[4\]; x.parquet has columns 0 to 3", {"path": "x.parquet", "columns": [4]}),
    "a name without names": (
        "'time' is a name, but the columns of x.npy have none",
        {"path": "x.npy", "columns": ["time"]},
    ),
    "a name without an attribute": (
        "the columns of /X in plain.h5 have none",
        {"path": "plain.h5", "columns": ["time"]},
    ),
    "weights that are not there": (
        "data.weights: x.parquet has no column w; it has",
        {"path": "x.parquet", "weights": "w"},
    ),
    "weights of text": ("data.weights: the column 'name' of x", {"path": "x.parquet", "weights": "name"}),
    "weights of an npy file": (
        "data.weights: x.npy is an .npy file, which holds one",
        {"path": "x.npy", "weights": "w"},
    ),
    "a dataset of Parquet": ("data.dataset: x.parquet has no dataset /Y", {"path": "x.parquet", "dataset": "/Y"}),
    "datasets of npy": ("data.dataset: x.npy has no dataset a, b, nor", {"path": "x.npy", "dataset": ["a", "b"]}),
    "columns twice as datasets": ("data.dataset names a column", {"path": "x.parquet", "dataset": ["time", "time"]}),
    "no dataset": ("data.dataset is an empty list", {"path": "x.h5", "dataset": []}),
    "vectors of other lengths": (
        r"data.dataset: short in x.h5 has 9 entries, but time has 3,000",
        {"path": "x.h5", "dataset": ["time", "short"]},
    ),
    "a matrix among vectors": (
        r"table in x.h5 has shape \(3000, 4\); each",
        {"path": "x.h5", "dataset": ["time", "table"]},
    ),
    "a number among vectors": (r"scalar in x.h5 has shape \(\); each", {"path": "x.h5", "dataset": ["time", "scalar"]}),
    "a text among vectors": (r"/text in x.h5 has dtype |S1", {"path": "x.h5", "dataset": ["time", "text"]}),
    "a vector twice": ("data.dataset names a column twice", {"path": "x.h5", "dataset": ["time", "/time"]}),
    "a vector that is not there": ("x.h5 has no dataset tome; it has", {"path": "x.h5", "dataset": ["time", "tome"]}),
    "a factor of text": ("attribute scale_factor 'two', which is no number", {"path": "x.h5", "dataset": ["packed"]}),
    "a file named twice": ("x.parquet is named twice", {"path": ["x.parquet", "x.parquet"]}),
    "a column more": (
        "more.parquet has a column 'more', which x.parquet does not have; name .* data.columns",
        {"path": ["x.parquet", "more.parquet"]},
    ),
    "a column less": (
        "x.parquet has no column 'more', which more.parquet has",
        {"path": ["more.parquet", "x.parquet"]},
    ),
    "other numbers of columns": (
        r"plain.h5 has 4 columns, but more.parquet has 5",
        {"path": ["more.parquet", "plain.h5"]},
    ),
    "a text file": ("x.csv is not HDF5, .*with: mpigmm convert x.csv --out x.h5", {"path": "x.csv"}),
    "a packed text file": ("mpigmm convert 'x y.tsv.gz' --out 'x y.h5'", {"path": "x y.tsv.gz"}),
    "an npz file": ("mpigmm convert x.npz --out x.h5", {"path": "x.npz"}),
    "a directory": (r"many is a directory; .*'many/\*.parquet'", {"path": "many"}),
    "no Parquet": ("no.parquet cannot be read as Parquet; is it whole", {"path": "no.parquet"}),
    "no npy": ("no.npy cannot be read as .npy; is it whole", {"path": "no.npy"}),
    "an npy file of -5 rows": ("minus.npy cannot be read as .npy; is it whole", {"path": "minus.npy"}),
    "an npy file with a damaged header": ("odd.npy cannot be read as .npy", {"path": "odd.npy"}),
    "a constant with a shape of text": ("text in openpmd.h5 is a group", {"path": "openpmd.h5", "dataset": "text"}),
    "a constant with a shape of floats": ("float in openpmd.h5 is a group", {"path": "openpmd.h5", "dataset": "float"}),
    "a constant of -3 rows": ("minus in openpmd.h5 is a group", {"path": "openpmd.h5", "dataset": ["minus"]}),
    "half of a Parquet file": ("cut.x.parquet cannot be read as Parquet", {"path": "cut.x.parquet"}),
    "half of an npy file": ("cut.x.npy is cut off: it has 96,119 of the 96,128 bytes", {"path": "cut.x.npy"}),
}


def test_a_mistake_is_named() -> None:
    prepare()
    for case, (message, data) in MISTAKES.items():
        with pytest.raises(DataError, match=message):
            pytest.fail(f"{case}: {fitted(data)}")


@pytest.mark.parametrize("dtype", ["f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_file_that_shrinks_is_named(order: Any, dtype: str) -> None:
    np.save("x.npy", np.asarray(X, dtype, order=order))
    header = read_header("x.npy", "/X")
    source = FileSource(header)
    assert (source.read(0, 10).values == X[:10]).all()
    os.truncate("x.npy", Path("x.npy").stat().st_size // 2)
    with pytest.raises(DataError, match=r"x.npy has shrunk while it was being read; restore it"):
        source.read(N - 10, N)
    with pytest.raises(DataError, match=r"x.npy is cut off"):
        FileSource(header).read(N - 10, N)
    np.save("x.npy", X[:20])
    with pytest.raises(DataError, match=r"x.npy has shrunk to 20 rows while it was being read"):
        FileSource(header).read(N - 10, N)
    np.save("x.npy", np.ones((N, 2)))
    with pytest.raises(DataError, match=r"rows 2,990 to 3,000 of x.npy cannot be read"):
        FileSource(header).read(N - 10, N)


def test_a_parquet_file_that_shrinks_is_named() -> None:
    write_parquet("x.parquet", named())
    header = read_header("x.parquet", "/X")
    source = FileSource(header)
    assert (source.read(0, 10).values == X[:10]).all()
    os.truncate("x.parquet", 1000)
    with pytest.raises(DataError, match=r"x.parquet has shrunk while it was being read; restore it"):
        source.read(N - 10, N)
    write_parquet("x.parquet", named(X[:20]))
    with pytest.raises(DataError, match=r"x.parquet has shrunk to 20 rows while it was being read"):
        FileSource(header).read(N - 10, N)
    write_parquet("x.parquet", named(X[:, :2]))
    with pytest.raises(DataError, match=r"rows 2,990 to 3,000 of x.parquet cannot be read"):
        FileSource(header).read(N - 10, N)


def test_other_rows_are_not_taken_for_those_of_an_unfinished_run(comm: Comm) -> None:
    write_parquet("x.parquet", named())
    settings = {"path": "x.parquet"}, {"model": {"n_components": 3}, "output": {"dir": "out"}}
    config = write_config(Path("run.yaml"), data=settings[0], em={"max_iter": 3, "tol": 0}, **settings[1])
    assert run_verb(comm, "fit", str(config))[0] == 0
    write_parquet("y.parquet", named(X + 1))
    code, message = run_verb(comm, "fit", str(config), "data.path=y.parquet", "em.max_iter=5")
    assert code == 2 and "the rows of y.parquet are not those that out was begun with" in message
    np.save("same.npy", X)
    assert run_verb(comm, "fit", str(config), "data.path=same.npy", "em.max_iter=5") == (0, "")


def test_a_pyarrow_that_does_not_fit_numpy_is_named(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": np.arange(9.0)}), "x.parquet")
    write_config(Path("run.yaml"), data={"path": "x.parquet"})
    for module in ("mpigmm.data.parquet_file", "mpigmm.data.conversion.inputs"):
        monkeypatch.setitem(sys.modules, module, None)
    for command, caller in ((("fit", "run.yaml"), "Parquet"), (("convert", "x.csv", "--out", "c.h5"), "convert")):
        code, told = run_verb(comm, *command)
        assert code == 2 and f"{caller} needs pyarrow, which cannot be imported (" in told
        assert told.endswith("pip install pyarrow")
