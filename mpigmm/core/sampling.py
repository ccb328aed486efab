"""A random sample of the rows, the same for any partition of the rows over ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import FloatArray
from mpigmm.core.tile import Tile

RowArray = NDArray[np.int64]


@dataclass
class RowSampler:
    """Chooses rows by number alone, so that any partition of the data chooses the same.

    Parameters
    ----------
    seed : int
    share : float
        Share of the rows to take, 0 to 1.
    """

    seed: int
    share: float

    def chosen(self, first_row: int, n_rows: int) -> NDArray[np.intp]:
        """Indices, counted from first_row, of the rows chosen among n_rows."""
        if self.share >= 1:
            return np.arange(n_rows)
        rows = np.arange(first_row, first_row + n_rows, dtype=np.uint64)
        return np.flatnonzero(mix64(rows + mix64(np.array([self.seed], np.uint64))) < np.uint64(self.share * 2.0**64))


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that looks random."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass
class RowSample:
    """Rows chosen for the initialisation: numbers (m,), values (m, D) and weights (m,)."""

    numbers: list[RowArray] = field(default_factory=list)
    rows: list[FloatArray] = field(default_factory=list)
    weights: list[FloatArray] = field(default_factory=list)

    def take(self, sampler: RowSampler, tile: Tile, first_row: int, raw: NDArray[np.generic]) -> None:
        """Keep the chosen rows of a tile that are not masked; raw (n, D) is what fills the tile."""
        chosen = sampler.chosen(first_row, tile.n_rows)
        if tile.weights is not None:
            chosen = chosen[tile.weights[chosen] > 0]
        if len(chosen):
            self.numbers.append(chosen + first_row)
            self.rows.append(raw[chosen].astype(np.float64))
            self.weights.append(np.ones(len(chosen)) if tile.weights is None else tile.weights[chosen])

    def extend(self, other: RowSample) -> None:
        """Take over another sample's rows."""
        self.numbers += other.numbers
        self.rows += other.rows
        self.weights += other.weights

    def arrays(self, n_features: int) -> tuple[FloatArray, FloatArray]:
        """Rows (m, D) and weights (m,) in the order of their numbers; empties the sample, part by part."""
        if not self.numbers:
            return np.empty((0, n_features)), np.empty(0)
        places = np.argsort(np.argsort(np.concatenate(self.numbers)))
        rows, weights, start = np.empty((len(places), n_features)), np.empty(len(places)), 0
        while self.rows:
            part, part_weights = self.rows.pop(0), self.weights.pop(0)
            own = places[start : start + len(part)]
            rows[own], weights[own], start = part, part_weights, start + len(part)
        self.numbers.clear()
        return rows, weights
