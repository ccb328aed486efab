"""What one pass over the rows finds out before the first iteration."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, carry
from mpigmm.core.tile import Tile

LARGEST_MAGNITUDE = 1e140
"""Above it, squares of values leave the range of float64."""

LEAST_VARIANCE = 1e-280
"""Of a feature: below it, variances of components leave the range of float64."""

FAR_DEVIATIONS = 1e6
"""Standard deviations from the median beyond which a value is suspected of being a fill value."""

RowArray = NDArray[np.int64]


class BadRowError(Exception):
    """A row that cannot be used.

    Parameters
    ----------
    row : int
        Its number, counted from the first row of the selection.
    column : int or None
        Its column among those selected; None where the weight is at fault.
    value : float
        What stands there.
    """

    def __init__(self, row: int, column: int | None, value: float) -> None:
        super().__init__(row, column, value)
        self.row = row
        self.column = column
        self.value = value


@dataclass(frozen=True, eq=False)
class Survey:
    """The data in a few numbers, the same on every rank.

    Attributes
    ----------
    n_samples : int
        Rows of weight > 0.
    total_weight : float
        Sum of the weights.
    centre : ndarray of shape (D,)
        A point amid the rows, which tiles hold less this.
    variances : ndarray of shape (D,)
        Weighted variance of each feature.
    low, high : ndarray of shape (D,)
        The box that holds all rows.
    masked : bool
        Whether some rows are left out (weight zero, or missing values).
    fingerprint : int
        Sum modulo 2^64 of keyed hashes of the tiles.
    n_dropped : int
        Rows of weight > 0 that are left out for values that are not finite.
    """

    n_samples: int
    total_weight: float
    centre: FloatArray
    variances: FloatArray
    low: FloatArray
    high: FloatArray
    masked: bool
    fingerprint: int
    n_dropped: int = 0

    def extents(self, means: FloatArray) -> FloatArray:
        """Upper bounds (K, D) of |x_d - mu_kd| as computed, for all rows x."""
        rounding = 2.0**-48 * np.maximum(np.maximum(np.abs(self.low), np.abs(self.high)), np.abs(means))
        return np.maximum(np.abs(self.high - means), np.abs(means - self.low)) + rounding

    @property
    def reach(self) -> FloatArray:
        """Upper bounds (D,) of the rows' distances from the centre."""
        return np.maximum(self.high - self.centre, self.centre - self.low)

    def constant_features(self) -> list[int]:
        """Features that have one value in all rows."""
        return [int(d) for d in np.flatnonzero(self.low == self.high)]

    def narrow_features(self) -> list[int]:
        """Features that vary, but by too little for float64 to square the deviations."""
        return [int(d) for d in np.flatnonzero((self.low < self.high) & (self.variances < LEAST_VARIANCE))]


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


