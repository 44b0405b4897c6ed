/* Ranks as threads of the test: each runs the same function, and what one of them finds wrong fails
 * the test. */
#ifndef SUPPORT_RANKS_H
#define SUPPORT_RANKS_H

#include "deepseek/comm.h"

/* One rank's part; DS_OK, or the failure with its message (ds_fail). */
typedef ds_status rank_body(ds_comm *comm, void *context);

/* Runs body on `size` ranks and closes them. Fails the cmocka test with the first failure's
 * message. */
void run_ranks(int size, ds_comm_opts opts, rank_body *body, void *context);

enum { RANK_MESSAGE = 1200 };
/* The same where failing is expected: each rank's status and message are the caller's to look at.
 */
void run_ranks_to_failure(int size, ds_comm_opts opts, rank_body *body, void *context,
                          ds_status *status, char (*message)[RANK_MESSAGE]);

/* Collectives of every kind, dtype, op and of these counts against plain sums on one rank; in place
 * and not, at once and in the background. */
ds_status check_collectives(ds_comm *comm, const int64_t *counts, int n_counts);

#endif
