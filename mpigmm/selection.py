"""``mpigmm.select``: the verb `select` as a call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from mpigmm.api import AGAIN, source_of, warnings_of
from mpigmm.calls import call
from mpigmm.data.source import Header
from mpigmm.driver.candidates import check_method, n_fits
from mpigmm.driver.memory_recorder import MemoryRecorder
from mpigmm.driver.null_recorder import NullRecorder
from mpigmm.driver.select_rows import select_rows
from mpigmm.driver.selection_record import Selection, SelectionRecord
from mpigmm.errors import counted
from mpigmm.fitted import Mixture
from mpigmm.options import FitOptions
from mpigmm.own_rows import Matrix
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import SelectRequest
from mpigmm.runs.sweep_voice import SweepReporter, SweepVoice
from mpigmm.runs.voice import Voice
from mpigmm.settings import Config, agreed_options, config_path, config_text


@dataclass(frozen=True, eq=False, repr=False)
class SelectResult:
    """What `select` has found, the same on every rank.

    Attributes
    ----------
    mixture : Mixture
        The best one, fitted to all rows.
    fits : list of dict
        As in ``selection.json``: for each fit ``n_components``, ``covariance_type``, ``seed``, ``mean_log_likelihood``,
        ``held_out``, ``aic``, ``bic``, ``icl``, ``stability``, ``n_iter``, ``converged`` and ``seconds``; None where a
        value is not defined.
    best : dict
        The entry of `fits` that was chosen.
    tile_rows : int
        Rows of a tile: `fit` with this ``compute.tile_rows`` finds the same bits.
    """

    mixture: Mixture
    fits: list[dict[str, Any]]
    best: dict[str, Any]
    tile_rows: int

    def __repr__(self) -> str:
        return f"<SelectResult: {self.mixture!r}, best of {counted(len(self.fits), 'fit')}>"


def select(
    config: Config,
    X: Matrix | None = None,  # noqa: N803
    *,
    sample_weight: ArrayLike | None = None,
    comm: object = None,
    verbose: bool = False,
    restart: bool = False,
) -> SelectResult:
    """Fit mixtures with several numbers of components and types of covariances, and choose the best. Collective.

    Section ``select`` of the settings says what is tried and what decides: ``n_components``, ``covariance_type``,
    ``seeds``, ``criterion`` and ``held_out``; see docs/configuration.md.

    Parameters
    ----------
    config, X, sample_weight, comm, verbose, restart
        As for `fit`. With ``output.dir``, each fit has a directory of its own in it, and an interrupted selection goes
        on fit by fit.

    Returns
    -------
    result : SelectResult

    Raises
    ------
    MpigmmError
        As `fit` does.
    """
    voices: list[SweepVoice] = []

    def work(ranks: Comm, stop: StopRequest) -> Selection:
        options = agreed_options(ranks, config, in_memory=X is not None)
        with ranks.together():
            check_method(options.init.method)
        source = source_of(ranks, options, X, sample_weight, is_alone=comm is None)

        def new_record() -> SelectionRecord:
            voices.append(LoudSweep(n_fits(options)) if verbose else SweepVoice())
            return record_of(options, config, source.header, voices[0], restart=restart)

        record = select_rows(ranks, options, source, new_record, partial(recorder_of_fit, restart=restart), stop)
        return ranks.bcast(None if record is None else record.selection)

    with warnings_of(voices):
        found = call(comm, AGAIN, work)
    return SelectResult(Mixture.from_model(found.model), found.rows, found.rows[found.best], found.tile_rows)


class LoudSweep(SweepReporter):
    """Writes what the command writes, except for warnings."""

    def tell_warning(self, text: str) -> None:
        self.warnings.append(text)


def record_of(
    options: FitOptions, config: Config, header: Header, voice: SweepVoice, *, restart: bool
) -> SelectionRecord:
    """The record of a call, with files if it has an ``output.dir``. Root alone; raises `UserError`."""
    if options.output.dir is None:
        return SelectionRecord(options, header, voice)
    from mpigmm.driver.selection_files import SelectionFiles

    return SelectionFiles(SelectRequest(options, config_text(options), restart, config_path(config)), header, voice)


def recorder_of_fit(options: FitOptions, header: Header, voice: Voice, restart: bool) -> NullRecorder:
    """The recorder of one of the fits, with files if it has an ``output.dir``."""
    if options.output.dir is None:
        return MemoryRecorder(options, header, voice)
    from mpigmm.driver.selection_files import fit_recorder

    return fit_recorder(options, header, voice, restart)
