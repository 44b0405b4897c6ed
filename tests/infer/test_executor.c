/* The asynchronous executor against generation of one sequence at a time, for every family of
 * decoders; short caches, shared beginnings, cancelling, limits, and many threads at once. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "support/small_model.h"

enum { LONGEST = 20, N_REQUESTS = 9 };

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static ds_model *open_model(const char *family) {
    char path[512];
    ds_model *m = NULL;
    snprintf(path, sizeof path, "%s/goldens/%s", DS_TEST_DATA, family);
    require(ds_model_from_pretrained(path, (ds_model_opts){.n_threads = 2}, &m));
    return m;
}

static int64_t prompt_of(const ds_model *m, int i, int32_t *out) {
    const int64_t n = 1 + i * 2;
    for (int64_t t = 0; t < n; t++)
        out[t] = (int32_t)(ds_philox((uint64_t)(i % 3), (uint64_t)t, 0).word[0] %
                           (uint32_t)ds_model_get_config(m)->vocab_size);
    return n;
}

static int64_t generate(ds_model *m, const int32_t *prompt, int64_t n, int64_t most,
                        ds_sampling sampling, int32_t *out) {
    ds_generator *g = NULL;
    int64_t made = 0;
    require(ds_generator_new(ds_model_get_state(m), ds_model_get_config(m), LONGEST,
                             DS_PRECISION_FULL, &g));
    require(ds_generator_feed(g, prompt, n));
    while (made < most && n + made < LONGEST && ds_generator_next(g, sampling, &out[made]) == DS_OK)
        made++;
    ds_generator_free(g);
    return made;
}

/* All requests at once; each answer is what it is alone. */
static void check_answers(const char *family, ds_async_executor_opts opts, ds_sampling sampling,
                          ds_executor_stats *stats) {
    ds_model *m = open_model(family);
    ds_async_executor *e = NULL;
    uint64_t ids[N_REQUESTS];
    int32_t prompt[LONGEST];
    opts.max_seq_len = LONGEST;
    require(ds_async_executor_new(m, opts, &e));
    for (int i = 0; i < N_REQUESTS; i++) {
        const ds_request q = {.prompt = prompt,
                              .n_prompt = prompt_of(m, i, prompt),
                              .max_tokens = 12,
                              .sampling = sampling};
        require(ds_async_executor_submit(e, &q, &ids[i]));
    }
    ds_answer answers[N_REQUESTS];
    for (int i = 0; i < N_REQUESTS; i++)
        require(ds_async_executor_wait(e, ids[i], 60, &answers[i]));
    ds_async_executor_stats(e, stats);
    ds_async_executor_free(e);
    for (int i = 0; i < N_REQUESTS; i++) {
        int32_t alone[LONGEST];
        const int64_t n = prompt_of(m, i, prompt);
        const int64_t made = generate(m, prompt, n, 12, sampling, alone);
        assert_int_equal(answers[i].finish, DS_FINISH_LENGTH);
        assert_int_equal(answers[i].n_tokens, made);
        for (int64_t t = 0; t < made; t++)
            if (answers[i].tokens[t] != alone[t])
                fail_msg("%s: token %lld of answer %d is %d, alone it is %d", family, (long long)t,
                         i, answers[i].tokens[t], alone[t]);
        free(answers[i].tokens);
    }
    ds_model_free(m);
}

static void answers_are_as_alone(void **unused) {
    (void)unused;
    static const char *const families[] = {"gpt2",      "llama",       "llama3",     "mixtral",
                                           "mistral",   "qwen2",       "qwen2_moe",  "qwen3",
                                           "qwen3_moe", "deepseek_v2", "deepseek_v3"};
    ds_executor_stats s;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        check_answers(families[i], (ds_async_executor_opts){.max_batch_size = 4}, (ds_sampling){0},
                      &s);
    assert_true(s.finished == N_REQUESTS && s.failed == 0 && s.n_running == 0);
    assert_int_equal(s.blocks_in_use, 0);
}

static void drawn_answers_are_as_alone(void **unused) {
    (void)unused;
    ds_executor_stats s;
    const ds_sampling sampling = {.temperature = 0.9f, .top_k = 20, .top_p = 0.95f, .seed = 7};
    check_answers("llama", (ds_async_executor_opts){.tokens_per_step = 5, .max_batch_size = 5},
                  sampling, &s);
    assert_true(s.steps > 20); /* prompts went in chunks */
}

