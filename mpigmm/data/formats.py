"""The formats of files with rows, and which of them a file has."""

from __future__ import annotations

import shlex
from pathlib import Path

import h5py

from mpigmm.data.hdf5_file import Hdf5Format
from mpigmm.data.npy_file import NPY_MAGIC, NpyFormat
from mpigmm.data.row_files import RowFormat, check_file
from mpigmm.errors import DataError, needed, reason, shown

HDF5, NPY, PARQUET = "hdf5", "npy", "parquet"

MAGIC = {NPY_MAGIC: NPY, b"PAR1": PARQUET}
"""First bytes of files that are not HDF5."""

OWN_SUFFIXES = {".npy": NPY, ".parquet": PARQUET, ".pq": PARQUET}
"""Suffixes of files that should have these first bytes, and whose format says what is wrong where they have not."""

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
CONVERTED = (".csv", ".tsv", ".txt", ".dat", ".npz", ".fcs", *PACKED)
"""Suffixes of files that `convert` turns into HDF5."""


def row_format(name: str) -> RowFormat:
    """The format of this name. Raises `MissingLibraryError`."""
    if name == PARQUET:
        with needed("pyarrow", "Parquet"):
            from mpigmm.data.parquet_file import ParquetFormat
        return ParquetFormat()
    return {HDF5: Hdf5Format, NPY: NpyFormat}[name]()


def format_of(path: str) -> str:
    """The name of the format of a file; raises `DataError`.

    It is that of the first bytes. A file of no known format is taken for HDF5, which tells what is wrong with it.
    """
    check_file(path)
    head = first_bytes(path, max(map(len, MAGIC)))
    suffix = Path(path).suffix.lower()
    known = next((name for magic, name in MAGIC.items() if head.startswith(magic)), OWN_SUFFIXES.get(suffix))
    if known is None and suffix in CONVERTED and not h5py.is_hdf5(path):
        raise DataError(
            f"{shown(path)} is not HDF5, Parquet or .npy; make it HDF5 with: "
            f"mpigmm convert {shlex.quote(shown(path))} --out {shlex.quote(shown(converted(path)))}"
        )
    return known or HDF5


def first_bytes(path: str, size: int) -> bytes:
    """The first bytes of a file; raises `DataError`."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except PermissionError:
        raise DataError(f"{shown(path)} may not be read by this user; check its permissions") from None
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read{reason(error)}") from None


def converted(path: str) -> Path:
    """The name of the HDF5 file that a file is converted to."""
    name = Path(path)
    if name.suffix.lower() in PACKED:
        name = name.with_suffix("")
    return name.with_suffix(".h5")
