/* Quantisation-aware training: the graph before and after, the value against the quantised product
 * that inference has, bit for bit, and the gradient against that of the rounded operands. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "graph/ops/ops.h"
#include "passes/passes.h"
#include "support/graph_run.h"

enum { ROWS = 7, IN = 24, MIDDLE = 20, OUT = 12, N_KINDS = 2 };

static const ds_quantisation kinds[N_KINDS] = {DS_QUANTISE_W8A16, DS_QUANTISE_W8A8};

typedef enum form { PLAIN, VALUE, SURROGATE } form;

static ds_node *rounded(ds_graph *g, ds_node *x, bool is_stored) {
    return ds_graph_fake_quantise(g, x, ds_graph_quantisation_scale(g, x, is_stored));
}

/* x [rows, in] · w, w [out, in] if turned, else [in, out]. */
static ds_node *product(ds_graph *g, ds_node *x, ds_node *w, bool turned, form f, bool int8_input) {
    if (f == PLAIN)
        return ds_graph_matmul(g, x, w, (ds_matmul_opts){.transpose_b = turned});
    if (!turned)
        w = ds_graph_permute(g, w, (int[]){1, 0});
    if (f == SURROGATE)
        return ds_graph_matmul(g, int8_input ? rounded(g, x, false) : x, rounded(g, w, true),
                               (ds_matmul_opts){.transpose_b = true});
    ds_node *scale = ds_graph_quantisation_scale(g, w, true);
    return ds_graph_quantised_matmul(g, x, ds_graph_quantise(g, w, scale),
                                     ds_graph_reshape(g, scale, 2, (int64_t[]){w->type.dims[0], 1}),
                                     (ds_quantised_matmul_opts){.int8_input = int8_input});
}

/* Two layers, one of each orientation, behind an embedding that is also a projection. The loss is
 * linear in y, so that gradients do not depend on the forward form of the last product. */
static ds_graph *make(form first, form second, bool int8_input) {
    ds_graph *g = ds_graph_new();
    const ds_init init = DS_INIT_NORMAL(1);
    ds_node *table = ds_graph_param(g, "table", 2, (int64_t[]){ROWS, IN}, init);
    ds_node *up = ds_graph_param(g, "up", 2, (int64_t[]){MIDDLE, IN}, init);
    ds_node *down = ds_graph_param(g, "down", 2, (int64_t[]){MIDDLE, OUT}, init);
    ds_node *x = ds_graph_gather(g, table, ds_graph_iota(g, ROWS));
    ds_node *h = ds_graph_unary(g, DS_TANH, product(g, x, up, true, first, int8_input), 0);
    ds_node *y = product(g, h, down, false, second, int8_input);
    ds_node *tied = ds_graph_matmul(g, x, table, (ds_matmul_opts){.transpose_b = true});
    ds_node *weight = ds_graph_input(g, "weight", DS_F32, 2, (int64_t[]){ROWS, OUT});
    ds_graph_output(g, "h", h);
    ds_graph_output(g, "y", y);
    ds_graph_output(g, "loss",
                    ds_graph_add(g, ds_graph_sum_all(g, ds_graph_mul(g, y, weight)),
                                 ds_graph_sum_all(g, tied)));
    return g;
}

typedef struct outcome {
    float h[ROWS * MIDDLE], y[ROWS * OUT];
    float dtable[ROWS * IN], dup[MIDDLE * IN], ddown[MIDDLE * OUT];
} outcome;

static void run(ds_graph *g, const char *backend, ds_compile_opts opts, outcome *out) {
    graph_run r = {.backend_name = backend};
    float weight[ROWS * OUT];
    for (int i = 0; i < ROWS * OUT; i++)
        weight[i] = sinf((float)i);
    if (graph_run_open(&r, g, opts) != DS_OK || ds_state_init(r.state, 5) != DS_OK)
        fail_msg("%s", ds_error());
    graph_run_write(&r, "weight", weight, sizeof weight);
    assert_int_equal(graph_run_once(&r), DS_OK);
    graph_run_read(&r, "h", out->h, sizeof out->h);
    graph_run_read(&r, "y", out->y, sizeof out->y);
    if (opts.loss) {
        graph_run_gradient(&r, "table", out->dtable, sizeof out->dtable);
        graph_run_gradient(&r, "up", out->dup, sizeof out->dup);
        graph_run_gradient(&r, "down", out->ddown, sizeof out->ddown);
    }
    graph_run_close(&r);
}

