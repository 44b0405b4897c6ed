/* Layers: functions over the graph, each in a name scope of its own.
 *
 *     ds_graph *g = ds_graph_new();
 *     ds_node *x = ds_graph_input(g, "x", DS_F32, 3, (int64_t[]){4, 128, 768});
 *     ds_node *h = ds_nn_linear(g, "fc", x, 3072, true, DS_INIT_NORMAL(0.02f));
 *     h = ds_graph_unary(g, DS_GELU_TANH, h, 0);
 *
 * Activations are [batch, tokens, features]. Weights bear Hugging Face names below the scope. */
#ifndef DEEPSEEK_NN_H
#define DEEPSEEK_NN_H

#include "deepseek/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x Wᵀ + b; NAME.weight [n_out, n_in], NAME.bias [n_out] (zeros). */
DS_API ds_node *ds_nn_linear(ds_graph *g, const char *name, ds_node *x, int64_t n_out, bool bias,
                             ds_init init);
/* x W + b; NAME.weight [n_in, n_out] (GPT-2's Conv1D), NAME.bias [n_out] (zeros). */
DS_API ds_node *ds_nn_conv1d(ds_graph *g, const char *name, ds_node *x, int64_t n_out,
                             ds_init init);
/* Rows of NAME.weight [n_rows, width] by ids. */
DS_API ds_node *ds_nn_embedding(ds_graph *g, const char *name, ds_node *ids, int64_t n_rows,
                                int64_t width, ds_init init);
/* NAME.weight (ones), NAME.bias (zeros), both [features]. */
DS_API ds_node *ds_nn_layer_norm(ds_graph *g, const char *name, ds_node *x, float eps);
/* NAME.weight (ones) [features]. */
DS_API ds_node *ds_nn_rms_norm(ds_graph *g, const char *name, ds_node *x, float eps);

/* [batch, tokens, heads·head_dim] seen as [batch, tokens, heads, head_dim], and back. */
DS_API ds_node *ds_nn_split_heads(ds_graph *g, ds_node *x, int64_t n_heads);
DS_API ds_node *ds_nn_join_heads(ds_graph *g, ds_node *x);

/* down(silu(gate(x)) · up(x)) with linears gate_proj, up_proj, down_proj (Shazeer 2020). */
DS_API ds_node *ds_nn_swiglu(ds_graph *g, ds_node *x, int64_t intermediate_size, bool bias,
                             ds_init init);

typedef struct ds_moe_opts {
    int64_t n_experts, experts_per_token, intermediate_size;
    ds_init init;
    const char *gate, *up, *down; /* names of an expert's three linears; NULL: w1, w3, w2 */
    bool by_sigmoid;   /* ratings are sigmoids; chosen by rating + gate.e_score_correction_bias */
    bool unnormalised; /* weights are the ratings themselves; else they sum to 1 */
    float scale;       /* of the weights; 0 = 1 */
    int64_t n_groups, groups_per_token; /* only experts of the best groups; 0 = no groups */
    int64_t group_best; /* a group is as good as the sum of so many of its best ratings; 0 = 1 */
} ds_moe_opts;

/* A layer of SwiGLU experts: each token goes to the experts_per_token that the router (linear
 * "gate") rates highest, their results weighted by the softmax over the chosen (Mixtral), or as the
 * options say (DeepSeek-V3). Weights experts.*.w1.weight, .w3 [experts, intermediate, hidden],
 * .w2 [experts, hidden, intermediate].
 * *balance gets the load-balancing loss of Fedus et al. 2022 (Switch), f32 rank 0: experts ·
 * Σ share of choices · mean router probability; 1 when balanced. */
DS_API ds_node *ds_nn_moe(ds_graph *g, ds_node *x, ds_moe_opts opts, ds_node **balance);

#ifdef __cplusplus
}
#endif
#endif
