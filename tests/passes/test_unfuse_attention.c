/* Attention written out against the fused op: graph before and after, values and gradients for
 * every kind of mask, and the memory that the score matrix takes. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "graph/ops/ops.h"
#include "passes/passes.h"
#include "deepseek/models.h"
#include "support/graph_run.h"

enum { BATCH = 3, DIM = 8, V_DIM = 5, MOST = 3 * 24 * 4 * 8 };

typedef struct attention_case {
    int64_t tokens, keys, heads, kv_heads, window;
    bool causal;
    int32_t lengths[BATCH]; /* all 0: not given */
    bool packed;            /* each query sees keys from its own document's first one on */
} attention_case;

static const attention_case cases[] = {
    {6, 6, 2, 2, 0, false, {0}, false},         /* everything is seen */
    {6, 6, 4, 2, 0, true, {0}, false},          /* causal, two heads share keys */
    {5, 9, 4, 1, 0, true, {0}, false},          /* further keys before the first query */
    {9, 4, 2, 2, 0, true, {0}, false},          /* the first queries see nothing */
    {7, 7, 2, 1, 3, true, {0}, false},          /* a window */
    {7, 7, 2, 2, 2, false, {0}, false},         /* a window that looks ahead */
    {6, 10, 2, 2, 0, false, {10, 1, 4}, false}, /* padding */
    {6, 10, 4, 2, 4, true, {10, 3, 99}, false}, /* padding, a window, queries that see nothing */
    {8, 8, 4, 2, 0, true, {0}, true},           /* documents in a row */
    {8, 8, 2, 2, 3, true, {8, 5, 7}, true},
};

static ds_graph *make(const attention_case *c) {
    ds_graph *g = ds_graph_new();
    const int64_t q[] = {BATCH, c->tokens, c->heads, DIM};
    const int64_t k[] = {BATCH, c->keys, c->kv_heads, DIM};
    const int64_t v[] = {BATCH, c->keys, c->kv_heads, V_DIM};
    const ds_init init = DS_INIT_NORMAL(1);
    ds_node *lengths =
        c->lengths[0] ? ds_graph_input(g, "lengths", DS_I32, 1, (int64_t[]){BATCH}) : NULL;
    ds_node *x = ds_graph_param(g, "q", 4, q, init), *key = ds_graph_param(g, "k", 4, k, init);
    ds_node *value = ds_graph_param(g, "v", 4, v, init);
    const ds_attention_opts opts = {.causal = c->causal, .window = c->window, .scale = 0.7f};
    ds_node *first = c->packed ? ds_graph_input(g, "first_keys", DS_I32, 2, q) : NULL;
    ds_node *y = first ? ds_graph_attention_from(g, x, key, value, lengths, first, opts)
                       : ds_graph_attention(g, x, key, value, lengths, opts);
    ds_graph_output(g, "y", y);
    ds_graph_output(g, "loss", ds_graph_sum_all(g, ds_graph_unary(g, DS_SQUARE, y, 0)));
    return g;
}

typedef struct outcome {
    float y[MOST], dq[MOST], dk[MOST], dv[MOST];
} outcome;

static void run(const attention_case *c, const char *backend, bool unfused, outcome *out) {
    graph_run r = {.backend_name = backend};
    const ds_compile_opts opts = {.loss = "loss", .no_fused_attention = unfused};
    const size_t rows = (size_t)(BATCH * c->tokens * c->heads) * sizeof(float);
    const size_t kv_rows = (size_t)(BATCH * c->keys * c->kv_heads) * sizeof(float);
    if (graph_run_open(&r, make(c), opts) != DS_OK || ds_state_init(r.state, 11) != DS_OK)
        fail_msg("%s", ds_error());
    if (c->lengths[0])
        graph_run_write(&r, "lengths", c->lengths, sizeof c->lengths);
    if (c->packed) {
        int32_t first[BATCH * 8];
        for (int i = 0; i < BATCH * 8; i++)
            first[i] = i % 8 < 3 + i / 8 ? 0 : 3 + i / 8;
        graph_run_write(&r, "first_keys", first, sizeof first);
    }
    assert_int_equal(graph_run_once(&r), DS_OK);
    graph_run_read(&r, "y", out->y, rows * V_DIM);
    graph_run_gradient(&r, "q", out->dq, rows * DIM);
    graph_run_gradient(&r, "k", out->dk, kv_rows * DIM);
    graph_run_gradient(&r, "v", out->dv, kv_rows * V_DIM);
    graph_run_close(&r);
}

