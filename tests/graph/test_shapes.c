/* What does not fit is refused, by name of scope, op and shapes, and nothing after it crashes; what
 * is empty works; and whichever allocation fails while a model is described, compiled or run, the
 * caller is told. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "deepseek/compile.h"
#include "graph/ops/ops.h"
#include "support/graph_run.h"

#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                       \
        __VA_ARGS__                                                                                \
    }

/* ---- refusals -------------------------------------------------------------------------------- */

/* A call that must be refused, and what the message must hold besides the scope. */
typedef struct refusal {
    const char *about;
    void (*build)(ds_graph *g);
    const char *op, *why;
} refusal;

static ds_node *floats(ds_graph *g, int rank, const int64_t *dims) {
    char name[24];
    snprintf(name, sizeof name, "f%zu", g->n_nodes);
    return ds_graph_input(g, name, DS_F32, rank, dims);
}

static ds_node *ints(ds_graph *g, int rank, const int64_t *dims) {
    char name[24];
    snprintf(name, sizeof name, "i%zu", g->n_nodes);
    return ds_graph_input(g, name, DS_I32, rank, dims);
}

#define REFUSED(name, ...)                                                                         \
    static void name(ds_graph *g) {                                                                \
        __VA_ARGS__;                                                                               \
    }

REFUSED(matmul_columns, ds_graph_matmul(g, floats(g, DIMS(4, 768)), floats(g, DIMS(1024, 768)),
                                        (ds_matmul_opts){0}))
REFUSED(matmul_vector,
        ds_graph_matmul(g, floats(g, DIMS(4)), floats(g, DIMS(4, 4)), (ds_matmul_opts){0}))
REFUSED(matmul_batch,
        ds_graph_matmul(g, floats(g, DIMS(2, 3, 4)), floats(g, DIMS(5, 4, 3)), (ds_matmul_opts){0}))
REFUSED(add_shapes, ds_graph_add(g, floats(g, DIMS(2, 3)), floats(g, DIMS(4))))
REFUSED(unary_of_ints, ds_graph_unary(g, DS_EXP, ints(g, DIMS(3)), 0))
REFUSED(missing, ds_graph_add(g, floats(g, DIMS(2)), NULL))
REFUSED(rank_7, ds_graph_input(g, "x", DS_F32, DIMS(1, 1, 1, 1, 1, 1, 9)))
REFUSED(rank_below_0, ds_graph_input(g, "x", DS_F32, -1, (int64_t[]){1}))
REFUSED(negative_axis, floats(g, DIMS(3, -2)))
REFUSED(too_many_elements, floats(g, DIMS(INT64_C(1) << 40, INT64_C(1) << 40)))
REFUSED(too_many_though_empty, floats(g, DIMS(0, INT64_C(1) << 40, INT64_C(1) << 40)))
REFUSED(product_too_large, {
    const int64_t n = INT64_C(1) << 32;
    ds_graph_matmul(g, floats(g, DIMS(n, 1)), floats(g, DIMS(1, n)), (ds_matmul_opts){0});
})
REFUSED(fill_negative, ds_graph_fill(g, 1, DS_F32, DIMS(-2)))
REFUSED(fill_rank_7, ds_graph_fill(g, 1, DS_F32, DIMS(1, 1, 1, 1, 1, 1, 9)))
REFUSED(reshape_count, ds_graph_reshape(g, floats(g, DIMS(2, 3)), DIMS(4, 2)))
REFUSED(reshape_two_open, ds_graph_reshape(g, floats(g, DIMS(2, 3)), DIMS(-1, -1)))
REFUSED(reshape_open_unfit, ds_graph_reshape(g, floats(g, DIMS(2, 3)), DIMS(-1, 4)))
REFUSED(reshape_huge,
        ds_graph_reshape(g, floats(g, DIMS(2)), DIMS(INT64_C(1) << 40, INT64_C(1) << 40)))
