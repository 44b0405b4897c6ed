#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "comm/store.h"

enum { MOST_GROUPS = 65535, SEQUENCE_MASK = 0x3FFFFFFF };
/* The bit of a tag that tells messages of pairs from those of collectives. */
static const uint64_t TAG_PAIR = (uint64_t)1 << 31;
/* Rank 0 serves the store so long after its own end, if the others have not left yet. */
static const double FAREWELL_S = 2;

/* ---- making --------------------------------------------------------------------------------- */

static void release(ds_comm *comm) {
    free(comm->world_rank);
    free(comm->sends);
    free(comm->receives);
    free(comm);
}

static ds_status allocate(ds_fabric *fabric, int size, ds_comm **out) {
    ds_comm *comm = ds_calloc(1, sizeof *comm);
    if (!comm)
        return DS_OUT_OF_MEMORY;
    comm->fabric = fabric;
    comm->size = size;
    comm->world_rank = ds_calloc((size_t)size, sizeof *comm->world_rank);
    comm->sends = ds_calloc((size_t)size, sizeof *comm->sends);
    comm->receives = ds_calloc((size_t)size, sizeof *comm->receives);
    if (!comm->world_rank || !comm->sends || !comm->receives) {
        release(comm);
        return DS_OUT_OF_MEMORY;
    }
    *out = comm;
    return DS_OK;
}

ds_status ds_comm_of_fabric(ds_fabric *fabric, ds_comm **out) {
    *out = NULL;
    ds_comm *comm = NULL;
    if (allocate(fabric, fabric->opts.size, &comm) != DS_OK) {
        ds_fabric_leave(fabric, false);
        ds_fabric_free(fabric);
        return DS_OUT_OF_MEMORY;
    }
    comm->rank = fabric->opts.rank;
    for (int i = 0; i < comm->size; i++)
        comm->world_rank[i] = i;
    fabric->n_users = 1;
    *out = comm;
    return DS_OK;
}

void ds_comm_close(ds_comm *comm) {
    if (!comm)
        return;
    ds_fabric *f = comm->fabric;
    ds_fabric_abandon(f, comm);
    if (comm->group == 0) {
        const ds_comm_call call = {.name = "ds_comm_close"};
        const ds_status status = ds_comm_barrier(comm, call);
        ds_fabric_leave(f, status == DS_OK);
        ds_store_server_stop(comm->server, FAREWELL_S);
    }
    pthread_mutex_lock(&f->lock);
    const bool last = --f->n_users == 0;
    pthread_mutex_unlock(&f->lock);
    if (last)
        ds_fabric_free(f);
    release(comm);
}

/* ---- groups --------------------------------------------------------------------------------- */

typedef struct choice { /* what each rank says in a split */
    int32_t colour, key, rank, next_group;
} choice;

