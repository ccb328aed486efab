"""Rows that no fit sees: a share of all rows, chosen by their numbers, so that the choice does not depend on ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import FloatArray
from mpigmm.core.row_checks import LARGEST_MAGNITUDE
from mpigmm.core.sampling import RowSampler
from mpigmm.data.source import Source
from mpigmm.rows import SAMPLE_WEIGHT, Field, Fields, Rows

HELD_OUT_SEED = 0x68656C645F6F7574
"""Seed of the choice, which no user's seed is likely to be: the sample of a fit with this seed would be held out."""


class HeldOut:
    """The choice of the rows that are held out.

    Parameters
    ----------
    share : float
        Probability, 0 to 1, that a row is held out.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._sampler = RowSampler(HELD_OUT_SEED, share)

    def split(self, rows: Rows, weight: FloatArray | None) -> tuple[FloatArray | None, FloatArray]:
        """The weights (n,) of rows for those that are fitted, and for those that are held out; zero for the others.

        None stands for weights of one. A row that cannot be used is not held out, so that the survey before the fits
        refuses it, and not the comparison after them.
        """
        if not self.share:
            return weight, np.zeros(len(rows))
        fitted = np.ones(len(rows)) if weight is None else weight.astype(np.float64)
        held = np.zeros(len(rows))
        chosen = self._sampler.chosen(rows.first, len(rows))
        chosen = chosen[are_usable(rows.values[chosen], fitted[chosen])]
        held[chosen] = fitted[chosen]
        fitted[chosen] = 0.0
        return fitted, held


def are_usable(values: NDArray[np.generic], weight: FloatArray) -> NDArray[np.bool_]:
    """Whether each of some rows (m, D) with weights (m,) can be used, or has weight zero."""
    usable = (np.abs(values) <= LARGEST_MAGNITUDE).all(axis=1) & (weight > 0) & (weight < LARGEST_MAGNITUDE)
    return np.asarray(usable | (weight == 0))


class FittedRows(Source):
    """The rows of another source, in which those that are held out have weight zero.

    Parameters
    ----------
    source : Source
    held_out : HeldOut
    """

    def __init__(self, source: Source, held_out: HeldOut) -> None:
        self._source, self._held_out = source, held_out
        old = source.header
        names = {SAMPLE_WEIGHT: "select.held_out", **old.datasets}
        self.header = replace(old, datasets=names, fields={SAMPLE_WEIGHT: Field("float64"), **old.fields})
        self.held, self.has_views = source.held, source.has_views

    def read(self, start: int, stop: int, into: Rows | None = None, fields: Fields | None = None) -> Rows:
        inner, own = into, self._source.header.fields
        if into is not None:
            inner = into.chosen(own)
        rows = self._source.read(start, stop, inner)
        fitted, _ = self._held_out.split(rows, rows.sample_weight)
        weight = np.empty(len(rows), self.header.fields[SAMPLE_WEIGHT].dtype)
        if into is not None:
            weight = into.arrays[SAMPLE_WEIGHT][: len(rows)]
        weight[:] = 1.0 if fitted is None else fitted
        return Rows(rows.first, {**rows.arrays, SAMPLE_WEIGHT: weight})
