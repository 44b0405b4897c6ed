/* The configuration of a training run: what `deepseek-train --config FILE` reads.
 *
 *     ds_train_config config;
 *     const char *overrides[] = {"optimizer.learning_rate=1e-3", "training.steps=200"};
 *     if (ds_train_config_load("configs/demo.yaml", overrides, 2, &config) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     printf("%lld steps\n", (long long)ds_train_config_steps(&config, 256));
 *     ds_train_config_free(&config);
 *
 * Every key is described in docs/config.md, which is made from the same table. */
#ifndef DEEPSEEK_CONFIG_H
#define DEEPSEEK_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"
#include "deepseek/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "from the preset" or "decided later" in fields of which docs/config.md says `auto`. */
enum { DS_TRAIN_AUTO = -1 };
#define DS_TRAIN_MOST_STEPS INT64_C(1000000000000000) /* no run has more */

typedef enum ds_train_quantisation {
    DS_TRAIN_QUANTISATION_NONE,
    DS_TRAIN_QAT
} ds_train_quantisation;

typedef enum ds_train_architecture {
    DS_TRAIN_ARCHITECTURE_AUTO = DS_TRAIN_AUTO,
    DS_TRAIN_GPT2,
    DS_TRAIN_LLAMA,
    DS_TRAIN_BERT,
    DS_TRAIN_MOE,
} ds_train_architecture;

typedef enum ds_train_task { DS_TRAIN_CAUSAL_LM, DS_TRAIN_MASKED_LM } ds_train_task;
typedef enum ds_train_precision_mode { DS_TRAIN_MIXED, DS_TRAIN_FULL } ds_train_precision_mode;
typedef enum ds_train_optimizer {
    DS_TRAIN_ADAMW,
    DS_TRAIN_SGD,
    DS_TRAIN_LION,
    DS_TRAIN_ADAFACTOR,
    DS_TRAIN_MUON,
} ds_train_optimizer;
typedef enum ds_train_schedule {
    DS_TRAIN_COSINE,
    DS_TRAIN_LINEAR,
    DS_TRAIN_CONSTANT,
    DS_TRAIN_WSD,
} ds_train_schedule;
typedef enum ds_train_nan_policy {
    DS_TRAIN_NAN_STOP,
    DS_TRAIN_NAN_SKIP,
    DS_TRAIN_NAN_REWIND,
} ds_train_nan_policy;
typedef enum ds_train_recompute {
    DS_TRAIN_RECOMPUTE_NONE,
    DS_TRAIN_RECOMPUTE_SELECTIVE,
    DS_TRAIN_RECOMPUTE_FULL,
} ds_train_recompute;
typedef enum ds_train_offload {
    DS_TRAIN_OFFLOAD_NONE,
    DS_TRAIN_OFFLOAD_HOST,
    DS_TRAIN_OFFLOAD_FILE,
} ds_train_offload;
typedef enum ds_train_measure {
    DS_TRAIN_MEASURE_GRADIENTS,
    DS_TRAIN_MEASURE_BUSY,
    DS_TRAIN_MEASURE_PEAK,
} ds_train_measure;
typedef enum ds_train_device { DS_TRAIN_CPU, DS_TRAIN_REF } ds_train_device;

/* One corpus of a mixture. */
typedef struct ds_train_source {
    char *path;
    double weight; /* share of the samples, relative to the other sources */
} ds_train_source;

/* Fields say `auto` by DS_TRAIN_AUTO, texts that were not given are NULL. Owned texts and lists are
 * released by ds_train_config_free. */
