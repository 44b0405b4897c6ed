/* Whoever waits for a call moves all calls of the rank on; a helper thread does it while nobody
 * waits. A wait ends by the result, the deadline, an error of the transport, or the membership's
 * word that a rank is gone: all of them are looked at in every round. */
#include "comm/fabric.h"

#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

/* When a connection fails, the membership is given this long to say which rank died: a survivor
 * that closes its connections looks like a dead one to its neighbours. */
static const double LOST_GRACE_S = 1.8;

void ds_fabric_say(const ds_fabric *f, ds_comm_debug level, const char *fmt, ...) {
    if (level > f->opts.debug)
        return;
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    /* asked for by a variable, so it is shown by every tool: as a warning */
    ds_log(DS_LOG_WARN, "comm, rank %d: %s", f->opts.rank, line);
}

/* ---- the end of it --------------------------------------------------------------------------- */

static void finish_work(ds_fabric *f, ds_work *work, ds_status status) {
    ds_work **at = &f->works;
    while (*at && *at != work)
        at = &(*at)->next;
    if (*at)
        *at = work->next;
    work->done = true;
    work->status = status;
    ds_schedule_clear(&work->schedule);
}

/* With the lock. tell: the other ranks do not know yet. */
static void break_locked(ds_fabric *f, ds_status status, const char *reason, bool tell) {
    if (f->status != DS_OK)
        return;
    f->status = status;
    snprintf(f->reason, sizeof f->reason, "%s", reason);
    if (tell && f->membership)
        f->membership->ops->abort(f->membership, status, f->reason);
    if (f->transport)
        f->transport->ops->abort(f->transport); /* buffers and steps are free after this */
    while (f->works)
        finish_work(f, f->works, status);
    ds_fabric_say(f, DS_COMM_DEBUG_INFO, "broken: %s", f->reason);
}

void ds_fabric_break(ds_fabric *f, ds_status status, const char *reason) {
    pthread_mutex_lock(&f->lock);
    break_locked(f, status, reason, true);
    pthread_mutex_unlock(&f->lock);
}

/* Appends what this rank was waiting for: a rank that is cut off itself knows no more than that. */
static void add_own_call(const ds_fabric *f, char reason[DS_ABORT_TEXT]) {
    if (!f->works)
        return;
    char call[160];
    int peers[3];
    const int n = ds_schedule_waits_for(&f->works->schedule, peers, 3);
    size_t used = strlen(reason);
    snprintf(reason + used, DS_ABORT_TEXT - used, " (rank %d was in %s", f->opts.rank,
             ds_call_describe(&f->works->mine, call, sizeof call));
    for (int i = 0; i < n; i++) {
        used = strlen(reason);
        snprintf(reason + used, DS_ABORT_TEXT - used, "%s%d", i == 0 ? ", waiting for rank " : ", ",
                 f->works->route.world_rank[peers[i]]);
    }
    used = strlen(reason);
    snprintf(reason + used, DS_ABORT_TEXT - used, ")");
}

static void heed_abort(ds_fabric *f) {
    char reason[DS_ABORT_TEXT];
    const ds_status status = f->membership->ops->reason(f->membership, reason);
    add_own_call(f, reason);
    break_locked(f, status == DS_OK ? DS_UNAVAILABLE : status, reason, false);
}

static ds_status check_locked(ds_fabric *f) {
    if (f->status == DS_OK && atomic_load(&f->membership->aborted))
        heed_abort(f);
    return f->status == DS_OK ? DS_OK : ds_fail(f->status, "%s", f->reason);
}

ds_status ds_fabric_check(ds_fabric *f) {
    pthread_mutex_lock(&f->lock);
    const ds_status status = check_locked(f);
    pthread_mutex_unlock(&f->lock);
    return status;
}

/* ---- progress -------------------------------------------------------------------------------- */

static int world_rank_of(const ds_work *work, int rank) {
    return work->route.world_rank[rank];
}

/* The headers are there: the same call on both sides, or the end. */
static void compare_headers(ds_fabric *f, ds_work *work) {
    ds_header expected = work->mine;
    int peer = (work->rank + work->size - 1) % work->size;
    if (expected.kind == DS_CALL_RECV) {
        peer = expected.peer;
        expected.kind = DS_CALL_SEND;
        expected.peer = work->rank;
    }
    if (ds_call_same(&expected, &work->theirs)) {
        ds_schedule_pass_gate(&work->schedule);
        return;
    }
    char mine[160], theirs[160], text[512];
    work->theirs.name[DS_CALL_NAME - 1] = '\0';
    snprintf(text, sizeof text, "calls differ: rank %d is in %s, rank %d in %s",
             world_rank_of(work, work->rank), ds_call_describe(&work->mine, mine, sizeof mine),
             world_rank_of(work, peer), ds_call_describe(&work->theirs, theirs, sizeof theirs));
    break_locked(f, DS_INVALID, text, true);
}

