/* Every differentiable op's gradient against central differences on the reference backend. A case
 * builds the op on random parameters; the loss is Σ result · fixed random weights. The last test
 * sees to it that no op and no kind with a gradient is left out. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "deepseek/compile.h"
#include "graph/ops/ops.h"

enum { MAX_PARAMS = 6, MAX_ELEMENTS = 256 };

typedef struct tensor {
    int rank;
    int64_t dims[4];
} tensor;

/* Random values lie in base ± spread, away from kinks where the op has some. */
typedef struct difference_case {
    const char *name;
    tensor params[MAX_PARAMS]; /* rank -1 ends the list */
    double base, spread;
    ds_node *(*build)(ds_graph *g, ds_node **p);
} difference_case;

static ds_node *ids(ds_graph *g, int64_t n, int64_t below) {
    ds_node *i = ds_graph_cast(g, ds_graph_iota(g, n), DS_F32); /* 0 1 2 0 1 2 … by a fold */
    ds_node *folded = i;
    for (int64_t k = below; k < n; k += below) {
        ds_node *edge = ds_graph_fill(g, (double)k - 0.5, DS_F32, 0, NULL);
        ds_node *past = ds_graph_binary(g, DS_LESS, edge, i);
        folded = ds_graph_sub(g, folded, ds_graph_scale(g, past, (float)below));
    }
    return ds_graph_cast(g, folded, DS_I32);
}

#define UNARY(function, kind)                                                                      \
    static ds_node *function(ds_graph *g, ds_node **p) {                                           \
        return ds_graph_unary(g, kind, p[0], 1.5f);                                                \
    }
UNARY(exp_, DS_EXP)
UNARY(log_, DS_LOG)
UNARY(sqrt_, DS_SQRT)
UNARY(rsqrt_, DS_RSQRT)
UNARY(square_, DS_SQUARE)
UNARY(reciprocal_, DS_RECIPROCAL)
UNARY(tanh_, DS_TANH)
UNARY(sigmoid_, DS_SIGMOID)
UNARY(erf_, DS_ERF)
UNARY(silu_, DS_SILU)
UNARY(gelu_, DS_GELU)
UNARY(gelu_tanh_, DS_GELU_TANH)
UNARY(sin_, DS_SIN)
UNARY(cos_, DS_COS)
UNARY(scale_, DS_SCALE)
UNARY(offset_, DS_OFFSET)
UNARY(neg_, DS_NEG)
UNARY(relu_, DS_RELU)
UNARY(abs_, DS_ABS)

#define BINARY(function, kind)                                                                     \
    static ds_node *function(ds_graph *g, ds_node **p) {                                           \
        return ds_graph_binary(g, kind, p[0], p[1]);                                               \
    }
BINARY(add_, DS_ADD)
BINARY(sub_, DS_SUB)
BINARY(maximum, DS_MAXIMUM)
BINARY(minimum, DS_MINIMUM)