REFUSED(permute_twice, ds_graph_permute(g, floats(g, DIMS(2, 3)), (int[]){1, 1}))
REFUSED(slice_past_end, ds_graph_slice(g, floats(g, DIMS(2, 3)), 1, 2, 2))
REFUSED(slice_overflow, ds_graph_slice(g, floats(g, DIMS(4)), 0, INT64_MAX, 5))
REFUSED(slice_no_axis, ds_graph_slice(g, floats(g, DIMS(4)), 1, 0, 1))
REFUSED(broadcast_shrinks, ds_graph_broadcast(g, floats(g, DIMS(2, 3)), DIMS(1, 3)))
REFUSED(broadcast_negative, ds_graph_broadcast(g, floats(g, DIMS(4)), DIMS(-3, 4)))
REFUSED(concat_unlike,
        ds_graph_concat(g, (ds_node *[]){floats(g, DIMS(2, 3)), floats(g, DIMS(3, 3))}, 2, 1))
REFUSED(reduce_axis, ds_graph_reduce(g, DS_SUM, floats(g, DIMS(2)), 1u << 3, false))
REFUSED(max_of_none, ds_graph_reduce(g, DS_MAX, floats(g, DIMS(2, 0)), 1u << 1, false))
REFUSED(argmax_of_none, ds_graph_argmax(g, floats(g, DIMS(2, 0))))
REFUSED(topk_too_many, {
    ds_node *indices = NULL;
    ds_graph_topk(g, floats(g, DIMS(2, 3)), 4, &indices);
})
REFUSED(softmax_scalar, ds_graph_softmax(g, floats(g, 0, NULL)))
REFUSED(norm_weight, ds_graph_layer_norm(g, floats(g, DIMS(2, 8)), floats(g, DIMS(7)),
                                         floats(g, DIMS(8)), 1e-5f))
REFUSED(norm_bias, ds_graph_layer_norm(g, floats(g, DIMS(2, 8)), floats(g, DIMS(8)),
                                       floats(g, DIMS(2, 4)), 1e-5f))
REFUSED(norm_no_weight, ds_graph_rms_norm(g, floats(g, DIMS(2, 8)), NULL, 1e-5f))
REFUSED(rotary_odd, ds_graph_rotary(g, floats(g, DIMS(1, 3, 2, 5)), ds_graph_iota(g, 3),
                                    (ds_rotary_opts){.theta = 1e4f}))
REFUSED(rotary_positions, ds_graph_rotary(g, floats(g, DIMS(1, 3, 2, 4)), ds_graph_iota(g, 4),
                                          (ds_rotary_opts){.theta = 1e4f}))
REFUSED(rotary_no_theta,
        ds_graph_rotary(g, floats(g, DIMS(1, 3, 2, 4)), ds_graph_iota(g, 3), (ds_rotary_opts){0}))
REFUSED(attention_heads, {
    ds_node *kv = floats(g, DIMS(1, 5, 2, 8));
    ds_graph_attention(g, floats(g, DIMS(1, 5, 3, 8)), kv, kv, NULL, (ds_attention_opts){0});
})
REFUSED(attention_width, {
    ds_node *kv = floats(g, DIMS(1, 5, 3, 6));
    ds_graph_attention(g, floats(g, DIMS(1, 5, 3, 8)), kv, kv, NULL, (ds_attention_opts){0});
})
REFUSED(attention_no_width, {
    ds_node *x = floats(g, DIMS(1, 5, 3, 0));
    ds_graph_attention(g, x, x, x, NULL, (ds_attention_opts){0});
})
REFUSED(attention_window, {
    ds_node *x = floats(g, DIMS(1, 5, 3, 8));
    ds_graph_attention(g, x, x, x, NULL, (ds_attention_opts){.window = -5});
})
REFUSED(attention_lengths, {
    ds_node *x = floats(g, DIMS(2, 5, 3, 8));
    ds_graph_attention(g, x, x, x, ints(g, DIMS(5)), (ds_attention_opts){0});
})
REFUSED(attention_first_keys, {
    ds_node *x = floats(g, DIMS(2, 5, 3, 8));
    ds_graph_attention_from(g, x, x, x, NULL, ints(g, DIMS(2, 4)), (ds_attention_opts){0});
})
REFUSED(labels_shape, ds_graph_cross_entropy(g, floats(g, DIMS(2, 3, 11)), ints(g, DIMS(2, 4))))
REFUSED(no_classes, ds_graph_cross_entropy(g, floats(g, DIMS(2, 0)), ints(g, DIMS(2))))
REFUSED(gather_float_ids, ds_graph_gather(g, floats(g, DIMS(9, 4)), floats(g, DIMS(3))))
REFUSED(gather_rank, ds_graph_gather(g, floats(g, DIMS(9, 1, 1, 1)), ints(g, DIMS(1, 1, 1, 1))))
REFUSED(scatter_ids, ds_graph_scatter_add(g, floats(g, DIMS(2, 3, 4)), ints(g, DIMS(2, 4)), 9))
REFUSED(scatter_rank,
        ds_graph_scatter_add(g, floats(g, DIMS(1, 2, 1, 2, 1, 2)), ints(g, 0, NULL), 9))
