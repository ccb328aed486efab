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
 * `first` on, a multiple of LINES, and VECTORS vectors of features from vector `at` on. */
#define ADD_SQUARES(HEIGHT, VECTORS) \
    do { \
        const REAL *lines = scaled + first / LANES * panel + first % LANES, *columns = scaled + at * panel; \
        VECTOR sums[LINES][COLUMNS]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < VECTORS; c++) sums[r][c] = (VECTOR){0}; \
        for (ptrdiff_t i = 0; i < count; i++, lines += LANES, columns += LANES) { \
            VECTOR column[COLUMNS]; \
            UNROLLED for (int c = 0; c < VECTORS; c++) column[c] = NAME(load)(columns + c * panel); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                REAL factor = lines[r / LANES * panel + r % LANES]; \
                UNROLLED for (int c = 0; c < VECTORS; c++) sums[r][c] += factor * column[c]; \
            } \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < VECTORS; c++) \
                *(WIDE *)(scatter + (first + r) * stride + (at + c) * LANES) += __builtin_convertvector(sums[r][c], WIDE); \
    } while (0)

/* Adds the products of all pairs of features of scaled rows to the lower triangle of scatter (D, stride), whose numbers above
 * the diagonal become undefined. Panel number p of the scaled rows has LANES of their features, row by row, and begins at
 * p * panel. */
static void NAME(add_squares)(
    const REAL *scaled, ptrdiff_t count, ptrdiff_t n_features, ptrdiff_t panel, double *scatter, ptrdiff_t stride
) {
    for (ptrdiff_t first = 0; first < n_features; first += LINES) {
        ptrdiff_t last = first + LINES < n_features ? first + LINES : n_features, vectors = (last - 1) / LANES + 1;
        for (ptrdiff_t at = 0; at < vectors; at += COLUMNS) {
            if (vectors - at >= 3)
                WITH_LINES(last - first, ADD_SQUARES, 3)
            else if (vectors - at == 2)
                WITH_LINES(last - first, ADD_SQUARES, 2)
            else
                WITH_LINES(last - first, ADD_SQUARES, 1)
        }
    }
}

/* Adds the features of scaled rows times their `roots`, summed over the rows, to first_moments, whose size is a multiple of
 * LANES. Four sums of each are independent, so that no addition waits for the last one. */
static void NAME(add_lines_of)(
    const REAL *scaled, const REAL *roots, ptrdiff_t count, ptrdiff_t n_features, ptrdiff_t panel, double *first_moments
) {
    for (ptrdiff_t d = 0; d < n_features; d += LANES, scaled += panel) {
        VECTOR sums[4] = {{0}, {0}, {0}, {0}};
        ptrdiff_t i = 0;
        for (; i + 4 <= count; i += 4)
            UNROLLED for (int c = 0; c < 4; c++) sums[c] += roots[i + c] * NAME(load)(scaled + (i + c) * LANES);
        for (; i < count; i++) sums[0] += roots[i] * NAME(load)(scaled + i * LANES);
        *(WIDE *)(first_moments + d) += __builtin_convertvector(sums[0] + sums[1] + sums[2] + sums[3], WIDE);
    }
}

/* Copies the rows (n, D) with `count` indices, minus a mean and times the square roots of their responsibilities, into panels.
 * The last panel is filled up with zeros. */
static void NAME(scale_rows)(
    const REAL *rows, ptrdiff_t n_features, const int32_t *chosen, ptrdiff_t count, const REAL *resp, const REAL *mean,
    REAL *roots, REAL *scaled, ptrdiff_t panel
) {
    ptrdiff_t whole = n_features / LANES, rest = n_features % LANES;
    for (ptrdiff_t i = 0; i < count; i++, scaled += LANES) {
        const REAL *row = rows + chosen[i] * n_features;
        REAL root = roots[i] = (REAL)sqrt(resp[chosen[i]]);
        for (ptrdiff_t p = 0; p < whole; p++)
            *(VECTOR *)(scaled + p * panel) = (NAME(load)(row + p * LANES) - NAME(load)(mean + p * LANES)) * root;
        for (ptrdiff_t j = 0; rest && j < LANES; j++)
            scaled[whole * panel + j] = j < rest ? (row[whole * LANES + j] - mean[whole * LANES + j]) * root : 0;
    }
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
            NAME(scale_rows)(rows, n_features, chosen + start, n, resp, means, roots, scaled, panel);
            NAME(add_lines_of)(scaled, roots, n, n_features, panel, sums);
            NAME(add_squares)(scaled, n, n_features, panel, scatter, stride);
        }
        memcpy(first_moments, sums, n_features * sizeof *sums);
        for (ptrdiff_t d = 0; d < n_features; second_moments += ++d)
            memcpy(second_moments, scatter + d * stride, (d + 1) * sizeof *second_moments);
    }
}
