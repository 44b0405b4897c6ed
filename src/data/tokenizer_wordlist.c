/* BERT's vocab.txt: a token a line, the line's number is its id. What else BERT's tokenizer does
 * was never in a file but in its code; tokenizer_config.json says whether capitals stay. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/scored_pieces.h"
#include "data/tokenizer.h"

static const char *const marks[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
enum { N_MARKS = sizeof marks / sizeof *marks };

static bool flag(const json_t *config, const char *key, bool otherwise) {
    const json_t *v = json_object_get(config, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

/* Calls no one back: fills ids of the marks, and vocab if given. */
static ds_status read_lines(const char *path, const char *data, size_t size, int32_t ids[N_MARKS],
                            ds_text *vocab) {
    int32_t id = 0;
    for (size_t at = 0; at < size; id++) {
        const char *end = memchr(data + at, '\n', size - at);
        const char *line = data + at;
        size_t n = end ? (size_t)(end - line) : size - at;
        at += n + 1;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (memchr(line, 0, n) || ds_utf8_valid(line, n) != n)
            return ds_fail(DS_CORRUPT, "%s:%d: is no UTF-8", path, id + 1);
        for (int i = 0; i < N_MARKS; i++)
            if (strlen(marks[i]) == n && memcmp(marks[i], line, n) == 0)
                ids[i] = id;
        ds_text_puts(vocab, id ? ",\n" : "\n");
        ds_json_put_string(vocab, line, n);
        ds_text_printf(vocab, ": %d", id);
    }
    if (ids[1] < 0 || ids[2] < 0 || ids[3] < 0)
        return ds_fail(DS_CORRUPT, "%s: no vocabulary of BERT: it has no [UNK], [CLS] and [SEP]",
                       path);
    return DS_OK;
}

static void put_file(const json_t *config, const int32_t ids[N_MARKS], const ds_text *vocab,
                     ds_text *json) {
    bool first = true;
    ds_text_puts(json, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (int i = 0; i < N_MARKS; i++)
        if (ids[i] >= 0) {
            ds_json_put_added(json, marks[i], strlen(marks[i]), ids[i], true, first);
            first = false;
        }
    const bool lowercase = flag(config, "do_lower_case", true);
    ds_text_printf(json,
                   "],\n\"normalizer\": {\"type\": \"BertNormalizer\", \"clean_text\": true, "
                   "\"handle_chinese_chars\": %s, \"strip_accents\": %s, \"lowercase\": %s},\n"
                   "\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"},\n",
                   flag(config, "tokenize_chinese_chars", true) ? "true" : "false",
                   flag(config, "strip_accents", lowercase) ? "true" : "false",
                   lowercase ? "true" : "false");
    ds_json_put_marks(json, marks[2], strlen(marks[2]), marks[3], strlen(marks[3]));
    ds_text_puts(json, "\"decoder\": {\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": "
                       "true},\n\"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", "
                       "\"continuing_subword_prefix\": \"##\", \"max_input_chars_per_word\": 100, "
                       "\"vocab\": {");
    ds_text_append(json, vocab->data, vocab->length);
    ds_text_puts(json, "}}}\n");
}

ds_status ds_tokenizer_json_from_wordlist(const char *path, const char *data, size_t size,
                                          const char *config_text, ds_text *json) {
    int32_t ids[N_MARKS] = {-1, -1, -1, -1, -1};
    ds_text vocab = {0};
    ds_status status = read_lines(path, data, size, ids, &vocab);
    if (status == DS_OK && vocab.poisoned)
        status = DS_OUT_OF_MEMORY;
    if (status == DS_OK) {
        /* "model_max_length" is often 1e30, written out */
        json_t *config =
            config_text ? json_loads(config_text, JSON_DECODE_INT_AS_REAL, NULL) : NULL;
        put_file(config, ids, &vocab, json);
        json_decref(config);
        status = json->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
    }
    ds_text_clear(&vocab);
    return status;
}
