/* Rows of any of RAW_TYPES minus the centre, in a precision. The differences are computed in double. */

/* Features `first` to first + size - 1 of LANES rows of integers, minus the centre, into out, whose lines are
 * FEATURES_AT_ONCE apart. */
#define CONVERT(RAW) \
    do { \
        const RAW *restrict from = raw; \
        for (ptrdiff_t i = 0; i < LANES; i++) \
            for (ptrdiff_t j = 0; j < size; j++) \
                out[i * FEATURES_AT_ONCE + j] = (REAL)((double)from[i * n_features + first + j] - centre[first + j]); \
    } while (0)

static OUTLINED void NAME(convert)(
    const void *raw, int kind, ptrdiff_t n_features, ptrdiff_t first, ptrdiff_t size, const double *restrict centre,
    REAL *restrict out
) {
    WITH_RAW(kind, CONVERT)
}

/* NAME(center_transpose) for LANES rows of integers with LANES features or more: converts up to FEATURES_AT_ONCE features at
 * a time and then transposes them. */
static void NAME(center_transpose_integers)(
    const void *raw, int kind, ptrdiff_t n_features, ptrdiff_t n_used, const double *centre, REAL *out, ptrdiff_t stride
) {
    REAL part[VECTOR_BYTES / REAL_BYTES * FEATURES_AT_ONCE];
    for (ptrdiff_t next = 0; next < n_used; next += FEATURES_AT_ONCE) {
        ptrdiff_t first = next + LANES < n_used ? next : n_used - LANES; /* the last ones may be converted twice */
        ptrdiff_t size = n_used - first < FEATURES_AT_ONCE ? n_used - first : FEATURES_AT_ONCE;
        NAME(convert)(raw, kind, n_features, first, size, centre, part);
        for (ptrdiff_t at = 0; at < size; at += LANES) {
            ptrdiff_t d = at + LANES < size ? at : size - LANES;
            VECTOR square[VECTOR_BYTES / REAL_BYTES];
            UNROLLED for (ptrdiff_t i = 0; i < LANES; i++) square[i] = NAME(load)(part + i * FEATURES_AT_ONCE + d);
            NAME(transpose)(square);
            UNROLLED for (ptrdiff_t j = 0; j < LANES; j++) *(VECTOR *)(out + (first + d + j) * stride) = square[j];
        }
    }
}

/* The first n_used features of rows (n, D) minus the centre (D,), transposed, into the first n_used lines of out
 * (D, stride); columns from n on are zero. */
#define CENTER_TRANSPOSE(RAW) \
    do { \
        const RAW *rows = raw; \
        const int are_short = sizeof(RAW) < sizeof(double); /* others are converted as fast one by one */ \
        for (ptrdiff_t start = 0; start < whole; start += LANES) { \
            const RAW *from = rows + start * n_features; \
            if (kind >= FIRST_INTEGER && n_used >= LANES) \
                NAME(center_transpose_integers)(from, kind, n_features, n_used, centre, out + start, stride); \
            for (ptrdiff_t j = 0; are_short && n_features < LANES && j < LANES * n_features; j++) \
                few[j] = (REAL)((double)from[j] - centres[j]); \
            for (ptrdiff_t d = 0; are_short && n_features < LANES && d < n_used; d++) \
                UNROLLED for (ptrdiff_t i = 0; i < LANES; i++) out[d * stride + start + i] = few[i * n_features + d]; \
            for (ptrdiff_t d = 0; !(are_short && n_features < LANES) && n_used < LANES && d < n_used; d++) \
                UNROLLED for (ptrdiff_t i = 0; i < LANES; i++) \
                    out[d * stride + start + i] = (REAL)((double)from[i * n_features + d] - centre[d]); \
            for (ptrdiff_t next = LANES; kind < FIRST_INTEGER && next < n_used + LANES && n_used >= LANES; \
                 next += LANES) { \
                ptrdiff_t d = next < n_used ? next - LANES : n_used - LANES; /* the last ones may be transposed twice */ \
                VECTOR square[VECTOR_BYTES / REAL_BYTES]; \
                UNROLLED for (ptrdiff_t i = 0; i < LANES; i++) { \
                    REAL line[VECTOR_BYTES / REAL_BYTES]; \
                    for (ptrdiff_t j = 0; j < LANES; j++) \
                        line[j] = (REAL)((double)from[i * n_features + d + j] - centre[d + j]); \
                    square[i] = NAME(load)(line); \
                } \
                NAME(transpose)(square); \
                UNROLLED for (ptrdiff_t j = 0; j < LANES; j++) \
                    *(VECTOR *)(out + (d + j) * stride + start) = square[j]; \
            } \
        } \
        for (ptrdiff_t d = 0; d < n_used; d++) { \
            for (ptrdiff_t i = whole; i < n; i++) \
                out[d * stride + i] = (REAL)((double)rows[i * n_features + d] - centre[d]); \
            for (ptrdiff_t i = n; i < stride; i++) out[d * stride + i] = 0; \
        } \
    } while (0)

void NAME(center_transpose)(
    const void *raw, int kind, ptrdiff_t n, ptrdiff_t n_features, ptrdiff_t n_used, const double *restrict centre,
    REAL *restrict out, ptrdiff_t stride
) {
    REAL few[VECTOR_BYTES / REAL_BYTES * VECTOR_BYTES / REAL_BYTES] = {0}; /* LANES rows of fewer features, minus the centre */
    double centres[VECTOR_BYTES / REAL_BYTES * VECTOR_BYTES / REAL_BYTES];
    ptrdiff_t whole = n / LANES * LANES;
    for (ptrdiff_t j = 0; n_features < LANES && j < LANES * n_features; j++) centres[j] = centre[j % n_features];
    WITH_RAW(kind, CENTER_TRANSPOSE)
}

/* Rows (n, D) minus the centre (D,), into out (n, width); numbers from D to width - 1 of a row become zero. Converts LANES
 * features at a time if there are so many; the last ones may be converted twice. */
#define COPY_ROWS(RAW) \
    do { \
        const RAW *restrict from = raw; \
        for (ptrdiff_t i = 0; i < n; i++, from += n_features, out += width) { \
            for (ptrdiff_t d = 0; n_features < LANES && d < n_features; d++) out[d] = (REAL)((double)from[d] - centre[d]); \
            for (ptrdiff_t next = LANES; next < n_features + LANES && n_features >= LANES; next += LANES) { \
                ptrdiff_t d = next < n_features ? next - LANES : n_features - LANES; \
                for (ptrdiff_t j = 0; j < LANES; j++) out[d + j] = (REAL)((double)from[d + j] - centre[d + j]); \
            } \
            for (ptrdiff_t d = n_features; d < width; d++) out[d] = 0; \
        } \
    } while (0)

static void NAME(copy_rows)(
    const void *raw, int kind, ptrdiff_t n, ptrdiff_t n_features, const double *restrict centre, REAL *restrict out,
    ptrdiff_t width
) {
    WITH_RAW(kind, COPY_ROWS)
}

void NAME(center)(
    const void *raw, int kind, ptrdiff_t n, ptrdiff_t n_features, const double *restrict centre, REAL *restrict out
) {
    NAME(copy_rows)(raw, kind, n, n_features, centre, out, n_features);
}
