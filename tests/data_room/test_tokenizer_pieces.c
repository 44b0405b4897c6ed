/* WordPiece, Unigram and SentencePiece vocabularies, and those in GGUF files, against what the
 * libraries that they are from say of hard texts; the marks around a text; refusals. */
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
#include "base/gguf.h"
#include "data/tokenizer.h"

#define FOLDER DS_TEST_DATA "/tokenizers/"

static ds_tokenizer *load(const char *path) {
    ds_tokenizer *tok = NULL;
    if (ds_tokenizer_load(path, &tok) != DS_OK)
        fail_msg("%s", ds_error());
    return tok;
}

static ds_tokenizer *load_asset(const char *path) {
    if (access(path, R_OK) != 0) {
        print_message("%s is not there: skipped\n", path);
        skip();
    }
    return load(path);
}

static void expect_list(const char *text, const int32_t *ids, size_t n, const json_t *wanted) {
    for (size_t i = 0; i < n && i < json_array_size(wanted); i++) {
        const int32_t id = (int32_t)json_integer_value(json_array_get(wanted, i));
        if (ids[i] != id)
            fail_msg("\"%s\": token %zu is %d, not %d", text, i, ids[i], id);
    }
    if (n != json_array_size(wanted))
        fail_msg("\"%s\": %zu tokens, not %zu", text, n, json_array_size(wanted));
}

/* All tokens are plain ones, whose text is the same for every library. */
static bool all_plain(const ds_tokenizer *tok, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (ds_tokenizer_is_special(tok, ids[i]))
            return false;
    return true;
}

static void expect_text(const ds_tokenizer *tok, const int32_t *ids, size_t n, const json_t *want) {
    if (!want) /* older lists do not say it */
        return;
    char *text = NULL;
    size_t length = 0;
    assert_int_equal(ds_tokenizer_decode(tok, ids, n, &text, &length), DS_OK);
    if (length != json_string_length(want) || memcmp(text, json_string_value(want), length) != 0)
        fail_msg("\"%s\" is not \"%s\"", text, json_string_value(want));
    free(text);
}

/* The same text piece by piece, but for bytes that are no UTF-8. */
static void expect_stream(const ds_tokenizer *tok, const int32_t *ids, size_t n) {
    char *whole = NULL;
    size_t length = 0, given = 0;
    ds_text all = {0};
    const char *part = NULL;
    ds_detokenizer *d = ds_detokenizer_new(tok);
    assert_int_equal(ds_tokenizer_decode(tok, ids, n, &whole, &length), DS_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ds_detokenizer_push(d, ids[i], &part, &given), DS_OK);
        assert_int_equal(ds_utf8_valid(part, given), given);
        ds_text_append(&all, part, given);
    }
    assert_int_equal(ds_detokenizer_finish(d, &part, &given), DS_OK);
    ds_text_append(&all, part, given);
    if (ds_utf8_valid(whole, length) == length && all_plain(tok, ids, n)) {
        assert_int_equal(all.length, length);
        assert_memory_equal(all.data ? all.data : "", whole, length);
    }
    ds_text_clear(&all);
    ds_detokenizer_free(d);
    free(whole);
}

static void check_case(const ds_tokenizer *tok, const json_t *c, bool marks_are_text) {
    const json_t *text = json_object_get(c, "text"), *marked = json_object_get(c, "marked");
    const char *bytes = json_string_value(text);
    const size_t length = json_string_length(text);
    int32_t *ids = NULL;
    size_t n = 0;
    if ((marks_are_text ? ds_tokenizer_encode_plain(tok, bytes, length, &ids, &n)
                        : ds_tokenizer_encode(tok, bytes, length, &ids, &n)) != DS_OK)
        fail_msg("%s", ds_error());
    expect_list(bytes, ids, n, json_object_get(c, "ids"));
    if (all_plain(tok, ids, n))
        expect_text(tok, ids, n, json_object_get(c, "decoded"));
    expect_stream(tok, ids, n);
    free(ids);
    if (!marked)
        return;
    assert_int_equal(ds_tokenizer_encode_marked(tok, bytes, length, 0, &ids, &n), DS_OK);
    expect_list(bytes, ids, n, marked);
    free(ids);
}

