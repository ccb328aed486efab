"""Bad input of every kind: exit code 2, one message that names the thing, and earlier outputs as they were."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support import blobs, write_config, write_rows

from mpigmm.__main__ import serve
from mpigmm.errors import AgreedError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest

ROWS = blobs(600, 3, 2)
FIT = ("fit", "run.yaml")
PREDICT = ("predict", "out/model.h5", "x.h5", "--out", "labels.h5", "--overwrite")


@dataclass(frozen=True)
class Bad:
    """A mistake: what is done to the directory, the command, and what its message must say (a regular expression)."""

    message: str
    command: tuple[str, ...]
    prepare: Callable[[], Any] = field(default=lambda: None)


def fit(message: str, *overrides: str) -> Bad:
    return Bad(message, (*FIT, *overrides))


def config(message: str, text: str | bytes) -> Bad:
    """A config file of its own, in the place of the good one."""
    return Bad(message, FIT, lambda: Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode()))


def data(message: str, *overrides: str, **datasets: Any) -> Bad:
    """A data file of its own, in the place of the good one; a value that is called gives what to store."""
    return Bad(
        message, (*FIT, "--restart", *overrides), lambda: write_rows(Path("x.h5"), **({"rows": ROWS} | datasets))
    )


def made(message: str, make: Callable[[], Any], *overrides: str) -> Bad:
    """A data file made by a function."""
    return Bad(message, (*FIT, "--restart", *overrides), make)


def model(message: str, **changes: Any) -> Bad:
    """A model file that others wrote, with other arrays (upper case: attributes) than the fit's; None: without."""
    return Bad(message, ("score", "theirs.h5", "x.h5"), lambda: write_theirs(changes))


def write_theirs(changes: dict[str, Any]) -> None:
    with h5py.File("out/model.h5") as file:
        arrays = {name: file[name][()] for name in file}
        attributes = dict(file.attrs)
    for name, value in changes.items():
        part = attributes if name.isupper() else arrays
        part[name.lower()] = value
    with h5py.File("theirs.h5", "w") as file:
        for name, value in arrays.items():
            if value is not None:
                file[name] = value
        file.attrs.update({name: value for name, value in attributes.items() if value is not None})


def checkpoints(message: str, prepare: Callable[[], Any], *overrides: str) -> Bad:
    return Bad(message, (*FIT, *overrides), prepare)


def damage(*paths: str) -> None:
    for path in paths:
        with open(path, "r+b") as file:
            file.seek(-300, os.SEEK_END)
            file.write(b"x" * 9)


def at(row: int, column: int, value: float) -> np.ndarray:
    """The rows, with another value at one place."""
    rows = ROWS.copy()
    rows[row, column] = value
    return rows


def weights(row: int, value: float) -> np.ndarray:
    """Weights of 1, with another value at one place."""
    values = np.ones(len(ROWS))
    values[row] = value
    return values


def truncate(path: str, share: float) -> None:
    os.truncate(path, int(Path(path).stat().st_size * share))


def corrupt_chunk() -> None:
    with h5py.File("x.h5", "w") as file:
        dataset = file.create_dataset("X", data=ROWS, chunks=(100, 3), compression="gzip")
        place = dataset.id.get_chunk_info(3).byte_offset
    with open("x.h5", "r+b") as raw:
        raw.seek(place)
        raw.write(b"\xff" * 64)


def link(target: Any) -> Callable[[], None]:
    def make() -> None:
        with h5py.File("x.h5", "w") as file:
            file["X"] = target

    return make


def virtual() -> None:
    layout = h5py.VirtualLayout(ROWS.shape, ROWS.dtype)
    layout[:] = h5py.VirtualSource("none.h5", "X", ROWS.shape)
    with h5py.File("x.h5", "w") as file:
        file.create_virtual_dataset("X", layout)


def external() -> None:
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("X", ROWS.shape, ROWS.dtype, external=[("none.bin", 0, ROWS.nbytes)])


