"""Nothing of the user's is lost: files that a run did not make, starts that it reads, names that others may know."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support import assert_same_bits, blobs, file_size_limit, read_model, write_config, write_rows

from mpigmm.__main__ import serve
from mpigmm.data import files
from mpigmm.data.output import Column, Content, RowWriter
from mpigmm.data.unfinished import UnfinishedFile
from mpigmm.driver import recorder
from mpigmm.errors import AgreedError, OutputError, UserError
from mpigmm.parallel.comm import message_and_kind
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs import hdf5, owned
from mpigmm.runs.checkpoint import load_checkpoint
from mpigmm.runs.directory import RunDirectory

ROWS = blobs(400, 2, 2)
FIT = ("fit", "run.yaml")
PREDICT = ("predict", "out/model.h5", "x.h5", "--out", "labels.h5")
THREE = ("em.max_iter=3", "em.tol=0")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with rows and a config."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "x.h5", ROWS)
    write_config(
        tmp_path / "run.yaml",
        data={"path": "x.h5"},
        model={"n_components": 2},
        output={"dir": "out", "checkpoint_iterations": 1},
    )
    return tmp_path


def run(*arguments: str) -> None:
    assert serve(MpiComm(), list(arguments), StopRequest()) == 0


def refused(*arguments: str) -> str:
    """The message of a command that ends with 2."""
    with pytest.raises(AgreedError) as caught:
        run(*arguments)
    assert caught.value.exit_code == 2, caught.value
    return str(caught.value)


def content(directory: Path) -> dict[str, bytes]:
    """Every file of a directory but for our lock."""
    paths = [path for path in directory.iterdir() if path.is_file()]
    return {path.name: found for path in paths if not (found := path.read_bytes()).startswith(b"process ")}


def write_theirs(path: Path) -> None:
    """A model that others wrote to the contract."""
    with h5py.File(path, "w") as file:
        file["weights"], file["means"], file["covariances"] = [0.5, 0.5], ROWS[:2], [np.eye(2)] * 2
        file.attrs.update(format="mpigmm-model", format_version=1, covariance_type="full")


def text(path: Path) -> None:
    path.write_text("data: {path: y.h5}\n")


@pytest.mark.parametrize("options", [(), ("--restart",)], ids=["plain", "restart"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("model.h5", write_theirs),
        ("checkpoint.h5", write_theirs),
        ("model.h5", lambda path: h5py.File(path, "w", userblock_size=512).close()),
        ("model.h5", text),
        ("summary.json", text),
        ("summary.json", lambda path: path.write_text('{"versions": 3}')),
        ("config.yaml", text),
        ("convergence.jsonl", text),
        (".lock", text),
        ("model.h5", os.mkfifo),
        ("summary.json", os.mkdir),
    ],
)
def test_a_directory_with_files_of_others_is_refused(
    place: Path, name: str, make: Callable[[Path], Any], options: tuple[str, ...]
) -> None:
    (place / "out").mkdir()
    make(place / "out" / name)
    before = content(place / "out")
    told = refused(*FIT, *options)
    assert told.startswith("output.dir: out") and name in told and "move it away" in told
    assert content(place / "out") == before
    assert {path.name for path in (place / "out").iterdir()} == {name}


def test_files_of_others_in_a_finished_run_are_refused_too(place: Path) -> None:
    run(*FIT, *THREE)
    write_theirs(place / "out" / "model.h5")
    (place / "out" / "summary.json").write_text("{}")
    before = content(place / "out")
    assert "holds summary.json, model.h5, which" in refused(*FIT, "em.max_iter=5", "em.tol=0")
    assert content(place / "out") == before


@pytest.mark.parametrize(("name", "make"), [("convergence.jsonl", text), ("checkpoint.h5", os.mkdir)])
def test_no_log_and_no_directory_of_others_is_taken_for_damage(
    place: Path, name: str, make: Callable[[Path], Any]
) -> None:
    run(*FIT, *THREE)
    (place / "out" / name).unlink()
    make(place / "out" / name)
    before = content(place / "out")
    for options in ((), ("--restart",)):
        assert f"holds {name}, which mpigmm did not write" in refused(*FIT, *THREE, *options)
    assert content(place / "out") == before


@pytest.mark.parametrize("left", [b'{"ini', b'{"init": 0, "iter', bytes(4096)])
def test_a_torn_log_is_the_runs_own(place: Path, left: bytes) -> None:
    run(*FIT, *THREE)
    (place / "out" / "convergence.jsonl").write_bytes(left)
    run(*FIT, "em.max_iter=4", "em.tol=0")
    assert len((place / "out" / "convergence.jsonl").read_bytes().splitlines()) == 4


def test_a_config_of_the_users_is_left_as_it_is(place: Path) -> None:
    (place / "out").mkdir()
    for name in ("config.yaml", "mine.yaml"):
        shutil.copy("run.yaml", f"out/{name}")
        for _ in range(2):
            run("fit", f"out/{name}", *THREE, "--restart")
            assert (place / "out" / name).read_bytes() == (place / "run.yaml").read_bytes()
        if name == "config.yaml":
            assert "config.yaml" in refused(*FIT, *THREE)
            (place / "out" / name).unlink()
    assert b"n_components: 2" in (place / "out" / "config.yaml").read_bytes()


def test_our_own_config_is_given_from_where_it_lies(place: Path) -> None:
    run(*FIT, *THREE)
    config = place / "out" / "config.yaml"
    run("fit", "out/config.yaml")
    run("fit", "out/config.yaml", "em.max_iter=4")
    assert b"max_iter: 4" in config.read_bytes()
    config.write_bytes(config.read_bytes() + b"# a note\n")
    changed = config.read_bytes()
    run("fit", "out/config.yaml", "em.max_iter=5")
    assert config.read_bytes() == changed
    assert "somebody has changed" in refused(*FIT, "em.max_iter=6")


FIRST_CONFIG = """\
data:
  path: x.h5
  dataset: /X
  weights: null
  columns:
  - 0
  - 1
  rows: null
  missing: error
