/* Groups of element-wise ops: which form and which do not, and that values stay what they were. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/models.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"
#include "support/graph_run.h"
#include "support/kernel_case.h"

/* The only fused op of g. */
static const ds_node *only_group(const ds_graph *g) {
    const ds_node *found = NULL;
    for (size_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i]->op == &ds_op_fused_elementwise) {
            assert_null(found);
            found = g->nodes[i];
        }
    assert_non_null(found);
    return found;
}

static void expect_text(const ds_node *x, const char *wanted) {
    ds_text text = {0};
    x->op->describe(x, &text);
    assert_string_equal(text.data, wanted);
    ds_text_clear(&text);
}

/* y = select(x < limit, dropout(silu(x) · v), cast(low) + 1): a DAG in which x is read twice, v is
 * repeated over rows, limit over everything. */
static ds_graph *make_group(ds_dtype dtype) {
    ds_graph *g = ds_graph_new();
    const int64_t dims[] = {9, 70, 33};
    ds_node *x = ds_graph_input(g, "x", DS_F32, 3, dims);
    ds_node *low = ds_graph_input(g, "low", DS_BF16, 3, dims);
    ds_node *v = ds_graph_input(g, "v", DS_F32, 1, dims + 2);
    ds_node *limit = ds_graph_input(g, "limit", DS_F32, 0, NULL);
    ds_node *is_less = ds_graph_binary(g, DS_LESS, x, limit);
    ds_node *gated = ds_graph_mul(g, ds_graph_unary(g, DS_SILU, x, 0), v);
    ds_node *other = ds_graph_unary(g, DS_OFFSET, ds_graph_cast(g, low, DS_F32), 1);
    ds_node *y = ds_graph_select(g, is_less, ds_graph_dropout(g, gated, 0.25f), other);
    ds_graph_output(g, "y", ds_graph_cast(g, y, dtype));
    return g;
}

static void test_graph_before_and_after(void **state) {
    (void)state;
    ds_graph *g = make_group(DS_BF16), *fused = ds_pass_fuse_elementwise(g);
    assert_true(ds_graph_ok(fused));
    assert_int_equal(count_ops(g, &ds_op_unary), 2);
    assert_int_equal(count_ops(g, &ds_op_binary), 2);
    assert_int_equal(count_ops(g, &ds_op_cast), 2);
    assert_int_equal(count_ops(g, &ds_op_select), 1);
    assert_int_equal(count_ops(g, &ds_op_dropout), 1);
    const ds_op *const gone[] = {&ds_op_unary, &ds_op_binary, &ds_op_cast, &ds_op_select,
                                 &ds_op_dropout};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        assert_int_equal(count_ops(fused, gone[i]), 0);
    const ds_node *group = only_group(fused);
    assert_int_equal(group->type.dtype, DS_BF16);
    assert_ptr_equal(fused->outputs[0].node, group);
    ds_graph_free(fused);
    ds_graph_free(g);
}

static void test_what_stays_apart(void **state) {
    (void)state;
    const int64_t dims[] = {4, 6};
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 2, dims),
            *w = ds_graph_param(g, "w", 2, dims, DS_INIT_ONES);
    ds_node *shown = ds_graph_unary(g, DS_EXP, x, 0); /* also an output: must exist */
    ds_graph_output(g, "shown", shown);
    ds_graph_output(g, "y", ds_graph_unary(g, DS_NEG, shown, 0));
    ds_node *row = ds_graph_unary(g, DS_SQRT, ds_graph_input(g, "row", DS_F32, 1, dims + 1), 0);
    ds_graph_output(g, "z", ds_graph_mul(g, x, row)); /* of another shape: made once, not 4 times */
    ds_node *kept = ds_graph_cast(g, w, DS_BF16);     /* kept between runs */
    ds_graph_output(g, "k", ds_graph_unary(g, DS_NEG, kept, 0));
    ds_node *product = ds_graph_matmul(g, x, w, (ds_matmul_opts){.transpose_b = true});
    ds_graph_output(g, "p", ds_graph_unary(g, DS_ABS, product, 0)); /* alone: left as it is */
    ds_graph *fused = ds_pass_fuse_elementwise(g);
    assert_true(ds_graph_ok(fused));
    assert_int_equal(count_ops(fused, &ds_op_fused_elementwise), 0);
    assert_int_equal(count_ops(fused, &ds_op_unary), count_ops(g, &ds_op_unary));
    ds_graph_free(fused);
    ds_graph_free(g);
}

