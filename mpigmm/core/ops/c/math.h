/* exp in both precisions and log in double, without branches, so that the compiler can use vector instructions.
 *
 * They rely on the rounding of each operation, so that -ffast-math must not be used.
 */
#ifdef __FAST_MATH__
#error "exp and log rely on the rounding of each operation, which -ffast-math changes"
#endif

/* 1.5 * 2^52: the sum of this and a small number is rounded to an integer, which is in the low bits of the sum. */
static const double ROUND = 6755399441055744.0;

INLINE int64_t bits_of(double x) { union { double number; int64_t bits; } u = {x}; return u.bits; }
INLINE double number_of(int64_t x) { union { int64_t bits; double number; } u = {x}; return u.number; }
INLINE int32_t bits_of_single(float x) { union { float number; int32_t bits; } u = {x}; return u.bits; }
INLINE float number_of_single(int32_t x) { union { int32_t bits; float number; } u = {x}; return u.number; }

/* exp(x) for x whose result is a normal number, with an error of up to two units in the last place.
 *
 * exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2. A polynomial interpolates (exp(r) - 1 - r) / r^2 in
 * Chebyshev nodes, with an error of 2e-17, and of 1e-8 in single precision (Muller, Elementary Functions, 3rd ed., 2016,
 * ch. 11).
 */
INLINE double exponential_double(double x) {
    double shifted = x * 1.4426950408889634 + ROUND, n = shifted - ROUND;
    double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double p = 2.7620075879983367e-07 + 2.5100375832561234e-08 * r;
    p = 2.4801521322368692e-05 + r * (2.7557268480310024e-06 + r * p);
    p = 0.0013888888917196719 + r * (0.00019841269863040545 + r * p);
    p = 0.041666666666624164 + r * (0.008333333333330065 + r * p);
    p = 0.5 + r * (0.16666666666666669 + r * p);
    return number_of((int64_t)((uint64_t)bits_of(1.0 + (r + r * r * p)) + ((uint64_t)bits_of(shifted) << 52)));
}

INLINE float exponential_single(float x) {
    float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 0.041666554662050534f + r * (0.008363173074513711f + r * 0.001392617611993558f);
    p = 0.5f + r * (0.1666657702559799f + r * p);
    return number_of_single(
        (int32_t)((uint32_t)bits_of_single(1.0f + (r + r * r * p)) + ((uint32_t)bits_of_single(shifted) << 23)));
}

/* log(x) for x >= 1, with an error of up to two units in the last place; NaN if x is not finite.
 *
 * log(x) = n ln 2 + log(m) with m in [sqrt(1/2), sqrt(2)), and log(m) = 2 artanh((m - 1) / (m + 1)) (Muller, ibid.).
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

/* exp and log of n numbers, for the tests. */
void exponentials_double(const double *x, ptrdiff_t n, double *out) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = exponential_double(x[i]);
}

void exponentials_single(const float *x, ptrdiff_t n, float *out) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = exponential_single(x[i]);
}

void logarithms(const double *x, ptrdiff_t n, double *out) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = logarithm(x[i]);
}
