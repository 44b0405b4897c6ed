/* Making a trainer: model, data, device, programs; everything that can be wrong is found here,
 * before the first step. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "train/model_choice.h"
#include "train/trainer.h"

/* ---- what the configuration means
 * ---------------------------------------------------------------- */

static ds_precision precision_of(const ds_train_config *c) {
    switch (ds_train_config_dtype(c)) {
    case DS_BF16: return DS_PRECISION_BF16;
    case DS_F16: return DS_PRECISION_FP16;
    default: return DS_PRECISION_FULL;
    }
}

/* A warm-up is for long runs: where the number of steps follows from a duration, a tenth at most.
 */
static ds_schedule schedule_of(const ds_train_config *c, int64_t steps) {
    static const ds_schedule_kind kinds[] = {
        [DS_TRAIN_COSINE] = DS_SCHEDULE_COSINE,
        [DS_TRAIN_LINEAR] = DS_SCHEDULE_LINEAR,
        [DS_TRAIN_CONSTANT] = DS_SCHEDULE_CONSTANT,
        [DS_TRAIN_WSD] = DS_SCHEDULE_WSD,
    };
    const bool wsd = c->schedule.name == DS_TRAIN_WSD;
    const int64_t decay = c->schedule.decay_steps;
    const int64_t warmup = c->schedule.warmup_steps;
    const bool is_long = c->training.duration_s == DS_TRAIN_AUTO || warmup <= steps / 10;
    const int64_t wsd_decay = steps < 10 ? 1 : steps / 10; /* Hu et al. 2024 */
    return (ds_schedule){
        .kind = kinds[c->schedule.name],
        .rate = (float)c->optimizer.learning_rate,
        .min_ratio = (float)c->schedule.min_lr_ratio,
        .warmup_steps = is_long ? warmup : steps / 10,
        .total_steps = !wsd && decay != DS_TRAIN_AUTO ? decay : steps,
        .decay_steps = wsd ? (decay != DS_TRAIN_AUTO ? decay : wsd_decay) : 0,
    };
}

void ds_trainer_set_steps(ds_trainer *t, int64_t steps) {
    t->steps = steps;
    t->schedule = schedule_of(t->config, steps);
}

static ds_optimizer_opts optimizer_of(const ds_train_config *c) {
    static const ds_optimizer_kind kinds[] = {
        [DS_TRAIN_ADAMW] = DS_OPTIMIZER_ADAMW, [DS_TRAIN_SGD] = DS_OPTIMIZER_SGD,
        [DS_TRAIN_LION] = DS_OPTIMIZER_LION,   [DS_TRAIN_ADAFACTOR] = DS_OPTIMIZER_ADAFACTOR,
        [DS_TRAIN_MUON] = DS_OPTIMIZER_MUON,
    };
    ds_optimizer_opts o = ds_optimizer_defaults(kinds[c->optimizer.name]);
    o.beta1 = (float)c->optimizer.beta1;
    o.beta2 = (float)c->optimizer.beta2;
    o.eps = (float)c->optimizer.eps;
    o.weight_decay = (float)c->optimizer.weight_decay;
    o.momentum = (float)c->optimizer.momentum;
    return o;
}

static ds_loss_scaler scaler_of(const ds_train_config *c, ds_precision precision) {
    if (precision != DS_PRECISION_FP16)
        return ds_loss_scaler_static(1); /* bf16 and f32 reach far enough */
    if (c->precision.loss_scale > 0)
        return ds_loss_scaler_static((float)c->precision.loss_scale);
    ds_loss_scaler s = ds_loss_scaler_dynamic();
    s.scale = (float)c->precision.initial_loss_scale;
    s.min_scale = (float)c->precision.min_loss_scale;
    s.growth_interval = c->precision.growth_interval;
    s.hysteresis = s.hysteresis_left = c->precision.hysteresis;
    return s;
}

static ds_quantisation quantisation_of(const ds_train_config *c) {
    if (c->quantization.mode == DS_TRAIN_QUANTISATION_NONE)
        return DS_QUANTISE_NONE;
    return c->quantization.activations == DS_I8 ? DS_QUANTISE_W8A8 : DS_QUANTISE_W8A16;
}

static ds_compile_opts compile_opts(const ds_trainer *t) {
    static const ds_recompute recompute[] = {
        [DS_TRAIN_RECOMPUTE_NONE] = DS_RECOMPUTE_NONE,
        [DS_TRAIN_RECOMPUTE_SELECTIVE] = DS_RECOMPUTE_SELECTIVE,
        [DS_TRAIN_RECOMPUTE_FULL] = DS_RECOMPUTE_FULL,
    };
    static const ds_offload offload[] = {
        [DS_TRAIN_OFFLOAD_NONE] = DS_OFFLOAD_NONE,
        [DS_TRAIN_OFFLOAD_HOST] = DS_OFFLOAD_HOST,
        [DS_TRAIN_OFFLOAD_FILE] = DS_OFFLOAD_FILE,
    };
    return (ds_compile_opts){
        .precision = t->precision,
        .loss = "loss",
        .quantisation = quantisation_of(t->config),
        .recompute = recompute[t->config->memory.recompute],
        .offload = offload[t->config->memory.offload],
        .offload_path = t->config->memory.offload_path,
        .no_fused_attention = !t->config->kernels.fused_attention,
        .no_fuse = !t->config->kernels.fuse,
        .plan_only = t->opts.plan_only,
    };
}

