/* What all communicators of a rank share: transport, membership, the calls under way, and the one
 * error that ends them all. */
#ifndef DS_COMM_FABRIC_H
#define DS_COMM_FABRIC_H

#include <pthread.h>
#include "comm/call.h"

typedef enum ds_comm_debug {
    DS_COMM_DEBUG_WARN,
    DS_COMM_DEBUG_INFO,
    DS_COMM_DEBUG_TRACE
} ds_comm_debug;

typedef struct ds_fabric_opts {
    int rank, size;
    double timeout_s;
    int n_threads;  /* as NCCL_SOCKET_NTHREADS */
    bool warn_only; /* NCCL_BLOCKING_WAIT=0 */
    ds_comm_debug debug;
} ds_fabric_opts;

typedef struct ds_fabric {
    ds_fabric_opts opts;
    ds_transport *transport;
    ds_membership *membership;
    pthread_mutex_t lock; /* of all that follows, and of the transport */
    pthread_cond_t wake;  /* the helper: something to do, or the end */
    ds_work *works;       /* under way, in the order in which they were started */
    ds_status status;     /* DS_OK until it is broken */
    char reason[DS_ABORT_TEXT];
    ds_whereabouts here;
    double lost_since_s; /* a connection failed and nobody has said yet who died; 0: none */
    int n_users;         /* communicators */
    int n_waiting;       /* threads that move the works on themselves */
    uint16_t next_group;
    bool has_helper, helper_ends;
    pthread_t helper;
} ds_fabric;

struct ds_work {
    ds_fabric *fabric;
    ds_work *next;     /* under way */
    const void *owner; /* the communicator */
    ds_schedule schedule;
    ds_route route;
    ds_header mine, theirs;
    int rank, size;
    uint16_t group;
    double timeout_s, started_s;
    bool done;
    ds_status status;
};

/* Takes transport and membership over, on failure too. */
ds_status ds_fabric_new(ds_fabric_opts opts, ds_transport *transport, ds_membership *membership,
                        ds_fabric **out);
/* Leaves the run: no rank waits for this one any more if cleanly. Further calls are refused. */
void ds_fabric_leave(ds_fabric *f, bool cleanly);
void ds_fabric_free(ds_fabric *f); /* after ds_fabric_leave */

/* Enters a work whose schedule is written; in_background: the caller will not wait at once. */
ds_status ds_fabric_start(ds_fabric *f, ds_work *work, bool in_background);
/* Waits for it to be done and takes its status over; does not free it. */
ds_status ds_fabric_wait(ds_fabric *f, ds_work *work);
bool ds_fabric_test(ds_fabric *f, ds_work *work);
/* Ends and frees all works of this owner; breaks the fabric if there are any under way. */
void ds_fabric_abandon(ds_fabric *f, const void *owner);

/* Ends everything, here and on the other ranks. Without the lock. */
void ds_fabric_break(ds_fabric *f, ds_status status, const char *reason);
/* DS_OK, or the status with the thread's message. */
ds_status ds_fabric_check(ds_fabric *f);

/* Lines of NCCL_DEBUG, by the library's log. */
void ds_fabric_say(const ds_fabric *f, ds_comm_debug level, const char *fmt, ...) DS_PRINTF(3, 4);

/* Why a call did not end in time: who is missing, and where they are (diagnosis.c). */
void ds_diagnose(ds_fabric *f, const ds_work *work, double waited_s, char out[DS_ABORT_TEXT]);

#endif
