/* llama2.c's .bin files (github.com/karpathy/llama2.c, export.py): a header of seven numbers, then
 * all weights as f32, kind by kind. Version 0 has no magic number and lists the norms between the
 * projections; version 1 begins with "ak42" and lists the norms first.
 *
 * The format rotates neighbouring pairs of a head's elements, Hugging Face's Llama the two halves.
 * Rows of the query and key projections are reordered on the way in, so that what is loaded is an
 * ordinary Llama under Hugging Face names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "models/load.h"
#include "program/state.h"

enum { HEADER_NUMBERS = 7, V1_HEADER_BYTES = 256 };
static const uint32_t MAGIC = 0x616b3432; /* "ak42" */

typedef enum part {
    EMBEDDING,
    INPUT_NORM,
    QUERY,
    KEY,
    VALUE,
    OUTPUT,
    MLP_NORM,
    GATE,
    DOWN,
    UP,
    FINAL_NORM,
    ROTARY, /* precomputed angles, not read */
    HEAD,
    PARTS
} part;

static const part order_v0[PARTS] = {EMBEDDING,  INPUT_NORM, QUERY, KEY,  VALUE,
                                     OUTPUT,     MLP_NORM,   GATE,  DOWN, UP,
                                     FINAL_NORM, ROTARY,     HEAD};
static const part order_v1[PARTS] = {INPUT_NORM, MLP_NORM, FINAL_NORM, EMBEDDING, QUERY,
                                     KEY,        VALUE,    OUTPUT,     GATE,      DOWN,
                                     UP,         ROTARY,   HEAD};

typedef struct bin {
    const char *path;
    ds_mapped file;
    ds_model_config config;
    const part *order;
    bool has_rotary;
    size_t header_bytes;
} bin;

/* Where a part's tensors go: the name (%lld: layer), how many, and the shape [rows, columns]. */
typedef struct section {
    const char *name;
    int64_t count, rows, columns;
} section;

static section section_of(const bin *b, part p) {
    const ds_model_config *c = &b->config;
    const int64_t layers = c->n_layers, hidden = c->hidden_size, inner = c->intermediate_size;
    const int64_t kv = c->n_kv_heads * c->head_dim;
    switch (p) {
    case EMBEDDING: return (section){"model.embed_tokens.weight", 1, c->vocab_size, hidden};
    case INPUT_NORM:
        return (section){"model.layers.%lld.input_layernorm.weight", layers, 1, hidden};
    case QUERY:
        return (section){"model.layers.%lld.self_attn.q_proj.weight", layers, hidden, hidden};
    case KEY: return (section){"model.layers.%lld.self_attn.k_proj.weight", layers, kv, hidden};
    case VALUE: return (section){"model.layers.%lld.self_attn.v_proj.weight", layers, kv, hidden};
    case OUTPUT:
        return (section){"model.layers.%lld.self_attn.o_proj.weight", layers, hidden, hidden};
    case MLP_NORM:
        return (section){"model.layers.%lld.post_attention_layernorm.weight", layers, 1, hidden};
    case GATE: return (section){"model.layers.%lld.mlp.gate_proj.weight", layers, inner, hidden};
    case DOWN: return (section){"model.layers.%lld.mlp.down_proj.weight", layers, hidden, inner};
    case UP: return (section){"model.layers.%lld.mlp.up_proj.weight", layers, inner, hidden};
    case FINAL_NORM: return (section){"model.norm.weight", 1, 1, hidden};
    case ROTARY: return (section){NULL, b->has_rotary ? 1 : 0, c->max_seq_len, c->head_dim};
    case HEAD: return (section){"lm_head.weight", c->tie_embeddings ? 0 : 1, c->vocab_size, hidden};
    case PARTS: break;
    }
    return (section){0};
}

bool ds_llama2c_is(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot && strcmp(dot, ".bin") == 0 && !ds_folder_exists(path);
}

static ds_status read_header(bin *b) {
    const unsigned char *data = b->file.data;
    int32_t n[HEADER_NUMBERS];
    uint32_t magic = 0;
    int32_t version = 0;
    if (b->file.size < V1_HEADER_BYTES)
        return ds_fail(DS_CORRUPT, "%s: %zu bytes are too few for a llama2.c model", b->path,
                       b->file.size);
    memcpy(&magic, data, sizeof magic);
    if (magic == MAGIC)
        memcpy(&version, data + 4, sizeof version);
    if (magic == MAGIC && version != 1)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: version %d of llama2.c's format is not supported; "
                       "versions 0 and 1 (f32) are",
                       b->path, version);
    memcpy(n, data + (version == 1 ? 8 : 0), sizeof n);
    b->header_bytes = version == 1 ? V1_HEADER_BYTES : sizeof n;
    b->order = version == 1 ? order_v1 : order_v0;
    b->has_rotary = version == 0;
    /* version 0 tells an untied projection by a negative vocabulary */
    const bool is_tied = version == 1 ? data[8 + sizeof n] != 0 : n[5] > 0;
    b->config = (ds_model_config){
        .architecture = DS_LLAMA,
        .hidden_size = n[0],
        .intermediate_size = n[1],
        .n_layers = n[2],
        .n_heads = n[3],
        .n_kv_heads = n[4],
        .vocab_size = n[5] < 0 ? -(int64_t)n[5] : n[5],
        .max_seq_len = n[6],
        .head_dim = n[3] > 0 ? n[0] / n[3] : 0,
        .norm_eps = 1e-5f, /* fixed in llama2.c, as is the base of the rotary frequencies */
        .rope_theta = 10000,
        .tie_embeddings = is_tied,
        .bos_token = 1,
        .eos_token = 2,
    };
    if (ds_model_config_check(&b->config) != DS_OK)
        return ds_fail_within(DS_CORRUPT, "%s: no llama2.c model", b->path);
    if (n[0] % n[3] != 0)
        return ds_fail(DS_CORRUPT, "%s: no llama2.c model: width %d is not a multiple of %d heads",
                       b->path, n[0], n[3]);
    return DS_OK;
}

