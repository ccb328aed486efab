/* The loops of one precision: REAL, PRECISION. Arrays are contiguous; shapes as in loops.py, (height, width). */

typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INDEX NAME(indices) __attribute__((vector_size(VECTOR_BYTES)));
typedef double NAME(wide) __attribute__((vector_size(VECTOR_BYTES / REAL_BYTES * 8), aligned(8), may_alias));
#define VECTOR NAME(vector)
#define WIDE NAME(wide)
#define INDICES NAME(indices)
#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(REAL)))
#define WIDTH (2 * LANES) /* of a block */
#define SLOTS ((2 * TALLEST + VECTOR_BYTES / REAL_BYTES - 1) / (VECTOR_BYTES / REAL_BYTES) * (VECTOR_BYTES / REAL_BYTES))

INLINE VECTOR NAME(load)(const REAL *from) { return *(const VECTOR *)from; }

/* Sums over l < depth of one[r][l] other[l][c], one's entries at r * down + l * along, other's lines `stride` apart.
 * Meanwhile the processor fetches what will be wanted, a line of the cache at a time, from `ahead` on unless it is null. */
INLINE void NAME(block)(
    const int height, const int vectors, const REAL *one, ptrdiff_t down, ptrdiff_t along, const REAL *other,
    ptrdiff_t stride, ptrdiff_t depth, const char *ahead, VECTOR sums[TALLEST][2]
) {
    UNROLLED for (int r = 0; r < height; r++)
        UNROLLED for (int c = 0; c < vectors; c++) sums[r][c] = (VECTOR){0};
    for (ptrdiff_t l = 0; l < depth; l++) {
        VECTOR line[2];
        if (ahead) __builtin_prefetch(ahead + CACHE_LINE * l, 0, 2);
        UNROLLED for (int c = 0; c < vectors; c++) line[c] = NAME(load)(other + l * stride + c * LANES);
        UNROLLED for (int r = 0; r < height; r++) {
            REAL factor = one[r * down + l * along];
            UNROLLED for (int c = 0; c < vectors; c++) sums[r][c] += factor * line[c];
        }
    }
}

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
/* Changes the odd groups of `size` numbers of one vector for the even ones of another. */
INLINE void NAME(exchange)(VECTOR *one, VECTOR *other, const int size) {
#if VECTOR_BYTES / REAL_BYTES == 2
    const INDICES place = {0, 1};
#elif VECTOR_BYTES / REAL_BYTES == 4
    const INDICES place = {0, 1, 2, 3};
#elif VECTOR_BYTES / REAL_BYTES == 8
    const INDICES place = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const INDICES place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#endif
    const INDICES from = place + (place & size) / size * (INDEX)(LANES - size);
    VECTOR even = __builtin_shuffle(*one, *other, from);
    *other = __builtin_shuffle(*one, *other, from + size);
    *one = even;
}
#endif

/* A square of vectors, transposed: quarters of quarters change places (Eklundh, IEEE Trans. Comput. 21, 1972). */
INLINE void NAME(transpose)(VECTOR square[VECTOR_BYTES / REAL_BYTES]) {
    UNROLLED for (int size = LANES / 2; size; size /= 2)
        UNROLLED for (int i = 0; i < LANES; i++)
            if (!(i & size)) NAME(exchange)(square + i, square + i + size, size);
}

/* The sum of each of so many vectors, in one. */
INLINE VECTOR NAME(totals)(VECTOR square[VECTOR_BYTES / REAL_BYTES]) {
    UNROLLED for (int size = LANES / 2; size; size /= 2)
        UNROLLED for (int i = 0; i < size; i++) {
            NAME(exchange)(square + i, square + i + size, size);
            square[i] += square[i + size];
        }
    return square[0];
}

/* Some features of LANES rows of integers less the centre, TURNED_AT_ONCE numbers a row. */
#define CONVERT(RAW, unused) \
    do { \
        const RAW *restrict from = raw; \
        for (ptrdiff_t i = 0; i < LANES; i++) \
            for (ptrdiff_t j = 0; j < size; j++) \
                out[i * TURNED_AT_ONCE + j] = (REAL)((double)from[i * n_features + first + j] - centre[first + j]); \
    } while (0)

static OUTLINED void NAME(convert)(
    const void *raw, int kind, ptrdiff_t n_features, ptrdiff_t first, ptrdiff_t size, const double *restrict centre,
    REAL *restrict out
) {
    WITH_RAW(kind, CONVERT, 0)
}

