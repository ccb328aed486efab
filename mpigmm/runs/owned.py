"""Which files a run may overwrite: those that mpigmm wrote, which are recognised by a mark or by their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from mpigmm.errors import OutputError, reason, shown
from mpigmm.runs.hdf5 import MAGIC, SIGNATURE, USER_BLOCK

MODEL, SUMMARY, LOG, CONFIG = "model.h5", "summary.json", "convergence.jsonl", "config.yaml"
CHECKPOINTS = ("checkpoint.h5", "checkpoint.previous.h5")
OUTPUTS = (*CHECKPOINTS, LOG, SUMMARY, MODEL, CONFIG)

MARK = "# Written by mpigmm, which replaces this file while nobody changes it; sha256 of what follows: "

LOG_BEGIN = b'{"init": '

FIRST_KEYS = (
    "data path dataset weights columns rows missing model n_components covariance_type reg_covar variance_floor init "
    "method n_init seed file em algorithm max_iter tol accelerate compute device gpu_aware_mpi precision threads "
    "memory tile_rows output dir checkpoint_iterations checkpoint_seconds walltime"
)
"""Sections and keys of a configuration that version 0.1.0 wrote, without a mark."""


def marked(config: str) -> bytes:
    """The content of ``config.yaml``: a configuration after the mark by which `has_mark` recognises it."""
    return f"{MARK}{hashlib.sha256(config.encode()).hexdigest()}\n{config}".encode()


def has_mark(content: bytes) -> bool:
    """Whether this is a configuration that mpigmm wrote and that was not changed since then."""
    config = content.partition(b"\n")[2].decode("utf-8", "replace")
    return content == marked(config)


def is_config(content: bytes) -> bool:
    """Whether this is a configuration that mpigmm wrote."""
    keys = re.findall(rb"^(?:  )?(\w+):", content, re.MULTILINE)
    return has_mark(content) or (b"#" not in content and b" ".join(keys).decode() == FIRST_KEYS)


def is_summary(content: bytes) -> bool:
    """Whether this is a run's summary."""
    try:
        return "mpigmm" in json.loads(content)["versions"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def is_log(content: bytes) -> bool:
    """Whether this is the log of a run, whose last line may be incomplete."""
    return content.startswith(LOG_BEGIN) or LOG_BEGIN.startswith(content)


def is_hdf5(content: bytes) -> bool:
    """Whether this is a model or checkpoint that mpigmm wrote, damaged or not."""
    alike = sum(one == other for one, other in zip(content, MAGIC, strict=False))
    is_alike = 2 * alike > len(MAGIC) and content[USER_BLOCK:].startswith(SIGNATURE)
    return content.startswith(MAGIC) or is_alike


def check_replaceable(path: Path) -> None:
    """Raise `OutputError` where a file exists that is neither empty nor a model or checkpoint that mpigmm wrote."""
    if not path.exists():
        return
    content = beginning(path, USER_BLOCK + len(SIGNATURE)) if path.is_file() else MARK.encode()
    if content.strip(b"\0") and not is_hdf5(content):
        raise OutputError(
            f"{shown(path)} exists, and is not a model that mpigmm wrote; move it away, or choose another name"
        )


PICTURE_MAKER = "mpigmm plot"
"""The text of the chunk ``Software`` of the PNG files that mpigmm writes."""

PNG_SIGNATURE, PNG_HEAD = b"\x89PNG\r\n\x1a\n", 1000
"""First bytes of a PNG file, and the number of bytes among which the text is."""


def is_picture(content: bytes) -> bool:
    """Whether this is the beginning of a picture that mpigmm wrote."""
    return content.startswith(PNG_SIGNATURE) and f"tEXtSoftware\0{PICTURE_MAKER}".encode() in content[:PNG_HEAD]


def check_picture(path: Path) -> None:
    """Raise `OutputError` where a file exists that is neither empty nor a picture that mpigmm wrote."""
    if not path.exists():
        return
    content = beginning(path) if path.is_file() else MARK.encode()
    if content.strip(b"\0") and not is_picture(content):
        raise OutputError(
            f"{shown(path)} exists, and is not a picture that mpigmm wrote; move it away, or choose another directory"
        )


RECOGNISED: dict[str, Callable[[bytes], bool]] = {
    **dict.fromkeys((*CHECKPOINTS, MODEL), is_hdf5),
    LOG: is_log,
    SUMMARY: is_summary,
    CONFIG: is_config,
}
LARGE = 2**24
"""Bytes of a file that are read to recognise it."""


def beginning(path: Path, size: int = LARGE) -> bytes:
    """The first bytes of a file of ``output.dir``; raises `OutputError`."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise OutputError(
            f"output.dir: {shown(path)} cannot be read{reason(error)}; check its permissions, or choose another "
            "output.dir"
        ) from None


def is_own(path: Path) -> bool:
    """Whether an existing file has the mark or content of a run's file of its name, or no content.

    A file of zero bytes only counts as one without content: some file systems leave such files where a node failed.
    """
    if not path.is_file():
        return False
    content = beginning(path)
    return not content.strip(b"\0") or RECOGNISED[path.name](content)


def foreign_files(directory: Path) -> list[str]:
    """Names of a run's files that exist in a directory but were not written by mpigmm; raises `OutputError`.

    A file with a checkpoint's name that is not recognised counts as a damaged checkpoint where there are other files of
    a run, unless it is an HDF5 file.
    """
    present = [name for name in OUTPUTS if (directory / name).exists()]
    own = [name for name in present if is_own(directory / name)]
    return [name for name in present if name not in own and not (own and may_be_damaged(directory / name))]


def may_be_damaged(path: Path) -> bool:
    """Whether a file that is not recognised may be a damaged checkpoint: an HDF5 file is another program's."""
    if path.name not in CHECKPOINTS or not path.is_file():
        return False
    return beginning(path, len(SIGNATURE)) != SIGNATURE
