/* Attention of tokens of several sequences over keys and values in blocks, and the writing of
 * those. Neighbours of one sequence form a run: a chunk of a prompt, or the one new token of a
 * sequence that is being continued. A run is a problem of attention as any other (attention.c), but
 * for where its keys lie. */
#include "backend/cpu/attention.h"

#include <string.h>

#include <omp.h>

#include "graph/ops/ops.h"

/* ---- writing --------------------------------------------------------------------------------- */

/* Heads of one token, each with a scale of its own behind it. */
static void write_quantised(const ds_tensor *cache, const ds_tensor *x, int64_t slot,
                            int64_t token) {
    const int64_t heads = x->dims[1], dim = x->dims[2];
    for (int64_t h = 0; h < heads; h++) {
        float buffer[DS_BLOCK];
        const float *row = ds_cpu_fetch(x, (token * heads + h) * dim, 1, dim, buffer);
        int8_t *to = ds_at(cache, (slot * heads + h) * cache->dims[3]);
        const float scale = ds_cpu_quantise_row(row, dim, to);
        memcpy(to + dim, &scale, sizeof scale);
    }
}

static bool accepts_write(const ds_node *node) {
    return node->inputs[0]->type.dtype != DS_I8 || node->inputs[1]->type.dims[2] <= DS_BLOCK;
}

static ds_status run_write(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *cache = &args->outputs[0], *x = &args->inputs[1];
    const int32_t *slots = args->inputs[2].data;
    const int64_t n_slots = cache->dims[0] * cache->dims[1], row = x->dims[1] * x->dims[2];
    const size_t bytes = (size_t)row * ds_dtype_size(cache->dtype);
    for (int64_t t = 0; t < x->dims[0]; t++)
        if (slots[t] < 0 || slots[t] >= n_slots)
            continue;
        else if (cache->dtype == DS_I8)
            write_quantised(cache, x, slots[t], t);
        else
            memcpy(ds_at(cache, slots[t] * row), ds_at(x, t * row), bytes);
    return DS_OK;
}

const ds_kernel ds_cpu_paged_write = {
    .op = &ds_op_paged_write, .accepts = accepts_write, .run = run_write};

/* ---- attention ------------------------------------------------------------------------------- */

/* The problem of one run of tokens over so many keys. */
static ds_attention_problem problem_of(const ds_kernel_args *args, int64_t tokens, int64_t keys) {
    const ds_tensor *q = &args->inputs[0], *k = &args->inputs[1], *v = &args->inputs[2];
    const ds_tiles *amx = q->dtype == DS_BF16 ? ds_tiles_amx() : NULL;
    ds_attention_problem p = {
        .k = k,
        .v = v,
        .out = &args->outputs[0],
        .batch = 1,
        .tokens = tokens,
        .heads = q->dims[1],
        .head_dim = q->dims[2],
        .keys = keys,
        .kv_heads = k->dims[2],
        .v_dim = ds_cache_dim(v->dtype, v->dims[3]),
        .group = q->dims[1] / k->dims[2],
        .padded_dim = ds_round_up(q->dims[2], DS_TILE),
        .padded_v_dim = ds_round_up(ds_cache_dim(v->dtype, v->dims[3]), DS_TILE),
        .block_size = k->dims[1],
        .opts = *(const ds_attention_opts *)args->node->attrs,
        .tiles = amx ? amx : &ds_cpu_simd()->tiles,
    };
    p.opts.causal = true;
    return p;
}

/* For the longest sequence, in a run of any length. */
static size_t thread_bytes(const ds_kernel_args *args) {
    const int64_t keys = args->inputs[3].dims[1] * args->inputs[1].dims[1];
    const ds_attention_problem one = problem_of(args, 1, keys);
    const ds_attention_problem many = problem_of(args, DS_QUERY_BLOCK, keys);
    const size_t a = ds_attention_memory(&one), b = ds_attention_memory(&many);
    return a > b ? a : b;
}

static ds_status prepare(const ds_kernel_args *args, void **state, size_t *workspace_bytes) {
    *state = NULL;
    *workspace_bytes = thread_bytes(args) * (size_t)args->n_threads;
    return DS_OK;
}

static void clear_result(const ds_kernel_args *args, int64_t token) {
    const ds_tensor *out = &args->outputs[0];
    const int64_t row = out->dims[1] * out->dims[2];
    memset(ds_at(out, token * row), 0, (size_t)row * ds_dtype_size(out->dtype));
}

/* How many tokens from this one on stand one after the other in one sequence. */
static int64_t run_length(const ds_kernel_args *args, int64_t token) {
    const int32_t *owners = args->inputs[4].data, *positions = args->inputs[5].data;
    int64_t n = 1, first;
    while (token + n < args->inputs[0].dims[0] && owners[token + n] == owners[token] &&
           positions[token + n] == positions[token] + n &&
           ds_paged_keys(args, token + n, &first) > 0)
        n++;
    return n;
}

/* All threads work on one run; the loop has no barrier, so that they go on to the next one. */
static void attend_run(const ds_kernel_args *args, const ds_tensor *q, int64_t token, int64_t n,
                       char *memory) {
    const ds_tensor *tables = &args->inputs[3];
    const int32_t owner = ((const int32_t *)args->inputs[4].data)[token];
    const int32_t last = ((const int32_t *)args->inputs[5].data)[token + n - 1];
    ds_attention_problem p = problem_of(args, n, (int64_t)last + 1);
    p.q = q;
    p.table = (const int32_t *)tables->data + owner * tables->dims[1];
    p.q_at = token * args->inputs[0].strides[0];
    p.out_at = token * p.heads * p.v_dim;
    const int64_t parts = ds_attention_parts(&p, p.kv_heads, args->n_threads);
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t i = 0; i < p.kv_heads * parts; i++)
        ds_attention_run(&p, 0, i / parts, i % parts, parts, memory);
}

static ds_status run(const ds_kernel_args *args, ds_stream *stream) {
    (void)stream;
    const ds_tensor *in = &args->inputs[0];
    const size_t bytes = thread_bytes(args);
    ds_tensor q = *in; /* with an axis for the one sample */
    q.rank = 4;
    q.dims[0] = 1, q.strides[0] = 0;
    for (int i = 0; i < 3; i++)
        q.dims[i + 1] = in->dims[i], q.strides[i + 1] = in->strides[i];
#pragma omp parallel num_threads(args->n_threads)
    {
        char *memory = (char *)args->workspace + (size_t)omp_get_thread_num() * bytes;
        for (int64_t t = 0, n = 1; t < in->dims[0]; t += n) {
            int64_t first;
            n = 1;
            if (ds_paged_keys(args, t, &first) == 0) {
#pragma omp single nowait
                clear_result(args, t);
            } else {
                n = run_length(args, t);
                attend_run(args, &q, t, n, memory);
            }
        }
    }
    return DS_OK;
}

static bool accepts(const ds_node *node) {
    const ds_type *q = &node->inputs[0]->type, *v = &node->inputs[2]->type;
    const int64_t group = q->dims[1] / v->dims[2];
    return q->dims[2] <= DS_BLOCK && v->dims[3] <= DS_BLOCK && group <= DS_BLOCK;
}

const ds_kernel ds_cpu_paged_attention = {.op = &ds_op_paged_attention,
                                          .strided_inputs = 1,
                                          .accepts = accepts,
                                          .prepare = prepare,
                                          .run = run};
