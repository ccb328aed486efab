/* Log-densities and moments of components with a variance for each feature, or with a covariance matrix that all share,
 * without negligible pairs of row and component. With a shared matrix, rows are whitened first: all variances are then one.
 *
 * A block of rows is processed at a time. Upper bounds of its log-densities, in float, use a few leading features. For each
 * row the component of the largest bound is computed completely, in double. From its log-density follows a threshold, and
 * only the pairs whose bound is not below it are computed, from differences of rows and means, which is accurate for all
 * rows and components. Pairs are listed component by component: those of component k are number ends[k] to ends[k + 1] - 1.
 *
 * Bounds by all features are log-densities with a known error. For pairs of a responsibility below exp(-minor_nats) this suffices:
 * such minor pairs are in a list of their own, with exponentials and moments in float.
 */

enum { DOUBLES = VECTOR_BYTES / 8, SINGLES = VECTOR_BYTES / 4, BOUNDED_ROWS = 2 * SINGLES };

/* Lines of a product of two matrices that are summed in registers at the same time; width is a multiple of it. */
enum { PRODUCT_LINES = 8 };

/* Vectors of features whose moments are summed in registers at the same time. */
enum { MOST_CHUNKS = VECTOR_BYTES == 64 ? 8 : 4 };

/* Largest number of features with minor pairs. */
enum { MOST_SINGLES = 256 }; /* MOST_MINOR_FEATURES in groups.py */

/* Number of rows for which bounds are tried first. */
enum { TRIED_ROWS = 32 };

/* A block has LEAST_BLOCK to LARGEST_BLOCK rows, and as few as keep it to MOST_BOUNDS bounds and MOST_VALUES features. */
enum { LEAST_BLOCK = 64, LARGEST_BLOCK = 512, MOST_BOUNDS = 1 << 21, MOST_VALUES = 1 << 15 };

struct bounded {
    ptrdiff_t n_components, width; /* width: D rounded up to a multiple of PADDED in groups.py */
    ptrdiff_t n_leading; /* L */
    double nats; /* NATS in groups.py: exp(-nats) decides which components are negligible for a row */
    double most_share; /* share of the pairs of a block up to which pairs are computed one by one */
    const int64_t *leading; /* (L,): numbers of the leading features */
    const double *units; /* (L,): by which they are multiplied before they are rounded to float */
    const float *scales, *offsets; /* (K, L): a bound is constant - |scales * x - offsets|^2, with x in these units */
    const float *constants; /* (K,) */
    const int32_t *is_tight; /* (K,): whether the bounds are about as large as densities of the leading features */
    double minor_nats; /* a pair is minor if its responsibility is below exp(-minor_nats) */
    double stretch; /* a log-density in float is stretch * bound + minor_offset */
    const float *minor_offsets; /* (K,): infinite for components without minor pairs; null if no component has any */
    const float *minor_means; /* (K, single_width): the means minus the centre, divided by scale; zero beyond D */
    const double *minor_scale; /* (L,): by which rows are divided before they are rounded to float; L is D */
    ptrdiff_t single_width; /* D rounded up to a multiple of PADDED_SINGLE in groups.py */
    const double *whiten; /* (width, width): upper triangular factor U of the precision matrix that all share; or null */
    const double *means, *subtracted; /* (K, width): the means minus the centre, and U^T times them; zero beyond D */
    const double *roots; /* (K, width): square roots of the precisions, of whitened rows if there is U; zero beyond D */
    const double *log_norm; /* (K,) */
    double *counts, *first, *second; /* sums (K,), (K, width) and, of (whitened) features, (K, width) */
    double *scatter; /* (width, width): the lower triangle of sum_i weight_i x_i x_i^T, of centred rows x_i, if there is U */
};

/* A block of up to `height` rows, in the work space. */
struct block {
    ptrdiff_t height, most, n, whole; /* `most`: room for pairs; n: rows; whole: a multiple of BOUNDED_ROWS */
    ptrdiff_t stride; /* addresses a power of two apart compete for the same lines of the cache */
    double *centred, *rows; /* (height, width): the rows minus the centre, zero beyond D; whitened if there is U */
    double *thresholds, *tops, *sums; /* (height,): of log-densities; largest log-densities; sums over components */
    double *values; /* (most,): log-densities, then responsibilities, of the pairs */
    float *leading, *bounds, *highest; /* (L, stride), (K, stride) and (height,) */
    int32_t *best, *chosen, *ends; /* (height,); (most,): row of each pair; (K + 1,) */
    int has_minor_pairs; /* whether there may be some */
    float *minor_limits; /* (height,): pairs with bounds below are minor */
    float *references; /* (height,): log-densities to which those of the minor pairs are relative */
    float *minor_sums; /* (height,): sums of the minor pairs' values, which are densities relative to the reference's */
    float *minor_factors; /* (height,): by which these values are multiplied to become responsibilities, over `heaviest` */
    double heaviest; /* the largest sample weight of the tile's rows, or one: float may not represent it */
    float *singles, *minor_values; /* (height, single_width): the rows divided by minor_scale; (most,) */
    int32_t *minor_chosen, *minor_ends; /* (most,): row of each minor pair; (K + 1,) */
};

