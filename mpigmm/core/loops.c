/* Loops over a tile in machine code: what loops.py does in NumPy, in few passes and through the cache once.
 *
 * loops.h holds the functions of one precision, twice included. Every sum has an order of its own that follows from
 * the shape alone. Compiled once a set of instructions: see pyproject.toml and compiled.py.
 */
#ifdef __FAST_MATH__
#error "exp and log here rest on rounding, which -ffast-math does away with"
#endif
#if defined(__x86_64__) && !defined(__clang__) /* whatever the environment's flags allow */
#if VECTOR_BYTES == 16
#pragma GCC target("no-avx")
#elif VECTOR_BYTES == 32
#pragma GCC target("no-avx512f")
#endif
#endif

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TALLEST (VECTOR_BYTES == 64 ? 12 : 6)
/* A block of a product is up to TALLEST lines by two vectors, whose sums fill the registers. */

#define INLINE static inline __attribute__((always_inline))
#define OUTLINED __attribute__((noinline))
#define UNROLLED _Pragma("GCC unroll 16")
#define GLUE(a, b) a##_##b
#define JOIN(a, b) GLUE(a, b)
#define NAME(name) JOIN(name, PRECISION)

/* Calls F(n, ...) with a constant n, 1 to TALLEST. */
#if VECTOR_BYTES == 64
#define BEYOND_SIX(F, ...) \
    case 7: F(7, __VA_ARGS__); break; \
    case 8: F(8, __VA_ARGS__); break; \
    case 9: F(9, __VA_ARGS__); break; \
    case 10: F(10, __VA_ARGS__); break; \
    case 11: F(11, __VA_ARGS__); break; \
    case 12: F(12, __VA_ARGS__); break;
#else
#define BEYOND_SIX(F, ...)
#endif
#define WITH_HEIGHT(n, F, ...) \
    switch (n) { \
    case 1: F(1, __VA_ARGS__); break; \
    case 2: F(2, __VA_ARGS__); break; \
    case 3: F(3, __VA_ARGS__); break; \
    case 4: F(4, __VA_ARGS__); break; \
    case 5: F(5, __VA_ARGS__); break; \
    case 6: F(6, __VA_ARGS__); break; \
    BEYOND_SIX(F, __VA_ARGS__) \
    }

/* Products of a row's features: Products in loops.py. */
enum { PAIRS, SQUARES, LENGTH };

/* Calls F(n, ...) with a constant n, 1 to MOST_MEANS. */
#define WITH_FEW(n, F, ...) \
    switch (n) { \
    case 1: F(1, __VA_ARGS__); break; \
    case 2: F(2, __VA_ARGS__); break; \
    BEYOND_TWO(F, __VA_ARGS__) \
    }
#if VECTOR_BYTES == 64
#define BEYOND_TWO(F, ...) \
    case 3: F(3, __VA_ARGS__); break; \
    case 4: F(4, __VA_ARGS__); break;
#else
#define BEYOND_TWO(F, ...)
#endif

enum { CACHE_LINE = 64 };

/* Features of integers converted together. */
enum { TURNED_AT_ONCE = 64 };

/* Rows normalised, and sums rounded, together: few enough for the cache. */
enum { NORMALISED_AT_ONCE = 256, ADDED_AT_ONCE = 512 };

/* Bytes of picked rows that are multiplied together. */
enum { PICKED_BYTES = 1 << 18 };

/* Types that rows in a file may have, by the numbers of RAW_TYPES in compiled.py. */
enum { FIRST_INTEGER = 2 };
#define WITH_RAW(kind, F, ...) \
    switch (kind) { \
    case 0: F(double, __VA_ARGS__); break; \
    case 1: F(float, __VA_ARGS__); break; \
    case 2: F(int8_t, __VA_ARGS__); break; \
    case 3: F(int16_t, __VA_ARGS__); break; \
    case 4: F(int32_t, __VA_ARGS__); break; \
    case 5: F(int64_t, __VA_ARGS__); break; \
    case 6: F(uint8_t, __VA_ARGS__); break; \
    case 7: F(uint16_t, __VA_ARGS__); break; \
    case 8: F(uint32_t, __VA_ARGS__); break; \
    default: F(uint64_t, __VA_ARGS__); \
    }

