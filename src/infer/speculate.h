/* Speculative decoding (Leviathan et al. 2023): tokens that are likely to come next are proposed,
 * go through the model together with the last token, and as many are kept as the model would have
 * drawn itself.
 *
 * Proposals come from the request's own text, where its last tokens stood before (prompt look-up,
 * Saxena 2023), or from a smaller model with the same vocabulary, over the same blocks of a cache
 * of its own.
 *
 * What is drawn depends on logits, seed and position alone (ds_sample). So each place is drawn as
 * it would be without proposals, and a proposal is right if it is what was drawn: answers are the
 * same, token for token, whatever is proposed, at any temperature. Rejection sampling (as in the
 * paper) keeps only the distribution the same. Its advantage, that a proposal drawn from the draft
 * model is accepted as often as can be, is mostly kept by drawing proposals with the random number
 * of their place (Daliri et al. 2024, drafter-invariant speculative decoding).
 *
 * How many tokens a request is proposed follows how many were right: twice as many after all were,
 * fewer after some were not, none for a while after none was. */
#ifndef DS_INFER_SPECULATE_H
#define DS_INFER_SPECULATE_H

#include "infer/scheduler.h"

enum {
    DS_SPECULATION_ROWS = 16, /* proposals fill a step up to so many tokens: more cost their time */
    DS_MOST_PROPOSALS = 15
};

typedef struct ds_speculator {
    int most;          /* proposals at once; 0: none are made */
    ds_stepper *draft; /* of the draft model; NULL: prompt look-up */
    int64_t draft_vocab, draft_longest;
} ds_speculator;

/* The tokens that followed where the last few tokens of `tokens` stood before: the place with the
 * longest such beginning, of those the last. Returns how many were written, at most `most`. */
int64_t ds_speculate_look_up(const int32_t *tokens, int64_t n_tokens, int64_t most, int32_t *out);

/* Sets how many proposals each running request wants (n_draft), and makes those of look-up. */
void ds_speculator_choose(const ds_speculator *p, ds_scheduler *s);
/* After ds_scheduler_plan: lets the draft model make the proposals. Requests that it has still to
 * catch up with have none this time. */
ds_status ds_speculator_draft(ds_speculator *p, ds_scheduler *s);

/* A request begins with it. */
ds_depth ds_depth_first(int most);
/* After a step in which so many were proposed and accepted. */
void ds_depth_adapt(ds_depth *depth, int most, int64_t proposed, int64_t accepted);

#endif