/* More than a group holds: several groups, nothing lost. */
static void test_long_chains_are_cut(void **state) {
    (void)state;
    enum { LENGTH = 3 * DS_MAX_INSTRUCTIONS, N = 50 };
    static float x[N], plain[N], grouped[N];
    for (int i = 0; i < N; i++)
        x[i] = 0.1f * (float)i - 2;
    for (int fuse = 0; fuse < 2; fuse++) {
        graph_run r = {.backend_name = "cpu"};
        ds_graph *g = ds_graph_new();
        ds_node *y = ds_graph_input(g, "x", DS_F32, 1, (int64_t[]){N});
        for (int i = 0; i < LENGTH; i++) {
            char name[16];
            snprintf(name, sizeof name, "c%d", i);
            ds_node *c = ds_graph_input(g, name, DS_F32, 0, NULL);
            y = ds_graph_unary(g, DS_TANH, ds_graph_add(g, y, c), 0);
        }
        ds_graph_output(g, "y", y);
        assert_int_equal(graph_run_open(&r, g, (ds_compile_opts){.no_fuse = !fuse}), DS_OK);
        graph_run_write(&r, "x", x, sizeof x);
        for (int i = 0; i < LENGTH; i++) {
            char name[16];
            const float c = 0.01f * (float)i;
            snprintf(name, sizeof name, "c%d", i);
            graph_run_write(&r, name, &c, sizeof c);
        }
        assert_int_equal(graph_run_once(&r), DS_OK);
        graph_run_read(&r, "y", fuse ? grouped : plain, sizeof x);
        const size_t n = ds_program_memory(r.program)->n_kernels;
        assert_true(fuse ? n < LENGTH && n > 2 : n == 2 * LENGTH);
        graph_run_close(&r);
    }
    assert_memory_equal(plain, grouped, sizeof plain);
}

enum { ELEMENTS = 9 * 70 * 33 };

static void run_group(const char *backend, ds_dtype dtype, bool fuse, void *y, size_t size_bytes) {
    static float x[ELEMENTS], v[33];
    static uint16_t low[ELEMENTS];
    const float limit = 0.3f;
    graph_run r = {.backend_name = backend};
    for (int i = 0; i < ELEMENTS; i++) {
        x[i] = sinf((float)i);
        low[i] = (uint16_t)(0x3f80 + i % 97); /* 1 … 2 */
    }
    for (int i = 0; i < 33; i++)
        v[i] = 0.5f + 0.1f * (float)i;
    assert_int_equal(graph_run_open(&r, make_group(dtype), (ds_compile_opts){.no_fuse = !fuse}),
                     DS_OK);
    graph_run_write(&r, "x", x, sizeof x);
    graph_run_write(&r, "low", low, sizeof low);
    graph_run_write(&r, "v", v, sizeof v);
    graph_run_write(&r, "limit", &limit, sizeof limit);
    assert_int_equal(graph_run_once(&r), DS_OK);
    graph_run_read(&r, "y", y, size_bytes);
    graph_run_close(&r);
}

/* The single ops' own loops are run: the same bits. */
static void test_same_values(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    static float plain[ELEMENTS], fused[ELEMENTS], oracle[ELEMENTS];
    static uint16_t low_plain[ELEMENTS], low_fused[ELEMENTS];
    for (int b = 0; b < 2; b++) {
        run_group(backends[b], DS_F32, false, plain, sizeof plain);
        run_group(backends[b], DS_F32, true, fused, sizeof fused);
        assert_memory_equal(plain, fused, sizeof plain);
        run_group(backends[b], DS_BF16, false, low_plain, sizeof low_plain);
        run_group(backends[b], DS_BF16, true, low_fused, sizeof low_fused);
        assert_memory_equal(low_plain, low_fused, sizeof low_plain);
        if (b == 0)
            memcpy(oracle, fused, sizeof oracle);
    }
    for (int i = 0; i < ELEMENTS; i++)
        assert_true(fabsf(oracle[i] - fused[i]) <= 1e-6f * (1 + fabsf(oracle[i])));
}

