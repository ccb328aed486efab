/* Log-densities and moments of a group of components by differences of rows and means, in double: accurate for all rows.
 *
 * A matrix has a line for each feature or component and a column for each row of the tile; lines are `stride` apart. The
 * number n of columns is a multiple of WIDTH. Columns beyond the rows of the tile have responsibility zero.
 */

/* How squared distances are computed. SCALED: each feature has a precision, and differences are scaled before they are
 * squared. SHARED: all features of a component share one precision, which scales the sum of squares. FACTORED: each
 * component has a triangular factor, and the squares are those of the whitened differences. */
enum { SCALED, SHARED, FACTORED };

/* Which second moments are summed: SecondMoments in groups.py. */
enum { EACH_FEATURE, ALL_FEATURES, PAIRS_OF_EACH, PAIRS_SUMMED };

struct differences {
    ptrdiff_t n_components;
    int form, second_moments;
    const double *means; /* (K, D): the means minus the centre */
    const double *subtracted; /* (K, D): the means, whitened if `whiten` is not null */
    const double *factors; /* SCALED: square roots of precisions (K, D); SHARED: precisions (K,);
                            * FACTORED: lower triangular matrices (K, D, D) */
    const double *whiten; /* SHARED: (D, D), lower triangular, or null */
    const double *log_norm; /* (K,) */
    const double *least; /* (K,): moments leave out rows whose responsibility is at most this */
    double *counts, *first, *second; /* sums (K,), (K, D), and (K, D), (K,) or (K or 1, D (D + 1) / 2) */
};

/* Row i of a tile, minus the centre and a mean, into out. */
#define SUBTRACT_ROW(RAW) \
    do { \
        const RAW *restrict raw = (const RAW *)row; \
        for (ptrdiff_t d = 0; d < n_features; d++) out[d] = ((double)raw[d] - centre[d]) - mean[d]; \
    } while (0)

static void subtract_row(
    const struct rows *tile, ptrdiff_t i, const double *restrict mean, double *restrict out
) {
    ptrdiff_t n_features = tile->n_features;
    const double *restrict centre = tile->centre;
    const char *row = tile->raw + i * tile->row_bytes;
    WITH_RAW(tile->kind, SUBTRACT_ROW)
}

/* Numbers of components and of features whose moments are summed in registers at the same time. */
enum { MOST_MEANS = VECTOR_BYTES == 64 ? 4 : 2, MOST_FEATURES = VECTOR_BYTES == 64 ? 3 : 2 };

/* Size of the work space of `add_moments`, in numbers. */
static ptrdiff_t moments_work_size(const struct differences *group, ptrdiff_t n_features, ptrdiff_t stride) {
    ptrdiff_t k = group->n_components, width = 1 + n_features, height = k > width ? k : width;
    return 2 * width * stride + sums_size_double(width, height) + height * width;
}

/* Size, in numbers, of the array `wide` of `sweep`, `difference_log_prob` and `difference_moments` for a group, with lines
 * `stride` apart: a line of ones, the rows, their whitened coordinates, responsibilities, sums of squares, and the work
 * space of `add_moments`. */
ptrdiff_t difference_work_size(const struct differences *group, ptrdiff_t n_features, ptrdiff_t stride) {
    return (1 + 2 * n_features + 2 * group->n_components) * stride + moments_work_size(group, n_features, stride);
}

/* Fills phi, in double, with a line of ones, the features minus the centre and, if the group whitens rows,
 * their whitened coordinates. Returns the lines from which distances are computed: the whitened ones if there are any. */
static const double *widen(
    const struct rows *tile, ptrdiff_t start, ptrdiff_t count, const struct differences *group, ptrdiff_t n,
    double *phi, ptrdiff_t stride
) {
    ptrdiff_t d = tile->n_features;
    double *rows = phi + stride, *whitened = rows + d * stride;
    for (ptrdiff_t i = 0; i < stride; i++) phi[i] = 1;
    center_transpose_double(tile->raw + start * tile->row_bytes, tile->kind, count, d, d, tile->centre, rows, stride);
    if (!group->whiten) return rows;
    multiply_double(group->whiten, rows, whitened, d, d, n, stride, 1, NULL, 0);
    return whitened;
}

/* Stores log_norm minus half the squared distances for two vectors of rows and, unless `squares` is null, the sums of
 * squares. */
