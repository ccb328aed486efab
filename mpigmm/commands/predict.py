"""``predict``: assigns rows to components."""

from __future__ import annotations

import os
from functools import partial

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.data.file_source import FileSource, input_files
from mpigmm.data.output import Column, Content, RowWriter
from mpigmm.data.row_files import joined
from mpigmm.driver.layout import Layout
from mpigmm.driver.posteriors import PosteriorFunction, for_each_posterior, open_stream
from mpigmm.driver.row_output import RowOutput, writing_rows
from mpigmm.driver.score_rows import FileTask, open_task
from mpigmm.errors import EXIT_DONE, ConfigError, counted, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import PredictRequest
from mpigmm.rows import VALUES, Rows


def run(comm: Comm, request: PredictRequest, stop: StopRequest) -> int:
    """Assign the rows of a request to components; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_task(request.model, request.data, request.dataset, stop.check)
            check_request(request, task)
    task = comm.bcast(task)
    context = open_stream(comm, FileSource(task.header), task, stop)
    output = None
    with comm.together():
        if comm.is_root:
            output = described(request, task, context.layout)
    with writing_rows(comm, output, stop) as writer, comm.together(), single_threaded_blas:
        new_function = partial(tile_writer, writer, context.block.tile_rows, request.proba)
        for_each_posterior(context, task, new_function, writer.is_finished)
    return EXIT_DONE


def check_request(request: PredictRequest, task: FileTask) -> None:
    """Raise `UserError` where the request does not fit the model."""
    if request.proba > task.mixture.n_components:
        raise ConfigError(
            f"--proba {request.proba}: {shown(request.model)} has {counted(task.mixture.n_components, 'component')}; "
            "ask for no more"
        )


def described(request: PredictRequest, task: FileTask, layout: Layout) -> RowOutput:
    """The file to write, with the names of the model and of the files of the rows."""
    header = task.header
    model = os.fsencode(request.model).decode("utf-8", "backslashreplace")
    return RowOutput(
        verb="predict",
        path=request.out,
        overwrite=request.overwrite,
        content=Content(
            n_rows=header.n_rows,
            columns=columns(request.proba),
            attributes={"model": model, "dataset": joined(header.datasets[VALUES])},
            tables={"files": [os.fsencode(path) for path in header.paths], "offsets": header.first_rows},
        ),
        inputs=[request.model, *input_files(header)],
        job=repr((header, layout.tile_rows)),
        n_parts=layout.n_tiles,
    )


def columns(proba: int) -> dict[str, Column]:
    """Datasets of the output with one entry for each row of the input."""
    found = {"labels": Column((), "int32"), "log_density": Column((), "float64")}
    if proba:
        found |= {"proba": Column((proba,), "float64"), "components": Column((proba,), "int32")}
    return found


def tile_writer(writer: RowWriter, tile_rows: int, proba: int) -> PosteriorFunction:
    """A function that writes the labels, log-densities and largest posteriors of a tile."""

    def write_tile(rows: Rows, resp: FloatArray, log_density: FloatArray) -> None:
        first = rows.first
        writer.write("labels", first, resp.argmax(axis=0))
        writer.write("log_density", first, log_density)
        if proba:
            largest = np.argsort(-resp, axis=0, kind="stable")[:proba]
            writer.write("proba", first, np.take_along_axis(resp, largest, axis=0).T)
            writer.write("components", first, largest.T)
        writer.finish(first // tile_rows)

    return write_tile
