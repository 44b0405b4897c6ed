/* Rings: every rank receives from the one before it and sends to the one after it, so that each
 * link is used in one direction all the time and the data crosses it the least possible number of
 * times (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
 * workstations").
 *
 * The data is cut into one block per rank. Reduce-scatter: in step t rank r sends its partial sum
 * of block r − t − 1 and receives that of block r − t − 2, to which it adds its own; after size − 1
 * steps it holds the whole sum of block r. All-gather: in step t it sends block r − t and receives
 * block r − t − 1. Blocks are cut into chunks, which are messages: a chunk is sent on as soon as it
 * has been added. Partial sums live in slots: two rows (of the step's parity) of SLOTS chunks; the
 * steps of SLOTS chunks are gone through before the next chunks are, so that a slot is never waited
 * for by what its own release waits for. */
#include <stdlib.h>

#include "base/alloc.h"
#include "comm/algorithms.h"

enum { SLOTS = 8, WINDOW = 16 }; /* WINDOW: messages of a kind that are under way at most */

typedef struct ring {
    const ds_collective *c;
    ds_schedule *s;
    size_t element;      /* bytes */
    int64_t whole, rest; /* elements of a block; the first `rest` blocks have one more */
    int64_t chunk;       /* elements */
    int64_t n_chunks;    /* of the largest block */
    int left, right;
    char *slots;
    int32_t *sent, *combined; /* [size − 1, n_chunks]: steps of the reduce-scatter */
    int32_t *own;             /* [n_chunks]: what completed this rank's own block */
} ring;

static ring ring_of(const ds_collective *c, ds_schedule *s, int64_t total) {
    ring r = {.c = c, .s = s, .element = ds_dtype_size(c->dtype)};
    r.whole = total / c->size;
    r.rest = total % c->size;
    r.chunk = (int64_t)(DS_RING_CHUNK_BYTES / r.element);
    r.n_chunks = (r.whole + (r.rest > 0) + r.chunk - 1) / r.chunk;
    r.left = (c->rank + c->size - 1) % c->size;
    r.right = (c->rank + 1) % c->size;
    return r;
}

static bool make_tables(ring *r) {
    const size_t n = (size_t)r->n_chunks * (size_t)(r->c->size - 1) + 1;
    r->sent = ds_malloc(n * sizeof *r->sent);
    r->combined = ds_malloc(n * sizeof *r->combined);
    r->own = ds_malloc(n * sizeof *r->own);
    r->slots = ds_schedule_scratch(r->s, 2 * SLOTS * (size_t)r->chunk * r->element);
    const bool whole = r->sent && r->combined && r->own && r->slots;
    r->s->poisoned = r->s->poisoned || !whole;
    for (int64_t i = 0; whole && i < r->n_chunks; i++)
        r->own[i] = DS_NO_STEP;
    return whole;
}

static void free_tables(ring *r) {
    free(r->sent);
    free(r->combined);
    free(r->own);
}

/* The block that is `back` before this rank's own. */
static int block_before(const ring *r, int back) {
    const int size = r->c->size;
    return ((r->c->rank - back) % size + size) % size;
}

static int64_t block_begin(const ring *r, int block) {
    return (int64_t)block * r->whole + (block < r->rest ? block : r->rest);
}

/* Elements of a chunk of a block, 0 behind its end. */
static int64_t chunk_count(const ring *r, int block, int64_t chunk) {
    const int64_t left = r->whole + (block < r->rest) - chunk * r->chunk;
    return left <= 0 ? 0 : left < r->chunk ? left : r->chunk;
}

static size_t chunk_at(const ring *r, int block, int64_t chunk) {
    return (size_t)(block_begin(r, block) + chunk * r->chunk) * r->element;
}

static char *slot(const ring *r, int step, int64_t chunk) {
    const int64_t index = (int64_t)(step & 1) * SLOTS + chunk % SLOTS;
    return r->slots + (size_t)(index * r->chunk) * r->element;
}

