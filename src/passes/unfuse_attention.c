/* Attention written out: scores, mask, softmax and weighted sum as separate ops over a score matrix
 * [batch, heads, tokens, keys] that lies in memory and waits there for the backward pass. It is
 * what the fused op spares; this pass exists to measure that, and to have a second opinion on its
 * values. It comes before autodiff, so that the gradient is the one of the parts. */
#include "graph/ops/ops.h"
#include "passes/passes.h"

/* What the visibility of keys depends on. */
typedef struct visibility {
    int64_t batch, tokens, keys;
    ds_node *lengths;    /* i32 [batch] in the new graph, or NULL: all keys */
    ds_node *first_keys; /* i32 [batch, tokens], or NULL: from the first one on */
    ds_attention_opts opts;
} visibility;

typedef struct unfuse_pass {
    visibility of; /* the mask made last; most models have one for all layers */
    ds_node *mask;
} unfuse_pass;

static bool is_same(const visibility *a, const visibility *b) {
    return a->batch == b->batch && a->tokens == b->tokens && a->keys == b->keys &&
           a->lengths == b->lengths && a->first_keys == b->first_keys &&
           a->opts.causal == b->opts.causal && a->opts.window == b->opts.window;
}

static ds_node *counted(ds_graph *g, int64_t n, int rank, const int64_t *dims) {
    return ds_graph_reshape(g, ds_graph_cast(g, ds_graph_iota(g, n), DS_F32), rank, dims);
}

/* key_length of each sample, as the fused op reads it: in 0 … keys. f32 [batch, 1, 1, 1] or [1]. */
static ds_node *lengths_of(ds_graph *g, const visibility *v) {
    const float most = (float)v->keys;
    if (!v->lengths)
        return ds_graph_fill(g, (double)most, DS_F32, 1, (int64_t[]){1});
    ds_node *n = ds_graph_reshape(g, ds_graph_cast(g, v->lengths, DS_F32), 4,
                                  (int64_t[]){v->batch, 1, 1, 1});
    n = ds_graph_binary(g, DS_MINIMUM, n, ds_graph_fill(g, (double)most, DS_F32, 0, NULL));
    return ds_graph_binary(g, DS_MAXIMUM, n, ds_graph_fill(g, 0, DS_F32, 0, NULL));
}

static ds_node *both(ds_graph *g, ds_node *a, ds_node *b) {
    return a ? ds_graph_mul(g, a, b) : b;
}

/* 1 where a key is seen, else 0: f32 [tokens, keys] or [batch, 1, tokens, keys]; NULL: all are.
 * Query t stands at position length − tokens + t. */
static ds_node *make_mask(ds_graph *g, const visibility *v) {
    if (!v->lengths && !v->first_keys && !v->opts.causal && v->opts.window == 0)
        return NULL;
    ds_node *length = lengths_of(g, v), *mask = NULL;
    ds_node *key = counted(g, v->keys, 1, &v->keys);
    ds_node *own = ds_graph_add(g, ds_graph_unary(g, DS_OFFSET, length, -(float)v->tokens),
                                counted(g, v->tokens, 2, (int64_t[]){v->tokens, 1}));
    if (v->lengths)
        mask = ds_graph_binary(g, DS_LESS, key, length);
    if (v->opts.causal) {
        ds_node *next = ds_graph_unary(g, DS_OFFSET, own, 1);
        mask = both(g, mask, ds_graph_binary(g, DS_LESS, key, next));
    }
    if (v->opts.window > 0) {
        ds_node *last_unseen = ds_graph_unary(g, DS_OFFSET, own, -(float)v->opts.window);
        mask = both(g, mask, ds_graph_binary(g, DS_LESS, last_unseen, key));
    }
    if (v->first_keys) {
        ds_node *first = ds_graph_reshape(g, ds_graph_cast(g, v->first_keys, DS_F32), 4,
                                          (int64_t[]){v->batch, 1, v->tokens, 1});
        ds_node *last_unseen = ds_graph_unary(g, DS_OFFSET, first, -1);
        mask = both(g, mask, ds_graph_binary(g, DS_LESS, last_unseen, key));
    }
    return mask;
}

static ds_node *mask_for(unfuse_pass *pass, ds_graph *g, const visibility *v) {
    if (!is_same(&pass->of, v)) {
        const int segment = g->segment;
        g->segment = 0; /* all layers read it: it is nobody's to recompute */
        pass->mask = make_mask(g, v);
        pass->of = *v;
        g->segment = segment;
    }
    return pass->mask;
}

/* mask ? x : value */
static ds_node *masked(ds_graph *g, ds_node *mask, ds_node *x, float value) {
    ds_node *instead = ds_graph_fill(g, (double)value, x->type.dtype, 0, NULL);
    return ds_graph_select(g, mask, x, instead);
}

static const float UNSEEN = -1e30f; /* far below any score, yet finite: no ∞ − ∞ in the softmax */

/* Heads that share a key-value head stand one after the other and are one taller matrix. */
static ds_node *write_out(unfuse_pass *pass, ds_graph *g, const ds_attention_opts *opts,
                          ds_node *const *in, int n_inputs) {
    static const int swap[] = {0, 2, 1, 3}; /* tokens and heads */
    const ds_type *q = &in[0]->type, *v = &in[2]->type;
    const int64_t batch = q->dims[0], tokens = q->dims[1], heads = q->dims[2];
    const int64_t keys = v->dims[1], kv_heads = v->dims[2];
    const int64_t per_kv_head[] = {batch, kv_heads, heads / kv_heads * tokens, -1};
    const int64_t per_head[] = {batch, heads, tokens, -1};
    const visibility sight = {.batch = batch,
                              .tokens = tokens,
                              .keys = keys,
                              .lengths = n_inputs > 3 ? in[3] : NULL,
                              .first_keys = n_inputs > 4 ? in[4] : NULL,
                              .opts = *opts};
    ds_node *mask = mask_for(pass, g, &sight);

    ds_node *rows = ds_graph_reshape(g, ds_graph_permute(g, in[0], swap), 4, per_kv_head);
    ds_node *scores = ds_graph_matmul(g, rows, ds_graph_permute(g, in[1], swap),
                                      (ds_matmul_opts){.transpose_b = true});
    scores = ds_graph_reshape(g, ds_graph_cast(g, scores, DS_F32), 4, per_head);
    scores = ds_graph_scale(g, scores, opts->scale);
    if (mask)
        scores = masked(g, mask, scores, UNSEEN);
    ds_node *weights = ds_graph_softmax(g, scores);
    if (sight.lengths || sight.first_keys ||
        (mask && keys < tokens)) /* a query may see nothing: then zeros */
        weights = masked(g, mask, weights, 0);
    weights = ds_graph_reshape(g, ds_graph_cast(g, weights, v->dtype), 4, per_kv_head);
    ds_node *y = ds_graph_matmul(g, weights, ds_graph_permute(g, in[2], swap), (ds_matmul_opts){0});
    return ds_graph_permute(g, ds_graph_reshape(g, y, 4, per_head), swap);
}

static bool reads_one_result(const ds_node *attention) {
    return !attention->results || !attention->results[1];
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *inputs) {
    if (node->op != &ds_op_attention || !reads_one_result(node))
        return ds_graph_copy_node(to, node, inputs);
    return write_out(r->context, to, node->attrs, inputs, node->n_inputs);
}

ds_graph *ds_pass_unfuse_attention(const ds_graph *g) {
    unfuse_pass pass = {.of = {.batch = -1}};
    return ds_graph_rewrite(g, rewrite_node, &pass);
}
