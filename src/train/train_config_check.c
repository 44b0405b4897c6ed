/* The rules between keys: what follows from what, and what cannot be meant together. Each message
 * points at the key to change and says what would be accepted. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "train/train_config.h"

enum { DEFAULT_MICRO_BATCH = 8, DEFAULT_STEPS = 1000, MAX_RANKS = 1000000 };
static const int64_t MAX_GLOBAL_BATCH = 1000000000000; /* as in the table */

static ds_status check_precision(const ds_config *reader, ds_train_config *c) {
    static const char accepted[] = "accepted: {mode: mixed, bf16: true}, {mode: mixed, fp16: "
                                   "true}, {mode: full} (fp32, neither fp16 nor bf16)";
    const bool mixed = c->precision.mode == DS_TRAIN_MIXED;
    if (!ds_config_given(reader, "precision.bf16"))
        c->precision.bf16 = mixed && !c->precision.fp16;
    const bool fp16 = c->precision.fp16, bf16 = c->precision.bf16;
    if (fp16 && bf16)
        return ds_config_fail(reader, "precision.fp16", "fp16 and bf16 are both true; %s",
                              accepted);
    if (mixed && !fp16 && !bf16)
        return ds_config_fail(reader, "precision.bf16",
                              "mode is mixed, but fp16 and bf16 are both false; %s", accepted);
    if (!mixed && (fp16 || bf16))
        return ds_config_fail(reader, fp16 ? "precision.fp16" : "precision.bf16",
                              "mode is full, but %s is true; %s", fp16 ? "fp16" : "bf16", accepted);
    if (c->precision.loss_scale > 0 && !fp16)
        return ds_config_fail(reader, "precision.loss_scale",
                              "%g has no effect without fp16; accepted with %s: dynamic",
                              c->precision.loss_scale, bf16 ? "bf16" : "fp32");
    if (c->precision.min_loss_scale > c->precision.initial_loss_scale)
        return ds_config_fail(reader, "precision.min_loss_scale",
                              "%g is above initial_loss_scale, %g", c->precision.min_loss_scale,
                              c->precision.initial_loss_scale);
    return DS_OK;
}

/* The rule of DeepSpeed: any two give the third, and three must agree. */
static ds_status check_batch(const ds_config *reader, int64_t ranks, ds_train_config *c) {
    int64_t micro = c->training.micro_batch, accumulation = c->training.gradient_accumulation_steps;
    int64_t global = c->training.global_batch;
    const int64_t none = DS_TRAIN_AUTO;
    if (micro == none && accumulation == none && global != none) {
        accumulation = 1;
    } else if (global == none || (micro == none && accumulation == none)) {
        micro = micro == none ? DEFAULT_MICRO_BATCH : micro;
        accumulation = accumulation == none ? 1 : accumulation;
    }
    const int64_t unit = ranks * (micro != none ? micro : accumulation);
    if (global != none && (micro == none || accumulation == none)) {
        if (global % unit != 0)
            return ds_config_fail(reader, "training.global_batch",
                                  "%" PRId64 " is not a multiple of %s %" PRId64 " x %" PRId64
                                  " ranks; accepted: multiples of %" PRId64,
                                  global,
                                  micro != none ? "micro_batch" : "gradient_accumulation_steps",
                                  unit / ranks, ranks, unit);
        int64_t *third = micro == none ? &micro : &accumulation;
        *third = global / unit;
        if (*third > 1000000)
            return ds_config_fail(
                reader, "training.global_batch",
                "%" PRId64 " would need %s %" PRId64 "; accepted: up to 1000000", global,
                third == &micro ? "micro_batch" : "gradient_accumulation_steps", *third);
    }
    const int64_t product = micro * accumulation * ranks;
    if (product > MAX_GLOBAL_BATCH)
        return ds_config_fail(reader, "training.micro_batch",
                              "global batch of %" PRId64 " samples; accepted: up to %" PRId64,
                              product, MAX_GLOBAL_BATCH);
    if (global != none && global != product)
        return ds_config_fail(reader, "training.global_batch",
                              "%" PRId64 " contradicts micro_batch %" PRId64
                              " x gradient_accumulation_steps %" PRId64 " x %" PRId64
                              " ranks = %" PRId64 "; leave one of the three out, or set it to auto",
                              global, micro, accumulation, ranks, product);
    c->training.micro_batch = (int)micro;
    c->training.gradient_accumulation_steps = (int)accumulation;
    c->training.global_batch = product;
    return DS_OK;
}

