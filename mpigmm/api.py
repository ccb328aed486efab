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
from mpigmm.data.source import Header
from mpigmm.driver.fit_rows import fit_rows
from mpigmm.driver.memory_recorder import MemoryRecorder
from mpigmm.driver.null_recorder import Outcome
from mpigmm.errors import MpigmmWarning, counted
from mpigmm.fitted import Mixture
from mpigmm.options import FitOptions
from mpigmm.own_rows import Matrix, source_of
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import FitRequest
from mpigmm.runs.convergence import convergence_table
from mpigmm.runs.progress import Reporter
from mpigmm.runs.voice import Voice
from mpigmm.settings import Config, agreed_options, config_path, config_text

AGAIN = "call fit again with the same settings to go on, if they have output.dir"


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
        are not copied, and not changed. Without it, the rows of ``data.path`` are read.
    sample_weight : array_like of shape (n,), optional
        Weights >= 0 of the rows of X.
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
        source = source_of(ranks, options.data, X, sample_weight, is_alone=comm is None)

        def new_recorder() -> MemoryRecorder:
            voices.append(LoudVoice(options.em.max_iter, options.init.n_init) if verbose else Voice())
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


def recorder_of(options: FitOptions, config: Config, header: Header, voice: Voice, *, restart: bool) -> MemoryRecorder:
    """The recorder of a call, with files if it has an ``output.dir``. Root alone; raises `UserError`."""
    if options.output.dir is None:
        return MemoryRecorder(options, header, voice)
    from mpigmm.driver.recorder import Recorder

    return Recorder(FitRequest(options, config_text(options), restart, config_path(config)), header, voice)
