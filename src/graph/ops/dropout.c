/* Dropout (Srivastava et al. 2014) with counter-based random numbers: element i of sample s is kept
 * or not by (seed, place in the model, s, i) alone, so recomputation, any split of the batch and
 * any number of threads draw the same mask. */
#include "base/rng.h"
#include "graph/ops/ops.h"

static ds_status dropout_shape(const ds_node *node, ds_type *results) {
    const ds_dropout_attrs *a = node->attrs;
    results[0] = node->inputs[0]->type;
    if (!ds_dtype_is_float(results[0].dtype) || !(a->p >= 0 && a->p < 1))
        return ds_fail(DS_INVALID, "wants a float and 0 <= p < 1, got p = %g", (double)a->p);
    return DS_OK;
}

uint64_t ds_dropout_key(const ds_tensor *seed, uint64_t place) {
    return ds_mix64((uint64_t)((const int64_t *)seed->data)[DS_SEED_KEY] ^ place);
}

uint64_t ds_dropout_first(const ds_tensor *seed, const ds_tensor *out) {
    const int64_t n = ds_count(out->dims, out->rank);
    const int64_t per_sample = out->rank > 0 && out->dims[0] > 0 ? n / out->dims[0] : n;
    return (uint64_t)(((const int64_t *)seed->data)[DS_SEED_OFFSET] * per_sample);
}

static void dropout_reference(const ds_kernel_args *args) {
    const ds_dropout_attrs *a = args->node->attrs;
    const ds_tensor *out = &args->outputs[0];
    const int64_t n = ds_count(out->dims, out->rank);
    const uint64_t key = ds_dropout_key(&args->inputs[1], a->place);
    const uint64_t first = ds_dropout_first(&args->inputs[1], out);
    const float *x = args->inputs[0].data;
    float *y = out->data;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t counter = first + (uint64_t)i;
        const float u = ds_uniform(ds_philox(key, counter / 4, 0).word[counter % 4]);
        y[i] = u < a->p ? 0 : x[i] / (1 - a->p);
    }
}

static void dropout_gradient(ds_graph *g, ds_node *node, ds_node *const *dresults,
                             ds_node **dinputs) {
    dinputs[0] = ds_graph_add_node(g, &ds_op_dropout, node->attrs,
                                   (ds_node *[]){dresults[0], node->inputs[1]}, 2);
}

static void dropout_describe(const ds_node *node, ds_text *out) {
    ds_text_printf(out, "p %g", (double)((const ds_dropout_attrs *)node->attrs)->p);
}

const ds_op ds_op_dropout = {
    .name = "dropout",
    .attrs_size = sizeof(ds_dropout_attrs),
    .traits = DS_ELEMENTWISE | DS_RANDOM,
    .precision = DS_PRECISION_FOLLOW,
    .shape = dropout_shape,
    .gradient = dropout_gradient,
    .reference = dropout_reference,
    .describe = dropout_describe,
};

ds_node *ds_graph_dropout(ds_graph *g, ds_node *x, float p) {
    if (p == 0)
        return x;
    const ds_dropout_attrs a = {.p = p, .place = ds_mix64(ds_hash_name(g->scope) + g->n_nodes)};
    return ds_graph_add_node(g, &ds_op_dropout, &a, (ds_node *[]){x, ds_graph_seed(g)}, 2);
}
