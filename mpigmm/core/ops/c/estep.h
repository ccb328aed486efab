/* The E-step of a tile. */

/* Replaces log-densities (K, n) of n <= LANES rows by densities relative to the largest one of each row, or by zero below
 * exp(least). Writes LANES numbers each: the largest log-density, the sum of the densities, and NaN if one of them is NaN. */
INLINE void NAME(relative_densities)(
    REAL *log_prob, ptrdiff_t n_components, const ptrdiff_t n, ptrdiff_t stride, REAL least, REAL *largest, REAL *sums,
    REAL *marks
) {
    VECTOR highest = (VECTOR){0} + (sizeof(REAL) == 8 ? (REAL)-DBL_MAX : (REAL)-FLT_MAX), sum = {0}, mark = {0};
    for (ptrdiff_t k = 0; k < n_components; k++)
        highest = NAME(larger)(NAME(load_some)(log_prob + k * stride, n), highest);
    for (ptrdiff_t k = 0; k < n_components; k++) {
        VECTOR below = NAME(load_some)(log_prob + k * stride, n) - highest;
        VECTOR density = (VECTOR)((INDICES)NAME(exponential)(below) & (INDICES)(below > least));
        NAME(store_some)(log_prob + k * stride, density, n);
        sum += density;
        mark += below;
    }
    NAME(store_some)(largest, highest, LANES);
    NAME(store_some)(sums, sum, LANES);
    NAME(store_some)(marks, mark, LANES);
}

/* NAME(log_sum_exp) for up to LOG_SUM_EXP_ROWS rows. If all components have the log-density -inf for a row, its
 * responsibilities are 0 and its log-density is -inf; if one of them has NaN, all of these are NaN. */
static void NAME(log_sum_exp_some)(
    REAL *log_prob, ptrdiff_t n_components, ptrdiff_t n, ptrdiff_t stride, REAL *restrict log_density, REAL least
) {
    REAL largest[LOG_SUM_EXP_ROWS], sums[LOG_SUM_EXP_ROWS], marks[LOG_SUM_EXP_ROWS];
    ptrdiff_t whole = n / LANES * LANES;
    for (ptrdiff_t i = 0; i < whole; i += LANES)
        NAME(relative_densities)(log_prob + i, n_components, LANES, stride, least, largest + i, sums + i, marks + i);
    if (whole < n)
        NAME(relative_densities)(
            log_prob + whole, n_components, n - whole, stride, least, largest + whole, sums + whole, marks + whole);
    for (ptrdiff_t i = 0; i < n; i++) {
        REAL sum = marks[i] == marks[i] ? sums[i] : marks[i];
        log_density[i] = sum == 0 ? -(REAL)INFINITY : (REAL)(largest[i] + logarithm(sum));
        sums[i] = sum == 0 ? 0 : 1 / sum;
    }
    for (ptrdiff_t k = 0; k < n_components; k++) {
        REAL *restrict line = log_prob + k * stride;
        for (ptrdiff_t i = 0; i < n; i++) line[i] *= sums[i];
    }
}

/* Replaces weighted log-densities log_prob (K, n) by responsibilities; the rows' log-densities go into log_density (n,).
 * Responsibilities below exp(least) before division by their sum are zero. */
void NAME(log_sum_exp)(REAL *log_prob, ptrdiff_t n_components, ptrdiff_t n, ptrdiff_t stride, REAL *log_density, REAL least) {
    for (ptrdiff_t start = 0; start < n; start += LOG_SUM_EXP_ROWS) {
        ptrdiff_t some = n - start < LOG_SUM_EXP_ROWS ? n - start : LOG_SUM_EXP_ROWS;
        NAME(log_sum_exp_some)(log_prob + start, n_components, some, stride, log_density + start, least);
    }
}

/* Products of the features of rows (D, stride) into out: of all pairs, of each feature with itself, or the squared norms of
 * the whitened rows. */
