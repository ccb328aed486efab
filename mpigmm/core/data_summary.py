"""A summary of all rows, gathered in one pass before the first iteration: the survey."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, carry
from mpigmm.core.row_checks import LARGEST_MAGNITUDE, check_finite, check_magnitude, check_sample_weight
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

LEAST_VARIANCE = 1e-280
"""Where a feature's variance is smaller, a component's variance of this feature may underflow float64."""

FAR_DEVIATIONS = 1e6
"""A value that is farther from the median, in standard deviations, may stand for a missing one."""


@dataclass(frozen=True, eq=False)
class DataSummary:
    """Statistics of all rows, the same on every rank.

    Attributes
    ----------
    n_samples : int
        Number of rows that are used: of weight > 0, without missing values.
    total_weight : float
        Sum of their weights.
    centre : ndarray of shape (D,)
        A point amid the rows, which is subtracted from every row before sums are computed.
    variances : ndarray of shape (D,)
        Weighted variance of each feature.
    low, high : ndarray of shape (D,)
        Least and greatest value of each feature.
    masked : bool
        Whether some rows are left out, for a weight of zero or for missing values.
    fingerprint : int
        Sum modulo 2^64 of the hashes of all tiles.
    n_dropped : int
        Number of rows of weight > 0 that are left out for values that are not finite.
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
        """Upper bounds (K, D) of |x_d - mu_kd| over all rows x, errors of rounding included."""
        rounding = 2.0**-48 * np.maximum(np.maximum(np.abs(self.low), np.abs(self.high)), np.abs(means))
        return np.maximum(np.abs(self.high - means), np.abs(means - self.low)) + rounding

    @property
    def max_abs_deviation(self) -> FloatArray:
        """Upper bounds (D,) of |x_d - centre_d| over all rows x."""
        return np.maximum(self.high - self.centre, self.centre - self.low)

    def constant_features(self) -> list[int]:
        """Features that have the same value in all rows."""
        return [int(d) for d in np.flatnonzero(self.low == self.high)]

    def narrow_features(self) -> list[int]:
        """Features that vary, but so little that squares of deviations underflow float64."""
        return [int(d) for d in np.flatnonzero((self.low < self.high) & (self.variances < LEAST_VARIANCE))]


class DataSummaryStatistics:
    """Sums from which the summary is computed. Those of two sets of rows add to those of their union, in any order.

    Parameters
    ----------
    centre : ndarray of shape (D,)
        A first centre near the rows, the same on every rank.
    drop : bool
        Whether rows with values that are not finite are left out; if not, they are errors.
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
        """Add the rows of one tile, with which `tile` is filled. Raises `BadRowError`."""
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
        values, weight = rows.values, rows.sample_weight
        used = values if weight is None else np.where(weight[:, None] == 0, 0, values)
        if not self.drop:
            check_finite(used, rows.first)
        check_magnitude(np.where(np.isfinite(used), used, 0), values, rows.first)

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
        """All that is summed over ranks, as one vector of integers.

        The limbs of the sums, the fingerprint in two halves, the number of rows, and the number of those left out.
        """
        halves = [self.fingerprint & 0xFFFFFFFF, self.fingerprint >> 32 & 0xFFFFFFFF]
        counts = [*halves, self.n_rows, self.n_dropped]
        return np.concatenate([carry(self.sums.limbs).reshape(-1), np.array(counts, np.int64)])

    def finish(self, packed: IntArray, low: FloatArray, high: FloatArray) -> DataSummary:
        """The summary of the rows of all ranks.

        Parameters
        ----------
        packed : ndarray of int64
            The sum of `packed` over ranks.
        low, high : ndarray of shape (D,)
            The minimum of `low` and the maximum of `high` over ranks.
        """
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
    """Bounds by which values far from all others are found.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
        A sample of the rows.

    Returns
    -------
    median, distance : ndarray of shape (D,)
        A value farther than `distance` from the median is suspect. The distance is `FAR_DEVIATIONS` standard
        deviations, which are estimated from the quartiles or, where these coincide, from the values that differ from
        the median; it is infinite where none does.
    """
    lower, median, upper = np.stack([np.quantile(column, [0.25, 0.5, 0.75]) for column in rows.T], axis=1)
    deviations = (upper - lower) / 1.349
    for feature in np.flatnonzero(deviations == 0):
        distances = np.abs(rows[:, feature] - median[feature])
        deviations[feature] = np.median(distances[distances > 0]) / 0.6745 if distances.any() else np.inf
    return median, FAR_DEVIATIONS * deviations


def tile_hash(rows: Rows) -> int:
    """A 64-bit hash (BLAKE2b) of all arrays of a tile, keyed with the number of its first row, dtype and width."""
    values = rows.values
    key = f"{rows.first} {values.dtype.str} {values.shape[1]}".encode()
    digest = hashlib.blake2b(digest_size=8, key=key[:64])
    for array in rows.arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little")
