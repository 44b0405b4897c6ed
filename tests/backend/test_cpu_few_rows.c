/* Products of a few rows: the inner loops of every instruction set, and the whole way with operands
 * of any types, by any number of threads, against sums in double. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/gemm.h"
#include "base/half.h"
#include "base/rng.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

static float number(uint64_t seed, int64_t i) {
    return (float)ds_philox(seed, (uint64_t)i, 0).word[0] * 0x1p-31f - 1.0f;
}

static float as_stored(ds_dtype dtype, float x) {
    return dtype == DS_BF16  ? ds_bf16_to_f32(ds_f32_to_bf16(x))
           : dtype == DS_F16 ? ds_f16_to_f32(ds_f32_to_f16(x))
                             : x;
}

/* n numbers of the seed; the caller's to free(). */
static void *stored(ds_dtype dtype, uint64_t seed, int64_t n) {
    void *data = malloc((size_t)n * ds_dtype_size(dtype) + 1);
    assert_non_null(data);
    for (int64_t i = 0; i < n; i++) {
        const float x = number(seed, i);
        if (dtype == DS_F32)
            ((float *)data)[i] = x;
        else
            ((uint16_t *)data)[i] = dtype == DS_BF16 ? ds_f32_to_bf16(x) : ds_f32_to_f16(x);
    }
    return data;
}

static void check(float got, double want, int64_t k) {
    if (!(fabs((double)got - want) <= 1e-6 * (double)(k + 10)))
        fail_msg("%.9g is not %.9g (a sum of %d)", (double)got, want, (int)k);
}

/* y[r][j] of x [rows, k + 3] and w [n, k + 5], or [k, n + 5] by columns. */
static void check_loops(const ds_simd *simd, ds_dtype dtype, int rows, int64_t n, int64_t k,
                        bool by_columns) {
    const int64_t x_stride = k + 3, w_stride = (by_columns ? n : k) + 5, y_stride = n + 2;
    const int64_t n_w = w_stride * (by_columns ? k : n);
    float *x = stored(DS_F32, 1, rows * x_stride), *y = stored(DS_F32, 3, rows * y_stride);
    void *w = stored(dtype, 2, n_w);
    if (by_columns)
        simd->axpys(dtype, w, w_stride, x, x_stride, rows, y, y_stride, n, k);
    else
        simd->dots(dtype, w, w_stride, x, x_stride, rows, y, y_stride, n, k);
    for (int r = 0; r < rows; r++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = by_columns ? (double)number(3, r * y_stride + j) : 0; /* added to */
            for (int64_t i = 0; i < k; i++) {
                const int64_t at = by_columns ? i * w_stride + j : j * w_stride + i;
                sum += (double)x[r * x_stride + i] * (double)as_stored(dtype, number(2, at));
            }
            check(y[r * y_stride + j], sum, k);
        }
        assert_true(y[r * y_stride + n] == number(3, r * y_stride + n)); /* not written */
    }
    free(x), free(y), free(w);
}

static void test_loops(void **unused) {
    (void)unused;
    static const int64_t lengths[] = {1, 7, 16, 33, 64, 131, 600};
    const ds_simd *tables[DS_SIMD_TABLES];
    const int n_tables = ds_simd_all(tables);
    for (int t = 0; t < n_tables; t++)
        for (int d = 0; d < 3; d++)
            for (int rows = 1; rows <= DS_DOTS_ROWS; rows++)
                for (int l = 0; l < 7; l++) {
                    check_loops(tables[t], floats[d], rows, 11, lengths[l], false);
                    check_loops(tables[t], floats[d], rows, lengths[l], 13, true);
                }
}

/* Weights that are not numbers come through: a NaN in f16 is one in f32. */
static void test_not_numbers(void **unused) {
    (void)unused;
    const ds_simd *tables[DS_SIMD_TABLES];
    const int n_tables = ds_simd_all(tables);
    float x[70], y = 0;
    for (int i = 0; i < 70; i++)
        x[i] = 1;
    for (int t = 0; t < n_tables; t++)
        for (int place = 0; place < 70; place += 23)
            for (int d = 1; d < 3; d++) {
                uint16_t w[70] = {0};
                w[place] = d == 1 ? 0x7FC0 : 0x7E00;
                tables[t]->dots(floats[d], w, 70, x, 70, 1, &y, 1, 1, 70);
                assert_true(isnan(y));
                w[place] = d == 1 ? 0xFF80 : 0xFC00;
                tables[t]->dots(floats[d], w, 70, x, 70, 1, &y, 1, 1, 70);
                assert_true(isinf(y) && y < 0);
            }
}

static void check_product(ds_dtype a, ds_dtype b, int64_t m, int64_t n, int64_t k, bool by_rows,
                          int n_threads) {
    ds_product p = {.batch = 1, .m = m, .n = n, .k = k};
    p.a = (ds_operand){.dtype = a, .row_stride = k + 1, .column_stride = 1};
    p.b = by_rows ? (ds_operand){.dtype = b, .row_stride = 1, .column_stride = k + 2}
                  : (ds_operand){.dtype = b, .row_stride = n + 2, .column_stride = 1};
    p.c = (ds_operand){.dtype = DS_F32, .row_stride = n, .column_stride = 1};
    assert_true(ds_few_rows_accepts(&p));
    ds_gemm *g = NULL;
    assert_int_equal(ds_gemm_new(&p, n_threads, &g), DS_OK);
    void *x = stored(a, 1, m * (k + 1)), *w = stored(b, 2, (n + 2) * (k + 2));
    float *y = calloc((size_t)(m * n), sizeof *y), *bias = stored(DS_F32, 4, n);
    void *workspace = aligned_alloc(64, (ds_gemm_workspace(g) / 64 + 1) * 64);
    assert_int_equal(ds_gemm_run(g, x, w, y, bias, NULL, workspace), DS_OK);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)as_stored(a, number(1, i * (k + 1) + l)) *
                       (double)as_stored(b, number(2, l * p.b.row_stride + j * p.b.column_stride));
            check(y[i * n + j], sum, k);
        }
    ds_gemm_free(g);
    free(x), free(w), free(y), free(bias), free(workspace);
}

static void test_products(void **unused) {
    (void)unused;
    for (int d = 0; d < 9; d++)
        for (int64_t m = 1; m <= 8; m++)
            for (int threads = 1; threads <= 3; threads++) {
                check_product(floats[d / 3], floats[d % 3], m, 70, 260, true, threads);
                check_product(floats[d / 3], floats[d % 3], m, 1100, 50, false, threads);
            }
    check_product(DS_F32, DS_BF16, 15, 33, 64, true, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_not_numbers),
        cmocka_unit_test(test_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
