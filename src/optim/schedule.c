/* The learning rate as a pure function of the step: nothing to save, nothing to drift on resume. */
#include <math.h>

#include "deepseek/optim.h"

static const double PI = 3.14159265358979323846;

/* How far t is on the way from start to end: 0 … 1. */
static double progress(int64_t t, int64_t start, int64_t end) {
    if (t >= end)
        return 1;
    return t <= start ? 0 : (double)(t - start) / (double)(end - start);
}

/* Height above the minimum: 1 at the peak, 0 at the end. */
static double height(const ds_schedule *s, int64_t t) {
    switch (s->kind) {
    case DS_SCHEDULE_LINEAR: return 1 - progress(t, s->warmup_steps, s->total_steps);
    case DS_SCHEDULE_COSINE:
        return (1 + cos(PI * progress(t, s->warmup_steps, s->total_steps))) / 2;
    case DS_SCHEDULE_WSD: {
        const int64_t start = s->total_steps - s->decay_steps;
        return 1 - progress(t, start > s->warmup_steps ? start : s->warmup_steps, s->total_steps);
    }
    case DS_SCHEDULE_CONSTANT: break;
    }
    return 1;
}

float ds_schedule_rate(const ds_schedule *s, int64_t step) {
    if (step < 0)
        step = 0;
    if (step < s->warmup_steps)
        return (float)((double)s->rate * ((double)step + 1) / (double)s->warmup_steps);
    const double low = (double)s->min_ratio;
    return (float)((double)s->rate * (low + (1 - low) * height(s, step)));
}

float ds_batch_rate_factor(ds_optimizer_kind kind, int64_t base_batch, int64_t batch) {
    if (base_batch < 1 || batch < 1)
        return 1;
    const double ratio = (double)batch / (double)base_batch;
    return (float)(kind == DS_OPTIMIZER_SGD ? ratio : sqrt(ratio));
}
