"""Datasets whose values stand in other files, or in other formats than they seem: their bits, or a message."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from inside import run_verb
from support import blobs, write_rows

from mpigmm.data.datasets import open_hdf5
from mpigmm.data.file_source import FileSource, read_header
from mpigmm.data.hdf5_file import OpenDataset
from mpigmm.data.origins import find_source
from mpigmm.data.source import Header
from mpigmm.errors import DataError
from mpigmm.parallel.comm import Comm

ROWS = blobs(100, 6, 2)
WEIGHTS = np.arange(1.0, 101.0)


def read_all(header: Header) -> np.ndarray:
    return FileSource(header).read(0, header.n_rows).values


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# links

LINKS = {
    "external": {"X": h5py.ExternalLink("far/rows.h5", "/g/X"), "w": h5py.ExternalLink("far/rows.h5", "/g/w")},
    "through a group": {
        "g": h5py.ExternalLink("far/rows.h5", "/g"),
        "X": h5py.SoftLink("/g/X"),
        "w": h5py.SoftLink("g/w"),
    },
    "in a chain": {"X": h5py.ExternalLink("middle.h5", "/X"), "w": h5py.ExternalLink("middle.h5", "/w")},
}


@pytest.fixture(params=["contiguous", "chunked", "behind a user block"])
def far(request: pytest.FixtureRequest) -> Path:
    """Rows in another directory, not at the beginning of their file."""
    Path("far").mkdir()
    with h5py.File("far/rows.h5", "w", userblock_size=512 if "block" in request.param else 0) as file:
        file["before"] = np.full(999, 7.0)
        file.create_dataset("g/X", data=ROWS, chunks=(7, 6) if request.param == "chunked" else None)
        file["g/w"] = WEIGHTS
    return Path("far/rows.h5")


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_links_lead_to_the_rows_of_another_file(far: Path, links: dict[str, object]) -> None:
    with h5py.File("middle.h5", "w") as file:
        file["X"], file["w"] = h5py.ExternalLink("far/rows.h5", "/g/X"), h5py.ExternalLink("far/rows.h5", "/g/w")
    with h5py.File("x.h5", "w") as file:
        for name, link in links.items():
            file[name] = link
        file["padding"] = np.full(5000, 3.0)
    source = FileSource(read_header("x.h5", "/X", "/w"))
    rows = source.read(10, 90)
    assert rows.sample_weight is not None
    assert rows.values.tobytes() == ROWS[10:90].tobytes() and rows.sample_weight.tobytes() == WEIGHTS[10:90].tobytes()
    os.truncate(far, far.stat().st_size - 1)
    with pytest.raises(DataError, match=r"far/rows.h5 has shrunk while it was being read"):
        source.read(10, 90)


@pytest.mark.parametrize("name", ["/X", "/g/X", "/soft", "/deep/X"])
def test_a_link_to_nothing_names_the_file(name: str) -> None:
    with h5py.File("x.h5", "w") as file:
        file["X"], file["g"] = h5py.ExternalLink("none.h5", "/X"), h5py.ExternalLink("none.h5", "/")
        file["soft"], file["deep"] = h5py.SoftLink("/g/X"), h5py.SoftLink("g")
        file["loop"] = h5py.SoftLink("/loop")
    with pytest.raises(DataError, match=f"{name} in x.h5 is a link to /X? in none.h5, which cannot be read"):
        read_header("x.h5", name)
    with pytest.raises(DataError, match=r"has no dataset /loop"):
        read_header("x.h5", "/loop")


def test_fit_predict_and_score_read_what_links_lead_to(comm: Comm, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(Path("rows.h5"), ROWS[::-1], Y=ROWS, w=WEIGHTS)
    write_rows(Path("plain.h5"), ROWS, w=WEIGHTS)
    with h5py.File("linked.h5", "w") as file:
        file["X"], file["w"] = h5py.ExternalLink("rows.h5", "/Y"), h5py.ExternalLink("rows.h5", "/w")
    printed = []
    for name in ("plain", "linked"):
        Path(f"{name}.yaml").write_text(f"{{data: {{path: {name}.h5, weights: /w}}, model: {{n_components: 2}}}}")
        assert run_verb(comm, "fit", f"{name}.yaml") == (0, "")
        assert run_verb(comm, "predict", "runs/plain/model.h5", f"{name}.h5", "--out", f"{name}.labels.h5") == (0, "")
        capfd.readouterr()
        assert run_verb(comm, "score", "runs/plain/model.h5", f"{name}.h5") == (0, "")
        printed.append(capfd.readouterr().out)
    assert printed[0] == printed[1]
    for files, names in (
        (("runs/plain/model.h5", "runs/linked/model.h5"), ("means", "covariances")),
        (("plain.labels.h5", "linked.labels.h5"), ("labels", "log_density")),
    ):
        with h5py.File(files[0]) as one, h5py.File(files[1]) as other:
            assert all((one[name][()] == other[name][()]).all() for name in names)


# formats


def twelve_bits() -> h5t.TypeID:
    kind = h5t.STD_I16LE.copy()
    kind.set_precision(12)
    kind.set_offset(4)
    return kind


def short_float(sign: int, mantissa: int, size: int) -> h5t.TypeID:
    """A float with the exponent of float32 and a shorter mantissa."""
    kind = h5t.IEEE_F32LE.copy()
    kind.set_fields(sign, sign - 8, 8, 0, mantissa)
    kind.set_precision(sign + 1)
    kind.set_size(size)
    return kind


def enumeration() -> h5t.TypeID:
    kind = h5t.enum_create(h5t.STD_I16BE)
    for value in range(-5, 6):
        kind.enum_insert(f"v{value}".encode(), value)
    return kind


FORMATS = {
    "12 bits in 16": twelve_bits,
    "a float of 24 bits": lambda: short_float(23, 15, 4),
    "bfloat16": lambda: short_float(15, 7, 2),
    "big endian": lambda: h5t.IEEE_F32BE.copy(),
    "an enumeration": enumeration,
    "plain": lambda: h5t.IEEE_F64LE.copy(),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_numbers_that_hdf5_converts(kind: Callable[[], h5t.TypeID], chunked: bool) -> None:
    values = np.arange(300).reshape(100, 3) % 11 - 5
    layout = h5p.create(h5p.DATASET_CREATE)
    if chunked:
        layout.set_chunk((8, 3))
    with h5py.File("x.h5", "w") as file:
        for name, part in ((b"X", values), (b"w", values[:, 0].copy() ** 2)):
            stored = kind()
            dataset = h5d.create(
                file.id, name, stored, h5s.create_simple(part.shape), layout if part.ndim == 2 else None
            )
            memory = stored if stored.get_class() == h5t.ENUM else None
            dataset.write(h5s.ALL, h5s.ALL, part.astype(">i2" if memory else "f8"), mtype=memory)
    header = read_header("x.h5", "/X")
    np.testing.assert_array_equal(read_all(header).astype(int), values)
    np.testing.assert_array_equal(read_all(read_header("x.h5", "/X", columns=[2, 0])).astype(int), values[:, [2, 0]])
    if kind is not enumeration:
        rows = FileSource(read_header("x.h5", "/X", "/w")).read(3, 70)
        np.testing.assert_array_equal(rows.sample_weight, values[3:70, 0] ** 2)


# virtual datasets


def write_virtual(path: str, sources: list[tuple[str, str, int]], name: str = "X", columns: int = 6) -> None:
    """A virtual dataset of sources: file, dataset and rows of each."""
    layout, start = h5py.VirtualLayout((sum(rows for _, _, rows in sources), columns), "f8"), 0
    for file, dataset, rows in sources:
        layout[start : start + rows] = h5py.VirtualSource(file, dataset, shape=(rows, columns))
        start += rows
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset(name, layout)


@pytest.fixture
def parts() -> None:
    """Rows in three files of a folder, and a virtual dataset beside them that is one of another."""
    Path("parts").mkdir()
    for i, (start, stop) in enumerate([(0, 30), (30, 31), (31, 100)]):
        write_rows(Path(f"parts/{i}.h5"), ROWS[start:stop])
    write_virtual("parts/inner.h5", [("0.h5", "X", 30), ("1.h5", "X", 1)])
    write_virtual("x.h5", [("parts/inner.h5", "X", 31), ("parts/2.h5", "X", 69)])
    with h5py.File("linked.h5", "w") as file:
        file["X"] = h5py.ExternalLink("x.h5", "/X")


def sources_are_opened_alike() -> bool:
    """Whether this HDF5 opens sources without locks where the virtual dataset's file is so; a file that is also read by
    itself could not be opened else."""
    with open_hdf5(str(write_rows(Path("probe.h5"), ROWS))) as file:
        return not file.id.get_access_plist().get_file_locking()[0]


@pytest.mark.parametrize("path", ["x.h5", "linked.h5", "parts/../x.h5"])
def test_virtual_rows_are_those_of_the_sources(parts: None, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (read_all(read_header(path, "/X")) == ROWS).all()
    both = ["parts/0.h5", path]
    if sources_are_opened_alike():
        assert (read_all(read_header(both, "/X")) == np.concatenate([ROWS[:30], ROWS])).all()
    else:
        with pytest.raises(DataError, match=r"parts/0.h5 cannot be opened"):
            read_all(read_header(both, "/X"))
    monkeypatch.chdir("parts")
    assert (read_all(read_header(f"../{path}", "/X")) == ROWS).all()


def lose(path: str) -> None:
    Path(path).unlink()


def empty(path: str) -> None:
    with h5py.File("new.h5", "w"):
        pass
    Path("new.h5").replace(path)


def shorten(path: str) -> None:
    write_rows(Path("new.h5"), np.ones((0, 6))).replace(path)


def cut(path: str) -> None:
    os.truncate(path, Path(path).stat().st_size - 8)


LOSSES = {"lost": lose, "empty": empty, "shorter": shorten, "cut off": cut}


@pytest.mark.parametrize("path", ["x.h5", "linked.h5"])
@pytest.mark.parametrize("part", ["parts/inner.h5", "parts/2.h5", "parts/1.h5"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_lost_source_is_named(parts: None, path: str, part: str, loss: Callable[[str], None]) -> None:
    """Before the rows are read, once they are known, and between two reads."""
    header = read_header(path, "/X")
    source = FileSource(header)
    assert (source.read(0, 30).values == ROWS[:30]).all()
    loss(part)
    name = Path(part).name
    with pytest.raises(DataError, match=name):
        read_header(path, "/X")
    with pytest.raises(DataError, match=name):
        read_all(header)
    with pytest.raises(DataError, match=name):
        source.read(0, 100)


@pytest.mark.parametrize("loss", [lose, cut])
def test_a_source_that_is_lost_after_it_was_found_is_named(
    parts: None, loss: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and HDF5's own opening."""
    source = FileSource(read_header("x.h5", "/X"))
    fill = OpenDataset._fill

    def lose_first(*arguments: Any) -> None:
        loss("parts/2.h5")
        with suppress(OSError):
            fill(*arguments)

    monkeypatch.setattr(OpenDataset, "_fill", lose_first)
    with pytest.raises(DataError, match=r"2.h5 (cannot be read any more|was replaced or cut off)"):
        source.read(0, 100)


