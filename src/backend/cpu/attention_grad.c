/* Attention backward: weights are recomputed from lse tile by tile. Keys and values of a head are
 * packed once in the three forms that the products need; dk and dv are gathered turned, so that
 * weights and their gradients enter as right operands and no tile has to be transposed:
 *     S = q kᵀ    dP = dout vᵀ    dq += dS k    dvᵀ += doutᵀ P    dkᵀ += qᵀ dS */
#include <math.h>
#include <string.h>

#include <omp.h>

#include "backend/cpu/attention.h"

typedef struct memory {
    char *key_columns, *key_rows, *value_columns; /* packed, block after block */
    float *dkeys, *dvalues;                       /* [dim, keys of a block], block after block */
    char *q, *q_turned, *dout, *dout_turned;      /* the queries at hand */
    char *weights, *dscores, *packed;             /* [queries, keys] */
    float *scores, *dweights;                     /* [queries, keys] */
    float *dq;                                    /* [queries, dim] */
    float *rows;                                  /* turned back: [keys, dim] */
    float *through;                               /* Σ dout·out of each query */
} memory;

static memory lay_out(const ds_attention_problem *p, char *base, size_t *bytes) {
    const int64_t size = (int64_t)ds_dtype_size(p->tiles->dtype), real = (int64_t)sizeof(float);
    const int64_t keys = ds_round_up(p->keys, DS_KEY_BLOCK), dim = p->padded_dim;
    const int64_t v_dim = p->padded_v_dim, widest = dim > v_dim ? dim : v_dim;
    const int64_t tile = DS_QUERY_BLOCK * DS_KEY_BLOCK;
    memory m;
    *bytes = 0;
    m.key_columns = ds_carve(base, bytes, keys * dim * size);
    m.key_rows = ds_carve(base, bytes, keys * dim * size);
    m.value_columns = ds_carve(base, bytes, keys * v_dim * size);
    m.dkeys = ds_carve(base, bytes, keys * dim * real);
    m.dvalues = ds_carve(base, bytes, keys * v_dim * real);
    m.q = ds_carve(base, bytes, DS_QUERY_BLOCK * widest * size); /* also stages keys and values */
    m.q_turned = ds_carve(base, bytes, DS_QUERY_BLOCK * dim * size);
    m.dout = ds_carve(base, bytes, DS_QUERY_BLOCK * v_dim * size);
    m.dout_turned = ds_carve(base, bytes, DS_QUERY_BLOCK * v_dim * size);
    m.weights = ds_carve(base, bytes, tile * size);
    m.dscores = ds_carve(base, bytes, tile * size);
    m.packed = ds_carve(base, bytes, tile * size);
    m.scores = ds_carve(base, bytes, tile * real);
    m.dweights = ds_carve(base, bytes, tile * real);
    m.dq = ds_carve(base, bytes, DS_QUERY_BLOCK * dim * real);
    m.rows = ds_carve(base, bytes, DS_KEY_BLOCK * widest * real);
    m.through = ds_carve(base, bytes, DS_QUERY_BLOCK * real);
    return m;
}

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    const ds_attention_problem p = ds_attention_problem_of(args, 1, args->n_inputs);
    size_t bytes = 0;
    *state = NULL;
    lay_out(&p, NULL, &bytes);
    *workspace_bytes = bytes * (size_t)args->n_threads;
    return DS_OK;
}

static void pack_head(const ds_attention_problem *p, const memory *m, int64_t b, int64_t kv_head) {
    const ds_tiles *tiles = p->tiles;
    const int64_t size = (int64_t)ds_dtype_size(tiles->dtype);
    const int64_t dim = p->padded_dim, v_dim = p->padded_v_dim;
    for (int64_t j = 0; j < p->keys; j += DS_KEY_BLOCK) {
        const int64_t n = p->keys - j < DS_KEY_BLOCK ? p->keys - j : DS_KEY_BLOCK;
        ds_attention_stage(p->k, b, j, kv_head, n, tiles->dtype, m->q, DS_KEY_BLOCK, dim);
        tiles->pack_columns(m->q, dim, dim, DS_KEY_BLOCK, m->key_columns + j * dim * size);
        tiles->pack_rows(m->q, dim, DS_KEY_BLOCK, dim, m->key_rows + j * dim * size);
        ds_attention_stage(p->v, b, j, kv_head, n, tiles->dtype, m->q, DS_KEY_BLOCK, v_dim);
        tiles->pack_columns(m->q, v_dim, v_dim, DS_KEY_BLOCK, m->value_columns + j * v_dim * size);
    }
    const int64_t keys = ds_round_up(p->keys, DS_KEY_BLOCK);
    memset(m->dkeys, 0, (size_t)(keys * dim) * sizeof *m->dkeys);
    memset(m->dvalues, 0, (size_t)(keys * v_dim) * sizeof *m->dvalues);
}

