/* Trained models of other projects: every activation of minGPT's sorter, the logits and greedy text
 * of a small Hugging Face Llama, and llama2.c's 260K-parameter story model byte for byte. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "deepseek/inference.h"
#include "deepseek/safetensors.h"
#include "deepseek/tokenizer.h"
#include "graph/ops/ops.h"

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static const char *const backends[] = {"ref", "cpu"};

static void skip_without(const char *path) {
    if (!ds_folder_exists(path)) {
        print_message("%s is not here: skipped\n", path);
        skip();
    }
}

/* ---- minGPT's sorter ------------------------------------------------------------------------- */

static const char SORTER[] = DS_ASSETS "/gpt_nano_sort";

static const ds_model_config sorter_config = {
    .architecture = DS_GPT2,
    .vocab_size = 3,
    .n_layers = 3,
    .hidden_size = 48,
    .n_heads = 3,
    .n_kv_heads = 3,
    .head_dim = 16,
    .intermediate_size = 192,
    .max_seq_len = 11,
    .norm_eps = 1e-5f,
    .bos_token = -1,
    .eos_token = -1,
};

/* Where each of minGPT's partials is in our graph: the last node of a scope, or, with from_input,
 * what the first node of the scope reads. Block 0 unless said otherwise. */
static const struct {
    const char *partial, *scope;
    bool from_input;
} places[] = {
    {"x", "transformer.h.0.ln_1", true},
    {"ln1", "transformer.h.0.ln_1", false},
    {"qkv", "transformer.h.0.attn.c_attn", false},
    {"y", "transformer.h.0.attn.c_proj", true},
    {"yProj", "transformer.h.0.attn.c_proj", false},
    {"attnResid", "transformer.h.0.ln_2", true},
    {"ln2", "transformer.h.0.ln_2", false},
    {"fc", "transformer.h.0.mlp.c_fc", false},
    {"gelu", "transformer.h.0.mlp.c_proj", true},
    {"mlp", "transformer.h.0.mlp.c_proj", false},
    {"mlpResid", "transformer.h.1.ln_1", true},
    {"block0", "transformer.h.1.ln_1", true},
    {"block1", "transformer.h.2.ln_1", true},
    {"block2", "transformer.ln_f", true},
    {"ln_f", "transformer.ln_f", false},
    {"lm_head", "lm_head", false},
};
enum { N_PLACES = sizeof places / sizeof *places };

static void name_partials(ds_graph *g) {
    for (int i = 0; i < N_PLACES; i++) {
        ds_node *found = NULL;
        for (size_t n = 0; n < g->n_nodes && !(found && places[i].from_input); n++) {
            ds_node *node = g->nodes[n];
            if (node->n_inputs > 0 && strcmp(node->scope, places[i].scope) == 0)
                found = places[i].from_input ? node->inputs[0] : node;
        }
        assert_non_null(found);
        ds_graph_output(g, places[i].partial, found);
    }
}

/* minGPT's projections are [out, in], GPT-2's published ones [in, out]. */
static void load_sorter(ds_state *state) {
    ds_safetensors *file = NULL;
    require(ds_safetensors_open(SORTER, &file));
    for (size_t i = 0; i < ds_state_count(state); i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        const ds_safetensor *t = NULL;
        require(ds_safetensors_find(file, e->name, &t));
        const float *from = t->data;
        float *values = malloc(t->size_bytes);
        memcpy(values, from, t->size_bytes);
        const bool is_turned = strstr(e->name, ".c_") && e->rank == 2;
        for (int64_t r = 0; is_turned && r < t->dims[0]; r++)
            for (int64_t c = 0; c < t->dims[1]; c++)
                values[c * t->dims[0] + r] = from[r * t->dims[1] + c];
        require(ds_state_write(state, e->name, values, t->size_bytes));
        free(values);
    }
    ds_safetensors_close(file);
}

static void check_partials(ds_program *p, const ds_safetensors *partials, const char *backend) {
    for (int i = 0; i < N_PLACES; i++) {
        const ds_safetensor *t = NULL;
        require(ds_safetensors_find(partials, places[i].partial, &t));
        const float *want = t->data;
        float *got = malloc(t->size_bytes);
        require(ds_program_read(p, places[i].partial, got, t->size_bytes));
        for (size_t k = 0; k < t->size_bytes / sizeof *got; k++)
            if (!(fabsf(got[k] - want[k]) <= 1e-5f * (1 + fabsf(want[k]))))
                fail_msg("%s: %s[%zu] is %.9g, PyTorch gives %.9g", backend, places[i].partial, k,
                         (double)got[k], (double)want[k]);
        free(got);
    }
}

static void test_sorter_partials(void **unused) {
    (void)unused;
    skip_without(SORTER);
    ds_safetensors *partials = NULL;
    const ds_safetensor *idx = NULL;
    char path[640];
    snprintf(path, sizeof path, "%s/partials.safetensors", SORTER);
    require(ds_safetensors_open(path, &partials));
    require(ds_safetensors_find(partials, "idx", &idx));
    int32_t tokens[33];
    assert_int_equal(idx->size_bytes, sizeof tokens);
    for (int i = 0; i < 33; i++)
        tokens[i] = (int32_t)((const float *)idx->data)[i];
    for (int b = 0; b < 2; b++) {
        ds_backend *backend = NULL;
        ds_state *state = NULL;
        ds_program *p = NULL;
        ds_graph *g = ds_graph_new();
        require(ds_backend_open(backends[b], (ds_backend_opts){0}, &backend));
        require(ds_state_new(backend, &state));
        ds_model_build_logits(g, &sorter_config, 3, 11);
        assert_true(ds_graph_ok(g));
        name_partials(g);
        require(ds_compile(g, state, (ds_compile_opts){0}, &p));
        load_sorter(state);
        require(ds_program_write(p, "tokens", tokens, sizeof tokens));
        require(ds_program_run(p));
        check_partials(p, partials, backends[b]);
        ds_program_free(p);
        ds_graph_free(g);
        ds_state_free(state);
        ds_backend_close(backend);
    }
    ds_safetensors_close(partials);
}

