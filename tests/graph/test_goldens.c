/* Every op's value and gradient against PyTorch's (tests/goldens/README.md), on every backend. The
 * last tests see to it that no op and no golden is left out.
 *
 * A case builds its op from the golden's inputs; float inputs that have a gradient there become
 * parameters, so that the library's own backward pass gives "grad/NAME". The loss is Σ y · dy. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/compile.h"
#include "deepseek/nn.h"
#include "deepseek/safetensors.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"

enum { MAX_TENSORS = 16 };

typedef struct golden_case {
    const ds_safetensors *file;
    const char *name, *backend;
    ds_graph *g;
    ds_node *loss;
    float seed; /* the gradient of the loss */
    const ds_safetensor *inputs[MAX_TENSORS], *params[MAX_TENSORS], *outputs[MAX_TENSORS];
    const char *input_names[MAX_TENSORS], *param_names[MAX_TENSORS], *output_names[MAX_TENSORS];
    int n_inputs, n_params, n_outputs;
} golden_case;

static const ds_safetensor *find(const golden_case *c, const char *prefix, const char *name) {
    char full[128];
    const ds_safetensor *t = NULL;
    snprintf(full, sizeof full, "%s/%s%s", c->name, prefix, name);
    return ds_safetensors_find(c->file, full, &t) == DS_OK ? t : NULL;
}

/* The golden's input of this name is a parameter of the graph. */
static void is_param(golden_case *c, const char *name) {
    c->params[c->n_params] = find(c, "", name);
    c->param_names[c->n_params++] = name;
}

/* The golden's input of this name as a node. */
static ds_node *in(golden_case *c, const char *name) {
    const ds_safetensor *t = find(c, "", name);
    if (!t)
        return NULL;
    if (t->dtype == DS_F32 && find(c, "d", name)) {
        is_param(c, name);
        return ds_graph_param(c->g, name, t->rank, t->dims, DS_INIT_ZEROS);
    }
    c->inputs[c->n_inputs] = t;
    c->input_names[c->n_inputs++] = name;
    return ds_graph_input(c->g, name, t->dtype, t->rank, t->dims);
}

/* Declares x to be the golden's result of this name, whose gradient nothing starts from. */
static void out_value(golden_case *c, const char *name, ds_node *x) {
    c->outputs[c->n_outputs] = find(c, "", name);
    if (!c->outputs[c->n_outputs])
        fail_msg("%s has no %s", c->name, name);
    ds_graph_output(c->g, name, x);
    c->output_names[c->n_outputs++] = name;
}

/* Declares x to be the golden's result of this name. */
static void out(golden_case *c, const char *name, ds_node *x) {
    const ds_safetensor *d = find(c, "d", name);
    out_value(c, name, x);
    if (!d)
        return;
    static char names[MAX_TENSORS][32];
    char *dname = names[c->n_inputs];
    snprintf(dname, sizeof names[0], "d%s", name);
    c->inputs[c->n_inputs] = d;
    c->input_names[c->n_inputs++] = dname;
    ds_node *dy = ds_graph_input(c->g, dname, DS_F32, d->rank, d->dims);
    ds_node *term = ds_graph_sum_all(c->g, ds_graph_mul(c->g, x, dy));
    c->loss = c->loss ? ds_graph_add(c->g, c->loss, term) : term;
}

/* ---- the cases ------------------------------------------------------------------------------- */

typedef struct recipe {
    const char *name;
    void (*build)(golden_case *c, const struct recipe *r);
    int a, b, d; /* whatever the recipe's builder makes of them */
} recipe;

static void unary(golden_case *c, const recipe *r) {
    out(c, "y", ds_graph_unary(c->g, (ds_unary)r->a, in(c, "x"), (float)r->b / 100));
}

static void binary(golden_case *c, const recipe *r) {
    ds_node *a = in(c, "a");
    out(c, "y", ds_graph_binary(c->g, (ds_binary)r->a, a, in(c, "b")));
}

static void stop_gradient(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *x = in(c, "x");
    out(c, "y", ds_graph_mul(c->g, x, ds_graph_stop_gradient(c->g, x)));
}

static void straight_through(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *value = in(c, "value");
    out(c, "y", ds_graph_straight_through(c->g, value, in(c, "surrogate")));
}

