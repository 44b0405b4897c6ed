#include "serve/embeddings.h"

#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "infer/model.h"
#include "serve/exchange.h"

/* ---- the request ----------------------------------------------------------------------------- */

typedef struct reading {
    json_t *root;
    ds_embeddings_request *out;
    ds_openai_error *error;
} reading;

static DS_PRINTF(3, 4) ds_status wrong(const reading *r, const char *key, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->error->message, sizeof r->error->message, fmt, ap);
    va_end(ap);
    /* the cut may have gone through a character */
    r->error->message[ds_utf8_valid(r->error->message, strlen(r->error->message))] = '\0';
    snprintf(r->error->param, sizeof r->error->param, "%s", key);
    return ds_fail(DS_INVALID, "%s", r->error->message);
}

/* The value under key; NULL where there is none or null, which stands for the default. */
static json_t *value_of(const reading *r, const char *key) {
    json_t *v = json_object_get(r->root, key);
    return json_is_null(v) ? NULL : v;
}

static ds_status read_tokens(const reading *r, size_t i, json_t *list) {
    const size_t n = json_array_size(list);
    int32_t *ids = ds_calloc(n + 1, sizeof *ids);
    if (!ids)
        return DS_OUT_OF_MEMORY;
    r->out->lists[i] = (ds_token_list){ids, n};
    for (size_t k = 0; k < n; k++) {
        json_t *v = json_array_get(list, k);
        const json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX)
            return wrong(r, "input",
                         "'input' holds at %zu what is no token id: give whole numbers "
                         "from 0",
                         k);
        ids[k] = (int32_t)id;
    }
    return DS_OK;
}

static ds_status read_text(const reading *r, size_t i, json_t *v) {
    if (json_is_string(v)) {
        r->out->texts[i] = json_string_value(v);
        return DS_OK;
    }
    if (json_array_size(v) > 0)
        return read_tokens(r, i, v);
    return wrong(r, "input",
                 "'input' must be a string, an array of strings, or tokens: at %zu it is "
                 "neither a string nor an array of token ids",
                 i);
}

/* A string, tokens, or a list of these. */
static ds_status read_input(const reading *r) {
    json_t *v = value_of(r, "input");
    const bool is_one = json_is_string(v) || json_is_integer(json_array_get(v, 0));
    const size_t n = is_one ? 1 : json_array_size(v);
    if (n == 0)
        return wrong(r, "input", "'input' must be a string, an array of strings, or token ids");
    if (n > DS_MOST_EMBEDDINGS)
        return wrong(r, "input", "'input' has %zu texts, but may have %d at most", n,
                     DS_MOST_EMBEDDINGS);
    r->out->texts = ds_calloc(n, sizeof *r->out->texts);
    r->out->lists = ds_calloc(n, sizeof *r->out->lists);
    if (!r->out->texts || !r->out->lists)
        return DS_OUT_OF_MEMORY;
    r->out->n = n;
    for (size_t i = 0; i < n; i++)
        DS_TRY(read_text(r, i, is_one ? v : json_array_get(v, i)));
    return DS_OK;
}

static ds_status read_options(const reading *r) {
    json_t *model = value_of(r, "model"), *format = value_of(r, "encoding_format");
    json_t *truncate = value_of(r, "truncate"), *dimensions = value_of(r, "dimensions");
    const char *name = json_string_value(format);
    if (model && !json_is_string(model))
        return wrong(r, "model", "'model' must be a string");
    if (format && (!name || (strcmp(name, "float") != 0 && strcmp(name, "base64") != 0)))
        return wrong(r, "encoding_format", "'encoding_format' must be \"float\" or \"base64\"");
    if (truncate && !json_is_boolean(truncate))
        return wrong(r, "truncate", "'truncate' must be true or false");
    if (dimensions && (!json_is_integer(dimensions) || json_integer_value(dimensions) < 1))
        return wrong(r, "dimensions", "'dimensions' must be a whole number from 1");
    r->out->model = json_string_value(model);
    r->out->base64 = name && *name == 'b';
    r->out->truncate = json_is_true(truncate);
    r->out->dimensions = json_integer_value(dimensions);
    return DS_OK;
}

