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
#include "base/gguf.h"
#include "base/half.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "deepseek/safetensors.h"
#include "graph/ops/ops.h"
#include "models/gguf.h"
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
    {".weight_shape", false}, /* of quantised ones: the model knows */
};

typedef enum load_pass { CHECK, BORROW, COPY, PASSES } load_pass;

/* A parameter that products read, kept quantised. */
typedef struct quantised {
    const ds_node *param; /* as the graph has it, [out, in] or [in, out] */
    int64_t n_out, n_in;
    bool by_columns;
    bool is_made; /* here, from floats; else the file has codes and scales */
    ds_weight_format format;
    size_t codes, scale; /* entries of the state */
} quantised;

typedef struct loading {
    const ds_safetensors *file; /* NULL: another format */
    const ds_gguf *gguf;        /* NULL: another one */
    const ds_model_config *config;
    ds_state *state;
    const ds_safetensor **used; /* tensors that found their parameter */
    size_t n_used;
    load_pass pass;
    bool *is_borrowed; /* by entry of the state; NULL: everything is copied */
    quantised *quantised;
    size_t n_quantised;
    ds_weight_format made; /* of what is quantised here */
    /* Of the copy of an embedding that is the projection too, beside weights of 4 bits: rows are
     * still looked up in floats, but the product reads all of it for every token, half the bytes of
     * bf16, which else were more than those of all other weights of a small model. Beside weights
     * of 8 bits there is none: they give the numbers that quantisation-aware training saw. */
    ds_weight_format made_of_tied;
} loading;

