/* GGUF tensors into a state. The format has names of its own, one set for all families, and two of
 * its conventions are undone here: Llama's queries and keys come with the two halves of each head
 * interleaved, GPT-2's matrices transposed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"
#include "models/gguf.h"
#include "models/load.h"
#include "program/state.h"

enum { NAME_SIZE = 256 };

typedef enum arrangement {
    AS_IT_IS,
    TRANSPOSED,
    PAIRED_Q, /* Llama: rows i and i + head_dim/2 of a head lie side by side */
    PAIRED_K,
} arrangement;

/* # is the layer's number. */
typedef struct row {
    const char *ours, *theirs;
    arrangement arrangement;
} row;

#define LAYER "model.layers.#."

static const row llama_rows[] = {
    {"model.embed_tokens.weight", "token_embd.weight", AS_IT_IS},
    {"model.norm.weight", "output_norm.weight", AS_IT_IS},
    {"lm_head.weight", "output.weight", AS_IT_IS},
    {LAYER "input_layernorm.weight", "blk.#.attn_norm.weight", AS_IT_IS},
    {LAYER "self_attn.q_proj.weight", "blk.#.attn_q.weight", PAIRED_Q},
    {LAYER "self_attn.k_proj.weight", "blk.#.attn_k.weight", PAIRED_K},
    {LAYER "self_attn.v_proj.weight", "blk.#.attn_v.weight", AS_IT_IS},
    {LAYER "self_attn.q_proj.bias", "blk.#.attn_q.bias", PAIRED_Q},
    {LAYER "self_attn.k_proj.bias", "blk.#.attn_k.bias", PAIRED_K},
    {LAYER "self_attn.v_proj.bias", "blk.#.attn_v.bias", AS_IT_IS},
    {LAYER "self_attn.o_proj.weight", "blk.#.attn_output.weight", AS_IT_IS},
    {LAYER "self_attn.o_proj.bias", "blk.#.attn_output.bias", AS_IT_IS},
    {LAYER "self_attn.q_norm.weight", "blk.#.attn_q_norm.weight", AS_IT_IS},
    {LAYER "self_attn.k_norm.weight", "blk.#.attn_k_norm.weight", AS_IT_IS},
    {LAYER "post_attention_layernorm.weight", "blk.#.ffn_norm.weight", AS_IT_IS},
    {LAYER "mlp.gate_proj.weight", "blk.#.ffn_gate.weight", AS_IT_IS},
    {LAYER "mlp.up_proj.weight", "blk.#.ffn_up.weight", AS_IT_IS},
    {LAYER "mlp.down_proj.weight", "blk.#.ffn_down.weight", AS_IT_IS},
    {LAYER "mlp.gate_proj.bias", "blk.#.ffn_gate.bias", AS_IT_IS},
    {LAYER "mlp.up_proj.bias", "blk.#.ffn_up.bias", AS_IT_IS},
    {LAYER "mlp.down_proj.bias", "blk.#.ffn_down.bias", AS_IT_IS},
    /* experts, stacked in the format as in a state */
    {LAYER "block_sparse_moe.gate.weight", "blk.#.ffn_gate_inp.weight", AS_IT_IS},
    {LAYER "block_sparse_moe.experts.*.w1.weight", "blk.#.ffn_gate_exps.weight", AS_IT_IS},
    {LAYER "block_sparse_moe.experts.*.w3.weight", "blk.#.ffn_up_exps.weight", AS_IT_IS},
    {LAYER "block_sparse_moe.experts.*.w2.weight", "blk.#.ffn_down_exps.weight", AS_IT_IS},
    {LAYER "mlp.gate.weight", "blk.#.ffn_gate_inp.weight", AS_IT_IS},
    {LAYER "mlp.experts.*.gate_proj.weight", "blk.#.ffn_gate_exps.weight", AS_IT_IS},
    {LAYER "mlp.experts.*.up_proj.weight", "blk.#.ffn_up_exps.weight", AS_IT_IS},
    {LAYER "mlp.experts.*.down_proj.weight", "blk.#.ffn_down_exps.weight", AS_IT_IS},
    {LAYER "mlp.shared_expert_gate.weight", "blk.#.ffn_gate_inp_shexp.weight", AS_IT_IS},
    {LAYER "mlp.shared_expert.gate_proj.weight", "blk.#.ffn_gate_shexp.weight", AS_IT_IS},
    {LAYER "mlp.shared_expert.up_proj.weight", "blk.#.ffn_up_shexp.weight", AS_IT_IS},
    {LAYER "mlp.shared_expert.down_proj.weight", "blk.#.ffn_down_shexp.weight", AS_IT_IS},
    {0},
};

