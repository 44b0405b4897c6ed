/* Attention forward (Dao et al. 2022, FlashAttention): for each block of queries, blocks of keys
 * one after the other; scores stay in cache, the softmax is corrected as larger scores turn up.
 * Keys and values of a head are packed once for all the queries that see them. A few queries, as in
 * decoding, are done row by row instead: there reading the keys is all the work. */
#include "backend/cpu/attention.h"

#include <math.h>
#include <string.h>

#include <omp.h>

/* ---- shared with the backward pass ----------------------------------------------------------- */

ds_attention_problem ds_attention_problem_of(const ds_kernel_args *args, int first, int lengths) {
    const ds_tensor *q = &args->inputs[first], *k = q + 1, *v = q + 2;
    const ds_tiles *amx = q->dtype == DS_BF16 ? ds_tiles_amx() : NULL;
    return (ds_attention_problem){
        .q = q,
        .k = k,
        .v = v,
        .out = &args->outputs[0],
        .lse = args->outputs[1].data,
        .batch = q->dims[0],
        .tokens = q->dims[1],
        .heads = q->dims[2],
        .head_dim = q->dims[3],
        .keys = k->dims[1],
        .kv_heads = k->dims[2],
        .v_dim = v->dims[3],
        .group = q->dims[2] / k->dims[2],
        .padded_dim = ds_round_up(q->dims[3], DS_TILE),
        .padded_v_dim = ds_round_up(v->dims[3], DS_TILE),
        .lengths = args->n_inputs > lengths ? args->inputs[lengths].data : NULL,
        .first_keys = args->n_inputs > lengths + 1 ? args->inputs[lengths + 1].data : NULL,
        .opts = *(const ds_attention_opts *)args->node->attrs,
        .tiles = amx ? amx : &ds_cpu_simd()->tiles,
    };
}

void ds_attention_seen(const ds_attention_problem *p, int64_t b, int64_t t, int64_t *from,
                       int64_t *to) {
    int64_t length = p->lengths ? p->lengths[b] : p->keys;
    length = length < 0 ? 0 : length > p->keys ? p->keys : length;
    const int64_t own = length - p->tokens + t; /* the key at the query's own place */
    *to = p->opts.causal && own + 1 < length ? own + 1 : length;
    *from = p->opts.window > 0 && own + 1 > p->opts.window ? own + 1 - p->opts.window : 0;
    if (p->first_keys && p->first_keys[b * p->tokens + t] > *from)
        *from = p->first_keys[b * p->tokens + t];
    *from = *from > length ? length : *from;
    *to = *to < *from ? *from : *to;
}

void ds_attention_seen_by_any(const ds_attention_problem *p, int64_t b, int64_t t, int64_t n,
                              int64_t *from, int64_t *to) {
    int64_t unused;
    ds_attention_seen(p, b, t, from, &unused);
    ds_attention_seen(p, b, t + n - 1, &unused, to);
    if (!p->first_keys) /* then both ends rise with t */
        return;
    for (int64_t i = 0; i < n; i++) {
        int64_t first, end;
        ds_attention_seen(p, b, t + i, &first, &end);
        *from = first < *from ? first : *from;
        *to = end > *to ? end : *to;
    }
}

/* A head's row that begins at `at`; of a cache of i8 its codes times the scale that ends it. */
static const float *fetch_row(const ds_tensor *t, int64_t at, float *buffer) {
    const int64_t dim = ds_cache_dim(t->dtype, t->dims[3]);
    if (t->dtype != DS_I8)
        return ds_cpu_fetch(t, at, t->strides[3], dim, buffer);
    float scale;
    memcpy(&scale, ds_at(t, at + dim), sizeof scale);
    ds_cpu_simd()->dequantise(DS_I8, ds_at(t, at), scale, buffer, dim);
    return buffer;
}

const float *ds_attention_row(const ds_tensor *t, int64_t b, int64_t row, int64_t head,
                              float *buffer) {
    const int64_t at = b * t->strides[0] + row * t->strides[1] + head * t->strides[2];
    return fetch_row(t, at, buffer);
}

