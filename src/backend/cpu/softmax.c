/* Softmax and log-softmax over the last axis, and their gradients. */
#include <math.h>

#include <omp.h>

#include "backend/cpu/rows.h"

enum { BUFFERS = 3 };

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes = ds_row_buffers(args, BUFFERS, ds_columns(&args->outputs[0]));
    return DS_OK;
}

static void softmax_row(const float *x, float *y, int64_t n, bool log_form) {
    const ds_simd *simd = ds_cpu_simd();
    const float max = simd->max(x, n);
    if (log_form) {
        simd->unary(DS_OFFSET, -max - logf(simd->sum_exp(x, max, n)), x, y, n);
    } else {
        const float sum = simd->exp_sum(x, max, 1, y, n);
        simd->unary(DS_SCALE, 1 / sum, y, y, n);
    }
}

static ds_status run_softmax(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *in = &args->inputs[0], *out = &args->outputs[0];
    const int64_t n = ds_columns(out), rows = ds_rows(out);
    const bool log_form = args->node->op == &ds_op_log_softmax;
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *buffer = ds_row_buffer(args, BUFFERS, n, omp_get_thread_num());
        const float *x = ds_cpu_fetch(in, r * n, 1, n, buffer);
        float *y = ds_cpu_target(out, r * n, buffer + ds_row_stride(n));
        softmax_row(x, y, n, log_form);
        ds_cpu_put(out, r * n, y, n);
    }
    return DS_OK;
}

static ds_status run_grad(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *out = &args->outputs[0];
    const int64_t n = ds_columns(out), rows = ds_rows(out);
    const ds_simd *simd = ds_cpu_simd();
    const bool log_form = args->node->op == &ds_op_log_softmax_grad;
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *buffer = ds_row_buffer(args, BUFFERS, n, omp_get_thread_num());
        const float *dy = ds_cpu_fetch(&args->inputs[0], r * n, 1, n, buffer);
        const float *y = ds_cpu_fetch(&args->inputs[1], r * n, 1, n, buffer + ds_row_stride(n));
        float *dx = ds_cpu_target(out, r * n, buffer + 2 * ds_row_stride(n));
        (log_form ? simd->log_softmax_grad : simd->softmax_grad)(dy, y, dx, n);
        ds_cpu_put(out, r * n, dx, n);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_softmax = {.op = &ds_op_softmax, .prepare = prepare, .run = run_softmax};
const ds_kernel ds_cpu_log_softmax = {
    .op = &ds_op_log_softmax, .prepare = prepare, .run = run_softmax};
const ds_kernel ds_cpu_softmax_grad = {
    .op = &ds_op_softmax_grad, .prepare = prepare, .run = run_grad};
const ds_kernel ds_cpu_log_softmax_grad = {
    .op = &ds_op_log_softmax_grad, .prepare = prepare, .run = run_grad};