#define STORE_DISTANCES(HEIGHT) \
    UNROLLED for (int r = 0; r < HEIGHT; r++) \
        UNROLLED for (int c = 0; c < 2; c++) { \
            double precision = group->form == SHARED ? group->factors[first + r] : 1; \
            if (squares) *(VECTOR *)(squares + (first + r) * stride + at + c * LANES) = sums[r][c]; \
            *(VECTOR *)(out + (first + r) * stride + at + c * LANES) \
                = group->log_norm[first + r] - 0.5 * precision * sums[r][c]; \
        }

#define SUBTRACT_MEANS(HEIGHT, IS_SCALED) \
    do { \
        const double *mean = group->subtracted + first * n_features, *factor = group->factors + first * n_features; \
        VECTOR sums[TALLEST][2]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) sums[r][0] = sums[r][1] = (VECTOR){0}; \
        for (ptrdiff_t d = 0; d < n_features; d++) { \
            if (part == 0) { /* the share of one feature in the bytes of these rows */ \
                for (ptrdiff_t byte = 0; byte < fetch; byte += CACHE_LINE) \
                    __builtin_prefetch(next + d * fetch + byte, 0, 2); \
            } \
            VECTOR x = load_double(rows + d * stride + at), y = load_double(rows + d * stride + at + LANES); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                VECTOR one = x - mean[r * n_features + d], other = y - mean[r * n_features + d]; \
                if (IS_SCALED) one *= factor[r * n_features + d], other *= factor[r * n_features + d]; \
                sums[r][0] += one * one; \
                sums[r][1] += other * other; \
            } \
        } \
        STORE_DISTANCES(HEIGHT) \
    } while (0)

#define WHITEN_GROUP(HEIGHT, unused) \
    do { \
        VECTOR whitened[TALLEST][2]; \
        block_double(HEIGHT, 2, factor + low * n_features, n_features, 1, work, WIDTH, low + HEIGHT, NULL, whitened); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) sums[0][c] += whitened[r][c] * whitened[r][c]; \
    } while (0)

/* Computes log-densities (K, n) of the group's components into out and, unless it is null, sums of squares into `squares`.
 * `rows` is the result of `widen`. Prefetches the
 * next rows of the tile, `each` bytes for each row, starting at `ahead`. work: D * WIDTH numbers. */
static void subtract_means(
    const struct differences *group, const double *rows, ptrdiff_t n_features, ptrdiff_t n,
    ptrdiff_t stride, const char *ahead, ptrdiff_t each, double *squares, double *out, double *work
) {
    ptrdiff_t fetch = WIDTH * each / n_features;
    ptrdiff_t k = group->n_components, groups = (k + TALLEST - 1) / TALLEST;
    for (ptrdiff_t at = 0; at < n; at += WIDTH)
        for (ptrdiff_t part = 0; group->form != FACTORED && part < groups; part++) {
            ptrdiff_t first = part * k / groups, last = (part + 1) * k / groups;
            const char *next = ahead + at * each;
            if (group->form == SCALED)
                WITH_HEIGHT(last - first, SUBTRACT_MEANS, 1)
            else
                WITH_HEIGHT(last - first, SUBTRACT_MEANS, 0)
        }
    ptrdiff_t parts = (n_features + TALLEST - 1) / TALLEST;
    for (ptrdiff_t first = 0; group->form == FACTORED && first < k; first++)
        for (ptrdiff_t at = 0; at < n; at += WIDTH) {
            const double *factor = group->factors + first * n_features * n_features;
            const double *mean = group->subtracted + first * n_features;
            VECTOR sums[1][2] = {{{0}, {0}}};
            for (ptrdiff_t d = 0; d < n_features; d++)
                UNROLLED for (int c = 0; c < 2; c++)
                    *(VECTOR *)(work + d * WIDTH + c * LANES) = load_double(rows + d * stride + at + c * LANES) - mean[d];
            for (ptrdiff_t part = 0; part < parts; part++) {
                ptrdiff_t low = part * n_features / parts, high = (part + 1) * n_features / parts;
                WITH_HEIGHT(high - low, WHITEN_GROUP, 0)
            }
            STORE_DISTANCES(1)
        }
}

/* Computes log-densities (K, n) of the group's components, and sums of squares, for `count` rows of a tile from `start` on.
 * phi: memory that `widen` fills; `ready`: the result of `widen`, or null if it has to be called. */
static OUTLINED void log_prob_by_differences(
    const struct differences *group, const struct rows *tile, ptrdiff_t start, ptrdiff_t count, const double *ready,
    double *phi, ptrdiff_t n, ptrdiff_t stride, double *squares, double *out, double *work
) {
    ptrdiff_t each = tile->row_bytes;
    const double *rows = ready ? ready : widen(tile, start, count, group, n, phi, stride);
    subtract_means(group, rows, tile->n_features, n, stride, tile->raw + (start + count) * each, each, squares, out, work);
}

