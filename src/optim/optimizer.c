/* Optimizers as graphs: one program updates all parameters, its global norm and clipping included.
 * Nothing of a step is decided on the host in between, so a device need not be waited for. */
#include "optim/optimizer.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum { NAME_SIZE = 640 };

/* ---- names and defaults ---------------------------------------------------------------------- */

static ds_update_rule update_sgd, update_lion;

static const struct {
    const char *name;
    ds_update_rule *rule;
    ds_optimizer_opts defaults;
} optimizers[DS_OPTIMIZER_KINDS] = {
    [DS_OPTIMIZER_ADAMW] = {"adamw",
                            ds_update_adamw,
                            {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f}},
    [DS_OPTIMIZER_SGD] = {"sgd", update_sgd, {.momentum = 0.9f}},
    [DS_OPTIMIZER_LION] = {"lion", update_lion, {.beta1 = 0.9f, .beta2 = 0.99f}},
    [DS_OPTIMIZER_ADAFACTOR] = {"adafactor", ds_update_adafactor, {0}},
    [DS_OPTIMIZER_MUON] =
        {"muon",
         ds_update_muon,
         {.beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-10f, .momentum = 0.95f, .adamw_ratio = 0.015f}},
};

ds_optimizer_opts ds_optimizer_defaults(ds_optimizer_kind kind) {
    ds_optimizer_opts opts = optimizers[kind].defaults;
    opts.kind = kind;
    return opts;
}

const char *ds_optimizer_name(ds_optimizer_kind kind) {
    return optimizers[kind].name;
}

const char *ds_gradient_name(const char *param_name, char *out, size_t size) {
    snprintf(out, size, DS_GRADIENT_PREFIX "%s", param_name);
    return out;
}

/* ---- pieces of updates ----------------------------------------------------------------------- */

ds_node *ds_update_state(const ds_update_builder *u, const char *prefix, const ds_node *param,
                         int rank, const int64_t *dims) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s/%s", prefix, param->name);
    return ds_graph_variable(u->g, name, DS_F32, rank, dims, DS_INIT_ZEROS);
}

void ds_update_assign(const ds_update_builder *u, ds_node *variable, ds_node *value) {
    ds_graph_assign(u->g, variable, ds_graph_select(u->g, u->is_finite, value, variable));
}

float ds_update_decay(const ds_update_builder *u, const ds_node *param) {
    return param->init.no_decay ? 0 : u->opts->weight_decay;
}

ds_node *ds_update_decayed(const ds_update_builder *u, ds_node *param, ds_node *change) {
    const float decay = ds_update_decay(u, param);
    ds_node *kept = param;
    if (decay != 0) {
        ds_node *share = ds_graph_unary(u->g, DS_OFFSET, ds_graph_scale(u->g, u->lr, -decay), 1);
        kept = ds_graph_mul(u->g, param, share);
    }
    return ds_graph_sub(u->g, kept, change);
}

ds_node *ds_update_lerp(const ds_update_builder *u, ds_node *from, ds_node *to, ds_node *weight) {
    return ds_graph_add(u->g, from, ds_graph_mul(u->g, ds_graph_sub(u->g, to, from), weight));
}

/* ---- optimizers that are one op -------------------------------------------------------------- */

static void add_share(ds_update_builder *u, ds_update_share share) {
    u->shares[u->n_shares++] = share;
}

void ds_update_adamw(ds_update_builder *u, ds_node *param, ds_node *grad) {
    const ds_type *t = &param->type;
    ds_node *m = ds_update_state(u, "adam_m", param, t->rank, t->dims);
    ds_node *v = ds_update_state(u, "adam_v", param, t->rank, t->dims);
    add_share(u, (ds_update_share){.op = &ds_op_adamw,
                                   .attrs = {.beta1 = u->opts->beta1,
                                             .beta2 = u->opts->beta2,
                                             .eps = u->opts->eps,
                                             .weight_decay = ds_update_decay(u, param)},
                                   .lr = u->adamw_lr,
                                   .parts = {param, m, v, grad}});
}

static void update_with_momentum(ds_update_builder *u, const ds_op *op, const char *prefix,
                                 ds_node *param, ds_node *grad, ds_update_attrs attrs) {
    ds_node *m = ds_update_state(u, prefix, param, param->type.rank, param->type.dims);
    attrs.weight_decay = ds_update_decay(u, param);
    add_share(u,
              (ds_update_share){.op = op, .attrs = attrs, .lr = u->lr, .parts = {param, m, grad}});
}

