/* Ops that move elements: cast, contiguous, concat, fill, assign, accumulate, cache_write. */
#include <string.h>

#include "backend/cpu/kernels.h"

/* ---- strided copies -------------------------------------------------------------------------- */

static void copy_strided(const char *from, int64_t from_stride, char *to, int64_t to_stride,
                         int64_t n, size_t size) {
    if (from_stride == 1 && to_stride == 1) {
        memcpy(to, from, (size_t)n * size);
        return;
    }
    switch (size) {
    case 2:
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)to)[i * to_stride] = ((const uint16_t *)from)[i * from_stride];
        break;
    case 4:
        for (int64_t i = 0; i < n; i++)
            ((uint32_t *)to)[i * to_stride] = ((const uint32_t *)from)[i * from_stride];
        break;
    default:
        for (int64_t i = 0; i < n; i++)
            memcpy(to + i * to_stride * (int64_t)size, from + i * from_stride * (int64_t)size,
                   size);
    }
}

/* The outer axis along which `from` is dense while its last axis is not: then the last two are a
 * transposition. −1 if there is none. */
static int transposed_axis(const ds_walk *w, size_t size) {
    if ((size != 2 && size != 4) || w->inner_stride[1] != 1 || w->inner_stride[0] <= 1)
        return -1;
    for (int axis = 0; axis < w->rank; axis++)
        if (w->strides[0][axis] == 1)
            return axis;
    return -1;
}

/* `from`: rows are its dense axis's columns. Slabs of the result's rows go to the threads. */
static void copy_transposed(const ds_walk *w, int dense, const ds_tensor *from, const ds_tensor *to,
                            int n_threads) {
    enum { SLAB = 64 };
    const ds_simd *simd = ds_cpu_simd();
    const int64_t columns = w->dims[dense], slabs = (columns + SLAB - 1) / SLAB;
    int64_t others = 1;
    for (int axis = 0; axis < w->rank; axis++)
        others *= axis == dense ? 1 : w->dims[axis];
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < others * slabs; i++) {
        int64_t rest = i / slabs, start = i % slabs * SLAB;
        int64_t source = start, target = start * w->strides[1][dense];
        for (int axis = w->rank - 1; axis >= 0; axis--)
            if (axis != dense) {
                const int64_t at = rest % w->dims[axis];
                rest /= w->dims[axis];
                source += at * w->strides[0][axis];
                target += at * w->strides[1][axis];
            }
        const int64_t n = columns - start < SLAB ? columns - start : SLAB;
        if (ds_dtype_size(from->dtype) == 2)
            simd->transpose16(ds_at(from, source), w->inner_stride[0], ds_at(to, target),
                              w->strides[1][dense], w->inner, n);
        else
            simd->transpose32(ds_at(from, source), w->inner_stride[0], ds_at(to, target),
                              w->strides[1][dense], w->inner, n);
    }
}

static void convert_piece(const ds_walk *w, const ds_piece *p, const ds_tensor *from,
                          const ds_tensor *to) {
    float buffer[DS_BLOCK], out[DS_BLOCK];
    const float *x = ds_cpu_fetch(from, p->offset[0], w->inner_stride[0], p->n, buffer);
    if (w->inner_stride[1] == 1) {
        ds_cpu_simd()->store(to->dtype, x, ds_at(to, p->offset[1]), p->n);
        return;
    }
    const size_t size = ds_dtype_size(to->dtype);
    ds_cpu_simd()->store(to->dtype, x, out, p->n);
    copy_strided((const char *)out, 1, ds_at(to, p->offset[1]), w->inner_stride[1], p->n, size);
}

void ds_cpu_copy(const ds_tensor *from, const ds_tensor *to, int n_threads) {
    const ds_walk w = ds_walk_over((const ds_tensor *[]){from, to}, 2);
    const size_t size = ds_dtype_size(to->dtype);
    const int threads = ds_cpu_threads(w.count, n_threads);
    const int dense = from->dtype == to->dtype ? transposed_axis(&w, size) : -1;
    if (dense >= 0) {
        copy_transposed(&w, dense, from, to, threads);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < w.n_pieces; i++) {
        const ds_piece p = ds_walk_piece(&w, i);
        if (from->dtype == to->dtype)
            copy_strided(ds_at(from, p.offset[0]), w.inner_stride[0], ds_at(to, p.offset[1]),
                         w.inner_stride[1], p.n, size);
        else
            convert_piece(&w, &p, from, to);
    }
}

/* ---- cast, contiguous, concat ---------------------------------------------------------------- */

static bool casts_to_float(const ds_node *node) {
    return ds_dtype_is_float(node->type.dtype) != 0;
}

static ds_status run_copy(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    ds_cpu_copy(&args->inputs[0], &args->outputs[0], args->n_threads);
    return DS_OK;
}