model:
  n_components: 2
  covariance_type: full
  reg_covar: 1.0e-06
  variance_floor: 1.0e-12
init:
  method: kmeans
  n_init: 1
  seed: 0
  file: null
em:
  algorithm: batch
  max_iter: 3
  tol: 0.0
  accelerate: none
compute:
  device: auto
  gpu_aware_mpi: auto
  precision: float64
  threads: auto
  memory: auto
  tile_rows: auto
output:
  dir: out
  checkpoint_iterations: 1
  checkpoint_seconds: 300
  walltime: null
"""


def test_what_version_0_1_0_left_is_ours(place: Path) -> None:
    run(*FIT, *THREE)
    config = place / "out" / "config.yaml"
    config.write_text(FIRST_CONFIG + "# by hand\n")
    assert "config.yaml" in refused(*FIT, *THREE)
    config.write_text(FIRST_CONFIG)
    run(*FIT, "em.max_iter=4", "em.tol=0")
    assert config.read_bytes().startswith(b"# Written by mpigmm")


def test_a_run_killed_before_its_first_checkpoint_goes_on(place: Path) -> None:
    run(*FIT, *THREE)
    bits = read_model(place / "out" / "model.h5")
    for name in ("model.h5", "summary.json", "checkpoint.h5", "checkpoint.previous.h5"):
        (place / "out" / name).unlink()
    (place / "out" / "convergence.jsonl").write_bytes(b"")
    leftover, strange = place / "out" / ".model.h5.0123456789abcdef.tmp", place / "out" / ".model.h5.tmp"
    for path in (leftover, strange):
        path.write_text("x")
    run(*FIT, *THREE)
    assert_same_bits(read_model(place / "out" / "model.h5"), bits)
    assert strange.exists() and not leftover.exists()


def test_rows_that_the_run_would_replace(place: Path) -> None:
    run(*FIT, *THREE)
    before = content(place / "out")
    told = refused(*FIT, "data.path=out/model.h5", "data.dataset=/means", "--restart")
    assert "data.path: out/model.h5 is a file that the run would replace" in told
    assert content(place / "out") == before


# The run's own model as its start.


OWN = (*FIT, "init.method=file", "init.file=link.h5", *THREE)
KILLS = {
    "before the first checkpoint": (recorder, "save_checkpoint", 0, False),
    "after the first checkpoint": (recorder, "save_checkpoint", 1, False),
    "at an iteration": (recorder, "save_checkpoint", 3, False),
    "before the last checkpoint": (recorder, "save_checkpoint", 4, False),
    "after the last checkpoint": (recorder, "save_checkpoint", 4, True),
    "after the model": (recorder, "save_model", 0, True),
    "after the summary": (RunDirectory, "write_json", 0, True),
    "while the old files are removed": (RunDirectory, "clear", 0, True),
}
"""What is called when the run is killed, how often it was before, and whether it still does its work."""


def killed(monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str, int, bool], *command: str) -> None:
    """Run a command that is killed."""
    owner, name, skipped, works = where
    real, calls = getattr(owner, name), []

    def strike(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        result = real(*arguments, **options) if len(calls) <= skipped or works else None
        if len(calls) > skipped:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, strike)
        with pytest.raises(Killed):
            run(*command)


@pytest.fixture
def own(place: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A finished run whose model is to be a start; that model, and what comes of it."""
    run(*FIT, "em.max_iter=1", "em.tol=0")
    shutil.copy("out/model.h5", "start.h5")
    (place / "link.h5").symlink_to(Path("out") / "model.h5")
    run(*FIT, "init.method=file", "init.file=start.h5", "output.dir=other", *THREE)
    return read_model(place / "start.h5"), read_model(place / "other" / "model.h5")


