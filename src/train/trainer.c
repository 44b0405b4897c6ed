/* The training loop. One step: the gradients of all its micro-batches, then one update; the loss is
 * the mean over every predicted token of the step, whichever micro-batch it lies in (and BERT's
 * next-sentence loss, over every sample). */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"
#include "observe/plot.h"
#include "train/trainer.h"

void ds_trainer_note(ds_trainer *t, const char *fmt, ...) {
    char text[8192];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (t->display)
        ds_progress_note(t->display, "%s", text);
}

void ds_trainer_record(ds_trainer *t, const ds_metric *metrics, size_t n) {
    const bool failed = !t->log || ds_runlog_metrics(t->log, t->progress.step, metrics, n) != DS_OK;
    if (failed && !t->is_log_failing)
        ds_trainer_note(t, "the record of the run cannot be written, training goes on: %s",
                        ds_error());
    t->is_log_failing = failed;
}

void ds_trainer_stop(ds_trainer *t) {
    atomic_store(&t->stop, 1);
}

bool ds_trainer_finished(const ds_trainer *t) {
    return t->progress.step >= t->steps;
}

/* ---- one step
 * ------------------------------------------------------------------------------------ */

static int64_t samples_of_step(const ds_trainer *t) {
    return t->n_micro * t->micro_batch * ds_trainer_n_ranks(t);
}

ds_status ds_trainer_gradients(ds_trainer *t, double *loss) {
    const int64_t n = t->batch.n_predicted > 0 ? t->batch.n_predicted : 1;
    const float seed = t->progress.scaler.scale / (float)n;
    const float tokens_per_sample = (float)n / (float)samples_of_step(t);
    const int64_t rank = ds_trainer_rank(t), n_ranks = ds_trainer_n_ranks(t);
    *loss = 0;
    for (int i = 0; i < t->n_micro; i++) {
        ds_program *p = i == 0 ? t->first : t->more;
        float sum = 0;
        DS_TRY(ds_step_batch_write(t, &t->batch, i, tokens_per_sample, p));
        DS_TRY(ds_program_write(p, DS_LOSS_SEED, &seed, sizeof seed));
        DS_TRY(ds_program_seed(p, (int64_t)ds_mix64((uint64_t)t->config->training.seed),
                               t->progress.samples + (i * n_ranks + rank) * t->micro_batch));
        DS_TRY(ds_program_run(p));
        DS_TRY(ds_program_read(p, "loss", &sum, sizeof sum));
        *loss += (double)sum / (double)n;
    }
    return ds_trainer_join_gradients(t, loss);
}

static ds_status update_parameters(ds_trainer *t, float rate, float *norm) {
    const float scale = 1 / t->progress.scaler.scale, clip = (float)t->config->optimizer.grad_clip;
    const float step =
        (float)(t->progress.scaler.total_steps - t->progress.scaler.skipped_steps + 1);
    DS_TRY(ds_program_write(t->update, "lr", &rate, sizeof rate));
    DS_TRY(ds_program_write(t->update, "grad_scale", &scale, sizeof scale));
    DS_TRY(ds_program_write(t->update, "grad_clip", &clip, sizeof clip));
    DS_TRY(ds_program_write(t->update, "step", &step, sizeof step));
    DS_TRY(ds_program_run(t->update));
    return ds_program_read(t->update, "grad_norm", norm, sizeof *norm);
}

static ds_status train_step(ds_trainer *t, float rate, bool *rewound) {
    double loss = 0;
    float norm = 0;
    DS_TRY(ds_step_batch_fill(t, t->train_data, t->n_micro, &t->batch));
    DS_TRY(ds_trainer_join_batch(t));
    const double start = ds_clock_s();
    DS_TRY(ds_trainer_gradients(t, &loss));
    t->adaptive.gradients_s = ds_clock_s() - start;
    DS_TRY(update_parameters(t, rate, &norm));
    t->last_loss = loss;
    t->last_grad_norm = (double)norm;
    t->progress.step++;
    t->progress.samples += samples_of_step(t);
    t->progress.tokens += t->batch.n_predicted;
    t->steps_this_run++;
    const bool overflow = !isfinite(norm) || !isfinite(loss);
    ds_loss_scaler_update(&t->progress.scaler, overflow);
    if (overflow)
        return ds_trainer_handle_not_finite(t, rewound);
    ds_trainer_note_finite(t);
    return DS_OK;
}