/* Three blocks for requests of up to two: some must begin anew, all end well. */
static void short_caches_only_take_longer(void **unused) {
    (void)unused;
    ds_model *m = open_model("llama");
    const ds_paged_cache block = {.block_size = 16, .dtype = DS_F32};
    const size_t bytes = ds_model_block_bytes(ds_model_get_config(m), &block);
    ds_model_free(m);
    ds_executor_stats s;
    check_answers("llama", (ds_async_executor_opts){.cache_bytes = 3 * bytes + 5}, (ds_sampling){0},
                  &s);
    assert_int_equal(s.blocks, 3);
    assert_true(s.preemptions > 0);
    assert_true(s.cache_bytes <= 3 * bytes + 5);
}

static void the_longest_text_is_what_fits(void **unused) {
    (void)unused;
    ds_model *m = open_model("llama");
    const ds_paged_cache block = {.block_size = 16, .dtype = DS_F32};
    const size_t bytes = ds_model_block_bytes(ds_model_get_config(m), &block);
    const int64_t most = ds_model_get_config(m)->max_seq_len;
    const struct {
        ds_async_executor_opts opts;
        int64_t longest;
    } cases[] = {{{0}, most}, {{.max_seq_len = 9}, 9}, {{.cache_bytes = bytes}, 16}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_async_executor *e = NULL;
        require(ds_async_executor_new(m, cases[i].opts, &e));
        assert_int_equal(ds_async_executor_longest(e), cases[i].longest);
        ds_async_executor_free(e);
    }
    ds_model_free(m);
}

static void beginnings_are_shared(void **unused) {
    (void)unused;
    ds_model *m = open_model("llama");
    ds_async_executor *e = NULL;
    int32_t prompt[18], first[4];
    for (int i = 0; i < 18; i++)
        prompt[i] = i * 3 % 61;
    require(ds_async_executor_new(m, (ds_async_executor_opts){.max_seq_len = 24}, &e));
    for (int round = 0; round < 3; round++) {
        uint64_t id;
        ds_answer a;
        prompt[17] = round == 2 ? 5 : 51; /* the last time another end */
        const ds_request q = {.prompt = prompt, .n_prompt = 18, .max_tokens = 4};
        require(ds_async_executor_submit(e, &q, &id));
        require(ds_async_executor_wait(e, id, -1, &a));
        assert_int_equal(a.n_cached, round == 0 ? 0 : 16);
        if (round == 0)
            memcpy(first, a.tokens, sizeof first);
        if (round == 1)
            assert_memory_equal(first, a.tokens, sizeof first);
        free(a.tokens);
    }
    ds_executor_stats s;
    ds_async_executor_stats(e, &s);
    assert_true(s.cached_tokens == 32 && s.prompt_tokens == 54 && s.blocks_cached >= 1);
    ds_async_executor_free(e);
    ds_model_free(m);
}