/* ---- generation ------------------------------------------------------------------------------ */

typedef struct session {
    ds_model_config config;
    ds_backend *backend;
    ds_state *state;
    ds_generator *generator;
} session;

static void open_session(session *s, const char *path, const char *backend, int64_t capacity) {
    require(ds_model_config_load(path, &s->config));
    require(ds_backend_open(backend, (ds_backend_opts){0}, &s->backend));
    require(ds_state_new(s->backend, &s->state));
    require(ds_generator_new(s->state, &s->config, capacity, DS_PRECISION_FULL, &s->generator));
    require(ds_model_load(path, &s->config, s->state));
}

static void close_session(session *s) {
    ds_generator_free(s->generator);
    ds_state_free(s->state);
    ds_backend_close(s->backend);
}

enum { MAX_IDS = 512 };

static size_t read_ids(const json_t *root, const char *key, int32_t *ids) {
    const json_t *list = json_object_get(root, key);
    assert_in_range(json_array_size(list), 1, MAX_IDS);
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return json_array_size(list);
}

static void check_greedy(session *s, const json_t *golden) {
    int32_t prompt[MAX_IDS], ids[MAX_IDS], id = -1;
    const size_t n_prompt = read_ids(golden, "prompt_ids", prompt);
    const size_t n = read_ids(golden, "greedy_ids", ids);
    require(ds_generator_feed(s->generator, prompt, (int64_t)n_prompt));
    const json_t *top = json_object_get(golden, "next_logits_top8");
    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *pair = json_array_get(top, i);
        const double want = json_number_value(json_array_get(pair, 1));
        const json_int_t token = json_integer_value(json_array_get(pair, 0));
        assert_true(fabs((double)ds_generator_logits(s->generator)[token] - want) <= 1e-4);
    }
    for (size_t i = n_prompt; i < n; i++) {
        require(ds_generator_next(s->generator, (ds_sampling){0}, &id));
        assert_int_equal(id, ids[i]);
    }
}

/* The mean of −log p of each token after the first. */
static void check_text_loss(session *s, const json_t *golden) {
    int32_t ids[MAX_IDS];
    const size_t n = read_ids(golden, "ppl_ids", ids);
    double sum = 0;
    ds_generator_reset(s->generator);
    for (size_t i = 0; i + 1 < n; i++) {
        require(ds_generator_feed(s->generator, &ids[i], 1));
        const float *logits = ds_generator_logits(s->generator);
        double total = 0;
        for (int64_t v = 0; v < s->config.vocab_size; v++)
            total += exp((double)logits[v]);
        sum += log(total) - (double)logits[ids[i + 1]];
    }
    const double want = json_number_value(json_object_get(golden, "mean_nll"));
    assert_true(fabs(sum / (double)(n - 1) - want) <= 1e-5);
}

static void test_hugging_face_llama(void **unused) {
    (void)unused;
    static const char folder[] = DS_ASSETS "/tinystories656k";
    skip_without(folder);
    json_t *golden = json_load_file(DS_ASSETS "/tinystories656k/golden_numpy_f64.json", 0, NULL);
    assert_non_null(golden);
    for (int b = 0; b < 2; b++) {
        session s = {0};
        open_session(&s, folder, backends[b], 256);
        check_greedy(&s, golden);
        check_text_loss(&s, golden);
        close_session(&s);
    }
    json_decref(golden);
}

static void test_llama2c_stories(void **unused) {
    (void)unused;
    static const char folder[] = DS_ASSETS "/stories260K";
    skip_without(folder);
    char *want = NULL;
    size_t want_size = 0;
    ds_tokenizer *tok = NULL;
    require(
        ds_file_read(DS_ASSETS "/stories260K/expected_greedy_200.txt", 1 << 20, &want, &want_size));
    require(ds_tokenizer_load(DS_ASSETS "/stories260K/tok512.bin", &tok));
    for (int b = 0; b < 2; b++) {
        session s = {0};
        char *text = NULL;
        size_t length = 0;
        int32_t ids[200] = {0};
        open_session(&s, DS_ASSETS "/stories260K/stories260K.bin", backends[b], 256);
        ids[0] = ds_tokenizer_bos(tok);
        assert_int_equal(ids[0], s.config.bos_token);
        require(ds_generator_feed(s.generator, ids, 1));
        for (int i = 0; i < 200; i++)
            require(ds_generator_next(s.generator, (ds_sampling){0}, &ids[i]));
        require(ds_tokenizer_decode(tok, ids, 200, &text, &length));
        if (length != want_size || memcmp(text, want, length) != 0)
            fail_msg("%s: wrote\n%s\nllama2.c wrote\n%s", backends[b], text, want);
        free(text);
        close_session(&s);
    }
    ds_tokenizer_free(tok);
    free(want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sorter_partials),
        cmocka_unit_test(test_hugging_face_llama),
        cmocka_unit_test(test_llama2c_stories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
