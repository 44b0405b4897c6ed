/* Which tokens go through the model next. Running requests are in order of priority and age. Those
 * that only need their next token come first, then tokens that were proposed to them
 * (speculate.h); what is left of a step's tokens goes to prompts, in chunks (Agrawal et al. 2023,
 * Sarathi): half of it to the first prompt, so that it surely ends, the rest to those that end
 * soonest. Prompts that begin alike are computed once: while one of them computes a block, the
 * others wait, and take it when it is there. When blocks run out, the last request gives its own
 * back and begins anew later (recomputation, mostly out of blocks that are still there). One
 * thread's. */
#ifndef DS_INFER_SCHEDULER_H
#define DS_INFER_SCHEDULER_H

#include "infer/block_pool.h"
#include "infer/request_list.h"
#include "infer/step.h"

typedef struct ds_scheduler {
    ds_block_pool *pool;
    int64_t block_size, tokens_per_step, blocks_per_sequence;
    int64_t window;   /* tokens that attention looks back, itself included; 0: all */
    bool *drafted;    /* by block: whether the draft model's keys and values are in it; or NULL */
    int64_t n_cached; /* prompt tokens that were found in the cache, of all requests so far */
    ds_request_list running;
} ds_scheduler;

/* Blocks that a sequence of so many tokens holds at most. */
int64_t ds_scheduler_blocks_for(const ds_scheduler *s, int64_t tokens);

/* Whether there is room to begin it: for all its tokens, or nobody else runs. */
bool ds_scheduler_has_room(const ds_scheduler *s, const ds_live_request *r);
/* Takes it among the running ones, with what the cache has of its beginning. */
void ds_scheduler_admit(ds_scheduler *s, ds_live_request *r);
/* Takes it away from the running ones and gives its blocks back; the full ones stay known. */
void ds_scheduler_remove(ds_scheduler *s, ds_live_request *r);

/* Whether it needs but its next token, so that others can be proposed behind it. */
bool ds_scheduler_is_answering(const ds_live_request *r);
/* Gives every running request the blocks that others computed since. Sets each one's chunk, with
 * its n_draft proposals if there are blocks for them (else n_draft becomes 0), and takes the
 * blocks. Requests that had to make room are removed and put into `preempted`. */
void ds_scheduler_plan(ds_scheduler *s, ds_request_list *preempted);
/* Adds tokens [from, from + n) of r, the owner-th sequence of the batch; the last `rows` of them
 * are to give logits. */
void ds_scheduler_add(const ds_scheduler *s, const ds_live_request *r, int64_t from, int64_t n,
                      int64_t rows, int32_t owner, ds_step_batch *b);
/* Fills the batch with all chunks. Rows come in the order of the running requests, 1 + n_draft of
 * each whose tokens are all in it. */
void ds_scheduler_fill(const ds_scheduler *s, ds_step_batch *b);
/* After the step: chunks are computed but for proposals, full blocks published, those behind the
 * window given back. */
void ds_scheduler_advance(ds_scheduler *s);
/* After r's draws: so many proposals were right; what the others took is taken back. */
void ds_scheduler_settle(ds_scheduler *s, ds_live_request *r, int64_t accepted);

#endif
