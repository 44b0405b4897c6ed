/* The configuration of a GGUF model: values "ARCHITECTURE.KEY" (github.com/ggml-org/ggml,
 * docs/gguf.md), and what only the tensors tell: biases, a projection of its own, the vocabulary's
 * size. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "models/gguf.h"
#include "models/load.h"

enum { KEY_SIZE = 128 };

typedef enum kind { INTEGER, REAL } kind;

typedef struct key {
    const char *name;
    kind kind;
    size_t offset;
    bool required;
} key;

#define AT(field) offsetof(ds_model_config, field)

static const key keys[] = {
    {"block_count", INTEGER, AT(n_layers), true},
    {"embedding_length", INTEGER, AT(hidden_size), true},
    {"attention.head_count", INTEGER, AT(n_heads), true},
    {"attention.head_count_kv", INTEGER, AT(n_kv_heads), false},
    {"attention.key_length", INTEGER, AT(head_dim), false},
    {"feed_forward_length", INTEGER, AT(intermediate_size), true},
    {"context_length", INTEGER, AT(max_seq_len), true},
    {"attention.layer_norm_rms_epsilon", REAL, AT(norm_eps), false},
    {"attention.layer_norm_epsilon", REAL, AT(norm_eps), false},
    {"attention.sliding_window", INTEGER, AT(sliding_window), false},
    {"rope.freq_base", REAL, AT(rope_theta), false},
    {"expert_count", INTEGER, AT(n_experts), false},
    {"expert_used_count", INTEGER, AT(experts_per_token), false},
    {"expert_feed_forward_length", INTEGER, AT(experts.intermediate_size), false},
    {"expert_shared_feed_forward_length", INTEGER, AT(experts.shared_size), false},
};

static const struct {
    const char *name;
    ds_architecture architecture;
    ds_model_config defaults;
} families[] = {
    {"llama", DS_LLAMA, {.norm_eps = 1e-5f, .rope_theta = 10000}},
    {"qwen2", DS_QWEN2, {.norm_eps = 1e-6f, .rope_theta = 10000, .qkv_bias = true}},
    {"qwen3", DS_QWEN3, {.norm_eps = 1e-6f, .rope_theta = 10000, .qk_norm = true}},
    {"qwen2moe",
     DS_QWEN2_MOE,
     {.norm_eps = 1e-6f,
      .rope_theta = 10000,
      .qkv_bias = true,
      .experts = {.n_shared = 1, .shared_gate = true, .unnormalised = true}}},
    {"qwen3moe", DS_QWEN3_MOE, {.norm_eps = 1e-6f, .rope_theta = 10000, .qk_norm = true}},
    {"gpt2", DS_GPT2, {.norm_eps = 1e-5f}},
    {"bert", DS_BERT, {.norm_eps = 1e-12f, .tie_embeddings = true}},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static ds_status find_family(const ds_gguf *g, ds_model_config *out) {
    const char *name = ds_gguf_text(g, "general.architecture");
    for (int i = 0; name && i < N_FAMILIES; i++)
        if (strcmp(families[i].name, name) == 0) {
            *out = families[i].defaults;
            out->architecture = families[i].architecture;
            return DS_OK;
        }
    ds_text known = {0};
    for (int i = 0; i < N_FAMILIES; i++)
        ds_text_printf(&known, "%s%s", i ? ", " : "", families[i].name);
    const ds_status status = ds_fail(
        DS_UNSUPPORTED, "%s: the architecture \"%.40s\" is not supported; supported are: %s",
        ds_gguf_path(g), name ? name : "(none)", known.data ? known.data : "");
    ds_text_clear(&known);
    return status;
}

static const char *full_key(const ds_gguf *g, const char *name, char out[KEY_SIZE]) {
    snprintf(out, KEY_SIZE, "%s.%s", ds_gguf_text(g, "general.architecture"), name);
    return out;
}

/* A number, or a list with one for each layer, which must be the same everywhere. */
static ds_status read_integer(const ds_gguf *g, const char *name, int64_t *out) {
    ds_gguf_numbers list;
    if (ds_gguf_integer(g, name, out))
        return DS_OK;
    if (!ds_gguf_list_numbers(g, name, &list) || list.n == 0)
        return ds_fail(DS_INVALID, "%s: \"%s\" is not an integer", ds_gguf_path(g), name);
    for (size_t i = 0; i < list.n; i++)
        if (ds_gguf_number(&list, i) != ds_gguf_number(&list, 0))
            return ds_fail(DS_UNSUPPORTED, "%s: \"%s\" differs from layer to layer",
                           ds_gguf_path(g), name);
    const double x = ds_gguf_number(&list, 0);
    if (!(x >= 0 && x <= INT32_MAX))
        return ds_fail(DS_INVALID, "%s: \"%s\" is %g", ds_gguf_path(g), name, x);
    *out = (int64_t)x;
    return DS_OK;
}

