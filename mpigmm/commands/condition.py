"""``condition``: the other features of rows of which some are given, by mixture regression."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import numpy as np

from mpigmm.core.arrays import Array
from mpigmm.core.conditional import Conditional
from mpigmm.data.file_source import FileSource, input_files
from mpigmm.data.output import Column, Content, RowWriter
from mpigmm.driver.anomalies import WrittenRows
from mpigmm.driver.condition_rows import ConditionTask, open_condition
from mpigmm.driver.posteriors import PosteriorFunction, for_each_posterior
from mpigmm.driver.row_output import RowOutput, writing_rows
from mpigmm.driver.score_rows import computed_with, open_rows, origin
from mpigmm.driver.worker import RankContext
from mpigmm.errors import EXIT_DONE, counted, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import ConditionRequest
from mpigmm.rows import Rows
from mpigmm.runs.streams import write_message


def run(comm: Comm, request: ConditionRequest, stop: StopRequest) -> int:
    """Write means and covariances of the remaining features of the rows; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_condition(request, stop.check)
    task = comm.bcast(task)
    context = open_rows(comm, task.rows, request.rows, stop)
    output = None
    with comm.together():
        if comm.is_root:
            output = condition_output(request, task, context)
    with writing_rows(comm, output, stop) as writer, single_threaded_blas:
        with comm.together(), context.guarded():
            new_function = partial(moments_writer, writer, context, task.conditional)
            for_each_posterior(context, task.rows, new_function, writer.is_finished)
        n_left_out = count_left_out(task, context, writer)
    if comm.is_root:
        left_out = f", {n_left_out:,} of them left out (NaN or infinity)" if n_left_out else ""
        rows = counted(task.rows.header.n_rows, "row")
        write_message(f"mpigmm: {shown(request.out)}: {rows}{left_out} in {time.monotonic() - stop.begun:.1f} s")
    return EXIT_DONE


def count_left_out(task: ConditionTask, context: RankContext, writer: RowWriter) -> int:
    """Number of rows that are left out. Collective; raises `AgreedError`."""
    if not task.rows.drop:
        return 0
    return WrittenRows(context, writer, FileSource(task.rows.header)).count_left_out()


def condition_output(request: ConditionRequest, task: ConditionTask, context: RankContext) -> RowOutput:
    """The file to write, with the names of the model, of the files of the rows, and of the features."""
    header, layout, n_remaining = task.rows.header, context.layout, task.conditional.n_remaining
    attributes, tables = origin(request.model, header)
    remaining = np.setdiff1d(np.arange(len(task.given) + n_remaining), task.given).tolist()
    attributes |= {"given": task.given.tolist(), "remaining": remaining}
    of_mean: dict[str, Any] = {}
    if task.feature_names is not None:
        attributes["feature_names"] = json.dumps(task.feature_names)
        of_mean["columns"] = [task.feature_names[feature] for feature in remaining]
    return RowOutput(
        verb="condition",
        path=request.out,
        overwrite=request.overwrite,
        content=Content(
            n_rows=header.n_rows,
            columns={
                "mean": Column((n_remaining,), "float64"),
                "covariance": Column((n_remaining, n_remaining), "float64"),
                "log_density": Column((), "float64"),
            },
            attributes=attributes,
            tables=tables,
            column_attributes={"mean": of_mean},
        ),
        inputs=[request.model, *input_files(header)],
        job=repr((task.digest, header, task.rows.drop, layout.tile_rows, computed_with(context))),
        n_parts=layout.n_tiles,
    )


def moments_writer(writer: RowWriter, context: RankContext, conditional: Conditional) -> PosteriorFunction:
    """A function that writes the moments and log-densities of a tile, NaN for rows that are left out."""
    get = context.ops.arrays.get

    def write_tile(rows: Rows, resp: Array, log_density: Array) -> None:
        density = get(log_density)
        left_out = np.isnan(density)
        with np.errstate(invalid="ignore"):  # of infinity in rows that are left out
            for block, mean, covariance in conditional.moments(get(rows.values), get(resp)):
                mean[left_out[block]] = covariance[left_out[block]] = np.nan
                writer.write("mean", rows.first + block.start, mean)
                writer.write("covariance", rows.first + block.start, covariance)
        writer.write("log_density", rows.first, density)
        writer.finish(rows.first // context.block.tile_rows)

    return write_tile