/* Divides the work space; returns its size in bytes. */
static ptrdiff_t divide_work(const struct bounded *group, char *work, struct block *block) {
    ptrdiff_t k = group->n_components, rows = LARGEST_BLOCK;
    rows = MOST_BOUNDS / k < rows ? MOST_BOUNDS / k : rows;
    rows = MOST_VALUES / group->width < rows ? MOST_VALUES / group->width : rows;
    ptrdiff_t height = rows > LEAST_BLOCK ? rows / 32 * 32 : LEAST_BLOCK;
    block->height = height;
    block->stride = height + 16;
    block->most = ((ptrdiff_t)(group->most_share * (double)(k * height)) / 32 + 1) * 32 + 3 * height; /* so that the next arrays begin at cache lines */
    block->centred = (double *)work;
    block->rows = block->centred + (group->whiten ? height * group->width : 0);
    block->thresholds = block->rows + height * group->width;
    block->tops = block->thresholds + height;
    block->sums = block->tops + height;
    block->values = block->sums + height;
    block->leading = (float *)(block->values + block->most);
    block->bounds = block->leading + group->n_leading * block->stride;
    block->highest = block->bounds + k * block->stride;
    block->minor_limits = block->highest + height;
    block->references = block->minor_limits + height;
    block->minor_sums = block->references + height;
    block->minor_factors = block->minor_sums + height;
    block->singles = block->minor_factors + height;
    block->minor_values = block->singles + (group->minor_offsets ? height * group->single_width : 0);
    block->minor_chosen = (int32_t *)(block->minor_values + (group->minor_offsets ? block->most : 0));
    block->best = block->minor_chosen + (group->minor_offsets ? block->most : 0);
    block->chosen = block->best + height;
    block->ends = block->chosen + block->most;
    block->minor_ends = block->ends + k + 1;
    return (char *)(block->minor_ends + k + 1) - work;
}

ptrdiff_t bounded_work_size(const struct bounded *group) {
    struct block block;
    return divide_work(group, NULL, &block);
}

#define SUBTRACT_CENTRE(RAW) \
    do { \
        for (ptrdiff_t i = 0; i < block->n; i++) { \
            const RAW *restrict from = (const RAW *)(raw + i * tile->row_bytes); \
            double *restrict row = block->centred + i * width; \
            for (ptrdiff_t d = 0; d < n_features; d++) row[d] = (double)from[d] - centre[d]; \
            for (ptrdiff_t d = n_features; d < width; d++) row[d] = 0; \
        } \
    } while (0)

/* Adds sum_i weight_i a_ri b_ic over i < n to lines r < PRODUCT_LINES and columns c < DOUBLES of out, whose lines are `width`
 * apart; so are those of b. a_ri is a[r * line + i * step]; weights of null are one. */
INLINE void add_products(
    ptrdiff_t n, const double *a, ptrdiff_t line, ptrdiff_t step, const double *b, ptrdiff_t width, const double *weights,
    double *out
) {
    vector_double sums[PRODUCT_LINES];
    UNROLLED for (int r = 0; r < PRODUCT_LINES; r++) sums[r] = load_double(out + r * width);
    for (ptrdiff_t i = 0; i < n; i++) {
        vector_double factor = load_double(b + i * width);
        if (weights) factor *= weights[i];
        UNROLLED for (int r = 0; r < PRODUCT_LINES; r++) sums[r] += a[r * line + i * step] * factor;
    }
    UNROLLED for (int r = 0; r < PRODUCT_LINES; r++) *(vector_double *)(out + r * width) = sums[r];
}

/* Multiplies the centred rows by U, of which only terms that are not zero are used. */
static OUTLINED void whiten_block(const struct bounded *group, struct block *block) {
    ptrdiff_t width = group->width;
    memset(block->rows, 0, block->height * width * sizeof *block->rows);
    for (ptrdiff_t i = 0; i < block->n; i += PRODUCT_LINES)
        for (ptrdiff_t j = 0; j < width; j += DOUBLES)
            add_products(
                j + DOUBLES, block->centred + i * width, width, 1, group->whiten + j, width, NULL, block->rows + i * width + j
            );
}