static void bad_requests_are_refused(void **unused) {
    (void)unused;
    ds_model *m = open_model("llama");
    ds_async_executor *e = NULL;
    uint64_t id = 0;
    bool done;
    ds_answer a;
    static int32_t tokens[64];
    const ds_async_executor_opts none = {.cache_bytes = 10}, below = {.max_batch_size = -1};
    assert_int_equal(ds_async_executor_new(m, none, &e), DS_INVALID);
    assert_int_equal(ds_async_executor_new(m, below, &e), DS_INVALID);
    require(ds_async_executor_new(m, (ds_async_executor_opts){0}, &e));
    const ds_request empty = {.prompt = tokens}, full = {.prompt = tokens, .n_prompt = 24};
    assert_int_equal(ds_async_executor_submit(e, &empty, &id), DS_INVALID);
    assert_int_equal(ds_async_executor_submit(e, &full, &id), DS_INVALID);
    assert_non_null(strstr(ds_error(), "may have 24"));
    const ds_request many = {.prompt = tokens, .n_prompt = 2, .top_logprobs = 21};
    assert_int_equal(ds_async_executor_submit(e, &many, &id), DS_INVALID);
    assert_non_null(strstr(ds_error(), "top_logprobs 21"));
    tokens[1] = 61;
    assert_int_equal(
        ds_async_executor_submit(e, &(ds_request){.prompt = tokens, .n_prompt = 2}, &id),
        DS_INVALID);
    assert_int_equal(ds_async_executor_wait(e, 77, 0, &a), DS_NOT_FOUND);
    assert_int_equal(ds_async_executor_poll(e, 77, &done), DS_NOT_FOUND);
    assert_int_equal(ds_async_executor_cancel(e, 77), DS_NOT_FOUND);
    ds_async_executor_free(e);
    ds_model_free(m);
    assert_int_equal(ds_model_from_pretrained("/nowhere", (ds_model_opts){0}, &m), DS_NOT_FOUND);
    setenv("DEEPSEEK_MODELS", "/tmp/a:/tmp/b", 1);
    assert_int_equal(ds_model_from_pretrained("deepseek-175b", (ds_model_opts){0}, &m),
                     DS_NOT_FOUND);
    assert_non_null(strstr(ds_error(), "/tmp/b"));
}

/* ---- events, stop tokens, cancelling --------------------------------------------------------- */

typedef struct diary {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int n_tokens, n_ends;
    ds_finish finish;
    int32_t tokens[64];
    bool ordered, logprobs_are_negative, top_is_the_greedy_one;
} diary;

/* Drawn greedily the token is the likeliest one, and the others follow in order. */
static bool is_top(const ds_event *event) {
    bool good = event->n_top == 3 && event->top[0].token == event->token &&
                event->top[0].logprob == event->logprob;
    for (int i = 1; i < event->n_top; i++)
        good = good && event->top[i].logprob <= event->top[i - 1].logprob;
    return good;
}

