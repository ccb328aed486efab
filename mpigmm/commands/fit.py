"""``fit``: from rows in files to a fitted mixture."""

from __future__ import annotations

from mpigmm.data.hdf5_source import Hdf5Source, read_header
from mpigmm.driver.fit_rows import fit_rows
from mpigmm.driver.recorder import Recorder
from mpigmm.errors import EXIT_DONE
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import FitRequest
from mpigmm.runs.progress import Reporter


def run(comm: Comm, request: FitRequest, stop: StopRequest) -> int:
    """Fit the mixture that a request describes; returns the exit code. Collective."""
    options, data = request.options, request.options.data
    stop.advice = f"run the same command again{', without --restart,' if request.restart else ''} to go on"
    header = None
    with comm.together():
        if comm.is_root:
            header = read_header(data.path, data.dataset, data.weights, data.columns, data.rows)
    header = comm.bcast(header)

    def new_recorder() -> Recorder:
        return Recorder(request, header, Reporter(options.em.max_iter, options.init.n_init))

    fit_rows(comm, options, Hdf5Source(header), new_recorder, stop)
    return EXIT_DONE
