/* What a call is: its kind, and the header by which two ranks see that they make the same one. */
#ifndef DS_COMM_CALL_H
#define DS_COMM_CALL_H

#include "comm/algorithms.h"
#include "comm/membership.h"

typedef enum ds_call_kind {
    DS_CALL_ALL_REDUCE,
    DS_CALL_REDUCE_SCATTER,
    DS_CALL_ALL_GATHER,
    DS_CALL_BROADCAST,
    DS_CALL_ALL_TO_ALL,
    DS_CALL_BARRIER,
    DS_CALL_SEND,
    DS_CALL_RECV,
    DS_CALL_KINDS
} ds_call_kind;

/* Sent before the data: by each rank to the next one of the ring, in every collective; with every
 * message of send. Whatever two ranks do differently, two neighbours differ. Little-endian, as all
 * machines that this library runs on. */
typedef struct ds_header {
    uint8_t kind, dtype, op, reserved;
    int32_t peer; /* root, or receiver */
    int64_t count;
    uint32_t sequence;
    char name[DS_CALL_NAME];
} ds_header;

/* How the kind is called, "all_reduce"; "?" for a number that is none. */
const char *ds_call_kind_name(int kind);

/* DS_INVALID for what cannot be right, whatever the other ranks do. */
ds_status ds_call_check(ds_call_kind kind, const ds_collective *c);
/* Of the call numbered `sequence`; what does not matter to this kind is 0. */
ds_header ds_call_header(ds_call_kind kind, const ds_collective *c, uint32_t sequence,
                         const char *name);
bool ds_call_same(const ds_header *a, const ds_header *b);
/* `all_reduce #3 "wte" (sum of 100 f32)`; for headers off the wire as well. Returns out. */
const char *ds_call_describe(const ds_header *h, char *out, size_t size);

/* Everything that this rank does for the call, its headers' exchange first. A group of one rank
 * copies. */
void ds_call_write(ds_call_kind kind, const ds_collective *c, const ds_header *mine,
                   ds_header *theirs, ds_schedule *s);

#endif
