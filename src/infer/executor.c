/* The asynchronous executor: callers put requests into a queue, one thread takes them through the
 * model step by step. The lock guards the queue, the table of ids and the numbers; what is running
 * belongs to the thread. No callback is called under the lock.
 *
 * Streams: on a CPU all cores compute one step, since two at once would read the weights twice.
 * What is left to overlap is the rest: drawing from large vocabularies, shared among the lanes
 * between two steps, and callbacks (text, JSON, sockets), which run on the lanes during the next
 * step. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "infer/draw.h"
#include "infer/speculate.h"

enum {
    BLOCK_SIZE = 16,
    DEFAULT_BATCH = 32,
    DEFAULT_QUEUE = 1024,
    DEFAULT_STEP = 256,
    DEFAULT_STREAMS = 4,
    DEFAULT_LOOKUP = 7,
    DEFAULT_DRAFT = 3,
    WORTH_SHARING = 1 << 14, /* logits: below, waking a lane costs more than it saves */
    MOST_EVENTS = 4096       /* that a lane may be behind before steps wait for it */
};

/* A request whose next tokens are drawn. */
typedef struct draw {
    ds_live_request *request;
    float *logits;
    int64_t n_tokens; /* before */
    int64_t n_draft, accepted;
} draw;

struct ds_async_executor {
    ds_model *model;
    int64_t max_batch, max_queue, longest; /* longest: tokens of a sequence */
    ds_stepper *stepper;
    ds_scheduler scheduler;
    ds_speculator speculator;
    ds_lanes *lanes; /* NULL: one stream */
    draw *draws;     /* [max_batch] */
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t work, ended;
    bool stopping;
    ds_request_list waiting;
    ds_request_table table;
    uint64_t last_id;
    ds_executor_stats stats;
};

/* ---- ending a request ------------------------------------------------------------------------ */

static int64_t *count_of(ds_executor_stats *s, ds_finish finish) {
    return finish == DS_FINISH_CANCELLED ? &s->cancelled
           : finish == DS_FINISH_ERROR   ? &s->failed
                                         : &s->finished;
}

/* Under the lock, by the thread. */
static void count_running(ds_async_executor *e) {
    e->stats.n_running = e->scheduler.running.n;
    e->stats.cached_tokens = e->scheduler.n_cached;
    e->stats.blocks_in_use = ds_block_pool_in_use(e->scheduler.pool);
    e->stats.blocks_cached = ds_block_pool_cached(e->scheduler.pool);
}

/* It is in no list any more. */
static void end(ds_async_executor *e, ds_live_request *r, ds_finish finish) {
    pthread_mutex_lock(&e->lock);
    r->finish = finish;
    r->ended = true;
    ++*count_of(&e->stats, finish);
    count_running(e);
    const bool told = r->on_event != NULL;
    if (told)
        ds_request_table_remove(&e->table, r);
    pthread_cond_broadcast(&e->ended);
    pthread_mutex_unlock(&e->lock);
    if (told) /* otherwise it waits to be asked for, and may be gone already */
        ds_tell_end(e->lanes, r);
}

static void end_running(ds_async_executor *e, ds_live_request *r, ds_finish finish) {
    ds_scheduler_remove(&e->scheduler, r);
    end(e, r, finish);
}

static void fail_running(ds_async_executor *e, const char *error) {
    while (e->scheduler.running.first) {
        ds_live_request *r = e->scheduler.running.first;
        snprintf(r->error, sizeof r->error, "%s", error);
        end_running(e, r, DS_FINISH_ERROR);
    }
}

/* ---- one step -------------------------------------------------------------------------------- */

static void draw_one(int64_t i, void *context) {
    ds_async_executor *e = context;
    draw *d = &e->draws[i];
    d->accepted = ds_draw(e->lanes, d->request, d->logits, e->model->config.vocab_size);
}

/* logits: rows of each request whose tokens are all computed, in order. */
static int64_t draw_all(ds_async_executor *e, float *logits) {
    const int64_t vocab = e->model->config.vocab_size;
    int64_t n = 0;
    for (ds_live_request *r = e->scheduler.running.first; r; r = r->next) {
        if (r->chunk == 0 || r->computed < r->n_tokens)
            continue;
        e->draws[n++] =
            (draw){.request = r, .logits = logits, .n_tokens = r->n_tokens, .n_draft = r->n_draft};
        logits += (1 + r->n_draft) * vocab;
    }
    if (e->lanes && n > 1 && n * vocab >= WORTH_SHARING)
        ds_lanes_share(e->lanes, n, draw_one, e);
    else
        for (int64_t i = 0; i < n; i++)
            draw_one(i, e);
    return n;
}

