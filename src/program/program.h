/* A program from inside. */
#ifndef DS_PROGRAM_PROGRAM_H
#define DS_PROGRAM_PROGRAM_H

#include "passes/plan.h"
#include "program/state.h"

/* Working memory that programs may share: one never runs while another does. */
typedef struct ds_working_memory {
    ds_backend *backend;
    void *base[2]; /* by ds_space */
    size_t size_bytes[2];
    unsigned generation; /* counts moves: programs rebind their pointers */
    int n_owners;
    char *host_folder; /* NULL; or the host space is a nameless file in this folder */
} ds_working_memory;

typedef struct ds_step {
    const ds_node *node;
    const ds_kernel *kernel;
    void *state;
    size_t workspace_bytes;
    ds_tensor *inputs, *outputs;
    int n_inputs, n_outputs;
    ds_derived *derived; /* prologue steps: what it makes */
} ds_step;

struct ds_program {
    ds_graph *graph; /* owned; the last stage */
    ds_state *state; /* borrowed */
    ds_backend *backend;
    ds_plan plan;
    ds_tensor *tensors; /* by id · DS_MAX_RESULTS + result; data bound to memory */
    ds_step *steps;
    size_t workspace_bytes; /* the largest any step wants; it lies behind the arena */
    ds_working_memory *memory;
    unsigned bound_generation;
    void *inputs; /* memory of inputs, one block */
    size_t inputs_bytes;
    ds_memory_report report;
    bool changes_params;
    double *profile;  /* seconds by step, or NULL while off */
    int profile_runs; /* since it was switched on */
};

/* Fills every tensor's address, shape and strides; again whenever working memory has moved. */
void ds_program_bind(ds_program *p);

/* host_folder: where the host space shall be a file; NULL: memory of the backend. */
ds_status ds_working_memory_new(ds_backend *backend, const char *host_folder,
                                ds_working_memory **out);
/* At least so many bytes of each space; contents are lost when it moves. */
ds_status ds_working_memory_reserve(ds_working_memory *m, size_t device_bytes, size_t host_bytes);
void ds_working_memory_free(ds_working_memory *m); /* when the last owner lets go */

#endif
