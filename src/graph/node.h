/* The graph from inside: nodes, ops and what an op must say about itself. Passes and backends work
 * on these structs; users of the library see deepseek/graph.h. */
#ifndef DS_GRAPH_NODE_H
#define DS_GRAPH_NODE_H

#include "base/arena.h"
#include "base/text.h"
#include "deepseek/graph.h"

enum { DS_MAX_RESULTS = 4, DS_MAX_SCOPES = 32 };

typedef struct ds_op ds_op;

/* What a value is, without where it comes from. */
typedef struct ds_type {
    ds_dtype dtype;
    int rank;
    int64_t dims[DS_MAX_RANK];
} ds_type;

typedef enum ds_phase { DS_FORWARD, DS_BACKWARD } ds_phase;

struct ds_node {
    const ds_op *op;
    ds_graph *graph;
    int id; /* its place in graph->nodes; every input's id is smaller */
    ds_type type;
    int n_inputs;
    ds_node **inputs;
    const void *attrs;  /* op->attrs_size bytes, plain data; compared byte by byte */
    const char *scope;  /* "blocks.3.attn", "" outside any */
    const char *name;   /* leaves: full name; other nodes NULL */
    ds_phase phase;     /* made by the model or by autodiff */
    int segment;        /* unit of recomputation, 0 = none */
    uint64_t place;     /* names the node's place in the model for random numbers; kept by passes */
    bool in_host_space; /* its memory lies in the host arena (offloaded) */
    ds_init init;       /* parameters and variables: how they start */
    const ds_type *result_types; /* several-result ops: n_results types; else NULL */
    ds_node **results; /* several-result ops: the nodes of results 1 …, made on demand */
};

typedef struct ds_cost {
    double flops; /* floating-point operations, a multiply-add counted as two */
    double bytes; /* read and written, each tensor once */
} ds_cost;

/* What a kernel is given: tensors in device memory, in the order of the node's inputs and results.
 * While a program is being prepared, data pointers are NULL. */
typedef struct ds_kernel_args {
    const ds_node *node;
    int n_inputs, n_outputs;
    const ds_tensor *inputs;
    const ds_tensor *outputs;
    void *workspace; /* as many bytes as the kernel asked for, or NULL; aligned to 64 */
    void *state;     /* what the kernel's prepare made */
    int n_threads;
} ds_kernel_args;

typedef enum ds_trait {
    DS_LEAF = 1,        /* no inputs, memory given from outside the program */
    DS_VIEW = 2,        /* describes its input's memory anew */
    DS_ELEMENTWISE = 4, /* result element i depends on input elements i only */
    DS_EFFECT = 8, /* changes its first n_changed inputs, variables; result 0 is input 0 after it */
    DS_HEAVY = 16, /* expensive: its result is kept under selective recomputation */
    DS_RANDOM = 32,  /* draws random numbers: reads the run's seed */
    DS_DERIVED = 64, /* worth keeping between runs when it depends on parameters alone */
} ds_trait;

/* How the precision pass treats an op's float inputs. */
typedef enum ds_precision_rule {
    DS_PRECISION_FOLLOW, /* works in whatever comes; unlike inputs meet in the low precision */
    DS_PRECISION_LOW,    /* inputs are cast to the low precision (matrix products, attention) */
    DS_PRECISION_F32,    /* inputs are cast to f32 (losses, statistics) */
    DS_PRECISION_KEEP,   /* leave every input as it is (leaves, effects, casts) */
} ds_precision_rule;

/* One op: everything about it is in one file of graph/ops/. */
struct ds_op {
    const char *name;
    size_t attrs_size;
    int n_results; /* 0 is read as 1 */
    int n_changed; /* effects: so many leading inputs are changed in place */
    /* Effects on any number of tensors at once, updates: n_changed and one more inputs for each
     * tensor, all first ones, then all second ones, …; then so many scalars. 0: on one tensor. */
    int n_scalars;
    unsigned traits; /* ds_trait bits */
    ds_precision_rule precision;
    unsigned keep_f32; /* inputs (bits) that DS_PRECISION_LOW and _FOLLOW leave as they are */
    unsigned stored;   /* inputs (bits) that may be of any float type, whatever the others are */
    /* Checks the inputs and fills results[0 … n_results-1]; on failure says why (no scope: the
     * caller adds it). */
    ds_status (*shape)(const ds_node *node, ds_type *results);
    /* Adds the gradient to g: dresults[r] is NULL where nothing flows back; sets dinputs[i] where a
     * gradient exists (preset to NULL). NULL: not differentiable, gradients stop. */
    void (*gradient)(ds_graph *g, ds_node *node, ds_node *const *dresults, ds_node **dinputs);
    ds_cost (*cost)(const ds_node *node); /* NULL: no flops, bytes of inputs and results */
    /* The plain kernel, the oracle of all others. Floats come as contiguous f32 whatever the node's
     * dtypes, other dtypes as they are, contiguous; outputs likewise. NULL for leaves and views. */
    void (*reference)(const ds_kernel_args *args);
    void (*describe)(const ds_node *node, ds_text *out); /* attributes in words; may be NULL */
    /* Views only: the strides and offset of the result over the input's memory. False: this input's
     * strides do not allow it, a copy is needed first. Both tensors' data may be NULL. */
    bool (*view)(const ds_node *node, const ds_tensor *input, ds_tensor *result);
};

