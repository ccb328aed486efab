"""What `select` does: from a source of rows to a table of fits and the best mixture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.data.array_source import ArraySource
from mpigmm.data.source import Header, Source
from mpigmm.driver.borders import complete_tiles
from mpigmm.driver.candidates import REFIT, Candidate, candidates_of, costliest, held_out_share
from mpigmm.driver.comparison import Compared, compare, stabilities
from mpigmm.driver.devices import Devices, choose_devices
from mpigmm.driver.groups import fit_in_groups, groups_of
from mpigmm.driver.held_out import FittedRows, HeldOut
from mpigmm.driver.null_recorder import NullRecorder, Outcome
from mpigmm.driver.resume_plan import tile_rows_of
from mpigmm.driver.selection_record import Selection, SelectionRecord
from mpigmm.driver.survey_pass import check_n_rows
from mpigmm.driver.sweep import Sweep, check_records, fit_all
from mpigmm.errors import AgreedError
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.runs.selection import Row, finite
from mpigmm.runs.sweep_voice import SweepVoice
from mpigmm.runs.voice import Voice

FIT_KEY = "model.n_components"
"""What messages about too many components begin with."""

NewRecorder = Callable[[FitOptions, Header, Voice], NullRecorder]


def select_rows(
    comm: Comm,
    options: FitOptions,
    source: Source,
    new_record: Callable[[], SelectionRecord],
    new_recorder: NewRecorder,
    stop: StopRequest,
) -> SelectionRecord | None:
    """Fit all candidates, compare them, and record the table and the best mixture. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm, options, source
    new_record : callable
        Makes the record of the selection; called on root.
    new_recorder : callable
        Makes the recorder of a fit; see `Sweep`.
    stop : StopRequest

    Returns
    -------
    record : SelectionRecord or None
        On root, with the selection.
    """
    try:
        return _select_rows(comm, options, source, new_record, new_recorder, stop)
    except AgreedError as error:
        raise AgreedError(in_words_of_select(str(error), options), error.kind) from None


def in_words_of_select(message: str, options: FitOptions) -> str:
    """A message about too many components that names the key of the section `select`, where that is set."""
    if options.select.n_components and message.startswith(f"{FIT_KEY}: "):
        message = "select" + message.removeprefix("model")
        if held_out_share(options.select):
            message += ", or lower select.held_out"
    return message


def _select_rows(
    comm: Comm,
    options: FitOptions,
    source: Source,
    new_record: Callable[[], SelectionRecord],
    new_recorder: NewRecorder,
    stop: StopRequest,
) -> SelectionRecord | None:
    candidates = candidates_of(options)
    for candidate in candidates:
        COVARIANCE_TYPES[candidate.covariance_type].prepare()
    with ExitStack() as stack:
        stack.enter_context(single_threaded_blas)
        with comm.together():
            check_n_rows(source.header, max(candidate.n_components for candidate in candidates))
        devices = choose_devices(comm, options.compute.device)
        stack.callback(devices.release)
        record, tile_rows, ops = open_selection(comm, options, candidates, source, devices, new_record, stack)
        voice = SweepVoice() if record is None else record.voice
        sweep = Sweep(options, new_recorder, voice, devices, tile_rows, ops, stop)
        with comm.guarded():
            held_out = HeldOut(held_out_share(options.select))
            rows = fitted_rows(comm, source, held_out, tile_rows)
            with comm.together():
                if comm.is_root:
                    check_records(sweep, candidates, rows.header)
            n_groups = groups_of(comm, sweep, candidates, rows)
            fits = fit_all if n_groups == 1 else partial(fit_in_groups, n_groups=n_groups)
            outcomes = fits(comm, sweep, candidates, rows)
            compare_and_record(comm, sweep, record, candidates, source, held_out, outcomes)
        return record


def open_selection(
    comm: Comm,
    options: FitOptions,
    candidates: Sequence[Candidate],
    source: Source,
    devices: Devices,
    new_record: Callable[[], SelectionRecord],
    stack: ExitStack,
) -> tuple[SelectionRecord | None, int, str]:
    """The record on root, which the stack closes, the rows of a tile, and the array operations on the host.

    Collective; raises `AgreedError`.
    """
    record, settled = None, None
    with comm.together():
        if comm.is_root:
            record = new_record()
            stack.enter_context(closing(record))
            largest = costliest(candidates, source.header.n_features)
            model = replace(options.model, n_components=largest.n_components, covariance_type=largest.covariance_type)
            tile_rows = tile_rows_of(replace(options, model=model), source.header, devices)
            settled = record.open(tile_rows)
    tile_rows, ops = comm.bcast(settled)
    return record, tile_rows, ops


def fitted_rows(comm: Comm, source: Source, held_out: HeldOut, tile_rows: int) -> Source:
    """The source, or one in which the rows that are held out have weight zero. Collective; raises `AgreedError`."""
    if not held_out.share:
        return source
    if isinstance(source, ArraySource):
        complete_tiles(comm, source, tile_rows)
    return FittedRows(source, held_out)


def compare_and_record(
    comm: Comm,
    sweep: Sweep,
    record: SelectionRecord | None,
    candidates: Sequence[Candidate],
    source: Source,
    held_out: HeldOut,
    outcomes: Sequence[Outcome | None],
) -> None:
    """Compare the fits, choose the best, fit it to all rows if some were held out, and record all. Collective."""
    begin = time.perf_counter()
    mixtures = comm.bcast([outcome.model.mixture for outcome in outcomes if outcome is not None])
    masked = source.header.is_weighted or sweep.options.data.missing == "drop"
    compared = compare(comm, source, mixtures, held_out, sweep.tile_rows, sweep.ops, sweep.stop, masked=masked)
    seconds = (time.perf_counter() - begin) / len(candidates)
    rows: list[Row] = []
    best = 0
    with comm.together():
        if comm.is_root:
            found = [outcome for outcome in outcomes if outcome is not None]
            rows = table(candidates, found, compared, seconds)
            best = best_row(rows, sweep.options.select.criterion)
    best = comm.bcast(best)
    if held_out.share:
        outcomes = fit_all(comm, sweep, candidates[best : best + 1], source, suffix=REFIT)
    else:
        outcomes = outcomes[best : best + 1]
    with comm.together():
        if record is not None and outcomes[0] is not None:
            record.finish(Selection(rows, best, outcomes[0].model, sweep.tile_rows))


def table(
    candidates: Sequence[Candidate], outcomes: Sequence[Outcome], compared: Sequence[Compared], seconds: float
) -> list[Row]:
    """The table of all fits, each of which has taken so many seconds more in the comparison."""
    groups = [(candidate.covariance_type, candidate.n_components) for candidate in candidates]
    agreements = stabilities(groups, [each.labels for each in compared])
    return [
        row(candidate, outcome.summary, each, agreement, seconds)
        for candidate, outcome, each, agreement in zip(candidates, outcomes, compared, agreements, strict=True)
    ]


def row(
    candidate: Candidate, summary: dict[str, Any], compared: Compared, agreement: float | None, seconds: float
) -> Row:
    """The row of a fit in the table."""
    held_out = compared.held_out.mean_log_likelihood if compared.held_out.total_weight else None
    return {
        "n_components": candidate.n_components,
        "covariance_type": candidate.covariance_type,
        "seed": candidate.seed,
        "mean_log_likelihood": summary["mean_log_likelihood"],
        "held_out": finite(held_out),
        "aic": summary["aic"],
        "bic": summary["bic"],
        "icl": summary["bic"] + 2 * compared.fitted.entropy,
        "stability": agreement,
        "n_iter": summary["n_iter"],
        "converged": summary["converged"],
        "seconds": summary["seconds"] + seconds,
    }


def best_row(rows: Sequence[Row], criterion: str) -> int:
    """Index of the best fit; of equal ones the first."""
    if criterion == "held_out":
        return max(range(len(rows)), key=lambda i: -float("inf") if rows[i][criterion] is None else rows[i][criterion])
    return min(range(len(rows)), key=lambda i: rows[i][criterion])