def two_files(second: np.ndarray) -> Callable[[], None]:
    return lambda: write_rows(Path("y.h5"), second)


def deep(text: str) -> str:
    return text * 5000


LAUGHS = ", ".join(["&a0 [x, x]", *(f"&a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]" for i in range(40))])

CASES = {
    # the config file
    "no config file": Bad("no.yaml cannot be read .*check its path", ("fit", "no.yaml")),
    "a directory as config": Bad("out cannot be read", ("fit", "out")),
    "an empty name of a config": Bad("config file", ("fit", "")),
    "a data file as config": Bad("x.h5 is not UTF-8 text; give the YAML", ("fit", "x.h5")),
    "an empty config": config("data.path is missing", ""),
    "a list as config": config("holds no sections", "- 1\n- 2\n"),
    "a text as config": config("holds no sections", "data"),
    "broken YAML": config("not valid YAML", "data: {path: x.h5"),
    "tabs in YAML": config("not valid YAML", "data:\n\tpath: x.h5\n"),
    "control characters": config("not valid YAML|UTF-8", b"data: {path: \x01}\n"),
    "UTF-16": config("UTF-8", "data: {path: x.h5}".encode("utf-16")),
    "deep nesting": config("not valid YAML", deep("[")),
    "a key twice": config("key path stands twice", "data: {path: x.h5, path: y.h5}"),
    "a section twice": config("key data stands twice", "data: {path: x.h5}\ndata: {}"),
    "a key that is a list": config("not valid YAML", "data: {? [1, 2] : 3}"),
    "a Python object": config("not valid YAML", "data: {path: !!python/object/apply:os.getcwd []}"),
    "aliases that explode": config("data.path: .*a text or a list of texts", f"data: {{path: [{LAUGHS}]}}"),
    "aliases that explode, elsewhere": config("em.tol: .*a number", f"data: {{path: x.h5}}\nem: {{tol: [{LAUGHS}]}}"),
    "aliases that explode, as a size": config("no size", f"data: {{path: x.h5}}\ncompute: {{memory: [{LAUGHS}]}}"),
    "aliases that explode, as a section": config("em: a section", f"data: {{path: x.h5}}\nem: [{LAUGHS}]"),
    "an alias of itself": config("data.columns", "data: {path: x.h5, columns: &a [*a]}"),
    "an unknown section": config("unknown section modle; did you mean model", "data: {path: x.h5}\nmodle: {}"),
    "an unknown key": config("unknown key em.tolerance; did you mean em.tol", "data: {path: x.h5}\nem: {tolerance: 1}"),
    "a number as key": config("unknown key em.3", "data: {path: x.h5}\nem: {3: 1}"),
    "a section that is a number": config("model: a section of keys is needed, not 8", "data: {path: x.h5}\nmodel: 8"),
    "a mapping as value": config(
        "model.n_components: .*whole number", "data: {path: x}\nmodel: {n_components: {a: 1}}"
    ),
    "a date as value": config("em.max_iter: .*whole number", "data: {path: x.h5}\nem: {max_iter: 2020-01-01}"),
    "no path": config("data.path", "data: {path: null}"),
    # values
    "no components": fit("model.n_components: 0 is not valid; .* >= 1", "model.n_components=0"),
    "half a component": fit("model.n_components: 2.5", "model.n_components=2.5"),
    "a huge number": fit("model.n_components: 9+", "model.n_components=" + "9" * 40),
    "more components than rows": fit("model.n_components: 700 .*lower it", "model.n_components=700"),
    "a billion components": fit("model.n_components: 1000000000", "model.n_components=1000000000"),
    "an unknown type": fit("model.covariance_type: 'round'.*full, tied", "model.covariance_type=round"),
    "NaN as regularisation": fit("model.reg_covar: nan", "model.reg_covar=.nan"),
    "a negative floor": fit("model.variance_floor: -1", "model.variance_floor=-1"),
    "a negative seed": fit("init.seed: -1 .*>= 0", "init.seed=-1"),
    "no restarts": fit("init.n_init: 0 .*>= 1", "init.n_init=0"),
    "an unknown method": fit("init.method: 'magic'.*kmeans", "init.method=magic"),
    "a file that no method uses": fit("init.file is set but init.method is 'kmeans'", "init.file=out/model.h5"),
    "a method without its file": fit("init.file is missing", "init.method=file"),
    "a start of no file": fit("no.h5 cannot be read", "init.method=file", "init.file=no.h5"),
    "a start that is data": fit("x.h5 is not an mpigmm-model file", "init.method=file", "init.file=x.h5"),
    "a start with other components": fit(
        "n_components 2, but model.n_components is 3",
        "init.method=file",
        "init.file=out/model.h5",
        "model.n_components=3",
    ),
    "a start of another type": fit(
        "covariance_type", "init.method=file", "init.file=out/model.h5", "model.covariance_type=diag"
    ),
    "no iterations": fit("em.max_iter: 0", "em.max_iter=0"),
    "a negative tolerance": fit("em.tol: -1", "em.tol=-1"),
    "an algorithm of no kind": fit(
        "em.algorithm: 'online' is not valid; batch, stepwise expected", "em.algorithm=online"
    ),
    "a device of no kind": fit("compute.device: 'tpu' is not valid", "compute.device=tpu"),
    "a size of nothing": fit("compute.memory: '12 parsecs' is no size", "compute.memory=12 parsecs"),
    "no threads": fit("compute.threads: 0", "compute.threads=0"),
    "tiles of no rows": fit("compute.tile_rows: 0", "compute.tile_rows=0"),
    "a time of nothing": fit("output.walltime: 'soon'", "output.walltime=soon"),
    "a variable that is not set": fit("MPIGMM_NOT_SET is not set", "data.path=$MPIGMM_NOT_SET/x.h5"),
    "a path with a NUL": fit("is no path", 'data.path="x\\0y"'),
    "a directory that is a file": fit("output.dir: x.h5 cannot be written to", "output.dir=x.h5"),
    "a directory below a file": fit("output.dir: x.h5/out cannot be written to", "output.dir=x.h5/out"),
    "a directory of the kernel's": fit("output.dir: /proc/out cannot be written to", "output.dir=/proc/out"),
    "a name too long": fit("output.dir: .*cannot be written to", "output.dir=" + "n" * 300),
    # the command line
    "an unknown verb": Bad("fitt", ("fitt", "run.yaml")),
    "an unknown flag": Bad("--force", (*FIT, "--force")),
    "no config named": Bad("CONFIG", ("fit",)),
    "an override without a value": fit("'em.max_iter' is not of the form section.key=value", "em.max_iter"),
    "an override without a section": fit("'max_iter=3' is not of the form", "max_iter=3"),
    "an override of a part of a key": fit("unknown key em.max.iter", "em.max.iter=3"),
    "an override of broken YAML": fit("its value is not valid YAML", "em.max_iter=[3"),
    "an override of a deep value": fit("its value is not valid YAML", "data.columns=" + deep("[")),
    "no output named": Bad("--out", PREDICT[:3]),
    "an output without a name": Bad("--out '' is not the name of a file", (*PREDICT[:4], "")),
    "an output that is a directory": Bad("--out 'out' is not the name", (*PREDICT[:4], "out")),
    "an output in no directory": Bad("none is no directory; make it", (*PREDICT[:4], "none/labels.h5")),
    "an output below a file": Bad("x.h5 is no directory", (*PREDICT[:4], "x.h5/labels.h5")),
    "an output that is the input": Bad("would overwrite the input x.h5", (*PREDICT[:4], "x.h5")),
    "an output that is the model": Bad("would overwrite the input out/model.h5", (*PREDICT[:4], "out/model.h5")),
    "more posteriors than components": Bad("--proba 9: .* has 2 components", (*PREDICT, "--proba", "9")),
    "fewer posteriors than none": Bad("--proba", (*PREDICT, "--proba", "-1")),
    "rows of no name": Bad("an empty name is given for a data file", (*PREDICT[:2], "", *PREDICT[3:])),
    "a dataset that is not there": Bad("has no dataset /Y; it has /X", (*PREDICT, "--dataset", "/Y")),
    "a dataset without a name": Bad("has no dataset ", (*PREDICT, "--dataset", "")),
    "inspection of nothing": Bad("none is not a file", ("inspect", "none")),
    "an output that predict did not write": Bad("labels.h5 exists.*add --overwrite", PREDICT[:5]),
    "inspection of a text": Bad("run.yaml cannot be read as HDF5", ("inspect", "run.yaml")),
    # data
    "no data file": made("x.h5 does not exist; check the path", lambda: Path("x.h5").unlink()),
    "a data file with a line feed in its name": data("no\\\\n file.h5 does not exist", 'data.path="no\\n file.h5"'),
    "rows with a line feed in their name": made(
        "row 3 of /X in a\\\\n0.h5 holds NaN",
        lambda: write_rows(Path("a\n0.h5"), at(3, 1, np.nan)),
        'data.path="a\\n0.h5"',
        "output.dir=new",
    ),
    "the same file twice": data("/X in ./x.h5 is that of x.h5, by another name", "data.path=[x.h5, ./x.h5]"),
    "a glob of nothing": data(r"none\*.h5 does not exist", "data.path=none*.h5"),
    "a list of nothing": data("data.path is an empty list", "data.path=[]"),
    "a directory as data": data("out is a directory; name a file, or a glob such as 'out/", "data.path=out"),
    "an empty file": made("x.h5 cannot be opened as HDF5", lambda: truncate("x.h5", 0)),
    "half a file": made("x.h5 cannot be opened as HDF5", lambda: truncate("x.h5", 0.5)),
    "a text as data": made("x.h5 cannot be opened as HDF5", lambda: Path("x.h5").write_text("1 2 3\n" * 999)),
    "a fifo as data": made("fifo is not a regular file", lambda: os.mkfifo("fifo"), "data.path=fifo"),
    "a chunk that does not decompress": made("rows 0 to 600 of /X in x.h5 cannot be read", corrupt_chunk),
    "a dataset by another name": data("has no dataset /Y; it has /X", "data.dataset=/Y"),
    "a link to nothing": made("has no dataset /X", link(h5py.SoftLink("/none"))),
    "a link to no file": made("a link to /X in none.h5, which cannot", link(h5py.ExternalLink("none.h5", "/X"))),
    "a virtual dataset of no file": made("/X in x.h5 is a virtual dataset; its source none.h5 does not", virtual),
    "external storage that is not there": made("none.bin, which holds /X of x.h5, cannot be read", external),
    "a group as dataset": made("/X in x.h5 is a group", lambda: h5py.File("x.h5", "w").create_group("X").file.close()),
    "a scalar": data(r"shape \(\); a matrix", rows=3.0),
    "a cube": data(r"shape \(2, 3, 4\); a matrix", rows=np.zeros((2, 3, 4))),
    "texts": data("dtype", rows=np.array([[b"a"], [b"b"]])),
    "complex numbers": data("dtype complex128", rows=ROWS.astype(complex)),
    "booleans": data("dtype bool", rows=ROWS > 0),
    "records": data("dtype", rows=np.zeros(9, [("a", "f8"), ("b", "i4")])),
    "no rows": data("components need at least as many rows", rows=ROWS[:0]),
    "no columns": data("/X in x.h5 has no columns", rows=ROWS[:, :0]),
    "NaN": data("row 417 of /X in x.h5.*NaN in column 2.*data.missing: drop", rows=at(417, 2, np.nan)),
    "infinity": data("row 599 of /X.*column 0", rows=at(599, 0, -np.inf)),
    "a value too large to square": data("row 3 of /X.*column 1", rows=at(3, 1, 1e300)),
    "nothing but NaN": data("data.missing|rows", "data.missing=drop", rows=np.full((9, 2), np.nan)),
    "equal rows": data("model.n_components|distinct|column", "model.reg_covar=0", rows=np.ones((50, 2))),
    "files of other widths": made(
        "/X in y.h5 has 2 columns, but /X in x.h5 has 3", two_files(ROWS[:, :2]), "data.path=[x.h5,y.h5]"
    ),
    "a column too many": data(r"data.columns: \[3\]; /X has columns 0 to 2", "data.columns=[0,3]"),
    "a column from the end": data(r"data.columns: \[-1\]", "data.columns=[-1]"),
    "a column twice": data("data.columns names a column twice", "data.columns=[1,1]"),
    "columns of nothing": data("data.columns: an empty list", "data.columns=[]"),
    "rows beyond the end": data("data.rows: .0, 601. is not a range .* 600 rows", "data.rows=[0,601]"),
    "rows backwards": data("data.rows: .9, 3. is not a range", "data.rows=[9,3]"),
    "three ends of a range": data("data.rows: .0, 3, 6. is not a range", "data.rows=[0,3,6]"),
    "no weights": data("has no dataset /w; it has /X", "data.weights=/w"),
    "too few weights": data(r"data.weights: /w in x.h5 has shape \(9,\)", "data.weights=/w", w=np.ones(9)),
    "a matrix of weights": data(
        r"data.weights: /w in x.h5 has shape \(600, 1\)", "data.weights=/w", w=np.ones((600, 1))
    ),
    "texts as weights": data("/w in x.h5 has dtype", "data.weights=/w", w=np.full(600, b"a")),
    "a negative weight": data("row 8 of /X.*weight -2", "data.weights=/w", w=weights(8, -2)),
    "a weight that is NaN": data("row 8 of /X.*weight nan", "data.weights=/w", w=weights(8, np.nan)),
    "weights of nothing": data("data.weights", "data.weights=/w", w=np.zeros(600)),
    # model files
    "no model": Bad(r"no.h5 cannot be read \(No such file or directory\); check the path", ("score", "no.h5", "x.h5")),
    "a damaged model": Bad(
        "out/model.h5 is damaged.*restore it", ("score", "out/model.h5", "x.h5"), lambda: damage("out/model.h5")
    ),
    "a torn model": Bad("is damaged", ("score", "out/model.h5", "x.h5"), lambda: truncate("out/model.h5", 0.7)),
    "a checkpoint as model": Bad("is not an mpigmm-model file", ("score", "out/checkpoint.h5", "x.h5")),
    "data as model": Bad("x.h5 is not an mpigmm-model file", ("predict", "x.h5", *PREDICT[2:])),
    "a bad row to predict": Bad(
        "row 417 of /X in bad.h5",
        (*PREDICT[:2], "bad.h5", *PREDICT[3:]),
        lambda: write_rows(Path("bad.h5"), at(417, 0, np.inf)),
    ),
    "a bad row to score": Bad(
        "row 417 of /X in bad.h5",
        ("score", "out/model.h5", "bad.h5"),
        lambda: write_rows(Path("bad.h5"), at(417, 0, np.nan)),
    ),
    "rows of another width": Bad(
        "has 3 features, but /X in wide.h5 has 5 columns",
        ("score", "out/model.h5", "wide.h5"),
        lambda: write_rows(Path("wide.h5"), np.zeros((9, 5))),
    ),
    "no format": model("attribute 'format' is None", FORMAT=None),
    "a format that is a number": model("attribute 'format' is 3", FORMAT=3),
    "a version to come": model("format_version 9; this version of mpigmm reads 1", FORMAT_VERSION=9),
    "no type": model("covariance type", COVARIANCE_TYPE=None),
    "a type of no mixture": model("'round' is none of full, tied", COVARIANCE_TYPE="round"),
    "a number of iterations that is a text": model("attribute", N_ITER="many"),
    "a config that is no JSON": model("'config' is not JSON", CONFIG="{"),
    "no means": model("lacks the dataset /means", means=None),
    "means of one feature less": model("covariances of type full have shape", means=np.zeros((2, 2))),
    "means that are texts": model("does not hold a mixture", means=np.full((2, 3), b"a")),
    "means that are complex": model("does not hold a mixture", means=np.zeros((2, 3), complex)),
    "means that are infinite": model("not finite", means=np.full((2, 3), np.inf)),
    "weights that sum to 2": model("weights are not >= 0 with sum 1", weights=[1.0, 1.0]),
    "a weight below 0": model("weights are not >= 0 with sum 1", weights=[-0.5, 1.5]),
    "no components at all": model("", weights=[], means=np.zeros((0, 3)), covariances=np.zeros((0, 3, 3))),
    "a covariance of zeros": model("component 0 is not positive definite", covariances=np.zeros((2, 3, 3))),
    "a covariance that is not symmetric": model(
        "covariance of component 1 is not symmetric", covariances=[np.eye(3), np.eye(3) + np.eye(3, k=1) / 2]
    ),
    # checkpoints
    "both checkpoints damaged": checkpoints(
        "checkpoint.h5 is damaged.*previous.h5 is damaged.*--restart",
        lambda: damage("out/checkpoint.h5", "out/checkpoint.previous.h5"),
    ),
    "empty checkpoints": checkpoints(
        "--restart", lambda: [truncate(f"out/checkpoint{name}.h5", 0) for name in ("", ".previous")]
    ),
    "a model as checkpoint": checkpoints(
        "is not an mpigmm-checkpoint file.*--restart",
        lambda: [shutil.copy("out/model.h5", f"out/checkpoint{name}.h5") for name in ("", ".previous")],
    ),
    "a directory as checkpoint": checkpoints(
        "holds checkpoint.h5, checkpoint.previous.h5, which mpigmm did not write.*move them away",
        lambda: [
            (Path(f"out/checkpoint{n}.h5").unlink(), Path(f"out/checkpoint{n}.h5").mkdir()) for n in ("", ".previous")
        ],
    ),
    "another problem": fit("model.n_components was 2, is 3.*--restart", "model.n_components=3"),
    "other data": checkpoints(
        "are not those that out was begun with.*--restart", lambda: write_rows(Path("x.h5"), ROWS[::-1])
    ),
    "other data of another shape": checkpoints("600x3.*500x3.*--restart", lambda: write_rows(Path("x.h5"), ROWS[:500])),
}


