/* All-reduce (f32 sum) between the ranks of a run, and what limits it, for sizes of 4 KiB to 256
 * MiB: deepseek-run -n 2 --no-prefix bench_allreduce WHAT [--most BYTES] [--seconds S] ours
 * ds_comm_all_reduce over the transport that is open copy       every rank copies as many bytes in
 * memory at the same time: each must receive as many loopback   two ranks send each other as many
 * bytes by TCP, both ways at once Rank 0 prints one line of JSON for each size: the median of its
 * repetitions, "seconds" S for each size (default 0.3), 3 of them at least. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "deepseek/comm.h"

enum { MOST_TIMES = 4096 };

typedef struct bench {
    ds_comm *comm;
    char *data, *other;
    int fd; /* loopback: to the other rank */
} bench;

static void give_up(const char *what) {
    fprintf(stderr, "bench_allreduce: %s: %s\n", what, ds_error());
    exit(1);
}

/* ---- what is measured ------------------------------------------------------------------------ */

static void ours(bench *b, size_t size_bytes) {
    if (ds_comm_all_reduce(b->comm, b->data, b->data, (int64_t)(size_bytes / 4), DS_F32,
                           DS_COMM_SUM, (ds_comm_call){0}) != DS_OK)
        give_up("all-reduce");
}

static void copy(bench *b, size_t size_bytes) {
    memcpy(b->other, b->data, size_bytes);
    __asm__ volatile("" : : "r"(b->other) : "memory");
}

static void loopback(bench *b, size_t size_bytes) {
    size_t sent = 0, received = 0;
    while (sent < size_bytes || received < size_bytes) {
        struct pollfd p = {.fd = b->fd,
                           .events = (short)((sent < size_bytes ? POLLOUT : 0) |
                                             (received < size_bytes ? POLLIN : 0))};
        if (sent < size_bytes) {
            const ssize_t n = send(b->fd, b->data + sent, size_bytes - sent, MSG_NOSIGNAL);
            sent += n > 0 ? (size_t)n : 0;
            p.revents = n > 0 ? POLLIN : 0;
        }
        if (received < size_bytes) {
            const ssize_t n = recv(b->fd, b->other + received, size_bytes - received, 0);
            received += n > 0 ? (size_t)n : 0;
            p.revents = (short)(p.revents | (n > 0 ? POLLIN : 0));
            if (n == 0)
                give_up("the other rank's socket");
        }
        if (!p.revents && (sent < size_bytes || received < size_bytes))
            poll(&p, 1, 1000);
    }
}

/* Rank 0 listens on a free port that it tells rank 1 of. */
static void join_loopback(bench *b) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof name;
    int32_t port = 0;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (ds_comm_size(b->comm) != 2)
        give_up("loopback is between two ranks");
    if (ds_comm_rank(b->comm) == 0) {
        if (bind(s, (struct sockaddr *)&name, sizeof name) != 0 || listen(s, 1) != 0 ||
            getsockname(s, (struct sockaddr *)&name, &size) != 0)
            give_up("listening");
        port = ntohs(name.sin_port);
    }
    if (ds_comm_broadcast(b->comm, &port, 1, DS_I32, 0, (ds_comm_call){0}) != DS_OK)
        give_up("broadcast");
    name.sin_port = htons((uint16_t)port);
    if (ds_comm_rank(b->comm) == 0)
        b->fd = accept(s, NULL, NULL);
    else
        b->fd = connect(s, (struct sockaddr *)&name, sizeof name) == 0 ? s : -1;
    const int one = 1;
    if (b->fd < 0 || setsockopt(b->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)
        give_up("connecting");
    fcntl(b->fd, F_SETFL, O_NONBLOCK);
}

/* ---- measuring ------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The same number of repetitions on all ranks: rank 0 says, after a few, how many more. */
static double measure(bench *b, void (*what)(bench *, size_t), size_t size_bytes, double seconds) {
    static double times[MOST_TIMES];
    int32_t n = 3;
    for (int32_t i = -1; i < n; i++) { /* the first warms up */
        if (ds_comm_barrier(b->comm, (ds_comm_call){0}) != DS_OK)
            give_up("barrier");
        const double start = ds_clock_s();
        what(b, size_bytes);
        if (i >= 0)
            times[i] = ds_clock_s() - start;
        if (i != 2)
            continue;
        n = (int32_t)(seconds / (times[2] + 1e-9));
        n = n < 3 ? 3 : n > MOST_TIMES ? MOST_TIMES : n;
        if (ds_comm_broadcast(b->comm, &n, 1, DS_I32, 0, (ds_comm_call){0}) != DS_OK)
            give_up("broadcast");
    }
    qsort(times, (size_t)n, sizeof *times, by_value);
    return times[n / 2];
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(bench *b, size_t size_bytes);
    } kinds[] = {{"ours", ours}, {"copy", copy}, {"loopback", loopback}};
    size_t most = 256u << 20;
    double seconds = 0.3;
    int kind = -1;
    for (int i = 0; i < 3 && argc > 1; i++)
        kind = strcmp(argv[1], kinds[i].name) == 0 ? i : kind;
    for (int i = 2; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--most") == 0)
            most = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = strtod(argv[i + 1], NULL);
    if (kind < 0) {
        fputs("usage: bench_allreduce ours|copy|loopback [--most BYTES] [--seconds S]\n", stderr);
        return 2;
    }
    bench b = {.data = calloc(1, most), .other = calloc(1, most), .fd = -1};
    if (!b.data || !b.other || ds_comm_open((ds_comm_opts){0}, &b.comm) != DS_OK)
        give_up("opening");
    if (strcmp(kinds[kind].name, "loopback") == 0)
        join_loopback(&b);
    memset(b.data, 0, most); /* every page is there */
    memset(b.other, 0, most);
    for (size_t size = 4096; size <= most; size *= 4) {
        const double time = measure(&b, kinds[kind].run, size, seconds);
        if (ds_comm_rank(b.comm) == 0)
            printf("{\"allreduce\": \"%s\", \"bytes\": %zu, \"seconds\": %.9f}\n", kinds[kind].name,
                   size, time);
    }
    ds_comm_close(b.comm);
    return 0;
}