const ds_kernel ds_cpu_cast = {
    .op = &ds_op_cast, .strided_inputs = 1, .accepts = casts_to_float, .run = run_copy};
const ds_kernel ds_cpu_contiguous = {.op = &ds_op_contiguous, .strided_inputs = 1, .run = run_copy};

static ds_status run_concat(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const int axis = ((const ds_concat_attrs *)args->node->attrs)->axis;
    int64_t start = 0;
    for (int i = 0; i < args->n_inputs; i++) {
        ds_tensor part = args->outputs[0];
        part.dims[axis] = args->inputs[i].dims[axis];
        part.data = ds_at(&part, start * part.strides[axis]);
        ds_cpu_copy(&args->inputs[i], &part, args->n_threads);
        start += part.dims[axis];
    }
    return DS_OK;
}

const ds_kernel ds_cpu_concat = {.op = &ds_op_concat, .strided_inputs = ~0u, .run = run_concat};

/* ---- fill, assign, accumulate ---------------------------------------------------------------- */

static bool fills_float(const ds_node *node) {
    return ds_dtype_is_float(node->type.dtype) != 0;
}

static ds_status run_fill(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *out = &args->outputs[0];
    const float value = (float)((const ds_fill_attrs *)args->node->attrs)->value;
    const int64_t n = ds_count(out->dims, out->rank), n_blocks = (n + DS_BLOCK - 1) / DS_BLOCK;
    float block[DS_BLOCK], stored[DS_BLOCK];
    ds_cpu_simd()->fill(value, block, DS_BLOCK);
    ds_cpu_simd()->store(out->dtype, block, stored, DS_BLOCK);
    const size_t size = ds_dtype_size(out->dtype);
#pragma omp parallel for num_threads(ds_cpu_threads(n, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < n_blocks; i++) {
        const int64_t start = i * DS_BLOCK, left = n - start;
        memcpy(ds_at(out, start), stored, (size_t)(left < DS_BLOCK ? left : DS_BLOCK) * size);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_fill = {.op = &ds_op_fill, .accepts = fills_float, .run = run_fill};

static ds_status run_assign(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    if (args->inputs[1].data != args->outputs[0].data)
        ds_cpu_copy(&args->inputs[1], &args->outputs[0], args->n_threads);
    return DS_OK;
}

const ds_kernel ds_cpu_assign = {.op = &ds_op_assign, .strided_inputs = 2, .run = run_assign};

static bool accumulates_float(const ds_node *node) {
    return ds_dtype_is_float(node->type.dtype) != 0;
}

static ds_status run_accumulate(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_simd *simd = ds_cpu_simd();
    const ds_tensor *x = &args->inputs[1], *y = &args->outputs[0];
    const ds_walk w = ds_walk_over((const ds_tensor *[]){y, x}, 2);
#pragma omp parallel for num_threads(ds_cpu_threads(w.count, args->n_threads)) schedule(static)
    for (int64_t i = 0; i < w.n_pieces; i++) {
        const ds_piece p = ds_walk_piece(&w, i);
        float a[DS_BLOCK], b[DS_BLOCK], out[DS_BLOCK];
        const float *sum = ds_cpu_fetch(y, p.offset[0], 1, p.n, a);
        const float *addend = ds_cpu_fetch(x, p.offset[1], w.inner_stride[1], p.n, b);
        float *target = ds_cpu_target(y, p.offset[0], out);
        simd->binary(DS_ADD, sum, addend, target, p.n);
        ds_cpu_put(y, p.offset[0], target, p.n);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_accumulate = {.op = &ds_op_accumulate,
                                     .strided_inputs = 2,
                                     .accepts = accumulates_float,
                                     .run = run_accumulate};

/* ---- cache_write ----------------------------------------------------------------------------- */

/* Row t of sample b goes to place start[b] + t of its cache, if there is such a place. */
static ds_status run_cache_write(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *cache = &args->outputs[0], *x = &args->inputs[1];
    const int32_t *start = args->inputs[2].data;
    const int64_t places = cache->dims[1], rows = x->dims[1];
    for (int64_t b = 0; b < x->dims[0]; b++) {
        const int64_t first = start[b] < 0 ? -(int64_t)start[b] : 0;
        const int64_t end = places - start[b] < rows ? places - start[b] : rows;
        if (first >= end)
            continue;
        ds_tensor from = *x, to = *cache;
        from.dims[0] = to.dims[0] = 1;
        from.dims[1] = to.dims[1] = end - first;
        from.data = ds_at(x, b * x->strides[0] + first * x->strides[1]);
        to.data = ds_at(cache, b * cache->strides[0] + (start[b] + first) * cache->strides[1]);
        ds_cpu_copy(&from, &to, args->n_threads);
    }
    return DS_OK;
}

const ds_kernel ds_cpu_cache_write = {
    .op = &ds_op_cache_write, .strided_inputs = 2, .run = run_cache_write};
