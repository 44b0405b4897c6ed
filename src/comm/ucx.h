/* Messages between processes, over shared memory, RDMA or TCP as UCX chooses. */
#ifndef DS_COMM_UCX_H
#define DS_COMM_UCX_H

#include "comm/membership.h"
#include "comm/store.h"
#include "comm/transport.h"

typedef struct ds_ucx_opts {
    int rank, size;
    ds_store *store;           /* where addresses are exchanged; borrowed while opening */
    ds_membership *membership; /* says when waiting for the others is in vain; borrowed, as above */
    const char *interface;     /* for TCP and RDMA; "": any */
    double timeout_s;          /* for all ranks to come */
} ds_ucx_opts;

/* False where this build is without UCX: then opening fails with DS_UNSUPPORTED. */
bool ds_ucx_is_there(void);
ds_status ds_ucx_open(ds_ucx_opts opts, ds_transport **out);

#endif
