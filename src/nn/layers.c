/* Linear layers, embeddings, norms and the views between heads and features. */
#include "deepseek/nn.h"

ds_node *ds_nn_linear(ds_graph *g, const char *name, ds_node *x, int64_t n_out, bool bias,
                      ds_init init) {
    ds_graph_push(g, "%s", name);
    ds_node *weight = ds_graph_param(g, "weight", 2, (int64_t[]){n_out, ds_node_dim(x, -1)}, init);
    ds_node *y = ds_graph_matmul(g, x, weight, (ds_matmul_opts){.transpose_b = true});
    if (bias)
        y = ds_graph_add(g, y, ds_graph_param(g, "bias", 1, (int64_t[]){n_out}, DS_INIT_ZEROS));
    ds_graph_pop(g);
    return y;
}

ds_node *ds_nn_conv1d(ds_graph *g, const char *name, ds_node *x, int64_t n_out, ds_init init) {
    ds_graph_push(g, "%s", name);
    ds_node *weight = ds_graph_param(g, "weight", 2, (int64_t[]){ds_node_dim(x, -1), n_out}, init);
    ds_node *y = ds_graph_matmul(g, x, weight, (ds_matmul_opts){0});
    y = ds_graph_add(g, y, ds_graph_param(g, "bias", 1, (int64_t[]){n_out}, DS_INIT_ZEROS));
    ds_graph_pop(g);
    return y;
}

ds_node *ds_nn_embedding(ds_graph *g, const char *name, ds_node *ids, int64_t n_rows, int64_t width,
                         ds_init init) {
    ds_graph_push(g, "%s", name);
    ds_node *table = ds_graph_param(g, "weight", 2, (int64_t[]){n_rows, width}, init);
    ds_node *rows = ds_graph_gather(g, table, ids);
    ds_graph_pop(g);
    return rows;
}

ds_node *ds_nn_layer_norm(ds_graph *g, const char *name, ds_node *x, float eps) {
    const int64_t width[] = {ds_node_dim(x, -1)};
    ds_graph_push(g, "%s", name);
    ds_node *weight = ds_graph_param(g, "weight", 1, width, DS_INIT_ONES);
    ds_node *bias = ds_graph_param(g, "bias", 1, width, DS_INIT_ZEROS);
    ds_node *y = ds_graph_layer_norm(g, x, weight, bias, eps);
    ds_graph_pop(g);
    return y;
}

ds_node *ds_nn_rms_norm(ds_graph *g, const char *name, ds_node *x, float eps) {
    ds_graph_push(g, "%s", name);
    ds_node *weight = ds_graph_param(g, "weight", 1, (int64_t[]){ds_node_dim(x, -1)}, DS_INIT_ONES);
    ds_node *y = ds_graph_rms_norm(g, x, weight, eps);
    ds_graph_pop(g);
    return y;
}

ds_node *ds_nn_split_heads(ds_graph *g, ds_node *x, int64_t n_heads) {
    return ds_graph_reshape(
        g, x, 4,
        (int64_t[]){ds_node_dim(x, 0), ds_node_dim(x, 1), n_heads, ds_node_dim(x, -1) / n_heads});
}

ds_node *ds_nn_join_heads(ds_graph *g, ds_node *x) {
    return ds_graph_reshape(
        g, x, 3,
        (int64_t[]){ds_node_dim(x, 0), ds_node_dim(x, 1), ds_node_dim(x, 2) * ds_node_dim(x, 3)});
}

ds_node *ds_nn_swiglu(ds_graph *g, ds_node *x, int64_t intermediate_size, bool bias, ds_init init) {
    ds_node *gate = ds_nn_linear(g, "gate_proj", x, intermediate_size, bias, init);
    ds_node *up = ds_nn_linear(g, "up_proj", x, intermediate_size, bias, init);
    ds_node *h = ds_graph_mul(g, ds_graph_unary(g, DS_SILU, gate, 0), up);
    return ds_nn_linear(g, "down_proj", h, ds_node_dim(x, -1), bias, init);
}
