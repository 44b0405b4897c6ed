/* Presets, and what makes a configuration sound. */
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "deepseek/models.h"

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

static ds_status check_experts(const ds_model_config *c) {
    if (c->n_experts < 1 || c->n_experts > MAX_EXPERTS)
        return ds_fail(DS_INVALID, "n_experts %lld is not in 1 … %d", (long long)c->n_experts,
                       MAX_EXPERTS);
    if (c->experts_per_token < 1 || c->experts_per_token > c->n_experts)
        return ds_fail(DS_INVALID, "experts_per_token %lld is not in 1 … n_experts %lld",
                       (long long)c->experts_per_token, (long long)c->n_experts);
    if (c->intermediate_size * c->hidden_size > MAX_EXPERT_TENSOR / c->n_experts)
        return ds_fail(DS_INVALID, "%lld experts of %lld x %lld are too large",
                       (long long)c->n_experts, (long long)c->intermediate_size,
                       (long long)c->hidden_size);
    return DS_OK;
}

ds_status ds_model_config_check(const ds_model_config *c) {
    if ((unsigned)c->architecture >= DS_ARCHITECTURES)
        return ds_fail(DS_INVALID, "unknown architecture %d", (int)c->architecture);
    DS_TRY(check_sizes(c));
    if (c->n_heads % c->n_kv_heads != 0)
        return ds_fail(DS_INVALID, "n_heads %lld is not a multiple of n_kv_heads %lld",
                       (long long)c->n_heads, (long long)c->n_kv_heads);
    const bool is_llama = c->architecture == DS_LLAMA || c->architecture == DS_MOE;
    if (!is_llama && c->n_heads * c->head_dim != c->hidden_size)
        return ds_fail(DS_INVALID, "hidden_size %lld is not a multiple of n_heads %lld",
                       (long long)c->hidden_size, (long long)c->n_heads);
    if (!is_llama && c->n_kv_heads != c->n_heads)
        return ds_fail(DS_INVALID, "%s has no grouped-query attention: n_kv_heads must be n_heads",
                       ds_architecture_name(c->architecture));
    if (is_llama && c->head_dim % 2 != 0)
        return ds_fail(DS_INVALID, "head_dim %lld must be even for rotary positions",
                       (long long)c->head_dim);
    if (c->architecture == DS_MOE)
        DS_TRY(check_experts(c));
    if (c->architecture == DS_BERT && (c->type_vocab_size < 1 || c->type_vocab_size > MAX_WIDTH))
        return ds_fail(DS_INVALID, "type_vocab_size %lld is not in 1 … %d",
                       (long long)c->type_vocab_size, MAX_WIDTH);
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return ds_fail(DS_INVALID, "norm_eps %g is not in (0, 1)", (double)c->norm_eps);
    if (is_llama && !(c->rope_theta > 0))
        return ds_fail(DS_INVALID, "rope_theta %g is not above 0", (double)c->rope_theta);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return ds_fail(DS_INVALID, "dropout %g is not in [0, 1)", (double)c->dropout);
    return DS_OK;
}
