/* Tokenizers against the vectors published for real vocabularies; round trips on any bytes; refusal
 * of files that contradict themselves; training. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"
#include "deepseek/tokenizer.h"

static ds_tokenizer *load_asset(const char *path) {
    if (access(path, R_OK) != 0) {
        print_message("%s is not there: skipped\n", path);
        skip();
    }
    ds_tokenizer *tok = NULL;
    if (ds_tokenizer_load(path, &tok) != DS_OK)
        fail_msg("%s", ds_error());
    return tok;
}

static void expect_ids(const ds_tokenizer *tok, const char *text, size_t length,
                       const int32_t *wanted, size_t n_wanted) {
    int32_t *ids = NULL;
    size_t n = 0;
    if (ds_tokenizer_encode(tok, text, length, &ids, &n) != DS_OK)
        fail_msg("%s", ds_error());
    for (size_t i = 0; i < n && i < n_wanted; i++)
        if (ids[i] != wanted[i])
            fail_msg("\"%.*s\": token %zu is %d, not %d", (int)length, text, i, ids[i], wanted[i]);
    assert_int_equal(n, n_wanted);
    free(ids);
}

static void expect_round_trip(const ds_tokenizer *tok, const char *text, size_t length) {
    int32_t *ids = NULL;
    size_t n = 0, m = 0;
    char *back = NULL;
    if (ds_tokenizer_encode(tok, text, length, &ids, &n) != DS_OK ||
        ds_tokenizer_decode(tok, ids, n, &back, &m) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(m, length);
    assert_memory_equal(back, text, length);
    free(ids);
    free(back);
}

/* ---- Published vectors -------------------------------------------------------------------- */

/* llama.cpp's files: texts between marker lines, and a line of ids for each. */
static void check_vectors(const ds_tokenizer *tok, const char *name, int wanted) {
    static const char marker[] = "\n__ggml_vocab_test__\n";
    char path[512], *inputs = NULL, *outputs = NULL;
    size_t n = 0, m = 0;
    snprintf(path, sizeof path, DS_ASSETS "/vocab/%s.gguf.inp", name);
    assert_int_equal(ds_file_read(path, 1 << 20, &inputs, &n), DS_OK);
    snprintf(path, sizeof path, DS_ASSETS "/vocab/%s.gguf.out", name);
    assert_int_equal(ds_file_read(path, 1 << 20, &outputs, &m), DS_OK);
    char *line = outputs;
    int count = 0;
    for (char *text = inputs; text;) {
        char *end = strstr(text, marker);
        if (!end)
            break;
        int32_t ids[512];
        size_t n_ids = 0;
        char *line_end = strchr(line, '\n');
        for (char *p = line; p && p < line_end;) {
            char *next = NULL;
            const long id = strtol(p, &next, 10);
            if (next == p)
                break;
            ids[n_ids++] = (int32_t)id;
            p = next;
        }
        expect_ids(tok, text, (size_t)(end - text), ids, n_ids);
        expect_round_trip(tok, text, (size_t)(end - text));
        count++;
        text = end + strlen(marker);
        line = line_end + 1;
    }
    assert_int_equal(count, wanted);
    free(inputs);
    free(outputs);
}

static void gpt2_gives_the_published_ids(void **state) {
    (void)state;
    ds_tokenizer *tok = load_asset(DS_ASSETS "/tokenizers/gpt2.encoder.json");
    assert_int_equal(ds_tokenizer_vocab_size(tok), 50257);
    assert_int_equal(ds_tokenizer_eos(tok), 50256);
    check_vectors(tok, "ggml-vocab-gpt-2", 46);
    expect_ids(tok, "a<|endoftext|>", 14, (int32_t[]){64, 50256}, 2);
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(ds_tokenizer_encode_plain(tok, "<|endoftext|>", 13, &ids, &n), DS_OK);
    assert_int_equal(n, 7); /* spelled out, it does not end the text */
    free(ids);
    ds_tokenizer_free(tok);
}

