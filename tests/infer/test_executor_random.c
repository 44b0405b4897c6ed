/* Answers of the executor against those of one sequence alone, while everything that must not
 * matter varies: arrivals, sizes of steps and caches, priorities, other requests, shared
 * beginnings, preemption, lanes, and what is proposed by speculation. Each round prints its seed;
 * DS_TEST_SEED=N runs that one, DS_TEST_ROUNDS=N so many. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "support/small_model.h"

enum { LONGEST = 150, N_REQUESTS = 14, N_TURNS = 2 };

typedef struct dice {
    uint64_t seed, n;
} dice;

static int roll(dice *d, int sides) {
    return (int)(ds_philox(d->seed, d->n++, 0).word[0] % (uint32_t)sides);
}

/* One request with all that it points to, and what came of it. */
typedef struct question {
    int32_t prompt[LONGEST], stop;
    ds_logit_bias bias[2];
    ds_request request;
    uint64_t id;
    bool cancelled, told;
    int32_t tokens[LONGEST];
    float logprobs[LONGEST];
    int64_t n_tokens;
    ds_finish finish;
} question;

static atomic_int n_ended; /* of those that are told */

static void note(const ds_event *event, void *context) {
    question *q = context;
    if (event->finish != DS_FINISH_NONE) {
        q->finish = event->finish;
        atomic_fetch_add(&n_ended, 1);
        return;
    }
    assert_int_equal(event->index, q->n_tokens);
    q->logprobs[q->n_tokens] = event->logprob;
    q->tokens[q->n_tokens++] = event->token;
}

/* A grammar of sorts: no token twice in a row. */
static void forbid_last(float *logits, int64_t n, const int32_t *answer, int64_t n_answer,
                        void *context) {
    (void)n;
    (void)context;
    if (n_answer > 0)
        logits[answer[n_answer - 1]] = -INFINITY;
}

static ds_sampling sampling_of(dice *d, question *q, int vocab) {
    ds_sampling s = {.seed = (uint64_t)roll(d, 1000)};
    if (roll(d, 3) > 0)
        s.temperature = 0.2f + (float)roll(d, 10) / 10;
    if (roll(d, 3) == 0)
        s.top_k = 1 + roll(d, 20);
    if (roll(d, 3) == 0)
        s.top_p = 0.5f + (float)roll(d, 5) / 10;
    if (roll(d, 4) == 0)
        s.repetition_penalty = 1.2f;
    if (roll(d, 4) == 0)
        s.frequency_penalty = 0.3f;
    if (roll(d, 4) == 0) {
        q->bias[0] = (ds_logit_bias){roll(d, vocab), 2};
        q->bias[1] = (ds_logit_bias){roll(d, vocab), -50};
        s.bias = q->bias;
        s.n_bias = 2;
    }
    return s;
}

/* A beginning that others have too, then a phrase that comes again and again. */
static int64_t write_prompt(dice *d, int32_t *out, int vocab) {
    const int64_t n_shared = roll(d, 3) * 17, text = roll(d, 2);
    int64_t n = 0, phrase = 3 + roll(d, 9), times = roll(d, 4);
    for (; n < n_shared; n++)
        out[n] = (int32_t)((n * n + text * 5 + 3) % vocab);
    const int64_t first = n;
    for (; n < first + phrase; n++)
        out[n] = roll(d, vocab);
    for (int64_t i = 0; i < phrase * times; i++, n++)
        out[n] = out[n - phrase];
    return n;
}

static void write_question(dice *d, int vocab, question *q) {
    *q = (question){.stop = roll(d, vocab)};
    q->request = (ds_request){.prompt = q->prompt,
                              .n_prompt = write_prompt(d, q->prompt, vocab),
                              .max_tokens = roll(d, 4) == 0 ? 0 : 1 + roll(d, 40),
                              .sampling = sampling_of(d, q, vocab),
                              .stop_tokens = &q->stop,
                              .n_stop_tokens = (size_t)roll(d, 2),
                              .priority = roll(d, 3),
                              .on_logits = roll(d, 4) == 0 ? forbid_last : NULL,
                              .context = q};
    if (roll(d, 2)) {
        q->told = true;
        q->request.on_event = note;
        q->request.logprobs = true;
    }
}