static void NAME(append)(
    int kind, const REAL *rows, const REAL *whitened, REAL *out, ptrdiff_t n_features, ptrdiff_t n, ptrdiff_t stride
) {
    if (kind == SQUARED_NORM) {
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

/* Multiplies a line of n numbers by sample_weight (n,), unless it is null; numbers from n to whole - 1 become zero. */
static void NAME(weigh)(REAL *restrict line, const REAL *restrict sample_weight, ptrdiff_t n, ptrdiff_t whole) {
    for (ptrdiff_t i = 0; sample_weight && i < n; i++) line[i] *= sample_weight[i];
    for (ptrdiff_t i = n; i < whole; i++) line[i] = 0;
}

/* The sum of `height` lines of n numbers, into out (n,), which is returned. */
static const REAL *NAME(add_lines)(const REAL *lines, REAL *restrict out, ptrdiff_t height, ptrdiff_t n, ptrdiff_t stride) {
    memset(out, 0, n * sizeof *out);
    for (ptrdiff_t r = 0; r < height; r++)
        for (ptrdiff_t i = 0; i < n; i++) out[i] += lines[r * stride + i];
    return out;
}

/* `sweep` for components with a variance for each feature, without a group by differences.
 * work: the coefficients, a line of zeros and (step + WIDTH) (1 + K) numbers, and the rows if they are copied;
 * blocks: counts (K,) and vectors of sums. */
static double NAME(diagonal_sweep)(
    const struct rows *tile, const struct products *products, const struct differences *moments, REAL least,
    ptrdiff_t step, REAL *work, double *wide, double *blocks, int32_t *chosen
) {
    const int is_copied = REAL_BYTES == 4 || tile->kind != RAW_f8;
    ptrdiff_t d = tile->n_features, k = products->n_components, n_chunks = CHUNKS(d), size = k * n_chunks * WIDTH;
    ptrdiff_t width = is_copied ? n_chunks * LANES : d;
    REAL *arranged = work, *zeros = arranged + size, *log_density = zeros + n_chunks * LANES;
    const REAL *sample_weight = tile->sample_weight;
    WIDE log_likelihood = {0};
    NAME(arrange_coefficients)(products->coefficients, k, d, width, arranged);
    memset(zeros, 0, n_chunks * LANES * sizeof *zeros);
    memset(blocks, 0, (k + size) * sizeof *blocks);
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH; /* addresses a power of two apart compete for the same lines of the cache */
        REAL *resp = log_density + stride, *copied = resp + k * stride;
        const char *raw = tile->raw + start * tile->row_bytes, *ahead = raw + n * tile->row_bytes;
        const REAL *own_weight = sample_weight ? sample_weight + start : NULL;
        const REAL *rows = is_copied ? copied : (const void *)raw, *centre = is_copied ? zeros : (const void *)tile->centre;
        if (is_copied) NAME(copy_rows)(raw, tile->kind, n, d, tile->centre, copied, width);
        ptrdiff_t fetch = n * tile->row_bytes, groups = (k + MOST_DIAGONAL - 1) / MOST_DIAGONAL;
        ptrdiff_t steps = groups * n_chunks * (whole / MOST_ROWS), pace = NAME(pace_of)(fetch / 2, steps);
        NAME(diagonal_log_probs)(products, arranged, rows, centre, width, n, whole, ahead, pace, resp, stride);
        ahead += pace * steps;
        pace = NAME(pace_of)(fetch - pace * steps, (k + TALLEST - 1) / TALLEST * n_chunks * n);
        NAME(log_sum_exp)(resp, k, whole, stride, log_density, least);
        NAME(weigh)(log_density, own_weight, n, whole);
        for (ptrdiff_t j = 0; j < k; j++) NAME(weigh)(resp + j * stride, own_weight, n, whole);
        for (ptrdiff_t i = 0; i < whole; i += LANES)
            log_likelihood += __builtin_convertvector(NAME(load)(log_density + i), WIDE);
        int is_added = 0;
#if REAL_BYTES == 8
        is_added = add_if_few(moments, tile, start, resp, whole, stride, wide, chosen);
#else
        (void)moments, (void)wide, (void)chosen;
#endif
        if (!is_added) NAME(add_diagonal)(rows, centre, width, resp, k, n, stride, ahead, pace, blocks);
    }
    NAME(unpack_diagonal)(blocks, k, d, width, products->sums);
    double total = 0;
    for (ptrdiff_t i = 0; i < LANES; i++) total += log_likelihood[i];
    return total;
}

/* The whole E-step of a tile, `step` rows at a time, a multiple of WIDTH. The components of `products` are computed by
 * products of the features, those of `group` by differences from their means. Returns the log-likelihood, overwrites the
 * sums of `products` and adds to those of `group`.
 *
 * `moments` describes the components of `products` again, by differences, or has no components. If the responsibilities of
 * most pairs are negligible among `step` rows, the sums of these rows are added to `moments` instead of `products`.
 *
 * work: (step + WIDTH) (1 + L + K + D) + K (L + 2 WIDTH) numbers; wide: `difference_work_size`; blocks: `sums_size` of the
 * sums, or K (L + 2 WIDTH) if that is more, then `sums_size` of the scatter.
 */
double NAME(sweep)(
    const struct rows *tile, const struct products *products, const struct differences *moments,
    const struct differences *group, REAL least, ptrdiff_t step, REAL *work, double *wide, double *blocks, int32_t *chosen
) {
    if (!group->n_components && NAME(is_diagonal)(products, tile->n_features))
        return NAME(diagonal_sweep)(tile, products, moments, least, step, work, wide, blocks, chosen);
    WIDE log_likelihood = {0};
    ptrdiff_t d = tile->n_features, n_products = products->n_components, n_lines = products->n_lines;
    ptrdiff_t n_components = n_products + group->n_components;
    const REAL *whiten = products->whiten, *sample_weight = tile->sample_weight;
    double *scatter = products->scatter, *scatter_blocks = blocks + NAME(sums_size)(n_lines, n_products);
    memset(blocks, 0, NAME(sums_size)(n_lines, n_products) * sizeof *blocks);
    if (scatter) memset(scatter_blocks, 0, NAME(sums_size)(d, d) * sizeof *blocks);
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH; /* addresses a power of two apart compete for the same lines of the cache */
        REAL *log_density = work, *phi = log_density + stride, *rows = phi + stride, *resp = phi + n_lines * stride;
        REAL *whitened = resp + n_components * stride, *others = resp + n_products * stride;
        const REAL *own_weight = sample_weight ? sample_weight + start : NULL;
        const char *ahead = tile->raw + (start + n) * tile->row_bytes;
        double *wide_resp = wide + (1 + 2 * d) * stride, *squares = wide_resp + group->n_components * stride;
        double *wide_work = squares + group->n_components * stride;
        if (n_products) {
            for (ptrdiff_t i = 0; i < stride; i++) phi[i] = 1;
            NAME(center_transpose)(tile->raw + start * tile->row_bytes, tile->kind, n, d, d, tile->centre, rows, stride);
            if (whiten) NAME(multiply)(whiten, rows, whitened, d, d, whole, stride, 1, NULL, 0);
            NAME(append)(products->kind, rows, whiten ? whitened : rows, rows + d * stride, d, whole, stride);
            NAME(multiply)(products->coefficients, phi, resp, n_products, n_lines, whole, stride, 0, ahead, tile->row_bytes);
        }
        double *lines = wide;
        const double *ready = NULL;
#if REAL_BYTES == 8
        if (n_products && (whiten || !group->whiten)) { /* the rows that the group needs have been computed */
            lines = phi;
            ready = group->whiten ? whitened : rows;
        }
#endif
        if (group->n_components) {
            log_prob_by_differences(
                group, tile, start, n, ready, lines, whole, stride, squares, wide_resp, wide_work);
            for (ptrdiff_t i = 0; i < group->n_components * stride; i++) others[i] = (REAL)wide_resp[i];
        }
        NAME(log_sum_exp)(resp, n_components, whole, stride, log_density, least);
        NAME(weigh)(log_density, own_weight, n, whole);
        for (ptrdiff_t k = 0; k < n_components; k++) NAME(weigh)(resp + k * stride, own_weight, n, whole);
        for (ptrdiff_t i = 0; i < whole; i += LANES)
            log_likelihood += __builtin_convertvector(NAME(load)(log_density + i), WIDE);
        int is_added = 0;
#if REAL_BYTES == 8
        is_added = add_if_few(moments, tile, start, resp, whole, stride, wide_work, chosen);
#else
        (void)moments;
#endif
        if (n_products && !is_added) NAME(add_product)(phi, resp, blocks, n_lines, n_products, whole, stride, 0);
        if (scatter && n_products) {
            const REAL *shares = own_weight;
            if (group->n_components) shares = NAME(add_lines)(resp, log_density, n_products, whole, stride);
            memcpy(whitened, rows, d * stride * sizeof *rows);
            for (ptrdiff_t j = 0; j < d; j++) NAME(weigh)(whitened + j * stride, shares, n, whole);
            NAME(add_product)(whitened, rows, scatter_blocks, d, d, whole, stride, 1);
        }
        if (group->n_components) {
            for (ptrdiff_t i = 0; i < group->n_components * stride; i++) wide_resp[i] = others[i];
            add_moments(
                group, tile, start, lines, wide_resp, squares, whole, stride, wide_work, chosen);
        }
    }
    if (n_products) NAME(unpack)(blocks, products->sums, n_lines, n_products);
    if (scatter) NAME(unpack)(scatter_blocks, scatter, d, d);
    for (ptrdiff_t i = 0; scatter && i < d; i++)
        for (ptrdiff_t j = 0; j < i; j++) scatter[i * d + j] = scatter[j * d + i];
    double total = 0;
    for (ptrdiff_t i = 0; i < LANES; i++) total += log_likelihood[i];
    return total;
}

