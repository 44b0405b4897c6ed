#include "graph_run.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"

ds_status graph_run_open(graph_run *run, ds_graph *g, ds_compile_opts opts) {
    const float one = 1;
    run->g = g;
    DS_TRY(ds_backend_open(run->backend_name, (ds_backend_opts){2}, &run->backend));
    DS_TRY(ds_state_new(run->backend, &run->state));
    DS_TRY(ds_compile(g, run->state, opts, &run->program));
    return opts.loss ? ds_program_write(run->program, DS_LOSS_SEED, &one, sizeof one) : DS_OK;
}

void graph_run_close(graph_run *run) {
    ds_program_free(run->program);
    ds_graph_free(run->g);
    ds_state_free(run->state);
    ds_backend_close(run->backend);
}

ds_status graph_run_once(graph_run *run) {
    DS_TRY(ds_program_seed(run->program, 7, 0));
    return ds_program_run(run->program);
}

void graph_run_write(graph_run *run, const char *name, const void *data, size_t size_bytes) {
    const ds_status status = ds_state_find(run->state, name) >= 0
                                 ? ds_state_write(run->state, name, data, size_bytes)
                                 : ds_program_write(run->program, name, data, size_bytes);
    if (status != DS_OK)
        fail_msg("%s on %s: %s", name, run->backend_name, ds_error());
}

void graph_run_read(graph_run *run, const char *output, void *data, size_t size_bytes) {
    if (ds_program_read(run->program, output, data, size_bytes) != DS_OK)
        fail_msg("%s on %s: %s", output, run->backend_name, ds_error());
}

void graph_run_gradient(graph_run *run, const char *param, void *data, size_t size_bytes) {
    char name[128];
    snprintf(name, sizeof name, DS_GRADIENT_PREFIX "%s", param);
    if (ds_state_read(run->state, name, data, size_bytes) != DS_OK)
        fail_msg("%s on %s: %s", name, run->backend_name, ds_error());
}

int count_ops(const ds_graph *g, const ds_op *op) {
    bool *needed = ds_graph_reachable(g);
    int n = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
        n += needed[i] && g->nodes[i]->op == op;
    free(needed);
    return n;
}
