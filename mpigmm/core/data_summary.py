"""What one pass over the rows finds out before the first iteration."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, carry
from mpigmm.core.row_checks import LARGEST_MAGNITUDE, check_finite, check_magnitude, check_sample_weight
from mpigmm.core.tile import Tile

LEAST_VARIANCE = 1e-280
"""Of a feature: below it, variances of components leave the range of float64."""

FAR_DEVIATIONS = 1e6
"""Standard deviations from the median beyond which a value is suspected of being a fill value."""


@dataclass(frozen=True, eq=False)
class DataSummary:
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

    def max_abs_deviation_from_means(self, means: FloatArray) -> FloatArray:
        """Upper bounds (K, D) of |x_d - mu_kd| as computed, for all rows x."""
        rounding = 2.0**-48 * np.maximum(np.maximum(np.abs(self.low), np.abs(self.high)), np.abs(means))
        return np.maximum(np.abs(self.high - means), np.abs(means - self.low)) + rounding

    @property
    def max_abs_deviation(self) -> FloatArray:
        """Upper bounds (D,) of the rows' distances from the centre."""
        return np.maximum(self.high - self.centre, self.centre - self.low)

    def constant_features(self) -> list[int]:
        """Features that have one value in all rows."""
        return [int(d) for d in np.flatnonzero(self.low == self.high)]

    def narrow_features(self) -> list[int]:
        """Features that vary, but by too little for float64 to square the deviations."""
        return [int(d) for d in np.flatnonzero((self.low < self.high) & (self.variances < LEAST_VARIANCE))]


class DataSummaryStatistics:
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
        check_sample_weight(weights, first_row)
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

    def __iadd__(self, other: DataSummaryStatistics) -> DataSummaryStatistics:
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

    def finish(self, packed: IntArray, low: FloatArray, high: FloatArray) -> DataSummary:
        """The survey of all ranks from the sum of `packed` and the least and greatest of low and high."""
        low_half, high_half, n_rows, n_dropped = map(int, packed[-4:])
        n_samples, total_weight, *sums = self.sums.form.value(packed[:-4].reshape(self.sums.limbs.shape))
        n_features = len(self.centre)
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = np.array(sums[:n_features]) / total_weight
            variances = np.maximum(np.array(sums[n_features:]) / total_weight - shift**2, 0.0)
        variances[low == high] = 0.0
        return DataSummary(
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


def tile_hash(first_row: int, raw: NDArray[np.generic], weights: NDArray[np.generic] | None) -> int:
    """A 64-bit hash of a tile's bytes, keyed with its place and dtype (BLAKE2b)."""
    key = f"{first_row} {raw.dtype.str} {raw.shape[1]}".encode()
    digest = hashlib.blake2b(np.ascontiguousarray(raw).data, digest_size=8, key=key[:64])
    if weights is not None:
        digest.update(np.ascontiguousarray(weights).data)
    return int.from_bytes(digest.digest(), "little")
