"""Rows in files, as root finds them for all ranks."""

from __future__ import annotations

from mpigmm.data.hdf5_source import Hdf5Source, read_header
from mpigmm.options import DataOptions
from mpigmm.parallel.comm import Comm


def open_files(comm: Comm, data: DataOptions) -> Hdf5Source:
    """The rows that the options name. Collective; raises `AgreedError`."""
    header = None
    with comm.together():
        if comm.is_root:
            header = read_header(data.path, data.dataset, data.weights, data.columns, data.rows)
    return Hdf5Source(comm.bcast(header))