class SurveyStatistics:
    """The survey of some tiles: a value to which tiles, and other such values, are added.

    Parameters
    ----------
    centre : ndarray of shape (D,)
        Provisional centre near the rows, the same on every rank.
    drop : bool
        Whether rows with values that are not finite are left out instead of refused.
    """

    def __init__(self, centre: FloatArray, *, drop: bool) -> None:
        self.centre = centre
        self.drop = drop
        self.sums = ExactSum(FixedPoint.unbounded(2 + 2 * len(centre)))
        self.low = np.full(len(centre), np.inf)
        self.high = np.full(len(centre), -np.inf)
        self.fingerprint = 0
        self.n_rows = 0
        self.n_dropped = 0

    def add(self, tile: Tile, first_row: int, raw: NDArray[np.generic], weights: NDArray[np.generic] | None) -> None:
        """Add rows (n, D) with weights (n,) or None; fills tile with them. Raises `BadRowError`."""
        self.fingerprint += tile_hash(first_row, raw, weights)
        self.n_rows += len(raw)
        check_weights(weights, first_row)
        tile.fill(raw, weights, self.centre, mask=False)
        finite = bool(np.isfinite(tile.rows).all())
        if not finite or tile.weights is not None:
            tile.mask()
        if not finite:
            self._refuse(first_row, raw, weights)
            absent = tile.weights == 0
            self.n_dropped += int(np.count_nonzero(absent if weights is None else absent & (weights != 0)))
        self._add_sums(tile, first_row, raw)

    def _refuse(self, first_row: int, raw: NDArray[np.generic], weights: NDArray[np.generic] | None) -> None:
        used = raw if weights is None else np.where(weights[:, None] == 0, 0, raw)
        if not self.drop:
            check_finite(used, first_row)
        check_magnitude(np.where(np.isfinite(used), used, 0), raw, first_row)

    def _add_sums(self, tile: Tile, first_row: int, raw: NDArray[np.generic]) -> None:
        weights, weighted, used = tile.weights, tile.rows, tile.rows
        size: list[float] = [tile.n_rows, tile.n_rows]
        if weights is not None:
            size = [float(np.count_nonzero(weights)), float(weights.sum())]
            weighted = np.multiply(tile.rows, weights, out=tile.array("scaled", *tile.rows.shape))
            used = tile.rows[:, weights > 0]
        if not used.size:
            return
        least, greatest = used.min(axis=1), used.max(axis=1)
        if max(-least.min(), greatest.max()) > LARGEST_MAGNITUDE:
            check_magnitude(tile.rows.T, raw, first_row)
        squares = np.einsum("dn,dn->d", weighted, tile.rows)
        self.sums.add(np.concatenate([size, weighted.sum(axis=1), squares]))
        np.minimum(self.low, self.centre + least, out=self.low)
        np.maximum(self.high, self.centre + greatest, out=self.high)

    def __iadd__(self, other: SurveyStatistics) -> SurveyStatistics:
        self.sums += other.sums
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.fingerprint += other.fingerprint
        self.n_rows += other.n_rows
        self.n_dropped += other.n_dropped
        return self

    def packed(self) -> IntArray:
        """What adds across ranks, as one integer vector: limbs, fingerprint in two halves, rows, those left out."""
        halves = [self.fingerprint & 0xFFFFFFFF, self.fingerprint >> 32 & 0xFFFFFFFF]
        counts = [*halves, self.n_rows, self.n_dropped]
        return np.concatenate([carry(self.sums.limbs).reshape(-1), np.array(counts, np.int64)])

    def finish(self, packed: IntArray, low: FloatArray, high: FloatArray) -> Survey:
        """The survey of all ranks from the sum of `packed` and the least and greatest of low and high."""
        low_half, high_half, n_rows, n_dropped = map(int, packed[-4:])
        n_samples, total_weight, *sums = self.sums.form.value(packed[:-4].reshape(self.sums.limbs.shape))
        n_features = len(self.centre)
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = np.array(sums[:n_features]) / total_weight
            variances = np.maximum(np.array(sums[n_features:]) / total_weight - shift**2, 0.0)
        variances[low == high] = 0.0
        return Survey(
            n_samples=int(n_samples),
            total_weight=float(total_weight),
            centre=self.centre,
            variances=variances,
            low=low,
            high=high,
            masked=int(n_samples) < n_rows,
            fingerprint=(low_half + (high_half << 32)) % 2**64,
            n_dropped=n_dropped,
        )


def far_limits(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Medians (D,) and distances from them (D,) beyond which a value is too far to be one of the population.

    A million standard deviations, taken from the quartiles of some rows (m, D), or where these coincide from the rows
    that differ; infinite where none does.
    """
    lower, median, upper = np.stack([np.quantile(column, [0.25, 0.5, 0.75]) for column in rows.T], axis=1)
    deviations = (upper - lower) / 1.349
    for feature in np.flatnonzero(deviations == 0):
        distances = np.abs(rows[:, feature] - median[feature])
        deviations[feature] = np.median(distances[distances > 0]) / 0.6745 if distances.any() else np.inf
    return median, FAR_DEVIATIONS * deviations


def check_finite(raw: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first NaN or infinity among rows (n, D)."""
    if raw.dtype.kind == "f":
        refuse_first(~np.isfinite(raw), raw, first_row)


def check_magnitude(values: NDArray[np.generic], raw: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first of values (n, D), made of raw (n, D), that is too large to square."""
    refuse_first(np.abs(values) > LARGEST_MAGNITUDE, raw, first_row)


def refuse_first(bad: NDArray[np.bool_], raw: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first True of bad (n, D)."""
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise BadRowError(first_row + int(row), int(column), float(raw[row, column]))


def check_weights(weights: NDArray[np.generic] | None, first_row: int) -> None:
    """Raise `BadRowError` for the first weight that is negative or not finite."""
    if weights is None:
        return
    values = weights.astype(np.float64)
    bad = ~((values >= 0) & (values < LARGEST_MAGNITUDE))
    if bad.any():
        row = int(bad.argmax())
        raise BadRowError(first_row + row, None, float(values[row]))


def tile_hash(first_row: int, raw: NDArray[np.generic], weights: NDArray[np.generic] | None) -> int:
    """A 64-bit hash of a tile's bytes, keyed with its place and dtype (BLAKE2b)."""
    key = f"{first_row} {raw.dtype.str} {raw.shape[1]}".encode()
    digest = hashlib.blake2b(np.ascontiguousarray(raw).data, digest_size=8, key=key[:64])
    if weights is not None:
        digest.update(np.ascontiguousarray(weights).data)
    return int.from_bytes(digest.digest(), "little")