static void update_sgd(ds_update_builder *u, ds_node *param, ds_node *grad) {
    update_with_momentum(u, &ds_op_sgd, "momentum", param, grad,
                         (ds_update_attrs){.beta1 = u->opts->momentum});
}

static void update_lion(ds_update_builder *u, ds_node *param, ds_node *grad) {
    update_with_momentum(u, &ds_op_lion, "lion_m", param, grad,
                         (ds_update_attrs){.beta1 = u->opts->beta1, .beta2 = u->opts->beta2});
}

static bool is_alike(const ds_update_share *a, const ds_update_share *b) {
    const ds_update_attrs *x = &a->attrs, *y = &b->attrs;
    return a->op == b->op && a->lr == b->lr && x->beta1 == y->beta1 && x->beta2 == y->beta2 &&
           x->eps == y->eps && x->weight_decay == y->weight_decay;
}

/* One node for the first share and all later ones like it, which are taken out of the list. inputs
 * has room for all. */
static void build_shared(ds_update_builder *u, ds_node **inputs) {
    const ds_update_share first = u->shares[0];
    const int n_parts = first.op->n_changed + 1;
    int n = 0, n_left = 0;
    for (int i = 0; i < u->n_shares; i++)
        n += is_alike(&first, &u->shares[i]);
    for (int i = 0, at = 0; i < u->n_shares; i++) {
        if (!is_alike(&first, &u->shares[i])) {
            u->shares[n_left++] = u->shares[i];
            continue;
        }
        for (int k = 0; k < n_parts; k++)
            inputs[k * n + at] = u->shares[i].parts[k];
        at++;
    }
    u->n_shares = n_left;
    ds_node *const scalars[] = {first.lr, u->scale, u->step};
    memcpy(inputs + n * n_parts, scalars, sizeof *scalars * (size_t)first.op->n_scalars);
    ds_graph_add_node(u->g, first.op, &first.attrs, inputs, n * n_parts + first.op->n_scalars);
}

/* As few nodes as there are kinds of update: parameters with weight decay, those without. */
static void build_shares(ds_update_builder *u) {
    enum { MOST_SCALARS = 3 };
    const size_t most = (size_t)u->n_shares * DS_MOST_UPDATE_PARTS + MOST_SCALARS;
    ds_node **inputs = ds_malloc(most * sizeof *inputs);
    if (!inputs)
        ds_graph_poison(u->g, DS_OUT_OF_MEMORY);
    while (inputs && u->n_shares > 0)
        build_shared(u, inputs);
    free(inputs);
}

/* ---- the whole update ------------------------------------------------------------------------ */

static ds_node *scalar_input(ds_graph *g, const char *name) {
    return ds_graph_input(g, name, DS_F32, 0, NULL);
}

/* 1 where the rank-0 x is finite: a comparison with NaN is false. */
static ds_node *is_finite(ds_graph *g, ds_node *x) {
    ds_node *most = ds_graph_fill(g, (double)FLT_MAX, DS_F32, 0, NULL);
    return ds_graph_binary(g, DS_LESS, ds_graph_unary(g, DS_ABS, x, 0), most);
}

/* min(1, clip / (norm + 1e-6)) where clip > 0, as torch.nn.utils.clip_grad_norm_. */
static ds_node *clip_coefficient(ds_graph *g, ds_node *norm, ds_node *clip) {
    ds_node *one = ds_graph_fill(g, 1, DS_F32, 0, NULL);
    ds_node *ratio = ds_graph_div(g, clip, ds_graph_unary(g, DS_OFFSET, norm, 1e-6f));
    ds_node *is_on = ds_graph_unary(g, DS_STEP, clip, 0);
    return ds_graph_select(g, is_on, ds_graph_binary(g, DS_MINIMUM, ratio, one), one);
}

