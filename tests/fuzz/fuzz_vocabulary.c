/* Any bytes as a vocabulary of each format: a tokenizer.json, SentencePiece's .model, BERT's
 * vocab.txt, a GGUF file: refused with a message, or it encodes and decodes hard texts, and the
 * bytes themselves, without harm. Seeds are whole files. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/gguf.h"
#include "base/text.h"
#include "data/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const ds_tokenizer *tok, const char *text, size_t n) {
    int32_t *ids = NULL;
    size_t n_ids = 0, length = 0;
    char *back = NULL;
    if (ds_tokenizer_encode_marked(tok, text, n, 0, &ids, &n_ids) != DS_OK)
        return;
    if (ds_tokenizer_decode(tok, ids, n_ids, &back, &length) != DS_OK)
        __builtin_trap();
    ds_detokenizer *d = ds_detokenizer_new(tok);
    for (size_t i = 0; i < n_ids; i++) {
        const char *part = NULL;
        if (ds_detokenizer_push(d, ids[i], &part, &length) != DS_OK ||
            ds_utf8_valid(part, length) != length)
            __builtin_trap();
    }
    ds_detokenizer_free(d);
    free(back);
    free(ids);
}

static void try_json(const char *json, size_t n, const char *text, size_t size) {
    static const char hard[] =
        "The  deep\t\xe5\xa4\xa9 caf\xc3\xa9 e\xcc\x81 [CLS] \xe2\x96\x81\xff "
        "\xef\xac\x81<s>";
    ds_tokenizer *tok = NULL;
    if (ds_tokenizer_from_json(json, n, &tok) == DS_OK) {
        use(tok, hard, sizeof hard - 1);
        use(tok, text, size < 4096 ? size : 4096);
    }
    ds_tokenizer_free(tok);
}

static void try_rewritten(ds_status status, ds_text *json, const char *text, size_t size) {
    if (status == DS_OK)
        try_json(json->data, json->length, text, size);
    ds_text_clear(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *copy = malloc(size + 1); /* a block of its own, so that ASan sees its end */
    ds_text json = {0};
    ds_gguf *g = NULL;
    memcpy(copy, data, size);
    if (size > 0 && copy[0] == '{') {
        try_json(copy, size, copy, size);
    } else if (ds_gguf_parse((unsigned char *)copy, size, "fuzz.gguf", &g) == DS_OK) {
        try_rewritten(ds_tokenizer_json_from_gguf(g, &json), &json, copy, size);
    } else {
        try_rewritten(
            ds_tokenizer_json_from_sentencepiece("fuzz.model", (unsigned char *)copy, size, &json),
            &json, copy, size);
        try_rewritten(ds_tokenizer_json_from_wordlist("vocab.txt", copy, size, "{}", &json), &json,
                      copy, size);
    }
    ds_gguf_close(g);
    free(copy);
    return 0;
}