/* Adds sums over rows of responsibilities times differences, and times squared differences, for HEIGHT components and
 * MOST_FEATURES features. */
#define ADD_SQUARED(HEIGHT, unused) \
    do { \
        VECTOR sums[2][MOST_MEANS * MOST_FEATURES + VECTOR_BYTES / 8] = {{{0}}}; \
        for (ptrdiff_t i = 0; i < n; i += LANES) { \
            VECTOR own[HEIGHT]; \
            UNROLLED for (int r = 0; r < HEIGHT; r++) own[r] = load_double(resp + (first + r) * stride + i); \
            UNROLLED for (int c = 0; c < MOST_FEATURES; c++) { \
                VECTOR x = load_double(rows + (d + c < n_features ? d + c : d) * stride + i); \
                UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                    VECTOR z = x - mean[r][c], t = own[r] * z; \
                    sums[0][r * MOST_FEATURES + c] += t; \
                    sums[1][r * MOST_FEATURES + c] += t * z; \
                } \
            } \
        } \
        UNROLLED for (int moment = 0; moment < 2; moment++) \
            UNROLLED for (int start = 0; start < HEIGHT * MOST_FEATURES; start += LANES) { \
                VECTOR total = totals_double(sums[moment] + start); \
                for (int i = start; i < HEIGHT * MOST_FEATURES && i < start + LANES; i++) { \
                    int r = i / MOST_FEATURES, c = i % MOST_FEATURES; \
                    double *out = (moment ? group->second : group->first) + (first + r) * n_features; \
                    if (d + c < n_features) out[d + c] += total[i - start]; \
                } \
            } \
    } while (0)

static void add_squared(
    const struct differences *group, const double *rows, const double *resp, ptrdiff_t n_features, ptrdiff_t n, ptrdiff_t stride
) {
    ptrdiff_t k = group->n_components, groups = (k + MOST_MEANS - 1) / MOST_MEANS;
    for (ptrdiff_t d = 0; d < n_features; d += MOST_FEATURES)
        for (ptrdiff_t part = 0; part < groups; part++) {
            ptrdiff_t first = part * k / groups, last = (part + 1) * k / groups;
            VECTOR mean[MOST_MEANS][MOST_FEATURES] __attribute__((aligned(VECTOR_BYTES)));
            for (ptrdiff_t r = 0; r < last - first; r++)
                for (ptrdiff_t c = 0; c < MOST_FEATURES; c++)
                    mean[r][c] = (VECTOR){0} + (d + c < n_features ? group->means[(first + r) * n_features + d + c] : 0);
            WITH_FEW(last - first, ADD_SQUARED, 0)
        }
}

/* Adds the sums of responsibilities times differences to the first moments. They are computed as the sums of
 * responsibilities times rows, minus the counts times the means. The error that this causes in a new mean is about the
 * rounding error of the mean itself. */
static void add_differences(
    const struct differences *group, const double *rows, const double *resp, ptrdiff_t n_features, ptrdiff_t n,
    ptrdiff_t stride, double *blocks, double *sums
) {
    memset(blocks, 0, sums_size_double(n_features, group->n_components) * sizeof *blocks);
    add_product_double(rows, resp, blocks, n_features, group->n_components, n, stride, 0);
    unpack_double(blocks, sums, n_features, group->n_components);
    for (ptrdiff_t k = 0; k < group->n_components; k++, sums += n_features) {
        double count = 0;
        for (ptrdiff_t i = 0; i < n; i++) count += resp[k * stride + i];
        for (ptrdiff_t d = 0; d < n_features; d++)
            group->first[k * n_features + d] += sums[d] - count * group->means[k * n_features + d];
    }
}

/* Writes the indices of the responsibilities (n,) above `least` into chosen; returns their number. */
static ptrdiff_t choose_above(const double *resp, ptrdiff_t n, double least, int32_t *chosen) {
    ptrdiff_t count = 0;
    for (ptrdiff_t start = 0; start < n; start += LANES) {
        INDICES above = load_double(resp + start) > least;
        int64_t any = 0;
        for (ptrdiff_t i = 0; i < LANES; i++) any |= above[i];
        for (ptrdiff_t i = 0; any && i < LANES; i++) {
            chosen[count] = (int32_t)(start + i);
            count += above[i] != 0;
        }
    }
    return count;
}

/* Adds responsibilities times differences (HEIGHT, D), whose lines are `width` apart, to the first moments, and
 * responsibilities times squared differences to the second moments, of each feature or summed over features. */
