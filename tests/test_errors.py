"""Words for errors: what a user reads of paths, and of what the operating system says."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from mpigmm.data.file_source import read_header
from mpigmm.data.output import Content
from mpigmm.data.unfinished import UnfinishedFile
from mpigmm.errors import DataError, OutputError, reason, shown


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("plain/päth é.h5", "plain/päth é.h5"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[31m\x7f\x85\u2028", "\\x1b[31m\\x7f\\x85\\u2028"),
        ("\udcff.h5", "\\udcff.h5"),
        (r"back\slash 'quote'", r"back\slash 'quote'"),
        (Path("x.h5"), "x.h5"),
    ],
)
def test_control_characters_of_paths_are_escaped(path: object, told: str) -> None:
    assert shown(path) == told
    assert len(shown(path).splitlines()) == 1 and shown(path).encode()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), " (No space left on device)"),
        (OSError("Unable to open file (file signature not found)"), ""),
        (
            OSError(13, "Unable to create file (errno = 13, error message = 'Permission denied')"),
            " (Permission denied)",
        ),
        (OSError("Can't read data (unable to lock file, errno = 11, error message = 'Try again')"), " (Try again)"),
        (KeyError("Unable to open object (object 'X' doesn't exist)"), ""),
    ],
)
def test_only_the_systems_words_are_told(error: Exception, told: str) -> None:
    assert reason(error) == told


def test_messages_about_files_hold_none_of_hdf5s_words(tmp_path: Path) -> None:
    path = tmp_path / "text\n.h5"
    path.write_text("no HDF5")
    with pytest.raises(DataError) as raised:
        read_header(str(path), "/X")
    assert str(raised.value) == f"{tmp_path}/text\\n.h5 cannot be opened as HDF5; is it whole, and HDF5?"
    with pytest.raises(OutputError) as refused:
        UnfinishedFile(str(tmp_path / "none" / "out.h5"), "", Content(3, {}, {}), 1)
    assert "cannot be written (No such file or directory)" in str(refused.value)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = h5py.SoftLink("/a\nb")
    with pytest.raises(DataError, match="has no dataset /X"):
        read_header(str(tmp_path / "x.h5"), "/X")