static ds_node *mul_div(ds_graph *g, ds_node **p) {
    return ds_graph_div(g, ds_graph_mul(g, p[0], p[1]), p[2]);
}
static ds_node *select_(ds_graph *g, ds_node **p) {
    ds_node *condition = ds_graph_binary(g, DS_LESS, p[1], p[0]);
    return ds_graph_select(g, ds_graph_stop_gradient(g, condition), p[0], p[1]);
}
static ds_node *cast(ds_graph *g, ds_node **p) {
    return ds_graph_contiguous(
        g, ds_graph_add(g, p[0], ds_graph_cast(g, ds_graph_iota(g, 3), DS_F32)));
}
static ds_node *views(ds_graph *g, ds_node **p) {
    ds_node *x = ds_graph_permute(g, p[0], (int[]){1, 2, 0});
    ds_node *parts[] = {ds_graph_slice(g, x, 1, 2, 2), ds_graph_slice(g, x, 1, 0, 1)};
    x = ds_graph_reshape(g, ds_graph_concat(g, parts, 2, 1), 2, (int64_t[]){-1, 2});
    return ds_graph_broadcast(g, x, 3, (int64_t[]){2, 9, 2});
}
static ds_node *reduce(ds_graph *g, ds_node **p) {
    return ds_graph_mul(g, ds_graph_reduce(g, DS_MEAN, p[0], 1u << 1, true),
                        ds_graph_reduce(g, DS_MAX, p[0], 1u << 0, true));
}
static ds_node *reduce_others(ds_graph *g, ds_node **p) {
    return ds_graph_mul(g, ds_graph_reduce(g, DS_SUM, p[0], 1u << 1, true),
                        ds_graph_reduce(g, DS_MIN, p[0], 1u << 0, true));
}
static ds_node *topk(ds_graph *g, ds_node **p) {
    ds_node *indices = NULL;
    return ds_graph_topk(g, p[0], 2, &indices);
}
static ds_node *matmul(ds_graph *g, ds_node **p) {
    ds_node *y = ds_graph_matmul(g, p[0], p[1], (ds_matmul_opts){.transpose_b = true});
    return ds_graph_matmul(g, p[2], y, (ds_matmul_opts){.transpose_a = true});
}
static ds_node *grouped(ds_graph *g, ds_node **p) {
    ds_node *offsets = ids(g, 4, 4); /* rows 0, 1, 2 to experts 0, 1, 2 */
    return ds_graph_grouped_matmul(g, p[0], p[1], offsets, (ds_matmul_opts){0});
}
static ds_node *gather(ds_graph *g, ds_node **p) {
    ds_node *rows = ds_graph_gather(g, p[0], ids(g, 5, 3));
    return ds_graph_scatter_add(g, ds_graph_unary(g, DS_SQUARE, rows, 0), ids(g, 5, 2), 4);
}
static ds_node *softmax(ds_graph *g, ds_node **p) {
    return ds_graph_add(g, ds_graph_softmax(g, p[0]), ds_graph_log_softmax(g, p[1]));
}
static ds_node *layer_norm(ds_graph *g, ds_node **p) {
    return ds_graph_layer_norm(g, p[0], p[1], p[2], 1e-5f);
}
static ds_node *rms_norm(ds_graph *g, ds_node **p) {
    return ds_graph_rms_norm(g, p[0], p[1], 1e-5f);
}
static ds_node *rotary(ds_graph *g, ds_node **p) {
    return ds_graph_rotary(g, p[0], ds_graph_iota(g, 3), (ds_rotary_opts){.theta = 100});
}
static ds_node *rotary_interleaved(ds_graph *g, ds_node **p) {
    return ds_graph_rotary(g, p[0], ds_graph_iota(g, 3),
                           (ds_rotary_opts){.theta = 100, .interleaved = true, .n_dims = 4});
}

static ds_node *rotary_yarn(ds_graph *g, ds_node **p) {
    const ds_rope_scaling yarn = {.kind = DS_ROPE_YARN,
                                  .factor = 4,
                                  .original = 8,
                                  .beta_fast = 2,
                                  .beta_slow = 0.5f,
                                  .magnitude = 1.2f};
    return ds_graph_rotary(g, p[0], ds_graph_iota(g, 3),
                           (ds_rotary_opts){.theta = 100, .scaling = yarn});
}
static ds_node *attention(ds_graph *g, ds_node **p) {
    return ds_graph_attention(g, p[0], p[1], p[2], NULL,
                              (ds_attention_opts){.causal = true, .window = 2});
}
static ds_node *attention_full(ds_graph *g, ds_node **p) {
    return ds_graph_attention(g, p[0], p[1], p[2], NULL, (ds_attention_opts){.scale = 0.8f});
}
/* The first sample has one key, the second two. */
static ds_node *attention_lengths(ds_graph *g, ds_node **p) {
    ds_node *place = ds_graph_cast(g, ds_graph_iota(g, 2), DS_F32);
    ds_node *lengths = ds_graph_cast(g, ds_graph_unary(g, DS_OFFSET, place, 1), DS_I32);
    return ds_graph_attention(g, p[0], p[1], p[2], lengths, (ds_attention_opts){0});
}
/* Two documents, of two tokens and of one, in one sequence: first keys 0, 0, 2. */
static ds_node *attention_from(ds_graph *g, ds_node **p) {
    ds_node *edge = ds_graph_fill(g, 1.5, DS_F32, 0, NULL);
    ds_node *place = ds_graph_cast(g, ds_graph_iota(g, 3), DS_F32);
    ds_node *is_second = ds_graph_binary(g, DS_LESS, edge, place);
    ds_node *first = ds_graph_cast(g, ds_graph_scale(g, is_second, 2), DS_I32);
    ds_node *first_keys = ds_graph_reshape(g, first, 2, (int64_t[]){1, 3});
    return ds_graph_attention_from(g, p[0], p[1], p[2], NULL, first_keys,
                                   (ds_attention_opts){.causal = true});
}
static ds_node *cross_entropy(ds_graph *g, ds_node **p) {
    return ds_graph_cross_entropy(g, p[0], ids(g, 5, 4));
}
static ds_node *dropout(ds_graph *g, ds_node **p) {
    return ds_graph_dropout(g, ds_graph_unary(g, DS_SQUARE, p[0], 0), 0.4f);
}
static ds_node *conv(ds_graph *g, ds_node **p) {
    return ds_graph_conv2d(g, p[0], p[1], p[2], (ds_conv_opts){{1, 2}, {1, 0}});
}
static ds_node *conv_unpadded(ds_graph *g, ds_node **p) {
    return ds_graph_conv2d(g, p[0], p[1], NULL, (ds_conv_opts){{2, 1}, {0, 0}});
}
static ds_node *conv_wide(ds_graph *g, ds_node **p) {
    return ds_graph_conv2d(g, p[0], p[1], p[2], (ds_conv_opts){{2, 2}, {1, 2}});
}
#define END                                                                                        \
    {                                                                                              \
        -1, {                                                                                      \
            0                                                                                      \
        }                                                                                          \
    }
