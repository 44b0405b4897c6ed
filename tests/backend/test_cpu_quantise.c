/* Quantisation kernels against the reference, bit for bit. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "backend/cpu/simd/simd.h"
#include "base/rng.h"
#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};
static const double exactly = 1e-30; /* as a tolerance; 0 means the usual one */

/* A scale of 0, ties, values past the range, infinities and NaN among the others. */
static void edges(const ds_node *node, ds_tensor *inputs, void *context) {
    static const float values[] = {0.5f,   1.5f, -2.5f,     126.5f,   127.4f, 127.5f, -127.5f,
                                   128.5f, 3e9f, -INFINITY, INFINITY, NAN,    -0.0f};
    const int scale_input = *(const int *)context;
    const ds_tensor *x = &inputs[scale_input - 1];
    const int64_t n = ds_count(x->dims, x->rank);
    float *scale = inputs[scale_input].data;
    (void)node;
    if (x->dtype == DS_F32)
        for (int64_t i = 0; i < n && i < 13; i++)
            ((float *)x->data)[i] = values[i] * scale[0];
    if (ds_count(inputs[scale_input].dims, inputs[scale_input].rank) > 1)
        scale[1] = 0;
}

/* A row with a NaN, one with infinities, one of zeros. */
static void wild_rows(const ds_node *node, ds_tensor *inputs, void *context) {
    const int64_t n = inputs[0].dims[1];
    (void)node;
    (void)context;
    if (inputs[0].dtype != DS_F32 || inputs[0].dims[0] < 4 || n < 1)
        return;
    float *x = inputs[0].data;
    x[n / 2] = NAN;
    x[n + n / 3] = -INFINITY;
    memset(x + 2 * n, 0, (size_t)n * sizeof *x);
}

static void scales_match_reference(void **unused) {
    (void)unused;
    static const int64_t shapes[][2] = {{1, 1}, {0, 5}, {5, 0}, {7, 13}, {33, 65}, {5, 30001}};
    for (int s = 0; s < 6; s++)
        for (int form = 0; form < 6; form++) {
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, floats[form % 3], 2, shapes[s]);
            const kernel_case c = {.seed = (uint64_t)s,
                                   .low = -1,
                                   .high = 1,
                                   .tolerance = exactly,
                                   .low_tolerance = exactly,
                                   .adjust = wild_rows};
            check_kernel(ds_graph_quantisation_scale(g, x, form < 3), c);
            ds_graph_free(g);
        }
}

static void quantisation_matches_reference(void **unused) {
    (void)unused;
    static const int64_t shapes[][2] = {{1, 1}, {0, 5}, {5, 0}, {7, 13}, {33, 65}, {5, 30001}};
    int first = 1, second = 2;
    for (int s = 0; s < 6; s++)
        for (int form = 0; form < 6; form++) {
            const ds_dtype dtype = floats[form % 3];
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, dtype, 2, shapes[s]);
            ds_node *scale =
                form < 3 ? case_input(g, DS_F32, 0, NULL) : case_input(g, DS_F32, 1, shapes[s]);
            ds_node *dy = case_input(g, dtype, 2, shapes[s]);
            kernel_case c = {.seed = (uint64_t)s,
                             .low = -1,
                             .high = 1,
                             .tolerance = exactly,
                             .low_tolerance = exactly,
                             .positive = 1u << 1,
                             .adjust = edges,
                             .context = &first};
            check_kernel(ds_graph_quantise(g, x, scale), c);
            check_kernel(ds_graph_fake_quantise(g, x, scale), c);
            c.positive = 1u << 2;
            c.context = &second;
            check_kernel(ds_graph_add_node(g, &ds_op_fake_quantise_grad, NULL,
                                           (ds_node *[]){dy, x, scale}, 3),
                         c);
            ds_graph_free(g);
        }
}

static void dequantisation_matches_reference(void **unused) {
    (void)unused;
    static const int64_t shapes[][2] = {{1, 1}, {0, 5}, {5, 0}, {7, 13}, {33, 65}, {5, 30001}};
    for (int s = 0; s < 6; s++)
        for (int form = 0; form < 12; form++) {
            ds_graph *g = ds_graph_new();
            ds_node *q = case_input(g, form & 1 ? DS_I8 : DS_I32, 2, shapes[s]);
            ds_node *scale =
                form & 2 ? case_input(g, DS_F32, 0, NULL) : case_input(g, DS_F32, 1, shapes[s]);
            check_kernel(ds_graph_dequantise(g, q, scale, floats[form / 4]),
                         (kernel_case){.seed = (uint64_t)s,
                                       .int_low = form & 1 ? -128 : -1000000000,
                                       .int_high = form & 1 ? 128 : 1000000000,
                                       .tolerance = exactly,
                                       .low_tolerance = exactly});
            ds_graph_free(g);
        }
}

/* The reference sees the best table only: the others must give what it gives. */
static void every_instruction_set_gives_the_same(void **unused) {
    (void)unused;
    enum { N = 1003 };
    const ds_simd *tables[DS_SIMD_TABLES];
    const int n_tables = ds_simd_all(tables);
    float x[N], dy[N], y[2][N], dx[2][N];
    int8_t q[2][N];
    for (int i = 0; i < N; i++) {
        x[i] = (ds_uniform(ds_philox(5, (uint64_t)i, 0).word[0]) - 0.5f) * 300;
        dy[i] = (float)i;
    }
    x[7] = NAN, x[8] = INFINITY, x[9] = -INFINITY, x[10] = 63.75f, x[11] = -0.25f;
    const float scales[] = {0.5f, 1.7f, 0};
    for (int k = 0; k < 3; k++)
        for (int t = 0; t < n_tables; t++) {
            const int at = t > 0;
            tables[t]->quantise(x, scales[k], q[at], N);
            tables[t]->fake_quantise(x, scales[k], y[at], N);
            tables[t]->fake_quantise_grad(dy, x, scales[k], dx[at], N);
            assert_memory_equal(q[0], q[at], sizeof q[0]);
            assert_memory_equal(dx[0], dx[at], sizeof dx[0]);
            for (int i = 0; i < N; i++)
                assert_true(y[0][i] == y[at][i] || (isnan(y[0][i]) && isnan(y[at][i])));
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_match_reference),
        cmocka_unit_test(quantisation_matches_reference),
        cmocka_unit_test(dequantisation_matches_reference),
        cmocka_unit_test(every_instruction_set_gives_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
