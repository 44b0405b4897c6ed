/* Hugging Face config.json of each family, read and written through one table of keys. */
#include <jansson.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/gguf.h"
#include "base/text.h"
#include "deepseek/models.h"
#include "models/hf.h"
#include "models/load.h"

typedef enum kind {
    INTEGER,
    OPTION, /* an integer, null for none (0) */
    REAL,
    BOOLEAN,
    NOT, /* a boolean, the other way round */
} kind;

typedef struct key {
    const char *name;
    kind kind;
    size_t offset;
    bool required;
} key;

#define AT(field) offsetof(ds_model_config, field)

static const key gpt2_keys[] = {
    {"vocab_size", INTEGER, AT(vocab_size), true},
    {"n_layer", INTEGER, AT(n_layers), true},
    {"n_embd", INTEGER, AT(hidden_size), true},
    {"n_head", INTEGER, AT(n_heads), true},
    {"n_positions", INTEGER, AT(max_seq_len), true},
    {"n_inner", INTEGER, AT(intermediate_size), false},
    {"layer_norm_epsilon", REAL, AT(norm_eps), false},
    {"resid_pdrop", REAL, AT(dropout), false},
    {"tie_word_embeddings", BOOLEAN, AT(tie_embeddings), false},
    {"bos_token_id", INTEGER, AT(bos_token), false},
    {"eos_token_id", INTEGER, AT(eos_token), false},
    {0},
};

static const key llama_keys[] = {
    {"vocab_size", INTEGER, AT(vocab_size), true},
    {"num_hidden_layers", INTEGER, AT(n_layers), true},
    {"hidden_size", INTEGER, AT(hidden_size), true},
    {"num_attention_heads", INTEGER, AT(n_heads), true},
    {"num_key_value_heads", INTEGER, AT(n_kv_heads), false},
    {"head_dim", INTEGER, AT(head_dim), false},
    {"intermediate_size", INTEGER, AT(intermediate_size), true},
    {"max_position_embeddings", INTEGER, AT(max_seq_len), true},
    {"rms_norm_eps", REAL, AT(norm_eps), false},
    {"rope_theta", REAL, AT(rope_theta), false},
    {"tie_word_embeddings", BOOLEAN, AT(tie_embeddings), false},
    {"bos_token_id", INTEGER, AT(bos_token), false},
    {"eos_token_id", INTEGER, AT(eos_token), false},
    {0},
};

/* beside Llama's */

static const key llama_more_keys[] = {
    {"attention_bias", BOOLEAN, AT(qkv_bias), false},
    {"attention_bias", BOOLEAN, AT(output_bias), false},
    {"mlp_bias", BOOLEAN, AT(mlp_bias), false},
    {0},
};

static const key mistral_keys[] = {
    {"sliding_window", OPTION, AT(sliding_window), false},
    {0},
};

static const key qwen3_keys[] = {
    {"attention_bias", BOOLEAN, AT(qkv_bias), false},
    {"attention_bias", BOOLEAN, AT(output_bias), false},
    {0},
};

static const key qwen2_expert_keys[] = {
    {"num_experts", INTEGER, AT(n_experts), false},       /* as published */
    {"num_local_experts", INTEGER, AT(n_experts), false}, /* as transformers 5 writes */
    {"num_experts_per_tok", INTEGER, AT(experts_per_token), true},
    {"moe_intermediate_size", INTEGER, AT(experts.intermediate_size), true},
    {"shared_expert_intermediate_size", INTEGER, AT(experts.shared_size), true},
    {"norm_topk_prob", NOT, AT(experts.unnormalised), false},
    {"router_aux_loss_coef", REAL, AT(router_loss_weight), false},
    {0},
};

static const key qwen3_expert_keys[] = {
    {"num_experts", INTEGER, AT(n_experts), false},       /* as published */
    {"num_local_experts", INTEGER, AT(n_experts), false}, /* as transformers 5 writes */
    {"num_experts_per_tok", INTEGER, AT(experts_per_token), true},
    {"moe_intermediate_size", INTEGER, AT(experts.intermediate_size), true},
    {"norm_topk_prob", NOT, AT(experts.unnormalised), false},
    {"router_aux_loss_coef", REAL, AT(router_loss_weight), false},
    {"attention_bias", BOOLEAN, AT(qkv_bias), false},
    {"attention_bias", BOOLEAN, AT(output_bias), false},
    {0},
};

