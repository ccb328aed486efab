"""The survey: one pass over all rows before the first iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpigmm.core.data_summary import LEAST_VARIANCE, DataSummary, DataSummaryStatistics, far_limits
from mpigmm.core.exact import FloatArray, IntArray
from mpigmm.core.row_checks import LARGEST_MAGNITUDE, BadLabelError, BadRowError, check_label
from mpigmm.core.sampling import RowSample, RowSampler
from mpigmm.core.tile import Tile
from mpigmm.data.source import Header, Source
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.worker import RankContext, Tiles
from mpigmm.errors import ConstantFeatureError, DataError, counted, shown
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.rows import LABEL

FIRST_ROWS, MOST_ROWS = 1024, 1 << 16
"""Rows that are read to find a centre: first, and at most at a time while none can be used."""

LEAST_WEIGHT = 1e-100
"""Sum of the sample weights that is too small to compute with."""

DROP = "set data.missing: drop to leave such rows out"
"""What the user can do about a row that holds NaN or infinity."""

Sample = tuple[FloatArray, FloatArray]
"""Values (m, D) and sample weights (m,) of some rows."""


@dataclass(frozen=True)
class SampleRequest:
    """A sample of rows to draw: the seed, and about how many rows."""

    seed: int
    size: int


def survey_rows(context: RankContext, options: FitOptions, sample_size: int) -> tuple[DataSummary, Sample]:
    """The summary of all rows, and on root a sample of them for the initialisation. Collective.

    Raises `AgreedError` naming the first row that cannot be used.
    """
    return survey_samples(context, options, [SampleRequest(options.init.seed, sample_size)])[0]


def survey_samples(
    context: RankContext, options: FitOptions, wanted: Sequence[SampleRequest]
) -> list[tuple[DataSummary, Sample]]:
    """The summary of all rows and a sample for each request, from one pass over the rows. Collective.

    The summaries differ in their centre, which is the median of the sample. Raises `AgreedError` naming the first row
    that cannot be used.
    """
    comm, header = context.comm, context.header
    centre = first_centre(comm, context.block.source)
    samplers = [RowSampler(each.seed, each.size / header.n_rows) for each in wanted]
    own, samples = empty_survey(centre, options), [RowSample() for _ in wanted]

    def add_own(total: IntArray) -> None:
        nonlocal own, samples
        own, samples = empty_survey(centre, options), [RowSample() for _ in wanted]
        _survey_own(context, options.model.n_components, own, samplers, samples)
        total[:] = np.concatenate([own.packed(), [n_sampled(sample) for sample in samples]])

    sums, _ = Reduction(context).reduce(own.n_packed + len(wanted), add_own, on_host=True)
    summary = finished_summary(comm, own, sums[: own.n_packed])
    with comm.together():
        check_summary(summary, header, options)
    found = []
    for each, sampler, sample, size in zip(wanted, samplers, samples, sums[own.n_packed :], strict=True):
        values, sample_weight = gather_sample(context, summary, sampler, sample, int(size), each.size)
        middle = comm.bcast(np.array([np.median(column) for column in values.T]) if comm.is_root else None)
        found.append((replace(summary, centre=middle), (values, sample_weight)))
    return found


def survey_summary(context: RankContext, *, drop: bool, remedy: str) -> DataSummary:
    """The summary of all rows, without a sample. Collective; raises `AgreedError` naming the first row that cannot be
    used.

    Parameters
    ----------
    context
    drop : bool
        Whether rows that hold NaN or infinity are left out; otherwise they are errors.
    remedy : str
        What the user can do about such an error.
    """
    own = DataSummaryStatistics(first_centre(context.comm, context.block.source), drop=drop)

    def add_own(total: IntArray) -> None:
        nonlocal own
        own = DataSummaryStatistics(own.centre, drop=drop)
        _survey_own(context, 0, own, [], [], remedy)
        total[:] = own.packed()

    sums, _ = Reduction(context).reduce(own.n_packed, add_own, on_host=True)
    return finished_summary(context.comm, own, sums)


def finished_summary(comm: Comm, own: DataSummaryStatistics, packed: IntArray) -> DataSummary:
    """The summary of the rows of all ranks, given this rank's statistics and the sum of all. Collective."""
    box, n_features = comm.max(np.concatenate([-own.low, own.high])), len(own.centre)
    return own.finish(packed, -box[:n_features], box[n_features:])


def first_centre(comm: Comm, source: Source) -> FloatArray:
    """A point amid the rows (D,): the median of the first finite rows of positive weight; zeros if there are none.

    Collective; raises `AgreedError`.
    """
    start, count, n_rows = 0, FIRST_ROWS, source.header.n_rows
    while start < n_rows:
        with comm.together():
            own = usable_values(comm, source, start, min(start + count, n_rows))
        found = comm.concatenate(own)
        centre = comm.bcast(np.median(found, axis=0) if len(found) else None)
        if centre is not None:
            return np.asarray(centre)
        start, count = start + count, min(2 * count, MOST_ROWS)
    return np.zeros(source.header.n_features)


