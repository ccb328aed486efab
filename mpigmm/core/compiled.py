"""The loops over a tile, compiled by Numba: fewer passes, and no lock of Python's held meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from mpigmm.core.exact import FixedPoint, FloatArray, IntArray
from mpigmm.core.loops import Loops, least_exponent

if TYPE_CHECKING:
    from mpigmm.core.tile import Tile

TURNED_AT_ONCE, NORMALISED_AT_ONCE, ADDED_AT_ONCE = 64, 256, 512
"""Rows turned round, rows normalised and sums rounded together: few enough for the cache."""

LARGEST_PICKED = 128
"""Features beyond which picked rows are better left to BLAS."""


class CompiledLoops(Loops):
    """In machine code for this processor, kept on disk between runs."""

    name = "numba"
    call = 2e3

    def prepare(self, tile: Tile, rows: NDArray[Any], dtype: np.dtype[Any]) -> None:
        n_rows, d = rows.shape  # few: what is compiled depends on the dtypes alone
        tile.fill(rows, None, np.zeros(d), mask=False, dtype=dtype)
        resp, _ = self.normalise(np.zeros((1, n_rows), dtype), tile)
        self.add(FixedPoint(np.zeros(1, np.int32), 2), np.zeros((2, 1), np.int64), np.zeros(1))
        self.pick_distances(
            tile, np.zeros((1, d, d), dtype), np.zeros((1, d), dtype), 0.0, 1.0, n_rows, np.zeros_like(resp)
        )
        self.pick_moments(tile, resp, np.zeros((1, d), dtype), 0.0, np.zeros((1, d)), np.zeros((1, d * (d + 1) // 2)))

    def turn(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        turn(raw, centre, out)

    def turn_back(self, source: FloatArray, out: FloatArray) -> None:
        turn_back(source, out)

    def normalise(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        log_density, total = tile.vector("log_density"), tile.vector("total")
        normalise(log_prob, log_density, total, log_prob.dtype.type(least_exponent(log_prob)))
        return log_prob, log_density

    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        add(limbs, values, form.per_quantum, form.quanta)

    def pick_distances(
        self, tile: Tile, rest: FloatArray, offsets: FloatArray, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        if tile.n_features > LARGEST_PICKED:
            return super().pick_distances(tile, rest, offsets, highest, nats, most, out)
        rows, number = tile.by_row(), out.dtype.type
        work = (np.empty(tile.n_rows, np.int64), tile.vector("reached"), np.empty(tile.n_rows, np.int64))
        return bool(pick_distances(rows, rest, offsets, number(highest), number(nats), most, out, *work))

    def pick_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: float, first: FloatArray, second: FloatArray
    ) -> None:
        d = tile.n_features
        if d > LARGEST_PICKED:
            return super().pick_moments(tile, resp, means, least, first, second)
        picked, scatter = tile.array("picked", tile.n_rows + 3, d), tile.array("scatter", d, d)
        pick_moments(tile.by_row(), resp, means, resp.dtype.type(least), picked, scatter, first, second)
        return None


def compiled(function: Any, *more: str) -> Any:
    """Compile at the first call; releases Python's lock. A product and a sum may be fused, nothing else be altered."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *more}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no directory to keep it in
        return numba.njit(function, **options)


def compiled_freely(function: Any) -> Any:
    """The same for sums whose order is left to the compiler."""
    return compiled(function, "reassoc")


def reinterpret(argument: Any, result: Any, llvm_type: ir.Type) -> Any:
    """The same bits as a number of another type."""

    @intrinsic
    def cast(typing_context, value):  # type: ignore[no-untyped-def]
        def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.bitcast(arguments[0], llvm_type)

        return result(argument), code

    return cast


bits_of_double = reinterpret(numba.float64, numba.int64, ir.IntType(64))
double_of_bits = reinterpret(numba.int64, numba.float64, ir.DoubleType())
bits_of_single = reinterpret(numba.float32, numba.int32, ir.IntType(32))
single_of_bits = reinterpret(numba.int32, numba.float32, ir.FloatType())

