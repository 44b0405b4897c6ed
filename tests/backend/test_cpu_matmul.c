/* The CPU backend's matrix products against the reference. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>

#include "backend/cpu/gemm.h"
#include "base/half.h"
#include "base/rng.h"
#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const int64_t sizes[][3] = {{1, 1, 1},      {3, 5, 7},      {1, 64, 33},   {64, 1, 16},
                                   {1, 200, 1000}, {2, 67, 530},   {4, 130, 67},  {8, 96, 300},
                                   {11, 70, 40},   {48, 32, 64},   {65, 100, 31}, {130, 70, 200},
                                   {17, 256, 1},   {0, 4, 5},      {4, 0, 5},     {100, 16, 96},
                                   {300, 290, 77}, {33, 130, 600}, {40, 4200, 20}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };
static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

static ds_node *product(ds_graph *g, ds_dtype dtype, const int64_t *mkn, ds_matmul_attrs t,
                        ds_dtype residual) {
    const int64_t m = mkn[0], k = mkn[1], n = mkn[2];
    int64_t a_dims[] = {m, k}, b_dims[] = {k, n};
    if (t.transpose_a)
        a_dims[0] = k, a_dims[1] = m;
    if (t.transpose_b)
        b_dims[0] = n, b_dims[1] = k;
    ds_node *inputs[4] = {case_input(g, dtype, 2, a_dims), case_input(g, dtype, 2, b_dims)};
    int count = 2;
    if (t.has_bias)
        inputs[count++] = case_input(g, DS_F32, CASE_DIMS(n));
    if (t.has_residual)
        inputs[count++] = case_input(g, residual, CASE_DIMS(m, n));
    return ds_graph_add_node(g, &ds_op_matmul, &t, inputs, count);
}

static void plain_products(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SIZES; s++)
        for (int form = 0; form < 8; form++)
            for (int d = 0; d < 3; d++)
                for (unsigned strided = 0; strided < 4; strided += 3) {
                    ds_graph *g = ds_graph_new();
                    const ds_matmul_attrs t = {
                        .transpose_a = form & 1, .transpose_b = form & 2, .f32_result = form & 4};
                    check_kernel(product(g, floats[d], sizes[s], t, DS_F32),
                                 (kernel_case){.seed = (uint64_t)(s * 8 + form),
                                               .strided = strided,
                                               .tolerance = 1e-4,
                                               .low_tolerance = 2e-2});
                    ds_graph_free(g);
                }
}

static void fused_products(void **unused) {
    (void)unused;
    static const ds_unary activations[] = {DS_RELU, DS_GELU, DS_GELU_TANH, DS_SILU};
    for (int s = 0; s < N_SIZES; s++)
        for (int form = 1; form < 8; form++)
            for (int d = 0; d < 3; d++) {
                ds_graph *g = ds_graph_new();
                const ds_matmul_attrs t = {.has_bias = form & 1,
                                           .has_activation = form & 2,
                                           .has_residual = form & 4,
                                           .activation = activations[(s + form) % 4],
                                           .transpose_b = s & 1};
                check_kernel(product(g, floats[d], sizes[s], t, floats[d]),
                             (kernel_case){.seed = (uint64_t)(s * 8 + form),
                                           .tolerance = 2e-4,
                                           .low_tolerance = 2e-2});
                ds_graph_free(g);
            }
}

static void random_products(void **unused) {
    (void)unused;
    static const ds_unary activations[] = {DS_RELU, DS_GELU, DS_GELU_TANH, DS_SILU};
    for (uint64_t seed = 1000; seed < 1120; seed++) {
        const int64_t mkn[] = {case_size(seed, 0, 300), case_size(seed, 1, 700),
                               case_size(seed, 2, 500)};
        const int64_t form = case_choice(seed, 3, 64);
        const ds_dtype dtype = floats[case_choice(seed, 4, 3)];
        const ds_matmul_attrs t = {.transpose_a = form & 1,
                                   .transpose_b = form & 2,
                                   .f32_result = form & 4,
                                   .has_bias = form & 8,
                                   .has_activation = form & 16,
                                   .has_residual = form & 32,
                                   .activation = activations[case_choice(seed, 5, 4)]};
        ds_graph *g = ds_graph_new();
        check_kernel(product(g, dtype, mkn, t, t.f32_result ? DS_F32 : dtype),
                     (kernel_case){.seed = seed,
                                   .strided = (unsigned)case_choice(seed, 6, 4),
                                   .tolerance = 2e-4,
                                   .low_tolerance = 2e-2});
        ds_graph_free(g);
    }
}

/* A weight of another type than what it is multiplied with, as trained models are kept. */
static void products_of_two_types(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SIZES; s++)
        for (int form = 0; form < 8; form++)
            for (int d = 0; d < 9; d++) {
                const int64_t m = sizes[s][0], k = sizes[s][1], n = sizes[s][2];
                ds_graph *g = ds_graph_new();
                ds_node *x = case_input(g, floats[d / 3], CASE_DIMS(m, k));
                ds_node *w = form & 1 ? case_input(g, floats[d % 3], CASE_DIMS(n, k))
                                      : case_input(g, floats[d % 3], CASE_DIMS(k, n));
                const ds_matmul_attrs t = {.transpose_b = form & 1,
                                           .has_bias = form & 2,
                                           .has_residual = form & 4,
                                           .has_activation = form == 6,
                                           .activation = DS_SILU};
                ds_node *inputs[4] = {x, w};
                int count = 2;
                if (t.has_bias)
                    inputs[count++] = case_input(g, DS_F32, CASE_DIMS(n));
                if (t.has_residual)
                    inputs[count++] = case_input(g, floats[d / 3], CASE_DIMS(m, n));
                ds_node *y = ds_graph_add_node(g, &ds_op_matmul, &t, inputs, count);
                assert_int_equal(ds_node_dtype(y), floats[d / 3]);
                check_kernel(y, (kernel_case){.seed = (uint64_t)(s * 8 + form),
                                              .tolerance = 2e-4,
                                              .low_tolerance = 2e-2});
                ds_graph_free(g);
            }
}