static void turn(ds_dtype dtype, const void *from, int64_t rows, int64_t columns, void *to) {
    if (ds_dtype_size(dtype) == 2)
        ds_cpu_simd()->transpose16(from, columns, to, rows, rows, columns);
    else
        ds_cpu_simd()->transpose32(from, columns, to, rows, rows, columns);
}

/* What one block of queries needs, padded to a whole block. */
static void stage_queries(const ds_kernel_args *args, const ds_attention_problem *p,
                          const memory *m, int64_t b, int64_t head, int64_t t0, int64_t n) {
    const ds_tensor *dout = &args->inputs[0], *out = &args->inputs[4];
    const ds_dtype dtype = p->tiles->dtype;
    float left[DS_BLOCK], right[DS_BLOCK];
    ds_attention_stage(p->q, b, t0, head, n, dtype, m->q, DS_QUERY_BLOCK, p->padded_dim);
    ds_attention_stage(dout, b, t0, head, n, dtype, m->dout, DS_QUERY_BLOCK, p->padded_v_dim);
    turn(dtype, m->q, DS_QUERY_BLOCK, p->padded_dim, m->q_turned);
    turn(dtype, m->dout, DS_QUERY_BLOCK, p->padded_v_dim, m->dout_turned);
    for (int64_t r = 0; r < n; r++)
        m->through[r] = ds_cpu_simd()->dot(ds_attention_row(dout, b, t0 + r, head, left),
                                           ds_attention_row(out, b, t0 + r, head, right), p->v_dim);
    memset(m->dq, 0, (size_t)(DS_QUERY_BLOCK * p->padded_dim) * sizeof *m->dq);
}

static void weigh(const ds_attention_problem *p, const memory *m, const float *lse, int64_t b,
                  int64_t t0, int64_t n, int64_t j) {
    const ds_dtype dtype = p->tiles->dtype;
    const int64_t bytes = DS_KEY_BLOCK * (int64_t)ds_dtype_size(dtype);
    for (int64_t r = 0; r < DS_QUERY_BLOCK; r++) {
        float *scores = m->scores + r * DS_KEY_BLOCK, *dweights = m->dweights + r * DS_KEY_BLOCK;
        int64_t first = 0, end = 0;
        if (r < n) {
            ds_attention_seen(p, b, t0 + r, &first, &end);
            first = first < j ? 0 : first - j;
            end = end - j > DS_KEY_BLOCK ? DS_KEY_BLOCK : end - j;
        }
        if (first >= end) {
            memset(m->weights + r * bytes, 0, (size_t)bytes);
            memset(m->dscores + r * bytes, 0, (size_t)bytes);
            continue;
        }
        ds_cpu_simd()->attend_grad(scores, dweights, first, end, p->opts.scale, lse[r],
                                   m->through[r]);
        ds_attention_store_weights(dtype, scores, first, end, m->weights + r * bytes);
        ds_attention_store_weights(dtype, dweights, first, end, m->dscores + r * bytes);
    }
}

static void one_tile(const ds_attention_problem *p, const memory *m, const float *lse, int64_t b,
                     int64_t t0, int64_t n, int64_t j) {
    const ds_tiles *tiles = p->tiles;
    const int64_t size = (int64_t)ds_dtype_size(tiles->dtype);
    const int64_t dim = p->padded_dim, v_dim = p->padded_v_dim;
    tiles->multiply(m->q, dim, m->key_columns + j * dim * size, m->scores, DS_KEY_BLOCK,
                    DS_QUERY_BLOCK, DS_KEY_BLOCK, dim, false);
    tiles->multiply(m->dout, v_dim, m->value_columns + j * v_dim * size, m->dweights, DS_KEY_BLOCK,
                    DS_QUERY_BLOCK, DS_KEY_BLOCK, v_dim, false);
    weigh(p, m, lse, b, t0, n, j);
    tiles->multiply(m->dscores, DS_KEY_BLOCK, m->key_rows + j * dim * size, m->dq, dim,
                    DS_QUERY_BLOCK, dim, DS_KEY_BLOCK, true);
    tiles->pack_rows(m->weights, DS_KEY_BLOCK, DS_QUERY_BLOCK, DS_KEY_BLOCK, m->packed);
    tiles->multiply(m->dout_turned, DS_QUERY_BLOCK, m->packed, m->dvalues + j * v_dim, DS_KEY_BLOCK,
                    v_dim, DS_KEY_BLOCK, DS_QUERY_BLOCK, true);
    tiles->pack_rows(m->dscores, DS_KEY_BLOCK, DS_QUERY_BLOCK, DS_KEY_BLOCK, m->packed);
    tiles->multiply(m->q_turned, DS_QUERY_BLOCK, m->packed, m->dkeys + j * dim, DS_KEY_BLOCK, dim,
                    DS_KEY_BLOCK, DS_QUERY_BLOCK, true);
}

