/* Graphs: how a model is described, before anything is computed.
 *
 *     ds_graph *g = ds_graph_new();
 *     ds_node *x = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){32, 784});
 *     ds_node *labels = ds_graph_input(g, "labels", DS_I32, 1, (int64_t[]){32});
 *     ds_node *w = ds_graph_param(g, "weight", 2, (int64_t[]){10, 784}, DS_INIT_NORMAL(0.02f));
 *     ds_node *logits = ds_graph_matmul(g, x, w, (ds_matmul_opts){.transpose_b = true});
 *     ds_graph_output(g, "loss", ds_graph_cross_entropy(g, logits, labels));
 *     puts(ds_graph_ok(g) ? "fine" : ds_error());
 *     ds_graph_free(g);
 *
 * graph      a list of nodes; each uses earlier ones only. It owns everything in it.
 * node       one value: the op that makes it, its dtype and shape, the nodes that it is made from.
 * parameter  a leaf with a name that outlives the run and is trained; names are those of the
 *            Hugging Face checkpoint of the model's family.
 * variable   a leaf that outlives the run and is not trained: optimizer state, caches.
 * pass       a function from graph to graph (autodiff, precision, recompute, …; compile.h).
 * program    a graph made runnable on a backend, its memory planned (compile.h).
 *
 * Errors are sticky: the first failing call is kept in the graph with its name scope and shapes,
 * returns NULL, and later calls (NULL arguments included) do nothing. Check once, at the end, with
 * ds_graph_ok, or leave it to ds_compile. Nodes are borrowed from the graph. All shapes are static.
 */
#ifndef DEEPSEEK_GRAPH_H
#define DEEPSEEK_GRAPH_H

#include <stdbool.h>
#include <stdio.h>
#include "deepseek/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ds_graph ds_graph;
typedef struct ds_node ds_node;

DS_API ds_graph *ds_graph_new(void); /* NULL when out of memory */
DS_API void ds_graph_free(ds_graph *g);

/* False once a call has failed; ds_error() of this thread is then set to the graph's message. */
DS_API bool ds_graph_ok(const ds_graph *g);

/* Opens and closes a name scope: inside push "blocks.3", the parameter "attn.weight" is called
 * "blocks.3.attn.weight", and errors say so. printf style. */
DS_API void ds_graph_push(ds_graph *g, const char *fmt, ...) DS_PRINTF(2, 3);
DS_API void ds_graph_pop(ds_graph *g);

/* Marks a unit of recomputation (one layer, as a rule): nodes made between begin and end may be
 * dropped after the forward pass and made again in the backward pass (memory.checkpoint). */
DS_API void ds_graph_segment_begin(ds_graph *g);
DS_API void ds_graph_segment_end(ds_graph *g);

/* Text, or Graphviz when dot, of every node with its size and cost. */
DS_API void ds_graph_print(const ds_graph *g, FILE *out, bool dot);

/* ---- leaves and outputs ------------------------------------------------------------------- */

typedef enum ds_init_kind { DS_FILL, DS_NORMAL, DS_UNIFORM } ds_init_kind;

typedef struct ds_init {
    ds_init_kind kind;
    float value;   /* fill: the value; normal: standard deviation; uniform: half-width */
    bool no_decay; /* weight decay leaves it alone (biases, norms) */
    bool in_parts; /* written bit by bit, hardly ever all of it: only parts in use take memory */
} ds_init;

#define DS_INIT_ZEROS         ((ds_init){.kind = DS_FILL, .no_decay = true})
#define DS_INIT_ONES          ((ds_init){.kind = DS_FILL, .value = 1, .no_decay = true})
#define DS_INIT_NORMAL(std)   ((ds_init){.kind = DS_NORMAL, .value = (std)})
#define DS_INIT_UNIFORM(half) ((ds_init){.kind = DS_UNIFORM, .value = (half)})

/* A value given by the caller at each run. The name is global (no scope). */
DS_API ds_node *ds_graph_input(ds_graph *g, const char *name, ds_dtype dtype, int rank,
                               const int64_t *dims);
/* A trained f32 tensor. Asking twice for one full name with one shape gives the same node (tied
 * weights). A * in the name makes it a stack, which files hold tensor by tensor: the first axis
 * counts them, and the * becomes the number ("experts.*.w1.weight"). */
