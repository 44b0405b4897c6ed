#include "infer/tell.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

typedef struct token_errand {
    ds_errand errand;
    ds_event event;
    void (*on_event)(const ds_event *event, void *context);
    void *context;
    ds_token_logprob top[];
} token_errand;

static void run_token(ds_errand *errand) {
    token_errand *e = (token_errand *)errand;
    e->on_event(&e->event, e->context);
    free(e);
}

bool ds_tell_token(ds_lanes *lanes, const ds_live_request *r, const ds_event *event) {
    if (!lanes) {
        r->on_event(event, r->context);
        return true;
    }
    token_errand *e = ds_malloc(sizeof *e + (size_t)event->n_top * sizeof *e->top);
    if (!e)
        return false;
    e->errand.run = run_token;
    e->event = *event;
    e->on_event = r->on_event;
    e->context = r->context;
    if (event->n_top > 0) {
        memcpy(e->top, event->top, (size_t)event->n_top * sizeof *e->top);
        e->event.top = e->top;
    }
    ds_lanes_leave(lanes, r->id, &e->errand);
    return true;
}

static void run_end(ds_errand *errand) {
    ds_live_request *r =
        (ds_live_request *)((char *)errand - offsetof(ds_live_request, last_errand));
    const ds_event event = {.request = r->id,
                            .token = -1,
                            .index = r->n_tokens - r->n_prompt,
                            .finish = r->finish,
                            .error = r->finish == DS_FINISH_ERROR ? r->error : NULL};
    r->on_event(&event, r->context);
    ds_live_request_free(r);
}

void ds_tell_end(ds_lanes *lanes, ds_live_request *r) {
    r->last_errand.run = run_end;
    if (lanes)
        ds_lanes_leave(lanes, r->id, &r->last_errand);
    else
        run_end(&r->last_errand);
}
