/* Restarting a run that died: the parent waits, the child works. */
#ifndef CLI_SUPERVISE_H
#define CLI_SUPERVISE_H

/* The exit status of a run that must not be tried again as it stands: usage, configuration, data.
 */
enum { DS_EXIT_WRONG_INPUT = 2 };

typedef struct ds_supervise_opts {
    int max_restarts; /* in a row without a minute of life between */
    double backoff_s, max_backoff_s;
} ds_supervise_opts;

/* Forks. In the child returns -1: go on and work. In the parent returns the exit status of the run
 * once it ends by itself (0 or DS_EXIT_WRONG_INPUT) or has died too often. SIGTERM and SIGINT are
 * passed on to the child; a child never outlives the parent. */
int ds_supervise(ds_supervise_opts opts);

#endif