/* Adds the products of all pairs of features of the centred rows, times the sample weights unless these are null. */
static OUTLINED void add_scatter(const struct bounded *group, const struct block *block, const double *weights) {
    ptrdiff_t width = group->width;
    const double *rows = block->centred;
    for (ptrdiff_t d = 0; d < width; d += PRODUCT_LINES)
        for (ptrdiff_t j = 0; j < d + PRODUCT_LINES; j += DOUBLES)
            add_products(block->n, rows + d, 1, width, rows + j, width, weights, group->scatter + d * width + j);
}

/* Fills the rows in float. All features are leading ones if there are minor pairs. */
static void fill_singles(const struct bounded *group, struct block *block) {
    ptrdiff_t width = group->single_width, n_features = group->n_leading;
    for (ptrdiff_t i = 0; i < block->n; i++) {
        float *restrict row = block->singles + i * width;
        const double *restrict from = block->centred + i * group->width;
        for (ptrdiff_t d = 0; d < n_features; d++) row[d] = (float)(from[d] / group->minor_scale[d]);
        for (ptrdiff_t d = n_features; d < width; d++) row[d] = 0;
    }
}

/* Fills the block with the tile's rows from `start` on, and their leading features, which are zero beyond the last row. */
static OUTLINED void fill_block(
    const struct rows *tile, const struct bounded *group, ptrdiff_t start, struct block *block
) {
    ptrdiff_t n_features = tile->n_features, width = group->width, left = tile->n_rows - start;
    const char *raw = tile->raw + start * tile->row_bytes;
    const double *restrict centre = tile->centre;
    block->n = left < block->height ? left : block->height;
    block->whole = (block->n + BOUNDED_ROWS - 1) / BOUNDED_ROWS * BOUNDED_ROWS;
    WITH_RAW(tile->kind, SUBTRACT_CENTRE)
    if (group->whiten) whiten_block(group, block);
    for (ptrdiff_t l = 0; l < group->n_leading; l++) {
        float *restrict line = block->leading + l * block->stride;
        const double *restrict from = block->rows + group->leading[l], unit = group->units[l];
        for (ptrdiff_t i = 0; i < block->n; i++) line[i] = (float)(from[i * width] * unit);
        for (ptrdiff_t i = block->n; i < block->whole; i++) line[i] = 0;
    }
    if (block->has_minor_pairs) fill_singles(group, block);
}

/* Bounds of HEIGHT components for all rows of a block. */
#define BOUND(HEIGHT, unused) \
    for (ptrdiff_t at = 0; at < block->whole; at += BOUNDED_ROWS) { \
        vector_single sums[TALLEST][2]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) sums[r][0] = sums[r][1] = (vector_single){0}; \
        for (ptrdiff_t l = 0; l < n_leading; l++) { \
            const float *line = block->leading + l * stride + at; \
            vector_single x = load_single(line), y = load_single(line + SINGLES); \
            UNROLLED for (int r = 0; r < HEIGHT; r++) { \
                float scale = scales[r * n_leading + l], offset = offsets[r * n_leading + l]; \
                vector_single one = x * scale - offset, other = y * scale - offset; \
                sums[r][0] += one * one; \
                sums[r][1] += other * other; \
            } \
        } \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) \
                *(vector_single *)(bounds + r * stride + at + c * SINGLES) = constants[r] - sums[r][c]; \
    }

/* Computes upper bounds of the log-densities, and for each row the component whose bound is largest. */
static OUTLINED void bound_block(const struct bounded *group, struct block *block) {
    ptrdiff_t k = group->n_components, n_leading = group->n_leading, stride = block->stride;
    ptrdiff_t groups = (k + TALLEST - 1) / TALLEST;
    float *restrict highest = block->highest;
    int32_t *restrict best = block->best;
    for (ptrdiff_t i = 0; i < block->whole; i++) highest[i] = -INFINITY, best[i] = 0;
    for (ptrdiff_t part = 0; part < groups; part++) {
        ptrdiff_t first = part * k / groups, last = (part + 1) * k / groups;
        const float *scales = group->scales + first * n_leading, *offsets = group->offsets + first * n_leading;
        const float *constants = group->constants + first;
        float *bounds = block->bounds + first * stride;
        WITH_HEIGHT(last - first, BOUND, 0)
        for (ptrdiff_t j = first; j < last; j++, bounds += stride) {
            if (!group->is_tight[j]) continue;
            const float *restrict line = bounds;
            for (ptrdiff_t i = 0; i < block->whole; i++) {
                best[i] = line[i] > highest[i] ? (int32_t)j : best[i];
                highest[i] = line[i] > highest[i] ? line[i] : highest[i];
            }
        }
    }
}

