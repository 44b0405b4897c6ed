/* Exchanges at work: a list, and a thread that waits for their clients to hang up (epoll, which
 * knows it without reading) and looks at their time limits ten times a second. And at those of all
 * connections: clients that send or read a byte now and then would hold theirs for ever. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "serve/exchange.h"

enum { TICK_MS = 100, MOST_EVENTS = 32 };

/* ---- connections ----------------------------------------------------------------------------- */

static int socket_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? (int)info->connect_fd : -1;
}

/* NULL: there was no memory, and it goes unwatched. */
static ds_connection *new_connection(ds_server *s, int socket) {
    ds_connection *c = ds_calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->socket = socket;
    c->deadline_s = ds_clock_s() + s->opts.timeout_s + DS_LAST_WORDS_S;
    pthread_mutex_lock(&s->list_lock);
    c->next = s->connections;
    if (s->connections)
        s->connections->previous = c;
    s->connections = c;
    pthread_mutex_unlock(&s->list_lock);
    return c;
}

static void free_connection(ds_server *s, ds_connection *c) {
    if (!c)
        return;
    pthread_mutex_lock(&s->list_lock);
    *(c->previous ? &c->previous->next : &s->connections) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    pthread_mutex_unlock(&s->list_lock);
    free(c);
}

void ds_watch_connection(void *server, struct MHD_Connection *connection, void **context,
                         enum MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = new_connection(server, socket_of(connection));
    } else {
        free_connection(server, *context);
        *context = NULL;
    }
}

void ds_watch_allow(ds_server *s, struct MHD_Connection *connection, double until_s) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    ds_connection *c = info ? info->socket_context : NULL;
    if (!c)
        return;
    pthread_mutex_lock(&s->list_lock);
    c->deadline_s = until_s;
    pthread_mutex_unlock(&s->list_lock);
}

/* Only MHD closes a socket, and not before it has left the list. */
static void cut_off(ds_server *s, double late_s) {
    pthread_mutex_lock(&s->list_lock);
    for (ds_connection *c = s->connections; c; c = c->next)
        if (c->deadline_s < late_s) {
            c->deadline_s = HUGE_VAL; /* once is enough */
            shutdown(c->socket, SHUT_RDWR);
            ds_metrics_count_timeout(&s->metrics);
        }
    pthread_mutex_unlock(&s->list_lock);
}

/* ---- exchanges ------------------------------------------------------------------------------- */

void ds_watch_add(ds_exchange *x) {
    ds_server *s = x->server;
    x->socket = socket_of(x->connection);
    x->deadline_s = x->begin_s + s->opts.timeout_s;
    x->listed = true;
    atomic_fetch_add(&x->references, 1); /* the list's */
    pthread_mutex_lock(&s->list_lock);
    x->next = s->at_work;
    if (s->at_work)
        s->at_work->previous = x;
    s->at_work = x;
    s->n_at_work++;
    pthread_mutex_unlock(&s->list_lock);
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = x->serial};
    if (x->socket >= 0)
        epoll_ctl(s->watch, EPOLL_CTL_ADD, x->socket, &event);
}

void ds_watch_remove(ds_exchange *x) {
    ds_server *s = x->server;
    if (!x->listed)
        return;
    x->listed = false;
    if (x->socket >= 0)
        epoll_ctl(s->watch, EPOLL_CTL_DEL, x->socket, NULL);
    pthread_mutex_lock(&s->list_lock);
    if (x->previous)
        x->previous->next = x->next;
    else
        s->at_work = x->next;
    if (x->next)
        x->next->previous = x->previous;
    s->n_at_work--;
    pthread_mutex_unlock(&s->list_lock);
    ds_exchange_release(x);
}

int ds_watch_count(ds_server *s) {
    pthread_mutex_lock(&s->list_lock);
    const int n = s->n_at_work;
    pthread_mutex_unlock(&s->list_lock);
    return n;
}

double ds_watch_oldest_s(ds_server *s) {
    double oldest = HUGE_VAL;
    pthread_mutex_lock(&s->list_lock);
    for (const ds_exchange *x = s->at_work; x; x = x->next)
        oldest = x->begin_s < oldest ? x->begin_s : oldest;
    pthread_mutex_unlock(&s->list_lock);
    return oldest;
}

/* A listed exchange that has the serial or is late; with a
 * reference of its own. */
static ds_exchange *take(ds_server *s, uint64_t serial, double late_s) {
    pthread_mutex_lock(&s->list_lock);
    ds_exchange *x = s->at_work;
    while (x && x->serial != serial && !(x->deadline_s < late_s))
        x = x->next;
    if (x) {
        if (x->deadline_s < late_s)
            x->deadline_s = HUGE_VAL; /* once is enough */
        atomic_fetch_add(&x->references, 1);
    }
    pthread_mutex_unlock(&s->list_lock);
    return x;
}

static void end_late(ds_server *s, double late_s, const char *message) {
    for (ds_exchange *x; (x = take(s, 0, late_s)); ds_exchange_release(x))
        if (ds_exchange_abort(x, 504, message, "timeout"))
            ds_metrics_count_timeout(&s->metrics);
}

static void end_gone(ds_server *s, uint64_t serial) {
    ds_exchange *x = take(s, serial, -HUGE_VAL);
    if (!x)
        return;
    if (ds_exchange_abort(x, 0, NULL, NULL))
        ds_metrics_count_disconnect(&s->metrics);
    ds_exchange_release(x);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void *watch(void *context) {
    ds_server *s = context;
    struct epoll_event events[MOST_EVENTS];
    while (!atomic_load(&s->stopping)) {
        const int n = epoll_wait(s->watch, events, MOST_EVENTS, TICK_MS);
        for (int i = 0; i < n; i++)
            end_gone(s, events[i].data.u64);
        end_late(s, ds_clock_s(), "the request took longer than the server's time limit");
        cut_off(s, ds_clock_s());
    }
    return NULL;
}

/* Closing sockets of clients that do not read is left to the daemon's end. */
void ds_watch_abort_all(ds_server *s, const char *message) {
    end_late(s, HUGE_VAL, message);
}

ds_status ds_watch_begin(ds_server *s) {
    s->watch = epoll_create1(EPOLL_CLOEXEC);
    if (s->watch < 0)
        return ds_fail_errno("epoll_create1");
    s->has_watcher = pthread_create(&s->watcher, NULL, watch, s) == 0;
    return s->has_watcher ? DS_OK : ds_fail(DS_OUT_OF_MEMORY, "no thread could be started");
}

void ds_watch_end(ds_server *s) {
    atomic_store(&s->stopping, true);
    if (s->has_watcher)
        pthread_join(s->watcher, NULL);
    s->has_watcher = false;
    if (s->watch >= 0)
        close(s->watch);
    s->watch = -1;
}