/* What a step came to. */
typedef struct gains {
    int64_t made, proposed, accepted;
} gains;

/* Draws, and puts the requests in order for the next step. Returns how many were drawn for. */
static int64_t take_tokens(ds_async_executor *e, float *logits, gains *g) {
    const int64_t n = draw_all(e, logits);
    for (int64_t i = 0; i < n; i++) {
        const draw *d = &e->draws[i];
        ds_live_request *r = d->request;
        g->made += r->n_tokens - d->n_tokens;
        g->proposed += d->n_draft;
        g->accepted += d->accepted;
        ds_scheduler_settle(&e->scheduler, r, d->accepted);
        ds_depth_adapt(&r->depth, e->speculator.most, d->n_draft, d->accepted);
    }
    return n;
}

static void put_back(ds_async_executor *e, ds_request_list *preempted) {
    pthread_mutex_lock(&e->lock);
    e->stats.preemptions += preempted->n;
    while (preempted->first) {
        ds_live_request *r = preempted->first;
        ds_request_list_remove(preempted, r);
        ds_request_list_insert(&e->waiting, r);
    }
    pthread_mutex_unlock(&e->lock);
}

static void record(ds_async_executor *e, const ds_step_batch *batch, gains g) {
    pthread_mutex_lock(&e->lock);
    ds_executor_stats *s = &e->stats;
    count_running(e);
    s->steps++;
    s->generated_tokens += g.made;
    s->proposed_tokens += g.proposed;
    s->accepted_tokens += g.accepted;
    s->tokens_in_last_step = batch->n_tokens;
    s->last_step_s = ds_clock_s();
    pthread_mutex_unlock(&e->lock);
}

static ds_status compute(ds_async_executor *e, ds_step_batch *batch, float **logits) {
    DS_TRY(ds_speculator_draft(&e->speculator, &e->scheduler));
    ds_scheduler_fill(&e->scheduler, batch);
    return batch->n_tokens > 0 ? ds_stepper_run(e->stepper, logits) : DS_OK;
}