static void compare(const char *what, int i, const float *a, const float *b, int64_t n) {
    for (int64_t k = 0; k < n; k++)
        if (!(fabs((double)a[k] - (double)b[k]) <= 1e-4 * (1 + fabs((double)b[k]))))
            fail_msg("case %d: %s[%lld] is %g written out, %g fused", i, what, (long long)k,
                     (double)a[k], (double)b[k]);
}

static void test_same_values_and_gradients(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    static outcome fused, unfused;
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
            const attention_case *c = &cases[i];
            const int64_t rows = BATCH * c->tokens * c->heads;
            const int64_t kv_rows = BATCH * c->keys * c->kv_heads;
            run(c, backends[b], false, &fused);
            run(c, backends[b], true, &unfused);
            compare("y", i, unfused.y, fused.y, rows * V_DIM);
            compare("dq", i, unfused.dq, fused.dq, rows * DIM);
            compare("dk", i, unfused.dk, fused.dk, kv_rows * DIM);
            compare("dv", i, unfused.dv, fused.dv, kv_rows * V_DIM);
        }
}

static void test_graph_before_and_after(void **state) {
    (void)state;
    ds_graph *g = make(&cases[1]), *written = ds_pass_unfuse_attention(g);
    assert_true(ds_graph_ok(written));
    assert_int_equal(count_ops(g, &ds_op_attention), 1);
    assert_int_equal(count_ops(g, &ds_op_matmul), 0);
    assert_int_equal(count_ops(written, &ds_op_attention), 0);
    assert_int_equal(count_ops(written, &ds_op_matmul), 2);
    assert_int_equal(count_ops(written, &ds_op_softmax), 1);
    assert_int_equal(count_ops(written, &ds_op_select), 1); /* the causal mask */
    const ds_type *before = &g->outputs[0].node->type, *after = &written->outputs[0].node->type;
    assert_true(ds_type_equal(before, after));
    ds_graph_free(written);
    ds_graph_free(g);
}

static size_t working_bytes(const ds_model_config *c, int64_t seq_len, bool unfused) {
    graph_run r = {.backend_name = "cpu"};
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, c, 1, seq_len);
    assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){1}, &r.backend), DS_OK);
    assert_int_equal(ds_state_new(r.backend, &r.state), DS_OK);
    const ds_compile_opts opts = {.loss = "loss", .no_fused_attention = unfused, .plan_only = true};
    assert_int_equal(ds_compile(g, r.state, opts, &r.program), DS_OK);
    const size_t bytes = ds_program_memory(r.program)->working;
    r.g = g;
    graph_run_close(&r);
    return bytes;
}

/* One matrix of weights a layer waits for the backward pass: it grows with the square of the
 * sequence, while without it memory grows in proportion. */
static void test_score_matrix_takes_memory(void **state) {
    (void)state;
    ds_model_config c;
    assert_int_equal(ds_model_preset("gpt2-124m", &c), DS_OK);
    for (int64_t seq_len = 256; seq_len <= 1024; seq_len *= 2) {
        const size_t matrices =
            (size_t)(c.n_layers * c.n_heads * seq_len * seq_len) * sizeof(float);
        const size_t fused = working_bytes(&c, seq_len, false);
        const size_t unfused = working_bytes(&c, seq_len, true);
        assert_true(unfused >= fused + matrices);
        assert_true(fused < working_bytes(&c, seq_len / 2, false) * 21 / 10);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph_before_and_after),
        cmocka_unit_test(test_same_values_and_gradients),
        cmocka_unit_test(test_score_matrix_takes_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
