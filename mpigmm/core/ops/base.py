"""The interface of the array operations on tiles, which NumPy, C and CUDA implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE, SINGLE, Array, Arrays, Indices
from mpigmm.core.exact import FixedPoint, FloatArray, IntArray
from mpigmm.core.ops.groups import (
    BoundedGroup,
    BoundedSums,
    DifferenceGroup,
    ProductGroup,
    Products,
    SecondMoments,
    Sums,
)
from mpigmm.core.tile import Tile

LEAST_EXPONENTS = {DOUBLE: -600.0, SINGLE: -80.0}
"""For each precision: a responsibility that is less than exp of this, before division by the row's sum, may be set to
zero. A result of exp below the normal numbers takes ten times as long to compute."""

MOST_LANES = 16
"""Largest number of float32 in a vector register of any processor."""


class UnsupportedOperationError(Exception):
    """These array operations do not have an optional operation."""


@dataclass(frozen=True)
class OpsCosts:
    """Estimated costs of array operations on one core of a server, or on a GPU, from which kernels are chosen.

    Attributes
    ----------
    flops : float
        Floating-point operations of a matrix product per nanosecond.
    triangular_flops : float
        Those of products of which only a triangle is computed: whitened coordinates, and moments of pairs of features.
    coordinate : float
        Nanoseconds that a whitened coordinate takes in addition; a feature takes twice as long in the moments.
    access : float
        Nanoseconds to read and write one number.
    call : float
        Nanoseconds that a call for one component takes in addition, for any number of rows.
    pruned_moment : float
        Time that `Ops.pruned_moments` takes for one pair of row and component, relative to `Ops.pair_moments`.
    product_overhead : float
        Time that a matrix product takes in addition to its floating-point operations, in numbers of components.
    feature_product : float
        Nanoseconds to compute one product of two features.
    """

    flops: float
    triangular_flops: float
    coordinate: float
    access: float
    call: float
    pruned_moment: float
    product_overhead: float
    feature_product: float


class Ops(ABC):
    """Array operations on tiles in the memory of the host or of a GPU.

    The order of the terms in every sum depends only on shapes. Arrays are C-contiguous and in the memory of `arrays`.
    Their dtype is that of the tile, unless another is named; n is the number of rows of the tile. The next call with
    the same tile may overwrite arrays that an operation has returned.

    Attributes
    ----------
    name : str
        Stored with a run, because different implementations give different bits.
    arrays : Arrays
        Creates the arrays that the operations accept.
    costs : OpsCosts
    prunes : bool
        Whether `pruned_distances` and `pruned_moments` are implemented.
    fuses : bool
        Whether `sweep` and `product_log_prob` are implemented.
    bounds : bool
        Whether `bounded_sweep` and `bounded_posterior` are implemented.
    """

    name: str
    arrays: Arrays
    costs: OpsCosts
    prunes = False
    fuses = False
    bounds = False

    @property
    def xp(self) -> Any:
        """The array library."""
        return self.arrays.xp

    @abstractmethod
    def center_transpose(self, raw: Array, centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype minus the centre (D,), float64, transposed, into out (D, n)."""

    @abstractmethod
    def center(self, raw: Array, centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype minus the centre (D,), float64, into out (n, D)."""

    @abstractmethod
    def products(self, kind: Products, rows: FloatArray, out: FloatArray) -> None:
        """Products of the features of rows (D, n) into out (Q, n), where Q is the number of products of that kind."""

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

        The squared differences are multiplied by precisions: (K, D), or (K, 1) if all features share one.
        """

    @abstractmethod
    def scale(self, tile: Tile, resp: FloatArray, mean: FloatArray, out: FloatArray) -> FloatArray:
        """A tile's rows minus a mean (D,), times the square roots of resp (n,), into out (D, n); returns the roots
        (n,)."""

    @abstractmethod
    def sums(self, tile: Tile, name: str, left: FloatArray, right: FloatArray) -> FloatArray:
        """left (p, n) times the transpose of right (q, n), float64 (p, q), in the tile's buffer of that name."""

    @abstractmethod
    def lower_triangle(self, n_features: int) -> Indices:
        """`triangle.lower_triangle`, as an array of `arrays`."""

    @abstractmethod
    def log_sum_exp(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        """Replace weighted log-densities (K, n) by responsibilities; returns these and the log-densities (n,) of the
        rows.

        If all components have the log-density -inf for a row, its responsibilities are 0 and its log-density is -inf.
        """

    @abstractmethod
    def whitening(self, coefficients: FloatArray, dtype: np.dtype[Any]) -> list[FloatArray]:
        """Coefficients of whitened coordinates in the layout and memory of `whitened_log_prob`.

        Coordinate j of component k is coefficients[k, j], of shape (1 + d,), times [1, x], where x are the first d
        features of the row. It depends only on the features up to its own number: coefficients[k, j, i] is zero for
        i > j + 1. Coefficients have the shape (K, d, 1 + d).
        """

    @abstractmethod
    def whitened_log_prob(self, tile: Tile, whitening: list[FloatArray], log_norm: FloatArray, out: FloatArray) -> None:
        """log_norm (K,) minus half the squared norms of the whitened coordinates of all rows, into out (K, n).

        `whitening` is the result of the method of that name. Its d may be less than the number of features.
        """

    @abstractmethod
    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        """The same as `FixedPoint.add`: values (size,), float64, are overwritten."""

    @abstractmethod
    def carry(self, limbs: IntArray) -> None:
        """The same as `exact.carry`."""

    def sweep(self, tile: Tile, products: ProductGroup | None, differences: DifferenceGroup | None) -> Sums:
        """The whole E-step of a tile in one pass; see `fuses`.

        The mixture consists of the components of both groups. None stands for a group without components.
        """
        raise UnsupportedOperationError(f"{self.name} has no fused E-step")

    def product_log_prob(self, tile: Tile, group: ProductGroup, out: FloatArray) -> None:
        """Weighted log-densities of a group's components into out (K, n), in one pass; see `fuses`."""
        raise UnsupportedOperationError(f"{self.name} has no fused log-densities")

    def bounded_sweep(self, tile: Tile, group: BoundedGroup) -> BoundedSums | None:
        """The whole E-step of a tile; see `bounds`.

        Returns None if more pairs of some rows than the group's share are not negligible.
        """
        raise UnsupportedOperationError(f"{self.name} has no bounds of log-densities")

    def bounded_posterior(self, tile: Tile, group: BoundedGroup, resp: FloatArray) -> FloatArray | None:
        """Responsibilities of a group's components into resp (K, n), zero where negligible; see `bounds`.

        Returns the log-densities (n,) of the rows, or None, with resp undefined, if more pairs of some rows than the
        group's share are not negligible.
        """
        raise UnsupportedOperationError(f"{self.name} has no bounds of log-densities")

    def pruned_distances(
        self, tile: Tile, rest: FloatArray, n_rest: int, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        """Replace upper bounds of log-densities by log-densities, -inf where negligible; see `prunes`.

        Parameters
        ----------
        tile : Tile
        rest : ndarray of shape (K, 1 + D, h)
            Coefficients of [1, x] in the whitened coordinates that the bounds leave out; h is a multiple of
            `MOST_LANES`.
        n_rest : int
            The number of these coordinates.
        highest : float
            Largest log_norm of the components.
        nats : float
            A component is negligible for a row where its density is below exp(-nats) times the largest density of any
            component, divided by the squared distance from that component.
        most : int
            Largest number of pairs of row and component that may be evaluated.
        out : ndarray of shape (K, n)
            Upper bounds, which are overwritten.

        Returns
        -------
        bool
            False, with out undefined, if more pairs than `most` are not negligible.
        """
        raise UnsupportedOperationError(f"{self.name} cannot leave out negligible components")

    def pair_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """Moments about means (K, D), weighted with resp (K, n), into first (K, D) and second (K, D (D + 1) / 2),
        float64."""
        lower = self.lower_triangle(tile.n_features)
        for k, mean in enumerate(means):
            second[k] = self.scatter(tile, resp[k], mean, first[k]).reshape(-1)[lower]

    def pruned_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """The same as `pair_moments`, over rows with resp above least (K,); see `prunes`."""
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
        """Log-densities (K, n) of components each of which has a triangular factor; the tile is of float64."""
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
        """`difference_moments` for second moments of each feature, or summed over features; the tile is of float64."""
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
        """Sum over a tile's rows of resp (n,) times z z^T, with z = row - mean, float64 (D, D).

        The sum of resp times z goes into first (D,), float64.
        """
        scaled = tile.array("scaled", *tile.rows.shape)
        root = self.scale(tile, resp, mean, scaled)
        first[:] = self.xp.matmul(scaled, root)
        return self.sums(tile, "scatter", scaled, scaled)


def least_exponent(array: NDArray[Any]) -> float:
    """The number in `LEAST_EXPONENTS` for the dtype of an array."""
    return LEAST_EXPONENTS[array.dtype]


def padded(size: int) -> int:
    """The least multiple of `MOST_LANES` that is at least size."""
    return -(-size // MOST_LANES) * MOST_LANES
