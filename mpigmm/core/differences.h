/* Log-densities and moments of some components by differences from their means, in double precision: good for any rows.
 *
 * Included by loops.h for double precision alone. Lines hold features or components by rows, `stride` apart; numbers of
 * rows are multiples of WIDTH, and what is beyond the rows has responsibility zero.
 */

/* How a squared distance is summed: of features with precisions of their own, scaled first; of features that share one
 * precision, scaled at the end; of whitened coordinates, a triangular factor a component. */
enum { SCALED, SHARED, FACTORED };

/* Which second moments are wanted: of each feature; the sum over features; of all pairs of features, for each component
 * or summed over them. */
enum { EACH_FEATURE, ALL_FEATURES, PAIRS_OF_EACH, PAIRS_SUMMED };

struct differences {
    ptrdiff_t n_components;
    int form, wanted;
    const double *means; /* (K, D), less the rows' centre */
    const double *subtracted; /* (K, D): the means, of whitened rows where there is `whiten` */
    const double *factors; /* SCALED: roots of precisions (K, D); SHARED: precisions (K,); FACTORED: lower triangles (K, D, D) */
    const double *whiten; /* SHARED: (D, D), a lower triangle, or null */
    const double *constants; /* (K,) */
    const double *least; /* (K,): responsibilities up to which moments leave rows out */
    double *counts, *first, *second; /* sums (K,), (K, D), and as wanted: (K, D), (K,), (K or 1, D (D + 1) / 2) */
};

/* A row's features from the first on, as they stand in a file, less the centre and a mean. */
#define SUBTRACT_ROW(RAW, unused) \
    do { \
        const RAW *restrict raw = (const RAW *)row; \
        for (ptrdiff_t d = first; d < n_features; d++) out[d] = ((double)raw[d] - centre[d]) - mean[d]; \
    } while (0)

static void subtract_row(
    const struct rows *tile, ptrdiff_t i, ptrdiff_t first, const double *restrict mean, double *restrict out
) {
    ptrdiff_t n_features = tile->n_features;
    const double *restrict centre = tile->centre;
    const char *row = tile->raw + i * tile->row_bytes;
    WITH_RAW(tile->kind, SUBTRACT_ROW, 0)
}

/* Features from which on it may pay to bound distances first, the share of them that does so, and the share of all pairs
 * of row and component up to which it does pay. */
enum { LEAST_BOUNDED = 64, FIRST_SHARE = 5, BOUNDING_SHARE = 8 };

/* A component is negligible for a row where its density is below exp(-NATS) times the likeliest one's, over that one's
 * squared distance: NATS in differences.py. */
static const double NATS = 42;

/* The squares that a row's features from the first on add to its distance from component k. work: D numbers. */
static double rest_of_squares(
    const struct differences *group, const struct rows *tile, ptrdiff_t i, ptrdiff_t k, ptrdiff_t first, double *work
) {
    ptrdiff_t n_features = tile->n_features, d = first;
    const double *factor = group->form == SCALED ? group->factors + k * n_features : NULL;
    VECTOR squares = {0};
    double sum = 0;
    subtract_row(tile, i, first, group->means + k * n_features, work);
    for (; d + LANES <= n_features; d += LANES) {
        VECTOR z = load_double(work + d);
        if (factor) z *= load_double(factor + d);
        squares += z * z;
    }
    for (; d < n_features; d++) {
        double z = factor ? factor[d] * work[d] : work[d];
        sum += z * z;
    }
    for (ptrdiff_t lane = 0; lane < LANES; lane++) sum += squares[lane];
    return sum;
}

/* From upper bounds (K, n) by the first features to log-densities, -inf where negligible, of `count` rows from `start`
 * on; and `squares`, where these are complete. 0, and both undefined, where too many pairs are not negligible. */