static const ds_safetensor *look_up(const loading *l, const char *name) {
    return ds_safetensors_look_up(l->file, name);
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

/* Whole numbers must be of the type wanted, floats of any. */
static ds_status check_tensor(const ds_safetensor *t, ds_dtype dtype, int rank,
                              const int64_t *dims) {
    const bool is_float = ds_dtype_is_float(dtype) != 0;
    bool same = t->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = t->dims[i] == dims[i];
    if (same && t->dtype != DS_DTYPES &&
        (is_float ? ds_dtype_is_float(t->dtype) != 0 : t->dtype == dtype))
        return DS_OK;
    ds_text text = {0};
    put_dims(&text, t->dtype_name, t->rank, t->dims);
    ds_text_puts(&text, ", the model wants ");
    put_dims(&text, is_float ? "F32" : dtype == DS_I8 ? "I8" : "I32", rank, dims);
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
        return check_tensor(t, e->dtype, rank, dims);
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

ds_status ds_model_find_tensor(const ds_safetensors *file, const ds_model_config *config,
                               const char *param, const ds_safetensor **out) {
    const loading l = {.file = file, .config = config};
    return find(&l, param, out);
}

/* The quantised parameter that entry i is a part of and that is made here, or NULL. */
static const quantised *find_made(const loading *l, size_t i) {
    for (size_t k = 0; k < l->n_quantised; k++)
        if (l->quantised[k].is_made && (l->quantised[k].codes == i || l->quantised[k].scale == i))
            return &l->quantised[k];
    return NULL;
}

/* Codes and scales of a matrix of floats. */
static ds_status make_quantised(loading *l, const quantised *q, const ds_safetensor *t) {
    const int64_t n_groups = ds_weight_groups(q->format, q->n_in);
    const size_t codes_bytes = (size_t)(q->n_out * ds_weight_code_columns(q->format, q->n_in)) *
                               (q->format.bits == 8 ? 1 : 4);
    const size_t scale_bytes = (size_t)(q->n_out * n_groups) * sizeof(uint16_t);
    float *w = ds_malloc((size_t)(q->n_out * q->n_in) * sizeof *w);
    void *codes = ds_malloc(codes_bytes);
    uint16_t *scale = ds_malloc(scale_bytes);
    ds_status status = w && codes && scale ? DS_OK : DS_OUT_OF_MEMORY;
    if (status == DS_OK) {
        ds_floats_to_rows(t, q->n_out, q->n_in, q->by_columns, w);
        status = ds_quantise_weights(w, q->n_out, q->n_in, q->format, codes, scale);
        if (status == DS_NUMERIC)
            status = ds_fail_within(status, "%s: tensor \"%s\"", t->path, t->name);
    }
    if (status == DS_OK)
        status =
            ds_state_write(l->state, ds_state_get(l->state, q->codes)->name, codes, codes_bytes);
    if (status == DS_OK)
        status =
            ds_state_write(l->state, ds_state_get(l->state, q->scale)->name, scale, scale_bytes);
    free(scale);
    free(codes);
    free(w);
    return status;
}

static ds_status take_made(loading *l, const quantised *q, size_t i) {
    const ds_safetensor *t = NULL;
    if (i != q->codes || l->pass == BORROW)
        return DS_OK;
    DS_TRY(find(l, q->param->name, &t));
    if (l->pass == COPY)
        return make_quantised(l, q, t);
    l->used[l->n_used++] = t;
    return check_tensor(t, DS_F32, 2, q->param->type.dims);
}

/* Files keep codes of 8 bits under the parameter's own name. */
static void name_in_file(const char *entry, char out[NAME_SIZE]) {
    const size_t n = strlen(entry), suffix = sizeof DS_WEIGHT_CODES - 1;
    const bool is_codes = n > suffix && strcmp(entry + n - suffix, DS_WEIGHT_CODES) == 0;
    snprintf(out, NAME_SIZE, "%.*s", (int)(is_codes ? n - suffix : n), entry);
}

static ds_status load_param(loading *l, size_t i) {
    char name[NAME_SIZE];
    const ds_safetensor *t = NULL;
    const quantised *made = find_made(l, i);
    if (made)
        return take_made(l, made, i);
    name_in_file(ds_state_get(l->state, i)->name, name);
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

static ds_status load(loading *l, bool borrows) {
    ds_status status = make_room(l, borrows);
    if (status == DS_OK)
        status = load_params(l, CHECK);
    if (status == DS_OK)
        status = refuse_leftovers(l);
    if (status == DS_OK && borrows)
        status = load_params(l, BORROW);
    if (status == DS_OK)
        status = load_params(l, COPY);
    free(l->is_borrowed);
    free(l->used);
    return status;
}

bool ds_model_has_heads(const char *path, const ds_model_config *config) {
    static const char *const wanted[] = {"cls.predictions.transform.dense.weight",
                                         "cls.seq_relationship.weight", "bert.pooler.dense.weight"};
    ds_safetensors *file = NULL;
    if (config->architecture != DS_BERT)
        return true;
    if (ds_gguf_is(path) || ds_safetensors_open(path, &file) != DS_OK)
        return false;
    bool all = true;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        all = all && ds_safetensors_look_up(file, wanted[i]);
    ds_safetensors_close(file);
    return all;
}

static ds_status load_gguf(const char *path, const ds_model_config *config, ds_state *state) {
    ds_gguf *file = NULL;
    DS_TRY(ds_gguf_open(path, &file));
    const ds_status status = ds_gguf_model_load(file, config, false, state);
    ds_gguf_close(file);
    return status;
}

ds_status ds_model_load(const char *path, const ds_model_config *config, ds_state *state) {
    if (ds_llama2c_is(path))
        return ds_llama2c_load(path, state);
    if (ds_gguf_is(path))
        return load_gguf(path, config, state);
    ds_safetensors *file = NULL;
    DS_TRY(ds_safetensors_open(path, &file));
    loading l = {.file = file, .config = config, .state = state};
    const ds_status status = load(&l, false);
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
    if (l->gguf)
        return ds_gguf_param_dtype(l->gguf, l->config, name);
    char first[DS_STACKED_NAME_SIZE];
    const ds_safetensor *t = NULL;
    if (ds_name_is_stacked(name)) {
        ds_name_in_stack(name, 0, first);
        name = first;
    }
    return l->file && find(l, name, &t) == DS_OK && ds_dtype_is_float(t->dtype) ? t->dtype : DS_F32;
}

/* The file's tensor NAME + suffix, or NULL. */
static const ds_safetensor *look_up_beside(const loading *l, const char *name, const char *suffix) {
    char whole[NAME_SIZE];
    if (!l->file || (size_t)snprintf(whole, sizeof whole, "%s%s", name, suffix) >= sizeof whole)
        return NULL;
    const ds_safetensor *t = look_up(l, whole);
    return t ? t : look_up_alias(l, whole);
}

/* DS_OK with .bits 0 where the file has the parameter as floats. */
static ds_status format_in_file(const loading *l, const quantised *q, ds_weight_format *out,
                                const ds_safetensor **scale) {
    const char *name = q->param->name;
    const ds_safetensor *plain = look_up_beside(l, name, "");
    *scale = look_up_beside(l, name, DS_WEIGHT_SCALE);
    *out = (ds_weight_format){0};
    if (look_up_beside(l, name, DS_PACKED_WEIGHT))
        out->bits = 4;
    else if (plain && plain->dtype == DS_I8)
        out->bits = 8;
    if (out->bits == 0)
        return DS_OK;
    if (!*scale || (*scale)->rank != 2 || (*scale)->dims[1] < 1 ||
        !ds_dtype_is_float((*scale)->dtype))
        return ds_fail(DS_INVALID, "the codes of \"%s\" have no scales \"%s%s\" [%lld, groups]",
                       name, name, DS_WEIGHT_SCALE, (long long)q->n_out);
    out->group = ds_state_group_size(q->n_in, (*scale)->dims[1]);
    if (out->group == 0 || (out->bits == 4 && (*scale)->dims[1] > 1 && out->group % 8 != 0))
        return ds_fail(DS_INVALID, "\"%s%s\" has %lld scales a row of %lld columns", name,
                       DS_WEIGHT_SCALE, (long long)(*scale)->dims[1], (long long)q->n_in);
    return DS_OK;
}

static ds_status declare_beside(const loading *l, const quantised *q, const char *suffix,
                                ds_type type) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s%s", q->param->name, suffix);
    return ds_state_declare_tensor(l->state, name, &type);
}

/* Columns that are kept apart: how many is the file's to say. */
static ds_status declare_apart(const loading *l, const quantised *q) {
    const ds_safetensor *columns = look_up_beside(l, q->param->name, DS_OUTLIER_COLUMNS);
    if (look_up_beside(l, q->param->name, DS_INPUT_FACTOR))
        DS_TRY(declare_beside(l, q, DS_INPUT_FACTOR, ds_type_of(DS_F32, 1, &q->n_in)));
    if (!columns)
        return DS_OK;
    if (columns->rank != 1 || columns->dtype != DS_I32 || columns->dims[0] < 1)
        return ds_fail(DS_INVALID, "%s: \"%s\" must be I32 [columns]", columns->path,
                       columns->name);
    for (int64_t i = 0; i < columns->dims[0]; i++) {
        int32_t column;
        memcpy(&column, (const char *)columns->data + i * 4, sizeof column);
        if (column < 0 || column >= q->n_in)
            return ds_fail(DS_INVALID, "%s: \"%s\": there is no column %d", columns->path,
                           columns->name, column);
    }
    const int64_t dims[] = {q->n_out, columns->dims[0]};
    DS_TRY(declare_beside(l, q, DS_OUTLIER_COLUMNS, ds_type_of(DS_I32, 1, columns->dims)));
    return declare_beside(l, q, DS_OUTLIERS, ds_type_of(DS_BF16, 2, dims));
}

/* *is_quantised: whether the parameter is kept so, and in no other way, and declared. */
static ds_status declare_quantised(loading *l, const ds_node *param, ds_product_side side,
                                   bool *is_quantised) {
    const ds_safetensor *scale = NULL;
    const bool by_columns = side == DS_BY_COLUMNS;
    quantised q = {.param = param,
                   .n_out = param->type.dims[by_columns],
                   .n_in = param->type.dims[!by_columns],
                   .by_columns = by_columns};
    *is_quantised = false;
    if (side == DS_NO_PRODUCT)
        return DS_OK;
    if (side != DS_TIED)
        DS_TRY(format_in_file(l, &q, &q.format, &scale));
    q.is_made = q.format.bits == 0;
    if (q.is_made)
        q.format = side == DS_TIED ? l->made_of_tied : l->made;
    if (q.format.bits == 0)
        return DS_OK;
    const bool is_bytes = q.format.bits == 8;
    const int64_t codes[] = {q.n_out, ds_weight_code_columns(q.format, q.n_in)};
    const int64_t scales[] = {q.n_out,
                              q.is_made ? ds_weight_groups(q.format, q.n_in) : scale->dims[1]};
    q.codes = ds_state_count(l->state);
    DS_TRY(declare_beside(l, &q, is_bytes ? DS_WEIGHT_CODES : DS_PACKED_WEIGHT,
                          ds_type_of(is_bytes ? DS_I8 : DS_I32, 2, codes)));
    q.scale = ds_state_count(l->state);
    DS_TRY(declare_beside(l, &q, DS_WEIGHT_SCALE,
                          ds_type_of(q.is_made ? DS_BF16 : scale->dtype, 2, scales)));
    if (!q.is_made)
        DS_TRY(declare_apart(l, &q));
    l->quantised[l->n_quantised++] = q;
    *is_quantised = side != DS_TIED;
    return DS_OK;
}

/* What a quantised folder has left in floats is meant to stay so. */
static bool is_quantised_already(const ds_safetensors *file) {
    for (size_t i = 0; i < (file ? ds_safetensors_count(file) : 0); i++) {
        const char *name = ds_safetensors_at(file, i)->name;
        const size_t n = strlen(name), suffix = sizeof DS_WEIGHT_SCALE - 1;
        if (n > suffix && strcmp(name + n - suffix, DS_WEIGHT_SCALE) == 0)
            return true;
    }
    return false;
}

static ds_status declare_stored(loading *l, const ds_graph *g, const ds_storage *storage) {
    if (!is_quantised_already(l->file))
        l->made = storage->weights;
    if (storage->weights.bits == 4)
        l->made_of_tied = (ds_weight_format){.bits = 8};
    bool *is_matrix = find_matrices(g);
    ds_product_side *sides = ds_product_parameters(g);
    l->quantised = ds_calloc(g->n_nodes + 1, sizeof *l->quantised);
    ds_status status = is_matrix && sides && l->quantised ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < g->n_nodes && status == DS_OK; i++) {
        const ds_node *x = g->nodes[i];
        bool is_quantised = false;
        if (x->op != &ds_op_param)
            continue;
        status = declare_quantised(l, x, sides[i], &is_quantised);
        if (is_quantised || status != DS_OK)
            continue;
        ds_dtype dtype = is_matrix[i] ? storage->dtype : DS_F32;
        if (dtype == DS_DTYPES)
            dtype = dtype_in_file(l, x->name);
        status = ds_state_declare_stored(l->state, x, dtype);
    }
    free(is_matrix);
    free(sides);
    return status;
}

static void close_safetensors(void *file) {
    ds_safetensors_close(file);
}

static void close_gguf(void *file) {
    ds_gguf_close(file);
}

/* Lets the state own a file that its entries borrow; closed where that fails. */
static ds_status keep(ds_state *state, void *file, void (*close)(void *file)) {
    const ds_status status = ds_state_keep(state, file, close);
    if (status != DS_OK)
        close(file);
    return status;
}

static ds_status load_llama2c(loading *l, const char *path, const ds_graph *g,
                              const ds_storage *storage) {
    DS_TRY(declare_stored(l, g, storage));
    return ds_llama2c_load(path, l->state);
}

static ds_status load_stored_gguf(loading *l, const char *path, const ds_graph *g,
                                  const ds_storage *storage) {
    ds_gguf *file = NULL;
    DS_TRY(ds_gguf_open(path, &file));
    DS_TRY(keep(l->state, file, close_gguf));
    l->gguf = file;
    DS_TRY(declare_stored(l, g, storage));
    return ds_gguf_model_load(file, l->config, true, l->state);
}

static ds_status load_stored_safetensors(loading *l, const char *path, const ds_graph *g,
                                         const ds_storage *storage) {
    ds_safetensors *file = NULL;
    DS_TRY(ds_safetensors_open(path, &file));
    DS_TRY(keep(l->state, file, close_safetensors));
    l->file = file;
    DS_TRY(declare_stored(l, g, storage));
    DS_TRY(load(l, true));
    ds_state_quantise_inputs(l->state, storage->inputs == DS_INPUTS_OF_FILE
                                           ? l->config->int8_inputs
                                           : storage->inputs == DS_INPUTS_INT8);
    return DS_OK;
}

ds_status ds_model_load_stored(const char *path, const ds_model_config *config, const ds_graph *g,
                               const ds_storage *storage, ds_state *state) {
    loading l = {.config = config, .state = state};
    const bool is_llama2c = ds_llama2c_is(path), is_gguf = !is_llama2c && ds_gguf_is(path);
    if (storage->weights.bits && (is_llama2c || is_gguf)) /* their readers quantise nothing */
        return ds_fail(DS_UNSUPPORTED, "%s: weights of %s cannot be kept as \"%s\"", path,
                       is_llama2c ? "llama2.c's .bin" : "a GGUF file", storage->name);
    const ds_status status = is_llama2c ? load_llama2c(&l, path, g, storage)
                             : is_gguf  ? load_stored_gguf(&l, path, g, storage)
                                        : load_stored_safetensors(&l, path, g, storage);
    free(l.quantised);
    return status;
}
