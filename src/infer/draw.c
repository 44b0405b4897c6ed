#include "infer/draw.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "deepseek/grammar.h"
#include "infer/weights.h"

/* Block by block, without a branch for each logit. */
static bool are_numbers(const float *logits, int64_t n) {
    enum { BLOCK = 1024 };
    for (int64_t i = 0; i < n; i += BLOCK) {
        int wrong = 0;
        for (int64_t j = i; j < n && j < i + BLOCK; j++)
            wrong |= isnan(logits[j]);
        if (wrong)
            return false;
    }
    return true;
}

/* The n_top likeliest, likeliest first; of equal ones those of lower ids. */
static int find_top(const float *logits, int64_t n, int n_top, double total,
                    ds_token_logprob *out) {
    int found = 0;
    for (int64_t i = 0; i < n; i++) {
        if (found == n_top && !(logits[i] > out[found - 1].logprob))
            continue;
        int at = found < n_top ? found++ : found - 1;
        for (; at > 0 && logits[i] > out[at - 1].logprob; at--)
            out[at] = out[at - 1];
        out[at] = (ds_token_logprob){(int32_t)i, logits[i]};
    }
    for (int i = 0; i < found; i++)
        out[i].logprob = (float)((double)out[i].logprob - total);
    return found;
}

static bool is_stop(const ds_live_request *r, int32_t token) {
    for (size_t i = 0; i < r->n_stop_tokens; i++)
        if (r->stop_tokens[i] == token)
            return true;
    return false;
}

/* The model's own probabilities, kept while penalties change the logits. */
typedef struct probabilities {
    float *logits; /* NULL: nobody asks */
    double log_sum;
    ds_token_logprob top[DS_MOST_TOP_LOGPROBS];
    int n_top;
} probabilities;

static bool keep(const ds_live_request *r, const float *logits, int64_t vocab, probabilities *p) {
    p->logits = NULL;
    p->n_top = 0;
    if (!r->logprobs && r->n_top == 0)
        return true;
    p->logits = ds_malloc((size_t)vocab * sizeof *p->logits);
    if (!p->logits)
        return false;
    memcpy(p->logits, logits, (size_t)vocab * sizeof *p->logits);
    p->log_sum = ds_log_sum_exp(logits, vocab);
    if (r->n_top > 0)
        p->n_top = find_top(logits, vocab, r->n_top, p->log_sum, p->top);
    return true;
}

static bool tell(ds_lanes *lanes, const ds_live_request *r, int32_t token, const probabilities *p) {
    const ds_event event = {.request = r->id,
                            .token = token,
                            .index = r->n_tokens - 1 - r->n_prompt,
                            .logprob =
                                p->logits ? (float)((double)p->logits[token] - p->log_sum) : 0,
                            .top = p->n_top > 0 ? p->top : NULL,
                            .n_top = p->n_top};
    return !r->on_event || ds_tell_token(lanes, r, &event);
}

static ds_finish fail(ds_live_request *r, const char *error) {
    snprintf(r->error, sizeof r->error, "%s", error);
    return DS_FINISH_ERROR;
}

/* A token that is drawn; the grammar may end the answer. */
static ds_finish append(ds_lanes *lanes, ds_live_request *r, int32_t token,
                        const probabilities *p) {
    if (is_stop(r, token))
        return DS_FINISH_STOP;
    r->tokens[r->n_tokens++] = token;
    if (!tell(lanes, r, token, p))
        return fail(r, "out of memory for an event");
    if (r->cursor && ds_grammar_accept(r->cursor, token) != DS_OK)
        return fail(r, ds_error());
    if (r->cursor && ds_grammar_must_end(r->cursor))
        return DS_FINISH_STOP; /* the answer is whole, whatever the model would add */
    return r->n_tokens == r->longest ? DS_FINISH_LENGTH : DS_FINISH_NONE;
}

/* Makes −∞ of what may not follow; false, with r->error, where nothing may. */
static bool forbid(ds_live_request *r, float *logits, int64_t vocab) {
    if (r->cursor && ds_grammar_mask(r->cursor, logits, vocab, r->stop_tokens, r->n_stop_tokens)) {
        fail(r, ds_error());
        return false;
    }
    if (r->on_logits)
        r->on_logits(logits, vocab, r->tokens + r->n_prompt, r->n_tokens - r->n_prompt, r->context);
    if (!r->on_logits || ds_largest_logit(logits, vocab) > -INFINITY)
        return true;
    fail(r, "no token may follow: all of them are forbidden");
    return false;
}

static ds_finish draw_next(ds_lanes *lanes, ds_live_request *r, float *logits, int64_t vocab) {
    const int32_t *answer = r->tokens + r->n_prompt;
    const int64_t n_answer = r->n_tokens - r->n_prompt;
    probabilities own;
    if (!are_numbers(logits, vocab))
        return fail(r, "the logits are not numbers: the model's parameters are damaged or it was "
                       "trained to infinity");
    if (!keep(r, logits, vocab, &own))
        return fail(r, "out of memory for the tokens' probabilities");
    ds_sampling_penalise(logits, vocab, &r->sampling, r->tokens, r->n_prompt, answer, n_answer);
    const ds_finish finish =
        forbid(r, logits, vocab)
            ? append(lanes, r, ds_sample(logits, vocab, r->sampling, r->n_tokens), &own)
            : DS_FINISH_ERROR;
    free(own.logits);
    return finish;
}

int64_t ds_draw(ds_lanes *lanes, ds_live_request *r, float *logits, int64_t vocab) {
    const int64_t n_draft = r->n_draft;
    for (int64_t accepted = 0;; accepted++, logits += vocab) {
        const int64_t n_tokens = r->n_tokens;
        const int32_t proposed = accepted < n_draft ? r->tokens[n_tokens] : -1;
        r->finish = draw_next(lanes, r, logits, vocab);
        if (r->n_tokens == n_tokens || r->tokens[n_tokens] != proposed)
            return accepted;
        if (r->finish != DS_FINISH_NONE)
            return accepted + 1;
    }
}
