/* Every op there is, with the attributes its nodes carry. The families are in the files named. */
#ifndef DS_GRAPH_OPS_H
#define DS_GRAPH_OPS_H

#include "base/error.h"
#include "graph/node.h"

/* source.c: leaves */
extern const ds_op ds_op_input, ds_op_param, ds_op_variable, ds_op_seed, ds_op_fill, ds_op_iota;
/* fill */
typedef struct ds_fill_attrs {
    double value;
    ds_type type;
} ds_fill_attrs;
/* iota */
typedef struct ds_iota_attrs {
    int64_t n;
} ds_iota_attrs;
/* Adds (or finds) a leaf. */
ds_node *ds_graph_add_leaf(ds_graph *g, const ds_op *op, const char *name, const ds_type *type,
                           ds_init init);
/* The run's random seed: i64 [2], key and sample offset, written by the program before each run. */
ds_node *ds_graph_seed(ds_graph *g);
enum { DS_SEED_KEY, DS_SEED_OFFSET, DS_SEED_WORDS };
#define DS_SEED_NAME "~seed"

/* graph.c: a further result of a several-result op */
extern const ds_op ds_op_result;
int ds_result_index(const ds_node *node); /* 0 for any other op */

/* elementwise.c */
extern const ds_op ds_op_unary, ds_op_binary, ds_op_select, ds_op_cast, ds_op_stop_gradient;
typedef struct ds_unary_attrs {
    ds_unary kind;
    float alpha;
} ds_unary_attrs;
typedef struct ds_binary_attrs {
    ds_binary kind;
} ds_binary_attrs;
typedef struct ds_cast_attrs {
    ds_dtype dtype;
} ds_cast_attrs;
const char *ds_unary_name(ds_unary kind);
const char *ds_binary_name(ds_binary kind);
/* Element i of a row-major tensor whose floats are f32: what reference kernels are given. */
double ds_tensor_element(const ds_tensor *t, int64_t i);
float ds_unary_value(ds_unary kind, float x, float alpha);
float ds_binary_value(ds_binary kind, float a, float b);

/* fused_elementwise.c (made by the fuse_elementwise pass): operands of the result's shape[, seed] →
 * y.
 */
extern const ds_op ds_op_fused_elementwise;
enum { DS_MAX_INSTRUCTIONS = 16, DS_MAX_FUSED_OPERANDS = 7 };
typedef enum ds_step_kind {
    DS_STEP_UNARY,
    DS_STEP_BINARY,
    DS_STEP_SELECT,
    DS_STEP_DROPOUT,
    DS_STEP_KINDS
} ds_step_kind;
typedef struct ds_instruction {
    ds_step_kind step;
    int kind;       /* a ds_unary or ds_binary */
    float alpha;    /* of the unary; the probability of dropout */
    int args[3];    /* k: operand k; n_operands + k: the result of instruction k */
    uint64_t place; /* of dropout */
} ds_instruction;
typedef struct ds_fused_elementwise_attrs {
    ds_dtype dtype; /* of the result, which is the last instruction's */
    int n;
    uint64_t is_random; /* the last input is the seed (a whole word: no padding) */
    ds_instruction list[DS_MAX_INSTRUCTIONS];
} ds_fused_elementwise_attrs;
int ds_instruction_args(const ds_instruction *i); /* how many it reads */
int ds_fused_operands(const ds_node *node);       /* inputs less the seed */

/* view.c */
extern const ds_op ds_op_reshape, ds_op_permute, ds_op_slice, ds_op_broadcast, ds_op_concat,
    ds_op_contiguous;
typedef struct ds_reshape_attrs {
    int rank;
    int64_t dims[DS_MAX_RANK];
} ds_reshape_attrs; /* also of broadcast */
typedef struct ds_permute_attrs {
    int axes[DS_MAX_RANK];
} ds_permute_attrs;
typedef struct ds_slice_attrs {
    int axis;
    int64_t start, length;
} ds_slice_attrs;
typedef struct ds_concat_attrs {
    int axis;
} ds_concat_attrs;
/* A row-major copy of a strided view; added by the memory plan where a kernel needs it. */
ds_node *ds_graph_contiguous(ds_graph *g, ds_node *x);

