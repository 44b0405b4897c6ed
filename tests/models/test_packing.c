/* Documents that share a sample: with positions that begin anew and documents that do not see each
 * other, loss and gradients are those of the documents alone. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/models.h"
#include "support/graph_run.h"

enum { FIRST = 70, SECOND = 29, BOTH = FIRST + SECOND, VOCAB = 23, WIDTH = 24 };

static const ds_packing apart = {.reset_positions = true, .mask_documents = true};

static ds_model_config small(ds_architecture architecture) {
    return (ds_model_config){.architecture = architecture,
                             .vocab_size = VOCAB,
                             .n_layers = 2,
                             .hidden_size = WIDTH,
                             .n_heads = 3,
                             .n_kv_heads = architecture == DS_GPT2 ? 3 : 1,
                             .head_dim = 8,
                             .intermediate_size = 40,
                             .max_seq_len = BOTH,
                             .norm_eps = 1e-5f,
                             .rope_theta = 10000,
                             .tie_embeddings = true,
                             .n_experts = 4,
                             .experts_per_token = 2,
                             .bos_token = -1,
                             .eos_token = -1};
}

typedef struct result {
    double loss;
    float embedding[VOCAB * WIDTH]; /* its gradient */
} result;

/* Weights large enough that attention matters: those of a fresh model hardly do. */
static void make_weights(ds_state *state) {
    for (size_t i = 0; i < ds_state_count(state); i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        if (!e->is_param || e->rank < 2)
            continue;
        const int64_t n = ds_count(e->dims, e->rank);
        float *x = malloc((size_t)n * sizeof *x);
        assert_non_null(x);
        for (int64_t k = 0; k < n; k++)
            x[k] = 0.4f * sinf((float)(k * k % 1009) + (float)i);
        assert_int_equal(ds_state_write(state, e->name, x, (size_t)n * sizeof *x), DS_OK);
        free(x);
    }
}

/* Tokens [from, from + n) of the stream as one sample; documents begin at `from` and, in the sample
 * of both, at FIRST. */
static void run(const char *backend, ds_architecture architecture, int from, int n,
                ds_packing packing, result *out) {
    const ds_model_config c = small(architecture);
    int32_t tokens[BOTH], labels[BOTH], positions[BOTH], first_keys[BOTH];
    for (int i = 0; i < n; i++) {
        const int start = from + i >= FIRST && from < FIRST ? FIRST - from : 0;
        tokens[i] = (from + i) * (from + i) * 5 % VOCAB;
        labels[i] = (from + i) * 7 % VOCAB;
        positions[i] = i - start;
        first_keys[i] = start;
    }
    ds_graph *g = ds_graph_new();
    ds_model_build_packed(g, &c, 1, n, packing);
    graph_run r = {.backend_name = backend};
    if (graph_run_open(&r, g, (ds_compile_opts){.loss = "loss"}) != DS_OK ||
        ds_state_init(r.state, 3) != DS_OK)
        fail_msg("%s", ds_error());
    make_weights(r.state);
    const size_t size = (size_t)n * sizeof(int32_t);
    graph_run_write(&r, "tokens", tokens, size);
    graph_run_write(&r, "labels", labels, size);
    if (packing.reset_positions)
        graph_run_write(&r, "positions", positions, size);
    if (packing.mask_documents)
        graph_run_write(&r, "first_keys", first_keys, size);
    if (graph_run_once(&r) != DS_OK)
        fail_msg("%s", ds_error());
    float loss = 0;
    graph_run_read(&r, "loss", &loss, sizeof loss);
    out->loss = (double)loss;
    graph_run_gradient(
        &r, architecture == DS_GPT2 ? "transformer.wte.weight" : "model.embed_tokens.weight",
        out->embedding, sizeof out->embedding);
    graph_run_close(&r);
}

static void check(const char *backend, ds_architecture architecture) {
    static result first, second, both, seen, unmoved;
    run(backend, architecture, 0, FIRST, (ds_packing){0}, &first);
    run(backend, architecture, FIRST, SECOND, (ds_packing){0}, &second);
    run(backend, architecture, 0, BOTH, apart, &both);
    const double alone = first.loss + second.loss;
    if (fabs(both.loss - alone) > 1e-5 * alone)
        fail_msg("%s: %.7f packed, %.7f alone", backend, both.loss, alone);
    for (int i = 0; i < VOCAB * WIDTH; i++) {
        const double want = (double)first.embedding[i] + (double)second.embedding[i];
        if (fabs((double)both.embedding[i] - want) > 2e-5 * (1 + fabs(want)))
            fail_msg("%s: gradient %d is %g packed, %g alone", backend, i,
                     (double)both.embedding[i], want);
    }
    /* each half of it alone is something else */
    run(backend, architecture, 0, BOTH, (ds_packing){.reset_positions = true}, &seen);
    assert_true(fabs(seen.loss - alone) > 1e-3 * alone);
    run(backend, architecture, 0, BOTH, (ds_packing){.mask_documents = true}, &unmoved);
    if (architecture == DS_GPT2) /* rotary positions are relative: there nothing moves */
        assert_true(fabs(unmoved.loss - alone) > 1e-3 * alone);
    else
        assert_true(fabs(unmoved.loss - alone) <= 1e-5 * alone);
}

static void test_packed_documents_are_as_if_alone(void **state) {
    (void)state;
    static const ds_architecture decoders[] = {DS_GPT2, DS_LLAMA, DS_MOE};
    for (int i = 0; i < 3; i++) {
        check("ref", decoders[i]);
        check("cpu", decoders[i]);
    }
}

static void test_an_encoder_packs_nothing(void **state) {
    (void)state;
    ds_model_config c = small(DS_BERT);
    c.type_vocab_size = 2;
    c.n_kv_heads = 3;
    ds_graph *g = ds_graph_new();
    ds_model_build_packed(g, &c, 1, 8, apart);
    assert_false(ds_graph_ok(g));
    assert_non_null(strstr(ds_error(), "nothing packed"));
    ds_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed_documents_are_as_if_alone),
        cmocka_unit_test(test_an_encoder_packs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
