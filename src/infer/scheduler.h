/* Which tokens go through the model next. Running requests are in order of priority and age: those
 * that only need their next token come first, what is left of a step's tokens goes to prompts, in
 * chunks (Agrawal et al. 2023, Sarathi). When blocks run out, the last request gives its own back
 * and begins anew later (recomputation, mostly out of blocks that are still there). One thread's.
 */
#ifndef DS_INFER_SCHEDULER_H
#define DS_INFER_SCHEDULER_H

#include "infer/block_pool.h"
#include "infer/request_list.h"
#include "infer/step.h"

typedef struct ds_scheduler {
    ds_block_pool *pool;
    int64_t block_size, tokens_per_step, blocks_per_sequence;
    ds_request_list running;
} ds_scheduler;

/* Whether there is room to begin it: for all its tokens, or nobody else runs. */
bool ds_scheduler_has_room(const ds_scheduler *s, const ds_live_request *r);
/* Takes it among the running ones, with what the cache has of its beginning. */
void ds_scheduler_admit(ds_scheduler *s, ds_live_request *r);
/* Takes it away from the running ones and gives its blocks back. */
void ds_scheduler_remove(ds_scheduler *s, ds_live_request *r);
/* Sets every running request's chunk and fills the batch. Requests that had to make room are
 * removed and put into `preempted`. */
void ds_scheduler_plan(ds_scheduler *s, ds_step_batch *batch, ds_request_list *preempted);
/* After the step: chunks are computed, full blocks published. */
void ds_scheduler_advance(ds_scheduler *s);

#endif
