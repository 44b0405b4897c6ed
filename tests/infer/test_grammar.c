/* Grammars: which texts schemas and GBNF allow, masks against trying every token, walks that choose
 * at random and always end well, refusals that name the place, and memory that stays bounded. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/text.h"
#include "infer/grammar.h"

/* Bytes, marks, and what JSON text merges to; made once. */
static ds_tokenizer *tokenizer;
static ds_vocab_trie *trie;
static int32_t end_token;

static int set_up(void **state) {
    (void)state;
    char path[] = "/tmp/test_grammar_XXXXXX";
    const int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    for (int i = 0; i < 40; i++)
        fprintf(f, "{\"name\": \"Ann\", \"age\": %d, \"list\": [true, false, null, -1.5e3]}\n", i);
    fclose(f);
    const char *paths[] = {path}, *marks[] = {"<s>", "</s>"};
    ds_bpe_train_opts opts = DS_BPE_TRAIN_DEFAULTS;
    opts.vocab_size = 330;
    opts.special_tokens = marks;
    opts.n_special = 2;
    const bool made = ds_bpe_train(paths, 1, &opts, &tokenizer) == DS_OK;
    unlink(path);
    end_token = 1;
    return made && ds_vocab_trie_new(tokenizer, &trie) == DS_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    ds_vocab_trie_free(trie);
    ds_tokenizer_free(tokenizer);
    return 0;
}

typedef ds_status rule_maker(const char *text, size_t size, ds_rules *out);

static ds_status make(rule_maker *maker, const char *text, ds_grammar **out) {
    ds_rules rules;
    const ds_status status = maker(text, strlen(text), &rules);
    return status == DS_OK ? ds_grammar_make(&rules, trie, "schema", out) : status;
}

static ds_grammar *grammar_of(rule_maker *maker, const char *text) {
    ds_grammar *g = NULL;
    if (make(maker, text, &g) != DS_OK)
        fail_msg("%s: %s", text, ds_error());
    return g;
}

static int32_t byte_token(char byte) {
    for (int32_t id = 0; id < ds_tokenizer_vocab_size(tokenizer); id++) {
        size_t length = 0;
        const char *bytes = ds_tokenizer_bytes(tokenizer, id, &length);
        if (length == 1 && *bytes == byte)
            return id;
    }
    return -1;
}

/* Byte by byte. Whether it may be written, and end there. */
static bool allows(ds_grammar *g, const char *text) {
    ds_grammar_cursor *c = NULL;
    assert_int_equal(ds_grammar_cursor_new(g, &c), DS_OK);
    bool good = true;
    for (; good && *text; text++)
        good = ds_grammar_accept(c, byte_token(*text)) == DS_OK;
    good = good && ds_grammar_may_end(c);
    ds_grammar_cursor_free(c);
    return good;
}

/* Texts after the first '|' of each row's `good` and `bad` are separated by '|'. */
typedef struct row {
    const char *schema;
    const char *good[12], *bad[12]; /* up to the first NULL */
} row;

static void check_rows(rule_maker *maker, const row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ds_grammar *g = grammar_of(maker, rows[i].schema);
        for (const char *const *t = rows[i].good; *t; t++)
            if (!allows(g, *t))
                fail_msg("%s does not allow %s", rows[i].schema, *t);
        for (const char *const *t = rows[i].bad; *t; t++)
            if (allows(g, *t))
                fail_msg("%s allows %s", rows[i].schema, *t);
        ds_grammar_free(g);
    }
}