REFUSED(scatter_negative, ds_graph_scatter_add(g, floats(g, DIMS(2, 4)), ints(g, DIMS(2)), -3))
REFUSED(route_no_experts, {
    ds_node *offsets = NULL;
    ds_graph_moe_route(g, ints(g, DIMS(4, 2)), 0, &offsets);
})
REFUSED(dropout_all, ds_graph_dropout(g, floats(g, DIMS(3)), 1))
REFUSED(dropout_nan, ds_graph_dropout(g, floats(g, DIMS(3)), NAN))
REFUSED(conv_channels, ds_graph_conv2d(g, floats(g, DIMS(1, 3, 8, 8)), floats(g, DIMS(4, 2, 3, 3)),
                                       NULL, (ds_conv_opts){0}))
REFUSED(one_name_two_shapes, {
    ds_graph_param(g, "w", DIMS(2, 3), DS_INIT_ZEROS);
    ds_graph_param(g, "w", DIMS(3, 2), DS_INIT_ZEROS);
})
REFUSED(no_such_param, ds_graph_param_named(g, "nowhere.weight"))
REFUSED(assign_to_input, ds_graph_assign(g, floats(g, DIMS(2)), floats(g, DIMS(2))))
REFUSED(cache_too_small, {
    ds_node *cache = ds_graph_variable(g, "cache", DS_F32, DIMS(1, 4, 2), DS_INIT_ZEROS);
    ds_graph_cache_write(g, cache, floats(g, DIMS(1, 5, 2)), ints(g, DIMS(1)));
})

