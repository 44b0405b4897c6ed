/* One loop per dtype and operation, written out by a macro so that each compiles to vector code. */
#include "comm/combine.h"

#include "base/half.h"

typedef void combiner(void *out, const void *a, const void *b, int64_t n, float scale);

/* Integer sums wrap: they are done in the unsigned type. NaN wins a comparison on either side. */
#define SUM(x, y)        ((x) + (y))
#define SCALED_SUM(x, y) (((x) + (y)) * scale)
#define FLOAT_MAX(x, y)  ((x) > (y) || (x) != (x) ? (x) : (y))
#define FLOAT_MIN(x, y)  ((x) < (y) || (x) != (x) ? (x) : (y))
#define LARGER(x, y)     ((x) > (y) ? (x) : (y))
#define SMALLER(x, y)    ((x) < (y) ? (x) : (y))
#define SAME(x)          (x)

#define COMBINER(name, type, wide, load, store, op)                                                \
    static void name(void *out, const void *a, const void *b, int64_t n, float scale) {            \
        __typeof__((type)0) *o = out;                                                              \
        const __typeof__((type)0) *p = a, *q = b;                                                  \
        (void)scale;                                                                               \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const wide x = load(p[i]), y = load(q[i]);                                             \
            o[i] = (type)store(op(x, y));                                                          \
        }                                                                                          \
    }

#define FLOATS(name, type, load, store)                                                            \
    COMBINER(name##_sum, type, float, load, store, SUM)                                            \
    COMBINER(name##_avg, type, float, load, store, SCALED_SUM)                                     \
    COMBINER(name##_max, type, float, load, store, FLOAT_MAX)                                      \
    COMBINER(name##_min, type, float, load, store, FLOAT_MIN)

#define INTS(name, type, unsigned_type)                                                            \
    COMBINER(name##_sum, unsigned_type, unsigned_type, SAME, SAME, SUM)                            \
    COMBINER(name##_max, type, type, SAME, SAME, LARGER)                                           \
    COMBINER(name##_min, type, type, SAME, SAME, SMALLER)

FLOATS(f32, float, SAME, SAME)
FLOATS(bf16, uint16_t, ds_bf16_to_f32, ds_f32_to_bf16)
FLOATS(f16, uint16_t, ds_f16_to_f32, ds_f32_to_f16)
INTS(i8, int8_t, uint8_t)
INTS(i32, int32_t, uint32_t)
INTS(i64, int64_t, uint64_t)

static combiner *const combiners[DS_DTYPES][DS_COMM_OPS] = {
    [DS_F32] = {f32_sum, f32_max, f32_min, f32_avg},
    [DS_BF16] = {bf16_sum, bf16_max, bf16_min, bf16_avg},
    [DS_F16] = {f16_sum, f16_max, f16_min, f16_avg},
    [DS_I8] = {i8_sum, i8_max, i8_min, NULL},
    [DS_I32] = {i32_sum, i32_max, i32_min, NULL},
    [DS_I64] = {i64_sum, i64_max, i64_min, NULL},
};

bool ds_combine_knows(ds_dtype dtype, ds_comm_op op) {
    return (unsigned)dtype < DS_DTYPES && (unsigned)op < DS_COMM_OPS && combiners[dtype][op];
}

void ds_combine(void *out, const void *a, const void *b, int64_t count, ds_dtype dtype,
                ds_comm_op op, float scale, int n_threads) {
    enum { SHARE = 16384 }; /* elements that are worth a thread */
    /* an average is a sum until its last addition, whose scale is not 1 */
    combiner *combine =
        combiners[dtype][op == DS_COMM_AVG && scale == 1.0f ? (int)DS_COMM_SUM : (int)op];
    if (n_threads <= 1 || count < 2 * SHARE) {
        combine(out, a, b, count, scale);
        return;
    }
    const size_t size = ds_dtype_size(dtype);
    const int64_t parts = (count + SHARE - 1) / SHARE;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t part = 0; part < parts; part++) {
        const int64_t first = part * SHARE, left = count - first;
        const size_t at = (size_t)first * size;
        combine((char *)out + at, (const char *)a + at, (const char *)b + at,
                left < SHARE ? left : SHARE, scale);
    }
}
