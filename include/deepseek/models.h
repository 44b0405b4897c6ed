/* Models: configurations, presets, and the functions that build their graphs.
 *
 *     ds_model_config config;
 *     ds_model_preset("gpt2-124m", &config);
 *     ds_graph *g = ds_graph_new();
 *     ds_model_build_training(g, &config, 4, 1024); // inputs "tokens", "labels"; output "loss"
 *     printf("%lld parameters\n", (long long)ds_model_n_params(&config));
 *     ds_graph_free(g);
 *
 * Parameters bear the names of the family's Hugging Face checkpoints, so loading is a lookup. */
#ifndef DEEPSEEK_MODELS_H
#define DEEPSEEK_MODELS_H

#include "deepseek/compile.h"
#include "deepseek/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ds_architecture {
    DS_GPT2,  /* Radford et al. 2019 */
    DS_LLAMA, /* Touvron et al. 2023: RoPE, RMSNorm, SwiGLU, grouped-query attention */
    DS_BERT,  /* Devlin et al. 2019 */
    DS_MOE,   /* Llama with experts in place of the MLP (Mixtral, Jiang et al. 2024) */
    /* variants of these two, under the names of their checkpoints */
    DS_MISTRAL,     /* sliding window */
    DS_QWEN2,       /* biases of q, k, v */
    DS_QWEN3,       /* q and k normalised head by head */
    DS_QWEN2_MOE,   /* experts, and one that every token goes to, by a gate of its own */
    DS_QWEN3_MOE,   /* Qwen 3 with experts */
    DS_DEEPSEEK_V2, /* latent attention, shared and routed experts (DeepSeek-AI 2024) */
    DS_DEEPSEEK_V3, /* the same, routed by sigmoids (DeepSeek-AI 2024) */
    DS_ARCHITECTURES
} ds_architecture;

/* A layer of experts in place of the MLP; n_experts 0: there are none. */
typedef struct ds_expert_config {
    int64_t n_dense_layers;    /* the first layers keep the MLP */
    int64_t intermediate_size; /* of one expert; 0: the MLP's */
    int64_t n_shared;          /* experts that every token goes to */
    int64_t shared_size;       /* of one of those; 0: as the others */
    bool shared_gate;          /* their result is weighted by a sigmoid of its own */
    bool unnormalised;         /* the weights of the chosen experts need not sum to 1 */
    float scale;               /* of those weights; 0 = 1 */
    bool by_sigmoid;           /* rated by sigmoids and chosen with a bias; else by a softmax */
    int64_t n_groups, groups_per_token; /* experts are chosen from the best groups; 0: no groups */
} ds_expert_config;

/* Multi-head latent attention (DeepSeek-V2); kv_rank 0: plain attention. */
typedef struct ds_latent_config {
    int64_t q_rank, kv_rank; /* of the compressed queries (0: not compressed), keys and values */
    int64_t plain_dim, rotary_dim, v_dim; /* of a head: without and with positions; of values */
} ds_latent_config;

typedef struct ds_model_config {
    ds_architecture architecture;
    int64_t vocab_size;
    int64_t n_layers;
    int64_t hidden_size;
    int64_t n_heads;
    int64_t n_kv_heads; /* = n_heads but for grouped-query attention */
    int64_t head_dim;
    int64_t intermediate_size; /* of the MLP, or of one expert */
    int64_t max_seq_len;
    float norm_eps;
    float rope_theta;
    float dropout;
    bool tie_embeddings;                  /* the projection to the vocabulary is the embedding */
    bool qkv_bias, output_bias, mlp_bias; /* biases of Llama-like layers */
    bool qk_norm;                         /* RMS norm of each head of q and k */
    int64_t sliding_window;               /* tokens seen back, itself included; 0: all */
    ds_rope_scaling rope_scaling;
    float rope_mscale, rope_mscale_all; /* DeepSeek's parameters of YaRN's magnitude */
    ds_latent_config latent;
    int64_t n_experts, experts_per_token;
    ds_expert_config experts;
    float router_loss_weight;     /* of the load-balancing loss */
    int64_t type_vocab_size;      /* BERT: segments */
    int64_t bos_token, eos_token; /* -1: none */
    bool int8_inputs; /* the files' weights are 8 bits for products with inputs of 8 bits */
} ds_model_config;

typedef struct ds_model_preset_info {
    const char *name;
    const char *summary;
    ds_model_config config;
} ds_model_preset_info;

/* DS_NOT_FOUND names the presets there are. */
DS_API ds_status ds_model_preset(const char *name, ds_model_config *out);
/* The i-th preset, NULL past the last; static. */
DS_API const ds_model_preset_info *ds_model_preset_at(size_t i);

/* Hugging Face config.json: a file, or the folder that holds it; or the header of a llama2.c .bin
 * or of a .gguf. Unknown architectures and missing keys are named. */
DS_API ds_status ds_model_config_load(const char *path, ds_model_config *out);
/* The same as text, the caller's to free(); NULL when out of memory. */
DS_API char *ds_model_config_json(const ds_model_config *config);
/* Sizes that do not fit each other are DS_INVALID, e.g. "hidden_size 768 is not a multiple of
 * n_heads 7". */