static void select_case(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *condition = in(c, "condition"), *a = in(c, "a");
    out(c, "y", ds_graph_select(c->g, condition, a, in(c, "b")));
}

static void view(golden_case *c, const recipe *r) {
    ds_node *parts[3];
    switch (r->a) {
    case 0: out(c, "y", ds_graph_permute(c->g, in(c, "x"), (int[]){2, 0, 1})); break;
    case 1: out(c, "y", ds_graph_slice(c->g, in(c, "x"), 1, 1, 2)); break;
    case 2: out(c, "y", ds_graph_broadcast(c->g, in(c, "x"), 3, (int64_t[]){4, 2, 3})); break;
    default:
        parts[0] = in(c, "a");
        parts[1] = in(c, "b");
        parts[2] = in(c, "c");
        out(c, "y", ds_graph_concat(c->g, parts, 3, 1));
    }
}

static void reduce(golden_case *c, const recipe *r) {
    out(c, "y", ds_graph_reduce(c->g, (ds_reduction)r->a, in(c, "x"), (unsigned)r->b, r->d != 0));
}

static void squares(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *xs[] = {in(c, "a"), in(c, "b")};
    out_value(c, "y", ds_graph_sum_of_squares(c->g, xs, 2));
}

static void argmax(golden_case *c, const recipe *r) {
    (void)r;
    out(c, "y", ds_graph_argmax(c->g, in(c, "x")));
}

static void topk(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *indices = NULL;
    out(c, "y", ds_graph_topk(c->g, in(c, "x"), 3, &indices));
    out(c, "indices", indices);
}

static void matmul(golden_case *c, const recipe *r) {
    ds_node *a = in(c, "a");
    out(c, "y",
        ds_graph_matmul(c->g, a, in(c, "b"), (ds_matmul_opts){r->a != 0, r->b != 0, false}));
}

static void grouped(golden_case *c, const recipe *r) {
    ds_node *x = in(c, "x"), *w = in(c, "w");
    out(c, "y",
        ds_graph_grouped_matmul(c->g, x, w, in(c, "offsets"),
                                (ds_matmul_opts){.transpose_b = r->a != 0}));
}

static void embedding(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *table = in(c, "table");
    out(c, "y", ds_graph_gather(c->g, table, in(c, "ids")));
}

static void scatter(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *x = in(c, "x");
    out(c, "y", ds_graph_scatter_add(c->g, x, in(c, "ids"), 9));
}

static void softmax(golden_case *c, const recipe *r) {
    ds_node *x = in(c, "x");
    out(c, "y", r->a ? ds_graph_log_softmax(c->g, x) : ds_graph_softmax(c->g, x));
}

static void norm(golden_case *c, const recipe *r) {
    ds_node *x = in(c, "x"), *weight = in(c, "weight"), *bias = r->b ? in(c, "bias") : NULL;
    out(c, "y",
        r->a ? ds_graph_layer_norm(c->g, x, weight, bias, 1e-5f)
             : ds_graph_rms_norm(c->g, x, weight, 1e-6f));
}

static void rotary(golden_case *c, const recipe *r) {
    ds_node *x = in(c, "x");
    const ds_rotary_opts opts = {.theta = (float)r->a, .interleaved = r->b != 0, .n_dims = r->d};
    out(c, "y", ds_graph_rotary(c->g, x, in(c, "positions"), opts));
}

enum { FULL, CAUSAL };

static void attention(golden_case *c, const recipe *r) {
    ds_node *q = in(c, "q"), *k = in(c, "k"), *v = in(c, "v");
    const ds_attention_opts opts = {
        .causal = r->a == CAUSAL, .window = r->b, .scale = (float)r->d / 100};
    out(c, "y", ds_graph_attention(c->g, q, k, v, in(c, "lengths"), opts));
}

static void cross_entropy(golden_case *c, const recipe *r) {
    ds_node *logits = r->a ? NULL : in(c, "logits");
    if (r->a) {
        ds_node *x = in(c, "x");
        logits = ds_graph_matmul(c->g, x, in(c, "weight"), (ds_matmul_opts){.transpose_b = true});
    }
    /* the loss itself: what training has, and what is fused */
    c->loss = ds_graph_cross_entropy(c->g, logits, in(c, "labels"));
    c->seed = *(const float *)find(c, "d", "loss")->data;
    out_value(c, "loss", c->loss);
}

