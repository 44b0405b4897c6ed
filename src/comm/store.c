/* The client's side: one question at a time on a connection, each with a deadline. */
#include "comm/store.h"

#include <errno.h>
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
#include "comm/store_wire.h"

static const double ANSWER_S = 5; /* an answer that needs no waiting takes no longer */

struct ds_store {
    int fd;
    char address[DS_ADDRESS], local[DS_ADDRESS];
    pthread_mutex_t lock;
    ds_text in;
    size_t taken; /* bytes of `in` that the last frame took */
    bool broken;  /* an answer is outstanding: what comes next would be taken for another's */
};

ds_status ds_store_send(ds_store *s, const ds_frame *frame) {
    ds_text out = {0};
    ds_frame_append(&out, *frame);
    if (out.poisoned)
        return DS_OUT_OF_MEMORY;
    const double deadline = ds_clock_s() + ANSWER_S;
    size_t at = 0;
    ds_status status = DS_OK;
    while (at < out.length && status == DS_OK) {
        const ssize_t n = send(s->fd, out.data + at, out.length - at, MSG_NOSIGNAL);
        if (n >= 0) {
            at += (size_t)n;
            continue;
        }
        struct pollfd p = {.fd = s->fd, .events = POLLOUT};
        if ((errno != EAGAIN && errno != EINTR) || ds_clock_s() > deadline)
            status = ds_fail(DS_UNAVAILABLE, "the store at %s: %s", s->address, strerror(errno));
        else
            poll(&p, 1, 50);
    }
    ds_text_clear(&out);
    return status;
}

ds_status ds_store_receive(ds_store *s, double timeout_s, ds_frame *out) {
    const double deadline = ds_clock_s() + timeout_s;
    if (s->taken > 0) {
        memmove(s->in.data, s->in.data + s->taken, s->in.length - s->taken);
        s->in.length -= s->taken;
        s->taken = 0;
    }
    for (;;) {
        const ds_frame_state state =
            ds_frame_parse((const uint8_t *)s->in.data, s->in.length, out, &s->taken);
        if (state == DS_FRAME_WHOLE)
            return DS_OK;
        if (state == DS_FRAME_BROKEN)
            return ds_fail(DS_UNAVAILABLE, "what answers at %s is no store", s->address);
        const double left = deadline - ds_clock_s();
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        if (left <= 0 && timeout_s > 0)
            return ds_fail(DS_TIMEOUT, "the store at %s does not answer", s->address);
        poll(&p, 1, left > 0 ? (int)(left * 1e3) + 1 : 0);
        char buffer[16384];
        const ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
        if (n > 0)
            ds_text_append(&s->in, buffer, (size_t)n);
        else if (n == 0)
            return ds_fail(DS_UNAVAILABLE, "the store at %s is gone", s->address);
        else if (errno != EAGAIN && errno != EINTR)
            return ds_fail(DS_UNAVAILABLE, "the store at %s: %s", s->address, strerror(errno));
        else if (timeout_s <= 0)
            return DS_TIMEOUT;
        if (s->in.poisoned)
            return DS_OUT_OF_MEMORY;
    }
}

/* With the lock. */
static ds_status ask(ds_store *s, ds_frame question, double timeout_s, ds_frame *answer) {
    if (s->broken)
        return ds_fail(DS_UNAVAILABLE, "the store at %s has not answered before", s->address);
    ds_status status = ds_store_send(s, &question);
    if (status == DS_OK)
        status = ds_store_receive(s, timeout_s, answer);
    s->broken = status != DS_OK;
    DS_TRY(status);
    if (answer->op != DS_FRAME_REFUSED)
        return DS_OK;
    return ds_fail(DS_INVALID, "the store at %s refuses: %.*s", s->address, (int)answer->value_size,
                   (const char *)answer->value);
}

static ds_status say_hello(ds_store *s, const char *token, int rank) {
    const uint32_t r = (uint32_t)rank;
    const uint8_t bytes[4] = {(uint8_t)r, (uint8_t)(r >> 8), (uint8_t)(r >> 16),
                              (uint8_t)(r >> 24)};
    ds_frame answer;
    return ask(s,
               (ds_frame){.op = DS_FRAME_HELLO,
                          .key = (const uint8_t *)token,
                          .key_size = strlen(token),
                          .value = bytes,
                          .value_size = sizeof bytes},
               ANSWER_S, &answer);
}

