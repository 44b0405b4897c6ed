#include "comm/schedule.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "comm/combine.h"

/* ---- writing -------------------------------------------------------------------------------- */

void ds_schedule_begin(ds_schedule *s, ds_dtype dtype, ds_comm_op op) {
    *s = (ds_schedule){.gate = DS_NO_STEP, .dtype = dtype, .op = op};
    for (int kind = 0; kind < DS_STEP_KINDS; kind++)
        s->first[kind] = s->next[kind] = s->last[kind] = DS_NO_STEP;
}

void ds_schedule_clear(ds_schedule *s) {
    free(s->steps);
    free(s->scratch);
    s->steps = NULL;
    s->scratch = NULL;
    s->n = s->capacity = 0;
}

static int32_t add(ds_schedule *s, ds_step step) {
    if (s->poisoned || s->n >= INT32_MAX / 2) {
        s->poisoned = true;
        return DS_NO_STEP;
    }
    if (s->n == s->capacity) {
        ds_step *steps = ds_grow(s->steps, &s->capacity, s->n + 1, sizeof *steps);
        if (!steps) {
            s->poisoned = true;
            return DS_NO_STEP;
        }
        s->steps = steps;
    }
    const int32_t index = (int32_t)s->n++;
    step.next = DS_NO_STEP;
    s->steps[index] = step;
    if (s->last[step.kind] == DS_NO_STEP)
        s->first[step.kind] = s->next[step.kind] = index;
    else
        s->steps[s->last[step.kind]].next = index;
    s->last[step.kind] = index;
    return index;
}

int32_t ds_schedule_send(ds_schedule *s, int peer, const void *data, size_t size_bytes, int32_t a,
                         int32_t b) {
    if (size_bytes == 0)
        return DS_NO_STEP;
    return add(s, (ds_step){.kind = DS_STEP_SEND,
                            .peer = peer,
                            .a = data,
                            .count = (int64_t)size_bytes,
                            .after = {a, b}});
}

int32_t ds_schedule_receive(ds_schedule *s, int peer, void *data, size_t size_bytes, int32_t a,
                            int32_t b) {
    if (size_bytes == 0)
        return DS_NO_STEP;
    return add(s, (ds_step){.kind = DS_STEP_RECEIVE,
                            .peer = peer,
                            .out = data,
                            .count = (int64_t)size_bytes,
                            .after = {a, b}});
}

int32_t ds_schedule_combine(ds_schedule *s, void *out, const void *x, const void *y, int64_t count,
                            float scale, int32_t a, int32_t b) {
    if (count == 0)
        return DS_NO_STEP;
    return add(s, (ds_step){.kind = DS_STEP_LOCAL,
                            .out = out,
                            .a = x,
                            .b = y,
                            .count = count,
                            .scale = scale,
                            .after = {a, b}});
}

int32_t ds_schedule_copy(ds_schedule *s, void *out, const void *in, size_t size_bytes, int32_t a,
                         int32_t b) {
    if (size_bytes == 0 || out == in)
        return DS_NO_STEP;
    return add(s, (ds_step){.kind = DS_STEP_LOCAL,
                            .out = out,
                            .a = in,
                            .count = (int64_t)size_bytes,
                            .after = {a, b}});
}

void *ds_schedule_scratch(ds_schedule *s, size_t size_bytes) {
    free(s->scratch);
    s->scratch = ds_malloc(size_bytes > 0 ? size_bytes : 1);
    if (!s->scratch)
        s->poisoned = true;
    return s->scratch;
}

/* ---- carrying out --------------------------------------------------------------------------- */

static bool is_done(const ds_schedule *s, int32_t step) {
    return step == DS_NO_STEP || s->steps[step].done;
}

static void finish(ds_schedule *s, ds_step *step) {
    step->done = true;
    s->n_done++;
}

static void begin_message(const ds_route *r, ds_step *step) {
    const int peer = r->world_rank[step->peer];
    const uint64_t lane = (uint64_t)step->lane << DS_TAG_LANE_SHIFT;
    const size_t size = (size_t)step->count;
    const ds_transport_ops *ops = r->transport->ops;
    if (step->kind == DS_STEP_SEND)
        ops->send(r->transport, peer, step->a, size, r->send_tag | lane, &step->message);
    else
        ops->receive(r->transport, peer, step->out, size,
                     r->receive_tag | (uint64_t)peer << DS_TAG_SENDER_SHIFT | lane, &step->message);
}