/* Whoever hears that a request has ended finds it in the numbers. */
static void step(ds_async_executor *e) {
    ds_step_batch *batch = ds_stepper_batch(e->stepper);
    ds_request_list preempted = {0};
    float *logits = NULL;
    gains g = {0};
    ds_speculator_choose(&e->speculator, &e->scheduler);
    ds_scheduler_plan(&e->scheduler, &preempted);
    put_back(e, &preempted);
    if (compute(e, batch, &logits) != DS_OK) {
        record(e, batch, g);
        fail_running(e, ds_error());
        return;
    }
    ds_scheduler_advance(&e->scheduler);
    const int64_t n = take_tokens(e, logits, &g);
    record(e, batch, g);
    for (int64_t i = 0; i < n; i++)
        if (e->draws[i].request->finish != DS_FINISH_NONE)
            end_running(e, e->draws[i].request, e->draws[i].request->finish);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void end_cancelled(ds_async_executor *e) {
    ds_request_list gone = {0};
    pthread_mutex_lock(&e->lock);
    for (ds_live_request *r = e->waiting.first, *next; r; r = next) {
        next = r->next;
        if (r->cancelled || e->stopping) {
            ds_request_list_remove(&e->waiting, r);
            ds_request_list_insert(&gone, r);
        }
    }
    for (ds_live_request *r = e->scheduler.running.first, *next; r; r = next) {
        next = r->next;
        if (r->cancelled || e->stopping) {
            ds_scheduler_remove(&e->scheduler, r);
            ds_request_list_insert(&gone, r);
        }
    }
    pthread_mutex_unlock(&e->lock);
    while (gone.first) {
        ds_live_request *r = gone.first;
        ds_request_list_remove(&gone, r);
        end(e, r, DS_FINISH_CANCELLED);
    }
}

/* Whether requests of lower priority, the last ones, are to give their place; none does where that
 * would not be enough. */
static bool takes_place(const ds_async_executor *e, const ds_live_request *r) {
    const ds_scheduler *s = &e->scheduler;
    int64_t n_free = ds_block_pool_size(s->pool) - ds_block_pool_in_use(s->pool);
    const ds_live_request *q = s->running.last;
    for (; q && r->priority > q->priority && ds_request_goes_before(r, q); q = q->previous)
        n_free += q->n_blocks - q->n_behind;
    return q != s->running.last && (!q || ds_scheduler_blocks_for(s, r->n_tokens + 1) <= n_free);
}

static void begin(ds_async_executor *e, ds_live_request *r) {
    const bool is_new = r->n_tokens == r->n_prompt;
    ds_request_list_remove(&e->waiting, r);
    ds_scheduler_admit(&e->scheduler, r);
    if (!is_new)
        return;
    r->depth = ds_depth_first(e->speculator.most);
    e->stats.prompt_tokens += r->n_prompt;
}

static void admit(ds_async_executor *e) {
    pthread_mutex_lock(&e->lock);
    while (e->waiting.first) {
        ds_live_request *r = e->waiting.first;
        if (e->scheduler.running.n < e->max_batch && ds_scheduler_has_room(&e->scheduler, r)) {
            begin(e, r);
        } else if (takes_place(e, r)) {
            ds_live_request *last = e->scheduler.running.last;
            ds_scheduler_remove(&e->scheduler, last);
            ds_request_list_insert(&e->waiting, last);
            e->stats.preemptions++;
        } else {
            break;
        }
    }
    count_running(e);
    pthread_mutex_unlock(&e->lock);
}

static void *work(void *context) {
    ds_async_executor *e = context;
    for (;;) {
        pthread_mutex_lock(&e->lock);
        while (!e->stopping && e->waiting.n == 0 && e->scheduler.running.n == 0)
            pthread_cond_wait(&e->work, &e->lock);
        const bool stopping = e->stopping;
        pthread_mutex_unlock(&e->lock);
        end_cancelled(e);
        if (stopping)
            return NULL;
        if (e->lanes)
            ds_lanes_await(e->lanes, MOST_EVENTS);
        admit(e);
        if (e->scheduler.running.n > 0)
            step(e);
    }
}

/* ---- making one ------------------------------------------------------------------------------ */

static ds_dtype cache_dtype(ds_precision precision) {
    return precision == DS_PRECISION_BF16   ? DS_BF16
           : precision == DS_PRECISION_FP16 ? DS_F16
                                            : DS_F32;
}

/* How far back attention looks; a draft model's may look further. */
static int64_t window_of(const ds_model_config *c, const ds_model *draft) {
    if (!draft || c->sliding_window == 0)
        return c->sliding_window;
    const int64_t other = draft->config.sliding_window;
    return other == 0 || other > c->sliding_window ? other : c->sliding_window;
}

static ds_status size_cache(ds_async_executor *e, const ds_async_executor_opts *o,
                            ds_paged_cache *cache) {
    *cache = (ds_paged_cache){.block_size = BLOCK_SIZE,
                              .dtype = o->int8_cache ? DS_I8 : cache_dtype(o->precision)};
    size_t block = ds_model_block_bytes(&e->model->config, cache);
    if (o->speculate.draft)
        block += ds_model_block_bytes(&o->speculate.draft->config, cache);
    const int64_t of_one = ds_scheduler_blocks_for(&e->scheduler, e->longest);
    const int64_t wanted = e->max_batch * of_one;
    size_t bytes = o->cache_bytes;
    if (bytes == 0) {
        const size_t most = ds_backend_get_info(e->model->backend)->memory_size / 4;
        bytes = (size_t)wanted * block < most ? (size_t)wanted * block : most;
    }
    cache->n_blocks = (int64_t)(bytes / block) < wanted ? (int64_t)(bytes / block) : wanted;
    if (cache->n_blocks < 1 || cache->n_blocks > INT32_MAX / BLOCK_SIZE)
        return ds_fail(DS_INVALID,
                       "a cache of %zu bytes holds %lld blocks of %d tokens (%zu bytes each); one "
                       "to %d are possible",
                       bytes, (long long)cache->n_blocks, BLOCK_SIZE, block,
                       INT32_MAX / BLOCK_SIZE);
    if (cache->n_blocks < of_one)
        e->longest = cache->n_blocks * BLOCK_SIZE;
    e->stats.blocks = cache->n_blocks;
    e->stats.cache_bytes = (size_t)cache->n_blocks * block;
    return DS_OK;
}

static ds_status prepare_speculation(ds_async_executor *e, const ds_speculate_opts *o,
                                     ds_step_opts opts) {
    if (o->kind == DS_SPECULATE_NONE)
        return DS_OK;
    const int usual = o->kind == DS_SPECULATE_LOOKUP ? DEFAULT_LOOKUP : DEFAULT_DRAFT;
    e->speculator.most = o->n_tokens > 0 ? o->n_tokens : usual;
    if (o->kind == DS_SPECULATE_LOOKUP)
        return DS_OK;
    e->speculator.draft_vocab = o->draft->config.vocab_size;
    e->speculator.draft_longest = o->draft->config.max_seq_len;
    e->scheduler.drafted = ds_calloc((size_t)opts.cache.n_blocks, sizeof *e->scheduler.drafted);
    if (!e->scheduler.drafted)
        return DS_OUT_OF_MEMORY;
    return ds_stepper_new(o->draft, opts, &e->speculator.draft);
}

static ds_status prepare_lanes(ds_async_executor *e, int stream_count) {
    if (stream_count == 0) {
        const long cores = sysconf(_SC_NPROCESSORS_ONLN);
        stream_count = cores >= 1 && cores < DEFAULT_STREAMS ? (int)cores : DEFAULT_STREAMS;
    }
    return stream_count > 1 ? ds_lanes_new(stream_count - 1, &e->lanes) : DS_OK;
}

static ds_status prepare(ds_async_executor *e, const ds_async_executor_opts *o) {
    ds_scheduler *s = &e->scheduler;
    ds_paged_cache cache;
    s->block_size = BLOCK_SIZE;
    s->tokens_per_step = o->tokens_per_step > 0 ? o->tokens_per_step : DEFAULT_STEP;
    if (s->tokens_per_step < e->max_batch)
        s->tokens_per_step = e->max_batch;
    s->window = window_of(&e->model->config, o->speculate.draft);
    DS_TRY(size_cache(e, o, &cache));
    s->blocks_per_sequence = (e->longest + BLOCK_SIZE - 1) / BLOCK_SIZE;
    DS_TRY(ds_block_pool_new((int32_t)cache.n_blocks, BLOCK_SIZE, &s->pool));
    e->draws = ds_calloc((size_t)e->max_batch, sizeof *e->draws);
    if (!e->draws)
        return DS_OUT_OF_MEMORY;
    ds_step_opts opts = {.most_tokens = s->tokens_per_step,
                         .most_rows = e->max_batch,
                         .most_sequences = e->max_batch,
                         .blocks_per_sequence = s->blocks_per_sequence,
                         .cache = cache,
                         .precision = o->precision};
    DS_TRY(prepare_speculation(e, &o->speculate, opts));
    if (e->speculator.most > 0) /* a program's padding is filled with proposals */
        opts.most_rows = 2 * (opts.most_rows < DS_SPECULATION_ROWS / 2 ? DS_SPECULATION_ROWS / 2
                                                                       : opts.most_rows);
    DS_TRY(ds_stepper_new(e->model, opts, &e->stepper));
    return prepare_lanes(e, o->stream_count);
}

static ds_status check_opts(const ds_model *model, const ds_async_executor_opts *o) {
    const ds_speculate_opts *s = &o->speculate;
    if (o->max_batch_size < 0 || o->max_queue < 0 || o->tokens_per_step < 0 || o->max_seq_len < 0 ||
        o->stream_count < 0)
        return ds_fail(DS_INVALID,
                       "max_batch_size %d, stream_count %d, max_queue %d, tokens_per_step %lld "
                       "and max_seq_len %lld must not be below 0",
                       o->max_batch_size, o->stream_count, o->max_queue,
                       (long long)o->tokens_per_step, (long long)o->max_seq_len);
    if (s->n_tokens < 0 || s->n_tokens > DS_MOST_PROPOSALS)
        return ds_fail(DS_INVALID,
                       "%d tokens cannot be guessed at once: 1 to %d can (0: the usual)",
                       s->n_tokens, DS_MOST_PROPOSALS);
    if ((s->kind == DS_SPECULATE_DRAFT) != (s->draft != NULL))
        return ds_fail(DS_INVALID, "a draft model is for, and needs, DS_SPECULATE_DRAFT");
    if (s->draft && s->draft->config.vocab_size != model->config.vocab_size)
        return ds_fail(DS_INVALID,
                       "the draft model %s has a vocabulary of %lld tokens, the model %s one of "
                       "%lld: they must be the same",
                       s->draft->name, (long long)s->draft->config.vocab_size, model->name,
                       (long long)model->config.vocab_size);
    if (s->draft && s->draft->config.architecture == DS_BERT)
        return ds_fail(DS_INVALID, "the draft model %s is no decoder", s->draft->name);
    return DS_OK;
}

static void init_waiting(ds_async_executor *e) {
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    pthread_cond_init(&e->ended, &clock);
    pthread_condattr_destroy(&clock);
}

ds_status ds_async_executor_new(ds_model *model, ds_async_executor_opts o,
                                ds_async_executor **out) {
    DS_TRY(check_opts(model, &o));
    ds_async_executor *e = ds_calloc(1, sizeof *e);
    if (!e)
        return DS_OUT_OF_MEMORY;
    init_waiting(e);
    e->model = model;
    e->max_batch = o.max_batch_size > 0 ? o.max_batch_size : DEFAULT_BATCH;
    e->max_queue = o.max_queue > 0 ? o.max_queue : DEFAULT_QUEUE;
    e->longest = model->config.max_seq_len;
    if (o.max_seq_len > 0 && o.max_seq_len < e->longest)
        e->longest = o.max_seq_len;
    e->stats.last_step_s = ds_clock_s();
    ds_status status = prepare(e, &o);
    ds_backend_rest(model->backend);
    if (status == DS_OK) {
        e->has_thread = pthread_create(&e->thread, NULL, work, e) == 0;
        status = e->has_thread ? DS_OK : ds_fail(DS_OUT_OF_MEMORY, "no thread could be started");
    }
    if (status != DS_OK) {
        ds_async_executor_free(e);
        return status;
    }
    *out = e;
    return DS_OK;
}

void ds_async_executor_free(ds_async_executor *e) {
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->lock);
    if (e->has_thread)
        pthread_join(e->thread, NULL);
    ds_lanes_free(e->lanes);
    for (int i = 0; i < DS_REQUEST_CHAINS; i++)
        while (e->table.chains[i]) { /* answers that nobody waited for */
            ds_live_request *r = e->table.chains[i];
            ds_request_table_remove(&e->table, r);
            ds_live_request_free(r);
        }
    ds_stepper_free(e->speculator.draft);
    ds_stepper_free(e->stepper);
    free(e->scheduler.drafted);
    free(e->draws);
    ds_block_pool_free(e->scheduler.pool);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->ended);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* ---- calls ----------------------------------------------------------------------------------- */

