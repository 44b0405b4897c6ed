/* The CPU backend's element-wise, copying and reducing kernels against the reference. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>

#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

typedef struct shape {
    int rank;
    int64_t dims[4];
} shape;

static const shape shapes[] = {{0, {0}},          {1, {1}},           {1, {17}},
                               {2, {3, 0}},       {2, {1, 5}},        {2, {33, 65}},
                               {3, {4, 1, 130}},  {4, {3, 5, 2, 31}}, {2, {7, 3000}},
                               {3, {40, 70, 33}}, {4, {2, 9, 4, 64}}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void unary_matches_reference(void **unused) {
    (void)unused;
    for (int kind = 0; kind < DS_UNARY_KINDS; kind++)
        for (int s = 0; s < N_SHAPES; s++) {
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, floats[s % 3], shapes[s].rank, shapes[s].dims);
            const bool positive = kind == DS_LOG || kind == DS_SQRT || kind == DS_RSQRT;
            check_kernel(ds_graph_unary(g, (ds_unary)kind, x, 0.75f),
                         (kernel_case){.seed = (uint64_t)(kind * 100 + s),
                                       .strided = s % 2,
                                       .broadcast = s % 4 == 2,
                                       .low = -6,
                                       .high = 6,
                                       .positive = positive,
                                       .tolerance = kind == DS_EXP ? 1e-6 : 3e-6});
            ds_graph_free(g);
        }
}

static void odd_values(const ds_node *node, ds_tensor *inputs, void *context) {
    static const float values[] = {0.0f,    -0.0f,    INFINITY, -INFINITY, NAN,     1e-40f, -1e-40f,
                                   3.4e38f, -3.4e38f, 88.7f,    -87.5f,    -103.9f, 1e-38f, 89.5f};
    (void)node, (void)context;
    for (int64_t i = 0; i < inputs[0].dims[0]; i++)
        ((float *)inputs[0].data)[i] = values[i % 14];
}

static void unary_handles_odd_values(void **unused) {
    (void)unused;
    static const ds_unary kinds[] = {DS_EXP,  DS_LOG,  DS_TANH, DS_SIGMOID, DS_ERF,
                                     DS_RELU, DS_SIGN, DS_ABS,  DS_STEP,    DS_NEG};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        ds_graph *g = ds_graph_new();
        ds_node *x = case_input(g, DS_F32, CASE_DIMS(43));
        check_kernel(ds_graph_unary(g, kinds[k], x, 0),
                     (kernel_case){.seed = 1, .adjust = odd_values, .tolerance = 1e-6});
        ds_graph_free(g);
    }
}

static void binary_matches_reference(void **unused) {
    (void)unused;
    for (int kind = 0; kind < DS_BINARY_KINDS; kind++)
        for (int s = 0; s < N_SHAPES; s++) {
            ds_graph *g = ds_graph_new();
            ds_node *a = case_input(g, floats[s % 3], shapes[s].rank, shapes[s].dims);
            ds_node *b = case_input(g, floats[s % 3], shapes[s].rank, shapes[s].dims);
            check_kernel(ds_graph_binary(g, (ds_binary)kind, a, b),
                         (kernel_case){.seed = (uint64_t)(kind * 100 + s),
                                       .strided = (unsigned)s % 4,
                                       .broadcast = s % 5 == 2   ? 1
                                                    : s % 5 == 3 ? 2
                                                                 : 0,
                                       .positive = kind == DS_DIV ? 2 : 0,
                                       .low = 0.5f,
                                       .high = 3,
                                       .tolerance = 5e-6});
            ds_graph_free(g);
        }
}

static void select_matches_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++) {
        ds_graph *g = ds_graph_new();
        ds_node *c = case_input(g, s % 2 ? DS_U8 : DS_F32, shapes[s].rank, shapes[s].dims);
        ds_node *a = case_input(g, floats[s % 3], shapes[s].rank, shapes[s].dims);
        ds_node *b = case_input(g, floats[s % 3], shapes[s].rank, shapes[s].dims);
        check_kernel(ds_graph_select(g, c, a, b),
                     (kernel_case){.seed = (uint64_t)s, .strided = (unsigned)s % 8, .int_high = 2});
        ds_graph_free(g);
    }
}

static void cast_matches_reference(void **unused) {
    (void)unused;
    static const ds_dtype from[] = {DS_F32, DS_BF16, DS_F16, DS_I8, DS_U8, DS_I32, DS_I64};
    for (size_t f = 0; f < sizeof from / sizeof *from; f++)
        for (int t = 0; t < 3; t++)
            for (int s = 0; s < N_SHAPES; s++) {
                ds_graph *g = ds_graph_new();
                ds_node *x = case_input(g, from[f], shapes[s].rank, shapes[s].dims);
                if (from[f] != floats[t])
                    check_kernel(ds_graph_cast(g, x, floats[t]),
                                 (kernel_case){.seed = (uint64_t)s,
                                               .strided = s % 2,
                                               .int_high = 100,
                                               .tolerance = 1e-12,
                                               .low_tolerance = 1e-12});
                ds_graph_free(g);
            }
}

static void copies_match_reference(void **unused) {
    (void)unused;
    static const ds_dtype dtypes[] = {DS_F32, DS_BF16, DS_I8, DS_I64};
    for (int s = 1; s < N_SHAPES; s++)
        for (int d = 0; d < 4; d++)
            for (uint64_t seed = 0; seed < 4; seed++) {
                ds_graph *g = ds_graph_new();
                ds_node *xs[3];
                int64_t dims[4];
                const int axis = (int)seed % shapes[s].rank;
                for (int k = 0; k < 3; k++) {
                    for (int i = 0; i < shapes[s].rank; i++)
                        dims[i] = shapes[s].dims[i] + (i == axis ? k : 0);
                    xs[k] = case_input(g, dtypes[d], shapes[s].rank, dims);
                }
                const kernel_case c = {
                    .seed = seed, .strided = 7, .int_high = 100, .tolerance = 1e-12};
                check_kernel(ds_graph_contiguous(g, xs[0]), c);
                check_kernel(ds_graph_concat(g, xs, 3, axis), c);
                ds_graph_free(g);
            }
}

/* [batch, tokens, heads, dim] → [batch, heads, tokens, dim] and matrices turned whole. */
static void transpositions_match_reference(void **unused) {
    (void)unused;
    static const ds_dtype dtypes[] = {DS_F32, DS_BF16};
    for (int d = 0; d < 2; d++)
        for (uint64_t seed = 0; seed < 12; seed++) {
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, dtypes[d], CASE_DIMS(3, 65, 4, 97));
            ds_node *m = case_input(g, dtypes[d], CASE_DIMS(129, 200));
            check_kernel(ds_graph_contiguous(g, x), (kernel_case){.seed = seed, .strided = 1});
            check_kernel(ds_graph_contiguous(g, m), (kernel_case){.seed = seed, .strided = 1});
            ds_graph_free(g);
        }
}

