/* Cross-entropy: the log of Σ exp is found in one pass over a row, block by block, rescaling the
 * sum when a larger logit turns up (Milakov & Gimelshein 2018). */
#include <math.h>
#include <string.h>

#include "backend/cpu/rows.h"

double ds_cpu_log_sum_exp(const ds_tensor *logits, int64_t start, int64_t n) {
    const ds_simd *simd = ds_cpu_simd();
    float buffer[DS_BLOCK], max = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < n; i += DS_BLOCK) {
        const int64_t length = n - i < DS_BLOCK ? n - i : DS_BLOCK;
        const float *x = ds_cpu_fetch(logits, start + i, 1, length, buffer);
        const float block_max = simd->max(x, length);
        if (block_max > max || isnan(block_max)) {
            sum *= max == -INFINITY ? 0 : exp((double)max - (double)block_max);
            max = block_max;
        }
        if (max > -INFINITY || isnan(max))
            sum += (double)simd->sum_exp(x, max, length);
    }
    return (double)max + log(sum);
}

static float logit(const ds_tensor *logits, int64_t at) {
    float x;
    ds_cpu_simd()->load(logits->dtype, ds_at(logits, at), &x, 1);
    return x;
}

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes = (size_t)ds_rows(&args->inputs[0]) * sizeof(double);
    return DS_OK;
}

static ds_status run_cross_entropy(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *logits = &args->inputs[0];
    const int64_t n = ds_columns(logits), rows = ds_rows(logits);
    const int32_t *labels = args->inputs[1].data;
    float *lse = args->outputs[1].data;
    double *loss = args->workspace, total = 0;
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const double l = ds_cpu_log_sum_exp(logits, r * n, n);
        lse[r] = (float)l;
        if (labels[r] == DS_IGNORED_LABEL)
            loss[r] = 0;
        else if (labels[r] < 0 || labels[r] >= n)
            loss[r] = NAN;
        else
            loss[r] = l - (double)logit(logits, r * n + labels[r]);
    }
    for (int64_t r = 0; r < rows; r++)
        total += loss[r];
    *(float *)args->outputs[0].data = (float)total;
    return DS_OK;
}

const ds_kernel ds_cpu_cross_entropy = {
    .op = &ds_op_cross_entropy, .prepare = prepare, .run = run_cross_entropy};

/* dlogits = dloss (softmax − 1 at the label); zeros where the row is ignored. */
void ds_cpu_cross_entropy_grad_row(const ds_tensor *logits, int64_t start, int64_t n, int32_t label,
                                   float lse, float dloss, const ds_tensor *out) {
    const ds_simd *simd = ds_cpu_simd();
    float buffer[DS_BLOCK], result[DS_BLOCK];
    for (int64_t i = 0; i < n; i += DS_BLOCK) {
        const int64_t length = n - i < DS_BLOCK ? n - i : DS_BLOCK;
        float *dx = ds_cpu_target(out, start + i, result);
        if (label == DS_IGNORED_LABEL) {
            memset(dx, 0, (size_t)length * sizeof *dx);
        } else {
            const float *x = ds_cpu_fetch(logits, start + i, 1, length, buffer);
            simd->exp_sum(x, lse, dloss, dx, length);
            if (label >= i && label < i + length)
                dx[label - i] -= dloss;
        }
        ds_cpu_put(out, start + i, dx, length);
    }
}

static ds_status run_grad(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *logits = &args->inputs[1];
    const int64_t n = ds_columns(logits), rows = ds_rows(logits);
    const float dloss = *(const float *)args->inputs[0].data;
    const int32_t *labels = args->inputs[2].data;
    const float *lse = args->inputs[3].data;
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        ds_cpu_cross_entropy_grad_row(logits, r * n, n, labels[r], lse[r], dloss,
                                      &args->outputs[0]);
    return DS_OK;
}

const ds_kernel ds_cpu_cross_entropy_grad = {
    .op = &ds_op_cross_entropy_grad, .in_place = 1u << 1, .run = run_grad};