static void batched_products(void **unused) {
    (void)unused;
    for (int form = 0; form < 4; form++)
        for (int d = 0; d < 3; d++)
            for (uint64_t seed = 0; seed < 6; seed++) {
                ds_graph *g = ds_graph_new();
                ds_node *a = form & 1 ? case_input(g, floats[d], CASE_DIMS(2, 3, 40, 33))
                                      : case_input(g, floats[d], CASE_DIMS(2, 3, 33, 40));
                ds_node *b = form & 2 ? case_input(g, floats[d], CASE_DIMS(2, 3, 20, 40))
                                      : case_input(g, floats[d], CASE_DIMS(2, 3, 40, 20));
                ds_node *shared = form & 2 ? case_input(g, floats[d], CASE_DIMS(20, 40))
                                           : case_input(g, floats[d], CASE_DIMS(40, 20));
                const ds_matmul_opts t = {.transpose_a = form & 1, .transpose_b = form & 2};
                const kernel_case c = {.seed = seed,
                                       .strided = (unsigned)seed % 4,
                                       .broadcast = seed == 5 ? 2 : 0,
                                       .tolerance = 1e-4,
                                       .low_tolerance = 2e-2};
                check_kernel(ds_graph_matmul(g, a, b, t), c);
                if (!(form & 1))
                    check_kernel(ds_graph_matmul(g, a, shared, t), c);
                ds_graph_free(g);
            }
}

static void integer_products(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SIZES; s++)
        for (int form = 0; form < 4; form++) {
            ds_graph *g = ds_graph_new();
            const ds_matmul_attrs t = {.transpose_a = form & 1, .transpose_b = form & 2};
            check_kernel(product(g, DS_I8, sizes[s], t, DS_I8),
                         (kernel_case){.seed = 3, .int_low = -127, .int_high = 128});
            ds_graph_free(g);
        }
}

