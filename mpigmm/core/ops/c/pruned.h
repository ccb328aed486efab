/* Log-densities and moments that leave out negligible pairs of row and component. */

/* Indices of the entries of `relevant` (n,) that are not zero, into chosen; returns how many. */
static ptrdiff_t NAME(choose)(const INDEX *relevant, ptrdiff_t n, int32_t *chosen) {
    ptrdiff_t count = 0;
    for (ptrdiff_t start = 0; start < n; start += LANES) {
        ptrdiff_t stop = start + LANES < n ? start + LANES : n;
        INDEX any = 0;
        for (ptrdiff_t i = start; i < stop; i++) any |= relevant[i];
        for (ptrdiff_t i = start; any && i < stop; i++) {
            chosen[count] = (int32_t)i;
            count += relevant[i] != 0;
        }
    }
    return count;
}

/* Replaces upper bounds of the log-densities of one component by log-densities, for the `count` rows of (n, D) whose indices
 * are `chosen`: subtracts half the squares of the whitened coordinates that the bounds leave out.
 *
 * rest (1 + D, stride): a line of offsets, then a line of coefficients for each feature; n_rest columns are used. Column j
 * is a whitened coordinate, which depends on the first D - n_rest + 1 + j features; its other coefficients are zero.
 * work: TALLEST * D numbers.
 */
#define COMPLETE(HEIGHT, VECTORS) \
    do { \
        VECTOR sums[TALLEST][2]; \
        NAME(block)(HEIGHT, VECTORS, work, n_features, 1, rest + stride + at, stride, used, NULL, sums); \
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
            ptrdiff_t used = n_features - n_rest + at + WIDTH < n_features ? n_features - n_rest + at + WIDTH : n_features;
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

/* Ops.pruned_distances: returns 0 where more than `most` pairs are not negligible. work: n + TALLEST * D numbers; chosen:
 * n + K + 1; best: 2 n. */
int NAME(pruned_distances)(
    const REAL *rows, ptrdiff_t n_rows, ptrdiff_t n_features, const REAL *rest, ptrdiff_t n_rest, ptrdiff_t stride,
    ptrdiff_t n_components, REAL highest, REAL nats, ptrdiff_t most, REAL *out, REAL *work, INDEX *best, int32_t *chosen
) {
    REAL *restrict threshold = work, *copied = work + n_rows;
    INDEX *restrict relevant = best + n_rows;
    int32_t *ends = chosen + n_rows;
    ptrdiff_t size = (1 + n_features) * stride;
    for (ptrdiff_t i = 0; i < n_rows; i++) {
        best[i] = 0;
        threshold[i] = out[i];
    }
    for (ptrdiff_t k = 1; k < n_components; k++) {
        const REAL *restrict line = out + k * n_rows;
        for (ptrdiff_t i = 0; i < n_rows; i++) {
            best[i] = line[i] > threshold[i] ? (INDEX)k : best[i];
            threshold[i] = line[i] > threshold[i] ? line[i] : threshold[i];
        }
    }
    memset(ends, 0, (n_components + 1) * sizeof *ends);
    for (ptrdiff_t i = 0; i < n_rows; i++) ends[best[i] + 1]++;
    for (ptrdiff_t k = 0; k < n_components; k++) ends[k + 1] += ends[k];
    for (ptrdiff_t i = 0; i < n_rows; i++) chosen[ends[best[i]]++] = (int32_t)i;
    for (ptrdiff_t k = 0, start = 0; k < n_components; start = ends[k++])
        NAME(complete)(
            rows, n_features, chosen + start, ends[k] - start, rest + k * size, n_rest, stride, copied, out + k * n_rows);
    for (ptrdiff_t i = 0; i < n_rows; i++) {
        REAL value = out[best[i] * n_rows + i];
        threshold[i] = value == -(REAL)INFINITY ? value : (REAL)(value - logarithm(highest + 1 - value) - nats);
    }
    ptrdiff_t pairs = 0;
    for (ptrdiff_t k = 0; k < n_components; k++) {
        const REAL *restrict line = out + k * n_rows;
        INDEX count = 0;
        for (ptrdiff_t i = 0; i < n_rows; i++) count += line[i] >= threshold[i];
        pairs += count;
    }
    if (pairs > most) return 0;
    for (ptrdiff_t k = 0; k < n_components; k++) {
        REAL *restrict line = out + k * n_rows;
        for (ptrdiff_t i = 0; i < n_rows; i++) {
            INDEX above = line[i] >= threshold[i], own = best[i] == (INDEX)k;
            relevant[i] = above & ~own;
            line[i] = above | own ? line[i] : -(REAL)INFINITY;
        }
        ptrdiff_t count = NAME(choose)(relevant, n_rows, chosen);
        NAME(complete)(rows, n_features, chosen, count, rest + k * size, n_rest, stride, copied, line);
    }
    return 1;
}

/* Adds a block of products of scaled features, summed over `count` rows, to the lines of scatter: HEIGHT lines from feature
 * `first` on, a multiple of LINES, and VECTORS vectors of features from vector `at` on. Of the last vector, the first HALVED
 * lines need the lower half only. */
#define ADD_SQUARES(HEIGHT, VECTORS, HALVED) \
    do { \
        const REAL *lines = scaled + first / LANES * panel + first % LANES, *columns = scaled + at * panel; \
        VECTOR sums[LINES][COLUMNS]; \
        HALF halves[LINES]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) halves[r] = (HALF){0}; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < VECTORS; c++) sums[r][c] = (VECTOR){0}; \
        for (ptrdiff_t i = 0; i < count; i++, lines += LANES, columns += LANES) { \
            HALF half = *(const HALF *)(columns + (VECTORS - 1) * panel); \
            VECTOR column[COLUMNS]; \
            UNROLLED for (int c = 0; c < VECTORS; c++) column[c] = NAME(load)(columns + c * panel); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                REAL factor = lines[r / LANES * panel + r % LANES]; \
                UNROLLED for (int c = 0; c < VECTORS; c++) \
                    if (c < VECTORS - 1 || r >= HALVED) sums[r][c] += factor * column[c]; \
                if (r < HALVED) halves[r] += factor * half; \
            } \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) { \
            double *line = scatter + (first + r) * stride + at * LANES, *last = line + (VECTORS - 1) * LANES; \
            UNROLLED for (int c = 0; c < VECTORS; c++) \
                if (c < VECTORS - 1 || r >= HALVED) \
                    *(WIDE *)(line + c * LANES) += __builtin_convertvector(sums[r][c], WIDE); \
            if (r < HALVED) *(WIDE_HALF *)last += __builtin_convertvector(halves[r], WIDE_HALF); \
        } \
    } while (0)