static void store_rows(const ds_tensor *to, int64_t b, int64_t row, int64_t head, int64_t n,
                       const float *values, int64_t stride) {
    for (int64_t r = 0; r < n; r++) {
        const int64_t at = ((b * to->dims[1] + row + r) * to->dims[2] + head) * to->dims[3];
        ds_cpu_simd()->store(to->dtype, values + r * stride, ds_at(to, at), to->dims[3]);
    }
}

static void query_block(const ds_kernel_args *args, const ds_attention_problem *p, const memory *m,
                        int64_t b, int64_t head, int64_t t0) {
    const int64_t left = p->tokens - t0, n = left < DS_QUERY_BLOCK ? left : DS_QUERY_BLOCK;
    const float *lse = (const float *)args->inputs[5].data + (b * p->heads + head) * p->tokens + t0;
    int64_t from, to;
    ds_attention_seen_by_any(p, b, t0, n, &from, &to);
    stage_queries(args, p, m, b, head, t0, n);
    for (int64_t j = from / DS_KEY_BLOCK * DS_KEY_BLOCK; j < to; j += DS_KEY_BLOCK)
        one_tile(p, m, lse, b, t0, n, j);
    store_rows(&args->outputs[0], b, t0, head, n, m->dq, p->padded_dim);
}

static void store_keys(const ds_tensor *to, const memory *m, const float *turned, int64_t b,
                       int64_t kv_head, int64_t dim) {
    for (int64_t j = 0; j < to->dims[1]; j += DS_KEY_BLOCK) {
        const int64_t left = to->dims[1] - j, n = left < DS_KEY_BLOCK ? left : DS_KEY_BLOCK;
        turn(DS_F32, turned + j * dim, dim, DS_KEY_BLOCK, m->rows);
        store_rows(to, b, j, kv_head, n, m->rows, dim);
    }
}

static void one_head(const ds_kernel_args *args, const ds_attention_problem *p, const memory *m,
                     int64_t b, int64_t kv_head) {
    if (p->tiles->begin)
        p->tiles->begin();
    pack_head(p, m, b, kv_head);
    for (int64_t g = 0; g < p->group; g++)
        for (int64_t t0 = 0; t0 < p->tokens; t0 += DS_QUERY_BLOCK)
            query_block(args, p, m, b, kv_head * p->group + g, t0);
    if (p->tiles->end)
        p->tiles->end();
    store_keys(&args->outputs[1], m, m->dkeys, b, kv_head, p->padded_dim);
    store_keys(&args->outputs[2], m, m->dvalues, b, kv_head, p->padded_v_dim);
}

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_attention_problem p = ds_attention_problem_of(args, 1, 6);
    const int64_t heads = p.batch * p.kv_heads;
    size_t bytes = 0;
    lay_out(&p, NULL, &bytes);
#pragma omp parallel for num_threads(args->n_threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < heads; i++) {
        size_t unused = 0;
        const memory m =
            lay_out(&p, (char *)args->workspace + (size_t)omp_get_thread_num() * bytes, &unused);
        one_head(args, &p, &m, i / p.kv_heads, i % p.kv_heads);
    }
    return DS_OK;
}

static bool accepts(const ds_node *node) {
    return node->inputs[1]->type.dims[3] <= DS_BLOCK && node->inputs[3]->type.dims[3] <= DS_BLOCK;
}

const ds_kernel ds_cpu_attention_grad = {.op = &ds_op_attention_grad,
                                         .strided_inputs = 0x1F, /* dout, q, k, v, out */
                                         .accepts = accepts,
                                         .prepare = prepare,
                                         .run = run};
