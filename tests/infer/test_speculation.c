/* Speculative decoding: what is proposed, how much of it, that answers keep their distribution, and
 * that it saves steps where it can and costs few where it cannot. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "infer/speculate.h"
#include "support/small_model.h"

enum { LONGEST = 160 };

/* ---- proposals ------------------------------------------------------------------------------- */

static void look_up_finds_what_followed(void **unused) {
    (void)unused;
    const int32_t text[] = {7, 1, 2, 3, 4, 5, 9, 2, 3, 6, 6, 1, 2, 3};
    int32_t out[6] = {0};
    assert_int_equal(ds_speculate_look_up(text, 14, 3, out), 3);
    const int32_t after[] = {4, 5, 9}; /* 1 2 3 stood there, later only 2 3 */
    assert_memory_equal(out, after, sizeof after);
    assert_int_equal(ds_speculate_look_up(text, 9, 2, out), 2);
    assert_int_equal(out[0], 4); /* 2 3 */
    assert_int_equal(ds_speculate_look_up(text, 7, 3, out), 0);
    assert_int_equal(ds_speculate_look_up(text, 1, 3, out), 0);
    const int32_t rhyme[] = {1, 2, 3, 1, 2, 3};
    const int32_t on[] = {1, 2, 3, 1, 2};
    assert_int_equal(ds_speculate_look_up(rhyme, 6, 5, out), 5);
    assert_memory_equal(out, on, sizeof on);
}

static void depth_follows_success(void **unused) {
    (void)unused;
    ds_depth d = ds_depth_first(8);
    assert_int_equal(d.now, 2);
    ds_depth_adapt(&d, 8, 2, 2);
    ds_depth_adapt(&d, 8, 4, 4);
    ds_depth_adapt(&d, 8, 8, 8);
    assert_int_equal(d.now, 8);
    ds_depth_adapt(&d, 8, 3, 3); /* there were but three */
    assert_int_equal(d.now, 8);
    ds_depth_adapt(&d, 8, 8, 2);
    assert_int_equal(d.now, 3);
    ds_depth_adapt(&d, 8, 3, 0);
    ds_depth_adapt(&d, 8, 1, 0);
    assert_int_equal(d.now, 0);
    int64_t proposed = 0, steps = 1000;
    for (int64_t i = 0; i < steps; i++) {
        proposed += d.now;
        ds_depth_adapt(&d, 8, d.now, 0);
    }
    assert_in_range(proposed, 10, 25); /* it tries again now and then */
    while (d.now == 0)
        ds_depth_adapt(&d, 8, 0, 0);
    ds_depth_adapt(&d, 8, 1, 1);
    assert_int_equal(d.now, 2);
}

/* ---- the distribution ------------------------------------------------------------------------ */

/* All but the tokens 1, 2 and 3 are biased away, so that every pair of tokens has stood in the
 * prompt and look-up always has something to say. */
enum { N_PROMPT = 14, PATH = 4, WIDTH = 3, CELLS = 81, DRAWS = 4000, VOCAB = 37 };

static const int32_t prompt[N_PROMPT] = {1, 1, 2, 2, 3, 3, 1, 3, 2, 1, 2, 3, 1, 1};
static const float TEMPERATURE = 3;

/* Exact probabilities of the first tokens. */
static void expect(ds_generator *g, int32_t *path, int depth, double share, int cell,
                   double *shares, int32_t *paths) {
    const float *logits = ds_generator_logits(g);
    double weights[WIDTH], total = 0;
    for (int k = 0; k < WIDTH; k++)
        total += weights[k] = exp((double)(logits[1 + k] - logits[1]) / (double)TEMPERATURE);
    for (int k = 0; k < WIDTH; k++) {
        const double p = share * weights[k] / total;
        const int at = cell * WIDTH + k;
        path[depth] = 1 + k;
        if (depth == PATH - 1) {
            shares[at] = p;
            memcpy(paths + at * PATH, path, PATH * sizeof *path);
            continue;
        }
        ds_generator_reset(g);
        require_ok(ds_generator_feed(g, prompt, N_PROMPT));
        require_ok(ds_generator_feed(g, path, depth + 1));
        expect(g, path, depth + 1, p, at, shares, paths);
    }
}

