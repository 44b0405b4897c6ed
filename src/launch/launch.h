/* Starting the ranks of one machine, and ending them together: reaped at once, because a process
 * that is dead and not reaped looks alive to shared memory; ended when one of them fails, and the
 * first failure is the one that is told. */
#ifndef DS_LAUNCH_LAUNCH_H
#define DS_LAUNCH_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include "deepseek/status.h"

typedef struct ds_launch_opts {
    int n_processes;        /* on this machine */
    int n_nodes, node_rank; /* machines, and which of them this is */
    const char *store;      /* "HOST:PORT" on machine 0; NULL: this machine only */
    const char *token;      /* NULL: a random one */
    double grace_s;         /* between the first failure and SIGKILL for those that are left */
    char *const *argv;      /* program and arguments, ends with NULL */
    /* A line that a rank printed, on standard error or output; a note of the launcher's own (rank
     * −1). */
    void (*on_line)(int rank, bool is_error, const char *line, size_t length, void *context);
    void *context;
} ds_launch_opts;

/* Runs until all ranks have ended. *exit_status: 0, or that of the rank that failed first (128 +
 * its signal, as shells say it). SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed on
 * meanwhile. Called by a process of one thread. */
ds_status ds_launch(ds_launch_opts opts, int *exit_status);

#endif
