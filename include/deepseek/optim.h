/* What turns gradients into better parameters: optimizers, learning-rate schedules, loss scaling,
 * and the batch size that follows the device's utilisation.
 *
 *     ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_ADAMW);
 *     ds_schedule schedule = {.kind = DS_SCHEDULE_COSINE, .rate = 3e-4f, .total_steps = 1000};
 *     ds_backend *cpu;  ds_state *state;  ds_graph *g;  ds_program *update;
 *     ds_backend_open("cpu", (ds_backend_opts){0}, &cpu);
 *     ds_state_new(cpu, &state); // a training program has put "weight" and "grad/weight" there
 *     ds_optimizer_graph(state, opts, &g);
 *     ds_compile(g, state, (ds_compile_opts){0}, &update);
 *     float lr = ds_schedule_rate(&schedule, 0), norm;
 *     ds_program_write(update, "lr", &lr, sizeof lr); // and grad_scale, grad_clip, step
 *     ds_program_run(update);
 *     ds_program_read(update, "grad_norm", &norm, sizeof norm); // not finite: nothing was changed
 *
 * The structs here hold numbers only: a checkpoint stores them as they are. */
#ifndef DEEPSEEK_OPTIM_H
#define DEEPSEEK_OPTIM_H

#include "deepseek/compile.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ds_optimizer_kind {
    DS_OPTIMIZER_ADAMW,
    DS_OPTIMIZER_SGD,
    DS_OPTIMIZER_LION,
    DS_OPTIMIZER_ADAFACTOR,
    DS_OPTIMIZER_MUON,
    DS_OPTIMIZER_KINDS
} ds_optimizer_kind;

/* ---- learning-rate schedules ----------------------------------------------------------------- */

typedef enum ds_schedule_kind {
    DS_SCHEDULE_CONSTANT, /* rate */
    DS_SCHEDULE_LINEAR,   /* straight down to min_ratio · rate at total_steps */
    DS_SCHEDULE_COSINE,   /* half a cosine down to it (Loshchilov & Hutter 2017) */
    DS_SCHEDULE_WSD,      /* warm-up, stable, decay (Hu et al. 2024, MiniCPM): rate until the last
                             decay_steps, then straight down */
} ds_schedule_kind;

typedef struct ds_schedule {
    ds_schedule_kind kind;
    float rate;           /* after warm-up */
    float min_ratio;      /* of rate, at the end */
    int64_t warmup_steps; /* linear rise */
    int64_t total_steps;  /* at which the end is reached */
    int64_t decay_steps;  /* wsd: length of the decay */
} ds_schedule;

/* The learning rate of the step that follows `step` finished ones (0 for the first).
 *     t < warmup_steps = W:  rate · (t + 1) / W
 *     later:                 rate · (min_ratio + (1 − min_ratio) · f(u)),  u clamped to 0 … 1
 *     linear  f = 1 − u               u = (t − W) / (total_steps − W)
 *     cosine  f = (1 + cos(π u)) / 2  u as in linear
 *     wsd     f = 1 − u               u = (t − S) / (total_steps − S), S = total_steps −
 * decay_steps (no earlier than W) constant: f = 1 */
DS_API float ds_schedule_rate(const ds_schedule *s, int64_t step);

/* By how much to multiply a learning rate chosen for base_batch samples when a step has batch
 * samples: batch / base_batch for SGD (Goyal et al. 2017), its square root for the others, whose
 * updates do not grow with the gradient (Malladi et al. 2022). 1 when an argument is below 1. */
DS_API float ds_batch_rate_factor(ds_optimizer_kind kind, int64_t base_batch, int64_t batch);

/* ---- loss scaling ---------------------------------------------------------------------------- */

/* fp16 gradients underflow; the loss is multiplied by `scale` before the backward pass and the
 * gradients are divided by it after (Micikevicius et al. 2018). The dynamic rule is that of
 * Megatron-LM and DeepSpeed: the first hysteresis − 1 overflows since the last growth are forgiven,
 * every further one halves the scale; growth_interval clean steps in a row double it. */
typedef struct ds_loss_scaler {
    float scale;
    bool is_dynamic;     /* else the scale stays; steps that overflow are skipped all the same */
    float min_scale;     /* it never falls below */
    float max_scale;     /* nor rises above */
    int growth_interval; /* clean steps before it doubles */
    int hysteresis; /* the so many-th overflow since the last growth is the first to halve it */
    int hysteresis_left;   /* starts equal to hysteresis */
    int64_t clean_steps;   /* since the last overflow or growth */
    int64_t total_steps;   /* updates in all */
    int64_t skipped_steps; /* of which overflowed */
    int64_t stuck_steps;   /* overflows in a row with the scale already at its minimum */
} ds_loss_scaler;

/* 2^16, growth after 1000 clean steps, hysteresis 2, minimum 1, maximum 2^32. */
DS_API ds_loss_scaler ds_loss_scaler_dynamic(void);
DS_API ds_loss_scaler ds_loss_scaler_static(float scale);
/* Once per step. found_inf: the gradients (on any rank) held an Inf or NaN. Returns true when this
 * step is to be skipped, which is found_inf. */
DS_API bool ds_loss_scaler_update(ds_loss_scaler *s, bool found_inf);
/* True while the last step overflowed though the scale could not be lowered any more: the fault
 * lies in the model or the data, not in the scale. */
DS_API bool ds_loss_scaler_is_stuck(const ds_loss_scaler *s);

/* ---- optimizers ------------------------------------------------------------------------------ */

