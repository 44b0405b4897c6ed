/* Adafactor (Shazeer & Stern 2018, Algorithms 4 and 5): the second moment of a matrix is kept as
 * the means of its rows and columns, r + c numbers instead of r · c, and there is no first moment.
 *
 *     G² = g² + ε₁                R ← lerp(R, row means, 1−β)    C ← lerp(C, column means, 1−β)
 *     V  = R C / mean(R)          1−β = t^−0.8
 *     U  = g / √V                 U ← U / max(1, RMS(U))
 *     p  ← p(1 − lr·λ) − lr · max(ε₂, RMS(p)) · U
 *
 * (Means where the paper has sums: the same V.) Leading axes beyond two are so many matrices. */
#include "optim/optimizer.h"

static const float EPS_SQUARE = 1e-30f;   /* ε₁ */
static const float EPS_PARAMETER = 1e-3f; /* ε₂ */
static const float DECAY_EXPONENT = -0.8f;

static ds_node *unary(const ds_update_builder *u, ds_unary kind, ds_node *x) {
    return ds_graph_unary(u->g, kind, x, 0);
}

static ds_node *at_least(const ds_update_builder *u, ds_node *x, double least) {
    return ds_graph_binary(u->g, DS_MAXIMUM, x, ds_graph_fill(u->g, least, DS_F32, 0, NULL));
}

/* Root of the mean square of all elements, rank 0. */
static ds_node *rms(const ds_update_builder *u, ds_node *x) {
    ds_node *sum = ds_graph_sum_of_squares(u->g, &x, 1);
    return unary(u, DS_SQRT, ds_graph_scale(u->g, sum, 1.0f / (float)ds_node_count(x)));
}

/* Means of the squares over an axis, plus ε₁: the same as of G² = g² + ε₁. */
static ds_node *mean_square(const ds_update_builder *u, ds_node *square, unsigned axes) {
    return ds_graph_unary(u->g, DS_OFFSET, ds_graph_reduce(u->g, DS_MEAN, square, axes, true),
                          EPS_SQUARE);
}

/* lerp(state, value), written back; returns the new one. */
static ds_node *track(const ds_update_builder *u, const char *prefix, ds_node *param,
                      ds_node *value, ds_node *weight) {
    if (!value)
        return NULL;
    ds_node *state = ds_update_state(u, prefix, param, value->type.rank, value->type.dims);
    ds_node *next = ds_update_lerp(u, state, value, weight);
    ds_update_assign(u, state, next);
    return next;
}

/* g / √V of a matrix: the two factors are applied one by one, so V is never made. */
static ds_node *factored(const ds_update_builder *u, ds_node *param, ds_node *g, ds_node *square,
                         ds_node *weight) {
    const int rank = param->type.rank;
    const unsigned last = 1u << (rank - 1), before_last = 1u << (rank - 2);
    ds_node *row = mean_square(u, square, last);
    ds_node *column = mean_square(u, square, before_last);
    row = track(u, "adafactor_row", param, row, weight);
    column = track(u, "adafactor_column", param, column, weight);
    ds_node *share =
        ds_graph_div(u->g, row, ds_graph_reduce(u->g, DS_MEAN, row, before_last, true));
    return ds_graph_mul(u->g, ds_graph_mul(u->g, g, unary(u, DS_RSQRT, share)),
                        unary(u, DS_RSQRT, column));
}

void ds_update_adafactor(ds_update_builder *u, ds_node *param, ds_node *grad) {
    ds_graph *graph = u->g;
    ds_node *weight = unary(
        u, DS_EXP, ds_graph_scale(graph, unary(u, DS_LOG, u->step), DECAY_EXPONENT)); /* t^−0.8 */
    ds_node *g = ds_graph_mul(graph, grad, u->scale), *square = unary(u, DS_SQUARE, g);
    ds_node *change = param->type.rank >= 2
                          ? factored(u, param, g, square, weight)
                          : ds_graph_mul(graph, g,
                                         unary(u, DS_RSQRT,
                                               track(u, "adafactor_v", param,
                                                     mean_square(u, square, 0), weight)));
    ds_node *rate = ds_graph_mul(graph, u->lr, at_least(u, rms(u, param), (double)EPS_PARAMETER));
    rate = ds_graph_div(graph, rate, at_least(u, rms(u, change), 1)); /* one factor for all */
    ds_update_assign(u, param, ds_update_decayed(u, param, ds_graph_mul(graph, change, rate)));
}