static const key deepseek_keys[] = {
    {"n_routed_experts", INTEGER, AT(n_experts), true},
    {"num_experts_per_tok", INTEGER, AT(experts_per_token), true},
    {"moe_intermediate_size", INTEGER, AT(experts.intermediate_size), true},
    {"n_shared_experts", INTEGER, AT(experts.n_shared), false},
    {"first_k_dense_replace", INTEGER, AT(experts.n_dense_layers), false},
    {"routed_scaling_factor", REAL, AT(experts.scale), false},
    {"norm_topk_prob", NOT, AT(experts.unnormalised), false},
    {"n_group", OPTION, AT(experts.n_groups), false},
    {"topk_group", OPTION, AT(experts.groups_per_token), false},
    {"q_lora_rank", OPTION, AT(latent.q_rank), false},
    {"kv_lora_rank", INTEGER, AT(latent.kv_rank), true},
    {"qk_nope_head_dim", INTEGER, AT(latent.plain_dim), true},
    {"qk_rope_head_dim", INTEGER, AT(latent.rotary_dim), true},
    {"v_head_dim", INTEGER, AT(latent.v_dim), true},
    {"attention_bias", BOOLEAN, AT(qkv_bias), false},
    {"attention_bias", BOOLEAN, AT(output_bias), false},
    {0},
};

static const key expert_keys[] = {
    {"num_local_experts", INTEGER, AT(n_experts), true},
    {"num_experts_per_tok", INTEGER, AT(experts_per_token), false},
    {"router_aux_loss_coef", REAL, AT(router_loss_weight), false},
    {0},
};

static const key bert_keys[] = {
    {"vocab_size", INTEGER, AT(vocab_size), true},
    {"num_hidden_layers", INTEGER, AT(n_layers), true},
    {"hidden_size", INTEGER, AT(hidden_size), true},
    {"num_attention_heads", INTEGER, AT(n_heads), true},
    {"intermediate_size", INTEGER, AT(intermediate_size), true},
    {"max_position_embeddings", INTEGER, AT(max_seq_len), true},
    {"type_vocab_size", INTEGER, AT(type_vocab_size), false},
    {"layer_norm_eps", REAL, AT(norm_eps), false},
    {"hidden_dropout_prob", REAL, AT(dropout), false},
    {0},
};

static const struct {
    const char *model_type, *class_name;
    const key *keys;
    const key *more_keys;                    /* NULL: none */
    const char *activation_key, *activation; /* the one that the builder implements */
    ds_model_config defaults;
} families[DS_ARCHITECTURES] = {
    [DS_GPT2] = {"gpt2",
                 "GPT2LMHeadModel",
                 gpt2_keys,
                 NULL,
                 "activation_function",
                 "gelu_new",
                 {.norm_eps = 1e-5f, .tie_embeddings = true, .bos_token = -1, .eos_token = -1}},
    [DS_LLAMA] = {"llama",
                  "LlamaForCausalLM",
                  llama_keys,
                  llama_more_keys,
                  "hidden_act",
                  "silu",
                  {.norm_eps = 1e-6f, .rope_theta = 10000, .bos_token = -1, .eos_token = -1}},
    [DS_BERT] = {"bert",
                 "BertForPreTraining",
                 bert_keys,
                 NULL,
                 "hidden_act",
                 "gelu",
                 {.norm_eps = 1e-12f,
                  .tie_embeddings = true,
                  .type_vocab_size = 2,
                  .bos_token = -1,
                  .eos_token = -1}},
    [DS_MOE] = {"mixtral",
                "MixtralForCausalLM",
                llama_keys,
                expert_keys,
                "hidden_act",
                "silu",
                {.norm_eps = 1e-5f,
                 .rope_theta = 1e6f,
                 .experts_per_token = 2,
                 .router_loss_weight = 0.001f,
                 .bos_token = -1,
                 .eos_token = -1}},
    [DS_MISTRAL] = {"mistral",
                    "MistralForCausalLM",
                    llama_keys,
                    mistral_keys,
                    "hidden_act",
                    "silu",
                    {.norm_eps = 1e-6f, .rope_theta = 10000, .bos_token = -1, .eos_token = -1}},
    [DS_QWEN2] = {"qwen2",
                  "Qwen2ForCausalLM",
                  llama_keys,
                  NULL,
                  "hidden_act",
                  "silu",
                  {.norm_eps = 1e-6f,
                   .rope_theta = 10000,
                   .qkv_bias = true,
                   .bos_token = -1,
                   .eos_token = -1}},
    [DS_QWEN3] = {"qwen3",
                  "Qwen3ForCausalLM",
                  llama_keys,
                  qwen3_keys,
                  "hidden_act",
                  "silu",
                  {.norm_eps = 1e-6f,
                   .rope_theta = 10000,
                   .qk_norm = true,
                   .bos_token = -1,
                   .eos_token = -1}},
    [DS_QWEN2_MOE] = {"qwen2_moe",
                      "Qwen2MoeForCausalLM",
                      llama_keys,
                      qwen2_expert_keys,
                      "hidden_act",
                      "silu",
                      {.norm_eps = 1e-6f,
                       .rope_theta = 10000,
                       .qkv_bias = true,
                       .router_loss_weight = 0.001f,
                       .experts = {.n_shared = 1, .shared_gate = true, .unnormalised = true},
                       .bos_token = -1,
                       .eos_token = -1}},
    [DS_QWEN3_MOE] = {"qwen3_moe",
                      "Qwen3MoeForCausalLM",
                      llama_keys,
                      qwen3_expert_keys,
                      "hidden_act",
                      "silu",
                      {.norm_eps = 1e-6f,
                       .rope_theta = 10000,
                       .qk_norm = true,
                       .router_loss_weight = 0.001f,
                       .experts = {.unnormalised = true},
                       .bos_token = -1,
                       .eos_token = -1}},
    [DS_DEEPSEEK_V2] = {"deepseek_v2",
                        "DeepseekV2ForCausalLM",
                        llama_keys,
                        deepseek_keys,
                        "hidden_act",
                        "silu",
                        {.norm_eps = 1e-6f,
                         .rope_theta = 10000,
                         .experts = {.unnormalised = true, .scale = 1},
                         .bos_token = -1,
                         .eos_token = -1}},
    [DS_DEEPSEEK_V3] = {"deepseek_v3",
                        "DeepseekV3ForCausalLM",
                        llama_keys,
                        deepseek_keys,
                        "hidden_act",
                        "silu",
                        {.norm_eps = 1e-6f,
                         .rope_theta = 10000,
                         .experts = {.by_sigmoid = true, .scale = 2.5f},
                         .bos_token = -1,
                         .eos_token = -1}},
};

