"""The loops over a tile that no BLAS has: in NumPy, and the place where compiled ones and those of GPUs come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.backend import HOST, Backend
from mpigmm.core.exact import FixedPoint, FloatArray, IntArray, carry
from mpigmm.core.groups import DifferenceGroup, ProductGroup, Products, Sums, Wanted
from mpigmm.core.triangle import lower_triangle
from mpigmm.options import Kernels

if TYPE_CHECKING:
    from mpigmm.core.tile import Tile

FEW_FEATURES = 16
ROWS_AT_ONCE = 64
"""Rows are turned round this many at a time, unless they have few features."""

GROUP_HEIGHT = 256
"""Lines of whitened coordinates computed by one matrix product: enough for BLAS, few enough for the cache."""

LEAST_EXPONENT, LEAST_SINGLE_EXPONENT = -600.0, -80.0
FAR_FEATURES = 32
"""Responsibilities stop at exp of the least exponent, in float64 with so many features: where exp leaves the normal
numbers, it takes ten times as long, and rows lie that far from most components."""

WIDEST = 16
"""Numbers that a vector of a processor holds at most."""

Indices = NDArray[np.intp]


class Loops:
    """In NumPy, one pass over the tile after another.

    Attributes
    ----------
    name : str
        Part of what decides a fit's bits.
    backend : Backend
        In whose memory the arrays are that the loops take and make.
    block_height : int
        Whitened coordinates of a component computed together.
    flops, touch : float
        Operations of a matrix product a nanosecond, and nanoseconds to read and write a number.
    call : float
        Nanoseconds to begin with some rows of a tile and one component, however few they are.
    picking : float
        What the moments of a row that is picked cost, in those of one that NumPy does not pick.
    thin : float
        Components that would cost what a product with few of them costs beyond its operations.
    phi : float
        Nanoseconds to make one product of features.
    picks : bool
        Whether there are `pick_distances` and `pick_moments`.
    fuses : bool
        Whether there is `sweep`.
    """

    name = "numpy"
    backend: Backend = HOST
    block_height = 16
    flops = 45.0
    touch = 0.3
    call = 20e3
    picking = 1.3
    thin = 5.0
    phi = 0.3
    picks = True
    fuses = False

    @property
    def xp(self) -> Any:
        """The backend's array library."""
        return self.backend.xp

    def turn(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype, less the centre (D,), into out (D, n)."""
        if len(centre) < FEW_FEATURES:
            np.subtract(raw.T, centre[:, None], out=out, casting="same_kind")
            return
        part = np.empty((ROWS_AT_ONCE, len(centre)))
        for start in range(0, len(raw), ROWS_AT_ONCE):
            rows = raw[start : start + ROWS_AT_ONCE]
            centred = np.subtract(rows, centre, out=part[: len(rows)], casting="same_kind")
            out[:, start : start + ROWS_AT_ONCE] = centred.T

    def subtract(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype, less the centre (D,), into out (n, D)."""
        np.subtract(raw, centre, out=out, casting="same_kind")

    def multiply(self, kind: Products, rows: FloatArray, out: FloatArray) -> None:
        """Products of rows (D, n) into out (Q, n)."""
        if kind is Products.SQUARES:
            np.multiply(rows, rows, out=out)
        elif kind is Products.LENGTH:
            np.einsum("dn,dn->n", rows, rows, out=out[0])
        else:
            end = 0
            for i, row in enumerate(rows):
                start, end = end, end + i + 1
                np.multiply(row, rows[: i + 1], out=out[start:end])

    def distances(
        self,
        tile: Tile,
        rows: FloatArray,
        means: FloatArray,
        precisions: FloatArray,
        start: FloatArray,
        out: FloatArray,
    ) -> None:
        """start (K,) less half the squared distances of rows (D, n) from means (K, D), into out (K, n).

        Precisions are (K, D), or (K, 1) where all features of a component share one.
        """
        centred, shared = tile.array("scaled", *rows.shape), precisions.shape[1] < len(rows)
        for k, mean in enumerate(means):
            np.subtract(rows, mean[:, None], out=centred)
            if shared:
                np.einsum("dn,dn->n", centred, centred, out=out[k])
            else:
                np.matmul(precisions[k], np.multiply(centred, centred, out=centred), out=out[k])
        if shared:
            out *= precisions
        out *= -0.5
        out += start[:, None]

    def scale(self, tile: Tile, weights: FloatArray, mean: FloatArray, out: FloatArray) -> FloatArray:
        """A tile's rows less a mean (D,), times the roots of weights (n,), into out (D, n); returns the roots (n,)."""
        root = np.sqrt(weights, out=tile.vector("root"))
        np.subtract(tile.rows, mean[:, None], out=out)
        np.multiply(out, root, out=out)
        return root

    def sums(self, tile: Tile, name: str, left: FloatArray, right: FloatArray) -> FloatArray:
        """Sums over rows of left (p, n) times right (q, n), in float64 (p, q); overwritten by the next call of that
        name."""
        sums = np.matmul(left, right.T, out=tile.array(name, len(left), len(right)))
        return sums.astype(np.float64, copy=False)

    def lower_triangle(self, n_features: int) -> Indices:
        """`triangle.lower_triangle`."""
        return lower_triangle(n_features)

    def normalise(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        """Turn weighted log-densities (K, n) into responsibilities in place; returns them and log densities (n,).

        A row whose log-densities are all -inf has no responsibilities, and the log density -inf.
        """
        log_density = np.maximum.reduce(log_prob, axis=0, out=tile.vector("log_density"))
        lost = np.flatnonzero(np.isneginf(log_density))
        log_density[lost] = 0.0
        log_prob -= log_density
        if tile.n_features >= FAR_FEATURES or tile.dtype == np.float32:
            np.maximum(log_prob, least_exponent(log_prob), out=log_prob)
        resp = np.exp(log_prob, out=log_prob)
        resp[:, lost] = 0.0
        total = np.add.reduce(resp, axis=0, out=tile.vector("total"))
        total[lost] = 1.0
        resp /= total
        log_density += np.log(total, out=total)
        log_density[lost] = -np.inf
        return resp, log_density

    def subtract_lengths(self, tile: Tile, lines: FloatArray, out: FloatArray, start: FloatArray | None = None) -> None:
        """Subtract from out (K, n) the sums over h of half the squares of lines (K, h, 1 + d) times the tile's [1,
        first d features]; from start (K,) if given, whatever out held."""
        height, width = lines.shape[1:]
        group = max(1, GROUP_HEIGHT // height)
        if start is not None:
            out[:] = start[:, None]
        for first in range(0, len(out), group):
            some, into = lines[first : first + group].reshape(-1, width), out[first : first + group]
            whitened = tile.array("whitened", len(some), tile.n_rows)
            np.matmul(some, tile.augmented[:width], out=whitened)
            whitened = whitened.reshape(-1, height, tile.n_rows)
            lengths = np.einsum("kdn,kdn->kn", whitened, whitened, out=tile.array("lengths", *into.shape))
            lengths *= 0.5
            into -= lengths

    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        """`FixedPoint.add`."""
        form.add(limbs, values)

    def carry(self, limbs: IntArray) -> None:
        """`exact.carry`."""
        carry(limbs)

    def sweep(self, tile: Tile, products: ProductGroup | None, differences: DifferenceGroup | None) -> Sums:
        """The whole E-step of the components of both groups, some rows at a time."""
        raise NotImplementedError(f"{self.name} takes one step after another")

    def difference_log_prob(self, tile: Tile, group: DifferenceGroup, out: FloatArray) -> None:
        """Weighted log-densities of a group into out (K, n), of any precision."""
        wide = tile.widened()
        found = out if tile is wide else wide.array("found", *out.shape)
        if group.factors.size:
            self.factored_distances(wide, group, found)
        else:
            rows = wide.rows
            if group.whiten.size:
                rows = self.xp.matmul(group.whiten, wide.rows, out=wide.array("whitened", *wide.rows.shape))
            self.distances(wide, rows, group.subtracted, group.precisions, group.constants, found)
        if found is not out:
            out[:] = found

    def factored_distances(self, tile: Tile, group: DifferenceGroup, out: FloatArray) -> None:
        """Log-densities (K, n) of components each of which is whitened by itself."""
        xp, shape = self.xp, tile.rows.shape
        for k, factor in enumerate(group.factors):
            differences = xp.subtract(tile.rows, group.means[k][:, None], out=tile.array("scaled", *shape))
            whitened = xp.matmul(factor, differences, out=tile.array("whitened", *shape))
            self.multiply(Products.LENGTH, whitened, out[k : k + 1])
        out *= -0.5
        out += group.constants[:, None]

    def difference_moments(
        self, tile: Tile, group: DifferenceGroup, resp: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """Moments of a group about its means, weighted with resp (K, n), into first (K, D) and second, as wanted."""
        wide = tile.widened()
        resp = resp.astype(wide.dtype, copy=False)
        if group.wanted in (Wanted.EACH_FEATURE, Wanted.ALL_FEATURES):
            self.add_squares(wide, group, resp, first, second)
            return
        lower, pairs = self.lower_triangle(tile.n_features), second.reshape(-1, second.shape[-1])
        pairs[:] = 0
        for k, mean in enumerate(group.means):
            scatter = self.scatter(wide, resp[k], mean, first[k])
            pairs[k if len(pairs) > 1 else 0] += scatter.reshape(-1)[lower]

    def add_squares(
        self, tile: Tile, group: DifferenceGroup, resp: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """The same of a group whose second moments are squares, summed over features or not; tile is of float64."""
        xp, lengths = self.xp, tile.array("lengths", 1, tile.n_rows)
        for k, mean in enumerate(group.means):
            differences = xp.subtract(tile.rows, mean[:, None], out=tile.array("scaled", *tile.rows.shape))
            first[k] = xp.matmul(differences, resp[k])
            if group.wanted is Wanted.EACH_FEATURE:
                second[k] = xp.matmul(xp.multiply(differences, differences, out=differences), resp[k])
            else:
                self.multiply(Products.LENGTH, differences, lengths)
                second[k] = xp.matmul(lengths[0], resp[k])

    def scatter(self, tile: Tile, weights: FloatArray, mean: FloatArray, first: FloatArray) -> FloatArray:
        """Sum of w z z^T over a tile's rows, z = row - mean, as (D, D); the sum of w z goes into first (D,).

        The result is overwritten by the next call with the same tile.
        """
        scaled = tile.array("scaled", *tile.rows.shape)
        root = self.scale(tile, weights, mean, scaled)
        first[:] = self.xp.matmul(scaled, root)
        return self.sums(tile, "scatter", scaled, scaled)

    def pick_distances(
        self, tile: Tile, rest: FloatArray, n_rest: int, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        """From upper bounds of log-densities to log-densities, -inf where negligible.

        Parameters
        ----------
        tile : Tile
        rest : ndarray of shape (K, 1 + D, h)
            What [1, x] is multiplied by for the whitened coordinates that the bounds leave out; h is `padded`.
        n_rest : int
            Those that are.
        highest : float
            Largest of the components' log-constants.
        nats : float
            A component is negligible for a row where its density is below exp(-nats) times the likeliest one's, over
            that one's squared distance.
        most : int
            Pairs up to which this pays; where more matter, False is returned and out is undefined.
        out : ndarray of shape (K, n)
        """
        best = np.maximum.reduce(out, axis=0, out=tile.vector("highest"))
        reached = tile.vector("reached")
        reached[:] = -np.inf
        found: list[tuple[Indices, FloatArray]] = []
        for k, bounds in enumerate(out):
            rows = np.flatnonzero(bounds == best)
            values = complete(tile, rows, rest[k, :, :n_rest], bounds[rows])
            reached[rows] = np.maximum(reached[rows], values)
            found.append((rows, values))
        deviation = np.subtract(highest + 1.0, reached, out=best)
        reached -= np.log(deviation, out=deviation)
        matter = out >= np.subtract(reached, nats, out=reached)
        if np.count_nonzero(matter) > most:
            return False
        for k, (rows, values) in enumerate(found):
            matter[k, rows] = False
            more = np.flatnonzero(matter[k])
            completed = complete(tile, more, rest[k, :, :n_rest], out[k, more])
            out[k] = -np.inf
            out[k, rows] = values
            out[k, more] = completed
        return True

    def pick_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        """Moments (K, D) and (K, D (D + 1) / 2) about the means (K, D), of rows with resp (K, n) above least (K,)."""
        lower = lower_triangle(tile.n_features)
        for k, mean in enumerate(means):
            rows = np.flatnonzero(resp[k] > least[k])
            root = np.sqrt(resp[k, rows])
            picked = pick(tile, rows)
            picked -= mean
            picked *= root[:, None]
            np.matmul(root, picked, out=first[k])
            scatter = (picked.T @ picked).astype(np.float64, copy=False)
            np.take(scatter.reshape(-1), lower, out=second[k], mode="clip")


def pick(tile: Tile, rows: Indices) -> FloatArray:
    """Some rows (m, D) of a tile; overwritten by the next call."""
    picked = tile.array("picked", len(rows), tile.n_features)
    np.take(tile.by_row(), rows, axis=0, out=picked, mode="clip")
    return picked


def complete(tile: Tile, rows: Indices, rest: FloatArray, bounds: FloatArray) -> FloatArray:
    """Log-densities of some rows (m,) under one component, from their bounds (m,)."""
    if not len(rows):
        return bounds
    whitened = tile.array("completed", len(rows), rest.shape[1])
    np.matmul(pick(tile, rows), rest[1:], out=whitened)
    whitened += rest[0]
    bounds -= 0.5 * np.einsum("md,md->m", whitened, whitened)
    return bounds


def least_exponent(log_prob: FloatArray) -> float:
    """Where responsibilities stop, for log-densities of this dtype."""
    return LEAST_SINGLE_EXPONENT if log_prob.dtype == np.float32 else LEAST_EXPONENT


def padded(size: int) -> int:
    """The next multiple of `WIDEST`."""
    return -(-size // WIDEST) * WIDEST


NUMPY = Loops()


LOOPS: tuple[str, ...] = get_args(Kernels)[1:]
"""Names of all loops, from slow to fast."""


def best_loops() -> str:
    """Name of the fastest loops that this installation has for this processor."""
    from mpigmm.core.compiled import best_compiled

    return best_compiled() or NUMPY.name


def loops_by_name(name: str) -> Loops:
    """The loops called so, one of `LOOPS`; raises `ImportError`."""
    if name == NUMPY.name:
        return NUMPY
    if name not in LOOPS:
        raise ImportError("this version does not know them")
    from mpigmm.core.compiled import CompiledLoops

    return CompiledLoops(name)
