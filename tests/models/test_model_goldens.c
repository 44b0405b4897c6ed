/* Whole models against Hugging Face transformers: a tiny checkpoint of each family is loaded, and
 * logits, loss and every gradient are compared with what transformers computed from it
 * (tests/goldens/README.md). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/models.h"
#include "deepseek/safetensors.h"

static const double TOLERANCE = 2e-5; /* · (1 + |value|), for f32 */

typedef struct golden {
    char folder[512];
    ds_model_config config;
    ds_safetensors *expected;
    ds_backend *backend;
    ds_state *state;
} golden;

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static const ds_safetensor *expected(const golden *m, const char *name) {
    const ds_safetensor *t = NULL;
    require(ds_safetensors_find(m->expected, name, &t));
    return t;
}

static void open_golden(golden *m, const char *family, const char *backend) {
    char path[640];
    snprintf(m->folder, sizeof m->folder, "%s/goldens/%s", DS_TEST_DATA, family);
    snprintf(path, sizeof path, "%s/expected.safetensors", m->folder);
    require(ds_safetensors_open(path, &m->expected));
    require(ds_model_config_load(m->folder, &m->config));
    require(ds_backend_open(backend, (ds_backend_opts){2}, &m->backend));
    require(ds_state_new(m->backend, &m->state));
}

static void close_golden(golden *m) {
    ds_state_free(m->state);
    ds_backend_close(m->backend);
    ds_safetensors_close(m->expected);
}

static void compare(const char *family, const char *name, const float *got, const float *want,
                    size_t n, double tolerance) {
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * (1 + fabs((double)want[i]))))
            fail_msg("%s: %s[%zu] is %.9g, transformers gives %.9g", family, name, i,
                     (double)got[i], (double)want[i]);
}

/* Every input of the program that the golden has. */
static void write_inputs(const golden *m, ds_program *p, bool training) {
    static const char *const common[] = {"tokens"}, *const bert[] = {"segment_ids", "lengths"};
    const ds_safetensor *t = expected(m, common[0]);
    require(ds_program_write(p, t->name, t->data, t->size_bytes));
    for (int i = 0; i < 2 && m->config.architecture == DS_BERT; i++) {
        t = expected(m, bert[i]);
        require(ds_program_write(p, t->name, t->data, t->size_bytes));
    }
    if (training) {
        t = expected(m, "labels");
        require(ds_program_write(p, t->name, t->data, t->size_bytes));
    }
    if (training && m->config.architecture == DS_BERT) {
        t = expected(m, "next_sentence");
        require(ds_program_write(p, t->name, t->data, t->size_bytes));
    }
}

static void check_output(const golden *m, ds_program *p, const char *family, const char *name,
                         double tolerance) {
    const ds_safetensor *t = expected(m, name);
    float *got = malloc(t->size_bytes);
    require(ds_program_read(p, name, got, t->size_bytes));
    compare(family, name, got, t->data, t->size_bytes / sizeof *got, tolerance);
    free(got);
}

static void check_logits(const char *family, const char *backend, ds_compile_opts opts,
                         double tolerance) {
    golden m = {0};
    ds_program *p = NULL;
    open_golden(&m, family, backend);
    const ds_safetensor *tokens = expected(&m, "tokens");
    ds_graph *g = ds_graph_new();
    ds_model_build_logits(g, &m.config, tokens->dims[0], tokens->dims[1]);
    require(ds_compile(g, m.state, opts, &p));
    require(ds_model_load(m.folder, &m.config, m.state));
    write_inputs(&m, p, false);
    require(ds_program_run(p));
    check_output(&m, p, family, "logits", tolerance);
    if (m.config.architecture == DS_BERT)
        check_output(&m, p, family, "next_sentence_logits", tolerance);
    ds_program_free(p);
    ds_graph_free(g);
    close_golden(&m);
}

static float predicted_tokens(const golden *m) {
    const ds_safetensor *labels = expected(m, "labels");
    const int32_t *label = labels->data;
    float n = 0;
    for (size_t i = 0; i < labels->size_bytes / sizeof *label; i++)
        n += label[i] != -100 ? 1 : 0;
    return n;
}

