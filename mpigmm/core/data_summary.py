"""A summary of all rows, computed by the survey: one pass over the rows before the first iteration."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, carry
from mpigmm.core.row_checks import LARGEST_MAGNITUDE, check_finite, check_magnitude, check_sample_weight, used_values
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

LEAST_VARIANCE = 1e-280
"""Least variance of a feature; with a smaller one the variance of a component may underflow float64."""

N_COUNTS = 4
"""Integers that are summed over ranks besides the limbs of the sums: see `DataSummaryStatistics.packed`."""

FAR_DEVIATIONS = 1e6
"""Distance from the median, in standard deviations, beyond which a value may be a code for a missing value."""


@dataclass(frozen=True, eq=False)
class DataSummary:
    """Statistics of all rows, the same on every rank.

    Attributes
    ----------
    n_samples : int
        Number of rows that are used: those of weight > 0 without missing values.
    total_weight : float
        Sum of their sample weights.
    centre : ndarray of shape (D,)
        A point among the rows, which is subtracted from every row before sums are computed.
    variances : ndarray of shape (D,)
        Weighted variance of each feature.
    low, high : ndarray of shape (D,)
        Smallest and largest value of each feature.
    masked : bool
        Whether some rows are left out because of a weight of zero or missing values.
    fingerprint : int
        Sum modulo 2^64 of the hashes (`tile_hash`) of all tiles.
    n_dropped : int
        Number of rows of weight > 0 that are left out because of values that are not finite.
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
        """Upper bounds (K, D) of |x_d - means_kd| over all rows x, rounding errors included."""
        rounding = 2.0**-48 * np.maximum(np.maximum(np.abs(self.low), np.abs(self.high)), np.abs(means))
        return np.maximum(np.abs(self.high - means), np.abs(means - self.low)) + rounding

    @property
    def max_abs_deviation(self) -> FloatArray:
        """Upper bounds (D,) of |x_d - centre_d| over all rows x."""
        return np.maximum(self.high - self.centre, self.centre - self.low)

    def constant_features(self) -> list[int]:
        """Indices of the features that have the same value in all rows."""
        return [int(d) for d in np.flatnonzero(self.low == self.high)]

    def narrow_features(self) -> list[int]:
        """Indices of the features that vary, but so little that squares of deviations underflow float64."""
        return [int(d) for d in np.flatnonzero((self.low < self.high) & (self.variances < LEAST_VARIANCE))]


class DataSummaryStatistics:
    """Sums from which the summary is computed; the sums of two sets of rows add up to those of their union, in any
    order.

    Parameters
    ----------
    centre : ndarray of shape (D,)
        A point near the rows, the same on every rank, which is subtracted from them.
    drop : bool
        Whether rows with values that are not finite are left out; otherwise they are errors.
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

    def add(self, tile: Tile, rows: Rows) -> None:
        """Fill a tile with rows and add their sums. Raises `BadRowError`."""
        self.fingerprint += tile_hash(rows)
        self.n_rows += len(rows)
        check_sample_weight(rows)
        tile.fill(rows, self.centre, mask=False)
        finite = bool(np.isfinite(tile.rows).all())
        if not finite or tile.sample_weight is not None:
            tile.mask()
        if not finite:
            self._refuse(rows)
            absent, weight = tile.sample_weight == 0, rows.sample_weight
            self.n_dropped += int(np.count_nonzero(absent if weight is None else absent & (weight != 0)))
        self._add_sums(tile, rows)

    def _refuse(self, rows: Rows) -> None:
        """Raise `BadRowError` for the first row of weight > 0 that is an error."""
        used = used_values(rows.values, rows)
        if not self.drop:
            check_finite(used, rows.first)
        check_magnitude(np.where(np.isfinite(used), used, 0), rows.values, rows.first)

    def _add_sums(self, tile: Tile, rows: Rows) -> None:
        weight, weighted, used = tile.sample_weight, tile.rows, tile.rows
        size: list[float] = [tile.n_rows, tile.n_rows]
        if weight is not None:
            size = [float(np.count_nonzero(weight)), float(weight.sum())]
            weighted = np.multiply(tile.rows, weight, out=tile.array("scaled", *tile.rows.shape))
            used = tile.rows[:, weight > 0]
        if not used.size:
            return
        least, greatest = used.min(axis=1), used.max(axis=1)
        if max(-least.min(), greatest.max()) > LARGEST_MAGNITUDE:
            check_magnitude(tile.rows.T, rows.values, rows.first)
        squares = np.einsum("dn,dn->d", weighted, tile.rows)
        self.sums.add(np.concatenate([size, weighted.sum(axis=1), squares]), tile.ops)
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

    @property
    def n_packed(self) -> int:
        """Number of entries of `packed()`."""
        return self.sums.limbs.size + N_COUNTS

    def packed(self) -> IntArray:
        """The part of the statistics that is summed over ranks, as one vector of int64.

        It contains the limbs of the sums, the fingerprint in two halves, and the numbers of all and of dropped rows.
        """
        halves = [self.fingerprint & 0xFFFFFFFF, self.fingerprint >> 32 & 0xFFFFFFFF]
        counts = [*halves, self.n_rows, self.n_dropped]
        return np.concatenate([carry(self.sums.limbs).reshape(-1), np.array(counts, np.int64)])

    def finish(self, packed: IntArray, low: FloatArray, high: FloatArray) -> DataSummary:
        """The summary of the rows of all ranks.

        Parameters
        ----------
        packed : ndarray of int64
            The sum of `packed()` over ranks.
        low, high : ndarray of shape (D,)
            The minimum of `low` and the maximum of `high` over ranks.
        """
        low_half, high_half, n_rows, n_dropped = map(int, packed[-N_COUNTS:])
        n_samples, total_weight, *sums = self.sums.form.value(packed[:-N_COUNTS].reshape(self.sums.limbs.shape))
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
    """The median of each feature, and a distance from it beyond which a value is suspect.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
        A sample of the rows.

    Returns
    -------
    median, distance : ndarray of shape (D,)
        The distance is `FAR_DEVIATIONS` standard deviations. A standard deviation is estimated from the quartiles or,
        where these coincide, from the values that differ from the median; it is infinite where none does.
    """
    lower, median, upper = np.stack([np.quantile(column, [0.25, 0.5, 0.75]) for column in rows.T], axis=1)
    deviations = (upper - lower) / 1.349
    for feature in np.flatnonzero(deviations == 0):
        distances = np.abs(rows[:, feature] - median[feature])
        deviations[feature] = np.median(distances[distances > 0]) / 0.6745 if distances.any() else np.inf
    return median, FAR_DEVIATIONS * deviations


def tile_hash(rows: Rows) -> int:
    """A 64-bit hash (BLAKE2b) of all arrays of a tile's rows; its key is the first row's number, the dtype and D."""
    values = rows.values
    key = f"{rows.first} {values.dtype.str} {values.shape[1]}".encode()
    digest = hashlib.blake2b(digest_size=8, key=key[:64])
    for array in rows.arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little")
