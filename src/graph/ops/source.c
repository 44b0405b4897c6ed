/* Leaves: what a program is given from outside, and constants. */
#include <string.h>

#include "graph/leaf_index.h"
#include "base/rng.h"
#include "graph/ops/ops.h"

const ds_op ds_op_input = {.name = "input", .traits = DS_LEAF, .precision = DS_PRECISION_KEEP};
const ds_op ds_op_param = {.name = "param", .traits = DS_LEAF, .precision = DS_PRECISION_KEEP};
const ds_op ds_op_variable = {
    .name = "variable", .traits = DS_LEAF, .precision = DS_PRECISION_KEEP};
const ds_op ds_op_seed = {.name = "seed", .traits = DS_LEAF, .precision = DS_PRECISION_KEEP};

ds_node *ds_graph_add_leaf(ds_graph *g, const ds_op *op, const char *name, const ds_type *type,
                           ds_init init) {
    if (g->status != DS_OK)
        return NULL;
    if (ds_type_check(type) != DS_OK)
        return ds_graph_refuse(g, op->name, "\"%s\": %s", name, ds_error());
    ds_node *known = ds_leaf_index_find(g, name);
    if (known) {
        char has[96], wants[96];
        if (known->op == op && ds_type_equal(&known->type, type))
            return known;
        return ds_graph_refuse(g, op->name, "\"%s\" is already the %s %s, not %s", name,
                               known->op->name, ds_type_text(&known->type, has, sizeof has),
                               ds_type_text(type, wants, sizeof wants));
    }
    const int segment = g->segment;
    g->segment = 0; /* a leaf is never recomputed */
    ds_node *leaf = ds_graph_add_node(g, op, NULL, NULL, 0);
    g->segment = segment;
    if (!leaf)
        return NULL;
    leaf->type = *type;
    leaf->init = init;
    leaf->name = ds_arena_strdup(g->arena, name);
    if (!leaf->name || ds_leaf_index_add(g, leaf) != DS_OK)
        return ds_graph_poison(g, DS_OUT_OF_MEMORY);
    leaf->place = ds_hash_name(name);
    return leaf;
}

ds_node *ds_graph_input(ds_graph *g, const char *name, ds_dtype dtype, int rank,
                        const int64_t *dims) {
    const ds_type type = ds_type_of(dtype, rank, dims);
    return ds_graph_add_leaf(g, &ds_op_input, name, &type, (ds_init){0});
}

ds_node *ds_graph_param(ds_graph *g, const char *name, int rank, const int64_t *dims,
                        ds_init init) {
    if (g->status != DS_OK)
        return NULL;
    char full[sizeof g->scope + 128];
    snprintf(full, sizeof full, "%s%s%s", g->scope, *g->scope ? "." : "", name);
    if (strchr(full, '*') && (rank < 1 || dims[0] < 1))
        return ds_graph_refuse(g, "param", "\"%s\" has a * and no first axis to count", full);
    const ds_type type = ds_type_of(DS_F32, rank, dims);
    return ds_graph_add_leaf(g, &ds_op_param, full, &type, init);
}

ds_node *ds_graph_param_named(ds_graph *g, const char *full_name) {
    ds_node *leaf = g->status == DS_OK ? ds_leaf_index_find(g, full_name) : NULL;
    if (!leaf || leaf->op != &ds_op_param)
        return ds_graph_refuse(g, "param", "there is no parameter \"%s\"", full_name);
    return leaf;
}

ds_node *ds_graph_variable(ds_graph *g, const char *name, ds_dtype dtype, int rank,
                           const int64_t *dims, ds_init init) {
    const ds_type type = ds_type_of(dtype, rank, dims);
    return ds_graph_add_leaf(g, &ds_op_variable, name, &type, init);
}

ds_node *ds_graph_seed(ds_graph *g) {
    const ds_type type = {.dtype = DS_I64, .rank = 1, .dims = {DS_SEED_WORDS}};
    return ds_graph_add_leaf(g, &ds_op_seed, DS_SEED_NAME, &type, (ds_init){0});
}

/* ---- constants ------------------------------------------------------------------------------- */

static ds_status fill_shape(const ds_node *node, ds_type *results) {
    results[0] = ((const ds_fill_attrs *)node->attrs)->type;
    return DS_OK;
}

static void fill_reference(const ds_kernel_args *args) {
    const ds_fill_attrs *a = args->node->attrs;
    const ds_tensor *out = &args->outputs[0];
    const int64_t n = ds_count(out->dims, out->rank);
    for (int64_t i = 0; i < n; i++) {
        if (ds_dtype_is_float(out->dtype))
            ((float *)out->data)[i] = (float)a->value;
        else if (out->dtype == DS_I32)
            ((int32_t *)out->data)[i] = (int32_t)a->value;
        else if (out->dtype == DS_I64)
            ((int64_t *)out->data)[i] = (int64_t)a->value;
        else
            ((int8_t *)out->data)[i] = (int8_t)a->value;
    }
}

static void fill_describe(const ds_node *node, ds_text *out) {
    ds_text_printf(out, "%g", ((const ds_fill_attrs *)node->attrs)->value);
}

const ds_op ds_op_fill = {
    .name = "fill",
    .attrs_size = sizeof(ds_fill_attrs),
    .precision = DS_PRECISION_KEEP,
    .shape = fill_shape,
    .reference = fill_reference,
    .describe = fill_describe,
};

ds_node *ds_graph_fill(ds_graph *g, double value, ds_dtype dtype, int rank, const int64_t *dims) {
    const ds_fill_attrs attrs = {.value = value, .type = ds_type_of(dtype, rank, dims)};
    return ds_graph_add_node(g, &ds_op_fill, &attrs, NULL, 0);
}

static ds_status iota_shape(const ds_node *node, ds_type *results) {
    const ds_iota_attrs *a = node->attrs;
    results[0] = (ds_type){.dtype = DS_I32, .rank = 1, .dims = {a->n}};
    return a->n >= 0 ? DS_OK : ds_fail(DS_INVALID, "%lld elements", (long long)a->n);
}

static void iota_reference(const ds_kernel_args *args) {
    int32_t *out = args->outputs[0].data;
    for (int64_t i = 0; i < args->outputs[0].dims[0]; i++)
        out[i] = (int32_t)i;
}

const ds_op ds_op_iota = {
    .name = "iota",
    .attrs_size = sizeof(ds_iota_attrs),
    .precision = DS_PRECISION_KEEP,
    .shape = iota_shape,
    .reference = iota_reference,
};

ds_node *ds_graph_iota(ds_graph *g, int64_t n) {
    return ds_graph_add_node(g, &ds_op_iota, &(ds_iota_attrs){n}, NULL, 0);
}
