/* A mailbox per rank holds the receives it has posted and the sends that found none. Whoever comes
 * second copies, straight from the sender's buffer into the receiver's, under the mailbox's lock:
 * an abort that takes a message out under the same lock can therefore let go of its buffers. */
#include "comm/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

enum { EAGER_BYTES = 4096 }; /* sends up to this size are copied and done at once */

typedef struct mailbox {
    pthread_mutex_t lock;
    ds_message *receives, *sends; /* in order of arrival; a send's peer is its sender here */
} mailbox;

typedef struct seat { /* what a rank shows of itself */
    ds_whereabouts here;
    double published_s;
    bool known;
} seat;

struct ds_hub {
    int size;
    atomic_int n_users;
    mailbox *boxes;                  /* [size] */
    pthread_mutex_t lock;            /* of what follows */
    seat *seats;                     /* [size] */
    struct hub_membership **members; /* [size], NULL before joining and after leaving */
    ds_status status;                /* of the first abort */
    char reason[DS_ABORT_TEXT];
};

typedef struct hub_transport {
    ds_transport base;
    ds_hub *hub;
    int rank;
} hub_transport;

typedef struct hub_membership {
    ds_membership base;
    ds_hub *hub;
    int rank;
} hub_membership;

/* ---- the hub -------------------------------------------------------------------------------- */

/* Every rank has left and taken its own messages along: what remains are copies. */
static void drop_copies(mailbox *box) {
    while (box->sends) {
        ds_message *m = box->sends;
        box->sends = m->next;
        free(m);
    }
}

void ds_hub_leave(ds_hub *hub) {
    if (atomic_fetch_sub(&hub->n_users, 1) > 1)
        return;
    for (int i = 0; i < hub->size; i++) {
        drop_copies(&hub->boxes[i]);
        pthread_mutex_destroy(&hub->boxes[i].lock);
    }
    pthread_mutex_destroy(&hub->lock);
    free(hub->boxes);
    free(hub->seats);
    free(hub->members);
    free(hub);
}

ds_status ds_hub_new(int size, ds_hub **out) {
    *out = NULL;
    ds_hub *hub = ds_calloc(1, sizeof *hub);
    if (!hub)
        return DS_OUT_OF_MEMORY;
    hub->boxes = ds_calloc((size_t)size, sizeof *hub->boxes);
    hub->seats = ds_calloc((size_t)size, sizeof *hub->seats);
    hub->members = ds_calloc((size_t)size, sizeof *hub->members);
    if (!hub->boxes || !hub->seats || !hub->members) {
        free(hub->boxes);
        free(hub->seats);
        free(hub->members);
        free(hub);
        return DS_OUT_OF_MEMORY;
    }
    hub->size = size;
    atomic_init(&hub->n_users, size);
    pthread_mutex_init(&hub->lock, NULL);
    for (int i = 0; i < size; i++)
        pthread_mutex_init(&hub->boxes[i].lock, NULL);
    *out = hub;
    return DS_OK;
}

/* ---- messages ------------------------------------------------------------------------------- */

static void append(ds_message **list, ds_message *m) {
    m->next = NULL;
    while (*list)
        list = &(*list)->next;
    *list = m;
}

static ds_message *take(ds_message **list, int peer, uint64_t tag) {
    for (; *list; list = &(*list)->next) {
        ds_message *m = *list;
        if (m->peer != peer || m->tag != tag)
            continue;
        *list = m->next;
        return m;
    }
    return NULL;
}

static void deliver(ds_message *to, const void *data, size_t size_bytes) {
    if (size_bytes > to->size_bytes) {
        atomic_store(&to->state, DS_MESSAGE_TOO_LONG);
        return;
    }
    if (size_bytes > 0)
        memcpy(to->destination, data, size_bytes);
    to->received = size_bytes;
    atomic_store(&to->state, DS_MESSAGE_DONE);
}

/* Copies a small send, so that the sender's buffer is free at once. NULL: it stays as it is. */
static ds_message *eager_copy(const ds_message *m) {
    if (m->size_bytes > EAGER_BYTES)
        return NULL;
    ds_message *copy = ds_calloc(1, sizeof *copy + m->size_bytes);
    if (!copy)
        return NULL;
    copy->tag = m->tag;
    copy->peer = m->peer;
    copy->size_bytes = m->size_bytes;
    copy->handle = copy; /* to be freed by the receiver */
    copy->source = copy + 1;
    if (m->size_bytes > 0)
        memcpy(copy + 1, m->source, m->size_bytes);
    return copy;
}

static void hub_send(ds_transport *t, int peer, const void *data, size_t size_bytes, uint64_t tag,
                     ds_message *m) {
    const hub_transport *self = (const hub_transport *)t;
    mailbox *box = &self->hub->boxes[peer];
    m->source = data;
    m->size_bytes = size_bytes;
    m->tag = tag;
    m->peer = self->rank;
    m->handle = NULL;
    atomic_store(&m->state, DS_MESSAGE_PENDING);
    pthread_mutex_lock(&box->lock);
    ds_message *receive = take(&box->receives, self->rank, tag);
    if (receive) {
        deliver(receive, data, size_bytes);
        atomic_store(&m->state, DS_MESSAGE_DONE);
    } else {
        ds_message *copy = eager_copy(m);
        append(&box->sends, copy ? copy : m);
        if (copy)
            atomic_store(&m->state, DS_MESSAGE_DONE);
    }
    pthread_mutex_unlock(&box->lock);
}