/* Weighted log-densities (K, n) of a tile's rows for the components of `products`, `step` rows at a time, a multiple of WIDTH.
 * work: (step + WIDTH) (L + K + D) numbers. */
void NAME(product_log_prob)(const struct rows *tile, const struct products *products, ptrdiff_t step, REAL *work, REAL *out) {
    ptrdiff_t d = tile->n_features, n_components = products->n_components, n_lines = products->n_lines;
    const REAL *whiten = products->whiten;
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH;
        REAL *phi = work, *rows = phi + stride, *log_prob = phi + n_lines * stride;
        REAL *whitened = log_prob + n_components * stride;
        const char *raw = tile->raw + start * tile->row_bytes, *ahead = raw + n * tile->row_bytes;
        for (ptrdiff_t i = 0; i < stride; i++) phi[i] = 1;
        NAME(center_transpose)(raw, tile->kind, n, d, d, tile->centre, rows, stride);
        if (whiten) NAME(multiply)(whiten, rows, whitened, d, d, whole, stride, 1, NULL, 0);
        NAME(append)(products->kind, rows, whiten ? whitened : rows, rows + d * stride, d, whole, stride);
        NAME(multiply)(
            products->coefficients, phi, log_prob, n_components, n_lines, whole, stride, 0, ahead, tile->row_bytes);
        for (ptrdiff_t k = 0; k < n_components; k++)
            memcpy(out + k * tile->n_rows + start, log_prob + k * stride, n * sizeof *out);
    }
}