static ds_status connect_until(const char *address, double deadline_s, int *fd) {
    for (;;) {
        const double left = deadline_s - ds_clock_s();
        const ds_status status = ds_socket_connect(address, left < 2 ? left + 0.01 : 2, fd);
        if (status != DS_UNAVAILABLE)
            return status;
        if (ds_clock_s() > deadline_s)
            return ds_fail_within(DS_UNAVAILABLE, "no store");
        usleep(50000);
    }
}

ds_status ds_store_connect(const char *address, const char *token, int rank, double timeout_s,
                           ds_store **out) {
    *out = NULL;
    ds_store *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    pthread_mutex_init(&s->lock, NULL);
    snprintf(s->address, sizeof s->address, "%s", address);
    s->fd = -1;
    ds_status status = connect_until(address, ds_clock_s() + timeout_s, &s->fd);
    if (status == DS_OK)
        status = say_hello(s, token, rank);
    if (status != DS_OK) {
        ds_store_close(s);
        return status;
    }
    ds_socket_local(s->fd, s->local);
    *out = s;
    return DS_OK;
}

void ds_store_close(ds_store *s) {
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    ds_text_clear(&s->in);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

const char *ds_store_local_address(const ds_store *s) {
    return s->local;
}

const char *ds_store_address(const ds_store *s) {
    return s->address;
}

ds_status ds_store_set(ds_store *s, const char *key, const void *value, size_t size_bytes) {
    ds_frame answer;
    pthread_mutex_lock(&s->lock);
    const ds_status status = ask(s,
                                 (ds_frame){.op = DS_FRAME_SET,
                                            .key = (const uint8_t *)key,
                                            .key_size = strlen(key),
                                            .value = value,
                                            .value_size = size_bytes},
                                 ANSWER_S, &answer);
    pthread_mutex_unlock(&s->lock);
    return status;
}

static ds_status copy_value(const ds_frame *f, void **value, size_t *size_bytes) {
    *value = ds_malloc(f->value_size + 1);
    if (!*value)
        return DS_OUT_OF_MEMORY;
    if (f->value_size > 0)
        memcpy(*value, f->value, f->value_size);
    *size_bytes = f->value_size;
    return DS_OK;
}

ds_status ds_store_wait(ds_store *s, const char *key, double timeout_s, void **value,
                        size_t *size_bytes) {
    const uint32_t ms = timeout_s > 4e6 ? 4000000000u : (uint32_t)(timeout_s * 1e3);
    const uint8_t bytes[4] = {(uint8_t)ms, (uint8_t)(ms >> 8), (uint8_t)(ms >> 16),
                              (uint8_t)(ms >> 24)};
    ds_frame answer;
    *value = NULL;
    pthread_mutex_lock(&s->lock);
    ds_status status = ask(s,
                           (ds_frame){.op = DS_FRAME_WAIT,
                                      .key = (const uint8_t *)key,
                                      .key_size = strlen(key),
                                      .value = bytes,
                                      .value_size = sizeof bytes},
                           timeout_s + ANSWER_S, &answer);
    if (status == DS_OK && answer.op == DS_FRAME_ABSENT)
        status = ds_fail(DS_TIMEOUT, "nobody set \"%s\" in the store at %s within %.3g s", key,
                         s->address, timeout_s);
    if (status == DS_OK)
        status = copy_value(&answer, value, size_bytes);
    pthread_mutex_unlock(&s->lock);
    return status;
}

bool ds_store_read(ds_store *s, int rank, ds_whereabouts *out, double *age_s) {
    const uint32_t r = (uint32_t)rank;
    const uint8_t bytes[4] = {(uint8_t)r, (uint8_t)(r >> 8), (uint8_t)(r >> 16),
                              (uint8_t)(r >> 24)};
    ds_frame answer;
    uint32_t ms = 0;
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&s->lock);
    /* a second: whoever asks holds a lock, and a store that is cut off is noticed elsewhere */
    bool known = ask(s, (ds_frame){.op = DS_FRAME_READ, .value = bytes, .value_size = sizeof bytes},
                     1, &answer) == DS_OK &&
                 answer.op == DS_FRAME_OK && ds_frame_number(answer.key, answer.key_size, &ms);
    if (known && answer.value_size == sizeof *out)
        memcpy(out, answer.value, sizeof *out);
    pthread_mutex_unlock(&s->lock);
    if (out->n > DS_ARRIVALS)
        out->n = DS_ARRIVALS;
    for (uint32_t i = 0; i < out->n; i++)
        out->at[i].name[DS_CALL_NAME - 1] = '\0';
    *age_s = 1e-3 * ms;
    return known;
}
