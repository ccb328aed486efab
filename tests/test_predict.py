"""``predict`` and ``score``: which rows they take, and how their results are traced to them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import FinishedParts, run_verb
from mpi4py import MPI
from pyarrow import parquet, table
from support import assert_same_bits, blobs, mpirun, read_model, write_config, write_rows

import mpigmm
from mpigmm.commands import predict
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.data.output import RowWriter
from mpigmm.driver import row_output
from mpigmm.errors import InterruptedRunError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import MpiComm
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

ROWS = blobs(500, 3, 2)
PARTS = {"p.2.h5": ROWS[:100], "p.10.h5": ROWS[100:101], "p.11.h5": ROWS[101:101], "q.h5": ROWS[101:]}


@pytest.fixture
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with rows whole and in parts, and a model; the working directory."""
    monkeypatch.chdir(shared_path)
    if comm.is_root:
        write_rows(Path("x.h5"), ROWS)
        for name, rows in PARTS.items():
            write_rows(Path(name), rows)
        write_model("m.h5")
    comm.mpi.Barrier()
    return shared_path


def write_model(name: str, **data: object) -> None:
    """A model with a section data in its configuration."""
    mixture = Mixture(np.array([0.5, 0.5]), ROWS[:2].copy(), COVARIANCE_TYPES["full"].isotropic(2, 3))
    save_model(Path(name), Model(mixture, config={"data": data} if data else None))


def read_labels(path: str) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


@pytest.mark.parallel
def test_rows_in_other_formats_have_the_same_mixture_and_labels(comm: Comm, place: Path) -> None:
    names = ["/r/x", "/r/y", "/r/z"]
    if comm.is_root:
        np.save("x.npy", np.asfortranarray(ROWS))
        with h5py.File("v.h5", "w") as file:
            for name, column in zip(names, ROWS.T, strict=True):
                file[name] = column
        parquet.write_table(
            table({name[-1]: column for name, column in zip(names, ROWS.T, strict=True)}), "x.parquet", 70
        )
        write_config(Path("run.yaml"), data={"path": "x.h5"}, model={"n_components": 2}, em={"max_iter": 3, "tol": 0})
    comm.mpi.Barrier()
    fit = ["fit", "run.yaml", "compute.tile_rows=32", "compute.memory=1", "compute.device=cpu"]
    assert run_verb(comm, *fit, "output.dir=x") == (0, "")
    assert run_verb(comm, "predict", "x/model.h5", "x.h5", "--out", "x.labels.h5") == (0, "")
    for path, dataset in (("x.npy", "/X"), ("v.h5", ",".join(names)), ("x.parquet", "/X")):
        keys = [f"data.path={path}", f"data.dataset=[{dataset}]" if "," in dataset else f"data.dataset={dataset}"]
        assert run_verb(comm, *fit, *keys, f"output.dir={path}.run") == (0, "")
        assert_same_bits(read_model(place / f"{path}.run/model.h5"), read_model(place / "x/model.h5"))
        given = ["x/model.h5", path, "--dataset", dataset, "--out", f"{path}.labels.h5"]
        assert run_verb(comm, "predict", *given) == (0, "")
        found = read_labels(f"{path}.labels.h5")
        assert found["log_density"].tobytes() == read_labels("x.labels.h5")["log_density"].tobytes()


@pytest.mark.parallel
def test_labels_of_several_files_can_be_traced(comm: Comm, place: Path) -> None:
    assert run_verb(comm, "predict", "m.h5", "x.h5", "--out", "whole.h5") == (0, "")
    assert run_verb(comm, "predict", "m.h5", "p.*.h5", "q.h5", "--out", "parts.h5") == (0, "")
    whole, parts = read_labels("whole.h5"), read_labels("parts.h5")
    assert (parts["labels"] == whole["labels"]).all() and (parts["log_density"] == whole["log_density"]).all()
    assert [name.decode() for name in parts["files"]] == list(PARTS)
    assert parts["offsets"].tolist() == [0, 100, 101, 101]
    assert whole["files"].tolist() == [b"x.h5"] and whole["offsets"].tolist() == [0]
    with h5py.File("parts.h5") as file:
        assert file.attrs["dataset"] == "/X" and file.attrs["model"] == "m.h5"