/* reduce.c */
extern const ds_op ds_op_reduce, ds_op_argmax, ds_op_topk;
typedef struct ds_reduce_attrs {
    ds_reduction kind;
    unsigned axes;
    bool keep_dims;
    bool f32_result; /* set by the fuse pass */
} ds_reduce_attrs;
typedef struct ds_topk_attrs {
    int64_t k;
} ds_topk_attrs;

/* matmul.c */
extern const ds_op ds_op_matmul, ds_op_grouped_matmul, ds_op_grouped_matmul_weight;
typedef struct ds_matmul_attrs {
    bool transpose_a, transpose_b, f32_result;
    /* set by the fuse pass: input 2, if there, is a bias [n]; then the activation */
    bool has_bias;
    bool has_activation;
    ds_unary activation;
    bool has_residual; /* the last input is added at the end, shape of the result */
} ds_matmul_attrs;

/* A finished sum of column `column`, place `at` of the result, with what the epilogue adds; the
 * bias is input `bias`, a residual the last one. */
float ds_epilogue(const ds_matmul_attrs *t, const ds_kernel_args *args, int bias, float sum,
                  int64_t column, int64_t at);
void ds_epilogue_describe(const ds_matmul_attrs *t, ds_text *out);

/* quantised_matmul.c: x, codes, scales[, bias][, residual] → y */
extern const ds_op ds_op_quantised_matmul;
typedef struct ds_quantised_matmul_attrs {
    ds_matmul_attrs epilogue; /* neither operand is transposed; a bias is input 3 */
    int64_t group;            /* columns that share a scale */
    int64_t int8_input;       /* x is quantised too, row by row (whole words: no padding) */
} ds_quantised_matmul_attrs;
/* Column of a row of four-bit weights, −8 … 7. */
int ds_int4_at(const int32_t *row, int64_t column);

/* quantise.c: x [rows, …] → f32 [rows], the scale of each row: its largest magnitude / 127, as it
 * is or (stored) as the least bf16 that is not below */
extern const ds_op ds_op_quantisation_scale;
typedef struct ds_quantisation_scale_attrs {
    int64_t is_stored;
} ds_quantisation_scale_attrs;
float ds_quantisation_scale(float most, bool is_stored);
float ds_row_magnitude(const float *x, int64_t n); /* NaN if there is one */
int8_t ds_quantised(float x, float scale);         /* 0 for a NaN */
ds_node *ds_graph_quantisation_scale(ds_graph *g, ds_node *x, bool is_stored);

/* quantise.c: value, surrogate → value; the gradient goes to the surrogate */
extern const ds_op ds_op_straight_through;
ds_node *ds_graph_straight_through(ds_graph *g, ds_node *value, ds_node *surrogate);

/* index.c: gather, scatter_add, moe_route */
extern const ds_op ds_op_gather, ds_op_scatter_add, ds_op_moe_route;
typedef struct ds_scatter_add_attrs {
    int64_t n_rows;
} ds_scatter_add_attrs;
typedef struct ds_moe_route_attrs {
    int64_t n_experts;
} ds_moe_route_attrs;

/* softmax.c */
extern const ds_op ds_op_softmax, ds_op_softmax_grad, ds_op_log_softmax, ds_op_log_softmax_grad;

/* norm.c. layer_norm: x, weight[, bias] → y, mean, rstd (f32 [rows]).
 * layer_norm_grad: dy, x, weight, mean, rstd → dx, dweight, dbias (f32).
 * rms_norm: x, weight → y, rstd.   rms_norm_grad: dy, x, weight, rstd → dx, dweight (f32). */
extern const ds_op ds_op_layer_norm, ds_op_layer_norm_grad, ds_op_rms_norm, ds_op_rms_norm_grad;
typedef struct ds_norm_attrs {
    float eps;
} ds_norm_attrs;

/* paged.c: cache, x, slots → cache; q, k_cache, v_cache, tables, owners, positions → y */
extern const ds_op ds_op_paged_write, ds_op_paged_attention;
/* Floats in a row of a cache's last axis; a row of i8 ends in its scale, an f32. */
enum { DS_CACHE_SCALE = (int)sizeof(float) };
static inline int64_t ds_cache_dim(ds_dtype dtype, int64_t last_axis) {
    return dtype == DS_I8 ? last_axis - DS_CACHE_SCALE : last_axis;
}
/* The token sees keys [*first, result) of its sequence; none if its owner, position or table is out
 * of bounds. */