typedef struct ds_graph_result {
    const char *name;
    ds_node *node;
} ds_graph_result;

struct ds_graph {
    ds_arena *arena;
    ds_node **nodes;
    size_t n_nodes, nodes_capacity;
    ds_graph_result *outputs;
    size_t n_outputs, outputs_capacity;
    ds_node **effects; /* nodes that must run though nothing reads them */
    size_t n_effects, effects_capacity;
    char scope[512];                   /* present scope, dotted */
    size_t scope_marks[DS_MAX_SCOPES]; /* its length before each push */
    int scope_depth;
    ds_phase phase; /* of nodes added now */
    int segment;    /* of nodes added now */
    int n_segments;
    ds_status status; /* sticky */
    char *message;    /* of the first failure */
    void *leaf_index; /* name → leaf, see graph.c */
};

/* Adds a node: checks that no input is NULL, copies attrs, asks op->shape. NULL (and a sticky
 * error) on failure. The first result of a several-result op; others by ds_node_result. */
ds_node *ds_graph_add_node(ds_graph *g, const ds_op *op, const void *attrs, ds_node *const *inputs,
                           int n_inputs);
/* Result k ≥ 1 of a several-result node (k = 0: the node itself). One node per (x, k). */
ds_node *ds_node_result(ds_node *x, int k);
/* Records a sticky error with scope and op; for builders' own checks. Returns NULL. */
ds_node *ds_graph_refuse(ds_graph *g, const char *op, const char *fmt, ...) DS_PRINTF(3, 4);

/* Makes the thread's present message the graph's, unless it already has one. Returns NULL. */
ds_node *ds_graph_poison(ds_graph *g, ds_status status);

/* A leaf by full name, NULL if there is none. */
ds_node *ds_graph_find_leaf(const ds_graph *g, const char *name);

bool ds_node_is(const ds_node *x, const ds_op *op);
bool ds_node_has(const ds_node *x, ds_trait trait);
int ds_node_n_tensors(const ds_node *x); /* that the effect works on; 1 for other ops */
int ds_node_n_changed(const ds_node *x); /* leading inputs that it changes */
ds_cost ds_node_cost(const ds_node *x);
/* "4.0 KiB, 1.2 MFLOP, 12.0 KiB moved": size of the value, cost of making it. Returns out. */
const char *ds_node_cost_text(const ds_node *x, char *out, size_t size);
size_t ds_type_size(const ds_type *type); /* bytes, row-major */
bool ds_type_equal(const ds_type *a, const ds_type *b);
/* "f32[4,16]" into out. Returns out. */
const char *ds_type_text(const ds_type *type, char *out, size_t size);
/* DS_INVALID unless the rank is one there is, no axis is negative, and elements, strides and bytes
 * can be counted in 63 bits (empty axes counted as 1, for the strides' sake). Every value of a
 * graph is checked so when it is made. */
ds_status ds_type_check(const ds_type *type);
/* A type with these dims. A rank past DS_MAX_RANK is kept, without its dims, to be refused. */
ds_type ds_type_of(ds_dtype dtype, int rank, const int64_t *dims);

/* ---- copying graphs, for passes ------------------------------------------------------------- */

/* Copies one node into `to`, inputs replaced by inputs[]; scope, phase, segment and place kept.
 * A leaf that `to` already has by that name is reused. */
ds_node *ds_graph_copy_node(ds_graph *to, const ds_node *node, ds_node *const *inputs);

/* Called for every reachable node in order, with its already mapped inputs; returns the node of
 * `to` that stands for it. For a several-result op the pass also maps the other results through
 * ds_node_result of what it returns, unless it maps them itself with ds_rewrite_map. What it adds
 * is given the scope, phase and segment of `node`. */
typedef struct ds_rewrite ds_rewrite;
typedef ds_node *ds_rewrite_rule(ds_rewrite *r, ds_graph *to, const ds_node *node,
                                 ds_node *const *inputs);
struct ds_rewrite {
    const ds_graph *from;
    ds_node **map;     /* by id of from: the node of `to`, or NULL while not made */
    const int *n_uses; /* by id of from: how many reachable nodes and outputs read it */
    ds_rewrite_rule *rule;
    void *context;
};

/* The whole graph rewritten; unreachable nodes are dropped; outputs and effects carried over. A
 * poisoned graph gives a poisoned graph. NULL when out of memory. */
ds_graph *ds_graph_rewrite(const ds_graph *from, ds_rewrite_rule *rule, void *context);
void ds_rewrite_map(ds_rewrite *r, const ds_node *from, ds_node *to);

/* By node id: true where an output or effect depends on it. free() it. NULL when out of memory. */
bool *ds_graph_reachable(const ds_graph *g);

#endif
