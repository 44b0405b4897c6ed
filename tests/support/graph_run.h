/* A graph made runnable on a backend chosen by name: open → write → once → read → close. */
#ifndef DS_TESTS_GRAPH_RUN_H
#define DS_TESTS_GRAPH_RUN_H

#include "deepseek/compile.h"
#include "graph/node.h"

typedef struct graph_run {
    const char *backend_name; /* "ref" or "cpu" */
    ds_graph *g;              /* owned from graph_run_open on, whether that succeeds or not */
    ds_backend *backend;
    ds_state *state;
    ds_program *program;
} graph_run;

/* Opens the backend (two threads) and compiles g; with opts.loss the gradient starts from 1. On
 * failure too, graph_run_close is due. */
ds_status graph_run_open(graph_run *run, ds_graph *g, ds_compile_opts opts);
void graph_run_close(graph_run *run);

/* Runs the program with the random numbers of seed 7. */
ds_status graph_run_once(graph_run *run);

/* The rest fail the cmocka test when refused. Inputs and parameters are found by name; a gradient
 * by its parameter's. */
void graph_run_write(graph_run *run, const char *name, const void *data, size_t size_bytes);
void graph_run_read(graph_run *run, const char *output, void *data, size_t size_bytes);
void graph_run_gradient(graph_run *run, const char *param, void *data, size_t size_bytes);

/* Nodes of this op that the graph's outputs and effects need. */
int count_ops(const ds_graph *g, const ds_op *op);

#endif