static const row gpt2_rows[] = {
    {"transformer.wte.weight", "token_embd.weight", AS_IT_IS},
    {"transformer.wpe.weight", "position_embd.weight", AS_IT_IS},
    {"transformer.ln_f.weight", "output_norm.weight", AS_IT_IS},
    {"transformer.ln_f.bias", "output_norm.bias", AS_IT_IS},
    {"lm_head.weight", "output.weight", AS_IT_IS},
    {"transformer.h.#.ln_1.weight", "blk.#.attn_norm.weight", AS_IT_IS},
    {"transformer.h.#.ln_1.bias", "blk.#.attn_norm.bias", AS_IT_IS},
    {"transformer.h.#.attn.c_attn.weight", "blk.#.attn_qkv.weight", TRANSPOSED},
    {"transformer.h.#.attn.c_attn.bias", "blk.#.attn_qkv.bias", AS_IT_IS},
    {"transformer.h.#.attn.c_proj.weight", "blk.#.attn_output.weight", TRANSPOSED},
    {"transformer.h.#.attn.c_proj.bias", "blk.#.attn_output.bias", AS_IT_IS},
    {"transformer.h.#.ln_2.weight", "blk.#.ffn_norm.weight", AS_IT_IS},
    {"transformer.h.#.ln_2.bias", "blk.#.ffn_norm.bias", AS_IT_IS},
    {"transformer.h.#.mlp.c_fc.weight", "blk.#.ffn_up.weight", TRANSPOSED},
    {"transformer.h.#.mlp.c_fc.bias", "blk.#.ffn_up.bias", AS_IT_IS},
    {"transformer.h.#.mlp.c_proj.weight", "blk.#.ffn_down.weight", TRANSPOSED},
    {"transformer.h.#.mlp.c_proj.bias", "blk.#.ffn_down.bias", AS_IT_IS},
    {0},
};

#define EMBEDDINGS "bert.embeddings."
#define ENCODER    "bert.encoder.layer.#."

static const row bert_rows[] = {
    {EMBEDDINGS "word_embeddings.weight", "token_embd.weight", AS_IT_IS},
    {EMBEDDINGS "position_embeddings.weight", "position_embd.weight", AS_IT_IS},
    {EMBEDDINGS "token_type_embeddings.weight", "token_types.weight", AS_IT_IS},
    {EMBEDDINGS "LayerNorm.weight", "token_embd_norm.weight", AS_IT_IS},
    {EMBEDDINGS "LayerNorm.bias", "token_embd_norm.bias", AS_IT_IS},
    {ENCODER "attention.self.query.weight", "blk.#.attn_q.weight", AS_IT_IS},
    {ENCODER "attention.self.query.bias", "blk.#.attn_q.bias", AS_IT_IS},
    {ENCODER "attention.self.key.weight", "blk.#.attn_k.weight", AS_IT_IS},
    {ENCODER "attention.self.key.bias", "blk.#.attn_k.bias", AS_IT_IS},
    {ENCODER "attention.self.value.weight", "blk.#.attn_v.weight", AS_IT_IS},
    {ENCODER "attention.self.value.bias", "blk.#.attn_v.bias", AS_IT_IS},
    {ENCODER "attention.output.dense.weight", "blk.#.attn_output.weight", AS_IT_IS},
    {ENCODER "attention.output.dense.bias", "blk.#.attn_output.bias", AS_IT_IS},
    {ENCODER "attention.output.LayerNorm.weight", "blk.#.attn_output_norm.weight", AS_IT_IS},
    {ENCODER "attention.output.LayerNorm.bias", "blk.#.attn_output_norm.bias", AS_IT_IS},
    {ENCODER "intermediate.dense.weight", "blk.#.ffn_up.weight", AS_IT_IS},
    {ENCODER "intermediate.dense.bias", "blk.#.ffn_up.bias", AS_IT_IS},
    {ENCODER "output.dense.weight", "blk.#.ffn_down.weight", AS_IT_IS},
    {ENCODER "output.dense.bias", "blk.#.ffn_down.bias", AS_IT_IS},
    {ENCODER "output.LayerNorm.weight", "blk.#.layer_output_norm.weight", AS_IT_IS},
    {ENCODER "output.LayerNorm.bias", "blk.#.layer_output_norm.bias", AS_IT_IS},
    {0},
};

static const row *rows_of(ds_architecture architecture) {
    return architecture == DS_GPT2 ? gpt2_rows : architecture == DS_BERT ? bert_rows : llama_rows;
}

/* Read into the configuration, or of no use to it. */
static const char *const other_tensors[] = {"rope_freqs.weight", "cls.weight", "cls.bias",
                                            "cls.output.weight", "cls.output.bias"};

