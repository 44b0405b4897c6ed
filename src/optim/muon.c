/* Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): momentum
 * whose update is replaced by the nearest orthogonal matrix, found by five Newton–Schulz steps.
 *
 *     M ← lerp(M, G, 1 − μ)      X = lerp(G, M, μ)  (Nesterov)      X ← X / (‖X‖ + 1e-7)
 *     five times: A = X Xᵀ,  X ← aX + (bA + cA²) X
 *     p ← p(1 − lr·λ) − lr · √max(1, rows / columns) · X
 *
 * The iteration works on the shorter side: for tall X it is A = XᵀX and X ← aX + X (bA + cA²), the
 * same by transposition. The last factor is that of the original; others
 * (0.2 √max(rows, columns), Liu et al. 2025) only rescale the learning rate of a given shape.
 *
 * Embeddings, heads, biases and norms are left to AdamW, as the authors do. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "optim/optimizer.h"

enum { NEWTON_SCHULZ_STEPS = 5 };
static const float A = 3.4445f, B = -4.7750f, C = 2.0315f;

/* Parts of a name that tell embeddings and heads in the Hugging Face models: a component that
 * contains "embed", or is one of these. */
static const char *const outer_layers[] = {
    "wte",
    "wpe",
    "lm_head",
    "cls",
    "classifier",
    "score",
    "pooler",
    "visual_projection",
    "text_projection",
};

static bool is_outer(const char *component, size_t length) {
    if (memmem(component, length, "embed", 5))
        return true;
    for (size_t i = 0; i < sizeof outer_layers / sizeof *outer_layers; i++)
        if (strlen(outer_layers[i]) == length && memcmp(component, outer_layers[i], length) == 0)
            return true;
    return false;
}

bool ds_optimizer_is_hidden(const char *name, int rank, void *context) {
    (void)context;
    if (rank < 2)
        return false;
    for (const char *at = name;; at++) {
        const size_t length = strcspn(at, ".");
        if (is_outer(at, length))
            return false;
        at += length;
        if (!*at)
            return true;
    }
}

/* b·s + c·s², applied to x from the left (wide) or right (tall), plus a·x. */
static ds_node *newton_schulz_step(ds_graph *g, ds_node *x, bool tall) {
    ds_node *s =
        ds_graph_matmul(g, x, x, (ds_matmul_opts){.transpose_a = tall, .transpose_b = !tall});
    ds_node *square = ds_graph_matmul(g, s, s, (ds_matmul_opts){0});
    ds_node *mix = ds_graph_add(g, ds_graph_scale(g, s, B), ds_graph_scale(g, square, C));
    ds_node *product = ds_graph_matmul(g, tall ? x : mix, tall ? mix : x, (ds_matmul_opts){0});
    return ds_graph_add(g, ds_graph_scale(g, x, A), product);
}

/* x: [..., rows, columns] → about U Vᵀ of its singular value decomposition. */
static ds_node *orthogonal(ds_graph *g, ds_node *x, ds_dtype dtype) {
    if (!x)
        return NULL; /* the graph is poisoned; there is no rank to reason about */
    const int rank = ds_node_rank(x);
    const bool tall = ds_node_dim(x, -2) > ds_node_dim(x, -1);
    ds_node *squares =
        ds_graph_reduce(g, DS_SUM, ds_graph_unary(g, DS_SQUARE, x, 0), 3u << (rank - 2), true);
    ds_node *norm = ds_graph_unary(g, DS_OFFSET, ds_graph_unary(g, DS_SQRT, squares, 0), 1e-7f);
    x = ds_graph_cast(g, ds_graph_div(g, x, norm), dtype);
    for (int i = 0; i < NEWTON_SCHULZ_STEPS; i++)
        x = newton_schulz_step(g, x, tall);
    return ds_graph_cast(g, x, DS_F32);
}

static void update_hidden(const ds_update_builder *u, ds_node *param, ds_node *grad) {
    ds_graph *g = u->g;
    const ds_type *t = &param->type;
    const float mu = u->opts->momentum;
    ds_node *m = ds_update_state(u, "momentum", param, t->rank, t->dims);
    ds_node *scaled = ds_graph_mul(g, grad, u->scale);
    ds_node *next = ds_update_lerp(u, m, scaled, ds_graph_fill(g, 1 - (double)mu, DS_F32, 0, NULL));
    ds_node *x = ds_update_lerp(u, scaled, next, ds_graph_fill(g, (double)mu, DS_F32, 0, NULL));
    ds_update_assign(u, m, next);
    if (t->rank > 3) /* a convolution: out × all that is summed over */
        x = ds_graph_reshape(g, x, 2, (int64_t[]){t->dims[0], -1});
    const double ratio = (double)ds_node_dim(x, -2) / (double)ds_node_dim(x, -1);
    x = ds_graph_scale(g, orthogonal(g, x, u->opts->muon_dtype), (float)sqrt(fmax(1, ratio)));
    x = ds_graph_mul(g, ds_graph_reshape(g, x, t->rank, t->dims), u->lr);
    ds_update_assign(u, param, ds_update_decayed(u, param, x));
}

void ds_update_muon(ds_update_builder *u, ds_node *param, ds_node *grad) {
    bool (*is_hidden)(const char *, int, void *) =
        u->opts->is_hidden ? u->opts->is_hidden : ds_optimizer_is_hidden;
    if (param->type.rank >= 2 && is_hidden(param->name, param->type.rank, u->opts->context)) {
        update_hidden(u, param, grad);
        return;
    }
    ds_update_adamw(u, param, grad);
}
