/* CUDA kernels for array operations for which CuPy has no fast function. cuda.py compiles raw_types.h and this file
   together, and launches the kernels. Options of the compiler define REAL, the precision of the tile; LEAST, the exponent
   below which responsibilities are zero; and FEATURES_OF_A_THREAD.

   Each thread writes its own numbers and waits for no other thread, without atomics, shared memory or barriers, so that no
   result depends on the order in which threads run. Neighbouring threads take neighbouring rows of a tile, which
   are adjacent in memory. */

typedef long long Size;
typedef unsigned long long Bits;

#define ROW ((Size)blockIdx.x * blockDim.x + threadIdx.x)
#define LINE ((Size)blockIdx.y)
#define KERNEL extern "C" __global__ void

/* The first feature of a group of features, and the end of a group of n features. */
#define START_OF(group) ((group) * FEATURES_OF_A_THREAD)
#define END_OF(group, n) (START_OF(group + 1) < n ? START_OF(group + 1) : n)

/* Rows (n, d) minus the centre (d), in double, into out (d, n): a thread for each row and group of features. */
#define CENTER_TRANSPOSE(code, RAW, unused)                                                        \
    KERNEL center_transpose_##code(const RAW *rows, Size n, Size d, const double *centre,          \
                                   REAL *out)                                                      \
    {                                                                                              \
        if (ROW < n)                                                                               \
            for (Size j = START_OF(LINE); j < END_OF(LINE, d); j++)                                \
                out[j * n + ROW] = (REAL)((double)rows[ROW * d + j] - centre[j]);                  \
    }

RAW_TYPES(CENTER_TRANSPOSE, 0)

/* Products x_i x_j, j <= i, of rows (d, n) into out (d (d + 1) / 2, n): a thread for each row
   and feature i. */
KERNEL pairs(const REAL *rows, Size n, REAL *out)
{
    if (ROW < n) {
        const REAL own = rows[LINE * n + ROW];
        REAL *products = out + LINE * (LINE + 1) / 2 * n + ROW;
        for (Size j = 0; j <= LINE; j++)
            products[j * n] = own * rows[j * n + ROW];
    }
}

/* keep times out (k, n) plus factor times the sums over d of the squares of rows (k, d, n), into out: a thread for each row
   and k. */
KERNEL squared_norms(const REAL *rows, Size d, Size n, REAL keep, REAL factor, REAL *out)
{
    if (ROW < n) {
        const REAL *own = rows + LINE * d * n + ROW;
        REAL sum = 0;
        for (Size j = 0; j < d; j++)
            sum += own[j * n] * own[j * n];
        sum *= factor;
        out[LINE * n + ROW] = keep == 0 ? sum : keep * out[LINE * n + ROW] + sum;
    }
}

/* log_norm_k minus half the distance sum_d p_kd (x_d - m_kd)^2 of rows (d, n), into out (k, n): a thread for each row
   and k. The precisions p_kd are at step * d after p_k0; step is 0 where all features share one. */
KERNEL distances(const REAL *rows, Size d, Size n, const REAL *means, const REAL *precisions, Size step,
                 const REAL *log_norm, REAL *out)
{
    if (ROW < n) {
        const REAL *mean = means + LINE * d, *precision = precisions + LINE * (step ? d : 1);
        REAL sum = 0;
        for (Size j = 0; j < d; j++) {
            const REAL apart = rows[j * n + ROW] - mean[j];
            sum += precision[step * j] * (apart * apart);
        }
        out[LINE * n + ROW] = log_norm[LINE] - sum / 2;
    }
}

/* Rows (d, n) minus the mean (d), times the square roots of the responsibilities (n), into out (d, n), and the square
   roots into root (n): a thread for each row and group of features. */
KERNEL scale(const REAL *rows, Size d, Size n, const REAL *resp, const REAL *mean, REAL *root, REAL *out)
{
    if (ROW < n) {
        const REAL own = sqrt(resp[ROW]);
        if (LINE == 0)
            root[ROW] = own;
        for (Size j = START_OF(LINE); j < END_OF(LINE, d); j++)
            out[j * n + ROW] = (rows[j * n + ROW] - mean[j]) * own;
    }
}

