"""``mpigmm.fit``: the whole program as a call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpigmm.calls import call, in_words_of_calls
from mpigmm.core.algorithms import algorithm_type
from mpigmm.data.source import Header, Source
from mpigmm.driver.fit_rows import fit_rows
from mpigmm.driver.memory_recorder import MemoryRecorder
from mpigmm.driver.null_recorder import Outcome
from mpigmm.errors import ConfigError, MpigmmWarning, counted
from mpigmm.fitted import Mixture
from mpigmm.options import FitOptions
from mpigmm.own_rows import Matrix, OwnRows, array_source
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.launcher import launched
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import FitRequest
from mpigmm.runs.convergence import convergence_table
from mpigmm.runs.progress import Reporter
from mpigmm.runs.voice import Voice
from mpigmm.settings import Config, agreed_options, check_labels_given, config_path, config_text

AGAIN = "repeat the call with the same settings to go on, if they have output.dir"


@dataclass(frozen=True, eq=False, repr=False)
class FitResult:
    """What a fit has found, the same on every rank.

    Attributes
    ----------
    mixture : Mixture
        The fitted mixture.
    summary : dict
        Sizes, log-likelihood, criteria, times and versions, as in ``summary.json``.
    convergence : structured ndarray of shape (n_iterations,)
        A row for each iteration, with the fields of ``convergence.jsonl``; NaN stands for null.
    """

    mixture: Mixture
    summary: dict[str, Any]
    convergence: NDArray[np.void]

    def __repr__(self) -> str:
        ended = "converged" if self.summary["converged"] else "stopped"
        return f"<FitResult: {self.mixture!r}, {ended} after {counted(self.summary['n_iter'], 'iteration')}>"


def fit(
    config: Config,
    X: Matrix | None = None,  # noqa: N803
    *,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    comm: object = None,
    verbose: bool = False,
    restart: bool = False,
) -> FitResult:
    """Fit a Gaussian mixture to rows in files or in memory. Collective.

    Parameters
    ----------
    config : path, dict or FitOptions
        A YAML file, its sections as a dictionary (``{"model": {"n_components": 8}}``) or options; the same on all
        ranks. See docs/configuration.md. Without ``output.dir`` no file is written, locked or resumed; with it, the
        call resumes an unfinished fit as the command does.
    X : array_like of shape (n, D), or tuple of D array_like of shape (n,), optional
        The rows that this rank brings, any number, in the order of ranks: integers or floats, with any strides. They
        are not copied, and not changed. If it is a data frame, the mixture keeps the names of its columns. Without it,
        the rows of ``data.path`` are read.
    sample_weight : array_like of shape (n,), optional
        Weights >= 0 of the rows of X.
    labels : array_like of shape (n,) or (n, K), optional
        Where ``init.method`` is ``labels``: the components, integers from 0 to K - 1, from which the rows of X start,
        -1 for a row without a label; or responsibilities >= 0, which are scaled to the sum 1, with zeros or NaN alone
        for a row without.
    comm : mpi4py.MPI.Intracomm or int, optional
        The communicator of the ranks that fit together, or its handle in Fortran. By default this process fits alone,
        and MPI is not started.
    verbose : bool
        Whether to write progress to standard error, and the result to standard output.
    restart : bool
        Whether to start over, whatever ``output.dir`` holds.

    Returns
    -------
    result : FitResult
        The mixture, its summary and the convergence log.

    Raises
    ------
    MpigmmError
        A subclass, the same on all ranks, with a message that names the remedy: `ConfigError` and `DataError`, which
        are also `ValueError`; `OutputError`; `DegenerateError`; `InterruptedRunError`. If KeyboardInterrupt is raised
        on a rank during the fit, all ranks raise `InterruptedCallError`, which is also `KeyboardInterrupt`.
    """
    voices: list[Voice] = []

    def work(ranks: Comm, stop: StopRequest) -> Outcome:
        options = agreed_options(ranks, config, in_memory=X is not None)
        source = source_of(ranks, options, X, sample_weight, labels, is_alone=comm is None)

        def new_recorder() -> MemoryRecorder:
            em, n_starts = options.em, options.n_starts
            projected, passes = em.criterion == "aitken", algorithm_type(em).takes_batches
            loud = LoudVoice(em.max_iter, n_starts, em.tol, projected, counts_passes=passes) if verbose else None
            voices.append(loud or Voice())
            return recorder_of(options, config, source.header, voices[0], restart=restart)

        recorder = fit_rows(ranks, options, source, new_recorder, stop)
        return ranks.bcast(recorder.outcome)

    with warnings_of(voices):
        outcome = call(comm, AGAIN, work)
    return FitResult(Mixture.from_model(outcome.model), outcome.summary, convergence_table(outcome.history))


class HasWarnings(Protocol):
    """A `Voice`, or what keeps the warnings of several."""

    warnings: list[str]


@contextmanager
def warnings_of(voices: Sequence[HasWarnings]) -> Iterator[None]:
    """A context at whose end what voices have kept is issued as warnings in the code that called its function."""
    try:
        yield
    except BaseException:
        with suppress(MpigmmWarning):  # where warnings are errors, it would hide the error
            issue_warnings(voices)
        raise
    issue_warnings(voices)


def issue_warnings(voices: Sequence[HasWarnings]) -> None:
    """Issue warnings in the code that called the function which ends a context of `warnings_of`."""
    for voice in voices:
        for text in voice.warnings:
            warnings.warn(in_words_of_calls(text), MpigmmWarning, stacklevel=5)


class LoudVoice(Reporter):
    """Writes what the command writes, except for warnings."""

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def source_of(
    comm: Comm,
    options: FitOptions,
    X: Matrix | None,  # noqa: N803
    sample_weight: ArrayLike | None,
    labels: ArrayLike | None = None,
    *,
    is_alone: bool,
) -> Source:
    """The source of the rows of a call. Collective; raises `AgreedError`."""
    own = None
    with comm.together():
        if X is not None:
            own = OwnRows.of(X, sample_weight, labels)
            check_labels_given(options.init.method, given=labels is not None, n_rows=own.n_rows)
        elif sample_weight is not None:
            raise ConfigError("sample_weight: it belongs to X; of rows in files, data.weights names the weights")
        elif labels is not None:
            raise ConfigError("labels: they belong to X; of rows in files, init.labels names the labels")
        elif is_alone:
            check_alone()
    if own is not None:
        return array_source(comm, own)
    from mpigmm.driver.file_rows import open_files

    return open_files(comm, options.data, options.init.labels)


def check_alone() -> None:
    """Raise `ConfigError` where a launcher started this process with others, each of which would fit all rows."""
    _, n_processes = launched()
    if n_processes > 1:
        raise ConfigError(
            f"comm: a launcher started {n_processes} processes; give comm=MPI.COMM_WORLD to let them fit together, or "
            "comm=MPI.COMM_SELF to let each fit all rows of data.path (from mpi4py import MPI)"
        )


def recorder_of(options: FitOptions, config: Config, header: Header, voice: Voice, *, restart: bool) -> MemoryRecorder:
    """The recorder of a call, with files if it has an ``output.dir``. Root alone; raises `UserError`."""
    if options.output.dir is None:
        return MemoryRecorder(options, header, voice)
    from mpigmm.driver.recorder import Recorder

    return Recorder(FitRequest(options, config_text(options), restart, config_path(config)), header, voice)