static ds_status read_key(const ds_gguf *g, const key *k, ds_model_config *out) {
    char name[KEY_SIZE];
    char *field = (char *)out + k->offset;
    full_key(g, k->name, name);
    if (!ds_gguf_has(g, name))
        return k->required
                   ? ds_fail(DS_INVALID, "%s: the key \"%s\" is missing", ds_gguf_path(g), name)
                   : DS_OK;
    if (k->kind == INTEGER)
        return read_integer(g, name, (int64_t *)field);
    return ds_gguf_real(g, name, (float *)field)
               ? DS_OK
               : ds_fail(DS_INVALID, "%s: \"%s\" is not a number", ds_gguf_path(g), name);
}

/* ---- rotary positions ------------------------------------------------------------------------ */

static ds_status read_scaling(const ds_gguf *g, ds_model_config *c) {
    char name[KEY_SIZE];
    ds_rope_scaling *s = &c->rope_scaling;
    const char *type = ds_gguf_text(g, full_key(g, "rope.scaling.type", name));
    (void)ds_gguf_real(g, full_key(g, "rope.scale_linear", name), &s->factor);
    if (s->factor > 0 && s->factor != 1)
        s->kind = DS_ROPE_LINEAR; /* as older files say it */
    if (!type || strcmp(type, "none") == 0)
        return DS_OK;
    (void)ds_gguf_real(g, full_key(g, "rope.scaling.factor", name), &s->factor);
    if (strcmp(type, "linear") == 0) {
        s->kind = DS_ROPE_LINEAR;
        s->original = c->max_seq_len;
        return DS_OK;
    }
    if (strcmp(type, "yarn") != 0)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: rotary positions of type \"%.40s\" are not supported; none, linear and "
                       "yarn are",
                       ds_gguf_path(g), type);
    s->kind = DS_ROPE_YARN;
    s->beta_fast = 32;
    s->beta_slow = 1;
    s->original = c->max_seq_len;
    (void)ds_gguf_integer(g, full_key(g, "rope.scaling.original_context_length", name),
                          &s->original);
    (void)ds_gguf_real(g, full_key(g, "rope.scaling.yarn_beta_fast", name), &s->beta_fast);
    (void)ds_gguf_real(g, full_key(g, "rope.scaling.yarn_beta_slow", name), &s->beta_slow);
    s->magnitude = s->factor > 1 ? 0.1f * logf(s->factor) + 1 : 1;
    return DS_OK;
}

/* By what Llama 3.1 divides the frequency of pair i (its release's apply_scaling). */
static double llama3_factor(const ds_model_config *c, const ds_rope_scaling *s, int64_t i) {
    const double pi2 = 6.283185307179586, original = (double)s->original;
    const double low = (double)s->low_freq_factor, high = (double)s->high_freq_factor;
    const double wave = pi2 * pow((double)c->rope_theta, 2.0 * (double)i / (double)c->head_dim);
    if (wave < original / high)
        return 1;
    if (wave > original / low)
        return (double)s->factor;
    const double smooth = (original / wave - low) / (high - low);
    return 1 / ((1 - smooth) / (double)s->factor + smooth);
}

/* Llama 3.1 and later bring divisors of the frequencies in place of the numbers that they come
 * from. Those published all have these but for the factor, which is the greatest divisor. */