typedef struct ds_optimizer_opts {
    ds_optimizer_kind kind;
    float beta1, beta2;  /* adamw, lion, muon's AdamW part */
    float eps;           /* adamw, muon's AdamW part */
    float weight_decay;  /* of parameters without init.no_decay; decoupled, but for sgd, where it is
                            added to the gradient as torch.optim.SGD does */
    float momentum;      /* sgd, muon */
    float adamw_ratio;   /* muon: learning rate of the AdamW part relative to "lr" */
    ds_dtype muon_dtype; /* of the Newton–Schulz products: DS_F32 (the default), or DS_BF16 as in
                            the original: rougher, twice as fast where bf16 is */
    /* muon: whether a parameter is a hidden matrix. NULL: ds_optimizer_is_hidden. */
    bool (*is_hidden)(const char *name, int rank, void *context);
    void *context;
} ds_optimizer_opts;

/* The published defaults.
 *   adamw      betas 0.9 0.999, eps 1e-8, decay 0.01 (Loshchilov & Hutter 2019, torch.optim.AdamW)
 *   sgd        momentum 0.9
 *   lion       betas 0.9 0.99 (Chen et al. 2023)
 *   adafactor  of Shazeer & Stern 2018, Algorithms 4 and 5, relative step off: eps 1e-30 and 1e-3,
 *              clipping threshold 1, decay 1 − t^−0.8, no first moment; "lr" is the relative step:
 *              the step is lr · max(1e-3, RMS(parameter))
 *   muon       of Jordan et al. 2024: momentum 0.95 (Nesterov), five Newton–Schulz steps, update
 *              times sqrt(max(1, rows / columns)); AdamW (betas 0.9 0.95, eps 1e-10) at
 *              0.015 · lr for embeddings, heads and everything that is no matrix */
DS_API ds_optimizer_opts ds_optimizer_defaults(ds_optimizer_kind kind);

/* "adamw", … static. */
DS_API const char *ds_optimizer_name(ds_optimizer_kind kind);

/* Adds to g the update of n parameters of g, which are changed in place by each run.
 *   inputs (f32, rank 0):  "lr"; "step", 1 for the first; "grad_scale", 1 / loss scale;
 *                          "grad_clip", the largest global norm, 0 = no clipping
 *   variables (f32):       "grad/NAME", read only, and the optimizer's state: "adam_m/NAME",
 *                          "adam_v/NAME"; "momentum/NAME" (sgd, muon); "lion_m/NAME";
 *                          "adafactor_row/NAME" and "adafactor_column/NAME", or
 *                          "adafactor_v/NAME" for vectors
 *   outputs:               "grad_norm", f32 rank 0: global L2 norm after grad_scale, before
 *                          clipping. When it is not finite the run has changed nothing.
 *                          "step", as it was written
 * Parameters without elements are left out.
 * Compile it with full precision. Errors are the graph's. */
DS_API void ds_optimizer_build(ds_graph *g, ds_node *const *params, int n, ds_optimizer_opts opts);

/* A new graph that updates every parameter of the state whose gradient the state holds too (the
 * training program is compiled first). The caller frees it. DS_NOT_FOUND when there is none. */
DS_API ds_status ds_optimizer_graph(const ds_state *state, ds_optimizer_opts opts, ds_graph **out);

/* "grad/NAME" into out, cut off at size bytes. Returns out. */
DS_API const char *ds_gradient_name(const char *param_name, char *out, size_t size);

/* True for matrices (rank 2 and more) that are neither embeddings nor heads, by the names that the
 * Hugging Face models use. context is not looked at. */
DS_API bool ds_optimizer_is_hidden(const char *name, int rank, void *context);

/* ---- batch size after utilisation ------------------------------------------------------------ */

/* Chooses the batch so that device utilisation stays near utilization_threshold: within ± 0.05 of
 * it, which is 75–85 % for 0.8.
 *
 * The rule. Utilisation is smoothed (a fifth of each new value). Below the band, the batch grows by
 * a constant factor per step, such that min_batch … max_batch takes ramp_up_steps; above the band
 * it shrinks by four such factors per step. Growing or shrinking goes on until the threshold itself
 * is crossed; then the batch rests until utilisation leaves the band again (hysteresis). */
typedef struct ds_dynamic_batch_scheduler {
    int min_batch, max_batch;
    float utilization_threshold;
    int ramp_up_steps;
    int multiple;    /* batches are multiples of it where min_batch … max_batch holds one; 1 */
    double level;    /* 0 at min_batch … ramp_up_steps at max_batch */
    double smoothed; /* utilisation; below 0 before the first step */
    int direction;   /* 1 growing, −1 shrinking, 0 at rest */
} ds_dynamic_batch_scheduler;

/* Starts at min_batch. DS_INVALID unless 1 ≤ min_batch ≤ max_batch, 0 < utilization_threshold < 1
 * and ramp_up_steps ≥ 0 (0: the whole way in one step). */
DS_API ds_status ds_dynamic_batch_scheduler_init(ds_dynamic_batch_scheduler *s, int min_batch,
                                                 int max_batch, float utilization_threshold,
                                                 int ramp_up_steps);
/* utilization: 0 … 1 since the last call; a NaN is passed over. Returns the batch to use next. */
DS_API int ds_dynamic_batch_scheduler_step(ds_dynamic_batch_scheduler *s, float utilization);
/* The present batch. */
DS_API int ds_dynamic_batch_scheduler_batch(const ds_dynamic_batch_scheduler *s);

#ifdef __cplusplus
}
#endif
#endif
