/* Older formats, rewritten as the tokenizer.json that means the same, so that there is one loader.
 *
 * GPT-2: encoder.json maps names to ids, vocab.bpe lists the merges, one "a b" a line.
 * llama2.c: a tokenizer.bin of int32 longest, then per token float score, int32 length, bytes. It
 * merges the neighbours whose joint string is the token of the highest score (scored_pieces.c). */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "data/scored_pieces.h"

#define FILE_LIMIT ((size_t)256 << 20)

void ds_json_put_string(ds_text *json, const char *bytes, size_t n) {
    ds_text_puts(json, "\"");
    size_t done = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        ds_text_append(json, bytes + done, i - done);
        ds_text_printf(json, c >= 0x20 ? "\\%c" : "\\u%04x", c);
        done = i + 1;
    }
    ds_text_append(json, bytes + done, n - done);
    ds_text_puts(json, "\"");
}

/* ---- GPT-2 -------------------------------------------------------------------------------- */

static ds_status put_gpt2_merges(const char *path, const char *text, size_t size, ds_text *json) {
    size_t line = 0;
    bool first = true;
    for (size_t at = 0; at < size; line++) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n = end ? (size_t)(end - text) - at : size - at;
        const char *merge = text + at;
        at += n + 1;
        if (n > 0 && merge[n - 1] == '\r')
            n--;
        if (n == 0 || (line == 0 && merge[0] == '#')) /* "#version: 0.2" */
            continue;
        if (!memchr(merge, ' ', n) || ds_utf8_valid(merge, n) != n)
            return ds_fail(DS_CORRUPT, "%s:%zu: should be two tokens with a space between", path,
                           line + 1);
        ds_text_puts(json, first ? "\n" : ",\n");
        ds_json_put_string(json, merge, n);
        first = false;
    }
    return json->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
}

ds_status ds_tokenizer_json_from_gpt2(const char *vocab_path, const char *merges_path,
                                      ds_text *json) {
    char *vocab = NULL, *merges = NULL;
    size_t vocab_size = 0, merges_size = 0;
    DS_TRY(ds_file_read(vocab_path, FILE_LIMIT, &vocab, &vocab_size));
    ds_status status = ds_file_read(merges_path, FILE_LIMIT, &merges, &merges_size);
    if (status == DS_OK) {
        const char *end_of_text = strstr(vocab, "\"<|endoftext|>\":");
        ds_text_puts(json, "{\"version\": \"1.0\", \"added_tokens\": [");
        if (end_of_text)
            ds_text_printf(json,
                           "{\"id\": %ld, \"content\": \"<|endoftext|>\", \"special\": true, "
                           "\"normalized\": false}",
                           strtol(end_of_text + strlen("\"<|endoftext|>\":"), NULL, 10));
        ds_text_puts(json, "],\n\"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                           "\"add_prefix_space\": false},\n\"decoder\": {\"type\": "
                           "\"ByteLevel\"},\n\"model\": {\"type\": \"BPE\", \"vocab\": ");
        ds_text_append(json, vocab, vocab_size);
        ds_text_puts(json, ", \"merges\": [");
        status = put_gpt2_merges(merges_path, merges, merges_size, json);
        ds_text_puts(json, "]}}\n");
    }
    free(vocab);
    free(merges);
    return status == DS_OK && json->poisoned ? DS_OUT_OF_MEMORY : status;
}

/* ---- llama2.c ----------------------------------------------------------------------------- */

static ds_status read_scored(const char *path, const char *data, size_t size,
                             ds_scored_vocab *vocab) {
    for (size_t at = 4; at < size;) {
        uint32_t length = 0;
        float score = 0;
        const size_t id = vocab->n;
        if (size - at < 8)
            return ds_fail(DS_CORRUPT, "%s: ends inside token %zu", path, id);
        memcpy(&score, data + at, 4);
        memcpy(&length, data + at + 4, 4);
        at += 8;
        if (length > size - at || !(score == score))
            return ds_fail(DS_CORRUPT, "%s: token %zu has a length of %u, %zu bytes are left", path,
                           id, length, size - at);
        if (ds_utf8_valid(data + at, length) != length || memchr(data + at, 0, length))
            return ds_fail(DS_CORRUPT, "%s: token %zu is no UTF-8", path, id);
        DS_TRY(ds_scored_add(vocab, data + at, length, score,
                             id < 3 ? DS_PIECE_CONTROL : DS_PIECE_NORMAL));
        at += length;
    }
    return vocab->n >= 3 ? DS_OK
                         : ds_fail(DS_CORRUPT, "%s: no llama2.c tokenizer: too short", path);
}

/* Ids 0, 1, 2 are <unk>, <s>, </s>, which llama2.c writes as "\n<s>\n". */
static const char *const llama_marks[] = {"<unk>", "<s>", "</s>"};

static void put_llama_vocab(const ds_scored_piece *tokens, size_t n, ds_text *json) {
    for (size_t i = 0; i < n; i++) {
        ds_text_puts(json, i ? ",\n" : "\n");
        if (i < 3)
            ds_json_put_string(json, llama_marks[i], strlen(llama_marks[i]));
        else
            ds_json_put_string(json, tokens[i].bytes, tokens[i].length);
        ds_text_printf(json, ": %zu", i);
    }
}

ds_status ds_tokenizer_json_from_llama2c(const char *path, const char *data, size_t size,
                                         ds_text *json) {
    ds_scored_vocab vocab = {0};
    ds_status status = read_scored(path, data, size, &vocab);
    if (status == DS_OK) {
        ds_text_puts(json, "{\"version\": \"1.0\", \"added_tokens\": [");
        for (int i = 0; i < 3; i++)
            ds_json_put_added(json, llama_marks[i], strlen(llama_marks[i]), i, true, i == 0);
        ds_text_puts(json,
                     "],\n\"normalizer\": {\"type\": \"Prepend\", \"prepend\": \" \"},\n"
                     "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": "
                     "\"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", "
                     "\"content\": \" \", \"start\": 1, \"stop\": 0}]},\n\"model\": {\"type\": "
                     "\"BPE\", \"unk_token\": \"<unk>\", \"byte_fallback\": true, \"fuse_unk\": "
                     "true, \"vocab\": {");
        put_llama_vocab(vocab.pieces, vocab.n, json);
        ds_text_puts(json, "}, \"merges\": [");
        status = ds_scored_put_merges(vocab.pieces, vocab.n, json);
        ds_text_puts(json, "]}}\n");
    }
    free(vocab.pieces);
    return status == DS_OK && json->poisoned ? DS_OUT_OF_MEMORY : status;
}