static ds_status read_divisors(const ds_gguf *g, ds_model_config *c) {
    const ds_gguf_tensor *t = ds_gguf_find(g, "rope_freqs.weight");
    if (!t)
        return DS_OK;
    ds_rope_scaling s = {
        .kind = DS_ROPE_LLAMA3, .low_freq_factor = 1, .high_freq_factor = 4, .original = 8192};
    bool same = t->rank == 1 && t->dims[0] == c->head_dim / 2 && t->type->id == 0;
    for (int64_t i = 0; same && i < t->dims[0]; i++) {
        float f;
        memcpy(&f, t->data + (size_t)i * sizeof f, sizeof f);
        s.factor = f > s.factor ? f : s.factor;
    }
    for (int64_t i = 0; same && i < t->dims[0]; i++) {
        float f;
        memcpy(&f, t->data + (size_t)i * sizeof f, sizeof f);
        same = fabs((double)f / llama3_factor(c, &s, i) - 1) < 1e-3;
    }
    if (!same)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: \"rope_freqs.weight\" does not scale frequencies as Llama 3 does",
                       ds_gguf_path(g));
    if (s.factor != 1)
        c->rope_scaling = s;
    return DS_OK;
}

static ds_status read_rope(const ds_gguf *g, ds_model_config *c) {
    char name[KEY_SIZE];
    int64_t rotated = c->head_dim;
    (void)ds_gguf_integer(g, full_key(g, "rope.dimension_count", name), &rotated);
    if (rotated != c->head_dim)
        return ds_fail(DS_UNSUPPORTED, "%s: %lld of %lld dimensions rotated are not supported",
                       ds_gguf_path(g), (long long)rotated, (long long)c->head_dim);
    DS_TRY(read_scaling(g, c));
    return read_divisors(g, c);
}

/* ---- what the tensors tell ------------------------------------------------------------------- */

static bool has(const ds_gguf *g, const char *name) {
    return ds_gguf_find(g, name) != NULL;
}

static ds_status read_tensors(const ds_gguf *g, ds_model_config *c) {
    const ds_gguf_tensor *words = ds_gguf_find(g, "token_embd.weight");
    const ds_gguf_tensor *types = ds_gguf_find(g, "token_types.weight");
    if (!words || words->rank != 2)
        return ds_fail(DS_INVALID, "%s: there is no table \"token_embd.weight\"%s", ds_gguf_path(g),
                       ds_gguf_count(g) == 0 ? ": the file holds a vocabulary alone" : "");
    c->vocab_size = words->dims[0];
    if (c->architecture == DS_BERT) {
        c->type_vocab_size = types && types->rank == 2 ? types->dims[0] : 0;
        return DS_OK;
    }
    c->tie_embeddings = !has(g, "output.weight");
    c->qkv_bias = has(g, "blk.0.attn_q.bias");
    c->output_bias = has(g, "blk.0.attn_output.bias");
    c->mlp_bias = has(g, "blk.0.ffn_gate.bias");
    if (c->architecture == DS_GPT2)
        c->qkv_bias = c->output_bias = false; /* always there, and no choice */
    return DS_OK;
}

/* One name of the format stands for several families. */
static void choose_variant(ds_model_config *c) {
    if (c->architecture == DS_LLAMA && c->n_experts > 0)
        c->architecture = DS_MOE;
    else if (c->architecture == DS_LLAMA && c->sliding_window > 0)
        c->architecture = DS_MISTRAL;
    if (c->architecture == DS_QWEN2 || c->architecture == DS_QWEN3)
        c->sliding_window = 0; /* told by some files, used by none of the models */
}

ds_status ds_gguf_config(const ds_gguf *g, ds_model_config *out) {
    DS_TRY(find_family(g, out));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        DS_TRY(read_key(g, &keys[i], out));
    if (out->n_kv_heads == 0)
        out->n_kv_heads = out->n_heads;
    if (out->head_dim == 0 && out->n_heads > 0)
        out->head_dim = out->hidden_size / out->n_heads;
    DS_TRY(read_tensors(g, out));
    choose_variant(out);
    if (out->architecture != DS_GPT2 && out->architecture != DS_BERT)
        DS_TRY(read_rope(g, out));
    out->bos_token = out->eos_token = -1;
    (void)ds_gguf_integer(g, "tokenizer.ggml.bos_token_id", &out->bos_token);
    (void)ds_gguf_integer(g, "tokenizer.ggml.eos_token_id", &out->eos_token);
    const ds_status status = ds_model_config_check(out);
    return status == DS_OK ? DS_OK : ds_fail_within(status, "%s", ds_gguf_path(g));
}

ds_status ds_gguf_model_config(const char *path, ds_model_config *out) {
    ds_gguf *g = NULL;
    DS_TRY(ds_gguf_open(path, &g));
    const ds_status status = ds_gguf_config(g, out);
    ds_gguf_close(g);
    return status;
}
