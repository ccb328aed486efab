/* Log-densities and sums of components with a variance for each feature, by products of the features, in double.
 *
 * A vector holds LANES features of one row: rows are read as they are, neither transposed nor written, and squares of features
 * are not stored. Vectors that cover the D features of a row are its chunks; the last one overlaps the one before it if D is
 * not a multiple of LANES. Coefficients and sums of a component have two vectors for each chunk: for the features, and for
 * their squares. The coefficients of features that an earlier chunk holds are zero, and their sums are ignored.
 */

/* Number of chunks, and the first feature of a chunk. */
#define CHUNKS(n_features) (((n_features) + LANES - 1) / LANES)
#define CHUNK_START(chunk) ((chunk) * LANES < n_features - LANES ? (chunk) * LANES : n_features - LANES)

/* The number of components whose log-densities for LANES rows are summed in registers at the same time. */
enum { MOST_DIAGONAL = VECTOR_BYTES == 64 ? 3 : 2 };

/* Whether vectors of features are faster than vectors of rows: if they are long and few lanes are idle. */
static int is_diagonal(const struct products *products, ptrdiff_t n_features) {
    int fills_lanes = n_features >= LANES && 8 * CHUNKS(n_features) * LANES <= 9 * n_features;
    return VECTOR_BYTES > 16 && products->n_components && products->kind == SQUARES && fills_lanes;
}

/* Arranges coefficients (K, 1 + 2 D) of [1, x, squares of x] as vectors. */
static void arrange_coefficients(
    const double *restrict from, ptrdiff_t n_components, ptrdiff_t n_features, double *restrict out
) {
    ptrdiff_t n_chunks = CHUNKS(n_features);
    memset(out, 0, n_components * n_chunks * WIDTH * sizeof *out);
    for (ptrdiff_t k = 0; k < n_components; k++, from += 1 + 2 * n_features)
        for (ptrdiff_t chunk = 0; chunk < n_chunks; chunk++, out += WIDTH)
            for (ptrdiff_t d = chunk * LANES; d < CHUNK_START(chunk) + LANES; d++) {
                out[d - CHUNK_START(chunk)] = from[1 + d];
                out[d - CHUNK_START(chunk) + LANES] = from[1 + n_features + d];
            }
}

/* Writes counts (K,) and the vectors of sums that follow them into out (K, 1 + 2 D). */
static void unpack_diagonal(const double *restrict counts, ptrdiff_t n_components, ptrdiff_t n_features, double *restrict out) {
    const double *sums = counts + n_components;
    for (ptrdiff_t k = 0; k < n_components; k++, out += 1 + 2 * n_features) {
        out[0] = counts[k];
        for (ptrdiff_t chunk = 0; chunk < CHUNKS(n_features); chunk++, sums += WIDTH) {
            memcpy(out + 1 + CHUNK_START(chunk), sums, LANES * sizeof *sums);
            memcpy(out + 1 + n_features + CHUNK_START(chunk), sums + LANES, LANES * sizeof *sums);
        }
    }
}

/* Log-densities (HEIGHT, LANES) of HEIGHT components for LANES rows. */
#define DIAGONAL_LOG_PROB(HEIGHT, unused) \
    do { \
        VECTOR sums[HEIGHT][VECTOR_BYTES / 8]; \
        const double *own = arranged + first * n_chunks * WIDTH; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int i = 0; i < LANES; i++) sums[r][i] = (VECTOR){0}; \
        for (ptrdiff_t chunk = 0; chunk < n_chunks; chunk++, own += WIDTH) { \
            ptrdiff_t d = CHUNK_START(chunk); \
            VECTOR linear[HEIGHT], square[HEIGHT], middle = load_double(centre + d); \
            __builtin_prefetch(next, 0, 3); \
            next += pace; \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                linear[r] = load_double(own + r * n_chunks * WIDTH); \
                square[r] = load_double(own + r * n_chunks * WIDTH + LANES); \
            } \
            UNROLLED for (int i = 0; i < LANES; i++) { \
                VECTOR x = load_double(rows[i] + d) - middle; \
                UNROLLED for (int r = 0; r < HEIGHT; r++) sums[r][i] += x * (square[r] * x + linear[r]); \
            } \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) { \
            VECTOR total = totals_double(sums[r]) + constants[(first + r) * n_lines]; \
            *(VECTOR *)(out + (first + r) * stride) = total; \
        } \
    } while (0)

