"""The files that `convert` is given, and what reads each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mpigmm.data.conversion.base import InputFile, ReadOptions
from mpigmm.data.conversion.csv_file import open_csv
from mpigmm.data.conversion.fcs_file import FCS_MAGIC, open_fcs
from mpigmm.data.conversion.npz_file import NPZ_MAGIC, open_npz
from mpigmm.data.conversion.rows_file import open_rows
from mpigmm.data.file_source import natural_key, resolve_paths
from mpigmm.data.formats import first_bytes
from mpigmm.data.npy_file import NPY_MAGIC
from mpigmm.data.row_files import check_file
from mpigmm.errors import ConfigError, DataError, reason, shown

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".dat")
INPUT_SUFFIXES = (*TEXT_SUFFIXES, ".npy", ".npz", ".parquet", ".pq", ".fcs")
MAGIC_BYTES = 8
COMPRESSED = (".gz", ".bz2", ".zst", ".xz")

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
"""Compressions by the first bytes of a file."""

Open = Callable[[str, ReadOptions], InputFile]

FORMATS: dict[bytes, Open] = {
    FCS_MAGIC: open_fcs,
    NPZ_MAGIC: open_npz,
    NPY_MAGIC: open_rows,
    b"PAR1": open_rows,
    b"\x89HDF": open_rows,
}
"""What reads files that begin with these bytes. All others are text."""


def open_inputs(names: Sequence[str], options: ReadOptions) -> list[InputFile]:
    """Describe all files. Raises `DataError` and `ConfigError`.

    Parameters
    ----------
    names : sequence of str
        Of files, of directories, which stand for their files of known suffixes in natural order, or globs.
    options : ReadOptions
    """
    paths = [file for name in names for path in resolve_paths(name) for file in files_in(path)]
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(os.path.realpath(path), path)
        if other is not path:
            raise DataError(f"{shown(path)} is named twice; its rows would count twice: name it once")
    return [open_input(path, options) for path in paths]


def files_in(path: str) -> list[str]:
    """The files of a directory that are converted; for another path the path itself. Raises `DataError`."""
    directory = Path(path)
    if not path or not directory.is_dir():
        return [path]
    try:
        found = [str(each) for each in directory.iterdir() if each.is_file() and is_known(each)]
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read{reason(error)}; check its permissions") from None
    if not found:
        raise DataError(f"{shown(path)} has no files to convert; their names end with {', '.join(INPUT_SUFFIXES)}")
    return sorted(found, key=natural_key)


def is_known(path: Path) -> bool:
    """Whether the suffix of a file is that of a known format; hidden files, such as macOS adds, are left out."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    suffixes = INPUT_SUFFIXES if name == path else TEXT_SUFFIXES
    return name.suffix.lower() in suffixes and not path.name.startswith(".")


def open_input(path: str, options: ReadOptions) -> InputFile:
    """Describe a file by its first bytes. Raises `DataError` and `ConfigError`."""
    check_file(path)
    head = first_bytes(path, MAGIC_BYTES)
    found = next((read for magic, read in FORMATS.items() if head.startswith(magic)), None)
    if options.compensate and found is not open_fcs:
        raise ConfigError(f"--compensate: {shown(path)} is no FCS file; leave the option out")
    if found is not None:
        return found(path, options)
    compression = next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)
    return open_csv(path, compression, options)
