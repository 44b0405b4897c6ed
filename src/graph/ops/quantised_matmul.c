/* Products with quantised weights: y = x · Wᵀ, W [out, in] as whole numbers and scales.
 *
 * Weights of 8 bits have one scale a row; weights of 4 bits one for each group of columns, the last
 * of which may be shorter (as GPTQ, Frantar et al. 2022, and AWQ, Lin et al. 2023, have them). They
 * are multiplied by x as it is (W8A16, W4A16), or, weights of 8 bits, by whole numbers: each row of
 * x is quantised with a scale of its own, its largest magnitude / 127 (W8A8 with dynamic scales a
 * token, Yao et al. 2022, "ZeroQuant").
 *
 * Four bits lie as in files of compressed-tensors: eight columns in a word, the first in its lowest
 * bits, each with 8 added. */
#include <math.h>
#include <string.h>

#include "graph/ops/ops.h"

enum { MOST_SUMMANDS = 1 << 17 }; /* of ±128 · ±127 in 32 bits */

static int64_t columns_of(const ds_node *node) {
    return ds_node_dim(node->inputs[0], -1);
}

static ds_status check_codes(const ds_type *codes, int64_t columns) {
    const bool is_byte = codes->dtype == DS_I8;
    if (codes->rank != 2 || (!is_byte && codes->dtype != DS_I32))
        return ds_fail(DS_INVALID, "weights must be i8 [out, in], or i32 [out, in/8]");
    const int64_t wants = is_byte ? columns : (columns + 7) / 8;
    if (codes->dims[1] != wants)
        return ds_fail(DS_INVALID, "input has %lld columns, weights of %lld %s do not fit",
                       (long long)columns, (long long)codes->dims[1],
                       is_byte ? "bytes" : "words of eight columns");
    return DS_OK;
}

static ds_status quantised_shape(const ds_node *node, ds_type *results) {
    const ds_quantised_matmul_attrs *t = node->attrs;
    const ds_type *x = &node->inputs[0]->type, *codes = &node->inputs[1]->type;
    const ds_type *scale = &node->inputs[2]->type;
    if (x->rank < 2 || !ds_dtype_is_float(x->dtype))
        return ds_fail(DS_INVALID, "the input must be floats [..., in]");
    const int64_t columns = columns_of(node);
    DS_TRY(check_codes(codes, columns));
    if (t->group < 1 || (codes->dtype == DS_I32 && t->group < columns && t->group % 8 != 0))
        return ds_fail(DS_INVALID, "groups of %lld columns", (long long)t->group);
    const int64_t n_groups = columns / t->group + (columns % t->group != 0);
    if (!ds_dtype_is_float(scale->dtype) || scale->rank != 2 || scale->dims[0] != codes->dims[0] ||
        scale->dims[1] != n_groups)
        return ds_fail(DS_INVALID, "scales must be floats [%lld, %lld]", (long long)codes->dims[0],
                       (long long)n_groups);
    if (t->int8_input && (codes->dtype != DS_I8 || n_groups != 1 || columns > MOST_SUMMANDS))
        return ds_fail(DS_INVALID,
                       "an int8 input wants i8 weights with one scale a row, of %d "
                       "columns at most",
                       MOST_SUMMANDS);
    results[0] = *x;
    results[0].dims[x->rank - 1] = codes->dims[0];
    if (t->epilogue.f32_result)
        results[0].dtype = DS_F32;
    return DS_OK;
}

static ds_cost quantised_cost(const ds_node *node) {
    double bytes = (double)ds_type_size(&node->type);
    for (int i = 0; i < node->n_inputs; i++)
        bytes += (double)ds_type_size(&node->inputs[i]->type);
    return (ds_cost){.flops = 2.0 * (double)ds_node_count(node) * (double)columns_of(node),
                     .bytes = bytes};
}

int ds_int4_at(const int32_t *row, int64_t column) {
    return (int)((uint32_t)row[column / 8] >> (4 * (column % 8)) & 15) - 8;
}

static double code_at(const ds_tensor *codes, int64_t row, int64_t column) {
    if (codes->dtype == DS_I8)
        return ((const int8_t *)codes->data)[row * codes->dims[1] + column];
    return ds_int4_at((const int32_t *)codes->data + row * codes->dims[1], column);
}

static float product_of_floats(const ds_kernel_args *args, const float *x, int64_t row) {
    const ds_quantised_matmul_attrs *t = args->node->attrs;
    const ds_tensor *scale = &args->inputs[2];
    const float *scales = (const float *)scale->data + row * scale->dims[1];
    double sum = 0;
    for (int64_t i = 0; i < columns_of(args->node); i++)
        sum += (double)x[i] * code_at(&args->inputs[1], row, i) * (double)scales[i / t->group];
    return (float)sum;
}

/* A NaN in x makes the whole row one, as it does in floats. */
static float product_of_ints(const ds_kernel_args *args, const float *x, int64_t row) {
    const int8_t *w = (const int8_t *)args->inputs[1].data + row * args->inputs[1].dims[1];
    const int64_t n = columns_of(args->node);
    const float scale = ds_quantisation_scale(ds_row_magnitude(x, n), false);
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += w[i] * ds_quantised(x[i], scale);
    return (float)sum * (scale * ((const float *)args->inputs[2].data)[row]);
}

static void quantised_reference(const ds_kernel_args *args) {
    const ds_quantised_matmul_attrs *t = args->node->attrs;
    const int64_t n_in = columns_of(args->node), n_out = args->inputs[1].dims[0];
    const int64_t rows = ds_count(args->inputs[0].dims, args->inputs[0].rank - 1);
    float *y = args->outputs[0].data;
    for (int64_t at = 0; at < rows * n_out; at++) {
        const float *x = (const float *)args->inputs[0].data + at / n_out * n_in;
        const int64_t row = at % n_out;
        const float sum =
            t->int8_input ? product_of_ints(args, x, row) : product_of_floats(args, x, row);
        y[at] = ds_epilogue(&t->epilogue, args, 3, sum, row, at);
    }
}

static void quantised_describe(const ds_node *node, ds_text *out) {
    const ds_quantised_matmul_attrs *t = node->attrs;
    ds_text_printf(out, "w%da%d ", node->inputs[1]->type.dtype == DS_I8 ? 8 : 4,
                   t->int8_input ? 8 : 16);
    if (t->group < columns_of(node))
        ds_text_printf(out, "group=%lld ", (long long)t->group);
    ds_epilogue_describe(&t->epilogue, out);
}

const ds_op ds_op_quantised_matmul = {
    .name = "quantised_matmul",
    .attrs_size = sizeof(ds_quantised_matmul_attrs),
    .traits = DS_HEAVY,
    .precision = DS_PRECISION_LOW,
    .keep_f32 = 1u << 2 | 1u << 3, /* scales, a fused bias */
    .stored = 1u << 1 | 1u << 2,
    .shape = quantised_shape,
    .cost = quantised_cost,
    .reference = quantised_reference,
    .describe = quantised_describe,
};

ds_node *ds_graph_quantised_matmul(ds_graph *g, ds_node *x, ds_node *codes, ds_node *scale,
                                   ds_quantised_matmul_opts opts) {
    ds_quantised_matmul_attrs attrs;
    memset(&attrs, 0, sizeof attrs); /* padding too: attributes are compared as bytes */
    attrs.group = opts.group ? opts.group : x ? ds_node_dim(x, -1) : 1;
    attrs.int8_input = opts.int8_input;
    return ds_graph_add_node(g, &ds_op_quantised_matmul, &attrs, (ds_node *[]){x, codes, scale}, 3);
}