/* LANES rows of integers of LANES features or more, as lines: converted many at a time first, then transposed. */
static void NAME(turn_integers)(
    const void *raw, int kind, ptrdiff_t n_features, ptrdiff_t n_turned, const double *centre, REAL *out, ptrdiff_t stride
) {
    REAL part[VECTOR_BYTES / REAL_BYTES * TURNED_AT_ONCE];
    for (ptrdiff_t next = 0; next < n_turned; next += TURNED_AT_ONCE) {
        ptrdiff_t first = next + LANES < n_turned ? next : n_turned - LANES; /* the last may overlap */
        ptrdiff_t size = n_turned - first < TURNED_AT_ONCE ? n_turned - first : TURNED_AT_ONCE;
        NAME(convert)(raw, kind, n_features, first, size, centre, part);
        for (ptrdiff_t at = 0; at < size; at += LANES) {
            ptrdiff_t d = at + LANES < size ? at : size - LANES;
            VECTOR square[VECTOR_BYTES / REAL_BYTES];
            UNROLLED for (ptrdiff_t i = 0; i < LANES; i++) square[i] = NAME(load)(part + i * TURNED_AT_ONCE + d);
            NAME(transpose)(square);
            UNROLLED for (ptrdiff_t j = 0; j < LANES; j++) *(VECTOR *)(out + (first + d + j) * stride) = square[j];
        }
    }
}

/* Rows (n, D) of a file less the centre (D,), as lines (D, stride) filled up with zeros: the first n_turned of
 * them. */
#define TURN_ROWS(RAW, unused) \
    do { \
        const RAW *rows = raw; \
        for (ptrdiff_t start = 0; start < whole; start += LANES) { \
            const RAW *from = rows + start * n_features; \
            if (kind >= FIRST_INTEGER && n_turned >= LANES) \
                NAME(turn_integers)(from, kind, n_features, n_turned, centre, out + start, stride); \
            for (ptrdiff_t d = 0; n_turned < LANES && d < n_turned; d++) \
                UNROLLED for (ptrdiff_t i = 0; i < LANES; i++) \
                    out[d * stride + start + i] = (REAL)((double)from[i * n_features + d] - centre[d]); \
            for (ptrdiff_t next = LANES; kind < FIRST_INTEGER && next < n_turned + LANES && n_turned >= LANES; \
                 next += LANES) { \
                ptrdiff_t d = next < n_turned ? next - LANES : n_turned - LANES; /* the last overlap */ \
                VECTOR square[VECTOR_BYTES / REAL_BYTES]; \
                UNROLLED for (ptrdiff_t i = 0; i < LANES; i++) { \
                    REAL line[VECTOR_BYTES / REAL_BYTES]; \
                    for (ptrdiff_t j = 0; j < LANES; j++) \
                        line[j] = (REAL)((double)from[i * n_features + d + j] - centre[d + j]); \
                    square[i] = NAME(load)(line); \
                } \
                NAME(transpose)(square); \
                UNROLLED for (ptrdiff_t j = 0; j < LANES; j++) \
                    *(VECTOR *)(out + (d + j) * stride + start) = square[j]; \
            } \
        } \
        for (ptrdiff_t d = 0; d < n_turned; d++) { \
            for (ptrdiff_t i = whole; i < n; i++) \
                out[d * stride + i] = (REAL)((double)rows[i * n_features + d] - centre[d]); \
            for (ptrdiff_t i = n; i < stride; i++) out[d * stride + i] = 0; \
        } \
    } while (0)

void NAME(turn)(
    const void *raw, int kind, ptrdiff_t n, ptrdiff_t n_features, ptrdiff_t n_turned, const double *restrict centre,
    REAL *restrict out, ptrdiff_t stride
) {
    ptrdiff_t whole = n / LANES * LANES;
    WITH_RAW(kind, TURN_ROWS, 0)
}

/* Rows (n, D) of a file less the centre (D,), into out (n, D). */
#define SUBTRACT(RAW, unused) \
    do { \
        const RAW *restrict rows = raw; \
        for (ptrdiff_t i = 0; i < n; i++) \
            for (ptrdiff_t d = 0; d < n_features; d++) \
                out[i * n_features + d] = (REAL)((double)rows[i * n_features + d] - centre[d]); \
    } while (0)

void NAME(subtract)(
    const void *raw, int kind, ptrdiff_t n, ptrdiff_t n_features, const double *restrict centre, REAL *restrict out
) {
    WITH_RAW(kind, SUBTRACT, 0)
}