/* ---- the product itself: sums added to c, operands with gaps --------------------------------- */

static float *numbers(uint64_t seed, int64_t n) {
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t word = ds_philox(seed, (uint64_t)i, 0).word[0];
        x[i] = ds_bf16_to_f32(ds_f32_to_bf16((float)word * 0x1p-31f - 1.0f));
    }
    return x;
}

static void *stored(ds_dtype dtype, const float *x, int64_t n) {
    void *y = malloc((size_t)n * ds_dtype_size(dtype));
    assert_non_null(y);
    for (int64_t i = 0; i < n; i++)
        if (dtype == DS_F32)
            ((float *)y)[i] = x[i];
        else
            ((uint16_t *)y)[i] = ds_f32_to_bf16(x[i]);
    return y;
}

static ds_operand laid_out(ds_dtype dtype, int64_t rows, int64_t columns, bool turned, int gap) {
    return turned ? (ds_operand){.dtype = dtype, .row_stride = 1, .column_stride = rows + gap}
                  : (ds_operand){.dtype = dtype, .row_stride = columns + gap, .column_stride = 1};
}

static void check_product(ds_product p, int n_threads) {
    enum { ROOM = 700 * 1100 };
    float *a = numbers(1, ROOM), *b = numbers(2, ROOM), *c = numbers(3, p.m * p.n);
    void *a_stored = stored(p.a.dtype, a, ROOM), *b_stored = stored(p.b.dtype, b, ROOM);
    float *result = stored(DS_F32, c, p.m * p.n);
    ds_gemm *g = NULL;
    const ds_status status = ds_gemm_new(&p, n_threads, &g);
    if (status == DS_OK) {
        void *workspace = aligned_alloc(64, ds_gemm_workspace(g) + 64 - ds_gemm_workspace(g) % 64);
        assert_non_null(workspace);
        assert_int_equal(ds_gemm_run(g, a_stored, b_stored, result, NULL, NULL, workspace), DS_OK);
        free(workspace);
        for (int64_t i = 0; i < p.m; i++)
            for (int64_t j = 0; j < p.n; j++) {
                double sum = p.accumulates ? (double)c[i * p.n + j] : 0;
                for (int64_t k = 0; k < p.k; k++)
                    sum += (double)a[i * p.a.row_stride + k * p.a.column_stride] *
                           (double)b[k * p.b.row_stride + j * p.b.column_stride];
                assert_float_equal(result[i * p.n + j], sum, 1e-3);
            }
    } else {
        assert_int_equal(status, DS_UNSUPPORTED); /* bf16 on an older processor */
    }
    ds_gemm_free(g);
    free(a), free(b), free(c), free(result), free(a_stored), free(b_stored);
}

static void sums_and_gaps(void **unused) {
    (void)unused;
    static const int64_t shapes[][3] = {
        {70, 300, 65}, {300, 64, 257}, {96, 96, 96}, {20, 1025, 33}};
    for (int i = 0; i < 4; i++)
        for (int form = 0; form < 16; form++) {
            const ds_dtype dtype = form & 8 ? DS_F32 : DS_BF16;
            const int64_t m = shapes[i][0], k = shapes[i][1], n = shapes[i][2];
            ds_product p = {.batch = 1, .m = m, .n = n, .k = k, .accumulates = form & 1};
            p.a = laid_out(dtype, m, k, form & 2, 0);
            p.b = laid_out(dtype, k, n, form & 4, 0);
            p.c = laid_out(DS_F32, m, n, false, 0);
            if (ds_gemm_reads_gaps(&p)) {
                p.a = laid_out(dtype, m, k, form & 2, 5);
                p.b = laid_out(dtype, k, n, form & 4, 9);
            }
            check_product(p, 1 + form % 3);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_products),        cmocka_unit_test(fused_products),
        cmocka_unit_test(products_of_two_types), cmocka_unit_test(batched_products),
        cmocka_unit_test(integer_products),      cmocka_unit_test(random_products),
        cmocka_unit_test(sums_and_gaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