#define ONE(...)                                                                                   \
    { {2, {__VA_ARGS__}}, END }

/* Where value and surrogate are one, the gradient is that of the function. */
static ds_node *straight_through(ds_graph *g, ds_node **p) {
    return ds_graph_straight_through(g, p[0], p[0]);
}

static const difference_case cases[] = {
    {"straight through", ONE(3, 5), 0, 1, straight_through},
    {"exp", ONE(3, 5), 0, 1, exp_},
    {"log", ONE(3, 1), 1.5, 0.5, log_},
    {"sqrt", ONE(1, 5), 1.5, 0.5, sqrt_},
    {"rsqrt", ONE(3, 5), 1.5, 0.5, rsqrt_},
    {"square", ONE(3, 5), 0, 1, square_},
    {"reciprocal", ONE(3, 5), 1.5, 0.5, reciprocal_},
    {"tanh", ONE(3, 5), 0, 1, tanh_},
    {"sigmoid", ONE(3, 5), 0, 1, sigmoid_},
    {"erf", ONE(3, 5), 0, 1, erf_},
    {"silu", ONE(3, 5), 0, 1, silu_},
    {"gelu", ONE(3, 5), 0, 1, gelu_},
    {"gelu_tanh", ONE(3, 5), 0, 1, gelu_tanh_},
    {"sin", ONE(3, 5), 0, 1, sin_},
    {"cos", ONE(3, 5), 0, 1, cos_},
    {"scale", ONE(3, 5), 0, 1, scale_},
    {"offset", ONE(3, 5), 0, 1, offset_},
    {"neg", ONE(3, 5), 0, 1, neg_},
    {"relu", ONE(3, 5), 0, 1, relu_},
    {"abs", ONE(3, 5), 0, 1, abs_},
    {"add", {{2, {3, 5}}, {1, {5}}, END}, 0, 1, add_},
    {"sub", {{2, {3, 1}}, {2, {3, 5}}, END}, 0, 1, sub_},
    {"mul, div, broadcast", {{2, {3, 5}}, {1, {5}}, {2, {3, 1}}, END}, 1.5, 0.5, mul_div},
    {"maximum", {{2, {3, 5}}, {2, {3, 5}}, END}, 0, 1, maximum},
    {"minimum", {{2, {3, 5}}, {2, {3, 5}}, END}, 0, 1, minimum},
    {"select", {{2, {3, 5}}, {2, {3, 5}}, END}, 0, 1, select_},
    {"cast, contiguous", ONE(2, 3), 0, 1, cast},
    {"views", {{3, {2, 3, 4}}, END}, 0, 1, views},
    {"reduce", ONE(3, 5), 0, 1, reduce},
    {"reduce_others", ONE(3, 5), 0, 1, reduce_others},
    {"topk", ONE(3, 5), 0, 1, topk},
    {"matmul", {{3, {2, 3, 4}}, {3, {2, 5, 4}}, {3, {2, 3, 1}}, END}, 0, 1, matmul},
    {"grouped_matmul", {{2, {4, 3}}, {3, {3, 3, 2}}, END}, 0, 1, grouped},
    {"gather, scatter_add", ONE(3, 2), 0, 1, gather},
    {"softmax, log_softmax", {{2, {3, 5}}, {2, {3, 5}}, END}, 0, 1, softmax},
    {"layer_norm", {{2, {3, 7}}, {1, {7}}, {1, {7}}, END}, 0, 1, layer_norm},
    {"rms_norm", {{2, {3, 7}}, {1, {7}}, END}, 0, 1, rms_norm},
    {"rotary", {{4, {1, 3, 2, 4}}, END}, 0, 1, rotary},
    {"rotary_interleaved", {{4, {1, 3, 2, 6}}, END}, 0, 1, rotary_interleaved},
    {"rotary_yarn", {{4, {1, 3, 2, 4}}, END}, 0, 1, rotary_yarn},
    {"attention", {{4, {1, 3, 2, 4}}, {4, {1, 3, 1, 4}}, {4, {1, 3, 1, 3}}, END}, 0, 1, attention},
    {"attention_full",
     {{4, {1, 2, 2, 4}}, {4, {1, 3, 2, 4}}, {4, {1, 3, 2, 4}}, END},
     0,
     1,
     attention_full},
    {"attention_lengths",
     {{4, {2, 2, 2, 4}}, {4, {2, 2, 1, 4}}, {4, {2, 2, 1, 4}}, END},
     0,
     1,
     attention_lengths},
    {"attention_from",
     {{4, {1, 3, 2, 4}}, {4, {1, 3, 1, 4}}, {4, {1, 3, 1, 3}}, END},
     0,
     1,
     attention_from},
    {"cross_entropy", ONE(5, 4), 0, 1, cross_entropy},
    {"dropout", ONE(4, 5), 0, 1, dropout},
    {"conv2d", {{4, {1, 2, 4, 5}}, {4, {3, 2, 2, 3}}, {1, {3}}, END}, 0, 1, conv},
    {"conv2d_unpadded", {{4, {1, 2, 5, 4}}, {4, {3, 2, 3, 2}}, END}, 0, 1, conv_unpadded},
    {"conv2d_wide", {{4, {1, 2, 4, 5}}, {4, {3, 2, 2, 3}}, {1, {3}}, END}, 0, 1, conv_wide},
};

