#include "ranks.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/error.h"

typedef struct seat {
    ds_comm *comm;
    rank_body *body;
    void *context;
    ds_status status;
    char *message; /* [RANK_MESSAGE] */
} seat;

static void *sit(void *context) {
    seat *s = context;
    s->status = s->body(s->comm, s->context);
    if (s->status != DS_OK) {
        snprintf(s->message, RANK_MESSAGE, "%s", ds_error());
        ds_comm_abort(s->comm, s->message); /* the others need not wait for it */
    }
    ds_comm_close(s->comm);
    return NULL;
}

void run_ranks_to_failure(int size, ds_comm_opts opts, rank_body *body, void *context,
                          ds_status *status, char (*message)[RANK_MESSAGE]) {
    ds_comm *comms[64];
    pthread_t threads[64];
    seat seats[64];
    assert_in_range(size, 1, 64);
    if (ds_comm_open_threads(size, opts, comms) != DS_OK)
        fail_msg("%s", ds_error());
    for (int i = 0; i < size; i++) {
        message[i][0] = '\0';
        seats[i] = (seat){comms[i], body, context, DS_OK, message[i]};
        assert_int_equal(pthread_create(&threads[i], NULL, sit, &seats[i]), 0);
    }
    for (int i = 0; i < size; i++) {
        pthread_join(threads[i], NULL);
        status[i] = seats[i].status;
    }
}

void run_ranks(int size, ds_comm_opts opts, rank_body *body, void *context) {
    ds_status status[64];
    static char message[64][RANK_MESSAGE];
    run_ranks_to_failure(size, opts, body, context, status, message);
    for (int i = 0; i < size; i++)
        if (status[i] != DS_OK)
            fail_msg("rank %d of %d: %s", i, size, message[i]);
}
