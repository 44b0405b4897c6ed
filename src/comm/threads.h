/* Ranks that are threads of one process: a transport and a membership over shared memory. */
#ifndef DS_COMM_THREADS_H
#define DS_COMM_THREADS_H

#include "comm/membership.h"
#include "comm/transport.h"

typedef struct ds_hub ds_hub;

/* A hub for `size` ranks; freed with the last of its transports and memberships. */
ds_status ds_hub_new(int size, ds_hub **out);
ds_status ds_hub_join(ds_hub *hub, int rank, ds_transport **transport, ds_membership **membership);
/* Gives back the part of a rank that never joined. */
void ds_hub_leave(ds_hub *hub);

#endif