/* Weighted log-densities (K, n) of a tile's rows for the group's components, `step` rows at a time. */
void NAME(difference_log_prob)(
    const struct rows *tile, const struct differences *group, ptrdiff_t step, double *wide, REAL *out
) {
    ptrdiff_t d = tile->n_features;
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH;
        double *log_prob = wide + (1 + 2 * d) * stride;
        double *squares = log_prob + group->n_components * stride, *wide_work = squares + group->n_components * stride;
        log_prob_by_differences(group, tile, start, n, NULL, wide, whole, stride, squares, log_prob, wide_work);
        for (ptrdiff_t k = 0; k < group->n_components; k++)
            for (ptrdiff_t i = 0; i < n; i++) out[k * tile->n_rows + start + i] = (REAL)log_prob[k * stride + i];
    }
}

/* Adds the moments of a tile's rows, weighted with responsibilities (K, n), to the group's sums, `step` rows at a time. */
void NAME(difference_moments)(
    const struct rows *tile, const struct differences *group, ptrdiff_t step, double *wide, int32_t *chosen, const REAL *resp
) {
    ptrdiff_t d = tile->n_features;
    for (ptrdiff_t start = 0; start < tile->n_rows; start += step) {
        ptrdiff_t n = tile->n_rows - start < step ? tile->n_rows - start : step, whole = (n + WIDTH - 1) / WIDTH * WIDTH;
        ptrdiff_t stride = whole + WIDTH;
        double *wide_resp = wide + (1 + 2 * d) * stride, *squares = wide_resp + group->n_components * stride;
        const double *of = widen(tile, start, n, group, whole, wide, stride);
        const char *ahead = tile->raw + (start + n) * tile->row_bytes;
        double *wide_work = squares + group->n_components * stride;
        if (group->second_moments == ALL_FEATURES)
            subtract_means(group, of, d, whole, stride, ahead, tile->row_bytes, squares, wide_resp, wide_work);
        for (ptrdiff_t k = 0; k < group->n_components; k++)
            for (ptrdiff_t i = 0; i < whole; i++)
                wide_resp[k * stride + i] = i < n ? (double)resp[k * tile->n_rows + start + i] : 0;
        add_moments(group, tile, start, wide, wide_resp, squares, whole, stride, wide_work, chosen);
    }
}
