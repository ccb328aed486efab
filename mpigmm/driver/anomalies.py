"""Marks rows of low log-density: an exact quantile over the rows of all ranks, from what they have written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TypeVar

import numpy as np

from mpigmm.core.exact import FloatArray, IntArray
from mpigmm.core.quantile import N_PASSES, NO_WEIGHTS, QuantileSearch, WeightUnits, exponent_bounds
from mpigmm.core.row_checks import BadRowError, check_sample_weight
from mpigmm.data.output import RowWriter
from mpigmm.data.source import Source
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.survey_pass import bad_row_text, check_total_weight
from mpigmm.driver.worker import RankContext
from mpigmm.errors import DataError
from mpigmm.rows import SAMPLE_WEIGHT

T = TypeVar("T")

ROWS_AT_ONCE = 1 << 18
"""Number of rows whose log-densities are read at a time."""

OfRows = Callable[[range], T]
"""Called with the numbers of consecutive rows."""


class WrittenRows:
    """The log-densities in a file that all ranks have written.

    Parameters
    ----------
    context : RankContext
    writer : RowWriter
    source : Source
        From which sample weights are read, if the rows have any.
    """

    def __init__(self, context: RankContext, writer: RowWriter, source: Source) -> None:
        self._context, self._writer, self._source = context, writer, source
        self._fields = {name: field for name, field in source.header.fields.items() if name == SAMPLE_WEIGHT}

    def quantile(self, share: Fraction) -> float:
        """The least number v such that the rows with a log-density up to v have at least a share of the total weight of
        the rows that are not left out; NaN if there are none. Collective; raises `AgreedError`.
        """
        search = QuantileSearch(share, self._weight_units())

        def histogram(rows: range) -> IntArray:
            return search.histogram(self._log_density(rows), self._sample_weight(rows) if self._fields else None)

        for _ in range(N_PASSES):
            search.narrow(self._sum(search.size, histogram))
        if self._fields:
            with self._context.comm.together():
                check_total_weight(search.total_weight, self._source.header)
        return search.quantile

    def mark(self, threshold: float) -> int:
        """Write which rows have at most this log-density; returns the number of these rows. Collective; raises
        `AgreedError`."""

        def write(rows: range) -> int:
            is_low = self._log_density(rows) <= threshold  # false for NaN
            self._writer.write("anomaly", rows.start, is_low)
            return int(np.count_nonzero(is_low))

        return int(self._sum(1, write)[0])

    def count_left_out(self) -> int:
        """Number of rows that are left out. Collective; raises `AgreedError`."""

        def count(rows: range) -> int:
            return int(np.count_nonzero(np.isnan(self._log_density(rows))))

        return int(self._sum(1, count)[0])

    def _log_density(self, rows: range) -> FloatArray:
        return self._writer.read("log_density", rows.start, len(rows))

    def _sample_weight(self, rows: range) -> FloatArray:
        """Weights of rows. Raises `BadRowError`."""
        read = self._source.read(rows.start, rows.stop, fields=self._fields)
        check_sample_weight(read)
        return read.arrays[SAMPLE_WEIGHT]

    def _weight_units(self) -> WeightUnits:
        """Units of the weights of all rows. Collective; raises `AgreedError`."""
        if not self._fields:
            return WeightUnits()
        bounds = NO_WEIGHTS

        def own_bounds(parts: Iterator[range]) -> FloatArray:
            found: FloatArray = np.max([NO_WEIGHTS, *(exponent_bounds(self._sample_weight(rows)) for rows in parts)], 0)
            return found

        with self._context.comm.together():
            bounds = np.max(self._of_threads(own_bounds), axis=0)
        return WeightUnits.of(self._context.comm.max(bounds))

    def _sum(self, size: int, of_rows: OfRows[IntArray | int]) -> IntArray:
        """The sum of vectors (size,) of integers over the rows of all ranks. Collective; raises `AgreedError`."""

        def sum_own(parts: Iterator[range]) -> IntArray:
            total = np.zeros(size, np.int64)
            for rows in parts:
                total += of_rows(rows)
            return total

        def add_own(total: IntArray) -> None:
            for own in self._of_threads(sum_own):
                total += own

        return Reduction(self._context).reduce(size, add_own, on_host=True)[0]

    def _of_threads(self, work: Callable[[Iterator[range]], T]) -> list[T]:
        """The results of all threads, each of which is called with parts of this rank's rows. Raises `DataError`."""
        try:
            return self._context.workers.run(lambda worker: work(self._parts(worker)))
        except BadRowError as error:
            raise DataError(bad_row_text(error, self._source.header)) from None

    def _parts(self, worker: int) -> Iterator[range]:
        """The parts of this rank's rows that a thread works on."""
        block, stride = self._context.block, ROWS_AT_ONCE * self._context.n_threads
        for start in range(block.start + ROWS_AT_ONCE * worker, block.stop, stride):
            self._context.stop.check()
            yield range(start, min(start + ROWS_AT_ONCE, block.stop))