/* The first only looks, so that a bad file changes nothing. Whatever stays in the file is told
 * before the first copy, which makes room for all the rest. */
typedef enum load_pass { CHECK, BORROW, COPY } load_pass;

typedef struct loading {
    const ds_gguf *file;
    const ds_model_config *config;
    const row *rows;
    ds_state *state;
    bool *used;                       /* by the tensors' places in the file's list */
    unsigned char *values, *arranged; /* of the largest parameter */
    load_pass pass;
    bool *is_borrowed; /* by entry of the state; NULL: everything is copied */
} loading;

/* Whether name is the pattern with a number in place of its #; then *number. */
static bool matches(const char *pattern, const char *name, long long *number) {
    const char *hash = strchr(pattern, '#');
    if (!hash)
        return strcmp(pattern, name) == 0;
    const size_t before = (size_t)(hash - pattern);
    char *end = NULL;
    if (strncmp(pattern, name, before) != 0 || name[before] < '0' || name[before] > '9')
        return false;
    *number = strtoll(name + before, &end, 10);
    return strcmp(end, hash + 1) == 0;
}

static const row *find_row(const row *rows, const char *ours, char theirs[NAME_SIZE]) {
    for (const row *r = rows; r->ours; r++) {
        long long layer = 0;
        if (!matches(r->ours, ours, &layer))
            continue;
        const char *hash = strchr(r->theirs, '#');
        if (hash)
            snprintf(theirs, NAME_SIZE, "%.*s%lld%s", (int)(hash - r->theirs), r->theirs, layer,
                     hash + 1);
        else
            snprintf(theirs, NAME_SIZE, "%s", r->theirs);
        return r;
    }
    return NULL;
}

/* The shape in the file, but for leading axes of 1. */
static bool has_shape(const ds_gguf_tensor *t, const ds_state_entry *e, bool transposed) {
    int k = t->rank - 1;
    for (int i = e->rank - 1; i >= 0; i--, k--) {
        const int from = transposed && e->rank == 2 ? 1 - i : i;
        if ((k >= 0 ? t->dims[k] : 1) != e->dims[from])
            return false;
    }
    for (; k >= 0; k--)
        if (t->dims[k] != 1)
            return false;
    return true;
}

static ds_status refuse_shape(const loading *l, const ds_gguf_tensor *t, const ds_state_entry *e) {
    ds_text text = {0};
    for (int i = 0; i < t->rank; i++)
        ds_text_printf(&text, "%s%lld", i ? "," : "[", (long long)t->dims[i]);
    ds_text_printf(&text, "], the model wants [");
    for (int i = 0; i < e->rank; i++)
        ds_text_printf(&text, "%s%lld", i ? "," : "", (long long)e->dims[i]);
    const ds_status status = ds_fail(DS_INVALID, "%s: tensor \"%s\" is %s]", ds_gguf_path(l->file),
                                     t->name, text.data ? text.data : "unsuitable");
    ds_text_clear(&text);
    return status;
}

static void transpose(const unsigned char *from, unsigned char *to, int64_t rows, int64_t columns,
                      size_t element) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < columns; k++)
            memcpy(to + (size_t)(i * columns + k) * element,
                   from + (size_t)(k * rows + i) * element, element);
}

/* Row 2i of a head goes to i, row 2i + 1 to i + head_dim/2. */
static void part_pairs(const unsigned char *from, unsigned char *to, int64_t rows, size_t row_bytes,
                       int64_t head_dim) {
    for (int64_t r = 0; r < rows; r++) {
        const int64_t in_head = r % head_dim;
        const int64_t place = r - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
        memcpy(to + (size_t)place * row_bytes, from + (size_t)r * row_bytes, row_bytes);
    }
}

static bool is_paired(const loading *l, arrangement how) {
    const ds_architecture a = l->config->architecture;
    return (how == PAIRED_Q || how == PAIRED_K) &&
           (a == DS_LLAMA || a == DS_MISTRAL || a == DS_MOE);
}

/* The values as the state wants them; either buffer. */
static const unsigned char *arrange(const loading *l, const ds_state_entry *e, arrangement how) {
    const size_t element = ds_dtype_size(e->dtype);
    const int64_t columns = e->rank > 1 ? e->dims[1] : 1;
    if (how == TRANSPOSED)
        transpose(l->values, l->arranged, e->dims[0], columns, element);
    else if (is_paired(l, how))
        part_pairs(l->values, l->arranged, e->dims[0], (size_t)columns * element,
                   l->config->head_dim);
    else
        return l->values;
    return l->arranged;
}