int64_t ds_async_executor_longest(const ds_async_executor *e) {
    return e->longest;
}

static ds_status check_request(const ds_async_executor *e, const ds_request *q) {
    if (q->n_prompt < 1)
        return ds_fail(DS_INVALID, "the prompt is empty: give at least one token");
    if (q->n_prompt >= e->longest)
        return ds_fail(DS_INVALID,
                       "a prompt of %lld tokens leaves no room for an answer: prompt and answer "
                       "together may have %lld",
                       (long long)q->n_prompt, (long long)e->longest);
    for (int64_t i = 0; i < q->n_prompt; i++)
        if (q->prompt[i] < 0 || q->prompt[i] >= e->model->config.vocab_size)
            return ds_fail(DS_INVALID, "token %d is not in 0 … %lld", q->prompt[i],
                           (long long)e->model->config.vocab_size - 1);
    if (q->top_logprobs < 0 || q->top_logprobs > DS_MOST_TOP_LOGPROBS)
        return ds_fail(DS_INVALID, "top_logprobs %d is not in 0 … %d", q->top_logprobs,
                       DS_MOST_TOP_LOGPROBS);
    if (q->max_tokens < 0)
        return ds_fail(DS_INVALID, "max_tokens %lld is below 0", (long long)q->max_tokens);
    return DS_OK;
}

