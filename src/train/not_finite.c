/* Steps whose loss or gradients are not finite: which tensors are to blame, and what the run does
 * about it (training.nan_policy). The update has changed nothing then, so the parameters are those
 * before the step. Every way of going on has a limit: a model that is lost stays lost, and a run
 * that only skips or only rewinds would never end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"
#include "train/trainer.h"

enum {
    MAX_SKIPPED = 10, /* steps in a row */
    MAX_REWINDS = 3,  /* to get past one step */
    MAX_NAMED = 8,    /* tensors in a message */
};

/* ---- which tensors --------------------------------------------------------------------------- */

/* Index of the first value of a tensor that is not finite, or -1; the value itself. */
static ds_status first_bad(const ds_trainer *t, const ds_state_entry *e, int64_t *at,
                           double *value) {
    const int64_t n = ds_count(e->dims, e->rank);
    const size_t size = (size_t)n * sizeof(float);
    float *x = ds_malloc(size);
    if (!x)
        return DS_OUT_OF_MEMORY;
    const ds_status status = ds_state_read(t->state, e->name, x, size);
    *at = -1;
    for (int64_t i = 0; i < n && *at < 0 && status == DS_OK; i++)
        if (!isfinite(x[i])) {
            *at = i;
            *value = (double)x[i];
        }
    free(x);
    return status;
}

/* Counts the gradients, or the parameters, that are not finite and names the first ones. */
static ds_status list_bad(const ds_trainer *t, bool params, ds_text *names, int *n) {
    *n = 0;
    for (size_t i = 0; i < ds_state_count(t->state); i++) {
        const ds_state_entry *e = ds_state_get(t->state, i);
        const bool is_gradient =
            strncmp(e->name, DS_GRADIENT_PREFIX, sizeof DS_GRADIENT_PREFIX - 1) == 0;
        int64_t at = -1;
        double value = 0;
        if (params ? !e->is_param : !is_gradient)
            continue;
        DS_TRY(first_bad(t, e, &at, &value));
        if (at < 0)
            continue;
        if ((*n)++ < MAX_NAMED)
            ds_text_printf(names, "%s\"%s\" (%g at element %lld)", *n > 1 ? ", " : "",
                           params ? e->name : e->name + sizeof DS_GRADIENT_PREFIX - 1, value,
                           (long long)at);
    }
    if (*n > MAX_NAMED)
        ds_text_printf(names, " and %d more", *n - MAX_NAMED);
    return DS_OK;
}

/* Names the tensors that are not finite in the thread's message. Parameters come first: where they
 * are lost, so is every gradient. Returns DS_NUMERIC, or what kept it from looking. */
static ds_status blame(const ds_trainer *t) {
    for (int params = 1; params >= 0; params--) {
        ds_text names = {0};
        int n = 0;
        ds_status status = list_bad(t, params == 1, &names, &n);
        if (status == DS_OK && n > 0)
            status = ds_fail(DS_NUMERIC, "step %lld: %d %s%s not finite: %s",
                             (long long)t->progress.step, n, params ? "parameter" : "gradient",
                             n == 1 ? " is" : "s are", names.data ? names.data : "");
        ds_text_clear(&names);
        if (status != DS_OK)
            return status;
    }
    return ds_fail(DS_NUMERIC,
                   "step %lld: the loss or the gradient norm overflowed though every "
                   "gradient is finite",
                   (long long)t->progress.step);
}

/* ---- what to do ------------------------------------------------------------------------------ */

static const char ADVICE[] = "lower optimizer.learning_rate, clip by optimizer.grad_clip, or go on "
                             "from an earlier checkpoint (checkpoint.resume)";

static ds_status skip(ds_trainer *t) {
    if (++t->not_finite.skipped_in_a_row >= MAX_SKIPPED) {
        ds_fail_within(DS_NUMERIC, "%d steps in a row were skipped, the last is", MAX_SKIPPED);
        return ds_fail(DS_NUMERIC, "%s; %s", ds_error(), ADVICE);
    }
    ds_trainer_note(t, "step skipped: %s", ds_error());
    return DS_OK;
}

static ds_status rewind_run(ds_trainer *t, bool *rewound) {
    if (t->progress.step > t->not_finite.failed_step)
        t->not_finite.failed_step = t->progress.step;
    if (t->not_finite.rewinds_in_a_row++ >= MAX_REWINDS) {
        ds_fail_within(DS_NUMERIC, "still not finite after %d rewinds", MAX_REWINDS);
        return ds_fail(DS_NUMERIC, "%s; %s", ds_error(), ADVICE);
    }
    char what[1024];
    snprintf(what, sizeof what, "%s", ds_error());
    const ds_status status = ds_trainer_rewind(t);
    if (status != DS_OK)
        return ds_fail_within(status, "%s", what);
    *rewound = true;
    ds_trainer_note(t, "rewound to step %lld, leaving out the samples since then: %s",
                    (long long)t->progress.step, what);
    return DS_OK;
}

ds_status ds_trainer_handle_not_finite(ds_trainer *t, bool *rewound) {
    const bool is_dynamic = t->precision == DS_PRECISION_FP16 && t->progress.scaler.is_dynamic;
    if (is_dynamic && !ds_loss_scaler_is_stuck(&t->progress.scaler))
        return DS_OK; /* the scale was lowered; that is all */
    ds_status status = blame(t);
    if (status != DS_NUMERIC)
        return status;
    if (is_dynamic)
        ds_fail_within(status, "the loss scale is stuck at its minimum, %g",
                       (double)t->progress.scaler.min_scale);
    switch (t->config->training.nan_policy) {
    case DS_TRAIN_NAN_SKIP: return skip(t);
    case DS_TRAIN_NAN_REWIND: return rewind_run(t, rewound);
    default: return status;
    }
}

void ds_trainer_note_finite(ds_trainer *t) {
    t->not_finite.skipped_in_a_row = 0;
    if (t->progress.step > t->not_finite.failed_step)
        t->not_finite.rewinds_in_a_row = 0;
}