def test_names_of_files_need_not_be_text(comm: Comm, place: Path) -> None:
    name = os.fsdecode(b"odd \xff\n.h5")
    write_rows(place / name, ROWS)
    Path("m.h5").rename(os.fsdecode(b"m\xff.h5"))
    assert run_verb(comm, "predict", os.fsdecode(b"m\xff.h5"), name, "--out", "odd.h5") == (0, "")
    assert read_labels("odd.h5")["files"].tolist() == [b"odd \xff\n.h5"]


def test_score_of_several_files_is_that_of_all_rows(comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = []
    for data in (["x.h5"], list(PARTS)):
        assert run_verb(comm, "score", "m.h5", *data) == (0, "")
        found.append(json.loads(capfd.readouterr().out))
    assert found[0] == found[1] and found[0]["n_samples"] == 500


def test_the_dataset_is_the_models(comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Unless another is named; /X where the model names none or, with a note, where the data do not have it."""
    write_rows(Path("both.h5"), ROWS[:50], train=ROWS[:20])
    write_model("train.h5", dataset="/train")
    for arguments, n_rows in {
        ("m.h5", "both.h5"): 50,
        ("train.h5", "both.h5"): 20,
        ("train.h5", "both.h5", "--dataset", "/X"): 50,
        ("train.h5", "x.h5"): 500,
    }.items():
        assert run_verb(comm, "score", *arguments) == (0, "")
        printed = capfd.readouterr()
        assert json.loads(printed.out)["n_samples"] == n_rows
        told = "x.h5 has no dataset /train, to which train.h5 was fitted; its /X is read (--dataset names another)"
        assert printed.err == (f"mpigmm: {told}\n" if n_rows == 500 else "")
    with h5py.File("neither.h5", "w") as file:
        file["Y"] = ROWS
        file["link"] = h5py.ExternalLink("lost.h5", "/X")
    code, message = run_verb(comm, "score", "train.h5", "neither.h5")
    assert code == 2
    assert "has no dataset /train, to which train.h5 was fitted, and no /X; name one with --dataset" in message
    write_model("linked.h5", dataset="/link")
    code, message = run_verb(comm, "score", "linked.h5", "neither.h5")
    assert code == 2 and "/link in neither.h5 is a link to /X in lost.h5, which cannot be read" in message


def test_rows_of_a_fit_are_predicted_with_its_dataset_and_columns(
    comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_rows(Path("y.h5"), np.zeros((7, 3)), train=ROWS)
    config = write_config(
        Path("run.yaml"),
        data={"path": "y.h5", "dataset": "/train", "columns": [2, 0]},
        model={"n_components": 2},
        em={"max_iter": 2},
    )
    assert run_verb(comm, "fit", str(config)) == (0, "")
    capfd.readouterr()
    assert run_verb(comm, "score", "runs/run/model.h5", "y.h5") == (0, "")
    assert json.loads(capfd.readouterr().out)["n_samples"] == 500


@pytest.mark.parametrize("out", ["x.h5", "q.h5", "linked.h5", "raw.bin"])
def test_no_file_that_rows_come_from_is_overwritten(comm: Comm, place: Path, out: str) -> None:
    layout = h5py.VirtualLayout((499, 3), "f8")
    layout[:100], layout[100:] = (
        h5py.VirtualSource("x.h5", "X", (500, 3))[:100],
        h5py.VirtualSource("q.h5", "X", (399, 3)),
    )
    with h5py.File("virtual.h5", "w") as file:
        file.create_virtual_dataset("X", layout)
    Path("raw.bin").write_bytes(ROWS.tobytes())
    with h5py.File("raw.h5", "w") as file:
        file.create_dataset("X", ROWS.shape, "f8", external=[("raw.bin", 0, ROWS.nbytes)])
    with h5py.File("linked.h5", "w") as file:
        file["X"] = h5py.ExternalLink("virtual.h5", "/X")
    before = Path(out).read_bytes()
    code, message = run_verb(comm, "predict", "m.h5", "linked.h5", "raw.h5", "--out", out)
    assert code == 2 and f"--out {out} would overwrite the input" in message and out in message.rpartition("input")[2]
    assert Path(out).read_bytes() == before


def test_data_without_rows_are_refused(comm: Comm, place: Path) -> None:
    write_rows(Path("p.12.h5"), ROWS[:0])
    code, message = run_verb(comm, "score", "m.h5", "p.11.h5", "p.12.h5")
    assert code == 2 and message == "/X has no rows in p.11.h5, p.12.h5"


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_made_while_predict_runs_is_replaced_where_one_made_before_would_be(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    command, new = ("predict", "m.h5", "x.h5", "--out", "new.h5"), Path("new.h5")
    sweep = predict.for_each_posterior
    made = b""

    def slow_sweep(*arguments: Any) -> None:
        sweep(*arguments)
        new.write_bytes(made)

    def no_link(*names: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    assert run_verb(comm, *command) == (0, "")
    ours = new.read_bytes()
    monkeypatch.setattr(predict, "for_each_posterior", slow_sweep)
    for theirs, options, refused in ((ours, (), False), (b"theirs", (), True), (b"theirs", ("--overwrite",), False)):
        made = theirs
        new.unlink()
        code, message = run_verb(comm, *command, *options)
        assert (code == 2 and "--out new.h5 exists, and is not what predict wrote before" in message) == refused
        assert (new.read_bytes() == b"theirs") == refused
        assert len(list(place.glob(".*.part"))) == refused  # nothing that was computed is lost
    assert read_labels("new.h5")["labels"].shape == (500,) and not list(place.glob(".*.part"))


def test_a_signal_while_the_last_rows_are_written_loses_nothing(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict", "m.h5", "x.h5", "--out", "again.h5")
    assert run_verb(comm, *command) == (0, "")
    whole, flush, check = Path("again.h5").read_bytes(), RowWriter.flush, row_output.check_out

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise InterruptedRunError("interrupted")

    def late_signal(writer: RowWriter) -> None:
        flush(writer)
        monkeypatch.setattr(row_output, "check_out", interrupted)

    monkeypatch.setattr(RowWriter, "flush", late_signal)
    assert run_verb(comm, *command)[0] == 75
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setattr(RowWriter, "finish", interrupted)  # no row is left to compute
    assert row_output.check_out is check and len(list(place.glob(".again.h5.*.part"))) == 1
    assert run_verb(comm, *command) == (0, "")
    assert Path("again.h5").read_bytes() == whole and not list(place.glob(".*.part"))


def test_rows_that_are_removed_while_predict_runs_do_not_cost_its_result(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict", "m.h5", "x.h5", "--out", "again.h5")
    assert run_verb(comm, *command) == (0, "")
    whole, flush = Path("again.h5").read_bytes(), RowWriter.flush

    def remove_rows(writer: RowWriter) -> None:
        Path("x.h5").unlink()
        flush(writer)

    monkeypatch.setattr(RowWriter, "flush", remove_rows)
    assert run_verb(comm, *command) == (0, "")
    assert Path("again.h5").read_bytes() == whole and not list(place.glob(".again*"))


@pytest.mark.parallel
def test_an_interrupted_command_goes_on(comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiles that are not written yet, and to the same bytes; after a change of the rows it starts anew."""
    if comm.is_root:
        write_rows(Path("long.h5"), np.tile(ROWS, (200, 1)))
    comm.mpi.Barrier()
    command = ("predict", "m.h5", "long.h5", "compute.tile_rows=5000", "--out", "long.labels.h5")
    tiles = FinishedParts(monkeypatch)
    assert run_verb(comm, *command) == (0, "")
    n_tiles, whole = tiles.count, Path("long.labels.h5").read_bytes()
    comm.mpi.Barrier()
    for changed in (False, True):
        tiles.begin(n_tiles // 2)
        assert run_verb(comm, *command)[0] == 75
        assert [path.suffix for path in place.glob(".long.labels*")] == [".part"]
        comm.mpi.Barrier()
        if changed and comm.is_root:
            os.utime("long.h5", (1, 1))
        comm.mpi.Barrier()
        tiles.begin()
        assert run_verb(comm, *command) == (0, "")
        assert tiles.count == (n_tiles if changed else n_tiles - n_tiles // 2)
        assert Path("long.labels.h5").read_bytes() == whole and not list(place.glob(".long.labels*"))


def test_parts_of_another_mixture_are_not_used(comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the model was replaced after predict had read it, and before it looked at the time of its change."""
    command = ("predict", "m.h5", "x.h5", "compute.tile_rows=100", "--out", "o.h5")
    finish, described = RowWriter.finish, predict.described

    def replace_and_describe(*arguments: Any) -> Any:
        write_other_model("m.h5")
        return described(*arguments)

    def stop_after_one(writer: RowWriter, tile: int) -> None:
        finish(writer, tile)
        raise InterruptedRunError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(predict, "described", replace_and_describe)
        patch.setattr(RowWriter, "finish", stop_after_one)
        assert run_verb(comm, *command)[0] == 75
    assert run_verb(comm, *command) == (0, "")
    assert run_verb(comm, *command[:-1], "anew.h5") == (0, "")
    assert Path("o.h5").read_bytes() == Path("anew.h5").read_bytes()


def write_other_model(name: str) -> None:
    mixture = Mixture(np.array([0.5, 0.5]), ROWS[2:4].copy(), COVARIANCE_TYPES["full"].isotropic(2, 3))
    save_model(Path(name), Model(mixture))


@pytest.fixture
def holes(comm: Comm, place: Path) -> np.ndarray:
    """Which rows of holes.h5 can be used; and a model that was fitted without the others, and one of two columns."""
    rows = ROWS.copy()
    rows[[3, 250, 251, 499], [0, 1, 2, 1]] = np.nan, np.inf, -np.inf, np.nan
    if comm.is_root:
        write_rows(Path("holes.h5"), rows, w=np.arange(500) % 4 / 7)
        write_model("holes.m.h5", missing="drop")
        two = Mixture(np.array([0.5, 0.5]), ROWS[:2, [2, 0]], COVARIANCE_TYPES["full"].isotropic(2, 2))
        save_model(Path("two.m.h5"), Model(two, config={"data": {"columns": [2, 0]}}))
    comm.mpi.Barrier()
    return np.isfinite(rows).all(axis=1)


@pytest.mark.parallel
@pytest.mark.parametrize("threads", ["1", "3"])
def test_rows_that_a_fit_has_dropped_are_left_out(
    comm: Comm, place: Path, holes: np.ndarray, threads: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the others are labelled as they are beside other rows."""
    options = ("compute.tile_rows=90", f"compute.threads={threads}")
    command = ("predict", "holes.m.h5", "holes.h5", *options, "--proba", "2")
    assert run_verb(comm, *command, "--out", "l.h5") == (0, "")
    told = comm.bcast(capfd.readouterr())
    assert "l.h5: 500 rows, 4 of them left out (NaN or infinity; label -1) in " in told.err and not told.out
    assert run_verb(comm, "predict", "m.h5", "x.h5", *options, "--proba", "2", "--out", "x.l.h5") == (0, "")
    found, expected = read_labels("l.h5"), read_labels("x.l.h5")
    for name in ("labels", "log_density", "proba", "components"):
        np.testing.assert_allclose(found[name][holes], expected[name][holes], rtol=1e-12, err_msg=name)
    for name, value in {"labels": -1, "log_density": np.nan, "proba": np.nan, "components": -1}.items():
        np.testing.assert_array_equal(found[name][~holes], np.full_like(found[name][~holes], value))
    for verb, others in (("predict", ("--out", "e.h5")), ("score", ())):
        code, message = run_verb(comm, verb, "holes.m.h5", "holes.h5", *options, *others, "data.missing=error")
        assert code == 2 and "row 3 of /X in holes.h5 holds NaN in column 0; mend the row, or add" in message
        assert "data.missing=drop" in message


@pytest.mark.parallel
def test_a_score_tells_of_each_component(
    comm: Comm, place: Path, holes: np.ndarray, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What posteriors and log-densities say, of rows with weights and without, on all ranks and on one alike."""
    mixture = mpigmm.Mixture.load("m.h5")
    resp, density = mixture.predict_proba(ROWS[holes]), mixture.score_samples(ROWS[holes])
    monkeypatch.setattr(MpiComm, "check_launcher", lambda self: None)
    for weight, arguments in (np.ones(500), ()), (np.arange(500) % 4 / 7, ("data.weights=/w",)):
        capfd.readouterr()
        command = ("score", "holes.m.h5", "holes.h5", "compute.tile_rows=90", *arguments)
        assert run_verb(comm, *command) == (0, "")
        text = comm.bcast(capfd.readouterr().out)
        assert run_verb(MpiComm(MPI.COMM_SELF), *command) == (0, "")
        assert capfd.readouterr().out == text
        score, used = json.loads(text), weight[holes]
        counts = used @ resp
        assert score["n_samples"] == np.count_nonzero(used)
        assert score["n_dropped"] == np.count_nonzero(weight[~holes])
        assert score.get("total_weight", 496) == pytest.approx(used.sum(), rel=1e-13)
        assert score["log_likelihood"] == pytest.approx(used @ density, rel=1e-12)
        assert score["icl"] == pytest.approx(mixture.icl(ROWS[holes], used), rel=1e-12)
        np.testing.assert_allclose(score["counts"], counts, rtol=1e-12)
        np.testing.assert_allclose(score["mean_log_density"], (used * density) @ resp / counts, rtol=1e-12)


def test_a_score_without_weights_or_missing_values_says_nothing_of_them(
    comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(comm, "score", "m.h5", "x.h5") == (0, "")
    names = ["n_samples", "log_likelihood", "mean_log_likelihood", "aic", "bic", "icl", "counts", "mean_log_density"]
    assert list(json.loads(capfd.readouterr().out)) == names


def test_components_without_rows_have_no_mean_log_density(
    comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows too far away from all components have no part in those of the others."""
    means = np.array([[0.0] * 3, [1e9] * 3])
    mixture = Mixture(np.array([1.0, 0.0]), means, COVARIANCE_TYPES["spherical"](np.array([1e-40, 1e-40])))
    save_model(Path("narrow.h5"), Model(mixture))
    write_rows(Path("far.h5"), np.array([[0.0] * 3, [1e139] * 3]))
    assert run_verb(comm, "score", "narrow.h5", "far.h5") == (0, "")
    score = json.loads(capfd.readouterr().out)
    assert score["log_likelihood"] is None and score["icl"] is None and score["counts"] == [1, 0]
    assert score["mean_log_density"] == [pytest.approx(mixture.log_norm[0]), None]


@pytest.mark.parallel
@pytest.mark.parametrize(
    "options",
    [("compute.threads=3",), ("compute.memory=1MB",), ("compute.memory=auto", "compute.threads=2")],
    ids=" ".join,
)
def test_threads_and_memory_do_not_change_the_bytes(comm: Comm, place: Path, options: tuple[str, ...]) -> None:
    command = ("predict", "m.h5", "x.h5", "compute.tile_rows=40", "--proba", "1", "--overwrite", "--out", "l.h5")
    assert run_verb(comm, *command, "compute.threads=1") == (0, "")
    plain = Path("l.h5").read_bytes()
    comm.mpi.Barrier()
    assert run_verb(comm, *command, *options) == (0, "")
    assert Path("l.h5").read_bytes() == plain


def test_rows_and_columns_are_chosen(comm: Comm, place: Path, holes: np.ndarray) -> None:
    """Columns are those of the fit unless they are given; entries of the output can be traced to rows of files."""
    whole = mpigmm.Mixture.load("two.m.h5").score_samples(ROWS[:, [2, 0]])
    for columns in ((), ("data.columns=[2, 0]",)):
        command = ("predict", "two.m.h5", "p.*.h5", "q.h5", "data.rows=[50, 110]", *columns, "--overwrite")
        assert run_verb(comm, *command, "--out", "l.h5") == (0, "")
        found = read_labels("l.h5")
        np.testing.assert_allclose(found["log_density"], whole[50:110], rtol=1e-12)
        assert found["offsets"].tolist() == [-50, 50, 51, 51]
    code, message = run_verb(comm, "score", "two.m.h5", "x.h5", "data.columns=null")
    assert code == 2 and "two.m.h5 has 2 features, but /X in x.h5 has 3 columns" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.h5", "data.missin=drop"], "unknown key data.missin; did you mean data.missing?"),
        (["dta.missing=drop", "x.h5"], "unknown section dta; did you mean data?"),
        (["x.h5", "data.missing=skip"], "data.missing: 'skip' is not valid; error, drop expected"),
        (["x.h5", "em.max_iter=3"], "em: has no meaning here; the sections that have are data, compute"),
        (["x.h5", "data.path=y.h5"], "data.path: has no meaning here; name the files after the model"),
        (["x.h5", "compute.precision=float32"], "compute.precision: has no meaning here; log-densities are computed"),
        (["x.h5", "compute.gpu_aware_mpi=true"], "compute.gpu_aware_mpi: has no meaning here"),
        (["x.h5", "compute.threads=0"], "compute.threads: 0 is not valid"),
        (["x.h5", "data.rows=[400, 501]"], "data.rows: [400, 501] is not a range [start, stop] within the data's 500"),
        (["x.h5", "data.weights=/w"], "has no dataset /w"),
        (["x.h5", "data.dataset=/X", "--dataset", "/X"], "--dataset and data.dataset say the same"),
        (["data.missing=drop"], "no file of rows is named"),
        (["data.missing=drop.h5"], "no file of rows is named"),
        (["lost/data.x=1.h5"], "lost/data.x=1.h5 does not exist"),
        (["nothing.h5", "data.missing=drop"], "all 4 rows of /X hold NaN or infinity"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(
    comm: Comm, place: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_rows(Path("nothing.h5"), np.full((4, 3), np.nan))
    code, told = run_verb(comm, "score", "m.h5", *arguments)
    told += capfd.readouterr().err
    assert code == 2 and message in told and len(told.splitlines()) == 1


def test_a_file_with_the_name_of_an_override_is_a_file(
    comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("x.h5").rename("data.rows=1.h5")
    for name in ("data.rows=1.h5", "data.rows=*.h5"):
        assert run_verb(comm, "score", "m.h5", name, "data.rows=[0, 7]") == (0, "")
        assert json.loads(capfd.readouterr().out)["n_samples"] == 7


def test_the_bits_do_not_depend_on_the_threads_of_blas(tmp_path: Path) -> None:
    """Factors of large covariances are computed by a library of BLAS that would use several threads."""
    random, d = np.random.default_rng(0), 400
    mixing = random.standard_normal((2, d, 2 * d))
    covariances = COVARIANCE_TYPES["full"](mixing @ mixing.transpose(0, 2, 1) / d)
    means = random.standard_normal((2, d))
    save_model(tmp_path / "m.h5", Model(Mixture(np.full(2, 0.5), means, covariances)))
    rows = write_rows(tmp_path / "x.h5", random.standard_normal((500, d)))
    found = []
    for n_threads in ("1", "4"):
        out = tmp_path / f"{n_threads}.h5"
        done = mpirun(0, "predict", tmp_path / "m.h5", rows, "--out", out, OMP_NUM_THREADS=n_threads)
        assert done.returncode == 0, done.stderr
        found.append(read_labels(str(out))["log_density"].tobytes())
    assert found[0] == found[1]