static const refusal refusals[] = {
    {"columns", matmul_columns, "matmul(f32[4,768], f32[1024,768])",
     "768 columns, weight wants 1024"},
    {"a vector", matmul_vector, "matmul(f32[4], f32[4,4])", "two axes"},
    {"leading axes", matmul_batch, "matmul", "leading axis 0"},
    {"unlike shapes", add_shapes, "add", ""},
    {"exp of ints", unary_of_ints, "unary(i32[3])", "wants a float, got i32"},
    {"NULL", missing, "", "missing (NULL)"},
    {"rank 7", rank_7, "input", "rank 7 is not in 0 … 6"},
    {"rank -1", rank_below_0, "input", "rank -1"},
    {"negative axis", negative_axis, "input", "axis 1 has size -2"},
    {"2^80 elements", too_many_elements, "input", "more elements than can be counted"},
    {"2^80 less an axis", too_many_though_empty, "input", "more elements than can be counted"},
    {"2^64 elements", product_too_large, "matmul", "more elements than can be counted"},
    {"fill negative", fill_negative, "fill", "axis 0 has size -2"},
    {"fill rank 7", fill_rank_7, "fill", "rank 7 is not in 0 … 6"},
    {"reshape count", reshape_count, "reshape(f32[2,3])", "6 elements do not fit a shape of 8"},
    {"reshape -1, -1", reshape_two_open, "reshape", "axis 1 has size -1"},
    {"reshape -1, 4", reshape_open_unfit, "reshape(f32[2,3])", "do not fit"},
    {"reshape huge", reshape_huge, "reshape", "more elements than can be counted"},
    {"permute", permute_twice, "permute(f32[2,3])", "not a permutation"},
    {"slice", slice_past_end, "slice(f32[2,3])", "axis 1 of size 3"},
    {"slice overflow", slice_overflow, "slice(f32[4])", "axis 0 of size 4"},
    {"slice axis", slice_no_axis, "slice(f32[4])", "no axis 1"},
    {"broadcast", broadcast_shrinks, "broadcast(f32[2,3])", ""},
    {"broadcast negative", broadcast_negative, "broadcast(f32[4])", "axis 0 has size -3"},
    {"concat", concat_unlike, "concat(f32[2,3], f32[3,3])", "input 1"},
    {"reduce", reduce_axis, "reduce(f32[2])", "past rank 1"},
    {"max of none", max_of_none, "reduce(f32[2,0])", "zero elements"},
    {"argmax of none", argmax_of_none, "argmax(f32[2,0])", "empty"},
    {"topk", topk_too_many, "topk(f32[2,3])", "k = 4"},
    {"softmax", softmax_scalar, "softmax(f32[])", "at least one axis"},
    {"norm weight", norm_weight, "layer_norm(f32[2,8], f32[7], f32[8])", "input 1 must be f32[8]"},
    {"norm bias", norm_bias, "layer_norm", "input 2 must be f32[8]"},
    {"norm without weight", norm_no_weight, "rms_norm", "input 1 is missing"},
    {"rotary odd", rotary_odd, "rotary(f32[1,3,2,5], i32[3])", "5 rotated dimensions"},
    {"rotary positions", rotary_positions, "rotary", "positions must be i32"},
    {"rotary theta", rotary_no_theta, "rotary", "theta"},
    {"heads", attention_heads, "attention", "3 heads are not a multiple of 2"},
    {"head_dim", attention_width, "attention", "head_dim"},
    {"head_dim 0", attention_no_width, "attention", "head_dim"},
    {"window", attention_window, "attention", "window"},
    {"lengths", attention_lengths, "attention", "key_lengths must be i32[2]"},
    {"first keys", attention_first_keys, "attention", "first_keys must be i32[2, 5]"},
    {"labels", labels_shape, "cross_entropy(f32[2,3,11], i32[2,4])", "labels must be i32"},
    {"no classes", no_classes, "cross_entropy", "at least one class"},
    {"float ids", gather_float_ids, "gather(f32[9,4], f32[3])", "ids of i32"},
    {"gather rank", gather_rank, "gather", ""},
    {"scatter ids", scatter_ids, "scatter_add(f32[2,3,4], i32[2,4])", "ids' shape"},
    {"scatter rank", scatter_rank, "scatter_add", "rank 7 is not in 0 … 6"},
    {"scatter rows", scatter_negative, "scatter_add", "axis 0 has size -3"},
    {"no experts", route_no_experts, "moe_route", "chosen experts"},
    {"dropout 1", dropout_all, "dropout", "p = 1"},
    {"dropout NaN", dropout_nan, "dropout", "p = "},
    {"channels", conv_channels, "conv2d", "3 channels, the weight wants 2"},
    {"two shapes", one_name_two_shapes, "param", "already the param f32[2,3], not f32[3,2]"},
    {"no parameter", no_such_param, "param", "nowhere.weight"},
    {"assign", assign_to_input, "assign", "is a input, not a variable"},
    {"cache", cache_too_small, "cache_write", "5 rows do not fit a cache of 4"},
};

static void expect(const refusal *r, const char *part) {
    if (!strstr(ds_error(), part))
        fail_msg("%s: \"%s\" does not say \"%s\"", r->about, ds_error(), part);
}

