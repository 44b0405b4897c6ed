/* Rotary position embedding. The angles of a position are the same for every head and run, so each
 * node keeps a table of cosines and sines by position that grows as positions turn up. */
#include <math.h>
#include <stdlib.h>

#include "backend/cpu/kernels.h"
#include "base/alloc.h"

enum { MOST_POSITIONS = 1 << 20 }; /* beyond: the reference */

typedef struct table {
    int64_t n_positions, half;
    float *cosine, *sine; /* [n_positions, half] */
} table;

static void release(void *memory) {
    table *t = memory;
    if (t) {
        free(t->cosine);
        free(t->sine);
        free(t);
    }
}

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    (void)workspace_bytes;
    table *t = ds_calloc(1, sizeof *t);
    if (!t)
        return DS_OUT_OF_MEMORY;
    t->half = ((const ds_rotary_opts *)args->node->attrs)->n_dims / 2;
    *state = t;
    return DS_OK;
}

static ds_status grow(table *t, const ds_rotary_opts *a, int64_t n_positions, int n_threads) {
    if (n_positions <= t->n_positions)
        return DS_OK;
    const size_t bytes = (size_t)(n_positions * t->half) * sizeof(float);
    float *cosine = ds_realloc(t->cosine, bytes);
    if (!cosine)
        return DS_OUT_OF_MEMORY;
    t->cosine = cosine;
    float *sine = ds_realloc(t->sine, bytes);
    if (!sine)
        return DS_OUT_OF_MEMORY;
    t->sine = sine;
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < t->half; i++) {
        const double frequency = ds_rotary_frequency(a, i), size = ds_rotary_magnitude(a);
        for (int64_t p = t->n_positions; p < n_positions; p++) {
            const double angle = (double)p * frequency;
            t->cosine[p * t->half + i] = (float)(size * cos(angle));
            t->sine[p * t->half + i] = (float)(size * (a->inverse ? -sin(angle) : sin(angle)));
        }
    }
    t->n_positions = n_positions;
    return DS_OK;
}

static void turn_head(const table *t, const ds_rotary_opts *a, int64_t position, const float *x,
                      float *y, int64_t head_dim) {
    const float *c = t->cosine + position * t->half, *s = t->sine + position * t->half;
    for (int64_t i = a->n_dims; i < head_dim; i++)
        y[i] = x[i];
    if (!a->interleaved) {
        ds_cpu_simd()->rotate(x, x + t->half, c, s, y, y + t->half, t->half);
        return;
    }
    for (int64_t i = 0; i < t->half; i++) {
        const float u = x[2 * i], v = x[2 * i + 1];
        y[2 * i] = u * c[i] - v * s[i];
        y[2 * i + 1] = u * s[i] + v * c[i];
    }
}

static void turn_token(const ds_kernel_args *args, int64_t row, int64_t position) {
    const ds_tensor *in = &args->inputs[0], *out = &args->outputs[0];
    const int64_t tokens = in->dims[1], heads = in->dims[2], head_dim = in->dims[3];
    const int64_t start = row / tokens * in->strides[0] + row % tokens * in->strides[1];
    float buffer[DS_BLOCK], result[DS_BLOCK];
    for (int64_t h = 0; h < heads; h++) {
        const float *x =
            ds_cpu_fetch(in, start + h * in->strides[2], in->strides[3], head_dim, buffer);
        float *y = ds_cpu_target(out, (row * heads + h) * head_dim, result);
        turn_head(args->state, args->node->attrs, position, x, y, head_dim);
        ds_cpu_put(out, (row * heads + h) * head_dim, y, head_dim);
    }
}

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    const ds_tensor *in = &args->inputs[0], *positions = &args->inputs[1];
    const int64_t tokens = in->dims[1], rows = in->dims[0] * tokens;
    const int64_t n_positions = ds_count(positions->dims, positions->rank);
    const int32_t *position = positions->data;
    int64_t last = -1;
    for (int64_t i = 0; i < n_positions; i++) {
        if (position[i] < 0 || position[i] >= MOST_POSITIONS)
            return ds_kernel_reference.run(args, stream);
        last = position[i] > last ? position[i] : last;
    }
    DS_TRY(grow(args->state, args->node->attrs, last + 1, args->n_threads));
    const int threads = ds_cpu_threads(rows * in->dims[2] * in->dims[3], args->n_threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        turn_token(args, row, position[positions->rank == 2 ? row : row % tokens]);
    return DS_OK;
}

static bool accepts(const ds_node *node) {
    return node->type.dims[3] <= DS_BLOCK;
}

const ds_kernel ds_cpu_rotary = {.op = &ds_op_rotary,
                                 .strided_inputs = 1,
                                 .accepts = accepts,
                                 .prepare = prepare,
                                 .release = release,
                                 .run = run};
