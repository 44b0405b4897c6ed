/* A collective as a list of steps: messages to send, messages to receive, chunks to add. A schedule
 * is written down in one go by an algorithm (algorithms.h) and carried out by one engine, a bit at
 * a time, so that several calls are under way at once and none needs a thread of its own (the
 * non-blocking collectives of Hoefler, Lumsdaine and Rehm 2007, "Implementation and performance
 * analysis of non-blocking collective operations for MPI", are done so).
 *
 * Steps of one kind are begun in the order in which they were written; a step begins when the (at
 * most two) steps that it names are done. Messages between two ranks thus keep their order, and
 * receiving, adding and sending overlap as far as the steps allow. */
#ifndef DS_COMM_SCHEDULE_H
#define DS_COMM_SCHEDULE_H

#include "comm/transport.h"
#include "deepseek/comm.h"

typedef enum ds_step_kind {
    DS_STEP_SEND,
    DS_STEP_RECEIVE,
    DS_STEP_LOCAL, /* combine, copy, compare: done when begun */
    DS_STEP_KINDS
} ds_step_kind;

typedef enum ds_lane {
    DS_LANE_DATA,
    DS_LANE_HEADER
} ds_lane; /* messages of one do not meet the other's */

typedef struct ds_step {
    uint8_t kind, lane;
    bool begun, done;
    int32_t peer;     /* rank in the group: send, receive */
    int32_t after[2]; /* indices of earlier steps; −1: none */
    int32_t next;     /* of the same kind; −1: none */
    void *out;        /* receive, local */
    const void *a;    /* send, local; NULL in a local step: compare the headers */
    const void *b;    /* local; NULL: copy a to out */
    int64_t count;    /* bytes of a message or a copy, elements of a combination */
    float scale;
    ds_message message;
} ds_step;

typedef struct ds_schedule {
    ds_step *steps;
    size_t n, capacity;
    int32_t first[DS_STEP_KINDS]; /* not yet done, and all before are */
    int32_t next[DS_STEP_KINDS];  /* not yet begun */
    int32_t last[DS_STEP_KINDS];
    int32_t gate; /* the comparison of headers, done before data moves; −1: none */
    size_t n_done;
    void *scratch;  /* owned: slots that are received into */
    ds_dtype dtype; /* of combinations */
    ds_comm_op op;
    bool poisoned; /* out of memory while it was written */
} ds_schedule;

void ds_schedule_begin(ds_schedule *s, ds_dtype dtype, ds_comm_op op);
void ds_schedule_clear(ds_schedule *s);

enum { DS_NO_STEP = -1 };

/* Each returns the step's index; a and b are steps that must be done before. A message of 0 bytes
 * is no step: DS_NO_STEP, on both of its ends. */
int32_t ds_schedule_send(ds_schedule *s, int peer, const void *data, size_t size_bytes, int32_t a,
                         int32_t b);
int32_t ds_schedule_receive(ds_schedule *s, int peer, void *data, size_t size_bytes, int32_t a,
                            int32_t b);
int32_t ds_schedule_combine(ds_schedule *s, void *out, const void *x, const void *y, int64_t count,
                            float scale, int32_t a, int32_t b);
int32_t ds_schedule_copy(ds_schedule *s, void *out, const void *in, size_t size_bytes, int32_t a,
                         int32_t b);
/* size_bytes that live as long as the schedule, NULL (and poisoned) without memory; once. */
void *ds_schedule_scratch(ds_schedule *s, size_t size_bytes);

/* How the steps of a schedule reach other ranks. */
typedef struct ds_route {
    ds_transport *transport;
    const int *world_rank; /* [group's size] */
    uint64_t receive_tag;  /* without the sender */
    uint64_t send_tag;     /* with this rank as the sender */
    int n_threads;         /* of large combinations */
} ds_route;

typedef enum ds_schedule_state {
    DS_SCHEDULE_WAITS, /* nothing moved */
    DS_SCHEDULE_MOVED,
    DS_SCHEDULE_DONE,
    DS_SCHEDULE_COMPARE, /* the headers are there: compare them and call ds_schedule_pass_gate */
    DS_SCHEDULE_FAILED,  /* *culprit: the step whose message failed or had another length */
} ds_schedule_state;

/* Does what can be done without waiting. */
ds_schedule_state ds_schedule_progress(ds_schedule *s, const ds_route *route, int32_t *culprit);
void ds_schedule_pass_gate(ds_schedule *s);

/* Ranks (of the group) whose messages are begun and not done: into out, at most `most`. */
int ds_schedule_waits_for(const ds_schedule *s, int *out, int most);

/* The bit of a tag that tells lanes apart, and the place of the sender in it. */
enum { DS_TAG_SENDER_SHIFT = 48, DS_TAG_GROUP_SHIFT = 32, DS_TAG_LANE_SHIFT = 30 };

#endif