static void note(const ds_event *event, void *context) {
    diary *l = context;
    pthread_mutex_lock(&l->lock);
    if (event->finish == DS_FINISH_NONE) {
        l->ordered = l->ordered && event->index == l->n_tokens && l->n_ends == 0;
        l->logprobs_are_negative = l->logprobs_are_negative && event->logprob < 0;
        l->top_is_the_greedy_one = l->top_is_the_greedy_one && is_top(event);
        l->tokens[l->n_tokens++ % 64] = event->token;
    } else {
        l->finish = event->finish;
        l->n_ends++;
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static diary *new_diary(void) {
    diary *l = calloc(1, sizeof *l);
    assert_non_null(l);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    l->ordered = l->logprobs_are_negative = l->top_is_the_greedy_one = true;
    return l;
}

static void await_end(diary *l) {
    pthread_mutex_lock(&l->lock);
    while (l->n_ends == 0)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static void events_come_in_order(void **unused) {
    (void)unused;
    ds_model *m = open_model("gpt2");
    ds_async_executor *e = NULL;
    diary *l = new_diary(), *stopped = new_diary();
    uint64_t id;
    const int32_t prompt[] = {3, 1, 4};
    require(ds_async_executor_new(m, (ds_async_executor_opts){0}, &e));
    ds_request q = {.prompt = prompt,
                    .n_prompt = 3,
                    .max_tokens = 9,
                    .logprobs = true,
                    .top_logprobs = 3,
                    .on_event = note,
                    .context = l};
    require(ds_async_executor_submit(e, &q, &id));
    await_end(l);
    assert_true(l->ordered && l->logprobs_are_negative && l->top_is_the_greedy_one);
    assert_int_equal(l->n_tokens, 9);
    assert_int_equal(l->finish, DS_FINISH_LENGTH);
    q.stop_tokens = &l->tokens[4]; /* where it comes first */
    q.n_stop_tokens = 1;
    q.context = stopped;
    require(ds_async_executor_submit(e, &q, &id));
    await_end(stopped);
    int expected = 0;
    while (l->tokens[expected] != l->tokens[4])
        expected++;
    assert_int_equal(stopped->n_tokens, expected);
    assert_int_equal(stopped->finish, DS_FINISH_STOP);
    ds_async_executor_free(e);
    ds_model_free(m);
    free(l);
    free(stopped);
}

static void cancelled_requests_end(void **unused) {
    (void)unused;
    ds_model *m = open_model("gpt2");
    ds_async_executor *e = NULL;
    uint64_t ids[40];
    int n_full = 0, n_in = 0;
    const int32_t prompt[] = {3, 1, 4};
    require(ds_async_executor_new(m, (ds_async_executor_opts){.max_batch_size = 1, .max_queue = 5},
                                  &e));
    for (int i = 0; i < 40; i++) {
        const ds_request q = {.prompt = prompt, .n_prompt = 3, .priority = i};
        const ds_status status = ds_async_executor_submit(e, &q, &ids[n_in]);
        n_full += status == DS_BUSY;
        n_in += status == DS_OK;
    }
    assert_true(n_full > 0);
    ds_answer a;
    int n_cancelled = 0;
    for (int i = 0; i < n_in; i++)
        n_cancelled += ds_async_executor_cancel(e, ids[i]) == DS_OK;
    assert_true(n_cancelled > 0);
    for (int i = 0; i < n_in; i++) {
        require(ds_async_executor_wait(e, ids[i], 60, &a));
        assert_true(a.finish == DS_FINISH_CANCELLED || a.finish == DS_FINISH_LENGTH);
        free(a.tokens);
    }
    ds_executor_stats s;
    ds_async_executor_stats(e, &s);
    assert_true(s.cancelled + s.finished == n_in && s.n_waiting == 0);
    /* freeing with work at hand ends it */
    diary *l = new_diary();
    const ds_request q = {.prompt = prompt, .n_prompt = 3, .on_event = note, .context = l};
    require(ds_async_executor_submit(e, &q, &ids[0]));
    ds_async_executor_free(e);
    assert_int_equal(l->n_ends, 1);
    free(l);
    ds_model_free(m);
}

/* ---- hooks ----------------------------------------------------------------------------------- */

typedef struct rules {
    int n_calls, n_events, n_wrong_tops;
    int64_t last_answer;
    int32_t told[32];
    bool agrees, forbid_all;
    ds_finish finish;
    atomic_bool ended;
} rules;

/* Only the token after the last one, modulo 7, is allowed. */
static void allow_one(float *logits, int64_t n, const int32_t *answer, int64_t n_answer,
                      void *context) {
    rules *l = context;
    const int32_t allowed = n_answer > 0 ? (answer[n_answer - 1] + 1) % 7 : 3;
    l->agrees = l->agrees && n_answer == l->n_calls;
    l->n_calls++;
    for (int64_t i = 0; i < n; i++)
        if (i != allowed || l->forbid_all)
            logits[i] = -INFINITY;
}

static void check_tops(const ds_event *event, void *context) {
    rules *l = context;
    if (event->finish != DS_FINISH_NONE) {
        l->finish = event->finish;
        atomic_store(&l->ended, true);
        return;
    }
    l->told[l->n_events++ % 32] = event->token;
    l->n_wrong_tops += event->n_top != 5;
    for (int i = 0; i < event->n_top; i++) {
        l->n_wrong_tops += i > 0 && event->top[i].logprob > event->top[i - 1].logprob;
        l->n_wrong_tops +=
            event->top[i].token == event->token && event->top[i].logprob != event->logprob;
        l->n_wrong_tops += event->logprob > event->top[0].logprob;
    }
}

static void run_rules(ds_async_executor *e, rules *l) {
    const int32_t prompt[] = {3, 1, 4};
    uint64_t id;
    const ds_request q = {.prompt = prompt,
                          .n_prompt = 3,
                          .max_tokens = 9,
                          .logprobs = true,
                          .top_logprobs = 5,
                          .on_logits = allow_one,
                          .on_event = check_tops,
                          .context = l};
    l->agrees = true;
    require(ds_async_executor_submit(e, &q, &id));
    while (!atomic_load(&l->ended))
        sched_yield();
}

static void hooks_decide_what_is_drawn(void **unused) {
    (void)unused;
    ds_model *m = open_model("llama");
    ds_async_executor *e = NULL;
    uint64_t id;
    rules l = {0}, none = {.forbid_all = true};
    require(ds_async_executor_new(m, (ds_async_executor_opts){0}, &e));
    run_rules(e, &l);
    assert_true(l.agrees);
    assert_int_equal(l.finish, DS_FINISH_LENGTH);
    assert_int_equal(l.n_calls, 9);
    assert_int_equal(l.n_events, 9);
    assert_int_equal(l.n_wrong_tops, 0);
    for (int i = 0; i < 9; i++)
        assert_int_equal(l.told[i], (3 + i) % 7);
    run_rules(e, &none);
    assert_int_equal(none.finish, DS_FINISH_ERROR);
    assert_int_equal(none.n_events, 0);
    const int32_t prompt[] = {1};
    const ds_request many = {.prompt = prompt, .n_prompt = 1, .top_logprobs = 21};
    assert_int_equal(ds_async_executor_submit(e, &many, &id), DS_INVALID);
    ds_async_executor_free(e);
    ds_model_free(m);
}

/* ---- many threads ---------------------------------------------------------------------------- */

enum { THREADS = 8, EACH = 1250 };

typedef struct crowd {
    ds_async_executor *executor;
    int number;
    int64_t n_answers, n_cancelled, n_wrong;
    atomic_int n_told;         /* ends that callbacks told of */
    atomic_int ends[EACH];     /* by request */
    int64_t tokens_told[EACH]; /* calls of one request come one after the other */
} crowd;

typedef struct told {
    crowd *crowd;
    int i;
} told;

static void count_told(const ds_event *event, void *context) {
    told *t = context;
    crowd *c = t->crowd;
    if (event->finish == DS_FINISH_NONE) {
        c->tokens_told[t->i]++;
        return;
    }
    /* an end that comes twice, or too early */
    const bool right = event->finish == DS_FINISH_CANCELLED || c->tokens_told[t->i] == 2;
    atomic_fetch_add(&c->ends[t->i], right ? 1 : 100);
    atomic_fetch_add(&c->n_told, 1);
    free(t);
}

static void submit_until_taken(crowd *c, const ds_request *q, uint64_t *id) {
    while (ds_async_executor_submit(c->executor, q, id) == DS_BUSY)
        sched_yield();
}

static void *ask(void *context) {
    crowd *c = context;
    int n_told = 0;
    for (int i = 0; i < EACH; i++) {
        const int32_t prompt[] = {(int32_t)(c->number % 61), (int32_t)(i % 61)};
        ds_request q = {.prompt = prompt, .n_prompt = 2, .max_tokens = 2};
        uint64_t id;
        ds_answer a;
        if (i % 2) {
            told *t = malloc(sizeof *t);
            *t = (told){c, i};
            q.on_event = count_told;
            q.context = t;
            n_told++;
        }
        submit_until_taken(c, &q, &id);
        if (i % 5 == 0)
            c->n_cancelled += ds_async_executor_cancel(c->executor, id) == DS_OK;
        if (q.on_event)
            continue;
        if (ds_async_executor_wait(c->executor, id, 120, &a) != DS_OK) {
            c->n_wrong++;
            continue;
        }
        c->n_answers++;
        c->n_wrong += a.finish != DS_FINISH_CANCELLED && a.n_tokens != 2;
        c->n_wrong += ds_async_executor_wait(c->executor, id, 0, &a) != DS_NOT_FOUND;
        free(a.tokens);
    }
    while (atomic_load(&c->n_told) < n_told)
        sched_yield();
    for (int i = 1; i < EACH; i += 2)
        c->n_wrong += atomic_load(&c->ends[i]) != 1;
    c->n_answers += n_told;
    return NULL;
}

static void ask_all(ds_model *m, int stream_count) {
    ds_async_executor *e = NULL;
    static crowd crowds[THREADS];
    pthread_t threads[THREADS];
    memset(crowds, 0, sizeof crowds);
    require(ds_async_executor_new(
        m, (ds_async_executor_opts){.max_queue = 6, .stream_count = stream_count}, &e));
    for (int i = 0; i < THREADS; i++) {
        crowds[i].executor = e;
        crowds[i].number = i;
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &crowds[i]), 0);
    }
    int64_t answers = 0, wrong = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        answers += crowds[i].n_answers;
        wrong += crowds[i].n_wrong;
    }
    ds_executor_stats s;
    ds_async_executor_stats(e, &s);
    assert_int_equal(wrong, 0);
    assert_int_equal(answers, THREADS * EACH);
    assert_int_equal(s.submitted, THREADS * EACH);
    assert_int_equal(s.finished + s.cancelled, THREADS * EACH);
    ds_async_executor_free(e);
}

