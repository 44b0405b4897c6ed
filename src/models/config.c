/* Presets, and what makes a configuration sound. */
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "graph/ops/ops.h"
#include "models/family.h"

#define GPT2(V, L, H, A, S)                                                                        \
    .architecture = DS_GPT2, .vocab_size = (V), .n_layers = (L), .hidden_size = (H),               \
    .n_heads = (A), .n_kv_heads = (A), .head_dim = (H) / (A), .intermediate_size = 4 * (H),        \
    .max_seq_len = (S), .norm_eps = 1e-5f, .tie_embeddings = true, .bos_token = -1,                \
    .eos_token = -1
#define LLAMA_SHAPE(V, L, H, A, KV, I, S)                                                          \
    .vocab_size = (V), .n_layers = (L), .hidden_size = (H), .n_heads = (A), .n_kv_heads = (KV),    \
    .head_dim = (H) / (A), .intermediate_size = (I), .max_seq_len = (S), .norm_eps = 1e-5f,        \
    .rope_theta = 10000, .bos_token = -1, .eos_token = -1
#define LLAMA(...) .architecture = DS_LLAMA, LLAMA_SHAPE(__VA_ARGS__)
/* experts, of which K work for each token; the weight of their balance is Mixtral's */
#define MOE(E, K, ...)                                                                             \
    .architecture = DS_MOE, .n_experts = (E), .experts_per_token = (K),                            \
    .router_loss_weight = 0.02f, LLAMA_SHAPE(__VA_ARGS__)

static const ds_model_preset_info presets[] = {
    {"tiny", "GPT-2 shape for tests and first tries", {GPT2(2048, 4, 128, 4, 256)}},
    {"demo", "GPT-2 shape that learns a book on a CPU in minutes", {GPT2(8192, 6, 320, 5, 256)}},
    {"gpt2-124m", "GPT-2 small (Radford et al. 2019)", {GPT2(50257, 12, 768, 12, 1024)}},
    {"gpt2-1.5b", "GPT-2 XL (Radford et al. 2019)", {GPT2(50257, 48, 1600, 25, 1024)}},
    {"llama-1b",
     "the shape of TinyLlama 1.1B (Zhang et al. 2024)",
     {LLAMA(32000, 22, 2048, 32, 4, 5632, 2048)}},
    {"moe-tiny",
     "Mixtral shape for tests and first tries: 8 experts, 2 a token (Jiang et al. 2024)",
     {MOE(8, 2, 2048, 4, 128, 4, 2, 256, 256)}},
    {"bert-large",
     "BERT large, uncased (Devlin et al. 2019)",
     {.architecture = DS_BERT,
      .vocab_size = 30522,
      .n_layers = 24,
      .hidden_size = 1024,
      .n_heads = 16,
      .n_kv_heads = 16,
      .head_dim = 64,
      .intermediate_size = 4096,
      .max_seq_len = 512,
      .norm_eps = 1e-12f,
      .tie_embeddings = true,
      .type_vocab_size = 2,
      .bos_token = -1,
      .eos_token = -1}},
    {"deepseek-67b",
     "the shape of DeepSeek LLM 67B (DeepSeek-AI 2024)",
     {LLAMA(102400, 95, 8192, 64, 8, 22016, 4096)}},
    {"deepseek-175b",
     "the shape of GPT-3 175B (Brown et al. 2020)",
     {GPT2(50257, 96, 12288, 96, 2048)}},
};

enum { N_PRESETS = sizeof presets / sizeof *presets };

const ds_model_preset_info *ds_model_preset_at(size_t i) {
    return i < N_PRESETS ? &presets[i] : NULL;
}

ds_status ds_model_preset(const char *name, ds_model_config *out) {
    ds_text known = {0};
    for (size_t i = 0; i < N_PRESETS; i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *out = presets[i].config;
            ds_text_clear(&known);
            return DS_OK;
        }
        ds_text_printf(&known, "%s%s", i ? ", " : "", presets[i].name);
    }
    const ds_status status = ds_fail(DS_NOT_FOUND, "there is no model preset \"%s\"; there are: %s",
                                     name, known.data ? known.data : "");
    ds_text_clear(&known);
    return status;
}