/* Every builder takes a poisoned graph and a NULL without harm and leaves the first message be. */
static void call_all_builders(ds_graph *g, ds_node *x) {
    ds_node *other = NULL;
    ds_graph_softmax(g, x);
    ds_graph_log_softmax(g, x);
    ds_graph_layer_norm(g, x, x, x, 1e-5f);
    ds_graph_rms_norm(g, x, x, 1e-5f);
    ds_graph_rotary(g, x, x, (ds_rotary_opts){.theta = 1});
    ds_graph_attention(g, x, x, x, x, (ds_attention_opts){0});
    ds_graph_cross_entropy(g, x, x);
    ds_graph_gather(g, x, x);
    ds_graph_scatter_add(g, x, x, 3);
    ds_graph_moe_route(g, x, 2, &other);
    ds_graph_dropout(g, x, 0.5f);
    ds_graph_topk(g, x, 1, &other);
    ds_graph_matmul(g, x, x, (ds_matmul_opts){0});
    ds_graph_grouped_matmul(g, x, x, x, (ds_matmul_opts){0});
    ds_graph_select(g, x, x, x);
    ds_graph_mul(g, x, x);
    ds_graph_cast(g, x, DS_BF16);
    ds_graph_stop_gradient(g, x);
    ds_graph_reshape(g, x, DIMS(-1));
    ds_graph_permute(g, x, (int[]){0, 1, 2, 3, 4, 5});
    ds_graph_slice(g, x, 0, 0, 1);
    ds_graph_broadcast(g, x, DIMS(2, 3));
    ds_graph_concat(g, &x, 1, 0);
    ds_graph_sum_all(g, x);
    ds_graph_argmax(g, x);
    ds_graph_conv2d(g, x, x, x, (ds_conv_opts){0});
    ds_graph_fake_quantise(g, x, x);
    ds_graph_dequantise(g, ds_graph_quantise(g, x, x), x, DS_F32);
    ds_graph_assign(g, x, x);
    ds_graph_accumulate(g, x, x);
    ds_graph_cache_write(g, x, x, x);
    ds_graph_sum_of_squares(g, &x, 1);
    ds_graph_iota(g, 3);
    ds_graph_output(g, "y", x);
}

static void test_refusals_name_scope_op_and_shapes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        ds_graph *g = ds_graph_new();
        ds_graph_push(g, "blocks.%d", 3);
        ds_graph_push(g, "attn");
        r->build(g);
        if (ds_graph_ok(g))
            fail_msg("%s: was not refused", r->about);
        assert_int_equal(g->status, DS_INVALID);
        expect(r, "blocks.3.attn: ");
        expect(r, r->op);
        expect(r, r->why);
        char first[512];
        snprintf(first, sizeof first, "%s", ds_error());
        call_all_builders(g, NULL);
        ds_graph_ok(g);
        assert_string_equal(ds_error(), first);
        ds_graph_free(g);
    }
}

/* A graph that failed is refused by ds_compile with the same words. */
static void test_compile_returns_the_message(void **state) {
    (void)state;
    graph_run run = {.backend_name = "ref"};
    ds_graph *g = ds_graph_new();
    ds_graph_push(g, "head");
    matmul_columns(g);
    ds_graph_output(g, "y", NULL);
    assert_int_equal(graph_run_open(&run, g, (ds_compile_opts){0}), DS_INVALID);
    assert_non_null(strstr(ds_error(), "head: matmul(f32[4,768], f32[1024,768])"));
    graph_run_close(&run);
}

static void test_null_where_nothing_failed(void **state) {
    (void)state;
    ds_graph *g = ds_graph_new();
    call_all_builders(g, NULL);
    assert_false(ds_graph_ok(g));
    assert_non_null(strstr(ds_error(), "missing (NULL)"));
    ds_graph_free(g);
}

/* ---- costs ----------------------------------------------------------------------------------- */

static double attention_flops(int64_t tokens, int64_t keys, int64_t dim, int64_t v_dim,
                              ds_attention_opts opts) {
    ds_graph *g = ds_graph_new();
    ds_node *q = floats(g, DIMS(2, tokens, 4, dim)), *k = floats(g, DIMS(2, keys, 2, dim));
    ds_node *v = floats(g, DIMS(2, keys, 2, v_dim));
    const double flops = ds_node_cost(ds_graph_attention(g, q, k, v, NULL, opts)).flops;
    ds_graph_free(g);
    return flops;
}