void ds_attention_stage(const ds_tensor *t, int64_t b, int64_t row, int64_t head, int64_t n,
                        ds_dtype dtype, void *out, int64_t n_padded, int64_t padded) {
    const int64_t dim = ds_cache_dim(t->dtype, t->dims[3]), size = (int64_t)ds_dtype_size(dtype);
    float buffer[DS_BLOCK];
    for (int64_t r = 0; r < n; r++) {
        char *to = (char *)out + r * padded * size;
        const int64_t at = b * t->strides[0] + (row + r) * t->strides[1] + head * t->strides[2];
        if (t->dtype == dtype && t->strides[3] == 1)
            memcpy(to, ds_at(t, at), (size_t)(dim * size));
        else
            ds_cpu_simd()->store(dtype, fetch_row(t, at, buffer), to, dim);
        memset(to + dim * size, 0, (size_t)((padded - dim) * size));
    }
    memset((char *)out + n * padded * size, 0, (size_t)((n_padded - n) * padded * size));
}

void ds_attention_store_weights(ds_dtype dtype, const float *weights, int64_t first, int64_t end,
                                char *to) {
    enum { LANES = 16 };
    const int64_t size = (int64_t)ds_dtype_size(dtype);
    const int64_t from = first / LANES * LANES, until = ds_round_up(end, LANES);
    if (from > 0)
        memset(to, 0, (size_t)(from * size));
    ds_cpu_simd()->store(dtype, weights + from, to + from * size, until - from);
    if (until < DS_KEY_BLOCK)
        memset(to + until * size, 0, (size_t)((DS_KEY_BLOCK - until) * size));
}

static bool accepts(const ds_node *node) {
    const ds_node *q = node->inputs[0], *v = node->inputs[2];
    return q->type.dims[3] <= DS_BLOCK && v->type.dims[3] <= DS_BLOCK;
}

/* ---- memory of one thread -------------------------------------------------------------------- */

typedef struct memory {
    char *keys, *values; /* packed, block after block */
    char *stage;         /* a block of rows before packing; the queries at hand */
    char *weights;       /* [queries, keys] in the dtype of the tiles */
    float *scores;       /* [queries, keys] */
    float *out;          /* [queries, v_dim] */
    float *few_scores;   /* [group, keys]: the row-by-row way */
    float *few_queries;  /* [group, head_dim] */
} memory;

enum { FEW = 4 }; /* queries of a head that are done row by row */

static memory lay_out(const ds_attention_problem *p, char *base, size_t *bytes) {
    const int64_t size = (int64_t)ds_dtype_size(p->tiles->dtype);
    const int64_t keys = ds_round_up(p->keys, DS_KEY_BLOCK);
    const int64_t widest = p->padded_dim > p->padded_v_dim ? p->padded_dim : p->padded_v_dim;
    memory m = {0};
    *bytes = 0;
    if (p->tokens <= FEW) {
        m.few_scores = ds_carve(base, bytes, p->group * keys * (int64_t)sizeof(float));
        m.few_queries = ds_carve(base, bytes, p->group * widest * (int64_t)sizeof(float));
        m.out = ds_carve(base, bytes, p->group * widest * (int64_t)sizeof(float));
        return m;
    }
    m.keys = ds_carve(base, bytes, keys * p->padded_dim * size);
    m.values = ds_carve(base, bytes, keys * p->padded_v_dim * size);
    m.stage = ds_carve(base, bytes, DS_QUERY_BLOCK * widest * size);
    m.weights = ds_carve(base, bytes, DS_QUERY_BLOCK * DS_KEY_BLOCK * size);
    m.scores = ds_carve(base, bytes, DS_QUERY_BLOCK * DS_KEY_BLOCK * (int64_t)sizeof(float));
    m.out = ds_carve(base, bytes, DS_QUERY_BLOCK * p->padded_v_dim * (int64_t)sizeof(float));
    return m;
}

size_t ds_attention_memory(const ds_attention_problem *p) {
    size_t bytes = 0;
    lay_out(p, NULL, &bytes);
    return bytes;
}

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    const ds_attention_problem p = ds_attention_problem_of(args, 0, args->n_inputs);
    *state = NULL;
    *workspace_bytes = ds_attention_memory(&p) * (size_t)args->n_threads;
    return DS_OK;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* Rows [row, row + n) of keys or values, wherever they are, as a whole block. */
