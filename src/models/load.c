/* Hugging Face checkpoints into a state. What is published bears names that changed over the years
 * and tensors that no model needs; what each parameter may be called is in the tables below.
 *
 * A checkpoint is gone through three times: first everything is checked, so that a bad file changes
 * nothing; then what can stay in the mapped file is left there; then the rest is copied. */
#include "models/load.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "deepseek/safetensors.h"
#include "graph/ops/ops.h"
#include "models/storage.h"
#include "program/stacked.h"
#include "program/state.h"

enum { NAME_SIZE = 512 };

/* A name's part → what the same part is called in other files. */
static const struct {
    const char *ours, *theirs;
    bool only_tied; /* where the projection to the vocabulary is the embedding */
} aliases[] = {
    {"transformer.", "", false}, /* the hub's gpt2 */
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

typedef enum load_pass { CHECK, BORROW, COPY, PASSES } load_pass;

typedef struct loading {
    const ds_safetensors *file;
    const ds_model_config *config;
    ds_state *state;
    const ds_safetensor **used; /* tensors that found their parameter */
    size_t n_used;
    load_pass pass;
    bool *is_borrowed; /* by entry of the state; NULL: everything is copied */
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

/* Elements from `first` on of entry i. */
static ds_status take(loading *l, size_t i, int64_t first, const ds_safetensor *t) {
    const ds_state_entry *e = ds_state_get(l->state, i);
    const bool is_part = ds_name_is_stacked(e->name);
    const int rank = e->rank - (is_part ? 1 : 0);
    const int64_t *dims = e->dims + (is_part ? 1 : 0);
    if (l->pass == CHECK) {
        l->used[l->n_used++] = t;
        return check_tensor(t, rank, dims);
    }
    if (l->pass == COPY)
        return l->is_borrowed && l->is_borrowed[i]
                   ? DS_OK
                   : ds_state_write_floats(l->state, i, first, ds_count(dims, rank), t->dtype,
                                           t->data);
    const bool is_aligned = (uintptr_t)t->data % ds_dtype_size(t->dtype) == 0;
    l->is_borrowed[i] =
        !is_part && t->dtype == e->dtype && is_aligned && ds_state_borrow(l->state, i, t->data);
    return DS_OK;
}

/* A stack (program/stacked.h), whose tensors files hold one by one. */
static ds_status take_stack(loading *l, size_t i) {
    const ds_state_entry *e = ds_state_get(l->state, i);
    const int64_t n = ds_count(e->dims + 1, e->rank - 1);
    for (int64_t k = 0; k < e->dims[0]; k++) {
        char name[DS_STACKED_NAME_SIZE];
        const ds_safetensor *t = NULL;
        ds_name_in_stack(e->name, k, name);
        DS_TRY(ds_safetensors_find(l->file, name, &t));
        DS_TRY(take(l, i, k * n, t));
    }
    return DS_OK;
}

/* Not one of a stack. */
static ds_status find(const loading *l, const char *name, const ds_safetensor **t) {
    if ((*t = look_up(l, name)) || (*t = look_up_alias(l, name)))
        return DS_OK;
    return ds_safetensors_find(l->file, name, t); /* says what is near */
}

static ds_status load_param(loading *l, size_t i) {
    const char *name = ds_state_get(l->state, i)->name;
    const ds_safetensor *t = NULL;
    if (ds_name_is_stacked(name))
        return take_stack(l, i);
    DS_TRY(find(l, name, &t));
    return take(l, i, 0, t);
}

static ds_status load_params(loading *l, load_pass pass) {
    l->pass = pass;
    for (size_t i = 0; i < ds_state_count(l->state); i++)
        if (ds_state_get(l->state, i)->is_param)
            DS_TRY(load_param(l, i));
    return DS_OK;
}

/* DeepSeek-V3's checkpoints end in layers that only guess further tokens. */
static bool is_of_a_layer_past_the_last(const loading *l, const char *name) {
    static const char prefix[] = "model.layers.";
    return l->config->architecture == DS_DEEPSEEK_V3 &&
           strncmp(name, prefix, sizeof prefix - 1) == 0 &&
           strtoll(name + sizeof prefix - 1, NULL, 10) >= l->config->n_layers;
}

static bool is_unneeded(const loading *l, const char *name) {
    if (is_of_a_layer_past_the_last(l, name))
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

/* Room for the tensors that may be used: one for each parameter, or one for each expert. */
static ds_status make_room(loading *l, bool borrows) {
    size_t n_tensors = 1;
    for (size_t i = 0; i < ds_state_count(l->state); i++) {
        const ds_state_entry *e = ds_state_get(l->state, i);
        n_tensors += !e->is_param ? 0 : ds_name_is_stacked(e->name) ? (size_t)e->dims[0] : 1;
    }
    l->used = ds_malloc(n_tensors * sizeof *l->used);
    if (borrows)
        l->is_borrowed = ds_calloc(ds_state_count(l->state) + 1, sizeof *l->is_borrowed);
    return l->used && (l->is_borrowed || !borrows) ? DS_OK : DS_OUT_OF_MEMORY;
}

static ds_status load(ds_safetensors *file, const ds_model_config *config, ds_state *state,
                      bool borrows) {
    loading l = {.file = file, .config = config, .state = state};
    ds_status status = make_room(&l, borrows);
    if (status == DS_OK)
        status = load_params(&l, CHECK);
    if (status == DS_OK)
        status = refuse_leftovers(&l);
    if (status == DS_OK && borrows)
        status = load_params(&l, BORROW);
    if (status == DS_OK)
        status = load_params(&l, COPY);
    free(l.is_borrowed);
    free(l.used);
    return status;
}

ds_status ds_model_load(const char *path, const ds_model_config *config, ds_state *state) {
    if (ds_llama2c_is(path))
        return ds_llama2c_load(path, state);
    ds_safetensors *file = NULL;
    DS_TRY(ds_safetensors_open(path, &file));
    const ds_status status = load(file, config, state, false);
    ds_safetensors_close(file);
    return status;
}

/* ---- as it is stored ------------------------------------------------------------------------- */

/* By node id: parameters that are matrices and that every reader takes in any type. */
static bool *find_matrices(const ds_graph *g) {
    bool *is_matrix = ds_calloc(g->n_nodes + 1, sizeof *is_matrix);
    for (size_t i = 0; is_matrix && i < g->n_nodes; i++) {
        const ds_node *x = g->nodes[i];
        is_matrix[i] = x->op == &ds_op_param && x->type.rank >= 2;
        for (int k = 0; k < x->n_inputs; k++)
            if (k >= 32 || !(x->op->stored >> k & 1u))
                is_matrix[x->inputs[k]->id] = false;
    }
    return is_matrix;
}

/* Of the file's tensor, or of the first of a stack; F32 where there is none, which is said later.
 */
static ds_dtype dtype_in_file(const loading *l, const char *name) {
    char first[DS_STACKED_NAME_SIZE];
    const ds_safetensor *t = NULL;
    if (ds_name_is_stacked(name)) {
        ds_name_in_stack(name, 0, first);
        name = first;
    }
    return l->file && find(l, name, &t) == DS_OK && ds_dtype_is_float(t->dtype) ? t->dtype : DS_F32;
}

static ds_status declare_stored(const loading *l, const ds_graph *g, const ds_storage *storage) {
    bool *is_matrix = find_matrices(g);
    ds_status status = is_matrix ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < g->n_nodes && status == DS_OK; i++) {
        const ds_node *x = g->nodes[i];
        if (x->op != &ds_op_param)
            continue;
        ds_dtype dtype = is_matrix[i] ? storage->dtype : DS_F32;
        if (dtype == DS_DTYPES)
            dtype = dtype_in_file(l, x->name);
        status = ds_state_declare_stored(l->state, x, dtype);
    }
    free(is_matrix);
    return status;
}

static void close_file(void *file) {
    ds_safetensors_close(file);
}

ds_status ds_model_load_stored(const char *path, const ds_model_config *config, const ds_graph *g,
                               const ds_storage *storage, ds_state *state) {
    loading l = {.config = config, .state = state};
    if (ds_llama2c_is(path)) {
        DS_TRY(declare_stored(&l, g, storage));
        return ds_llama2c_load(path, state);
    }
    ds_safetensors *file = NULL;
    DS_TRY(ds_safetensors_open(path, &file));
    l.file = file;
    ds_status status = ds_state_keep(state, file, close_file);
    if (status != DS_OK) {
        ds_safetensors_close(file);
        return status;
    }
    DS_TRY(declare_stored(&l, g, storage));
    return load(file, config, state, true);
}
