/* Iteration over tensors of one shape and unlike strides, and access to pieces of them as f32. */
#include <pthread.h>
#include <string.h>

#include "backend/cpu/kernels.h"

static const ds_simd *chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void) {
    chosen = ds_simd_best();
}

const ds_simd *ds_cpu_simd(void) {
    pthread_once(&once, choose);
    return chosen;
}

int ds_cpu_threads(int64_t n_elements, int n_threads) {
    enum { WORTH_A_THREAD = 16384 };
    const int64_t useful = n_elements / WORTH_A_THREAD + 1;
    return useful < n_threads ? (int)useful : n_threads;
}

bool ds_cpu_is_row_major(const ds_tensor *t) {
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dims[i] != 1 && t->strides[i] != stride)
            return false;
        stride *= t->dims[i];
    }
    return true;
}

/* ---- walk ------------------------------------------------------------------------------------ */

ds_walk ds_walk_over(const ds_tensor *const *operands, int n_operands) {
    ds_walk w = {.n_operands = n_operands, .count = 1};
    int64_t dims[DS_MAX_RANK + 1], strides[DS_MAX_OPERANDS][DS_MAX_RANK + 1];
    int rank = 0;
    for (int axis = 0; axis < operands[0]->rank; axis++) {
        const int64_t size = operands[0]->dims[axis];
        w.count *= size;
        if (size == 1)
            continue;
        bool joins = rank > 0;
        for (int k = 0; k < n_operands && joins; k++)
            joins = strides[k][rank - 1] == operands[k]->strides[axis] * size;
        if (!joins)
            dims[rank++] = 1;
        dims[rank - 1] *= size;
        for (int k = 0; k < n_operands; k++)
            strides[k][rank - 1] = operands[k]->strides[axis];
    }
    w.inner = rank ? dims[rank - 1] : 1;
    w.rank = rank ? rank - 1 : 0;
    int64_t outer = 1;
    for (int axis = 0; axis < w.rank; axis++)
        outer *= w.dims[axis] = dims[axis];
    for (int k = 0; k < n_operands; k++) {
        w.inner_stride[k] = rank ? strides[k][rank - 1] : 1;
        memcpy(w.strides[k], strides[k], sizeof(int64_t) * (size_t)w.rank);
    }
    w.pieces_per_row = (w.inner + DS_BLOCK - 1) / DS_BLOCK;
    w.n_pieces = outer * w.pieces_per_row;
    return w;
}

ds_piece ds_walk_piece(const ds_walk *w, int64_t i) {
    ds_piece p = {.n = w->inner};
    int64_t row = i, start = 0;
    if (w->pieces_per_row > 1) {
        row = i / w->pieces_per_row;
        start = i % w->pieces_per_row * DS_BLOCK;
        p.n = w->inner - start < DS_BLOCK ? w->inner - start : DS_BLOCK;
    }
    for (int k = 0; k < w->n_operands; k++)
        p.offset[k] = start * w->inner_stride[k];
    for (int axis = w->rank - 1; axis >= 0; axis--) {
        const int64_t at = row % w->dims[axis];
        row /= w->dims[axis];
        for (int k = 0; k < w->n_operands; k++)
            p.offset[k] += at * w->strides[k][axis];
    }
    return p;
}

/* ---- pieces as f32 --------------------------------------------------------------------------- */

static float element(const ds_tensor *t, int64_t at) {
    float f;
    switch (t->dtype) {
    case DS_I8: return ((const int8_t *)t->data)[at];
    case DS_U8: return ((const uint8_t *)t->data)[at];
    case DS_I32: return (float)((const int32_t *)t->data)[at];
    case DS_I64: return (float)((const int64_t *)t->data)[at];
    default: ds_cpu_simd()->load(t->dtype, ds_at(t, at), &f, 1); return f;
    }
}

const float *ds_cpu_fetch(const ds_tensor *t, int64_t offset, int64_t stride, int64_t n,
                          float *buffer) {
    const bool is_float = ds_dtype_is_float(t->dtype) != 0;
    if (stride == 1 && t->dtype == DS_F32)
        return (const float *)t->data + offset;
    if (stride == 1 && is_float)
        ds_cpu_simd()->load(t->dtype, ds_at(t, offset), buffer, n);
    else if (stride == 0 && n > 0)
        ds_cpu_simd()->fill(element(t, offset), buffer, n);
    else if (t->dtype == DS_F32)
        for (int64_t i = 0; i < n; i++)
            buffer[i] = ((const float *)t->data)[offset + i * stride];
    else
        for (int64_t i = 0; i < n; i++)
            buffer[i] = element(t, offset + i * stride);
    return buffer;
}

float *ds_cpu_target(const ds_tensor *t, int64_t offset, float *buffer) {
    return t->dtype == DS_F32 ? (float *)t->data + offset : buffer;
}

void ds_cpu_put(const ds_tensor *t, int64_t offset, const float *values, int64_t n) {
    if (t->dtype != DS_F32)
        ds_cpu_simd()->store(t->dtype, values, ds_at(t, offset), n);
}