/* Operands of any strides and dtypes, 1 to 3 threads. */
static void test_kernel_matches_reference(void **state) {
    (void)state;
    static const int64_t dims[][3] = {
        {1, 1, 1}, {3, 0, 2}, {4, 1, 130}, {40, 70, 33}, {2, 9, 3000}};
    for (size_t s = 0; s < sizeof dims / sizeof *dims; s++)
        for (unsigned strided = 0; strided < 8; strided++) {
            ds_graph *g = ds_graph_new();
            ds_node *a = case_input(g, DS_F32, 3, dims[s]), *b = case_input(g, DS_BF16, 3, dims[s]);
            ds_node *c = case_input(g, DS_F32, 3, dims[s]);
            const ds_fused_elementwise_attrs attrs = {
                .dtype = s % 2 ? DS_BF16 : DS_F32,
                .n = 5,
                .list = {{.step = DS_STEP_BINARY, .kind = DS_MUL, .args = {0, 1}},
                         {.step = DS_STEP_UNARY, .kind = DS_TANH, .args = {3}},
                         {.step = DS_STEP_BINARY, .kind = DS_SILU_GRAD, .args = {4, 3}},
                         {.step = DS_STEP_SELECT, .args = {2, 5, 4}},
                         {.step = DS_STEP_BINARY, .kind = DS_SUB, .args = {6, 0}}}};
            ds_node *y =
                ds_graph_add_node(g, &ds_op_fused_elementwise, &attrs, (ds_node *[]){a, b, c}, 3);
            assert_non_null(y);
            check_kernel(y, (kernel_case){.seed = s, .strided = strided, .tolerance = 1e-5});
            check_kernel(y, (kernel_case){.seed = s, .broadcast = strided, .tolerance = 1e-5});
            ds_graph_free(g);
        }
}

static void test_wrong_lists_are_refused(void **state) {
    (void)state;
    const ds_instruction future = {.step = DS_STEP_UNARY, .kind = DS_NEG, .args = {1}};
    const ds_instruction no_seed = {.step = DS_STEP_DROPOUT, .alpha = 0.5f, .args = {0}};
    const ds_fused_elementwise_attrs wrong[] = {{.dtype = DS_F32, .n = 0},
                                                {.dtype = DS_F32, .n = 1, .list = {future}},
                                                {.dtype = DS_F32, .n = 1, .list = {no_seed}},
                                                {.dtype = DS_I32, .n = 1},
                                                {.dtype = DS_F32, .n = DS_MAX_INSTRUCTIONS + 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ds_graph *g = ds_graph_new();
        ds_node *x = ds_graph_input(g, "x", DS_F32, 1, (int64_t[]){3});
        assert_null(ds_graph_add_node(g, &ds_op_fused_elementwise, &wrong[i], &x, 1));
        ds_graph_free(g);
    }
}

/* SwiGLU is one op forward and three backward, once more for the gradient of the weight that reads
 * it; neither it nor the SiLU is kept: the two factors are. */
static void test_swiglu(void **state) {
    (void)state;
    static const char *const expected[] = {"silu x1; mul t0 x0", "silu x1; mul t0 x0",
                                           "silu x1; mul x0 t0", "mul x1 x2; silu_grad x0 t0"};
    ds_model_config c;
    assert_int_equal(ds_model_preset("llama-1b", &c), DS_OK);
    c.n_layers = 1;
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, &c, 1, 32);
    ds_graph *backward = ds_pass_autodiff(g, "loss", false);
    ds_graph *joined = ds_pass_fuse(backward), *fused = ds_pass_fuse_elementwise(joined);
    int n = 0;
    for (size_t i = 0; i < fused->n_nodes; i++) {
        const ds_node *x = fused->nodes[i];
        if (x->op != &ds_op_fused_elementwise)
            continue;
        assert_true(n < 4);
        expect_text(x, expected[n]);
        assert_int_equal(x->phase, n == 0 ? DS_FORWARD : DS_BACKWARD);
        n++;
    }
    assert_int_equal(n, 4);
    assert_int_equal(count_ops(fused, &ds_op_unary), 0);
    ds_graph_free(fused);
    ds_graph_free(joined);
    ds_graph_free(backward);
    ds_graph_free(g);
}

/* A norm and an activation that gradients of weights read: the backward pass makes them again, each
 * once, out of what it keeps for their own gradients. The residual sum is kept: what it is made
 * from is not. */