/* Weighted log-densities of up to NORMALISED_AT_ONCE rows, lines `stride` apart, to responsibilities: all zero, and the
 * log-density -inf, where no component has a density; all NaN where one of them is. */
static void NAME(normalise_some)(
    REAL *log_prob, ptrdiff_t n_components, ptrdiff_t n, ptrdiff_t stride, REAL *restrict log_density, REAL least
) {
    const REAL lowest = sizeof(REAL) == 8 ? (REAL)-DBL_MAX : (REAL)-FLT_MAX;
    REAL sums[NORMALISED_AT_ONCE], all[NORMALISED_AT_ONCE];
    for (ptrdiff_t i = 0; i < n; i++) {
        log_density[i] = log_prob[i] > lowest ? log_prob[i] : lowest;
        all[i] = log_prob[i];
        sums[i] = 0;
    }
    for (ptrdiff_t k = 1; k < n_components; k++) {
        const REAL *restrict line = log_prob + k * stride;
        for (ptrdiff_t i = 0; i < n; i++) {
            log_density[i] = line[i] > log_density[i] ? line[i] : log_density[i];
            all[i] += line[i];
        }
    }
    for (ptrdiff_t k = 0; k < n_components; k++) {
        REAL *restrict line = log_prob + k * stride;
        for (ptrdiff_t i = 0; i < n; i++) {
            REAL below = line[i] - log_density[i], clipped = least > below ? least : below;
            REAL resp = NAME(exponential)(clipped);
            line[i] = clipped > least ? resp : 0;
            sums[i] += line[i];
        }
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        REAL sum = all[i] == all[i] ? sums[i] : all[i];
        log_density[i] = sum == 0 ? -(REAL)INFINITY : (REAL)(log_density[i] + logarithm(sum));
        sums[i] = sum == 0 ? 0 : 1 / sum;
    }
    for (ptrdiff_t k = 0; k < n_components; k++) {
        REAL *restrict line = log_prob + k * stride;
        for (ptrdiff_t i = 0; i < n; i++) line[i] *= sums[i];
    }
}

/* Weighted log-densities (K, n) to responsibilities; log-densities of the rows (n,). */
void NAME(normalise)(REAL *log_prob, ptrdiff_t n_components, ptrdiff_t n, ptrdiff_t stride, REAL *log_density, REAL least) {
    for (ptrdiff_t start = 0; start < n; start += NORMALISED_AT_ONCE) {
        ptrdiff_t some = n - start < NORMALISED_AT_ONCE ? n - start : NORMALISED_AT_ONCE;
        NAME(normalise_some)(log_prob + start, n_components, some, stride, log_density + start, least);
    }
}

/* one (height, depth) times other (depth, n) into out (height, n), n a multiple of WIDTH, lines `stride` apart. Where one
 * is a lower triangle, no more of it is read. From `ahead` on stands what will be wanted, so many bytes for each of n. */
#define PRODUCT(HEIGHT, unused) \
    do { \
        VECTOR sums[TALLEST][2]; \
        NAME(block)(HEIGHT, 2, one + first * depth, depth, 1, other + at, stride, reach, ahead + at * each, sums); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) *(VECTOR *)(out + (first + r) * stride + at + c * LANES) = sums[r][c]; \
    } while (0)

static void NAME(multiply)(
    const REAL *one, const REAL *other, REAL *out, ptrdiff_t height, ptrdiff_t depth, ptrdiff_t n, ptrdiff_t stride,
    int triangular, const char *ahead, ptrdiff_t each
) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST;
    for (ptrdiff_t at = 0; at < n; at += WIDTH)
        for (ptrdiff_t group = 0; group < groups; group++) {
            ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
            ptrdiff_t reach = triangular && last < depth ? last : depth;
            WITH_HEIGHT(last - first, PRODUCT, 0)
        }
}

/* Add one (height, n) times the transpose of other (width, n) to sums, n a multiple of LANES, lines `stride` apart; where
 * both are the same rows, the lower triangle will do. The sums stand in the order in which blocks of up to TALLEST by two
 * yield them, SLOTS a block; `unpack` tells them apart. */