DS_API ds_node *ds_graph_param(ds_graph *g, const char *name, int rank, const int64_t *dims,
                               ds_init init);
/* The parameter with this full name (scopes ignored), or a sticky error. */
DS_API ds_node *ds_graph_param_named(ds_graph *g, const char *full_name);
/* A tensor that outlives the run and is not trained. It starts as `init.value`. Global name. */
DS_API ds_node *ds_graph_variable(ds_graph *g, const char *name, ds_dtype dtype, int rank,
                                  const int64_t *dims, ds_init init);
/* Every element `value`. */
DS_API ds_node *ds_graph_fill(ds_graph *g, double value, ds_dtype dtype, int rank,
                              const int64_t *dims);
/* 0, 1, 2, … as i32. [n] */
DS_API ds_node *ds_graph_iota(ds_graph *g, int64_t n);

/* Names a result that the caller reads after a run. */
DS_API void ds_graph_output(ds_graph *g, const char *name, ds_node *x);

DS_API ds_dtype ds_node_dtype(const ds_node *x);
DS_API int ds_node_rank(const ds_node *x);
DS_API int64_t ds_node_dim(const ds_node *x, int axis); /* a negative axis counts from the end */
DS_API int64_t ds_node_count(const ds_node *x);         /* elements */

/* ---- element-wise ------------------------------------------------------------------------- */

typedef enum ds_unary {
    DS_NEG,
    DS_EXP,
    DS_LOG,
    DS_SQRT,
    DS_RSQRT,
    DS_SQUARE,
    DS_RECIPROCAL,
    DS_TANH,
    DS_SIGMOID,
    DS_ERF,
    DS_RELU,
    DS_SILU,
    DS_GELU,      /* x/2 (1 + erf(x/√2)) */
    DS_GELU_TANH, /* Hendrycks & Gimpel 2016, tanh form (GPT-2's "gelu_new") */
    DS_ABS,
    DS_SIGN,
    DS_SIN,
    DS_COS,
    DS_SCALE,  /* alpha·x */
    DS_OFFSET, /* x + alpha */
    DS_STEP,   /* 1 where x > 0, else 0 */
    DS_UNARY_KINDS
} ds_unary;

typedef enum ds_binary {
    DS_ADD,
    DS_SUB,
    DS_MUL,
    DS_DIV,
    DS_MAXIMUM,
    DS_MINIMUM,
    DS_EQUAL,
    DS_LESS, /* 1 or 0, in the dtype of a */
    /* derivative of the activation at a, times b */
    DS_SILU_GRAD,
    DS_GELU_GRAD,
    DS_GELU_TANH_GRAD,
    DS_BINARY_KINDS
} ds_binary;

/* alpha is used by DS_SCALE and DS_OFFSET. Shape and dtype of x. */
DS_API ds_node *ds_graph_unary(ds_graph *g, ds_unary kind, ds_node *x, float alpha);
/* Shapes broadcast as in NumPy; unlike float dtypes meet in f32. */
DS_API ds_node *ds_graph_binary(ds_graph *g, ds_binary kind, ds_node *a, ds_node *b);
DS_API ds_node *ds_graph_add(ds_graph *g, ds_node *a, ds_node *b);
DS_API ds_node *ds_graph_sub(ds_graph *g, ds_node *a, ds_node *b);
DS_API ds_node *ds_graph_mul(ds_graph *g, ds_node *a, ds_node *b);
DS_API ds_node *ds_graph_div(ds_graph *g, ds_node *a, ds_node *b);
DS_API ds_node *ds_graph_scale(ds_graph *g, ds_node *x, float alpha);
/* condition (u8 or float, non-zero is true) ? a : b. Shapes broadcast. */
DS_API ds_node *ds_graph_select(ds_graph *g, ds_node *condition, ds_node *a, ds_node *b);
DS_API ds_node *ds_graph_cast(ds_graph *g, ds_node *x, ds_dtype dtype);
/* The value, through which no gradient flows. */
DS_API ds_node *ds_graph_stop_gradient(ds_graph *g, ds_node *x);

/* ---- views: no element is moved, only described anew --------------------------------------- */