INNARDS = re.compile("errno|synchronously|H5[A-Z]|superblock|signature|eof|o_flags|Errno|_path|rank [0-9]")
"""Words of HDF5 and Python that mean nothing to a user."""


@pytest.fixture
def place(comm: Comm, shared_path: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that holds a finished run and all that belongs to it; the working directory."""
    if comm.is_root:
        shutil.copytree(fitted, shared_path / "case")
    comm.mpi.Barrier()
    monkeypatch.chdir(shared_path / "case")
    return shared_path / "case"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, made once."""
    comm = MpiComm()
    path = Path(comm.bcast(str(tmp_path_factory.mktemp("fitted"))))
    if comm.is_root:
        write_rows(path / "x.h5", ROWS)
        write_config(path / "run.yaml", data={"path": "x.h5"}, model={"n_components": 2}, output={"dir": "out"})
        (path / "labels.h5").write_bytes(b"earlier labels")
    comm.mpi.Barrier()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert run(comm, *FIT, "output.checkpoint_iterations=1") == (0, "")
    return path


def run(comm: Comm, *arguments: str) -> tuple[int, str]:
    """Exit code and the message that all ranks agreed on."""
    try:
        return serve(comm, list(arguments), StopRequest()), ""
    except AgreedError as error:
        return error.exit_code, str(error)


def content(place: Path) -> dict[str, bytes]:
    """Every file below a directory but for locks."""
    return {
        str(path): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parallel
@pytest.mark.skipif(MpiComm().size not in (1, 3), reason="the table runs on one rank and on three")
@pytest.mark.parametrize("bad", CASES.values(), ids=CASES)
def test_a_mistake_is_named_and_costs_nothing(
    comm: Comm, place: Path, bad: Bad, capfd: pytest.CaptureFixture[str]
) -> None:
    if comm.is_root:
        bad.prepare()
    comm.mpi.Barrier()
    before = content(place)
    capfd.readouterr()
    code, message = run(comm, *bad.command)
    told = comm.bcast(message or capfd.readouterr().err)
    assert code == 2
    assert re.search(bad.message, told, re.DOTALL), told
    assert len(told) < 2000 and "Traceback" not in told
    assert not INNARDS.search(told), told
    comm.mpi.Barrier()
    assert content(place) == before


FILES = {
    "the rows": ("x.h5", (*FIT, "--restart", "em.max_iter=2")),
    "compressed rows": ("packed.h5", (*FIT, "--restart", "em.max_iter=2", "data.path=packed.h5")),
    "the config": ("run.yaml", (*FIT, "--restart", "em.max_iter=2", "output.dir=out")),
    "the model": ("out/model.h5", ("score", "out/model.h5", "x.h5")),
    "a model that others wrote": ("theirs.h5", ("score", "theirs.h5", "x.h5")),
    "the checkpoint": ("out/checkpoint.h5", (*FIT, "em.max_iter=300", "em.tol=1e-9")),
    "the checkpoint before": ("out/checkpoint.previous.h5", (*FIT, "em.max_iter=300", "em.tol=1e-9")),
    "the log": ("out/convergence.jsonl", (*FIT, "em.max_iter=300", "em.tol=1e-9")),
    "the labels": ("labels.h5", ("inspect", "labels.h5", "--json")),
}
"""What is damaged, and the command that reads it."""

EXAMPLES = {"the model": 6, "a model that others wrote": 6, "the labels": 6}
"""Fewer than 40 of those that are read in a process of their own."""


@pytest.mark.parametrize("what", FILES)
@pytest.mark.timeout(600)
def test_a_damaged_file_is_refused_or_read_as_it_is(
    comm: Comm, fitted: Path, what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name, command = FILES[what]
    monkeypatch.chdir(fitted)
    if not Path("packed.h5").exists():
        write_theirs({})
        with h5py.File("packed.h5", "w") as file:
            file.create_dataset("X", data=ROWS, chunks=(100, 3), compression="gzip", shuffle=True)
        assert run(comm, *PREDICT) == (0, "")
    whole = Path(name).read_bytes()

    @given(damages(len(whole)))
    @settings(
        max_examples=EXAMPLES.get(what, 40), deadline=None, derandomize=True, database=None, phases=[Phase.generate]
    )
    def check(damage: list[tuple[int, int]] | int) -> None:
        with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
            shutil.copytree(fitted, place, dirs_exist_ok=True)
            patch.chdir(place)
            Path(name).write_bytes(damaged(whole, damage))
            before = content(Path(place))
            capfd.readouterr()
            code, message = run(comm, *command)
            told = message or capfd.readouterr().err
            assert code in (0, 2) and "Traceback" not in told, told
            if code:
                assert what == "the config" or Path(name).name in told, told
                assert content(Path(place)) == before
            assert not list(Path(place).rglob(".*.tmp"))

    check()


def damages(size: int) -> st.SearchStrategy[list[tuple[int, int]] | int]:
    """Up to four places and the bits to flip there, or a length to cut a file to."""
    flips = st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 255)), min_size=1, max_size=4)
    return flips | st.integers(0, size - 1)


def damaged(whole: bytes, damage: list[tuple[int, int]] | int) -> bytes:
    """A file's content, damaged."""
    if isinstance(damage, int):
        return whole[:damage]
    found = bytearray(whole)
    for place, bits in damage:
        found[place] ^= bits
    return bytes(found)