static void stage_keys(const ds_attention_problem *p, const ds_tensor *t, int64_t b, int64_t row,
                       int64_t head, int64_t n, char *to, int64_t padded) {
    const int64_t row_bytes = padded * (int64_t)ds_dtype_size(p->tiles->dtype);
    if (!p->table) {
        ds_attention_stage(t, b, row, head, n, p->tiles->dtype, to, DS_KEY_BLOCK, padded);
        return;
    }
    for (int64_t done = 0; done < n;) {
        const int64_t within = (row + done) % p->block_size, whole = p->block_size - within;
        const int64_t count = n - done < whole ? n - done : whole;
        ds_attention_stage(t, p->table[(row + done) / p->block_size], within, head, count,
                           p->tiles->dtype, to + done * row_bytes, count, padded);
        done += count;
    }
    memset(to + n * row_bytes, 0, (size_t)((DS_KEY_BLOCK - n) * row_bytes));
}

/* Packs the key blocks that queries of sample b can see. */
static void pack_head(const ds_attention_problem *p, const memory *m, int64_t b, int64_t kv_head) {
    const ds_tiles *tiles = p->tiles;
    const int64_t size = (int64_t)ds_dtype_size(tiles->dtype);
    int64_t from, to;
    ds_attention_seen_by_any(p, b, 0, p->tokens, &from, &to);
    for (int64_t j = from / DS_KEY_BLOCK * DS_KEY_BLOCK; j < to; j += DS_KEY_BLOCK) {
        const int64_t n = p->keys - j < DS_KEY_BLOCK ? p->keys - j : DS_KEY_BLOCK;
        stage_keys(p, p->k, b, j, kv_head, n, m->stage, p->padded_dim);
        tiles->pack_columns(m->stage, p->padded_dim, p->padded_dim, DS_KEY_BLOCK,
                            m->keys + j * p->padded_dim * size);
        stage_keys(p, p->v, b, j, kv_head, n, m->stage, p->padded_v_dim);
        tiles->pack_rows(m->stage, p->padded_v_dim, DS_KEY_BLOCK, p->padded_v_dim,
                         m->values + j * p->padded_v_dim * size);
    }
}

static ds_tensor queries_of(const ds_attention_problem *p) {
    ds_tensor q = *p->q;
    q.data = ds_at(&q, p->q_at);
    return q;
}

typedef struct running {
    float max[DS_QUERY_BLOCK], sum[DS_QUERY_BLOCK];
} running;

/* Scores of the block of keys at j → weights in the dtype of the tiles. */
static void weigh(const ds_attention_problem *p, const memory *m, running *run, int64_t b,
                  int64_t t0, int64_t n, int64_t n_padded, int64_t j) {
    const ds_simd *simd = ds_cpu_simd();
    const int64_t size = (int64_t)ds_dtype_size(p->tiles->dtype);
    for (int64_t r = 0; r < n_padded; r++) {
        char *to = m->weights + r * DS_KEY_BLOCK * size;
        float *scores = m->scores + r * DS_KEY_BLOCK;
        int64_t first = 0, end = 0;
        if (r < n) {
            ds_attention_seen(p, b, t0 + r, &first, &end);
            first = first < j ? 0 : first - j;
            end = end - j > DS_KEY_BLOCK ? DS_KEY_BLOCK : end - j;
        }
        if (first >= end) {
            memset(to, 0, (size_t)(DS_KEY_BLOCK * size));
            continue;
        }
        simd->attend(scores, first, end, p->opts.scale, &run->max[r], &run->sum[r],
                     m->out + r * p->padded_v_dim, p->padded_v_dim);
        ds_attention_store_weights(p->tiles->dtype, scores, first, end, to);
    }
}

static void finish_row(const ds_attention_problem *p, int64_t b, int64_t t, int64_t head, float max,
                       float sum, float *out) {
    const ds_tensor *to = p->out;
    const int64_t at = p->out_at + ((b * p->tokens + t) * p->heads + head) * p->v_dim;
    if (p->lse)
        p->lse[(b * p->heads + head) * p->tokens + t] =
            max == -INFINITY ? -INFINITY : max + logf(sum);
    ds_cpu_simd()->unary(DS_SCALE, max == -INFINITY ? 0 : 1 / sum, out, out, p->v_dim);
    ds_cpu_simd()->store(to->dtype, out, ds_at(to, at), p->v_dim);
}