static int cell_of(const int32_t *tokens, const int32_t *paths) {
    int cell = 0;
    while (cell < CELLS && memcmp(paths + cell * PATH, tokens, PATH * sizeof *tokens) != 0)
        cell++;
    return cell;
}

/* Pearson's statistic; cells with few expected draws are taken together. */
static double chi_square(const double *shares, const int *counts, int *degrees) {
    double sum = 0, rest_share = 0, rest_count = 0;
    *degrees = -1;
    for (int i = 0; i < CELLS; i++) {
        const double expected = shares[i] * DRAWS;
        if (expected < 8) {
            rest_share += expected;
            rest_count += counts[i];
            continue;
        }
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
        ++*degrees;
    }
    if (rest_share > 0) {
        sum += (rest_count - rest_share) * (rest_count - rest_share) / rest_share;
        ++*degrees;
    }
    return sum;
}

static void draw_all(ds_model *m, ds_async_executor_opts o, const int32_t *paths, int *counts,
                     ds_executor_stats *s) {
    static uint64_t ids[DRAWS];
    ds_async_executor *e = NULL;
    o.max_queue = DRAWS;
    o.max_batch_size = 4; /* so that there is room for proposals */
    ds_logit_bias bias[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        bias[i] = (ds_logit_bias){i, i >= 1 && i <= WIDTH ? 0 : -1000};
    require_ok(ds_async_executor_new(m, o, &e));
    for (int i = 0; i < DRAWS; i++) {
        ds_request q = {.prompt = prompt,
                        .n_prompt = N_PROMPT,
                        .max_tokens = PATH,
                        .sampling = {.temperature = TEMPERATURE, .bias = bias, .n_bias = VOCAB}};
        q.sampling.seed = (uint64_t)i;
        require_ok(ds_async_executor_submit(e, &q, &ids[i]));
    }
    for (int i = 0; i < DRAWS; i++) {
        ds_answer a;
        require_ok(ds_async_executor_wait(e, ids[i], 300, &a));
        assert_int_equal(a.n_tokens, PATH);
        const int cell = cell_of(a.tokens, paths);
        assert_in_range(cell, 0, CELLS - 1);
        counts[cell]++;
        free(a.tokens);
    }
    ds_async_executor_stats(e, s);
    ds_async_executor_free(e);
}

static void answers_keep_their_distribution(void **unused) {
    (void)unused;
    static double shares[CELLS];
    static int32_t paths[CELLS * PATH], path[PATH];
    /* the draft model is the same but for how far it looks back */
    ds_model *m = small_model_open("mistral", 0, 20), *draft = small_model_open("mistral", 0, 2);
    ds_generator *g = NULL;
    require_ok(
        ds_generator_new(ds_model_get_state(m), ds_model_get_config(m), 20, DS_PRECISION_FULL, &g));
    require_ok(ds_generator_feed(g, prompt, N_PROMPT));
    expect(g, path, 0, 1, 0, shares, paths);
    ds_generator_free(g);
    const ds_speculate_opts ways[] = {
        {.kind = DS_SPECULATE_NONE},
        {.kind = DS_SPECULATE_LOOKUP},
        {.kind = DS_SPECULATE_DRAFT, .draft = draft},
        {.kind = DS_SPECULATE_DRAFT, .draft = m}, /* always right */
    };
    static int counts[4][CELLS];
    for (int w = 0; w < 4; w++) {
        ds_executor_stats s;
        int degrees = 0;
        draw_all(m, (ds_async_executor_opts){.speculate = ways[w]}, paths, counts[w], &s);
        const double x = chi_square(shares, counts[w], &degrees);
        print_message("way %d: chi-square %.1f with %d degrees of freedom, %lld of %lld right\n", w,
                      x, degrees, (long long)s.accepted_tokens, (long long)s.proposed_tokens);
        assert_true(degrees > 20);
        assert_true(x < degrees + 4 * sqrt(2.0 * degrees));
        if (w > 0)
            assert_true(s.proposed_tokens > DRAWS / 2 && s.accepted_tokens > 0);
        if (w > 0 && w < 3)
            assert_true(s.accepted_tokens < s.proposed_tokens);
        if (w == 3)
            assert_true(s.accepted_tokens > s.proposed_tokens * 99 / 100);
    }
    /* the statistic tells: as many of each would be of another distribution */
    static int others[CELLS];
    int degrees = 0;
    for (int i = 0; i < DRAWS; i++)
        others[i % CELLS]++;
    assert_true(chi_square(shares, others, &degrees) > degrees + 100);
    ds_model_free(draft);
    ds_model_free(m);
}

/* ---- what it saves, and costs ---------------------------------------------------------------- */

static ds_executor_stats answer_one(ds_model *m, ds_speculate_opts way, const ds_request *q) {
    ds_async_executor *e = NULL;
    ds_executor_stats s;
    uint64_t id;
    ds_answer a;
    require_ok(ds_async_executor_new(m, (ds_async_executor_opts){.speculate = way}, &e));
    require_ok(ds_async_executor_submit(e, q, &id));
    require_ok(ds_async_executor_wait(e, id, 120, &a));
    free(a.tokens);
    ds_async_executor_stats(e, &s);
    ds_async_executor_free(e);
    return s;
}

static void allow_refrain(float *logits, int64_t n, const int32_t *answer, int64_t n_answer,
                          void *context) {
    (void)answer;
    (void)context;
    for (int64_t i = 0; i < n; i++)
        if (i != n_answer % 11)
            logits[i] = -INFINITY;
}

static void repetition_takes_fewer_steps(void **unused) {
    (void)unused;
    ds_model *m = small_model_open("llama", LONGEST, 0);
    ds_request q = {.prompt = prompt, .n_prompt = 2, .max_tokens = 150};
    const ds_executor_stats none = answer_one(m, (ds_speculate_opts){0}, &q);
    const ds_executor_stats draft =
        answer_one(m, (ds_speculate_opts){.kind = DS_SPECULATE_DRAFT, .draft = m}, &q);
    q.on_logits = allow_refrain;
    const ds_executor_stats look_up =
        answer_one(m, (ds_speculate_opts){.kind = DS_SPECULATE_LOOKUP}, &q);
    print_message("150 tokens in %lld steps, by look-up in %lld, by a perfect draft in %lld\n",
                  (long long)none.steps, (long long)look_up.steps, (long long)draft.steps);
    assert_int_equal(none.steps, 150);
    assert_int_equal(look_up.generated_tokens, 150);
    assert_in_range(look_up.steps, 19, 40); /* eight tokens a step once the refrain is known */
    assert_in_range(draft.steps, 37, 45);   /* four a step but for the first ones */
    ds_model_free(m);
}

/* The next letter of a text in which the last two have come before and say nothing about it. */
static void allow_random(float *logits, int64_t n, const int32_t *answer, int64_t n_answer,
                         void *context) {
    (void)answer;
    (void)context;
    const int64_t allowed = ds_philox(8, (uint64_t)n_answer, 0).word[0] % 8;
    for (int64_t i = 0; i < n; i++)
        if (i != allowed)
            logits[i] = -INFINITY;
}

static void wrong_guesses_become_rare(void **unused) {
    (void)unused;
    ds_model *m = small_model_open("llama", LONGEST, 0);
    int32_t text[60];
    for (int i = 0; i < 60; i++)
        text[i] = (int32_t)(ds_philox(9, (uint64_t)i, 0).word[0] % 8);
    const ds_request q = {
        .prompt = text, .n_prompt = 60, .max_tokens = 99, .on_logits = allow_random};
    const ds_executor_stats look_up =
        answer_one(m, (ds_speculate_opts){.kind = DS_SPECULATE_LOOKUP}, &q);
    const ds_executor_stats draft =
        answer_one(m, (ds_speculate_opts){.kind = DS_SPECULATE_DRAFT, .draft = m}, &q);
    print_message("99 tokens that cannot be guessed: %lld proposals by look-up, %lld by a draft\n",
                  (long long)look_up.proposed_tokens, (long long)draft.proposed_tokens);
    assert_in_range(look_up.proposed_tokens, 1, 50);
    assert_in_range(draft.proposed_tokens, 1, 30);
    ds_model_free(m);
}

/* ---- memory and refusals --------------------------------------------------------------------- */

static size_t cache_of(const ds_model *m) {
    ds_state *state = ds_model_get_state((ds_model *)m);
    size_t bytes = 0;
    for (size_t i = 0; i < ds_state_count(state); i++) {
        const ds_state_entry *entry = ds_state_get(state, i);
        if (strncmp(entry->name, "paged/", 6) != 0)
            continue;
        size_t size = ds_dtype_size(entry->dtype);
        for (int d = 0; d < entry->rank; d++)
            size *= (size_t)entry->dims[d];
        bytes += size;
    }
    return bytes;
}

/* The caches of both models together are what the statistics say, and no more than was allowed. */
static void the_draft_lives_in_the_same_budget(void **unused) {
    (void)unused;
    enum { BUDGET = 60000 };
    ds_model *m = small_model_open("llama", LONGEST, 0);
    ds_model *draft = small_model_open("mixtral", LONGEST, 0);
    ds_async_executor *e = NULL;
    uint64_t ids[6];
    const ds_async_executor_opts o = {.cache_bytes = BUDGET,
                                      .speculate = {.kind = DS_SPECULATE_DRAFT, .draft = draft}};
    require_ok(ds_async_executor_new(m, o, &e));
    for (int i = 0; i < 6; i++) {
        const ds_request q = {.prompt = prompt, .n_prompt = 1 + i % 3, .max_tokens = 60};
        require_ok(ds_async_executor_submit(e, &q, &ids[i]));
    }
    ds_executor_stats s;
    for (int i = 0; i < 6; i++) {
        ds_answer a;
        require_ok(ds_async_executor_wait(e, ids[i], 120, &a));
        assert_int_equal(a.n_tokens, 60);
        free(a.tokens);
        ds_async_executor_stats(e, &s);
        assert_true(s.blocks_in_use <= s.blocks);
    }
    assert_true(s.cache_bytes <= BUDGET);
    assert_true(s.proposed_tokens > 0);
    assert_int_equal(cache_of(m) + cache_of(draft), s.cache_bytes);
    ds_async_executor_free(e);
    ds_model_free(draft);
    ds_model_free(m);
}

static void wrong_options_are_refused(void **unused) {
    (void)unused;
    ds_model *m = small_model_open("llama", 0, 0), *other = small_model_open("mistral", 0, 0);
    ds_async_executor *e = NULL;
    const ds_speculate_opts wrong[] = {
        {.kind = DS_SPECULATE_DRAFT},
        {.kind = DS_SPECULATE_LOOKUP, .draft = m},
        {.kind = DS_SPECULATE_LOOKUP, .n_tokens = 16},
        {.kind = DS_SPECULATE_DRAFT, .draft = other},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(
            ds_async_executor_new(m, (ds_async_executor_opts){.speculate = wrong[i]}, &e),
            DS_INVALID);
    assert_non_null(strstr(ds_error(), "37 tokens"));
    assert_int_equal(ds_async_executor_new(m, (ds_async_executor_opts){.stream_count = -1}, &e),
                     DS_INVALID);
    ds_model_free(other);
    ds_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(look_up_finds_what_followed),
        cmocka_unit_test(depth_follows_success),
        cmocka_unit_test(answers_keep_their_distribution),
        cmocka_unit_test(repetition_takes_fewer_steps),
        cmocka_unit_test(wrong_guesses_become_rare),
        cmocka_unit_test(the_draft_lives_in_the_same_budget),
        cmocka_unit_test(wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