/* Our tensor of all experts, ….experts.*.w1.weight, against theirs, one an expert. */
static void compare_experts(const golden *m, const char *family, const ds_state_entry *e,
                            const float *got, double tolerance) {
    const char *star = strchr(e->name, '*');
    const size_t n = (size_t)(e->dims[1] * e->dims[2]);
    for (int64_t i = 0; i < e->dims[0]; i++) {
        char name[256];
        snprintf(name, sizeof name, "%.*s%lld%s", (int)(star - e->name), e->name, (long long)i,
                 star + 1);
        compare(family, name, got + (size_t)i * n, expected(m, name)->data, n, tolerance);
    }
}

/* DeepSeek's bias of the router is not trained by gradients. */
static bool has_no_gradient(const char *name) {
    return strstr(name, "e_score_correction_bias") != NULL;
}

static void check_gradients(const golden *m, const char *family, double tolerance) {
    size_t n_checked = 0;
    for (size_t i = 0; i < ds_state_count(m->state); i++) {
        const ds_state_entry *e = ds_state_get(m->state, i);
        if (strncmp(e->name, DS_GRADIENT_PREFIX, strlen(DS_GRADIENT_PREFIX)) != 0)
            continue;
        size_t n = 1;
        for (int d = 0; d < e->rank; d++)
            n *= (size_t)e->dims[d];
        float *got = malloc(n * sizeof *got);
        require(ds_state_read(m->state, e->name, got, n * sizeof *got));
        if (has_no_gradient(e->name)) {
            float *zeros = calloc(n, sizeof *zeros);
            compare(family, e->name, got, zeros, n, 0);
            free(zeros);
        } else if (strchr(e->name, '*')) {
            compare_experts(m, family, e, got, tolerance);
            n_checked += (size_t)e->dims[0];
        } else {
            compare(family, e->name, got, expected(m, e->name)->data, n, tolerance);
            n_checked++;
        }
        free(got);
    }
    size_t n_expected = 0;
    for (size_t i = 0; i < ds_safetensors_count(m->expected); i++)
        n_expected += strncmp(ds_safetensors_at(m->expected, i)->name, DS_GRADIENT_PREFIX,
                              strlen(DS_GRADIENT_PREFIX)) == 0;
    assert_int_equal(n_checked, n_expected);
}

static void check_training(const char *family, const char *backend, ds_compile_opts opts,
                           double tolerance) {
    golden m = {0};
    ds_program *p = NULL;
    open_golden(&m, family, backend);
    const ds_safetensor *tokens = expected(&m, "tokens");
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, &m.config, tokens->dims[0], tokens->dims[1]);
    opts.loss = "loss";
    require(ds_compile(g, m.state, opts, &p));
    require(ds_model_load(m.folder, &m.config, m.state));
    write_inputs(&m, p, true);
    const float n = predicted_tokens(&m), seed = 1 / n;
    float loss = NAN;
    require(ds_program_write(p, DS_LOSS_SEED, &seed, sizeof seed));
    if (m.config.architecture == DS_BERT) {
        const float tokens_per_sample = n / (float)tokens->dims[0];
        require(ds_program_write(p, DS_TOKENS_PER_SAMPLE, &tokens_per_sample,
                                 sizeof tokens_per_sample));
    }
    require(ds_program_run(p));
    require(ds_program_read(p, "loss", &loss, sizeof loss));
    loss /= n;
    compare(family, "loss", &loss, expected(&m, "loss")->data, 1, tolerance);
    check_gradients(&m, family, tolerance);
    ds_program_free(p);
    ds_graph_free(g);
    close_golden(&m);
}

static void check_family(const char *family) {
    static const char *const backends[] = {"ref", "cpu"};
    for (int b = 0; b < 2; b++) {
        const char *backend = backends[b];
        check_logits(family, backend, (ds_compile_opts){.no_fuse = true}, TOLERANCE);
        check_logits(family, backend, (ds_compile_opts){0}, TOLERANCE);
        check_training(family, backend, (ds_compile_opts){.no_fuse = true}, TOLERANCE);
        check_training(family, backend, (ds_compile_opts){0}, TOLERANCE);
        check_training(family, backend, (ds_compile_opts){.no_fused_attention = true}, TOLERANCE);
        check_training(family, backend, (ds_compile_opts){.recompute = DS_RECOMPUTE_SELECTIVE},
                       TOLERANCE);
        check_training(family, backend, (ds_compile_opts){.recompute = DS_RECOMPUTE_FULL},
                       TOLERANCE);
        check_training(family, backend, (ds_compile_opts){.offload = DS_OFFLOAD_HOST}, TOLERANCE);
    }
}

