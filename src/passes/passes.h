/* The passes: functions from graph to graph, one file each. Each returns a new graph (a poisoned
 * one if the model cannot be treated so) or NULL when out of memory; the old one stays as it is. */
#ifndef DS_PASSES_PASSES_H
#define DS_PASSES_PASSES_H

#include "backend/backend.h"
#include "deepseek/compile.h"
#include "graph/node.h"

/* Matrix products, attention and activations in bf16 or fp16; parameters stay f32 masters that are
 * cast where they are used; norms, softmax and losses compute in f32. */
ds_graph *ds_pass_precision(const ds_graph *g, ds_precision precision);

/* The type that the parameter of this name is kept in. */
typedef ds_dtype ds_stored_dtype(const char *param, const void *context);
/* Parameters in the types that a trained model's state keeps them in, read as they are by the ops
 * that can. After precision, before everything that plans. */
ds_graph *ds_pass_stored(const ds_graph *g, ds_stored_dtype *dtype_of, const void *context);

/* How a state keeps a parameter of products quantised: in NAME's place it has
 *   NAME_codes           i8 [out, in], for 8 bits (NAME itself in files); or
 *   NAME_packed          i32 [out, ⌈in/8⌉], for 4 bits
 *   NAME_scale           floats [out, ⌈in/group⌉]
 *   NAME_input_factor    f32 [in], where columns of the input are multiplied first
 *   NAME_outlier_columns i32 [n], NAME_outliers bf16 [out, n]: columns kept as they are
 * as files of compressed-tensors do, in which the last three do not occur. */
#define DS_WEIGHT_CODES    "_codes"
#define DS_PACKED_WEIGHT   "_packed"
#define DS_WEIGHT_SCALE    "_scale"
#define DS_INPUT_FACTOR    "_input_factor"
#define DS_OUTLIER_COLUMNS "_outlier_columns"
#define DS_OUTLIERS        "_outliers"
typedef struct ds_quantised_weight {
    ds_dtype dtype, scale_dtype; /* of the codes: DS_I8 or DS_I32 */
    int64_t group;               /* columns that share a scale */
    int64_t n_outliers;
    bool has_factor, int8_input;
} ds_quantised_weight;
/* False: it is not quantised. n_in: columns of the product's input. */
typedef bool ds_quantised_lookup(const char *param, int64_t n_in, const void *context,
                                 ds_quantised_weight *out);
/* Products with quantised parameters over their codes. After precision, before stored. */
ds_graph *ds_pass_quantise(const ds_graph *g, ds_quantised_lookup *find, const void *context);

/* Adds for each product with a parameter the output DS_RANGE_PREFIX and its name, f32 [in]: the
 * largest magnitude in each column of the input. Outputs there were stay. */
ds_graph *ds_pass_observe(const ds_graph *g);
#define DS_RANGE_PREFIX "range/"

/* Attention as products, mask and softmax over a score matrix in memory: for comparison with the
 * fused op. Before autodiff. */
ds_graph *ds_pass_unfuse_attention(const ds_graph *g);

typedef enum ds_product_side {
    DS_NO_PRODUCT, /* something else than products with their right operand reads it */
    DS_BY_ROWS,    /* a matrix [out, in] */
    DS_BY_COLUMNS, /* [in, out] */
    DS_TIED,       /* [out, in], but rows are looked up too: the embedding as the projection */
} ds_product_side;

/* By node id: how products read each parameter that only they, and look-ups, read. Gates of experts
 * are left out: they are small, and a token's whole way depends on them. free() it; NULL when out
 * of memory. */
ds_product_side *ds_product_parameters(const ds_graph *g);
/* Whether the parameter can be kept as something else than floats: only products read it. */
static inline bool ds_is_product(ds_product_side side) {
    return side == DS_BY_ROWS || side == DS_BY_COLUMNS;
}

/* Products of parameters as inference will compute them, with gradients straight through the
 * rounding. Before precision and autodiff; after autodiff, drop_surrogates leaves the values. */
ds_graph *ds_pass_quantisation_aware(const ds_graph *g, ds_quantisation kind);
ds_graph *ds_pass_drop_surrogates(const ds_graph *g);

/* Appends the backward pass of the output `loss` (f32, rank 0): for every parameter that it depends
 * on, the gradient is written over (or added to) the variable "grad/NAME". */
ds_graph *ds_pass_autodiff(const ds_graph *g, const char *loss, bool accumulate);

/* Joins ops into the fused forms that kernels offer: matmul epilogues, casts into f32 results,
 * linear + cross-entropy without whole logits. */
ds_graph *ds_pass_fuse(const ds_graph *g);

/* Joins groups of element-wise ops whose intermediate values are read inside the group only. */
ds_graph *ds_pass_fuse_elementwise(const ds_graph *g);

/* Drops what a segment computed after the forward pass and computes it again in the backward pass:
 * everything (full), or all but the results of heavy ops (selective). Chen et al. 2016. */
ds_graph *ds_pass_recompute(const ds_graph *g, ds_recompute recompute);

/* Moves activations that wait for the backward pass to the host arena in between. */
ds_graph *ds_pass_offload(const ds_graph *g);

#endif
