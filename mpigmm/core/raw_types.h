/* The types of number of rows that array operations read, one line each: NumPy's code and the type in C. The C and CUDA
 * sources include this file, and raw_types.py reads it, so that a type is added only here. Rows of other types are converted
 * to double first.
 *
 * RAW_TYPES(F, argument) calls F(code, type, argument) for each type. Floating-point types come first.
 */
#define RAW_TYPES(F, argument) \
    F(f8, double, argument) \
    F(f4, float, argument) \
    F(i1, signed char, argument) \
    F(i2, short, argument) \
    F(i4, int, argument) \
    F(i8, long long, argument) \
    F(u1, unsigned char, argument) \
    F(u2, unsigned short, argument) \
    F(u4, unsigned int, argument) \
    F(u8, unsigned long long, argument)

/* Largest magnitude of a double that is converted to an integer of 64 bits. */
#define MOST_DIGITS 9.2e18
