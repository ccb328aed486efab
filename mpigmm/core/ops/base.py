"""The operations on a tile that an E-step is made of: the abstract base of those in NumPy, C and CUDA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE, SINGLE, Array, Arrays, Indices
from mpigmm.core.exact import FixedPoint, FloatArray, IntArray
from mpigmm.core.ops.groups import DifferenceGroup, ProductGroup, Products, SecondMoments, Sums
from mpigmm.core.tile import Tile

LEAST_EXPONENTS = {DOUBLE: -600.0, SINGLE: -80.0}
"""By precision: a responsibility that is below exp of this before it is divided by the row's sum may be set to zero.
Where exp leaves the normal numbers, it takes ten times as long."""

MOST_LANES = 16
"""Numbers in the longest vector of any processor."""


class UnsupportedOperationError(Exception):
    """These operations lack one of the optional functions."""


@dataclass(frozen=True)
class OpsCosts:
    """What operations cost on one core of a present-day server, or on a GPU; the choice among kernels rests on it.

    Attributes
    ----------
    block_height : int
        Whitened coordinates of a component that are computed by one matrix product.
    flops : float
        Floating-point operations of a matrix product per nanosecond.
    access : float
        Nanoseconds to read and write one number.
    call : float
        Nanoseconds that every call for one component takes, however few the rows are.
    pruned_moment : float
        Time that `Ops.pruned_moments` takes for one pair of row and component, relative to that of a dense product.
    product_overhead : float
        Time that a matrix product takes beyond its operations, as a number of additional components.
    feature_product : float
        Nanoseconds to compute one product of two features.
    """

    block_height: int
    flops: float
    access: float
    call: float
    pruned_moment: float
    product_overhead: float
    feature_product: float


class Ops(ABC):
    """Operations on tiles in one kind of memory. All sums are taken in an order that the shapes alone decide.

    Arrays are C-contiguous, in the memory of `arrays` and, where nothing else is said, in the precision of the tile; n
    is the number of rows of the tile. Arrays that are returned may be overwritten by the next call with the same tile.

    Attributes
    ----------
    name : str
        Stored with a run: other operations yield other bits.
    arrays : Arrays
        Makes the arrays that the operations take.
    costs : OpsCosts
    prunes : bool
        Whether there are `pruned_distances` and `pruned_moments`.
    fuses : bool
        Whether there is `sweep`.
    """

    name: str
    arrays: Arrays
    costs: OpsCosts
    prunes = False
    fuses = False

    @property
    def xp(self) -> Any:
        """The array library."""
        return self.arrays.xp

    @abstractmethod
    def center_transpose(self, raw: Array, centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype minus the centre (D,), float64, into out (D, n)."""

    @abstractmethod
    def center(self, raw: Array, centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype minus the centre (D,), float64, into out (n, D)."""

    @abstractmethod
    def products(self, kind: Products, rows: FloatArray, out: FloatArray) -> None:
        """Products of the features of rows (D, n) into out (Q, n)."""

    @abstractmethod
    def distances(
        self,
        tile: Tile,
        rows: FloatArray,
        means: FloatArray,
        precisions: FloatArray,
        start: FloatArray,
        out: FloatArray,
    ) -> None:
        """start (K,) minus half the squared distances of rows (D, n) from means (K, D), into out (K, n).

        Precisions are (K, D), or (K, 1) where all features of a component share one.
        """

    @abstractmethod
    def scale(self, tile: Tile, resp: FloatArray, mean: FloatArray, out: FloatArray) -> FloatArray:
        """A tile's rows minus a mean (D,), times the roots of resp (n,), into out (D, n); returns the roots (n,)."""

    @abstractmethod
    def sums(self, tile: Tile, name: str, left: FloatArray, right: FloatArray) -> FloatArray:
        """Sums over rows of left (p, n) times right (q, n), float64 (p, q), in the tile's buffer of that name."""

    @abstractmethod
    def lower_triangle(self, n_features: int) -> Indices:
        """`triangle.lower_triangle`, as an array of `arrays`."""

    @abstractmethod
    def log_sum_exp(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        """Turn weighted log-densities (K, n) into responsibilities in place; returns them and the log-densities (n,).

        A row for which all components have the log-density -inf gets no responsibilities and the log-density -inf.
        """

    @abstractmethod
    def subtract_squared_norms(
        self, tile: Tile, lines: FloatArray, out: FloatArray, start: FloatArray | None = None
    ) -> None:
        """Subtract from out (K, n) half the squared norms of lines (K, h, 1 + d) times [1, x], x the first d features.

        Where start (K,) is given, it replaces the contents of out.
        """

    @abstractmethod
    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        """`FixedPoint.add`: values (size,), float64, are overwritten."""

    @abstractmethod
    def carry(self, limbs: IntArray) -> None:
        """`exact.carry`."""

    def sweep(self, tile: Tile, products: ProductGroup | None, differences: DifferenceGroup | None) -> Sums:
        """The whole E-step of the components of both groups, some rows of the tile at a time; where `fuses` is true."""
        raise UnsupportedOperationError(f"{self.name} has no fused E-step")

    def pruned_distances(
        self, tile: Tile, rest: FloatArray, n_rest: int, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        """From upper bounds of log-densities to log-densities, -inf where negligible; where `prunes` is true.

        Parameters
        ----------
        tile : Tile
        rest : ndarray of shape (K, 1 + D, h)
            Coefficients of [1, x] in the whitened coordinates that the bounds leave out; h is `padded`.
        n_rest : int
            The number of these coordinates.
        highest : float
            Largest log_norm of the components.
        nats : float
            A component is negligible for a row where its density is below exp(-nats) times the largest density of any
            component, divided by the squared distance from that component.
        most : int
            Where more pairs than this are not negligible, False is returned, and out is undefined.
        out : ndarray of shape (K, n)
        """
        raise UnsupportedOperationError(f"{self.name} cannot leave out negligible components")

    def pruned_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """Moments about means (K, D), over the rows with resp (K, n) above least (K,); where `prunes` is true.

        They go into first (K, D) and second (K, D (D + 1) / 2), float64.
        """
        raise UnsupportedOperationError(f"{self.name} cannot leave out negligible components")

    def difference_log_prob(self, tile: Tile, group: DifferenceGroup, out: FloatArray) -> None:
        """Weighted log-densities of a group's components into out (K, n)."""
        wide = tile.widened()
        found = out if tile is wide else wide.array("found", *out.shape)
        if group.factors.size:
            self.factored_distances(wide, group, found)
        else:
            rows = wide.rows
            if group.whiten.size:
                rows = self.xp.matmul(group.whiten, wide.rows, out=wide.array("whitened", *wide.rows.shape))
            self.distances(wide, rows, group.subtracted, group.precisions, group.log_norm, found)
        if found is not out:
            out[:] = found

    def factored_distances(self, tile: Tile, group: DifferenceGroup, out: FloatArray) -> None:
        """Log-densities (K, n) of components that have a factor each; the tile is of float64."""
        xp, shape = self.xp, tile.rows.shape
        for k, factor in enumerate(group.factors):
            differences = xp.subtract(tile.rows, group.means[k][:, None], out=tile.array("scaled", *shape))
            whitened = xp.matmul(factor, differences, out=tile.array("whitened", *shape))
            self.products(Products.SQUARED_NORM, whitened, out[k : k + 1])
        out *= -0.5
        out += group.log_norm[:, None]

    def difference_moments(
        self, tile: Tile, group: DifferenceGroup, resp: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """Moments about a group's means, weighted with resp (K, n), into first (K, D) and second, float64.

        The shape of second is `DifferenceGroup.second_shape`.
        """
        wide = tile.widened()
        resp = resp.astype(wide.dtype, copy=False)
        if group.second_moments in (SecondMoments.EACH_FEATURE, SecondMoments.ALL_FEATURES):
            self.squared_moments(wide, group, resp, first, second)
            return
        lower, pairs = self.lower_triangle(tile.n_features), second.reshape(-1, second.shape[-1])
        pairs[:] = 0
        for k, mean in enumerate(group.means):
            scatter = self.scatter(wide, resp[k], mean, first[k])
            pairs[k if len(pairs) > 1 else 0] += scatter.reshape(-1)[lower]

    def squared_moments(
        self, tile: Tile, group: DifferenceGroup, resp: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """`difference_moments` where second moments are not those of pairs; the tile is of float64."""
        xp, squared_norms = self.xp, tile.array("squared_norms", 1, tile.n_rows)
        for k, mean in enumerate(group.means):
            differences = xp.subtract(tile.rows, mean[:, None], out=tile.array("scaled", *tile.rows.shape))
            first[k] = xp.matmul(differences, resp[k])
            if group.second_moments is SecondMoments.EACH_FEATURE:
                second[k] = xp.matmul(xp.multiply(differences, differences, out=differences), resp[k])
            else:
                self.products(Products.SQUARED_NORM, differences, squared_norms)
                second[k] = xp.matmul(squared_norms[0], resp[k])

    def scatter(self, tile: Tile, resp: FloatArray, mean: FloatArray, first: FloatArray) -> FloatArray:
        """Sum over a tile's rows of resp (n,) times z z^T, z = row - mean, float64 (D, D).

        The sum of resp times z goes into first (D,), float64.
        """
        scaled = tile.array("scaled", *tile.rows.shape)
        root = self.scale(tile, resp, mean, scaled)
        first[:] = self.xp.matmul(scaled, root)
        return self.sums(tile, "scatter", scaled, scaled)


def least_exponent(array: NDArray[Any]) -> float:
    """`LEAST_EXPONENTS` for log-densities of an array's dtype."""
    return LEAST_EXPONENTS[array.dtype]


def padded(size: int) -> int:
    """The next multiple of `MOST_LANES`."""
    return -(-size // MOST_LANES) * MOST_LANES
