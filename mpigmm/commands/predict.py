"""``predict``: rows to components."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpigmm.commands.rows import Task, Visit, open_task, stream_team, sweep_posterior
from mpigmm.core.exact import FloatArray
from mpigmm.data.output import Column, RowWriter, create, discard, publish
from mpigmm.errors import EXIT_DONE, AgreedError, ConfigError, OutputError, counted
from mpigmm.options import PredictOrder
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas


def run(comm: Comm, order: PredictOrder, stop: StopRequest) -> int:
    """Write the file that `order` asks for; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_task(order.model, order.data, order.dataset)
            check_order(order, task)
    task = comm.bcast(task)
    team = stream_team(comm, task, stop)
    placed = None
    try:
        with comm.together():
            if comm.is_root:
                placed = create(order.out, task.header.n_rows, columns(order.proba), {"model": order.model})
        placed = comm.bcast(placed)
        with comm.together(), single_threaded_blas(), RowWriter(order.out, placed) as writer:
            sweep_posterior(team, task, lambda: visitor(writer, order.proba))
        with comm.together():
            if comm.is_root:
                publish(order.out)
    except AgreedError:
        if comm.is_root:
            discard(order.out)
        raise
    return EXIT_DONE


def check_order(order: PredictOrder, task: Task) -> None:
    """Raise `UserError` where the order does not fit the model or the inputs."""
    if order.proba > task.mixture.n_components:
        raise ConfigError(
            f"--proba {order.proba}: {order.model} has {counted(task.mixture.n_components, 'component')}; ask for no "
            "more"
        )
    out = Path(order.out)
    if not out.name or (out.exists() and not out.is_file()):
        raise OutputError(f"--out {order.out!r} is not the name of a file; name the HDF5 file to write")
    if not out.parent.is_dir():
        raise OutputError(
            f"--out {order.out} cannot be written: {out.parent} is no directory; make it, or choose another"
        )
    for path in (order.model, *task.header.paths):
        if out.exists() and out.samefile(path):
            raise OutputError(f"--out {order.out} would overwrite the input {path}; choose another name")


def columns(proba: int) -> dict[str, Column]:
    """Datasets of the output."""
    found = {"labels": Column((), "int32"), "log_density": Column((), "float64")}
    if proba:
        found |= {"proba": Column((proba,), "float64"), "components": Column((proba,), "int32")}
    return found


def visitor(writer: RowWriter, proba: int) -> Visit:
    """What a thread does with a tile's posterior."""

    def visit(first: int, resp: FloatArray, log_density: FloatArray) -> None:
        writer.write("labels", first, resp.argmax(axis=0))
        writer.write("log_density", first, log_density)
        if proba:
            order = np.argsort(-resp, axis=0, kind="stable")[:proba]
            writer.write("proba", first, np.take_along_axis(resp, order, axis=0).T)
            writer.write("components", first, order.T)

    return visit