ROUND, LOG2_E, LN2_HIGH, LN2_LOW = (
    6755399441055744.0,
    1.4426950408889634,
    6.93147180369123816490e-01,
    1.90821492927058770002e-10,
)
ROUND_BITS = int(np.float64(ROUND).view(np.int64))
ROUND_32, LOG2_E_32 = np.float32(12582912.0), np.float32(1.4426950408889634)
LN2_HIGH_32, LN2_LOW_32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13 = (1.0 / np.cumprod(np.arange(1.0, 14.0)))[1:].tolist()
S2, S3, S4, S5, S6, S7 = (np.float32(c) for c in (C2, C3, C4, C5, C6, C7))


def exponential(x: float) -> float:
    """exp of a number whose result is a normal number, to the last place or two, without a branch.

    exp(x) = 2^n exp(r) with n = round(x / ln 2), and Taylor's series on |r| <= ln 2 / 2 (Muller, Elementary Functions,
    3rd ed., 2016, ch. 11). Adding 1.5 * 2^52 rounds, and leaves n in the low bits.
    """
    raise NotImplementedError("compiled code alone")


@overload(exponential, inline="always")
def _exponential(x):  # type: ignore[no-untyped-def]
    def double(x):  # type: ignore[no-untyped-def]
        shifted = x * LOG2_E + ROUND
        n = shifted - ROUND
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        p = C12 + C13 * r
        p = C10 + r * (C11 + r * p)
        p = C8 + r * (C9 + r * p)
        p = C6 + r * (C7 + r * p)
        p = C4 + r * (C5 + r * p)
        p = C2 + r * (C3 + r * p)
        return double_of_bits(bits_of_double(1.0 + (r + r * r * p)) + (bits_of_double(shifted) << 52))

    def single(x):  # type: ignore[no-untyped-def]
        shifted = x * LOG2_E_32 + ROUND_32
        n = shifted - ROUND_32
        r = (x - n * LN2_HIGH_32) - n * LN2_LOW_32
        p = S6 + S7 * r
        p = S4 + r * (S5 + r * p)
        p = S2 + r * (S3 + r * p)
        one = np.float32(1.0)
        return single_of_bits(bits_of_single(one + (r + r * r * p)) + (bits_of_single(shifted) << np.int32(23)))

    return double if x == numba.float64 else single


@compiled
def normalise(log_prob, log_density, total, least):  # type: ignore[no-untyped-def]
    n_components, n_rows = log_prob.shape
    for start in range(0, n_rows, NORMALISED_AT_ONCE):
        stop = min(n_rows, start + NORMALISED_AT_ONCE)
        highest, sums = log_density[start:stop], total[start:stop]
        highest[:] = log_prob[0, start:stop]
        for k in range(1, n_components):
            line = log_prob[k, start:stop]
            for i in range(stop - start):
                highest[i] = line[i] if line[i] > highest[i] or line[i] != line[i] else highest[i]
        sums[:] = 0.0
        for k in range(n_components):
            line = log_prob[k, start:stop]
            for i in range(stop - start):
                below = line[i] - highest[i]
                line[i] = exponential(below if below > least else least)
                sums[i] += line[i]
        for i in range(stop - start):
            highest[i] += np.log(sums[i])
            sums[i] = 1 / sums[i]
        for k in range(n_components):
            line = log_prob[k, start:stop]
            for i in range(stop - start):
                line[i] *= sums[i]


@compiled
def turn(raw, centre, out):  # type: ignore[no-untyped-def]
    n_rows, n_features = raw.shape
    for start in range(0, n_rows, TURNED_AT_ONCE):
        stop = min(n_rows, start + TURNED_AT_ONCE)
        for d in range(n_features):
            line = out[d, start:stop]
            for i in range(len(line)):
                line[i] = np.float64(raw[start + i, d]) - centre[d]


@compiled
def turn_back(source, out):  # type: ignore[no-untyped-def]
    n_rows, n_features = out.shape
    for start in range(0, n_rows, TURNED_AT_ONCE):
        stop = min(n_rows, start + TURNED_AT_ONCE)
        for d in range(n_features):
            line = source[d, start:stop]
            for i in range(len(line)):
                out[start + i, d] = line[i]


