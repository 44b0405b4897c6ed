/* What the forward and the backward kernel of attention share: the problem's sizes, which keys a
 * query sees, and staging of rows into padded tiles. */
#ifndef DS_CPU_ATTENTION_H
#define DS_CPU_ATTENTION_H

#include "backend/cpu/kernels.h"

enum { DS_QUERY_BLOCK = 64, DS_KEY_BLOCK = 64 };

typedef struct ds_attention_problem {
    const ds_tensor *q, *k, *v; /* [batch, tokens, heads, dim], any strides */
    const ds_tensor *out;       /* [batch, tokens, heads, v_dim], row-major */
    float *lse;                 /* [batch, heads, tokens], or NULL */
    const int32_t *table;       /* k and v are [blocks, block_size, heads, dim], and keys are in */
    int64_t block_size;         /* these blocks of them, one after the other; NULL: by batch */
    int64_t q_at, out_at;       /* the first query and its result, elements */
    int64_t batch, tokens, heads, head_dim, keys, kv_heads, v_dim, group;
    int64_t padded_dim, padded_v_dim; /* to whole tiles */
    const int32_t *lengths;           /* [batch]; NULL: all keys */
    const int32_t *first_keys;        /* [batch, tokens]; NULL: from the first one on */
    ds_attention_opts opts;
    const ds_tiles *tiles;
} ds_attention_problem;

/* q is input `first`, key_lengths input `lengths` if there are so many, and first_keys the one
 * behind it. */
ds_attention_problem ds_attention_problem_of(const ds_kernel_args *args, int first, int lengths);

/* Keys [*from, *to) are seen by query t of sample b. */
void ds_attention_seen(const ds_attention_problem *p, int64_t b, int64_t t, int64_t *from,
                       int64_t *to);
/* Keys [*from, *to) hold all that any of the n queries from t on sees. */
void ds_attention_seen_by_any(const ds_attention_problem *p, int64_t b, int64_t t, int64_t n,
                              int64_t *from, int64_t *to);

/* ---- attention.c ----------------------------------------------------------------------------- */

/* Bytes that one thread needs for problems up to this one's keys. */
size_t ds_attention_memory(const ds_attention_problem *p);
/* How many tasks there are for a head of keys and values of one sample, so that `n_heads` heads
 * keep the threads busy. */
int64_t ds_attention_parts(const ds_attention_problem *p, int64_t n_heads, int n_threads);
/* One of them, in so much memory. */
void ds_attention_run(const ds_attention_problem *p, int64_t b, int64_t kv_head, int64_t part,
                      int64_t parts, char *memory);

/* Rows [row, row + n) of one head in the dtype of the tiles, padded with zeros to n_padded rows of
 * `padded` columns. */
void ds_attention_stage(const ds_tensor *t, int64_t b, int64_t row, int64_t head, int64_t n,
                        ds_dtype dtype, void *out, int64_t n_padded, int64_t padded);

/* A row of weights that attend() made of [first, end), as DS_KEY_BLOCK numbers of the tiles' dtype.
 */
void ds_attention_store_weights(ds_dtype dtype, const float *weights, int64_t first, int64_t end,
                                char *to);

/* A row of one head, as f32. */
const float *ds_attention_row(const ds_tensor *t, int64_t b, int64_t row, int64_t head,
                              float *buffer);

/* Where the next `bytes` begin in a thread's part of the workspace; *at moves on. With base NULL it
 * only counts. */
static inline void *ds_carve(char *base, size_t *at, int64_t bytes) {
    void *here = base ? base + *at : NULL;
    *at += (size_t)ds_round_up(bytes, 64);
    return here;
}

#endif
