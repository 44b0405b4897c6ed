/* The CPU backend's kernels over rows and indices against the reference. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};
static const int64_t shapes[][2] = {{1, 1},    {0, 5},    {7, 3},     {33, 65},
                                    {64, 768}, {5, 3001}, {300, 257}, {2, 50257}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* The node's gradient, with fresh inputs in place of what the forward pass would give. */
static ds_node *grad_node(ds_graph *g, const ds_op *op, const void *attrs, ds_node **inputs,
                          int n) {
    return ds_graph_add_node(g, op, attrs, inputs, n);
}

static void check_softmax(const int64_t *shape, int d, uint64_t seed) {
    ds_graph *g = ds_graph_new();
    ds_node *x = case_input(g, floats[d], 2, shape);
    ds_node *y = case_input(g, floats[d], 2, shape);
    ds_node *pair[] = {x, y};
    const kernel_case c = {.seed = seed, .low = -3, .high = 3, .tolerance = 3e-5};
    check_kernel(ds_graph_softmax(g, x), c);
    check_kernel(ds_graph_log_softmax(g, x), c);
    kernel_case small = c; /* sums of unlike signs over a long row */
    small.low = -0.1f, small.high = 0.1f;
    check_kernel(grad_node(g, &ds_op_softmax_grad, NULL, pair, 2), small);
    check_kernel(grad_node(g, &ds_op_log_softmax_grad, NULL, pair, 2), small);
    ds_graph_free(g);
}

static void softmax_matches_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++)
        for (int d = 0; d < 3; d++)
            check_softmax(shapes[s], d, (uint64_t)s);
}

static void check_norms(const int64_t *shape, int d, uint64_t seed) {
    ds_graph *g = ds_graph_new();
    ds_node *x = case_input(g, floats[d], 2, shape);
    ds_node *dy = case_input(g, floats[((uint64_t)d + seed) % 3], 2, shape);
    ds_node *w = case_input(g, DS_F32, 1, &shape[1]);
    ds_node *b = case_input(g, DS_F32, 1, &shape[1]);
    ds_node *mean = case_input(g, DS_F32, 1, &shape[0]);
    ds_node *rstd = case_input(g, DS_F32, 1, &shape[0]);
    const ds_norm_attrs eps = {1e-5f};
    const kernel_case c = {.seed = seed, .tolerance = 1e-4};
    check_kernel(ds_graph_layer_norm(g, x, w, b, 1e-5f), c);
    check_kernel(ds_graph_layer_norm(g, x, w, NULL, 1e-5f), c);
    check_kernel(ds_graph_rms_norm(g, x, w, 1e-5f), c);
    check_kernel(grad_node(g, &ds_op_layer_norm_grad, &eps, (ds_node *[]){dy, x, w, mean, rstd}, 5),
                 c);
    check_kernel(grad_node(g, &ds_op_rms_norm_grad, &eps, (ds_node *[]){dy, x, w, rstd}, 4), c);
    ds_graph_free(g);
}

static void norms_match_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++)
        for (int d = 0; d < 3; d++)
            check_norms(shapes[s], d, (uint64_t)s);
}

/* Labels from the case's range; one row ignored. */
static void ignore_first(const ds_node *node, ds_tensor *inputs, void *context) {
    (void)node;
    ds_tensor *labels = &inputs[*(const int *)context];
    if (labels->dims[0] > 1)
        ((int32_t *)labels->data)[0] = DS_IGNORED_LABEL;
}

static void check_cross_entropy(const int64_t *shape, int d, uint64_t seed) {
    int at_1 = 1, at_2 = 2;
    ds_graph *g = ds_graph_new();
    ds_node *x = case_input(g, floats[d], 2, shape);
    ds_node *labels = case_input(g, DS_I32, 1, &shape[0]);
    ds_node *dloss = case_input(g, DS_F32, 0, NULL);
    ds_node *lse = case_input(g, DS_F32, 1, &shape[0]);
    kernel_case c = {.seed = seed,
                     .low = -9,
                     .high = 9,
                     .int_high = (int)shape[1],
                     .tolerance = 2e-5,
                     .adjust = ignore_first,
                     .context = &at_1};
    check_kernel(ds_graph_cross_entropy(g, x, labels), c);
    c.context = &at_2;
    c.low = -2, c.high = 2;
    c.positive = 8;
    check_kernel(
        grad_node(g, &ds_op_cross_entropy_grad, NULL, (ds_node *[]){dloss, x, labels, lse}, 4), c);
    ds_graph_free(g);
}