static void deepseek_v3_gives_the_published_ids(void **state) {
    (void)state;
    ds_tokenizer *tok = load_asset(DS_ASSETS "/tokenizers/deepseek_v3.tokenizer.json");
    json_t *golden = json_load_file(DS_ASSETS "/tokenizers/golden_lenml.json", 0, NULL);
    json_t *texts = json_object_get(golden, "texts");
    json_t *lists = json_object_get(golden, "deepseek_v3");
    assert_true(json_array_size(texts) > 0);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        json_t *text = json_array_get(texts, i), *list = json_array_get(lists, i);
        int32_t ids[256];
        size_t n = json_array_size(list);
        assert_true(n < 256);
        for (size_t k = 0; k < n; k++)
            ids[k] = (int32_t)json_integer_value(json_array_get(list, k));
        expect_ids(tok, json_string_value(text), json_string_length(text), ids, n);
        expect_round_trip(tok, json_string_value(text), json_string_length(text));
    }
    json_decref(golden);
    assert_int_equal(ds_tokenizer_bos(tok), 0);
    assert_int_equal(ds_tokenizer_eos(tok), 1);
    assert_true(ds_tokenizer_is_special(tok, 0));
    ds_tokenizer_free(tok);
}

static void a_sentencepiece_style_vocabulary_gives_the_known_ids(void **state) {
    (void)state;
    ds_tokenizer *tok = load_asset(DS_ASSETS "/tinystories656k");
    expect_ids(tok, "Once upon a time", 16, (int32_t[]){80, 147, 201, 282, 57}, 5);
    /* it has no tokens for single bytes, so the emoji is <unk> */
    expect_ids(tok, "Once  upon\n a time \xf0\x9f\x99\x82", 23,
               (int32_t[]){80, 147, 201, 80, 189, 111, 3, 104, 1176, 0}, 10);
    expect_round_trip(tok, "Once  upon\n a time", 18);
    assert_int_equal(ds_tokenizer_bos(tok), 1);
    assert_int_equal(ds_tokenizer_eos(tok), 2);
    ds_tokenizer_free(tok);
}

static void llama2c_tokens_round_trip(void **state) {
    (void)state;
    ds_tokenizer *tok = load_asset(DS_ASSETS "/stories260K/tok512.bin");
    assert_int_equal(ds_tokenizer_vocab_size(tok), 512);
    /* the prompt of llama2.c's example: <s> apart, "Once upon a time" */
    expect_ids(tok, "Once upon a time", 16, (int32_t[]){403, 407, 261, 378}, 4);
    expect_round_trip(tok, "Once upon a time, Zo\xc3\xab said \"\xe5\xba\x8a\"!\n", 35);
    ds_tokenizer_free(tok);
}

static void llama2_gives_the_published_ids(void **state) {
    (void)state;
    ds_tokenizer *tok = load_asset(DS_ASSETS "/llama2_sp/tokenizer.bin");
    assert_int_equal(ds_tokenizer_vocab_size(tok), 32000);
    check_vectors(tok, "ggml-vocab-llama-spm", 46);
    ds_tokenizer_free(tok);
}

/* ---- Training ----------------------------------------------------------------------------- */

static char *make_text(size_t words) {
    static const char *const stems[] = {"begin", "heaven", "earth", "light", "water", "creature",
                                        "wood",  "fruit",  "seed",  "day",   "night", "firmament"};
    static const char *const ends[] = {"", "s", "ing", "ed", "ly", ",", ".\n", "\n\n", "'s", " 42"};
    ds_text text = {0};
    for (size_t i = 0; i < words; i++) {
        const uint64_t r = ds_mix64(i);
        ds_text_printf(&text, "%s%s ", stems[r % 12], ends[(r >> 8) % 10]);
    }
    return ds_text_take(&text);
}

static ds_tokenizer *train(const char *path, int64_t vocab_size, int threads) {
    static const char *const specials[] = {"<|endoftext|>"};
    ds_bpe_train_opts opts = DS_BPE_TRAIN_DEFAULTS;
    opts.vocab_size = vocab_size;
    opts.special_tokens = specials;
    opts.n_special = 1;
    opts.threads = threads;
    ds_tokenizer *tok = NULL;
    if (ds_bpe_train(&path, 1, &opts, &tok) != DS_OK)
        fail_msg("%s", ds_error());
    return tok;
}