/* One chunk's part in one step. busy: who used each slot last. */
static void reduce_chunk(ring *r, int step, int64_t chunk, char *own, int32_t busy[2][SLOTS],
                         int32_t window) {
    const ds_collective *c = r->c;
    const int going = block_before(r, step + 1), coming = block_before(r, step + 2);
    const int64_t at = (int64_t)step * r->n_chunks + chunk, n = chunk_count(r, coming, chunk);
    const bool last = step == c->size - 2;
    const char *partial =
        step == 0 ? (const char *)c->in + chunk_at(r, going, chunk) : slot(r, step - 1, chunk);
    const int32_t ready = step == 0 ? DS_NO_STEP : r->combined[at - r->n_chunks];
    const int32_t send = ds_schedule_send(
        r->s, r->right, partial, (size_t)chunk_count(r, going, chunk) * r->element, ready, window);
    r->sent[at] = send;
    if (step > 0 && send != DS_NO_STEP)
        busy[(step - 1) & 1][chunk % SLOTS] = send;
    char *into = slot(r, step, chunk);
    const int32_t received = ds_schedule_receive(r->s, r->left, into, (size_t)n * r->element,
                                                 busy[step & 1][chunk % SLOTS], DS_NO_STEP);
    const float scale = last && c->op == DS_COMM_AVG ? 1.0f / (float)c->size : 1.0f;
    char *result = last ? own + (size_t)(chunk * r->chunk) * r->element : into;
    r->combined[at] =
        ds_schedule_combine(r->s, result, into, (const char *)c->in + chunk_at(r, coming, chunk), n,
                            scale, received, DS_NO_STEP);
    if (last)
        r->own[chunk] = r->combined[at];
    if (last && n > 0)
        busy[step & 1][chunk % SLOTS] = r->combined[at];
}

/* Leaves the sum of this rank's block in own. */
static void reduce_scatter(ring *r, char *own) {
    int32_t busy[2][SLOTS], recent[WINDOW];
    int64_t n = 0;
    for (int i = 0; i < 2 * SLOTS; i++)
        busy[i / SLOTS][i % SLOTS] = DS_NO_STEP;
    for (int64_t first = 0; first < r->n_chunks; first += SLOTS)
        for (int step = 0; step < r->c->size - 1; step++)
            for (int64_t chunk = first; chunk < first + SLOTS && chunk < r->n_chunks;
                 chunk++, n++) {
                const int32_t window = n < WINDOW ? DS_NO_STEP : recent[n % WINDOW];
                reduce_chunk(r, step, chunk, own, busy, window);
                recent[n % WINDOW] = r->sent[(int64_t)step * r->n_chunks + chunk];
            }
}

/* The step of the reduce-scatter that read this block's chunk of `in` here: where in is out, it
 * must be done before the block is overwritten. */
static int32_t reader_of(const ring *r, int step, int64_t chunk) {
    if (!r->sent)
        return DS_NO_STEP;
    return step == 0 ? r->sent[chunk] : r->combined[(int64_t)(step - 1) * r->n_chunks + chunk];
}

/* Fills out with all blocks; own: where this rank's block is. */
static void all_gather(ring *r, const char *own) {
    char *out = r->c->out;
    int32_t sends[WINDOW], receives[WINDOW];
    int32_t *arrived = r->own; /* of each chunk: the step that brought what is sent next */
    int64_t n = 0;
    for (int step = 0; step < r->c->size - 1; step++)
        for (int64_t chunk = 0; chunk < r->n_chunks; chunk++, n++) {
            const int going = block_before(r, step), coming = block_before(r, step + 1);
            const char *data = step == 0 ? own + (size_t)(chunk * r->chunk) * r->element
                                         : out + chunk_at(r, going, chunk);
            const int64_t w = n % WINDOW;
            sends[w] = ds_schedule_send(r->s, r->right, data,
                                        (size_t)chunk_count(r, going, chunk) * r->element,
                                        arrived[chunk], n < WINDOW ? DS_NO_STEP : sends[w]);
            receives[w] = ds_schedule_receive(r->s, r->left, out + chunk_at(r, coming, chunk),
                                              (size_t)chunk_count(r, coming, chunk) * r->element,
                                              reader_of(r, step, chunk),
                                              n < WINDOW ? DS_NO_STEP : receives[w]);
            arrived[chunk] = receives[w];
        }
}

void ds_write_all_reduce_ring(const ds_collective *c, ds_schedule *s) {
    ring r = ring_of(c, s, c->count);
    if (make_tables(&r)) {
        char *own = (char *)c->out + chunk_at(&r, c->rank, 0);
        reduce_scatter(&r, own);
        all_gather(&r, own);
    }
    free_tables(&r);
}

void ds_write_reduce_scatter(const ds_collective *c, ds_schedule *s) {
    ring r = ring_of(c, s, c->count * c->size);
    if (make_tables(&r))
        reduce_scatter(&r, c->out);
    free_tables(&r);
}

void ds_write_all_gather(const ds_collective *c, ds_schedule *s) {
    ring r = ring_of(c, s, c->count * c->size);
    r.own = ds_malloc((size_t)(r.n_chunks + 1) * sizeof *r.own);
    if (!r.own) {
        s->poisoned = true;
        return;
    }
    for (int64_t i = 0; i < r.n_chunks; i++)
        r.own[i] = DS_NO_STEP;
    all_gather(&r, c->in);
    ds_schedule_copy(s, (char *)c->out + chunk_at(&r, c->rank, 0), c->in,
                     (size_t)c->count * r.element, DS_NO_STEP, DS_NO_STEP);
    free_tables(&r);
}