static ds_status read_key(const json_t *root, const char *path, const key *k,
                          ds_model_config *out) {
    const json_t *value = json_object_get(root, k->name);
    char *field = (char *)out + k->offset;
    if (!value || json_is_null(value))
        return k->required ? ds_fail(DS_INVALID, "%s: the key \"%s\" is missing", path, k->name)
                           : DS_OK;
    const bool is_whole = k->kind == INTEGER || k->kind == OPTION;
    if (json_is_array(value) && is_whole) /* several end-of-text tokens: the first */
        value = json_array_get(value, 0);
    if ((k->kind == BOOLEAN || k->kind == NOT) && json_is_boolean(value))
        *(bool *)field = json_is_true(value) == (k->kind == BOOLEAN);
    else if (k->kind == REAL && json_is_number(value))
        *(float *)field = (float)json_number_value(value);
    else if (is_whole && json_is_integer(value))
        *(int64_t *)field = json_integer_value(value);
    else
        return ds_fail(DS_INVALID, "%s: \"%s\" is not %s", path, k->name,
                       is_whole          ? "an integer"
                       : k->kind == REAL ? "a number"
                                         : "true or false");
    return DS_OK;
}

static ds_status find_family(const json_t *root, const char *path, ds_architecture *out) {
    const char *type = json_string_value(json_object_get(root, "model_type"));
    for (int i = 0; type && i < DS_ARCHITECTURES; i++)
        if (strcmp(families[i].model_type, type) == 0) {
            *out = (ds_architecture)i;
            return DS_OK;
        }
    ds_text known = {0};
    for (int i = 0; i < DS_ARCHITECTURES; i++)
        ds_text_printf(&known, "%s%s", i ? ", " : "", families[i].model_type);
    const ds_status status =
        ds_fail(DS_UNSUPPORTED, "%s: model_type \"%s\" is not supported; supported are: %s", path,
                type ? type : "(none)", known.data ? known.data : "");
    ds_text_clear(&known);
    return status;
}

/* Variants that the builders have not; each is refused unless it has this value, or unless it is a
 * key of the family. */
static const struct {
    const char *name;
    bool value;
} fixed_flags[] = {
    {"attention_bias", false},      {"mlp_bias", false},
    {"scale_attn_weights", true},   {"scale_attn_by_inverse_layer_idx", false},
    {"add_cross_attention", false}, {"is_decoder", false},
    {"use_sliding_window", false},  {"rope_interleave", true},
};

static const struct {
    const char *name;
    json_int_t value;
} fixed_numbers[] = {{"decoder_sparse_step", 1}, {"moe_layer_freq", 1}};

static bool has_key(const key *keys, const char *name) {
    for (const key *k = keys; k && k->name; k++)
        if (strcmp(k->name, name) == 0)
            return true;
    return false;
}

