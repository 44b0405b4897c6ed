#include "models/quantised.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/half.h"
#include "graph/ops/ops.h"

static float float_at(const ds_safetensor *t, int64_t i) {
    const unsigned char *at = (const unsigned char *)t->data + (size_t)i * ds_dtype_size(t->dtype);
    float whole;
    uint16_t half;
    if (t->dtype == DS_F32) {
        memcpy(&whole, at, sizeof whole);
        return whole;
    }
    memcpy(&half, at, sizeof half);
    return t->dtype == DS_BF16 ? ds_bf16_to_f32(half) : ds_f16_to_f32(half);
}

void ds_floats_to_rows(const ds_safetensor *t, int64_t n_out, int64_t n_in, bool by_columns,
                       float *out) {
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < n_out; j++)
        for (int64_t i = 0; i < n_in; i++)
            out[j * n_in + i] = float_at(t, by_columns ? i * n_out + j : j * n_in + i);
}

/* ---- how ------------------------------------------------------------------------------------- */

int64_t ds_weight_groups(ds_weight_format f, int64_t n_in) {
    return f.bits == 8 || f.group >= n_in ? 1 : (n_in + f.group - 1) / f.group;
}

int64_t ds_weight_code_columns(ds_weight_format f, int64_t n_in) {
    return f.bits == 8 ? n_in : (n_in + 7) / 8;
}

static float code_of(float w, float scale, float low, float high) {
    const float q = scale > 0 ? nearbyintf(w / scale) : 0;
    return q < low ? low : q > high ? high : q;
}

static bool quantise_bytes(const float *w, int64_t n, int8_t *codes, uint16_t *scale) {
    const float step = ds_quantisation_scale(ds_row_magnitude(w, n), true);
    if (!isfinite(step))
        return false;
    *scale = ds_f32_to_bf16(step); /* exactly */
    for (int64_t i = 0; i < n; i++)
        codes[i] = (int8_t)code_of(w[i], step, -127, 127);
    return true;
}

static double loss_of(const float *w, int64_t n, float scale) {
    double loss = 0;
    for (int64_t i = 0; i < n; i++) {
        const double lost = (double)w[i] - (double)(code_of(w[i], scale, -8, 7) * scale);
        loss += lost * lost;
    }
    return loss;
}

/* Ranges of 8 steps and somewhat less: clamping a few large weights can cost less than coarser
 * steps for all the others. */
static uint16_t best_scale(const float *w, int64_t n, float most) {
    enum { N_LENGTHS = 12 };
    uint16_t best = 0;
    double least = INFINITY;
    for (int i = 0; i < N_LENGTHS; i++) {
        const uint16_t scale = ds_f32_to_bf16(most / (7.0f + 0.25f * (float)i));
        const double loss = loss_of(w, n, ds_bf16_to_f32(scale));
        if (loss < least)
            best = scale, least = loss;
    }
    return best;
}

/* One row; codes are zeroed. */
static bool quantise_words(const float *w, int64_t n, int64_t group, int32_t *codes,
                           uint16_t *scale) {
    for (int64_t first = 0, g = 0; first < n; first += group, g++) {
        const int64_t length = n - first < group ? n - first : group;
        const float most = ds_row_magnitude(w + first, length);
        if (!isfinite(most))
            return false;
        scale[g] = best_scale(w + first, length, most);
        const float step = ds_bf16_to_f32(scale[g]);
        for (int64_t i = first; i < first + length; i++) {
            const uint32_t q = (uint32_t)((int)code_of(w[i], step, -8, 7) + 8);
            codes[i / 8] = (int32_t)((uint32_t)codes[i / 8] | q << (4 * (i % 8)));
        }
    }
    return true;
}

ds_status ds_quantise_weights(const float *w, int64_t n_out, int64_t n_in, ds_weight_format f,
                              void *codes, uint16_t *scale) {
    const int64_t n_groups = ds_weight_groups(f, n_in), columns = ds_weight_code_columns(f, n_in);
    int is_finite = 1;
    if (f.bits == 4)
        memset(codes, 0, (size_t)(n_out * columns) * sizeof(int32_t));
#pragma omp parallel for schedule(static) reduction(& : is_finite)
    for (int64_t j = 0; j < n_out; j++)
        is_finite &=
            f.bits == 8
                ? quantise_bytes(w + j * n_in, n_in, (int8_t *)codes + j * columns, scale + j)
                : quantise_words(w + j * n_in, n_in, f.group, (int32_t *)codes + j * columns,
                                 scale + j * n_groups);
    return is_finite ? DS_OK : ds_fail(DS_NUMERIC, "holds numbers that are not finite");
}
