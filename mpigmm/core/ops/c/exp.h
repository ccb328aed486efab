/* exp of each number of a vector: for numbers whose result is a normal number, with an error of up to two units in the last
 * place; for lower ones, some number.
 *
 * exp(x) = 2^(n / m) exp(r) with n = round(m x / ln 2) and |r| <= ln 2 / 2 m. A polynomial interpolates (exp(r) - 1 - r) / r^2
 * in Chebyshev nodes, with an error of 2e-17, and of 1e-8 in single precision (Muller, Elementary Functions, 3rd ed., 2016,
 * ch. 11). m is 8 where a vector has room for the powers 2^(0/8), ..., 2^(7/8), else 1.
 */
#if REAL_BYTES == 8
typedef uint64_t NAME(words) __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef uint32_t NAME(words) __attribute__((vector_size(VECTOR_BYTES)));
#endif
#define WORDS NAME(words) /* without signs: exponents beyond the range of numbers wrap around */

#if REAL_BYTES == 8 && VECTOR_BYTES == 64 && !defined(__clang__)

INLINE VECTOR exponential_double(VECTOR x) {
    const VECTOR powers = {1.0, 1.0905077326652577, 1.189207115002721, 1.2968395546510096,
                           1.4142135623730951, 1.5422108254079407, 1.681792830507429, 1.8340080864093424};
    VECTOR shifted = x * 11.541560327111707 + ROUND, n = shifted - ROUND;
    VECTOR r = (x - n * 0.08664339751703665) - n * 5.295651707261605e-11, square = r * r;
    VECTOR p = 0.0416666666175068 + 0.008333333327871156 * r + square * (0.0013889587247893672 + 0.0001984204579240919 * r);
    p = 0.5000000000000051 + 0.16666666666666724 * r + square * p;
    VECTOR power = __builtin_shuffle(powers, (INDICES)shifted); /* by the last three bits of n */
    return (VECTOR)((WORDS)(power + power * (r + square * p)) + (((WORDS)shifted & ~(uint64_t)7) << 49));
}

#elif REAL_BYTES == 8

INLINE VECTOR exponential_double(VECTOR x) {
    VECTOR shifted = x * 1.4426950408889634 + ROUND, n = shifted - ROUND;
    VECTOR r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10, square = r * r, fourth = square * square;
    VECTOR p = 2.7620075879983367e-07 + 2.5100375832561234e-08 * r;
    p = 2.4801521322368692e-05 + 2.7557268480310024e-06 * r + square * p;
    p = 0.0013888888917196719 + 0.00019841269863040545 * r + square * p;
    p = 0.5 + 0.16666666666666669 * r + square * (0.041666666666624164 + 0.008333333333330065 * r) + fourth * p;
    return (VECTOR)((WORDS)(1.0 + (r + square * p)) + ((WORDS)shifted << 52));
}

#else

INLINE VECTOR exponential_single(VECTOR x) {
    VECTOR shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    VECTOR r = (x - n * 0.693359375f) - n * -2.12194440e-4f, square = r * r;
    VECTOR p = 0.041666554662050534f + 0.008363173074513711f * r + square * 0.001392617611993558f;
    p = 0.5f + 0.1666657702559799f * r + square * p;
    return (VECTOR)((WORDS)(1.0f + (r + square * p)) + ((WORDS)shifted << 23));
}

#endif

#undef WORDS

/* exp of n numbers, a multiple of LANES, for the tests. */
void NAME(exponentials)(const REAL *x, ptrdiff_t n, REAL *out) {
    for (ptrdiff_t i = 0; i < n; i += LANES) *(VECTOR *)(out + i) = NAME(exponential)(NAME(load)(x + i));
}
