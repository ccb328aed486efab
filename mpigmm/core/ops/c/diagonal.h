/* Log-densities and sums of components with a variance for each feature, by products of the features.
 *
 * A vector holds LANES features of one row, so that nothing is transposed and squares of features are not stored. Rows in
 * double are read as they are; others are converted first and copied to lines of `width` numbers, with zeros after the last
 * feature, where width is a multiple of LANES. Vectors that cover a row are its chunks; the last one overlaps the one before
 * it if the width is not a multiple of LANES. Coefficients and sums of a component have two vectors for each chunk: for the
 * features, and for their squares. The coefficients of zeros, and of features that an earlier chunk holds, are zero; their
 * sums are ignored.
 */

/* Number of chunks, and the first feature of a chunk. */
#define CHUNKS(n_features) (((n_features) + LANES - 1) / LANES)
#define CHUNK_START(chunk) ((chunk) * LANES < width - LANES ? (chunk) * LANES : width - LANES)

/* The numbers of components and rows whose log-densities are summed in registers at the same time. */
#define MOST_DIAGONAL (VECTOR_BYTES == 64 ? 3 : 2)
#define MOST_ROWS ((ptrdiff_t)(VECTOR_BYTES / 8))

/* A vector with a number for each of MOST_ROWS rows. */
typedef REAL NAME(row_vector) __attribute__((vector_size(VECTOR_BYTES / 8 * REAL_BYTES), aligned(sizeof(REAL)), may_alias));

/* Bytes to prefetch in each of many steps; none if these are so few that each line of the cache would be prefetched several
 * times: prefetching then takes longer than waiting for the rows. */
static ptrdiff_t NAME(pace_of)(ptrdiff_t bytes, ptrdiff_t steps) {
    ptrdiff_t pace = bytes / steps;
    return pace < CACHE_LINE / 4 ? 0 : pace < 2 * CACHE_LINE ? pace : 2 * CACHE_LINE;
}

/* Whether vectors of features are faster than vectors of rows: if they are long and few lanes are idle. In single precision
 * also only with the longest vectors and few components, for then the sums of lanes take less time than transposing rows. */
static int NAME(is_diagonal)(const struct products *products, ptrdiff_t n_features) {
    ptrdiff_t k = products->n_components;
    int fills_lanes = n_features >= LANES && 8 * CHUNKS(n_features) * LANES <= 9 * n_features;
    int is_fast = REAL_BYTES == 8 ? VECTOR_BYTES > 16 : VECTOR_BYTES == 64 && 2 * k <= n_features;
    return k && products->kind == SQUARES && fills_lanes && is_fast;
}

/* Arranges coefficients (K, 1 + 2 D) of [1, x, squares of x] as vectors. */
static void NAME(arrange_coefficients)(
    const REAL *restrict from, ptrdiff_t n_components, ptrdiff_t n_features, ptrdiff_t width, REAL *restrict out
) {
    memset(out, 0, n_components * CHUNKS(width) * WIDTH * sizeof *out);
    for (ptrdiff_t k = 0; k < n_components; k++, from += 1 + 2 * n_features)
        for (ptrdiff_t chunk = 0; chunk < CHUNKS(width); chunk++, out += WIDTH)
            for (ptrdiff_t d = chunk * LANES; d < n_features && d < (chunk + 1) * LANES; d++) {
                out[d - CHUNK_START(chunk)] = from[1 + d];
                out[d - CHUNK_START(chunk) + LANES] = from[1 + n_features + d];
            }
}

/* Writes counts (K,) and the vectors of sums that follow them into out (K, 1 + 2 D). */
static void NAME(unpack_diagonal)(
    const double *restrict counts, ptrdiff_t n_components, ptrdiff_t n_features, ptrdiff_t width, double *restrict out
) {
    const double *sums = counts + n_components;
    for (ptrdiff_t k = 0; k < n_components; k++, out += 1 + 2 * n_features) {
        out[0] = counts[k];
        for (ptrdiff_t chunk = 0; chunk < CHUNKS(width); chunk++, sums += WIDTH)
            for (ptrdiff_t d = chunk * LANES; d < n_features && d < (chunk + 1) * LANES; d++) {
                out[1 + d] = sums[d - CHUNK_START(chunk)];
                out[1 + n_features + d] = sums[d - CHUNK_START(chunk) + LANES];
            }
    }
}

/* A number plus the sums of the numbers of each of MOST_ROWS vectors, which are overwritten, into out (MOST_ROWS,). */
INLINE void NAME(store_totals)(VECTOR sums[VECTOR_BYTES / 8], REAL more, REAL *out) {
    NAME(halve)(sums, MOST_ROWS / 2);
    NAME(halve)(sums, MOST_ROWS / 4);
    NAME(halve)(sums, MOST_ROWS / 8);
    NAME(row_vector) total = *(NAME(row_vector) *)sums;
    if (REAL_BYTES == 4) total += ((NAME(row_vector) *)sums)[1];
    *(NAME(row_vector) *)out = total + more;
}

