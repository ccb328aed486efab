/* Matrix products, block by block: a block of the result is up to TALLEST lines by two vectors, whose sums stay in
 * registers.
 *
 * A line is a row of a matrix; `stride` is the distance from one line to the next, in numbers. Rows of the data are columns
 * of these matrices.
 */

/* Computes the block sums[r][c] = sum over l < depth of one[r * down + l * along] times vector c of line l of `other`.
 * Unless `ahead` is null, each step also prefetches one cache line, starting at `ahead`. */
INLINE void NAME(block)(
    const int height, const int vectors, const REAL *one, ptrdiff_t down, ptrdiff_t along, const REAL *other,
    ptrdiff_t stride, ptrdiff_t depth, const char *ahead, VECTOR sums[TALLEST][2]
) {
    UNROLLED for (int r = 0; r < height; r++)
        UNROLLED for (int c = 0; c < vectors; c++) sums[r][c] = (VECTOR){0};
    for (ptrdiff_t l = 0; l < depth; l++) {
        VECTOR line[2];
        if (ahead) __builtin_prefetch(ahead + CACHE_LINE * l, 0, 2);
        UNROLLED for (int c = 0; c < vectors; c++) line[c] = NAME(load)(other + l * stride + c * LANES);
        UNROLLED for (int r = 0; r < height; r++) {
            REAL factor = one[r * down + l * along];
            UNROLLED for (int c = 0; c < vectors; c++) sums[r][c] += factor * line[c];
        }
    }
}

/* one (height, depth) times other (depth, n) into out (height, n); n is a multiple of WIDTH. If `triangular`, `one` is a
 * lower triangular matrix, whose entries above the diagonal are not read. Prefetches `each` bytes for each of the n columns,
 * starting at `ahead`. */
#define PRODUCT(HEIGHT, unused) \
    do { \
        VECTOR sums[TALLEST][2]; \
        NAME(block)(HEIGHT, 2, one + first * depth, depth, 1, other + at, stride, used, ahead + at * each, sums); \
        UNROLLED for (int r = 0; r < HEIGHT; r++) \
            UNROLLED for (int c = 0; c < 2; c++) *(VECTOR *)(out + (first + r) * stride + at + c * LANES) = sums[r][c]; \
    } while (0)

static void NAME(multiply)(
    const REAL *one, const REAL *other, REAL *out, ptrdiff_t height, ptrdiff_t depth, ptrdiff_t n, ptrdiff_t stride,
    int triangular, const char *ahead, ptrdiff_t each
) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST;
    for (ptrdiff_t at = 0; at < n; at += WIDTH)
        for (ptrdiff_t group = 0; group < groups; group++) {
            ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
            ptrdiff_t used = triangular && last < depth ? last : depth;
            WITH_HEIGHT(last - first, PRODUCT, 0)
        }
}

/* Adds one (height, n) times the transpose of other (width, n) to sums; n is a multiple of LANES. If both are the same rows
 * (symmetric), only the blocks with entries in the lower triangle are computed.
 *
 * The sums are kept block by block, in the order in which they are computed, and `unpack` makes a matrix of them. A block
 * is a group of up to TALLEST lines by two columns; block number (group * pairs + pair) begins at SLOTS times its number.
 * Its sum of line r and column c is at 2 r + c; what is left up to SLOTS, a multiple of LANES, is padding. An example with
 * height 5, width 5 and groups of 3 and 2 lines:
 *
 *     column     0   1   2   3   4   -        in each block
 *              +-------+-------+-------+      +-------+
 *     line 0   |       |       |       |      | 0   1 |
 *          1   |   0   |   1   |   2   |      | 2   3 |
 *          2   |       |       |       |      | 4   5 |
 *              +-------+-------+-------+      +-------+
 *          3   |   3   |   4   |   5   |      | 6 ... | padding up to SLOTS
 *          4   |       |       |       |      +-------+
 *              +-------+-------+-------+
 *
 * An odd last column is paired with itself.
 */
#define ADD_PRODUCT(HEIGHT, unused) \
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

static void NAME(add_product)(
    const REAL *one, const REAL *other, double *sums, ptrdiff_t height, ptrdiff_t width, ptrdiff_t n, ptrdiff_t stride,
    int symmetric
) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST, pairs = (width + 1) / 2;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
        for (ptrdiff_t at = 0; at < (symmetric ? last : width); at += 2) {
            ptrdiff_t next = at + 1 < width ? at + 1 : at;
            double *restrict block = sums + (group * pairs + at / 2) * SLOTS;
            WITH_HEIGHT(last - first, ADD_PRODUCT, 0)
        }
    }
}

/* Size of the sums of a product (height, width), in numbers. */
static ptrdiff_t NAME(sums_size)(ptrdiff_t height, ptrdiff_t width) {
    return (height + TALLEST - 1) / TALLEST * ((width + 1) / 2) * SLOTS;
}

/* Copies the sums of `add_product` into a matrix (height, width). */
static void NAME(unpack)(const double *sums, double *out, ptrdiff_t height, ptrdiff_t width) {
    ptrdiff_t groups = (height + TALLEST - 1) / TALLEST, pairs = (width + 1) / 2;
    for (ptrdiff_t group = 0; group < groups; group++) {
        ptrdiff_t first = group * height / groups, last = (group + 1) * height / groups;
        for (ptrdiff_t r = first; r < last; r++)
            for (ptrdiff_t c = 0; c < width; c++)
                out[r * width + c] = sums[(group * pairs + c / 2) * SLOTS + 2 * (r - first) + c % 2];
    }
}
