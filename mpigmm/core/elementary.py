"""What Numba lacks: exp and log as arithmetic alone, so that loops over them use a processor's vectors."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic, overload


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