static OUTLINED int complete_bounds(
    const struct differences *group, const struct rows *tile, ptrdiff_t start, ptrdiff_t count, ptrdiff_t first,
    ptrdiff_t stride, double *squares, double *out, double *work
) {
    ptrdiff_t k = group->n_components, pairs = 0;
    double reached[count], highest = group->constants[0];
    int32_t best[count];
    for (ptrdiff_t i = 0; i < count; i++) best[i] = 0, reached[i] = out[i];
    for (ptrdiff_t j = 1; j < k; j++) {
        const double *restrict line = out + j * stride;
        highest = group->constants[j] > highest ? group->constants[j] : highest;
        for (ptrdiff_t i = 0; i < count; i++) {
            best[i] = line[i] > reached[i] ? (int32_t)j : best[i];
            reached[i] = line[i] > reached[i] ? line[i] : reached[i];
        }
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t place = best[i] * stride + i;
        double precision = group->form == SHARED ? group->factors[best[i]] : 1;
        double more = rest_of_squares(group, tile, start + i, best[i], first, work);
        squares[place] += more;
        out[place] -= 0.5 * precision * more;
        reached[i] = out[place] == -INFINITY ? -INFINITY : out[place] - logarithm(highest + 1 - out[place]) - NATS;
    }
    for (ptrdiff_t j = 0; j < k; j++)
        for (ptrdiff_t i = 0; i < count; i++) pairs += out[j * stride + i] >= reached[i];
    if (BOUNDING_SHARE * pairs > k * count) return 0;
    for (ptrdiff_t j = 0; j < k; j++) {
        double *line = out + j * stride, precision = group->form == SHARED ? group->factors[j] : 1;
        for (ptrdiff_t i = 0; i < count; i++) {
            if (best[i] == j) continue;
            if (line[i] >= reached[i]) {
                double more = rest_of_squares(group, tile, start + i, j, first, work);
                squares[j * stride + i] += more;
                line[i] -= 0.5 * precision * more;
            } else
                line[i] = -INFINITY;
        }
    }
    return 1;
}

enum { MOST_MEANS = VECTOR_BYTES == 64 ? 4 : 2, MOST_FEATURES = VECTOR_BYTES == 64 ? 3 : 2 };
/* Components and features whose moments are summed together, in registers. */

/* Numbers that `add_moments` needs to work with. */
static ptrdiff_t moments_room(const struct differences *group, ptrdiff_t n_features, ptrdiff_t stride) {
    ptrdiff_t k = group->n_components, width = 1 + n_features, height = k > width ? k : width;
    return 2 * width * stride + room_double(height, width) + height * width;
}

/* Numbers that `sweep` and the functions beside it need for the group, of rows whose lines are `stride` apart: a line of
 * ones, the rows, their whitened coordinates, responsibilities, sums of squares, and the moments' own. */
ptrdiff_t difference_room(const struct differences *group, ptrdiff_t n_features, ptrdiff_t stride) {
    return (1 + 2 * n_features + 2 * group->n_components) * stride + moments_room(group, n_features, stride);
}

/* Rows in double precision: a line of ones, the first n_turned features, and the rows' whitened coordinates where distances
 * are taken of these. Returns what they are taken of. */
static const double *widen(
    const struct rows *tile, ptrdiff_t start, ptrdiff_t count, const struct differences *group, ptrdiff_t n_turned,
    ptrdiff_t n, double *phi, ptrdiff_t stride
) {
    ptrdiff_t d = tile->n_features;
    double *rows = phi + stride, *whitened = rows + d * stride;
    for (ptrdiff_t i = 0; i < stride; i++) phi[i] = 1;
    turn_double(tile->raw + start * tile->row_bytes, tile->kind, count, d, n_turned, tile->centre, rows, stride);
    if (!group->whiten) return rows;
    multiply_double(group->whiten, rows, whitened, d, d, n, stride, 1, NULL, 0);
    return whitened;
}

/* Constants less half the squared distances of two vectors of rows; sums of squares into `squares` where wanted. */
#define STORE_DISTANCES(HEIGHT) \
    UNROLLED for (int r = 0; r < HEIGHT; r++) \
        UNROLLED for (int c = 0; c < 2; c++) { \
            double precision = group->form == SHARED ? group->factors[first + r] : 1; \
            if (squares) *(VECTOR *)(squares + (first + r) * stride + at + c * LANES) = sums[r][c]; \
            *(VECTOR *)(out + (first + r) * stride + at + c * LANES) \
                = group->constants[first + r] - 0.5 * precision * sums[r][c]; \
        }