static void training_depends_on_the_text_alone(void **state) {
    (void)state;
    char path[] = "/tmp/ds-tokenizer-XXXXXX.txt", saved[64];
    close(mkstemps(path, 4));
    char *text = make_text(200000), *one = NULL, *three = NULL;
    size_t n = 0, m = 0;
    assert_int_equal(ds_file_replace(path, text, strlen(text)), DS_OK);
    snprintf(saved, sizeof saved, "%s.json", path);
    ds_tokenizer *tok = train(path, 400, 1);
    assert_int_equal(ds_tokenizer_save(tok, saved), DS_OK);
    assert_int_equal(ds_file_read(saved, 1 << 20, &one, &n), DS_OK);
    ds_tokenizer_free(tok);
    tok = train(path, 400, 3);
    assert_int_equal(ds_tokenizer_save(tok, saved), DS_OK);
    assert_int_equal(ds_file_read(saved, 1 << 20, &three, &m), DS_OK);
    ds_tokenizer_free(tok);
    assert_int_equal(n, m);
    assert_memory_equal(one, three, n);
    assert_int_equal(ds_tokenizer_load(saved, &tok), DS_OK);
    assert_int_equal(ds_tokenizer_find(tok, "<|endoftext|>"), 0);
    assert_int_equal(ds_tokenizer_eos(tok), 0);
    assert_true(ds_tokenizer_find(tok, "Ġfirmament") > 256);
    expect_round_trip(tok, text, strlen(text));
    ds_tokenizer_free(tok);
    unlink(path);
    unlink(saved);
    free(text);
    free(one);
    free(three);
}

/* ---- Any bytes ---------------------------------------------------------------------------- */

static ds_tokenizer *small(void) {
    char path[] = "/tmp/ds-tokenizer-XXXXXX.txt";
    close(mkstemps(path, 4));
    char *text = make_text(20000);
    assert_int_equal(ds_file_replace(path, text, strlen(text)), DS_OK);
    ds_tokenizer *tok = train(path, 350, 0);
    unlink(path);
    free(text);
    return tok;
}

static void any_bytes_come_back(void **state) {
    (void)state;
    ds_tokenizer *tok = small();
    uint64_t draws = 0;
    for (int round = 0; round < 300; round++) {
        char bytes[400];
        const size_t n = ds_mix64(draws++) % sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (char)(ds_mix64(draws++) >> (round % 2 ? 56 : 58));
        expect_round_trip(tok, bytes, n);
    }
    expect_round_trip(tok, "", 0);
    ds_tokenizer_free(tok);
}

static void the_stream_never_splits_a_character(void **state) {
    (void)state;
    ds_tokenizer *tok = small();
    static const char text[] = "day \xe5\xba\x8a\xf0\x9f\x99\x82 \xff\xe5\xba night\xc3";
    static const char shown[] = "day \xe5\xba\x8a\xf0\x9f\x99\x82 \xef\xbf\xbd\xef\xbf\xbd night"
                                "\xef\xbf\xbd";
    int32_t *ids = NULL;
    size_t n = 0, length = 0;
    const char *part = NULL;
    assert_int_equal(ds_tokenizer_encode(tok, text, sizeof text - 1, &ids, &n), DS_OK);
    ds_detokenizer *d = ds_detokenizer_new(tok);
    ds_text all = {0};
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ds_detokenizer_push(d, ids[i], &part, &length), DS_OK);
        assert_true(length == 0 || (part[0] & 0xc0) != 0x80);
        ds_text_append(&all, part, length);
    }
    assert_int_equal(ds_detokenizer_finish(d, &part, &length), DS_OK);
    ds_text_append(&all, part, length);
    assert_string_equal(all.data, shown);
    assert_int_equal(ds_detokenizer_push(d, 350000, &part, &length), DS_INVALID);
    ds_text_clear(&all);
    ds_detokenizer_free(d);
    free(ids);
    ds_tokenizer_free(tok);
}

/* Encodes one word of 2^log2_length + 3 times 'a'. Returns the processor time, which does not
 * depend on what else the machine does. */
static double encode_word(const ds_tokenizer *tok, int log2_length) {
    const size_t length = ((size_t)1 << log2_length) + 3;
    char *text = malloc(length);
    assert_non_null(text);
    memset(text, 'a', length);
    int32_t *ids = NULL;
    size_t n = 0;
    const clock_t start = clock();
    assert_int_equal(ds_tokenizer_encode(tok, text, length, &ids, &n), DS_OK);
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    assert_int_equal(n, length / 4 + 2);
    assert_int_equal(ids[0], 2);
    assert_int_equal(ids[n - 2], 1);
    assert_int_equal(ids[n - 1], 0);
    free(ids);
    free(text);
    return seconds;
}

