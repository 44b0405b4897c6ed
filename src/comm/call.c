#include "comm/call.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "comm/combine.h"

typedef struct kind {
    const char *name;
    ds_algorithm *write;
    bool reduces, has_root, has_data;
} kind;

static const kind kinds[DS_CALL_KINDS] = {
    [DS_CALL_ALL_REDUCE] = {.name = "all_reduce",
                            .write = ds_write_all_reduce,
                            .reduces = true,
                            .has_data = true},
    [DS_CALL_REDUCE_SCATTER] = {.name = "reduce_scatter",
                                .write = ds_write_reduce_scatter,
                                .reduces = true,
                                .has_data = true},
    [DS_CALL_ALL_GATHER] = {.name = "all_gather", .write = ds_write_all_gather, .has_data = true},
    [DS_CALL_BROADCAST] = {.name = "broadcast",
                           .write = ds_write_broadcast,
                           .has_root = true,
                           .has_data = true},
    [DS_CALL_ALL_TO_ALL] = {.name = "all_to_all", .write = ds_write_all_to_all, .has_data = true},
    [DS_CALL_BARRIER] = {.name = "barrier", .write = ds_write_barrier},
    [DS_CALL_SEND] = {.name = "send", .has_root = true, .has_data = true},
    [DS_CALL_RECV] = {.name = "recv", .has_root = true, .has_data = true},
};

static const char *const op_names[DS_COMM_OPS] = {"sum", "max", "min", "avg"};

const char *ds_call_kind_name(int number) {
    return number >= 0 && number < DS_CALL_KINDS ? kinds[number].name : "?";
}

ds_status ds_call_check(ds_call_kind number, const ds_collective *c) {
    const kind *k = &kinds[number];
    if (c->count < 0 || c->count > INT64_MAX / 8 / c->size)
        return ds_fail(DS_INVALID, "%s: a count of %lld", k->name, (long long)c->count);
    if ((unsigned)c->dtype >= DS_DTYPES)
        return ds_fail(DS_INVALID, "%s: dtype %d is none", k->name, (int)c->dtype);
    if (k->reduces && (unsigned)c->op >= DS_COMM_OPS)
        return ds_fail(DS_INVALID, "%s: operation %d is none", k->name, (int)c->op);
    if (k->reduces && !ds_combine_knows(c->dtype, c->op))
        return ds_fail(DS_UNSUPPORTED,
                       "%s: no %s of %s; sum, max and min take f32, bf16, f16, i8, i32, i64, avg "
                       "the floating-point types",
                       k->name, op_names[c->op], ds_dtype_name(c->dtype));
    if (k->has_root && (c->peer < 0 || c->peer >= c->size))
        return ds_fail(DS_INVALID, "%s: rank %d is not in a group of %d", k->name, c->peer,
                       c->size);
    if ((number == DS_CALL_SEND || number == DS_CALL_RECV) && c->peer == c->rank)
        return ds_fail(DS_INVALID, "%s: rank %d to or from itself; a copy does it", k->name,
                       c->rank);
    if (k->has_data && c->count > 0 && (!c->in || !c->out))
        return ds_fail(DS_INVALID, "%s: no data (NULL) for a count of %lld", k->name,
                       (long long)c->count);
    return DS_OK;
}

ds_header ds_call_header(ds_call_kind number, const ds_collective *c, uint32_t sequence,
                         const char *name) {
    const kind *k = &kinds[number];
    ds_header h;
    memset(&h, 0, sizeof h); /* it is sent as it lies in memory */
    h.kind = (uint8_t)number;
    h.dtype = k->has_data ? (uint8_t)c->dtype : 0;
    h.op = k->reduces ? (uint8_t)c->op : 0;
    h.peer = k->has_root ? c->peer : 0;
    h.count = c->count;
    h.sequence = sequence;
    if (name)
        snprintf(h.name, sizeof h.name, "%s", name);
    return h;
}

bool ds_call_same(const ds_header *a, const ds_header *b) {
    return a->kind == b->kind && a->dtype == b->dtype && a->op == b->op && a->peer == b->peer &&
           a->count == b->count && a->sequence == b->sequence;
}

const char *ds_call_describe(const ds_header *h, char *out, size_t size) {
    const bool known = h->kind < DS_CALL_KINDS && h->op < DS_COMM_OPS && h->dtype < DS_DTYPES;
    const kind *k = known ? &kinds[h->kind] : NULL;
    int n = snprintf(out, size, "%s #%u", ds_call_kind_name(h->kind), h->sequence);
    if (h->name[0] && n >= 0 && (size_t)n < size)
        n += snprintf(out + n, size - (size_t)n, " \"%.*s\"", DS_CALL_NAME - 1, h->name);
    if (k && k->has_data && n >= 0 && (size_t)n < size)
        n += snprintf(out + n, size - (size_t)n, " (%s%s%lld %s", k->reduces ? op_names[h->op] : "",
                      k->reduces ? " of " : "", (long long)h->count,
                      ds_dtype_name((ds_dtype)h->dtype));
    if (k && k->has_root && n >= 0 && (size_t)n < size)
        n += snprintf(out + n, size - (size_t)n, ", %s rank %d",
                      h->kind == DS_CALL_BROADCAST ? "root"
                      : h->kind == DS_CALL_SEND    ? "to"
                                                   : "from",
                      h->peer);
    if (k && k->has_data && n >= 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, ")");
    return out;
}

/* ---- writing -------------------------------------------------------------------------------- */

static int32_t header_step(ds_schedule *s, int32_t step) {
    if (step != DS_NO_STEP)
        s->steps[step].lane = DS_LANE_HEADER;
    return step;
}

static void receive_header(ds_schedule *s, int peer, ds_header *theirs) {
    const int32_t received = header_step(
        s, ds_schedule_receive(s, peer, theirs, sizeof *theirs, DS_NO_STEP, DS_NO_STEP));
    s->gate = ds_schedule_copy(s, theirs, NULL, 1, received, DS_NO_STEP);
}

/* A group of one: what a collective of one rank leaves in out. */
static void write_alone(const ds_collective *c, ds_schedule *s) {
    ds_schedule_copy(s, c->out, c->in, (size_t)c->count * ds_dtype_size(c->dtype), DS_NO_STEP,
                     DS_NO_STEP);
}

void ds_call_write(ds_call_kind number, const ds_collective *c, const ds_header *mine,
                   ds_header *theirs, ds_schedule *s) {
    const size_t size_bytes = (size_t)c->count * ds_dtype_size(c->dtype);
    ds_schedule_begin(s, c->dtype, c->op);
    if (number == DS_CALL_SEND) {
        header_step(s, ds_schedule_send(s, c->peer, mine, sizeof *mine, DS_NO_STEP, DS_NO_STEP));
        ds_schedule_send(s, c->peer, c->in, size_bytes, DS_NO_STEP, DS_NO_STEP);
    } else if (number == DS_CALL_RECV) {
        receive_header(s, c->peer, theirs);
        ds_schedule_receive(s, c->peer, c->out, size_bytes, DS_NO_STEP, DS_NO_STEP);
    } else if (c->size == 1) {
        write_alone(c, s);
    } else {
        header_step(s, ds_schedule_send(s, (c->rank + 1) % c->size, mine, sizeof *mine, DS_NO_STEP,
                                        DS_NO_STEP));
        receive_header(s, (c->rank + c->size - 1) % c->size, theirs);
        kinds[number].write(c, s);
    }
}
