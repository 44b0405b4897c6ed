/* A batch size that follows utilisation: a dead band with hysteresis around the threshold, so that
 * noise moves nothing, and a geometric ramp, so that each step changes the batch by the same share.
 * The whole state is the struct, and the rule is deterministic: the log of utilisations replays a
 * run. */
#include <math.h>

#include "base/error.h"
#include "deepseek/optim.h"

static const double HALF_BAND = 0.05; /* 75–85 % around the document's 80 % */
static const double NEW_SHARE = 0.2;  /* of a new value in the smoothed utilisation */
static const double BACK_OFF = 4;     /* shrinks so many times faster than it grows */

ds_status ds_dynamic_batch_scheduler_init(ds_dynamic_batch_scheduler *s, int min_batch,
                                          int max_batch, float utilization_threshold,
                                          int ramp_up_steps) {
    if (min_batch < 1 || max_batch < min_batch)
        return ds_fail(DS_INVALID,
                       "min_batch %d and max_batch %d: wants 1 <= min_batch <= "
                       "max_batch",
                       min_batch, max_batch);
    if (!(utilization_threshold > 0 && utilization_threshold < 1))
        return ds_fail(DS_INVALID, "utilization_threshold %g is not between 0 and 1 (0.8 is 80 %%)",
                       (double)utilization_threshold);
    if (ramp_up_steps < 0)
        return ds_fail(DS_INVALID, "ramp_up_steps %d is negative", ramp_up_steps);
    *s = (ds_dynamic_batch_scheduler){
        .min_batch = min_batch,
        .max_batch = max_batch,
        .utilization_threshold = utilization_threshold,
        .ramp_up_steps = ramp_up_steps,
        .multiple = 1,
        .smoothed = -1,
    };
    return DS_OK;
}

static double last_level(const ds_dynamic_batch_scheduler *s) {
    return s->ramp_up_steps > 0 ? s->ramp_up_steps : 1;
}

int ds_dynamic_batch_scheduler_batch(const ds_dynamic_batch_scheduler *s) {
    const double ratio = (double)s->max_batch / (double)s->min_batch;
    const double exact = (double)s->min_batch * pow(ratio, s->level / last_level(s));
    const int64_t multiple = s->multiple > 1 ? s->multiple : 1;
    int64_t batch = (int64_t)floor(exact / (double)multiple + 0.5) * multiple;
    if (batch > s->max_batch)
        batch = s->max_batch / multiple * multiple;
    if (batch < s->min_batch)
        batch = (s->min_batch + multiple - 1) / multiple * multiple;
    return batch > s->max_batch ? s->max_batch : (int)batch; /* no multiple lies in the range */
}

static void turn(ds_dynamic_batch_scheduler *s) {
    const double aim = (double)s->utilization_threshold;
    if (s->smoothed < aim - HALF_BAND)
        s->direction = 1;
    else if (s->smoothed > aim + HALF_BAND)
        s->direction = -1;
    else if ((s->direction > 0 && s->smoothed >= aim) || (s->direction < 0 && s->smoothed <= aim))
        s->direction = 0;
}

int ds_dynamic_batch_scheduler_step(ds_dynamic_batch_scheduler *s, float utilization) {
    if (!isnan(utilization)) {
        const double u = fmin(fmax((double)utilization, 0), 1);
        s->smoothed = s->smoothed < 0 ? u : s->smoothed + NEW_SHARE * (u - s->smoothed);
        turn(s);
        s->level += s->direction > 0 ? 1 : s->direction < 0 ? -BACK_OFF : 0;
        s->level = fmin(fmax(s->level, 0), last_level(s));
    }
    return ds_dynamic_batch_scheduler_batch(s);
}