/* The file holds exactly what the header says. */
static ds_status check_size(const bin *b) {
    int64_t left = (int64_t)((b->file.size - b->header_bytes) / sizeof(float));
    for (int i = 0; i < PARTS; i++) {
        const section s = section_of(b, b->order[i]);
        if (s.count > 0 && s.rows * s.columns > left / s.count)
            return ds_fail(DS_CORRUPT, "%s: ends inside %s", b->path,
                           s.name ? s.name : "the rotary angles");
        left -= s.count * s.rows * s.columns;
    }
    if (left != 0 || (b->file.size - b->header_bytes) % sizeof(float) != 0)
        return ds_fail(DS_CORRUPT, "%s: %lld numbers more than its header says", b->path,
                       (long long)left);
    return DS_OK;
}

static ds_status open_bin(const char *path, bin *b) {
    *b = (bin){.path = path};
    DS_TRY(ds_file_map(path, &b->file));
    ds_status status = read_header(b);
    if (status == DS_OK)
        status = check_size(b);
    if (status != DS_OK)
        ds_file_unmap(&b->file);
    return status;
}

ds_status ds_llama2c_parse(const unsigned char *data, size_t size, const char *path,
                           ds_model_config *out) {
    bin b = {.path = path, .file = {.data = data, .size = size}};
    DS_TRY(read_header(&b));
    DS_TRY(check_size(&b));
    *out = b.config;
    return DS_OK;
}

ds_status ds_llama2c_config(const char *path, ds_model_config *out) {
    bin b;
    DS_TRY(open_bin(path, &b));
    *out = b.config;
    ds_file_unmap(&b.file);
    return DS_OK;
}

/* Row i of a head goes to i/2, odd ones to the second half: pair (2i, 2i+1) becomes (i, i+dim/2).
 */
static void halve_pairs(const float *from, float *to, const section *s, int64_t head_dim) {
    for (int64_t row = 0; row < s->rows; row++) {
        const int64_t in_head = row % head_dim;
        const int64_t place = row - in_head + in_head / 2 + (in_head % 2) * (head_dim / 2);
        memcpy(to + place * s->columns, from + row * s->columns, (size_t)s->columns * sizeof *from);
    }
}

/* First pass (write = false) only checks, so that an unsuitable state is not changed. */
static ds_status load_section(const bin *b, part p, const section *s, const float *data,
                              float *scratch, ds_state *state, bool write) {
    for (int64_t layer = 0; layer < s->count; layer++, data += s->rows * s->columns) {
        char name[96] = "";
        const float *values = data;
        snprintf(name, sizeof name, s->name, (long long)layer);
        const int64_t index = ds_state_find(state, name);
        if (index < 0)
            return ds_fail(DS_INVALID, "%s: tensor \"%s\" is not one of the model's", b->path,
                           name);
        int64_t count = 1;
        const ds_state_entry *e = ds_state_get(state, (size_t)index);
        for (int i = 0; i < e->rank; i++)
            count *= e->dims[i];
        if (count != s->rows * s->columns)
            return ds_fail(DS_INVALID, "%s: tensor \"%s\" has %lld numbers, the model wants %lld",
                           b->path, name, (long long)(s->rows * s->columns), (long long)count);
        if (!write)
            continue;
        if (p == QUERY || p == KEY) {
            halve_pairs(data, scratch, s, b->config.head_dim);
            values = scratch;
        }
        DS_TRY(ds_state_write_floats(state, (size_t)index, 0, count, DS_F32, values));
    }
    return DS_OK;
}

static ds_status load_sections(const bin *b, float *scratch, ds_state *state, bool write) {
    const float *data = (const float *)(const void *)(b->file.data + b->header_bytes);
    for (int i = 0; i < PARTS; i++) {
        const section s = section_of(b, b->order[i]);
        if (s.name)
            DS_TRY(load_section(b, b->order[i], &s, data, scratch, state, write));
        data += s.count * s.rows * s.columns;
    }
    return DS_OK;
}

ds_status ds_llama2c_load(const char *path, ds_state *state) {
    bin b;
    DS_TRY(open_bin(path, &b));
    const size_t largest = (size_t)(b.config.hidden_size * b.config.hidden_size);
    float *scratch = ds_malloc(largest * sizeof *scratch);
    ds_status status = scratch ? DS_OK : DS_OUT_OF_MEMORY;
    for (int write = 0; write < 2 && status == DS_OK; write++)
        status = load_sections(&b, scratch, state, write == 1);
    free(scratch);
    ds_file_unmap(&b.file);
    return status;
}
