/* A mixture of experts: tokens are sorted by the expert they chose, each expert's rows are one
 * block of a grouped matrix product, and the results return to their tokens weighted. */
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

ds_node *ds_nn_moe(ds_graph *g, ds_node *x, ds_moe_opts o, ds_node **balance) {
    const int64_t hidden = ds_node_dim(x, -1), k = o.experts_per_token;
    const int64_t batch = ds_node_dim(x, 0), tokens = ds_node_dim(x, 1), n = batch * tokens;
    ds_node *rows = ds_graph_reshape(g, x, 2, (int64_t[]){n, hidden});
    ds_node *rating = ds_nn_linear(g, "gate", rows, o.n_experts, false, o.init);
    ds_node *probabilities = ds_graph_softmax(g, rating), *chosen = NULL, *offsets = NULL;
    ds_node *best = ds_graph_topk(g, probabilities, k, &chosen);
    ds_node *total = ds_graph_reduce(g, DS_SUM, best, 1u << 1, true);
    ds_node *weights = ds_graph_div(g, best, total); /* softmax over the chosen */
    *balance = balance_loss(g, probabilities, chosen, &o);

    /* place p of the sorted list holds choice order[p] = token·k + slot */
    ds_node *order = ds_graph_moe_route(g, chosen, o.n_experts, &offsets);
    ds_node *repeated = ds_graph_reshape(
        g,
        ds_graph_broadcast(g, ds_graph_reshape(g, rows, 3, (int64_t[]){n, 1, hidden}), 3,
                           (int64_t[]){n, k, hidden}),
        2, (int64_t[]){n * k, hidden});
    ds_node *sorted = ds_graph_gather(g, repeated, order);

    ds_graph_push(g, "experts");
    const ds_matmul_opts by_row = {.transpose_b = true};
    ds_node *w1 = expert_weight(g, "*.w1.weight", o.n_experts, o.intermediate_size, hidden, o.init);
    ds_node *w3 = expert_weight(g, "*.w3.weight", o.n_experts, o.intermediate_size, hidden, o.init);
    ds_node *w2 = expert_weight(g, "*.w2.weight", o.n_experts, hidden, o.intermediate_size, o.init);
    ds_node *gate =
        ds_graph_unary(g, DS_SILU, ds_graph_grouped_matmul(g, sorted, w1, offsets, by_row), 0);
    ds_node *up = ds_graph_grouped_matmul(g, sorted, w3, offsets, by_row);
    ds_node *y = ds_graph_grouped_matmul(g, ds_graph_mul(g, gate, up), w2, offsets, by_row);
    ds_graph_pop(g);

    ds_node *back = ds_graph_scatter_add(g, y, order, n * k); /* to the order of choices */
    back = ds_graph_reshape(g, back, 3, (int64_t[]){n, k, hidden});
    ds_node *weighted =
        ds_graph_mul(g, back, ds_graph_reshape(g, weights, 3, (int64_t[]){n, k, 1}));
    ds_node *sum = ds_graph_reduce(g, DS_SUM, weighted, 1u << 1, false);
    return ds_graph_reshape(g, sum, 3, (int64_t[]){batch, tokens, hidden});
}