static void check_golden(const ds_tokenizer *tok, const char *name, bool marks_are_text) {
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, FOLDER "%s.expected.json", name);
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &error);
    assert_true(json_array_size(cases) > 20);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(tok, json_array_get(cases, i), marks_are_text);
    json_decref(cases);
}

static void check(const char *file, const char *name, bool marks_are_text) {
    char path[512];
    snprintf(path, sizeof path, FOLDER "%s", file);
    ds_tokenizer *tok = load(path);
    check_golden(tok, name, marks_are_text);
    /* what is saved is the same tokenizer */
    char saved[] = "/tmp/ds-pieces-XXXXXX.json";
    close(mkstemps(saved, 5));
    assert_int_equal(ds_tokenizer_save(tok, saved), DS_OK);
    ds_tokenizer_free(tok);
    tok = load(saved);
    check_golden(tok, name, marks_are_text);
    ds_tokenizer_free(tok);
    unlink(saved);
}

static void wordpiece_is_hugging_faces(void **state) {
    (void)state;
    check("bert.json", "bert", false);
    check("bert.vocab.txt", "bert", false);
}

static void unigram_is_hugging_faces(void **state) {
    (void)state;
    check("unigram.json", "unigram", false);
}

static void sentencepiece_models_are_its_own(void **state) {
    (void)state;
    static const char *const names[] = {"sp_unigram", "sp_bytes", "sp_bpe", "sp_bpe_bare"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char file[64];
        snprintf(file, sizeof file, "%s.model", names[i]);
        check(file, names[i], true); /* SentencePiece reads no marks out of a text */
    }
}

static void llama2_is_sentencepieces(void **state) {
    (void)state;
    ds_tokenizer *tok = load_asset(DS_ASSETS "/llama2_sp/tokenizer.model");
    assert_int_equal(ds_tokenizer_vocab_size(tok), 32000);
    assert_int_equal(ds_tokenizer_bos(tok), 1);
    assert_int_equal(ds_tokenizer_eos(tok), 2);
    check_golden(tok, "llama2_sp", true);
    ds_tokenizer_free(tok);
}

/* ---- vocabularies in GGUF files -------------------------------------------------------------- */

/* The vocabularies above in this format. */
static void gguf_vocabularies_are_those_they_were_made_of(void **state) {
    (void)state;
    check("sp_bpe.gguf", "sp_bpe", true);
    check("sp_unigram.gguf", "sp_unigram", true);
    check("bert.gguf", "bert", false);
    ds_tokenizer *tok = load(FOLDER "sp_bpe.gguf");
    assert_int_equal(ds_tokenizer_bos(tok), 1);
    assert_int_equal(ds_tokenizer_eos(tok), 2);
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(ds_tokenizer_encode_marked(tok, "the", 3, 0, &ids, &n), DS_OK);
    assert_true(n > 1 && ids[0] == 1 && ids[n - 1] != 2); /* Llama's texts begin with a mark */
    free(ids);
    ds_tokenizer_free(tok);
}

/* A byte-level one. Its added tokens have flags that the format does not tell, so plain texts. */
static void gguf_patterns_are_those_of_the_families(void **state) {
    (void)state;
    ds_tokenizer *tok = load(FOLDER "llama3.gguf");
    json_t *cases = json_load_file(FOLDER "llama3.expected.json", JSON_ALLOW_NUL, NULL);
    int n = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        const char *text = json_string_value(json_object_get(c, "text"));
        if (strpbrk(text, "<[") || strstr(text, "word"))
            continue;
        check_case(tok, c, false);
        n++;
    }
    assert_true(n > 15);
    json_decref(cases);
    ds_tokenizer_free(tok);
}

