"""``fit``: from rows in files to a fitted mixture."""

from __future__ import annotations

from mpigmm.core.algorithms import algorithm_type
from mpigmm.driver.file_rows import open_files
from mpigmm.driver.fit_rows import fit_rows
from mpigmm.driver.recorder import Recorder
from mpigmm.errors import EXIT_DONE
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import FitRequest
from mpigmm.runs.progress import Reporter


def run(comm: Comm, request: FitRequest, stop: StopRequest) -> int:
    """Fit the mixture that a request describes; returns the exit code. Collective."""
    options = request.options
    stop.advice = f"run the same command again{', without --restart,' if request.restart else ''} to go on"
    source = open_files(comm, options.data, options.init.labels)

    def new_recorder() -> Recorder:
        em, n_starts = options.em, options.n_starts
        projected, passes = em.criterion == "aitken", algorithm_type(em).takes_batches
        voice = Reporter(em.max_iter, n_starts, em.tol, projected, counts_passes=passes)
        return Recorder(request, source.header, voice)

    fit_rows(comm, options, source, new_recorder, stop)
    return EXIT_DONE
