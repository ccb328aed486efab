"""``convert``: files of rows in other formats become the HDF5 that ``fit`` reads."""

from __future__ import annotations

import numpy as np

from mpigmm.data.conversion.base import ReadOptions
from mpigmm.data.conversion.selection import select
from mpigmm.data.output import Column, Content
from mpigmm.driver.convert_rows import Conversion, convert_rows, with_parts
from mpigmm.driver.row_output import RowOutput, writing_rows
from mpigmm.driver.shared_work import SharedWork
from mpigmm.errors import EXIT_DONE, ConfigError, counted, needed, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import count_threads, single_threaded_blas
from mpigmm.requests import ConvertRequest
from mpigmm.runs.streams import write_message


def run(comm: Comm, request: ConvertRequest, stop: StopRequest) -> int:
    """Convert the files of a request; returns the exit code. Collective."""
    conversion = None
    with comm.together():
        if comm.is_root:
            conversion = opened(request)
    work = SharedWork(comm, stop, count_threads("auto", comm.node_share()))
    with single_threaded_blas:
        conversion = with_parts(work, comm.bcast(conversion))
        output = output_of(request, conversion) if comm.is_root else None
        with writing_rows(comm, output, stop) as writer:
            convert_rows(work, conversion, request.dataset, writer)
    if comm.is_root:
        write_message(f"mpigmm: {summary(request, conversion)}")
    return EXIT_DONE


def opened(request: ConvertRequest) -> Conversion:
    """The files and columns of a request. Raises `UserError`."""
    check(request)
    with needed("pyarrow", "convert"):
        from mpigmm.data.conversion.inputs import open_inputs
    options = ReadOptions(request.delimiter, request.header, request.decimal, request.compensate)
    files = open_inputs(request.inputs, options)
    dtype = np.result_type(*(each.dtype for each in files), *([np.float32] if request.arcsinh is not None else []))
    return Conversion(files, select(files, request.columns), dtype.newbyteorder("=").str, request.arcsinh)


def check(request: ConvertRequest) -> None:
    """Raise `ConfigError` where an option has a value that cannot be used."""
    for option, text in (("--delimiter", request.delimiter), ("--decimal", request.decimal)):
        if text is not None and (len(text) != 1 or not text.isascii() or text.isalnum() or text in '\r\n"'):
            raise ConfigError(
                f"{option} {text!r}: one character is needed, no letter or digit; in a shell $'\\t' is a tab"
            )
    if request.delimiter == request.decimal:
        raise ConfigError(f"--delimiter {request.delimiter!r} is the decimal point as well; give another")
    if request.arcsinh is not None and not 0 < request.arcsinh < np.inf:
        raise ConfigError(f"--arcsinh {request.arcsinh}: a number above 0 is needed")
    if not {"", "."}.isdisjoint(request.dataset.removeprefix("/").split("/")):
        raise ConfigError(f"--dataset {request.dataset!r} is no name of a dataset; give one such as /X")


def output_of(request: ConvertRequest, conversion: Conversion) -> RowOutput:
    """The file to write."""
    names = conversion.selection.names
    attributes = {} if names is None else {"columns": list(names)}
    return RowOutput(
        verb="convert",
        path=request.out,
        overwrite=request.overwrite,
        content=Content(
            n_rows=conversion.n_rows,
            columns={request.dataset: Column((conversion.n_columns,), conversion.dtype)},
            attributes={},
            column_attributes={request.dataset: attributes},
        ),
        inputs=[each.path for each in conversion.files],
        job=repr(conversion),
        n_parts=len(conversion.parts),
    )


def summary(request: ConvertRequest, conversion: Conversion) -> str:
    """What was written."""
    rows, columns = counted(conversion.n_rows, "row"), counted(conversion.n_columns, "column")
    names = conversion.selection.names or ()
    told = f" ({', '.join(map(shown, names[:10]))}{', ...' * (len(names) > 10)})" if names else ""
    return f"{shown(request.out)}: {shown(request.dataset)} has {rows} and {columns}{told}"
