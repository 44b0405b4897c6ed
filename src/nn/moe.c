/* A mixture of experts: tokens are sorted by the expert they chose, each expert's rows are one
 * block of a grouped matrix product, and the results return to their tokens weighted. */
#include <stdio.h>

#include "deepseek/nn.h"

/* experts · Σ_e (share of choices that went to e) · (mean probability of e) */
static ds_node *balance_loss(ds_graph *g, ds_node *probabilities, ds_node *chosen,
                             const ds_moe_opts *o) {
    const int64_t n = ds_node_count(chosen);
    ds_node *ones = ds_graph_fill(g, 1.0 / (double)n, DS_F32, 2, (int64_t[]){n, 1});
    ds_node *flat = ds_graph_reshape(g, chosen, 1, (int64_t[]){n});
    ds_node *share = ds_graph_stop_gradient(g, ds_graph_scatter_add(g, ones, flat, o->n_experts));
    share = ds_graph_reshape(g, share, 1, (int64_t[]){o->n_experts});
    ds_node *mean = ds_graph_reduce(g, DS_MEAN, probabilities, 1u << 0, false);
    return ds_graph_scale(g, ds_graph_sum_all(g, ds_graph_mul(g, share, mean)),
                          (float)o->n_experts);
}

static ds_node *expert_weight(ds_graph *g, const char *name, int64_t experts, int64_t rows,
                              int64_t columns, ds_init init) {
    return ds_graph_param(g, name, 3, (int64_t[]){experts, rows, columns}, init);
}

/* How each expert is rated by each token, in (0, 1). [tokens, experts] */
static ds_node *rate(ds_graph *g, ds_node *rows, const ds_moe_opts *o) {
    ds_node *logits = ds_nn_linear(g, "gate", rows, o->n_experts, false, o->init);
    return o->by_sigmoid ? ds_graph_unary(g, DS_SIGMOID, logits, 0) : ds_graph_softmax(g, logits);
}

/* Ratings with those of all but the best groups put far down. */
static ds_node *keep_best_groups(ds_graph *g, ds_node *ratings, const ds_moe_opts *o) {
    const int64_t n = ds_node_dim(ratings, 0), groups = o->n_groups;
    const int64_t size = o->n_experts / groups, best = o->group_best > 0 ? o->group_best : 1;
    const float far_down = -1e30f; /* finite: it may be multiplied by 0 */
    ds_node *grouped = ds_graph_reshape(g, ratings, 3, (int64_t[]){n, groups, size});
    ds_node *which = NULL; /* their places do not matter */
    ds_node *top = ds_graph_topk(g, grouped, best, &which);
    ds_node *score = ds_graph_reduce(g, DS_SUM, top, 1u << 2, false);
    ds_node *chosen = ds_graph_topk(g, score, o->groups_per_token, &which);
    ds_node *worst = ds_graph_slice(g, chosen, 1, o->groups_per_token - 1, 1);
    ds_node *left_out = ds_graph_binary(g, DS_LESS, score, worst);
    left_out = ds_graph_reshape(g, left_out, 3, (int64_t[]){n, groups, 1});
    ds_node *low = ds_graph_fill(g, far_down, ds_node_dtype(ratings), 0, NULL);
    return ds_graph_reshape(g, ds_graph_select(g, left_out, low, grouped), 2,
                            (int64_t[]){n, o->n_experts});
}

/* The ratings of the experts that each token goes to, [tokens, k], and which they are. */
static ds_node *choose(ds_graph *g, ds_node *ratings, const ds_moe_opts *o, ds_node **chosen) {
    ds_node *bias = NULL, *order = ratings;
    if (o->by_sigmoid) {
        ds_graph_push(g, "gate");
        bias = ds_graph_param(g, "e_score_correction_bias", 1, (int64_t[]){o->n_experts},
                              DS_INIT_ZEROS);
        ds_graph_pop(g);
        bias = ds_graph_stop_gradient(g, bias); /* it balances the experts, by another rule */
        order = ds_graph_add(g, ratings, bias);
    }
    if (o->n_groups > 1)
        order = keep_best_groups(g, order, o);
    ds_node *best = ds_graph_topk(g, order, o->experts_per_token, chosen);
    if (!bias)
        return best;
    ds_node *column = ds_graph_reshape(g, bias, 2, (int64_t[]){o->n_experts, 1});
    ds_node *added = ds_graph_gather(g, column, *chosen); /* [tokens, k, 1] */
    const int64_t dims[] = {ds_node_dim(best, 0), ds_node_dim(best, 1)};
    return ds_graph_sub(g, best, ds_graph_reshape(g, added, 2, dims));
}