/* The factor that every gradient is multiplied by, and the output "grad_norm". */
static void build_scale(ds_update_builder *u, ds_node *const *grads, int n) {
    ds_graph *g = u->g;
    ds_node *grad_scale = scalar_input(g, "grad_scale"), *clip = scalar_input(g, "grad_clip");
    ds_node *norm = ds_graph_unary(g, DS_SQRT, ds_graph_sum_of_squares(g, grads, n), 0);
    norm = ds_graph_mul(g, norm, grad_scale);
    ds_graph_output(g, "grad_norm", norm);
    u->is_finite = is_finite(g, norm);
    ds_node *finite_scale = ds_graph_mul(g, grad_scale, clip_coefficient(g, norm, clip));
    u->scale = ds_graph_select(g, u->is_finite, finite_scale,
                               ds_graph_fill(g, (double)NAN, DS_F32, 0, NULL));
}

static void build_update(ds_graph *g, ds_node *const *params, ds_node *const *grads, int n,
                         const ds_optimizer_opts *opts) {
    ds_update_builder u = {
        .g = g, .opts = opts, .lr = scalar_input(g, "lr"), .step = scalar_input(g, "step")};
    u.shares = ds_calloc((size_t)n, sizeof *u.shares);
    if (!u.shares) {
        ds_graph_poison(g, DS_OUT_OF_MEMORY);
        return;
    }
    ds_graph_output(g, "step", u.step); /* so that it is there to be written, needed or not */
    build_scale(&u, grads, n);
    u.adamw_lr =
        opts->kind == DS_OPTIMIZER_MUON ? ds_graph_scale(g, u.lr, opts->adamw_ratio) : u.lr;
    for (int i = 0; i < n && g->status == DS_OK; i++)
        if (ds_node_count(params[i]) > 0) /* means over nothing would be NaN */
            optimizers[opts->kind].rule(&u, params[i], grads[i]);
    if (g->status == DS_OK)
        build_shares(&u);
    free(u.shares);
}

void ds_optimizer_build(ds_graph *g, ds_node *const *params, int n, ds_optimizer_opts opts) {
    if (n < 1) {
        ds_graph_refuse(g, "optimizer", "there is no parameter to update");
        return;
    }
    if ((unsigned)opts.kind >= DS_OPTIMIZER_KINDS) {
        ds_graph_refuse(g, "optimizer", "there is no optimizer number %d", (int)opts.kind);
        return;
    }
    ds_node **grads = ds_malloc((size_t)n * sizeof *grads);
    if (!grads) {
        ds_graph_poison(g, DS_OUT_OF_MEMORY);
        return;
    }
    for (int i = 0; i < n && g->status == DS_OK; i++) {
        char name[NAME_SIZE];
        if (!ds_node_is(params[i], &ds_op_param)) {
            ds_graph_refuse(g, "optimizer", "node %d of %d is no parameter", i, n);
            break;
        }
        ds_gradient_name(params[i]->name, name, sizeof name);
        grads[i] = ds_graph_variable(g, name, DS_F32, params[i]->type.rank, params[i]->type.dims,
                                     DS_INIT_ZEROS);
    }
    if (g->status == DS_OK)
        build_update(g, params, grads, n, &opts);
    free(grads);
}

static ds_status build_from_state(ds_graph *g, const ds_state *state, ds_optimizer_opts opts) {
    const size_t n_entries = ds_state_count(state);
    ds_node **params = ds_malloc((n_entries + 1) * sizeof *params);
    if (!params)
        return DS_OUT_OF_MEMORY;
    int n = 0;
    for (size_t i = 0; i < n_entries; i++) {
        char name[NAME_SIZE];
        const ds_state_entry *e = ds_state_get(state, i);
        if (e->is_param && ds_state_find(state, ds_gradient_name(e->name, name, sizeof name)) >= 0)
            params[n++] = ds_graph_param(g, e->name, e->rank, e->dims, e->init);
    }
    if (n > 0)
        ds_optimizer_build(g, params, n, opts);
    free(params);
    if (n == 0)
        return ds_fail(DS_NOT_FOUND, "the state holds no parameter with a gradient: compile the "
                                     "training program first");
    return ds_graph_ok(g) ? DS_OK : g->status;
}

ds_status ds_optimizer_graph(const ds_state *state, ds_optimizer_opts opts, ds_graph **out) {
    *out = NULL;
    ds_graph *g = ds_graph_new();
    if (!g)
        return DS_OUT_OF_MEMORY;
    const ds_status status = build_from_state(g, state, opts);
    if (status != DS_OK)
        ds_graph_free(g);
    else
        *out = g;
    return status;
}
