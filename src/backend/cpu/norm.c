/* Layer and RMS normalisation. The gradients of weight and bias are summed by each thread over its
 * own rows and then over the threads in order: the same for a given number of threads. */
#include <omp.h>
#include <string.h>

#include "backend/cpu/rows.h"

enum { FORWARD_BUFFERS = 2, BACKWARD_BUFFERS = 5 };

static ds_status prepare_forward(const ds_kernel_args *args, void **state,
                                 size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes = ds_row_buffers(args, FORWARD_BUFFERS, ds_columns(&args->outputs[0]));
    return DS_OK;
}

static ds_status prepare_backward(const ds_kernel_args *args, void **state,
                                  size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes = ds_row_buffers(args, BACKWARD_BUFFERS, ds_columns(&args->outputs[0]));
    return DS_OK;
}

static ds_status run_forward(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *in = &args->inputs[0], *out = &args->outputs[0];
    const int64_t n = ds_columns(out), rows = ds_rows(out);
    const float eps = ((const ds_norm_attrs *)args->node->attrs)->eps;
    const bool centred = args->node->op == &ds_op_layer_norm;
    const float *weight = args->inputs[1].data;
    const float *bias = args->n_inputs > 2 ? args->inputs[2].data : NULL;
    float *first = args->outputs[1].data; /* mean or rstd */
    float *second = centred ? args->outputs[2].data : NULL;
    const ds_simd *simd = ds_cpu_simd();
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *buffer = ds_row_buffer(args, FORWARD_BUFFERS, n, omp_get_thread_num());
        const float *x = ds_cpu_fetch(in, r * n, 1, n, buffer);
        float *y = ds_cpu_target(out, r * n, buffer + ds_row_stride(n));
        if (centred)
            simd->layer_norm(x, weight, bias, eps, y, &first[r], &second[r], n);
        else
            simd->rms_norm(x, weight, eps, y, &first[r], n);
        ds_cpu_put(out, r * n, y, n);
    }
    return DS_OK;
}

static void backward_rows(const ds_kernel_args *args, int64_t from, int64_t to, float *buffer) {
    const ds_tensor *dy = &args->inputs[0], *x = &args->inputs[1], *dx = &args->outputs[0];
    const bool centred = args->node->op == &ds_op_layer_norm_grad;
    const int64_t n = ds_columns(dx), stride = ds_row_stride(n);
    const float *weight = args->inputs[2].data, *mean = args->inputs[3].data;
    const float *rstd = args->inputs[centred ? 4 : 3].data;
    const ds_simd *simd = ds_cpu_simd();
    float *dweight = buffer + 3 * stride, *dbias = buffer + 4 * stride;
    memset(dweight, 0, (size_t)n * sizeof *dweight);
    memset(dbias, 0, (size_t)n * sizeof *dbias);
    for (int64_t r = from; r < to; r++) {
        const float *dy_row = ds_cpu_fetch(dy, r * n, 1, n, buffer);
        const float *x_row = ds_cpu_fetch(x, r * n, 1, n, buffer + stride);
        float *target = ds_cpu_target(dx, r * n, buffer + 2 * stride);
        if (centred)
            simd->layer_norm_grad(dy_row, x_row, weight, mean[r], rstd[r], target, dweight, dbias,
                                  n);
        else
            simd->rms_norm_grad(dy_row, x_row, weight, rstd[r], target, dweight, n);
        ds_cpu_put(dx, r * n, target, n);
    }
}

static ds_status run_backward(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *dx = &args->outputs[0];
    const int64_t n = ds_columns(dx), rows = ds_rows(dx), stride = ds_row_stride(n);
    const int parts = ds_cpu_threads(rows * n, args->n_threads);
#pragma omp parallel for num_threads(parts) schedule(static)
    for (int part = 0; part < parts; part++) /* one each, whoever does it */
        backward_rows(args, rows * part / parts, rows * (part + 1) / parts,
                      ds_row_buffer(args, BACKWARD_BUFFERS, n, part));
    for (int k = 1; k < args->n_outputs; k++) {
        float *sum = args->outputs[k].data;
        memset(sum, 0, (size_t)n * sizeof *sum);
        for (int part = 0; part < parts; part++)
            ds_cpu_simd()->axpy(
                1, ds_row_buffer(args, BACKWARD_BUFFERS, n, part) + (2 + k) * stride, sum, n);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_layer_norm = {
    .op = &ds_op_layer_norm, .prepare = prepare_forward, .run = run_forward};
const ds_kernel ds_cpu_rms_norm = {
    .op = &ds_op_rms_norm, .prepare = prepare_forward, .run = run_forward};
const ds_kernel ds_cpu_layer_norm_grad = {
    .op = &ds_op_layer_norm_grad, .prepare = prepare_backward, .run = run_backward};
const ds_kernel ds_cpu_rms_norm_grad = {
    .op = &ds_op_rms_norm_grad, .prepare = prepare_backward, .run = run_backward};