static void none_is_lost_and_none_comes_twice(void **unused) {
    (void)unused;
    ds_model *m = open_model("llama");
    ask_all(m, 1);
    ask_all(m, 2);
    ask_all(m, 4);
    ds_model_free(m);
}

/* A vocabulary that is large enough for lanes to share the draws. */
static void lanes_draw_the_same(void **unused) {
    (void)unused;
    enum { N = 20 };
    ds_model *m = NULL;
    ds_answer answers[2][N];
    if (access(DS_ASSETS "/tinystories656k", F_OK) != 0)
        skip();
    require(ds_model_from_pretrained(DS_ASSETS "/tinystories656k", (ds_model_opts){.n_threads = 2},
                                     &m));
    for (int way = 0; way < 2; way++) {
        ds_async_executor *e = NULL;
        uint64_t ids[N];
        require(ds_async_executor_new(
            m, (ds_async_executor_opts){.stream_count = way ? 4 : 1, .max_seq_len = 128}, &e));
        for (int i = 0; i < N; i++) {
            const int32_t prompt[] = {1, 300 + i};
            const ds_request q = {.prompt = prompt,
                                  .n_prompt = 2,
                                  .max_tokens = 20,
                                  .sampling = {.temperature = 1, .seed = (uint64_t)i}};
            require(ds_async_executor_submit(e, &q, &ids[i]));
        }
        for (int i = 0; i < N; i++)
            require(ds_async_executor_wait(e, ids[i], 120, &answers[way][i]));
        ds_async_executor_free(e);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(answers[0][i].n_tokens, answers[1][i].n_tokens);
        assert_memory_equal(answers[0][i].tokens, answers[1][i].tokens,
                            (size_t)answers[0][i].n_tokens * sizeof(int32_t));
        free(answers[0][i].tokens);
        free(answers[1][i].tokens);
    }
    ds_model_free(m);
}