int64_t ds_paged_keys(const ds_kernel_args *args, int64_t token, int64_t *first);
/* rotary.c: x, positions → y */
extern const ds_op ds_op_rotary;
/* Angle per position of the pair-th pair, radians, and what turned vectors are multiplied by. */
double ds_rotary_frequency(const ds_rotary_opts *opts, int64_t pair);
double ds_rotary_magnitude(const ds_rotary_opts *opts);
/* DS_INVALID says which number of the scaling makes no sense. */
ds_status ds_rope_scaling_check(const ds_rope_scaling *scaling);

/* attention.c. attention: q, k, v[, key_lengths] → out, lse (f32 [batch, heads, tokens]).
 * attention_grad: dout, q, k, v, out, lse[, key_lengths] → dq, dk, dv. */
extern const ds_op ds_op_attention, ds_op_attention_grad;
/* attributes: ds_attention_opts with the scale filled in; ds_rotary_opts; ds_conv_opts */

/* loss.c. cross_entropy: logits, labels → loss_sum, lse (f32 [rows]).
 * cross_entropy_grad: dloss (f32 rank 0), logits, labels, lse → dlogits.
 * linear_cross_entropy (made by the fuse pass): x [rows, width], weight [classes, width], labels,
 * dloss → loss_sum, dx, dweight; the logits exist a block of rows at a time. */
extern const ds_op ds_op_cross_entropy, ds_op_cross_entropy_grad, ds_op_linear_cross_entropy;
typedef struct ds_linear_cross_entropy_attrs {
    bool transpose_b; /* weight is [classes, width] (true) or [width, classes] */
} ds_linear_cross_entropy_attrs;
enum { DS_IGNORED_LABEL = -100 };

/* dropout.c: x, seed → y. Its own gradient: the same op on dy. */
extern const ds_op ds_op_dropout;
typedef struct ds_dropout_attrs {
    float p;
    uint64_t place; /* stream of random numbers */
} ds_dropout_attrs;
/* The key of this run and place, and the counter of the result's first element. */
uint64_t ds_dropout_key(const ds_tensor *seed, uint64_t place);
uint64_t ds_dropout_first(const ds_tensor *seed, const ds_tensor *out);

/* conv.c */
extern const ds_op ds_op_conv2d, ds_op_conv2d_input_grad, ds_op_conv2d_weight_grad;
typedef struct ds_conv_grad_attrs {
    ds_conv_opts conv;
    int64_t dims[4]; /* of the gradient to make */
} ds_conv_grad_attrs;

/* quantise.c */
extern const ds_op ds_op_quantise, ds_op_dequantise, ds_op_fake_quantise, ds_op_fake_quantise_grad;

/* state.c: effects on variables */
extern const ds_op ds_op_assign, ds_op_accumulate, ds_op_cache_write, ds_op_sum_of_squares;

/* optimizer.c: updates in place, of as many parameters as are given: all parameters, then all m, …
 * Scalars are f32 rank-0 nodes. An update whose grad_scale is not finite does nothing: one bad
 * gradient spoils no parameter. */
extern const ds_op ds_op_adamw; /* p, m, v, grad, lr, grad_scale, step */
extern const ds_op ds_op_sgd;   /* p, m, grad, lr, grad_scale */
extern const ds_op ds_op_lion;  /* p, m, grad, lr, grad_scale */
typedef struct ds_update_attrs {
    float beta1, beta2, eps, weight_decay;
} ds_update_attrs;

/* Every op above, for tests that go through all of them and for lookups by name. */
extern const ds_op *const ds_all_ops[];
extern const int ds_n_ops;

/* ---- pieces shared by shape rules ------------------------------------------------------------ */

/* f32 of rank 0. */
ds_type ds_scalar_type(void);
/* NumPy broadcasting of two shapes. DS_INVALID with a message when they do not fit. */
ds_status ds_broadcast_types(const ds_type *a, const ds_type *b, ds_type *out);

#endif