/* ---- telling about it
 * ---------------------------------------------------------------------------- */

static double peak_memory(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss * 1024; /* Linux counts KiB */
}

static void report(ds_trainer *t, float rate, double step_s) {
    const double n_ranks = ds_trainer_n_ranks(t);
    const double tokens = (double)(samples_of_step(t) * t->seq_len);
    const double per_s = tokens / step_s;
    t->smoothed_tokens_per_s =
        t->smoothed_tokens_per_s > 0 ? 0.9 * t->smoothed_tokens_per_s + 0.1 * per_s : per_s;
    const double elapsed = ds_clock_s() - t->run_start_s;
    const ds_progress_fields fields = {
        .step = t->progress.step,
        .steps = t->steps,
        .loss = t->last_loss,
        .validation_loss = t->last_validation_loss,
        .learning_rate = (double)rate,
        .grad_norm = t->last_grad_norm,
        .tokens_per_s = t->smoothed_tokens_per_s,
        .flops_per_s = t->smoothed_tokens_per_s * t->flops_per_token,
        .peak_flops_per_s = n_ranks * t->peak_flops_per_s,
        .memory_bytes = peak_memory(),
        .elapsed_s = elapsed,
        .seconds_left = elapsed / (double)t->steps_this_run * (double)(t->steps - t->progress.step),
        .loss_scale =
            t->precision == DS_PRECISION_FP16 ? (double)t->progress.scaler.scale : (double)NAN,
        .skipped_steps = t->progress.scaler.skipped_steps,
    };
    if (t->display)
        ds_progress_update(t->display, &fields);
    const ds_metric metrics[] = {
        {"loss", t->last_loss},
        {"learning_rate", (double)rate},
        {"grad_norm", t->last_grad_norm},
        {"tokens_per_s", per_s},
        {"flops_per_s", per_s * t->flops_per_token},
        {"memory_bytes", fields.memory_bytes},
        {"loss_scale", (double)t->progress.scaler.scale},
        {"skipped_steps", (double)t->progress.scaler.skipped_steps},
        {"rewinds", (double)t->progress.rewinds},
        {"seconds_left", fields.seconds_left},
        {"share_of_peak", per_s * t->flops_per_token / fields.peak_flops_per_s},
    };
    const size_t n_unknown = fields.peak_flops_per_s > 0 ? 0 : 1; /* the last one */
    ds_trainer_record(t, metrics, sizeof metrics / sizeof *metrics - n_unknown);
}

static void plot_loss(ds_trainer *t) {
    const char *folder = t->config->checkpoint.directory;
    static const char *const names[] = {"loss", "validation/loss"};
    ds_series series[2] = {{.name = "training", .smoothing = 0.9},
                           {.name = "validation", .markers = true}};
    double *x[2] = {0}, *y[2] = {0};
    size_t n_series = 0;
    for (int i = 0; i < 2; i++)
        if (ds_runlog_read(folder, names[i], &x[i], &y[i], &series[i].n) == DS_OK &&
            series[i].n > 1) {
            series[i].x = x[i];
            series[i].y = y[i];
            series[n_series++] = series[i];
        }
    const ds_plot plot = {.title = "loss",
                          .x_label = "step",
                          .y_label = "nats per token",
                          .series = series,
                          .n_series = n_series};
    char *terminal =
        n_series ? ds_plot_terminal(&plot, 78, 18, t->display && ds_progress_is_live(t->display))
                 : NULL;
    char *svg = n_series ? ds_plot_svg(&plot) : NULL;
    if (svg) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/loss.svg", folder);
        if (ds_file_replace(path, svg, strlen(svg)) != DS_OK)
            ds_trainer_note(t, "%s", ds_error());
        else if (terminal)
            ds_trainer_note(t, "%s\nthe same as a picture: %s", terminal, path);
    }
    free(terminal);
    free(svg);
    for (int i = 0; i < 2; i++) {
        free(x[i]);
        free(y[i]);
    }
}