def test_a_source_of_itself_is_refused() -> None:
    write_virtual("a.h5", [("b.h5", "X", 9)])
    write_virtual("b.h5", [("a.h5", "X", 9)])
    with pytest.raises(DataError, match=r"is a source of itself|a.h5 cannot be opened"):
        read_header("a.h5", "/X")


def test_virtual_rows_of_the_same_file_and_virtual_weights(parts: None) -> None:
    with h5py.File("parts/2.h5", "a") as file:
        file["Y"] = ROWS
    write_virtual("parts/2.h5", [(".", "Y", 100)], "Z")
    layout = h5py.VirtualLayout((100,), "f8")
    layout[:] = h5py.VirtualSource("w.h5", "w", shape=(100,))
    write_rows(Path("parts/w.h5"), ROWS, w=WEIGHTS)
    with h5py.File("parts/2.h5", "a") as file:
        file.create_virtual_dataset("w", layout)
    rows = FileSource(read_header("parts/2.h5", "/Z", "/w")).read(0, 100)
    assert (rows.values == ROWS).all() and rows.sample_weight is not None and (rows.sample_weight == WEIGHTS).all()
    lose("parts/w.h5")
    with pytest.raises(DataError, match=r"w.h5 does not exist"):
        read_header("parts/2.h5", "/Z", "/w")


