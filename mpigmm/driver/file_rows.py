"""Rows in files, as root finds them for all ranks."""

from __future__ import annotations

from mpigmm.data.file_source import FileHeader, FileSource, read_header
from mpigmm.options import DataOptions
from mpigmm.parallel.comm import Comm


def rows_header(data: DataOptions, labels: str | None) -> FileHeader:
    """The header of the rows that the options name. Root alone; raises `DataError`."""
    return read_header(data.path, data.dataset, data.weights, data.columns, data.rows, labels)


def open_files(comm: Comm, data: DataOptions, labels: str | None = None) -> FileSource:
    """The rows that the options name, with starting labels if they have any. Collective; raises `AgreedError`."""
    header = None
    with comm.together():
        if comm.is_root:
            header = rows_header(data, labels)
    return FileSource(comm.bcast(header))
