/* log in double, without branches, so that the compiler can use vector instructions.
 *
 * log here and exp in exp.h rely on the rounding of each operation, so that -ffast-math must not be used.
 */
#ifdef __FAST_MATH__
#error "exp and log rely on the rounding of each operation, which -ffast-math changes"
#endif

/* 1.5 * 2^52: the sum of this and a small number is rounded to an integer, which is in the low bits of the sum. */
static const double ROUND = 6755399441055744.0;

INLINE int64_t bits_of(double x) { union { double number; int64_t bits; } u = {x}; return u.bits; }
INLINE double number_of(int64_t x) { union { int64_t bits; double number; } u = {x}; return u.number; }

/* log(x) for x >= 1, with an error of up to two units in the last place; NaN if x is not finite.
 *
 * log(x) = n ln 2 + log(m) with m in [sqrt(1/2), sqrt(2)), and log(m) = 2 artanh((m - 1) / (m + 1)) (Muller, Elementary
 * Functions, 3rd ed., 2016, ch. 11).
 */
INLINE double logarithm(double x) {
    int64_t n_bits = (int64_t)((uint64_t)bits_of(x) - (uint64_t)bits_of(0.70710678118654757)) >> 52;
    double n = number_of(n_bits + bits_of(ROUND)) - ROUND;
    double f = number_of((int64_t)((uint64_t)bits_of(x) - ((uint64_t)n_bits << 52))) - 1.0;
    double s = f / (2.0 + f), z = s * s;
    double p = 2.0 / 19 + z * (2.0 / 21);
    p = 2.0 / 15 + z * (2.0 / 17 + z * p);
    p = 2.0 / 11 + z * (2.0 / 13 + z * p);
    p = 2.0 / 7 + z * (2.0 / 9 + z * p);
    p = z * (2.0 / 3 + z * (2.0 / 5 + z * p));
    double half = 0.5 * f * f;
    return n * 6.93147180369123816490e-01 - ((half - (s * (half + p) + n * 1.90821492927058770002e-10)) - f) + (x - x);
}

/* log of n numbers, for the tests. */
void logarithms(const double *x, ptrdiff_t n, double *out) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = logarithm(x[i]);
}
