"""Compiled sweeps over a tile: single passes, and the whole E-step by packed products while some rows are cached."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (Numba's np.dot calls it: loaded here, it can be held at one thread)
from llvmlite import ir
from numba.extending import intrinsic, overload

from mpigmm.core.compiling import compiled, compiled_freely

TURNED_AT_ONCE = 8
"""Rows turned round together: a line of the cache."""

NORMALISED_AT_ONCE, ADDED_AT_ONCE = 256, 512
"""Rows normalised and sums rounded together: few enough for the cache."""

PAIRS, SQUARES = 0, 1
"""Values of `Products`."""

CACHED, LEAST_ROWS, MOST_ROWS = 2**19, 128, 256
"""Bytes to work on at a time, and what their rows may be: few are too short for BLAS, many leave the cache."""

LARGEST_THIN = 16
"""Components up to which BLAS is slower than a plain loop for the sums over rows."""


def rows_at_once(n_lines: int, n_components: int, itemsize: int) -> int:
    """Rows whose phi (n_lines, n) and responsibilities (K, n) stay in the cache; a multiple of 16."""
    fit = CACHED // itemsize // (n_lines + n_components)
    return int(max(LEAST_ROWS, min(MOST_ROWS, fit // 16 * 16)))


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
C2, C3, C4, C5, C6 = 0.5, 0.16666666666666669, 0.041666666666624164, 0.008333333333330065, 0.0013888888917196719
C7, C8, C9 = 0.00019841269863040545, 2.4801521322368692e-05, 2.7557268480310024e-06
C10, C11 = 2.7620075879983367e-07, 2.5100375832561234e-08
"""(exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2, interpolated in Chebyshev's nodes: exp(r) is right to 2e-17, and to 1e-8
by what follows."""
S2, S3, S4, S5, S6 = map(
    np.float32, (0.5, 0.1666657702559799, 0.041666554662050534, 0.008363173074513711, 0.001392617611993558)
)


def exponential(x: float) -> float:
    """exp of a number whose result is a normal number, to the last place or two, without a branch.

    exp(x) = 2^n exp(r) with n = round(x / ln 2), and a polynomial for |r| <= ln 2 / 2 (Muller, Elementary Functions,
    3rd ed., 2016, ch. 11). Adding 1.5 * 2^52 rounds, and leaves n in the low bits.
    """
    raise NotImplementedError("compiled code alone")


@overload(exponential, inline="always")
def _exponential(x):  # type: ignore[no-untyped-def]
    def double(x):  # type: ignore[no-untyped-def]
        shifted = x * LOG2_E + ROUND
        n = shifted - ROUND
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        p = C10 + C11 * r
        p = C8 + r * (C9 + r * p)
        p = C6 + r * (C7 + r * p)
        p = C4 + r * (C5 + r * p)
        p = C2 + r * (C3 + r * p)
        return double_of_bits(bits_of_double(1.0 + (r + r * r * p)) + (bits_of_double(shifted) << 52))

    def single(x):  # type: ignore[no-untyped-def]
        shifted = x * LOG2_E_32 + ROUND_32
        n = shifted - ROUND_32
        r = (x - n * LN2_HIGH_32) - n * LN2_LOW_32
        p = S4 + r * (S5 + r * S6)
        p = S2 + r * (S3 + r * p)
        one = np.float32(1.0)
        return single_of_bits(bits_of_single(one + (r + r * r * p)) + (bits_of_single(shifted) << np.int32(23)))

    return double if x == numba.float64 else single


HALF_BITS = int(np.float64(np.sqrt(0.5)).view(np.int64))
L1, L2, L3, L4, L5, L6, L7, L8, L9, L10 = (2.0 / np.arange(3, 23, 2)).tolist()


def logarithm(x: float) -> float:
    """log of a number from 1 on, to the last place or two, without a branch; NaN of what is not finite.

    log(x) = n ln 2 + log(m) with m in [sqrt(1/2), sqrt(2)), and log(m) = 2 artanh((m - 1) / (m + 1)) (Muller, ibid.).
    """
    raise NotImplementedError("compiled code alone")


@overload(logarithm, inline="always")
def _logarithm(x):  # type: ignore[no-untyped-def]
    def double(x):  # type: ignore[no-untyped-def]
        y = np.float64(x)
        n_bits = (bits_of_double(y) - HALF_BITS) >> 52
        n = double_of_bits(n_bits + ROUND_BITS) - ROUND
        f = double_of_bits(bits_of_double(y) - (n_bits << 52)) - 1.0
        s = f / (2.0 + f)
        z = s * s
        p = L9 + z * L10
        p = L7 + z * (L8 + z * p)
        p = L5 + z * (L6 + z * p)
        p = L3 + z * (L4 + z * p)
        p = z * (L1 + z * (L2 + z * p))
        half = 0.5 * f * f
        return n * LN2_HIGH - ((half - (s * (half + p) + n * LN2_LOW)) - f) + (y - y)

    return double


@compiled
def normalise(log_prob, log_density, total, least):  # type: ignore[no-untyped-def]
    n_components, n_rows = log_prob.shape
    for start in range(0, n_rows, NORMALISED_AT_ONCE):
        stop = min(n_rows, start + NORMALISED_AT_ONCE)
        highest, sums = log_density[start:stop], total[start:stop]
        for i in range(stop - start):
            highest[i] = log_prob[0, start + i]
            sums[i] = 0.0
        for k in range(1, n_components):
            line = log_prob[k, start:stop]
            for i in range(stop - start):
                highest[i] = line[i] if line[i] > highest[i] else highest[i]
        for k in range(n_components):
            line = log_prob[k, start:stop]
            for i in range(stop - start):
                below = line[i] - highest[i]
                line[i] = exponential(least if least > below else below)  # which is NaN where it was
                sums[i] += line[i]
        for i in range(stop - start):
            highest[i] += logarithm(sums[i])
            sums[i] = 1 / sums[i]
        for k in range(n_components):
            line = log_prob[k, start:stop]
            for i in range(stop - start):
                line[i] *= sums[i]


@compiled
def turn(raw, centre, out):  # type: ignore[no-untyped-def]
    n_rows, n_features = raw.shape
    whole = n_rows // TURNED_AT_ONCE * TURNED_AT_ONCE
    for start in range(0, whole, TURNED_AT_ONCE):
        for d in range(n_features):
            for i in range(TURNED_AT_ONCE):
                out[d, start + i] = np.float64(raw[start + i, d]) - centre[d]
    for i in range(whole, n_rows):
        for d in range(n_features):
            out[d, i] = np.float64(raw[i, d]) - centre[d]


@compiled
def subtract(raw, centre, out):  # type: ignore[no-untyped-def]
    n_rows, n_features = raw.shape
    for i in range(n_rows):
        for d in range(n_features):
            out[i, d] = np.float64(raw[i, d]) - centre[d]


@compiled_freely
def weigh(rows, mean, root, scaled, first):  # type: ignore[no-untyped-def]
    for d in range(len(rows)):
        row, line, total = rows[d], scaled[d], first.dtype.type(0)
        for i in range(len(row)):
            line[i] = (row[i] - mean[d]) * root[i]
            total += line[i] * root[i]
        first[d] = total


@compiled
def add(limbs, values, quanta, limb_unit):  # type: ignore[no-untyped-def]
    n_limbs, size = limbs.shape
    units = np.empty((2, ADDED_AT_ONCE))
    for start in range(0, size, ADDED_AT_ONCE):
        stop = min(size, start + ADDED_AT_ONCE)
        rest, quantum, per = values[start:stop], units[0], units[1]
        for i in range(stop - start):
            quantum[i] = quanta[start + i]
            per[i] = 1 / quantum[i]
        for limb in range(n_limbs):
            line = limbs[limb, start:stop]
            if limb == 0:
                for i in range(stop - start):
                    whole = np.rint(rest[i] * per[i])
                    line[i] += np.int64(whole)
                    rest[i] -= whole * quantum[i]
            else:  # few enough bits to be rounded, and read off, as in `exponential`
                for i in range(stop - start):
                    quantum[i] /= limb_unit
                    per[i] *= limb_unit
                    shifted = rest[i] * per[i] + ROUND
                    line[i] += bits_of_double(shifted) - ROUND_BITS
                    rest[i] -= (shifted - ROUND) * quantum[i]


@compiled
def sum_squares(lines, out):  # type: ignore[no-untyped-def]
    """Sums over lines (h, n) of their squares into out (n,)."""
    for i in range(len(out)):
        out[i] = lines[0, i] * lines[0, i]
    for h in range(1, len(lines)):
        line = lines[h]
        for i in range(len(out)):
            out[i] += line[i] * line[i]


@compiled
def multiply(kind, rows, whitened, out):  # type: ignore[no-untyped-def]
    """Products of rows (D, n) into out (Q, n), which does not overlap them; lengths are those of the whitened rows."""
    n_features = len(rows)
    if kind == PAIRS:
        at = 0
        for d in range(n_features):
            for j in range(d + 1):
                one, other, line = rows[d], rows[j], out[at]
                for i in range(len(line)):
                    line[i] = one[i] * other[i]
                at += 1
    elif kind == SQUARES:
        for d in range(n_features):
            one, line = rows[d], out[d]
            for i in range(len(line)):
                line[i] = one[i] * one[i]
    else:
        sum_squares(whitened, out[0])


@compiled_freely
def add_thin(resp, phi, sums):  # type: ignore[no-untyped-def]
    """Add resp phi^T to sums, four components and two lines of phi at a time."""
    n_components, n_rows = resp.shape
    n_lines, zero = len(phi), phi.dtype.type(0)
    for k in range(0, n_components, 4):
        last = n_components - 1 - k
        p, q, r, s = resp[k], resp[k + min(1, last)], resp[k + min(2, last)], resp[k + min(3, last)]
        for at in range(0, n_lines, 2):
            one, other = phi[at], phi[min(at + 1, n_lines - 1)]
            p1 = q1 = r1 = s1 = p2 = q2 = r2 = s2 = zero
            for i in range(n_rows):
                x, y = one[i], other[i]
                p1 += p[i] * x
                q1 += q[i] * x
                r1 += r[i] * x
                s1 += s[i] * x
                p2 += p[i] * y
                q2 += q[i] * y
                r2 += r[i] * y
                s2 += s[i] * y
            first, second = (p1, q1, r1, s1), (p2, q2, r2, s2)
            for j in range(min(4, n_components - k)):
                sums[k + j, at] += first[j]
                if at + 1 < n_lines:
                    sums[k + j, at + 1] += second[j]


@compiled
def multiply_matrices(one, other, out):  # type: ignore[no-untyped-def]
    """BLAS's product, compiled once for all that call it."""
    np.dot(one, other, out)


@compiled
def add_product(one, other, part, sums):  # type: ignore[no-untyped-def]
    """Add one other^T to sums."""
    np.dot(one, other.T, part)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            sums[i, j] += part[i, j]


@compiled
def scale(lines, weights):  # type: ignore[no-untyped-def]
    for line in lines:
        for i in range(len(line)):
            line[i] *= weights[i]


@compiled
def packed_sums(  # type: ignore[no-untyped-def]
    raw, centre, weights, kind, whiten, lines, least, step, phis, resps, others, part, scatter_part, sums, scatter
):
    """Sums over rows of responsibilities times phi(x) = [1, x, products of x].

    Parameters
    ----------
    raw, centre : ndarrays of shape (n, D) and (D,)
    weights : ndarray of shape (n,) or (0,)
        None of them is one where all are.
    kind : int
        Which products.
    whiten : ndarray of shape (D, D) or (0, 0)
        Factor whose transform's lengths are wanted; the rows' own where left out.
    lines : ndarray of shape (K, L)
        Factors of phi in the weighted log-densities.
    least : float
        Exponent at which responsibilities stop.
    step : int
        Rows at a time.
    phis, resps, others, part, scatter_part : ndarrays
        Work space of step times L, K and D + 2, (K, L), and that of scatter.
    sums, scatter : ndarrays of shape (K, L) and (D, D) or (0, 0), float64
        What is added to: the sums, and those of all rows' weighted products where there is room for them.

    Returns
    -------
    log_likelihood : float
    """
    n_rows, n_features = raw.shape
    n_components, n_lines = lines.shape
    log_likelihood = 0.0
    for start in range(0, n_rows, step):
        n = min(n_rows - start, step)
        phi, resp = phis[: n_lines * n].reshape(n_lines, n), resps[: n_components * n].reshape(n_components, n)
        log_density, total, other = others[:n], others[n : 2 * n], others[2 * n : (2 + n_features) * n]
        whitened = other.reshape(n_features, n)
        rows = phi[1 : 1 + n_features]
        for i in range(n):
            phi[0, i] = 1
        turn(raw[start : start + n], centre, rows)
        if len(whiten):
            multiply_matrices(whiten, rows, whitened)
            multiply(kind, rows, whitened, phi[1 + n_features :])
        else:
            multiply(kind, rows, rows, phi[1 + n_features :])
        multiply_matrices(lines, phi, resp)
        normalise(resp, log_density, total, least)
        if len(weights):
            own = weights[start : start + n]
            scale(resp, own)
            for i in range(n):
                log_density[i] *= own[i]
        for i in range(n):
            log_likelihood += log_density[i]
        if n_components <= LARGEST_THIN:
            add_thin(resp, phi, sums)
        else:
            add_product(resp, phi, part, sums)
        if len(scatter):
            for d in range(n_features):
                for i in range(n):
                    whitened[d, i] = rows[d, i]
            if len(weights):
                scale(whitened, own)
            add_product(whitened, rows, scatter_part, scatter)
    return log_likelihood


@compiled
def squared_lengths(augmented, lines, height, group, step, parts, works, out):  # type: ignore[no-untyped-def]
    """Lengths of K times height lines' products with the first of the augmented rows, some components at a time."""
    n_components, n_rows = out.shape
    width = lines.shape[1]
    for start in range(0, n_rows, step):
        n = min(n_rows - start, step)
        part = parts[: width * n].reshape(width, n)
        for d in range(width):
            for i in range(n):
                part[d, i] = augmented[d, start + i]
        for first in range(0, n_components, group):
            some = lines[first * height : min(n_components, first + group) * height]
            whitened = works[: len(some) * n].reshape(len(some), n)
            multiply_matrices(some, part, whitened)
            for at in range(0, len(some), height):
                sum_squares(whitened[at : at + height], out[first + at // height, start : start + n])