typedef struct session {
    ds_backend *backend;
    ds_state *state;
    ds_program *forward, *backward;
    int n;
    size_t sizes[MAX_PARAMS];
    float values[MAX_PARAMS][MAX_ELEMENTS];
} session;

/* The op alone. */
static ds_node *build_subject(const difference_case *c, ds_graph *g) {
    ds_node *params[MAX_PARAMS];
    for (int i = 0; i < MAX_PARAMS && c->params[i].rank >= 0; i++) {
        char name[8];
        snprintf(name, sizeof name, "p%d", i);
        params[i] = ds_graph_param(g, name, c->params[i].rank, c->params[i].dims, DS_INIT_ZEROS);
    }
    return c->build(g, params);
}

static ds_graph *build(const difference_case *c) {
    ds_graph *g = ds_graph_new();
    ds_node *y = build_subject(c, g);
    ds_node *weight =
        ds_graph_unary(g, DS_SIN, ds_graph_cast(g, ds_graph_iota(g, ds_node_count(y)), DS_F32), 0);
    ds_node *flat = ds_graph_reshape(g, y, 1, (int64_t[]){ds_node_count(y)});
    ds_node *off = ds_graph_unary(g, DS_OFFSET, weight, 1.3f);
    ds_graph_output(g, "loss", ds_graph_sum_all(g, ds_graph_mul(g, flat, off)));
    return g;
}

static double loss_of(session *s) {
    float loss = NAN;
    for (int i = 0; i < s->n; i++) {
        char name[8];
        snprintf(name, sizeof name, "p%d", i);
        assert_int_equal(ds_state_write(s->state, name, s->values[i], s->sizes[i]), DS_OK);
    }
    assert_int_equal(ds_program_seed(s->forward, 7, 0), DS_OK);
    assert_int_equal(ds_program_run(s->forward), DS_OK);
    assert_int_equal(ds_program_read(s->forward, "loss", &loss, sizeof loss), DS_OK);
    return (double)loss;
}

static void compare(const difference_case *c, session *s, int param) {
    float gradient[MAX_ELEMENTS];
    char name[16];
    snprintf(name, sizeof name, DS_GRADIENT_PREFIX "p%d", param);
    if (ds_state_read(s->state, name, gradient, s->sizes[param]) != DS_OK)
        fail_msg("%s: %s", c->name, ds_error());
    for (size_t i = 0; i < s->sizes[param] / sizeof(float); i++) {
        float *x = &s->values[param][i];
        const float kept = *x, h = 4e-3f;
        *x = kept + h;
        const double up = loss_of(s);
        *x = kept - h;
        const double down = loss_of(s), slope = (up - down) / (2 * (double)h);
        *x = kept;
        if (!(fabs(slope - (double)gradient[i]) <= 1e-2 * (1 + fabs(slope))))
            fail_msg("%s: %s[%zu] is %g, differences give %g", c->name, name, i,
                     (double)gradient[i], slope);
    }
}