@pytest.mark.parametrize("again", [(), ("--restart",)], ids=["plain", "restart"])
@pytest.mark.parametrize("where", KILLS.values(), ids=KILLS)
def test_a_start_from_the_runs_own_model_survives_a_kill(
    place: Path, own: Any, monkeypatch: pytest.MonkeyPatch, where: Any, again: tuple[str, ...]
) -> None:
    start, result = own
    killed(monkeypatch, where, *OWN, "--restart")
    is_done = where[1] in ("save_model", "write_json")
    assert_same_bits(read_model(place / "out" / "model.h5"), result if is_done else start)
    run(*OWN, *again)
    if not (is_done and again):  # which starts over from what it ended with
        assert_same_bits(read_model(place / "out" / "model.h5"), result)


def test_a_start_from_the_runs_own_model_is_repeated(
    place: Path, own: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _, result = own
    run(*OWN, "--restart")
    for _ in range(2):
        run(*OWN)
        assert "out is finished already" in capfd.readouterr().err
        assert_same_bits(read_model(place / "out" / "model.h5"), result)
    longer = tuple(option.replace("max_iter=3", "max_iter=6") for option in OWN)
    killed(monkeypatch, (recorder, "save_checkpoint", 2, True), *longer)
    run(*longer)
    run(*FIT, "init.method=file", "init.file=start.h5", "output.dir=six", "em.max_iter=6", "em.tol=0")
    assert_same_bits(read_model(place / "out" / "model.h5"), read_model(place / "six" / "model.h5"))
    run(*longer, "--restart")
    run(*longer, "--restart")


def test_another_model_in_the_place_of_the_runs_own_start_is_refused(place: Path, own: Any) -> None:
    run(*OWN, "--restart")
    run(*FIT, "output.dir=third", "init.seed=5", "em.max_iter=2")
    shutil.copy("third/model.h5", "out/model.h5")
    before = content(place / "out")
    assert "init.file was 'content" in refused(*OWN)
    assert content(place / "out") == before


# Results of a finished run.


def remove(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-200:-100] = bytes(100)
    whole[1000:1300] = bytes(300)
    path.write_bytes(whole)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [remove, damage, empty])
def test_a_finished_run_makes_its_model_anew(place: Path, harm: Callable[[Path], None]) -> None:
    run(*FIT, *THREE)
    before = (place / "out" / "model.h5").read_bytes()
    harm(place / "out" / "model.h5")
    run(*FIT, *THREE)
    assert (place / "out" / "model.h5").read_bytes() == before


def another_model(place: Path) -> None:
    """Put the model of another run in the place of the run's own."""
    run(*FIT, "output.dir=other", "init.seed=3", "em.max_iter=1")
    shutil.copy("other/model.h5", "out/model.h5")


@pytest.mark.parametrize("options", [THREE, ("em.max_iter=9", "em.tol=0")], ids=["plain", "longer"])
def test_another_model_in_a_finished_run_is_not_replaced(place: Path, options: tuple[str, ...]) -> None:
    run(*FIT, *THREE)
    another_model(place)
    before = content(place / "out")
    told = refused(*FIT, *options)
    assert "out/model.h5 is not a model that the run in out wrote; move it away" in told
    assert content(place / "out") == before
    run(*FIT, *options, "--restart")


