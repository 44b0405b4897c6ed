/* The batch of a run that follows how busy the device is. The scheduler says how many samples the
 * next step should have; they are micro-batches of one size, so that what changes is only how many
 * of them are accumulated, and neither programs nor memory do. What was measured is recorded step
 * by step: a run that is given the record of another (dynamic_batch.replay) takes the same batches,
 * and so ends with the same bits. */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "observe/runlog.h"
#include "train/trainer.h"

static double cpu_s(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

static ds_status read_record(ds_trainer *t, const char *folder) {
    ds_batch_record *r = &t->adaptive.record;
    DS_TRY(ds_runlog_read(folder, "utilization", &r->steps, &r->values, &r->n));
    return r->n > 0 ? DS_OK
                    : ds_fail(DS_NOT_FOUND,
                              "dynamic_batch.replay: %s holds no record of utilisation; wants the "
                              "folder of a run with dynamic_batch.enabled",
                              folder);
}

ds_status ds_trainer_batch_new(ds_trainer *t) {
    const ds_train_config *c = t->config;
    t->n_micro = t->max_micro = c->training.gradient_accumulation_steps;
    if (!c->dynamic_batch.enabled)
        return DS_OK;
    ds_dynamic_batch_scheduler *s = &t->progress.batch;
    DS_TRY(ds_dynamic_batch_scheduler_init(
        s, c->dynamic_batch.min_batch, c->dynamic_batch.max_batch,
        (float)c->dynamic_batch.utilization_threshold, c->dynamic_batch.ramp_up_steps));
    s->multiple = (int)t->micro_batch;
    t->max_micro = c->dynamic_batch.max_batch / (int)t->micro_batch;
    ds_trainer_follow_batch(t);
    return c->dynamic_batch.replay ? read_record(t, c->dynamic_batch.replay) : DS_OK;
}

void ds_trainer_batch_free(ds_trainer *t) {
    free(t->adaptive.record.steps);
    free(t->adaptive.record.values);
    t->adaptive.record = (ds_batch_record){0};
}

void ds_trainer_follow_batch(ds_trainer *t) {
    if (t->config->dynamic_batch.enabled)
        t->n_micro = ds_dynamic_batch_scheduler_batch(&t->progress.batch) / (int)t->micro_batch;
}

float ds_trainer_batch_rate_factor(const ds_trainer *t) {
    const ds_train_config *c = t->config;
    if (!c->dynamic_batch.enabled || !c->dynamic_batch.scale_learning_rate)
        return 1;
    return ds_batch_rate_factor(t->optimizer.kind, c->training.global_batch,
                                t->n_micro * t->micro_batch);
}

void ds_trainer_batch_begin(ds_trainer *t) {
    t->adaptive.start_s = ds_clock_s();
    t->adaptive.start_cpu_s = cpu_s();
    t->adaptive.gradients_s = 0;
}

/* 0 … 1 over the step that is just over; NaN where it cannot be told. */
static double measure(const ds_trainer *t) {
    const double wall_s = ds_clock_s() - t->adaptive.start_s;
    const double tokens = (double)(t->n_micro * t->micro_batch * t->seq_len);
    if (t->steps_this_run <= 1 || !(wall_s > 0))
        return (double)NAN; /* the first step of a process also prepares the kernels */
    switch (t->config->dynamic_batch.measure) {
    case DS_TRAIN_MEASURE_BUSY:
        return (cpu_s() - t->adaptive.start_cpu_s) /
               (wall_s * ds_backend_get_info(t->backend)->n_threads);
    case DS_TRAIN_MEASURE_PEAK:
        return t->peak_flops_per_s > 0 ? tokens * t->flops_per_token / wall_s / t->peak_flops_per_s
                                       : (double)NAN;
    case DS_TRAIN_MEASURE_GRADIENTS: break;
    }
    return t->adaptive.gradients_s / wall_s;
}

/* What the other run measured in this step; NaN where it has no such step. Steps only go up, but
 * for rewinds. */
static double recorded(ds_batch_record *r, int64_t step) {
    if (r->at >= r->n || r->steps[r->at] > (double)step)
        r->at = 0;
    while (r->at < r->n && r->steps[r->at] < (double)step)
        r->at++;
    return r->at < r->n && r->steps[r->at] == (double)step ? r->values[r->at] : (double)NAN;
}

void ds_trainer_batch_end(ds_trainer *t) {
    if (!t->config->dynamic_batch.enabled)
        return;
    const int before = t->n_micro;
    double u = t->adaptive.record.n > 0 ? recorded(&t->adaptive.record, t->progress.step)
                                        : fmin(fmax(measure(t), 0), 1);
    const float utilization = (float)u;
    const ds_metric metrics[] = {{"utilization", (double)utilization},
                                 {"batch", (double)(before * t->micro_batch)}};
    ds_trainer_record(t, metrics, 2);
    ds_dynamic_batch_scheduler_step(&t->progress.batch, utilization);
    ds_trainer_follow_batch(t);
    if (t->n_micro != before)
        ds_trainer_note(t, "step %lld: %.0f %% utilisation, batch %lld -> %lld",
                        (long long)t->progress.step, 100 * t->progress.batch.smoothed,
                        (long long)(before * t->micro_batch),
                        (long long)(t->n_micro * t->micro_batch));
}