/* The log-densities of component k for HEIGHT rows, `rows`, into out. */
INLINE void complete_rows(
    const int height, const struct bounded *group, ptrdiff_t k, const double *const *rows, double *out
) {
    const double *mean = group->subtracted + k * group->width, *root = group->roots + k * group->width;
    vector_double squares[DOUBLES];
    UNROLLED for (int r = 0; r < DOUBLES; r++) squares[r] = (vector_double){0};
    for (ptrdiff_t d = 0; d < group->width; d += DOUBLES) {
        vector_double m = load_double(mean + d), s = load_double(root + d);
        UNROLLED for (int r = 0; r < height; r++) {
            vector_double z = (load_double(rows[r] + d) - m) * s;
            squares[r] += z * z;
        }
    }
    *(vector_double *)out = group->log_norm[k] - 0.5 * totals_double(squares);
}

/* A row has minor pairs only if its log-density is at most so many nats below the largest one of any row, and this is at most
 * so far from zero: rounding errors are then small enough. */
static const double MOST_MINOR_NATS = 1024;

/* Computes for each row the log-density of the component with the largest bound, and the threshold, which no component
 * exceeds for rows of sample weight zero. */
static OUTLINED void find_thresholds(const struct bounded *group, const double *sample_weight, struct block *block) {
    const double *log_norm = group->log_norm;
    double highest = log_norm[0];
    for (ptrdiff_t k = 1; k < group->n_components; k++) highest = log_norm[k] > highest ? log_norm[k] : highest;
    for (ptrdiff_t i = 0; i < block->n; i++) {
        const double *row = block->rows + i * group->width;
        double found[DOUBLES];
        complete_rows(1, group, block->best[i], &row, found);
        block->tops[i] = found[0];
    }
    for (ptrdiff_t i = 0; i < block->n; i++) {
        double value = block->tops[i], threshold = value - logarithm(highest + 1 - value) - group->nats;
        block->thresholds[i] = value == -INFINITY || block->highest[i] == -INFINITY ? -INFINITY : threshold;
        block->highest[i] = (float)(block->thresholds[i] - 1e-6 * (fabs(block->thresholds[i]) + fabs(highest)));
    }
    for (ptrdiff_t i = 0; sample_weight && i < block->n; i++)
        if (sample_weight[i] == 0) block->thresholds[i] = block->highest[i] = INFINITY;
    for (ptrdiff_t i = block->n; i < block->whole; i++) block->highest[i] = INFINITY;
    for (ptrdiff_t i = 0; i < block->n; i++) {
        int has_minor = highest - block->tops[i] <= MOST_MINOR_NATS && fabs(highest) <= MOST_MINOR_NATS;
        block->references[i] = has_minor ? (float)block->tops[i] : 0;
        block->minor_limits[i] = has_minor ? (float)(block->tops[i] - group->minor_nats) : -INFINITY;
        block->minor_sums[i] = 0;
    }
    for (ptrdiff_t i = block->n; i < block->whole; i++) block->references[i] = 0, block->minor_limits[i] = -INFINITY;
}

/* The bounds among SINGLES that are not below the thresholds: a bit for each. */
INLINE unsigned not_below(const float *bounds, const float *thresholds) {
#if VECTOR_BYTES == 64 && defined(__AVX512F__)
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(bounds), _mm512_loadu_ps(thresholds), _CMP_NLT_UQ);
#elif VECTOR_BYTES == 32 && defined(__AVX2__)
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(bounds), _mm256_loadu_ps(thresholds), _CMP_NLT_UQ));
#else
    unsigned bits = 0;
    for (int i = 0; i < SINGLES; i++) bits |= (unsigned)!(bounds[i] < thresholds[i]) << i;
    return bits;
#endif
}

/* Writes the lanes of a vector whose bit in `bits` is set into out, without gaps; returns how many these are. */
INLINE ptrdiff_t write_singles(unsigned bits, vector_single from, float *out) {
#if VECTOR_BYTES == 64 && defined(__AVX512DQ__)
    __m512 packed = _mm512_maskz_compress_ps((__mmask16)bits, (__m512)from);
    ptrdiff_t count = __builtin_popcount(bits);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(packed)); /* mostly enough, and faster than a whole vector */
    if (count > 8) _mm256_storeu_ps(out + 8, _mm512_extractf32x8_ps(packed, 1));
    return count;
#else
    ptrdiff_t count = 0;
    for (; bits; bits &= bits - 1) out[count++] = from[__builtin_ctz(bits)];
    return count;