static void cross_entropy_matches_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++)
        for (int d = 0; d < 3; d++)
            check_cross_entropy(shapes[s], d, (uint64_t)s);
}

static void random_rows_match_reference(void **unused) {
    (void)unused;
    for (uint64_t seed = 100; seed < 200; seed++) {
        const int64_t shape[] = {case_size(seed, 0, 150), case_size(seed, 1, 2000)};
        const int d = (int)case_choice(seed, 2, 3);
        check_softmax(shape, d, seed);
        check_norms(shape, d, seed);
        check_cross_entropy(shape, d, seed);
    }
}

static void linear_cross_entropy_matches_reference(void **unused) {
    (void)unused;
    static const int64_t cases[][3] = {/* rows, width, classes */
                                       {1, 1, 1},      {5, 8, 3},      {33, 64, 257},
                                       {1024, 16, 33}, {2500, 32, 70}, {2048, 7, 40}};
    int at_2 = 2;
    for (int s = 0; s < 6; s++)
        for (int d = 0; d < 3; d++)
            for (int form = 0; form < 2; form++) {
                const int64_t rows = cases[s][0], width = cases[s][1], classes = cases[s][2];
                const ds_linear_cross_entropy_attrs a = {.transpose_b = form};
                ds_graph *g = ds_graph_new();
                ds_node *x = case_input(g, floats[d], CASE_DIMS(rows, width));
                ds_node *w = form ? case_input(g, floats[d], CASE_DIMS(classes, width))
                                  : case_input(g, floats[d], CASE_DIMS(width, classes));
                ds_node *inputs[] = {x, w, case_input(g, DS_I32, CASE_DIMS(rows)),
                                     case_input(g, DS_F32, 0, NULL)};
                check_kernel(ds_graph_add_node(g, &ds_op_linear_cross_entropy, &a, inputs, 4),
                             (kernel_case){.seed = (uint64_t)s,
                                           .low = -0.5f,
                                           .high = 0.5f,
                                           .int_high = (int)classes,
                                           .tolerance = d == 1 ? 4e-3 : 1e-4,
                                           .low_tolerance = 1e-2,
                                           .adjust = ignore_first,
                                           .context = &at_2});
                ds_graph_free(g);
            }
}

static void indexing_matches_reference(void **unused) {
    (void)unused;
    for (int d = 0; d < 3; d++)
        for (int64_t row = 1; row <= 1500; row = row * 7 + 2) {
            ds_graph *g = ds_graph_new();
            ds_node *table = case_input(g, floats[d], CASE_DIMS(50, row));
            ds_node *ids = case_input(g, DS_I32, CASE_DIMS(40, 9));
            ds_node *x = case_input(g, floats[d], CASE_DIMS(40, 9, row));
            const kernel_case c = {.seed = 8, .int_low = -3, .int_high = 55, .tolerance = 1e-5};
            check_kernel(ds_graph_gather(g, table, ids), c);
            check_kernel(ds_graph_scatter_add(g, x, ids, 50), c);
            ds_type sum = ds_graph_scatter_add(g, x, ids, 50)->type;
            ds_node *onto = case_input(g, DS_F32, sum.rank, sum.dims);
            check_kernel(ds_graph_add_node(g, &ds_op_scatter_add, &(ds_scatter_add_attrs){50},
                                           (ds_node *[]){x, ids, onto}, 3),
                         c);
            ds_graph_free(g);
        }
}