/* 2 samples · 4 heads · seen pairs · (head_dim + v's) multiply-adds, counted by hand. */
static void test_attention_cost_counts_seen_keys(void **state) {
    (void)state;
    const ds_attention_opts full = {0}, causal = {.causal = true};
    const ds_attention_opts window = {.causal = true, .window = 2};
    const double each = 2 * 4 * 2 * (8 + 6);
    assert_true(attention_flops(3, 5, 8, 6, full) == each * 15);
    assert_true(attention_flops(4, 4, 8, 6, causal) == each * 10);
    assert_true(attention_flops(3, 5, 8, 6, causal) == each * (3 + 4 + 5));
    assert_true(attention_flops(4, 4, 8, 6, window) == each * (1 + 2 + 2 + 2));
    assert_true(attention_flops(8, 2, 8, 6, causal) == each * (1 + 2)); /* six see none */
    assert_true(attention_flops(3, 0, 8, 6, causal) == 0);
}

/* ---- empty axes ------------------------------------------------------------------------------ */

/* Sums of results over an axis of zero elements, forward and backward: nothing to compute, no
 * division by zero, and gradients of the right shape. */
static void test_empty_axes_run(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    for (int b = 0; b < 2; b++)
        for (int fuse = 0; fuse < 2; fuse++) {
            graph_run run = {.backend_name = backends[b]};
            ds_graph *g = ds_graph_new();
            ds_node *x = ds_graph_param(g, "x", DIMS(0, 3, 4), DS_INIT_ZEROS);
            ds_node *w = ds_graph_param(g, "w", DIMS(4, 4), DS_INIT_ONES);
            ds_node *scale = ds_graph_param(g, "scale", DIMS(4), DS_INIT_ONES);
            ds_node *h = ds_graph_layer_norm(g, x, scale, NULL, 1e-5f);
            h = ds_graph_matmul(g, h, w, (ds_matmul_opts){0});
            h = ds_graph_dropout(g, ds_graph_rms_norm(g, h, scale, 1e-5f), 0.5f);
            ds_node *heads = ds_graph_reshape(g, h, DIMS(0, 3, 2, 2));
            heads = ds_graph_rotary(g, heads, ds_graph_iota(g, 3), (ds_rotary_opts){.theta = 10});
            heads = ds_graph_attention(g, heads, heads, heads, NULL,
                                       (ds_attention_opts){.causal = true});
            h = ds_graph_softmax(g, ds_graph_reshape(g, heads, DIMS(0, 3, 4)));
            ds_node *labels = ds_graph_input(g, "labels", DS_I32, DIMS(0, 3));
            ds_node *rows = ds_graph_gather(g, w, labels);
            h = ds_graph_add(g, ds_graph_unary(g, DS_GELU, h, 0), rows);
            ds_graph_output(g, "loss", ds_graph_cross_entropy(g, h, labels));
            const ds_compile_opts opts = {.loss = "loss", .no_fuse = !fuse};
            if (graph_run_open(&run, g, opts) != DS_OK || graph_run_once(&run) != DS_OK)
                fail_msg("%s: %s", backends[b], ds_error());
            float loss = NAN, dw[16], dscale[4];
            graph_run_read(&run, "loss", &loss, sizeof loss);
            assert_true(loss == 0);
            graph_run_gradient(&run, "w", dw, sizeof dw);
            graph_run_gradient(&run, "scale", dscale, sizeof dscale);
            graph_run_gradient(&run, "x", NULL, 0);
            for (int i = 0; i < 16; i++)
                assert_true(dw[i] == 0);
            for (int i = 0; i < 4; i++)
                assert_true(dscale[i] == 0);
            graph_run_close(&run);
        }
}

/* Queries without a key to see, an axis of no keys at all, and labels and ids that name nothing:
 * zeros or, for a label that is no class, a loss that is not a number; never foreign memory. */