static void check(const difference_case *c) {
    session s = {0};
    ds_graph *g = build(c);
    if (!ds_graph_ok(g))
        fail_msg("%s: %s", c->name, ds_error());
    assert_int_equal(ds_backend_open("ref", (ds_backend_opts){0}, &s.backend), DS_OK);
    assert_int_equal(ds_state_new(s.backend, &s.state), DS_OK);
    assert_int_equal(ds_compile(g, s.state, (ds_compile_opts){0}, &s.forward), DS_OK);
    if (ds_compile(g, s.state, (ds_compile_opts){.loss = "loss"}, &s.backward) != DS_OK)
        fail_msg("%s: %s", c->name, ds_error());
    for (; s.n < MAX_PARAMS && c->params[s.n].rank >= 0; s.n++) {
        const int64_t count = ds_count(c->params[s.n].dims, c->params[s.n].rank);
        assert_true(count <= MAX_ELEMENTS);
        s.sizes[s.n] = (size_t)count * sizeof(float);
        for (int64_t i = 0; i < count; i++) {
            const float u = ds_uniform(ds_philox((uint64_t)s.n, (uint64_t)i, 3).word[0]);
            s.values[s.n][i] = (float)(c->base + c->spread * (2 * (double)u - 1));
        }
    }
    const float one = 1;
    loss_of(&s);
    assert_int_equal(ds_program_write(s.backward, DS_LOSS_SEED, &one, sizeof one), DS_OK);
    assert_int_equal(ds_program_seed(s.backward, 7, 0), DS_OK);
    assert_int_equal(ds_program_run(s.backward), DS_OK);
    for (int p = 0; p < s.n; p++)
        compare(c, &s, p);
    ds_program_free(s.backward);
    ds_program_free(s.forward);
    ds_graph_free(g);
    ds_state_free(s.state);
    ds_backend_close(s.backend);
}

static void test_every_case(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(&cases[i]);
}

static void note_kind(const ds_node *x, bool *unary, bool *binary, bool *reductions) {
    if (x->op == &ds_op_unary)
        unary[((const ds_unary_attrs *)x->attrs)->kind] = true;
    else if (x->op == &ds_op_binary)
        binary[((const ds_binary_attrs *)x->attrs)->kind] = true;
    else if (x->op == &ds_op_reduce)
        reductions[((const ds_reduce_attrs *)x->attrs)->kind] = true;
}

static void test_no_op_is_left_out(void **state) {
    (void)state;
    bool seen[128] = {false}, reductions[DS_MIN + 1] = {false};
    /* flat functions have no gradient, and nothing differentiates the derivatives of activations */
    bool unary[DS_UNARY_KINDS] = {[DS_SIGN] = true, [DS_STEP] = true};
    bool binary[DS_BINARY_KINDS] = {[DS_EQUAL] = true,
                                    [DS_LESS] = true,
                                    [DS_SILU_GRAD] = true,
                                    [DS_GELU_GRAD] = true,
                                    [DS_GELU_TANH_GRAD] = true};
    assert_true(ds_n_ops <= 128);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_graph *g = ds_graph_new();
        build_subject(&cases[i], g);
        for (size_t n = 0; n < g->n_nodes; n++) {
            for (int o = 0; o < ds_n_ops; o++)
                seen[o] = seen[o] || g->nodes[n]->op == ds_all_ops[o];
            note_kind(g->nodes[n], unary, binary, reductions);
        }
        ds_graph_free(g);
    }
    for (int o = 0; o < ds_n_ops; o++)
        /* a straight-through gradient is by design not that of the function: see the goldens */
        if (ds_all_ops[o]->gradient && !seen[o] && ds_all_ops[o] != &ds_op_fake_quantise)
            fail_msg("the op %s has a gradient but no case here", ds_all_ops[o]->name);
    for (int kind = 0; kind < DS_UNARY_KINDS; kind++)
        if (!unary[kind])
            fail_msg("%s has no case here", ds_unary_name((ds_unary)kind));
    for (int kind = 0; kind < DS_BINARY_KINDS; kind++)
        if (!binary[kind])
            fail_msg("%s has no case here", ds_binary_name((ds_binary)kind));
    for (int kind = DS_SUM; kind <= DS_MIN; kind++)
        if (!reductions[kind])
            fail_msg("reduction %d has no case here", kind);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_case),
        cmocka_unit_test(test_no_op_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
