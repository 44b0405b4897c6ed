/* Several answers at once out of a trained model:
 *     generate_many MODEL PROMPT [PROMPT …]
 * All prompts are computed together, and each gets the answer that it would get alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/inference.h"

enum { MOST_PROMPTS = 64 };

static int fail(void) {
    fprintf(stderr, "%s\n", ds_error());
    return 1;
}

static ds_status submit(ds_async_executor *executor, const ds_model *model, const char *text,
                        uint64_t *id) {
    int32_t *ids = NULL;
    size_t n = 0;
    ds_request request = {.max_tokens = 60, .sampling = {.temperature = 0.8f, .top_p = 0.95f}};
    ds_status status =
        ds_tokenizer_encode_marked(ds_model_get_tokenizer(model), text, strlen(text), 0, &ids, &n);
    if (status == DS_OK) {
        request.prompt = ids;
        request.n_prompt = (int64_t)n;
        request.stop_tokens = ds_model_end_tokens(model, &request.n_stop_tokens);
        status = ds_async_executor_submit(executor, &request, id);
    }
    free(ids);
    return status;
}

int main(int argc, char **argv) {
    ds_model *model = NULL;
    ds_async_executor *executor = NULL;
    uint64_t ids[MOST_PROMPTS];
    const int n = argc - 2 < MOST_PROMPTS ? argc - 2 : MOST_PROMPTS;
    if (n < 1) {
        fputs("usage: generate_many MODEL PROMPT [PROMPT …]\n", stderr);
        return 2;
    }
    if (ds_model_from_pretrained(argv[1], (ds_model_opts){0}, &model) != DS_OK ||
        ds_async_executor_new(model, (ds_async_executor_opts){0}, &executor) != DS_OK)
        return fail();
    for (int i = 0; i < n; i++)
        if (submit(executor, model, argv[i + 2], &ids[i]) != DS_OK)
            return fail();
    for (int i = 0; i < n; i++) {
        ds_answer answer;
        char *text = NULL;
        size_t length = 0;
        if (ds_async_executor_wait(executor, ids[i], -1, &answer) != DS_OK ||
            ds_tokenizer_decode(ds_model_get_tokenizer(model), answer.tokens,
                                (size_t)answer.n_tokens, &text, &length) != DS_OK)
            return fail();
        printf("%s%.*s\n\n", argv[i + 2], (int)length, text);
        free(text);
        free(answer.tokens);
    }
    ds_async_executor_free(executor);
    ds_model_free(model);
    return 0;
}
