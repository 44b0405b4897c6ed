/* Worker lanes: threads beside the executor's, on which what need not hold up the next step is
 * done.
 *
 * Two kinds of work. Rows of a step are shared: each lane that is free, and the caller, take one
 * after the other, and the caller goes on when all are done. Errands are left behind: each lane
 * does its own in the order in which they came, while the caller already computes the next step. */
#ifndef DS_INFER_LANES_H
#define DS_INFER_LANES_H

#include <stdint.h>

#include "deepseek/status.h"

typedef struct ds_lanes ds_lanes;

/* The beginning of whatever is to be run, owned by `run`. */
typedef struct ds_errand {
    void (*run)(struct ds_errand *errand);
    struct ds_errand *next;
} ds_errand;

ds_status ds_lanes_new(int n_lanes, ds_lanes **out);
/* After the errands that were left. */
void ds_lanes_free(ds_lanes *lanes);

/* work(i, context) for each i of [0, n), in any order, several at once; returns when all are done.
 * One caller at a time. */
void ds_lanes_share(ds_lanes *lanes, int64_t n, void (*work)(int64_t i, void *context),
                    void *context);
/* Leaves an errand to the lane of this key; returns at once. From any thread. */
void ds_lanes_leave(ds_lanes *lanes, uint64_t key, ds_errand *errand);
/* Waits until each lane has fewer than so many errands left. Not from a lane. */
void ds_lanes_await(ds_lanes *lanes, int64_t most);

#endif