static void do_local(const ds_schedule *s, const ds_route *r, const ds_step *step) {
    if (step->b)
        ds_combine(step->out, step->a, step->b, step->count, s->dtype, s->op, step->scale,
                   r->n_threads);
    else
        memmove(step->out, step->a, (size_t)step->count);
}

/* Begins steps of this kind as long as the next one may. True when one was begun. */
static bool begin_steps(ds_schedule *s, const ds_route *r, int kind) {
    bool moved = false;
    for (int32_t at = s->next[kind]; at != DS_NO_STEP; at = s->next[kind]) {
        ds_step *step = &s->steps[at];
        if (!is_done(s, step->after[0]) || !is_done(s, step->after[1]))
            break;
        if (step->lane == DS_LANE_DATA && kind != DS_STEP_LOCAL && !is_done(s, s->gate))
            break; /* no data to or from ranks that are in another call: it would be taken for ours
                    */
        if (at == s->gate)
            break; /* the caller's */
        step->begun = true;
        s->next[kind] = step->next;
        moved = true;
        if (kind == DS_STEP_LOCAL) {
            do_local(s, r, step);
            finish(s, step);
            s->first[kind] = step->next;
            break; /* messages first: a chunk added is a chunk to send on */
        }
        begin_message(r, step);
    }
    return moved;
}

/* Notes which messages have arrived. */
static ds_schedule_state check_messages(ds_schedule *s, int kind, int32_t *culprit) {
    bool moved = false;
    for (int32_t at = s->first[kind]; at != DS_NO_STEP && s->steps[at].begun;
         at = s->steps[at].next) {
        ds_step *step = &s->steps[at];
        const int state = step->done ? DS_MESSAGE_DONE : atomic_load(&step->message.state);
        if (state == DS_MESSAGE_DONE && !step->done) {
            if (kind == DS_STEP_RECEIVE && step->message.received != (size_t)step->count) {
                *culprit = at;
                return DS_SCHEDULE_FAILED;
            }
            finish(s, step);
            moved = true;
        } else if (state != DS_MESSAGE_DONE && state != DS_MESSAGE_PENDING) {
            *culprit = at;
            return DS_SCHEDULE_FAILED;
        }
        if (step->done && at == s->first[kind])
            s->first[kind] = step->next;
    }
    return moved ? DS_SCHEDULE_MOVED : DS_SCHEDULE_WAITS;
}

ds_schedule_state ds_schedule_progress(ds_schedule *s, const ds_route *route, int32_t *culprit) {
    bool moved = false;
    for (int kind = DS_STEP_SEND; kind <= DS_STEP_RECEIVE; kind++) {
        const ds_schedule_state state = check_messages(s, kind, culprit);
        if (state == DS_SCHEDULE_FAILED)
            return state;
        moved = moved || state == DS_SCHEDULE_MOVED;
    }
    const int32_t gate = s->gate;
    if (!is_done(s, gate) && is_done(s, s->steps[gate].after[0]))
        return DS_SCHEDULE_COMPARE;
    for (int kind = 0; kind < DS_STEP_KINDS; kind++)
        moved = begin_steps(s, route, kind) || moved;
    if (s->n_done == s->n)
        return DS_SCHEDULE_DONE;
    return moved ? DS_SCHEDULE_MOVED : DS_SCHEDULE_WAITS;
}

void ds_schedule_pass_gate(ds_schedule *s) {
    ds_step *gate = &s->steps[s->gate];
    gate->begun = true;
    finish(s, gate);
    s->next[DS_STEP_LOCAL] = s->first[DS_STEP_LOCAL] = gate->next;
}

int ds_schedule_waits_for(const ds_schedule *s, int *out, int most) {
    int n = 0;
    for (size_t i = 0; i < s->n && n < most; i++) {
        const ds_step *step = &s->steps[i];
        if (step->kind == DS_STEP_LOCAL || !step->begun || step->done)
            continue;
        bool listed = false;
        for (int k = 0; k < n; k++)
            listed = listed || out[k] == step->peer;
        if (!listed)
            out[n++] = step->peer;
    }
    return n;
}