#define OBJECT(properties) "{\"type\":\"object\",\"properties\":{" properties "}"
static const row schema_rows[] = {
    {"true", {"1", "\"x\"", "[1,{\"a\":null}]", "{}"}, {"", "01", "1.", "[1,]", "{a:1}", "nul"}},
    {"{\"type\":\"null\"}", {"null"}, {"nul", "nulll", " null"}},
    {"{\"type\":\"boolean\"}", {"true", "false"}, {"True", "1"}},
    {"{\"type\":\"integer\"}",
     {"0", "-7", "999999999999999"},
     {"1.0", "-", "00", "1e3", "9999999999999999"}},
    {"{\"type\":\"number\"}", {"0", "-0.5", "1e+9", "12.25E-7"}, {".5", "1.", "1e", "1e999"}},
    {"{\"type\":\"number\",\"minimum\":0}", {"0", "3.5"}, {"-1"}},
    {"{\"type\":\"integer\",\"minimum\":-12,\"maximum\":305}",
     {"-12", "-9", "-1", "0", "9", "10", "99", "299", "305"},
     {"-13", "-20", "306", "310", "400", "1000", "-0"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":1.5,\"exclusiveMaximum\":4}",
     {"2", "3"},
     {"1", "4", "0"}},
    {"{\"type\":\"integer\",\"minimum\":8,\"maximum\":11}",
     {"8", "9", "10", "11"},
     {"7", "12", "1"}},
    {"{\"type\":\"string\"}",
     {"\"\"", "\"é 世界 🙂\"", "\"\\n\\\"\\u00e9\\uD7ff\""},
     {"\"", "\"\n\"", "\"\xff\"", "\"\\x\"", "\"\\u0000\"", "\"\\ud800\"", "\"\xed\xa0\x80\"",
      "\"\xc0\x80\""}},
    {"{\"type\":\"string\",\"minLength\":1,\"maxLength\":2}",
     {"\"a\"", "\"界\\n\""},
     {"\"\"", "\"abc\""}},
    {"{\"type\":\"string\",\"pattern\":\"^[a-c]+\\\\d{2}$\"}",
     {"\"a12\"", "\"cab00\""},
     {"\"12\"", "\"a1\"", "\"a123\"", "\"d12\""}},
    {"{\"type\":\"string\",\"pattern\":\"b|^x$\"}",
     {"\"abc\"", "\"b\"", "\"x\""},
     {"\"ac\"", "\"xx\""}},
    {"{\"type\":\"string\",\"pattern\":\"^(?:ab){1,2}[^\\\"a-z]?$\"}",
     {"\"ab\"", "\"abab\"", "\"ab\\\\\"", "\"ab\\n\"", "\"ab界\""},
     {"\"\"", "\"ababab\"", "\"abz\"", "\"ab\\\"\""}},
    {"{\"type\":\"string\",\"format\":\"date-time\"}",
     {"\"2024-02-28T23:59:59Z\"", "\"1999-12-31T00:00:00.5+05:30\""},
     {"\"2024-02-30T00:00:00Z\"", "\"2024-13-01T00:00:00Z\"", "\"2024-01-01\""}},
    {"{\"type\":\"string\",\"format\":\"ipv4\"}",
     {"\"255.0.19.200\""},
     {"\"256.0.0.1\"", "\"1.2.3\""}},
    {"{\"enum\":[\"red\",\"green\",1,12,null,{\"a\":[1]}]}",
     {"\"red\"", "1", "12", "null", "{\"a\":[1]}"},
     {"\"re\"", "2", "\"\""}},
    {"{\"type\":\"string\",\"enum\":[\"a\",1]}", {"\"a\""}, {"1"}},
    {"{\"const\":\"a\\\"b\"}", {"\"a\\\"b\""}, {"\"a\""}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}",
     {"[]", "[1]", "[1, 2,3]", "[\n  1,\n  2\n]"},
     {"[1,]", "[\"a\"]", "[1  ,2]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":2,\"maxItems\":3}",
     {"[null,null]", "[null,null,null]"},
     {"[]", "[null]", "[null,null,null,null]"}},
    {"{\"type\":\"array\",\"maxItems\":0}", {"[]"}, {"[1]"}},
    {OBJECT("\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"}") ",\"required\":[\"b\"]}",
     {"{\"a\":1,\"b\":null}", "{\"b\": null}", "{\n\t\"a\": 1,\n\t\"b\": null\n}"},
     {"{}", "{\"a\":1}", "{\"b\":null,\"a\":1}", "{\"b\":null,\"c\":1}", "{\"a\":1 \"b\":null}"}},
    {OBJECT("\"a\":{},\"b\":{},\"c\":{}") "}",
     {"{}", "{\"a\":1}", "{\"c\":1}", "{\"a\":1,\"c\":{}}", "{\"a\":1,\"b\":2,\"c\":3}"},
     {"{,\"a\":1}", "{\"a\":1,}", "{\"d\":1}"}},
    {OBJECT("\"ab\":{\"type\":\"integer\"},\"é\":{\"type\":\"null\"}") ",\"additionalProperties\":{"
                                                                       "\"type\":\"boolean\"}}",
     {"{}", "{\"ab\":1}", "{\"a\":true,\"abc\":false,\"\":true}", "{\"ab\":1,\"x\":true}",
      "{\"世\":true}", "{\"éa\":true}"},
     {"{\"ab\":true}", "{\"a\":1}", "{\"é\":true}", "{\"a\":true,\"ab\":1}", "{\"\xc3\":true}"}},
    {"{\"type\":\"object\",\"required\":[\"k\"]}", {"{\"k\":[1]}"}, {"{}", "{\"j\":1,\"k\":1}"}},
    {"{\"type\":\"object\"}", {"{}", "{\"any\":{\"thing\":[]}}"}, {"[]", "{\"any\"}"}},
    {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", {"\"x\"", "null"}, {"1"}},
    {"{\"type\":[\"integer\",\"null\"]}", {"5", "null"}, {"true"}},
    {"{\"allOf\":[{\"type\":\"null\"}],\"title\":\"x\"}", {"null"}, {"1"}},
    {"{\"oneOf\":[" OBJECT("\"k\":{\"const\":\"a\"}") ",\"required\":[\"k\"]}," OBJECT(
         "\"k\":{\"const\":\"b\"},\"n\":{\"type\":\"integer\"}") ",\"required\":[\"k\"]}]}",
     {"{\"k\":\"a\"}", "{\"k\":\"b\",\"n\":1}"},
     {"{\"k\":\"a\",\"n\":1}", "{\"k\":\"c\"}"}},
    {"{\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
     "\"next\":"
     "{\"anyOf\":[{\"$ref\":\"#/$defs/"
     "node\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}},"
     "\"$ref\":\"#/$defs/node\"}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":{\"v\":3,\"next\":null}}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}"}},
    {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", {"[]", "[[],[[]]]"}, {"[1]", "[[]"}},
    {"{\"minLength\":2,\"minimum\":0}", {"\"ab\"", "3"}, {"\"a\"", "-3", "null"}},
};

static void test_schemas(void **state) {
    (void)state;
    check_rows(ds_json_schema_rules, schema_rows, sizeof schema_rows / sizeof *schema_rows);
}

static const row gbnf_rows[] = {
    {"root ::= # nothing at all", {""}, {"a", " "}},
    {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "ye", "yesno"}},
    {"root ::= [0-9]+ (\".\" [0-9]{2,3})? # a number\n",
     {"5", "12.50", "1.234"},
     {"1.2", ".5", "1.2345"}},
    {"root ::= item (\", \" item)*\nitem ::= [^,\\n\"]{1,3}\n",
     {"a", "abc, 世界"},
     {"abcd", "a,b", ""}},
    {"# nested\nroot ::= \"(\" root* \")\"", {"()", "(()())"}, {"(", ")("}},
    {"root ::= (\n  \"a\" |\n  \"b\"\n)\n  | \"c\" .\n", {"a", "b", "cé"}, {"c", "ab"}},
    {"root ::= \"\\x41\\u00e9\\t\\\"\"", {"A\xc3\xa9\t\""}, {"A"}},
    {"root ::= \"ab\"{2}", {"abab"}, {"abb", "ab", "ababab"}},
};

static void test_gbnf(void **state) {
    (void)state;
    check_rows(ds_gbnf_rules, gbnf_rows, sizeof gbnf_rows / sizeof *gbnf_rows);
}

/* ---- refusals -------------------------------------------------------------------------------- */

typedef struct refusal {
    rule_maker *maker;
    const char *text, *says;
} refusal;

static const refusal refusals[] = {
    {ds_json_schema_rules, "{", "no valid JSON"},
    {ds_json_schema_rules, "3", "schema at #: a schema must be an object"},
    {ds_json_schema_rules, "{\"type\":\"array\",\"uniqueItems\":true}",
     "'uniqueItems' is not supported"},
    {ds_json_schema_rules, OBJECT("\"a\":{\"items\":{\"not\":{}}}") "}",
     "schema at #/properties/a/items: the keyword 'not'"},
    {ds_json_schema_rules, "{\"type\":\"text\"}", "'type' must be"},
    {ds_json_schema_rules, "{\"enum\":[]}", "'enum' must be"},
    {ds_json_schema_rules, "{\"$ref\":\"#/$defs/x\"}", "there is nothing"},
    {ds_json_schema_rules, "{\"$ref\":\"other.json\"}", "must point into the schema"},
    {ds_json_schema_rules, "{\"$ref\":\"#\"}", "no text can satisfy it"},
    {ds_json_schema_rules, "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}",
     "begins with itself"},
    {ds_json_schema_rules, "false", "no text can satisfy it"},
    {ds_json_schema_rules, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "no text"},
    {ds_json_schema_rules,
     "{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "no text"},
    {ds_json_schema_rules, OBJECT("\"n\":{\"$ref\":\"#\"}") ",\"required\":[\"n\"]}",
     "no text can satisfy it"},
    {ds_json_schema_rules, "{\"type\":\"string\",\"maxLength\":9000000}", "too large"},
    {ds_json_schema_rules, "{\"type\":\"number\",\"maximum\":5}", "only a 'minimum' of 0"},
    {ds_json_schema_rules, "{\"type\":\"string\",\"pattern\":\"(?=a)\"}",
     "only (?: is supported at 1"},
    {ds_json_schema_rules, "{\"type\":\"string\",\"pattern\":\"(a\"}", "not closed"},
    {ds_json_schema_rules, "{\"type\":\"string\",\"pattern\":\"(?\"}", "(?:"},
    {ds_json_schema_rules, "{\"type\":\"string\",\"pattern\":\"a{2,1}\"}", "{n,m}"},
    {ds_json_schema_rules, "{\"type\":\"string\",\"format\":\"uri\"}", "'uri' is not supported"},
    {ds_json_schema_rules, "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}",
     "both 0 and 1"},
    {ds_json_schema_rules, "{\"anyOf\":[{}],\"minLength\":1}", "'anyOf' beside 'minLength'"},
    {ds_json_schema_rules, "{\"minLength\":\"1\"}", "'minLength' must be a whole number"},
    {ds_gbnf_rules, "", "'root' is not defined"},
    {ds_gbnf_rules, "root = \"a\"", "line 1, column 6: ::= must follow"},
    {ds_gbnf_rules, "root ::= x\n", "'x' is not defined"},
    {ds_gbnf_rules, "root ::= \"a\nb\"", "a string is not closed"},
    {ds_gbnf_rules, "root ::= root \"a\" | \"a\"", "begins with itself"},
    {ds_gbnf_rules, "root ::= \"a\" root", "no text can satisfy it"},
    {ds_gbnf_rules, "root ::= *", "nothing stands before"},
    {ds_gbnf_rules, "root ::= [b-a]", "backwards"},
    {ds_gbnf_rules, "root ::= \"a\"\nroot ::= \"b\"", "is there already"},
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        ds_grammar *g = NULL;
        const ds_status status = make(refusals[i].maker, refusals[i].text, &g);
        if (status == DS_OK)
            fail_msg("accepted: %s", refusals[i].text);
        if (!strstr(ds_error(), refusals[i].says))
            fail_msg("%s: said \"%s\", not \"%s\"", refusals[i].text, ds_error(), refusals[i].says);
    }
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void reset(float *logits, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        logits[i] = 0;
}

/* The mask after a text against trying each token. */
static void check_mask(const char *schema, const char *text) {
    ds_grammar *g = grammar_of(ds_json_schema_rules, schema);
    const int64_t n = ds_tokenizer_vocab_size(tokenizer) + 3; /* a model's may be wider */
    float *logits = malloc((size_t)n * sizeof *logits);
    ds_grammar_cursor *c = NULL;
    assert_int_equal(ds_grammar_cursor_new(g, &c), DS_OK);
    for (const char *s = text; *s; s++)
        assert_int_equal(ds_grammar_accept(c, byte_token(*s)), DS_OK);
    reset(logits, n);
    assert_int_equal(ds_grammar_mask(c, logits, n, &end_token, 1), DS_OK);
    int allowed = 0;
    for (int32_t id = 0; id < n; id++) {
        ds_grammar_cursor *other = NULL;
        assert_int_equal(ds_grammar_cursor_new(g, &other), DS_OK);
        for (const char *s = text; *s; s++)
            ds_grammar_accept(other, byte_token(*s));
        const bool may =
            id == end_token ? ds_grammar_may_end(other) : ds_grammar_accept(other, id) == DS_OK;
        if (may != (logits[id] == 0))
            fail_msg("after %s token %d: %d by trying, %d in the mask", text, id, may, !may);
        allowed += may;
        ds_grammar_cursor_free(other);
    }
    assert_true(allowed > 0);
    ds_grammar_cursor_free(c);
    ds_grammar_free(g);
    free(logits);
}

static void test_masks(void **state) {
    (void)state;
    const char *schema = OBJECT("\"name\":{\"type\":\"string\",\"maxLength\":4},\"age\":{\"type\":"
                                "\"integer\",\"maximum\":30}") ",\"required\":[\"name\"]}";
    check_mask(schema, "");
    check_mask(schema, "{");
    check_mask(schema, "{\"name\"");
    check_mask(schema, "{\"name\": \"A");
    check_mask(schema, "{\"name\": \"Ann\\");
    check_mask(schema, "{\"name\": \"Ann\"");
    check_mask(schema, "{\"name\": \"Ann\", \"age\": 3");
    check_mask(schema, "{\"name\": \"Ann\", \"age\": 30}");
    check_mask("true", "[true, {\"a\": [nul");
    check_mask("{\"type\":\"integer\"}", "12");
}

/* A walk that draws among the allowed tokens, all alike; the text, the caller's. */
static char *walk(ds_grammar *g, uint64_t seed, int most, bool *whole) {
    const int64_t n = ds_tokenizer_vocab_size(tokenizer);
    float *logits = malloc((size_t)n * sizeof *logits);
    ds_grammar_cursor *c = NULL;
    ds_text text = {0};
    assert_int_equal(ds_grammar_cursor_new(g, &c), DS_OK);
    *whole = false;
    for (int i = 0; i < most && !(*whole = ds_grammar_must_end(c)); i++) {
        const ds_sampling sampling = {.temperature = 1, .seed = seed};
        size_t length = 0;
        reset(logits, n);
        if (ds_grammar_mask(c, logits, n, &end_token, 1) != DS_OK)
            fail_msg("after %s: %s", text.data, ds_error());
        const int32_t id = ds_sample(logits, n, sampling, i);
        *whole = id == end_token;
        if (*whole)
            break;
        if (ds_grammar_accept(c, id) != DS_OK)
            fail_msg("%s", ds_error());
        const char *bytes = ds_tokenizer_bytes(tokenizer, id, &length);
        ds_text_append(&text, bytes, length);
    }
    ds_text_puts(&text, "");
    ds_grammar_cursor_free(c);
    free(logits);
    return ds_text_take(&text);
}

static void test_walks_end_well(void **state) {
    (void)state;
    int n_whole = 0;
    for (size_t i = 0; i < sizeof schema_rows / sizeof *schema_rows; i++) {
        ds_grammar *g = grammar_of(ds_json_schema_rules, schema_rows[i].schema);
        for (uint64_t seed = 0; seed < 20; seed++) {
            bool whole = false;
            char *text = walk(g, seed, 300, &whole);
            json_t *parsed = whole ? json_loads(text, JSON_DECODE_ANY, NULL) : json_null();
            if (!parsed)
                fail_msg("%s: no JSON: %s", schema_rows[i].schema, text);
            n_whole += whole;
            json_decref(parsed);
            free(text);
        }
        ds_grammar_free(g);
    }
    assert_true(n_whole > 400);
}

/* ---- vocabularies and memory ----------------------------------------------------------------- */

/* What a vocabulary cannot spell is never begun. */
static void test_poor_vocabularies(void **state) {
    (void)state;
    ds_vocab_trie poor = *trie;
    poor.spells['}'] = false;
    ds_rules rules;
    ds_grammar *g = NULL;
    const char *either = "{\"type\":[\"object\",\"array\"]}";
    assert_int_equal(ds_json_schema_rules(either, strlen(either), &rules), DS_OK);
    assert_int_equal(ds_grammar_make(&rules, &poor, "schema", &g), DS_OK);
    assert_false(allows(g, "{}"));
    assert_true(allows(g, "[[1,\"a\"]]"));
    assert_false(allows(g, "[{}]"));
    ds_grammar_free(g);
    const char *object = "{\"type\":\"object\"}";
    assert_int_equal(ds_json_schema_rules(object, strlen(object), &rules), DS_OK);
    assert_int_equal(ds_grammar_make(&rules, &poor, "schema", &g), DS_UNSUPPORTED);
    assert_non_null(strstr(ds_error(), "no tokens for some characters, such as }"));
}

static void test_memory_is_bounded(void **state) {
    (void)state;
    enum { DEPTH = 120000 };
    ds_grammar *g = grammar_of(ds_json_schema_rules, "true");
    ds_grammar_cursor *deep = NULL, *other = NULL;
    assert_int_equal(ds_grammar_cursor_new(g, &deep), DS_OK);
    assert_int_equal(ds_grammar_cursor_new(g, &other), DS_OK);
    assert_int_equal(ds_grammar_accept(other, byte_token('t')), DS_OK);
    float logits[512] = {0};
    const int32_t open = byte_token('['), close = byte_token(']');
    size_t highest = 0, last = 0;
    int n_renewed = 0;
    for (int i = 0; i < DEPTH; i++) {
        assert_int_equal(ds_grammar_accept(deep, open), DS_OK);
        if (i % 100 == 0) /* where memory is looked at */
            assert_int_equal(ds_grammar_mask(deep, logits, 256, NULL, 0), DS_OK);
        const size_t bytes = ds_grammar_bytes(g);
        n_renewed += bytes < last;
        last = bytes;
        highest = bytes > highest ? bytes : highest;
    }
    assert_true(n_renewed > 0);
    assert_true(highest < DS_GRAMMAR_MOST_BYTES + (DS_GRAMMAR_MOST_BYTES >> 3));
    for (int i = 0; i < DEPTH; i++)
        assert_int_equal(ds_grammar_accept(deep, close), DS_OK);
    assert_true(ds_grammar_must_end(deep));
    assert_int_equal(ds_grammar_accept(other, byte_token('r')), DS_OK);
    assert_int_equal(ds_grammar_accept(other, byte_token('x')), DS_INVALID);
    ds_grammar_free(g); /* the cursors keep it */
    ds_grammar_cursor_free(deep);
    ds_grammar_cursor_free(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemas),           cmocka_unit_test(test_gbnf),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_masks),
        cmocka_unit_test(test_walks_end_well),    cmocka_unit_test(test_poor_vocabularies),
        cmocka_unit_test(test_memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