#define ADD_PRODUCT(HEIGHT, unused) \
    do { \
        VECTOR part[TALLEST][2]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) part[r][0] = part[r][1] = (VECTOR){0}; \
        for (ptrdiff_t i = 0; i < n; i += LANES) { \
            VECTOR x = NAME(load)(other + at * stride + i), y = NAME(load)(other + next * stride + i); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                VECTOR line = NAME(load)(one + (first + r) * stride + i); \
                part[r][0] += line * x; \
                part[r][1] += line * y; \
            } \
        } \
        UNROLLED for (int start = 0; start < 2 * HEIGHT; start += LANES) { \
            VECTOR square[VECTOR_BYTES / REAL_BYTES]; \
            UNROLLED for (int i = 0; i < LANES; i++) \
                square[i] = start + i < 2 * HEIGHT ? part[(start + i) / 2][i % 2] : (VECTOR){0}; \
            *(WIDE *)(block + start) += __builtin_convertvector(NAME(totals)(square), WIDE); \
        } \
    } while (0)

static void NAME(add_product)(
    const REAL *one, const REAL *other, double *sums, ptrdiff_t height, ptrdiff_t width, ptrdiff_t n, ptrdiff_t stride,
    int symmetric
) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST, pairs = (width + 1) / 2;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
        for (ptrdiff_t at = 0; at < (symmetric ? last : width); at += 2) {
            ptrdiff_t next = at + 1 < width ? at + 1 : at;
            double *restrict block = sums + (group * pairs + at / 2) * SLOTS;
            WITH_HEIGHT(last - first, ADD_PRODUCT, 0)
        }
    }
}

/* Numbers of its sums. */
static ptrdiff_t NAME(room)(ptrdiff_t height, ptrdiff_t width) {
    return (height + TALLEST - 1) / TALLEST * ((width + 1) / 2) * SLOTS;
}

static void NAME(unpack)(const double *sums, double *out, ptrdiff_t height, ptrdiff_t width) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST, pairs = (width + 1) / 2;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
        for (ptrdiff_t r = first; r < last; r++)
            for (ptrdiff_t c = 0; c < width; c++)
                out[r * width + c] = sums[(group * pairs + c / 2) * SLOTS + 2 * (r - first) + c % 2];
    }
}

/* Products of lines (D, stride), or their whitened transforms' lengths, below them. */
static void NAME(append)(
    int kind, const REAL *rows, const REAL *whitened, REAL *out, ptrdiff_t n_features, ptrdiff_t n, ptrdiff_t stride
) {
    if (kind == LENGTH) {
        for (ptrdiff_t i = 0; i < n; i++) out[i] = 0;
        for (ptrdiff_t d = 0; d < n_features; d++)
            for (ptrdiff_t i = 0; i < n; i++) out[i] += whitened[d * stride + i] * whitened[d * stride + i];
        return;
    }
    for (ptrdiff_t d = 0; d < n_features; d++)
        for (ptrdiff_t j = kind == PAIRS ? 0 : d; j <= d; j++, out += stride) {
            const REAL *one = rows + d * stride, *other = rows + j * stride;
            REAL *restrict line = out;
            for (ptrdiff_t i = 0; i < n; i++) line[i] = one[i] * other[i];
        }
}

/* A line of n numbers times the rows' weights, if there are any, and zero up to `whole`. */
static void NAME(weigh)(REAL *restrict line, const REAL *restrict weights, ptrdiff_t n, ptrdiff_t whole) {
    for (ptrdiff_t i = 0; weights && i < n; i++) line[i] *= weights[i];
    for (ptrdiff_t i = n; i < whole; i++) line[i] = 0;
}

/* The sum of lines of n numbers, into out, which it returns. */
static const REAL *NAME(add_lines)(const REAL *lines, REAL *restrict out, ptrdiff_t height, ptrdiff_t n, ptrdiff_t stride) {
    memset(out, 0, n * sizeof *out);
    for (ptrdiff_t r = 0; r < height; r++)
        for (ptrdiff_t i = 0; i < n; i++) out[i] += lines[r * stride + i];
    return out;
}

#if REAL_BYTES == 8
#include "differences.h"
#endif

/* The whole E-step of a tile, `step` rows at a time, a multiple of WIDTH: some components by products of the rows, the
 * others by differences from their means. Returns the log-likelihood; overwrites the products' sums, adds to the group's.
 * Rows of which the components by products have few each add to `moments` instead, which may be of no components.
 *
 * work: (step + WIDTH) (1 + L + K + D) numbers; wide: `difference_room`; blocks: room for the sums, then for the scatter's.
 */