static void unknown_patterns_are_named(void **state) {
    (void)state;
    char *data = NULL;
    size_t size = 0;
    ds_gguf *g = NULL;
    ds_text json = {0};
    assert_int_equal(ds_file_read(FOLDER "llama3.gguf", 1 << 20, &data, &size), DS_OK);
    char *name = memmem(data, size, "llama-bpe", 9);
    assert_non_null(name);
    name[0] = 'x';
    assert_int_equal(ds_gguf_parse((unsigned char *)data, size, "x.gguf", &g), DS_OK);
    assert_int_equal(ds_tokenizer_json_from_gguf(g, &json), DS_UNSUPPORTED);
    assert_non_null(strstr(ds_error(), "\"xlama-bpe\""));
    assert_non_null(strstr(ds_error(), "qwen2"));
    ds_text_clear(&json);
    ds_gguf_close(g);
    free(data);
}

/* llama.cpp's files: texts between marker lines, and a line of ids for each. */
static void check_vectors(const char *name) {
    static const char marker[] = "\n__ggml_vocab_test__\n";
    char path[512], *inputs = NULL, *outputs = NULL;
    size_t n = 0, m = 0, count = 0;
    snprintf(path, sizeof path, DS_ASSETS "/vocab/ggml-vocab-%s.gguf", name);
    ds_tokenizer *tok = load_asset(path);
    snprintf(path, sizeof path, DS_ASSETS "/vocab/ggml-vocab-%s.gguf.inp", name);
    assert_int_equal(ds_file_read(path, 1 << 20, &inputs, &n), DS_OK);
    snprintf(path, sizeof path, DS_ASSETS "/vocab/ggml-vocab-%s.gguf.out", name);
    assert_int_equal(ds_file_read(path, 1 << 20, &outputs, &m), DS_OK);
    char *line = outputs;
    for (char *text = inputs, *end; (end = strstr(text, marker)); count++) {
        int32_t *ids = NULL;
        size_t n_ids = 0, k = 0;
        if (ds_tokenizer_encode(tok, text, (size_t)(end - text), &ids, &n_ids) != DS_OK)
            fail_msg("%s", ds_error());
        char *line_end = strchr(line, '\n'), *next = line;
        for (char *p = line; p < line_end; p = next) {
            const long id = strtol(p, &next, 10);
            if (next == p || next > line_end)
                break;
            if (k >= n_ids || ids[k++] != id)
                fail_msg("%s: \"%.*s\": token %zu is not %ld", name, (int)(end - text), text, k,
                         id);
        }
        assert_int_equal(k, n_ids);
        free(ids);
        text = end + strlen(marker);
        line = line_end + 1;
    }
    assert_int_equal(count, 46);
    free(inputs);
    free(outputs);
    ds_tokenizer_free(tok);
}

static void gguf_bert_gives_the_published_ids(void **state) {
    (void)state;
    check_vectors("bert-bge");
}

static void gguf_gpt2_gives_the_published_ids(void **state) {
    (void)state;
    check_vectors("gpt-2");
}

static void gguf_deepseek_gives_the_published_ids(void **state) {
    (void)state;
    check_vectors("deepseek-llm");
}

static void gguf_llama_gives_the_published_ids(void **state) {
    (void)state;
    check_vectors("llama-spm");
}

/* ---- marks around a text --------------------------------------------------------------------- */

