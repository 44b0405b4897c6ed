/* The CPU backend's matrix products against the reference. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const int64_t sizes[][3] = {{1, 1, 1},    {3, 5, 7},     {1, 64, 33},    {64, 1, 16},
                                   {48, 32, 64}, {65, 100, 31}, {130, 70, 200}, {17, 256, 1},
                                   {0, 4, 5},    {4, 0, 5},     {100, 16, 96}};
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_products),
        cmocka_unit_test(fused_products),
        cmocka_unit_test(batched_products),
        cmocka_unit_test(integer_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