/* The first of two steps of a log-sum-exp, with a thread for each row and slice of `some` components: the greatest
   log-density of each slice and the sum of its exponentials, into top and sum (slices, n). */
KERNEL sum_slices(const REAL *log_prob, Size k, Size n, Size some, REAL *top, REAL *sum)
{
    if (ROW < n) {
        const Size start = LINE * some, stop = start + some < k ? start + some : k;
        REAL greatest = log_prob[start * n + ROW], total = 0;
        for (Size j = start + 1; j < stop; j++)
            greatest = fmax(greatest, log_prob[j * n + ROW]);
        for (Size j = start; j < stop; j++)
            total += log_prob[j * n + ROW] == greatest ? 1 : exp(log_prob[j * n + ROW] - greatest);
        top[LINE * n + ROW] = greatest;
        sum[LINE * n + ROW] = total;
    }
}

/* Nearly the largest finite number. */
#define LARGEST (sizeof(REAL) == 8 ? (REAL)1.7e308 : (REAL)3.4e38)

/* The second step: from top and sum of all slices, responsibilities in place of log_prob (k, n), and log-densities (n);
   zero and -inf where all components have -inf. A log-density that is NaN makes the row's NaN by the sums; fmax ignores
   it. */
KERNEL log_sum_exp(REAL *log_prob, Size k, Size n, Size some, Size slices, const REAL *top, const REAL *sum,
                   REAL *log_density)
{
    if (ROW < n) {
        const Size start = LINE * some, stop = start + some < k ? start + some : k;
        REAL greatest = top[ROW], total = 0;
        for (Size s = 1; s < slices; s++)
            greatest = fmax(greatest, top[s * n + ROW]);
        for (Size s = 0; s < slices; s++)
            total += sum[s * n + ROW] * (top[s * n + ROW] == greatest ? 1 : exp(top[s * n + ROW] - greatest));
        if (LINE == 0)
            log_density[ROW] = greatest + log(total);
        const REAL from = greatest < -LARGEST ? 0 : greatest;
        for (Size j = start; j < stop; j++) {
            const REAL below = log_prob[j * n + ROW] - from;
            log_prob[j * n + ROW] = below < LEAST ? 0 : exp(below) / total;
        }
    }
}

/* Sums over `some` rows of responsibilities (k, n) times the differences of rows (d, n) from means (k, d), and times their
   squares, into first and second (slices, k, d): a thread for each component, feature and slice of rows. */
KERNEL moments(const REAL *rows, Size d, Size n, const REAL *resp, Size k, const REAL *means, Size some, REAL *first,
               REAL *second)
{
    if (ROW < k * d) {
        const REAL *line = rows + ROW % d * n, *own = resp + ROW / d * n, mean = means[ROW];
        const Size start = LINE * some, stop = start + some < n ? start + some : n;
        REAL sum = 0, squares = 0;
        for (Size i = start; i < stop; i++) {
            const REAL apart = line[i] - mean, weighted = own[i] * apart;
            sum += weighted;
            squares += weighted * apart;
        }
        first[LINE * k * d + ROW] = sum;
        second[LINE * k * d + ROW] = squares;
    }
}

/* Rounds values (size) to fixed point and adds them to limbs (n_limbs, size) of `bits` bits; quanta (size), powers of two,
   are the units of the first limb. A value that is too large for a limb adds zero. Then every limb but the first carries
   into the one before it. A thread for each value. */
KERNEL add(Size *limbs, Size n_limbs, Size size, const double *values, const double *quanta, int bits)
{
    if (ROW < size) {
        const double down = 1.0 / ((Size)1 << bits);
        double rest = values[ROW], unit = quanta[ROW];
        for (Size limb = 0; limb < n_limbs; limb++) {
            const double scaled = rest / unit, digits = fabs(scaled) < MOST_DIGITS ? rint(scaled) : 0;
            rest -= digits * unit;
            limbs[limb * size + ROW] += (Size)digits;
            unit *= down;
        }
        for (Size limb = n_limbs - 1; limb > 0; limb--) {
            const Size up = (limbs[limb * size + ROW] + ((Size)1 << (bits - 1))) >> bits;
            limbs[limb * size + ROW] -= (Size)((Bits)up << bits);
            limbs[(limb - 1) * size + ROW] += up;
        }
    }
}