/* ---- conversations and priorities ------------------------------------------------------------ */

/* The second turn finds the first one's answer in the cache, but for what does not fill a block. */
static void later_turns_compute_what_is_new(void **unused) {
    (void)unused;
    enum { FIRST = 20, ANSWER = 30, MORE = 5 };
    ds_model *m = small_model_open("llama", 100, 0);
    ds_async_executor *e = NULL;
    int32_t text[FIRST + ANSWER + MORE];
    uint64_t id;
    ds_answer a;
    for (int i = 0; i < FIRST; i++)
        text[i] = i * 7 % 61;
    require(ds_async_executor_new(m, (ds_async_executor_opts){0}, &e));
    ds_request q = {.prompt = text, .n_prompt = FIRST, .max_tokens = ANSWER};
    require(ds_async_executor_submit(e, &q, &id));
    require(ds_async_executor_wait(e, id, 60, &a));
    assert_int_equal(a.n_tokens, ANSWER);
    memcpy(text + FIRST, a.tokens, sizeof(int32_t) * ANSWER);
    free(a.tokens);
    for (int i = 0; i < MORE; i++)
        text[FIRST + ANSWER + i] = i;
    q = (ds_request){.prompt = text, .n_prompt = FIRST + ANSWER + MORE, .max_tokens = 3};
    require(ds_async_executor_submit(e, &q, &id));
    require(ds_async_executor_wait(e, id, 60, &a));
    assert_int_equal(a.n_cached, (FIRST + ANSWER - 1) / 16 * 16);
    ds_async_executor_free(e);
    static lone_answer alone;
    answer_alone(m, &q, 100, &alone);
    assert_memory_equal(a.tokens, alone.tokens, sizeof(int32_t) * 3);
    free(a.tokens);
    ds_model_free(m);
}

/* ---- prompts that arrive together ------------------------------------------------------------ */

enum { ALIKE = 6, COMMON = 40, ALIKE_ANSWER = 4, ALIKE_LONGEST = 100 };