static ds_status check_fixed(const json_t *root, const char *path, ds_architecture family) {
    for (size_t i = 0; i < sizeof fixed_flags / sizeof *fixed_flags; i++) {
        const json_t *flag = json_object_get(root, fixed_flags[i].name);
        if (json_is_boolean(flag) && json_is_true(flag) != fixed_flags[i].value &&
            !has_key(families[family].more_keys, fixed_flags[i].name))
            return ds_fail(DS_UNSUPPORTED, "%s: %s: %s is not supported", path, fixed_flags[i].name,
                           fixed_flags[i].value ? "false" : "true");
    }
    for (size_t i = 0; i < sizeof fixed_numbers / sizeof *fixed_numbers; i++) {
        const json_t *number = json_object_get(root, fixed_numbers[i].name);
        if (json_is_integer(number) && json_integer_value(number) != fixed_numbers[i].value)
            return ds_fail(DS_UNSUPPORTED, "%s: %s %lld is not supported; %lld is", path,
                           fixed_numbers[i].name, (long long)json_integer_value(number),
                           (long long)fixed_numbers[i].value);
    }
    if (json_array_size(json_object_get(root, "mlp_only_layers")) > 0)
        return ds_fail(DS_UNSUPPORTED, "%s: mlp_only_layers is not supported", path);
    return DS_OK;
}

/* Layers that differ in how far they see. */
static ds_status check_windows(const json_t *root, const char *path, ds_architecture family) {
    const bool off = json_is_false(json_object_get(root, "use_sliding_window"));
    if (json_is_integer(json_object_get(root, "sliding_window")) && !off &&
        !has_key(families[family].more_keys, "sliding_window"))
        return ds_fail(DS_UNSUPPORTED, "%s: sliding_window is not supported", path);
    const json_t *types = json_object_get(root, "layer_types");
    const char *first = json_string_value(json_array_get(types, 0));
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || !first || strcmp(type, first) != 0)
            return ds_fail(DS_UNSUPPORTED, "%s: layer_types that differ are not supported", path);
    }
    return DS_OK;
}

static ds_status check_variant(const json_t *root, const char *path, ds_architecture family) {
    const char *activation =
        json_string_value(json_object_get(root, families[family].activation_key));
    if (activation && strcmp(activation, families[family].activation) != 0)
        return ds_fail(DS_UNSUPPORTED, "%s: %s \"%s\" is not supported; \"%s\" is", path,
                       families[family].activation_key, activation, families[family].activation);
    DS_TRY(check_fixed(root, path, family));
    const char *positions = json_string_value(json_object_get(root, "position_embedding_type"));
    if (positions && strcmp(positions, "absolute") != 0)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: position_embedding_type \"%s\" is not supported; \"absolute\" is", path,
                       positions);
    return check_windows(root, path, family);
}

/* DeepSeek names its ways of choosing experts. */
static ds_status read_routing(const json_t *root, const char *path, ds_model_config *out) {
    const bool is_v3 = out->architecture == DS_DEEPSEEK_V3;
    if (!is_v3 && out->architecture != DS_DEEPSEEK_V2)
        return DS_OK;
    const char *scoring = json_string_value(json_object_get(root, "scoring_func"));
    const char *method = json_string_value(json_object_get(root, "topk_method"));
    if (scoring && strcmp(scoring, is_v3 ? "sigmoid" : "softmax") != 0)
        return ds_fail(DS_UNSUPPORTED, "%s: scoring_func \"%s\" is not supported here; \"%s\" is",
                       path, scoring, is_v3 ? "sigmoid" : "softmax");
    const bool greedy = !is_v3 && (!method || strcmp(method, "greedy") == 0);
    if (method && !greedy && strcmp(method, is_v3 ? "noaux_tc" : "group_limited_greedy") != 0)
        return ds_fail(DS_UNSUPPORTED, "%s: topk_method \"%s\" is not supported here", path,
                       method);
    if (greedy)
        out->experts.n_groups = out->experts.groups_per_token = 0;
    return DS_OK;
}

static void write_routing(json_t *root, const ds_model_config *c) {
    if (c->architecture == DS_DEEPSEEK_V3) {
        json_object_set_new(root, "scoring_func", json_string("sigmoid"));
        json_object_set_new(root, "topk_method", json_string("noaux_tc"));
    } else if (c->architecture == DS_DEEPSEEK_V2) {
        const bool grouped = c->experts.n_groups > 1;
        json_object_set_new(root, "topk_method",
                            json_string(grouped ? "group_limited_greedy" : "greedy"));
    }
}

