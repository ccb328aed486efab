"""``convert``: files of other formats become HDF5, with the same bytes on any number of ranks."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
from pathlib import Path
from typing import Any

import flowio
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import FinishedParts, run_verb
from support import write_rows

from mpigmm.commands import convert
from mpigmm.data.conversion import csv_file
from mpigmm.data.conversion.lines import LineCounter, line_of_row
from mpigmm.driver.shared_work import Check, SharedWork
from mpigmm.errors import AgreedError, DataError
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import ConvertRequest

ROWS = np.random.default_rng(0).standard_normal((300, 3))


@pytest.fixture(autouse=True)
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; plain text is cut into parts of some lines."""
    monkeypatch.chdir(shared_path)
    monkeypatch.setattr(csv_file, "PART_BYTES", 1000)
    return shared_path


def write(comm: Comm, **files: Any) -> None:
    """Write files on root, each a text, bytes, or a function that writes it; ``a_csv`` is a.csv."""
    if comm.is_root:
        for name, content in files.items():
            path = Path(name.replace("__", "/").replace("_", "."))
            path.parent.mkdir(exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
    comm.mpi.Barrier()


def text_of(rows: np.ndarray, header: str = "a,b,c") -> str:
    """Rows as CSV, with all digits."""
    return "\n".join([*([header] if header else []), *(",".join(map(repr, row)) for row in rows.tolist())]) + "\n"


def converted(comm: Comm, *arguments: str) -> tuple[np.ndarray, list[str] | None]:
    """Rows and names of columns that `convert` writes."""
    assert run_verb(comm, "convert", *arguments, "--out", "out.h5", "--overwrite") == (0, "")
    with h5py.File("out.h5") as file:
        names = file["X"].attrs.get("columns")
        return file["X"][()], None if names is None else list(names)


def any_floats(n: int) -> np.ndarray:
    """Floats of all exponents, with random bits, and special ones."""
    bits = np.random.default_rng(1).integers(0, 2**64, 3 * n, np.uint64)
    found = bits.view(np.float64)
    special = [np.inf, -np.inf, 0.0, -0.0, 5e-324, np.finfo(float).max, 2**53 + 1.0, 0.1]
    found[: len(special)] = special
    return np.where(np.isnan(found), 1 / 3, found).reshape(n, 3)


@pytest.mark.parallel
@pytest.mark.parametrize("quote", ["", '"'])
def test_text_becomes_the_same_floats(comm: Comm, quote: str) -> None:
    """To the last bit, and the same bytes of the file on any number of ranks."""
    rows = any_floats(400)
    lines = text_of(rows).splitlines()
    write(comm, x_csv="\n".join(re.sub("[^,]+", rf"{quote}\g<0>{quote}", line) for line in lines))
    found, names = converted(comm, "x.csv")
    assert found.tobytes() == rows.tobytes() and names == ["a", "b", "c"]
    if comm.is_root:
        assert convert.run(SingleProcess(), ConvertRequest(("x.csv",), "alone.h5"), StopRequest()) == 0
        assert Path("alone.h5").read_bytes() == Path("out.h5").read_bytes()


N = np.nan
TEXTS: dict[str, tuple[Any, ...]] = {
    "names": ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]], ["a", "b"]),
    "no names": ("1,2\n3,4\n", [[1, 2], [3, 4]], None),
    "no last line end": ("a,b\n1,2\n3,4", [[1, 2], [3, 4]], ["a", "b"]),
    "carriage returns": ("a,b\r\n1,2\r\n\r\n3,4\r\n", [[1, 2], [3, 4]], ["a", "b"]),
    "carriage returns alone": ("a,b\r1,2\r\r3,4\r", [[1, 2], [3, 4]], ["a", "b"]),
    "empty lines": ("\n\na,b\n\n1,2\n\n\n3,4\n\n", [[1, 2], [3, 4]], ["a", "b"]),
    "semicolons": ("a;b\n1;2\n", [[1, 2]], ["a", "b"]),
    "tabs": ("a\tb, c\n1\t2\n", [[1, 2]], ["a", "b, c"]),
    "bars": ("a|b\n1|2\n", [[1, 2]], ["a", "b"]),
    "spaces": ("1 2\n3 4\n", [[1, 2], [3, 4]], None),
    "spaces with a field that is missing": ("1  3\n1 2 3\n", [[1, N, 3], [1, 2, 3]], None, "--delimiter", " "),
    "spaces around": (" a , b\n 1, 2 \n+3 ,-4\n", [[1, 2], [3, -4]], ["a", "b"]),
    "one column": ("a\n1\n2\n", [[1], [2]], ["a"]),
    "missing values": ("a,b\n,NaN\nnull,NA\nnan,3\n", [[N, N], [N, N], [N, 3]], ["a", "b"]),
    "a column without values": ("a,b\n1,\n2,\n", [[1, N], [2, N]], ["a", "b"]),
    "infinity": ("a,b\ninf,-Inf\nInfinity,-INF\n", [[np.inf, -np.inf]] * 2, ["a", "b"]),
    "integers beyond 2^53": (
        "a\n9007199254740993\n123456789012345678901234567890\n",
        [[2.0**53], [1.2345678901234568e29]],
        ["a"],
    ),
    "quotes": ('"a, ""1""","b"\n"1",2\n3,"4"\n', [[1, 2], [3, 4]], ['a, "1"', "b"]),
    "a line end in a name": ('"a\n(m)","b"\n1,2\n', [[1, 2]], ["a\n(m)", "b"]),
    "a byte order mark": ("\ufeffa,b\n1,2\n", [[1, 2]], ["a", "b"]),
    "a byte order mark without names": ("\ufeff1,2\n", [[1, 2]], None),
    "names in Latin 1": ("größe,b\n1,2\n".encode("latin-1"), [[1, 2]], ["größe", "b"]),
    "names in UTF-8": ("größe,b\n1,2\n", [[1, 2]], ["größe", "b"]),
    "an index without a name": (",b\n0,2\n1,3\n", [[0, 2], [1, 3]], ["unnamed_0", "b"]),
    "one row without a line end": ("1,2", [[1, 2]], None),
    "comments": ("# by me\n# a,b\n1,2\n", [[1, 2]], ["a", "b"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_all_kinds(name: str, comm: Comm) -> None:
    text, rows, names, *arguments = TEXTS[name]
    write(comm, x_csv=text)
    found = converted(comm, "x.csv", *arguments)
    assert np.array_equal(found[0], rows, equal_nan=True) and found[1] == names


def zstandard(raw: bytes) -> bytes:
    return bytes(pa.compress(raw, "zstd", asbytes=True))


PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard}


@pytest.mark.parametrize("suffix", PACKED)
def test_compressed_text_is_read_as_it_is(suffix: str, comm: Comm) -> None:
    write(comm, **{f"x_csv_{suffix}": PACKED[suffix](text_of(ROWS).encode())})
    found, names = converted(comm, f"x.csv.{suffix}")
    assert found.tobytes() == ROWS.tobytes() and names == ["a", "b", "c"]


@pytest.mark.parallel
def test_line_ends_in_quotes_end_no_row(comm: Comm) -> None:
    """Nor do quotes within a field open one."""
    lines = [f'{i},"of a\nsecond, ""line""",{i / 3!r}' if i % 50 == 7 else f'{i},5" x 3",{i / 3!r}' for i in range(200)]
    write(comm, x_csv="\n".join(["a,b,c", *lines]))
    found, names = converted(comm, "x.csv", "--columns", "c,a")
    assert found.tolist() == [[i / 3, i] for i in range(200)] and names == ["c", "a"]


@given(st.lists(st.sampled_from("ab,\r\n"), max_size=40), st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_lines_are_counted_as_they_are_split(characters: list[str], step: int) -> None:
    """In blocks of any size, and found again by the number of their row."""
    text = "".join(characters)
    lines = list(io.StringIO(text, newline=""))
    counter = LineCounter()
    for start in range(0, len(text), step):
        counter.add(text.encode()[start : start + step])
    numbers = [i for i, line in enumerate(lines, 1) if line.strip("\r\n")]
    assert counter.n_rows == len(numbers)
    assert counter.n_lines == sum(line.endswith(("\r", "\n")) for line in lines)
    assert [line_of_row(io.BytesIO(text.encode()), row) for row in range(len(numbers))] == numbers


@pytest.mark.parallel
def test_files_of_a_directory_are_one_matrix(comm: Comm) -> None:
    """In natural order; columns are matched by their names, and only files of known formats are read."""
    write(
        comm,
        d__p_2_csv=text_of(ROWS[:100]),
        d__p_10_csv=text_of(ROWS[100:][:, [2, 0, 1]], "c,a,b"),
        d__p_11_tsv="c\ta\tb\n",
        d__readme_md="# rows",
        **{"d__._p_2_csv": b"\0\5\26\7"},
    )
    found, names = converted(comm, "d")
    assert found.tobytes() == ROWS.tobytes() and names == ["a", "b", "c"]


def test_columns_are_chosen_by_name_or_number(comm: Comm) -> None:
    write(comm, x_csv="id,a,b,c\n" + "".join(f"row {i},{i},{i + 1},{i + 2}\n" for i in range(5)), y_csv="1,2\n3,4\n")
    found, names = converted(comm, "x.csv", "--columns", "3, a")
    assert found.tolist() == [[i + 2, i] for i in range(5)] and names == ["c", "a"]
    assert converted(comm, "y.csv", "--columns", "1")[0].tolist() == [[2], [4]]


def test_columns_of_other_files_are_found_by_the_names_chosen(comm: Comm) -> None:
    """Also where other names stand for several columns, and by the long names of channels."""
    write(
        comm,
        x_csv="n,n,b\n1,2,3\n",
        y_csv="b,n,n\n30,10,20\n",
        z_csv="more,b,words\n1,300,one\n",
        a_fcs=write_fcs,
        b_fcs=lambda path: write_fcs(path, markers=("", "CD8", "CD4", "")),
    )
    assert converted(comm, "x.csv", "y.csv", "z.csv", "--columns", "b")[0].tolist() == [[3], [30], [300]]
    assert (
        "y.csv has no column 'more'"
        in run_verb(comm, "convert", "z.csv", "y.csv", "--columns", "more", "--out", "o.h5")[1]
    )
    found, names = converted(comm, "a.fcs", "b.fcs", "--columns", "CD4,FSC-A")
    assert found[:200].tolist() == EVENTS[:, [1, 0]].tolist() and names == ["CD4", "FSC-A"]
    assert found[200:].tolist() == EVENTS[:, [2, 0]].tolist()


def test_a_header_can_be_told(comm: Comm) -> None:
    write(comm, x_csv="400,500\n1,2\n", y_csv="x,y\n1,2\n")
    assert converted(comm, "x.csv", "--header")[1] == ["400", "500"]
    assert converted(comm, "x.csv", "--no-header")[0].tolist() == [[400, 500], [1, 2]]
    assert run_verb(comm, "convert", "y.csv", "--no-header", "--out", "y.h5")[0] == 2


def test_decimal_commas(comm: Comm) -> None:
    write(comm, x_csv="a;b\n1,5;2\n-0,25;1e3\n")
    assert converted(comm, "x.csv", "--decimal", ",")[0].tolist() == [[1.5, 2], [-0.25, 1000]]


def test_archives_of_numpy(comm: Comm) -> None:
    write(
        comm,
        one_npz=lambda path: np.savez(path, ROWS.astype(np.float32)),
        named_npz=lambda path: np.savez_compressed(path, X=np.asfortranarray(ROWS), Y=ROWS),
        vectors_npz=lambda path: np.savez_compressed(path, u=ROWS[:, 0], v=np.arange(300, dtype=np.int16)),
    )
    one, _ = converted(comm, "one.npz")
    assert one.dtype == np.float32 and one.tobytes() == ROWS.astype(np.float32).tobytes()
    assert converted(comm, "named.npz")[0].tobytes() == ROWS.tobytes()
    vectors, names = converted(comm, "vectors.npz")
    assert names == ["u", "v"] and vectors.tolist() == np.column_stack([ROWS[:, 0], np.arange(300)]).tolist()


def write_parquet(path: Path) -> None:
    columns = {"u": pa.array([None, *ROWS[1:, 0]]), "word": ["a"] * 300, "v": pa.array(range(300), pa.int16())}
    parquet.write_table(pa.table(columns), path, row_group_size=70)


@pytest.mark.parallel
def test_files_that_fit_reads_as_they_are(comm: Comm) -> None:
    """Nulls are NaN, and all files have one type."""
    write(
        comm,
        a_npy=lambda path: np.save(path, ROWS.astype(np.float32)),
        b_npy=lambda path: np.save(path, np.asfortranarray(np.arange(900).reshape(300, 3))),
        c_parquet=write_parquet,
        d_h5=lambda path: write_rows(path, ROWS[:, :2]),
    )
    found, _ = converted(comm, "a.npy", "b.npy", "--columns", "2,0")
    whole = np.concatenate([ROWS.astype(np.float32), np.arange(900).reshape(300, 3)])
    assert found.dtype == np.float64 and found.tolist() == whole[:, [2, 0]].tolist()
    found, names = converted(comm, "c.parquet", "d.h5")
    assert names == ["u", "v"] and np.isnan(found[0, 0])
    assert found[1:300].tolist() == np.column_stack([ROWS[:, 0], np.arange(300)])[1:].tolist()
    assert found[300:].tobytes() == ROWS[:, :2].tobytes()


EVENTS = np.abs(np.random.default_rng(2).normal(300, 90, (200, 4))).astype(np.float32)
SPILL = np.array([[1, 0.2], [0.05, 1]])


def write_fcs(
    path: Path, events: np.ndarray = EVENTS, markers: tuple[str, ...] = ("", "CD4", "CD8", ""), **keywords: str
) -> None:
    """A file of a cytometer, whose channels 1 and 2 spill into each other."""
    with open(path, "wb") as file:
        flowio.create_fcs(
            file,
            events.ravel().tolist(),
            ["FSC-A", "FL1-A", "FL2-A", "Time"],
            opt_channel_names=list(markers),
            metadata_dict={"spillover": f"2,FL1-A,FL2-A,{','.join(map(str, SPILL.ravel()))}"} | keywords,
        )


@pytest.mark.parallel
def test_files_of_cytometers(comm: Comm) -> None:
    """Channels are scaled as flowio does, and compensated by solving y = x S."""
    write(comm, a_fcs=write_fcs, b_fcs=lambda path: write_fcs(path, EVENTS[:50]))
    found, names = converted(comm, "a.fcs", "b.fcs")
    assert names == ["FSC-A", "FL1-A", "FL2-A", "Time"]
    assert found.tolist() == np.concatenate([EVENTS, EVENTS[:50]]).astype(float).tolist()
    found, names = converted(comm, "a.fcs", "--compensate", "--columns", "CD8,FL1-A", "--arcsinh", "150")
    assert names == ["CD8", "FL1-A"]
    true = EVENTS[:, 1:3].astype(float) @ np.linalg.inv(SPILL)
    assert np.allclose(found, np.arcsinh(true[:, ::-1] / 150), rtol=1e-12)


def test_the_first_rows_of_a_fit_are_those_of_the_files(comm: Comm, capfd: pytest.CaptureFixture[str]) -> None:
    """The end of the way: a fit of what `convert` wrote, columns and all."""
    write(comm, a_fcs=write_fcs)
    converted(comm, "a.fcs", "--columns", "CD4,CD8", "--arcsinh", "150")
    Path("run.yaml").write_text("data: {path: out.h5}\nmodel: {n_components: 2}\n")
    assert run_verb(comm, "fit", "run.yaml") == (0, "")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.csv", "1,2")


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


ERRORS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "a ragged line": ("x.csv, line 152: 2 fields instead of 3; correct", {"x_csv": (150, "1,2")}, ()),
    "a line too long": ("x.csv, line 152: 4 fields instead of 3", {"x_csv": (150, "1,2,3,4")}, ()),
    "text in a number": (r"x.csv, line 302, column 1 \(b\): 'z' is no number; correct", {"x_csv": (300, "1,z,3")}, ()),
    "text in the first row": (
        r"x.csv has text in column 2 \(c\), from line 2 on, such as 'q'",
        {"x_csv": "a,b,c\n1,2,q\n"},
        (),
    ),
    "text in a column of a choice": (
        r"x.csv, line 302, column 2 \(c\): 'z' is no number",
        {"x_csv": (300, "1,2,z")},
        ("--columns", "c,a"),
    ),
    "text in a number of the first rows": (
        r"x.csv, line 3, column 1 \(b\): 'z' is no number",
        {"x_csv": "a,b\n1,2\n3,z\n4,5\n"},
        (),
    ),
    "a ragged line at the beginning": ("x.csv, line 2: 3 fields instead of 2", {"x_csv": "a,b\n1,2,3\n4,5\n"}, ()),
    "a decimal comma": ("--decimal ,", {"x_csv": "a;b\n" + "1;2\n" * 300 + "1,5;2\n"}, ()),
    "text beside a decimal comma": (
        "line 3, column 0 .*'x' is no number",
        {"x_csv": "a;b\n1,5;2\nx;3\n"},
        ("--decimal", ","),
    ),
    "a decimal comma in the first row": (
        "from line 2 .*such as '1,5'; if .* add --decimal ,",
        {"x_csv": "a;b\n1,5;2\n"},
        (),
    ),
    "a column of text": (
        r"has text in column 0 \(id\), from line 2 on, such as 'p'; choose .*: --columns a,b",
        {"x_csv": "id,a,b\np,1,2\nq,3,4\n"},
        (),
    ),
    "aligned columns": ("x.csv, line 2, has spaces .*: sed", {"x_csv": "#\n 1.0  2.0\n-3.0 -4.0\n"}, ()),
    "a space at the end": ("x.csv, line 1, has spaces", {"x_csv": "1 2 \n3 4 \n"}, ()),
    "text after a missing value": ("such as '12 cm'", {"x_csv": "a,b\nNA,1\n12 cm,2\n"}, ()),
    "text alone": ("no column holds numbers", {"x_csv": "a,b\np,q\n"}, ()),
    "names or values": ("first row of x.csv .*'b' in column 1.*--header.*--no-header", {"x_csv": "1,b\n1,2\n"}, ()),
    "an empty file": ("x.csv is empty", {"x_csv": ""}, ()),
    "an empty file among others": ("y.csv is empty", {"x_csv": text_of(ROWS), "y_csv": ""}, ("y.csv",)),
    "names alone": ("x.csv: no rows", {"x_csv": "a,b\n"}, ()),
    "names alone without a line end": ("x.csv: no rows", {"x_csv": "a,b"}, ()),
    "no text": ("x.csv is no text, nor", {"x_csv": b"a,\0\n"}, ()),
    "UTF-16": ("x.csv is text in UTF-16; save it as UTF-8", {"x_csv": "a,b\n".encode("utf-16")}, ()),
    "an open quote": ("line 3: .*quote|quote .* not closed", {"x_csv": 'a,b\n1,2\n3,"4\n' + "5,6\n" * 100}, ()),
    "other names": (
        "y.csv has d, which x.csv has not and lacks c",
        {"x_csv": "a,b,c\n1,2,3\n", "y_csv": "a,b,d\n1,2,3\n"},
        ("y.csv",),
    ),
    "a column less": (
        "y.csv lacks c, which x.csv has; convert",
        {"x_csv": "a,b,c\n1,2,3\n", "y_csv": "a,b\n1,2\n"},
        ("y.csv",),
    ),
    "other numbers of columns": (
        "y.csv has 2 columns, but x.csv has 3",
        {"x_csv": "1,2,3\n", "y_csv": "1,2\n"},
        ("y.csv",),
    ),
    "a file twice": ("./x.csv is named twice", {"x_csv": "1,2\n"}, ("./x.csv",)),
    "a name twice": ("x.csv has several columns named a; rename", {"x_csv": "a,a\n1,2\n"}, ()),
    "an unknown column": (
        "--columns: x.csv has no column 'd'; it has a, b",
        {"x_csv": "a,b\n1,2\n"},
        ("--columns", "a,d"),
    ),
    "a number too large": ("--columns: x.csv has no column '2'; it has 0 to 1", {"x_csv": "1,2\n"}, ("--columns", "2")),
    "a column twice": ("--columns names a column twice", {"x_csv": "a,b\n1,2\n"}, ("--columns", "a,0")),
    "no columns": ("--columns ' '", {"x_csv": "a,b\n1,2\n"}, ("--columns", " ")),
    "an empty column": ("--columns 'a,,b'", {"x_csv": "a,b\n1,2\n"}, ("--columns", "a,,b")),
    "no file": ("y.csv does not exist; check", {"x_csv": "1,2\n"}, ("y.csv",)),
    "no files": ("d has no files to convert; .*.csv", {"x_csv": "1,2\n", "d__readme_md": ""}, ("d",)),
    "an empty name": ("name a file", {"x_csv": "1,2\n"}, ("",)),
    "a long delimiter": ("--delimiter 'ab': one character", {"x_csv": "1,2\n"}, ("--delimiter", "ab")),
    "a delimiter as decimal point": ("--delimiter '.'", {"x_csv": "1,2\n"}, ("--delimiter", ".")),
    "a digit as decimal point": ("--decimal '5': one character", {"x_csv": "1,2\n"}, ("--decimal", "5")),
    "a dataset that is a group": ("--dataset '/a/.'", {"x_csv": "1,2\n"}, ("--dataset", "/a/.")),
    "no dataset": ("--dataset '/'", {"x_csv": "1,2\n"}, ("--dataset", "/")),
    "arcsinh of zero": ("--arcsinh", {"x_csv": "1,2\n"}, ("--arcsinh", "0")),
    "compensated text": ("--compensate: x.csv is no FCS file", {"x_csv": "1,2\n"}, ("--compensate",)),
    "no spillover": (
        "--compensate: x.csv has no spillover",
        {"x_csv": lambda p: write_fcs(p, spillover="")},
        ("--compensate",),
    ),
    "a broken spillover": (
        "x.csv: the spillover",
        {"x_csv": lambda p: write_fcs(p, spillover="2,a,b,1")},
        ("--compensate",),
    ),
    "a spillover that is no number": (
        "x.csv: the spillover",
        {"x_csv": lambda p: write_fcs(p, spillover="2,FL1-A,FL2-A,1,nan,0,1")},
        ("--compensate",),
    ),
    "a spillover of no channels": (
        "x.csv: the spillover",
        {"x_csv": lambda p: write_fcs(p, spillover="0")},
        ("--compensate",),
    ),
    "a file of a cytometer that is cut off": ("x.csv cannot be read as FCS", {"x_csv": b"FCS3.0      "}, ()),
    "an archive that is cut off": ("x.csv cannot be read", {"x_csv": b"PK\3\4 and more"}, ()),
    "an archive of other files": ("x.csv is an archive of other files", {"x_csv": write_zip}, ()),
    "an archive of two matrices": (
        "x.csv holds a .*, b ",
        {"x_csv": lambda path: write_npz(path, a=ROWS, b=ROWS)},
        (),
    ),
    "an archive of a number": (
        "x.csv holds a \\(\\) float64",
        {"x_csv": lambda path: write_npz(path, a=np.array(1.0))},
        (),
    ),
    "compressed text that is cut off": (
        "x.csv cannot be read",
        {"x_csv": gzip.compress(text_of(ROWS).encode())[:-30]},
        (),
    ),
    "compressed text with a ragged line": (
        "x.csv, line 4: 2 fields",
        {"x_csv": gzip.compress(b"a,b,c\n1,2,3\n\n1,2\n")},
        (),
    ),
}


@pytest.mark.parallel
@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_named_and_leaves_nothing_behind(
    name: str, comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected, files, arguments = ERRORS[name]
    write(comm, **{name: spoilt(*made) if isinstance(made, tuple) else made for name, made in files.items()})
    before = sorted(place.rglob("*"))
    comm.mpi.Barrier()
    capfd.readouterr()
    code, message = run_verb(comm, "convert", "x.csv", *arguments, "--out", "out.h5")
    told = comm.bcast(message or capfd.readouterr().err)
    assert code == 2 and re.search(expected, told, re.DOTALL), told
    assert "rank" not in told and "Traceback" not in told and len(told) < 1000
    comm.mpi.Barrier()
    assert sorted(place.rglob("*")) == before


def spoilt(row: int, line: str) -> str:
    """Text with another line in the place of a row."""
    lines = text_of(np.tile(ROWS, (2, 1))).splitlines()
    lines[row + 1] = line
    return "\n".join(lines)


@pytest.mark.parallel
def test_an_interrupted_command_goes_on(comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parts that are not written yet, and to the same bytes; after a change of the input it starts anew."""
    write(comm, x_csv=text_of(np.tile(ROWS, (4, 1))))
    parts = FinishedParts(monkeypatch)
    command = ("convert", "x.csv", "--out", "out.h5")
    assert run_verb(comm, *command) == (0, "")
    n_parts, whole = parts.count, Path("out.h5").read_bytes()
    parts.begin(n_parts // 2)
    assert run_verb(comm, *command)[0] == 75
    assert [path.suffix for path in place.glob(".out*")] == [".part"]
    done = sum(comm.allgather(parts.count))
    parts.begin()
    assert run_verb(comm, *command) == (0, "")
    assert sum(comm.allgather(parts.count)) == sum(comm.allgather(n_parts)) - done
    assert Path("out.h5").read_bytes() == whole and not list(place.glob(".out*"))


@pytest.mark.parallel
@pytest.mark.parametrize("n_threads", [1, 3])
def test_work_ends_on_all_ranks_when_it_fails_on_one(comm: Comm, n_threads: int) -> None:
    """Also where the others would go on for ever."""

    def work(piece: int, check: Check) -> None:
        if piece == 0:
            raise DataError("the first piece is bad")
        while True:
            check()

    with pytest.raises(AgreedError, match="the first piece is bad"):
        SharedWork(comm, StopRequest(), n_threads).run([1] * 12, work)
    done: list[int] = []
    SharedWork(comm, StopRequest(), n_threads).run([1] * 12, lambda piece, check: done.append(piece))
    assert sorted(piece for each in comm.allgather(done) for piece in each) == list(range(12))