typedef struct ds_train_config {
    struct {
        char *preset;                       /* a preset's name, or a folder with config.json */
        ds_train_architecture architecture; /* auto: the preset's; so with all below */
        int n_layers, hidden_size, n_heads, n_kv_heads, intermediate_size, vocab_size, max_seq_len;
        double dropout;
        int tie_embeddings; /* 0, 1 or auto */
        double rope_theta, norm_eps;
        int n_experts, experts_per_token;
    } model;
    struct {
        struct {
            ds_train_source *items;
            size_t n;
        } train;
        char *validation;           /* NULL: a share of the training data */
        double validation_fraction; /* of the training data, where validation is NULL */
        int seq_len;                /* tokens; auto: the model's max_seq_len */
        char *tokenizer;            /* NULL: tokenizer.json beside the training data */
        int64_t seed;
        ds_train_task task;
        double mask_probability; /* of masked_lm */
        bool shuffle;
        bool reset_positions, mask_documents; /* of documents packed into one sample */
    } data;
    struct {
        ds_train_precision_mode mode;
        bool fp16, bf16;   /* at most one; neither in mode full */
        double loss_scale; /* auto: dynamic */
        double initial_loss_scale, min_loss_scale;
        int growth_interval, hysteresis; /* steps */
    } precision;
    struct {
        ds_train_optimizer name;
        double learning_rate, beta1, beta2, eps, weight_decay, momentum;
        double grad_clip; /* global L2 norm; 0: no clipping */
    } optimizer;
    struct {
        ds_train_schedule name;
        int64_t warmup_steps;
        int64_t decay_steps; /* auto: up to the last step; wsd: the last tenth */
        double min_lr_ratio; /* of the learning rate at the end */
    } schedule;
    struct {
        int64_t steps;     /* auto: given by tokens */
        int64_t tokens;    /* auto: given by steps; where both are given the first reached ends */
        double duration_s; /* auto: however long it takes; else as many steps as fit, at most those
                              given by steps and tokens */
        int micro_batch, gradient_accumulation_steps;
        int64_t global_batch; /* = micro_batch * gradient_accumulation_steps * ranks */
        int64_t seed;
        int64_t eval_interval, sample_interval; /* steps; 0: at the end only */
        int eval_batches, sample_tokens;
        char *sample_prompt;
        int64_t log_interval;
        ds_train_nan_policy nan_policy;
    } training;
    struct {
        bool enabled;
        int min_batch, max_batch; /* samples */
        double utilization_threshold;
        int ramp_up_steps;
        ds_train_measure measure;
        bool scale_learning_rate;
        char *replay; /* the folder of another run; NULL: utilisation is measured */
    } dynamic_batch;
    struct {
        ds_train_recompute recompute;
        ds_train_offload offload;
        char *offload_path;
    } memory;
    struct {
        ds_train_quantisation mode;
        ds_dtype dtype;       /* of the weights: DS_I8 */
        ds_dtype activations; /* DS_I8, or DS_F32: as precision has them */
    } quantization;
    struct {
        bool fused_attention, fuse;
    } kernels;
    struct {
        char *directory;  /* the run folder */
        int64_t interval; /* steps; 0: at the end only */
        int keep_last;    /* checkpoints; 0: all */
        bool async;
        char *resume;      /* "auto", "never" or a checkpoint's folder */
        double deadline_s; /* for the checkpoint after SIGTERM */
    } checkpoint;
    struct {
        bool enabled;
        int max_restarts;
        double backoff_s, max_backoff_s;
    } supervise;
    ds_train_device device;
    int threads; /* auto: all cores that the process may use */
} ds_train_config;

/* The defaults of docs/config.md, not resolved: batch sizes may be auto. */
DS_API ds_status ds_train_config_default(ds_train_config *out);

/* Reads the file (NULL: defaults only), then n overrides `key.path=value`, checks that all values
 * fit each other, and resolves batch sizes for one rank. Messages begin with `file:line:column: `
 * or `command line: `. On failure *out owns nothing. */
DS_API ds_status ds_train_config_load(const char *path, const char *const *overrides, size_t n,
                                      ds_train_config *out);

/* As ds_train_config_load, for data_parallel_size ranks that share each global batch. */
DS_API ds_status ds_train_config_load_ranks(const char *path, const char *const *overrides,
                                            size_t n, int data_parallel_size, ds_train_config *out);

/* As ds_train_config_load, from size bytes of YAML in memory; name stands for the file in messages.
 * `include` is refused. */
DS_API ds_status ds_train_config_parse(const char *name, const char *yaml, size_t size,
                                       const char *const *overrides, size_t n,
                                       ds_train_config *out);

DS_API void ds_train_config_free(ds_train_config *config);

/* Optimizer steps of the run when a sample has seq_len tokens. */
DS_API int64_t ds_train_config_steps(const ds_train_config *config, int64_t seq_len);

/* The element type of matrix products and activations: DS_BF16, DS_F16 or DS_F32. */
DS_API ds_dtype ds_train_config_dtype(const ds_train_config *config);

/* Whether both hold the same values; *difference (may be NULL) names the first key that differs. */
DS_API bool ds_train_config_equal(const ds_train_config *a, const ds_train_config *b,
                                  const char **difference);

/* The configuration as YAML, complete: reading it gives an equal one. The texts below are the
 * caller's to free(); NULL when out of memory. */
DS_API char *ds_train_config_dump_yaml(const ds_train_config *config);
DS_API char *ds_train_config_help(void);          /* for a terminal */
DS_API char *ds_train_config_schema(void);        /* JSON schema, draft 2020-12 */
DS_API char *ds_train_config_docs_markdown(void); /* docs/config.md */

#ifdef __cplusplus
}
#endif
#endif
