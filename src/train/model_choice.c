#include "train/model_choice.h"

#include "base/error.h"
#include "base/file.h"

static ds_architecture architecture_of(ds_train_architecture a) {
    switch (a) {
    case DS_TRAIN_LLAMA: return DS_LLAMA;
    case DS_TRAIN_BERT: return DS_BERT;
    case DS_TRAIN_MOE: return DS_MOE;
    default: return DS_GPT2;
    }
}

static void override_size(int64_t *field, int value) {
    if (value != DS_TRAIN_AUTO)
        *field = value;
}

/* Sizes that follow from others unless they are given themselves. */
static void override_widths(const ds_train_config *config, ds_model_config *m) {
    const bool rewidened =
        config->model.hidden_size != DS_TRAIN_AUTO || config->model.n_heads != DS_TRAIN_AUTO;
    const int64_t ratio = m->intermediate_size / m->hidden_size;
    const int64_t groups = m->n_kv_heads > 0 ? m->n_heads / m->n_kv_heads : 1;
    override_size(&m->hidden_size, config->model.hidden_size);
    override_size(&m->n_heads, config->model.n_heads);
    if (rewidened && m->n_heads > 0) {
        m->head_dim = m->hidden_size / m->n_heads;
        m->intermediate_size = ratio * m->hidden_size;
        m->n_kv_heads = groups > 0 && m->n_heads % groups == 0 ? m->n_heads / groups : m->n_heads;
    }
    override_size(&m->n_kv_heads, config->model.n_kv_heads);
    override_size(&m->intermediate_size, config->model.intermediate_size);
}

/* Keys that say nothing about this family: to take them in silence would be to mislead. */
static ds_status refuse_without_effect(const ds_train_config *config, ds_architecture a) {
    const bool is_llama = a == DS_LLAMA || a == DS_MOE;
    const struct {
        const char *key;
        bool is_idle;
        const char *why;
    } rules[] = {
        {"n_experts", a != DS_MOE && config->model.n_experts > 1,
         "has no experts; set model.architecture to moe"},
        {"experts_per_token", a != DS_MOE && config->model.experts_per_token > 1,
         "has no experts; set model.architecture to moe"},
        {"rope_theta", !is_llama && config->model.rope_theta > 0,
         "learns its positions and rotates nothing; accepted with llama and moe"},
        {"tie_embeddings", a == DS_BERT && config->model.tie_embeddings == 0,
         "always shares them; set it to auto"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].is_idle)
            return ds_fail(DS_INVALID, "%s: a %s model %s", rules[i].key, ds_architecture_name(a),
                           rules[i].why);
    return DS_OK;
}

static ds_status apply_overrides(const ds_train_config *config, ds_model_config *m) {
    if (config->model.architecture != DS_TRAIN_ARCHITECTURE_AUTO)
        m->architecture = architecture_of(config->model.architecture);
    DS_TRY(refuse_without_effect(config, m->architecture));
    const bool is_llama = m->architecture == DS_LLAMA || m->architecture == DS_MOE;
    if (is_llama && m->rope_theta == 0)
        m->rope_theta = 10000;
    if (m->architecture == DS_BERT && m->type_vocab_size == 0)
        m->type_vocab_size = 2;
    override_widths(config, m);
    override_size(&m->n_layers, config->model.n_layers);
    override_size(&m->vocab_size, config->model.vocab_size);
    override_size(&m->max_seq_len, config->model.max_seq_len);
    override_size(&m->n_experts, config->model.n_experts);
    override_size(&m->experts_per_token, config->model.experts_per_token);
    if (m->architecture == DS_MOE && m->n_experts == 0)
        m->n_experts = 8; /* Mixtral's, as is the choice of two */
    if (m->architecture == DS_MOE && m->experts_per_token == 0)
        m->experts_per_token = m->n_experts < 2 ? m->n_experts : 2;
    if (m->architecture == DS_MOE && m->router_loss_weight == 0)
        m->router_loss_weight = 0.01f; /* Fedus et al. 2022 */
    if (config->model.tie_embeddings != DS_TRAIN_AUTO)
        m->tie_embeddings = config->model.tie_embeddings != 0;
    if (config->model.dropout >= 0)
        m->dropout = (float)config->model.dropout;
    if (config->model.rope_theta > 0)
        m->rope_theta = (float)config->model.rope_theta;
    if (config->model.norm_eps > 0)
        m->norm_eps = (float)config->model.norm_eps;
    return ds_model_config_check(m);
}

ds_status ds_train_choose_model(const ds_train_config *config, ds_model_config *out,
                                int64_t *seq_len) {
    const char *preset = config->model.preset ? config->model.preset : "tiny";
    if (ds_folder_exists(preset))
        DS_TRY(ds_model_config_load(preset, out));
    else
        DS_TRY(ds_model_preset(preset, out));
    const ds_status status = apply_overrides(config, out);
    if (status != DS_OK)
        return ds_fail_within(status, "model (%s)", preset);
    *seq_len = config->data.seq_len != DS_TRAIN_AUTO ? config->data.seq_len : out->max_seq_len;
    if (*seq_len > out->max_seq_len)
        return ds_fail(DS_INVALID, "data.seq_len %lld is longer than the model's max_seq_len %lld",
                       (long long)*seq_len, (long long)out->max_seq_len);
    return DS_OK;
}