/* Same elements in row-major order; one dim may be -1. */
DS_API ds_node *ds_graph_reshape(ds_graph *g, ds_node *x, int rank, const int64_t *dims);
/* axes: a permutation of 0 … rank-1; result axis i is x's axis axes[i]. */
DS_API ds_node *ds_graph_permute(ds_graph *g, ds_node *x, const int *axes);
/* [start, start + length) along one axis. */
DS_API ds_node *ds_graph_slice(ds_graph *g, ds_node *x, int axis, int64_t start, int64_t length);
/* Repeats size-1 or missing leading axes. */
DS_API ds_node *ds_graph_broadcast(ds_graph *g, ds_node *x, int rank, const int64_t *dims);
/* n ≥ 1 nodes joined along one axis (this one does move elements). */
DS_API ds_node *ds_graph_concat(ds_graph *g, ds_node *const *xs, int n, int axis);

/* ---- reductions ---------------------------------------------------------------------------- */

typedef enum ds_reduction { DS_SUM, DS_MEAN, DS_MAX, DS_MIN } ds_reduction;

/* Over the axes whose bits are set in `axes`; they stay as size 1 if keep_dims. */
DS_API ds_node *ds_graph_reduce(ds_graph *g, ds_reduction kind, ds_node *x, unsigned axes,
                                bool keep_dims);
DS_API ds_node *ds_graph_sum_all(ds_graph *g, ds_node *x); /* rank 0 */
/* Index of the largest element of the last axis (the first of equals). i32, last axis gone. */
DS_API ds_node *ds_graph_argmax(ds_graph *g, ds_node *x);
/* The k largest of the last axis, in falling order, and their indices (i32). Both [..., k]. */
DS_API ds_node *ds_graph_topk(ds_graph *g, ds_node *x, int64_t k, ds_node **indices);

/* ---- matrix products ----------------------------------------------------------------------- */

typedef struct ds_matmul_opts {
    bool transpose_a, transpose_b; /* the last two axes are swapped */
    bool f32_result;               /* result in f32 whatever the operands */
} ds_matmul_opts;

/* a: [..., m, k]   b: [..., k, n], or [k, n] for all of a's leading axes. Returns [..., m, n].
 * Sums in f32 (i32 for i8 operands, whose result is i32). Floats may differ in dtype: the result
 * has a's. */
DS_API ds_node *ds_graph_matmul(ds_graph *g, ds_node *a, ds_node *b, ds_matmul_opts opts);

/* Row block e of x times matrix e: x [rows, k], w [experts, k, n] (or [experts, n, k] if
 * transpose_b), offsets i32 [experts + 1], rising from 0 to at most rows. Returns [rows, n]; rows
 * past the last offset are zero. */
DS_API ds_node *ds_graph_grouped_matmul(ds_graph *g, ds_node *x, ds_node *w, ds_node *offsets,
                                        ds_matmul_opts opts);

/* ---- indices ------------------------------------------------------------------------------- */

/* Rows of table [rows, ...] by ids (i32, any shape). Returns ids' shape followed by a row's. */
DS_API ds_node *ds_graph_gather(ds_graph *g, ds_node *table, ds_node *ids);
/* Sums rows of x (ids' shape followed by a row's) into zeros [n_rows, row...] at ids. Ids outside
 * 0 … n_rows-1 are left out. f32 result. */
DS_API ds_node *ds_graph_scatter_add(ds_graph *g, ds_node *x, ds_node *ids, int64_t n_rows);

/* Sends n_tokens × k choices of expert to a list sorted by expert, in order of token.
 * experts: i32 [tokens, k]. Returns i32 [tokens·k]: for each sorted place the flat choice
 * (token·k + slot) that goes there; *offsets: i32 [n_experts + 1]. */
DS_API ds_node *ds_graph_moe_route(ds_graph *g, ds_node *experts, int64_t n_experts,
                                   ds_node **offsets);

/* ---- normalisation, attention, losses -------------------------------------------------------- */

DS_API ds_node *ds_graph_softmax(ds_graph *g, ds_node *x);     /* last axis */
DS_API ds_node *ds_graph_log_softmax(ds_graph *g, ds_node *x); /* last axis */

/* Over the last axis: (x − mean) / sqrt(var + eps) · weight + bias (Ba et al. 2016).
 * weight, bias: [last]; bias may be NULL. Statistics in f32. */
DS_API ds_node *ds_graph_layer_norm(ds_graph *g, ds_node *x, ds_node *weight, ds_node *bias,
                                    float eps);