static void expect_marked(const ds_tokenizer *tok, const char *text, size_t most,
                          const int32_t *wanted, size_t n_wanted) {
    int32_t *ids = NULL;
    size_t n = 0;
    if (ds_tokenizer_encode_marked(tok, text, strlen(text), most, &ids, &n) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(n, n_wanted);
    assert_memory_equal(ids, wanted, n * sizeof *ids);
    free(ids);
}

static void a_long_text_keeps_its_marks(void **state) {
    (void)state;
    static const char json[] =
        "{\"post_processor\": {\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\"}, "
        "{\"type\": \"RobertaProcessing\", \"cls\": [\"<\", 1], \"sep\": [\">\", 2]}]}, \"model\": "
        "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"<\": 1, \">\": 2}, \"merges\": []}}";
    ds_tokenizer *tok = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(ds_tokenizer_from_json(json, sizeof json - 1, &tok), DS_OK);
    expect_marked(tok, "aaa", 0, (int32_t[]){1, 0, 0, 0, 2}, 5);
    expect_marked(tok, "aaa", 5, (int32_t[]){1, 0, 0, 0, 2}, 5);
    expect_marked(tok, "aaa", 4, (int32_t[]){1, 0, 0, 2}, 4);
    expect_marked(tok, "aaa", 2, (int32_t[]){1, 2}, 2);
    expect_marked(tok, "", 0, (int32_t[]){1, 2}, 2);
    assert_int_equal(ds_tokenizer_encode_marked(tok, "a", 1, 1, &ids, &n), DS_INVALID);
    ds_tokenizer_free(tok);
}

/* Marks that a stranger writes out are text, also where the vocabulary lists them as pieces. */
static void marks_in_plain_text_are_text(void **state) {
    (void)state;
    ds_tokenizer *tok = load(FOLDER "unigram.json");
    const int32_t end = ds_tokenizer_find(tok, "</s>");
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(ds_tokenizer_encode(tok, "</s>", 4, &ids, &n), DS_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], end);
    free(ids);
    assert_int_equal(ds_tokenizer_encode_plain(tok, "</s>", 4, &ids, &n), DS_OK);
    for (size_t i = 0; i < n; i++)
        assert_int_not_equal(ids[i], end);
    free(ids);
    ds_tokenizer_free(tok);
}

/* 16 times the spaces within a text: 16 times the work, not 256 times. */
static double trim_spaces(const ds_tokenizer *tok, size_t n) {
    char *text = malloc(n + 2);
    int32_t *ids = NULL;
    size_t n_ids = 0;
    assert_non_null(text);
    memset(text, ' ', n + 2);
    text[0] = text[n + 1] = 'a';
    const clock_t start = clock(); /* processor time: what else the machine does is nothing to it */
    assert_int_equal(ds_tokenizer_encode(tok, text, n + 2, &ids, &n_ids), DS_OK);
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    free(ids);
    free(text);
    return seconds;
}

static void many_spaces_take_no_quadratic_time(void **state) {
    (void)state;
    ds_tokenizer *tok = load(FOLDER "sp_unigram.model");
    (void)trim_spaces(tok, 1 << 14);
    double shorter = 0;
    for (int i = 0; i < 8; i++)
        shorter += trim_spaces(tok, 1 << 14) / 8;
    const double longer = trim_spaces(tok, 1 << 18);
    if (longer > 80 * shorter + 0.01)
        fail_msg("%g s for 16 times the spaces of %g s", longer, shorter);
    ds_tokenizer_free(tok);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void wrong_files_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *json;
        ds_status status;
        const char *says;
    } cases[] = {
        {"{\"model\": {\"type\": \"Unigram\"}}", DS_CORRUPT, "\"vocab\""},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}}", DS_CORRUPT, "entry 0"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 1e999]]}}", DS_CORRUPT, "JSON"},
        {"{\"model\": {\"type\": \"Unigram\", \"unk_id\": 1, \"vocab\": [[\"a\", 0]]}}", DS_CORRUPT,
         "unk_id"},
        {"{\"model\": {\"type\": \"WordPiece\", \"vocab\": []}}", DS_CORRUPT, "\"vocab\""},
        {"{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"!\"}, "
         "\"model\": "
         "{\"vocab\": {\"a\": 0}, \"merges\": []}}",
         DS_CORRUPT, "base64"},
        {"{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": "
         "\"/////////////w==\"}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         DS_CORRUPT, "tree"},
        {"{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": "
         "\"\"}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         DS_INVALID, "normalizer"},
        {"{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
         "{\"id\": \"[CLS]\"}}]}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         DS_CORRUPT, "[CLS]"},
        {"{\"post_processor\": {\"type\": \"Odd\"}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": "
         "[]}}",
         DS_UNSUPPORTED, "\"Odd\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_tokenizer *tok = NULL;
        assert_int_equal(ds_tokenizer_from_json(cases[i].json, strlen(cases[i].json), &tok),
                         cases[i].status);
        if (!strstr(ds_error(), cases[i].says))
            fail_msg("\"%s\" does not say %s", ds_error(), cases[i].says);
        assert_null(tok);
    }
}

/* Each beginning of a model is refused, or is a smaller model; none is read past its end. */
static void a_model_cut_short_does_no_harm(void **state) {
    (void)state;
    char *data = NULL;
    size_t size = 0;
    int refused = 0;
    assert_int_equal(ds_file_read(FOLDER "sp_unigram.model", 1 << 20, &data, &size), DS_OK);
    for (size_t n = 0; n < size; n++) {
        unsigned char *copy = malloc(n + 1);
        assert_non_null(copy);
        memcpy(copy, data, n);
        ds_text json = {0};
        const ds_status status = ds_tokenizer_json_from_sentencepiece("x.model", copy, n, &json);
        assert_true(status == DS_OK || status == DS_CORRUPT);
        refused += status != DS_OK;
        ds_text_clear(&json);
        free(copy);
    }
    assert_true(refused > 1000);
    free(data);
}

static void vocabularies_without_marks_are_refused(void **state) {
    (void)state;
    ds_text json = {0};
    assert_int_equal(ds_tokenizer_json_from_wordlist("vocab.txt", "a\nb\n", 4, NULL, &json),
                     DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "[UNK]"));
    ds_text_clear(&json);
    assert_int_equal(ds_tokenizer_json_from_wordlist("vocab.txt", "a\n\xff\n", 4, NULL, &json),
                     DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "vocab.txt:2"));
    ds_text_clear(&json);
}