/* The i-th: like the others but for its end, which is of i + 1 tokens. */
static ds_request alike_request(int i, int32_t prompt[COMMON + ALIKE]) {
    for (int t = 0; t < COMMON + i + 1; t++)
        prompt[t] = t < COMMON ? t * 5 % 61 : (i + t) % 61;
    return (ds_request){.prompt = prompt, .n_prompt = COMMON + i + 1, .max_tokens = ALIKE_ANSWER};
}

static void check_alike(ds_model *m, int i, const ds_answer *a) {
    static lone_answer alone;
    int32_t prompt[COMMON + ALIKE];
    const ds_request q = alike_request(i, prompt);
    answer_alone(m, &q, ALIKE_LONGEST, &alone);
    assert_int_equal(a->finish, DS_FINISH_LENGTH);
    assert_int_equal(a->n_tokens, ALIKE_ANSWER);
    assert_memory_equal(a->tokens, alone.tokens, sizeof(int32_t) * ALIKE_ANSWER);
}

/* All at once, and the first one cancelled if told so. blocks: of the cache; 0: enough. Returns how
 * many tokens of prompts were found. */
static int64_t answer_alike(int64_t tokens_per_step, size_t blocks, bool cancel) {
    ds_model *m = small_model_open("llama", ALIKE_LONGEST, 0);
    ds_async_executor *e = NULL;
    uint64_t ids[ALIKE];
    ds_executor_stats s;
    const ds_paged_cache block = {.block_size = 16, .dtype = DS_F32};
    const ds_async_executor_opts opts = {
        .max_batch_size = ALIKE,
        .tokens_per_step = tokens_per_step,
        .cache_bytes = blocks * ds_model_block_bytes(ds_model_get_config(m), &block)};
    int64_t n_cached = 0;
    require(ds_async_executor_new(m, opts, &e));
    for (int i = 0; i < ALIKE; i++) {
        int32_t prompt[COMMON + ALIKE];
        const ds_request q = alike_request(i, prompt);
        require(ds_async_executor_submit(e, &q, &ids[i]));
    }
    if (cancel)
        ds_async_executor_cancel(e, ids[0]);
    ds_answer answers[ALIKE];
    for (int i = 0; i < ALIKE; i++) {
        require(ds_async_executor_wait(e, ids[i], 60, &answers[i]));
        n_cached += answers[i].n_cached;
    }
    ds_async_executor_stats(e, &s);
    assert_int_equal(s.blocks_in_use, 0);
    assert_true(s.preemptions > 0 || s.cached_tokens == n_cached);
    ds_async_executor_free(e);
    for (int i = 0; i < ALIKE; i++) {
        if (answers[i].finish != DS_FINISH_CANCELLED || i > 0 || !cancel)
            check_alike(m, i, &answers[i]);
        free(answers[i].tokens);
    }
    ds_model_free(m);
    return n_cached;
}

static void prompts_that_arrive_together_are_computed_once(void **unused) {
    (void)unused;
    const int64_t most = (ALIKE - 1) * (COMMON / 16 * 16);
    assert_int_equal(answer_alike(7, 0, false), most); /* less than a block a step */
    assert_int_equal(answer_alike(40, 0, false), most);
    assert_int_equal(answer_alike(256, 0, false), most);
    answer_alike(7, 0, true);
    answer_alike(7, 5, false);
    answer_alike(7, 5, true);
}

/* One place, held by a long answer that nobody hurries for. */
static void urgent_requests_take_the_place(void **unused) {
    (void)unused;
    ds_model *m = small_model_open("llama", 2000, 0);
    ds_async_executor *e = NULL;
    uint64_t slow, urgent;
    ds_answer a;
    bool done = true;
    ds_executor_stats s;
    const int32_t prompt[] = {5, 6};
    require(ds_async_executor_new(m, (ds_async_executor_opts){.max_batch_size = 1}, &e));
    ds_request q = {.prompt = prompt, .n_prompt = 2, .max_tokens = 1900};
    require(ds_async_executor_submit(e, &q, &slow));
    do
        ds_async_executor_stats(e, &s);
    while (s.generated_tokens < 3);
    q.max_tokens = 2;
    q.priority = 1;
    require(ds_async_executor_submit(e, &q, &urgent));
    require(ds_async_executor_wait(e, urgent, 60, &a));
    assert_int_equal(a.n_tokens, 2);
    free(a.tokens);
    require(ds_async_executor_poll(e, slow, &done));
    assert_false(done);
    require(ds_async_executor_wait(e, slow, 120, &a));
    assert_int_equal(a.n_tokens, 1900); /* as if nothing had been */
    free(a.tokens);
    ds_async_executor_stats(e, &s);
    assert_int_equal(s.preemptions, 1);
    ds_async_executor_free(e);
    ds_model_free(m);
}