static void test_what_gradients_of_weights_read_is_repeated(void **state) {
    (void)state;
    enum { ROWS = 6, WIDTH = 8, HIDDEN = 16 };
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 3, (int64_t[]){2, ROWS, WIDTH});
    ds_node *w = ds_graph_param(g, "w", 2, (int64_t[]){WIDTH, WIDTH}, DS_INIT_ONES);
    ds_node *gain = ds_graph_param(g, "gain", 1, (int64_t[]){WIDTH}, DS_INIT_ONES);
    ds_node *shift = ds_graph_param(g, "shift", 1, (int64_t[]){WIDTH}, DS_INIT_ONES);
    ds_node *up = ds_graph_param(g, "up", 2, (int64_t[]){WIDTH, HIDDEN}, DS_INIT_ONES);
    ds_node *down = ds_graph_param(g, "down", 2, (int64_t[]){HIDDEN, WIDTH}, DS_INIT_ONES);
    ds_node *sum = ds_graph_add(g, x, ds_graph_matmul(g, x, w, (ds_matmul_opts){0}));
    ds_node *normed = ds_graph_layer_norm(g, sum, gain, shift, 1e-5f);
    ds_node *h = ds_graph_matmul(g, normed, up, (ds_matmul_opts){0});
    ds_node *y = ds_graph_matmul(g, ds_graph_unary(g, DS_GELU, h, 0), down, (ds_matmul_opts){0});
    ds_graph_output(g, "loss", ds_graph_sum_all(g, ds_graph_unary(g, DS_SQUARE, y, 0)));
    ds_graph *backward = ds_pass_autodiff(g, "loss", false);
    ds_graph *fused = ds_pass_fuse_elementwise(backward);
    assert_true(ds_graph_ok(fused));
    assert_int_equal(count_ops(backward, &ds_op_layer_norm), 1);
    assert_int_equal(count_ops(fused, &ds_op_layer_norm), 2);
    int n_gelu = 0, n_backward = 0;
    for (size_t i = 0; i < fused->n_nodes; i++) {
        const ds_node *node = fused->nodes[i];
        const bool is_gelu =
            node->op == &ds_op_unary && ((const ds_unary_attrs *)node->attrs)->kind == DS_GELU;
        n_gelu += is_gelu;
        n_backward += (is_gelu || node->op == &ds_op_layer_norm) && node->phase == DS_BACKWARD;
    }
    assert_int_equal(n_gelu, 2);
    assert_int_equal(n_backward, 2);
    ds_graph_free(fused);
    ds_graph_free(backward);
    ds_graph_free(g);
}

/* tanh read by the gradient alone of all that outlives the forward pass: what it is made from would
 * have to be kept in its place, so it stays. */
static void test_what_is_not_repeated(void **state) {
    (void)state;
    const int64_t dims[] = {4, 4};
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 2, dims);
    ds_node *w = ds_graph_param(g, "w", 2, dims, DS_INIT_ONES);
    ds_node *y = ds_graph_unary(g, DS_TANH, ds_graph_matmul(g, x, w, (ds_matmul_opts){0}), 0);
    ds_graph_output(g, "loss", ds_graph_sum_all(g, y));
    ds_graph *backward = ds_pass_autodiff(g, "loss", false);
    ds_graph *fused = ds_pass_fuse_elementwise(backward);
    int n = 0;
    for (size_t i = 0; i < fused->n_nodes; i++)
        n += fused->nodes[i]->op == &ds_op_unary &&
             ((const ds_unary_attrs *)fused->nodes[i]->attrs)->kind == DS_TANH;
    assert_int_equal(n, 1);
    assert_int_equal(count_ops(fused, &ds_op_fused_elementwise), 1); /* its gradient */
    ds_graph_free(fused);
    ds_graph_free(backward);
    ds_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph_before_and_after),
        cmocka_unit_test(test_what_stays_apart),
        cmocka_unit_test(test_long_chains_are_cut),
        cmocka_unit_test(test_same_values),
        cmocka_unit_test(test_kernel_matches_reference),
        cmocka_unit_test(test_wrong_lists_are_refused),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_what_gradients_of_weights_read_is_repeated),
        cmocka_unit_test(test_what_is_not_repeated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
