/* Matrix products, block by block: a block of the result is up to TALLEST lines by two vectors, whose sums stay in
 * registers.
 *
 * A line is a row of a matrix; `stride` is the distance from one line to the next, in numbers. Rows of the data are columns
 * of these matrices.
 */

/* Computes the block sums[r][c] = sum over l < depth of one[r * down + l * along] times vector c of line l of `other`.
 * Unless `ahead` is null, each step also prefetches `fetch` bytes, starting at `ahead`. */
INLINE void NAME(block_and_fetch)(
    const int height, const int vectors, const REAL *one, ptrdiff_t down, ptrdiff_t along, const REAL *other,
    ptrdiff_t stride, ptrdiff_t depth, const char *ahead, ptrdiff_t fetch, VECTOR sums[TALLEST][2]
) {
    UNROLLED for (int r = 0; r < height; r++)
        UNROLLED for (int c = 0; c < vectors; c++) sums[r][c] = (VECTOR){0};
    for (ptrdiff_t l = 0; l < depth; l++) {
        VECTOR line[2];
        for (ptrdiff_t byte = 0; ahead && byte < fetch; byte += CACHE_LINE)
            __builtin_prefetch(ahead + l * fetch + byte, 0, 2);
        UNROLLED for (int c = 0; c < vectors; c++) line[c] = NAME(load)(other + l * stride + c * LANES);
        UNROLLED for (int r = 0; r < height; r++) {
            REAL factor = one[r * down + l * along];
            UNROLLED for (int c = 0; c < vectors; c++) sums[r][c] += factor * line[c];
        }
    }
}

/* NAME(block_and_fetch) that prefetches one cache line at each step. */
INLINE void NAME(block)(
    const int height, const int vectors, const REAL *one, ptrdiff_t down, ptrdiff_t along, const REAL *other,
    ptrdiff_t stride, ptrdiff_t depth, const char *ahead, VECTOR sums[TALLEST][2]
) {
    NAME(block_and_fetch)(height, vectors, one, down, along, other, stride, depth, ahead, CACHE_LINE, sums);
}

/* one (height, depth) times other (depth, n) into out (height, n); n is a multiple of WIDTH. If `triangular`, `one` is a
 * lower triangular matrix, whose entries above the diagonal are not read. Unless `ahead` is null, prefetches `each` bytes for
 * each of the n columns, starting at `ahead`. */
#define PRODUCT(HEIGHT, unused) \
    do { \
        VECTOR sums[TALLEST][2]; \
        const REAL *lines = one + first * depth; \
        if (fetch <= CACHE_LINE) \
            NAME(block)(HEIGHT, 2, lines, depth, 1, other + at, stride, used, next, sums); \
        else \
            NAME(block_and_fetch)(HEIGHT, 2, lines, depth, 1, other + at, stride, used, next, fetch, sums); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) *(VECTOR *)(out + (first + r) * stride + at + c * LANES) = sums[r][c]; \
    } while (0)

static void NAME(multiply)(
    const REAL *one, const REAL *other, REAL *out, ptrdiff_t height, ptrdiff_t depth, ptrdiff_t n, ptrdiff_t stride,
    int triangular, const char *ahead, ptrdiff_t each
) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST;
    ptrdiff_t fetch = (WIDTH * each / (groups * depth) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    for (ptrdiff_t at = 0; at < n; at += WIDTH)
        for (ptrdiff_t group = 0; group < groups; group++) {
            ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
            ptrdiff_t used = triangular && last < depth ? last : depth, fetched = group * depth * fetch;
            const char *next = ahead && fetched < WIDTH * each ? ahead + at * each + fetched : NULL;
            WITH_HEIGHT(last - first, PRODUCT, 0)
        }
}