/* Log-densities (K, LANES) for LANES rows. Prefetches `pace` bytes for each group of components and chunk, starting at
 * `next`. */
static OUTLINED void diagonal_log_prob(
    const struct products *products, const double *arranged, const double *const *rows, const double *centre,
    ptrdiff_t n_features, const char *next, ptrdiff_t pace, double *out, ptrdiff_t stride
) {
    const double *constants = products->coefficients;
    ptrdiff_t k = products->n_components, n_lines = products->n_lines, n_chunks = CHUNKS(n_features);
    ptrdiff_t groups = (k + MOST_DIAGONAL - 1) / MOST_DIAGONAL;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * k / groups, last = (group + 1) * k / groups;
        WITH_FEW(last - first, DIAGONAL_LOG_PROB, 0)
    }
}

/* Log-densities (K, whole) for n rows (n, D), of which the last is repeated for the columns beyond n. Prefetches as
 * `diagonal_log_prob` does for each LANES rows, starting at `ahead`. */
static void diagonal_log_probs(
    const struct products *products, const double *arranged, const double *rows, const double *centre, ptrdiff_t n_features,
    ptrdiff_t n, ptrdiff_t whole, const char *ahead, ptrdiff_t pace, double *out, ptrdiff_t stride
) {
    ptrdiff_t each = (products->n_components + MOST_DIAGONAL - 1) / MOST_DIAGONAL * CHUNKS(n_features) * pace;
    for (ptrdiff_t i = 0; i < whole; i += LANES, ahead += each) {
        const double *some[VECTOR_BYTES / 8];
        for (ptrdiff_t j = 0; j < LANES; j++) some[j] = rows + (i + j < n ? i + j : n - 1) * n_features;
        diagonal_log_prob(products, arranged, some, centre, n_features, ahead, pace, out + i, stride);
    }
}

/* Adds sums over n rows of responsibilities of HEIGHT components times the features of a chunk, and times their squares. */
#define ADD_DIAGONAL(HEIGHT, unused) \
    do { \
        VECTOR part[TALLEST][2], middle = load_double(centre + d); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) part[r][0] = part[r][1] = (VECTOR){0}; \
        for (ptrdiff_t i = 0; i < n; i++) { \
            VECTOR x = load_double(rows + i * n_features + d) - middle, square = x * x; \
            __builtin_prefetch(next + i * pace, 0, 3); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                double share = resp[(first + r) * stride + i]; \
                part[r][0] += share * x; \
                part[r][1] += share * square; \
            } \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) \
                *(VECTOR *)(sums + ((first + r) * n_chunks + chunk) * WIDTH + c * LANES) += part[r][c]; \
    } while (0)

/* Adds sums over n rows (n, D) of responsibilities resp (K, n) to the counts (K,), and those of responsibilities times products
 * of the features to the sums that follow the counts. Prefetches `pace` bytes for each row, chunk and group of components,
 * starting at `ahead`. */
static OUTLINED void add_diagonal(
    const double *rows, const double *centre, ptrdiff_t n_features, const double *resp, ptrdiff_t k, ptrdiff_t n,
    ptrdiff_t stride, const char *ahead, ptrdiff_t pace, double *counts
) {
    ptrdiff_t n_chunks = CHUNKS(n_features), groups = (k + TALLEST - 1) / TALLEST;
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
        VECTOR count = {0};
        for (ptrdiff_t i = 0; i < n; i += LANES) count += load_double(resp + j * stride + i);
        for (ptrdiff_t i = 0; i < LANES; i++) counts[j] += count[i];
    }
}