/* The text so far, and something new. */
static void write_next_turn(dice *d, int vocab, question *q) {
    const int64_t n = q->request.n_prompt + q->n_tokens, more = 1 + roll(d, 10);
    if (n + more >= LONGEST)
        return;
    memcpy(q->prompt + q->request.n_prompt, q->tokens, (size_t)q->n_tokens * sizeof *q->tokens);
    for (int64_t i = 0; i < more; i++)
        q->prompt[n + i] = roll(d, vocab);
    q->request.n_prompt = n + more;
}

static void ask_all(dice *d, ds_async_executor *e, question *questions) {
    int n_told = 0;
    atomic_store(&n_ended, 0);
    for (int i = 0; i < N_REQUESTS; i++) {
        question *q = &questions[i];
        q->n_tokens = 0;
        q->finish = DS_FINISH_NONE;
        n_told += q->told;
        require_ok(ds_async_executor_submit(e, &q->request, &q->id));
        if (roll(d, 3) == 0)
            usleep((useconds_t)roll(d, 3000));
        q->cancelled = roll(d, 8) == 0;
        if (q->cancelled)
            ds_async_executor_cancel(e, q->id);
    }
    for (int i = 0; i < N_REQUESTS; i++) {
        question *q = &questions[i];
        ds_answer a;
        if (q->told)
            continue;
        require_ok(ds_async_executor_wait(e, q->id, 120, &a));
        memcpy(q->tokens, a.tokens, (size_t)a.n_tokens * sizeof *a.tokens);
        q->n_tokens = a.n_tokens;
        q->finish = a.finish;
        free(a.tokens);
    }
    while (atomic_load(&n_ended) < n_told)
        usleep(200);
}

static void check(ds_model *m, int64_t longest, uint64_t seed, int i, const question *q) {
    static lone_answer alone;
    answer_alone(m, &q->request, longest, &alone);
    const bool ended_early = q->finish == DS_FINISH_CANCELLED;
    if (!q->cancelled)
        assert_false(ended_early);
    if (!ended_early && (q->n_tokens != alone.n_tokens || q->finish != alone.finish))
        fail_msg("seed %llu, request %d: %lld tokens (end %d), alone %lld (end %d)",
                 (unsigned long long)seed, i, (long long)q->n_tokens, (int)q->finish,
                 (long long)alone.n_tokens, (int)alone.finish);
    for (int64_t t = 0; t < q->n_tokens; t++) {
        if (t >= alone.n_tokens || q->tokens[t] != alone.tokens[t])
            fail_msg("seed %llu, request %d: token %lld is %d, alone it is %d",
                     (unsigned long long)seed, i, (long long)t, q->tokens[t],
                     t < alone.n_tokens ? alone.tokens[t] : -1);
        if (q->told && fabsf(q->logprobs[t] - alone.logprobs[t]) > 1e-4f)
            fail_msg("seed %llu, request %d: token %lld has log probability %g, alone %g",
                     (unsigned long long)seed, i, (long long)t, (double)q->logprobs[t],
                     (double)alone.logprobs[t]);
    }
}

typedef struct pair {
    const char *model, *draft;
    int64_t longest, window;
} pair;

