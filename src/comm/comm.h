/* A communicator's insides. */
#ifndef DS_COMM_COMM_H
#define DS_COMM_COMM_H

#include "comm/fabric.h"

struct ds_comm {
    ds_fabric *fabric; /* shared; the last communicator frees it */
    uint16_t group;    /* 0: all ranks of the run. In tags, the same on all its members */
    int rank, size;
    int *world_rank;                /* [size] */
    uint32_t sequence;              /* of the last collective */
    struct ds_store_server *server; /* of rank 0, where no launcher serves the store; owned */
    uint32_t *sends, *receives;     /* [size]: messages to and from each rank so far */
};

/* The communicator of all ranks of a fabric, which it takes over (on failure too). */
ds_status ds_comm_of_fabric(ds_fabric *fabric, ds_comm **out);

#endif