/* Adds one (height, n) times the transpose of other (width, n) to sums; n is a multiple of LANES. If both are the same rows
 * (symmetric), only the blocks with entries in the lower triangle are computed.
 *
 * `other` is transposed, WIDTH of its lines at a time, so that a vector holds one number of each of LANES lines, and adding
 * over rows needs no sums of the lanes of a vector. The last lines, fewer than LANES, are not transposed; their sums are
 * added two by two.
 *
 * The sums are kept in the order in which they are computed, and `unpack` makes a matrix of them. First, for each LANES
 * columns of the result, all lines of LANES numbers. Then, for each group of up to TALLEST lines, a block of SLOTS numbers for
 * each two of the last columns: the sum of line r and column c is at 2 r + c, and what is left is padding. An odd last column
 * is paired with itself.
 */
#define ADD_LANES(HEIGHT, VECTORS) \
    do { \
        VECTOR part[TALLEST][2]; \
        NAME(block)(HEIGHT, VECTORS, one + first * stride, stride, 1, turned, WIDTH, n, NULL, part); \
        UNROLLED for (int c = 0; c < VECTORS; c++) \
            UNROLLED for (int r = 0; r < HEIGHT; r++) \
                *(WIDE *)(sums + (at + c * LANES) * height + (first + r) * LANES) \
                    += __builtin_convertvector(part[r][c], WIDE); \
    } while (0)

#define ADD_TWO(HEIGHT, unused) \
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

/* Transposes LANES lines of n numbers into out, whose lines are WIDTH apart. */
static void NAME(transpose_lines)(const REAL *lines, ptrdiff_t n, ptrdiff_t stride, REAL *out) {
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        VECTOR square[VECTOR_BYTES / REAL_BYTES];
        UNROLLED for (ptrdiff_t j = 0; j < LANES; j++) square[j] = NAME(load)(lines + j * stride + i);
        NAME(transpose)(square);
        UNROLLED for (ptrdiff_t j = 0; j < LANES; j++) *(VECTOR *)(out + (i + j) * WIDTH) = square[j];
    }
}

static void NAME(add_product)(
    const REAL *one, const REAL *other, double *sums, ptrdiff_t height, ptrdiff_t width, ptrdiff_t n, ptrdiff_t stride,
    int symmetric
) {
    REAL turned[n * WIDTH];
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST, most = width / LANES * LANES;
    for (ptrdiff_t at = 0; at < most; at += WIDTH) {
        NAME(transpose_lines)(other + at * stride, n, stride, turned);
        if (at + LANES < most) NAME(transpose_lines)(other + (at + LANES) * stride, n, stride, turned + LANES);
        for (ptrdiff_t group = 0; group < groups; group++) {
            ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
            ptrdiff_t end = symmetric && last < most ? last : most;
            if (at + LANES < end) WITH_HEIGHT(last - first, ADD_LANES, 2)
            else if (at < end) WITH_HEIGHT(last - first, ADD_LANES, 1)
        }
    }
    double *block = sums + most * height;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
        for (ptrdiff_t at = most; at < width; at += 2, block += SLOTS) {
            ptrdiff_t next = at + 1 < width ? at + 1 : at;
            if (!symmetric || at < last) WITH_HEIGHT(last - first, ADD_TWO, 0)
        }
    }
}

/* Size of the sums of a product with up to `height` lines and up to `width` columns, in numbers. */
ptrdiff_t NAME(sums_size)(ptrdiff_t height, ptrdiff_t width) {
    return width / LANES * LANES * height + (height + TALLEST - 1) / TALLEST * (LANES / 2) * SLOTS;
}

/* Copies the sums of `add_product` into a matrix (width, height). */
static void NAME(unpack)(const double *sums, double *restrict out, ptrdiff_t height, ptrdiff_t width) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST, most = width / LANES * LANES;
    for (ptrdiff_t c = 0; c < most; c++)
        for (ptrdiff_t r = 0; r < height; r++) out[c * height + r] = sums[c / LANES * LANES * height + r * LANES + c % LANES];
    sums += most * height;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
        for (ptrdiff_t at = most; at < width; at += 2, sums += SLOTS)
            for (ptrdiff_t c = at; c < width && c < at + 2; c++)
                for (ptrdiff_t r = first; r < last; r++) out[c * height + r] = sums[2 * (r - first) + c - at];
    }
}