/* ---- programs
 * ------------------------------------------------------------------------------------ */

static ds_packing packing_of(const ds_trainer *t) {
    return (ds_packing){.reset_positions = t->config->data.reset_positions,
                        .mask_documents = t->config->data.mask_documents};
}

/* Validation rates the model as it will be used, without dropout. */
static ds_status make_evaluation(ds_trainer *t, const ds_compile_opts *training) {
    ds_model_config plain = t->model;
    plain.dropout = 0;
    ds_graph *g = ds_graph_new();
    if (!g)
        return DS_OUT_OF_MEMORY;
    ds_model_build_packed(g, &plain, t->micro_batch, t->seq_len, packing_of(t));
    const ds_compile_opts forward = {.precision = t->precision,
                                     .share = t->first,
                                     .quantisation = training->quantisation,
                                     .no_fused_attention = training->no_fused_attention,
                                     .no_fuse = training->no_fuse,
                                     .plan_only = training->plan_only};
    const ds_status status = ds_compile(g, t->state, forward, &t->evaluate);
    ds_graph_free(g);
    return status;
}

static ds_status make_programs(ds_trainer *t) {
    ds_graph *g = ds_graph_new(), *update = NULL;
    if (!g)
        return DS_OUT_OF_MEMORY;
    const ds_packing packing = packing_of(t);
    ds_model_build_packed(g, &t->model, t->micro_batch, t->seq_len, packing);
    ds_compile_opts opts = compile_opts(t);
    opts.on_stage = t->opts.on_stage;
    opts.on_plan = t->opts.on_plan;
    opts.context = t->opts.context;
    ds_status status = ds_compile(g, t->state, opts, &t->first);
    opts.on_stage = NULL;
    opts.on_plan = NULL;
    opts.share = t->first;
    if (status == DS_OK && t->max_micro > 1) {
        opts.accumulate = true;
        status = ds_compile(g, t->state, opts, &t->more);
    }
    if (status == DS_OK && t->validation_data)
        status = make_evaluation(t, &opts);
    if (status == DS_OK)
        status = ds_optimizer_graph(t->state, t->optimizer, &update);
    if (status == DS_OK) {
        const ds_compile_opts plain = {.share = t->first, .plan_only = opts.plan_only};
        status = ds_compile(update, t->state, plain, &t->update);
    }
    ds_graph_free(update);
    ds_graph_free(g);
    if (status == DS_OK) {
        t->memory = *ds_program_memory(t->first);
        t->memory.optimizer = ds_state_size(t->state) - t->memory.parameters - t->memory.gradients;
    }
    return status;
}

static ds_status open_device(ds_trainer *t) {
    static const char *const names[] = {[DS_TRAIN_CPU] = "cpu", [DS_TRAIN_REF] = "ref"};
    const int threads = t->config->threads == DS_TRAIN_AUTO ? 0 : t->config->threads;
    DS_TRY(ds_backend_open(names[t->config->device], (ds_backend_opts){threads}, &t->backend));
    return ds_state_new(t->backend, &t->state);
}

/* ---- the run folder
 * ------------------------------------------------------------------------------ */

static ds_status open_folder(ds_trainer *t) {
    const ds_train_config *c = t->config;
    char path[PATH_MAX];
    DS_TRY(ds_folder_make(c->checkpoint.directory));
    snprintf(path, sizeof path, "%s/config.yaml", c->checkpoint.directory);
    char *yaml = ds_train_config_dump_yaml(c);
    if (!yaml)
        return DS_OUT_OF_MEMORY;
    const ds_status status = ds_file_replace(path, yaml, strlen(yaml));
    free(yaml);
    DS_TRY(status);
    snprintf(path, sizeof path, "%s/checkpoints", c->checkpoint.directory);
    DS_TRY(ds_checkpoint_writer_new(path, c->checkpoint.keep_last, c->checkpoint.async,
                                    &t->checkpoints));
    return DS_OK;
}

