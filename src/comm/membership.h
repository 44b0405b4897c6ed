/* Who is there, and where each rank has got to: what a transport cannot know.
 *
 * Each rank publishes its whereabouts, the calls that it began last; a rank that waits in vain
 * reads those of the others and can name who is missing. One rank's abort reaches all. Who decides
 * that a rank is dead is behind this table: the hub of one process (threads.c) or the store
 * (liveness.c). */
#ifndef DS_COMM_MEMBERSHIP_H
#define DS_COMM_MEMBERSHIP_H

#include <stdbool.h>
#include <stdint.h>
#include "deepseek/status.h"

enum { DS_ARRIVALS = 8, DS_CALL_NAME = 48, DS_ABORT_TEXT = 1024 };

typedef struct ds_arrival {
    uint32_t sequence; /* the number of the last collective that was begun in this group */
    uint16_t group;    /* which communicator */
    uint8_t kind;      /* ds_call_kind of the last call begun in it */
    char name[DS_CALL_NAME];
} ds_arrival;

/* The groups that a rank called last, the latest first. */
typedef struct ds_whereabouts {
    uint32_t n;
    ds_arrival at[DS_ARRIVALS];
} ds_whereabouts;

typedef struct ds_membership ds_membership;

typedef struct ds_membership_ops {
    /* Never waits. */
    void (*publish)(ds_membership *m, const ds_whereabouts *here);
    /* What `rank` published last and how long ago it was heard of; false: nothing is known. */
    bool (*read)(ds_membership *m, int rank, ds_whereabouts *out, double *age_s);
    /* Tells all ranks to stop. The first of several wins. */
    void (*abort)(ds_membership *m, ds_status status, const char *reason);
    /* What was told, once m->aborted is set. */
    ds_status (*reason)(ds_membership *m, char reason[DS_ABORT_TEXT]);
    /* Leaves, and frees it; `cleanly`: nobody waits for this rank any more. */
    void (*close)(ds_membership *m, bool cleanly);
} ds_membership_ops;

struct ds_membership {
    const ds_membership_ops *ops;
    _Atomic bool aborted; /* read by every wait */
};

#endif