double NAME(sweep)(
    const struct rows *tile, const struct products *products, const struct differences *moments,
    const struct differences *group, REAL least, ptrdiff_t step, REAL *work, double *wide, double *blocks, int32_t *chosen
) {
    WIDE log_likelihood = {0};
    int bounds = 1;
    ptrdiff_t d = tile->n_features, n_products = products->n_components, n_lines = products->n_lines;
    ptrdiff_t n_components = n_products + group->n_components;
    const REAL *whiten = products->whiten, *weights = tile->weights;
    double *scatter = products->scatter, *scatter_blocks = blocks + NAME(room)(n_products, n_lines);
    memset(blocks, 0, NAME(room)(n_products, n_lines) * sizeof *blocks);
    if (scatter) memset(scatter_blocks, 0, NAME(room)(d, d) * sizeof *blocks);
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH; /* lines a power of two apart fall into few places of the cache */
        REAL *log_density = work, *phi = log_density + stride, *rows = phi + stride, *resp = phi + n_lines * stride;
        REAL *whitened = resp + n_components * stride, *others = resp + n_products * stride;
        const REAL *own_weights = weights ? weights + start : NULL;
        const char *ahead = tile->raw + (start + n) * tile->row_bytes;
        double *wide_resp = wide + (1 + 2 * d) * stride, *squares = wide_resp + group->n_components * stride;
        double *wide_work = squares + group->n_components * stride;
        if (n_products) {
            for (ptrdiff_t i = 0; i < stride; i++) phi[i] = 1;
            NAME(turn)(tile->raw + start * tile->row_bytes, tile->kind, n, d, d, tile->centre, rows, stride);
            if (whiten) NAME(multiply)(whiten, rows, whitened, d, d, whole, stride, 1, ahead, tile->row_bytes);
            NAME(append)(products->kind, rows, whiten ? whitened : rows, rows + d * stride, d, whole, stride);
            NAME(multiply)(products->lines, phi, resp, n_products, n_lines, whole, stride, 0, ahead, tile->row_bytes);
        }
        double *lines = wide;
        const double *ready = NULL;
#if REAL_BYTES == 8
        if (n_products && (whiten || !group->whiten)) { /* what the group wants of the rows is there already */
            lines = phi;
            ready = group->whiten ? whitened : rows;
        }
#endif
        if (group->n_components) {
            log_prob_by_differences(
                group, tile, start, n, ready, lines, whole, stride, squares, wide_resp, wide_work, &bounds);
            for (ptrdiff_t i = 0; i < group->n_components * stride; i++) others[i] = (REAL)wide_resp[i];
        }
        NAME(normalise)(resp, n_components, n, stride, log_density, least);
        NAME(weigh)(log_density, own_weights, n, whole);
        for (ptrdiff_t k = 0; k < n_components; k++) NAME(weigh)(resp + k * stride, own_weights, n, whole);
        for (ptrdiff_t i = 0; i < whole; i += LANES)
            log_likelihood += __builtin_convertvector(NAME(load)(log_density + i), WIDE);
        int is_added = 0;
#if REAL_BYTES == 8
        is_added = add_if_few(moments, tile, start, resp, whole, stride, wide_work, chosen);
#endif
        if (n_products && !is_added) NAME(add_product)(resp, phi, blocks, n_products, n_lines, whole, stride, 0);
        if (scatter && n_products) {
            const REAL *shares = own_weights;
            if (group->n_components) shares = NAME(add_lines)(resp, log_density, n_products, whole, stride);
            memcpy(whitened, rows, d * stride * sizeof *rows);
            for (ptrdiff_t j = 0; j < d; j++) NAME(weigh)(whitened + j * stride, shares, n, whole);
            NAME(add_product)(whitened, rows, scatter_blocks, d, d, whole, stride, 1);
        }
        if (group->n_components) {
            for (ptrdiff_t i = 0; i < group->n_components * stride; i++) wide_resp[i] = others[i];
            add_moments(
                group, tile, start, n, lines, wide_resp, squares, whole, stride, wide_work, chosen, bounds && !ready);
        }
    }
    if (n_products) NAME(unpack)(blocks, products->sums, n_products, n_lines);
    if (scatter) NAME(unpack)(scatter_blocks, scatter, d, d);
    for (ptrdiff_t i = 0; scatter && i < d; i++)
        for (ptrdiff_t j = 0; j < i; j++) scatter[j * d + i] = scatter[i * d + j];
    double total = 0;
    for (ptrdiff_t i = 0; i < LANES; i++) total += log_likelihood[i];
    return total;
}

