/* The token that follows: from a row of logits to an event. Penalties, then what the grammar and
 * the request's own say (on_logits) forbid, then the draw; probabilities are those of the model,
 * before either. */
#ifndef DS_INFER_DRAW_H
#define DS_INFER_DRAW_H

#include "infer/tell.h"

/* Draws the tokens that follow, appends them and tells of them (at once without lanes). logits: [1
 * + n_draft, vocab], overwritten; the i-th row is that after i proposals, and is drawn from while
 * those before it were right. r->finish: how the request goes on, with r->error. Returns how many
 * proposals were right. */
int64_t ds_draw(ds_lanes *lanes, ds_live_request *r, float *logits, int64_t vocab);

#endif