/* A connection of this work's is gone: blame is the membership's, for as long as it may take. */
static void note_lost(ds_fabric *f, const ds_work *work, int peer) {
    const double now = ds_clock_s();
    if (f->lost_since_s == 0)
        f->lost_since_s = now;
    if (now - f->lost_since_s < LOST_GRACE_S)
        return;
    char call[160], text[512];
    snprintf(text, sizeof text, "rank %d is lost: the connection to it failed during %s", peer,
             ds_call_describe(&work->mine, call, sizeof call));
    break_locked(f, DS_UNAVAILABLE, text, true);
}

static void fail_step(ds_fabric *f, ds_work *work, const ds_step *step) {
    const int peer = world_rank_of(work, step->peer);
    if (atomic_load(&step->message.state) == DS_MESSAGE_FAILED) {
        note_lost(f, work, peer);
        return;
    }
    char call[160], text[512];
    snprintf(text, sizeof text,
             "calls differ: in %s rank %d sent a message of another length than the %lld bytes due",
             ds_call_describe(&work->mine, call, sizeof call), peer, (long long)step->count);
    break_locked(f, DS_INVALID, text, true);
}

static void check_lost(ds_fabric *f, const ds_work *work) {
    int peers[DS_ARRIVALS];
    const int n = ds_schedule_waits_for(&work->schedule, peers, DS_ARRIVALS);
    for (int i = 0; i < n && f->status == DS_OK; i++)
        if (f->transport->ops->lost(f->transport, world_rank_of(work, peers[i])))
            note_lost(f, work, world_rank_of(work, peers[i]));
}

/* True when this work moved. It may be done, and out of the list, afterwards. */
static bool move_on(ds_fabric *f, ds_work *work) {
    int32_t culprit = DS_NO_STEP;
    switch (ds_schedule_progress(&work->schedule, &work->route, &culprit)) {
    case DS_SCHEDULE_WAITS: return false;
    case DS_SCHEDULE_MOVED: return true;
    case DS_SCHEDULE_DONE: finish_work(f, work, DS_OK); return true;
    case DS_SCHEDULE_COMPARE: compare_headers(f, work); return true;
    case DS_SCHEDULE_FAILED: fail_step(f, work, &work->schedule.steps[culprit]); return false;
    }
    return false;
}