static void test_the_value_is_that_of_inference(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    static outcome aware, evaluated, wanted, plain;
    for (int b = 0; b < 2; b++)
        for (int k = 0; k < N_KINDS; k++) {
            const ds_compile_opts opts = {.quantisation = kinds[k]};
            const ds_compile_opts training = {.quantisation = kinds[k], .loss = "loss"};
            const bool int8_input = kinds[k] == DS_QUANTISE_W8A8;
            run(make(PLAIN, PLAIN, false), backends[b], training, &aware);
            run(make(PLAIN, PLAIN, false), backends[b], opts, &evaluated);
            run(make(VALUE, VALUE, int8_input), backends[b], (ds_compile_opts){0}, &wanted);
            run(make(PLAIN, PLAIN, false), backends[b], (ds_compile_opts){0}, &plain);
            assert_memory_equal(aware.h, wanted.h, sizeof wanted.h);
            assert_memory_equal(aware.y, wanted.y, sizeof wanted.y);
            assert_memory_equal(evaluated.y, wanted.y, sizeof wanted.y);
            assert_memory_not_equal(plain.y, wanted.y, sizeof wanted.y);
        }
}

static void assert_close(const char *what, const float *a, const float *b, int n) {
    for (int i = 0; i < n; i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= 1e-4 * (1 + fabs((double)b[i]))))
            fail_msg("%s[%d] is %g, not %g", what, i, (double)a[i], (double)b[i]);
}

/* That of the surrogates, with tanh' taken where the forward pass was. */
static void test_gradients_go_straight_through(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    static outcome aware, wanted, plain;
    for (int b = 0; b < 2; b++)
        for (int k = 0; k < N_KINDS; k++) {
            const bool int8_input = kinds[k] == DS_QUANTISE_W8A8;
            const ds_compile_opts training = {.quantisation = kinds[k], .loss = "loss"};
            run(make(PLAIN, PLAIN, false), backends[b], training, &aware);
            run(make(SURROGATE, SURROGATE, int8_input), backends[b],
                (ds_compile_opts){.loss = "loss"}, &wanted);
            run(make(PLAIN, PLAIN, false), backends[b], (ds_compile_opts){.loss = "loss"}, &plain);
            assert_close("dtable", aware.dtable, wanted.dtable, ROWS * IN);
            assert_close("dup", aware.dup, wanted.dup, MIDDLE * IN);
            assert_close("ddown", aware.ddown, wanted.ddown, MIDDLE * OUT);
            assert_memory_not_equal(aware.dup, plain.dup, sizeof plain.dup);
        }
}

static void test_the_graph_before_and_after(void **state) {
    (void)state;
    ds_graph *model = make(PLAIN, PLAIN, false);
    ds_graph *aware = ds_pass_quantisation_aware(model, DS_QUANTISE_W8A8);
    assert_int_equal(count_ops(model, &ds_op_matmul), 3);
    assert_int_equal(count_ops(aware, &ds_op_matmul), 3); /* two surrogates, the tied projection */
    assert_int_equal(count_ops(aware, &ds_op_quantised_matmul), 2);
    assert_int_equal(count_ops(aware, &ds_op_straight_through), 2);
    assert_int_equal(count_ops(aware, &ds_op_fake_quantise), 4);
    ds_graph *backward = ds_pass_autodiff(aware, "loss", false);
    ds_graph *values = ds_pass_drop_surrogates(backward);
    assert_true(ds_graph_ok(values));
    assert_int_equal(count_ops(values, &ds_op_straight_through), 0);
    /* the products of surrogates are gone; two gradients for each of three products are there */
    assert_int_equal(count_ops(values, &ds_op_matmul), 1 + 2 * 3);
    assert_int_equal(count_ops(values, &ds_op_fake_quantise), 4);
    ds_graph *forward = ds_pass_drop_surrogates(aware);
    assert_int_equal(count_ops(forward, &ds_op_matmul), 1);
    assert_int_equal(count_ops(forward, &ds_op_fake_quantise), 0);
    ds_graph_free(forward);
    ds_graph_free(values);
    ds_graph_free(backward);
    ds_graph_free(aware);
    ds_graph_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_graph_before_and_after),
        cmocka_unit_test(test_the_value_is_that_of_inference),
        cmocka_unit_test(test_gradients_go_straight_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