/* ---- the run
 * ------------------------------------------------------------------------------------- */

static bool is_due(int64_t step, int64_t interval) {
    return interval > 0 && step % interval == 0;
}

static void announce(ds_trainer *t) {
    char params[32], memory[32];
    const ds_memory_report *m = &t->memory;
    const size_t total =
        m->parameters + m->gradients + m->optimizer + m->derived + m->working + m->inputs;
    const ds_backend_info *info = ds_backend_get_info(t->backend);
    ds_trainer_note(t, "%s model, %s parameters, on %s (%s, %d threads); planned memory %s",
                    ds_architecture_name(t->model.architecture),
                    ds_format_count(params, sizeof params, (double)m->parameters / sizeof(float)),
                    info->device, info->isa, info->n_threads,
                    ds_format_bytes(memory, sizeof memory, (double)total));
    if (ds_trainer_n_ranks(t) > 1)
        ds_trainer_note(t, "%d ranks by %s, %d x %lld sequences of a step each",
                        ds_trainer_n_ranks(t), ds_comm_transport(t->opts.comm), t->n_micro,
                        (long long)t->micro_batch);
    if (*t->resumed_from)
        ds_trainer_note(t, "resumed at step %lld from %s", (long long)t->progress.step,
                        t->resumed_from);
}

static ds_status run_step(ds_trainer *t) {
    const float rate =
        ds_schedule_rate(&t->schedule, t->progress.step) * ds_trainer_batch_rate_factor(t);
    ds_trainer_batch_begin(t);
    const double start = ds_clock_s();
    bool rewound = false;
    DS_TRY(train_step(t, rate, &rewound));
    if (rewound)
        return DS_OK;
    report(t, rate, ds_clock_s() - start);
    ds_trainer_batch_end(t);
    if (ds_trainer_rank(t) > 0)
        return DS_OK; /* rank 0 looks at the model and writes it */
    const bool last = ds_trainer_finished(t);
    if (is_due(t->progress.step, t->config->training.eval_interval) || last)
        DS_TRY(ds_trainer_evaluate(t));
    if (is_due(t->progress.step, t->config->training.sample_interval) || last)
        ds_trainer_sample(t);
    if (is_due(t->progress.step, t->config->checkpoint.interval) && !last)
        return ds_trainer_save(t, false);
    return DS_OK;
}

/* With several ranks: as they agreed in the last step. */
static bool is_stopping(ds_trainer *t) {
    return ds_trainer_n_ranks(t) > 1 ? t->all_stop : atomic_load(&t->stop) != 0;
}

static ds_status run(ds_trainer *t) {
    announce(t);
    if (ds_trainer_rank(t) == 0) /* display and record have the share of it */
        t->peak_flops_per_s = ds_backend_peak_flops(t->backend, ds_train_config_dtype(t->config));
    t->start_s = ds_clock_s();
    DS_TRY(ds_trainer_fit_duration(t));
    t->run_start_s = ds_clock_s();
    t->steps_this_run = 0;
    while (!ds_trainer_finished(t) && !is_stopping(t))
        DS_TRY(run_step(t));
    if (t->steps_this_run == 0) {
        ds_trainer_note(t, "%s: the run is at step %lld of %lld",
                        ds_trainer_finished(t) ? "nothing to do" : "stopped before a step",
                        (long long)t->progress.step, (long long)t->steps);
        return DS_OK;
    }
    if (ds_trainer_rank(t) > 0)
        return DS_OK;
    DS_TRY(ds_trainer_save(t, true));
    plot_loss(t);
    return DS_OK;
}

ds_status ds_trainer_run(ds_trainer *t) {
    if (t->opts.plan_only)
        return ds_fail(DS_INVALID, "this trainer was only planned");
    const ds_status status = run(t);
    if (status != DS_OK && t->opts.comm)
        ds_comm_abort(t->opts.comm, ds_error());
    return status;
}