ds_status ds_embeddings_request_parse(const char *body, size_t size, ds_embeddings_request *out,
                                      ds_openai_error *error) {
    json_error_t where;
    *out = (ds_embeddings_request){0};
    *error = (ds_openai_error){0};
    reading r = {.out = out, .error = error};
    r.root = json_loadb(body, size, JSON_REJECT_DUPLICATES, &where);
    if (!r.root)
        return wrong(&r, "", "the body is no valid JSON: line %d, column %d: %s", where.line,
                     where.column, where.text);
    out->json = r.root;
    ds_status status =
        json_is_object(r.root) ? DS_OK : wrong(&r, "", "the body must be a JSON object");
    if (status == DS_OK)
        status = read_options(&r);
    if (status == DS_OK)
        status = read_input(&r);
    if (status != DS_OK)
        ds_embeddings_request_clear(out);
    return status;
}

void ds_embeddings_request_clear(ds_embeddings_request *r) {
    for (size_t i = 0; i < r->n; i++)
        free((void *)(uintptr_t)r->lists[i].ids);
    free(r->texts);
    free(r->lists);
    json_decref(r->json);
    *r = (ds_embeddings_request){0};
}

/* ---- the answer ------------------------------------------------------------------------------ */

static void write_base64(const float *v, size_t n, ds_text *out) {
    unsigned char *text = ds_malloc(n * sizeof *v / 3 * 4 + 8); /* little-endian machines only */
    if (!text) {
        out->poisoned = true;
        return;
    }
    const int length = EVP_EncodeBlock(text, (const unsigned char *)v, (int)(n * sizeof *v));
    ds_text_puts(out, "\"");
    ds_text_append(out, (const char *)text, (size_t)length);
    ds_text_puts(out, "\"");
    free(text);
}

static void write_numbers(const float *v, size_t n, ds_text *out) {
    for (size_t i = 0; i < n; i++)
        ds_text_printf(out, "%c%.9g", i ? ',' : '[', (double)v[i]);
    ds_text_puts(out, "]");
}

/* The first n numbers, scaled to length 1 again: good for models trained so that beginnings of
 * their vectors are vectors (Kusupati et al. 2022). */
static void shorten(const float *v, size_t n, float *out) {
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)v[i] * (double)v[i];
    for (size_t i = 0; i < n; i++)
        out[i] = squares > 0 ? (float)((double)v[i] / sqrt(squares)) : 0;
}

void ds_embeddings_write(const ds_embeddings_request *r, const float *vectors, int64_t size,
                         const char *model, int64_t n_tokens, ds_text *out) {
    const bool cut = r->dimensions > 0 && r->dimensions < size;
    const size_t n = (size_t)(cut ? r->dimensions : size);
    float *shorter = cut ? ds_malloc(n * sizeof *shorter) : NULL;
    out->poisoned = out->poisoned || (cut && !shorter);
    ds_text_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < r->n && !out->poisoned; i++) {
        const float *v = vectors + i * (size_t)size;
        if (cut)
            shorten(v, n, shorter);
        ds_text_printf(out,
                       "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "", i);
        if (r->base64)
            write_base64(cut ? shorter : v, n, out);
        else
            write_numbers(cut ? shorter : v, n, out);
        ds_text_puts(out, "}");
    }
    free(shorter);
    json_t *name = json_string(model);
    char *quoted = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
    json_decref(name);
    ds_text_printf(out, "],\"model\":%s,\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}",
                   quoted ? quoted : "null", (long long)n_tokens, (long long)n_tokens);
    free(quoted);
}

/* ---- the worker ------------------------------------------------------------------------------ */

enum { DEFAULT_QUEUE = 1024, TEXTS_AT_ONCE = 256 };

typedef struct job {
    struct job *next;
    ds_exchange *exchange;
    ds_embeddings_request request;
    int64_t n_tokens;
    bool failed;
} job;

struct ds_embedding_worker {
    ds_model *model;
    const char *name;
    int64_t max_queue;
    job *first, **last;
    bool closing;
    ds_executor_stats stats;
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_t thread;
    bool has_thread;
};

static void job_free(job *j) {
    ds_embeddings_request_clear(&j->request);
    free(j);
}