static void test_nothing_to_see(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    for (int b = 0; b < 2; b++) {
        graph_run run = {.backend_name = backends[b]};
        ds_graph *g = ds_graph_new();
        ds_node *q = ds_graph_param(g, "q", DIMS(1, 2, 1, 4), DS_INIT_ONES);
        ds_node *k = ds_graph_param(g, "k", DIMS(1, 0, 1, 4), DS_INIT_ONES);
        ds_node *seen = ds_graph_attention(g, q, k, k, NULL, (ds_attention_opts){0});
        ds_node *table = ds_graph_param(g, "table", DIMS(3, 2), DS_INIT_ONES);
        ds_node *ids = ds_graph_input(g, "ids", DS_I32, DIMS(4));
        ds_node *rows = ds_graph_gather(g, table, ids);
        ds_graph_output(g, "seen", seen);
        ds_graph_output(g, "rows", rows);
        ds_graph_output(g, "bad", ds_graph_cross_entropy(g, ds_graph_stop_gradient(g, rows), ids));
        ds_graph_output(g, "loss",
                        ds_graph_add(g, ds_graph_sum_all(g, seen), ds_graph_sum_all(g, rows)));
        if (graph_run_open(&run, g, (ds_compile_opts){.loss = "loss"}) != DS_OK)
            fail_msg("%s: %s", backends[b], ds_error());
        const int32_t some[] = {2, 3, -1, INT32_MAX};
        graph_run_write(&run, "ids", some, sizeof some);
        if (graph_run_once(&run) != DS_OK)
            fail_msg("%s: %s", backends[b], ds_error());
        float out[8], got[8], bad = 0, dtable[6], dq[8];
        graph_run_read(&run, "seen", out, sizeof out);
        graph_run_read(&run, "rows", got, sizeof got);
        graph_run_read(&run, "bad", &bad, sizeof bad);
        graph_run_gradient(&run, "table", dtable, sizeof dtable);
        graph_run_gradient(&run, "q", dq, sizeof dq);
        assert_true(isnan(bad));
        for (int i = 0; i < 8; i++) {
            assert_true(out[i] == 0 && dq[i] == 0);
            assert_true(got[i] == (i < 2 ? 1 : 0));
        }
        for (int i = 0; i < 6; i++)
            assert_true(dtable[i] == (i >= 4 ? 1 : 0));
        graph_run_close(&run);
    }
}

/* ---- memory runs out ------------------------------------------------------------------------- */

/* One block of a transformer with everything a language model has. */
static ds_graph *small_model(void) {
    ds_graph *g = ds_graph_new();
    if (!g)
        return NULL;
    ds_node *ids = ds_graph_input(g, "ids", DS_I32, DIMS(2, 5));
    ds_node *table = ds_graph_param(g, "wte.weight", DIMS(11, 8), DS_INIT_NORMAL(0.5f));
    ds_node *ones = ds_graph_param(g, "norm.weight", DIMS(8), DS_INIT_ONES);
    ds_node *x = ds_graph_dropout(g, ds_graph_gather(g, table, ids), 0.1f);
    for (int layer = 0; layer < 2; layer++) {
        ds_graph_push(g, "h.%d", layer);
        ds_graph_segment_begin(g);
        ds_node *qkv = ds_graph_param(g, "qkv.weight", DIMS(24, 8), DS_INIT_NORMAL(0.5f));
        ds_node *up = ds_graph_param(g, "up.weight", DIMS(16, 8), DS_INIT_NORMAL(0.5f));
        ds_node *down = ds_graph_param(g, "down.weight", DIMS(8, 16), DS_INIT_NORMAL(0.5f));
        ds_node *h = ds_graph_layer_norm(g, x, ones, NULL, 1e-5f), *parts[3];
        h = ds_graph_matmul(g, h, qkv, (ds_matmul_opts){.transpose_b = true});
        for (int i = 0; i < 3; i++)
            parts[i] = ds_graph_reshape(g, ds_graph_slice(g, h, 2, i * 8, 8), DIMS(2, 5, 2, 4));
        parts[0] = ds_graph_rotary(g, parts[0], ds_graph_iota(g, 5), (ds_rotary_opts){.theta = 9});
        h = ds_graph_attention(g, parts[0], parts[1], parts[2], NULL,
                               (ds_attention_opts){.causal = true});
        x = ds_graph_add(g, x, ds_graph_reshape(g, h, DIMS(2, 5, 8)));
        h = ds_graph_rms_norm(g, x, ones, 1e-5f);
        h = ds_graph_matmul(g, h, up, (ds_matmul_opts){.transpose_b = true});
        h = ds_graph_unary(g, DS_GELU_TANH, h, 0);
        h = ds_graph_matmul(g, h, down, (ds_matmul_opts){.transpose_b = true});
        x = ds_graph_add(g, x, h);
        ds_graph_segment_end(g);
        ds_graph_pop(g);
    }
    ds_node *logits = ds_graph_matmul(g, x, table, (ds_matmul_opts){.transpose_b = true});
    ds_graph_output(g, "loss", ds_graph_cross_entropy(g, logits, ids));
    return g;
}