static void conv(golden_case *c, const recipe *r) {
    ds_node *x = in(c, "x"), *weight = in(c, "weight"), *bias = r->a ? in(c, "bias") : NULL;
    const ds_conv_opts opts =
        r->a ? (ds_conv_opts){{2, 1}, {1, 2}} : (ds_conv_opts){{4, 4}, {0, 0}};
    out(c, "y", ds_graph_conv2d(c->g, x, weight, bias, opts));
}

static void fake_quantise(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *x = in(c, "x");
    out(c, "y", ds_graph_fake_quantise(c->g, x, in(c, "scale")));
}

static void quantise(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *x = in(c, "x");
    out(c, "y", ds_graph_cast(c->g, ds_graph_quantise(c->g, x, in(c, "scale")), DS_I32));
}

static void quantisation_scale(golden_case *c, const recipe *r) {
    (void)r;
    out(c, "y", ds_graph_quantisation_scale(c->g, in(c, "x"), false));
}

static void dequantise(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *q = ds_graph_cast(c->g, in(c, "q"), DS_I8);
    out(c, "y", ds_graph_dequantise(c->g, q, in(c, "scale"), DS_F32));
}

static void mixture(golden_case *c, const recipe *r) {
    (void)r;
    const ds_moe_opts opts = {.n_experts = 4, .experts_per_token = 2, .intermediate_size = 12};
    ds_node *balance = NULL;
    out(c, "y", ds_nn_moe(c->g, in(c, "x"), opts, &balance));
    out(c, "balance", balance);
    is_param(c, "gate.weight");
    is_param(c, "experts.*.w1.weight");
    is_param(c, "experts.*.w2.weight");
    is_param(c, "experts.*.w3.weight");
}

static void route(golden_case *c, const recipe *r) {
    (void)r;
    ds_node *offsets = NULL, *order = ds_graph_moe_route(c->g, in(c, "experts"), 5, &offsets);
    out(c, "order", order);
    out(c, "offsets", offsets);
}

#define BINARY(name, kind)                                                                         \
    {name, binary, kind, 0, 0}, {name "_row", binary, kind, 0, 0},                                 \
        {name "_column", binary, kind, 0, 0}, {name "_both", binary, kind, 0, 0}, {                \
        name "_scalar", binary, kind, 0, 0                                                         \
    }
#define REDUCE(name, kind)                                                                         \
    {name "_last", reduce, kind, 1 << 2, 0}, {name "_first_keep", reduce, kind, 1 << 0, 1},        \
        {name "_outer", reduce, kind, 1 << 0 | 1 << 2, 0}, {                                       \
        name "_all", reduce, kind, 7, 0                                                            \
    }