#define ADD_CHOSEN(HEIGHT, unused) \
    do { \
        ptrdiff_t d = 0; \
        VECTOR all = {0}; \
        for (; d + LANES <= n_features; d += LANES) { \
            VECTOR sum = load_double(first + d), squares = second ? load_double(second + d) : all; \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                VECTOR z = load_double(work + r * width + d), t = own[r] * z; \
                sum += t; \
                squares += t * z; \
            } \
            *(VECTOR *)(first + d) = sum; \
            if (second) *(VECTOR *)(second + d) = squares; else all = squares; \
        } \
        for (ptrdiff_t i = 0; i < LANES; i++) *total += all[i]; \
        for (; d < n_features; d++) \
            for (int r = 0; r < HEIGHT; r++) { \
                double z = work[r * width + d], t = own[r] * z; \
                first[d] += t; \
                *(second ? second + d : total) += t * z; \
            } \
    } while (0)

/* Adds the moments of component k over the `count` rows of a tile whose indices, relative to `start`, are `chosen`. */
static void add_chosen(
    const struct differences *group, ptrdiff_t k, const struct rows *tile, ptrdiff_t start, const double *resp,
    const int32_t *chosen, ptrdiff_t count, double *work
) {
    ptrdiff_t n_features = tile->n_features, width = (n_features + LANES - 1) / LANES * LANES;
    double *first = group->first + k * n_features;
    double *second = group->second_moments == EACH_FEATURE ? group->second + k * n_features : NULL, nothing = 0;
    double *total = second ? &nothing : group->second + k;
    for (ptrdiff_t at = 0; at < count; at += MOST_MEANS) {
        ptrdiff_t some = count - at < MOST_MEANS ? count - at : MOST_MEANS;
        double own[MOST_MEANS];
        for (ptrdiff_t r = 0; r < some; r++) {
            subtract_row(tile, start + chosen[at + r], group->means + k * n_features, work + r * width);
            own[r] = resp[chosen[at + r]];
        }
        WITH_FEW(some, ADD_CHOSEN, 0)
    }
}

/* Adds the moments of component k over the `count` rows with indices `chosen`, if second moments are those of pairs of
 * features. `rows` are lines that `widen` has filled. */
static void add_pairs(
    const struct differences *group, ptrdiff_t k, const double *rows, const double *resp, const int32_t *chosen,
    ptrdiff_t count, ptrdiff_t n_features, ptrdiff_t stride, double *work, double *blocks, double *sums
) {
    ptrdiff_t width = 1 + n_features, whole = (count + LANES - 1) / LANES * LANES;
    double *weighted = work + width * stride;
    for (ptrdiff_t i = 0; i < whole; i++) {
        work[i] = 1;
        weighted[i] = i < count ? resp[chosen[i]] : 0;
    }
    for (ptrdiff_t d = 0; d < n_features; d++) {
        const double *line = rows + d * stride, mean = group->means[k * n_features + d];
        double *difference = work + (1 + d) * stride, *product = weighted + (1 + d) * stride;
        for (ptrdiff_t i = 0; i < whole; i++) difference[i] = i < count ? line[chosen[i]] - mean : 0;
        for (ptrdiff_t i = 0; i < whole; i++) product[i] = weighted[i] * difference[i];
    }
    memset(blocks, 0, sums_size_double(width, width) * sizeof *blocks);
    add_product_double(weighted, work, blocks, width, width, whole, stride, 1);
    unpack_double(blocks, sums, width, width);
    double *second = group->second + (group->second_moments == PAIRS_OF_EACH ? k * n_features * width / 2 : 0);
    for (ptrdiff_t d = 1; d < width; d++) {
        group->first[k * n_features + d - 1] += sums[d];
        for (ptrdiff_t j = 1; j <= d; j++) *second++ += sums[j * width + d];
    }
}

/* Adds the sums of responsibilities (K, n) to the counts. */
static void add_counts(const struct differences *group, const double *resp, ptrdiff_t n, ptrdiff_t stride) {
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        VECTOR counts = {0};
        for (ptrdiff_t i = 0; i < n; i += LANES) counts += load_double(resp + k * stride + i);
        for (ptrdiff_t i = 0; i < LANES; i++) group->counts[k] += counts[i];
    }
}

/* Adds the sums of responsibilities (K, n) times squared norms (K, n) to the second moments. */
static void add_squared_norms(
    const struct differences *group, const double *resp, const double *squares, ptrdiff_t n, ptrdiff_t stride
) {
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        VECTOR sums = {0};
        for (ptrdiff_t i = 0; i < n; i += LANES)
            sums += load_double(resp + k * stride + i) * load_double(squares + k * stride + i);
        for (ptrdiff_t i = 0; i < LANES; i++) group->second[k] += sums[i];
    }
}

