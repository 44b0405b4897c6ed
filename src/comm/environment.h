/* Who this process is, by the variables of whatever started it. */
#ifndef DS_COMM_ENVIRONMENT_H
#define DS_COMM_ENVIRONMENT_H

#include <stdbool.h>
#include "comm/socket.h"

typedef struct ds_rank_environment {
    const char
        *started_by; /* "deepseek-run or torchrun", "Slurm", … static; NULL: by nothing known */
    int rank, size;
    int local_rank;          /* on this machine; −1: unknown */
    char store[DS_ADDRESS];  /* "HOST:PORT"; "": unknown */
    bool store_is_elsewhere; /* it is served already; else rank 0 serves it */
    char token[128];
} ds_rank_environment;

/* DS_INVALID when the variables contradict each other, naming them. */
ds_status ds_rank_environment_read(ds_rank_environment *out);

#endif
