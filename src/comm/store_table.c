#include "comm/store_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* Limits of what strangers with the token, or a rank gone wild, can make the store keep. */
enum { MOST_ENTRIES = 1 << 16, MOST_BYTES = 64 << 20 };
/* A connection that ended waits so long for the launcher to say of what the rank died. */
static const double LOST_GRACE_S = 0.2;
/* If the store itself was not run for so long, silence proves nothing: leases begin anew. */
static const double SLEPT_S = 0.5;

ds_status ds_store_table_init(ds_store_table *t, const char *token, int size, double lease_s) {
    *t = (ds_store_table){.size = size, .lease_s = lease_s};
    if (size < 1)
        return ds_fail(DS_INVALID, "a store for %d ranks", size);
    t->token = ds_strdup(token ? token : "");
    t->seats = ds_calloc((size_t)size, sizeof *t->seats);
    return t->token && t->seats ? DS_OK : DS_OUT_OF_MEMORY;
}

void ds_store_table_clear(ds_store_table *t) {
    for (size_t i = 0; i < t->n_entries; i++) {
        free(t->entries[i].key);
        free(t->entries[i].value);
    }
    free(t->entries);
    free(t->seats);
    free(t->token);
    *t = (ds_store_table){0};
}

ds_store_visitor ds_store_visitor_new(void) {
    return (ds_store_visitor){.rank = -1};
}

/* ---- keys ------------------------------------------------------------------------------------ */

static ds_store_entry *find(const ds_store_table *t, const uint8_t *key, size_t size) {
    for (size_t i = 0; i < t->n_entries; i++)
        if (t->entries[i].key_size == size && memcmp(t->entries[i].key, key, size) == 0)
            return &t->entries[i];
    return NULL;
}

static uint8_t *copy_of(const uint8_t *data, size_t size) {
    uint8_t *copy = ds_malloc(size + 1);
    if (copy && size > 0)
        memcpy(copy, data, size);
    return copy;
}

static ds_store_entry *add_entry(ds_store_table *t, const ds_frame *f) {
    ds_store_entry *grown = ds_grow(t->entries, &t->capacity, t->n_entries + 1, sizeof *grown);
    if (!grown)
        return NULL;
    t->entries = grown;
    uint8_t *key = copy_of(f->key, f->key_size);
    if (!key)
        return NULL;
    ds_store_entry *e = &t->entries[t->n_entries++];
    *e = (ds_store_entry){.key = key, .key_size = f->key_size};
    t->n_bytes += f->key_size;
    return e;
}

static bool set(ds_store_table *t, const ds_frame *f) {
    ds_store_entry *e = find(t, f->key, f->key_size);
    const size_t more = f->key_size + f->value_size;
    if (t->n_bytes + more > MOST_BYTES || (!e && t->n_entries >= MOST_ENTRIES))
        return false;
    uint8_t *value = copy_of(f->value, f->value_size);
    if (!e && value)
        e = add_entry(t, f);
    if (!value || !e) {
        free(value);
        return false;
    }
    t->n_bytes += f->value_size - e->value_size;
    free(e->value);
    e->value = value;
    e->value_size = f->value_size;
    return true;
}

/* ---- answers --------------------------------------------------------------------------------- */

static void reply(ds_text *out, ds_frame_op op) {
    ds_frame_append(out, (ds_frame){.op = (uint8_t)op});
}

static bool refuse(ds_text *out, const char *why) {
    ds_frame_append(out, (ds_frame){.op = DS_FRAME_REFUSED,
                                    .value = (const uint8_t *)why,
                                    .value_size = strlen(why)});
    return false;
}

static bool hello(ds_store_table *t, ds_store_visitor *v, const ds_frame *f, double now_s,
                  ds_text *out) {
    uint32_t rank = 0;
    if (f->key_size != strlen(t->token) || memcmp(f->key, t->token, f->key_size) != 0)
        return refuse(out, "the token of the job is another one");
    if (!ds_frame_number(f->value, f->value_size, &rank))
        return refuse(out, "a hello without a rank");
    v->known = true;
    reply(out, DS_FRAME_OK);
    if (rank == UINT32_MAX)
        return true;
    if (rank >= (uint32_t)t->size)
        return refuse(out, "there is no such rank in this job");
    ds_store_seat *seat = &t->seats[rank];
    if (seat->came && !seat->left)
        return refuse(out, "this rank is there already: two processes have the same one");
    *seat = (ds_store_seat){.came = true, .heard_s = now_s};
    v->rank = (int)rank;
    return true;
}

static void wait_for(ds_store_table *t, ds_store_visitor *v, const ds_frame *f, double now_s,
                     ds_text *out) {
    uint32_t ms = 0;
    const ds_store_entry *e = find(t, f->key, f->key_size);
    free(v->waits_for);
    v->waits_for = NULL;
    if (e) {
        ds_frame_append(
            out, (ds_frame){.op = DS_FRAME_OK, .value = e->value, .value_size = e->value_size});
        return;
    }
    if (ds_frame_number(f->value, f->value_size, &ms) && ms > 0)
        v->waits_for = copy_of(f->key, f->key_size);
    if (!v->waits_for) {
        reply(out, DS_FRAME_ABSENT);
        return;
    }
    v->waits_size = f->key_size;
    v->waits_until_s = now_s + 1e-3 * ms;
}

static void beat(ds_store_table *t, const ds_store_visitor *v, const ds_frame *f, double now_s,
                 ds_text *out) {
    if (v->rank >= 0) {
        ds_store_seat *seat = &t->seats[v->rank];
        seat->heard_s = now_s;
        if (f->value_size <= sizeof seat->here && f->value_size > 0) {
            memcpy(seat->here, f->value, f->value_size);
            seat->here_size = f->value_size;
        }
    }
    reply(out, DS_FRAME_OK);
}