static void a_long_word_takes_no_quadratic_time(void **state) {
    (void)state;
    static const char json[] =
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"aa\": 1, \"aaaa\": 2}, "
        "\"merges\": [\"a a\", [\"aa\", \"aa\"]]}}";
    ds_tokenizer *tok = NULL;
    assert_int_equal(ds_tokenizer_from_json(json, sizeof json - 1, &tok), DS_OK);
    /* 16 times the length: 20 times the time by n log n, 256 times by n^2 */
    double shorter = 0, longer = 0;
    for (int i = 0; i < 3; i++)
        shorter += encode_word(tok, 16) / 3;
    longer = encode_word(tok, 20);
    if (longer > 80 * shorter)
        fail_msg("%g s for 16 times the word of %g s", longer, shorter);
    ds_tokenizer_free(tok);
}

/* ---- Added tokens ------------------------------------------------------------------------- */

static void added_tokens_take_what_their_flags_say(void **state) {
    (void)state;
    static const char json[] =
        "{\"added_tokens\": ["
        "{\"id\": 4, \"content\": \"<m>\", \"special\": true, \"lstrip\": true},"
        "{\"id\": 5, \"content\": \"<r>\", \"special\": true, \"rstrip\": true},"
        "{\"id\": 6, \"content\": \"ab\", \"special\": false, \"single_word\": true},"
        "{\"id\": 7, \"content\": \"<m>>\", \"special\": true}],"
        "\"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", \"vocab\": {\"?\": 0, \"a\": 1, "
        "\"b\": 2, \" \": 3}, \"merges\": []}}";
    ds_tokenizer *tok = NULL;
    if (ds_tokenizer_from_json(json, sizeof json - 1, &tok) != DS_OK)
        fail_msg("%s", ds_error());
    expect_ids(tok, "a  <m> b", 8, (int32_t[]){1, 4, 3, 2}, 4);
    expect_ids(tok, "a <r>  b", 8, (int32_t[]){1, 3, 5, 2}, 4);
    expect_ids(tok, "ab aab ab", 9, (int32_t[]){6, 3, 1, 1, 2, 3, 6}, 7);
    expect_ids(tok, "<m>><m>", 7, (int32_t[]){7, 4}, 2); /* the longest at a place */
    expect_ids(tok, "\xff", 1, (int32_t[]){0}, 1);
    assert_false(ds_tokenizer_is_special(tok, 6));
    assert_false(ds_tokenizer_is_special(tok, 8));
    ds_tokenizer_free(tok);
}

/* Every allocation fails once: each time either DS_OUT_OF_MEMORY comes back or all went well. */
static void running_out_of_memory_is_an_answer(void **state) {
    (void)state;
    static const char json[] =
        "{\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"Metaspace\", "
        "\"replacement\": \"_\"}, \"added_tokens\": [{\"id\": 4, \"content\": \"<m>\", "
        "\"special\": true}], \"model\": {\"type\": \"BPE\", \"vocab\": {\"_\": 0, \"a\": 1, "
        "\"_a\": 2}, \"merges\": [\"_ a\"]}}";
    int failures = 0;
    for (long n = 1;; n++) {
        ds_tokenizer *tok = NULL;
        int32_t *ids = NULL;
        size_t count = 0;
        ds_fault_arm(DS_FAULT_ALLOC, n);
        ds_status status = ds_tokenizer_from_json(json, sizeof json - 1, &tok);
        if (status == DS_OK)
            status = ds_tokenizer_encode(tok, "a a<m>a", 7, &ids, &count);
        ds_fault_arm(DS_FAULT_ALLOC, 0);
        free(ids);
        ds_tokenizer_free(tok);
        if (status == DS_OK)
            break;
        assert_int_equal(status, DS_OUT_OF_MEMORY);
        assert_true(++failures < 1000);
    }
    assert_true(failures > 10);
}

/* ---- Refusals ----------------------------------------------------------------------------- */