static void attend_block(const ds_attention_problem *p, const memory *m, int64_t b, int64_t head,
                         int64_t t0) {
    const ds_tiles *tiles = p->tiles;
    const int64_t size = (int64_t)ds_dtype_size(tiles->dtype);
    const int64_t left = p->tokens - t0, n = left < DS_QUERY_BLOCK ? left : DS_QUERY_BLOCK;
    const int64_t n_padded = ds_round_up(n, 16);
    running run;
    int64_t from, to;
    ds_attention_seen_by_any(p, b, t0, n, &from, &to);
    const ds_tensor q = queries_of(p);
    ds_attention_stage(&q, b, t0, head, n, tiles->dtype, m->stage, n_padded, p->padded_dim);
    memset(m->out, 0, (size_t)(n_padded * p->padded_v_dim) * sizeof *m->out);
    for (int64_t r = 0; r < n; r++)
        run.max[r] = -INFINITY, run.sum[r] = 0;
    for (int64_t j = from / DS_KEY_BLOCK * DS_KEY_BLOCK; j < to; j += DS_KEY_BLOCK) {
        tiles->multiply(m->stage, p->padded_dim, m->keys + j * p->padded_dim * size, m->scores,
                        DS_KEY_BLOCK, n_padded, DS_KEY_BLOCK, p->padded_dim, false);
        weigh(p, m, &run, b, t0, n, n_padded, j);
        tiles->multiply(m->weights, DS_KEY_BLOCK, m->values + j * p->padded_v_dim * size, m->out,
                        p->padded_v_dim, n_padded, p->padded_v_dim, DS_KEY_BLOCK, true);
    }
    for (int64_t r = 0; r < n; r++)
        finish_row(p, b, t0 + r, head, run.max[r], run.sum[r], m->out + r * p->padded_v_dim);
}

/* Every `parts`-th block of queries of the heads that share the key-value head. */
static void attend_heads(const ds_attention_problem *p, const memory *m, int64_t b, int64_t kv_head,
                         int64_t part, int64_t parts) {
    const int64_t blocks = (p->tokens + DS_QUERY_BLOCK - 1) / DS_QUERY_BLOCK;
    if (p->tiles->begin)
        p->tiles->begin();
    pack_head(p, m, b, kv_head);
    for (int64_t i = part; i < blocks * p->group; i += parts)
        attend_block(p, m, b, kv_head * p->group + i / blocks, i % blocks * DS_QUERY_BLOCK);
    if (p->tiles->end)
        p->tiles->end();
}

/* Rows of keys or values as they lie in memory. */
typedef struct dense_rows {
    const void *first;
    ds_dtype dtype;
    int64_t n; /* as far apart as strides[1] */
} dense_rows;

/* From key j on: as many as lie as far apart, those of a block or all up to `to`. What is not
 * floats side by side is fetched into the buffer, one at a time. */
static dense_rows rows_from(const ds_attention_problem *p, const ds_tensor *t, int64_t b, int64_t j,
                            int64_t to, int64_t head, float *buffer) {
    const int64_t within = p->table ? j % p->block_size : j;
    const int64_t sample = p->table ? p->table[j / p->block_size] : b;
    const int64_t at = sample * t->strides[0] + within * t->strides[1] + head * t->strides[2];
    if (t->strides[3] != 1 || t->dtype == DS_I8)
        return (dense_rows){.first = fetch_row(t, at, buffer), .dtype = DS_F32, .n = 1};
    const int64_t most = p->table ? ds_least(p->block_size - within, to - j) : to - j;
    return (dense_rows){.first = ds_at(t, at), .dtype = t->dtype, .n = most};
}

/* few_scores[group][from … to) */
static void score_few(const ds_attention_problem *p, const memory *m, int64_t b, int64_t kv_head,
                      int64_t from, int64_t to) {
    const int64_t keys = ds_round_up(p->keys, DS_KEY_BLOCK);
    float buffer[DS_BLOCK];
    for (int64_t j = from; j < to;) {
        const dense_rows k = rows_from(p, p->k, b, j, to, kv_head, buffer);
        for (int64_t g = 0; g < p->group; g += DS_DOTS_ROWS)
            ds_cpu_simd()->dots(k.dtype, k.first, p->k->strides[1],
                                m->few_queries + g * p->padded_dim, p->padded_dim,
                                (int)ds_least(DS_DOTS_ROWS, p->group - g),
                                m->few_scores + g * keys + j, keys, k.n, p->head_dim);
        j += k.n;
    }
}