static int by_key(const void *a, const void *b) {
    const choice *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* Those of the same colour as `mine` to the front, in their order; how many. */
static int select_group(choice *all, int size, choice mine) {
    int n = 0;
    for (int i = 0; i < size; i++)
        if (all[i].colour == mine.colour)
            all[n++] = all[i];
    qsort(all, (size_t)n, sizeof *all, by_key);
    return n;
}

static ds_status make_group(ds_comm *comm, choice *all, choice mine, uint16_t number,
                            ds_comm **out) {
    const int n = select_group(all, comm->size, mine);
    ds_comm *group = NULL;
    DS_TRY(allocate(comm->fabric, n, &group));
    group->group = number;
    for (int i = 0; i < n; i++) {
        group->world_rank[i] = comm->world_rank[all[i].rank];
        if (all[i].rank == mine.rank)
            group->rank = i;
    }
    pthread_mutex_lock(&comm->fabric->lock);
    comm->fabric->n_users++;
    pthread_mutex_unlock(&comm->fabric->lock);
    ds_fabric_say(comm->fabric, DS_COMM_DEBUG_INFO, "group %u: rank %d of %d (colour %d)", number,
                  group->rank, n, mine.colour);
    *out = group;
    return DS_OK;
}

ds_status ds_comm_split(ds_comm *comm, int colour, int key, ds_comm **out) {
    *out = NULL;
    if (colour < -1)
        return ds_fail(DS_INVALID, "ds_comm_split: colour %d; 0 and more, or -1 for no group",
                       colour);
    ds_fabric *f = comm->fabric;
    choice *all = ds_calloc((size_t)comm->size, sizeof *all);
    if (!all)
        return DS_OUT_OF_MEMORY;
    const choice mine = {colour, key, comm->rank, f->next_group};
    ds_status status =
        ds_comm_all_gather(comm, &mine, all, 4, DS_I32, (ds_comm_call){.name = "ds_comm_split"});
    int32_t number = 0; /* unused by all of them: groups of one split differ in their members */
    for (int i = 0; i < comm->size; i++)
        number = all[i].next_group > number ? all[i].next_group : number;
    if (status == DS_OK && number >= MOST_GROUPS)
        status = ds_fail(DS_UNSUPPORTED, "more than %d groups were split", MOST_GROUPS - 1);
    if (status == DS_OK) {
        f->next_group = (uint16_t)(number + 1);
        if (colour >= 0)
            status = make_group(comm, all, mine, (uint16_t)number, out);
    }
    free(all);
    return status;
}

/* ---- questions ------------------------------------------------------------------------------- */

int ds_comm_rank(const ds_comm *comm) {
    return comm->rank;
}

int ds_comm_size(const ds_comm *comm) {
    return comm->size;
}

int ds_comm_world_rank(const ds_comm *comm, int rank) {
    return rank >= 0 && rank < comm->size ? comm->world_rank[rank] : -1;
}

const char *ds_comm_transport(const ds_comm *comm) {
    const ds_transport *t = comm->fabric->transport;
    return t ? t->ops->name : "closed";
}

ds_status ds_comm_check(ds_comm *comm) {
    return ds_fabric_check(comm->fabric);
}

void ds_comm_abort(ds_comm *comm, const char *reason) {
    char text[DS_ABORT_TEXT];
    snprintf(text, sizeof text, "rank %d stopped all: %s", comm->world_rank[comm->rank],
             reason ? reason : "no reason given");
    ds_fabric_break(comm->fabric, DS_CANCELLED, text);
}

/* ---- calls ---------------------------------------------------------------------------------- */

/* The number of this call among those that it is told apart from, which it takes. */
static uint32_t take_number(ds_comm *comm, ds_call_kind kind, int peer) {
    uint32_t *counter = kind == DS_CALL_SEND   ? &comm->sends[peer]
                        : kind == DS_CALL_RECV ? &comm->receives[peer]
                                               : &comm->sequence;
    return *counter = (*counter + 1) & SEQUENCE_MASK;
}

static void set_route(const ds_comm *comm, ds_work *work) {
    const bool pair = work->mine.kind == DS_CALL_SEND || work->mine.kind == DS_CALL_RECV;
    /* lane bits lie above the low 30 of the sequence: a pair's messages are in order anyway */
    const uint64_t tag =
        (uint64_t)comm->group << DS_TAG_GROUP_SHIFT | (pair ? TAG_PAIR : 0) | work->mine.sequence;
    work->route = (ds_route){
        .transport = comm->fabric->transport,
        .world_rank = comm->world_rank,
        .receive_tag = tag,
        .send_tag = tag | (uint64_t)comm->world_rank[comm->rank] << DS_TAG_SENDER_SHIFT,
        .n_threads = comm->fabric->opts.n_threads,
    };
}

static ds_status make_work(ds_comm *comm, ds_call_kind kind, const ds_collective *c,
                           ds_comm_call call, ds_work **out) {
    DS_TRY(ds_call_check(kind, c));
    DS_TRY(ds_fabric_check(comm->fabric));
    ds_work *work = ds_calloc(1, sizeof *work);
    if (!work)
        return DS_OUT_OF_MEMORY;
    work->fabric = comm->fabric;
    work->owner = comm;
    work->rank = comm->rank;
    work->size = comm->size;
    work->group = comm->group;
    work->timeout_s = call.timeout_s > 0 ? call.timeout_s : comm->fabric->opts.timeout_s;
    work->mine = ds_call_header(kind, c, take_number(comm, kind, c->peer), call.name);
    set_route(comm, work);
    ds_call_write(kind, c, &work->mine, &work->theirs, &work->schedule);
    if (work->schedule.poisoned) {
        ds_schedule_clear(&work->schedule);
        free(work);
        return ds_fail(DS_OUT_OF_MEMORY, "%s: out of memory", ds_call_kind_name(kind));
    }
    *out = work;
    return DS_OK;
}

static ds_status make_call(ds_comm *comm, ds_call_kind kind, ds_collective c, ds_comm_call call) {
    if (call.work)
        *call.work = NULL;
    c.rank = comm->rank;
    c.size = comm->size;
    ds_work *work = NULL;
    DS_TRY(make_work(comm, kind, &c, call, &work));
    ds_status status = ds_fabric_start(comm->fabric, work, call.work != NULL);
    if (status != DS_OK) {
        ds_schedule_clear(&work->schedule);
        free(work);
        return status;
    }
    if (call.work) {
        *call.work = work;
        return DS_OK;
    }
    return ds_work_wait(work);
}

ds_status ds_work_wait(ds_work *work) {
    const ds_status status = ds_fabric_wait(work->fabric, work);
    free(work);
    return status;
}

bool ds_work_test(ds_work *work) {
    return ds_fabric_test(work->fabric, work);
}

ds_status ds_comm_all_reduce(ds_comm *comm, const void *in, void *out, int64_t count,
                             ds_dtype dtype, ds_comm_op op, ds_comm_call call) {
    return make_call(
        comm, DS_CALL_ALL_REDUCE,
        (ds_collective){.in = in, .out = out, .count = count, .dtype = dtype, .op = op}, call);
}

ds_status ds_comm_reduce_scatter(ds_comm *comm, const void *in, void *out, int64_t count,
                                 ds_dtype dtype, ds_comm_op op, ds_comm_call call) {
    return make_call(
        comm, DS_CALL_REDUCE_SCATTER,
        (ds_collective){.in = in, .out = out, .count = count, .dtype = dtype, .op = op}, call);
}

ds_status ds_comm_all_gather(ds_comm *comm, const void *in, void *out, int64_t count,
                             ds_dtype dtype, ds_comm_call call) {
    return make_call(comm, DS_CALL_ALL_GATHER,
                     (ds_collective){.in = in, .out = out, .count = count, .dtype = dtype}, call);
}

ds_status ds_comm_broadcast(ds_comm *comm, void *data, int64_t count, ds_dtype dtype, int root,
                            ds_comm_call call) {
    return make_call(
        comm, DS_CALL_BROADCAST,
        (ds_collective){.in = data, .out = data, .count = count, .dtype = dtype, .peer = root},
        call);
}

ds_status ds_comm_all_to_all(ds_comm *comm, const void *in, void *out, int64_t count,
                             ds_dtype dtype, ds_comm_call call) {
    return make_call(comm, DS_CALL_ALL_TO_ALL,
                     (ds_collective){.in = in, .out = out, .count = count, .dtype = dtype}, call);
}

ds_status ds_comm_send(ds_comm *comm, const void *data, int64_t count, ds_dtype dtype, int peer,
                       ds_comm_call call) {
    /* `out` is not written by a send; it says that there is data */
    return make_call(comm, DS_CALL_SEND,
                     (ds_collective){.in = data,
                                     .out = (void *)(uintptr_t)data,
                                     .count = count,
                                     .dtype = dtype,
                                     .peer = peer},
                     call);
}

ds_status ds_comm_recv(ds_comm *comm, void *data, int64_t count, ds_dtype dtype, int peer,
                       ds_comm_call call) {
    return make_call(
        comm, DS_CALL_RECV,
        (ds_collective){.in = data, .out = data, .count = count, .dtype = dtype, .peer = peer},
        call);
}

ds_status ds_comm_barrier(ds_comm *comm, ds_comm_call call) {
    return make_call(comm, DS_CALL_BARRIER, (ds_collective){.dtype = DS_I8}, call);
}
