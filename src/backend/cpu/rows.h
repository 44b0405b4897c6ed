/* Kernels that work row by row (the last axis) and need whole rows as f32. */
#ifndef DS_CPU_ROWS_H
#define DS_CPU_ROWS_H

#include "backend/cpu/kernels.h"

/* Columns rounded up so that the rows of threads share no cache line. */
static inline int64_t ds_row_stride(int64_t n) {
    return (n + 15) / 16 * 16 + 16;
}

/* Workspace for `buffers` rows of n floats in each thread. */
static inline size_t ds_row_buffers(const ds_kernel_args *args, int buffers, int64_t n) {
    return (size_t)args->n_threads * (size_t)buffers * (size_t)ds_row_stride(n) * sizeof(float);
}

/* The thread's own buffers, one after the other, ds_row_stride(n) apart. */
static inline float *ds_row_buffer(const ds_kernel_args *args, int buffers, int64_t n, int thread) {
    return (float *)args->workspace + (int64_t)thread * buffers * ds_row_stride(n);
}

static inline int64_t ds_columns(const ds_tensor *t) {
    return t->dims[t->rank - 1];
}

static inline int64_t ds_rows(const ds_tensor *t) {
    return ds_count(t->dims, t->rank - 1);
}

/* loss.c: log Σ exp of n logits from `start` on; and their gradient, which may be written over
 * them: dloss (softmax − 1 at the label), zeros where the label says to ignore the row. */
double ds_cpu_log_sum_exp(const ds_tensor *logits, int64_t start, int64_t n);
void ds_cpu_cross_entropy_grad_row(const ds_tensor *logits, int64_t start, int64_t n, int32_t label,
                                   float lse, float dloss, const ds_tensor *out);

#endif