/* Log-densities (K, n) of a tile's rows under the group's components, `step` rows at a time. */
void NAME(difference_log_prob)(
    const struct rows *tile, const struct differences *group, ptrdiff_t step, double *wide, REAL *out
) {
    ptrdiff_t d = tile->n_features;
    int bounds = 1;
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH;
        double *log_prob = wide + (1 + 2 * d) * stride;
        double *squares = log_prob + group->n_components * stride, *wide_work = squares + group->n_components * stride;
        log_prob_by_differences(group, tile, start, n, NULL, wide, whole, stride, squares, log_prob, wide_work, &bounds);
        for (ptrdiff_t k = 0; k < group->n_components; k++)
            for (ptrdiff_t i = 0; i < n; i++) out[k * tile->n_rows + start + i] = (REAL)log_prob[k * stride + i];
    }
}

/* Adds the group's moments of a tile's rows with these responsibilities (K, n), `step` rows at a time. */
void NAME(difference_moments)(
    const struct rows *tile, const struct differences *group, ptrdiff_t step, double *wide, int32_t *chosen, const REAL *resp
) {
    ptrdiff_t d = tile->n_features;
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH;
        double *wide_resp = wide + (1 + 2 * d) * stride, *squares = wide_resp + group->n_components * stride;
        const double *of = widen(tile, start, n, group, d, whole, wide, stride);
        const char *ahead = tile->raw + (start + n) * tile->row_bytes;
        double *wide_work = squares + group->n_components * stride;
        if (group->wanted == ALL_FEATURES)
            subtract_means(group, of, d, d, whole, stride, ahead, tile->row_bytes, squares, wide_resp, wide_work);
        for (ptrdiff_t k = 0; k < group->n_components; k++)
            for (ptrdiff_t i = 0; i < whole; i++)
                wide_resp[k * stride + i] = i < n ? (double)resp[k * tile->n_rows + start + i] : 0;
        add_moments(group, tile, start, n, wide, wide_resp, squares, whole, stride, wide_work, chosen, 0);
    }
}

/* Loops.subtract_lengths, with lines (K, h, width). work: width * WIDTH numbers. */
#define LENGTHS(HEIGHT, unused) \
    do { \
        VECTOR sums[TALLEST][2]; \
        NAME(block)(HEIGHT, 2, some + first * width, width, 1, work, WIDTH, width, NULL, sums); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) squares[c] += sums[r][c] * sums[r][c]; \
    } while (0)

void NAME(subtract_lengths)(
    const REAL *augmented, ptrdiff_t n_rows, const REAL *lines, ptrdiff_t n_components, ptrdiff_t height, ptrdiff_t width,
    const REAL *start_from, REAL *work, REAL *out
) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST;
    for (ptrdiff_t start = 0; start < n_rows; start += WIDTH) {
        ptrdiff_t n = n_rows - start < WIDTH ? n_rows - start : WIDTH;
        for (ptrdiff_t d = 0; d < width; d++)
            for (ptrdiff_t i = 0; i < WIDTH; i++) work[d * WIDTH + i] = i < n ? augmented[d * n_rows + start + i] : 0;
        for (ptrdiff_t k = 0; k < n_components; k++) {
            const REAL *some = lines + k * height * width;
            VECTOR squares[2] = {{0}, {0}};
            for (ptrdiff_t group = 0; group < groups; group++) {
                ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
                WITH_HEIGHT(last - first, LENGTHS, 0)
            }
            REAL lengths[2 * VECTOR_BYTES / REAL_BYTES];
            memcpy(lengths, squares, sizeof lengths);
            REAL *line = out + k * n_rows + start;
            for (ptrdiff_t i = 0; i < n; i++) line[i] = (start_from ? start_from[k] : line[i]) - lengths[i] / 2;
        }
    }
}

/* Places (n,) where something other than zero stands; returns how many. */
static ptrdiff_t NAME(choose)(const INDEX *matters, ptrdiff_t n, int32_t *chosen) {
    ptrdiff_t count = 0;
    for (ptrdiff_t start = 0; start < n; start += LANES) {
        ptrdiff_t stop = start + LANES < n ? start + LANES : n;
        INDEX any = 0;
        for (ptrdiff_t i = start; i < stop; i++) any |= matters[i];
        for (ptrdiff_t i = start; any && i < stop; i++) {
            chosen[count] = (int32_t)i;
            count += matters[i] != 0;
        }
    }
    return count;
}

