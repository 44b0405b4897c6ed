/* Passes that move, repeat or retype values, each on a graph of a few nodes: the graph before
 * against the graph after. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "graph/ops/ops.h"
#include "passes/passes.h"
#include "passes/plan.h"
#include "support/graph_run.h"

static ds_graph *sound(ds_graph *g) {
    assert_non_null(g);
    if (!ds_graph_ok(g))
        fail_msg("%s", ds_error());
    return g;
}

static bool is_unary(const ds_node *x, ds_unary kind) {
    return x->op == &ds_op_unary && ((const ds_unary_attrs *)x->attrs)->kind == kind;
}

enum { ANY = DS_UNARY_KINDS }; /* no matter which, or no unary op */

/* Needed nodes of this op, kind and phase; the last of them in *found. */
static int count(const ds_graph *g, const ds_op *op, int kind, ds_phase phase,
                 const ds_node **found) {
    bool *needed = ds_graph_reachable(g);
    int n = 0;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        if (!needed[i] || x->op != op || x->phase != phase)
            continue;
        if (kind != ANY && !is_unary(x, (ds_unary)kind))
            continue;
        n++;
        *found = x;
    }
    free(needed);
    return n;
}

/* A segment, (exp(x · w))², and outside of it the loss, Σ of its result squared. The backward pass
 * reads exp and the result. */
static ds_graph *one_segment(int64_t rows) {
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){rows, 256});
    ds_node *w = ds_graph_param(g, "w", 2, (int64_t[]){256, 256}, DS_INIT_NORMAL(0.1f));
    ds_graph_segment_begin(g);
    ds_node *product = ds_graph_matmul(g, x, w, (ds_matmul_opts){0});
    ds_node *y = ds_graph_unary(g, DS_SQUARE, ds_graph_unary(g, DS_EXP, product, 0), 0);
    ds_graph_segment_end(g);
    ds_graph_output(g, "loss", ds_graph_sum_all(g, ds_graph_unary(g, DS_SQUARE, y, 0)));
    sound(g);
    ds_graph *whole = sound(ds_pass_autodiff(g, "loss", false));
    ds_graph_free(g);
    return whole;
}

static void recompute_repeats_what_is_cheap_or_all(void **state) {
    (void)state;
    static const struct {
        ds_recompute kind;
        int exps, products;
    } cases[] = {
        {DS_RECOMPUTE_NONE, 0, 1}, {DS_RECOMPUTE_SELECTIVE, 1, 1}, {DS_RECOMPUTE_FULL, 1, 2}};
    ds_graph *g = one_segment(4);
    for (int i = 0; i < 3; i++) {
        const ds_node *exp = NULL, *first = NULL, *product = NULL;
        ds_graph *after = sound(ds_pass_recompute(g, cases[i].kind));
        assert_int_equal(count(after, &ds_op_unary, DS_EXP, DS_FORWARD, &first), 1);
        assert_int_equal(count(after, &ds_op_unary, DS_EXP, DS_BACKWARD, &exp), cases[i].exps);
        assert_int_equal(count(after, &ds_op_matmul, ANY, DS_FORWARD, &product), 1);
        /* the gradient of w is a product of its own */
        assert_int_equal(count(after, &ds_op_matmul, ANY, DS_BACKWARD, &product),
                         cases[i].products);
        if (exp) {
            assert_ptr_equal(exp->inputs[0]->op, &ds_op_matmul);
            assert_int_equal(exp->inputs[0]->phase,
                             cases[i].kind == DS_RECOMPUTE_FULL ? DS_BACKWARD : DS_FORWARD);
        }
        /* the segment's result is what the loss reads: it is kept */
        const ds_node *square = NULL;
        assert_int_equal(count(after, &ds_op_unary, DS_SQUARE, DS_BACKWARD, &square), 0);
        ds_graph_free(after);
    }
    ds_graph_free(g);
}

static bool reads(const ds_node *x, const ds_node *value) {
    for (int k = 0; k < x->n_inputs; k++)
        if (x->inputs[k] == value)
            return true;
    return false;
}