static ds_node *weigh(ds_graph *g, ds_node *best, const ds_moe_opts *o) {
    if (!o->unnormalised)
        best = ds_graph_div(g, best, ds_graph_reduce(g, DS_SUM, best, 1u << 1, true));
    return o->scale > 0 ? ds_graph_scale(g, best, o->scale) : best;
}

/* Rows sorted by expert through their experts. */
static ds_node *apply_experts(ds_graph *g, ds_node *sorted, ds_node *offsets,
                              const ds_moe_opts *o) {
    const int64_t n = o->n_experts, inner = o->intermediate_size, hidden = ds_node_dim(sorted, -1);
    const ds_matmul_opts by_row = {.transpose_b = true};
    const char *const names[] = {o->gate ? o->gate : "w1", o->up ? o->up : "w3",
                                 o->down ? o->down : "w2"};
    char full[3][64];
    for (int i = 0; i < 3; i++)
        snprintf(full[i], sizeof full[i], "*.%s.weight", names[i]);
    ds_graph_push(g, "experts");
    ds_node *w1 = expert_weight(g, full[0], n, inner, hidden, o->init);
    ds_node *w3 = expert_weight(g, full[1], n, inner, hidden, o->init);
    ds_node *w2 = expert_weight(g, full[2], n, hidden, inner, o->init);
    ds_node *gate =
        ds_graph_unary(g, DS_SILU, ds_graph_grouped_matmul(g, sorted, w1, offsets, by_row), 0);
    ds_node *up = ds_graph_grouped_matmul(g, sorted, w3, offsets, by_row);
    ds_node *y = ds_graph_grouped_matmul(g, ds_graph_mul(g, gate, up), w2, offsets, by_row);
    ds_graph_pop(g);
    return y;
}

ds_node *ds_nn_moe(ds_graph *g, ds_node *x, ds_moe_opts o, ds_node **balance) {
    const int64_t hidden = ds_node_dim(x, -1), k = o.experts_per_token;
    const int64_t batch = ds_node_dim(x, 0), tokens = ds_node_dim(x, 1), n = batch * tokens;
    ds_node *rows = ds_graph_reshape(g, x, 2, (int64_t[]){n, hidden});
    ds_node *ratings = rate(g, rows, &o), *chosen = NULL, *offsets = NULL;
    ds_node *weights = weigh(g, choose(g, ratings, &o, &chosen), &o);
    *balance = balance_loss(g, ratings, chosen, &o);

    /* place p of the sorted list holds choice order[p] = token·k + slot */
    ds_node *order = ds_graph_moe_route(g, chosen, o.n_experts, &offsets);
    ds_node *repeated = ds_graph_reshape(
        g,
        ds_graph_broadcast(g, ds_graph_reshape(g, rows, 3, (int64_t[]){n, 1, hidden}), 3,
                           (int64_t[]){n, k, hidden}),
        2, (int64_t[]){n * k, hidden});
    ds_node *sorted = ds_graph_gather(g, repeated, order);
    ds_node *y = apply_experts(g, sorted, offsets, &o);

    ds_node *back = ds_graph_scatter_add(g, y, order, n * k); /* to the order of choices */
    back = ds_graph_reshape(g, back, 3, (int64_t[]){n, k, hidden});
    ds_node *weighted =
        ds_graph_mul(g, back, ds_graph_reshape(g, weights, 3, (int64_t[]){n, k, 1}));
    ds_node *sum = ds_graph_reduce(g, DS_SUM, weighted, 1u << 1, false);
    return ds_graph_reshape(g, sum, 3, (int64_t[]){batch, tokens, hidden});
}
