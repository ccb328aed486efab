"""``predict``: assigns rows to components."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np

from mpigmm.core.arrays import Array
from mpigmm.data.file_source import FileSource, input_files
from mpigmm.data.output import Column, Content, RowWriter
from mpigmm.driver.anomalies import WrittenRows
from mpigmm.driver.posteriors import PosteriorFunction, for_each_posterior
from mpigmm.driver.row_output import RowOutput, writing_rows
from mpigmm.driver.score_rows import FileTask, computed_with, open_rows, open_task, origin
from mpigmm.driver.worker import RankContext
from mpigmm.errors import EXIT_DONE, ConfigError, counted, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import PredictRequest
from mpigmm.rows import VALUES, Rows
from mpigmm.runs.streams import write_message

LEFT_OUT = -1
"""Label of a row that is left out."""

THRESHOLD = "anomaly_log_density"
"""Attribute with the log-density up to which rows are anomalies."""


def run(comm: Comm, request: PredictRequest, stop: StopRequest) -> int:
    """Assign the rows of a request to components; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_task(request.model, request.rows, stop.check)
            check_request(request, task)
    task = comm.bcast(task)
    unweighted = replace(task, header=task.header.only(VALUES))
    context = open_rows(comm, unweighted, request.rows, stop)
    output = None
    with comm.together():
        if comm.is_root:
            output = described(request, task, context)
    with writing_rows(comm, output, stop) as writer, single_threaded_blas:
        with comm.together(), context.guarded():
            new_function = partial(tile_writer, writer, context, request.proba)
            for_each_posterior(context, unweighted, new_function, writer.is_finished)
        summary = finish(request, task, context, writer)
    if comm.is_root:
        write_message(f"mpigmm: {shown(request.out)}: {summary} in {time.monotonic() - stop.begun:.1f} s")
    return EXIT_DONE


def check_request(request: PredictRequest, task: FileTask) -> None:
    """Raise `UserError` where the request does not make sense, or does not fit the model."""
    if request.proba > task.mixture.n_components:
        raise ConfigError(
            f"--proba {request.proba}: {shown(request.model)} has {counted(task.mixture.n_components, 'component')}; "
            "ask for no more"
        )
    if request.anomaly is not None and not 0 < request.anomaly < 1:
        raise ConfigError(f"--anomaly {request.anomaly:g} is not valid; give a share of the rows, 0 < Q < 1")


def finish(request: PredictRequest, task: FileTask, context: RankContext, writer: RowWriter) -> str:
    """Mark anomalies, if that is asked for; returns what is known of all rows. Collective; raises `AgreedError`."""
    rows, parts = WrittenRows(context, writer, FileSource(task.header)), [counted(task.header.n_rows, "row")]
    n_left_out = rows.count_left_out() if task.drop else 0
    if n_left_out:
        parts.append(f"{n_left_out:,} of them left out (NaN or infinity; label {LEFT_OUT})")
    if request.anomaly is not None:
        threshold = rows.quantile(decimal(request.anomaly))
        writer.attributes[THRESHOLD] = threshold
        n_marked = rows.mark(threshold)
        which = "no row is left" if math.isnan(threshold) else f"log-density <= {threshold:.9g}"
        parts.append(f"{n_marked:,} {'anomaly' if n_marked == 1 else 'anomalies'} ({which})")
    return ", ".join(parts)


def decimal(number: float) -> Fraction:
    """The decimal number that Python writes for a float, exactly: 1/10 for 0.1."""
    return Fraction(repr(number))


def described(request: PredictRequest, task: FileTask, context: RankContext) -> RowOutput:
    """The file to write, with the names of the model and of the files of the rows."""
    header, layout = task.header, context.layout
    attributes, tables = origin(request.model, header)
    if request.anomaly is not None:
        attributes |= {"anomaly_quantile": request.anomaly, THRESHOLD: math.nan}
    return RowOutput(
        verb="predict",
        path=request.out,
        overwrite=request.overwrite,
        content=Content(
            n_rows=header.n_rows,
            columns=columns(request),
            attributes=attributes,
            tables=tables,
        ),
        inputs=[request.model, *input_files(header)],
        job=repr((task.mixture.digest(), header, task.drop, layout.tile_rows, computed_with(context))),
        n_parts=layout.n_tiles,
    )


def columns(request: PredictRequest) -> dict[str, Column]:
    """Datasets of the output with one entry for each row of the input."""
    found, m = {"labels": Column((), "int32"), "log_density": Column((), "float64")}, request.proba
    if m:
        found |= {"proba": Column((m,), "float64"), "components": Column((m,), "int32")}
    if request.anomaly is not None:
        found["anomaly"] = Column((), "bool")
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
