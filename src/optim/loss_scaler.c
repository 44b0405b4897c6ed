/* The loss scale of fp16 training: as large as the gradients allow. */
#include <math.h>

#include "deepseek/optim.h"

ds_loss_scaler ds_loss_scaler_dynamic(void) {
    return (ds_loss_scaler){
        .scale = 0x1p16f,
        .is_dynamic = true,
        .min_scale = 1,
        .max_scale = 0x1p32f, /* gradients of zero would let it grow for ever */
        .growth_interval = 1000,
        .hysteresis = 2,
        .hysteresis_left = 2,
    };
}

ds_loss_scaler ds_loss_scaler_static(float scale) {
    return (ds_loss_scaler){.scale = scale, .min_scale = scale, .max_scale = scale};
}

static void back_off(ds_loss_scaler *s) {
    s->stuck_steps = s->scale <= s->min_scale ? s->stuck_steps + 1 : 0;
    if (s->hysteresis_left > 0)
        s->hysteresis_left--;
    if (s->hysteresis_left == 0)
        s->scale = fmaxf(s->scale / 2, s->min_scale);
}

static void grow(ds_loss_scaler *s) {
    s->clean_steps = 0;
    s->hysteresis_left = s->hysteresis;
    s->scale = fminf(s->scale * 2, s->max_scale);
}

bool ds_loss_scaler_update(ds_loss_scaler *s, bool found_inf) {
    s->total_steps++;
    if (found_inf) {
        s->skipped_steps++;
        s->clean_steps = 0;
        if (s->is_dynamic)
            back_off(s);
        return true;
    }
    s->clean_steps++;
    s->stuck_steps = 0;
    if (s->is_dynamic && s->clean_steps >= s->growth_interval)
        grow(s);
    return false;
}

bool ds_loss_scaler_is_stuck(const ds_loss_scaler *s) {
    return s->stuck_steps > 0;
}