static const double ROUND = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds, and leaves the number in the low bits */

INLINE int64_t bits_of(double x) { union { double number; int64_t bits; } u = {x}; return u.bits; }
INLINE double number_of(int64_t x) { union { int64_t bits; double number; } u = {x}; return u.number; }
INLINE int32_t bits_of_single(float x) { union { float number; int32_t bits; } u = {x}; return u.bits; }
INLINE float number_of_single(int32_t x) { union { int32_t bits; float number; } u = {x}; return u.number; }

/* exp of a number whose result is a normal number, to the last place or two, without a branch.
 *
 * exp(x) = 2^n exp(r) with n = round(x / ln 2), and a polynomial for |r| <= ln 2 / 2, (exp(r) - 1 - r) / r^2
 * interpolated in Chebyshev's nodes: right to 2e-17, and to 1e-8 in single precision (Muller, Elementary Functions,
 * 3rd ed., 2016, ch. 11).
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

/* log of a number from 1 on, to the last place or two, without a branch; NaN of what is not finite.
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

static const double MOST_DIGITS = 9.2e18; /* of an integer of 64 bits */

/* FixedPoint.add: values (size,), zero where they have no room, rounded to limbs (n_limbs, size) with these units of the first; uses up the values. */
void add(int64_t *limbs, ptrdiff_t n_limbs, ptrdiff_t size, double *values, const double *quanta, double limb_unit) {
    double unit[ADDED_AT_ONCE], per_unit[ADDED_AT_ONCE];
    for (ptrdiff_t start = 0; start < size; start += ADDED_AT_ONCE) {
        ptrdiff_t n = size - start < ADDED_AT_ONCE ? size - start : ADDED_AT_ONCE;
        double *restrict rest = values + start;
        for (ptrdiff_t i = 0; i < n; i++) {
            unit[i] = quanta[start + i];
            per_unit[i] = 1 / unit[i];
        }
        int64_t *restrict line = limbs + start;
        for (ptrdiff_t i = 0; i < n; i++) {
            double scaled = rest[i] * per_unit[i], whole = fabs(scaled) < MOST_DIGITS ? rint(scaled) : 0;
            line[i] += (int64_t)whole;
            rest[i] -= whole * unit[i];
        }
        for (ptrdiff_t limb = 1; limb < n_limbs; limb++) { /* few enough bits to be rounded by ROUND */
            line += size;
            for (ptrdiff_t i = 0; i < n; i++) {
                unit[i] /= limb_unit;
                per_unit[i] *= limb_unit;
                double shifted = rest[i] * per_unit[i] + ROUND;
                line[i] += (int64_t)((uint64_t)bits_of(shifted) - (uint64_t)bits_of(ROUND));
                rest[i] -= (shifted - ROUND) * unit[i];
            }
        }
    }
}

/* INTERFACE in compiled.py. */
int interface(void) { return 4; }

/* Which of the libraries suits this processor: 2 with AVX-512, 1 with AVX2, else 0. */
int level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") ? 2 : 1;
#else
    return 0;
#endif
}

/* Rows of a tile (n, D) as they stand in a file, of the type `kind`, and what they are less by. */
struct rows {
    const char *raw;
    int kind;
    ptrdiff_t row_bytes, n_rows, n_features;
    const double *centre;
    const void *weights; /* (n,) of the precision, or null */
    double heaviest; /* the greatest of them */
};

/* Some components, by the products `kind` of the rows' features: coefficients (K, L) of phi in their log-densities. */
struct products {
    ptrdiff_t n_components, n_lines;
    int kind;
    const void *whiten, *lines; /* whiten: what rows are multiplied by before their lengths are taken, (D, D), or null */
    double *sums, *scatter; /* sums over rows of responsibilities times phi (K, L), and of the rows' products (D, D) or null */
};

#define REAL double
#define REAL_BYTES 8
#define INDEX int64_t
#define PRECISION double
#include "loops.h"
#undef REAL
#undef PRECISION

#undef REAL_BYTES
#undef INDEX

#define REAL float
#define REAL_BYTES 4
#define INDEX int32_t
#define PRECISION single
#include "loops.h"
