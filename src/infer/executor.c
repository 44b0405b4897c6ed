/* The asynchronous executor: callers put requests into a queue, one thread takes them through the
 * model step by step and tells of each token. The lock guards the queue, the table of ids and the
 * numbers; what is running belongs to the thread. No callback is called under the lock. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "infer/scheduler.h"

enum { BLOCK_SIZE = 16, DEFAULT_BATCH = 32, DEFAULT_QUEUE = 1024, DEFAULT_STEP = 256 };

struct ds_async_executor {
    ds_model *model;
    int64_t max_batch, max_queue, longest; /* longest: tokens of a sequence */
    ds_stepper *stepper;
    ds_scheduler scheduler;
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
    e->stats.blocks_in_use = ds_block_pool_in_use(e->scheduler.pool);
    e->stats.blocks_cached = ds_block_pool_cached(e->scheduler.pool);
}

/* It is in no list any more. */
static void end(ds_async_executor *e, ds_live_request *r, ds_finish finish, const char *error) {
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
    if (!told)
        return; /* it waits to be asked for, and may be gone already */
    const ds_event event = {.request = r->id,
                            .token = -1,
                            .index = r->n_tokens - r->n_prompt,
                            .finish = finish,
                            .error = error};
    r->on_event(&event, r->context);
    ds_live_request_free(r);
}

static void end_running(ds_async_executor *e, ds_live_request *r, ds_finish finish,
                        const char *error) {
    ds_scheduler_remove(&e->scheduler, r);
    end(e, r, finish, error);
}

static void fail_running(ds_async_executor *e, const char *error) {
    while (e->scheduler.running.first)
        end_running(e, e->scheduler.running.first, DS_FINISH_ERROR, error);
}

/* ---- one step -------------------------------------------------------------------------------- */

static float logprob_of(const float *logits, int64_t n, int32_t token) {
    float most = logits[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)most);
    return (float)((double)logits[token] - (double)most - log(sum));
}

static bool are_numbers(const float *logits, int64_t n) {
    int found = 0;
#pragma omp simd reduction(| : found)
    for (int64_t i = 0; i < n; i++)
        found |= logits[i] != logits[i];
    return !found;
}

static bool is_stop(const ds_live_request *r, int32_t token) {
    for (size_t i = 0; i < r->n_stop_tokens; i++)
        if (r->stop_tokens[i] == token)
            return true;
    return false;
}

/* The token that follows; how the request goes on. */
static ds_finish take_token(ds_async_executor *e, ds_live_request *r, float *logits) {
    const int64_t vocab = e->model->config.vocab_size, n_answer = r->n_tokens - r->n_prompt;
    float *own = NULL; /* before penalties */
    if (r->logprobs && (own = ds_malloc((size_t)vocab * sizeof *own)))
        memcpy(own, logits, (size_t)vocab * sizeof *own);
    ds_sampling_penalise(logits, vocab, &r->sampling, r->tokens, r->n_prompt,
                         r->tokens + r->n_prompt, n_answer);
    const int32_t token = ds_sample(logits, vocab, r->sampling, r->n_tokens);
    const float logprob = own ? logprob_of(own, vocab, token) : 0;
    free(own);
    if (is_stop(r, token))
        return DS_FINISH_STOP;
    r->tokens[r->n_tokens++] = token;
    if (r->on_event) {
        const ds_event event = {
            .request = r->id, .token = token, .index = n_answer, .logprob = logprob};
        r->on_event(&event, r->context);
    }
    return r->n_tokens == r->longest ? DS_FINISH_LENGTH : DS_FINISH_NONE;
}

/* logits: one row for each request whose tokens are all computed, in order. Returns the tokens
 * made.
 */
static int64_t take_tokens(ds_async_executor *e, float *logits) {
    const int64_t vocab = e->model->config.vocab_size;
    int64_t made = 0;
    for (ds_live_request *r = e->scheduler.running.first, *next; r; r = next) {
        next = r->next;
        if (r->chunk == 0 || r->computed < r->n_tokens)
            continue;
        ds_finish finish = DS_FINISH_ERROR;
        if (are_numbers(logits, vocab))
            finish = take_token(e, r, logits);
        logits += vocab;
        made += finish == DS_FINISH_NONE || finish == DS_FINISH_LENGTH;
        if (finish != DS_FINISH_NONE)
            end_running(e, r, finish,
                        finish == DS_FINISH_ERROR ? "the logits are not numbers: the model's "
                                                    "parameters are damaged or it was trained to "
                                                    "infinity"
                                                  : NULL);
    }
    return made;
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

static void record(ds_async_executor *e, const ds_step_batch *batch, int64_t made) {
    pthread_mutex_lock(&e->lock);
    ds_executor_stats *s = &e->stats;
    count_running(e);
    s->steps++;
    s->generated_tokens += made;
    s->tokens_in_last_step = batch->n_tokens;
    s->last_step_s = ds_clock_s();
    pthread_mutex_unlock(&e->lock);
}

static void step(ds_async_executor *e) {
    ds_step_batch *batch = ds_stepper_batch(e->stepper);
    ds_request_list preempted = {0};
    float *logits = NULL;
    int64_t made = 0;
    ds_scheduler_plan(&e->scheduler, batch, &preempted);
    put_back(e, &preempted);
    if (batch->n_tokens > 0) {
        if (ds_stepper_run(e->stepper, &logits) == DS_OK) {
            ds_scheduler_advance(&e->scheduler);
            made = take_tokens(e, logits);
        } else {
            char error[512];
            snprintf(error, sizeof error, "%s", ds_error());
            fail_running(e, error);
        }
    }
    record(e, batch, made);
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
        end(e, r, DS_FINISH_CANCELLED, NULL);
    }
}

