/* Any bytes as a tokenizer.json, or as a llama2.c tokenizer: refused with a message, or it encodes
 * and decodes without harm. The first byte says which, and how long the text at the end is. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "data/tokenizer.h"
#include "deepseek/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A small one that always loads: then the input is text for it. */
static const char bytes_only[] =
    "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": "
    "{\"type\": \"ByteLevel\"}, \"added_tokens\": [{\"id\": 5, \"content\": \"<e>\", \"special\": "
    "true, \"rstrip\": true}], \"model\": {\"type\": \"BPE\", \"unk_token\": \"a\", \"vocab\": "
    "{\"a\": 0, \"b\": 1, \"ab\": 2, \"Ġ\": 3, \"Ġab\": 4}, \"merges\": [\"a b\", \"Ġ ab\"]}}";

static void use(const ds_tokenizer *tok, const char *text, size_t n) {
    int32_t *ids = NULL;
    size_t n_ids = 0, length = 0;
    char *back = NULL;
    if (ds_tokenizer_encode(tok, text, n, &ids, &n_ids) != DS_OK)
        return;
    if (ds_tokenizer_decode(tok, ids, n_ids, &back, &length) != DS_OK)
        __builtin_trap();
    ds_detokenizer *d = ds_detokenizer_new(tok);
    for (size_t i = 0; i < n_ids; i++) {
        const char *part = NULL;
        if (ds_detokenizer_push(d, ids[i], &part, &length) != DS_OK)
            __builtin_trap();
        if (ds_utf8_valid(part, length) != length)
            __builtin_trap();
    }
    ds_detokenizer_free(d);
    free(back);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1)
        return 0;
    const size_t tail = data[0] / 3 < size - 1 ? data[0] / 3 : size - 1;
    const size_t body = size - 1 - tail;
    char *file = malloc(body + 1), *text = malloc(tail + 1); /* so that ASan sees their ends */
    memcpy(file, data + 1, body);
    memcpy(text, data + 1 + body, tail);
    ds_tokenizer *tok = NULL;
    ds_text json = {0};
    switch (data[0] % 3) {
    case 0: (void)ds_tokenizer_from_json(file, body, &tok); break;
    case 1:
        if (ds_tokenizer_json_from_llama2c("fuzz", file, body, &json) == DS_OK)
            (void)ds_tokenizer_from_json(json.data, json.length, &tok);
        break;
    default:
        if (ds_tokenizer_from_json(bytes_only, sizeof bytes_only - 1, &tok) != DS_OK)
            __builtin_trap();
        use(tok, file, body);
    }
    if (tok)
        use(tok, text, tail);
    ds_text_clear(&json);
    ds_tokenizer_free(tok);
    free(file);
    free(text);
    return 0;
}