def test_another_model_in_a_run_cut_off_or_in_no_run_is_not_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, (recorder, "save_checkpoint", 2, True), *FIT, *THREE)
    another_model(place)
    (place / "new").mkdir()
    shutil.copy("out/model.h5", "new/model.h5")
    for name in ("out", "new"):
        before = content(place / name)
        assert f"{name}/model.h5 is not a model that the run in {name} wrote" in refused(
            *FIT, *THREE, f"output.dir={name}"
        )
        assert content(place / name) == before


def test_a_whole_file_that_is_no_model_is_not_called_damaged(place: Path) -> None:
    run(*FIT, *THREE)
    shutil.copy("out/checkpoint.h5", "out/model.h5")
    before = content(place / "out")
    assert refused(*FIT, *THREE).startswith("out/model.h5 is not an mpigmm-model file")
    assert content(place / "out") == before


@pytest.mark.parametrize(("reader", "begin"), [(owned, "output.dir: "), (hdf5, "")])
def test_a_model_that_may_not_be_read_is_not_called_damaged(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], reader: Any, begin: str
) -> None:
    def denied(path: Path, *mode: str) -> Any:
        if path.name == "model.h5":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open(path, *mode)

    run(*FIT, *THREE)
    before = content(place / "out")
    monkeypatch.setattr(reader, "open", denied, raising=False)
    told = refused(*FIT, *THREE)
    assert told.startswith(f"{begin}out/model.h5 cannot be read (Permission denied); check its permissions")
    assert "damaged" not in capfd.readouterr().err and content(place / "out") == before


def test_a_model_of_a_run_extended_before_is_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*FIT, *THREE)
    longer = (*FIT, "em.max_iter=8", "em.tol=0")
    killed(monkeypatch, (recorder, "save_checkpoint", 2, True), *longer)
    run(*longer)


