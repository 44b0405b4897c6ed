/* Any bytes as a request to the server: refused with a message that is UTF-8, or a request whose
 * numbers are within their ranges, and whose conversation renders. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "serve/openai_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const ds_openai_request *r) {
    if (!(r->sampling.temperature >= 0 && r->sampling.top_p >= 0 && r->sampling.top_p <= 1) ||
        r->max_tokens < 0 || r->n_stops > DS_OPENAI_MOST_STOPS)
        __builtin_trap();
    for (size_t i = 0; i < r->n_tokens; i++)
        if (r->tokens[i] < 0)
            __builtin_trap();
    const ds_chat_template t = {.family = ds_chat_family_plain()};
    ds_chat_text text;
    const char *telltales = "<|im_start|> reasoning_content </think>";
    const ds_chat_template qwen = {.family = ds_chat_family_recognise(telltales)};
    if (r->chat.n_messages == 0)
        return;
    if (ds_chat_template_render(&t, &r->chat, &text) == DS_OK)
        ds_chat_text_clear(&text);
    if (ds_chat_template_render(&qwen, &r->chat, &text) != DS_OK)
        __builtin_trap(); /* it has a place for everything */
    ds_chat_text_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    ds_openai_request request;
    ds_openai_error error;
    char *copy = malloc(size); /* a block of its own, so that ASan sees its end */
    memcpy(copy, data + 1, size - 1);
    const ds_openai_kind kind = (ds_openai_kind)(data[0] % 3);
    if (ds_openai_request_parse(kind, &ds_openai_sampling, copy, size - 1, &request, &error) ==
        DS_OK) {
        check(&request);
        ds_openai_request_clear(&request);
    } else if (!*error.message ||
               ds_utf8_valid(error.message, strlen(error.message)) != strlen(error.message)) {
        __builtin_trap();
    }
    free(copy);
    return 0;
}