def usable_values(comm: Comm, source: Source, start: int, stop: int) -> FloatArray:
    """Values (n, D) of the finite rows of positive weight among rows start to stop - 1.

    Of a source that all ranks can read, root returns all such rows, and the others none.
    """
    held = source.held
    if held is None:
        held = range(source.header.n_rows if comm.is_root else 0)
    start, stop = max(start, held.start), min(stop, held.stop)
    if start >= stop:
        return np.empty((0, source.header.n_features))
    rows = source.read(start, stop)
    used = np.isfinite(rows.values).all(axis=1)
    if rows.sample_weight is not None:
        used &= rows.sample_weight.astype(np.float64) > 0
    return np.asarray(rows.values[used], np.float64)


def empty_survey(centre: FloatArray, options: FitOptions) -> DataSummaryStatistics:
    """The survey of no rows, about a centre (D,)."""
    return DataSummaryStatistics(centre, drop=options.data.missing == "drop")


def _survey_own(
    context: RankContext,
    n_components: int,
    own: DataSummaryStatistics,
    samplers: Sequence[RowSampler],
    samples: Sequence[RowSample],
    remedy: str = DROP,
) -> None:
    """Add this rank's tiles to the statistics, and their chosen rows to the sample of each sampler; check starting
    labels."""
    centre, drop = own.centre, own.drop

    def tile_function(tile: Tile, tiles: Tiles) -> tuple[DataSummaryStatistics, list[RowSample]]:
        statistics, parts = DataSummaryStatistics(centre, drop=drop), [RowSample() for _ in samplers]
        for rows in tiles:
            check_label(rows, n_components)
            statistics.add(tile, rows)
            for sampler, part in zip(samplers, parts, strict=True):
                part.add(sampler, tile, rows)
        return statistics, parts

    try:
        parts = context.for_each_tile(tile_function, with_labels=True)
    except BadLabelError as error:
        raise DataError(bad_label_text(error, context.header, n_components)) from None
    except BadRowError as error:
        raise DataError(bad_row_text(error, context.header, remedy)) from None
    for statistics, chosen in parts:
        own += statistics
        for sample, part in zip(samples, chosen, strict=True):
            sample.extend(part)


def bad_row_text(error: BadRowError, header: Header, remedy: str = DROP) -> str:
    """The message about a row that cannot be used, with the remedy."""
    where = header.where(error.row)
    if error.column is None:
        valid = f"weights are at least 0 and less than {LARGEST_MAGNITUDE:g}"
        return f"{header.weights_name}: {where} has weight {error.value:g}; {valid}"
    what = "NaN" if np.isnan(error.value) else "an infinity" if np.isinf(error.value) else f"{error.value:g}"
    column = header.column_text(error.column)
    if np.isfinite(error.value):
        return f"{where} holds {what} in column {column}, too large to square; rescale the column, or leave the row out"
    return f"{where} holds {what} in column {column}; {remedy}"


def bad_label_text(error: BadLabelError, header: Header, n_components: int) -> str:
    """The message about a starting label that cannot be used, with the remedy."""
    where = f"{header.labels_name}: {header.where(error.row)} has"
    if error.column is None:
        return (
            f"{where} label {error.value:.0f}, but a label is 0 to {n_components - 1}, or -1 for none "
            f"(model.n_components is {n_components})"
        )
    return (
        f"{where} responsibility {error.value:g} of component {error.column}; responsibilities are finite and >= 0, "
        "and a row without a label holds zeros or NaN alone"
    )


def check_labels(header: Header, n_components: int) -> None:
    """Raise `DataError` where rows have responsibilities of another number of components."""
    width = header.fields[LABEL].width if header.is_labelled else None
    if width not in (None, n_components):
        raise DataError(
            f"{header.labels_name}: it holds responsibilities of {counted(int(width), 'component')}, but "
            f"model.n_components is {n_components}; give a column for each component"
        )


def check_n_rows(header: Header, n_components: int) -> None:
    """Raise `DataError` where the rows of a fit are fewer than the components."""
    if header.n_rows < n_components:
        raise DataError(
            f"model.n_components: {n_components} components need at least as many rows, but "
            f"{shown(header.dataset)} has {header.n_rows}; lower it, or check {header.named_by}"
        )


def check_total_weight(total_weight: float, header: Header) -> None:
    """Raise `DataError` where the weights of the rows are too small."""
    if not total_weight > LEAST_WEIGHT:
        raise DataError(
            f"{header.weights_name}: they sum to {total_weight:g}, too little to compute with; scale them up"
        )