/* With keys and values of 8 bits: blocks of 8 + 4 bytes in place of 32 for heads of 8 numbers, and
 * the first token of an answer, which all of the prompt's keys have a part in, hardly ever another.
 */
static void a_cache_of_bytes_answers_alike(void **unused) {
    (void)unused;
    size_t block_bytes[2];
    int32_t first[2][N_REQUESTS];
    for (int kind = 0; kind < 2; kind++) {
        ds_model *m = open_model("llama"); /* the cache is its state's */
        ds_async_executor *e = NULL;
        ds_executor_stats stats;
        int32_t prompt[LONGEST];
        const ds_async_executor_opts opts = {.max_seq_len = LONGEST, .int8_cache = kind == 1};
        require(ds_async_executor_new(m, opts, &e));
        for (int i = 0; i < N_REQUESTS; i++) {
            uint64_t id = 0;
            ds_answer answer;
            const ds_request q = {
                .prompt = prompt, .n_prompt = prompt_of(m, i, prompt), .max_tokens = 1};
            require(ds_async_executor_submit(e, &q, &id));
            require(ds_async_executor_wait(e, id, 60, &answer));
            assert_int_equal(answer.n_tokens, 1);
            first[kind][i] = answer.tokens[0];
            free(answer.tokens);
        }
        ds_async_executor_stats(e, &stats);
        block_bytes[kind] = stats.cache_bytes / (size_t)stats.blocks;
        ds_async_executor_free(e);
        ds_model_free(m);
    }
    int same = 0;
    for (int i = 0; i < N_REQUESTS; i++)
        same += first[0][i] == first[1][i];
    assert_true(same >= N_REQUESTS - N_REQUESTS / 5);
    assert_int_equal(block_bytes[1] * 32, block_bytes[0] * 12);
}

static int n_tasks(void) {
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    assert_non_null(tasks);
    while (readdir(tasks))
        n++;
    closedir(tasks);
    return n;
}

/* libgomp's threads stop waiting for each other where all teams together have more of them than
 * there are processors. */
static void who_opened_the_model_keeps_no_threads(void **unused) {
    (void)unused;
#ifdef __clang__
    skip(); /* libomp's stay, asleep */
#endif
    ds_model *m = open_model("llama");
    ds_async_executor *e = NULL;
    require(ds_async_executor_new(m, (ds_async_executor_opts){0}, &e));
    const int before = n_tasks();
#pragma omp parallel num_threads(3)
    { assert_true(n_tasks() > 0); }
    assert_int_equal(n_tasks(), before + 2);
    ds_async_executor_free(e);
    require(ds_async_executor_new(m, (ds_async_executor_opts){0}, &e));
    assert_int_equal(n_tasks(), before);
    ds_async_executor_free(e);
    ds_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_of_bytes_answers_alike),
        cmocka_unit_test(who_opened_the_model_keeps_no_threads),
        cmocka_unit_test(answers_are_as_alone),
        cmocka_unit_test(drawn_answers_are_as_alone),
        cmocka_unit_test(short_caches_only_take_longer),
        cmocka_unit_test(the_longest_text_is_what_fits),
        cmocka_unit_test(beginnings_are_shared),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(events_come_in_order),
        cmocka_unit_test(cancelled_requests_end),
        cmocka_unit_test(hooks_decide_what_is_drawn),
        cmocka_unit_test(later_turns_compute_what_is_new),
        cmocka_unit_test(prompts_that_arrive_together_are_computed_once),
        cmocka_unit_test(urgent_requests_take_the_place),
        cmocka_unit_test(lanes_draw_the_same),
        cmocka_unit_test(none_is_lost_and_none_comes_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
