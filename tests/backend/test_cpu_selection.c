/* The CPU backend's kernels that choose, route and fill a cache, against the reference. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>

#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};
static const double exactly = 1e-30; /* as a tolerance; 0 means the usual one */

/* ---- argmax, topk ---------------------------------------------------------------------------- */

/* f32 rows of a few values: many equals, infinities, NaNs. */
static void few_values(const ds_node *node, ds_tensor *inputs, void *context) {
    static const float values[] = {1, 2, -INFINITY, INFINITY, 0, -0.0f, NAN};
    const int n_values = *(const int *)context;
    (void)node;
    const int64_t n = ds_count(inputs[0].dims, inputs[0].rank);
    for (int64_t i = 0; i < n; i++) {
        float *x = (float *)inputs[0].data + i;
        *x = values[(unsigned)(*x * 1000) % (unsigned)n_values];
    }
}

static void choices_match_reference(void **unused) {
    (void)unused;
    static const int64_t shapes[][2] = {{1, 1}, {0, 5}, {7, 3}, {2000, 8}, {33, 65}, {3, 50257}};
    for (int s = 0; s < 6; s++)
        for (int d = 0; d < 3; d++) {
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, floats[d], 2, shapes[s]), *indices = NULL;
            const kernel_case c = {
                .seed = (uint64_t)s, .tolerance = exactly, .low_tolerance = exactly};
            check_kernel(ds_graph_argmax(g, x), c);
            for (int64_t k = 1; k <= shapes[s][1] && k < 200; k = k * 3 + 1)
                check_kernel(ds_graph_topk(g, x, k, &indices), c);
            ds_graph_free(g);
        }
}

static void choices_among_equals_and_nans_match_reference(void **unused) {
    (void)unused;
    for (int n_values = 1; n_values <= 7; n_values++)
        for (int64_t n = 1; n < 1000; n = n * 2 + 3) {
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, DS_F32, CASE_DIMS(9, n)), *indices = NULL;
            const kernel_case c = {.seed = (uint64_t)n,
                                   .low = 0,
                                   .high = 1,
                                   .tolerance = exactly,
                                   .adjust = few_values,
                                   .context = &n_values};
            check_kernel(ds_graph_argmax(g, x), c);
            check_kernel(ds_graph_topk(g, x, 1, &indices), c);
            check_kernel(ds_graph_topk(g, x, (n + 1) / 2, &indices), c);
            ds_graph_free(g);
        }
}

/* ---- routing, cache -------------------------------------------------------------------------- */

static void routing_matches_reference(void **unused) {
    (void)unused;
    for (int64_t n = 0; n < 3000; n = n * 3 + 1)
        for (int64_t experts = 1; experts < 300; experts = experts * 5 + 2) {
            ds_graph *g = ds_graph_new();
            ds_node *chosen = case_input(g, DS_I32, CASE_DIMS(n, 2)), *offsets = NULL;
            check_kernel(
                ds_graph_moe_route(g, chosen, experts, &offsets),
                (kernel_case){.seed = (uint64_t)n, .int_low = -1, .int_high = (int)experts + 1});
            ds_graph_free(g);
        }
}

static void cache_writes_match_reference(void **unused) {
    (void)unused;
    static const ds_dtype dtypes[] = {DS_F32, DS_BF16, DS_I8};
    static const int64_t shapes[][4] = {/* rows, places, heads, width */
                                        {1, 1, 1, 1},   {0, 7, 2, 3},   {3, 20, 2, 5},
                                        {20, 20, 1, 8}, {1, 64, 4, 64}, {40, 200, 9, 33}};
    for (int s = 0; s < 6; s++)
        for (int form = 0; form < 6; form++) {
            const int64_t *n = shapes[s];
            const ds_dtype dtype = dtypes[form % 3];
            ds_graph *g = ds_graph_new();
            ds_node *cache =
                ds_graph_variable(g, "cache", dtype, CASE_DIMS(3, n[1], n[2], n[3]), DS_INIT_ZEROS);
            ds_node *x = case_input(g, dtype, CASE_DIMS(3, n[0], n[2], n[3]));
            ds_node *start = case_input(g, DS_I32, CASE_DIMS(3));
            check_kernel(ds_graph_cache_write(g, cache, x, start),
                         (kernel_case){.seed = (uint64_t)s,
                                       .strided = form < 3 ? 0 : 2,
                                       .int_low = -2 * (int)n[1],
                                       .int_high = 2 * (int)n[1],
                                       .tolerance = exactly,
                                       .low_tolerance = exactly});
            ds_graph_free(g);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_match_reference),
        cmocka_unit_test(choices_among_equals_and_nans_match_reference),
        cmocka_unit_test(routing_matches_reference),
        cmocka_unit_test(cache_writes_match_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
