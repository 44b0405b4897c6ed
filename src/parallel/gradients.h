/* Data parallelism: the gradients of all ranks become their sum, the same bits on each. */
#ifndef DS_PARALLEL_GRADIENTS_H
#define DS_PARALLEL_GRADIENTS_H

#include "deepseek/comm.h"
#include "deepseek/compile.h"

typedef struct ds_gradient_sync ds_gradient_sync;

/* For the variables grad/NAME of this state, which every rank has alike. Both are borrowed. */
ds_status ds_gradient_sync_new(ds_state *state, ds_comm *comm, ds_gradient_sync **out);
void ds_gradient_sync_free(ds_gradient_sync *sync); /* NULL is fine */

/* A call of all ranks. After an error gradients are undefined. */
ds_status ds_gradient_sync_run(ds_gradient_sync *sync);
/* The state of rank `root` (all but gradients) to the other ranks. A call of all ranks. */
ds_status ds_gradient_sync_state(ds_gradient_sync *sync, int root);

#endif