/* Far above any model there is, and low enough that no product of sizes overflows: the numbers come
 * from files. */
enum { MAX_LAYERS = 4096, MAX_EXPERTS = 4096, MAX_WIDTH = 1 << 22 };
static const int64_t MAX_EXPERT_TENSOR = INT64_C(1) << 46;

static ds_status check_sizes(const ds_model_config *c) {
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {
        {"vocab_size", c->vocab_size, INT32_MAX},
        {"n_layers", c->n_layers, MAX_LAYERS},
        {"hidden_size", c->hidden_size, MAX_WIDTH},
        {"n_heads", c->n_heads, MAX_WIDTH},
        {"n_kv_heads", c->n_kv_heads, MAX_WIDTH},
        {"head_dim", c->head_dim, MAX_WIDTH},
        {"max_seq_len", c->max_seq_len, INT32_MAX},
        {"intermediate_size", c->intermediate_size, MAX_WIDTH},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return ds_fail(DS_INVALID, "%s is %lld, not in 1 … %lld", sizes[i].name,
                           (long long)sizes[i].value, (long long)sizes[i].most);
    if (c->n_heads * c->head_dim > MAX_WIDTH)
        return ds_fail(DS_INVALID, "n_heads %lld times head_dim %lld is more than %d",
                       (long long)c->n_heads, (long long)c->head_dim, MAX_WIDTH);
    return DS_OK;
}

/* Groups are whole, large enough to be rated, and hold enough experts to choose from. */
static ds_status check_groups(const ds_model_config *c) {
    const ds_expert_config *e = &c->experts;
    if (e->n_groups <= 1 && e->groups_per_token <= 1 && e->n_groups >= 0)
        return DS_OK;
    const int64_t size = e->n_groups > 0 ? c->n_experts / e->n_groups : 0;
    if (size < 1 || c->n_experts % e->n_groups != 0 || (e->by_sigmoid && size < 2))
        return ds_fail(DS_INVALID, "%lld experts do not make %lld groups%s",
                       (long long)c->n_experts, (long long)e->n_groups,
                       e->by_sigmoid ? " of two or more" : "");
    if (e->groups_per_token < 1 || e->groups_per_token > e->n_groups ||
        e->groups_per_token * size < c->experts_per_token)
        return ds_fail(DS_INVALID, "%lld of %lld groups do not hold the %lld experts of a token",
                       (long long)e->groups_per_token, (long long)e->n_groups,
                       (long long)c->experts_per_token);
    return DS_OK;
}

static ds_status check_experts(const ds_model_config *c) {
    if (c->n_experts < 1 || c->n_experts > MAX_EXPERTS)
        return ds_fail(DS_INVALID, "n_experts %lld is not in 1 … %d", (long long)c->n_experts,
                       MAX_EXPERTS);
    if (c->experts_per_token < 1 || c->experts_per_token > c->n_experts)
        return ds_fail(DS_INVALID, "experts_per_token %lld is not in 1 … n_experts %lld",
                       (long long)c->experts_per_token, (long long)c->n_experts);
    const ds_expert_config *e = &c->experts;
    const int64_t inner = ds_model_expert_width(c);
    if (e->intermediate_size < 0 || inner < 1 || inner > MAX_WIDTH || e->n_shared < 0 ||
        e->n_shared > MAX_EXPERTS || e->shared_size < 0 || e->shared_size > MAX_WIDTH ||
        ds_model_shared_width(c) > MAX_WIDTH)
        return ds_fail(DS_INVALID, "experts of %lld and %lld shared ones of %lld are not in 1 … %d",
                       (long long)inner, (long long)e->n_shared, (long long)e->shared_size,
                       MAX_WIDTH);
    if (inner * c->hidden_size > MAX_EXPERT_TENSOR / c->n_experts)
        return ds_fail(DS_INVALID, "%lld experts of %lld x %lld are too large",
                       (long long)c->n_experts, (long long)inner, (long long)c->hidden_size);
    if (e->n_dense_layers < 0 || e->n_dense_layers > c->n_layers)
        return ds_fail(DS_INVALID, "%lld first layers without experts are not in 0 … n_layers %lld",
                       (long long)e->n_dense_layers, (long long)c->n_layers);
    return check_groups(c);
}

/* Latent attention: heads have a part without positions, one with, and values of another size. */
static ds_status check_latent(const ds_model_config *c) {
    const ds_latent_config *l = &c->latent;
    if (l->kv_rank == 0)
        return DS_OK;
    const int64_t sizes[] = {l->kv_rank, l->plain_dim, l->rotary_dim, l->v_dim};
    for (int i = 0; i < 4; i++)
        if (sizes[i] < 1 || sizes[i] > MAX_WIDTH / c->n_heads)
            return ds_fail(DS_INVALID,
                           "latent attention of rank %lld with heads of %lld + %lld and values of "
                           "%lld: each must be in 1 … %lld",
                           (long long)l->kv_rank, (long long)l->plain_dim, (long long)l->rotary_dim,
                           (long long)l->v_dim, (long long)(MAX_WIDTH / c->n_heads));
    if (l->q_rank < 0 || l->q_rank > MAX_WIDTH || l->rotary_dim % 2 != 0)
        return ds_fail(DS_INVALID,
                       "latent attention: a query rank of %lld must be in 0 … %d, %lld rotated "
                       "dimensions must be even",
                       (long long)l->q_rank, MAX_WIDTH, (long long)l->rotary_dim);
    return DS_OK;
}

ds_status ds_model_config_check(const ds_model_config *c) {
    if ((unsigned)c->architecture >= DS_ARCHITECTURES)
        return ds_fail(DS_INVALID, "unknown architecture %d", (int)c->architecture);
    DS_TRY(check_sizes(c));
    if (c->n_heads % c->n_kv_heads != 0)
        return ds_fail(DS_INVALID, "n_heads %lld is not a multiple of n_kv_heads %lld",
                       (long long)c->n_heads, (long long)c->n_kv_heads);
    const bool is_llama = ds_model_is_llama_like(c);
    if (!is_llama && c->n_heads * c->head_dim != c->hidden_size)
        return ds_fail(DS_INVALID, "hidden_size %lld is not a multiple of n_heads %lld",
                       (long long)c->hidden_size, (long long)c->n_heads);
    if (!is_llama && c->n_kv_heads != c->n_heads)
        return ds_fail(DS_INVALID, "%s has no grouped-query attention: n_kv_heads must be n_heads",
                       ds_architecture_name(c->architecture));
    if (is_llama && c->latent.kv_rank == 0 && c->head_dim % 2 != 0)
        return ds_fail(DS_INVALID, "head_dim %lld must be even for rotary positions",
                       (long long)c->head_dim);
    if (c->architecture == DS_MOE || c->n_experts != 0)
        DS_TRY(check_experts(c));
    DS_TRY(check_latent(c));
    if (c->sliding_window < 0)
        return ds_fail(DS_INVALID, "sliding_window %lld is below 0", (long long)c->sliding_window);
    if (c->architecture == DS_BERT && (c->type_vocab_size < 1 || c->type_vocab_size > MAX_WIDTH))
        return ds_fail(DS_INVALID, "type_vocab_size %lld is not in 1 … %d",
                       (long long)c->type_vocab_size, MAX_WIDTH);
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return ds_fail(DS_INVALID, "norm_eps %g is not in (0, 1)", (double)c->norm_eps);
    if (is_llama && !(c->rope_theta > 0))
        return ds_fail(DS_INVALID, "rope_theta %g is not above 0", (double)c->rope_theta);
    if (is_llama)
        DS_TRY(ds_rope_scaling_check(&c->rope_scaling));
    if (!(c->dropout >= 0 && c->dropout < 1))
        return ds_fail(DS_INVALID, "dropout %g is not in [0, 1)", (double)c->dropout);
    return DS_OK;
}
