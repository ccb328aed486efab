"""The survey: one pass over all rows before the first iteration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.survey import LEAST_VARIANCE, BadRowError, RowSample, RowSampler, Survey, SurveyStatistics, far_limits
from mpigmm.core.tile import Tile
from mpigmm.data.source import Header, Source
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.worker import Team, Tiles
from mpigmm.errors import DataError, shown
from mpigmm.options import FitOptions

FIRST_ROWS, MOST_ROWS = 1024, 1 << 16
LEAST_WEIGHT = 1e-100
Sample = tuple[FloatArray, FloatArray]


def survey_rows(team: Team, options: FitOptions, sample_size: int) -> tuple[Survey, Sample]:
    """What all ranks need to know of the data, and on root the rows for the initialisation. Collective.

    Raises `AgreedError` naming the first row that cannot be used.
    """
    comm, header = team.comm, team.header
    with comm.together():
        centre = first_centre(team.block.source) if comm.is_root else None
    centre = comm.bcast(centre)
    sampler = RowSampler(options.init.seed, sample_size / header.n_rows)
    with comm.together():
        own, sample = _survey_own(team, centre, sampler, drop=options.data.missing == "drop")
    packed = comm.sum(own.packed())
    box = comm.max(np.concatenate([-own.low, own.high]))
    survey = own.finish(packed, -box[: len(centre)], box[len(centre) :])
    with comm.together():
        check_survey(survey, header, options)
    rows, weights = gather_sample(team, survey, sampler, sample, sample_size)
    middle = comm.bcast(np.array([np.median(column) for column in rows.T]) if comm.is_root else None)
    return replace(survey, centre=middle), (rows, weights)


def first_centre(source: Source | SyntheticSource) -> FloatArray:
    """A point amid the rows: the median of the first ones that count for something."""
    start, count, n_rows = 0, FIRST_ROWS, source.header.n_rows
    while start < n_rows:
        rows, weights = source.read(start, min(start + count, n_rows))
        used = np.isfinite(rows).all(axis=1)
        if weights is not None:
            used &= weights.astype(np.float64) > 0
        if used.any():
            return np.asarray(np.median(rows[used].astype(np.float64), axis=0))
        start, count = start + count, min(2 * count, MOST_ROWS)
    return np.zeros(source.header.n_features)


def _survey_own(
    team: Team, centre: FloatArray, sampler: RowSampler, *, drop: bool
) -> tuple[SurveyStatistics, RowSample]:
    def visit(tile: Tile, tiles: Tiles) -> tuple[SurveyStatistics, RowSample]:
        statistics, sample = SurveyStatistics(centre, drop=drop), RowSample()
        for first, rows, weights in tiles:
            statistics.add(tile, first, rows, weights)
            sample.take(sampler, tile, first, rows)
        return statistics, sample

    try:
        parts = team.sweep(visit)
    except BadRowError as error:
        raise DataError(explain(error, team.header)) from None
    total, sample = parts[0]
    for statistics, rows in parts[1:]:
        total += statistics
        sample.extend(rows)
    return total, sample


def explain(error: BadRowError, header: Header, remedy: str = "set data.missing: drop to leave such rows out") -> str:
    """A bad row in words, with the remedy."""
    where = header.where(error.row)
    if error.column is None:
        return f"data.weights: {where} has weight {error.value:g}; weights are finite and >= 0"
    what = "NaN" if np.isnan(error.value) else "an infinity" if np.isinf(error.value) else f"{error.value:g}"
    column = header.column(error.column)
    if np.isfinite(error.value):
        return f"{where} holds {what} in column {column}, too large to square; rescale the column, or leave the row out"
    return f"{where} holds {what} in column {column}; {remedy}"


def check_survey(survey: Survey, header: Header, options: FitOptions) -> None:
    """Raise `DataError` where the rows cannot carry the mixture asked for."""
    k = options.model.n_components
    if survey.n_samples < k:
        raise DataError(
            f"model.n_components: {k} components need at least {k} rows, but {shown(header.dataset)} has "
            f"{survey.n_samples} usable ones of {header.n_rows}; lower it, or check data.rows, data.weights and "
            "data.missing"
        )
    if not survey.total_weight > LEAST_WEIGHT:
        raise DataError(f"data.weights: they sum to {survey.total_weight:g}, too little to compute with; scale them up")
    if options.model.reg_covar == 0:
        check_variances(survey, header)


def check_variances(survey: Survey, header: Header) -> None:
    """Raise `DataError` where rows vary too little for a covariance to which nothing is added."""

    def named(features: list[int]) -> str:
        return f"column {', '.join(str(header.column(d)) for d in features[:10])} of {shown(header.dataset)}"

    constant, narrow = survey.constant_features(), survey.narrow_features()
    if constant:
        raise DataError(
            f"{named(constant)} has the same value in every row, so that no covariance is positive definite; set "
            "model.reg_covar above 0, or leave the column out by data.columns"
        )
    if narrow:
        raise DataError(
            f"{named(narrow)} varies by less than float64 can square (by {np.sqrt(LEAST_VARIANCE):g} or less); rescale "
            "it, set model.reg_covar above 0, or leave it out by data.columns"
        )


def gather_sample(team: Team, survey: Survey, sampler: RowSampler, own: RowSample, wanted: int) -> Sample:
    """The sample of all ranks, on root; a larger share is drawn where too many of its rows were masked. Collective."""
    comm = team.comm
    while True:
        size = comm.sum(np.array([sum(map(len, own.numbers))]))[0]
        if sampler.share >= 1 or size >= min(wanted // 2, survey.n_samples):
            break
        sampler = RowSampler(sampler.seed, sampler.share * max(4.0, wanted / max(size, 1)))
        with comm.together():
            own = _sample_own(team, survey, sampler)
    rows, weights = own.arrays(team.header.n_features)
    return comm.concatenate(rows), comm.concatenate(weights)  # ranks hold tiles in their order


def far_row(team: Team, survey: Survey, sample: Sample) -> str | None:
    """On root, a warning that names the first row with a value too far from all others to be one. Collective."""
    comm, header = team.comm, team.header
    median, limit = comm.bcast(far_limits(sample[0]) if comm.is_root else None)
    if (np.maximum(survey.high - median, median - survey.low) <= limit).all():
        return None
    with comm.together():
        found = _first_far_row(team, survey, median, limit)
    row = -int(comm.max(np.array([-float(found)]))[0])
    warning = None
    with comm.together():
        if comm.is_root and row < header.n_rows:
            values = team.block.source.read(row, row + 1)[0][0].astype(np.float64)
            column = int((np.abs(values - median) > limit).argmax())
            warning = (
                f"warning: {header.where(row)} holds {values[column]:g} in column {header.column(column)}, a million "
                "standard deviations from the rest; if it means a missing value, write NaN and set data.missing: drop"
            )
    return warning


def _first_far_row(team: Team, survey: Survey, median: FloatArray, limit: FloatArray) -> int:
    """This rank's first row with a value beyond the limit; the number of all rows where it has none."""

    def visit(tile: Tile, tiles: Tiles) -> int:
        for first, rows, weights in tiles:
            tile.fill(rows, weights, median, mask=survey.masked)
            far = (np.abs(tile.rows) > limit[:, None]).any(axis=0)
            if far.any():
                return first + int(far.argmax())
        return team.header.n_rows

    return min(team.sweep(visit))


def _sample_own(team: Team, survey: Survey, sampler: RowSampler) -> RowSample:
    def visit(tile: Tile, tiles: Tiles) -> RowSample:
        sample = RowSample()
        for first, rows, weights in tiles:
            tile.fill(rows, weights, survey.centre, mask=survey.masked)
            sample.take(sampler, tile, first, rows)
        return sample

    whole = RowSample()
    for part in team.sweep(visit):
        whole.extend(part)
    return whole