/* The number of lines of a block on the diagonal that need only half a vector if its first feature is in the lower half of that
 * vector. Shorter vectors are not halved: their halves take as long. */
#define HALVED_LINES (VECTOR_BYTES < 64 ? 0 : LINES < LANES ? LINES : LINES / 2)

/* Adds the products of all pairs of features of scaled rows to the lower triangle of scatter (D, stride), whose numbers above
 * the diagonal become undefined. Panel number p of the scaled rows has LANES of their features, row by row, and begins at
 * p * panel. */
static void NAME(add_squares)(
    const REAL *scaled, ptrdiff_t count, ptrdiff_t n_features, ptrdiff_t panel, double *scatter, ptrdiff_t stride
) {
    for (ptrdiff_t first = 0; first < n_features; first += LINES) {
        ptrdiff_t last = first + LINES < n_features ? first + LINES : n_features, vectors = (last - 1) / LANES + 1;
        int is_low = HALVED_LINES && first % LANES < LANES / 2;
        for (ptrdiff_t at = 0; at < vectors; at += COLUMNS) {
            ptrdiff_t width = vectors - at;
            if (width > 3 || (width == 3 && !is_low))
                WITH_LINES(last - first, ADD_SQUARES, 3, 0)
            else if (width == 3)
                WITH_LINES(last - first, ADD_SQUARES, 3, HALVED_LINES)
            else if (width == 2 && is_low)
                WITH_LINES(last - first, ADD_SQUARES, 2, HALVED_LINES)
            else if (width == 2)
                WITH_LINES(last - first, ADD_SQUARES, 2, 0)
            else if (is_low)
                WITH_LINES(last - first, ADD_SQUARES, 1, HALVED_LINES)
            else
                WITH_LINES(last - first, ADD_SQUARES, 1, 0)
        }
    }
}

/* Copies features from `first` on, PANELS vectors of them, of `count` rows into panels, minus a mean and times the square roots
 * of the rows' responsibilities, and adds the features minus the mean times the responsibilities to first_moments. */
#define SCALE_ROWS(PANELS, unused) \
    do { \
        VECTOR sums[PANELS], middle[PANELS]; \
        UNROLLED for (int p = 0; p < PANELS; p++) sums[p] = (VECTOR){0}; \
        UNROLLED for (int p = 0; p < PANELS; p++) middle[p] = NAME(load)(mean + first + p * LANES); \
        for (ptrdiff_t i = 0; i < count; i++) { \
            const REAL *row = rows + chosen[i] * n_features + first; \
            UNROLLED for (int p = 0; p < PANELS; p++) { \
                VECTOR x = (NAME(load)(row + p * LANES) - middle[p]) * roots[i]; \
                *(VECTOR *)(scaled + first / LANES * panel + p * panel + i * LANES) = x; \
                sums[p] += roots[i] * x; \
            } \
        } \
        UNROLLED for (int p = 0; p < PANELS; p++) \
            *(WIDE *)(first_moments + first + p * LANES) += __builtin_convertvector(sums[p], WIDE); \
    } while (0)