/* Who hears of its end finds it in the numbers. */
static void complete(ds_embedding_worker *w, job *j, unsigned code, ds_text *body) {
    ds_executor_stats *s = &w->stats;
    pthread_mutex_lock(&w->lock);
    s->n_running--;
    s->prompt_tokens += code == 200 ? j->n_tokens : 0;
    ++*(code == 200 ? &s->finished : code == 499 || code == 503 ? &s->cancelled : &s->failed);
    pthread_mutex_unlock(&w->lock);
    ds_exchange_complete(j->exchange, code, body);
}

static void fail_job(ds_embedding_worker *w, job *j, unsigned code, const char *message,
                     const char *param) {
    ds_text text = {0};
    ds_openai_error_write(&text, message, code == 400 ? "invalid_request_error" : "server_error",
                          param, NULL);
    complete(w, j, code, &text);
    j->failed = true;
}

/* Text i as tokens, marks included. */
static ds_status encode_text(const ds_embedding_worker *w, ds_embeddings_request *r, size_t i,
                             size_t longest) {
    int32_t *ids = NULL;
    size_t n = 0;
    DS_TRY(ds_tokenizer_encode_marked(ds_model_get_tokenizer(w->model), r->texts[i],
                                      strlen(r->texts[i]), r->truncate ? longest : 0, &ids, &n));
    r->lists[i] = (ds_token_list){ids, n};
    return DS_OK;
}

static ds_status prepare(const ds_embedding_worker *w, job *j) {
    ds_embeddings_request *r = &j->request;
    const size_t longest = (size_t)ds_model_embedding_length(w->model);
    const int64_t size = ds_model_embedding_size(w->model);
    const int64_t vocab = ds_model_get_config(w->model)->vocab_size;
    if (r->dimensions > size)
        return ds_fail(DS_INVALID, "'dimensions' is %lld, but the vectors have %lld",
                       (long long)r->dimensions, (long long)size);
    for (size_t i = 0; i < r->n; i++) {
        if (r->texts[i])
            DS_TRY(encode_text(w, r, i, longest));
        if (r->truncate && r->lists[i].n > longest)
            r->lists[i].n = longest;
        if (r->lists[i].n == 0)
            return ds_fail(DS_INVALID, "text %zu of 'input' is empty", i);
        if (r->lists[i].n > longest)
            return ds_fail(DS_INVALID,
                           "text %zu of 'input' has %zu tokens, the model takes %zu; \"truncate\": "
                           "true takes the beginning of longer ones",
                           i, r->lists[i].n, longest);
        for (size_t k = 0; k < r->lists[i].n; k++)
            if (r->lists[i].ids[k] < 0 || r->lists[i].ids[k] >= vocab)
                return ds_fail(DS_INVALID, "token %d in 'input' is not in 0 … %lld",
                               r->lists[i].ids[k], (long long)vocab - 1);
        j->n_tokens += (int64_t)r->lists[i].n;
    }
    return DS_OK;
}

/* The model moves. */
static void count_batch(void *context) {
    ds_embedding_worker *w = context;
    pthread_mutex_lock(&w->lock);
    w->stats.steps++;
    w->stats.last_step_s = ds_clock_s();
    pthread_mutex_unlock(&w->lock);
}

/* All texts of the jobs in one call. */
static ds_status compute(ds_embedding_worker *w, job *jobs, float **vectors) {
    const ds_embed_opts opts = {.on_batch = count_batch, .context = w};
    size_t n = 0, at = 0;
    for (const job *j = jobs; j; j = j->next)
        n += j->failed ? 0 : j->request.n;
    ds_token_list *lists = ds_malloc((n + 1) * sizeof *lists);
    *vectors = ds_malloc((n + 1) * (size_t)ds_model_embedding_size(w->model) * sizeof **vectors);
    ds_status status = lists && *vectors ? DS_OK : DS_OUT_OF_MEMORY;
    for (const job *j = jobs; j && status == DS_OK; j = j->next)
        for (size_t i = 0; i < (j->failed ? 0 : j->request.n); i++)
            lists[at++] = j->request.lists[i];
    if (status == DS_OK)
        status = ds_model_embed_tokens(w->model, lists, n, opts, *vectors);
    free(lists);
    return status;
}

static void answer(ds_embedding_worker *w, job *j, const float *vectors) {
    ds_text text = {0};
    ds_embeddings_write(&j->request, vectors, ds_model_embedding_size(w->model), w->name,
                        j->n_tokens, &text);
    if (text.poisoned)
        fail_job(w, j, 500, "out of memory for an answer", NULL);
    else
        complete(w, j, 200, &text);
    ds_text_clear(&text);
}