/* x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019). */
DS_API ds_node *ds_graph_rms_norm(ds_graph *g, ds_node *x, ds_node *weight, float eps);

/* How frequencies are changed for texts longer than a model was first trained on. `factor`: how
 * many times longer; `original`: tokens of the first training. */
typedef enum ds_rope_kind {
    DS_ROPE_PLAIN,
    DS_ROPE_LINEAR, /* all slower by the factor (Chen et al. 2023, position interpolation) */
    DS_ROPE_LLAMA3, /* long waves by the factor, short ones not, between them gradually */
    DS_ROPE_YARN,   /* the same by turns within `original` (Peng et al. 2023) */
    DS_ROPE_KINDS
} ds_rope_kind;

typedef struct ds_rope_scaling {
    ds_rope_kind kind;
    float factor;
    int64_t original;
    float low_freq_factor, high_freq_factor; /* Llama 3: waves of original / these are the bounds */
    float beta_fast, beta_slow;              /* YaRN: turns within `original` that are the bounds */
    float magnitude; /* YaRN: the turned vectors are multiplied by this; 0 = 1 */
} ds_rope_scaling;

typedef struct ds_rotary_opts {
    float theta;      /* base of the frequencies, 10000 as published */
    bool interleaved; /* pairs (2i, 2i+1) as in GPT-J; else (i, i + dim/2) as in Llama */
    int64_t n_dims;   /* rotated leading part of head_dim; 0 = all */
    bool inverse;     /* rotate back (what the gradient needs) */
    ds_rope_scaling scaling;
} ds_rotary_opts;

/* Rotary position embedding (Su et al. 2021). x: [batch, tokens, heads, head_dim];
 * positions: i32 [batch, tokens] or [tokens]. */
DS_API ds_node *ds_graph_rotary(ds_graph *g, ds_node *x, ds_node *positions, ds_rotary_opts opts);

typedef struct ds_attention_opts {
    bool causal;    /* query t of T sees keys up to position key_length − T + t */
    int64_t window; /* sees that many keys back, itself included; 0 = all */
    float scale;    /* 0 = 1/sqrt(head_dim) */
} ds_attention_opts;

/* Scaled dot-product attention, never storing the score matrix (Dao et al. 2022).
 *   q: [batch, tokens, heads, head_dim]   k, v: [batch, keys, kv_heads, head_dim]
 *   key_lengths: i32 [batch], keys past it are not seen (padding); NULL = all are.
 * heads is a multiple of kv_heads (grouped-query attention). v's head_dim may differ.
 * Returns [batch, tokens, heads, v_head_dim], dtype of q. A query that sees no key gives zeros. */
DS_API ds_node *ds_graph_attention(ds_graph *g, ds_node *q, ds_node *k, ds_node *v,
                                   ds_node *key_lengths, ds_attention_opts opts);
/* The same where query t of sample b sees no key before first_keys[b, t] (i32 [batch, tokens]):
 * with the start of the query's own document there, documents packed into one sequence do not see
 * each other. */
DS_API ds_node *ds_graph_attention_from(ds_graph *g, ds_node *q, ds_node *k, ds_node *v,
                                        ds_node *key_lengths, ds_node *first_keys,
                                        ds_attention_opts opts);

/* Where the keys of each token's sequence lie, in caches of blocks (Kwon et al. 2023). */
typedef struct ds_paged_keys_of {
    ds_node *tables; /* i32 [sequences, blocks]: the blocks of each sequence, in order */
    ds_node *owners; /* i32 [tokens]: whose a token is; -1: nobody's, its result is 0 */
    ds_node
        *positions; /* i32 [tokens]: where it stands in its sequence; it sees keys up to there */
} ds_paged_keys_of;

/* Causal attention of tokens of several sequences over keys and values in blocks.
 *   q: [tokens, heads, head_dim]
 *   k_cache, v_cache: [blocks, block_size, kv_heads, head_dim], of any float dtype; or both i8,
 *                     [blocks, block_size, kv_heads, head_dim + 4]: a row ends in its f32 scale
 * Returns [tokens, heads, v_head_dim], dtype of q. Tokens of a sequence that stand next to each
 * other are best given one after the other. Not differentiable. */
