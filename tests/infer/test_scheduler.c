/* The scheduler without a model: a cache that remembers which text each slot was computed for tells
 * whether every token sees its own text, whatever was shared, proposed, rejected, preempted or left
 * behind a window. And whose turn it is. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "infer/speculate.h"

enum { BLOCK = 16, LONGEST = 160, PER_SEQUENCE = LONGEST / BLOCK, MOST_TOKENS = 64, ROWS = 64 };

typedef struct stage {
    ds_scheduler s;
    ds_request_list waiting;
    ds_step_batch batch;
    uint64_t texts[64 * BLOCK]; /* by slot: of all tokens up to the one in it */
    uint64_t seed, n;           /* of the dice */
    int64_t steps, preemptions, most_in_use, last_id;
} stage;

static int roll(stage *g, int sides) {
    return (int)(ds_philox(g->seed, g->n++, 0).word[0] % (uint32_t)sides);
}

static int32_t *ints(int64_t n) {
    int32_t *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

static stage *new_stage(uint64_t seed, int32_t n_blocks, int64_t tokens_per_step, int64_t window) {
    stage *g = calloc(1, sizeof *g);
    assert_non_null(g);
    g->seed = seed;
    g->s = (ds_scheduler){.block_size = BLOCK,
                          .tokens_per_step = tokens_per_step,
                          .blocks_per_sequence = PER_SEQUENCE,
                          .window = window};
    assert_int_equal(ds_block_pool_new(n_blocks, BLOCK, &g->s.pool), DS_OK);
    g->batch = (ds_step_batch){.tokens = ints(MOST_TOKENS),
                               .positions = ints(MOST_TOKENS),
                               .owners = ints(MOST_TOKENS),
                               .slots = ints(MOST_TOKENS),
                               .rows = ints(ROWS),
                               .tables = ints(MOST_TOKENS * PER_SEQUENCE)};
    return g;
}

static void free_stage(stage *g) {
    assert_int_equal(ds_block_pool_in_use(g->s.pool), 0);
    ds_block_pool_free(g->s.pool);
    free(g->batch.tokens);
    free(g->batch.positions);
    free(g->batch.owners);
    free(g->batch.slots);
    free(g->batch.rows);
    free(g->batch.tables);
    free(g);
}

static ds_live_request *new_request(stage *g, const int32_t *prompt, int64_t n, int priority) {
    ds_live_request *r = NULL;
    const ds_request q = {.prompt = prompt, .n_prompt = n, .priority = priority};
    assert_int_equal(ds_live_request_new(&q, LONGEST, BLOCK, &r), DS_OK);
    r->id = (uint64_t)++g->last_id;
    r->arrival = g->steps;
    return r;
}

static uint64_t text_after(uint64_t before, int32_t token) {
    return ds_mix64(before * 31 + (uint64_t)(uint32_t)token + 1);
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* Every token that attention reads for r's last token at hand stands where it should. */
static void check_sight(const stage *g, const ds_live_request *r, int32_t owner, int64_t position) {
    const int32_t *table = g->batch.tables + owner * PER_SEQUENCE;
    const int64_t first =
        g->s.window > 0 && position + 1 > g->s.window ? position + 1 - g->s.window : 0;
    uint64_t text = 0;
    for (int64_t i = 0; i <= position; i++) {
        const int32_t block = table[i / BLOCK];
        text = text_after(text, r->tokens[i]);
        assert_in_range(block, 0, ds_block_pool_size(g->s.pool) - 1);
        if (i >= first && g->texts[block * BLOCK + i % BLOCK] != text)
            fail_msg("seed %llu, step %lld: request %llu at %lld sees another text at %lld",
                     (unsigned long long)g->seed, (long long)g->steps, (unsigned long long)r->id,
                     (long long)position, (long long)i);
    }
}

static void write_chunk(stage *g, const ds_live_request *r, int64_t at) {
    uint64_t text = 0;
    for (int64_t i = 0; i < r->computed; i++)
        text = text_after(text, r->tokens[i]);
    for (int64_t i = r->computed; i < r->computed + r->chunk; i++, at++) {
        text = text_after(text, r->tokens[i]);
        assert_int_equal(g->batch.tokens[at], r->tokens[i]);
        assert_int_equal(g->batch.positions[at], i);
        g->texts[g->batch.slots[at]] = text;
    }
}

static void compute(stage *g) {
    ds_step_batch *b = &g->batch;
    ds_scheduler_fill(&g->s, b);
    assert_true(b->n_tokens <= g->s.tokens_per_step);
    int64_t at = 0, rows = 0;
    int32_t owner = 0;
    for (ds_live_request *r = g->s.running.first; r; at += r->chunk, r = r->next)
        write_chunk(g, r, at);
    assert_int_equal(at, b->n_tokens);
    for (ds_live_request *r = g->s.running.first; r; r = r->next) {
        for (int64_t i = 0; i < r->chunk; i++)
            check_sight(g, r, owner, r->computed + i);
        owner += r->chunk > 0;
        rows += r->computed + r->chunk == r->n_tokens + r->n_draft ? 1 + r->n_draft : 0;
    }
    assert_int_equal(rows, b->n_rows);
    const int64_t in_use = ds_block_pool_in_use(g->s.pool);
    g->most_in_use = in_use > g->most_in_use ? in_use : g->most_in_use;
}

static void put_back(stage *g, ds_request_list *list) {
    for (; list->first; g->preemptions++) {
        ds_live_request *r = list->first;
        ds_request_list_remove(list, r);
        ds_request_list_insert(&g->waiting, r);
    }
}

static void propose(stage *g) {
    int left = 8;
    for (ds_live_request *r = g->s.running.first; r; r = r->next) {
        const int fit = (int)(r->longest - r->n_tokens - 1);
        const int n = roll(g, 4);
        r->n_draft = ds_scheduler_is_answering(r) && n <= fit && n <= left ? n : 0;
        left -= (int)r->n_draft;
        for (int64_t i = 0; i < r->n_draft; i++)
            r->tokens[r->n_tokens + i] = roll(g, 3);
    }
}

/* Some proposals are right; one token more is drawn. */
static void draw(stage *g, ds_live_request *r) {
    const int64_t accepted = r->n_draft > 0 ? roll(g, (int)r->n_draft + 1) : 0;
    r->n_tokens += accepted;
    r->tokens[r->n_tokens++] = roll(g, 3);
    ds_scheduler_settle(&g->s, r, accepted);
    /* nothing is kept for proposals that were wrong */
    assert_true(r->n_blocks <= (r->n_tokens + BLOCK - 1) / BLOCK);
}

static void step(stage *g) {
    ds_request_list preempted = {0};
    propose(g);
    ds_scheduler_plan(&g->s, &preempted);
    put_back(g, &preempted);
    compute(g);
    ds_scheduler_advance(&g->s);
    for (ds_live_request *r = g->s.running.first, *next; r; r = next) {
        next = r->next;
        if (r->chunk > 0 && r->computed == r->n_tokens)
            draw(g, r);
        if (r->n_tokens == r->longest || roll(g, 60) == 0) {
            ds_scheduler_remove(&g->s, r);
            ds_live_request_free(r);
        }
    }
    g->steps++;
}

static void admit(stage *g, int64_t most) {
    while (g->waiting.first && g->s.running.n < most &&
           ds_scheduler_has_room(&g->s, g->waiting.first)) {
        ds_live_request *r = g->waiting.first;
        ds_request_list_remove(&g->waiting, r);
        ds_scheduler_admit(&g->s, r);
    }
}

static void ask(stage *g) {
    int32_t prompt[LONGEST];
    const int n = 1 + roll(g, 100), text = roll(g, 3), own = roll(g, n + 1);
    for (int i = 0; i < n; i++)
        prompt[i] = i < own ? (i * i + text) % 3 : roll(g, 3);
    ds_request_list_insert(&g->waiting, new_request(g, prompt, n, roll(g, 3)));
}

static void run_long(uint64_t seed, int32_t n_blocks, int64_t window) {
    stage *g = new_stage(seed, n_blocks, 20 + (int64_t)(seed % 40), window);
    while (g->steps < 1500) {
        if (roll(g, 6) == 0 && g->waiting.n < 10)
            ask(g);
        admit(g, 5);
        if (g->s.running.n > 0)
            step(g);
        else
            g->steps++;
    }
    assert_true(g->most_in_use <= n_blocks);
    if (n_blocks < 12)
        assert_true(g->preemptions > 0 && g->most_in_use == n_blocks);
    for (ds_live_request *r; (r = g->s.running.first);) {
        ds_scheduler_remove(&g->s, r);
        ds_live_request_free(r);
    }
    for (ds_live_request *r; (r = g->waiting.first);) {
        ds_request_list_remove(&g->waiting, r);
        ds_live_request_free(r);
    }
    free_stage(g);
}

static void every_token_sees_its_own_text(void **unused) {
    (void)unused;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        run_long(seed, PER_SEQUENCE + (int32_t)seed % 2, 0);
        run_long(seed, 40, 0);
        run_long(seed, PER_SEQUENCE, 40);
        run_long(seed, PER_SEQUENCE, 5);
        run_long(seed, 40, 24);
    }
}

/* ---- whose turn it is ------------------------------------------------------------------------ */

static ds_live_request *add(stage *g, int64_t n_prompt, int32_t token, int priority) {
    int32_t prompt[LONGEST];
    for (int64_t i = 0; i < n_prompt; i++)
        prompt[i] = token;
    ds_live_request *r = new_request(g, prompt, n_prompt, priority);
    ds_scheduler_admit(&g->s, r);
    return r;
}

static void end(stage *g, ds_live_request *r) {
    ds_scheduler_remove(&g->s, r);
    ds_live_request_free(r);
}

static void short_prompts_do_not_wait_for_long_ones(void **unused) {
    (void)unused;
    stage *g = new_stage(1, 40, 32, 0);
    ds_request_list none = {0};
    ds_live_request *large = add(g, 100, 1, 0), *other = add(g, 100, 2, 0),
                    *little = add(g, 9, 3, 0);
    ds_live_request *urgent = add(g, 50, 4, 1);
    ds_scheduler_plan(&g->s, &none);
    assert_int_equal(urgent->chunk, 32); /* priority goes before all */
    assert_int_equal(large->chunk + other->chunk + little->chunk, 0);
    end(g, urgent);
    ds_scheduler_plan(&g->s, &none);
    assert_int_equal(little->chunk, 9);
    assert_int_equal(large->chunk, 16 + 7); /* the first one's half, and it has the fewest left */
    assert_int_equal(other->chunk, 0);
    end(g, large);
    end(g, other);
    end(g, little);
    free_stage(g);
}

static void who_waits_long_goes_before_newer_ones_of_higher_priority(void **unused) {
    (void)unused;
    ds_live_request old = {.id = 1, .priority = 0, .arrival = 0};
    ds_live_request soon = {.id = 2, .priority = 1, .arrival = DS_STEPS_A_PRIORITY - 1};
    ds_live_request late = {.id = 3, .priority = 1, .arrival = DS_STEPS_A_PRIORITY + 1};
    ds_live_request next = {.id = 4, .priority = 0, .arrival = 0};
    assert_true(ds_request_goes_before(&soon, &old));
    assert_true(ds_request_goes_before(&old, &late));
    assert_true(ds_request_goes_before(&old, &next));
}

/* Each request has its row, and proposals what is left of 16. */
static void proposals_leave_room_for_everyone(void **unused) {
    (void)unused;
    stage *g = new_stage(1, 60, 40, 0);
    const ds_speculator look_up = {.most = 15};
    ds_request_list none = {0};
    ds_live_request *all[12];
    for (int i = 0; i < 4; i++)
        all[i] = add(g, 8, i, 0);
    ds_scheduler_plan(&g->s, &none);
    compute(g);
    ds_scheduler_advance(&g->s);
    for (int i = 0; i < 4; i++) {
        all[i]->tokens[all[i]->n_tokens++] = i;
        ds_scheduler_settle(&g->s, all[i], 0);
        all[i]->depth.now = 15;
    }
    for (int i = 4; i < 12; i++)
        all[i] = add(g, 2, i, 0);
    ds_speculator_choose(&look_up, &g->s);
    ds_scheduler_plan(&g->s, &none);
    compute(g);
    assert_int_equal(g->batch.n_rows, DS_SPECULATION_ROWS);
    assert_int_equal(g->batch.n_tokens, DS_SPECULATION_ROWS + 8);
    for (int i = 0; i < 12; i++)
        end(g, all[i]);
    free_stage(g);
}

static void who_begins_anew_finds_its_blocks(void **unused) {
    (void)unused;
    stage *g = new_stage(1, 40, 64, 0);
    ds_request_list none = {0};
    ds_live_request *r = add(g, 40, 1, 0);
    for (int round = 0; round < 2; round++) {
        ds_scheduler_plan(&g->s, &none);
        compute(g);
        ds_scheduler_advance(&g->s);
        ds_scheduler_remove(&g->s, r);
        assert_int_equal(ds_block_pool_in_use(g->s.pool), 0);
        ds_scheduler_admit(&g->s, r);
        assert_int_equal(r->computed, 32);
    }
    end(g, r);
    free_stage(g);
}

static void advance(stage *g) {
    ds_request_list none = {0};
    ds_scheduler_plan(&g->s, &none);
    assert_int_equal(none.n, 0);
    compute(g);
    ds_scheduler_advance(&g->s);
}

/* Whoever computes what they share may go at any time. */
static void prompts_that_begin_alike_are_computed_once(void **unused) {
    (void)unused;
    stage *g = new_stage(1, 40, 24, 0);
    ds_live_request *one = add(g, 100, 1, 0), *two = add(g, 90, 1, 0), *three = add(g, 80, 1, 0);
    ds_live_request *other = add(g, 85, 2, 0);
    advance(g);
    assert_int_equal(one->computed, 12); /* the first one's half */
    assert_int_equal(two->computed + three->computed, 0);
    assert_int_equal(other->computed, 12);
    advance(g);
    assert_int_equal(one->computed, 24);
    assert_int_equal(two->computed + three->computed, 0);
    end(g, one);
    advance(g);
    assert_true(two->n_cached == 16 && three->n_cached == 16);
    assert_int_equal(two->computed, 16 + 12);
    assert_int_equal(three->computed, 16);
    assert_int_equal(g->s.n_cached, 32);
    end(g, two);
    end(g, other);
    advance(g); /* nobody is left to wait for */
    assert_int_equal(three->computed, 16 + 24);
    end(g, three);
    free_stage(g);
}

/* ---- windows --------------------------------------------------------------------------------- */

static void blocks_behind_the_window_are_given_back(void **unused) {
    (void)unused;
    stage *g = new_stage(1, PER_SEQUENCE, 16, 40);
    ds_request_list none = {0};
    ds_live_request *r = add(g, 150, 1, 0);
    int64_t most = 0;
    for (int i = 0; i < 9; i++) {
        ds_scheduler_plan(&g->s, &none);
        compute(g);
        ds_scheduler_advance(&g->s);
        const int64_t in_use = ds_block_pool_in_use(g->s.pool);
        most = in_use > most ? in_use : most;
    }
    assert_int_equal(r->computed, 144);
    /* 40 tokens back and 16 at hand lie in five blocks at most, not in nine */
    assert_true(most <= 5);
    assert_true(most <= ds_scheduler_blocks_for(&g->s, 150));
    /* and are known for a later one with this beginning */
    assert_int_equal(ds_block_pool_cached(g->s.pool) + ds_block_pool_in_use(g->s.pool), 9);
    end(g, r);
    free_stage(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_sees_its_own_text),
        cmocka_unit_test(short_prompts_do_not_wait_for_long_ones),
        cmocka_unit_test(who_waits_long_goes_before_newer_ones_of_higher_priority),
        cmocka_unit_test(who_begins_anew_finds_its_blocks),
        cmocka_unit_test(prompts_that_begin_alike_are_computed_once),
        cmocka_unit_test(proposals_leave_room_for_everyone),
        cmocka_unit_test(blocks_behind_the_window_are_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
