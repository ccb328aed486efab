"""``predict``: assigns rows to components."""

from __future__ import annotations

import os
from functools import partial

import numpy as np

from mpigmm.core.arrays import Array
from mpigmm.data.hdf5_source import input_files
from mpigmm.data.output import Column, Content, RowWriter
from mpigmm.data.source import Header
from mpigmm.driver.posteriors import PosteriorFunction, ScoreTask, for_each_posterior
from mpigmm.driver.row_output import RowOutput, writing_rows
from mpigmm.driver.score_rows import open_rows, open_task
from mpigmm.driver.worker import RankContext
from mpigmm.errors import EXIT_DONE, ConfigError, counted, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import PredictRequest
from mpigmm.rows import Rows

LEFT_OUT = -1
"""Label of a row that is left out."""


def run(comm: Comm, request: PredictRequest, stop: StopRequest) -> int:
    """Assign the rows of a request to components; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_task(request.model, request.rows, stop.check)
            check_request(request, task)
    task = comm.bcast(task)
    context = open_rows(comm, task, request.rows, stop)
    output = None
    with comm.together():
        if comm.is_root:
            output = described(request, task, context)
    with writing_rows(comm, output, stop) as writer, comm.together(), single_threaded_blas, context.guarded():
        new_function = partial(tile_writer, writer, context, request.proba)
        for_each_posterior(context, task, new_function, writer.is_finished)
    return EXIT_DONE


def check_request(request: PredictRequest, task: ScoreTask) -> None:
    """Raise `UserError` where the request does not fit the model."""
    if request.proba > task.mixture.n_components:
        raise ConfigError(
            f"--proba {request.proba}: {shown(request.model)} has {counted(task.mixture.n_components, 'component')}; "
            "ask for no more"
        )


def described(request: PredictRequest, task: ScoreTask, context: RankContext) -> RowOutput:
    """The file to write, with the names of the model and of the files of the rows."""
    header, layout = task.header, context.layout
    model = os.fsencode(request.model).decode("utf-8", "backslashreplace")
    return RowOutput(
        verb="predict",
        path=request.out,
        overwrite=request.overwrite,
        content=Content(
            n_rows=header.n_rows,
            columns=columns(request.proba),
            attributes={"model": model, "dataset": header.dataset, "rows": [header.start, header.stop]},
            tables={"files": [os.fsencode(path) for path in header.paths], "offsets": offsets(header)},
        ),
        inputs=[request.model, *input_files(header)],
        job=repr((header, task.drop, layout.tile_rows, computed_with(context))),
        n_parts=layout.n_tiles,
    )


def offsets(header: Header) -> list[int]:
    """For each file, the entry of the output that its first row has or, if the row is not used, would have."""
    return [first - header.start for first in header.first_rows]


def computed_with(context: RankContext) -> tuple[str, ...]:
    """What the last bits of log-densities depend on: the devices and their array operations."""
    kinds = context.devices.kinds
    return (context.host_ops.name, *(kinds if context.devices.mixed else kinds[:1]))


def columns(proba: int) -> dict[str, Column]:
    """Datasets of the output with one entry for each row of the input."""
    found = {"labels": Column((), "int32"), "log_density": Column((), "float64")}
    if proba:
        found |= {"proba": Column((proba,), "float64"), "components": Column((proba,), "int32")}
    return found


def tile_writer(writer: RowWriter, context: RankContext, proba: int) -> PosteriorFunction:
    """A function that writes the labels, log-densities and largest posteriors of a tile."""
    get = context.ops.arrays.get

    def write_tile(rows: Rows, resp: Array, log_density: Array) -> None:
        first, labels, density = rows.first, get(resp.argmax(axis=0)), get(log_density)
        left_out = np.isnan(density)
        labels[left_out] = LEFT_OUT
        writer.write("labels", first, labels)
        writer.write("log_density", first, density)
        if proba:
            posteriors = get(resp)
            largest = np.argsort(-posteriors, axis=0, kind="stable")[:proba]
            posteriors = np.take_along_axis(posteriors, largest, axis=0)
            posteriors[:, left_out], largest[:, left_out] = np.nan, LEFT_OUT
            writer.write("proba", first, posteriors.T)
            writer.write("components", first, largest.T)
        writer.finish(first // context.block.tile_rows)

    return write_tile
