/* What a plan says a model needs, against formulas worked out by hand: parameters, copies, FLOPs,
 * and that recomputing never asks for more than keeping. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <sys/resource.h>

#include "deepseek/compile.h"
#include "deepseek/models.h"

static ds_memory_report report_of(const ds_model_config *c, int64_t seq_len, ds_compile_opts opts) {
    ds_backend *ref = NULL;
    ds_state *state = NULL;
    ds_program *program = NULL;
    ds_graph *g = ds_graph_new();
    assert_int_equal(ds_backend_open("ref", (ds_backend_opts){0}, &ref), DS_OK);
    assert_int_equal(ds_state_new(ref, &state), DS_OK);
    ds_model_build_training(g, c, 1, seq_len);
    opts.loss = "loss";
    opts.plan_only = true;
    if (ds_compile(g, state, opts, &program) != DS_OK)
        fail_msg("%s", ds_error());
    const ds_memory_report report = *ds_program_memory(program);
    ds_program_free(program);
    ds_graph_free(g);
    ds_state_free(state);
    ds_backend_close(ref);
    return report;
}

static size_t total(const ds_memory_report *m) {
    return m->parameters + m->gradients + m->derived + m->inputs + m->working;
}

/* Both layouts of weights: GPT-2's biased conv1d with a tied table, Llama's plain linear. */
static size_t count_gpt2(const ds_model_config *c, size_t *products) {
    const size_t d = (size_t)c->hidden_size, layers = (size_t)c->n_layers,
                 vocab = (size_t)c->vocab_size;
    *products = layers * 12 * d * d + vocab * d; /* q k v o: 4 d², mlp: 8 d²; the table, tied */
    const size_t biases = layers * (3 * d + d + 4 * d + d), norms = (layers * 2 + 1) * 2 * d;
    return *products + biases + norms + (size_t)c->max_seq_len * d;
}

static size_t count_llama(const ds_model_config *c, size_t *products) {
    const size_t d = (size_t)c->hidden_size, layers = (size_t)c->n_layers,
                 kv = (size_t)(c->n_kv_heads * c->head_dim), inner = (size_t)c->intermediate_size,
                 vocab = (size_t)c->vocab_size;
    *products = layers * (2 * d * d + 2 * d * kv + 3 * d * inner) + vocab * d;
    return *products + (layers * 2 + 1) * d + vocab * d; /* norms; the input's own table */
}

/* Multiply-adds of one micro-batch: products forward once and backward twice; in attention the
 * scores and their sums that the causal mask leaves, forward two products of a head's width and
 * backward five. */
static double count_flops(const ds_model_config *c, size_t products, int64_t seq_len,
                          double attention_products) {
    const double pairs = (double)seq_len * (double)(seq_len + 1) / 2;
    return 2 *
           (3 * (double)products * (double)seq_len +
            (double)c->n_layers * attention_products * pairs * (double)(c->n_heads * c->head_dim));
}

static void check_plan(const char *preset, int64_t seq_len,
                       size_t (*count)(const ds_model_config *, size_t *)) {
    ds_model_config c;
    ds_memory_report m[3];
    size_t products = 0;
    assert_int_equal(ds_model_preset(preset, &c), DS_OK);
    const size_t n = count(&c, &products);
    assert_int_equal(ds_model_n_params(&c), n);
    for (int i = 0; i < 3; i++) {
        m[i] = report_of(
            &c, seq_len,
            (ds_compile_opts){.precision = DS_PRECISION_BF16, .recompute = (ds_recompute)i});
        assert_int_equal(m[i].parameters, 4 * n);
        assert_int_equal(m[i].gradients, 4 * n);
        assert_int_equal(m[i].derived, 2 * products);               /* once, however many read it */
        assert_int_equal(m[i].inputs, 2 * (size_t)seq_len * 4 + 4); /* tokens, labels, seed */
    }
    assert_true(m[1].working < m[0].working);
    assert_true(m[2].working < m[1].working);
    assert_true(total(&m[1]) < total(&m[0]));
    assert_true(total(&m[2]) < total(&m[1]));
    const double expected = count_flops(&c, products, seq_len, 7);
    assert_true(m[0].flops > 0.99 * expected && m[0].flops < 1.01 * expected);
    /* at most the forward pass again, less the projections that no segment needs from itself */
    assert_true(m[2].flops > 1.1 * m[0].flops && m[2].flops < 4.01 / 3 * m[0].flops);
    /* the customary figure: backward twice the forward, nothing made again (Kaplan et al. 2020) */
    const double customary = count_flops(&c, products, seq_len, 6) / (double)seq_len;
    const double told = ds_model_flops_per_token(&c, seq_len);
    assert_true(told > 0.999 * customary && told < 1.001 * customary);
}

static void test_report_of_gpt2(void **state) {
    (void)state;
    check_plan("gpt2-124m", 1024, count_gpt2);
}

static void test_report_of_llama(void **state) {
    (void)state;
    check_plan("llama-1b", 2048, count_llama);
}

/* 175 B parameters are planned without their memory. */
static void test_report_of_175b(void **state) {
    (void)state;
    check_plan("deepseek-175b", 2048, count_gpt2);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    assert_true(usage.ru_maxrss < 1 << 20); /* KB: 1 GB */
}

/* In f32 there is nothing to copy. */
static void test_no_copies_in_full_precision(void **state) {
    (void)state;
    ds_model_config c;
    assert_int_equal(ds_model_preset("gpt2-124m", &c), DS_OK);
    const ds_memory_report m = report_of(&c, 64, (ds_compile_opts){0});
    assert_int_equal(m.derived, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_report_of_gpt2),
        cmocka_unit_test(test_report_of_llama),
        cmocka_unit_test(test_report_of_175b),
        cmocka_unit_test(test_no_copies_in_full_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
