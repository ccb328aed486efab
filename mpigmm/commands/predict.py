"""``predict``: assigns rows to components."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.data.file_source import FileSource, input_files
from mpigmm.data.output import Column, OutputFile, RowWriter, create, discard, publish, publish_new
from mpigmm.driver.posteriors import PosteriorFunction, for_each_posterior, open_stream
from mpigmm.driver.score_rows import FileTask, open_task
from mpigmm.errors import EXIT_DONE, AgreedError, ConfigError, DataError, OutputError, counted, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import PredictRequest
from mpigmm.rows import VALUES, Rows
from mpigmm.runs.hdf5 import outline

FORMAT = "mpigmm-predict"
"""Value of the attribute ``format``, by which `predict` knows a file that it wrote."""


def run(comm: Comm, request: PredictRequest, stop: StopRequest) -> int:
    """Assign the rows of a request to components; returns the exit code. Collective."""
    task, is_new = None, False
    with comm.together():
        if comm.is_root:
            task = open_task(request.model, request.data, request.dataset, stop.check)
            check_request(request, task)
            check_out(request, task, stop.check)
            is_new = not os.path.lexists(request.out)
    task = comm.bcast(task)
    context = open_stream(comm, FileSource(task.header), task, stop)
    output_file = None
    try:
        with comm.together():
            if comm.is_root:
                attributes, tables = origin(request, task)
                output_file = create(request.out, task.header.n_rows, columns(request.proba), attributes, tables)
        output_file = comm.bcast(output_file)
        with comm.together(), single_threaded_blas, RowWriter(output_file) as writer:
            for_each_posterior(context, task, lambda: tile_writer(writer, request.proba))
        with comm.together():
            if comm.is_root:
                name_output(request, task, output_file, is_new, stop.check)
    except AgreedError:
        if comm.is_root and output_file is not None:
            discard(output_file)
        raise
    return EXIT_DONE


def check_request(request: PredictRequest, task: FileTask) -> None:
    """Raise `UserError` where the request does not fit the model."""
    if request.proba > task.mixture.n_components:
        raise ConfigError(
            f"--proba {request.proba}: {shown(request.model)} has {counted(task.mixture.n_components, 'component')}; "
            "ask for no more"
        )


def check_out(request: PredictRequest, task: FileTask, check: Callable[[], None]) -> None:
    """Raise `OutputError` where ``--out`` cannot be written, is an input, or is not what `predict` wrote before."""
    out, name = Path(request.out), shown(request.out)
    if not out.name or (out.exists() and not out.is_file()):
        raise OutputError(f"--out {request.out!r} is not the name of a file; name the HDF5 file to write")
    if not out.parent.is_dir():
        raise OutputError(
            f"--out {name} cannot be written: {shown(out.parent)} is no directory; make it, or choose another"
        )
    for path in (request.model, *input_files(task.header)) if out.exists() else ():
        if out.samefile(path):
            raise OutputError(f"--out {name} would overwrite the input {shown(path)}; choose another name")
    if out.exists() and not request.overwrite and not is_own(out, check):
        raise OutputError(
            f"--out {name} exists, and is not what predict wrote before; choose another name, or add --overwrite to "
            "replace it"
        )


def name_output(
    request: PredictRequest, task: FileTask, output_file: OutputFile, is_new: bool, check: Callable[[], None]
) -> None:
    """Give the finished file its final name.

    Raises `OutputError` where a file that `check_out` refuses has taken the name since the command began.
    """
    if is_new and not request.overwrite and publish_new(output_file):
        return
    check_out(request, task, check)
    publish(output_file)


def is_own(path: Path, check: Callable[[], None]) -> bool:
    """Whether a file is empty or was written by `predict`, which version 0.1.0 did without the attribute ``format``."""
    if not path.stat().st_size:
        return True
    try:
        found = outline(path, check)
    except DataError:
        return False
    without_mark = set(found.attributes) == {"model"} and {"/labels", "/log_density"} <= set(found.datasets)
    return found.attributes.get("format") == FORMAT or without_mark


def origin(request: PredictRequest, task: FileTask) -> tuple[dict[str, str], dict[str, Sequence[Any]]]:
    """Attributes and small datasets of the output that name its model and the files of its rows."""
    header = task.header
    files = [os.fsencode(path) for path in header.paths]
    model = os.fsencode(request.model).decode("utf-8", "backslashreplace")
    names = header.datasets[VALUES]
    dataset = names if isinstance(names, str) else ",".join(names)
    attributes = {"format": FORMAT, "model": model, "dataset": dataset}
    return attributes, {"files": files, "offsets": header.first_rows}


def columns(proba: int) -> dict[str, Column]:
    """Datasets of the output with one entry for each row of the input."""
    found = {"labels": Column((), "int32"), "log_density": Column((), "float64")}
    if proba:
        found |= {"proba": Column((proba,), "float64"), "components": Column((proba,), "int32")}
    return found


def tile_writer(writer: RowWriter, proba: int) -> PosteriorFunction:
    """A function that writes the labels, log-densities and largest posteriors of a tile."""

    def write_tile(rows: Rows, resp: FloatArray, log_density: FloatArray) -> None:
        first = rows.first
        writer.write("labels", first, resp.argmax(axis=0))
        writer.write("log_density", first, log_density)
        if proba:
            largest = np.argsort(-resp, axis=0, kind="stable")[:proba]
            writer.write("proba", first, np.take_along_axis(resp, largest, axis=0).T)
            writer.write("components", first, largest.T)

    return write_tile