static ds_status make(ds_trainer *t) {
    DS_TRY(ds_trainer_check_ranks(t));
    DS_TRY(ds_train_choose_model(t->config, &t->model, &t->seq_len));
    DS_TRY(ds_trainer_in_turn(t, ds_trainer_open_data));
    t->precision = precision_of(t->config);
    t->micro_batch = t->config->training.micro_batch;
    t->optimizer = optimizer_of(t->config);
    ds_trainer_set_steps(t, ds_train_config_steps(t->config, t->seq_len));
    t->progress.scaler = scaler_of(t->config, t->precision);
    DS_TRY(ds_trainer_batch_new(t));
    t->flops_per_token = ds_model_flops_per_token(&t->model, t->seq_len);
    DS_TRY(open_device(t));
    DS_TRY(make_programs(t));
    if (t->opts.plan_only)
        return DS_OK;
    DS_TRY(ds_step_batch_new(t, &t->batch));
    DS_TRY(ds_state_init(t->state, (uint64_t)t->config->training.seed));
    if (ds_trainer_rank(t) > 0)
        return ds_trainer_share_progress(t);
    DS_TRY(open_folder(t));
    DS_TRY(ds_trainer_resume(t));
    DS_TRY(ds_trainer_share_progress(t));
    const int64_t next = t->progress.step > 0 ? t->progress.step + 1 : 0;
    return ds_runlog_open(t->config->checkpoint.directory, next, &t->log);
}

static void show_log(ds_log_level level, const char *line, void *context) {
    if (level >= DS_LOG_WARN)
        ds_trainer_note(context, "%s", line);
}

ds_status ds_trainer_new(const ds_train_config *config, ds_trainer_opts opts, ds_trainer **out) {
    ds_trainer *t = ds_calloc(1, sizeof *t);
    if (!t)
        return DS_OUT_OF_MEMORY;
    t->config = config;
    t->opts = opts;
    t->last_loss = t->last_validation_loss = t->last_grad_norm = (double)NAN;
    if (opts.progress_fd >= 0)
        t->display = ds_progress_new(opts.progress_fd, config->training.log_interval);
    if (ds_trainer_rank(t) == 0)
        ds_log_to(show_log, t);
    const ds_status status = make(t);
    if (status != DS_OK) {
        if (opts.comm)
            ds_comm_abort(opts.comm, ds_error());
        ds_trainer_free(t);
        return status;
    }
    *out = t;
    return DS_OK;
}

void ds_trainer_free(ds_trainer *t) {
    if (!t)
        return;
    if (ds_trainer_rank(t) == 0)
        ds_log_to(NULL, NULL);
    ds_gradient_sync_free(t->sync);
    ds_checkpoint_writer_free(t->checkpoints);
    ds_generator_free(t->generator);
    ds_program_free(t->evaluate);
    ds_program_free(t->update);
    ds_program_free(t->more);
    ds_program_free(t->first);
    ds_state_free(t->state);
    ds_backend_close(t->backend);
    ds_loader_close(t->train_data);
    ds_loader_close(t->validation_data);
    ds_tokenizer_free(t->tokenizer);
    ds_step_batch_free(&t->batch);
    ds_trainer_batch_free(t);
    ds_runlog_close(t->log);
    ds_progress_free(t->display);
    free(t);
}

void ds_trainer_print_plan(const ds_trainer *t, FILE *out) {
    const struct {
        const char *what;
        size_t size_bytes;
    } rows[] = {
        {"parameters (f32)", t->memory.parameters},
        {"gradients (f32)", t->memory.gradients},
        {"optimizer state", t->memory.optimizer},
        {"low-precision copies", t->memory.derived},
        {"activations and temporaries", t->memory.working},
        {"offloaded activations", t->memory.host},
        {"inputs", t->memory.inputs},
    };
    char text[32];
    size_t total = 0;
    fprintf(out, "model          %s, %s parameters\n", ds_architecture_name(t->model.architecture),
            ds_format_count(text, sizeof text, (double)t->memory.parameters / sizeof(float)));
    fprintf(out, "run            ");
    if (t->steps < DS_TRAIN_MOST_STEPS)
        fprintf(out, "%lld steps of %d x %lld sequences of %lld tokens", (long long)t->steps,
                t->n_micro, (long long)t->micro_batch, (long long)t->seq_len);
    else
        fprintf(out, "steps of %d x %lld sequences of %lld tokens", t->n_micro,
                (long long)t->micro_batch, (long long)t->seq_len);
    if (t->config->training.duration_s != DS_TRAIN_AUTO)
        fprintf(out, ", as many as %s allow",
                ds_format_duration(text, sizeof text, t->config->training.duration_s));
    fprintf(out, "\n");
    if (t->config->dynamic_batch.enabled)
        fprintf(out, "batch          %d to %d sequences, by the utilisation of the device\n",
                t->config->dynamic_batch.min_batch, t->config->dynamic_batch.max_batch);
    fprintf(
        out, "work           %sFLOP a step\n",
        ds_format_count(text, sizeof text,
                        t->flops_per_token * (double)(t->n_micro * t->micro_batch * t->seq_len)));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fprintf(out, "%-28s %10s\n", rows[i].what,
                ds_format_bytes(text, sizeof text, (double)rows[i].size_bytes));
        total += rows[i].size_bytes;
    }
    fprintf(out, "%-28s %10s\n", "total", ds_format_bytes(text, sizeof text, (double)total));
    if (t->missing_data)
        fprintf(out,
                "data           not checked: %s is missing; `deepseek-tokenize train` makes a "
                "tokenizer of a text, `deepseek-tokenize encode` token files\n",
                t->missing_data);
}