/* With the lock: everything that can be done without waiting. */
static bool progress(ds_fabric *f) {
    bool moved = false;
    if (check_locked(f) != DS_OK)
        return true;
    f->transport->ops->progress(f->transport);
    for (ds_work *work = f->works, *next; work; work = next) {
        next = work->next;
        moved = move_on(f, work) || moved;
        if (f->status != DS_OK)
            return true; /* all works are done */
    }
    return moved;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Looks at once, then lets others have the processor, then sleeps: ranks may be more than cores. */
static void pause_after(int idle) {
    enum { SPIN = 64, YIELD = 4096 };
    if (idle < SPIN)
        return;
    if (idle < YIELD) {
        sched_yield();
        return;
    }
    const struct timespec t = {0, 50000};
    nanosleep(&t, NULL);
}

static void reach_deadline(ds_fabric *f, ds_work *work, double *deadline_s) {
    char text[DS_ABORT_TEXT];
    ds_diagnose(f, work, work->timeout_s, text);
    if (f->opts.warn_only) {
        ds_log(DS_LOG_WARN, "comm, rank %d: %s; waiting on", f->opts.rank, text);
        *deadline_s = ds_clock_s() + work->timeout_s;
        return;
    }
    break_locked(f, DS_TIMEOUT, text, true);
}

ds_status ds_fabric_wait(ds_fabric *f, ds_work *work) {
    enum { LOOK = 64 }; /* rounds between two looks at the clock */
    pthread_mutex_lock(&f->lock);
    f->n_waiting++;
    double deadline = ds_clock_s() + work->timeout_s;
    for (int idle = 0; !work->done;) {
        idle = progress(f) ? 0 : idle + 1;
        if (idle > 0 && idle % LOOK == 0) {
            check_lost(f, work);
            if (!work->done && ds_clock_s() > deadline)
                reach_deadline(f, work, &deadline);
        }
        if (work->done)
            break;
        pthread_mutex_unlock(&f->lock);
        pause_after(idle);
        pthread_mutex_lock(&f->lock);
        if (idle > (1 << 30))
            idle = 1 << 20;
    }
    f->n_waiting--;
    const ds_status status = work->status;
    if (status != DS_OK)
        ds_fail(status, "%s", f->reason);
    if (f->works && f->n_waiting == 0)
        pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    return status;
}

bool ds_fabric_test(ds_fabric *f, ds_work *work) {
    pthread_mutex_lock(&f->lock);
    if (!work->done)
        progress(f);
    if (!work->done)
        check_lost(f, work);
    double deadline = work->started_s + work->timeout_s;
    if (!work->done && ds_clock_s() > deadline) {
        reach_deadline(f, work, &deadline);
        work->started_s = deadline - work->timeout_s;
    }
    const bool done = work->done;
    pthread_mutex_unlock(&f->lock);
    return done;
}

/* ---- in the background ----------------------------------------------------------------------- */

static void *help(void *context) {
    ds_fabric *f = context;
    pthread_mutex_lock(&f->lock);
    for (int idle = 0; !f->helper_ends;) {
        if (!f->works || f->n_waiting > 0) {
            pthread_cond_wait(&f->wake, &f->lock);
            idle = 0;
            continue;
        }
        idle = progress(f) ? 0 : idle + 1;
        pthread_mutex_unlock(&f->lock);
        pause_after(idle);
        pthread_mutex_lock(&f->lock);
        if (idle > (1 << 30))
            idle = 1 << 20;
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static void publish(ds_fabric *f, const ds_work *work) {
    ds_whereabouts *here = &f->here;
    uint32_t i = 0;
    while (i < here->n && here->at[i].group != work->group)
        i++;
    ds_arrival arrival = {.group = work->group, .kind = work->mine.kind};
    if (i < here->n)
        arrival.sequence = here->at[i].sequence;
    else if (here->n < DS_ARRIVALS)
        here->n++;
    else
        i = DS_ARRIVALS - 1; /* the group that was called longest ago makes room */
    if (work->mine.kind != DS_CALL_SEND && work->mine.kind != DS_CALL_RECV)
        arrival.sequence = work->mine.sequence; /* those of pairs are numbered by themselves */
    memcpy(arrival.name, work->mine.name, sizeof arrival.name);
    memmove(&here->at[1], &here->at[0], i * sizeof here->at[0]);
    here->at[0] = arrival;
    f->membership->ops->publish(f->membership, here);
}

ds_status ds_fabric_start(ds_fabric *f, ds_work *work, bool in_background) {
    pthread_mutex_lock(&f->lock);
    const ds_status status = check_locked(f);
    if (status != DS_OK) {
        pthread_mutex_unlock(&f->lock);
        return status;
    }
    work->started_s = ds_clock_s();
    ds_work **at = &f->works;
    while (*at)
        at = &(*at)->next;
    *at = work;
    publish(f, work);
    if (f->opts.debug >= DS_COMM_DEBUG_TRACE) {
        char call[160];
        ds_fabric_say(f, DS_COMM_DEBUG_TRACE, "group %u: %s", work->group,
                      ds_call_describe(&work->mine, call, sizeof call));
    }
    if (in_background) {
        move_on(f, work);
        if (!f->has_helper && f->opts.n_threads > 0)
            f->has_helper = pthread_create(&f->helper, NULL, help, f) == 0;
        pthread_cond_signal(&f->wake);
    }
    pthread_mutex_unlock(&f->lock);
    return DS_OK;
}

void ds_fabric_abandon(ds_fabric *f, const void *owner) {
    pthread_mutex_lock(&f->lock);
    bool any = false;
    for (const ds_work *work = f->works; work; work = work->next)
        any = any || work->owner == owner;
    if (any)
        break_locked(f, DS_CANCELLED, "a communicator was closed with calls under way", true);
    pthread_mutex_unlock(&f->lock);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

ds_status ds_fabric_new(ds_fabric_opts opts, ds_transport *transport, ds_membership *membership,
                        ds_fabric **out) {
    ds_fabric *f = ds_calloc(1, sizeof *f);
    *out = f;
    if (!f) {
        transport->ops->close(transport);
        membership->ops->close(membership, false);
        return DS_OUT_OF_MEMORY;
    }
    f->opts = opts;
    f->transport = transport;
    f->membership = membership;
    f->next_group = 1;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->wake, NULL);
    return DS_OK;
}

void ds_fabric_leave(ds_fabric *f, bool cleanly) {
    pthread_mutex_lock(&f->lock);
    f->helper_ends = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    if (f->has_helper)
        pthread_join(f->helper, NULL);
    pthread_mutex_lock(&f->lock);
    f->has_helper = false;
    const bool broken = f->status != DS_OK;
    break_locked(f, DS_INVALID, "the communicator of all ranks is closed", false);
    f->transport->ops->close(f->transport);
    f->membership->ops->close(f->membership, cleanly && !broken);
    f->transport = NULL;
    f->membership = NULL;
    pthread_mutex_unlock(&f->lock);
}

void ds_fabric_free(ds_fabric *f) {
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    free(f);
}