DS_API ds_status ds_model_config_check(const ds_model_config *config);
DS_API const char *ds_architecture_name(ds_architecture architecture);

/* Reads a trained model's parameters into a state that has them declared (ds_state_declare, or a
 * compiled program). path: a folder with model.safetensors (or its index and shards), such a file,
 * a llama2.c .bin, or a .gguf. f32, bf16 and f16 tensors are read, and the quantised ones of GGUF
 * (Q4_0 to Q8_0, Q2_K to Q6_K); so are the older names that published checkpoints bear, and tied
 * projections under either name. A BERT without heads may be given to a state without their
 * parameters. A tensor missing, left over or of another shape is named, and then the state is as
 * before. */
DS_API ds_status ds_model_load(const char *path, const ds_model_config *config, ds_state *state);

/* Number of trained numbers; 0 if the configuration is invalid. */
DS_API int64_t ds_model_n_params(const ds_model_config *config);
/* Multiply-adds counted as two, forward and backward, per token at this sequence length:
 * 6·(parameters in products) + attention (12·layers·hidden·seq_len, halved where causal). */
DS_API double ds_model_flops_per_token(const ds_model_config *config, int64_t seq_len);

/* Input of BERT's training graph, f32 rank 0: predicted tokens over samples of the whole step,
 * which the sum of next-sentence losses is multiplied by. Their part of the loss over predicted
 * tokens is then a mean over samples, however the step is cut into batches. */
#define DS_TOKENS_PER_SAMPLE "tokens_per_sample"

/* A training graph. Inputs: "tokens", "labels" i32 [batch, seq_len]; labels[t] is the token to
 * predict at place t, -100 for none. BERT also "segment_ids" i32 [batch, seq_len], "lengths" and
 * "next_sentence" i32 [batch], and DS_TOKENS_PER_SAMPLE. Outputs, f32 rank 0: "loss", the sum over
 * all predicted tokens, for BERT with its next-sentence part; for BERT also "next_sentence_loss",
 * the sum over samples. */
DS_API void ds_model_build_training(ds_graph *g, const ds_model_config *config, int64_t batch,
                                    int64_t seq_len);

/* How documents that were packed into one sample are told apart. */
typedef struct ds_packing {
    bool reset_positions; /* adds the input "positions" i32 [batch, seq_len]; else 0, 1, 2, … */
    bool mask_documents;  /* adds the input "first_keys" i32 [batch, seq_len]: for each token the
                             place where its document begins, before which it sees nothing */
} ds_packing;

/* The same for packed samples. Decoders only. */
DS_API void ds_model_build_packed(ds_graph *g, const ds_model_config *config, int64_t batch,
                                  int64_t seq_len, ds_packing packing);

/* A graph that gives logits of whole sequences. Inputs as in training, without labels. Output
 * "logits" f32 [batch, seq_len, vocab_size]. */
DS_API void ds_model_build_logits(ds_graph *g, const ds_model_config *config, int64_t batch,
                                  int64_t seq_len);

/* A graph that gives what the last layer makes of whole sequences, for embeddings. Inputs "tokens"
 * i32 [batch, seq_len] and "lengths" i32 [batch]: tokens past them are padding, which no other
 * token sees. Output "hidden" f32 [batch, seq_len, hidden_size]. */
DS_API void ds_model_build_hidden(ds_graph *g, const ds_model_config *config, int64_t batch,
                                  int64_t seq_len);

/* One step of generation with a key-value cache. Inputs: "tokens" i32 [batch, n_tokens], "start"
 * i32 [batch] (tokens already in the cache), "lengths" i32 [batch] (= start + n_tokens),
 * "positions" i32 [batch, n_tokens]. Variables "cache/LAYER/k" and "/v" [batch, capacity,
 * n_kv_heads, head_dim]. Output "logits" f32 [batch, vocab_size] of the last token. Decoders only.
 */
DS_API void ds_model_build_step(ds_graph *g, const ds_model_config *config, int64_t batch,
                                int64_t n_tokens, int64_t capacity);

/* A cache of keys and values in blocks that sequences share (Kwon et al. 2023). */
typedef struct ds_paged_cache {
    int64_t n_blocks, block_size; /* tokens a block holds */
    ds_dtype dtype;               /* a float, or DS_I8: a scale for each token and head */
} ds_paged_cache;

/* One step of many sequences. Inputs, all i32: "tokens", "positions", "owners", "slots" [n_tokens]
 * (as in ds_graph_paged_attention and _write), "tables" [n_sequences, blocks_per_sequence], "rows"
 * [n_rows]: the tokens whose logits are wanted. Variables "paged/LAYER/k" and "/v". Output "logits"
 * f32 [n_rows, vocab_size]. Decoders only. */
DS_API void ds_model_build_paged(ds_graph *g, const ds_model_config *config, int64_t n_tokens,
                                 int64_t n_rows, int64_t n_sequences, int64_t blocks_per_sequence,
                                 const ds_paged_cache *cache);
/* Bytes of one block of such a cache, all layers together. */
DS_API size_t ds_model_block_bytes(const ds_model_config *config, const ds_paged_cache *cache);

#ifdef __cplusplus
}
#endif
#endif
