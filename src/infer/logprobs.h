/* What the model thought of a token, and of those it thought likeliest: natural logarithms of the
 * softmax of its logits, before penalties and grammars touch them. */
#ifndef DS_INFER_LOGPROBS_H
#define DS_INFER_LOGPROBS_H

#include "deepseek/inference.h"

/* Of one token; logits: [n]. */
float ds_logprob_of(const float *logits, int64_t n, int32_t token);
/* The k likeliest tokens of logits [n], likeliest first, of equals the lower id. out: [k]. Returns
 * how many there are: k, or n where that is less. */
int ds_logprobs_top(const float *logits, int64_t n, int k, ds_token_logprob *out);

#endif
