/* Hugging Face config.json of each family, read and written through one table of keys. */
#include <jansson.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "deepseek/models.h"
#include "models/load.h"

typedef enum kind { INTEGER, REAL, BOOLEAN } kind;

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

static const key expert_keys[] = {
    /* beside Llama's */
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
                  NULL,
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
};

static ds_status read_key(const json_t *root, const char *path, const key *k,
                          ds_model_config *out) {
    const json_t *value = json_object_get(root, k->name);
    char *field = (char *)out + k->offset;
    if (!value || json_is_null(value))
        return k->required ? ds_fail(DS_INVALID, "%s: the key \"%s\" is missing", path, k->name)
                           : DS_OK;
    if (json_is_array(value) && k->kind == INTEGER) /* several end-of-text tokens: the first */
        value = json_array_get(value, 0);
    if (k->kind == BOOLEAN && json_is_boolean(value))
        *(bool *)field = json_is_true(value);
    else if (k->kind == REAL && json_is_number(value))
        *(float *)field = (float)json_number_value(value);
    else if (k->kind == INTEGER && json_is_integer(value))
        *(int64_t *)field = json_integer_value(value);
    else
        return ds_fail(DS_INVALID, "%s: \"%s\" is not %s", path, k->name,
                       k->kind == INTEGER ? "an integer"
                       : k->kind == REAL  ? "a number"
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
    return ds_fail(
        DS_UNSUPPORTED,
        "%s: model_type \"%s\" is not supported; supported are: gpt2, llama, bert, mixtral", path,
        type ? type : "(none)");
}

/* Variants that the builders have not; each is refused unless it has this value. */
static const struct {
    const char *name;
    bool value;
} fixed_flags[] = {
    {"attention_bias", false},      {"mlp_bias", false},
    {"scale_attn_weights", true},   {"scale_attn_by_inverse_layer_idx", false},
    {"add_cross_attention", false}, {"is_decoder", false},
};

static ds_status check_variant(const json_t *root, const char *path, ds_architecture family) {
    const char *activation =
        json_string_value(json_object_get(root, families[family].activation_key));
    if (activation && strcmp(activation, families[family].activation) != 0)
        return ds_fail(DS_UNSUPPORTED, "%s: %s \"%s\" is not supported; \"%s\" is", path,
                       families[family].activation_key, activation, families[family].activation);
    for (size_t i = 0; i < sizeof fixed_flags / sizeof *fixed_flags; i++) {
        const json_t *flag = json_object_get(root, fixed_flags[i].name);
        if (json_is_boolean(flag) && json_is_true(flag) != fixed_flags[i].value)
            return ds_fail(DS_UNSUPPORTED, "%s: %s: %s is not supported", path, fixed_flags[i].name,
                           fixed_flags[i].value ? "false" : "true");
    }
    const char *positions = json_string_value(json_object_get(root, "position_embedding_type"));
    if (positions && strcmp(positions, "absolute") != 0)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: position_embedding_type \"%s\" is not supported; \"absolute\" is", path,
                       positions);
    if (json_is_integer(json_object_get(root, "sliding_window")))
        return ds_fail(DS_UNSUPPORTED, "%s: sliding_window is not supported", path);
    return DS_OK;
}

/* Frequencies other than the published ones are refused. Transformers 5 keeps the base in
 * rope_parameters. */
static ds_status read_rotary(const json_t *root, const char *path, ds_model_config *out) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        const json_t *rotary = json_object_get(root, keys[i]);
        const char *type = json_string_value(json_object_get(rotary, "rope_type"));
        if (!type)
            type = json_string_value(json_object_get(rotary, "type"));
        if (json_is_object(rotary) && (type ? strcmp(type, "default") != 0 : i == 0))
            return ds_fail(DS_UNSUPPORTED, "%s: %s of type \"%s\" is not supported", path, keys[i],
                           type ? type : "(none)");
        const json_t *theta = json_object_get(rotary, "rope_theta");
        if (json_is_number(theta))
            out->rope_theta = (float)json_number_value(theta);
    }
    return DS_OK;
}

static ds_status read_config(const json_t *root, const char *path, ds_model_config *out) {
    ds_architecture family = DS_GPT2;
    DS_TRY(find_family(root, path, &family));
    *out = families[family].defaults;
    out->architecture = family;
    DS_TRY(check_variant(root, path, family));
    DS_TRY(read_rotary(root, path, out));
    for (const key *k = families[family].keys; k->name; k++)
        DS_TRY(read_key(root, path, k, out));
    for (const key *k = families[family].more_keys; k && k->name; k++)
        DS_TRY(read_key(root, path, k, out));
    if (out->n_kv_heads == 0)
        out->n_kv_heads = out->n_heads;
    if (out->head_dim == 0 && out->n_heads > 0)
        out->head_dim = out->hidden_size / out->n_heads;
    if (out->intermediate_size == 0 && out->hidden_size > 0 && out->hidden_size <= INT32_MAX)
        out->intermediate_size = 4 * out->hidden_size;
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
    snprintf(file, sizeof file, ds_folder_exists(path) ? "%s/config.json" : "%s", path);
    DS_TRY(ds_file_read(file, (size_t)1 << 20, &text, &size));
    const ds_status status = ds_model_config_parse(text, size, file, out);
    free(text);
    return status;
}

static void write_keys(json_t *root, const ds_model_config *c, const key *keys) {
    for (const key *k = keys; k && k->name; k++) {
        const char *field = (const char *)c + k->offset;
        json_t *value = NULL;
        if (k->kind == BOOLEAN)
            value = json_boolean(*(const bool *)field);
        else if (k->kind == REAL)
            value = json_real((double)*(const float *)field);
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