#endif
}

/* Writes first + i for each bit i that is set into out; returns their number. */
INLINE ptrdiff_t write_numbers(unsigned bits, ptrdiff_t first, int32_t *out) {
#if VECTOR_BYTES == 64 && defined(__AVX512F__)
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i numbers = _mm512_add_epi32(lane, _mm512_set1_epi32((int32_t)first));
    return write_singles(bits, (vector_single)numbers, (float *)out);
#else
    ptrdiff_t count = 0;
    for (; bits; bits &= bits - 1) out[count++] = (int32_t)first + __builtin_ctz(bits);
    return count;
#endif
}

/* Lists the pairs of component k whose bounds are not below the thresholds from number `count` on; returns the next. */
static OUTLINED ptrdiff_t list_rows(ptrdiff_t k, struct block *block, ptrdiff_t count) {
    const float *bounds = block->bounds + k * block->stride;
    for (ptrdiff_t i = 0; i < block->whole; i += BOUNDED_ROWS) {
        unsigned one = not_below(bounds + i, block->highest + i);
        unsigned other = not_below(bounds + i + SINGLES, block->highest + i + SINGLES);
        if (!(one | other)) continue;
        count += write_numbers(one, i, block->chosen + count);
        count += write_numbers(other, i + SINGLES, block->chosen + count);
    }
    return count;
}

/* As `list_rows`, for a component with minor pairs, which are listed from number *n_minor on. */
static OUTLINED ptrdiff_t split_rows(
    const struct bounded *group, ptrdiff_t k, struct block *block, ptrdiff_t count, ptrdiff_t *n_minor
) {
    const float *bounds = block->bounds + k * block->stride;
    float offset = group->minor_offsets[k], stretch = (float)group->stretch;
    const float *highest = block->highest, *limits = block->minor_limits, *references = block->references;
    float *values = block->minor_values + *n_minor;
    int32_t *rows = block->minor_chosen + *n_minor, *chosen = block->chosen;
    ptrdiff_t whole = block->whole, pairs = 0;
    for (ptrdiff_t i = 0; i < whole; i += SINGLES) {
        unsigned bits = not_below(bounds + i, highest + i), major = bits & not_below(bounds + i, limits + i);
        vector_single below = stretch * load_single(bounds + i) + (offset - load_single(references + i));
        write_singles(bits & ~major, below, values + pairs);
        pairs += write_numbers(bits & ~major, i, rows + pairs);
        count += write_numbers(major, i, chosen + count);
    }
    for (ptrdiff_t p = 0; p < pairs; p += SINGLES) /* there is room for whole vectors */
        *(vector_single *)(values + p) = exponential_single(load_single(values + p));
    float *restrict sums = block->minor_sums;
    for (ptrdiff_t p = 0; p < pairs; p++) sums[rows[p]] += values[p];
    *n_minor += pairs;
    return count;
}

/* Lists the pairs whose bounds are not below the thresholds. Returns 0 if they are too many. */
static OUTLINED int choose_pairs(const struct bounded *group, struct block *block) {
    ptrdiff_t count = 0, n_minor = 0;
    ptrdiff_t most = (ptrdiff_t)(group->most_share * (double)(group->n_components * block->n)) + block->n;
    block->ends[0] = block->minor_ends[0] = 0;
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        ptrdiff_t start = count;
        if (block->has_minor_pairs && group->minor_offsets[k] < INFINITY)
            count = split_rows(group, k, block, count, &n_minor);
        else
            count = list_rows(k, block, count);
        while (count > start && block->chosen[count - 1] >= block->n) count--;
        if (count + n_minor > most) return 0;
        block->ends[k + 1] = (int32_t)count;
        block->minor_ends[k + 1] = (int32_t)n_minor;
    }
    return 1;
}

/* Prefetches a line of an array (K, width): that of component k + 2, if there is one. */
INLINE void prefetch_line(const struct bounded *group, const double *array, ptrdiff_t k) {
    if (k + 2 >= group->n_components) return;
    const char *line = (const char *)(array + (k + 2) * group->width);
    for (ptrdiff_t byte = 0; byte < group->width * 8; byte += CACHE_LINE) __builtin_prefetch(line + byte, 0, 3);
}

/* Computes the log-densities of up to HEIGHT pairs, from number `at` to `end` - 1, and moves those that are not negligible
 * to number `kept` and on. */
