/* SmoothQuant (Xiao et al. 2022): a column that is large in every token sets the scale of all of
 * them. Dividing it there and multiplying its weights leaves the product as it is, and shares the
 * range between the two. LLM.int8() (Dettmers et al. 2022) keeps the few worst columns apart. */
#include "infer/smoothing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* ---- factors --------------------------------------------------------------------------------- */

/* Columns that nothing goes through, in or out, stay as they are. */
static float factor_of(float x, float w, float alpha) {
    if (!(x > 0) || !(w > 0))
        return 1;
    const float factor = powf(x, alpha) / powf(w, 1 - alpha);
    return factor < 1e-4f ? 1e-4f : factor > 1e4f ? 1e4f : factor;
}

/* Products of one input are divided once, so the largest weights of all of them count. */
static ds_status choose_factor(const ds_calibration *c, size_t first, float alpha,
                               ds_weight_ranges *ranges, void *context, ds_smoothed *out) {
    const ds_calibrated *p = &c->products[first];
    float *most = ds_calloc((size_t)p->n_in + 1, sizeof *most);
    float *one = ds_malloc((size_t)(p->n_in + 1) * sizeof *one);
    ds_status status = most && one ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = first; i < c->n && status == DS_OK; i++) {
        if (c->products[i].input != p->input)
            continue;
        status = ranges(&c->products[i], one, context);
        for (int64_t k = 0; status == DS_OK && k < p->n_in; k++)
            most[k] = fmaxf(most[k], one[k]);
    }
    for (int64_t k = 0; status == DS_OK && k < p->n_in; k++)
        most[k] = factor_of(p->most[k], most[k], alpha);
    for (size_t i = first; i < c->n && status == DS_OK; i++) {
        if (c->products[i].input != p->input)
            continue;
        out[i].by_norm = p->norm != NULL;
        out[i].factor = ds_malloc((size_t)(p->n_in + 1) * sizeof *most);
        if (out[i].factor)
            memcpy(out[i].factor, most, (size_t)p->n_in * sizeof *most);
        else
            status = DS_OUT_OF_MEMORY;
    }
    free(one);
    free(most);
    return status;
}

/* ---- outliers -------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Columns, divided as they will be, that are `times` as large as the one in the middle. */
static ds_status choose_outliers(const ds_calibrated *p, float times, ds_smoothed *s) {
    float *most = ds_malloc((size_t)(2 * p->n_in + 1) * sizeof *most);
    s->outliers = ds_malloc((size_t)(p->n_in + 1) * sizeof *s->outliers);
    if (!most || !s->outliers) {
        free(most);
        return DS_OUT_OF_MEMORY;
    }
    float *sorted = most + p->n_in;
    for (int64_t k = 0; k < p->n_in; k++)
        sorted[k] = most[k] = p->most[k] / (s->factor ? s->factor[k] : 1);
    qsort(sorted, (size_t)p->n_in, sizeof *sorted, by_size);
    const float limit = times * sorted[p->n_in / 2];
    for (int64_t k = 0; k < p->n_in; k++)
        if (most[k] > limit && limit > 0)
            s->outliers[s->n_outliers++] = (int32_t)k;
    free(most);
    return DS_OK;
}

ds_status ds_smoothing_choose(const ds_calibration *c, const ds_quantise_opts *opts,
                              ds_weight_ranges *ranges, void *context, ds_smoothed **out) {
    ds_smoothed *all = ds_calloc(c->n + 1, sizeof *all);
    if (!all)
        return DS_OUT_OF_MEMORY;
    ds_status status = DS_OK;
    for (size_t i = 0; i < c->n && status == DS_OK; i++) {
        const ds_calibrated *p = &c->products[i];
        if (opts->smooth > 0 && !all[i].factor && (p->norm || opts->smooth_all))
            status = choose_factor(c, i, opts->smooth, ranges, context, all);
        if (status == DS_OK && opts->outliers > 0)
            status = choose_outliers(p, opts->outliers, &all[i]);
    }
    if (status != DS_OK) {
        ds_smoothing_free(all, c->n);
        return status;
    }
    *out = all;
    return DS_OK;
}

void ds_smoothing_free(ds_smoothed *all, size_t n) {
    for (size_t i = 0; all && i < n; i++) {
        free(all[i].factor);
        free(all[i].outliers);
    }
    free(all);
}