static void check_out_of_memory(long n, const char *what) {
    if (!strstr(ds_error(), "out of memory"))
        fail_msg("allocation %ld of %s: the message is \"%s\"", n, what, ds_error());
}

static void test_building_out_of_memory(void **state) {
    (void)state;
    long n = 1;
    for (bool done = false; !done; n++) {
        assert_true(n < 10000);
        ds_fault_arm(DS_FAULT_ALLOC, n);
        ds_graph *g = small_model();
        done = g && g->status == DS_OK;
        ds_fault_arm(DS_FAULT_ALLOC, 0);
        if (g && !done) {
            assert_int_equal(g->status, DS_OUT_OF_MEMORY);
            assert_false(ds_graph_ok(g));
        }
        if (!done)
            check_out_of_memory(n, "building");
        ds_graph_free(g);
    }
    print_message("%ld allocations failed in turn\n", n - 2);
}

/* From an open backend to a finished run. */
static ds_status compile_and_run(graph_run *run, ds_graph *g, ds_compile_opts opts) {
    static const int32_t ids[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    DS_TRY(graph_run_open(run, g, opts));
    DS_TRY(ds_state_init(run->state, 1));
    DS_TRY(ds_program_write(run->program, "ids", ids, sizeof ids));
    return graph_run_once(run);
}

static void test_compiling_and_running_out_of_memory(void **state) {
    (void)state;
    static const struct {
        const char *backend;
        ds_compile_opts opts;
    } ways[] = {
        {"ref", {.loss = "loss", .no_fuse = true}},
        {"cpu", {.loss = "loss"}},
        {"cpu", {.loss = "loss", .precision = DS_PRECISION_BF16, .accumulate = true}},
        {"cpu", {.loss = "loss", .recompute = DS_RECOMPUTE_FULL}},
        {"cpu", {.loss = "loss", .recompute = DS_RECOMPUTE_SELECTIVE, .offload = DS_OFFLOAD_HOST}},
    };
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        long n = 1;
        for (bool done = false; !done; n++) {
            assert_true(n < 10000);
            graph_run run = {.backend_name = ways[w].backend};
            ds_graph *g = small_model();
            assert_true(ds_graph_ok(g));
            ds_fault_arm(DS_FAULT_ALLOC, n);
            const ds_status status = compile_and_run(&run, g, ways[w].opts);
            ds_fault_arm(DS_FAULT_ALLOC, 0);
            done = status == DS_OK;
            if (!done && status != DS_OUT_OF_MEMORY)
                fail_msg("allocation %ld on %s: %s: %s", n, ways[w].backend,
                         ds_status_string(status), ds_error());
            float loss = NAN;
            if (done) /* nothing failed unseen */
                graph_run_read(&run, "loss", &loss, sizeof loss);
            else
                check_out_of_memory(n, ways[w].backend);
            assert_true(!done || isfinite(loss));
            graph_run_close(&run);
        }
        print_message("way %zu on %s: %ld allocations failed in turn\n", w, ways[w].backend, n - 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_name_scope_op_and_shapes),
        cmocka_unit_test(test_compile_returns_the_message),
        cmocka_unit_test(test_null_where_nothing_failed),
        cmocka_unit_test(test_attention_cost_counts_seen_keys),
        cmocka_unit_test(test_empty_axes_run),
        cmocka_unit_test(test_nothing_to_see),
        cmocka_unit_test(test_building_out_of_memory),
        cmocka_unit_test(test_compiling_and_running_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
