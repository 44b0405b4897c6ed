/* The CPU backend's attention against the reference, forward and backward. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "graph/ops/ops.h"
#include "support/kernel_case.h"

typedef struct problem {
    int64_t batch, tokens, heads, dim, keys, kv_heads, v_dim, window;
    bool causal, has_lengths, has_first_keys;
} problem;

static const problem problems[] = {
    {1, 1, 1, 1, 1, 1, 1, 0, false, false, false},
    {2, 5, 2, 16, 5, 2, 16, 0, true, false, false},
    {2, 130, 3, 64, 130, 3, 64, 0, true, false, false},
    {1, 64, 2, 32, 64, 1, 48, 0, false, false, false},
    {2, 70, 4, 40, 200, 2, 24, 0, true, true, false},    /* grouped, more keys than queries */
    {1, 200, 2, 64, 200, 2, 64, 33, true, false, false}, /* window */
    {2, 100, 2, 64, 100, 2, 64, 50, false, true, false},
    {1, 150, 4, 128, 90, 1, 64, 0, true, false, false}, /* the first queries see no key */
    {3, 1, 8, 64, 300, 2, 64, 0, true, true, false},    /* decoding */
    {2, 3, 4, 72, 70, 4, 80, 16, true, true, false},
    {0, 4, 2, 8, 4, 2, 8, 0, true, false, false},
    {2, 200, 4, 64, 200, 2, 64, 0, true, true, true}, /* first keys in any order */
    {2, 150, 2, 32, 150, 2, 32, 70, true, true, true},
    {2, 3, 4, 72, 70, 4, 80, 0, true, true, true},
};
enum { N_PROBLEMS = sizeof problems / sizeof *problems };
static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

static int make_inputs(ds_graph *g, const problem *p, ds_dtype dtype, ds_node **inputs) {
    inputs[0] = case_input(g, dtype, CASE_DIMS(p->batch, p->tokens, p->heads, p->dim));
    inputs[1] = case_input(g, dtype, CASE_DIMS(p->batch, p->keys, p->kv_heads, p->dim));
    inputs[2] = case_input(g, dtype, CASE_DIMS(p->batch, p->keys, p->kv_heads, p->v_dim));
    if (p->has_lengths)
        inputs[3] = case_input(g, DS_I32, CASE_DIMS(p->batch));
    if (p->has_first_keys)
        inputs[4] = case_input(g, DS_I32, CASE_DIMS(p->batch, p->tokens));
    return 3 + p->has_lengths + p->has_first_keys;
}

static ds_node *attention(ds_graph *g, ds_node **x, ds_attention_opts opts) {
    return x[4] ? ds_graph_attention_from(g, x[0], x[1], x[2], x[3], x[4], opts)
                : ds_graph_attention(g, x[0], x[1], x[2], x[3], opts);
}

static ds_attention_opts options(const problem *p) {
    return (ds_attention_opts){
        .causal = p->causal, .window = p->window, .scale = 1 / sqrtf((float)p->dim)};
}

static void check_forward(const problem *p, int d, uint64_t seed) {
    ds_graph *g = ds_graph_new();
    ds_node *inputs[5] = {0};
    make_inputs(g, p, floats[d], inputs);
    check_kernel(attention(g, inputs, options(p)),
                 (kernel_case){.seed = seed,
                               .strided = (seed + (uint64_t)d) % 2 ? 7 : 0,
                               .int_high = (int)p->keys + 5,
                               .tolerance = d == 0 ? 3e-5 : 2e-4,
                               .low_tolerance = 1.5e-2});
    ds_graph_free(g);
}

static void forward_matches_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_PROBLEMS; s++)
        for (int d = 0; d < 3; d++)
            check_forward(&problems[s], d, (uint64_t)s);
}

/* out and lse as the forward pass gives them for the drawn q, k, v: the reference makes them. */
static void forward_first(const ds_node *node, ds_tensor *inputs, void *context) {
    ds_node *forward = context;
    ds_tensor copies[6];
    for (int i = 0; i < 6; i++)
        copies[i] = inputs[i];
    ds_tensor forward_inputs[5] = {inputs[1], inputs[2], inputs[3]};
    for (int i = 6; i < node->n_inputs; i++)
        forward_inputs[i - 3] = inputs[i];
    const ds_tensor outputs[] = {copies[4], copies[5]};
    const ds_kernel_args args = {.node = forward,
                                 .n_inputs = forward->n_inputs,
                                 .n_outputs = 2,
                                 .inputs = forward_inputs,
                                 .outputs = outputs,
                                 .n_threads = 1};
    assert_int_equal(ds_kernel_reference.run(&args, NULL), DS_OK);
}

static void check_backward(const problem *p, int d, uint64_t seed) {
    ds_graph *g = ds_graph_new();
    ds_node *x[5] = {0};
    const int n = make_inputs(g, p, floats[d], x);
    const ds_attention_opts opts = options(p);
    ds_node *forward = attention(g, x, opts);
    const int64_t dims[] = {p->batch, p->tokens, p->heads, p->v_dim};
    ds_node *inputs[] = {case_input(g, floats[d], 4, dims),
                         x[0],
                         x[1],
                         x[2],
                         case_input(g, floats[d], 4, dims),
                         case_input(g, DS_F32, CASE_DIMS(p->batch, p->heads, p->tokens)),
                         x[3],
                         x[4]};
    check_kernel(ds_graph_add_node(g, &ds_op_attention_grad, &opts, inputs, 3 + n),
                 (kernel_case){.seed = seed,
                               .strided = (seed + (uint64_t)d) % 2 ? 0xF : 0,
                               .int_high = (int)p->keys + 5,
                               .tolerance = 1e-4,
                               .low_tolerance = d == 1 ? 4e-2 : 2e-3,
                               .adjust = forward_first,
                               .context = forward});
    ds_graph_free(g);
}

static void backward_matches_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_PROBLEMS; s++)
        for (int d = 0; d < 3; d++)
            check_backward(&problems[s], d, (uint64_t)s);
}

static problem random_problem(uint64_t seed) {
    const int64_t kv_heads = case_size(seed, 0, 3);
    problem p = {.batch = case_size(seed, 1, 3),
                 .tokens = case_size(seed, 2, 150),
                 .heads = kv_heads * case_size(seed, 3, 4),
                 .dim = case_size(seed, 4, 130),
                 .kv_heads = kv_heads,
                 .v_dim = case_size(seed, 5, 130),
                 .causal = case_choice(seed, 6, 2),
                 .has_lengths = case_choice(seed, 7, 2)};
    p.keys = case_choice(seed, 8, 2) ? p.tokens : case_size(seed, 9, 200);
    p.window = case_choice(seed, 10, 2) ? case_size(seed, 11, p.keys) : 0;
    p.has_first_keys = p.has_lengths && case_choice(seed, 12, 2);
    return p;
}

static void random_problems_match_reference(void **unused) {
    (void)unused;
    for (uint64_t seed = 100; seed < 160; seed++) {
        const problem p = random_problem(seed);
        check_forward(&p, (int)(seed % 3), seed);
        check_backward(&p, (int)(seed % 3), seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_matches_reference),
        cmocka_unit_test(backward_matches_reference),
        cmocka_unit_test(random_problems_match_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