static ds_status check_dynamic_batch(const ds_config *reader, const ds_train_config *c) {
    const struct {
        const char *path;
        int value;
    } ends[] = {{"dynamic_batch.min_batch", c->dynamic_batch.min_batch},
                {"dynamic_batch.max_batch", c->dynamic_batch.max_batch}};
    if (!c->dynamic_batch.enabled)
        return DS_OK;
    if (c->dynamic_batch.max_batch < c->dynamic_batch.min_batch)
        return ds_config_fail(reader, ends[1].path, "%d is less than min_batch, %d", ends[1].value,
                              ends[0].value);
    for (int i = 0; i < 2; i++)
        if (ends[i].value % c->training.micro_batch != 0)
            return ds_config_fail(reader,
                                  ds_config_given(reader, ends[i].path) ? ends[i].path
                                                                        : "training.micro_batch",
                                  "%s, %d, is not a multiple of micro_batch, %d", ends[i].path,
                                  ends[i].value, c->training.micro_batch);
    if (c->training.tokens != DS_TRAIN_AUTO)
        return ds_config_fail(reader, "training.tokens",
                              "with dynamic_batch.enabled tokens do not tell the number of steps; "
                              "give training.steps instead");
    if (c->training.duration_s != DS_TRAIN_AUTO)
        return ds_config_fail(reader, "training.duration",
                              "with dynamic_batch.enabled steps do not take the same time; "
                              "give training.steps instead");
    return DS_OK;
}