DS_API ds_node *ds_graph_paged_attention(ds_graph *g, ds_node *q, ds_node *k_cache,
                                         ds_node *v_cache, ds_paged_keys_of where,
                                         ds_attention_opts opts);

/* Sum over rows of −log softmax(logits)[label]; rows labelled −100 count nothing.
 * logits: [..., classes]   labels: i32, logits' shape less the last axis.
 * Returns f32, rank 0. Divide by the number of labelled rows of the whole batch for a mean. */
DS_API ds_node *ds_graph_cross_entropy(ds_graph *g, ds_node *logits, ds_node *labels);

/* Zeroes each element with probability p and divides the others by 1 − p. Which ones depends on the
 * run's seed, this node's place in the model, and the element's index alone. */
DS_API ds_node *ds_graph_dropout(ds_graph *g, ds_node *x, float p);

/* ---- images -------------------------------------------------------------------------------- */

typedef struct ds_conv_opts {
    int64_t stride[2], padding[2]; /* vertical, horizontal; stride 0 = 1 */
} ds_conv_opts;

/* x: [batch, channels, height, width]   weight: [out, channels, kh, kw]   bias: [out] or NULL. */
DS_API ds_node *ds_graph_conv2d(ds_graph *g, ds_node *x, ds_node *weight, ds_node *bias,
                                ds_conv_opts opts);

/* ---- quantisation -------------------------------------------------------------------------- */

/* round(x / scale) clamped to ±127, i8. scale: rank 0, or [rows] for one per row of x [rows, ...].
 */
DS_API ds_node *ds_graph_quantise(ds_graph *g, ds_node *x, ds_node *scale);
/* q · scale in `dtype`; q is i8 or i32. */
DS_API ds_node *ds_graph_dequantise(ds_graph *g, ds_node *q, ds_node *scale, ds_dtype dtype);

typedef struct ds_quantised_matmul_opts {
    int64_t group;   /* columns that share a scale, a multiple of 8 for i32; 0 = all */
    bool int8_input; /* x is quantised as well, each row by its largest magnitude / 127 */
} ds_quantised_matmul_opts;

/* x · Wᵀ, where W [out, in] is codes · scale.
 *   x: floats [..., in]
 *   codes: i8 [out, in]; or i32 [out, ⌈in/8⌉], eight columns of four bits in a word, the first in
 *          its lowest bits, each with 8 added (as in files of compressed-tensors)
 *   scale: floats [out, ⌈in/group⌉]
 * int8_input wants i8 codes and one scale a row. Returns [..., out], dtype of x. Not
 * differentiable. */
DS_API ds_node *ds_graph_quantised_matmul(ds_graph *g, ds_node *x, ds_node *codes, ds_node *scale,
                                          ds_quantised_matmul_opts opts);
/* dequantise(quantise(x)), gradient passed straight through where x was not clamped
 * (Jacob et al. 2018). */
DS_API ds_node *ds_graph_fake_quantise(ds_graph *g, ds_node *x, ds_node *scale);

/* ---- training ------------------------------------------------------------------------------ */

/* Writes x over the variable (or parameter) when the program runs. */
DS_API void ds_graph_assign(ds_graph *g, ds_node *variable, ds_node *x);
/* Adds x to the variable. */
DS_API void ds_graph_accumulate(ds_graph *g, ds_node *variable, ds_node *x);
/* Writes x [batch, n, ...] into the variable [batch, capacity, ...] at rows start[b] … start[b]+n-1
 * (start: i32 [batch]); returns the variable as it is afterwards. For key–value caches. */
DS_API ds_node *ds_graph_cache_write(ds_graph *g, ds_node *variable, ds_node *x, ds_node *start);
/* Writes rows x [tokens, heads, dim] into the variable [blocks, block_size, heads, dim], each at
 * its slot, block · block_size + place (slots: i32 [tokens]; others than 0 … are left out); an i8
 * variable has rows of dim + 4, whole numbers and their scale (largest magnitude / 127). Returns
 * the variable as it is afterwards. */
DS_API ds_node *ds_graph_paged_write(ds_graph *g, ds_node *variable, ds_node *x, ds_node *slots);
/* Σ over all tensors of Σ x². f32, rank 0. */
DS_API ds_node *ds_graph_sum_of_squares(ds_graph *g, ds_node *const *xs, int n);

#ifdef __cplusplus
}
#endif
#endif