static void work_on(ds_embedding_worker *w, job *jobs) {
    float *vectors = NULL;
    for (job *j = jobs; j; j = j->next) {
        if (ds_exchange_is_done(j->exchange)) { /* its client is gone */
            fail_job(w, j, 499, "", NULL);
            continue;
        }
        const ds_status status = prepare(w, j);
        if (status != DS_OK)
            fail_job(w, j, status == DS_INVALID ? 400 : 500, ds_error(), "input");
    }
    const ds_status status = compute(w, jobs, &vectors);
    const float *at = vectors;
    for (job *j = jobs, *next; j; j = next) {
        next = j->next;
        if (!j->failed && status != DS_OK)
            fail_job(w, j, status == DS_UNSUPPORTED ? 400 : 500, ds_error(), NULL);
        else if (!j->failed) {
            answer(w, j, at);
            at += j->request.n * (size_t)ds_model_embedding_size(w->model);
        }
        job_free(j);
    }
    free(vectors);
}

/* As many of those that wait as make a good batch; at least one. Under the lock. */
static job *take_jobs(ds_embedding_worker *w) {
    job *jobs = w->first, **end = &w->first;
    for (size_t n = 0; *end && (n == 0 || n + (*end)->request.n <= TEXTS_AT_ONCE);
         end = &(*end)->next) {
        n += (*end)->request.n;
        w->stats.n_waiting--;
        w->stats.n_running++;
    }
    w->first = *end;
    *end = NULL;
    if (!w->first)
        w->last = &w->first;
    return jobs;
}

static void *run(void *context) {
    ds_embedding_worker *w = context;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->closing)
            pthread_cond_wait(&w->work, &w->lock);
        if (w->closing)
            break;
        job *jobs = take_jobs(w);
        pthread_mutex_unlock(&w->lock);
        work_on(w, jobs);
        ds_backend_rest(w->model->backend);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

ds_status ds_embedding_worker_new(ds_model *model, const char *name, int max_queue,
                                  ds_embedding_worker **out) {
    ds_embedding_worker *w = ds_calloc(1, sizeof *w);
    if (!w)
        return DS_OUT_OF_MEMORY;
    w->model = model;
    w->name = name;
    w->max_queue = max_queue > 0 ? max_queue : DEFAULT_QUEUE;
    w->stats.last_step_s = ds_clock_s();
    w->last = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    ds_backend_rest(model->backend);
    w->has_thread = pthread_create(&w->thread, NULL, run, w) == 0;
    if (!w->has_thread) {
        ds_embedding_worker_free(w);
        return ds_fail(DS_OUT_OF_MEMORY, "no thread could be started");
    }
    *out = w;
    return DS_OK;
}

void ds_embedding_worker_free(ds_embedding_worker *w) {
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    if (w->has_thread)
        pthread_join(w->thread, NULL);
    while (w->first)
        for (job *j = take_jobs(w), *next; j; j = next) {
            next = j->next;
            fail_job(w, j, 503, "the server is shutting down", NULL);
            job_free(j);
        }
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

ds_status ds_embedding_worker_submit(ds_embedding_worker *w, ds_exchange *x,
                                     ds_embeddings_request *request) {
    job *j = ds_calloc(1, sizeof *j);
    if (!j) {
        ds_embeddings_request_clear(request);
        return DS_OUT_OF_MEMORY;
    }
    j->exchange = x;
    j->request = *request;
    pthread_mutex_lock(&w->lock);
    const bool is_full = w->stats.n_waiting >= w->max_queue;
    if (!is_full) {
        ds_exchange_begin(x);
        *w->last = j;
        w->last = &j->next;
        w->stats.n_waiting++;
        w->stats.submitted++;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
    if (!is_full)
        return DS_OK;
    job_free(j);
    return ds_fail(DS_BUSY, "%lld requests wait already", (long long)w->max_queue);
}

void ds_embedding_worker_stats(ds_embedding_worker *w, ds_executor_stats *out) {
    pthread_mutex_lock(&w->lock);
    *out = w->stats;
    pthread_mutex_unlock(&w->lock);
}
