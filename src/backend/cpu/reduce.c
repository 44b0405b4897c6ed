/* Sums, means and extremes over axes, and the sum of squares of many tensors. Every sum is cut into
 * the same pieces and added up in the same order whatever the number of threads. */
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"

/* The input as [kept, reduced, after]: `after` axes are kept again. */
typedef struct layout {
    int64_t kept, reduced, after;
} layout;

/* False when reduced and kept axes alternate more often than that. */
static bool find_layout(const ds_node *node, layout *out) {
    const ds_reduce_attrs *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type;
    *out = (layout){1, 1, 1};
    int stage = 0; /* 0 in kept, 1 in reduced, 2 in after */
    for (int axis = 0; axis < x->rank; axis++) {
        const bool gone = a->axes >> axis & 1u;
        if (x->dims[axis] == 1)
            continue;
        if (gone && stage == 2)
            return false;
        stage = gone ? 1 : stage == 1 ? 2 : stage;
        *(stage == 0 ? &out->kept : stage == 1 ? &out->reduced : &out->after) *= x->dims[axis];
    }
    return true;
}

static bool accepts_reduce(const ds_node *node) {
    layout l;
    return find_layout(node, &l);
}

static double join(ds_reduction kind, double a, double b) {
    switch (kind) {
    case DS_MAX: return b > a || isnan(b) ? b : a;
    case DS_MIN: return b < a || isnan(b) ? b : a;
    default: return a + b;
    }
}

static double start_of(ds_reduction kind) {
    return kind == DS_MAX ? -INFINITY : kind == DS_MIN ? INFINITY : 0;
}

static double reduce_piece(ds_reduction kind, const float *x, int64_t n) {
    const ds_simd *simd = ds_cpu_simd();
    switch (kind) {
    case DS_MAX: return (double)simd->max(x, n);
    case DS_MIN: return (double)simd->min(x, n);
    default: return (double)simd->sum(x, n);
    }
}

static double reduce_run(ds_reduction kind, const ds_tensor *x, int64_t start, int64_t n) {
    double total = start_of(kind);
    float buffer[DS_BLOCK];
    for (int64_t i = 0; i < n; i += DS_BLOCK) {
        const int64_t length = n - i < DS_BLOCK ? n - i : DS_BLOCK;
        const float *v = ds_cpu_fetch(x, start + i, 1, length, buffer);
        total = join(kind, total, reduce_piece(kind, v, length));
    }
    return total;
}

static void store_one(const ds_tensor *out, int64_t at, double value) {
    const float f = (float)value;
    ds_cpu_simd()->store(out->dtype, &f, ds_at(out, at), 1);
}

/* ---- over the last axes ---------------------------------------------------------------------- */

enum { CHUNK = 32 * DS_BLOCK }; /* of one long row: its own partial result */

static void reduce_rows(const ds_kernel_args *args, const layout *l, ds_reduction kind,
                        double factor) {
    const ds_tensor *x = &args->inputs[0], *out = &args->outputs[0];
    const int64_t chunks = l->reduced ? (l->reduced + CHUNK - 1) / CHUNK : 0;
    const int threads = ds_cpu_threads(l->kept * l->reduced, args->n_threads);
    double *partial = args->workspace;
    if (chunks <= 1) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t r = 0; r < l->kept; r++)
            store_one(out, r, factor * reduce_run(kind, x, r * l->reduced, l->reduced));
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < l->kept * chunks; i++) {
        const int64_t start = i % chunks * CHUNK, left = l->reduced - start;
        partial[i] =
            reduce_run(kind, x, i / chunks * l->reduced + start, left < CHUNK ? left : CHUNK);
    }
    for (int64_t r = 0; r < l->kept; r++) {
        double total = start_of(kind);
        for (int64_t c = 0; c < chunks; c++)
            total = join(kind, total, partial[r * chunks + c]);
        store_one(out, r, factor * total);
    }
}

/* ---- over axes before kept ones: columns, a block of them at a time -------------------------- */

enum { COLUMNS = 256, GROUP = 64 }; /* rows summed before they join the total, for accuracy */

static void reduce_columns(const ds_tensor *x, const layout *l, ds_reduction kind, int64_t first,
                           int64_t n, float *total) {
    const ds_simd *simd = ds_cpu_simd();
    const ds_binary op = kind == DS_MAX ? DS_MAXIMUM : kind == DS_MIN ? DS_MINIMUM : DS_ADD;
    float group[COLUMNS], buffer[COLUMNS];
    simd->fill((float)start_of(kind), total, n);
    for (int64_t r0 = 0; r0 < l->reduced; r0 += GROUP) {
        const int64_t r1 = r0 + GROUP < l->reduced ? r0 + GROUP : l->reduced;
        simd->fill((float)start_of(kind), group, n);
        for (int64_t r = r0; r < r1; r++) {
            const float *row = ds_cpu_fetch(x, first + r * l->after, 1, n, buffer);
            if (op == DS_ADD)
                simd->axpy(1, row, group, n);
            else /* a NaN in the second operand of a maximum wins, as it should */
                simd->binary(op, group, row, group, n);
        }
        simd->binary(op, total, group, total, n);
    }
}

