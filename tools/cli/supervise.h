/* Restarting a run that died: the parent waits, the child works.
 *
 * Whoever stops a run may signal the parent alone (kill, a container's runtime) or both (Ctrl-C in
 * a terminal, the scheduler of a cluster). The parent passes signals on by sigqueue with their
 * number, so that the child, which counts by ds_supervise_count_signal, takes what reached it on
 * both ways as one. */
#ifndef CLI_SUPERVISE_H
#define CLI_SUPERVISE_H

#include <signal.h>
#include <stdint.h>

/* The exit status of a run that must not be tried again as it stands: usage, configuration, data.
 */
enum { DS_EXIT_WRONG_INPUT = 2 };

typedef struct ds_supervise_opts {
    int max_restarts; /* in a row without progress between */
    double backoff_s, max_backoff_s;
    /* How far the run has come, by what the next child would find; a larger value after a life than
     * before it is progress, which renews restarts and back-off. */
    int64_t (*progress)(void *context);
    void *context;
} ds_supervise_opts;

/* Forks. In the child returns -1 (*restarts: how many lives were before this one): go on and work.
 * In the parent returns the exit status of the run once it ends by itself (0 or
 * DS_EXIT_WRONG_INPUT) or has died too often. SIGTERM and SIGINT are passed on to the child; a
 * child never outlives the parent. */
int ds_supervise(ds_supervise_opts opts, int *restarts);

/* Of a signal that the child took (sigwaitinfo), supervised or not: how often the run was asked to
 * stop, this signal included. */
int ds_supervise_count_signal(const siginfo_t *info);

#endif
