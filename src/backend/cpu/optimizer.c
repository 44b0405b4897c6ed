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

static float scalar(const ds_kernel_args *args, int k) {
    return *(const float *)args->inputs[args->n_inputs - args->node->op->n_scalars + k].data;
}

static ds_update constants(const ds_kernel_args *args) {
    const ds_update_attrs *a = args->node->attrs;
    ds_update u = {.lr = scalar(args, 0),
                   .grad_scale = scalar(args, 1),
                   .beta1 = a->beta1,
                   .beta2 = a->beta2,
                   .eps = a->eps,
                   .weight_decay = a->weight_decay};
    u.keep = (float)(1 - (double)u.lr * (double)a->weight_decay);
    if (args->node->op->n_scalars > 2) {
        const double step = (double)scalar(args, 2);
        u.m_correction = (float)(1 / (1 - pow((double)a->beta1, step)));
        u.v_correction = (float)(1 / (1 - pow((double)a->beta2, step)));
    }
    return u;
}

/* `tensors`: parameter, states, gradient, each `apart` from the one before. Parameter and states
 * are written back; in f32 they are changed where they lie. */
static void update_range(const ds_tensor *tensors, int apart, int n_changed, const ds_update *u,
                         update_block *block, int64_t start, int64_t n) {
    enum { MOST = 4 };
    float buffers[MOST][DS_BLOCK], *blocks[MOST] = {0};
    for (int k = 0; k <= n_changed; k++) /* fetch gives the tensor's own, writable, memory in f32 */
        blocks[k] = (float *)ds_cpu_fetch(&tensors[k * apart], start, 1, n, buffers[k]);
    block(u, blocks, n);
    for (int k = 0; k < n_changed; k++)
        ds_cpu_put(&tensors[k * apart], start, blocks[k], n);
}

static int64_t size_of(const ds_tensor *t) {
    return ds_count(t->dims, t->rank);
}

static int64_t blocks_of(const ds_tensor *t) {
    return (size_of(t) + DS_BLOCK - 1) / DS_BLOCK;
}

/* The blocks [first, end) of all tensors', counted through. */
static void update_blocks(const ds_kernel_args *args, const ds_update *u, update_block *block,
                          int64_t first, int64_t end) {
    const int n_tensors = ds_node_n_tensors(args->node), n_changed = args->node->op->n_changed;
    int64_t before = 0; /* blocks of earlier tensors */
    for (int t = 0; t < n_tensors && before < end; t++) {
        const ds_tensor *p = &args->inputs[t];
        const int64_t size = size_of(p), n = blocks_of(p);
        const int64_t last = end - before < n ? end - before : n;
        for (int64_t i = first > before ? first - before : 0; i < last; i++) {
            const int64_t left = size - i * DS_BLOCK;
            update_range(p, n_tensors, n_changed, u, block, i * DS_BLOCK,
                         left < DS_BLOCK ? left : DS_BLOCK);
        }
        before += n;
    }
}

/* One parallel region for all parameters, however small: each thread takes a run of blocks. */
static ds_status run_update(const ds_kernel_args *args, update_block *block) {
    const ds_update u = constants(args);
    if (!isfinite(u.grad_scale))
        return DS_OK;
    int64_t blocks = 0;
    for (int t = 0; t < ds_node_n_tensors(args->node); t++)
        blocks += blocks_of(&args->inputs[t]);
    const int parts = ds_cpu_threads(blocks * DS_BLOCK, args->n_threads);
#pragma omp parallel for num_threads(parts) schedule(static)
    for (int part = 0; part < parts; part++)
        update_blocks(args, &u, block, blocks * part / parts, blocks * (part + 1) / parts);
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