static void offload_sends_large_values_away(void **state) {
    (void)state;
    ds_graph *g = one_segment(128), *after = sound(ds_pass_offload(g));
    const ds_node *copy = NULL, *exp = NULL;
    assert_int_equal(count_ops(g, &ds_op_contiguous), 0);
    assert_int_equal(count(after, &ds_op_unary, DS_EXP, DS_FORWARD, &exp), 1);
    /* exp and the square of it: each goes away after it is made and comes back when it is read */
    assert_int_equal(count(after, &ds_op_contiguous, ANY, DS_FORWARD, &copy), 2);
    assert_int_equal(count(after, &ds_op_contiguous, ANY, DS_BACKWARD, &copy), 2);
    bool *needed = ds_graph_reachable(after);
    for (size_t i = 0; i < after->n_nodes; i++) {
        const ds_node *x = after->nodes[i];
        if (!needed[i])
            continue;
        if (x->op == &ds_op_contiguous && x->phase == DS_BACKWARD) {
            assert_ptr_equal(x->inputs[0]->op, &ds_op_contiguous);
            assert_true(x->inputs[0]->in_host_space);
            assert_false(x->in_host_space);
        }
        assert_false(x->phase == DS_BACKWARD && reads(x, exp));
    }
    free(needed);
    ds_graph_free(after);
    ds_graph_free(g);
    g = one_segment(4); /* too small to be worth it */
    after = sound(ds_pass_offload(g));
    assert_int_equal(count_ops(after, &ds_op_contiguous), 0);
    ds_graph_free(after);
    ds_graph_free(g);
}

/* A turned matrix: laid out in a row it has no strides, squared it needs no others, and the softmax
 * of the CPU wants rows. */
static void contiguous_copies_once_where_strides_do_not_do(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    for (int b = 0; b < 2; b++) {
        ds_backend *backend = NULL;
        ds_graph *g = ds_graph_new();
        ds_node *x = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){3, 4});
        ds_node *turned = ds_graph_permute(g, x, (int[]){1, 0});
        ds_graph_output(g, "row", ds_graph_reshape(g, turned, 1, (int64_t[]){12}));
        ds_graph_output(g, "turned", turned);
        ds_graph_output(g, "squares", ds_graph_unary(g, DS_SQUARE, turned, 0));
        ds_graph_output(g, "softmax", ds_graph_softmax(g, turned));
        sound(g);
        assert_int_equal(ds_backend_open(backends[b], (ds_backend_opts){1}, &backend), DS_OK);
        ds_graph *after = sound(ds_pass_contiguous(g, backend));
        assert_int_equal(count_ops(g, &ds_op_contiguous), 0);
        assert_int_equal(count_ops(after, &ds_op_contiguous), 1);
        const ds_node *copy = after->outputs[1].node;
        assert_ptr_equal(copy->op, &ds_op_contiguous);
        assert_ptr_equal(copy->inputs[0]->op, &ds_op_permute);
        assert_ptr_equal(after->outputs[0].node->op, &ds_op_reshape);
        assert_ptr_equal(after->outputs[0].node->inputs[0], copy);
        assert_ptr_equal(after->outputs[2].node->inputs[0], copy->inputs[0]);
        assert_ptr_equal(after->outputs[3].node->inputs[0], b == 0 ? copy->inputs[0] : copy);
        ds_graph_free(after);
        ds_graph_free(g);
        ds_backend_close(backend);
    }
}

static ds_dtype all_bf16(const char *param, const void *context) {
    (void)param, (void)context;
    return DS_BF16;
}