/* out[group] += the values, weighted. */
static void add_few(const ds_attention_problem *p, const memory *m, int64_t b, int64_t kv_head,
                    int64_t from, int64_t to) {
    const int64_t keys = ds_round_up(p->keys, DS_KEY_BLOCK);
    float buffer[DS_BLOCK];
    for (int64_t j = from; j < to;) {
        const dense_rows v = rows_from(p, p->v, b, j, to, kv_head, buffer);
        ds_cpu_simd()->axpys(v.dtype, v.first, p->v->strides[1], m->few_scores + j, keys,
                             (int)p->group, m->out, p->padded_v_dim, p->v_dim, v.n);
        j += v.n;
    }
}

/* ---- row by row ------------------------------------------------------------------------------ */

static void attend_few(const ds_attention_problem *p, const memory *m, int64_t b, int64_t kv_head,
                       int64_t t) {
    const ds_simd *simd = ds_cpu_simd();
    const int64_t keys = ds_round_up(p->keys, DS_KEY_BLOCK);
    const ds_tensor queries = queries_of(p);
    float buffer[DS_BLOCK];
    int64_t from, to;
    ds_attention_seen(p, b, t, &from, &to);
    for (int64_t g = 0; g < p->group; g++) {
        const float *q = ds_attention_row(&queries, b, t, kv_head * p->group + g, buffer);
        memcpy(m->few_queries + g * p->padded_dim, q, (size_t)p->head_dim * sizeof *q);
    }
    score_few(p, m, b, kv_head, from, to);
    memset(m->out, 0, (size_t)(p->group * p->padded_v_dim) * sizeof *m->out);
    float max[DS_BLOCK], sum[DS_BLOCK];
    for (int64_t g = 0; g < p->group; g++) {
        max[g] = -INFINITY, sum[g] = 0;
        if (from < to)
            simd->attend(m->few_scores + g * keys, from, to, p->opts.scale, &max[g], &sum[g], NULL,
                         0);
    }
    add_few(p, m, b, kv_head, from, to);
    for (int64_t g = 0; g < p->group; g++)
        finish_row(p, b, t, kv_head * p->group + g, max[g], sum[g], m->out + g * p->padded_v_dim);
}

/* ---- run ------------------------------------------------------------------------------------- */

int64_t ds_attention_parts(const ds_attention_problem *p, int64_t n_heads, int n_threads) {
    enum { TASKS_A_THREAD = 4 }; /* so that the last ones leave few threads idle */
    return p->tokens <= FEW ? p->tokens
                            : ((int64_t)TASKS_A_THREAD * n_threads + n_heads - 1) / n_heads;
}

void ds_attention_run(const ds_attention_problem *p, int64_t b, int64_t kv_head, int64_t part,
                      int64_t parts, char *where) {
    size_t unused = 0;
    const memory m = lay_out(p, where, &unused);
    if (p->tokens <= FEW)
        attend_few(p, &m, b, kv_head, part);
    else
        attend_heads(p, &m, b, kv_head, part, parts);
}

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_attention_problem p = ds_attention_problem_of(args, 0, 3);
    const int64_t heads = p.batch * p.kv_heads;
    const size_t bytes = ds_attention_memory(&p);
    if (ds_count(args->outputs[1].dims, 3) == 0)
        return DS_OK;
    const int64_t parts = ds_attention_parts(&p, heads, args->n_threads);
#pragma omp parallel for num_threads(args->n_threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < heads * parts; i++) {
        const int64_t head = i / parts;
        char *mine = (char *)args->workspace + (size_t)omp_get_thread_num() * bytes;
        ds_attention_run(&p, head / p.kv_heads, head % p.kv_heads, i % parts, parts, mine);
    }
    return DS_OK;
}

static bool accepts_group(const ds_node *node) {
    const ds_type *q = &node->inputs[0]->type, *k = &node->inputs[1]->type;
    return accepts(node) && q->dims[2] / k->dims[2] <= DS_BLOCK;
}

const ds_kernel ds_cpu_attention = {.op = &ds_op_attention,
                                    .strided_inputs = 7,
                                    .accepts = accepts_group,
                                    .prepare = prepare,
                                    .run = run};