/* What follows from other keys where it is not said. */
static void fill_in(ds_model_config *out) {
    if (out->n_kv_heads == 0)
        out->n_kv_heads = out->n_heads;
    if (out->latent.kv_rank > 0) /* heads come out of the latent vectors, each its own */
        out->n_kv_heads = out->n_heads, out->head_dim = out->latent.rotary_dim;
    if (out->head_dim == 0 && out->n_heads > 0)
        out->head_dim = out->hidden_size / out->n_heads;
    if (out->intermediate_size == 0 && out->hidden_size > 0 && out->hidden_size <= INT32_MAX)
        out->intermediate_size = 4 * out->hidden_size;
}

static ds_status read_config(const json_t *root, const char *path, ds_model_config *out) {
    ds_architecture family = DS_GPT2;
    DS_TRY(find_family(root, path, &family));
    *out = families[family].defaults;
    out->architecture = family;
    DS_TRY(check_variant(root, path, family));
    for (const key *k = families[family].keys; k->name; k++)
        DS_TRY(read_key(root, path, k, out));
    for (const key *k = families[family].more_keys; k && k->name; k++)
        DS_TRY(read_key(root, path, k, out));
    DS_TRY(ds_hf_read_rope(root, path, out));
    DS_TRY(read_routing(root, path, out));
    DS_TRY(ds_hf_read_quantisation(root, path, out));
    fill_in(out);
    const ds_status status = ds_model_config_check(out);
    return status == DS_OK ? DS_OK : ds_fail_within(status, "%s", path);
}

ds_status ds_model_config_parse(const char *text, size_t size, const char *path,
                                ds_model_config *out) {
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return ds_fail(DS_INVALID, "%s:%d:%d: %s", path, error.line, error.column, error.text);
    const ds_status status = json_is_object(root)
                                 ? read_config(root, path, out)
                                 : ds_fail(DS_INVALID, "%s: is not a JSON object", path);
    json_decref(root);
    return status;
}

ds_status ds_model_config_load(const char *path, ds_model_config *out) {
    char file[PATH_MAX], *text = NULL;
    size_t size = 0;
    if (ds_llama2c_is(path))
        return ds_llama2c_config(path, out);
    if (ds_gguf_is(path))
        return ds_gguf_model_config(path, out);
    const bool is_folder = ds_folder_exists(path);
    if (!is_folder && ds_file_exists(path) && !ds_ends_with(path, ".json"))
        return ds_fail(DS_INVALID,
                       "%s: is no model; expected a folder with config.json and *.safetensors, a "
                       "GGUF file, or a llama2.c .bin",
                       path);
    snprintf(file, sizeof file, is_folder ? "%s/config.json" : "%s", path);
    DS_TRY(ds_file_read(file, (size_t)1 << 20, &text, &size));
    const ds_status status = ds_model_config_parse(text, size, file, out);
    free(text);
    return status;
}

static void write_keys(json_t *root, const ds_model_config *c, const key *keys) {
    for (const key *k = keys; k && k->name; k++) {
        const char *field = (const char *)c + k->offset;
        json_t *value = NULL;
        if (k->kind == BOOLEAN || k->kind == NOT)
            value = json_boolean(*(const bool *)field == (k->kind == BOOLEAN));
        else if (k->kind == REAL)
            value = json_real((double)*(const float *)field);
        else if (k->kind == OPTION && *(const int64_t *)field == 0)
            value = json_null();
        else if (*(const int64_t *)field >= 0)
            value = json_integer(*(const int64_t *)field);
        if (value)
            json_object_set_new(root, k->name, value);
    }
}

char *ds_model_config_json(const ds_model_config *c) {
    json_t *root = json_object();
    json_object_set_new(root, "model_type", json_string(families[c->architecture].model_type));
    json_object_set_new(root, "architectures",
                        json_pack("[s]", families[c->architecture].class_name));
    json_object_set_new(root, families[c->architecture].activation_key,
                        json_string(families[c->architecture].activation));
    json_object_set_new(root, "torch_dtype", json_string("float32"));
    write_keys(root, c, families[c->architecture].keys);
    write_keys(root, c, families[c->architecture].more_keys);
    ds_hf_write_rope(root, c);
    write_routing(root, c);
    /* the families have more dropouts than the builders: of attention there is none */
    if (c->architecture == DS_GPT2) {
        json_object_set_new(root, "embd_pdrop", json_real((double)c->dropout));
        json_object_set_new(root, "attn_pdrop", json_real(0));
    } else if (c->architecture == DS_BERT) {
        json_object_set_new(root, "attention_probs_dropout_prob", json_real(0));
    }
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(root);
    return text;
}