def test_a_finished_run_in_a_read_only_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(*FIT, *THREE)
    before = content(place / "out")

    def read_only(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(RunDirectory, "_open_lock", read_only)
    capfd.readouterr()
    run(*FIT, *THREE)
    said = capfd.readouterr()
    assert "is finished already" in said.err and "out/model.h5: 2 components" in said.out
    for options in ((*THREE, "--restart"), ("em.max_iter=9", "em.tol=0")):
        assert "output.dir: out cannot be written to (Read-only file system)" in refused(*FIT, *options)
    assert content(place / "out") == before


@pytest.mark.parametrize("options", [(), ("--restart", "init.seed=4")], ids=["plain", "restart"])
def test_a_disk_that_is_full_at_the_start_costs_nothing(place: Path, options: tuple[str, ...]) -> None:
    run(*FIT, *THREE)
    before = content(place / "out")
    with file_size_limit(10):
        told = refused(*FIT, "em.max_iter=6", "em.tol=0", *options)
    assert told.startswith("out/config.yaml cannot be written (File too large)") and "\n" not in told
    assert content(place / "out") == before


# Names that others may know.


def test_links_in_the_place_of_our_files_are_not_followed(place: Path) -> None:
    precious = place / "precious"
    precious.write_text("precious")
    (place / "out").mkdir()
    for name in (".checkpoint.h5.tmp", ".model.h5.tmp", ".summary.json.tmp", ".config.yaml.tmp"):
        (place / "out" / name).symlink_to(precious)
    (place / ".labels.h5.tmp").symlink_to(precious)
    run(*FIT, *THREE)
    run(*PREDICT)
    (place / "out" / ".lock").unlink()
    (place / "out" / ".lock").symlink_to(precious)
    told = refused(*FIT, *THREE)
    assert "output.dir: out cannot be written to (Too many levels of symbolic links); remove the symbolic link" in told
    assert precious.read_text() == "precious"


def test_names_are_made_by_us_and_modes_by_the_umask(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = place / "file"
    content = Content(1, {"a": Column((), "int32")}, {})
    names = {Path(UnfinishedFile(str(target), job, content, 1).file.temporary) for job in "abc"}
    assert len(names) == 3
    before = os.umask(0o027)
    try:
        files.write_whole(target, b"x")
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o640
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 16)
    (place / ".file.0000000000000000.tmp").symlink_to(place / "precious")
    with pytest.raises(OutputError, match=r"file cannot be written \(File exists\)"):
        files.write_whole(target, b"y")
    assert target.read_bytes() == b"x" and not (place / "precious").exists()


# predict --out.


def test_predict_replaces_what_it_wrote_and_nothing_else(place: Path) -> None:
    run(*FIT, *THREE)
    out = place / "labels.h5"
    for foreign in (b"hi\n", (place / "x.h5").read_bytes(), (place / "out" / "model.h5").read_bytes()):
        out.write_bytes(foreign)
        assert "--out labels.h5 exists, and is not what predict wrote" in (told := refused(*PREDICT))
        assert "--overwrite" in told and out.read_bytes() == foreign
    run(*PREDICT, "--overwrite")
    run(*PREDICT)
    with h5py.File(out, "r+") as file:
        assert file.attrs["format"] == "mpigmm-predict"
        del file.attrs["format"]  # as version 0.1.0 wrote it
        for name in set(file.attrs) - {"model"}:
            del file.attrs[name]
    run(*PREDICT)
    assert "would overwrite the input x.h5" in refused(*PREDICT[:4], "x.h5", "--overwrite")


def test_predict_keeps_an_input_that_has_its_old_temporary_name(place: Path) -> None:
    run(*FIT, *THREE)
    Path("x.h5").rename(".o.h5.tmp")
    before = Path(".o.h5.tmp").read_bytes()
    run("predict", "out/model.h5", ".o.h5.tmp", "--out", "o.h5")
    assert Path(".o.h5.tmp").read_bytes() == before and Path("o.h5").exists()


def test_two_outputs_of_one_name_do_not_mix(place: Path) -> None:
    content = Content(10, {"a": Column((), "int32")}, {})
    unfinished = [UnfinishedFile("o.h5", job, content, 2) for job in ("first", "second")]
    writers = [RowWriter(each.file) for each in unfinished]
    for value, writer in enumerate(writers):
        writer.open()
        for start in range(0, 10, 5):
            writer.write("a", start, np.full(5, value))
        writer.close()
    with pytest.raises(OutputError, match=r"--out o.h5 is being written by the same command in another process"):
        UnfinishedFile("o.h5", "second", content, 2)
    for value, each in enumerate(unfinished):
        each.publish()
        with h5py.File("o.h5") as file:
            assert (file["a"][()] == value).all()


def test_a_kill_between_the_two_names_of_a_finished_output_leaves_it_whole(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Content(10, {"a": Column((), "int32")}, {})
    first = UnfinishedFile("o.h5", "job", content, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path: None)  # as if it were never reached
        assert first.publish_new()
    whole = Path("o.h5").read_bytes()
    again = UnfinishedFile("o.h5", "job", content, 2)
    assert Path("o.h5").read_bytes() == whole and not Path("o.h5").samefile(again.file.temporary)
    again.publish()
    assert not list(place.glob(".*.part"))


def test_outputs_with_long_names_that_begin_alike_do_not_remove_one_another(place: Path) -> None:
    content = Content(10, {"a": Column((), "int32")}, {})
    names = [f"{'a-name-as-long-as-those-of-simulations' * 2}.{i}.h5" for i in range(2)]
    unfinished = [UnfinishedFile(name, name, content, 1) for name in names]
    for each in unfinished:
        each.close()  # as an interrupted command does
    UnfinishedFile(names[1], names[1], content, 1).discard()
    assert [path.name for path in place.glob(".*.part")] == [Path(unfinished[0].file.temporary).name]


def test_an_output_that_cannot_be_written_is_told_in_the_systems_words(place: Path) -> None:
    with file_size_limit(100), pytest.raises(OutputError) as caught:
        UnfinishedFile("o.h5", "", Content(10**6, {"a": Column((), "int32")}, {}), 1)
    assert str(caught.value) == "o.h5 cannot be written (File too large); choose another --out"
    assert not list(place.glob(".*.part"))


def test_what_another_killed_command_left_goes(place: Path) -> None:
    """What an earlier version left, after a day."""
    old, new = place / ".o.h5.0123456789abcdef.tmp", place / ".o.h5.0123456789abcdee.tmp"
    other = place / ".o.h5.0123456789abcdee.part"
    for path in (old, new, other):
        path.write_text("x")
    os.utime(old, (1, 1))
    UnfinishedFile("o.h5", "", Content(1, {"a": Column((), "int32")}, {}), 1).discard()
    assert new.exists() and not old.exists() and not other.exists()


def test_a_link_under_the_temporary_name_is_not_followed(place: Path) -> None:
    content = Content(1, {"a": Column((), "int32")}, {})
    unfinished = UnfinishedFile("o.h5", "", content, 1)
    unfinished.discard()
    Path("victim").write_text("precious")
    Path(unfinished.file.temporary).symlink_to("victim")
    with pytest.raises(OutputError, match=r"o.h5 cannot be written \(Too many levels"):
        UnfinishedFile("o.h5", "", content, 1)
    assert Path("victim").read_text() == "precious"


# Checkpoints.


def test_a_damaged_checkpoint_never_takes_the_place_of_the_good_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(*FIT, *THREE)
    bits = read_model(place / "out" / "model.h5")
    newest = place / "out" / "checkpoint.h5"
    newest.write_bytes(newest.read_bytes()[:-100])
    replace = Path.replace

    def last_rename(self: Path, target: Path) -> Path:
        if target == newest.relative_to(place):
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", last_rename)
        with suppress(Killed):
            run(*FIT, "em.max_iter=3", "em.tol=0")
    assert "does not match its checksum; going on from checkpoint.previous.h5" in capfd.readouterr().err
    found, warning = load_checkpoint(place / "out")
    assert found is not None and found.progress.iteration == 3 and warning is None
    run(*FIT, *THREE)
    assert_same_bits(read_model(place / "out" / "model.h5"), bits)


def test_a_model_outlives_the_only_checkpoint_that_names_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*FIT, *THREE)
    newest = place / "out" / "checkpoint.h5"
    newest.write_bytes(newest.read_bytes()[:-100])
    longer = (*FIT, "em.max_iter=6", "em.tol=0")
    for _ in range(2):
        killed(monkeypatch, (recorder, "save_checkpoint", 0, True), *longer)
    run(*longer)


# Names and files in messages.


def test_an_empty_dataset_is_inspected(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with h5py.File("void.h5", "w") as file:
        file["void"], file["X"] = h5py.Empty("f8"), ROWS
        file.attrs["void"] = h5py.Empty("f8")
    run("inspect", "void.h5", "--json")
    datasets = json.loads(capfd.readouterr().out)["datasets"]
    assert datasets["/void"]["shape"] is None and datasets["/X"]["shape"] == [400, 2]


def test_control_characters_in_paths_leave_one_line(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, rows = 'output.dir="o\\nut\\e[31m"', (*FIT, "output.dir=new", 'data.dataset="/a\\nb"')
    with h5py.File("x.h5", "a") as file:
        file["a\nb"] = np.where(np.arange(400)[:, None] < 200, np.nan, np.ones(2))
    run(*FIT, *THREE)
    run(*FIT, *THREE, out)
    run(*FIT, *THREE, out)
    said = capfd.readouterr()
    assert said.out.count("\n") == 3 and said.out.partition("\n")[2].startswith(
        "o\\nut\\x1b[31m/model.h5: 2 components"
    )
    assert "o\\nut\\x1b[31m is finished already" in said.err and "\x1b" not in said.err
    shutil.copy("o\nut\x1b[31m/model.h5", "a\nb.h5")
    run("inspect", "a\nb.h5")
    assert "\nfile                 a\\nb.h5\n" in capfd.readouterr().out
    for arguments in (
        ("score", "c\nd.h5", "x.h5"),
        ("predict", "a\nb.h5", "x.h5", "--out", "e\nf/g.h5"),
        ("inspect", "c\nd.h5"),
        (*FIT, out, "model.n_components=3"),
        (*FIT, "init.method=file", 'init.file="c\\nd.h5"'),
        (*rows, "model.n_components=500"),
        (*rows, "model.n_components=300", "data.missing=drop"),
        (*rows, "model.reg_covar=0", "data.missing=drop", "data.columns=[0]"),
        (*rows, "init.method=file", "init.file=out/model.h5", "data.columns=[0]"),
    ):
        assert "\n" not in refused(*arguments), arguments
    assert message_and_kind(FileNotFoundError(2, "No such file", "a\nb"), 0, "") == ("No such file: a\\nb", UserError)


def test_a_model_of_unknown_origin_is_read_by_a_process_without_mpi(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    code = "import sys; sys.path[:] = sys.argv[3:]; from mpigmm.runs.hdf5 import answer; answer(*sys.argv[1:3]); "
    code += "import os; assert 'mpi4py' not in sys.modules and not any(n.startswith('OMPI') for n in os.environ)"
    monkeypatch.setattr("mpigmm.runs.guarded.CODE", code)
    write_theirs(place / "theirs.h5")
    assert sorted(hdf5.load(place / "theirs.h5", "mpigmm-model", ["means"]).arrays) == ["means"]
