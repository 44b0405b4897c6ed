/* Opening a trained model: which folder is meant, and all that lies in it. */
#include "infer/model.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checkpoint_folder.h"
#include "base/error.h"
#include "base/file.h"
#include "base/gguf.h"
#include "base/log.h"
#include "base/text.h"
#include "models/load.h"
#include "models/storage.h"

/* ---- where it is ----------------------------------------------------------------------------- */

/* Folders in which a preset's trained model may lie, one a line. */
static void list_places(ds_text *out) {
    const char *given = getenv("DEEPSEEK_MODELS"), *home = getenv("HOME");
    for (const char *at = given; at && *at;) {
        const size_t n = strcspn(at, ":");
        if (n > 0)
            ds_text_printf(out, "%.*s\n", (int)n, at);
        at += n + (at[n] == ':');
    }
    if (home && *home)
        ds_text_printf(out, "%s/.cache/deepseek\n", home);
}

static ds_status find_preset(const char *name, char out[PATH_MAX]) {
    ds_text places = {0};
    list_places(&places);
    for (char *at = places.data; at && *at;) {
        char *end = strchr(at, '\n');
        snprintf(out, PATH_MAX, "%.*s/%s", (int)(end - at), at, name);
        if (ds_folder_exists(out)) {
            ds_text_clear(&places);
            return DS_OK;
        }
        *end = ',';
        at = end + 1;
    }
    const ds_status status = ds_fail(
        DS_NOT_FOUND,
        "\"%s\" is the name of a preset, which has no weights of its own; a folder of that name "
        "with a trained model was looked for in %s and not found (set DEEPSEEK_MODELS, or give "
        "the folder)",
        name, places.data ? places.data : "no place");
    ds_text_clear(&places);
    return status;
}

/* The model's own folder or file, or the newest whole checkpoint below a run folder. Wherever there
 * are sums, the files are what they were when they were written. */
static ds_status find_model(const char *path, ds_verify which, char out[PATH_MAX]) {
    char inner[PATH_MAX], preset[PATH_MAX];
    ds_model_config unused;
    if (!ds_folder_exists(path) && !ds_file_exists(path)) {
        if (ds_model_preset(path, &unused) != DS_OK)
            return ds_fail(DS_NOT_FOUND, "%s: no such file or folder, nor a preset's name", path);
        DS_TRY(find_preset(path, preset));
        path = preset;
    }
    snprintf(inner, sizeof inner, "%s/checkpoints", path);
    if (ds_folder_exists(inner))
        return ds_checkpoint_find(inner, which, out);
    snprintf(out, PATH_MAX, "%s", path);
    return ds_checkpoint_verify_model(path, which);
}

/* The last part of the path as the user gave it. */
static void set_name(ds_model *m, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t start = n;
    while (start > 0 && path[start - 1] != '/')
        start--;
    snprintf(m->name, sizeof m->name, "%.*s", (int)(n - start), path + start);
}

/* ---- what is in it --------------------------------------------------------------------------- */

/* Beside a llama2.c model.bin lies tokenizer.bin, in a .gguf is its own; other models' folders hold
 * their tokenizer. A model without one answers in token ids. */
static ds_status open_tokenizer(ds_model *m, const char *given) {
    if (given)
        return ds_tokenizer_load(given, &m->tokenizer);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", m->path);
    if (ds_gguf_is(m->path))
        return ds_tokenizer_load(path, &m->tokenizer);
    if (!ds_folder_exists(m->path)) {
        const char *slash = strrchr(m->path, '/');
        snprintf(path, sizeof path, "%.*stokenizer.bin", slash ? (int)(slash - m->path) + 1 : 0,
                 m->path);
    }
    const ds_status status = ds_tokenizer_load(path, &m->tokenizer);
    return status == DS_NOT_FOUND ? DS_OK : status;
}

static void add_end_token(ds_model *m, int64_t id) {
    if (id < 0 || id >= m->config.vocab_size || m->n_end_tokens == DS_MOST_END_TOKENS)
        return;
    for (size_t i = 0; i < m->n_end_tokens; i++)
        if (m->end_tokens[i] == id)
            return;
    m->end_tokens[m->n_end_tokens++] = (int32_t)id;
}

/* NULL: there is none that can be read. */
static json_t *read_json(const ds_model *m, const char *file) {
    char path[PATH_MAX + 32], *text = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/%s", m->path, file);
    if (!ds_file_exists(path) || ds_file_read(path, (size_t)1 << 20, &text, &size) != DS_OK)
        return NULL;
    json_t *root = json_loadb(text, size, 0, NULL);
    free(text);
    return root;
}

static void add_end_tokens_of(ds_model *m, const json_t *root) {
    json_t *ids = json_object_get(root, "eos_token_id");
    if (json_is_integer(ids))
        add_end_token(m, json_integer_value(ids));
    for (size_t i = 0; i < json_array_size(ids); i++)
        if (json_is_integer(json_array_get(ids, i)))
            add_end_token(m, json_integer_value(json_array_get(ids, i)));
}

/* Files in this format name the end of a text only; those of a turn are told by their names. */
static void add_end_tokens_of_gguf(ds_model *m) {
    static const char *const names[] = {"<|im_end|>", "<|eot_id|>", "<|end_of_turn|>",
                                        "<end_of_turn>", "<|end|>"};
    for (size_t i = 0; m->tokenizer && i < sizeof names / sizeof *names; i++) {
        const int32_t id = ds_tokenizer_find(m->tokenizer, names[i]);
        if (id >= 0 && ds_tokenizer_is_special(m->tokenizer, id))
            add_end_token(m, id);
    }
}