static void wrong_files_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *json;
        ds_status status;
        const char *says;
    } cases[] = {
        {"{", DS_CORRUPT, "line 1"},
        {"[]", DS_CORRUPT, "object"},
        {"{}", DS_CORRUPT, "\"model\""},
        {"{\"model\": {\"type\": \"WordLevel\"}}", DS_UNSUPPORTED, "WordLevel"},
        {"{\"model\": {\"type\": \"BPE\"}}", DS_CORRUPT, "\"vocab\""},
        {"{\"model\": {\"vocab\": {\"a\": 0}}}", DS_CORRUPT, "\"merges\""},
        {"{\"model\": {\"vocab\": {}, \"merges\": []}}", DS_CORRUPT, "empty"},
        {"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}", DS_CORRUPT, "\"a\""},
        {"{\"model\": {\"vocab\": {\"a\": 99999999}, \"merges\": []}}", DS_CORRUPT, "\"a\""},
        {"{\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}, \"merges\": []}}", DS_CORRUPT, "same id 1"},
        {"{\"model\": {\"vocab\": {\"a\": 1, \"b\": 2}, \"merges\": [\"a b\"]}}", DS_CORRUPT,
         "\"ab\""},
        {"{\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [\"a\"]}}", DS_CORRUPT, "merge 0"},
        {"{\"pre_tokenizer\": {\"type\": \"Odd\"}, \"model\": {\"vocab\": {\"a\": 1}, \"merges\": "
         "[]}}",
         DS_UNSUPPORTED, "\"Odd\""},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": "
         "{\"Regex\": \"(\"}}, \"model\": {\"vocab\": {\"a\": 1}, \"merges\": []}}",
         DS_INVALID, "pattern"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_tokenizer *tok = NULL;
        assert_int_equal(ds_tokenizer_from_json(cases[i].json, strlen(cases[i].json), &tok),
                         cases[i].status);
        if (!strstr(ds_error(), cases[i].says))
            fail_msg("\"%s\" does not say %s", ds_error(), cases[i].says);
        assert_null(tok);
    }
    ds_tokenizer *tok = NULL;
    assert_int_equal(ds_tokenizer_load("/nowhere/tokenizer.json", &tok), DS_NOT_FOUND);
}

/* ---- Vocabularies of today's make ----------------------------------------------------------- */

/* tests/data/tokenizers/NAME.json against what Hugging Face's library makes of the same texts. */
static void check_golden(const char *name) {
    char path[512];
    ds_tokenizer *tok = NULL;
    json_error_t error;
    snprintf(path, sizeof path, DS_TEST_DATA "/tokenizers/%s.json", name);
    if (ds_tokenizer_load(path, &tok) != DS_OK)
        fail_msg("%s", ds_error());
    snprintf(path, sizeof path, DS_TEST_DATA "/tokenizers/%s.expected.json", name);
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &error);
    assert_true(json_array_size(cases) > 20);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *text = json_object_get(json_array_get(cases, i), "text");
        const json_t *list = json_object_get(json_array_get(cases, i), "ids");
        int32_t ids[256];
        const size_t n = json_array_size(list);
        assert_true(n <= 256);
        for (size_t k = 0; k < n; k++)
            ids[k] = (int32_t)json_integer_value(json_array_get(list, k));
        expect_ids(tok, json_string_value(text), json_string_length(text), ids, n);
    }
    json_decref(cases);
    ds_tokenizer_free(tok);
}

static void llama3_golden(void **state) {
    (void)state;
    check_golden("llama3"); /* ignore_merges, merges as pairs, added tokens that strip */
}

static void deepseek_golden(void **state) {
    (void)state;
    check_golden("deepseek"); /* three stages of Split */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama3_golden),
        cmocka_unit_test(deepseek_golden),
        cmocka_unit_test(gpt2_gives_the_published_ids),
        cmocka_unit_test(deepseek_v3_gives_the_published_ids),
        cmocka_unit_test(a_sentencepiece_style_vocabulary_gives_the_known_ids),
        cmocka_unit_test(llama2c_tokens_round_trip),
        cmocka_unit_test(llama2_gives_the_published_ids),
        cmocka_unit_test(training_depends_on_the_text_alone),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(the_stream_never_splits_a_character),
        cmocka_unit_test(a_long_word_takes_no_quadratic_time),
        cmocka_unit_test(added_tokens_take_what_their_flags_say),
        cmocka_unit_test(running_out_of_memory_is_an_answer),
        cmocka_unit_test(wrong_files_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
