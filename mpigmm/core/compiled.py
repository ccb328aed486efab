"""The loops over a tile in machine code, from loops.c: fewer passes, and no lock of Python's held meanwhile."""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import LIMB_UNIT, FixedPoint, FloatArray, IntArray
from mpigmm.core.loops import LOOPS, Loops, Products, least_exponent, padded

if TYPE_CHECKING:
    from mpigmm.core.tile import Tile

COMPILED = LOOPS[1:]
"""Names of the libraries, a set of instructions each, by the number that `level` in loops.c returns."""

INTERFACE = 1
"""Of the libraries: what their functions take, and how much room; the same number stands in loops.c."""

RAW_TYPES = ("f8", "f4", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
"""Types of rows that need no conversion first, in the order of WITH_RAW in loops.c."""

TALLEST, WIDEST = 12, 32
"""Most lines and numbers of a block in loops.h."""

PICKED_BYTES = 1 << 18
CACHED, LEAST_ROWS, MOST_ROWS = 2**18, 128, 256
"""Bytes to work on at a time, and what their rows may be: few waste the ends of sums, many leave the cache."""

ARGUMENTS = {
    "turn": "PINNPPN",
    "subtract": "PINNPP",
    "normalise": "PNNNPR",
    "packed_sums": "PINNNPPIPPNNRNPPPP",
    "subtract_lengths": "PNPNNNPPP",
    "pick_distances": "PNNPNNNRRNPPPP",
    "pick_moments": "PNNPPNRPNPNPPPP",
}
"""Of the functions in loops.h: P a pointer, N a size, I an int, R a number of the precision."""

RESULTS = {"packed_sums": ctypes.c_double, "pick_distances": ctypes.c_int}
PRECISIONS = {"double": (np.dtype(np.float64), ctypes.c_double), "single": (np.dtype(np.float32), ctypes.c_float)}


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


def rows_at_once(n_lines: int, n_components: int, itemsize: int) -> int:
    """Rows whose phi (n_lines, n) and responsibilities (K, n) stay in the cache; a multiple of `WIDEST`."""
    fit = CACHED // (itemsize * (n_lines + n_components))
    return int(max(LEAST_ROWS, min(MOST_ROWS * 8 // itemsize, fit // WIDEST * WIDEST)))


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
        self._functions = {
            (name, dtype): function(own, f"{name}_{precision}", letters, real, RESULTS.get(name))
            for precision, (dtype, real) in PRECISIONS.items()
            for name, letters in ARGUMENTS.items()
        }

    def turn(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        rows = readable(raw)
        self._functions["turn", out.dtype](
            pointer(rows), kind_of(rows), *raw.shape, pointer(centre), pointer(out), out.shape[1]
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

    def packed_sums(
        self, tile: Tile, kind: Products, whiten: FloatArray, lines: FloatArray, sums: FloatArray, scatter: FloatArray
    ) -> float:
        (k, n_lines), d = lines.shape, tile.n_features
        rows, whitens = readable(tile.raw), bool(whiten.size)
        step = rows_at_once(n_lines, k, lines.itemsize)
        work = tile.array("work", 1 + n_lines + k + d, step + WIDEST)
        blocks = tile.array("blocks", 8 // lines.itemsize, room(k, n_lines) + (room(d, d) if whitens else 0))
        weights = None if tile.weights is None else pointer(tile.weights)
        log_likelihood: float = self._functions["packed_sums", tile.dtype](
            pointer(rows), kind_of(rows), rows.strides[0], *rows.shape, pointer(tile.centre), weights,
            kind, pointer(whiten) if whitens else None, pointer(lines), k, n_lines, least_exponent(lines), step,
            pointer(work), pointer(blocks), pointer(sums), pointer(scatter) if whitens else None,
        )  # fmt: skip
        return log_likelihood

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
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: float, first: FloatArray, second: FloatArray
    ) -> None:
        rows, stride = tile.by_row(), padded(tile.n_features)
        at_once = max(TALLEST, PICKED_BYTES // (stride * rows.itemsize))
        picked, scatter = tile.array("picked", at_once, stride), tile.array("scatter", tile.n_features, 2 * stride)
        matters, chosen = tile.array("best", 2, tile.n_rows), np.empty(tile.n_rows, np.int32)
        self._functions["pick_moments", tile.dtype](
            pointer(rows), *rows.shape, pointer(resp), pointer(means), len(means), least, pointer(picked), at_once,
            pointer(scatter), stride, pointer(matters), pointer(chosen), pointer(first), pointer(second),
        )  # fmt: skip


def function(own: ctypes.CDLL, name: str, letters: str, real: Any, result: Any = None) -> Any:
    """A function of a library, with its types."""
    types = {"P": ctypes.c_void_p, "N": ctypes.c_ssize_t, "I": ctypes.c_int, "R": real}
    found = getattr(own, name)
    found.argtypes, found.restype = [types[letter] for letter in letters], result
    return found


def readable(raw: NDArray[Any]) -> NDArray[Any]:
    """Rows of a type and layout that the library reads."""
    return np.ascontiguousarray(raw, raw.dtype if raw.dtype.isnative and raw.dtype.str[1:] in RAW_TYPES else np.float64)


def kind_of(rows: NDArray[Any]) -> int:
    """The number of their type."""
    return RAW_TYPES.index(rows.dtype.str[1:])
