/* The token that follows: from a row of logits to an event. Penalties, then what the grammar and
 * the request's own say (on_logits) forbid, then the draw; probabilities are those of the model,
 * before either. */
#ifndef DS_INFER_DRAW_H
#define DS_INFER_DRAW_H

#include "infer/request_list.h"

/* Draws the token after the request's last from logits [vocab] (overwritten), appends it and tells
 * of it. Returns how the request goes on; *error: why it failed, borrowed until the thread's next
 * error. */
ds_finish ds_draw_next(ds_live_request *r, float *logits, int64_t vocab, const char **error);

#endif