#define COMPLETE_PAIRS(HEIGHT) \
    do { \
        const double *rows[HEIGHT]; \
        int32_t own[HEIGHT]; \
        double found[DOUBLES]; \
        UNROLLED for (int r = 0; r < HEIGHT; r++) { \
            own[r] = block->chosen[at + r < end ? at + r : at]; \
            rows[r] = block->rows + own[r] * group->width; \
        } \
        complete_rows(HEIGHT, group, k, rows, found); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) { \
            ptrdiff_t place = at + r < end ? kept : block->most - 1; /* the last place is never used */ \
            block->chosen[place] = own[r]; \
            block->values[place] = found[r]; \
            kept += (at + r < end) & !(found[r] < block->thresholds[own[r]]); \
        } \
        at += HEIGHT; \
    } while (0)

/* Computes the log-densities of the listed pairs, and drops the negligible ones. */
static OUTLINED void complete_pairs(const struct bounded *group, struct block *block) {
    ptrdiff_t kept = 0, start = 0;
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        ptrdiff_t at = start, end = block->ends[k + 1];
        if (at < end) {
            prefetch_line(group, group->subtracted, k);
            prefetch_line(group, group->roots, k);
        }
        while (end - at > DOUBLES / 2) COMPLETE_PAIRS(DOUBLES);
#if VECTOR_BYTES == 64
        if (end - at > 2) COMPLETE_PAIRS(4);
#endif
#if VECTOR_BYTES >= 32
        if (end - at > 1) COMPLETE_PAIRS(2);
#endif
        if (end - at > 0) COMPLETE_PAIRS(1);
        block->ends[k + 1] = (int32_t)kept;
        start = end;
    }
}

/* Computes the log-densities of all pairs of the rows from `start` on that are not negligible; returns 0 if these are too
 * many. */
static int complete_block(
    const struct rows *tile, const struct bounded *group, ptrdiff_t start, const double *sample_weight, struct block *block
) {
    fill_block(tile, group, start, block);
    bound_block(group, block);
    find_thresholds(group, sample_weight, block);
    if (!choose_pairs(group, block)) return 0;
    complete_pairs(group, block);
    return 1;
}

/* Whether the pairs that are not negligible are few enough among TRIED_ROWS rows of the tile, at equal distances. If they are
 * not, the bounds of a whole block would be computed in vain. */
static int seems_bounded(const struct rows *tile, const struct bounded *group, struct block *block) {
    ptrdiff_t distance = tile->n_rows / TRIED_ROWS;
    const double *all_weights = tile->sample_weight;
    double weights[TRIED_ROWS];
    struct rows tried = *tile;
    if (tile->n_rows <= 2 * block->height) return 1;
    for (ptrdiff_t i = 0; all_weights && i < TRIED_ROWS; i++) weights[i] = all_weights[i * distance];
    tried.n_rows = TRIED_ROWS;
    tried.row_bytes *= distance;
    fill_block(&tried, group, 0, block);
    bound_block(group, block);
    find_thresholds(group, all_weights ? weights : NULL, block);
    return choose_pairs(group, block);
}

/* Adds the sums of the minor pairs to those of the others, and writes the factors by which they are relative to `tops`. */
static void add_minor_sums(struct block *block, double least) {
    for (ptrdiff_t i = 0; i < block->n; i += DOUBLES) {
        vector_double below;
        UNROLLED for (int j = 0; j < DOUBLES; j++) below[j] = (double)block->references[i + j];
        below -= load_double(block->tops + i);
        below = (vector_double)((indices_double)exponential_double(below) & (indices_double)(below > least));
        UNROLLED for (int j = 0; j < DOUBLES; j++) block->minor_factors[i + j] = (float)below[j];
    }
    for (ptrdiff_t i = 0; i < block->n; i++)
        if (block->minor_sums[i] > 0) block->sums[i] += (double)block->minor_factors[i] * (double)block->minor_sums[i];
}

/* Replaces the log-densities of the pairs by responsibilities, and `tops` by the log-densities of the rows, both times the
 * sample weights (n,), unless these are null. Returns the sum of `tops`. */
