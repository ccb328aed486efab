"""A random sample of the rows that is the same for any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import FloatArray
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

RowArray = NDArray[np.int64]


@dataclass
class RowSampler:
    """Chooses rows at random by their numbers alone, so that the choice does not depend on which rank holds a row.

    Parameters
    ----------
    seed : int
    share : float
        Probability, 0 to 1, that a row is chosen; above 1, all rows are.
    """

    seed: int
    share: float

    def chosen(self, first_row: int, n_rows: int) -> NDArray[np.intp]:
        """Indices of the chosen rows among n_rows rows; index 0 is row number first_row."""
        if self.share >= 1:
            return np.arange(n_rows)
        rows = np.arange(first_row, first_row + n_rows, dtype=np.uint64)
        return np.flatnonzero(mix64(rows + mix64(np.array([self.seed], np.uint64))) < np.uint64(self.share * 2.0**64))


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection whose values look random."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass
class RowSample:
    """The chosen rows, as one part for each tile; the first mixture is computed from them.

    Attributes
    ----------
    numbers : list of ndarray of shape (m,)
        Numbers of the rows in the data.
    values : list of ndarray of shape (m, D)
    sample_weight : list of ndarray of shape (m,)
    """

    numbers: list[RowArray] = field(default_factory=list)
    values: list[FloatArray] = field(default_factory=list)
    sample_weight: list[FloatArray] = field(default_factory=list)

    def add(self, sampler: RowSampler, tile: Tile, rows: Rows) -> None:
        """Add those rows of a tile that the sampler chooses and that are not masked.

        `rows` are the rows with which the tile was filled.
        """
        chosen = sampler.chosen(rows.first, tile.n_rows)
        weight = tile.sample_weight
        if weight is not None:
            chosen = chosen[weight[chosen] > 0]
        if len(chosen):
            self.numbers.append(chosen + rows.first)
            self.values.append(rows.values[chosen].astype(np.float64))
            self.sample_weight.append(np.ones(len(chosen)) if weight is None else weight[chosen])

    def extend(self, other: RowSample) -> None:
        """Add the rows of another sample."""
        self.numbers += other.numbers
        self.values += other.values
        self.sample_weight += other.sample_weight

    def arrays(self, n_features: int) -> tuple[FloatArray, FloatArray]:
        """Values (m, D) and sample weights (m,), in the order of the rows' numbers.

        Each part is deleted as it is copied, so that memory never holds much more than one copy of the sample.
        """
        if not self.numbers:
            return np.empty((0, n_features)), np.empty(0)
        positions = np.argsort(np.argsort(np.concatenate(self.numbers)))
        values, sample_weight, start = np.empty((len(positions), n_features)), np.empty(len(positions)), 0
        while self.values:
            part, part_weight = self.values.pop(0), self.sample_weight.pop(0)
            own = positions[start : start + len(part)]
            values[own], sample_weight[own], start = part, part_weight, start + len(part)
        self.numbers.clear()
        return values, sample_weight