@compiled
def add(limbs, values, per_quantum, quanta):  # type: ignore[no-untyped-def]
    n_limbs, size = limbs.shape
    for start in range(0, size, ADDED_AT_ONCE):
        stop = min(size, start + ADDED_AT_ONCE)
        rest = values[start:stop]
        for limb in range(n_limbs):
            line, per, quantum = limbs[limb, start:stop], per_quantum[limb, start:stop], quanta[limb, start:stop]
            if limb == 0:
                for i in range(stop - start):
                    whole = np.rint(rest[i] * per[i])
                    line[i] += np.int64(whole)
                    rest[i] -= whole * quantum[i]
            else:  # few enough bits to be rounded, and read off, as in `exponential`
                for i in range(stop - start):
                    shifted = rest[i] * per[i] + ROUND
                    line[i] += bits_of_double(shifted) - ROUND_BITS
                    rest[i] -= (shifted - ROUND) * quantum[i]


@compiled
def pick_moments(rows, resp, means, least, picked, scatter, first, second):  # type: ignore[no-untyped-def]
    n_components, n_rows = resp.shape
    n_features = rows.shape[1]
    for k in range(n_components):
        first[k] = 0.0
        count = 0
        for i in range(n_rows):
            if resp[k, i] > least:
                root = np.sqrt(resp[k, i])
                line = picked[count]
                for d in range(n_features):
                    line[d] = (rows[i, d] - means[k, d]) * root
                    first[k, d] += root * line[d]
                count += 1
        picked[count : (count + 3) // 4 * 4] = 0.0
        scatter[:] = 0.0
        for i in range(0, count, 4):
            p, q, s, t = picked[i], picked[i + 1], picked[i + 2], picked[i + 3]
            for d in range(n_features):
                line = scatter[d]
                a, b, c, e = p[d], q[d], s[d], t[d]
                for j in range(d + 1):
                    line[j] += a * p[j] + b * q[j] + c * s[j] + e * t[j]
        at = 0
        for d in range(n_features):
            for j in range(d + 1):
                second[k, at] = scatter[d, j]
                at += 1


@compiled_freely
def complete(rows, chosen, count, rest, offsets, bounds):  # type: ignore[no-untyped-def]
    """Subtract half the squares of the other whitened coordinates of some rows from their bounds, four at a time."""
    n_rest, n_features = rest.shape
    last = count - 1
    for i in range(0, count, 4):
        second, third, fourth = chosen[min(i + 1, last)], chosen[min(i + 2, last)], chosen[min(i + 3, last)]
        p, q, s, t = rows[chosen[i]], rows[second], rows[third], rows[fourth]
        squares_p = squares_q = squares_s = squares_t = offsets[0] * 0
        for j in range(n_rest):
            line = rest[j]
            a = b = c = e = offsets[j]
            for d in range(n_features - n_rest + j + 1):
                a += p[d] * line[d]
                b += q[d] * line[d]
                c += s[d] * line[d]
                e += t[d] * line[d]
            squares_p += a * a
            squares_q += b * b
            squares_s += c * c
            squares_t += e * e
        bounds[chosen[i]] -= squares_p / 2
        if i + 1 < count:
            bounds[second] -= squares_q / 2
        if i + 2 < count:
            bounds[third] -= squares_s / 2
        if i + 3 < count:
            bounds[fourth] -= squares_t / 2


@compiled
def pick_distances(rows, rest, offsets, highest, nats, most, out, best, reached, chosen):  # type: ignore[no-untyped-def]
    n_components, n_rows = out.shape
    best[:] = 0
    reached[:] = out[0]
    for k in range(1, n_components):
        for i in range(n_rows):
            if out[k, i] > reached[i]:
                reached[i] = out[k, i]
                best[i] = k
    for k in range(n_components):
        count = 0
        for i in range(n_rows):
            if best[i] == k:
                chosen[count] = i
                count += 1
        complete(rows, chosen, count, rest[k], offsets[k], out[k])
    for i in range(n_rows):
        value = out[best[i], i]
        reached[i] = value - np.log(highest + 1 - value) - nats
    pairs = 0
    for k in range(n_components):
        for i in range(n_rows):
            pairs += out[k, i] >= reached[i]
    if pairs > most:
        return False
    for k in range(n_components):
        count = 0
        for i in range(n_rows):
            if best[i] != k:
                if out[k, i] >= reached[i]:
                    chosen[count] = i
                    count += 1
                else:
                    out[k, i] = -np.inf
        complete(rows, chosen, count, rest[k], offsets[k], out[k])
    return True