/* Writes the indices of the rows whose responsibility is not negligible into chosen, one component after another. Returns
 * K + 1 numbers, which follow the K n indices: the indices of component k are chosen[ends[k]] to chosen[ends[k + 1] - 1]. */
static int32_t *choose_rows(
    const struct differences *group, const struct rows *tile, const double *resp, ptrdiff_t n, ptrdiff_t stride,
    int32_t *chosen
) {
    int32_t *ends = chosen + group->n_components * n;
    ends[0] = 0;
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        double least = group->least[k] * tile->max_sample_weight;
        ends[k + 1] = ends[k] + choose_above(resp + k * stride, n, least, chosen + ends[k]);
    }
    return ends;
}

/* The number of pairs of row and component that `choose_rows` chooses. */
static ptrdiff_t count_pairs(
    const struct differences *group, const struct rows *tile, const double *resp, ptrdiff_t n, ptrdiff_t stride
) {
    INDICES counts = {0};
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        double least = group->least[k] * tile->max_sample_weight;
        for (ptrdiff_t i = 0; i < n; i += LANES) counts -= load_double(resp + k * stride + i) > least;
    }
    ptrdiff_t count = 0;
    for (ptrdiff_t i = 0; i < LANES; i++) count += counts[i];
    return count;
}

/* Whether it is faster to sum over `count` pairs that `choose_rows` chooses than over all, if second moments are not those
 * of pairs of features. */
static int few_are_chosen(const struct differences *group, ptrdiff_t count, ptrdiff_t n_features, ptrdiff_t n) {
    return 3.0 * (double)count * (n_features + 24) < (double)group->n_components * n * n_features;
}

/* Adds the moments of rows of a tile, weighted with responsibilities (K, n), to the group's sums. `squares`: the
 * result of `subtract_means`, used only for ALL_FEATURES. phi: filled by `widen`.
 * work: `moments_work_size` numbers; chosen: K n + K + 1 numbers. */
static OUTLINED void add_moments(
    const struct differences *group, const struct rows *tile, ptrdiff_t start, const double *phi, const double *resp,
    const double *squares, ptrdiff_t n, ptrdiff_t stride, double *work, int32_t *chosen
) {
    const double *rows = phi + stride;
    ptrdiff_t k = group->n_components, n_features = tile->n_features, width = 1 + n_features;
    double *blocks = work + 2 * width * stride, *sums = blocks + sums_size_double(width, k > width ? k : width);
    const int32_t *ends = choose_rows(group, tile, resp, n, stride, chosen);
    int is_dense = !few_are_chosen(group, ends[k], n_features, n);
    add_counts(group, resp, n, stride);
    if (is_dense && group->second_moments == EACH_FEATURE) add_squared(group, rows, resp, n_features, n, stride);
    if (is_dense && group->second_moments == ALL_FEATURES) {
        add_differences(group, rows, resp, n_features, n, stride, blocks, sums);
        add_squared_norms(group, resp, squares, n, stride);
    }
    for (ptrdiff_t j = 0; j < k; j++) {
        ptrdiff_t some = ends[j + 1] - ends[j];
        const double *own = resp + j * stride;
        if (group->second_moments >= PAIRS_OF_EACH && some)
            add_pairs(group, j, rows, own, chosen + ends[j], some, n_features, stride, work, blocks, sums);
        else if (!is_dense)
            add_chosen(group, j, tile, start, own, chosen + ends[j], some, work);
    }
}

/* Adds the counts and moments of components that are otherwise computed by products to `moments`, if few of their
 * responsibilities are not negligible; else returns 0 and adds nothing. */
static OUTLINED int add_if_few(
    const struct differences *moments, const struct rows *tile, ptrdiff_t start, const double *resp, ptrdiff_t n,
    ptrdiff_t stride, double *work, int32_t *chosen
) {
    if (!moments->n_components) return 0;
    if (!few_are_chosen(moments, count_pairs(moments, tile, resp, n, stride), tile->n_features, n)) return 0;
    const int32_t *ends = choose_rows(moments, tile, resp, n, stride, chosen);
    add_counts(moments, resp, n, stride);
    for (ptrdiff_t k = 0; k < moments->n_components; k++)
        add_chosen(moments, k, tile, start, resp + k * stride, chosen + ends[k], ends[k + 1] - ends[k], work);
    return 1;
}
