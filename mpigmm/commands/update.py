"""``update``: folds new rows into a fitted model."""

from __future__ import annotations

from mpigmm.data.file_source import FileSource
from mpigmm.driver.devices import Devices, choose_devices
from mpigmm.driver.update_files import ModelOut, UpdateTask, open_update_task, rows_of, update_text
from mpigmm.driver.update_rows import update_rows
from mpigmm.driver.watch import watch_files
from mpigmm.errors import EXIT_DONE, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import UpdateRequest
from mpigmm.runs.streams import print_result, write_message


def run(comm: Comm, request: UpdateRequest, stop: StopRequest) -> int:
    """Write the updated model and print what was folded in; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_update_task(request, stop.check)
    task = comm.bcast(task)
    devices = choose_devices(comm, task.settings.compute.device)
    if comm.is_root and devices.note:
        write_message(f"mpigmm: {devices.note}")
    try:
        fold = fold_rows if request.watch is None else watch_files
        result = fold(comm, request, task, devices, stop)
    finally:
        devices.release()
    if comm.is_root:
        print_result(result)
    return EXIT_DONE


def fold_rows(comm: Comm, request: UpdateRequest, task: UpdateTask, devices: Devices, stop: StopRequest) -> str:
    """Fold in the rows of a request; returns the result in words on root. Collective; raises `AgreedError`."""
    header, out = None, None
    with comm.together():
        if comm.is_root:
            out = ModelOut(request)
            out.check(stop.check)
            header = rows_of(request, task.model, request.rows.data.path)
    updated = update_rows(comm, task.model, FileSource(comm.bcast(header)), task.settings, devices, stop)
    with comm.together():
        if out is not None:
            out.check(stop.check)
            out.save(updated.model)
    return f"{shown(request.out)}: {update_text(updated)}"