static OUTLINED double normalise_pairs(
    const struct bounded *group, struct block *block, const double *sample_weight, double least
) {
    double *restrict values = block->values, *restrict tops = block->tops, *restrict sums = block->sums, total = 0;
    const int32_t *restrict chosen = block->chosen;
    ptrdiff_t pairs = block->ends[group->n_components];
    for (ptrdiff_t i = 0; i < block->n; i++) sums[i] = 0;
    for (ptrdiff_t p = 0; p < pairs; p++) {
        double top = tops[chosen[p]];
        tops[chosen[p]] = values[p] > top ? values[p] : top;
    }
    for (ptrdiff_t p = 0; p < pairs; p++) values[p] -= tops[chosen[p]];
    for (ptrdiff_t p = 0; p < pairs; p += DOUBLES) { /* there is room for whole vectors */
        vector_double below = load_double(values + p);
        *(vector_double *)(values + p)
            = (vector_double)((indices_double)exponential_double(below) & (indices_double)(below > least));
    }
    for (ptrdiff_t p = 0; p < pairs; p++) sums[chosen[p]] += values[p];
    if (block->has_minor_pairs) add_minor_sums(block, least);
    for (ptrdiff_t i = 0; i < block->n; i++) {
        tops[i] = sums[i] == 0 ? -INFINITY : tops[i] + logarithm(sums[i]);
        sums[i] = sums[i] == 0 ? 0 : 1 / sums[i];
    }
    for (ptrdiff_t i = 0; sample_weight && i < block->n; i++) {
        tops[i] = sample_weight[i] == 0 ? 0 : tops[i] * sample_weight[i];
        sums[i] *= sample_weight[i];
    }
    for (ptrdiff_t i = 0; i < block->n; i++) total += tops[i];
    for (ptrdiff_t i = 0; block->has_minor_pairs && i < block->n; i++)
        block->minor_factors[i] *= (float)(sums[i] / block->heaviest);
    for (ptrdiff_t p = 0; p < pairs; p++) values[p] *= sums[chosen[p]];
    return total;
}

/* Adds responsibilities times differences, and times squared differences, of CHUNKS vectors of features from `d` on. */
#define ADD_PAIRS(CHUNKS) \
    do { \
        vector_double sums[CHUNKS], squares[CHUNKS], m[CHUNKS]; \
        double count = 0; \
        UNROLLED for (int c = 0; c < CHUNKS; c++) { \
            sums[c] = load_double(first + d + c * DOUBLES); \
            squares[c] = load_double(second + d + c * DOUBLES); \
            m[c] = load_double(mean + d + c * DOUBLES); \
        } \
        for (ptrdiff_t p = start; p < end; p++) { \
            const double *row = block->centred + block->chosen[p] * group->width + d; \
            double resp = block->values[p]; \
            count += resp; \
            UNROLLED for (int c = 0; c < CHUNKS; c++) { \
                vector_double z = load_double(row + c * DOUBLES) - m[c], t = resp * z; \
                sums[c] += t; \
                squares[c] += t * z; \
            } \
        } \
        UNROLLED for (int c = 0; c < CHUNKS; c++) { \
            *(vector_double *)(first + d + c * DOUBLES) = sums[c]; \
            *(vector_double *)(second + d + c * DOUBLES) = squares[c]; \
        } \
        if (d == 0) group->counts[k] += count; \
        d += CHUNKS * DOUBLES; \
    } while (0)

/* Adds those of a component's minor pairs, of CHUNKS vectors of features from `d` on, in float. */
#define ADD_MINOR_PAIRS(CHUNKS) \
    do { \
        vector_single sums[CHUNKS], squares[CHUNKS], m[CHUNKS]; \
        float count = 0; \
        UNROLLED for (int c = 0; c < CHUNKS; c++) { \
            sums[c] = squares[c] = (vector_single){0}; \
            m[c] = load_single(mean + d + c * SINGLES); \
        } \
        for (ptrdiff_t p = start; p < end; p++) { \
            ptrdiff_t i = block->minor_chosen[p]; \
            const float *row = block->singles + i * width + d; \
            float resp = block->minor_values[p] * block->minor_factors[i]; \
            count += resp; \
            UNROLLED for (int c = 0; c < CHUNKS; c++) { \
                vector_single z = load_single(row + c * SINGLES) - m[c], t = resp * z; \
                sums[c] += t; \
                squares[c] += t * z; \
            } \
        } \
        UNROLLED for (int c = 0; c < CHUNKS; c++) { \
            *(vector_single *)(first + d + c * SINGLES) = sums[c]; \
            *(vector_single *)(second + d + c * SINGLES) = squares[c]; \
        } \
        if (d == 0) group->counts[k] += (double)count * block->heaviest; \
        d += CHUNKS * SINGLES; \
    } while (0)

