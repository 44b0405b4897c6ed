/* The membership by the store. A thread of its own sends beats, so that a rank that computes, or
 * whose main thread hangs, is alive and can still say where it is; a process that is stopped, or
 * cut off, is not. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/store.h"
#include "comm/store_wire.h"

static const double BEAT_S = 0.25;
/* The store that has not answered for so long is out of reach: as long as its lease. */
static const double STORE_LEASE_S = 1.5;

typedef struct liveness {
    ds_membership base;
    ds_store *store; /* questions */
    ds_store *line;  /* this rank's own: beats, farewell, and what the store says unasked */
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    ds_whereabouts here;
    bool ends, cleanly;
    ds_status to_tell; /* an abort that the thread has to send; DS_OK: none */
    ds_status status;
    char reason[DS_ABORT_TEXT];
} liveness;

static void note_abort(liveness *l, ds_status status, const char *reason) {
    pthread_mutex_lock(&l->lock);
    if (l->status == DS_OK) {
        l->status = status;
        snprintf(l->reason, sizeof l->reason, "%s", reason);
    }
    pthread_mutex_unlock(&l->lock);
    atomic_store(&l->base.aborted, true);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static ds_status send_beat(liveness *l) {
    pthread_mutex_lock(&l->lock);
    const ds_whereabouts here = l->here;
    pthread_mutex_unlock(&l->lock);
    return ds_store_send(l->line, &(ds_frame){.op = DS_FRAME_BEAT,
                                              .value = (const uint8_t *)&here,
                                              .value_size = sizeof here});
}

/* Sends this rank's own abort, once. */
static ds_status send_abort(liveness *l) {
    char reason[DS_ABORT_TEXT];
    pthread_mutex_lock(&l->lock);
    const uint8_t status = (uint8_t)l->to_tell;
    l->to_tell = DS_OK;
    memcpy(reason, l->reason, sizeof reason);
    pthread_mutex_unlock(&l->lock);
    if (status == DS_OK)
        return DS_OK;
    return ds_store_send(l->line, &(ds_frame){.op = DS_FRAME_ABORT,
                                              .key = &status,
                                              .key_size = 1,
                                              .value = (const uint8_t *)reason,
                                              .value_size = strlen(reason)});
}

static void hear(liveness *l, const ds_frame *f) {
    if (f->op != DS_FRAME_ABORT)
        return;
    char reason[DS_ABORT_TEXT];
    const size_t n = f->value_size < sizeof reason ? f->value_size : sizeof reason - 1;
    memcpy(reason, f->value, n);
    reason[n] = '\0';
    note_abort(l, f->key_size == 1 && f->key[0] != DS_OK ? (ds_status)f->key[0] : DS_UNAVAILABLE,
               reason);
}

static bool should_end(liveness *l) {
    pthread_mutex_lock(&l->lock);
    const bool ends = l->ends;
    pthread_mutex_unlock(&l->lock);
    return ends;
}

/* Listens until the next beat is due. Returns when the store was last heard of. */
static ds_status listen_until(liveness *l, double until_s, double *heard_s) {
    enum { LOOK_MS = 20 }; /* how soon an abort or the end of this rank's own is passed on */
    for (double now = ds_clock_s(); now < until_s && !should_end(l); now = ds_clock_s()) {
        ds_frame frame;
        const double left = until_s - now;
        const ds_status status =
            ds_store_receive(l->line, left < 1e-3 * LOOK_MS ? left : 1e-3 * LOOK_MS, &frame);
        if (status == DS_OK) {
            *heard_s = ds_clock_s();
            hear(l, &frame);
        } else if (status != DS_TIMEOUT) {
            return status;
        }
        DS_TRY(send_abort(l));
    }
    return DS_OK;
}

static void *live(void *context) {
    liveness *l = context;
    ds_status status = DS_OK;
    double heard = ds_clock_s();
    while (status == DS_OK && !should_end(l)) {
        const double before = ds_clock_s();
        status = send_beat(l);
        if (status == DS_OK)
            status = listen_until(l, before + BEAT_S, &heard);
        const double now = ds_clock_s();
        if (now - before > 4 * BEAT_S)
            heard = now; /* this process was stopped or starved itself */
        if (status == DS_OK && now - heard > STORE_LEASE_S)
            status = ds_fail(DS_UNAVAILABLE,
                             "the store at %s was not heard of for %.1f s: this rank is "
                             "cut off, or the store is stopped",
                             ds_store_address(l->store), now - heard);
    }
    if (status != DS_OK)
        note_abort(l, DS_UNAVAILABLE, ds_error());
    ds_frame answer;
    if (status == DS_OK && send_abort(l) == DS_OK && l->cleanly &&
        ds_store_send(l->line, &(ds_frame){.op = DS_FRAME_BYE}) == DS_OK)
        status = ds_store_receive(l->line, 1, &answer); /* until it has it */
    return NULL;
}

/* ---- membership ------------------------------------------------------------------------------ */

static void publish(ds_membership *m, const ds_whereabouts *here) {
    liveness *l = (liveness *)m;
    pthread_mutex_lock(&l->lock);
    l->here = *here;
    pthread_mutex_unlock(&l->lock);
}

static bool read_rank(ds_membership *m, int rank, ds_whereabouts *out, double *age_s) {
    return ds_store_read(((liveness *)m)->store, rank, out, age_s);
}

static void abort_all(ds_membership *m, ds_status status, const char *reason) {
    liveness *l = (liveness *)m;
    note_abort(l, status, reason);
    pthread_mutex_lock(&l->lock);
    l->to_tell = l->status;
    pthread_mutex_unlock(&l->lock);
}

static ds_status reason_of(ds_membership *m, char reason[DS_ABORT_TEXT]) {
    liveness *l = (liveness *)m;
    pthread_mutex_lock(&l->lock);
    const ds_status status = l->status;
    memcpy(reason, l->reason, DS_ABORT_TEXT);
    pthread_mutex_unlock(&l->lock);
    return status;
}

static void close_liveness(ds_membership *m, bool cleanly) {
    liveness *l = (liveness *)m;
    pthread_mutex_lock(&l->lock);
    l->ends = true;
    /* whoever leaves after an abort that all were told of is not missed either */
    l->cleanly = cleanly || l->status != DS_OK;
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    ds_store_close(l->line);
    ds_store_close(l->store);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static const ds_membership_ops ops = {
    .publish = publish,
    .read = read_rank,
    .abort = abort_all,
    .reason = reason_of,
    .close = close_liveness,
};

ds_status ds_liveness_start(ds_store *store, const char *token, int rank, ds_membership **out) {
    liveness *l = ds_calloc(1, sizeof *l);
    if (!l)
        return DS_OUT_OF_MEMORY;
    l->base.ops = &ops;
    l->store = store;
    pthread_mutex_init(&l->lock, NULL);
    ds_status status = ds_store_connect(ds_store_address(store), token, rank, 10, &l->line);
    if (status == DS_OK && pthread_create(&l->thread, NULL, live, l) != 0)
        status = ds_fail(DS_IO, "no thread for the store's beats");
    if (status != DS_OK) {
        ds_store_close(l->line);
        pthread_mutex_destroy(&l->lock);
        free(l);
        return status;
    }
    *out = &l->base;
    return DS_OK;
}