static ds_async_executor_opts opts_of(dice *d, const pair *p, ds_model *m, ds_model *draft) {
    ds_async_executor_opts o = {.max_batch_size = 1 + roll(d, 6),
                                .stream_count = 1 + roll(d, 4),
                                .tokens_per_step = 4 + roll(d, 60),
                                .max_seq_len = p->longest};
    const ds_paged_cache block = {.block_size = 16, .dtype = DS_F32};
    size_t bytes = ds_model_block_bytes(ds_model_get_config(m), &block);
    o.speculate.n_tokens = roll(d, 16);
    switch (roll(d, 4)) {
    case 0: o.speculate.kind = DS_SPECULATE_LOOKUP; break;
    case 1:
    case 2:
        o.speculate.kind = DS_SPECULATE_DRAFT;
        o.speculate.draft = draft;
        bytes += ds_model_block_bytes(ds_model_get_config(draft), &block);
        break;
    default: break;
    }
    const size_t of_one = (size_t)(p->longest + 15) / 16;
    o.cache_bytes = bytes * (of_one + (size_t)roll(d, 2 * (int)of_one));
    return o;
}

static void run_round(uint64_t seed, ds_executor_stats *sum) {
    static const pair pairs[] = {{"llama", "mixtral", LONGEST, 0},
                                 {"mistral", "qwen2", LONGEST, 40},
                                 {"mistral", "mistral", LONGEST, 40},
                                 {"qwen3", "qwen3", LONGEST, 0},
                                 {"deepseek_v2", "deepseek_v3", LONGEST, 0}};
    static question questions[N_REQUESTS];
    dice d = {.seed = seed};
    const pair *p = &pairs[roll(&d, sizeof pairs / sizeof *pairs)];
    ds_model *m = small_model_open(p->model, p->longest, p->window);
    ds_model *draft =
        small_model_open(p->draft, p->longest, strcmp(p->draft, "mistral") == 0 ? p->window : 0);
    const int vocab = (int)ds_model_get_config(m)->vocab_size;
    const ds_async_executor_opts o = opts_of(&d, p, m, draft);
    ds_async_executor *e = NULL;
    require_ok(ds_async_executor_new(m, o, &e));
    for (int i = 0; i < N_REQUESTS; i++)
        write_question(&d, vocab, &questions[i]);
    for (int turn = 0; turn < N_TURNS; turn++) {
        ask_all(&d, e, questions);
        for (int i = 0; i < N_REQUESTS; i++)
            check(m, p->longest, seed, i, &questions[i]);
        for (int i = 0; i < N_REQUESTS; i++)
            write_next_turn(&d, vocab, &questions[i]);
    }
    ds_executor_stats s;
    ds_async_executor_stats(e, &s);
    assert_int_equal(s.n_running + s.n_waiting + s.failed, 0);
    assert_int_equal(s.blocks_in_use, 0);
    assert_int_equal(s.finished + s.cancelled, N_TURNS * N_REQUESTS);
    sum->preemptions += s.preemptions;
    sum->cached_tokens += s.cached_tokens;
    sum->proposed_tokens += s.proposed_tokens;
    sum->accepted_tokens += s.accepted_tokens;
    ds_async_executor_free(e);
    ds_model_free(draft);
    ds_model_free(m);
}

static void answers_never_depend_on_company(void **unused) {
    (void)unused;
    const char *one = getenv("DS_TEST_SEED"), *many = getenv("DS_TEST_ROUNDS");
    const uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    const uint64_t rounds = one ? 1 : many ? strtoull(many, NULL, 10) : 12;
    ds_executor_stats sum = {0};
    for (uint64_t seed = first; seed < first + rounds; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        run_round(seed, &sum);
    }
    print_message(
        "%lld preemptions, %lld tokens found in the cache, %lld of %lld proposals right\n",
        (long long)sum.preemptions, (long long)sum.cached_tokens, (long long)sum.accepted_tokens,
        (long long)sum.proposed_tokens);
    if (!one) /* else nothing was tried */
        assert_true(sum.preemptions > 0 && sum.cached_tokens > 0 && sum.accepted_tokens > 0 &&
                    sum.accepted_tokens < sum.proposed_tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers_never_depend_on_company)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
