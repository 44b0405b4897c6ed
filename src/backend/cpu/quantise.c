/* Quantisation to int8 and back, and its imitation in training: a block at a time, each block with
 * the scale of its row, or of the whole tensor. */
#include <math.h>

#include "backend/cpu/kernels.h"

typedef void quantise_block(const ds_kernel_args *args, float scale, int64_t start, int64_t n);

/* Blocks never cross from one scale's elements to the next one's. */
static ds_status run_blocks(const ds_kernel_args *args, int scale_input, quantise_block *block) {
    const ds_tensor *x = &args->inputs[0], *scale = &args->inputs[scale_input];
    const int64_t count = ds_count(x->dims, x->rank);
    const int64_t groups = scale->rank == 0 ? 1 : scale->dims[0];
    const int64_t size = groups ? count / groups : 0, per_group = (size + DS_BLOCK - 1) / DS_BLOCK;
#pragma omp parallel for num_threads(ds_cpu_threads(count, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < groups * per_group; i++) {
        const int64_t group = i / per_group, start = i % per_group * DS_BLOCK;
        const int64_t n = size - start < DS_BLOCK ? size - start : DS_BLOCK;
        block(args, ((const float *)scale->data)[group], group * size + start, n);
    }
    return DS_OK;
}

static void block_of_quantise(const ds_kernel_args *args, float scale, int64_t start, int64_t n) {
    float buffer[DS_BLOCK];
    const float *x = ds_cpu_fetch(&args->inputs[0], start, 1, n, buffer);
    ds_cpu_simd()->quantise(x, scale, ds_at(&args->outputs[0], start), n);
}

static void block_of_dequantise(const ds_kernel_args *args, float scale, int64_t start, int64_t n) {
    const ds_tensor *q = &args->inputs[0], *out = &args->outputs[0];
    float buffer[DS_BLOCK], *y = ds_cpu_target(out, start, buffer);
    ds_cpu_simd()->dequantise(q->dtype, ds_at(q, start), scale, y, n);
    ds_cpu_put(out, start, y, n);
}

static void block_of_fake(const ds_kernel_args *args, float scale, int64_t start, int64_t n) {
    const ds_tensor *out = &args->outputs[0];
    float buffer[DS_BLOCK], result[DS_BLOCK], *y = ds_cpu_target(out, start, result);
    const float *x = ds_cpu_fetch(&args->inputs[0], start, 1, n, buffer);
    ds_cpu_simd()->fake_quantise(x, scale, y, n);
    ds_cpu_put(out, start, y, n);
}

static void block_of_fake_grad(const ds_kernel_args *args, float scale, int64_t start, int64_t n) {
    const ds_tensor *out = &args->outputs[0];
    float buffers[2][DS_BLOCK], result[DS_BLOCK], *dx = ds_cpu_target(out, start, result);
    const float *dy = ds_cpu_fetch(&args->inputs[0], start, 1, n, buffers[0]);
    const float *x = ds_cpu_fetch(&args->inputs[1], start, 1, n, buffers[1]);
    ds_cpu_simd()->fake_quantise_grad(dy, x, scale, dx, n);
    ds_cpu_put(out, start, dx, n);
}

float ds_cpu_magnitude(const float *x, int64_t n) {
    if (n == 0)
        return 0;
    const float high = ds_cpu_simd()->max(x, n), low = -ds_cpu_simd()->min(x, n);
    return fabsf(isnan(high) || high > low ? high : low);
}

float ds_cpu_quantise_row(const float *x, int64_t n, int8_t *to) {
    const float scale = ds_quantisation_scale(ds_cpu_magnitude(x, n), false);
    ds_cpu_simd()->quantise(x, scale, to, n);
    return scale;
}

static ds_status run_scale(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *x = &args->inputs[0];
    const ds_quantisation_scale_attrs *attrs = args->node->attrs;
    const int64_t rows = x->dims[0], n = ds_count(x->dims + 1, x->rank - 1);
#pragma omp parallel for num_threads(ds_cpu_threads(rows *n, args->n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float most = 0, buffer[DS_BLOCK];
        for (int64_t i = 0; i < n && !isnan(most); i += DS_BLOCK) {
            const int64_t length = n - i < DS_BLOCK ? n - i : DS_BLOCK;
            const float m = ds_cpu_magnitude(ds_cpu_fetch(x, r * n + i, 1, length, buffer), length);
            most = isnan(m) || m > most ? m : most;
        }
        ((float *)args->outputs[0].data)[r] = ds_quantisation_scale(most, attrs->is_stored);
    }
    return DS_OK;
}

static ds_status run_quantise(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_blocks(args, 1, block_of_quantise);
}

static ds_status run_dequantise(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_blocks(args, 1, block_of_dequantise);
}

static ds_status run_fake_quantise(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_blocks(args, 1, block_of_fake);
}

static ds_status run_fake_quantise_grad(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_blocks(args, 2, block_of_fake_grad);
}

const ds_kernel ds_cpu_quantisation_scale = {.op = &ds_op_quantisation_scale, .run = run_scale};
const ds_kernel ds_cpu_quantise = {.op = &ds_op_quantise, .run = run_quantise};
const ds_kernel ds_cpu_dequantise = {.op = &ds_op_dequantise, .run = run_dequantise};
const ds_kernel ds_cpu_fake_quantise = {
    .op = &ds_op_fake_quantise, .in_place = 1, .run = run_fake_quantise};
const ds_kernel ds_cpu_fake_quantise_grad = {
    .op = &ds_op_fake_quantise_grad, .in_place = 3, .run = run_fake_quantise_grad};
