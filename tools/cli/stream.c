#include "cli/stream.h"

#include <pthread.h>
#include <stdio.h>

#include "base/error.h"

typedef struct stream {
    ds_async_executor *executor;
    ds_detokenizer *detokenizer;
    bool (*print)(const char *text, size_t length, void *context);
    void *context;
    bool cut; /* no more is wanted, or the text cannot be made */
    ds_status status;
    char error[256];
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    bool ended;
} stream;

static void end(stream *s) {
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* Messages of this thread are not those of the one that waits. */
static void keep_error(stream *s, ds_status status, const char *error) {
    s->status = status;
    snprintf(s->error, sizeof s->error, "%s", error);
}

static void on_event(const ds_event *event, void *context) {
    stream *s = context;
    const char *text = NULL;
    size_t length = 0;
    if (event->finish == DS_FINISH_ERROR)
        keep_error(s, DS_NUMERIC, event->error ? event->error : "the model failed");
    if (event->finish != DS_FINISH_NONE) {
        end(s);
        return;
    }
    if (s->cut)
        return;
    const ds_status status = ds_detokenizer_push(s->detokenizer, event->token, &text, &length);
    if (status != DS_OK)
        keep_error(s, status, ds_error());
    s->cut = status != DS_OK || !s->print(text, length, s->context);
    if (s->cut)
        ds_async_executor_cancel(s->executor, event->request);
}

static ds_status await(stream *s) {
    const char *text = NULL;
    size_t length = 0;
    pthread_mutex_lock(&s->lock);
    while (!s->ended)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (s->status != DS_OK)
        return ds_fail(s->status, "%s", s->error);
    DS_TRY(ds_detokenizer_finish(s->detokenizer, &text, &length));
    s->print(text, length, s->context);
    return DS_OK;
}

ds_status ds_cli_stream(ds_model *model, ds_async_executor_opts opts, ds_request request,
                        ds_detokenizer *detokenizer,
                        bool (*print)(const char *text, size_t length, void *context),
                        void *context, ds_executor_stats *stats) {
    stream s = {.detokenizer = detokenizer, .print = print, .context = context};
    uint64_t id;
    DS_TRY(ds_async_executor_new(model, opts, &s.executor));
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.changed, NULL);
    request.on_event = on_event;
    request.context = &s;
    ds_status status = ds_async_executor_submit(s.executor, &request, &id);
    if (status == DS_OK)
        status = await(&s);
    ds_async_executor_stats(s.executor, stats);
    ds_async_executor_free(s.executor);
    pthread_cond_destroy(&s.changed);
    pthread_mutex_destroy(&s.lock);
    return status;
}