def write_growing(path: str, mappings: list[tuple[str, tuple[int, int, int], bool]]) -> None:
    """A virtual dataset without end: of each source the name, the (start, stride, block) of its rows, and whether it is
    one file without end itself, or a series of them."""
    layout = h5p.create(h5p.DATASET_CREATE)
    for name, (start, stride, block), endless in mappings:
        space = h5s.create_simple((1, 3), (h5s.UNLIMITED, 3))
        space.select_hyperslab((start, 0), (h5s.UNLIMITED, 1), (stride, 1), (block, 3))
        source = h5s.create_simple((block, 3), (h5s.UNLIMITED, 3) if endless else None)
        if endless:
            source.select_hyperslab((0, 0), (h5s.UNLIMITED, 1), (1, 1), (1, 3))
        layout.set_virtual(space, name.encode(), b"X", source)
    with h5py.File(path, "w") as file:
        h5d.create(file.id, b"X", h5t.NATIVE_DOUBLE, h5s.create_simple((0, 3), (h5s.UNLIMITED, 3)), layout)


def test_a_series_of_files_with_a_gap() -> None:
    for i in range(4):
        write_rows(Path(f"p%{i}.h5"), np.full((5, 3), i + 1.0))
    write_growing("x.h5", [("p%%%b.h5", (0, 5, 5), False)])
    header = read_header("x.h5", "/X")
    assert read_all(header)[:, 0].tolist() == [1.0] * 5 + [2.0] * 5 + [3.0] * 5 + [4.0] * 5
    source = FileSource(header)
    source.read(0, 5)
    lose("p%1.h5")
    with pytest.raises(DataError, match=r"p%1.h5"):
        source.read(0, 20)


