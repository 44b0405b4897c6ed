/* Runs as long as training.duration. How many steps that is follows from the time that a step takes
 * on this machine, measured before the first one, so that the learning rate goes its whole way to
 * the end. The number is part of the run's progress: a run that goes on keeps it, unless its
 * duration was changed. */
#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "train/trainer.h"

/* For what is not measured: updates, validation, samples, checkpoints. */
static const double RESERVE = 0.1;

/* The gradients of the next step, made twice since the first time also maps memory. Nothing of the
 * run changes. */
static ds_status measure_step(ds_trainer *t, double *step_s) {
    double loss = 0;
    DS_TRY(ds_step_batch_fill(t, t->train_data, t->n_micro, &t->batch));
    DS_TRY(ds_trainer_join_batch(t));
    for (int i = 0; i < 2; i++) {
        const double start = ds_clock_s();
        DS_TRY(ds_trainer_gradients(t, &loss));
        *step_s = ds_clock_s() - start;
    }
    *step_s *= 1 + RESERVE;
    return ds_loader_seek(t->train_data, t->progress.samples);
}

static ds_status plan_steps(ds_trainer *t, double duration_s) {
    const double left_s = duration_s - t->progress.train_seconds;
    double step_s = 1;
    char whole[32], step[32];
    int64_t steps = t->progress.step;
    if (left_s > 0) {
        DS_TRY(measure_step(t, &step_s));
        const double fit = left_s / step_s;
        steps += fit < 1 ? 1 : fit < (double)t->steps ? (int64_t)fit : t->steps;
    }
    t->progress.planned_steps = steps;
    t->progress.planned_seconds = duration_s;
    if (left_s > 0)
        ds_trainer_note(t, "%s are %lld steps of about %s",
                        ds_format_duration(whole, sizeof whole, duration_s), (long long)steps,
                        ds_format_duration(step, sizeof step, step_s));
    return DS_OK;
}

ds_status ds_trainer_fit_duration(ds_trainer *t) {
    const double duration_s = t->config->training.duration_s;
    if (duration_s == DS_TRAIN_AUTO)
        return DS_OK;
    if (t->progress.planned_seconds != duration_s) {
        DS_TRY(plan_steps(t, duration_s));
        DS_TRY(ds_trainer_share_plan(t));
    }
    if (t->progress.planned_steps < t->steps)
        ds_trainer_set_steps(t, t->progress.planned_steps);
    return DS_OK;
}
