/* The kernels of the CPU backend and what they share. */
#ifndef DS_CPU_KERNELS_H
#define DS_CPU_KERNELS_H

#include "backend/backend.h"
#include "backend/cpu/simd/simd.h"
#include "graph/ops/ops.h"

/* copy.c, elementwise.c, fused_elementwise.c, reduce.c, index.c, topk.c, quantise.c */
extern const ds_kernel ds_cpu_cast, ds_cpu_contiguous, ds_cpu_concat, ds_cpu_fill, ds_cpu_assign,
    ds_cpu_accumulate, ds_cpu_cache_write;
extern const ds_kernel ds_cpu_unary, ds_cpu_binary, ds_cpu_select, ds_cpu_fused_elementwise;
extern const ds_kernel ds_cpu_reduce, ds_cpu_sum_of_squares;
extern const ds_kernel ds_cpu_gather, ds_cpu_scatter_add, ds_cpu_moe_route;
extern const ds_kernel ds_cpu_argmax, ds_cpu_topk;
extern const ds_kernel ds_cpu_quantisation_scale, ds_cpu_quantise, ds_cpu_dequantise,
    ds_cpu_fake_quantise, ds_cpu_fake_quantise_grad;
/* optimizer.c */
extern const ds_kernel ds_cpu_adamw, ds_cpu_sgd, ds_cpu_lion;
/* softmax.c, norm.c, loss.c, rotary.c, dropout.c */
extern const ds_kernel ds_cpu_softmax, ds_cpu_softmax_grad, ds_cpu_log_softmax,
    ds_cpu_log_softmax_grad;
extern const ds_kernel ds_cpu_layer_norm, ds_cpu_layer_norm_grad, ds_cpu_rms_norm,
    ds_cpu_rms_norm_grad;
extern const ds_kernel ds_cpu_cross_entropy, ds_cpu_cross_entropy_grad, ds_cpu_linear_cross_entropy;
/* attention.c, attention_grad.c */
extern const ds_kernel ds_cpu_attention, ds_cpu_attention_grad;
/* paged_attention.c */
extern const ds_kernel ds_cpu_paged_write, ds_cpu_paged_attention;
extern const ds_kernel ds_cpu_rotary, ds_cpu_dropout;
/* matmul.c, grouped_matmul.c, conv.c */
extern const ds_kernel ds_cpu_matmul, ds_cpu_grouped_matmul, ds_cpu_grouped_matmul_weight;
/* quantised_matmul.c */
extern const ds_kernel ds_cpu_quantised_matmul;
extern const ds_kernel ds_cpu_conv2d, ds_cpu_conv2d_input_grad, ds_cpu_conv2d_weight_grad;

/* The inner loops in use. */
const ds_simd *ds_cpu_simd(void);

enum { DS_BLOCK = 1024 }; /* elements worked on at a time: 4 KB, a few fit the first cache */

/* Threads worth starting for so many elements: starting costs microseconds. */
int ds_cpu_threads(int64_t n_elements, int n_threads);

static inline int64_t ds_round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

static inline int64_t ds_least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Offset in bytes into a tensor. */
static inline void *ds_at(const ds_tensor *t, int64_t elements) {
    return (char *)t->data + elements * (int64_t)ds_dtype_size(t->dtype);
}

/* n elements at `offset` with `stride`, as f32: the tensor's own memory where it is f32 and the
 * stride 1, else `buffer` filled. Any dtype. */
const float *ds_cpu_fetch(const ds_tensor *t, int64_t offset, int64_t stride, int64_t n,
                          float *buffer);
/* The largest magnitude of n numbers; NaN if one of them is, 0 for none. */
float ds_cpu_magnitude(const float *x, int64_t n);
/* A row as int8 with one scale, which is returned: its largest magnitude / 127. */
float ds_cpu_quantise_row(const float *x, int64_t n, int8_t *to);
/* Where to write n f32 elements that belong at `offset`: the tensor's own memory or `buffer`, and
 * the conversion afterwards. Float dtypes, stride 1. */
float *ds_cpu_target(const ds_tensor *t, int64_t offset, float *buffer);
void ds_cpu_put(const ds_tensor *t, int64_t offset, const float *values, int64_t n);

/* to = from, same dims, any strides; floats are converted where dtypes differ. */
void ds_cpu_copy(const ds_tensor *from, const ds_tensor *to, int n_threads);

bool ds_cpu_is_row_major(const ds_tensor *t);

/* ---- walking over tensors of one shape ------------------------------------------------------- */

enum { DS_MAX_OPERANDS = 1 + DS_MAX_FUSED_OPERANDS }; /* the result and what it is made of */

/* The shape of the operands, with axes that lie next to each other in all of them joined, cut into
 * pieces of at most DS_BLOCK elements of the last axis. */
typedef struct ds_walk {
    int n_operands, rank; /* of the outer axes */
    int64_t dims[DS_MAX_RANK], strides[DS_MAX_OPERANDS][DS_MAX_RANK];
    int64_t inner, inner_stride[DS_MAX_OPERANDS];
    int64_t pieces_per_row, n_pieces, count;
} ds_walk;

typedef struct ds_piece {
    int64_t offset[DS_MAX_OPERANDS]; /* elements */
    int64_t n;
} ds_piece;

ds_walk ds_walk_over(const ds_tensor *const *operands, int n_operands);
ds_piece ds_walk_piece(const ds_walk *w, int64_t i);

#endif