/* Log-densities (HEIGHT, MOST_ROWS) of HEIGHT components for MOST_ROWS rows. */
#define DIAGONAL_LOG_PROB(HEIGHT, unused) \
    do { \
        VECTOR sums[HEIGHT][VECTOR_BYTES / 8]; \
        const REAL *own = arranged + first * n_chunks * WIDTH; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int i = 0; i < MOST_ROWS; i++) sums[r][i] = (VECTOR){0}; \
        for (ptrdiff_t chunk = 0; chunk < n_chunks; chunk++, own += WIDTH) { \
            ptrdiff_t d = CHUNK_START(chunk); \
            VECTOR linear[HEIGHT], square[HEIGHT], middle = NAME(load)(centre + d); \
            if (pace) { \
                __builtin_prefetch(next, 0, 3); \
                __builtin_prefetch(next + CACHE_LINE, 0, 3); \
                next += pace; \
            } \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                linear[r] = NAME(load)(own + r * n_chunks * WIDTH); \
                square[r] = NAME(load)(own + r * n_chunks * WIDTH + LANES); \
            } \
            UNROLLED for (int i = 0; i < MOST_ROWS; i++) { \
                VECTOR x = NAME(load)(rows[i] + d) - middle; \
                UNROLLED for (int r = 0; r < HEIGHT; r++) sums[r][i] += x * (square[r] * x + linear[r]); \
            } \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            NAME(store_totals)(sums[r], constants[(first + r) * n_lines], out + (first + r) * stride); \
    } while (0)

/* Log-densities (K, MOST_ROWS) for MOST_ROWS rows. Prefetches `pace` bytes for each group of components and chunk, starting at
 * `next`. */
static OUTLINED void NAME(diagonal_log_prob)(
    const struct products *products, const REAL *arranged, const REAL *const *rows, const REAL *centre, ptrdiff_t width,
    const char *next, ptrdiff_t pace, REAL *out, ptrdiff_t stride
) {
    const REAL *constants = products->coefficients;
    ptrdiff_t k = products->n_components, n_lines = products->n_lines, n_chunks = CHUNKS(width);
    ptrdiff_t groups = (k + MOST_DIAGONAL - 1) / MOST_DIAGONAL;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * k / groups, last = (group + 1) * k / groups;
        WITH_FEW(last - first, DIAGONAL_LOG_PROB, 0)
    }
}

/* Log-densities (K, whole) for n rows (n, width), of which the last is repeated for the columns beyond n. Prefetches as
 * `diagonal_log_prob` does for each MOST_ROWS rows, starting at `ahead`. */
static void NAME(diagonal_log_probs)(
    const struct products *products, const REAL *arranged, const REAL *rows, const REAL *centre, ptrdiff_t width,
    ptrdiff_t n, ptrdiff_t whole, const char *ahead, ptrdiff_t pace, REAL *out, ptrdiff_t stride
) {
    ptrdiff_t each = (products->n_components + MOST_DIAGONAL - 1) / MOST_DIAGONAL * CHUNKS(width) * pace;
    for (ptrdiff_t i = 0; i < whole; i += MOST_ROWS, ahead += each) {
        const REAL *some[VECTOR_BYTES / 8];
        for (ptrdiff_t j = 0; j < MOST_ROWS; j++) some[j] = rows + (i + j < n ? i + j : n - 1) * width;
        NAME(diagonal_log_prob)(products, arranged, some, centre, width, ahead, pace, out + i, stride);
    }
}

/* Adds sums over n rows of responsibilities of HEIGHT components times the features of a chunk, and times their squares. */
#define ADD_DIAGONAL(HEIGHT, unused) \
    do { \
        VECTOR part[TALLEST][2], middle = NAME(load)(centre + d); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) part[r][0] = part[r][1] = (VECTOR){0}; \
        for (ptrdiff_t i = 0; i < n; i++) { \
            VECTOR x = NAME(load)(rows + i * width + d) - middle, square = x * x; \
            if (pace) __builtin_prefetch(next + i * pace, 0, 3); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                REAL share = resp[(first + r) * stride + i]; \
                part[r][0] += share * x; \
                part[r][1] += share * square; \
            } \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) \
                *(WIDE *)(sums + ((first + r) * n_chunks + chunk) * WIDTH + c * LANES) \
                    += __builtin_convertvector(part[r][c], WIDE); \
    } while (0)

/* Adds sums over n rows (n, width) of responsibilities resp (K, n) to the counts (K,), and those of responsibilities times
 * products of the features to the sums that follow the counts. Prefetches `pace` bytes for each row, chunk and group of
 * components, starting at `ahead`. */
static OUTLINED void NAME(add_diagonal)(
    const REAL *rows, const REAL *centre, ptrdiff_t width, const REAL *resp, ptrdiff_t k, ptrdiff_t n, ptrdiff_t stride,
    const char *ahead, ptrdiff_t pace, double *counts
) {
    ptrdiff_t n_chunks = CHUNKS(width), groups = (k + TALLEST - 1) / TALLEST;
    double *sums = counts + k;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * k / groups, last = (group + 1) * k / groups;
        for (ptrdiff_t chunk = 0; chunk < n_chunks; chunk++) {
            ptrdiff_t d = CHUNK_START(chunk);
            const char *next = ahead + (group * n_chunks + chunk) * n * pace;
            WITH_HEIGHT(last - first, ADD_DIAGONAL, 0)
        }
    }
    for (ptrdiff_t j = 0; j < k; j++) {
        WIDE count = {0};
        for (ptrdiff_t i = 0; i < n; i += LANES)
            count += __builtin_convertvector(NAME(load)(resp + j * stride + i), WIDE);
        for (ptrdiff_t i = 0; i < LANES; i++) counts[j] += count[i];
    }
}