/* The same for the last features, fewer than LANES. The panel is filled up with zeros. */
static void NAME(scale_rest)(
    const REAL *rows, ptrdiff_t n_rows, ptrdiff_t n_features, const int32_t *chosen, ptrdiff_t count, const REAL *mean,
    const REAL *roots, REAL *scaled, double *first_moments
) {
    ptrdiff_t rest = n_features % LANES, first = n_features - rest;
    REAL copied[2 * VECTOR_BYTES / REAL_BYTES] = {0};
    INDICES used = {0};
    VECTOR sum = {0}, middle = {0};
    for (ptrdiff_t j = 0; j < rest; j++) {
        used[j] = -1;
        middle[j] = mean[first + j];
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        const REAL *row = rows + chosen[i] * n_features + first;
        if ((n_rows - chosen[i]) * n_features < first + LANES) row = memcpy(copied, row, rest * sizeof *row);
        VECTOR x = ((VECTOR)((INDICES)NAME(load)(row) & used) - middle) * roots[i];
        *(VECTOR *)(scaled + i * LANES) = x;
        sum += roots[i] * x;
    }
    *(WIDE *)(first_moments + first) += __builtin_convertvector(sum, WIDE);
}

/* Copies the rows (n, D) with `count` indices, minus a mean and times the square roots of their responsibilities, into panels,
 * and adds the rows minus the mean times their responsibilities to first_moments, whose size is a multiple of LANES. */
static void NAME(scale_rows)(
    const REAL *rows, ptrdiff_t n_rows, ptrdiff_t n_features, const int32_t *chosen, ptrdiff_t count, const REAL *resp,
    const REAL *mean, REAL *roots, REAL *scaled, ptrdiff_t panel, double *first_moments
) {
    ptrdiff_t whole = n_features / LANES;
    for (ptrdiff_t i = 0; i < count; i++) roots[i] = resp[chosen[i]];
    for (ptrdiff_t i = 0; i < count; i++) roots[i] = (REAL)sqrt(roots[i]);
    for (ptrdiff_t p = 0; p < whole; p += LINES) {
        ptrdiff_t first = p * LANES;
        WITH_LINES(whole - p < LINES ? whole - p : LINES, SCALE_ROWS, 0)
    }
    if (whole * LANES < n_features)
        NAME(scale_rest)(rows, n_rows, n_features, chosen, count, mean, roots, scaled + whole * panel, first_moments);
}

/* Ops.pruned_moments, `at_once` rows of a component at a time. panel >= at_once * LANES; scaled: a panel for each LANES
 * features, and roots: at_once numbers; scatter: (D + 1) * stride numbers, where stride >= D is a multiple of LANES. */
void NAME(pruned_moments)(
    const REAL *rows, ptrdiff_t n_rows, ptrdiff_t n_features, const REAL *resp, const REAL *means, ptrdiff_t n_components,
    const REAL *least, REAL *scaled, ptrdiff_t panel, REAL *roots, ptrdiff_t at_once, double *scatter, ptrdiff_t stride,
    INDEX *restrict relevant, int32_t *chosen, double *first_moments, double *second_moments
) {
    double *sums = scatter + n_features * stride;
    for (ptrdiff_t k = 0; k < n_components; k++, resp += n_rows, means += n_features, first_moments += n_features) {
        for (ptrdiff_t i = 0; i < n_rows; i++) relevant[i] = resp[i] > least[k];
        ptrdiff_t count = NAME(choose)(relevant, n_rows, chosen);
        memset(scatter, 0, (n_features + 1) * stride * sizeof *scatter);
        for (ptrdiff_t start = 0; start < count; start += at_once) {
            ptrdiff_t n = count - start < at_once ? count - start : at_once;
            NAME(scale_rows)(rows, n_rows, n_features, chosen + start, n, resp, means, roots, scaled, panel, sums);
            NAME(add_squares)(scaled, n, n_features, panel, scatter, stride);
        }
        memcpy(first_moments, sums, n_features * sizeof *sums);
        for (ptrdiff_t d = 0; d < n_features; second_moments += ++d)
            memcpy(second_moments, scatter + d * stride, (d + 1) * sizeof *second_moments);
    }
}