#define SUBTRACT_MEANS(HEIGHT, IS_SCALED) \
    do { \
        const double *mean = group->subtracted + first * n_features, *factor = group->factors + first * n_features; \
        VECTOR sums[TALLEST][2]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) sums[r][0] = sums[r][1] = (VECTOR){0}; \
        for (ptrdiff_t d = 0; d < n_used; d++) { \
            if (part == 0) { /* the bytes of one feature of as many rows to come */ \
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

/* Log-densities (K, n) of the group's components, and in `squares`, unless it is null, sums of squares; upper bounds of the
 * one and lower bounds of the other where fewer than all features are used. The rows are those
 * that distances are taken of, whitened where they are to be. From `ahead` on stand the rows that will be wanted, so many
 * bytes each: meanwhile the processor fetches them. work: D * WIDTH numbers. */
static void subtract_means(
    const struct differences *group, const double *rows, ptrdiff_t n_features, ptrdiff_t n_used, ptrdiff_t n,
    ptrdiff_t stride, const char *ahead, ptrdiff_t each, double *squares, double *out, double *work
) {
    ptrdiff_t fetch = WIDTH * each / n_used;
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

/* Log-densities (K, n) of the group's components for `count` rows of a tile from `start` on, as `subtract_means` yields them;
 * -inf where they are negligible, if it pays to bound distances by the first features, as `bounds` tells until it does not.
 * phi has room for a line of ones and those of `widen`, which fills it unless what distances are taken of is `ready`. */
static OUTLINED void log_prob_by_differences(
    const struct differences *group, const struct rows *tile, ptrdiff_t start, ptrdiff_t count, const double *ready,
    double *phi, ptrdiff_t n, ptrdiff_t stride, double *squares, double *out, double *work, int *bounds
) {
    ptrdiff_t n_features = tile->n_features, each = tile->row_bytes, n_first = n_features / FIRST_SHARE;
    const char *ahead = tile->raw + (start + count) * each;
    *bounds = *bounds && group->wanted <= ALL_FEATURES && n_features >= LEAST_BOUNDED && group->n_components > BOUNDING_SHARE;
    if (*bounds) {
        const double *rows = ready ? ready : widen(tile, start, count, group, n_first, n, phi, stride);
        subtract_means(group, rows, n_features, n_first, n, stride, ahead, each, squares, out, work);
        *bounds = complete_bounds(group, tile, start, count, n_first, stride, squares, out, work);
    }
    if (!*bounds) {
        const double *rows = ready ? ready : widen(tile, start, count, group, n_features, n, phi, stride);
        subtract_means(group, rows, n_features, n_features, n, stride, ahead, each, squares, out, work);
    }
}

/* Sums over rows of responsibilities times differences, and times their squares, of some components and features. */
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

/* Adds sums of responsibilities times differences, which are those of responsibilities times rows less the counts times
 * the means: this costs a mean no more than the rounding of its own place. */
static void add_differences(
    const struct differences *group, const double *rows, const double *resp, ptrdiff_t n_features, ptrdiff_t n,
    ptrdiff_t stride, double *blocks, double *sums
) {
    memset(blocks, 0, room_double(group->n_components, n_features) * sizeof *blocks);
    add_product_double(resp, rows, blocks, group->n_components, n_features, n, stride, 0);
    unpack_double(blocks, sums, group->n_components, n_features);
    for (ptrdiff_t k = 0; k < group->n_components; k++, sums += n_features) {
        double count = 0;
        for (ptrdiff_t i = 0; i < n; i++) count += resp[k * stride + i];
        for (ptrdiff_t d = 0; d < n_features; d++)
            group->first[k * n_features + d] += sums[d] - count * group->means[k * n_features + d];
    }
}

/* Places of the responsibilities (n,) above `least`; returns how many. */
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

/* Adds some differences (HEIGHT, D), `width` numbers apart, times responsibilities, and times their squares: for each
 * feature, or summed. */
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

/* Adds the moments of a component over the rows of a tile, counted from `start`, that it is responsible for. */
static void add_chosen(
    const struct differences *group, ptrdiff_t k, const struct rows *tile, ptrdiff_t start, const double *resp,
    const int32_t *chosen, ptrdiff_t count, double *work
) {
    ptrdiff_t n_features = tile->n_features, width = (n_features + LANES - 1) / LANES * LANES;
    double *first = group->first + k * n_features;
    double *second = group->wanted == EACH_FEATURE ? group->second + k * n_features : NULL, nothing = 0;
    double *total = second ? &nothing : group->second + k;
    for (ptrdiff_t at = 0; at < count; at += MOST_MEANS) {
        ptrdiff_t some = count - at < MOST_MEANS ? count - at : MOST_MEANS;
        double own[MOST_MEANS];
        for (ptrdiff_t r = 0; r < some; r++) {
            subtract_row(tile, start + chosen[at + r], 0, group->means + k * n_features, work + r * width);
            own[r] = resp[chosen[at + r]];
        }
        WITH_FEW(some, ADD_CHOSEN, 0)
    }
}

/* The same of one component whose sums of all pairs of features are wanted. */
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
    memset(blocks, 0, room_double(width, width) * sizeof *blocks);
    add_product_double(weighted, work, blocks, width, width, whole, stride, 1);
    unpack_double(blocks, sums, width, width);
    double *second = group->second + (group->wanted == PAIRS_OF_EACH ? k * n_features * width / 2 : 0);
    for (ptrdiff_t d = 1; d < width; d++) {
        group->first[k * n_features + d - 1] += sums[d * width];
        for (ptrdiff_t j = 1; j <= d; j++) *second++ += sums[d * width + j];
    }
}

/* Adds responsibilities (K, n). */
static void add_counts(const struct differences *group, const double *resp, ptrdiff_t n, ptrdiff_t stride) {
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        VECTOR counts = {0};
        for (ptrdiff_t i = 0; i < n; i += LANES) counts += load_double(resp + k * stride + i);
        for (ptrdiff_t i = 0; i < LANES; i++) group->counts[k] += counts[i];
    }
}

/* Adds responsibilities (K, n) times the sums of squares. */
static void add_lengths(
    const struct differences *group, const double *resp, const double *squares, ptrdiff_t n, ptrdiff_t stride
) {
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        VECTOR lengths = {0};
        for (ptrdiff_t i = 0; i < n; i += LANES)
            lengths += load_double(resp + k * stride + i) * load_double(squares + k * stride + i);
        for (ptrdiff_t i = 0; i < LANES; i++) group->second[k] += lengths[i];
    }
}

