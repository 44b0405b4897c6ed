/* Rotary position embedding (Su et al. 2021): pairs of a head's dimensions turn by position ·
 * θ^(−2i/d), a frequency that may be scaled for long texts. The gradient turns back. */
#include <math.h>

#include "graph/ops/ops.h"

static const double TURN = 6.283185307179586; /* 2π */

/* 0 where a pair keeps its frequency, 1 where it is divided by the factor. */
static double llama3_share(const ds_rope_scaling *s, double frequency) {
    const double waves = (double)s->original * frequency / TURN; /* within the first training */
    const double low = (double)s->low_freq_factor, high = (double)s->high_freq_factor;
    if (waves < low)
        return 1;
    return waves > high ? 0 : 1 - (waves - low) / (high - low);
}

/* The pair that turns so many times within the first training. */
static double yarn_pair(const ds_rotary_opts *a, double turns) {
    return (double)a->n_dims * log((double)a->scaling.original / (turns * TURN)) /
           (2 * log((double)a->theta));
}

static double yarn_share(const ds_rotary_opts *a, int64_t pair) {
    const double low = fmax(floor(yarn_pair(a, (double)a->scaling.beta_fast)), 0);
    const double high =
        fmin(ceil(yarn_pair(a, (double)a->scaling.beta_slow)), (double)(a->n_dims - 1));
    const double wide = high > low ? high - low : 0.001; /* as published: no division by zero */
    return fmin(fmax(((double)pair - low) / wide, 0), 1);
}

double ds_rotary_frequency(const ds_rotary_opts *a, int64_t pair) {
    const double frequency = pow((double)a->theta, -2.0 * (double)pair / (double)a->n_dims);
    double share = 0;
    switch (a->scaling.kind) {
    case DS_ROPE_LINEAR: share = 1; break;
    case DS_ROPE_LLAMA3: share = llama3_share(&a->scaling, frequency); break;
    case DS_ROPE_YARN: share = yarn_share(a, pair); break;
    default: return frequency;
    }
    return frequency * (1 - share + share / (double)a->scaling.factor);
}

double ds_rotary_magnitude(const ds_rotary_opts *a) {
    return a->scaling.magnitude > 0 ? (double)a->scaling.magnitude : 1.0;
}

ds_status ds_rope_scaling_check(const ds_rope_scaling *s) {
    const float most = 1e9f; /* far above any; what follows from it stays finite */
    if (s->kind == DS_ROPE_PLAIN)
        return DS_OK;
    if (!(s->factor > 0 && s->factor < most))
        return ds_fail(DS_INVALID, "a scaling of positions by %g is not in (0, %g)",
                       (double)s->factor, (double)most);
    if (!(s->magnitude >= 0 && s->magnitude < most))
        return ds_fail(DS_INVALID, "turned vectors cannot be multiplied by %g",
                       (double)s->magnitude);
    if (s->kind != DS_ROPE_LINEAR && s->original < 1)
        return ds_fail(DS_INVALID, "the length of the first training is %lld, not 1 or more",
                       (long long)s->original);
    if (s->kind == DS_ROPE_LLAMA3 &&
        !(s->low_freq_factor > 0 && s->high_freq_factor > s->low_freq_factor &&
          s->high_freq_factor < most))
        return ds_fail(DS_INVALID, "frequency factors %g and %g do not rise between 0 and 1e9",
                       (double)s->low_freq_factor, (double)s->high_freq_factor);
    if (s->kind == DS_ROPE_YARN &&
        !(s->beta_slow > 0 && s->beta_fast > s->beta_slow && s->beta_fast < most))
        return ds_fail(DS_INVALID, "turns %g and %g do not rise between 0 and 1e9",
                       (double)s->beta_slow, (double)s->beta_fast);
    return DS_OK;
}

static ds_status rotary_shape(const ds_node *node, ds_type *results) {
    const ds_rotary_opts *a = node->attrs;
    const ds_type *x = &node->inputs[0]->type, *positions = &node->inputs[1]->type;
    if (x->rank != 4 || !ds_dtype_is_float(x->dtype))
        return ds_fail(DS_INVALID, "wants floats [batch, tokens, heads, head_dim]");
    if (a->n_dims < 2 || a->n_dims % 2 || a->n_dims > x->dims[3])
        return ds_fail(DS_INVALID, "%lld rotated dimensions do not fit a head of %lld",
                       (long long)a->n_dims, (long long)x->dims[3]);
    if (!(a->theta > 0))
        return ds_fail(DS_INVALID, "theta is %g, not a positive base of frequencies",
                       (double)a->theta);
    DS_TRY(ds_rope_scaling_check(&a->scaling));
    const int lead = positions->rank - 1; /* 1: one row a sample */
    if (positions->dtype != DS_I32 || lead < 0 || lead > 1 || positions->dims[lead] != x->dims[1] ||
        (lead == 1 && positions->dims[0] != x->dims[0]))
        return ds_fail(DS_INVALID, "positions must be i32 [tokens] or [batch, tokens]");
    results[0] = *x;
    return DS_OK;
}

static void rotary_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                            ds_node **dinputs) {
    ds_rotary_opts back = *(const ds_rotary_opts *)node->attrs;
    back.inverse = !back.inverse;
    dinputs[0] = ds_graph_rotary(g, dresults[0], node->inputs[1], back);
}

static void rotary_reference(const ds_kernel_args *args) {
    const ds_rotary_opts *a = args->node->attrs;
    const ds_tensor *in = &args->inputs[0];
    const int64_t tokens = in->dims[1], heads = in->dims[2], head_dim = in->dims[3];
    const int32_t *positions = args->inputs[1].data;
    const bool per_sample = args->inputs[1].rank == 2;
    const int64_t half = a->n_dims / 2;
    const double size = ds_rotary_magnitude(a);
    for (int64_t row = 0; row < in->dims[0] * tokens * heads; row++) {
        const int64_t token = row / heads; /* of all samples */
        const double position = positions[per_sample ? token : token % tokens];
        const float *x = (const float *)in->data + row * head_dim;
        float *y = (float *)args->outputs[0].data + row * head_dim;
        for (int64_t i = a->n_dims; i < head_dim; i++)
            y[i] = x[i];
        for (int64_t i = 0; i < half; i++) {
            const double angle = position * ds_rotary_frequency(a, i);
            const double c = size * cos(angle), s = size * (a->inverse ? -sin(angle) : sin(angle));
            const int64_t p = a->interleaved ? 2 * i : i, q = a->interleaved ? p + 1 : i + half;
            const double u = (double)x[p], v = (double)x[q];
            y[p] = (float)(u * c - v * s);
            y[q] = (float)(u * s + v * c);
        }
    }
}

static ds_cost rotary_cost(const ds_node *node) {
    return (ds_cost){.flops = 3 * (double)ds_node_count(node),
                     .bytes = 2 * (double)ds_type_size(&node->type)};
}

const ds_op ds_op_rotary = {
    .name = "rotary",
    .attrs_size = sizeof(ds_rotary_opts),
    .precision = DS_PRECISION_FOLLOW,
    .shape = rotary_shape,
    .gradient = rotary_gradient,
    .cost = rotary_cost,
    .reference = rotary_reference,
};

ds_node *ds_graph_rotary(ds_graph *g, ds_node *x, ds_node *positions, ds_rotary_opts opts) {
    if (opts.n_dims == 0)
        opts.n_dims = ds_node_dim(x, -1);
    return ds_graph_add_node(g, &ds_op_rotary, &opts, (ds_node *[]){x, positions}, 2);
}
