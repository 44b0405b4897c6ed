/* Hugging Face checkpoints into a state. What is published bears names that changed over the years
 * and tensors that no model needs; what each parameter may be called is in the tables below. */
#include "models/load.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/gguf.h"
#include "base/half.h"
#include "base/text.h"
#include "deepseek/safetensors.h"
#include "program/stacked.h"

enum { NAME_SIZE = 512 };

/* A name's part → what the same part is called in other files. */
static const struct {
    const char *ours, *theirs;
    bool only_tied; /* where the projection to the vocabulary is the embedding */
} aliases[] = {
    {"transformer.", "", false}, /* the hub's gpt2 */
    {"bert.", "", false},        /* BERT without heads */
    {"transformer.wte.weight", "lm_head.weight", true},
    {"model.embed_tokens.weight", "lm_head.weight", true},
    {"LayerNorm.weight", "LayerNorm.gamma", false}, /* BERT as converted from TensorFlow */
    {"LayerNorm.bias", "LayerNorm.beta", false},
    {"cls.predictions.bias", "cls.predictions.decoder.bias", false},
    {"bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", false},
};
enum { N_ALIASES = sizeof aliases / sizeof *aliases };

/* Tensors that published checkpoints hold beside the parameters: masks, positions, frequencies,
 * and second names of tied ones. */
static const struct {
    const char *suffix;
    bool only_tied;
} unneeded[] = {
    {".attn.bias", false},
    {".attn.masked_bias", false},
    {".rotary_emb.inv_freq", false},
    {"embeddings.position_ids", false},
    {"lm_head.weight", true},
    {"cls.predictions.decoder.weight", true},
    {"cls.predictions.decoder.bias", true},
};

typedef struct loading {
    const ds_safetensors *file;
    const ds_model_config *config;
    ds_state *state;
    const ds_safetensor **used; /* tensors that found their parameter */
    size_t n_used;
    float *values; /* of the largest parameter */
    bool write;    /* the first pass only checks, so that a bad file changes nothing */
} loading;

static const ds_safetensor *look_up(const loading *l, const char *name) {
    const ds_safetensor *t = NULL;
    return ds_safetensors_find(l->file, name, &t) == DS_OK ? t : NULL;
}

static const ds_safetensor *look_up_alias(const loading *l, const char *name) {
    for (int i = 0; i < N_ALIASES; i++) {
        const char *at = strstr(name, aliases[i].ours);
        char other[NAME_SIZE];
        if (!at || (aliases[i].only_tied && !l->config->tie_embeddings))
            continue;
        snprintf(other, sizeof other, "%.*s%s%s", (int)(at - name), name, aliases[i].theirs,
                 at + strlen(aliases[i].ours));
        const ds_safetensor *t = look_up(l, other);
        if (t)
            return t;
    }
    return NULL;
}

static void put_dims(ds_text *text, const char *dtype, int rank, const int64_t *dims) {
    ds_text_printf(text, "%s[", dtype);
    for (int i = 0; i < rank; i++)
        ds_text_printf(text, "%s%lld", i ? "," : "", (long long)dims[i]);
    ds_text_puts(text, "]");
}

static ds_status check_tensor(const ds_safetensor *t, int rank, const int64_t *dims) {
    bool same = t->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = t->dims[i] == dims[i];
    if (same && (t->dtype == DS_F32 || t->dtype == DS_BF16 || t->dtype == DS_F16))
        return DS_OK;
    ds_text text = {0};
    put_dims(&text, t->dtype_name, t->rank, t->dims);
    ds_text_puts(&text, ", the model wants ");
    put_dims(&text, "F32", rank, dims);
    const ds_status status = ds_fail(DS_INVALID, "%s: tensor \"%s\" is %s", t->path, t->name,
                                     text.data ? text.data : "unsuitable");
    ds_text_clear(&text);
    return status;
}

static void convert(const ds_safetensor *t, float *out) {
    if (t->dtype == DS_F32) {
        memcpy(out, t->data, t->size_bytes);
        return;
    }
    const unsigned char *bytes = t->data;
    for (size_t i = 0; i < t->size_bytes / 2; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, sizeof h);
        out[i] = t->dtype == DS_BF16 ? ds_bf16_to_f32(h) : ds_f16_to_f32(h);
    }
}

static ds_status take(loading *l, const ds_safetensor *t, int rank, const int64_t *dims,
                      float *out) {
    DS_TRY(check_tensor(t, rank, dims));
    if (l->write)
        convert(t, out);
    else
        l->used[l->n_used++] = t;
    return DS_OK;
}

static size_t count_of(const ds_state_entry *e) {
    size_t n = 1;
    for (int i = 0; i < e->rank; i++)
        n *= (size_t)e->dims[i];
    return n;
}

/* A stack (program/stacked.h), whose tensors files hold one by one. */
static ds_status take_stack(loading *l, const ds_state_entry *e) {
    const size_t n = count_of(e) / (size_t)e->dims[0];
    for (int64_t i = 0; i < e->dims[0]; i++) {
        char name[DS_STACKED_NAME_SIZE];
        const ds_safetensor *t = NULL;
        ds_name_in_stack(e->name, i, name);
        DS_TRY(ds_safetensors_find(l->file, name, &t));
        DS_TRY(take(l, t, e->rank - 1, e->dims + 1, l->values + (size_t)i * n));
    }
    return DS_OK;
}