/* Subtract half the squares of the other whitened coordinates of some rows of (n, D) from their bounds.
 *
 * rest (1 + D, n_padded): offsets, then coefficients, a line a feature, n_rest of them used; the first coordinate
 * needs the features up to D - n_rest, each other one more. work: TALLEST * D numbers.
 */
#define COMPLETE(HEIGHT, VECTORS) \
    do { \
        VECTOR sums[TALLEST][2]; \
        NAME(block)(HEIGHT, VECTORS, work, n_features, 1, rest + stride + at, stride, reach, NULL, sums); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < VECTORS; c++) { \
                VECTOR whitened = sums[r][c] + NAME(load)(rest + at + c * LANES); \
                squares[r] += whitened * whitened; \
            } \
    } while (0)

static void NAME(complete)(
    const REAL *rows, ptrdiff_t n_features, const int32_t *chosen, ptrdiff_t count, const REAL *rest, ptrdiff_t n_rest,
    ptrdiff_t stride, REAL *work, REAL *bounds
) {
    ptrdiff_t groups = (count + TALLEST - 1) / TALLEST;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * count / groups, last = (group + 1) * count / groups;
        VECTOR squares[TALLEST + VECTOR_BYTES / REAL_BYTES];
        for (ptrdiff_t i = first; i < last; i++) {
            memcpy(work + (i - first) * n_features, rows + chosen[i] * n_features, n_features * sizeof(REAL));
        }
        for (ptrdiff_t i = 0; i < TALLEST + LANES; i++) squares[i] = (VECTOR){0};
        for (ptrdiff_t at = 0; at < n_rest; at += WIDTH) {
            ptrdiff_t reach = n_features - n_rest + at + WIDTH < n_features ? n_features - n_rest + at + WIDTH : n_features;
            if (n_rest - at > LANES)
                WITH_HEIGHT(last - first, COMPLETE, 2)
            else
                WITH_HEIGHT(last - first, COMPLETE, 1)
        }
        for (ptrdiff_t at = first; at < last; at += LANES) {
            VECTOR total = NAME(totals)(squares + at - first);
            for (ptrdiff_t i = at; i < last && i < at + LANES; i++) bounds[chosen[i]] -= total[i - at] / 2;
        }
    }
}

/* Loops.pick_distances: 0 where more than `most` pairs matter. work: n + TALLEST * D numbers; chosen: n + K + 1;
 * best: 2 n. */
int NAME(pick_distances)(
    const REAL *rows, ptrdiff_t n_rows, ptrdiff_t n_features, const REAL *rest, ptrdiff_t n_rest, ptrdiff_t stride,
    ptrdiff_t n_components, REAL highest, REAL nats, ptrdiff_t most, REAL *out, REAL *work, INDEX *best, int32_t *chosen
) {
    REAL *restrict reached = work, *picked = work + n_rows;
    INDEX *restrict matters = best + n_rows;
    int32_t *ends = chosen + n_rows;
    ptrdiff_t size = (1 + n_features) * stride;
    for (ptrdiff_t i = 0; i < n_rows; i++) {
        best[i] = 0;
        reached[i] = out[i];
    }
    for (ptrdiff_t k = 1; k < n_components; k++) {
        const REAL *restrict line = out + k * n_rows;
        for (ptrdiff_t i = 0; i < n_rows; i++) {
            best[i] = line[i] > reached[i] ? (INDEX)k : best[i];
            reached[i] = line[i] > reached[i] ? line[i] : reached[i];
        }
    }
    memset(ends, 0, (n_components + 1) * sizeof *ends);
    for (ptrdiff_t i = 0; i < n_rows; i++) ends[best[i] + 1]++;
    for (ptrdiff_t k = 0; k < n_components; k++) ends[k + 1] += ends[k];
    for (ptrdiff_t i = 0; i < n_rows; i++) chosen[ends[best[i]]++] = (int32_t)i;
    for (ptrdiff_t k = 0, start = 0; k < n_components; start = ends[k++])
        NAME(complete)(
            rows, n_features, chosen + start, ends[k] - start, rest + k * size, n_rest, stride, picked, out + k * n_rows);
    for (ptrdiff_t i = 0; i < n_rows; i++) {
        REAL value = out[best[i] * n_rows + i];
        reached[i] = value == -(REAL)INFINITY ? value : (REAL)(value - logarithm(highest + 1 - value) - nats);
    }
    ptrdiff_t pairs = 0;
    for (ptrdiff_t k = 0; k < n_components; k++) {
        const REAL *restrict line = out + k * n_rows;
        INDEX count = 0;
        for (ptrdiff_t i = 0; i < n_rows; i++) count += line[i] >= reached[i];
        pairs += count;
    }
    if (pairs > most) return 0;
    for (ptrdiff_t k = 0; k < n_components; k++) {
        REAL *restrict line = out + k * n_rows;
        for (ptrdiff_t i = 0; i < n_rows; i++) {
            INDEX above = line[i] >= reached[i], own = best[i] == (INDEX)k;
            matters[i] = above & ~own;
            line[i] = above | own ? line[i] : -(REAL)INFINITY;
        }
        ptrdiff_t count = NAME(choose)(matters, n_rows, chosen);
        NAME(complete)(rows, n_features, chosen, count, rest + k * size, n_rest, stride, picked, line);
    }
    return 1;
}

