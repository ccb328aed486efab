"""``select``: from rows in files to a table of fits, and the best of them."""

from __future__ import annotations

from functools import partial

from mpigmm.driver.candidates import check_method, n_fits
from mpigmm.driver.file_rows import open_files
from mpigmm.driver.select_rows import select_rows
from mpigmm.driver.selection_files import SelectionFiles, fit_recorder
from mpigmm.errors import EXIT_DONE
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import SelectRequest
from mpigmm.runs.sweep_voice import SweepReporter


def run(comm: Comm, request: SelectRequest, stop: StopRequest) -> int:
    """Make and compare the fits that a request describes; returns the exit code. Collective."""
    stop.advice = f"run the same command again{', without --restart,' if request.restart else ''} to go on"
    with comm.together():
        check_method(request.options.init.method)
    source = open_files(comm, request.options.data)

    def new_record() -> SelectionFiles:
        return SelectionFiles(request, source.header, SweepReporter(n_fits(request.options)))

    new_recorder = partial(fit_recorder, restart=request.restart)
    select_rows(comm, request.options, source, new_record, new_recorder, stop)
    return EXIT_DONE