ds_status ds_async_executor_submit(ds_async_executor *e, const ds_request *q, uint64_t *id) {
    DS_TRY(check_request(e, q));
    int64_t longest = e->longest;
    if (q->max_tokens > 0 && q->max_tokens < longest - q->n_prompt)
        longest = q->n_prompt + q->max_tokens;
    ds_live_request *r = NULL;
    DS_TRY(ds_live_request_new(q, longest, BLOCK_SIZE, &r));
    pthread_mutex_lock(&e->lock);
    const bool is_full = e->waiting.n >= e->max_queue, is_ending = e->stopping;
    if (!is_full && !is_ending) {
        r->arrival = e->stats.steps;
        *id = r->id = ++e->last_id;
        ds_request_table_put(&e->table, r);
        ds_request_list_insert(&e->waiting, r);
        e->stats.submitted++;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    if (!is_full && !is_ending)
        return DS_OK;
    ds_live_request_free(r);
    if (is_ending)
        return ds_fail(DS_BUSY, "the executor is ending");
    return ds_fail(DS_BUSY, "%lld requests wait already", (long long)e->max_queue);
}

/* Under the lock. NULL: there is none, or its callback is told instead. */
static ds_live_request *find_silent(const ds_async_executor *e, uint64_t id) {
    ds_live_request *r = ds_request_table_get(&e->table, id);
    return r && !r->on_event ? r : NULL;
}

static ds_status unknown(uint64_t id) {
    return ds_fail(DS_NOT_FOUND, "there is no request %llu to ask about", (unsigned long long)id);
}

ds_status ds_async_executor_poll(ds_async_executor *e, uint64_t id, bool *done) {
    pthread_mutex_lock(&e->lock);
    const ds_live_request *r = find_silent(e, id);
    if (r)
        *done = r->ended;
    pthread_mutex_unlock(&e->lock);
    return r ? DS_OK : unknown(id);
}

static struct timespec after(double seconds) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const double whole = floor(seconds);
    t.tv_sec += (time_t)whole;
    t.tv_nsec += (long)((seconds - whole) * 1e9);
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

/* Hands the tokens over and forgets the request. */
static ds_status deliver(ds_async_executor *e, ds_live_request *r, ds_answer *out) {
    ds_request_table_remove(&e->table, r);
    *out = (ds_answer){.n_tokens = r->n_tokens - r->n_prompt,
                       .n_cached = r->n_cached,
                       .finish = r->finish,
                       .tokens = r->tokens};
    memcpy(out->error, r->error, sizeof out->error);
    memmove(r->tokens, r->tokens + r->n_prompt, (size_t)out->n_tokens * sizeof *r->tokens);
    r->tokens = NULL;
    ds_live_request_free(r);
    return DS_OK;
}

ds_status ds_async_executor_wait(ds_async_executor *e, uint64_t id, double timeout_s,
                                 ds_answer *out) {
    const double longest_s = 1e8; /* three years; more may not fit a time_t */
    const struct timespec until = after(timeout_s > longest_s ? longest_s
                                        : timeout_s > 0       ? timeout_s
                                                              : 0);
    ds_status status = DS_OK;
    int late = 0;
    pthread_mutex_lock(&e->lock);
    ds_live_request *r = find_silent(e, id);
    while (r && !r->ended && late != ETIMEDOUT) {
        late = timeout_s < 0 ? pthread_cond_wait(&e->ended, &e->lock)
                             : pthread_cond_timedwait(&e->ended, &e->lock, &until);
        r = find_silent(e, id); /* another thread may have taken it */
    }
    if (!r)
        status = unknown(id);
    else if (!r->ended)
        status = ds_fail(DS_TIMEOUT, "request %llu has not ended within %g s",
                         (unsigned long long)id, timeout_s);
    else
        status = deliver(e, r, out);
    pthread_mutex_unlock(&e->lock);
    return status;
}

ds_status ds_async_executor_cancel(ds_async_executor *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    ds_live_request *r = ds_request_table_get(&e->table, id);
    const bool lives = r && !r->ended;
    if (lives) {
        r->cancelled = true;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    return lives ? DS_OK
                 : ds_fail(DS_NOT_FOUND, "request %llu is not at work", (unsigned long long)id);
}

void ds_async_executor_stats(ds_async_executor *e, ds_executor_stats *out) {
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->n_waiting = e->waiting.n;
    pthread_mutex_unlock(&e->lock);
}