static ds_status take_one(loading *l, const ds_state_entry *e) {
    const ds_safetensor *t = look_up(l, e->name);
    if (!t && !(t = look_up_alias(l, e->name)))
        return ds_safetensors_find(l->file, e->name, &t); /* says what is near */
    return take(l, t, e->rank, e->dims, l->values);
}

static ds_status load_param(loading *l, const ds_state_entry *e) {
    DS_TRY(ds_name_is_stacked(e->name) ? take_stack(l, e) : take_one(l, e));
    return l->write ? ds_state_write(l->state, e->name, l->values, count_of(e) * sizeof(float))
                    : DS_OK;
}

static ds_status load_params(loading *l) {
    for (size_t i = 0; i < ds_state_count(l->state); i++)
        if (ds_state_get(l->state, i)->is_param)
            DS_TRY(load_param(l, ds_state_get(l->state, i)));
    return DS_OK;
}

/* DeepSeek-V3's checkpoints end in layers that only guess further tokens. */
static bool is_of_a_layer_past_the_last(const loading *l, const char *name) {
    static const char prefix[] = "model.layers.";
    return l->config->architecture == DS_DEEPSEEK_V3 &&
           strncmp(name, prefix, sizeof prefix - 1) == 0 &&
           strtoll(name + sizeof prefix - 1, NULL, 10) >= l->config->n_layers;
}

/* A BERT that is to give embeddings does without what pre-training puts on top. */
static bool is_of_a_head_not_wanted(const loading *l, const char *name) {
    static const char *const tops[] = {"cls.", "pooler.", "bert.pooler."};
    if (l->config->architecture != DS_BERT || ds_state_find(l->state, "cls.predictions.bias") >= 0)
        return false;
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
        if (strncmp(name, tops[i], strlen(tops[i])) == 0)
            return true;
    return false;
}

static bool is_unneeded(const loading *l, const char *name) {
    if (is_of_a_layer_past_the_last(l, name) || is_of_a_head_not_wanted(l, name))
        return true;
    for (size_t i = 0; i < sizeof unneeded / sizeof *unneeded; i++) {
        const size_t length = strlen(name), n = strlen(unneeded[i].suffix);
        if (length >= n && strcmp(name + length - n, unneeded[i].suffix) == 0 &&
            (!unneeded[i].only_tied || l->config->tie_embeddings))
            return true;
    }
    return false;
}

static ds_status refuse_leftovers(const loading *l) {
    for (size_t i = 0; i < ds_safetensors_count(l->file); i++) {
        const ds_safetensor *t = ds_safetensors_at(l->file, i);
        bool used = is_unneeded(l, t->name);
        for (size_t k = 0; k < l->n_used && !used; k++)
            used = l->used[k] == t;
        if (!used)
            return ds_fail(DS_INVALID, "%s: tensor \"%s\" is not one of the model's", t->path,
                           t->name);
    }
    return DS_OK;
}

/* Room for the largest parameter, and for the tensors that may be used: one for each parameter, or
 * one for each expert. */
static ds_status make_room(loading *l) {
    size_t largest = 1, n_tensors = 1;
    for (size_t i = 0; i < ds_state_count(l->state); i++) {
        const ds_state_entry *e = ds_state_get(l->state, i);
        if (!e->is_param)
            continue;
        largest = count_of(e) > largest ? count_of(e) : largest;
        n_tensors += ds_name_is_stacked(e->name) ? (size_t)e->dims[0] : 1;
    }
    l->values = ds_malloc(largest * sizeof *l->values);
    l->used = ds_malloc(n_tensors * sizeof *l->used);
    return l->values && l->used ? DS_OK : DS_OUT_OF_MEMORY;
}

bool ds_model_has_heads(const char *path, const ds_model_config *config) {
    static const char *const wanted[] = {"cls.predictions.transform.dense.weight",
                                         "cls.seq_relationship.weight", "bert.pooler.dense.weight"};
    ds_safetensors *file = NULL;
    const ds_safetensor *t = NULL;
    if (config->architecture != DS_BERT)
        return true;
    if (ds_gguf_is(path) || ds_safetensors_open(path, &file) != DS_OK)
        return false;
    bool all = true;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        all = all && ds_safetensors_find(file, wanted[i], &t) == DS_OK;
    ds_safetensors_close(file);
    return all;
}

ds_status ds_model_load(const char *path, const ds_model_config *config, ds_state *state) {
    if (ds_llama2c_is(path))
        return ds_llama2c_load(path, state);
    if (ds_gguf_is(path))
        return ds_gguf_model_load(path, config, state);
    ds_safetensors *file = NULL;
    DS_TRY(ds_safetensors_open(path, &file));
    loading l = {.file = file, .config = config, .state = state};
    ds_status status = make_room(&l);
    if (status == DS_OK)
        status = load_params(&l);
    if (status == DS_OK)
        status = refuse_leftovers(&l);
    l.write = true;
    if (status == DS_OK)
        status = load_params(&l);
    free(l.values);
    free(l.used);
    ds_safetensors_close(file);
    return status;
}