static void hub_receive(ds_transport *t, int peer, void *data, size_t size_bytes, uint64_t tag,
                        ds_message *m) {
    const hub_transport *self = (const hub_transport *)t;
    mailbox *box = &self->hub->boxes[self->rank];
    m->destination = data;
    m->size_bytes = size_bytes;
    m->tag = tag;
    m->peer = peer;
    atomic_store(&m->state, DS_MESSAGE_PENDING);
    pthread_mutex_lock(&box->lock);
    ds_message *send = take(&box->sends, peer, tag);
    if (send) {
        deliver(m, send->source, send->size_bytes);
        if (send->handle)
            free(send->handle);
        else
            atomic_store(&send->state, DS_MESSAGE_DONE);
    } else {
        append(&box->receives, m);
    }
    pthread_mutex_unlock(&box->lock);
}

static void hub_progress(ds_transport *t) {
    (void)t; /* whoever comes second does the work */
}

static bool hub_lost(const ds_transport *t, int peer) {
    (void)t;
    (void)peer;
    return false; /* a thread does not die alone */
}

static void drop_receives(mailbox *box) {
    box->receives = NULL; /* all of them are of the box's own rank */
}

/* Copies stay: they are no longer the sender's. */
static void drop_sends(mailbox *box, int of_rank) {
    for (ds_message **at = &box->sends; *at;) {
        ds_message *m = *at;
        if (m->peer == of_rank && !m->handle)
            *at = m->next;
        else
            at = &m->next;
    }
}

static void hub_abort(ds_transport *t) {
    const hub_transport *self = (const hub_transport *)t;
    for (int i = 0; i < self->hub->size; i++) {
        mailbox *box = &self->hub->boxes[i];
        pthread_mutex_lock(&box->lock);
        if (i == self->rank)
            drop_receives(box);
        drop_sends(box, self->rank);
        pthread_mutex_unlock(&box->lock);
    }
}

static void hub_close_transport(ds_transport *t) {
    hub_transport *self = (hub_transport *)t;
    hub_abort(t);
    free(self);
}

#define HUB_OPS(called)                                                                            \
    {                                                                                              \
        .name = (called), .send = hub_send, .receive = hub_receive, .progress = hub_progress,      \
        .lost = hub_lost, .abort = hub_abort, .close = hub_close_transport                         \
    }
static const ds_transport_ops transport_ops = HUB_OPS("threads");
static const ds_transport_ops self_ops = HUB_OPS("self"); /* a hub of one */

/* ---- membership ----------------------------------------------------------------------------- */

static void hub_publish(ds_membership *m, const ds_whereabouts *here) {
    hub_membership *self = (hub_membership *)m;
    seat *s = &self->hub->seats[self->rank];
    pthread_mutex_lock(&self->hub->lock);
    s->here = *here;
    s->published_s = ds_clock_s();
    s->known = true;
    pthread_mutex_unlock(&self->hub->lock);
}

static bool hub_read(ds_membership *m, int rank, ds_whereabouts *out, double *age_s) {
    hub_membership *self = (hub_membership *)m;
    const seat *s = &self->hub->seats[rank];
    pthread_mutex_lock(&self->hub->lock);
    const bool known = s->known;
    *out = s->here;
    *age_s = 0; /* the process lives, so does the thread */
    pthread_mutex_unlock(&self->hub->lock);
    return known;
}

static void hub_abort_all(ds_membership *m, ds_status status, const char *reason) {
    ds_hub *hub = ((hub_membership *)m)->hub;
    pthread_mutex_lock(&hub->lock);
    if (hub->status == DS_OK) {
        hub->status = status;
        snprintf(hub->reason, sizeof hub->reason, "%s", reason);
    }
    for (int i = 0; i < hub->size; i++)
        if (hub->members[i])
            atomic_store(&hub->members[i]->base.aborted, true);
    pthread_mutex_unlock(&hub->lock);
}

static ds_status hub_reason(ds_membership *m, char reason[DS_ABORT_TEXT]) {
    ds_hub *hub = ((hub_membership *)m)->hub;
    pthread_mutex_lock(&hub->lock);
    const ds_status status = hub->status;
    memcpy(reason, hub->reason, DS_ABORT_TEXT);
    pthread_mutex_unlock(&hub->lock);
    return status;
}

static void hub_close_membership(ds_membership *m, bool cleanly) {
    hub_membership *self = (hub_membership *)m;
    ds_hub *hub = self->hub;
    (void)cleanly;
    pthread_mutex_lock(&hub->lock);
    hub->members[self->rank] = NULL;
    pthread_mutex_unlock(&hub->lock);
    free(self);
    ds_hub_leave(hub);
}

static const ds_membership_ops membership_ops = {
    .publish = hub_publish,
    .read = hub_read,
    .abort = hub_abort_all,
    .reason = hub_reason,
    .close = hub_close_membership,
};

ds_status ds_hub_join(ds_hub *hub, int rank, ds_transport **transport, ds_membership **membership) {
    hub_transport *t = ds_calloc(1, sizeof *t);
    hub_membership *m = ds_calloc(1, sizeof *m);
    if (!t || !m) {
        free(t);
        free(m);
        return DS_OUT_OF_MEMORY;
    }
    *t = (hub_transport){
        .base.ops = hub->size == 1 ? &self_ops : &transport_ops, .hub = hub, .rank = rank};
    m->base.ops = &membership_ops;
    m->hub = hub;
    m->rank = rank;
    pthread_mutex_lock(&hub->lock);
    hub->members[rank] = m;
    atomic_store(&m->base.aborted, hub->status != DS_OK);
    pthread_mutex_unlock(&hub->lock);
    *transport = &t->base;
    *membership = &m->base;
    return DS_OK;
}