static void running_out_of_memory_is_an_answer(void **state) {
    (void)state;
    static const char *const files[] = {FOLDER "bert.vocab.txt", FOLDER "sp_unigram.model"};
    for (int f = 0; f < 2; f++) {
        int failures = 0;
        for (long n = 1;; n += 1 + n / 50) {
            ds_tokenizer *tok = NULL;
            int32_t *ids = NULL;
            size_t count = 0;
            ds_fault_arm(DS_FAULT_ALLOC, n);
            ds_status status = ds_tokenizer_load(files[f], &tok);
            if (status == DS_OK)
                status = ds_tokenizer_encode_marked(tok, "the é deep", 11, 0, &ids, &count);
            ds_fault_arm(DS_FAULT_ALLOC, 0);
            free(ids);
            ds_tokenizer_free(tok);
            if (status == DS_OK)
                break;
            assert_int_equal(status, DS_OUT_OF_MEMORY);
            failures++;
        }
        assert_true(failures > 10);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wordpiece_is_hugging_faces),
        cmocka_unit_test(unigram_is_hugging_faces),
        cmocka_unit_test(sentencepiece_models_are_its_own),
        cmocka_unit_test(llama2_is_sentencepieces),
        cmocka_unit_test(gguf_vocabularies_are_those_they_were_made_of),
        cmocka_unit_test(gguf_patterns_are_those_of_the_families),
        cmocka_unit_test(unknown_patterns_are_named),
        cmocka_unit_test(gguf_bert_gives_the_published_ids),
        cmocka_unit_test(gguf_gpt2_gives_the_published_ids),
        cmocka_unit_test(gguf_deepseek_gives_the_published_ids),
        cmocka_unit_test(gguf_llama_gives_the_published_ids),
        cmocka_unit_test(many_spaces_take_no_quadratic_time),
        cmocka_unit_test(a_long_text_keeps_its_marks),
        cmocka_unit_test(marks_in_plain_text_are_text),
        cmocka_unit_test(wrong_files_are_refused_by_name),
        cmocka_unit_test(a_model_cut_short_does_no_harm),
        cmocka_unit_test(vocabularies_without_marks_are_refused),
        cmocka_unit_test(running_out_of_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
