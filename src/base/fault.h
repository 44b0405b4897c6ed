/* Fault injection: the n-th call of a kind fails. Off (one relaxed load) unless a test, or the
 * environment variable DS_FAULT="alloc:17" / "write:3" / "sync:1" / "rename:1" / "short:2", arms
 * it. */
#ifndef DS_BASE_FAULT_H
#define DS_BASE_FAULT_H

#include <stdbool.h>

typedef enum ds_fault {
    DS_FAULT_ALLOC,
    DS_FAULT_WRITE,
    DS_FAULT_SYNC,
    DS_FAULT_RENAME,
    DS_FAULT_FAILURES,                        /* the kinds above end in an error */
    DS_FAULT_SHORT_WRITE = DS_FAULT_FAILURES, /* half of the bytes are taken: no error, go on */
    DS_FAULT_KINDS
} ds_fault;

/* The countdown-th coming call of this kind is hit, once. 0 disarms. */
void ds_fault_arm(ds_fault kind, long countdown);

/* True when this very call is hit. */
bool ds_fault_hit(ds_fault kind);

#endif