/* Loops.pick_moments. scatter: D * stride numbers, stride >= D a multiple of LANES; picked: PICKED_BYTES, or TALLEST
 * rows if that is more. */
#define ADD_SQUARES(HEIGHT, VECTORS) \
    do { \
        VECTOR sums[TALLEST][2]; \
        NAME(block)(HEIGHT, VECTORS, picked + first, 1, stride, picked + at, stride, count, NULL, sums); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) { \
            double *line = scatter + (first + r) * stride + at; \
            UNROLLED for (int c = 0; c < VECTORS; c++) \
                for (ptrdiff_t i = 0; i < LANES; i++) line[c * LANES + i] += sums[r][c][i]; \
        } \
    } while (0)

static void NAME(add_squares)(const REAL *picked, ptrdiff_t count, ptrdiff_t n_features, ptrdiff_t stride, double *scatter) {
    for (ptrdiff_t at = 0; at < n_features; at += WIDTH) {
        ptrdiff_t height = n_features - at, groups = (height + TALLEST - 1) / TALLEST;
        for (ptrdiff_t group = 0; group < groups; group++) {
            ptrdiff_t first = at + group * height / groups, last = at + (group + 1) * height / groups;
            if (n_features - at > LANES)
                WITH_HEIGHT(last - first, ADD_SQUARES, 2)
            else
                WITH_HEIGHT(last - first, ADD_SQUARES, 1)
        }
    }
}

void NAME(pick_moments)(
    const REAL *rows, ptrdiff_t n_rows, ptrdiff_t n_features, const REAL *resp, const REAL *means, ptrdiff_t n_components,
    const REAL *least, REAL *picked, ptrdiff_t at_once, double *scatter, ptrdiff_t stride, INDEX *restrict matters,
    int32_t *chosen, double *first_moments, double *second_moments
) {
    for (ptrdiff_t k = 0; k < n_components; k++, resp += n_rows, means += n_features, first_moments += n_features) {
        for (ptrdiff_t i = 0; i < n_rows; i++) matters[i] = resp[i] > least[k];
        ptrdiff_t count = NAME(choose)(matters, n_rows, chosen);
        memset(first_moments, 0, n_features * sizeof *first_moments);
        memset(scatter, 0, n_features * stride * sizeof *scatter);
        for (ptrdiff_t start = 0; start < count; start += at_once) {
            ptrdiff_t n = count - start < at_once ? count - start : at_once;
            for (ptrdiff_t i = 0; i < n; i++) {
                const REAL *row = rows + chosen[start + i] * n_features;
                REAL *restrict line = picked + i * stride, root = (REAL)sqrt(resp[chosen[start + i]]);
                for (ptrdiff_t d = 0; d < n_features; d++) {
                    line[d] = (row[d] - means[d]) * root;
                    first_moments[d] += line[d] * root;
                }
                for (ptrdiff_t d = n_features; d < stride; d++) line[d] = 0;
            }
            NAME(add_squares)(picked, n, n_features, stride, scatter);
        }
        for (ptrdiff_t d = 0; d < n_features; second_moments += ++d)
            memcpy(second_moments, scatter + d * stride, (d + 1) * sizeof *second_moments);
    }
}

#undef VECTOR
#undef WIDE
#undef INDICES
#undef LANES
#undef WIDTH
#undef SLOTS
#undef PRODUCT
#undef ADD_PRODUCT
#undef LENGTHS
#undef COMPLETE
#undef ADD_SQUARES
#undef TURN_ROWS
#undef CONVERT
#undef SUBTRACT