/* For each component the places of the rows that it is responsible for; the last K + 1 numbers tell where each begins. */
static int32_t *choose_rows(
    const struct differences *group, const struct rows *tile, const double *resp, ptrdiff_t n, ptrdiff_t stride,
    int32_t *chosen
) {
    int32_t *ends = chosen + group->n_components * n;
    ends[0] = 0;
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        double least = group->least[k] * tile->heaviest;
        ends[k + 1] = ends[k] + choose_above(resp + k * stride, n, least, chosen + ends[k]);
    }
    return ends;
}

/* Whether it pays to take the rows of each component alone, where moments are of features and not of pairs of them. */
static int few_are_chosen(const struct differences *group, const int32_t *ends, ptrdiff_t n_features, ptrdiff_t n) {
    return 3.0 * ends[group->n_components] * (n_features + 24) < (double)group->n_components * n * n_features;
}

/* Adds the group's moments of rows of a tile with these responsibilities (K, n). `squares` are those of
 * `subtract_means`, for ALL_FEATURES. phi is what `widen` filled; `is_part` tells whether with the first features alone.
 * work: `moments_room` numbers; chosen: K + 1 and K times n numbers. */
static OUTLINED void add_moments(
    const struct differences *group, const struct rows *tile, ptrdiff_t start, ptrdiff_t count, double *phi,
    const double *resp, const double *squares, ptrdiff_t n, ptrdiff_t stride, double *work, int32_t *chosen, int is_part
) {
    const double *rows = phi + stride;
    ptrdiff_t k = group->n_components, n_features = tile->n_features, width = 1 + n_features;
    double *blocks = work + 2 * width * stride, *sums = blocks + room_double(k > width ? k : width, width);
    const int32_t *ends = choose_rows(group, tile, resp, n, stride, chosen);
    int is_dense = !few_are_chosen(group, ends, n_features, n);
    add_counts(group, resp, n, stride);
    if (is_dense && is_part) widen(tile, start, count, group, n_features, n, phi, stride);
    if (is_dense && group->wanted == EACH_FEATURE) add_squared(group, rows, resp, n_features, n, stride);
    if (is_dense && group->wanted == ALL_FEATURES) {
        add_differences(group, rows, resp, n_features, n, stride, blocks, sums);
        add_lengths(group, resp, squares, n, stride);
    }
    for (ptrdiff_t j = 0; j < k; j++) {
        ptrdiff_t some = ends[j + 1] - ends[j];
        const double *own = resp + j * stride;
        if (group->wanted >= PAIRS_OF_EACH && some)
            add_pairs(group, j, rows, own, chosen + ends[j], some, n_features, stride, work, blocks, sums);
        else if (!is_dense)
            add_chosen(group, j, tile, start, own, chosen + ends[j], some, work);
    }
}

/* Adds the moments of components by products, if each is responsible for few of the rows; 0, and nothing done, if not. */
static OUTLINED int add_if_few(
    const struct differences *moments, const struct rows *tile, ptrdiff_t start, const double *resp, ptrdiff_t n,
    ptrdiff_t stride, double *work, int32_t *chosen
) {
    if (!moments->n_components) return 0;
    const int32_t *ends = choose_rows(moments, tile, resp, n, stride, chosen);
    if (!few_are_chosen(moments, ends, tile->n_features, n)) return 0;
    add_counts(moments, resp, n, stride);
    for (ptrdiff_t k = 0; k < moments->n_components; k++)
        add_chosen(moments, k, tile, start, resp + k * stride, chosen + ends[k], ends[k + 1] - ends[k], work);
    return 1;
}