/* DS_DTYPES for quantised blocks and what else the state has no type for. */
static ds_dtype dtype_of(const ds_gguf_tensor *t) {
    static const struct {
        const char *name;
        ds_dtype dtype;
    } floats[] = {{"F32", DS_F32}, {"BF16", DS_BF16}, {"F16", DS_F16}};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        if (strcmp(t->type->name, floats[i].name) == 0)
            return floats[i].dtype;
    return DS_DTYPES;
}

/* Whether entry i may lie in the file, as it is there. */
static bool borrow(const loading *l, size_t i, const ds_gguf_tensor *t, arrangement how) {
    const ds_state_entry *e = ds_state_get(l->state, i);
    return how != TRANSPOSED && !is_paired(l, how) && dtype_of(t) == e->dtype &&
           (uintptr_t)t->data % ds_dtype_size(e->dtype) == 0 &&
           ds_state_borrow(l->state, i, t->data);
}

static ds_status load_param(loading *l, size_t i) {
    const ds_state_entry *e = ds_state_get(l->state, i);
    char theirs[NAME_SIZE];
    const row *r = find_row(l->rows, e->name, theirs);
    if (!r)
        return ds_fail(DS_UNSUPPORTED, "%s: the parameter \"%s\" has no name in GGUF files",
                       ds_gguf_path(l->file), e->name);
    const ds_gguf_tensor *t = ds_gguf_find(l->file, theirs);
    if (!t)
        return ds_fail(DS_NOT_FOUND, "%s: there is no tensor \"%s\"", ds_gguf_path(l->file),
                       theirs);
    if (!has_shape(t, e, r->arrangement == TRANSPOSED))
        return refuse_shape(l, t, e);
    l->used[t - ds_gguf_at(l->file, 0)] = true;
    if (l->pass == BORROW)
        l->is_borrowed[i] = borrow(l, i, t, r->arrangement);
    if (l->pass == BORROW || (l->pass == CHECK && t->type->decode) ||
        (l->is_borrowed && l->is_borrowed[i]))
        return DS_OK;
    const ds_status status = ds_gguf_read(t, e->dtype, l->values);
    if (status != DS_OK)
        return ds_fail_within(status, "%s", ds_gguf_path(l->file));
    return ds_state_write(l->state, e->name, arrange(l, e, r->arrangement), ds_state_entry_size(e));
}

static ds_status load_params(loading *l, load_pass pass) {
    l->pass = pass;
    for (size_t i = 0; i < ds_state_count(l->state); i++)
        if (ds_state_get(l->state, i)->is_param)
            DS_TRY(load_param(l, i));
    return DS_OK;
}

static ds_status refuse_leftovers(loading *l) {
    for (size_t i = 0; i < ds_gguf_count(l->file); i++) {
        const ds_gguf_tensor *t = ds_gguf_at(l->file, i);
        bool known = l->used[i];
        for (size_t k = 0; k < sizeof other_tensors / sizeof *other_tensors; k++)
            known = known || strcmp(other_tensors[k], t->name) == 0;
        if (!known)
            return ds_fail(DS_INVALID, "%s: tensor \"%s\" is not one of the model's",
                           ds_gguf_path(l->file), t->name);
    }
    return DS_OK;
}

static ds_status make_room(loading *l, bool borrows) {
    size_t largest = 1;
    for (size_t i = 0; i < ds_state_count(l->state); i++) {
        const ds_state_entry *e = ds_state_get(l->state, i);
        if (e->is_param && ds_state_entry_size(e) > largest)
            largest = ds_state_entry_size(e);
    }
    l->values = ds_malloc(largest);
    l->arranged = ds_malloc(largest);
    l->used = ds_calloc(ds_gguf_count(l->file) + 1, sizeof *l->used);
    if (borrows)
        l->is_borrowed = ds_calloc(ds_state_count(l->state) + 1, sizeof *l->is_borrowed);
    return l->values && l->arranged && l->used && (l->is_borrowed || !borrows) ? DS_OK
                                                                               : DS_OUT_OF_MEMORY;
}

ds_status ds_gguf_model_load(const ds_gguf *file, const ds_model_config *config, bool borrows,
                             ds_state *state) {
    loading l = {
        .file = file, .config = config, .state = state, .rows = rows_of(config->architecture)};
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
    free(l.values);
    free(l.arranged);
    free(l.used);
    return status;
}

ds_dtype ds_gguf_param_dtype(const ds_gguf *file, const ds_model_config *config, const char *name) {
    char theirs[NAME_SIZE];
    const row *r = find_row(rows_of(config->architecture), name, theirs);
    const ds_gguf_tensor *t = r ? ds_gguf_find(file, theirs) : NULL;
    const ds_dtype dtype = t ? dtype_of(t) : DS_F32;
    return dtype == DS_DTYPES ? DS_F16 : dtype;
}
