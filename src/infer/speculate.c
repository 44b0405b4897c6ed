#include "infer/speculate.h"

#include <string.h>

#include "base/error.h"

/* ---- prompt look-up -------------------------------------------------------------------------- */

enum { FEWEST_ALIKE = 2, MOST_ALIKE = 4 };

int64_t ds_speculate_look_up(const int32_t *tokens, int64_t n_tokens, int64_t most, int32_t *out) {
    int64_t best = FEWEST_ALIKE - 1, from = 0;
    for (int64_t end = n_tokens - 1; end >= FEWEST_ALIKE && best < MOST_ALIKE; end--) {
        int64_t alike = 0; /* of the tokens before `end` and the last ones */
        while (alike < MOST_ALIKE && alike < end &&
               tokens[end - 1 - alike] == tokens[n_tokens - 1 - alike])
            alike++;
        if (alike > best)
            best = alike, from = end;
    }
    if (from == 0)
        return 0;
    /* where what follows runs into the end, it goes on with itself: a text that repeats */
    const int64_t period = n_tokens - from;
    for (int64_t i = 0; i < most; i++)
        out[i] = tokens[from + i % period];
    return most;
}

/* ---- how many -------------------------------------------------------------------------------- */

enum { FIRST_DEPTH = 2, FIRST_PAUSE = 4, LONGEST_PAUSE = 64 };

ds_depth ds_depth_first(int most) {
    return (ds_depth){.now = most < FIRST_DEPTH ? most : FIRST_DEPTH};
}

void ds_depth_adapt(ds_depth *d, int most, int64_t proposed, int64_t accepted) {
    if (d->now == 0) {
        if (--d->pause <= 0)
            d->now = 1;
        return;
    }
    if (proposed == 0)
        return;
    if (accepted > 0) {
        const int64_t wanted = accepted == proposed ? 2 * proposed : accepted + 1;
        d->now = (int)(accepted == proposed && wanted < d->now ? d->now
                       : wanted < most                         ? wanted
                                                               : most);
        d->last_pause = 0;
        return;
    }
    d->now /= 2;
    if (d->now > 0)
        return;
    d->last_pause = d->last_pause == 0                  ? FIRST_PAUSE
                    : 2 * d->last_pause < LONGEST_PAUSE ? 2 * d->last_pause
                                                        : LONGEST_PAUSE;
    d->pause = d->last_pause;
}

/* Proposals that a step can take: up to the next size of a program in any case, whose tokens are
 * computed whether they are used or not. Each request has its own place, also those whose prompts
 * may end in this step. */
static int64_t room_for_proposals(const ds_scheduler *s) {
    int64_t size = DS_SPECULATION_ROWS;
    while (size < s->running.n)
        size *= 2;
    size = size < s->tokens_per_step ? size : s->tokens_per_step;
    return size - s->running.n;
}

static int64_t wanted_by(const ds_speculator *p, const ds_live_request *r) {
    if (!ds_scheduler_is_answering(r))
        return 0;
    int64_t n = r->depth.now;
    const int64_t fit = r->longest - r->n_tokens - 1; /* one token more is drawn after them */
    n = n < fit ? n : fit;
    if (p->draft && n > p->draft_longest - r->n_tokens)
        n = p->draft_longest - r->n_tokens;
    return n > 0 ? n : 0;
}

void ds_speculator_choose(const ds_speculator *p, ds_scheduler *s) {
    int64_t left = p->most > 0 ? room_for_proposals(s) : 0, n_left = s->running.n;
    for (ds_live_request *r = s->running.first; r; r = r->next, n_left--) {
        r->n_draft = 0;
        if (left <= 0)
            continue;
        const int64_t wanted = wanted_by(p, r), share = (left + n_left - 1) / n_left;
        const int64_t n = wanted < share ? wanted : share;
        r->n_draft = n == 0 || p->draft
                         ? n
                         : ds_speculate_look_up(r->tokens, r->n_tokens, n, r->tokens + r->n_tokens);
        left -= r->n_draft;
    }
}

/* ---- the draft model ------------------------------------------------------------------------- */

/* Fills the batch with what the draft model has to read before the i-th proposals. */
static void fill_draft(ds_scheduler *s, int64_t i, ds_step_batch *b) {
    int32_t owner = 0;
    int64_t left = s->tokens_per_step;
    b->n_tokens = b->n_rows = 0;
    for (ds_live_request *r = s->running.first; r; r = r->next) {
        if (r->n_draft <= i)
            continue;
        const int64_t behind = r->n_behind * s->block_size;
        const int64_t from = r->drafted > behind ? r->drafted : behind;
        const int64_t need = r->n_tokens + i - from, n = need < left ? need : left;
        ds_scheduler_add(s, r, from, n, n == need ? 1 : 0, owner++, b);
        r->drafted = from + n;
        left -= n;
    }
}

/* A proposal is drawn as the answer is, from the draft model's logits. */
static void propose(ds_live_request *r, int64_t i, float *logits, int64_t vocab) {
    const int64_t n_tokens = r->n_tokens + i;
    ds_sampling_penalise(logits, vocab, &r->sampling, r->tokens, r->n_prompt,
                         r->tokens + r->n_prompt, n_tokens - r->n_prompt);
    r->tokens[n_tokens] = ds_sample(logits, vocab, r->sampling, n_tokens);
}

/* What was read of proposals may have to be read again. */
static void mark_drafted(ds_scheduler *s) {
    for (const ds_live_request *r = s->running.first; r; r = r->next) {
        const int64_t sure = r->drafted < r->n_tokens ? r->drafted : r->n_tokens;
        for (int64_t i = r->n_behind; (i + 1) * s->block_size <= sure; i++)
            s->drafted[r->blocks[i]] = true;
    }
}

/* Has not been read to its end. */
static void drop_late(ds_scheduler *s) {
    for (ds_live_request *r = s->running.first; r; r = r->next)
        if (r->n_draft > 0 && r->drafted < r->n_tokens) {
            r->chunk -= r->n_draft;
            r->n_draft = 0;
        }
}

ds_status ds_speculator_draft(ds_speculator *p, ds_scheduler *s) {
    ds_step_batch *b = p->draft ? ds_stepper_batch(p->draft) : NULL;
    for (int64_t i = 0; p->draft && i < p->most; i++) {
        float *logits = NULL;
        fill_draft(s, i, b);
        if (b->n_tokens == 0)
            break;
        DS_TRY(ds_stepper_run(p->draft, &logits));
        if (i == 0)
            drop_late(s);
        for (ds_live_request *r = s->running.first; r; r = r->next)
            if (r->n_draft > i) {
                propose(r, i, logits, p->draft_vocab);
                logits += p->draft_vocab;
            }
    }
    if (p->draft)
        mark_drafted(s);
    return DS_OK;
}
