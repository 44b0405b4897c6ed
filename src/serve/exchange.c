#include "serve/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "deepseek/grammar.h"

ds_exchange *ds_exchange_new(ds_server *server, struct MHD_Connection *connection) {
    ds_exchange *x = ds_calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->server = server;
    x->connection = connection;
    x->socket = -1;
    x->begin_s = ds_clock_s();
    x->serial = atomic_fetch_add(&server->last_serial, 1) + 1;
    atomic_init(&x->references, 1);
    pthread_mutex_init(&x->lock, NULL);
    return x;
}

void ds_exchange_release(ds_exchange *x) {
    if (!x || atomic_fetch_sub(&x->references, 1) > 1)
        return;
    ds_openai_answer_clear(&x->answer);
    ds_grammar_free(x->grammar);
    free(x->prompt);
    free(x->parts);
    ds_openai_request_clear(&x->request);
    ds_text_clear(&x->body);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

/* ---- all under the lock ---------------------------------------------------------------------- */

static void wake(ds_exchange *x) {
    if (!x->suspended)
        return;
    x->suspended = false;
    MHD_resume_connection(x->connection);
}

static void cancel_parts(ds_exchange *x) {
    for (int i = 0; i < x->answer.n; i++)
        if (x->parts[i].submitted && !x->answer.choices[i].finished)
            ds_async_executor_cancel(x->server->executor, x->parts[i].id);
}

/* Nothing more is wanted of any choice. */
static void finish(ds_exchange *x, unsigned code) {
    x->done = true;
    x->code = code;
    cancel_parts(x);
}

/* A stream has begun with 200: its error is an event. A whole answer is replaced. */
static void fail_with(ds_exchange *x, unsigned code, const char *message, const char *type) {
    if (x->answer.stream) {
        ds_openai_answer_fail(&x->answer, message, type);
    } else {
        ds_text_clear(&x->answer.out);
        ds_openai_error_write(&x->answer.out, message, type, NULL, NULL);
    }
    finish(x, code);
}

static void finish_part(ds_exchange *x, const ds_exchange_part *part, const char *reason) {
    if (ds_openai_answer_finish(&x->answer, part->index, reason) != DS_OK)
        fail_with(x, 500, ds_error(), "server_error");
    else if (x->answer.n_finished == x->answer.n)
        finish(x, 200);
}

static void take_token(ds_exchange *x, ds_exchange_part *part, const ds_event *event) {
    const double now = ds_clock_s();
    if (event->index > 0)
        ds_metrics_later_token(&x->server->metrics, now - part->last_token_s);
    else if (part->index == 0)
        ds_metrics_first_token(&x->server->metrics, now - x->begin_s);
    part->last_token_s = now;
    bool stopped = false;
    if (ds_openai_answer_token(&x->answer, part->index, event, &stopped) != DS_OK) {
        fail_with(x, 500, ds_error(), "server_error");
    } else if (stopped) {
        finish_part(x, part, "stop");
        ds_async_executor_cancel(x->server->executor, event->request);
    }
}

static void take_end(ds_exchange *x, const ds_exchange_part *part, const ds_event *event) {
    const bool whole = event->finish == DS_FINISH_STOP || event->finish == DS_FINISH_LENGTH;
    if (event->finish == DS_FINISH_ERROR)
        fail_with(x, 500, event->error ? event->error : "the model failed", "server_error");
    else if (!whole)
        fail_with(x, 503, "the request was cancelled", "server_error");
    else
        finish_part(x, part, event->finish == DS_FINISH_STOP ? "stop" : "length");
}

static void on_event(const ds_event *event, void *context);

/* The model's and the client's; to free(). */
static int32_t *stop_tokens_of(const ds_exchange *x, size_t *n) {
    size_t n_ends = 0;
    const int32_t *ends = ds_model_end_tokens(x->server->model, &n_ends);
    *n = n_ends + x->request.n_stop_tokens;
    int32_t *all = ds_malloc((*n + 1) * sizeof *all);
    for (size_t i = 0; all && i < *n; i++)
        all[i] = i < n_ends ? ends[i] : x->request.stop_tokens[i - n_ends];
    return all;
}

static ds_status submit_part(ds_exchange *x, int i, const int32_t *stops, size_t n_stops) {
    ds_exchange_part *part = &x->parts[i];
    ds_request request = {.prompt = x->prompt,
                          .n_prompt = x->n_prompt,
                          .max_tokens = x->request.max_tokens,
                          .sampling = x->request.sampling,
                          .stop_tokens = stops,
                          .n_stop_tokens = n_stops,
                          .priority = -x->request.priority, /* here the higher goes first */
                          .logprobs = x->request.logprobs,
                          .top_logprobs = x->request.top_logprobs,
                          .grammar = x->grammar,
                          .on_event = on_event,
                          .context = part};
    request.sampling.seed += (uint64_t)i * 0x9E3779B97F4A7C15u;
    *part = (ds_exchange_part){.exchange = x, .index = i};
    atomic_fetch_add(&x->references, 1); /* the executor's */
    const ds_status status = ds_async_executor_submit(x->server->executor, &request, &part->id);
    part->submitted = status == DS_OK;
    if (status != DS_OK)
        atomic_fetch_sub(&x->references, 1); /* never the last one */
    return status;
}

/* Its client does not read: nothing more is kept for it. */
static void give_up_unread(ds_exchange *x) {
    if (x->done || !x->answer.stream || x->answer.out.length - x->n_sent <= DS_MOST_UNREAD)
        return;
    finish(x, 499);
    x->broken = true;
    ds_watch_allow(x->server, x->connection, 0);
}

/* ---- the executor's thread ------------------------------------------------------------------- */

static void on_event(const ds_event *event, void *context) {
    ds_exchange_part *part = context;
    ds_exchange *x = part->exchange;
    const bool is_last = event->finish != DS_FINISH_NONE;
    pthread_mutex_lock(&x->lock);
    if (!x->done && !x->answer.choices[part->index].finished) {
        if (is_last)
            take_end(x, part, event);
        else
            take_token(x, part, event);
    }
    give_up_unread(x);
    if (x->done || (x->answer.stream && x->answer.out.length > x->n_sent))
        wake(x);
    pthread_mutex_unlock(&x->lock);
    if (is_last)
        ds_exchange_release(x);
}

/* ---- the connection's thread ----------------------------------------------------------------- */

ds_status ds_exchange_submit(ds_exchange *x) {
    size_t n_stops = 0;
    int32_t *stops = stop_tokens_of(x, &n_stops);
    x->parts = ds_calloc((size_t)x->answer.n, sizeof *x->parts);
    if (!x->parts || !stops) {
        free(stops);
        return DS_OUT_OF_MEMORY;
    }
    /* the first token may come before the call returns; it waits at the lock */
    pthread_mutex_lock(&x->lock);
    ds_status status = DS_OK;
    for (int i = 0; i < x->answer.n && status == DS_OK; i++)
        status = submit_part(x, i, stops, n_stops);
    x->submitted = status == DS_OK;
    if (status != DS_OK)
        finish(x, 0); /* the caller tells the client */
    pthread_mutex_unlock(&x->lock);
    free(stops);
    free(x->prompt);
    x->prompt = NULL;
    if (status == DS_BUSY && x->answer.n > 1)
        return ds_fail(DS_BUSY, "the queue has no room for %d answers", x->answer.n);
    return status;
}

void ds_exchange_begin(ds_exchange *x) {
    atomic_fetch_add(&x->references, 1); /* of whoever completes it */
    pthread_mutex_lock(&x->lock);
    x->submitted = true;
    pthread_mutex_unlock(&x->lock);
}

bool ds_exchange_is_done(ds_exchange *x) {
    pthread_mutex_lock(&x->lock);
    const bool done = x->done;
    pthread_mutex_unlock(&x->lock);
    return done;
}

void ds_exchange_complete(ds_exchange *x, unsigned code, ds_text *body) {
    pthread_mutex_lock(&x->lock);
    if (!x->done) {
        ds_text_clear(&x->answer.out);
        x->answer.out = *body;
        *body = (ds_text){0};
        finish(x, code);
        wake(x);
    }
    pthread_mutex_unlock(&x->lock);
    ds_text_clear(body);
    ds_exchange_release(x);
}

bool ds_exchange_abort(ds_exchange *x, unsigned code, const char *message, const char *type) {
    pthread_mutex_lock(&x->lock);
    const bool was_at_work = x->submitted && !x->done;
    if (was_at_work && message)
        fail_with(x, code, message, type);
    else if (was_at_work)
        finish(x, 499);
    x->broken = x->broken || !message;
    wake(x);
    pthread_mutex_unlock(&x->lock);
    return was_at_work;
}

/* Forgets what is sent, so that a stream's memory does not grow with its answer. */
static void drop_sent(ds_exchange *x) {
    ds_text *out = &x->answer.out;
    if (x->n_sent < 65536 && x->n_sent < out->length)
        return;
    memmove(out->data, out->data + x->n_sent, out->length - x->n_sent + 1);
    out->length -= x->n_sent;
    x->n_sent = 0;
}

ssize_t ds_exchange_read(void *exchange, uint64_t position, char *buffer, size_t size) {
    (void)position;
    ds_exchange *x = exchange;
    ssize_t n = 0;
    pthread_mutex_lock(&x->lock);
    const size_t left = x->answer.out.length - x->n_sent;
    if (x->broken || x->answer.out.poisoned ||
        (left == 0 && !x->done && atomic_load(&x->server->closing))) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (left > 0) {
        n = (ssize_t)(left < size ? left : size);
        memcpy(buffer, x->answer.out.data + x->n_sent, (size_t)n);
        x->n_sent += (size_t)n;
        drop_sent(x);
    } else if (x->done) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return n;
}
