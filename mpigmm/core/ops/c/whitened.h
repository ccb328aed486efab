/* Log-densities by whitened coordinates.
 *
 * Whitened coordinate j of a component is an offset plus the sum over d <= j of a coefficient times feature d. The
 * coefficients of a component are packed group by group in the order in which they are used. A group is up to TALLEST
 * coordinates, from `first` to `last` - 1: their offsets, then for each feature d < first the coefficients of all of them, then
 * for each feature d from `first` on those of the coordinates from d on.
 */

/* Adds the squares of the coordinates of one group, for two vectors of rows, to `squares`. */
#define ADD_NORMS(HEIGHT, unused) \
    do { \
        VECTOR sums[TALLEST][2]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) sums[r][0] = sums[r][1] = (VECTOR){0} + packed[r]; \
        packed += HEIGHT; \
        for (ptrdiff_t d = 0; d < first; d++, packed += HEIGHT) { \
            VECTOR x = NAME(load)(panel + d * WIDTH), y = NAME(load)(panel + d * WIDTH + LANES); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                REAL coefficient = packed[r]; \
                sums[r][0] += coefficient * x; \
                sums[r][1] += coefficient * y; \
            } \
        } \
        UNROLLED for (int d = 0; d < HEIGHT; d++) { \
            VECTOR x = NAME(load)(panel + (first + d) * WIDTH), y = NAME(load)(panel + (first + d) * WIDTH + LANES); \
            UNROLLED for (int r = d; r < HEIGHT; r++) { \
                REAL coefficient = packed[r - d]; \
                sums[r][0] += coefficient * x; \
                sums[r][1] += coefficient * y; \
            } \
            packed += HEIGHT - d; \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) squares[c] += sums[r][c] * sums[r][c]; \
    } while (0)

/* log_norm minus half the squared norms of the whitened coordinates, for the WIDTH rows of a panel (n_features, WIDTH), into
 * out (WIDTH,). */
static OUTLINED void NAME(whitened_panel)(
    const REAL *panel, ptrdiff_t n_features, const REAL *packed, REAL log_norm, REAL *out
) {
    ptrdiff_t groups = (n_features + TALLEST - 1) / TALLEST;
    VECTOR squares[2] = {{0}, {0}};
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * n_features / groups, last = (group + 1) * n_features / groups;
        WITH_HEIGHT(last - first, ADD_NORMS, 0)
    }
    UNROLLED for (int c = 0; c < 2; c++) *(VECTOR *)(out + c * LANES) = log_norm - squares[c] / 2;
}

/* Ops.whitened_log_prob: log-densities (K, n) of a tile's rows by their first n_used features. `packed` has `size` numbers for
 * each component. `step` rows, a multiple of WIDTH, are transposed at a time. work: step * n_used numbers. */
void NAME(whitened_log_prob)(
    const struct rows *tile, ptrdiff_t n_used, const REAL *packed, ptrdiff_t size, const REAL *log_norm,
    ptrdiff_t n_components, ptrdiff_t step, REAL *work, REAL *out
) {
    REAL last[2 * VECTOR_BYTES / REAL_BYTES];
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step;
        for (ptrdiff_t at = 0; at < n; at += WIDTH)
            NAME(center_transpose)(
                tile->raw + (start + at) * tile->row_bytes, tile->kind, n - at < WIDTH ? n - at : WIDTH, tile->n_features,
                n_used, tile->centre, work + at * n_used, WIDTH);
        for (ptrdiff_t k = 0; k < n_components; k++) {
            REAL *line = out + k * tile->n_rows + start;
            for (ptrdiff_t at = 0; at < n; at += WIDTH) {
                int is_whole = n - at >= WIDTH;
                NAME(whitened_panel)(
                    work + at * n_used, n_used, packed + k * size, log_norm[k], is_whole ? line + at : last);
                if (!is_whole) memcpy(line + at, last, (n - at) * sizeof *last);
            }
        }
    }
}
