/* Array operations on tiles in C: the same as numpy.py computes with NumPy, with fewer passes over memory.
 *
 * The headers from vector.h to pruned.h hold the functions of one precision and are included once for each; their names end
 * in _double or _single (NAME). The order of the terms in every sum depends only on shapes. The file is compiled once for
 * each instruction set (VECTOR_BYTES, see pyproject.toml), and libraries.py loads the result.
 *
 *     math.h         log
 *     vector.h       vectors of numbers: loads, transposes, sums
 *     exp.h          exp
 *     gemm.h         matrix products
 *     rows.h         rows of any type minus the centre, in one precision
 *     differences.h  log-densities and moments by differences of rows and means, only in double
 *     diagonal.h     log-densities and sums of components with a variance for each feature
 *     estep.h        log-sum-exp, and the whole E-step of a tile
 *     whitened.h     log-densities by whitened coordinates
 *     pruned.h       log-densities and moments that leave out negligible pairs of row and component
 *     bounded.h      the same for components with a variance for each feature or a shared factor, once for both precisions
 */
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

#if defined(__AVX2__) && VECTOR_BYTES >= 32
#include <immintrin.h>
#endif

#include "../../raw_types.h"

/* A block of a matrix product has up to TALLEST lines of two vectors each, so that its sums fill the registers. */
#define TALLEST (VECTOR_BYTES == 64 ? 12 : 6)

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

/* A block of a sum of symmetric products has up to LINES lines of COLUMNS vectors each. */
enum { LINES = VECTOR_BYTES == 64 ? 8 : 4, COLUMNS = 3 };
#if VECTOR_BYTES == 64
#define BEYOND_FOUR(F, ...) \
    case 5: F(5, __VA_ARGS__); break; \
    case 6: F(6, __VA_ARGS__); break; \
    case 7: F(7, __VA_ARGS__); break; \
    case 8: F(8, __VA_ARGS__); break;
#else
#define BEYOND_FOUR(F, ...)
#endif
#define WITH_LINES(n, F, ...) \
    switch (n) { \
    case 1: F(1, __VA_ARGS__); break; \
    case 2: F(2, __VA_ARGS__); break; \
    case 3: F(3, __VA_ARGS__); break; \
    case 4: F(4, __VA_ARGS__); break; \
    BEYOND_FOUR(F, __VA_ARGS__) \
    }

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

/* Number of features that are converted from integers at a time. */
enum { FEATURES_AT_ONCE = 64 };

/* Numbers of rows of one log-sum-exp, and of values added to fixed-point sums at a time: few enough for the cache. */
enum { LOG_SUM_EXP_ROWS = 256, ADDED_AT_ONCE = 128 };

/* The numbers of the types that rows may have: RAW_f8, RAW_f4, ... Integers follow the floating-point types. */
#define NUMBER_OF(code, type, unused) RAW_##code,
enum { RAW_TYPES(NUMBER_OF, 0) };
enum { FIRST_INTEGER = RAW_i1 };

/* Calls F(type) with the type whose number is `kind`. */
#define CASE_RAW(code, type, F) \
    case RAW_##code: F(type); break;
#define WITH_RAW(kind, F) \
    switch (kind) { \
    RAW_TYPES(CASE_RAW, F) \
    }

/* Products of a row's features: Products in groups.py. */
enum { PAIRS, SQUARES, SQUARED_NORM };

#include "math.h"

/* Whether n numbers have no bit other than that of the sign. */
INLINE int all_zero(const double *values, ptrdiff_t n) {
    uint64_t bits = 0;
    for (ptrdiff_t i = 0; i < n; i++) bits |= (uint64_t)bits_of(values[i]);
    return !(bits << 1);
}

/* FixedPoint.add: rounds values (size,) to the format and adds them to limbs (n_limbs, size), whose lines are `stride` numbers
 * apart; quanta (size,) are the units of the first limb. A value that is too large for a limb adds zero. The values are
 * overwritten. Values that are all zero, as those of components without rows in a tile, are only read. */
void add(
    int64_t *limbs, ptrdiff_t n_limbs, ptrdiff_t stride, ptrdiff_t size, double *values, const double *quanta, double limb_unit
) {
    double unit[ADDED_AT_ONCE], per_unit[ADDED_AT_ONCE];
    for (ptrdiff_t start = 0; start < size; start += ADDED_AT_ONCE) {
        ptrdiff_t n = size - start < ADDED_AT_ONCE ? size - start : ADDED_AT_ONCE;
        double *restrict rest = values + start;
        if (all_zero(rest, n)) continue;
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
        for (ptrdiff_t limb = 1; limb < n_limbs; limb++) { /* these have few enough bits for ROUND */
            line += stride;
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

/* The rows of a tile (n_rows, n_features), numbers of the type `kind`. */
struct rows {
    const char *raw;
    int kind;
    ptrdiff_t row_bytes, n_rows, n_features;
    const double *centre; /* (D,): subtracted from every row */
    const void *sample_weight; /* (n,) in the tile's precision, or null where all weights are 1 */
    double max_sample_weight;
};

/* Components whose log-densities are linear in phi(x) = [1, x, products of x]. */
struct products {
    ptrdiff_t n_components, n_lines; /* K and L, the length of phi */
    int kind; /* which products: PAIRS, SQUARES or SQUARED_NORM */
    const void *whiten; /* (D, D): rows are multiplied by this before their squared norms are computed, or null */
    const void *coefficients; /* (K, L): the coefficients of phi in the log-densities */
    double *sums; /* (K, L): sums over rows of responsibilities times phi */
    double *scatter; /* (D, D): sums over rows of responsibilities times x x^T, or null */
};

#define REAL double
#define REAL_BYTES 8
#define INDEX int64_t
#define PRECISION double
#include "vector.h"
#include "exp.h"
#include "gemm.h"
#include "rows.h"
#include "differences.h"
#include "diagonal.h"
#include "estep.h"
#include "whitened.h"
#include "pruned.h"
#undef REAL
#undef REAL_BYTES
#undef INDEX
#undef PRECISION

#define REAL float
#define REAL_BYTES 4
#define INDEX int32_t
#define PRECISION single
#include "vector.h"
#include "exp.h"
#include "gemm.h"
#include "rows.h"
#include "diagonal.h"
#include "estep.h"
#include "whitened.h"
#include "pruned.h"

#include "bounded.h"

/* The version of the functions' arguments: INTERFACE in libraries.py. */
int interface(void) { return 10; }

/* The callers compute the sizes of arrays from these: the largest number of lines of a block of a matrix product, and the
 * numbers in one line, in single precision. */
ptrdiff_t tallest(void) { return TALLEST; }
ptrdiff_t widest(void) { return WIDTH; }

/* The index in COMPILED of the best library for this processor: 2 with AVX-512, 1 with AVX2, else 0. */
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
