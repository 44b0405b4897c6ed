/* The small models of the goldens, made to hold longer texts, and answers of one sequence at a
 * time, which the executor's must equal. */
#ifndef DS_TESTS_SMALL_MODEL_H
#define DS_TESTS_SMALL_MODEL_H

#include "deepseek/inference.h"

/* Fails the cmocka test with the library's message. */
void require_ok(ds_status status);

/* A family of tests/data/goldens whose texts may have `longest` tokens (0: as it is; its positions
 * must not be learned) and whose attention looks back `window` (0: as it is). */
ds_model *small_model_open(const char *family, int64_t longest, int64_t window);

typedef struct lone_answer {
    int32_t tokens[512];
    float logprobs[512];
    int64_t n_tokens;
    ds_finish finish;
} lone_answer;

/* Answers the request by a generator, all alone: prompt and answer in `longest` tokens. */
void answer_alone(ds_model *model, const ds_request *request, int64_t longest, lone_answer *out);

#endif
