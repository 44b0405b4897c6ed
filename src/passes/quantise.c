/* Products with parameters that the state keeps quantised: x · Wᵀ + … becomes quantised_matmul over
 * the codes and scales that stand for W, whether the model stores W as [out, in] or as [in, out].
 * Everything else about the graph stays as it is; that a parameter is quantised is known from the
 * state alone (what its tensors are called is in passes.h).
 *
 * Outliers (Dettmers et al. 2022, "LLM.int8()"): columns of x that are far larger than the rest
 * would set the scale of every row. They have codes of 0 and their factor is 0, so they are not in
 * the quantised product; a small product with their own weights is added to it. Factors other than
 * 0 and 1 are those of SmoothQuant (Xiao et al. 2022) where no norm could take them. */
#include "graph/ops/ops.h"
#include "passes/passes.h"

enum { NAME_SIZE = 512 };

typedef struct quantise_pass {
    ds_quantised_lookup *find;
    const void *context;
} quantise_pass;

static const ds_node *param_behind(const ds_node *x) {
    while (ds_node_is(x, &ds_op_cast))
        x = x->inputs[0];
    return ds_node_is(x, &ds_op_param) ? x : NULL;
}

/* A leaf that stands beside a parameter. */
static ds_node *leaf(ds_graph *to, const char *param, const char *suffix, ds_type type) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s%s", param, suffix);
    return ds_graph_add_leaf(to, &ds_op_param, name, &type, DS_INIT_ZEROS);
}

static ds_node *scaled_columns(ds_graph *to, const char *param, ds_node *x) {
    const int64_t columns = ds_node_dim(x, -1);
    ds_node *factor = leaf(to, param, DS_INPUT_FACTOR, ds_type_of(DS_F32, 1, &columns));
    return ds_graph_mul(to, x, ds_graph_cast(to, factor, x->type.dtype));
}

/* The product of x's outlying columns with their weights. x: [rows, in] */
static ds_node *outliers_product(ds_graph *to, const char *param, ds_node *x, int64_t n_out,
                                 const ds_quantised_weight *w) {
    ds_node *columns =
        leaf(to, param, DS_OUTLIER_COLUMNS, ds_type_of(DS_I32, 1, (int64_t[]){w->n_outliers}));
    ds_node *weights =
        leaf(to, param, DS_OUTLIERS, ds_type_of(DS_BF16, 2, (int64_t[]){n_out, w->n_outliers}));
    ds_node *by_column = ds_graph_permute(to, x, (int[]){1, 0});
    by_column = ds_graph_gather(to, by_column, columns);
    return ds_graph_matmul(to, by_column, weights,
                           (ds_matmul_opts){.transpose_a = true, .transpose_b = true});
}

static ds_node *quantised(ds_graph *to, const char *param, ds_node *x, int64_t n_out,
                          const ds_quantised_weight *w) {
    const int64_t n_in = ds_node_dim(x, -1);
    const bool is_i8 = w->dtype == DS_I8;
    const int64_t n_groups = n_in / w->group + (n_in % w->group != 0);
    ds_node *codes =
        leaf(to, param, is_i8 ? DS_WEIGHT_CODES : DS_PACKED_WEIGHT,
             ds_type_of(w->dtype, 2, (int64_t[]){n_out, is_i8 ? n_in : (n_in + 7) / 8}));
    ds_node *scale = leaf(to, param, DS_WEIGHT_SCALE,
                          ds_type_of(w->scale_dtype, 2, (int64_t[]){n_out, n_groups}));
    const ds_quantised_matmul_opts opts = {.group = w->group, .int8_input = w->int8_input};
    if (w->n_outliers == 0)
        return ds_graph_quantised_matmul(to, w->has_factor ? scaled_columns(to, param, x) : x,
                                         codes, scale, opts);
    int64_t dims[DS_MAX_RANK];
    for (int i = 0; x && i < x->type.rank; i++)
        dims[i] = x->type.dims[i];
    ds_node *rows = ds_graph_reshape(to, x, 2, (int64_t[]){-1, n_in});
    ds_node *y = ds_graph_quantised_matmul(to, scaled_columns(to, param, rows), codes, scale, opts);
    y = ds_graph_add(to, outliers_product(to, param, rows, n_out, w), y);
    dims[x ? x->type.rank - 1 : 0] = n_out;
    return ds_graph_reshape(to, y, x ? x->type.rank : 1, dims);
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *inputs) {
    const quantise_pass *pass = r->context;
    const ds_matmul_attrs *t = node->attrs;
    const ds_node *param = ds_node_is(node, &ds_op_matmul) && node->n_inputs == 2 && !t->transpose_a
                               ? param_behind(node->inputs[1])
                               : NULL;
    ds_quantised_weight w = {0};
    if (!param || param->type.rank != 2 ||
        !pass->find(param->name, ds_node_dim(node->inputs[0], -1), pass->context, &w))
        return ds_graph_copy_node(to, node, inputs);
    ds_node *y = quantised(to, param->name, inputs[0], ds_node_dim(node, -1), &w);
    return ds_graph_cast(to, y, node->type.dtype);
}

ds_graph *ds_pass_quantise(const ds_graph *g, ds_quantised_lookup *find, const void *context) {
    quantise_pass pass = {.find = find, .context = context};
    return ds_graph_rewrite(g, rewrite_node, &pass);
}