static ds_status check_preset(const ds_config *reader, const ds_train_config *c) {
    const char *preset = c->model.preset;
    size_t n = 0;
    if (!preset)
        return ds_config_fail(reader, "model.preset", "no value; expected a preset or a folder");
    for (; ds_train_preset_names[n]; n++)
        if (strcmp(ds_train_preset_names[n], preset) == 0)
            return DS_OK;
    if (ds_folder_exists(preset))
        return DS_OK;
    const char *near = ds_nearest_name(preset, ds_train_preset_names, n);
    return ds_config_fail(
        reader, "model.preset",
        "'%.100s' is neither a preset (tiny, demo, gpt2-124m, gpt2-1.5b, "
        "llama-1b, moe-tiny, bert-large, deepseek-67b, deepseek-175b) nor a folder with "
        "config.json%s%s%s",
        preset, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* Where both are given, the first must be a multiple of the second. */
static ds_status check_multiple(const ds_config *reader, const char *path, int a,
                                const char *divisor_name, int b) {
    if (a == DS_TRAIN_AUTO || b == DS_TRAIN_AUTO || a % b == 0)
        return DS_OK;
    return ds_config_fail(reader, path, "%d is not a multiple of %s, %d", a, divisor_name, b);
}

static ds_status check_model(const ds_config *reader, const ds_train_config *c) {
    DS_TRY(check_preset(reader, c));
    DS_TRY(check_multiple(reader, "model.hidden_size", c->model.hidden_size, "n_heads",
                          c->model.n_heads));
    DS_TRY(check_multiple(reader, "model.n_heads", c->model.n_heads, "n_kv_heads",
                          c->model.n_kv_heads));
    const int experts = c->model.n_experts, per_token = c->model.experts_per_token;
    if (experts != DS_TRAIN_AUTO && per_token > experts)
        return ds_config_fail(reader, "model.experts_per_token", "%d of only %d experts", per_token,
                              experts);
    const bool dense = c->model.architecture != DS_TRAIN_ARCHITECTURE_AUTO &&
                       c->model.architecture != DS_TRAIN_MOE;
    if (dense && (experts > 1 || per_token > 1))
        return ds_config_fail(reader, experts > 1 ? "model.n_experts" : "model.experts_per_token",
                              "only architecture moe has experts");
    if (c->data.seq_len != DS_TRAIN_AUTO && c->model.max_seq_len != DS_TRAIN_AUTO &&
        c->data.seq_len > c->model.max_seq_len)
        return ds_config_fail(reader, "data.seq_len", "%d is more than model.max_seq_len, %d",
                              c->data.seq_len, c->model.max_seq_len);
    return DS_OK;
}

static ds_status check_data(const ds_config *reader, ds_train_config *c) {
    const ds_train_architecture architecture = c->model.architecture;
    const bool decoder = architecture == DS_TRAIN_GPT2 || architecture == DS_TRAIN_LLAMA ||
                         architecture == DS_TRAIN_MOE;
    const bool bert = architecture == DS_TRAIN_BERT || strcmp(c->model.preset, "bert-large") == 0;
    if (decoder && c->data.task == DS_TRAIN_MASKED_LM)
        return ds_config_fail(reader, "data.task",
                              "masked_lm needs an encoder; accepted with this model.architecture: "
                              "causal_lm");
    if (bert && !decoder && c->data.task == DS_TRAIN_CAUSAL_LM) {
        if (ds_config_given(reader, "data.task"))
            return ds_config_fail(reader, "data.task",
                                  "causal_lm needs a decoder; accepted with bert: masked_lm");
        c->data.task = DS_TRAIN_MASKED_LM;
    }
    if (c->data.task == DS_TRAIN_MASKED_LM && (c->data.reset_positions || c->data.mask_documents))
        return ds_config_fail(
            reader, c->data.reset_positions ? "data.reset_positions" : "data.mask_documents",
            "samples of masked_lm hold one pair of sentences: no documents are packed");
    if (c->data.validation) {
        /* 0 is what the fraction is resolved to, and must be readable again. */
        if (ds_config_given(reader, "data.validation_fraction") && c->data.validation_fraction > 0)
            return ds_config_fail(reader, "data.validation_fraction",
                                  "data.validation is given too; leave one of them out");
        c->data.validation_fraction = 0;
    }
    return DS_OK;
}

static ds_status check_training(const ds_config *reader, ds_train_config *c) {
    const bool timed = c->training.duration_s != DS_TRAIN_AUTO;
    if (c->training.steps == DS_TRAIN_AUTO && c->training.tokens == DS_TRAIN_AUTO && !timed)
        c->training.steps = DEFAULT_STEPS;
    const int64_t steps = c->training.steps, warmup = c->schedule.warmup_steps;
    const int64_t decay = c->schedule.decay_steps;
    if (decay != DS_TRAIN_AUTO && timed)
        return ds_config_fail(reader, "schedule.decay_steps",
                              "with training.duration the number of steps is not known before; "
                              "leave one of them out");
    if (decay != DS_TRAIN_AUTO && c->schedule.name != DS_TRAIN_WSD && decay < warmup)
        return ds_config_fail(reader, "schedule.decay_steps",
                              "%" PRId64 " ends before warmup_steps, %" PRId64, decay, warmup);
    if (decay != DS_TRAIN_AUTO && c->schedule.name == DS_TRAIN_WSD && steps > warmup &&
        decay > steps - warmup)
        return ds_config_fail(reader, "schedule.decay_steps",
                              "%" PRId64 " is more than the %" PRId64 " steps after warm-up", decay,
                              steps - warmup);
    return DS_OK;
}

static ds_status check_storage(const ds_config *reader, const ds_train_config *c) {
    if (c->memory.offload == DS_TRAIN_OFFLOAD_FILE && !c->memory.offload_path)
        return ds_config_fail(reader, "memory.offload",
                              "file needs memory.offload_path, the folder to write to");
    if (!c->checkpoint.directory || !*c->checkpoint.directory)
        return ds_config_fail(reader, "checkpoint.directory", "no value; expected a folder");
    if (!c->checkpoint.resume || !*c->checkpoint.resume)
        return ds_config_fail(reader, "checkpoint.resume",
                              "no value; expected auto, never or a checkpoint's folder");
    if (c->supervise.backoff_s > c->supervise.max_backoff_s)
        return ds_config_fail(reader, "supervise.backoff", "%gs is more than max_backoff, %gs",
                              c->supervise.backoff_s, c->supervise.max_backoff_s);
    return DS_OK;
}

/* ---- keys without effect --------------------------------------------------------------------- */

static bool uses_momentum(const ds_train_config *c) {
    return c->optimizer.name == DS_TRAIN_SGD || c->optimizer.name == DS_TRAIN_MUON;
}

static bool masks_tokens(const ds_train_config *c) {
    return c->data.task == DS_TRAIN_MASKED_LM;
}

static bool has_dynamic_batch(const ds_train_config *c) {
    return c->dynamic_batch.enabled;
}

static bool offloads_to_file(const ds_train_config *c) {
    return c->memory.offload == DS_TRAIN_OFFLOAD_FILE;
}

static bool is_quantised(const ds_train_config *c) {
    return c->quantization.mode != DS_TRAIN_QUANTISATION_NONE;
}

/* What a key needs another one to be. A switch that is given as off, its default, was turned off
 * for a while: what stands beside it is no mistake. */
static const struct {
    const char *path, *other, *wanted;
    bool (*has_effect)(const ds_train_config *c);
    bool is_switch;
} dependent_keys[] = {
    {"optimizer.momentum", "optimizer.name", "sgd or muon", uses_momentum, false},
    {"data.mask_probability", "data.task", "masked_lm", masks_tokens, false},
    {"dynamic_batch.min_batch", "dynamic_batch.enabled", "true", has_dynamic_batch, true},
    {"dynamic_batch.max_batch", "dynamic_batch.enabled", "true", has_dynamic_batch, true},
    {"dynamic_batch.utilization_threshold", "dynamic_batch.enabled", "true", has_dynamic_batch,
     true},
    {"dynamic_batch.ramp_up_steps", "dynamic_batch.enabled", "true", has_dynamic_batch, true},
    {"dynamic_batch.measure", "dynamic_batch.enabled", "true", has_dynamic_batch, true},
    {"dynamic_batch.scale_learning_rate", "dynamic_batch.enabled", "true", has_dynamic_batch, true},
    {"dynamic_batch.replay", "dynamic_batch.enabled", "true", has_dynamic_batch, true},
    {"memory.offload_path", "memory.offload", "file", offloads_to_file, true},
    {"quantization.dtype", "quantization.mode", "qat", is_quantised, true},
    {"quantization.activations", "quantization.mode", "qat", is_quantised, true},
};

/* A resolved configuration has all keys: a default beside a key that says it is not used is fine.
 */
static ds_status check_effects(const ds_config *reader, const ds_train_config *c) {
    const ds_config_table *table = &ds_train_config_table;
    ds_train_config defaults;
    ds_status status = ds_train_config_default(&defaults);
    const size_t n = sizeof dependent_keys / sizeof *dependent_keys;
    for (size_t i = 0; i < n && status == DS_OK; i++) {
        const char *path = dependent_keys[i].path, *other = dependent_keys[i].other;
        const bool is_meant =
            ds_config_given(reader, other) &&
            (ds_config_equal_key(table, path, c, &defaults) ||
             (dependent_keys[i].is_switch && ds_config_equal_key(table, other, c, &defaults)));
        if (ds_config_given(reader, path) && !dependent_keys[i].has_effect(c) && !is_meant)
            status = ds_config_fail(reader, path, "no effect unless %s is %s", other,
                                    dependent_keys[i].wanted);
    }
    ds_train_config_free(&defaults);
    return status;
}

ds_status ds_train_config_check(const ds_config *reader, int data_parallel_size,
                                ds_train_config *config) {
    if (data_parallel_size < 1 || data_parallel_size > MAX_RANKS)
        return ds_fail(DS_INVALID, "%d data-parallel ranks; accepted: 1 to %d", data_parallel_size,
                       MAX_RANKS);
    DS_TRY(check_precision(reader, config));
    DS_TRY(check_model(reader, config));
    DS_TRY(check_data(reader, config));
    DS_TRY(check_batch(reader, data_parallel_size, config));
    DS_TRY(check_dynamic_batch(reader, config));
    DS_TRY(check_training(reader, config));
    DS_TRY(check_effects(reader, config));
    return check_storage(reader, config);
}