/* Adds the counts and the moments about the means of the minor pairs of component k. */
static OUTLINED void add_minor_moments(const struct bounded *group, const struct block *block, ptrdiff_t k) {
    ptrdiff_t start = block->minor_ends[k], end = block->minor_ends[k + 1], width = group->single_width;
    float first[MOST_SINGLES], second[MOST_SINGLES];
    const float *mean = group->minor_means + k * width;
    double *restrict firsts = group->first + k * group->width, *restrict seconds = group->second + k * group->width;
    ptrdiff_t d = 0;
#if VECTOR_BYTES == 64
    while (width - d >= 4 * SINGLES) ADD_MINOR_PAIRS(4);
    if (width - d == 3 * SINGLES) ADD_MINOR_PAIRS(3);
    if (width - d == 2 * SINGLES) ADD_MINOR_PAIRS(2);
    if (width - d == SINGLES) ADD_MINOR_PAIRS(1);
#else
    while (d < width) ADD_MINOR_PAIRS(16 / SINGLES);
#endif
    for (ptrdiff_t j = 0; j < group->n_leading; j++) {
        double scale = group->minor_scale[j];
        firsts[j] += block->heaviest * ((double)first[j] * scale);
        seconds[j] += block->heaviest * ((double)second[j] * (scale * scale));
    }
}

/* Adds the counts and the moments about the means of the listed pairs to the group's sums. */
static OUTLINED void add_pair_moments(const struct bounded *group, const struct block *block) {
    for (ptrdiff_t k = 0; k < group->n_components; k++) {
        ptrdiff_t start = block->ends[k], end = block->ends[k + 1], d = 0;
        const double *mean = group->means + k * group->width;
        double *first = group->first + k * group->width, *second = group->second + k * group->width;
        if (block->has_minor_pairs && block->minor_ends[k] < block->minor_ends[k + 1]) add_minor_moments(group, block, k);
        if (start == end) continue;
        prefetch_line(group, group->means, k);
        prefetch_line(group, group->first, k);
        prefetch_line(group, group->second, k);
        while (group->width - d >= MOST_CHUNKS * DOUBLES) ADD_PAIRS(MOST_CHUNKS);
        switch ((group->width - d) / DOUBLES) {
        case 1: ADD_PAIRS(1); break;
        case 2: ADD_PAIRS(2); break;
        case 3: ADD_PAIRS(3); break;
#if VECTOR_BYTES == 64
        case 4: ADD_PAIRS(4); break;
        case 5: ADD_PAIRS(5); break;
        case 6: ADD_PAIRS(6); break;
        case 7: ADD_PAIRS(7); break;
#endif
        }
    }
}

/* The whole E-step of a tile, whose sample weights are in double: adds to the group's sums and writes the log-likelihood.
 * Returns 0, with the sums undefined, if too many pairs of some block are not negligible. */
int bounded_sweep(const struct rows *tile, const struct bounded *group, double least, char *work, double *log_likelihood) {
    struct block block;
    divide_work(group, work, &block);
    block.has_minor_pairs = group->minor_offsets != NULL;
    block.heaviest = tile->max_sample_weight > 0 ? tile->max_sample_weight : 1;
    *log_likelihood = 0;
    if (!seems_bounded(tile, group, &block)) return 0;
    for (ptrdiff_t start = 0; start < tile->n_rows; start += block.height) {
        const double *sample_weight = tile->sample_weight ? (const double *)tile->sample_weight + start : NULL;
        if (!complete_block(tile, group, start, sample_weight, &block)) return 0;
        *log_likelihood += normalise_pairs(group, &block, sample_weight, least);
        add_pair_moments(group, &block);
        if (group->scatter) add_scatter(group, &block, sample_weight);
    }
    return 1;
}

/* Responsibilities (K, n) of a tile's rows, zero where negligible, into resp, and their log-densities (n,) into log_density;
 * both are of float if `is_single`. Returns 0, with both undefined, if too many pairs of some block are not negligible. */
int bounded_posterior(
    const struct rows *tile, const struct bounded *group, double least, int is_single, char *work, void *resp, void *log_density
) {
    struct block block;
    float *singles = resp, *single_densities = log_density;
    double *doubles = resp, *double_densities = log_density;
    divide_work(group, work, &block);
    block.has_minor_pairs = 0;
    block.heaviest = 1;
    memset(resp, 0, group->n_components * tile->n_rows * (is_single ? sizeof(float) : sizeof(double)));
    for (ptrdiff_t start = 0; start < tile->n_rows; start += block.height) {
        if (!complete_block(tile, group, start, NULL, &block)) return 0;
        normalise_pairs(group, &block, NULL, least);
        for (ptrdiff_t i = 0; i < block.n; i++)
            if (is_single) single_densities[start + i] = (float)block.tops[i]; else double_densities[start + i] = block.tops[i];
        for (ptrdiff_t k = 0; k < group->n_components; k++)
            for (ptrdiff_t p = block.ends[k]; p < block.ends[k + 1]; p++) {
                ptrdiff_t place = k * tile->n_rows + start + block.chosen[p];
                if (is_single) singles[place] = (float)block.values[p]; else doubles[place] = block.values[p];
            }
    }
    return 1;
}