static void admit(ds_async_executor *e) {
    pthread_mutex_lock(&e->lock);
    while (e->waiting.first && e->scheduler.running.n < e->max_batch &&
           ds_scheduler_has_room(&e->scheduler, e->waiting.first)) {
        ds_live_request *r = e->waiting.first;
        const bool is_new = r->n_tokens == r->n_prompt;
        ds_request_list_remove(&e->waiting, r);
        ds_scheduler_admit(&e->scheduler, r);
        if (is_new) {
            e->stats.prompt_tokens += r->n_prompt;
            e->stats.cached_tokens += r->n_cached;
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

static ds_status size_cache(ds_async_executor *e, const ds_async_executor_opts *o,
                            ds_paged_cache *cache) {
    *cache = (ds_paged_cache){.block_size = BLOCK_SIZE, .dtype = cache_dtype(o->precision)};
    const size_t block = ds_model_block_bytes(&e->model->config, cache);
    const int64_t wanted = e->max_batch * ((e->longest + BLOCK_SIZE - 1) / BLOCK_SIZE);
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
    if (cache->n_blocks * BLOCK_SIZE < e->longest)
        e->longest = cache->n_blocks * BLOCK_SIZE;
    e->stats.blocks = cache->n_blocks;
    e->stats.cache_bytes = (size_t)cache->n_blocks * block;
    return DS_OK;
}

static ds_status prepare(ds_async_executor *e, const ds_async_executor_opts *o) {
    ds_paged_cache cache;
    DS_TRY(size_cache(e, o, &cache));
    int64_t most_tokens = o->tokens_per_step > 0 ? o->tokens_per_step : DEFAULT_STEP;
    most_tokens = most_tokens < e->max_batch ? e->max_batch : most_tokens;
    const int64_t blocks = (e->longest + BLOCK_SIZE - 1) / BLOCK_SIZE;
    e->scheduler = (ds_scheduler){
        .block_size = BLOCK_SIZE, .tokens_per_step = most_tokens, .blocks_per_sequence = blocks};
    DS_TRY(ds_block_pool_new((int32_t)cache.n_blocks, BLOCK_SIZE, &e->scheduler.pool));
    return ds_stepper_new(e->model,
                          (ds_step_opts){.most_tokens = most_tokens,
                                         .most_sequences = e->max_batch,
                                         .blocks_per_sequence = blocks,
                                         .cache = cache,
                                         .precision = o->precision},
                          &e->stepper);
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
    if (o.max_batch_size < 0 || o.max_queue < 0 || o.tokens_per_step < 0 || o.max_seq_len < 0)
        return ds_fail(DS_INVALID,
                       "max_batch_size %d, max_queue %d, tokens_per_step %lld and "
                       "max_seq_len %lld must not be below 0",
                       o.max_batch_size, o.max_queue, (long long)o.tokens_per_step,
                       (long long)o.max_seq_len);
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
    for (int i = 0; i < DS_REQUEST_CHAINS; i++)
        while (e->table.chains[i]) { /* answers that nobody waited for */
            ds_live_request *r = e->table.chains[i];
            ds_request_table_remove(&e->table, r);
            ds_live_request_free(r);
        }
    ds_stepper_free(e->stepper);
    ds_block_pool_free(e->scheduler.pool);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->ended);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* ---- calls ----------------------------------------------------------------------------------- */

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
    const bool is_full = e->waiting.n >= e->max_queue;
    if (!is_full) {
        *id = r->id = ++e->last_id;
        ds_request_table_put(&e->table, r);
        ds_request_list_insert(&e->waiting, r);
        e->stats.submitted++;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    if (!is_full)
        return DS_OK;
    ds_live_request_free(r);
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