static void reductions_match_reference(void **unused) {
    (void)unused;
    for (int kind = DS_SUM; kind <= DS_MIN; kind++)
        for (int s = 1; s < N_SHAPES; s++)
            for (unsigned axes = 1; axes < 1u << shapes[s].rank; axes++) {
                if (ds_count(shapes[s].dims, shapes[s].rank) == 0)
                    continue;
                ds_graph *g = ds_graph_new();
                ds_node *x = case_input(g, floats[axes % 3], shapes[s].rank, shapes[s].dims);
                ds_node *y = ds_graph_reduce(g, (ds_reduction)kind, x, axes, axes % 2);
                check_kernel(
                    y, (kernel_case){.seed = axes, .allow_fallback = true, .tolerance = 4e-5});
                ds_graph_free(g);
            }
    ds_graph *g = ds_graph_new(); /* long enough to be cut into pieces */
    ds_node *x = case_input(g, DS_F32, CASE_DIMS(2, 100001));
    check_kernel(ds_graph_sum_all(g, x), (kernel_case){.seed = 5, .tolerance = 3e-5});
    check_kernel(ds_graph_reduce(g, DS_MAX, x, 2, false), (kernel_case){.seed = 5});
    ds_node *tall = case_input(g, DS_BF16, CASE_DIMS(5000, 300));
    check_kernel(ds_graph_reduce(g, DS_SUM, tall, 1, false), (kernel_case){.seed = 6});
    ds_node *parts[] = {x, tall, case_input(g, DS_F32, CASE_DIMS(0)),
                        case_input(g, DS_F32, 0, NULL)};
    check_kernel(ds_graph_sum_of_squares(g, parts, 4), (kernel_case){.seed = 7});
    ds_graph_free(g);
}

static void effects_match_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++) {
        ds_graph *g = ds_graph_new();
        ds_node *v =
            ds_graph_variable(g, "v", floats[s % 3], shapes[s].rank, shapes[s].dims, DS_INIT_ZEROS);
        ds_node *x = case_input(g, floats[s % 3], shapes[s].rank, shapes[s].dims);
        ds_graph_assign(g, v, x);
        check_kernel(g->nodes[g->n_nodes - 1], (kernel_case){.seed = 1, .strided = 2});
        ds_graph_accumulate(g, v, x);
        check_kernel(g->nodes[g->n_nodes - 1], (kernel_case){.seed = 2, .strided = 2});
        check_kernel(ds_graph_fill(g, 1.5, floats[s % 3], shapes[s].rank, shapes[s].dims),
                     (kernel_case){.seed = 3});
        ds_graph_free(g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_matches_reference),
        cmocka_unit_test(unary_handles_odd_values),
        cmocka_unit_test(binary_matches_reference),
        cmocka_unit_test(select_matches_reference),
        cmocka_unit_test(cast_matches_reference),
        cmocka_unit_test(copies_match_reference),
        cmocka_unit_test(transpositions_match_reference),
        cmocka_unit_test(reductions_match_reference),
        cmocka_unit_test(effects_match_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
