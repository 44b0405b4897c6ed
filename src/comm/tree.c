/* What takes few messages in a row: for small data, where each message's time counts, not its size.
 * Recursive doubling and the dissemination barrier as in Thakur, Rabenseifner and Gropp 2005,
 * "Optimization of collective communication operations in MPICH". */
#include "comm/algorithms.h"

/* ---- all-reduce by doubling ------------------------------------------------------------------ */

typedef struct doubling {
    const ds_collective *c;
    ds_schedule *s;
    size_t size_bytes;
    char *received;
    int32_t last; /* the step that left the present sum in out */
} doubling;

/* out = out op what `peer` has, on both; the lower rank's operand first, so that both get the same
 * bits (of NaNs and zeros with signs too). */
static void meet(doubling *d, int peer, bool send, float scale) {
    const ds_collective *c = d->c;
    int32_t sent = DS_NO_STEP;
    if (send)
        sent = ds_schedule_send(d->s, peer, c->out, d->size_bytes, d->last, DS_NO_STEP);
    const int32_t received =
        ds_schedule_receive(d->s, peer, d->received, d->size_bytes, d->last, DS_NO_STEP);
    const bool mine_first = c->rank < peer;
    d->last =
        ds_schedule_combine(d->s, c->out, mine_first ? c->out : d->received,
                            mine_first ? d->received : c->out, c->count, scale, received, sent);
}

void ds_write_all_reduce_doubling(const ds_collective *c, ds_schedule *s) {
    doubling d = {.c = c, .s = s, .size_bytes = (size_t)c->count * ds_dtype_size(c->dtype)};
    d.received = ds_schedule_scratch(s, d.size_bytes);
    d.last = ds_schedule_copy(s, c->out, c->in, d.size_bytes, DS_NO_STEP, DS_NO_STEP);
    int paired = 1; /* the largest power of two of ranks; the others give theirs to one of them */
    while (2 * paired <= c->size)
        paired *= 2;
    if (c->rank >= paired) {
        const int32_t sent =
            ds_schedule_send(s, c->rank - paired, c->out, d.size_bytes, d.last, DS_NO_STEP);
        ds_schedule_receive(s, c->rank - paired, c->out, d.size_bytes, sent, DS_NO_STEP);
        return;
    }
    const float average = c->op == DS_COMM_AVG ? 1.0f / (float)c->size : 1.0f;
    const bool helps = c->rank + paired < c->size;
    if (helps)
        meet(&d, c->rank + paired, false, 1.0f);
    for (int distance = 1; distance < paired; distance *= 2)
        meet(&d, c->rank ^ distance, true, 2 * distance == paired ? average : 1.0f);
    if (helps)
        ds_schedule_send(s, c->rank + paired, c->out, d.size_bytes, d.last, DS_NO_STEP);
}

void ds_write_all_reduce(const ds_collective *c, ds_schedule *s) {
    if ((size_t)c->count * ds_dtype_size(c->dtype) <= DS_DOUBLING_BYTES)
        ds_write_all_reduce_doubling(c, s);
    else
        ds_write_all_reduce_ring(c, s);
}

/* ---- broadcast ------------------------------------------------------------------------------- */

/* A binomial tree: whoever has the data gives it to the one `distance` further. Ranks are counted
 * from the root. */
static void broadcast_tree(const ds_collective *c, ds_schedule *s, size_t size_bytes) {
    const int place = (c->rank - c->peer + c->size) % c->size;
    int distance = 1;
    int32_t got = DS_NO_STEP;
    while (distance < c->size && !(place & distance))
        distance *= 2;
    if (place > 0)
        got = ds_schedule_receive(s, (place - distance + c->peer) % c->size, c->out, size_bytes,
                                  DS_NO_STEP, DS_NO_STEP);
    for (distance /= 2; distance > 0; distance /= 2)
        if (place + distance < c->size)
            ds_schedule_send(s, (place + distance + c->peer) % c->size, c->out, size_bytes, got,
                             DS_NO_STEP);
}

/* A chain from the root on, in chunks: each rank sends and receives the data once. */
static void broadcast_chain(const ds_collective *c, ds_schedule *s, size_t size_bytes) {
    enum { WINDOW = 16 };
    const int place = (c->rank - c->peer + c->size) % c->size;
    const int left = (c->rank + c->size - 1) % c->size, right = (c->rank + 1) % c->size;
    int32_t receives[WINDOW], sends[WINDOW];
    size_t n = 0;
    for (size_t at = 0; at < size_bytes; at += DS_RING_CHUNK_BYTES, n++) {
        const size_t rest = size_bytes - at, w = n % WINDOW;
        const size_t bytes = rest < DS_RING_CHUNK_BYTES ? rest : DS_RING_CHUNK_BYTES;
        char *data = (char *)c->out + at;
        int32_t got = DS_NO_STEP;
        if (place > 0)
            receives[w] = got = ds_schedule_receive(
                s, left, data, bytes, n < WINDOW ? DS_NO_STEP : receives[w], DS_NO_STEP);
        if (place < c->size - 1)
            sends[w] =
                ds_schedule_send(s, right, data, bytes, got, n < WINDOW ? DS_NO_STEP : sends[w]);
    }
}

void ds_write_broadcast(const ds_collective *c, ds_schedule *s) {
    const size_t size_bytes = (size_t)c->count * ds_dtype_size(c->dtype);
    if (size_bytes <= DS_DOUBLING_BYTES)
        broadcast_tree(c, s, size_bytes);
    else
        broadcast_chain(c, s, size_bytes);
}

/* ---- the others ------------------------------------------------------------------------------ */

void ds_write_all_to_all(const ds_collective *c, ds_schedule *s) {
    enum { AT_ONCE = 4 }; /* pairs of messages under way */
    const size_t block = (size_t)c->count * ds_dtype_size(c->dtype);
    const char *in = c->in;
    char *out = c->out;
    int32_t sends[AT_ONCE], receives[AT_ONCE];
    for (int i = 1; i < c->size; i++) {
        const int to = (c->rank + i) % c->size, from = (c->rank + c->size - i) % c->size;
        const int w = i % AT_ONCE;
        const bool first = i <= AT_ONCE;
        sends[w] = ds_schedule_send(s, to, in + (size_t)to * block, block,
                                    first ? DS_NO_STEP : sends[w], DS_NO_STEP);
        receives[w] = ds_schedule_receive(s, from, out + (size_t)from * block, block,
                                          first ? DS_NO_STEP : receives[w], DS_NO_STEP);
    }
    ds_schedule_copy(s, out + (size_t)c->rank * block, in + (size_t)c->rank * block, block,
                     DS_NO_STEP, DS_NO_STEP);
}

void ds_write_barrier(const ds_collective *c, ds_schedule *s) {
    static const char token = 1;
    char *received = ds_schedule_scratch(s, 64);
    if (!received)
        return;
    /* in round k a rank hears of 2^k others; round 0 was the message that came before */
    int32_t last = s->gate;
    for (int distance = 2, round = 0; distance < c->size; distance *= 2, round++) {
        ds_schedule_send(s, (c->rank + distance) % c->size, &token, 1, last, DS_NO_STEP);
        last = ds_schedule_receive(s, (c->rank + c->size - distance) % c->size, received + round, 1,
                                   DS_NO_STEP, DS_NO_STEP);
    }
}