def test_sources_that_grow_at_unlike_pace() -> None:
    for name, rows in (("a.h5", 7), ("b.h5", 7), ("c.h5", 4)):
        with h5py.File(name, "w") as file:
            file.create_dataset("X", data=np.full((rows, 3), 2.0), maxshape=(None, 3))
    write_growing("x.h5", [("a.h5", (0, 2, 1), True), ("b.h5", (1, 2, 1), True)])
    assert (read_all(read_header("x.h5", "/X")) == np.full((14, 3), 2.0)).all()
    Path("c.h5").replace("a.h5")
    with pytest.raises(DataError, match=r"takes 21 values from X in .*a.h5, which do not stand in its shape \(4, 3\)"):
        read_header("x.h5", "/X")


def test_more_sources_than_files_may_be_open() -> None:
    for i in range(40):
        write_rows(Path(f"{i}.h5"), np.full((1, 6), i + 1.0))
    write_virtual("x.h5", [(f"{i}.h5", "X", 1) for i in range(40)])
    header = read_header("x.h5", "/X")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, limits[1]))
    try:
        with pytest.raises(DataError, match=r"more sources than files may be open at once.*ulimit -n"):
            read_all(header)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert read_all(header)[:, 0].tolist() == list(range(1, 41))


def test_where_sources_are_looked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("own", "prefix", "real"):
        Path(folder).mkdir()
    Path("own/link.h5").symlink_to(place / "real" / "x.h5")
    owner = str(place / "own" / "link.h5")
    assert find_source("a.h5", owner) is None
    for folder in ("real", ".", "own", "prefix"):
        (place / folder / "a.h5").touch()
        monkeypatch.setenv("HDF5_VDS_PREFIX", "none:${ORIGIN}/../prefix")
        found = find_source("/not/there/a.h5", owner)
        assert found is not None and Path(found).samefile(place / folder / "a.h5")


# external storage


@pytest.mark.parametrize("prefix", ["", "${ORIGIN}"])
def test_external_storage_is_read_or_missed(place: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDF5_EXTFILE_PREFIX", prefix)
    raw = ROWS.tobytes()
    Path("a.bin").write_bytes(b"head" + raw[:480])
    Path("b.bin").write_bytes(raw[480:])
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("X", ROWS.shape, "f8", external=[("a.bin", 4, 480), ("b.bin", 0, h5py.h5f.UNLIMITED)])
    header = read_header("x.h5", "/X")
    source = FileSource(header)
    assert (source.read(0, 100).values == ROWS).all()
    os.truncate("b.bin", len(raw) - 488)
    with pytest.raises(DataError, match=r"b.bin was replaced or cut off"):
        source.read(0, 100)
    for again in (lambda: read_header("x.h5", "/X"), lambda: read_all(header)):
        with pytest.raises(DataError, match=r"b.bin, which holds /X of x.h5, has 4,312 bytes of the 4,320"):
            again()
    assert (FileSource(header).read(0, 10).values == ROWS[:10]).all()
    lose("b.bin")
    with pytest.raises(DataError, match=r"b.bin, which holds /X of x.h5, cannot be read \(No such file"):
        read_header("x.h5", "/X")