/* Look-ups and products read what is stored, norms a cast of it; the casts of masters go. */
static void stored_parameters_are_read_as_they_are(void **state) {
    (void)state;
    ds_graph *g = ds_graph_new();
    ds_node *ids = ds_graph_input(g, "ids", DS_I32, 1, (int64_t[]){5});
    ds_node *table = ds_graph_param(g, "table", 2, (int64_t[]){9, 8}, DS_INIT_ONES);
    ds_node *scale = ds_graph_param(g, "scale", 1, (int64_t[]){8}, DS_INIT_ONES);
    ds_node *w = ds_graph_param(g, "w", 2, (int64_t[]){8, 4}, DS_INIT_ONES);
    ds_node *x = ds_graph_rms_norm(g, ds_graph_gather(g, table, ids), scale, 1e-5f);
    ds_graph_output(g, "y", ds_graph_matmul(g, x, w, (ds_matmul_opts){0}));
    ds_graph *low = sound(ds_pass_precision(sound(g), DS_PRECISION_BF16));
    ds_graph *after = sound(ds_pass_stored(low, all_bf16, NULL));
    const ds_node *product = NULL, *norm = NULL, *rows = NULL;
    assert_int_equal(count(low, &ds_op_matmul, ANY, DS_FORWARD, &product), 1);
    assert_ptr_equal(product->inputs[1]->op, &ds_op_cast); /* of the f32 master */
    assert_int_equal(count(after, &ds_op_matmul, ANY, DS_FORWARD, &product), 1);
    assert_int_equal(count(after, &ds_op_rms_norm, ANY, DS_FORWARD, &norm), 1);
    assert_int_equal(count(after, &ds_op_gather, ANY, DS_FORWARD, &rows), 1);
    assert_ptr_equal(product->inputs[1]->op, &ds_op_param);
    assert_ptr_equal(rows->inputs[0]->op, &ds_op_param);
    assert_ptr_equal(norm->inputs[1]->op, &ds_op_cast);
    assert_int_equal(norm->inputs[1]->type.dtype, DS_F32);
    assert_ptr_equal(norm->inputs[1]->inputs[0]->op, &ds_op_param);
    for (size_t i = 0; i < after->n_nodes; i++)
        if (after->nodes[i]->op == &ds_op_param)
            assert_int_equal(after->nodes[i]->type.dtype, DS_BF16);
    assert_int_equal(after->outputs[0].node->type.dtype, DS_F32); /* as the model promised */
    ds_graph_free(after);
    ds_graph_free(low);
    ds_graph_free(g);
}

/* A product with a parameter is observed, one of two activations is not; outputs stay. */
static void observe_adds_the_range_of_each_input(void **state) {
    (void)state;
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 3, (int64_t[]){2, 3, 8});
    ds_node *w = ds_graph_param(g, "w", 2, (int64_t[]){4, 8}, DS_INIT_ONES);
    ds_node *h = ds_graph_matmul(g, x, w, (ds_matmul_opts){.transpose_b = true});
    ds_graph_output(g, "y", ds_graph_matmul(g, h, h, (ds_matmul_opts){.transpose_b = true}));
    ds_graph *after = sound(ds_pass_observe(sound(g)));
    assert_int_equal(after->n_outputs, g->n_outputs + 1);
    assert_int_equal(count_ops(after, &ds_op_matmul), 2);
    bool found = false;
    for (size_t i = 0; i < after->n_outputs; i++) {
        if (strcmp(after->outputs[i].name, DS_RANGE_PREFIX "w") != 0)
            continue;
        const ds_node *most = after->outputs[i].node, *magnitude = most->inputs[0];
        found = true;
        assert_ptr_equal(most->op, &ds_op_reduce);
        assert_int_equal(((const ds_reduce_attrs *)most->attrs)->kind, DS_MAX);
        assert_int_equal(most->type.rank, 1);
        assert_int_equal(ds_node_dim(most, 0), 8);
        assert_true(is_unary(magnitude, DS_ABS));
        assert_string_equal(magnitude->inputs[0]->inputs[0]->name, "x");
    }
    assert_true(found);
    ds_graph_free(after);
    ds_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recompute_repeats_what_is_cheap_or_all),
        cmocka_unit_test(offload_sends_large_values_away),
        cmocka_unit_test(contiguous_copies_once_where_strides_do_not_do),
        cmocka_unit_test(stored_parameters_are_read_as_they_are),
        cmocka_unit_test(observe_adds_the_range_of_each_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