/* Sequences fed in pieces of `step` tokens through a key-value cache: the logits after each piece
 * are those of the whole sequence at that place. */
static void check_cache(const char *family, const char *backend, int64_t step) {
    golden m = {0};
    ds_program *p = NULL;
    open_golden(&m, family, backend);
    const ds_safetensor *tokens = expected(&m, "tokens"), *logits = expected(&m, "logits");
    const int64_t batch = tokens->dims[0], n = tokens->dims[1], vocab = logits->dims[2];
    ds_graph *g = ds_graph_new();
    ds_model_build_step(g, &m.config, batch, step, n);
    require(ds_compile(g, m.state, (ds_compile_opts){0}, &p));
    require(ds_model_load(m.folder, &m.config, m.state));
    int32_t *ids = malloc((size_t)(batch * step) * sizeof *ids);
    int32_t *positions = malloc((size_t)(batch * step) * sizeof *positions);
    int32_t *start = malloc((size_t)batch * sizeof *start), *length = malloc((size_t)batch * 4);
    float *got = malloc((size_t)(batch * vocab) * sizeof *got);
    for (int64_t at = 0; at + step <= n; at += step) {
        for (int64_t b = 0; b < batch; b++) {
            start[b] = (int32_t)at;
            length[b] = (int32_t)(at + step);
            for (int64_t t = 0; t < step; t++) {
                ids[b * step + t] = ((const int32_t *)tokens->data)[b * n + at + t];
                positions[b * step + t] = (int32_t)(at + t);
            }
        }
        require(ds_program_write(p, "tokens", ids, (size_t)(batch * step) * sizeof *ids));
        require(ds_program_write(p, "positions", positions, (size_t)(batch * step) * 4));
        require(ds_program_write(p, "start", start, (size_t)batch * sizeof *start));
        require(ds_program_write(p, "lengths", length, (size_t)batch * sizeof *length));
        require(ds_program_run(p));
        require(ds_program_read(p, "logits", got, (size_t)(batch * vocab) * sizeof *got));
        for (int64_t b = 0; b < batch; b++)
            compare(family, "logits of a step", got + b * vocab,
                    (const float *)logits->data + (b * n + at + step - 1) * vocab, (size_t)vocab,
                    TOLERANCE);
    }
    free(ids);
    free(positions);
    free(start);
    free(length);
    free(got);
    ds_program_free(p);
    ds_graph_free(g);
    close_golden(&m);
}

static void test_cache(void **state) {
    (void)state;
    static const char *const families[] = {"gpt2",      "llama",       "mixtral",    "llama3",
                                           "mistral",   "qwen2",       "qwen3",      "qwen2_moe",
                                           "qwen3_moe", "deepseek_v2", "deepseek_v3"};
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        check_cache(families[f], "ref", 1);
        check_cache(families[f], "ref", 4);
        check_cache(families[f], "cpu", 1);
        check_cache(families[f], "cpu", 5);
    }
}

static void test_gpt2(void **state) {
    (void)state;
    check_family("gpt2");
}

static void test_llama(void **state) {
    (void)state;
    check_family("llama");
}

static void test_mixtral(void **state) {
    (void)state;
    check_family("mixtral");
}

static void test_variants_of_llama(void **state) {
    (void)state;
    static const char *const families[] = {"llama3",    "mistral",   "qwen2",       "qwen3",
                                           "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"};
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        check_family(families[f]);
}

static void test_bert(void **state) {
    (void)state;
    check_family("bert");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),    cmocka_unit_test(test_llama),
        cmocka_unit_test(test_mixtral), cmocka_unit_test(test_variants_of_llama),
        cmocka_unit_test(test_bert),    cmocka_unit_test(test_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
