"""The loops over a tile in machine code, from loops.c: fewer passes, and no lock of Python's held meanwhile."""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.backend import DOUBLE
from mpigmm.core.exact import LIMB_UNIT, FixedPoint, FloatArray, IntArray
from mpigmm.core.groups import DifferenceGroup, ProductGroup, Sums, Wanted
from mpigmm.core.loops import LOOPS, Loops, least_exponent, padded

if TYPE_CHECKING:
    from mpigmm.core.tile import Tile

COMPILED = LOOPS[1:]
"""Names of the libraries, a set of instructions each, by the number that `level` in loops.c returns."""

INTERFACE = 4
"""Of the libraries: what their functions take, and how much room; the same number stands in loops.c."""

RAW_TYPES = ("f8", "f4", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
"""Types of rows that need no conversion first, in the order of WITH_RAW in loops.c."""

TALLEST, WIDEST = 12, 32
"""Most lines and numbers of a block in loops.h."""

PICKED_BYTES = 1 << 18
CACHED, LEAST_ROWS, FEWEST_ROWS, MOST_ROWS = 2**18, 128, 64, 256
"""Bytes to work on at a time, and what their rows may be: few waste the ends of sums, if there are products, and many
leave the cache."""

ARGUMENTS = {
    "turn": "PINNNPPN",
    "subtract": "PINNPP",
    "normalise": "PNNNPR",
    "sweep": "PPPPRNPPPP",
    "difference_log_prob": "PPNPP",
    "difference_moments": "PPNPPP",
    "subtract_lengths": "PNPNNNPPP",
    "pick_distances": "PNNPNNNRRNPPPP",
    "pick_moments": "PNNPPNPPNPNPPPP",
}
"""Of the functions in loops.h: P a pointer, N a size, I an int, R a number of the precision."""

RESULTS = {"sweep": ctypes.c_double, "pick_distances": ctypes.c_int}
PRECISIONS = {"double": (np.dtype(np.float64), ctypes.c_double), "single": (np.dtype(np.float32), ctypes.c_float)}


class RowsStructure(ctypes.Structure):
    """struct rows in loops.c."""

    _fields_ = (
        ("raw", ctypes.c_void_p),
        ("kind", ctypes.c_int),
        ("row_bytes", ctypes.c_ssize_t),
        ("n_rows", ctypes.c_ssize_t),
        ("n_features", ctypes.c_ssize_t),
        ("centre", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("heaviest", ctypes.c_double),
    )


class ProductsStructure(ctypes.Structure):
    """struct products in loops.c."""

    _fields_ = (
        ("n_components", ctypes.c_ssize_t),
        ("n_lines", ctypes.c_ssize_t),
        ("kind", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("whiten", "lines", "sums", "scatter")),
    )


DIFFERENCE_ARRAYS = ("means", "subtracted", "factors", "whiten", "constants", "least")
SCALED, SHARED, FACTORED = range(3)


class DifferencesStructure(ctypes.Structure):
    """struct differences in differences.h."""

    _fields_ = (
        ("n_components", ctypes.c_ssize_t),
        ("form", ctypes.c_int),
        ("wanted", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in (*DIFFERENCE_ARRAYS, "counts", "first", "second")),
    )


NO_DIFFERENCES = DifferencesStructure(), (np.empty(0), np.empty((0, 0)), np.empty(0))


def library(name: str) -> ctypes.CDLL:
    """The library of that name; raises `ImportError` where there is none that can be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_loops_{name.removeprefix('compiled-')}{suffix}")
        if path.exists():
            try:
                found = ctypes.CDLL(str(path))
                if found.interface() == INTERFACE:
                    return found
            except (OSError, AttributeError) as error:
                raise ImportError(str(error)) from None
            raise ImportError(f"{path.name} is another version's; install mpigmm anew")
    raise ImportError("mpigmm was installed without a C compiler, or with one that does not know these instructions")


def best_compiled() -> str | None:
    """The best library that was built and that this processor can run, if any."""
    try:
        most = library(COMPILED[0]).level()
    except ImportError:
        return None
    for name in reversed(COMPILED[: most + 1]):
        try:
            library(name)
        except ImportError:
            continue
        return name
    return None


def rows_at_once(n_lines: int, n_components: int, itemsize: int, least: int = LEAST_ROWS) -> int:
    """Rows whose phi (n_lines, n) and responsibilities (K, n) stay in the cache; a multiple of `WIDEST`."""
    fit = CACHED // (itemsize * (n_lines + n_components))
    return int(max(least, min(MOST_ROWS * 8 // itemsize, fit // WIDEST * WIDEST)))


def pointer(array: NDArray[Any]) -> int:
    """Where a contiguous array that is not empty starts; numpy's own attribute takes three times as long."""
    if not array.flags.writeable and array.flags.c_contiguous:
        return int(array.ctypes.data)
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


def room(height: int, width: int) -> int:
    """Numbers that suffice for sums (height, width) in the order of blocks, whatever the instructions."""
    return -(-height // TALLEST) * -(-width // 2) * WIDEST


class CompiledLoops(Loops):
    """In C, for a set of this processor's instructions.

    Parameters
    ----------
    name : str
        One of `COMPILED`. Raises `ImportError` where this processor lacks the instructions or no library was built.
    """

    call = 200.0
    picking = 0.7
    thin = 1.5
    phi = 0.0
    fuses = True

    def __init__(self, name: str) -> None:
        self.name = name
        if COMPILED.index(name) > library(COMPILED[0]).level():
            raise ImportError("the processor lacks these instructions")
        own = library(name)
        self._add = function(own, "add", "PNNPPR", ctypes.c_double)
        self._difference_room = function(own, "difference_room", "PNN", None, ctypes.c_ssize_t)
        self._functions = {
            (name, dtype): function(own, f"{name}_{precision}", letters, real, RESULTS.get(name))
            for precision, (dtype, real) in PRECISIONS.items()
            for name, letters in ARGUMENTS.items()
        }

    def turn(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        rows = readable(raw)
        self._functions["turn", out.dtype](
            pointer(rows), kind_of(rows), *raw.shape, raw.shape[1], pointer(centre), pointer(out), out.shape[1]
        )

    def subtract(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        rows = readable(raw)
        self._functions["subtract", out.dtype](pointer(rows), kind_of(rows), *raw.shape, pointer(centre), pointer(out))

    def normalise(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        log_density, (k, n) = tile.vector("log_density"), log_prob.shape
        normalise = self._functions["normalise", tile.dtype]
        normalise(pointer(log_prob), k, n, n, pointer(log_density), least_exponent(log_prob))
        return log_prob, log_density

    def subtract_lengths(self, tile: Tile, lines: FloatArray, out: FloatArray, start: FloatArray | None = None) -> None:
        work = tile.array("part", lines.shape[2], WIDEST)
        self._functions["subtract_lengths", tile.dtype](
            pointer(tile.augmented), tile.n_rows, pointer(lines), *lines.shape,
            None if start is None else pointer(start), pointer(work), pointer(out),
        )  # fmt: skip

    def sweep(self, tile: Tile, products: ProductGroup | None, differences: DifferenceGroup | None) -> Sums:
        d, itemsize = tile.n_features, tile.dtype.itemsize
        k, n_lines = (0, 0) if products is None else products.lines.shape
        n_others = 0 if differences is None else len(differences.means)
        rows, raw = rows_structure(tile)
        sums, scatter = np.empty((k, n_lines)), np.empty((0, 0))
        own = ProductsStructure(k, n_lines)
        if products is not None:
            scatter = np.empty(products.whiten.shape)
            own.kind, own.lines, own.sums = products.kind, pointer(products.lines), pointer(sums)
            if scatter.size:
                own.whiten, own.scatter = pointer(products.whiten), pointer(scatter)
        others, moments = NO_DIFFERENCES if differences is None else self._differences(differences)
        few, few_moments = NO_DIFFERENCES
        if products is not None and products.moments is not None and tile.dtype == DOUBLE:
            few, few_moments = self._differences(products.moments)
        step = rows_at_once(max(n_lines, 1 + d), k + n_others, itemsize, LEAST_ROWS if k else FEWEST_ROWS)
        work = tile.array("work", 1 + n_lines + k + n_others + d, step + WIDEST)
        blocks = tile.array("blocks", 1, 1 + room(k, n_lines) + (room(d, d) if scatter.size else 0), DOUBLE)
        wide = chosen = None
        if n_others or few.n_components:
            wide, chosen = self._wide(tile, step, others, few), chosen_room(tile, max(k, n_others), step)
        log_likelihood = self._functions["sweep", tile.dtype](
            ctypes.byref(rows), ctypes.byref(own), ctypes.byref(few), ctypes.byref(others), least_exponent(work), step,
            pointer(work), wide, pointer(blocks), chosen,
        )  # fmt: skip
        del raw
        return Sums(log_likelihood, sums, scatter, few_moments if few.n_components else None, *moments)

    def difference_log_prob(self, tile: Tile, group: DifferenceGroup, out: FloatArray) -> None:
        (rows, raw), (own, _) = rows_structure(tile), self._differences(group)
        step = rows_at_once(2 * tile.n_features, len(out), DOUBLE.itemsize, FEWEST_ROWS)
        self._functions["difference_log_prob", tile.dtype](
            ctypes.byref(rows), ctypes.byref(own), step, self._wide(tile, step, own), pointer(out)
        )
        del raw

    def difference_moments(
        self, tile: Tile, group: DifferenceGroup, resp: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        (rows, raw), (own, moments) = rows_structure(tile), self._differences(group)
        step = rows_at_once(2 * tile.n_features, len(resp), DOUBLE.itemsize, FEWEST_ROWS)
        self._functions["difference_moments", tile.dtype](
            ctypes.byref(rows),
            ctypes.byref(own),
            step,
            self._wide(tile, step, own),
            chosen_room(tile, len(resp), step),
            pointer(resp),
        )
        del raw
        first[:], second[:] = moments[1], moments[2].reshape(second.shape)

    def _wide(self, tile: Tile, step: int, *groups: DifferencesStructure) -> int:
        """Room for groups of differences."""
        sizes = [self._difference_room(ctypes.byref(group), tile.n_features, step + WIDEST) for group in groups]
        return pointer(tile.array("wide", 1, sum(sizes), DOUBLE))

    def _differences(
        self, group: DifferenceGroup
    ) -> tuple[DifferencesStructure, tuple[FloatArray, FloatArray, FloatArray]]:
        """The structure of a group, and its moments, which are zero."""
        k, d = group.means.shape
        moments = np.zeros(k), np.zeros((k, d)), np.zeros(group.second_shape)
        form, factors = form_of(group)
        arrays = (group.means, group.subtracted, factors, group.whiten, group.constants, group.least, *moments)
        own = DifferencesStructure(k, form, group.wanted, *(pointer(a) if a.size else None for a in arrays))
        own.held = arrays  # as long as they are read: another thread may make its own factors, and these go
        return own, moments

    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        quanta = form.quanta  # held: another thread may make its own, and this one go
        self._add(pointer(limbs), *limbs.shape, pointer(values), pointer(quanta), LIMB_UNIT)

    def pick_distances(
        self, tile: Tile, rest: FloatArray, n_rest: int, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        rows, work = tile.by_row(), tile.array("picked", 1, tile.n_rows + TALLEST * tile.n_features)
        best, chosen = tile.array("best", 2, tile.n_rows), np.empty(tile.n_rows + len(out) + 1, np.int32)
        return bool(
            self._functions["pick_distances", tile.dtype](
                pointer(rows), *rows.shape, pointer(rest), n_rest, rest.shape[2], len(out), highest, nats, most,
                pointer(out), pointer(work), pointer(best), pointer(chosen),
            )
        )  # fmt: skip

    def pick_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        rows, stride = tile.by_row(), padded(tile.n_features)
        at_once = max(TALLEST, PICKED_BYTES // (stride * rows.itemsize))
        picked, scatter = tile.array("picked", at_once, stride), tile.array("scatter", tile.n_features, 2 * stride)
        matters, chosen = tile.array("best", 2, tile.n_rows), np.empty(tile.n_rows, np.int32)
        self._functions["pick_moments", tile.dtype](
            pointer(rows), *rows.shape, pointer(resp), pointer(means), len(means), pointer(least),
            pointer(picked), at_once, pointer(scatter), stride, pointer(matters), pointer(chosen),
            pointer(first), pointer(second),
        )  # fmt: skip


def function(own: ctypes.CDLL, name: str, letters: str, real: Any, result: Any = None) -> Any:
    """A function of a library, with its types."""
    types = {"P": ctypes.c_void_p, "N": ctypes.c_ssize_t, "I": ctypes.c_int, "R": real}
    found = getattr(own, name)
    found.argtypes, found.restype = [types[letter] for letter in letters], result
    return found


def chosen_room(tile: Tile, n_components: int, step: int) -> int:
    """Room for the numbers of the rows that components of a group are responsible for."""
    return pointer(tile.array("chosen", 1, n_components * (step + WIDEST) + n_components + 1, np.dtype(np.int32)))


def rows_structure(tile: Tile) -> tuple[RowsStructure, NDArray[Any]]:
    """A tile's rows for the library, and the array that has to be there as long as they are read."""
    raw = readable(tile.raw)
    weight = tile.sample_weight
    weights, heaviest = (None, 1.0) if weight is None else (pointer(weight), float(weight.max()))
    return RowsStructure(
        pointer(raw), kind_of(raw), raw.strides[0], *raw.shape, pointer(tile.centre), weights, heaviest
    ), raw


def form_of(group: DifferenceGroup) -> tuple[int, FloatArray]:
    """How a group's squared distances are summed, and with what factors: see struct differences."""
    if group.factors.size:
        return FACTORED, group.factors
    if group.wanted is Wanted.EACH_FEATURE:
        return SCALED, group.roots
    return SHARED, group.precisions


def readable(raw: NDArray[Any]) -> NDArray[Any]:
    """Rows of a type and layout that the library reads."""
    return np.ascontiguousarray(raw, raw.dtype if raw.dtype.isnative and raw.dtype.str[1:] in RAW_TYPES else np.float64)


def kind_of(rows: NDArray[Any]) -> int:
    """The number of their type."""
    return RAW_TYPES.index(rows.dtype.str[1:])
