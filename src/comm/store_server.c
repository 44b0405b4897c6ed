/* One thread, poll(2), a handful of keys. A rank's death is seen as the end of its connection at
 * once, or as the end of its lease: a stopped process or a cut link says nothing. The first verdict
 * is told to every rank unasked and stays. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/socket.h"
#include "comm/store.h"
#include "comm/store_table.h"

static const double DEFAULT_LEASE_S = 1.5;

typedef struct connection {
    int fd;
    ds_store_visitor visitor;
    ds_text in, out;
    bool closing; /* once `out` is sent */
} connection;

struct ds_store_server {
    char address[DS_ADDRESS];
    int listener, wake[2]; /* a byte into wake[1] ends a poll */
    ds_store_table table;
    connection *connections;
    size_t n, capacity;
    pthread_mutex_t lock; /* of the table */
    pthread_t thread;
    bool ends;
    double ends_at_s;
};

/* ---- connections ----------------------------------------------------------------------------- */

static void drop(ds_store_server *s, size_t i) {
    connection *c = &s->connections[i];
    ds_store_table_lost(&s->table, &c->visitor, ds_clock_s());
    close(c->fd);
    ds_text_clear(&c->in);
    ds_text_clear(&c->out);
    s->connections[i] = s->connections[--s->n];
}

static void welcome(ds_store_server *s) {
    for (;;) {
        const int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        connection *grown = ds_grow(s->connections, &s->capacity, s->n + 1, sizeof *s->connections);
        if (!grown) {
            close(fd);
            return;
        }
        s->connections = grown;
        s->connections[s->n++] = (connection){.fd = fd, .visitor = ds_store_visitor_new()};
    }
}

/* Everything that has come, answered. False: the connection is at its end. */
static bool listen_to(ds_store_server *s, connection *c) {
    char buffer[16384];
    for (;;) {
        const ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n == 0)
            return false;
        if (n < 0)
            break;
        ds_text_append(&c->in, buffer, (size_t)n);
        if (c->in.poisoned)
            return false;
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        return false;
    size_t at = 0, used = 0;
    ds_frame frame;
    ds_frame_state state = DS_FRAME_PARTIAL;
    while (!c->closing &&
           (state = ds_frame_parse((const uint8_t *)c->in.data + at, c->in.length - at, &frame,
                                   &used)) == DS_FRAME_WHOLE) {
        at += used;
        c->closing = !ds_store_table_answer(&s->table, &c->visitor, &frame, ds_clock_s(), &c->out);
    }
    if (state == DS_FRAME_BROKEN || c->out.poisoned)
        return false;
    if (at > 0) {
        memmove(c->in.data, c->in.data + at, c->in.length - at);
        c->in.length -= at;
    }
    return true;
}

static bool talk_to(connection *c) {
    while (c->out.length > 0) {
        const ssize_t n = send(c->fd, c->out.data, c->out.length, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        memmove(c->out.data, c->out.data + n, c->out.length - (size_t)n);
        c->out.length -= (size_t)n;
    }
    return !c->closing;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void serve_connections(ds_store_server *s, const struct pollfd *polled) {
    for (size_t i = s->n; i-- > 0;)
        if (polled[i].revents & (POLLIN | POLLHUP | POLLERR))
            if (!listen_to(s, &s->connections[i]))
                drop(s, i);
    const double now = ds_clock_s();
    ds_store_table_judge(&s->table, now);
    for (size_t i = s->n; i-- > 0;) {
        connection *c = &s->connections[i];
        ds_store_table_update(&s->table, &c->visitor, now, &c->out);
        if (!talk_to(c))
            drop(s, i);
    }
}

static bool is_over(ds_store_server *s) {
    pthread_mutex_lock(&s->lock);
    const bool over =
        s->ends && (ds_clock_s() > s->ends_at_s || ds_store_table_all_left(&s->table));
    pthread_mutex_unlock(&s->lock);
    return over;
}

static void *serve(void *context) {
    enum { TICK_MS = 50 };
    ds_store_server *s = context;
    struct pollfd *polled = NULL;
    size_t room = 0;
    while (!is_over(s)) {
        struct pollfd *grown = ds_grow(polled, &room, s->n + 2, sizeof *polled);
        if (!grown)
            break;
        polled = grown;
        const size_t n = s->n;
        for (size_t i = 0; i < n; i++)
            polled[i] = (struct pollfd){
                .fd = s->connections[i].fd,
                .events = (short)(POLLIN | (s->connections[i].out.length ? POLLOUT : 0))};
        polled[n] = (struct pollfd){.fd = s->listener, .events = POLLIN};
        polled[n + 1] = (struct pollfd){.fd = s->wake[0], .events = POLLIN};
        if (poll(polled, n + 2, TICK_MS) < 0 && errno != EINTR)
            break;
        char bytes[16];
        if (polled[n + 1].revents && read(s->wake[0], bytes, sizeof bytes) < 0 && errno != EAGAIN)
            break;
        pthread_mutex_lock(&s->lock);
        serve_connections(s, polled);
        pthread_mutex_unlock(&s->lock);
        if (polled[n].revents)
            welcome(s);
    }
    free(polled);
    return NULL;
}

static void wake(ds_store_server *s) {
    const ssize_t written = write(s->wake[1], "", 1); /* a full pipe wakes as well */
    (void)written;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static void release(ds_store_server *s) {
    while (s->n > 0)
        drop(s, s->n - 1);
    free(s->connections);
    ds_store_table_clear(&s->table);
    if (s->listener >= 0)
        close(s->listener);
    for (int i = 0; i < 2; i++)
        if (s->wake[i] >= 0)
            close(s->wake[i]);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

ds_status ds_store_server_start(ds_store_server_opts opts, ds_store_server **out) {
    *out = NULL;
    ds_store_server *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    s->listener = s->wake[0] = s->wake[1] = -1;
    pthread_mutex_init(&s->lock, NULL);
    ds_status status = ds_store_table_init(&s->table, opts.token, opts.size,
                                           opts.lease_s > 0 ? opts.lease_s : DEFAULT_LEASE_S);
    if (status == DS_OK)
        status = ds_socket_listen(opts.address, &s->listener, s->address);
    if (status == DS_OK && pipe2(s->wake, O_CLOEXEC | O_NONBLOCK) != 0)
        status = ds_fail_errno("a pipe for the store");
    if (status == DS_OK && pthread_create(&s->thread, NULL, serve, s) != 0)
        status = ds_fail(DS_IO, "no thread for the store");
    if (status != DS_OK) {
        release(s);
        return status;
    }
    *out = s;
    return DS_OK;
}

const char *ds_store_server_address(const ds_store_server *server) {
    return server->address;
}

void ds_store_server_abort(ds_store_server *s, ds_status status, const char *reason) {
    pthread_mutex_lock(&s->lock);
    ds_store_table_abort(&s->table, status, reason);
    pthread_mutex_unlock(&s->lock);
    wake(s);
}

ds_status ds_store_server_reason(ds_store_server *s, char reason[DS_ABORT_TEXT]) {
    pthread_mutex_lock(&s->lock);
    const ds_status status = s->table.status;
    memcpy(reason, s->table.reason, DS_ABORT_TEXT);
    pthread_mutex_unlock(&s->lock);
    return status;
}

void ds_store_server_stop(ds_store_server *s, double patience_s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->ends = true;
    s->ends_at_s = ds_clock_s() + patience_s;
    pthread_mutex_unlock(&s->lock);
    wake(s);
    pthread_join(s->thread, NULL);
    release(s);
}