/* NaN: not told, or nothing that can be. */
static double wanted_number(const ds_model *m, const json_t *root, const char *name, double low,
                            double high) {
    const json_t *v = json_object_get(root, name);
    const double x = json_is_number(v) ? json_number_value(v) : NAN;
    if (x >= low && x <= high)
        return x;
    if (v && !json_is_null(v))
        ds_log(DS_LOG_WARN, "%s: %s of generation_config.json is not in %g … %g and is ignored",
               m->path, name, low, high);
    return NAN;
}

static void read_wanted_sampling(ds_model *m, const json_t *root) {
    for (int i = 0; i < DS_SAMPLING_REALS; i++) {
        const ds_sampling_key *k = &ds_sampling_reals[i];
        m->wanted[i] = k->is_models_own ? wanted_number(m, root, k->name, k->low, k->high) : NAN;
    }
    m->wanted_top_k = wanted_number(m, root, "top_k", 0, INT32_MAX);
}

void ds_model_wanted_sampling(const ds_model *m, ds_sampling *s) {
    for (int i = 0; i < DS_SAMPLING_REALS; i++)
        if (!isnan(m->wanted[i]))
            *(float *)(void *)((char *)s + ds_sampling_reals[i].offset) = (float)m->wanted[i];
    if (!isnan(m->wanted_top_k))
        s->top_k = (int)m->wanted_top_k;
}

static void read_generation_config(ds_model *m) {
    json_t *own = read_json(m, "generation_config.json"), *config = read_json(m, "config.json");
    if (ds_gguf_is(m->path))
        add_end_tokens_of_gguf(m);
    read_wanted_sampling(m, own);
    add_end_tokens_of(m, own);
    add_end_tokens_of(m, config);
    json_decref(own);
    json_decref(config);
    add_end_token(m, m->config.eos_token);
    if (m->tokenizer)
        add_end_token(m, ds_tokenizer_eos(m->tokenizer));
}

static ds_status load_parameters(ds_model *m, const ds_model_opts *opts) {
    const ds_storage *storage = NULL;
    DS_TRY(ds_storage_find(opts->dtype, &storage));
    DS_TRY(ds_backend_open(opts->device ? opts->device : "cpu",
                           (ds_backend_opts){.n_threads = opts->n_threads}, &m->backend));
    DS_TRY(ds_state_new(m->backend, &m->state));
    ds_graph *g = ds_graph_new();
    if (!g)
        return DS_OUT_OF_MEMORY;
    m->has_heads = ds_model_has_heads(m->path, &m->config);
    if (m->has_heads)
        ds_model_build_logits(g, &m->config, 1, 1);
    else
        ds_model_build_hidden(g, &m->config, 1, 1);
    const ds_status status = ds_graph_ok(g)
                                 ? ds_model_load_stored(m->path, &m->config, g, storage, m->state)
                                 : DS_INVALID;
    ds_graph_free(g);
    return status;
}

ds_status ds_model_from_pretrained(const char *path, ds_model_opts opts, ds_model **out) {
    ds_model *m = ds_calloc(1, sizeof *m);
    if (!m)
        return DS_OUT_OF_MEMORY;
    pthread_mutex_init(&m->in_use, NULL);
    pthread_mutex_init(&m->trie_lock, NULL);
    ds_status status = find_model(path, opts.verify ? DS_VERIFY_ALL : DS_VERIFY_CHANGED, m->path);
    if (status == DS_OK)
        status = ds_model_config_load(m->path, &m->config);
    if (status == DS_OK)
        status = open_tokenizer(m, opts.tokenizer);
    if (status == DS_OK)
        status = load_parameters(m, &opts);
    if (status != DS_OK) {
        ds_model_free(m);
        return status;
    }
    set_name(m, path);
    read_generation_config(m);
    *out = m;
    return DS_OK;
}

void ds_model_free(ds_model *m) {
    if (!m)
        return;
    ds_embedder_free(m->embedder);
    ds_state_free(m->state);
    ds_backend_close(m->backend);
    ds_vocab_trie_free(m->trie);
    ds_tokenizer_free(m->tokenizer);
    pthread_mutex_destroy(&m->in_use);
    pthread_mutex_destroy(&m->trie_lock);
    free(m);
}

const ds_model_config *ds_model_get_config(const ds_model *m) {
    return &m->config;
}

ds_state *ds_model_get_state(ds_model *m) {
    return m->state;
}

const ds_tokenizer *ds_model_get_tokenizer(const ds_model *m) {
    return m->tokenizer;
}

const char *ds_model_get_name(const ds_model *m) {
    return m->name;
}

const int32_t *ds_model_end_tokens(const ds_model *m, size_t *n) {
    *n = m->n_end_tokens;
    return m->end_tokens;
}

ds_status ds_model_get_trie(ds_model *m, const ds_vocab_trie **out) {
    if (!m->tokenizer)
        return ds_fail(DS_INVALID, "a grammar needs a tokenizer, and the model has none");
    pthread_mutex_lock(&m->trie_lock);
    const ds_status status = m->trie ? DS_OK : ds_vocab_trie_new(m->tokenizer, &m->trie);
    *out = m->trie;
    pthread_mutex_unlock(&m->trie_lock);
    return status;
}
