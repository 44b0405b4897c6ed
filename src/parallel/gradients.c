/* Gradients are summed in buckets of 25 MiB, as PyTorch's DDP has them (Li et al. 2020): large
 * enough for the links to run at full speed, small enough that one is copied while another is on
 * its way. Two buckets take turns. */
#include "parallel/gradients.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "program/state.h"

enum { BUCKET_BYTES = 25 << 20, N_BUCKETS = 2 };

/* A part of a variable. */
typedef struct piece {
    const ds_state_entry *entry;
    size_t offset, size_bytes;
} piece;

typedef struct bucket {
    float *data;
    size_t first, end; /* of the pieces that are in it */
    size_t size_bytes;
    ds_work *work;
} bucket;

struct ds_gradient_sync {
    ds_state *state;
    ds_comm *comm;
    piece *pieces; /* in the order of the state; those of a bucket follow each other */
    size_t n_pieces, capacity;
    bucket buckets[N_BUCKETS];
};

static bool is_gradient(const ds_state_entry *e) {
    return strncmp(e->name, DS_GRADIENT_PREFIX, sizeof DS_GRADIENT_PREFIX - 1) == 0;
}

/* Pieces never cross from one bucket to the next. */
static ds_status cut(ds_gradient_sync *s, const ds_state_entry *e, size_t *filled) {
    for (size_t offset = 0, size = ds_state_entry_size(e); offset < size;) {
        piece *grown = ds_grow(s->pieces, &s->capacity, s->n_pieces + 1, sizeof *grown);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        s->pieces = grown;
        const size_t room = BUCKET_BYTES - *filled % BUCKET_BYTES;
        const size_t n = size - offset < room ? size - offset : room;
        grown[s->n_pieces++] = (piece){.entry = e, .offset = offset, .size_bytes = n};
        *filled += n;
        offset += n;
    }
    return DS_OK;
}

ds_status ds_gradient_sync_new(ds_state *state, ds_comm *comm, ds_gradient_sync **out) {
    ds_gradient_sync *s = ds_calloc(1, sizeof *s);
    size_t filled = 0;
    if (!s)
        return DS_OUT_OF_MEMORY;
    s->state = state;
    s->comm = comm;
    ds_status status = DS_OK;
    for (size_t i = 0; i < ds_state_count(state) && status == DS_OK; i++)
        if (is_gradient(ds_state_get(state, i)))
            status = cut(s, ds_state_get(state, i), &filled);
    const size_t size = filled < BUCKET_BYTES ? filled : BUCKET_BYTES;
    for (int i = 0; i < N_BUCKETS && status == DS_OK; i++)
        if (!(s->buckets[i].data = ds_malloc(size + sizeof(float))))
            status = DS_OUT_OF_MEMORY;
    if (status != DS_OK) {
        ds_gradient_sync_free(s);
        return status;
    }
    *out = s;
    return DS_OK;
}

void ds_gradient_sync_free(ds_gradient_sync *s) {
    if (!s)
        return;
    for (int i = 0; i < N_BUCKETS; i++)
        free(s->buckets[i].data);
    free(s->pieces);
    free(s);
}

/* The pieces from `first` on that fill a bucket, and their sum under way. */
static ds_status send_bucket(ds_gradient_sync *s, bucket *b, size_t first) {
    b->first = b->end = first;
    b->size_bytes = 0;
    for (; b->end < s->n_pieces && b->size_bytes < BUCKET_BYTES; b->end++) {
        const piece *p = &s->pieces[b->end];
        if (b->size_bytes + p->size_bytes > BUCKET_BYTES)
            break;
        DS_TRY(ds_state_read_at(s->state, p->entry->name, p->offset,
                                (char *)b->data + b->size_bytes, p->size_bytes));
        b->size_bytes += p->size_bytes;
    }
    const ds_comm_call call = {.name = s->pieces[first].entry->name, .work = &b->work};
    return ds_comm_all_reduce(s->comm, b->data, b->data, (int64_t)(b->size_bytes / sizeof(float)),
                              DS_F32, DS_COMM_SUM, call);
}

static ds_status receive_bucket(ds_gradient_sync *s, bucket *b) {
    ds_work *work = b->work;
    b->work = NULL;
    DS_TRY(ds_work_wait(work));
    size_t at = 0;
    for (size_t i = b->first; i < b->end; i++) {
        const piece *p = &s->pieces[i];
        DS_TRY(ds_state_write_at(s->state, p->entry->name, p->offset, (char *)b->data + at,
                                 p->size_bytes));
        at += p->size_bytes;
    }
    return DS_OK;
}

ds_status ds_gradient_sync_run(ds_gradient_sync *s) {
    ds_status status = DS_OK;
    size_t next = 0;
    int turn = 0;
    for (; next < s->n_pieces && status == DS_OK; turn = 1 - turn) {
        bucket *b = &s->buckets[turn], *other = &s->buckets[1 - turn];
        status = send_bucket(s, b, next);
        next = b->end;
        if (status == DS_OK && other->work)
            status = receive_bucket(s, other);
    }
    for (int i = 0; i < N_BUCKETS; i++)
        if (s->buckets[i].work && status == DS_OK) {
            status = receive_bucket(s, &s->buckets[i]);
        } else if (s->buckets[i].work) { /* its buffer must be left alone before it is freed */
            (void)ds_work_wait(s->buckets[i].work);
            s->buckets[i].work = NULL;
        }
    return status;
}

/* ---- the state ------------------------------------------------------------------------------- */

static ds_status send_entry(ds_gradient_sync *s, const ds_state_entry *e, int root, char *buffer) {
    const bool is_root = ds_comm_rank(s->comm) == root;
    for (size_t offset = 0, size = ds_state_entry_size(e); offset < size; offset += BUCKET_BYTES) {
        const size_t n = size - offset < BUCKET_BYTES ? size - offset : BUCKET_BYTES;
        if (is_root)
            DS_TRY(ds_state_read_at(s->state, e->name, offset, buffer, n));
        DS_TRY(ds_comm_broadcast(s->comm, buffer, (int64_t)n, DS_I8, root,
                                 (ds_comm_call){.name = e->name}));
        if (!is_root)
            DS_TRY(ds_state_write_at(s->state, e->name, offset, buffer, n));
    }
    return DS_OK;
}

ds_status ds_gradient_sync_state(ds_gradient_sync *s, int root) {
    char *buffer = ds_malloc(BUCKET_BYTES);
    ds_status status = buffer ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < ds_state_count(s->state) && status == DS_OK; i++)
        if (!is_gradient(ds_state_get(s->state, i)))
            status = send_entry(s, ds_state_get(s->state, i), root, buffer);
    free(buffer);
    return status;
}