static const recipe recipes[] = {
    {"exp", unary, DS_EXP, 0, 0},
    {"log", unary, DS_LOG, 0, 0},
    {"sqrt", unary, DS_SQRT, 0, 0},
    {"rsqrt", unary, DS_RSQRT, 0, 0},
    {"reciprocal", unary, DS_RECIPROCAL, 0, 0},
    {"square", unary, DS_SQUARE, 0, 0},
    {"abs", unary, DS_ABS, 0, 0},
    {"sin", unary, DS_SIN, 0, 0},
    {"cos", unary, DS_COS, 0, 0},
    {"tanh", unary, DS_TANH, 0, 0},
    {"sigmoid", unary, DS_SIGMOID, 0, 0},
    {"erf", unary, DS_ERF, 0, 0},
    {"relu", unary, DS_RELU, 0, 0},
    {"silu", unary, DS_SILU, 0, 0},
    {"gelu", unary, DS_GELU, 0, 0},
    {"gelu_tanh", unary, DS_GELU_TANH, 0, 0},
    BINARY("add", DS_ADD),
    BINARY("sub", DS_SUB),
    BINARY("mul", DS_MUL),
    BINARY("div", DS_DIV),
    BINARY("maximum", DS_MAXIMUM),
    BINARY("minimum", DS_MINIMUM),
    {"neg", unary, DS_NEG, 0, 0},
    {"scale", unary, DS_SCALE, 150, 0},
    {"offset", unary, DS_OFFSET, -75, 0},
    {"sign", unary, DS_SIGN, 0, 0},
    {"step", unary, DS_STEP, 0, 0},
    {"equal", binary, DS_EQUAL, 0, 0},
    {"less", binary, DS_LESS, 0, 0},
    {"stop_gradient", stop_gradient, 0, 0, 0},
    {"straight_through", straight_through, 0, 0, 0},
    {"select", select_case, 0, 0, 0},
    {"permute", view, 0, 0, 0},
    {"slice", view, 1, 0, 0},
    {"broadcast", view, 2, 0, 0},
    {"concat", view, 3, 0, 0},
    REDUCE("sum", DS_SUM),
    REDUCE("mean", DS_MEAN),
    REDUCE("max", DS_MAX),
    REDUCE("min", DS_MIN),
    {"sum_of_squares", squares, 0, 0, 0},
    {"argmax", argmax, 0, 0, 0},
    {"topk", topk, 0, 0, 0},
    {"matmul_nn", matmul, 0, 0, 0},
    {"matmul_nt", matmul, 0, 1, 0},
    {"matmul_tn", matmul, 1, 0, 0},
    {"matmul_tt", matmul, 1, 1, 0},
    {"matmul_nn_batched", matmul, 0, 0, 0},
    {"matmul_nt_batched", matmul, 0, 1, 0},
    {"matmul_tn_batched", matmul, 1, 0, 0},
    {"matmul_tt_batched", matmul, 1, 1, 0},
    {"matmul_shared", matmul, 0, 0, 0},
    {"matmul_shared_t", matmul, 0, 1, 0},
    {"grouped_matmul", grouped, 0, 0, 0},
    {"grouped_matmul_t", grouped, 1, 0, 0},
    {"embedding", embedding, 0, 0, 0},
    {"scatter_add", scatter, 0, 0, 0},
    {"softmax", softmax, 0, 0, 0},
    {"softmax_large", softmax, 0, 0, 0},
    {"log_softmax", softmax, 1, 0, 0},
    {"log_softmax_large", softmax, 1, 0, 0},
    {"layer_norm", norm, 1, 1, 0},
    {"layer_norm_no_bias", norm, 1, 0, 0},
    {"rms_norm", norm, 0, 0, 0},
    {"rotary_half", rotary, 10000, 0, 0},
    {"rotary_interleaved", rotary, 10000, 1, 0},
    {"rotary_half_per_sample", rotary, 500000, 0, 0},
    {"rotary_interleaved_part", rotary, 10000, 1, 4},
    {"attention_full", attention, FULL, 0, 0},
    {"attention_causal", attention, CAUSAL, 0, 0},
    {"attention_cross", attention, FULL, 0, 0},
    {"attention_lengths", attention, FULL, 0, 0},
    {"attention_grouped", attention, CAUSAL, 0, 0},
    {"attention_multi_query", attention, CAUSAL, 0, 0},
    {"attention_window", attention, CAUSAL, 3, 0},
    {"attention_cache", attention, CAUSAL, 0, 0},
    {"attention_unseen", attention, CAUSAL, 0, 0},
    {"attention_scale", attention, CAUSAL, 0, 50},
    {"attention_value_dim", attention, CAUSAL, 0, 0},
    {"attention_long", attention, CAUSAL, 0, 0},
    {"cross_entropy", cross_entropy, 0, 0, 0},
    {"linear_cross_entropy", cross_entropy, 1, 0, 0},
    {"conv2d_patches", conv, 0, 0, 0},
    {"conv2d", conv, 1, 0, 0},
    {"quantise_per_tensor", quantise, 0, 0, 0},
    {"quantise_per_row", quantise, 0, 0, 0},
    {"fake_quantise_per_tensor", fake_quantise, 0, 0, 0},
    {"fake_quantise_per_row", fake_quantise, 0, 0, 0},
    {"quantisation_scale", quantisation_scale, 0, 0, 0},
    {"dequantise_per_tensor", dequantise, 0, 0, 0},
    {"dequantise_per_row", dequantise, 0, 0, 0},
    {"moe", mixture, 0, 0, 0},
    {"moe_route", route, 0, 0, 0},
};

/* ---- running one ----------------------------------------------------------------------------- */

