/* Older formats, rewritten as the tokenizer.json that means the same, so that there is one loader.
 *
 * GPT-2: encoder.json maps names to ids, vocab.bpe lists the merges, one "a b" a line.
 * llama2.c: a tokenizer.bin of int32 longest, then per token float score, int32 length, bytes. It
 * merges the neighbours whose joint string is the token of the highest score; as a list of merges:
 * every way to cut a token into two tokens, tokens of the highest score first. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

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

typedef struct scored {
    const char *bytes;
    uint32_t length;
    int32_t id;
    float score;
} scored;

static int by_bytes(const void *a, const void *b) {
    const scored *x = a, *y = b;
    const int order = memcmp(x->bytes, y->bytes, x->length < y->length ? x->length : y->length);
    if (order != 0 || x->length == y->length)
        return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
    return x->length > y->length ? 1 : -1;
}

static int by_score(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool has_token(const scored *sorted, size_t n, const char *bytes, size_t length) {
    size_t lo = 0, hi = n;
    const scored wanted = {.bytes = bytes, .length = (uint32_t)length, .id = -1};
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (by_bytes(&sorted[mid], &wanted) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && sorted[lo].length == length && memcmp(sorted[lo].bytes, bytes, length) == 0;
}

static ds_status read_scored(const char *path, const char *data, size_t size, scored **out,
                             size_t *n) {
    size_t capacity = 0;
    for (size_t at = 4; at < size; ++*n) {
        scored t = {.id = (int32_t)*n};
        if (size - at < 8)
            return ds_fail(DS_CORRUPT, "%s: ends inside token %zu", path, *n);
        memcpy(&t.score, data + at, 4);
        memcpy(&t.length, data + at + 4, 4);
        at += 8;
        if (t.length > size - at || !(t.score == t.score))
            return ds_fail(DS_CORRUPT, "%s: token %zu has a length of %u, %zu bytes are left", path,
                           *n, t.length, size - at);
        t.bytes = data + at;
        at += t.length;
        if (ds_utf8_valid(t.bytes, t.length) != t.length || memchr(t.bytes, 0, t.length))
            return ds_fail(DS_CORRUPT, "%s: token %zu is no UTF-8", path, *n);
        scored *grown = ds_grow(*out, &capacity, *n + 1, sizeof **out);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        *out = grown;
        (*out)[*n] = t;
    }
    return *n >= 3 ? DS_OK : ds_fail(DS_CORRUPT, "%s: no llama2.c tokenizer: too short", path);
}

/* Ids 0, 1, 2 are <unk>, <s>, </s>, which llama2.c writes as "\n<s>\n". */
static const char *const llama_marks[] = {"<unk>", "<s>", "</s>"};

static void put_llama_vocab(const scored *tokens, size_t n, ds_text *json) {
    for (size_t i = 0; i < n; i++) {
        ds_text_puts(json, i ? ",\n" : "\n");
        if (i < 3)
            ds_json_put_string(json, llama_marks[i], strlen(llama_marks[i]));
        else
            ds_json_put_string(json, tokens[i].bytes, tokens[i].length);
        ds_text_printf(json, ": %zu", i);
    }
}

static void put_llama_merges(const scored *by_rank, const scored *sorted, size_t n, ds_text *json) {
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        const scored *t = &by_rank[i];
        for (size_t cut = 1; cut < t->length && t->id >= 3; cut++) {
            if (!has_token(sorted, n, t->bytes, cut) ||
                !has_token(sorted, n, t->bytes + cut, t->length - cut))
                continue;
            ds_text_puts(json, first ? "\n[" : ",\n[");
            ds_json_put_string(json, t->bytes, cut);
            ds_text_puts(json, ", ");
            ds_json_put_string(json, t->bytes + cut, t->length - cut);
            ds_text_puts(json, "]");
            first = false;
        }
    }
}

ds_status ds_tokenizer_json_from_llama2c(const char *path, const char *data, size_t size,
                                         ds_text *json) {
    scored *tokens = NULL, *sorted = NULL;
    size_t n = 0;
    ds_status status = read_scored(path, data, size, &tokens, &n);
    if (status == DS_OK && !(sorted = ds_malloc(n * sizeof *sorted)))
        status = DS_OUT_OF_MEMORY;
    if (status == DS_OK) {
        memcpy(sorted, tokens, n * sizeof *sorted);
        qsort(sorted, n, sizeof *sorted, by_bytes);
        ds_text_puts(json, "{\"version\": \"1.0\", \"added_tokens\": [");
        for (int i = 0; i < 3; i++)
            ds_text_printf(json,
                           "%s{\"id\": %d, \"content\": \"%s\", \"special\": true, "
                           "\"normalized\": false}",
                           i ? ", " : "", i, llama_marks[i]);
        ds_text_puts(json,
                     "],\n\"normalizer\": {\"type\": \"Prepend\", \"prepend\": \" \"},\n"
                     "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": "
                     "\"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", "
                     "\"content\": \" \", \"start\": 1, \"stop\": 0}]},\n\"model\": {\"type\": "
                     "\"BPE\", \"unk_token\": \"<unk>\", \"byte_fallback\": true, \"fuse_unk\": "
                     "true, \"vocab\": {");
        put_llama_vocab(tokens, n, json);
        ds_text_puts(json, "}, \"merges\": [");
        qsort(tokens, n, sizeof *tokens, by_score);
        put_llama_merges(tokens, sorted, n, json);
        ds_text_puts(json, "]}}\n");
        status = json->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
    }
    free(tokens);
    free(sorted);
    return status;
}
