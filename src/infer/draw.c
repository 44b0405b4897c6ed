#include "infer/draw.h"

#include <math.h>
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

static void tell(const ds_live_request *r, int32_t token, const probabilities *p) {
    if (!r->on_event)
        return;
    const ds_event event = {.request = r->id,
                            .token = token,
                            .index = r->n_tokens - 1 - r->n_prompt,
                            .logprob =
                                p->logits ? (float)((double)p->logits[token] - p->log_sum) : 0,
                            .top = p->n_top > 0 ? p->top : NULL,
                            .n_top = p->n_top};
    r->on_event(&event, r->context);
}

/* The token is the request's next; its grammar may end the answer. */
static ds_finish append(ds_live_request *r, int32_t token, const probabilities *own,
                        const char **error) {
    r->tokens[r->n_tokens++] = token;
    tell(r, token, own);
    if (r->cursor && ds_grammar_accept(r->cursor, token) != DS_OK) {
        *error = ds_error();
        return DS_FINISH_ERROR;
    }
    if (r->cursor && ds_grammar_must_end(r->cursor))
        return DS_FINISH_STOP; /* the answer is whole, whatever the model would add */
    return r->n_tokens == r->longest ? DS_FINISH_LENGTH : DS_FINISH_NONE;
}

/* Makes −∞ of what may not follow; false where nothing may. */
static bool forbid(ds_live_request *r, float *logits, int64_t vocab, const char **error) {
    if (r->cursor && ds_grammar_mask(r->cursor, logits, vocab, r->stop_tokens, r->n_stop_tokens)) {
        *error = ds_error();
        return false;
    }
    if (r->on_logits)
        r->on_logits(logits, vocab, r->tokens + r->n_prompt, r->n_tokens - r->n_prompt, r->context);
    if (!r->on_logits || ds_largest_logit(logits, vocab) > -INFINITY)
        return true;
    *error = "no token may follow: all of them are forbidden";
    return false;
}

ds_finish ds_draw_next(ds_live_request *r, float *logits, int64_t vocab, const char **error) {
    const int32_t *answer = r->tokens + r->n_prompt;
    const int64_t n_answer = r->n_tokens - r->n_prompt;
    probabilities own;
    if (!are_numbers(logits, vocab)) {
        *error = "the logits are not numbers: the model's parameters are damaged or it was trained "
                 "to infinity";
        return DS_FINISH_ERROR;
    }
    if (!keep(r, logits, vocab, &own)) {
        *error = "out of memory for the tokens' probabilities";
        return DS_FINISH_ERROR;
    }
    ds_sampling_penalise(logits, vocab, &r->sampling, r->tokens, r->n_prompt, answer, n_answer);
    ds_finish finish = DS_FINISH_ERROR;
    if (forbid(r, logits, vocab, error)) {
        const int32_t token = ds_sample(logits, vocab, r->sampling, r->n_tokens);
        finish = is_stop(r, token) ? DS_FINISH_STOP : append(r, token, &own, error);
    }
    free(own.logits);
    return finish;
}