static void reduce_leading(const ds_kernel_args *args, const layout *l, ds_reduction kind,
                           float factor) {
    const ds_tensor *out = &args->outputs[0];
    const int64_t blocks = (l->after + COLUMNS - 1) / COLUMNS;
    const int threads = ds_cpu_threads(l->kept * l->reduced * l->after, args->n_threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < l->kept * blocks; i++) {
        const int64_t outer = i / blocks, start = i % blocks * COLUMNS, left = l->after - start;
        const int64_t n = left < COLUMNS ? left : COLUMNS;
        float total[COLUMNS];
        reduce_columns(&args->inputs[0], l, kind, outer * l->reduced * l->after + start, n, total);
        if (factor != 1.0f)
            ds_cpu_simd()->unary(DS_SCALE, factor, total, total, n);
        ds_cpu_simd()->store(out->dtype, total, ds_at(out, outer * l->after + start), n);
    }
}

static ds_status prepare_reduce(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    layout l;
    *state = NULL;
    find_layout(args->node, &l);
    *workspace_bytes = (size_t)(l.kept * ((l.reduced + CHUNK - 1) / CHUNK)) * sizeof(double);
    return DS_OK;
}

static ds_status run_reduce(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_reduction kind = ((const ds_reduce_attrs *)args->node->attrs)->kind;
    layout l;
    find_layout(args->node, &l);
    const double factor = kind == DS_MEAN ? 1.0 / (double)l.reduced : 1.0;
    if (l.after == 1)
        reduce_rows(args, &l, kind, factor);
    else
        reduce_leading(args, &l, kind, (float)factor);
    return DS_OK;
}

/* The kinds of extremes over leading axes ignore a NaN already found: left to the reference. */
static bool accepts(const ds_node *node) {
    const ds_reduction kind = ((const ds_reduce_attrs *)node->attrs)->kind;
    layout l;
    if (!accepts_reduce(node) || !find_layout(node, &l))
        return false;
    return l.after == 1 || kind == DS_SUM || kind == DS_MEAN;
}

const ds_kernel ds_cpu_reduce = {
    .op = &ds_op_reduce, .accepts = accepts, .prepare = prepare_reduce, .run = run_reduce};

/* ---- sum of squares -------------------------------------------------------------------------- */

static int64_t chunks_of(const ds_tensor *x) {
    return (ds_count(x->dims, x->rank) + CHUNK - 1) / CHUNK;
}

static ds_status prepare_squares(const ds_kernel_args *args, void **state,
                                 size_t *workspace_bytes) {
    int64_t most = 0;
    for (int k = 0; k < args->n_inputs; k++)
        most = chunks_of(&args->inputs[k]) > most ? chunks_of(&args->inputs[k]) : most;
    *state = NULL;
    *workspace_bytes = (size_t)most * sizeof(double);
    return DS_OK;
}

static double squares_of_chunk(const ds_tensor *x, int64_t start, int64_t n) {
    float buffer[DS_BLOCK];
    double sum = 0;
    for (int64_t i = 0; i < n; i += DS_BLOCK) {
        const int64_t length = n - i < DS_BLOCK ? n - i : DS_BLOCK;
        const float *v = ds_cpu_fetch(x, start + i, 1, length, buffer);
        sum += (double)ds_cpu_simd()->sum_of_squares(v, length);
    }
    return sum;
}

static ds_status run_squares(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    double *partial = args->workspace, total = 0;
    for (int k = 0; k < args->n_inputs; k++) {
        const ds_tensor *x = &args->inputs[k];
        const int64_t n = ds_count(x->dims, x->rank), chunks = chunks_of(x);
#pragma omp parallel for num_threads(ds_cpu_threads(n, args->n_threads)) schedule(static)
        for (int64_t c = 0; c < chunks; c++) {
            const int64_t left = n - c * CHUNK;
            partial[c] = squares_of_chunk(x, c * CHUNK, left < CHUNK ? left : CHUNK);
        }
        for (int64_t c = 0; c < chunks; c++)
            total += partial[c];
    }
    *(float *)args->outputs[0].data = (float)total;
    return DS_OK;
}

const ds_kernel ds_cpu_sum_of_squares = {
    .op = &ds_op_sum_of_squares, .prepare = prepare_squares, .run = run_squares};
