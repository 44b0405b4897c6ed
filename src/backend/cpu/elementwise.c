/* Element-wise ops over tensors of any strides, a block at a time. */
#include "backend/cpu/kernels.h"

enum { MOST_INPUTS = 3 }; /* of select */

typedef void compute_block(const ds_node *node, const float *const *inputs, float *y, int64_t n);

static ds_status run_blocks(const ds_kernel_args *args, compute_block *compute) {
    const ds_tensor *out = &args->outputs[0];
    const ds_tensor *operands[DS_MAX_OPERANDS] = {out};
    for (int k = 0; k < args->n_inputs; k++)
        operands[1 + k] = &args->inputs[k];
    const ds_walk w = ds_walk_over(operands, 1 + args->n_inputs);
#pragma omp parallel for num_threads(ds_cpu_threads(w.count, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < w.n_pieces; i++) {
        const ds_piece p = ds_walk_piece(&w, i);
        float buffers[MOST_INPUTS][DS_BLOCK], result[DS_BLOCK];
        const float *inputs[MOST_INPUTS];
        for (int k = 0; k < args->n_inputs; k++)
            inputs[k] = ds_cpu_fetch(&args->inputs[k], p.offset[1 + k], w.inner_stride[1 + k], p.n,
                                     buffers[k]);
        float *y = ds_cpu_target(out, p.offset[0], result);
        compute(args->node, inputs, y, p.n);
        ds_cpu_put(out, p.offset[0], y, p.n);
    }
    return DS_OK;
}

static void unary_block(const ds_node *node, const float *const *inputs, float *y, int64_t n) {
    const ds_unary_attrs *a = node->attrs;
    ds_cpu_simd()->unary(a->kind, a->alpha, inputs[0], y, n);
}

static void binary_block(const ds_node *node, const float *const *inputs, float *y, int64_t n) {
    const ds_binary_attrs *a = node->attrs;
    ds_cpu_simd()->binary(a->kind, inputs[0], inputs[1], y, n);
}

static void select_block(const ds_node *node, const float *const *inputs, float *y, int64_t n) {
    (void)node;
    ds_cpu_simd()->select(inputs[0], inputs[1], inputs[2], y, n);
}

static ds_status run_unary(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_blocks(args, unary_block);
}

static ds_status run_binary(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_blocks(args, binary_block);
}

static ds_status run_select(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    return run_blocks(args, select_block);
}

static bool chooses_floats(const ds_node *node) {
    return ds_dtype_is_float(node->type.dtype) != 0;
}

const ds_kernel ds_cpu_unary = {
    .op = &ds_op_unary, .strided_inputs = 1, .in_place = 1, .run = run_unary};
const ds_kernel ds_cpu_binary = {
    .op = &ds_op_binary, .strided_inputs = 3, .in_place = 3, .run = run_binary};
const ds_kernel ds_cpu_select = {.op = &ds_op_select,
                                 .strided_inputs = 7,
                                 .in_place = 6,
                                 .accepts = chooses_floats,
                                 .run = run_select};