static void compare(const golden_case *c, const char *what, const float *got,
                    const ds_safetensor *want) {
    const int64_t n = ds_count(want->dims, want->rank);
    for (int64_t i = 0; i < n; i++) {
        const double w = want->dtype == DS_I32 ? (double)((const int32_t *)want->data)[i]
                                               : (double)((const float *)want->data)[i];
        const double x = want->dtype == DS_I32 ? (double)((const int32_t *)(const void *)got)[i]
                                               : (double)got[i];
        if (!(fabs(x - w) <= 3e-5 * (1 + fabs(w))))
            fail_msg("%s on %s: %s[%lld] is %.8g, PyTorch says %.8g", c->name, c->backend, what,
                     (long long)i, x, w);
    }
}

static void check_case(const ds_safetensors *file, const recipe *r, const char *backend_name,
                       bool fuse) {
    golden_case c = {
        .file = file, .name = r->name, .backend = backend_name, .g = ds_graph_new(), .seed = 1};
    ds_backend *backend = NULL;
    ds_state *state = NULL;
    ds_program *p = NULL;
    r->build(&c, r);
    if (c.loss)
        ds_graph_output(c.g, "L", c.loss);
    assert_int_equal(ds_backend_open(backend_name, (ds_backend_opts){2}, &backend), DS_OK);
    assert_int_equal(ds_state_new(backend, &state), DS_OK);
    const bool differentiate = c.loss && c.n_params > 0;
    const ds_compile_opts opts = {.loss = differentiate ? "L" : NULL, .no_fuse = !fuse};
    if (ds_compile(c.g, state, opts, &p) != DS_OK)
        fail_msg("%s on %s: %s", r->name, backend_name, ds_error());
    for (int i = 0; i < c.n_params; i++)
        assert_int_equal(
            ds_state_write(state, c.param_names[i], c.params[i]->data, c.params[i]->size_bytes),
            DS_OK);
    for (int i = 0; i < c.n_inputs; i++)
        if (ds_program_write(p, c.input_names[i], c.inputs[i]->data, c.inputs[i]->size_bytes) !=
            DS_OK)
            fail_msg("%s: %s", r->name, ds_error());
    if (differentiate)
        assert_int_equal(ds_program_write(p, DS_LOSS_SEED, &c.seed, sizeof c.seed), DS_OK);
    if (ds_program_run(p) != DS_OK)
        fail_msg("%s on %s: %s", r->name, backend_name, ds_error());
    for (int i = 0; i < c.n_outputs; i++) {
        float *got = malloc(c.outputs[i]->size_bytes + 1);
        assert_int_equal(ds_program_read(p, c.output_names[i], got, c.outputs[i]->size_bytes),
                         DS_OK);
        compare(&c, c.output_names[i], got, c.outputs[i]);
        free(got);
    }
    for (int i = 0; differentiate && i < c.n_params; i++) {
        const ds_safetensor *want = find(&c, "d", c.param_names[i]);
        char name[64];
        float *got = malloc(want->size_bytes + 1);
        snprintf(name, sizeof name, DS_GRADIENT_PREFIX "%s", c.param_names[i]);
        if (ds_state_read(state, name, got, want->size_bytes) != DS_OK)
            fail_msg("%s: %s", r->name, ds_error());
        compare(&c, name, got, want);
        free(got);
    }
    ds_program_free(p);
    ds_graph_free(c.g);
    ds_state_free(state);
    ds_backend_close(backend);
}

static void check_all(const char *backend) {
    ds_safetensors *file = NULL;
    if (ds_safetensors_open(DS_TEST_DATA "/goldens/ops.safetensors", &file) != DS_OK)
        fail_msg("%s", ds_error());
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        check_case(file, &recipes[i], backend, false);
        check_case(file, &recipes[i], backend, true);
    }
    ds_safetensors_close(file);
}

static void test_the_reference_backend(void **state) {
    (void)state;
    check_all("ref");
}

static void test_the_cpu_backend(void **state) {
    (void)state;
    check_all("cpu");
}

/* ---- what has no golden ---------------------------------------------------------------------- */

/* Ops that PyTorch has no counterpart for, or that another test compares. */
static const struct {
    const ds_op *op;
    const char *reason;
} exempt[] = {
    {&ds_op_seed, "random numbers are this project's own"},
    {&ds_op_dropout, "random numbers are this project's own"},
    {&ds_op_accumulate, "adds to a variable: test_program"},
    {&ds_op_cache_write,
     "writes to a variable: test_generator, tokens one by one against all at once"},
    {&ds_op_paged_write, "writes to a variable: test_cpu_paged, as below"},
    {&ds_op_paged_attention, "test_cpu_paged: against attention, which has goldens"},
    {&ds_op_contiguous, "a copy: made where a kernel needs it"},
    {&ds_op_quantised_matmul, "test_quantised: against folders of compressed-tensors"},
    {&ds_op_adamw, "test_optimizer_goldens"},
    {&ds_op_sgd, "test_optimizer_goldens"},
    {&ds_op_lion, "test_optimizer_goldens"},
};

