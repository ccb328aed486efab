"""A sample of the rows of a source, for pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.source import Source
from mpigmm.rows import Rows

MOST_DRAWN = 2**15
"""Rows of a sample."""

RUN_ROWS = 32
"""Consecutive rows that are read together: a file with compressed chunks would be slow to read row by row."""


@dataclass(frozen=True, eq=False)
class PictureRows:
    """Some features of a sample of rows.

    Attributes
    ----------
    columns : dict of int to ndarray of shape (m,), float64
        The values of each feature.
    n_rows : int
        Number of rows of which these are a sample.
    n_left_out : int
        Number of rows of the sample that are left out because they are not finite.
    """

    columns: dict[int, NDArray[np.float64]]
    n_rows: int
    n_left_out: int


NO_ROWS = PictureRows({}, 0, 0)


def sample_rows(source: Source, features: Sequence[int], check: Callable[[], None]) -> PictureRows:
    """Some features of all rows of a source or, if it has more than `MOST_DRAWN`, of as many from all over it.

    Which rows these are depends on the number of rows alone. If rows have weights, each is in the result as often as
    its weight demands, relative to the others. Raises `DataError`.

    Parameters
    ----------
    source : Source
    features : sequence of int
    check : callable
        Called before each reading; an exception that it raises ends the sampling.
    """
    parts, weights, n_left_out = [], [], 0
    for start, stop in runs(source.header.n_rows):
        check()
        rows = source.read(start, stop)
        finite = np.isfinite(rows.values).all(axis=1)
        parts.append(rows.values[finite][:, features].astype(np.float64))
        weights.append(weights_of(rows)[finite])
        n_left_out += int((~finite).sum())
    values = np.concatenate(parts)
    if source.header.is_weighted:
        values = values[by_weight(np.concatenate(weights))]
    columns = {feature: values[:, i] for i, feature in enumerate(features)}
    return PictureRows(columns, source.header.n_rows, n_left_out)


def weights_of(rows: Rows) -> NDArray[np.float64]:
    """Weights (n,) of rows, one unless they have others."""
    return np.ones(len(rows)) if rows.sample_weight is None else rows.sample_weight.astype(np.float64)


def runs(n_rows: int) -> list[tuple[int, int]]:
    """Ranges of rows, `MOST_DRAWN` rows in all or fewer: one at a random place in each of equal parts of the rows."""
    if n_rows <= MOST_DRAWN:
        return [(0, n_rows)]
    edges = np.linspace(0, n_rows, MOST_DRAWN // RUN_ROWS + 1).astype(int)
    starts = edges[:-1] + np.random.default_rng(n_rows).integers(np.diff(edges) - RUN_ROWS + 1)
    return [(int(start), int(start) + RUN_ROWS) for start in starts]


def by_weight(weights: NDArray[np.float64]) -> NDArray[np.intp]:
    """As many numbers of rows as there are weights, each as often as its weight (n,) demands: systematic sampling."""
    total = np.cumsum(np.where(weights > 0, weights, 0.0))
    if not total.size or not 0 < total[-1] < np.inf:
        return np.arange(0)
    places = (np.arange(len(weights)) + 0.5) / len(weights)
    return np.asarray(np.searchsorted(total, places * total[-1], side="right"))
