/* Optimizer updates: one pass over parameter, state and gradient, which is all memory traffic. */
#include <math.h>

#include "backend/cpu/kernels.h"

typedef void update_block(const ds_update *u, float **blocks, int64_t n);

static void adamw_block(const ds_update *u, float **b, int64_t n) {
    ds_cpu_simd()->adamw(u, b[0], b[1], b[2], b[3], n);
}

static void sgd_block(const ds_update *u, float **b, int64_t n) {
    ds_cpu_simd()->sgd(u, b[0], b[1], b[2], n);
}

static void lion_block(const ds_update *u, float **b, int64_t n) {
    ds_cpu_simd()->lion(u, b[0], b[1], b[2], n);
}

static float scalar(const ds_kernel_args *args, int input) {
    return *(const float *)args->inputs[input].data;
}

static ds_update constants(const ds_kernel_args *args, int n_changed) {
    const ds_update_attrs *a = args->node->attrs;
    ds_update u = {.lr = scalar(args, n_changed + 1),
                   .grad_scale = scalar(args, n_changed + 2),
                   .beta1 = a->beta1,
                   .beta2 = a->beta2,
                   .eps = a->eps,
                   .weight_decay = a->weight_decay};
    u.keep = (float)(1 - (double)u.lr * (double)a->weight_decay);
    if (args->n_inputs > n_changed + 3) {
        const double step = (double)scalar(args, n_changed + 3);
        u.m_correction = (float)(1 / (1 - pow((double)a->beta1, step)));
        u.v_correction = (float)(1 / (1 - pow((double)a->beta2, step)));
    }
    return u;
}

/* Parameter and states are written back; in f32 they are changed where they lie. */
static void update_range(const ds_kernel_args *args, const ds_update *u, update_block *block,
                         int64_t start, int64_t n) {
    enum { MOST = 4 };
    const int n_changed = args->node->op->n_changed;
    float buffers[MOST][DS_BLOCK], *blocks[MOST] = {0};
    for (int k = 0; k <= n_changed; k++) /* fetch gives the tensor's own, writable, memory in f32 */
        blocks[k] = (float *)ds_cpu_fetch(&args->inputs[k], start, 1, n, buffers[k]);
    block(u, blocks, n);
    for (int k = 0; k < n_changed; k++)
        ds_cpu_put(&args->inputs[k], start, blocks[k], n);
}

static ds_status run_update(const ds_kernel_args *args, update_block *block) {
    const int64_t n = ds_count(args->inputs[0].dims, args->inputs[0].rank);
    const int64_t blocks = (n + DS_BLOCK - 1) / DS_BLOCK;
    const ds_update u = constants(args, args->node->op->n_changed);
    if (!isfinite(u.grad_scale))
        return DS_OK;
#pragma omp parallel for num_threads(ds_cpu_threads(n, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t left = n - i * DS_BLOCK;
        update_range(args, &u, block, i * DS_BLOCK, left < DS_BLOCK ? left : DS_BLOCK);
    }
    return DS_OK;
}

static ds_status run_adamw(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_update(args, adamw_block);
}

static ds_status run_sgd(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_update(args, sgd_block);
}

static ds_status run_lion(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_update(args, lion_block);
}

const ds_kernel ds_cpu_adamw = {.op = &ds_op_adamw, .run = run_adamw};
const ds_kernel ds_cpu_sgd = {.op = &ds_op_sgd, .run = run_sgd};
const ds_kernel ds_cpu_lion = {.op = &ds_op_lion, .run = run_lion};