typedef struct seen_kinds {
    bool ops[128], unary[DS_UNARY_KINDS], binary[DS_BINARY_KINDS];
} seen_kinds;

static void look_at(const ds_graph *g, seen_kinds *seen) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        for (int o = 0; o < ds_n_ops; o++)
            seen->ops[o] = seen->ops[o] || x->op == ds_all_ops[o];
        if (x->op == &ds_op_unary)
            seen->unary[((const ds_unary_attrs *)x->attrs)->kind] = true;
        if (x->op == &ds_op_binary)
            seen->binary[((const ds_binary_attrs *)x->attrs)->kind] = true;
    }
}

/* What the case computes with, before and after the passes that make other ops of it. */
static void look_at_case(const ds_safetensors *file, const recipe *r, seen_kinds *seen) {
    golden_case c = {.file = file, .name = r->name, .g = ds_graph_new(), .seed = 1};
    r->build(&c, r);
    look_at(c.g, seen);
    if (c.loss && c.n_params > 0) {
        ds_graph_output(c.g, "L", c.loss);
        ds_graph *whole = ds_pass_autodiff(c.g, "L", false), *fused = ds_pass_fuse(whole);
        ds_graph *joined = ds_pass_fuse_elementwise(fused);
        look_at(whole, seen);
        look_at(fused, seen);
        look_at(joined, seen);
        ds_graph_free(joined);
        ds_graph_free(fused);
        ds_graph_free(whole);
    }
    ds_graph_free(c.g);
}

static const char *reason_for(const ds_op *op) {
    for (size_t i = 0; i < sizeof exempt / sizeof *exempt; i++)
        if (exempt[i].op == op)
            return exempt[i].reason;
    return NULL;
}

static void test_no_op_is_left_out(void **state) {
    (void)state;
    seen_kinds seen = {0};
    ds_safetensors *file = NULL;
    assert_true(ds_n_ops <= 128);
    assert_int_equal(ds_safetensors_open(DS_TEST_DATA "/goldens/ops.safetensors", &file), DS_OK);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        look_at_case(file, &recipes[i], &seen);
    ds_safetensors_close(file);
    for (int o = 0; o < ds_n_ops; o++) {
        const char *reason = reason_for(ds_all_ops[o]);
        if (!seen.ops[o] && !reason)
            fail_msg("the op %s has no golden", ds_all_ops[o]->name);
        if (seen.ops[o] && reason)
            fail_msg("the op %s has a golden and needs no reason", ds_all_ops[o]->name);
    }
    for (int kind = 0; kind < DS_UNARY_KINDS; kind++)
        if (!seen.unary[kind])
            fail_msg("%s has no golden", ds_unary_name((ds_unary)kind));
    for (int kind = 0; kind < DS_BINARY_KINDS; kind++)
        if (!seen.binary[kind])
            fail_msg("%s has no golden", ds_binary_name((ds_binary)kind));
}

/* The case of a tensor's name: all before its slash. */
static bool has_recipe(const char *tensor) {
    const size_t length = strcspn(tensor, "/");
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (strlen(recipes[i].name) == length && strncmp(recipes[i].name, tensor, length) == 0)
            return true;
    return false;
}

static void test_no_golden_is_left_out(void **state) {
    (void)state;
    ds_safetensors *file = NULL;
    assert_int_equal(ds_safetensors_open(DS_TEST_DATA "/goldens/ops.safetensors", &file), DS_OK);
    for (size_t i = 0; i < ds_safetensors_count(file); i++)
        if (!has_recipe(ds_safetensors_at(file, i)->name))
            fail_msg("nothing reads %s", ds_safetensors_at(file, i)->name);
    ds_safetensors_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_reference_backend),
        cmocka_unit_test(test_the_cpu_backend),
        cmocka_unit_test(test_no_op_is_left_out),
        cmocka_unit_test(test_no_golden_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