static void rotary_matches_reference(void **unused) {
    (void)unused;
    static const ds_rope_scaling scalings[] = {{0},
                                               {.kind = DS_ROPE_LINEAR, .factor = 3},
                                               {.kind = DS_ROPE_YARN,
                                                .factor = 4,
                                                .original = 64,
                                                .beta_fast = 32,
                                                .beta_slow = 1,
                                                .magnitude = 1.25f}};
    for (int form = 0; form < 16; form++) {
        ds_graph *g = ds_graph_new();
        ds_node *x = case_input(g, floats[form % 3], CASE_DIMS(2, 19, 3, 64));
        ds_node *positions = form & 1 ? case_input(g, DS_I32, CASE_DIMS(2, 19))
                                      : case_input(g, DS_I32, CASE_DIMS(19));
        const ds_rotary_opts opts = {.theta = 10000,
                                     .interleaved = form & 2,
                                     .inverse = form & 4,
                                     .n_dims = form & 8 ? 22 : 0,
                                     .scaling = scalings[form % 3]};
        check_kernel(ds_graph_rotary(g, x, positions, opts),
                     (kernel_case){.seed = (uint64_t)form,
                                   .strided = form % 2,
                                   .int_low = form == 3 ? -4 : 0,
                                   .int_high = 5000,
                                   .tolerance = 1e-6});
        ds_graph_free(g);
    }
}

static void dropout_is_bit_identical(void **unused) {
    (void)unused;
    for (int d = 0; d < 3; d++)
        for (int64_t n = 1; n < 9000; n = n * 3 + 1) {
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, floats[d], CASE_DIMS(3, n));
            check_kernel(ds_graph_dropout(g, x, 0.3f), (kernel_case){.seed = (uint64_t)n,
                                                                     .int_high = 1000,
                                                                     .tolerance = 1e-30,
                                                                     .low_tolerance = 1e-30});
            ds_graph_free(g);
        }
}

/* Small moments, a positive second one, and plausible scalars. */
static void plausible_update(const ds_node *node, ds_tensor *inputs, void *context) {
    static const float scalars[] = {1e-3f, 0.5f, 7};
    const int first = node->op->n_changed + 1;
    (void)context;
    for (int i = first; i < node->n_inputs; i++)
        *(float *)inputs[i].data = scalars[i - first];
}

static void updates_match_reference(void **unused) {
    (void)unused;
    static const ds_op *const ops[] = {&ds_op_adamw, &ds_op_sgd, &ds_op_lion};
    static const int64_t counts[] = {0, 1, 1023, 5000, 70001};
    for (int o = 0; o < 3; o++)
        for (int s = 0; s < 10; s++) {
            ds_graph *g = ds_graph_new();
            const int n_changed = ops[o]->n_changed;
            const ds_dtype state = s < 5 ? DS_F32 : DS_BF16;
            ds_node *inputs[7];
            for (int i = 0; i < n_changed; i++) {
                const char name[] = {(char)('a' + i), 0};
                inputs[i] = ds_graph_variable(g, name, i ? state : DS_F32, 1, &counts[s % 5],
                                              DS_INIT_ZEROS);
            }
            inputs[n_changed] = case_input(g, s % 2 ? DS_BF16 : DS_F32, 1, &counts[s % 5]);
            const int n = n_changed + (o == 0 ? 4 : 3);
            for (int i = n_changed + 1; i < n; i++)
                inputs[i] = case_input(g, DS_F32, 0, NULL);
            const ds_update_attrs a = {0.9f, 0.95f, 1e-8f, 0.1f};
            check_kernel(ds_graph_add_node(g, ops[o], &a, inputs, n),
                         (kernel_case){.seed = (uint64_t)s,
                                       .positive = o == 0 ? 4 : 0,
                                       .low = -0.5f,
                                       .high = 0.5f,
                                       .tolerance = 3e-6,
                                       .adjust = plausible_update});
            ds_graph_free(g);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(softmax_matches_reference),
        cmocka_unit_test(norms_match_reference),
        cmocka_unit_test(cross_entropy_matches_reference),
        cmocka_unit_test(random_rows_match_reference),
        cmocka_unit_test(linear_cross_entropy_matches_reference),
        cmocka_unit_test(indexing_matches_reference),
        cmocka_unit_test(rotary_matches_reference),
        cmocka_unit_test(updates_match_reference),
        cmocka_unit_test(dropout_is_bit_identical),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