static void read_seat(const ds_store_table *t, const ds_frame *f, double now_s, ds_text *out) {
    uint32_t rank = 0;
    if (!ds_frame_number(f->value, f->value_size, &rank) || rank >= (uint32_t)t->size ||
        !t->seats[rank].came) {
        reply(out, DS_FRAME_ABSENT);
        return;
    }
    const ds_store_seat *seat = &t->seats[rank];
    const uint32_t ms = (uint32_t)((now_s - seat->heard_s) * 1e3);
    const uint8_t age[4] = {(uint8_t)ms, (uint8_t)(ms >> 8), (uint8_t)(ms >> 16),
                            (uint8_t)(ms >> 24)};
    ds_frame_append(out, (ds_frame){.op = DS_FRAME_OK,
                                    .key = age,
                                    .key_size = sizeof age,
                                    .value = seat->here,
                                    .value_size = seat->here_size});
}

bool ds_store_table_answer(ds_store_table *t, ds_store_visitor *v, const ds_frame *f, double now_s,
                           ds_text *out) {
    if (!v->known && f->op != DS_FRAME_HELLO)
        return refuse(out, "no hello");
    switch (f->op) {
    case DS_FRAME_HELLO: return !v->known ? hello(t, v, f, now_s, out) : refuse(out, "two hellos");
    case DS_FRAME_SET:
        if (!set(t, f))
            return refuse(out, "the store is full");
        reply(out, DS_FRAME_OK);
        return true;
    case DS_FRAME_WAIT: wait_for(t, v, f, now_s, out); return true;
    case DS_FRAME_BEAT: beat(t, v, f, now_s, out); return true;
    case DS_FRAME_READ: read_seat(t, f, now_s, out); return true;
    case DS_FRAME_ABORT: {
        char reason[DS_ABORT_TEXT];
        const size_t n = ds_utf8_valid((const char *)f->value, f->value_size);
        snprintf(reason, sizeof reason, "%.*s", (int)(n < sizeof reason ? n : sizeof reason - 1),
                 (const char *)f->value);
        ds_store_table_abort(t, f->key_size == 1 ? (ds_status)f->key[0] : DS_UNAVAILABLE, reason);
        reply(out, DS_FRAME_OK);
        return true;
    }
    case DS_FRAME_BYE:
        if (v->rank >= 0)
            t->seats[v->rank].left = true;
        reply(out, DS_FRAME_OK);
        return true;
    default: return refuse(out, "an operation that the store does not know");
    }
}

void ds_store_table_update(ds_store_table *t, ds_store_visitor *v, double now_s, ds_text *out) {
    if (v->waits_for) {
        const ds_store_entry *e = find(t, v->waits_for, v->waits_size);
        if (e)
            ds_frame_append(
                out, (ds_frame){.op = DS_FRAME_OK, .value = e->value, .value_size = e->value_size});
        else if (now_s > v->waits_until_s)
            reply(out, DS_FRAME_ABSENT);
        if (e || now_s > v->waits_until_s) {
            free(v->waits_for);
            v->waits_for = NULL;
        }
    }
    if (t->status == DS_OK || v->told || v->rank < 0)
        return;
    const uint8_t status = (uint8_t)t->status;
    ds_frame_append(out, (ds_frame){.op = DS_FRAME_ABORT,
                                    .key = &status,
                                    .key_size = 1,
                                    .value = (const uint8_t *)t->reason,
                                    .value_size = strlen(t->reason)});
    v->told = true;
}

/* ---- verdicts -------------------------------------------------------------------------------- */

void ds_store_table_abort(ds_store_table *t, ds_status status, const char *reason) {
    if (t->status != DS_OK || status == DS_OK)
        return;
    t->status = status;
    snprintf(t->reason, sizeof t->reason, "%s", reason);
}

void ds_store_table_lost(ds_store_table *t, ds_store_visitor *v, double now_s) {
    free(v->waits_for);
    v->waits_for = NULL;
    if (v->rank >= 0 && !t->seats[v->rank].left && t->seats[v->rank].lost_s == 0)
        t->seats[v->rank].lost_s = now_s;
    v->rank = -1;
}

void ds_store_table_judge(ds_store_table *t, double now_s) {
    const bool slept = t->judged_s > 0 && now_s - t->judged_s > SLEPT_S;
    t->judged_s = now_s;
    for (int i = 0; i < t->size && t->status == DS_OK; i++) {
        ds_store_seat *seat = &t->seats[i];
        char reason[160];
        if (!seat->came || seat->left)
            continue;
        if (slept)
            seat->heard_s = now_s;
        if (seat->lost_s > 0 && now_s - seat->lost_s > LOST_GRACE_S)
            snprintf(reason, sizeof reason,
                     "rank %d is gone: its process ended, or its machine did", i);
        else if (seat->lost_s == 0 && now_s - seat->heard_s > t->lease_s)
            snprintf(reason, sizeof reason,
                     "rank %d was not heard of for %.1f s: it is stopped, or cut off", i,
                     now_s - seat->heard_s);
        else
            continue;
        ds_store_table_abort(t, DS_UNAVAILABLE, reason);
    }
}

bool ds_store_table_all_left(const ds_store_table *t) {
    for (int i = 0; i < t->size; i++)
        if (t->seats[i].came && !t->seats[i].left && t->seats[i].lost_s == 0)
            return false;
    return true;
}
