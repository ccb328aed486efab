/* Vectors of LANES numbers of one precision (GCC's vector extensions). */

typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INDEX NAME(indices) __attribute__((vector_size(VECTOR_BYTES)));
typedef double NAME(wide) __attribute__((vector_size(VECTOR_BYTES / REAL_BYTES * 8), aligned(8), may_alias));
typedef REAL NAME(half) __attribute__((vector_size(VECTOR_BYTES / 2), aligned(sizeof(REAL)), may_alias));
typedef double NAME(wide_half) __attribute__((vector_size(VECTOR_BYTES / REAL_BYTES * 4), aligned(8), may_alias));
#define VECTOR NAME(vector)
#define WIDE NAME(wide)
#define INDICES NAME(indices)
#define HALF NAME(half)
#define WIDE_HALF NAME(wide_half)
#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(REAL)))
#define WIDTH (2 * LANES) /* numbers in one line of a block */
#define SLOTS ((2 * TALLEST + VECTOR_BYTES / REAL_BYTES - 1) / (VECTOR_BYTES / REAL_BYTES) * (VECTOR_BYTES / REAL_BYTES))

INLINE VECTOR NAME(load)(const REAL *from) { return *(const VECTOR *)from; }

/* The first n numbers of a vector from or to memory; the others are zero. */
INLINE VECTOR NAME(load_some)(const REAL *from, const ptrdiff_t n) {
    VECTOR some = {0};
    if (n == LANES) return NAME(load)(from);
    memcpy(&some, from, n * sizeof *from);
    return some;
}

INLINE void NAME(store_some)(REAL *to, VECTOR from, const ptrdiff_t n) {
    if (n == LANES)
        *(VECTOR *)to = from;
    else
        memcpy(to, &from, n * sizeof *to);
}

/* The larger of two numbers in each lane; that of `other` if one of them is NaN. */
INLINE VECTOR NAME(larger)(VECTOR one, VECTOR other) {
    for (ptrdiff_t i = 0; i < LANES; i++) other[i] = one[i] > other[i] ? one[i] : other[i];
    return other;
}

/* Exchanges the odd groups of `size` numbers of `one` with the even groups of `other`. */
#if defined(__clang__)
INLINE void NAME(exchange)(VECTOR *one, VECTOR *other, const int size) {
    for (ptrdiff_t i = 0; i < LANES; i++)
        if (i & size) {
            REAL number = (*one)[i];
            (*one)[i] = (*other)[i - size];
            (*other)[i - size] = number;
        }
}
#else
INLINE void NAME(exchange)(VECTOR *one, VECTOR *other, const int size) {
#if VECTOR_BYTES / REAL_BYTES == 2
    const INDICES lane = {0, 1};
#elif VECTOR_BYTES / REAL_BYTES == 4
    const INDICES lane = {0, 1, 2, 3};
#elif VECTOR_BYTES / REAL_BYTES == 8
    const INDICES lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const INDICES lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#endif
    const INDICES from = lane + (lane & size) / size * (INDEX)(LANES - size);
    VECTOR even = __builtin_shuffle(*one, *other, from);
    *other = __builtin_shuffle(*one, *other, from + size);
    *one = even;
}
#endif

/* Transposes LANES vectors in place by recursive exchanges of quarters (Eklundh, IEEE Trans. Comput. 21, 1972). */
INLINE void NAME(transpose)(VECTOR square[VECTOR_BYTES / REAL_BYTES]) {
    UNROLLED for (int size = LANES / 2; size; size /= 2)
        UNROLLED for (int i = 0; i < LANES; i++)
            if (!(i & size)) NAME(exchange)(square + i, square + i + size, size);
}

/* Exchanges numbers among 2 size vectors, and adds them two by two into the first `size`. */
INLINE void NAME(halve)(VECTOR *square, const int size) {
    UNROLLED for (int i = 0; i < size; i++) {
        NAME(exchange)(square + i, square + i + size, size);
        square[i] += square[i + size];
    }
}

/* A vector with the sum of the numbers of each of LANES vectors, which are overwritten. A loop over sizes instead of four
 * calls would keep the vectors in memory. */
INLINE VECTOR NAME(totals)(VECTOR square[VECTOR_BYTES / REAL_BYTES]) {
    NAME(halve)(square, LANES / 2);
    NAME(halve)(square, LANES / 4);
    NAME(halve)(square, LANES / 8);
    NAME(halve)(square, LANES / 16);
    return square[0];
}