def check_summary(summary: DataSummary, header: Header, options: FitOptions) -> None:
    """Raise `DataError` where the rows are too few, or their weights or variances too small, for the mixture."""
    k = options.model.n_components
    if summary.n_samples < k:
        unused = "; rows of weight zero are not used" if header.is_weighted else ""
        raise DataError(
            f"model.n_components: {k} components need at least {k} rows, but {shown(header.dataset)} has "
            f"{summary.n_samples} usable ones of {header.n_rows}; lower it, or check {header.selected_by}{unused}"
        )
    check_total_weight(summary.total_weight, header)
    if options.model.reg_covar == 0:
        check_variances(summary, header)


def check_variances(summary: DataSummary, header: Header) -> None:
    """Raise `DataError` where a feature varies too little for covariances without ``model.reg_covar``:
    `ConstantFeatureError` where it does not vary."""

    def named(features: list[int]) -> str:
        return f"column {', '.join(header.column_text(d) for d in features[:10])} of {shown(header.dataset)}"

    constant, narrow = summary.constant_features(), summary.narrow_features()
    if constant:
        raise ConstantFeatureError(
            f"{named(constant)} has the same value in every row, so that no covariance is positive definite; set "
            f"model.reg_covar above 0, or leave the column out{header.by_columns}"
        )
    if narrow:
        raise DataError(
            f"{named(narrow)} varies by less than float64 can square (by {np.sqrt(LEAST_VARIANCE):g} or less); rescale "
            f"it, set model.reg_covar above 0, or leave it out{header.by_columns}"
        )


def n_sampled(sample: RowSample) -> int:
    """Rows of a sample."""
    return sum(map(len, sample.numbers))


def gather_sample(
    context: RankContext, summary: DataSummary, sampler: RowSampler, own: RowSample, size: int, wanted: int
) -> Sample:
    """The sample of all ranks, on root. Collective.

    If masked rows leave less than half of the wanted number, a larger share of the rows is drawn again.

    Parameters
    ----------
    context, summary, sampler
    own : RowSample
        This rank's part.
    size : int
        Rows of the parts of all ranks.
    wanted : int
        Number of rows that the sample should have.
    """
    while sampler.share < 1 and size < min(wanted // 2, summary.n_samples):
        sampler = RowSampler(sampler.seed, sampler.share * max(4.0, wanted / max(size, 1)))
        own, size = draw_again(context, summary, sampler)
    values, sample_weight = own.arrays(context.header.n_features)
    return context.comm.concatenate(values), context.comm.concatenate(sample_weight)  # ranks hold tiles in their order


def draw_again(context: RankContext, summary: DataSummary, sampler: RowSampler) -> tuple[RowSample, int]:
    """This rank's sample, and the number of rows in those of all ranks. Collective."""
    own = RowSample()

    def add_own(total: IntArray) -> None:
        nonlocal own
        own = RowSample()
        _sample_own(context, summary, sampler, own)
        total[:] = n_sampled(own)

    sums, _ = Reduction(context).reduce(1, add_own, on_host=True)
    return own, int(sums[0])


def far_row(context: RankContext, summary: DataSummary, sample: Sample) -> str | None:
    """On root, a warning about the first row with a value so far from all others that it may stand for a missing one.

    None if there is no such row. Collective.
    """
    comm, header = context.comm, context.header
    median, limit = comm.bcast(far_limits(sample[0]) if comm.is_root else None)
    if (np.maximum(summary.high - median, median - summary.low) <= limit).all():
        return None
    with comm.together():
        found = _first_far_row(context, summary, median, limit)
    row = -int(comm.max(np.array([-float(found)]))[0])
    warning = None
    with comm.together():
        if found == row < header.n_rows:
            values = context.block.source.read(row, row + 1).values[0].astype(np.float64)
            column = int((np.abs(values - median) > limit).argmax())
            warning = (
                f"{header.where(row)} holds {values[column]:g} in column {header.column_text(column)}, a million "
                "standard deviations from the rest; if it means a missing value, write NaN and set data.missing: drop"
            )
    return next(filter(None, comm.gather(warning)), None)


def _first_far_row(context: RankContext, summary: DataSummary, median: FloatArray, limit: FloatArray) -> int:
    """Number of this rank's first row with a value farther than limit (D,) from the median (D,); n_rows if none."""

    def tile_function(tile: Tile, tiles: Tiles) -> int:
        for rows in tiles:
            tile.fill(rows, median, mask=summary.masked)
            far = (np.abs(tile.rows) > limit[:, None]).any(axis=0)
            if far.any():
                return rows.first + int(far.argmax())
        return context.header.n_rows

    return min(context.for_each_tile(tile_function))


def _sample_own(context: RankContext, summary: DataSummary, sampler: RowSampler, own: RowSample) -> None:
    """Add the chosen rows of this rank's tiles to a sample."""

    def tile_function(tile: Tile, tiles: Tiles) -> RowSample:
        chosen = RowSample()
        for rows in tiles:
            tile.fill(rows, summary.centre, mask=summary.masked)
            chosen.add(sampler, tile, rows)
        return chosen

    for part in context.for_each_tile(tile_function):
        own.extend(part)
