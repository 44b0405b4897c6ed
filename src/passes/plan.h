/* The memory plan: where each value of a graph lies, so that buffers whose lifetimes do not meet
 * share memory. Works on a graph that needs no further rewriting; takes no memory itself. */
#ifndef DS_PASSES_PLAN_H
#define DS_PASSES_PLAN_H

#include "backend/backend.h"
#include "graph/node.h"

typedef enum ds_place {
    DS_PLACE_NONE,    /* not needed by any step */
    DS_PLACE_ARENA,   /* working memory: buffer */
    DS_PLACE_HOST,    /* host arena: buffer */
    DS_PLACE_STATE,   /* a parameter or variable; `of` is its leaf */
    DS_PLACE_INPUT,   /* an input or the seed: buffer of its own */
    DS_PLACE_DERIVED, /* made from parameters alone, kept between runs */
    DS_PLACE_ALIAS,   /* a view of, or the same memory as, node `of` */
} ds_place;

typedef struct ds_buffer {
    size_t size_bytes, offset;
    int first, last; /* steps: written first, read last */
    bool in_host_space;
} ds_buffer;

typedef struct ds_value_plan {
    ds_place place;
    int buffer;        /* ARENA, HOST: index into buffers */
    const ds_node *of; /* STATE: the leaf; ALIAS: the node */
} ds_value_plan;

typedef struct ds_plan {
    const ds_graph *graph;
    /* By id · DS_MAX_RESULTS + result. Result nodes have the plan of their maker's result. */
    ds_value_plan *values;
    ds_buffer *buffers;
    size_t n_buffers, buffers_capacity;
    int *steps; /* ids of the nodes to run, in order */
    int n_steps;
    int n_prologue;       /* the first so many steps make derived values */
    size_t working_bytes; /* arena sizes */
    size_t host_bytes;
} ds_plan;

/* Adds row-major copies where a kernel cannot read a strided view. */
ds_graph *ds_pass_contiguous(const ds_graph *g, ds_backend *backend);

/* g must outlive the plan. */
ds_status ds_plan_make(const ds_graph *g, ds_backend *backend, ds_plan *out);
void ds_plan_free(ds_plan *plan);
/* Where result k of x (k counts from x, which may itself be a further result) lies in the end:
 * aliases are followed to the memory. */
const ds_value_plan *ds_plan_root(const ds_plan *plan, const ds_node *x, int k);

enum { DS_BUFFER_ALIGNMENT = 64 }; /* bytes: a cache line, and the widest vector */

#endif
