/* The parts of a tokenizer.json's pipeline: normalizers, pre-tokenizers, decoders and
 * post-processors, each read by a row of a table. What no row reads is refused by name rather than
 * passed over, because a tokenizer that is almost right ruins a model silently. */
#include "data/tokenizer_json.h"

#include <openssl/evp.h>
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "base/error.h"

#define NESTING_LIMIT 8 /* sequences within sequences */

typedef ds_status part_fn(ds_tokenizer_loading *l, json_t *part, int depth);

typedef struct part_reader {
    const char *type;
    part_fn *read;
} part_reader;

bool ds_json_bool(json_t *object, const char *key, bool otherwise) {
    json_t *v = json_object_get(object, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

/* The string under key, copied to the arena; NULL when there is none. */
const char *ds_json_text(ds_tokenizer_loading *l, json_t *object, const char *key, size_t *length) {
    json_t *v = json_object_get(object, key);
    if (!json_is_string(v))
        return NULL;
    *length = json_string_length(v);
    return ds_arena_copy(l->tok->arena, json_string_value(v), *length + 1);
}

static ds_status read_part(ds_tokenizer_loading *l, json_t *part, const char *what,
                           const part_reader *readers, size_t n, int depth) {
    if (!part || json_is_null(part))
        return DS_OK;
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type)
        return ds_fail(DS_CORRUPT, "\"%s\" should be an object with a \"type\"", what);
    if (depth > NESTING_LIMIT)
        return ds_fail(DS_CORRUPT, "\"%s\" is nested more than %d deep", what, NESTING_LIMIT);
    for (size_t i = 0; i < n; i++)
        if (strcmp(readers[i].type, type) == 0)
            return readers[i].read(l, part, depth);
    return ds_fail(DS_UNSUPPORTED, "\"%s\" of type \"%s\" is not supported", what, type);
}

/* ---- Normalisers -------------------------------------------------------------------------- */

static ds_status add_normaliser(ds_tokenizer_loading *l, ds_normaliser step) {
    ds_tokenizer *tok = l->tok;
    ds_normaliser *grown =
        ds_grow(tok->normalisers, &tok->normaliser_capacity, tok->n_normalisers + 1, sizeof *grown);
    if (!grown) {
        pcre2_code_free(step.code);
        return DS_OUT_OF_MEMORY;
    }
    tok->normalisers = grown;
    tok->normalisers[tok->n_normalisers++] = step;
    return DS_OK;
}

static ds_status normaliser_prepend(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    ds_normaliser step = {.kind = DS_NORMALISE_PREPEND};
    step.to = ds_json_text(l, part, "prepend", &step.to_length);
    if (!step.to)
        return ds_fail(DS_CORRUPT, "the normalizer Prepend has no string \"prepend\"");
    return add_normaliser(l, step);
}

static ds_status normaliser_replace(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    size_t length = 0;
    json_t *pattern = json_object_get(part, "pattern");
    ds_normaliser step = {.kind = DS_NORMALISE_REPLACE};
    step.from = ds_json_text(l, pattern, "String", &step.from_length);
    step.to = ds_json_text(l, part, "content", &step.to_length);
    const char *regex = ds_json_text(l, pattern, "Regex", &length);
    if (!step.to || !(regex || (step.from && step.from_length > 0)))
        return ds_fail(DS_CORRUPT, "the normalizer Replace needs a \"pattern\" with a \"String\" "
                                   "or a \"Regex\", and a \"content\"");
    if (!regex)
        return add_normaliser(l, step);
    step.kind = DS_NORMALISE_REGEX;
    DS_TRY(ds_pattern_compile(regex, length, "\"normalizer\"", &step.code));
    return add_normaliser(l, step);
}

static ds_status normaliser_lowercase(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)part, (void)depth;
    return add_normaliser(l, (ds_normaliser){.kind = DS_NORMALISE_LOWERCASE});
}

static ds_status normaliser_strip_accents(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)part, (void)depth;
    return add_normaliser(l, (ds_normaliser){.kind = DS_NORMALISE_STRIP_ACCENTS});
}

static ds_status normaliser_strip(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    return add_normaliser(l, (ds_normaliser){.kind = DS_NORMALISE_STRIP,
                                             .left = ds_json_bool(part, "strip_left", true),
                                             .right = ds_json_bool(part, "strip_right", true)});
}

static ds_status normaliser_bert(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    const bool lowercase = ds_json_bool(part, "lowercase", true);
    return add_normaliser(
        l, (ds_normaliser){.kind = DS_NORMALISE_BERT,
                           .clean = ds_json_bool(part, "clean_text", true),
                           .space_ideographs = ds_json_bool(part, "handle_chinese_chars", true),
                           .strip_accents = ds_json_bool(part, "strip_accents", lowercase),
                           .lowercase = lowercase});
}

/* Bytes written as base64, copied to the arena; NULL when they are none. */
static unsigned char *read_base64(ds_tokenizer_loading *l, const char *text, size_t n,
                                  size_t *size) {
    if (n == 0 || n % 4 != 0 || n > INT32_MAX)
        return NULL;
    unsigned char *bytes = ds_arena_alloc(l->tok->arena, n / 4 * 3 + 1);
    const int length = bytes ? EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)n) : -1;
    if (length < 0)
        return NULL;
    *size = (size_t)length - (text[n - 1] == '=') - (text[n - 2] == '=');
    return bytes;
}

static ds_status normaliser_precompiled(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    size_t size = 0;
    ds_normaliser step = {.kind = DS_NORMALISE_CHARSMAP};
    json_t *v = json_object_get(part, "precompiled_charsmap");
    if (json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0))
        return DS_OK; /* no character is replaced */
    const unsigned char *blob =
        json_is_string(v) ? read_base64(l, json_string_value(v), json_string_length(v), &size)
                          : NULL;
    if (!blob)
        return ds_fail(DS_CORRUPT,
                       "the normalizer Precompiled needs a \"precompiled_charsmap\" in base64");
    DS_TRY(ds_charsmap_open(blob, size, &step.charsmap));
    return add_normaliser(l, step);
}

static ds_status normaliser_unicode(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    static const struct {
        const char *type;
        int options;
    } forms[] = {
        {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
        {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
        {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
        {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    };
    const char *type = json_string_value(json_object_get(part, "type"));
    ds_normaliser step = {.kind = DS_NORMALISE_UNICODE};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(forms[i].type, type) == 0)
            step.unicode = forms[i].options;
    return add_normaliser(l, step);
}

static part_fn normaliser_sequence;

static const part_reader normaliser_readers[] = {
    {"Sequence", normaliser_sequence},
    {"Prepend", normaliser_prepend},
    {"Replace", normaliser_replace},
    {"NFC", normaliser_unicode},
    {"NFD", normaliser_unicode},
    {"NFKC", normaliser_unicode},
    {"NFKD", normaliser_unicode},
    {"Lowercase", normaliser_lowercase},
    {"StripAccents", normaliser_strip_accents},
    {"Strip", normaliser_strip},
    {"BertNormalizer", normaliser_bert},
    {"Precompiled", normaliser_precompiled},
};
#define N_NORMALISERS (sizeof normaliser_readers / sizeof *normaliser_readers)

static ds_status normaliser_sequence(ds_tokenizer_loading *l, json_t *part, int depth) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(part, "normalizers"), i, item)
        DS_TRY(read_part(l, item, "normalizer", normaliser_readers, N_NORMALISERS, depth + 1));
    return DS_OK;
}

/* ---- Pre-tokenizers ----------------------------------------------------------------------- */

static ds_status add_split(ds_tokenizer_loading *l, ds_split split) {
    if (l->tok->n_splits == DS_SPLIT_STAGES) {
        pcre2_code_free(split.code);
        return ds_fail(DS_UNSUPPORTED, "\"pre_tokenizer\" has more than %d steps", DS_SPLIT_STAGES);
    }
    l->tok->splits[l->tok->n_splits++] = split;
    return DS_OK;
}

static ds_status add_pattern(ds_tokenizer_loading *l, const char *pattern, size_t length,
                             ds_split_keep keep) {
    ds_split split = {.kind = DS_SPLIT_REGEX, .keep = keep};
    DS_TRY(ds_pattern_compile(pattern, length, "\"pre_tokenizer\"", &split.code));
    return add_split(l, split);
}

static ds_status split_byte_level(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    l->tok->byte_level = true;
    if (ds_json_bool(part, "add_prefix_space", true))
        DS_TRY(add_split(l, (ds_split){.kind = DS_SPLIT_PREFIX}));
    if (ds_json_bool(part, "use_regex", true))
        DS_TRY(add_pattern(l, ds_gpt2_pattern, strlen(ds_gpt2_pattern), DS_KEEP_ALL));
    return DS_OK;
}

static ds_status split_pattern(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    const char *behaviour = json_string_value(json_object_get(part, "behavior"));
    const bool invert = ds_json_bool(part, "invert", false);
    ds_split_keep keep = DS_KEEP_ALL;
    if (behaviour && strcmp(behaviour, "Removed") == 0)
        keep = invert ? DS_KEEP_MATCHES : DS_KEEP_GAPS;
    else if (!behaviour || strcmp(behaviour, "Isolated") != 0)
        return ds_fail(DS_UNSUPPORTED,
                       "the pre-tokenizer Split with the behavior \"%s\" is not "
                       "supported, only Isolated and Removed",
                       behaviour ? behaviour : "");
    size_t length = 0;
    json_t *pattern = json_object_get(part, "pattern");
    const char *text = ds_json_text(l, pattern, "Regex", &length);
    if (text)
        return add_pattern(l, text, length, keep);
    text = ds_json_text(l, pattern, "String", &length);
    if (!text || length == 0)
        return ds_fail(
            DS_CORRUPT,
            "the pre-tokenizer Split needs a \"pattern\" with a \"Regex\" or \"String\"");
    ds_text literal = {0}; /* as a pattern: every byte that is not a letter behind a backslash */
    for (size_t i = 0; i < length; i++) {
        const char c = text[i];
        const bool mark =
            c > 0 && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z');
        ds_text_append(&literal, &"\\"[!mark], mark);
        ds_text_append(&literal, &c, 1);
    }
    ds_status status =
        literal.poisoned ? DS_OUT_OF_MEMORY : add_pattern(l, literal.data, literal.length, keep);
    ds_text_clear(&literal);
    return status;
}

static ds_status split_digits(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    const char *pattern = ds_json_bool(part, "individual_digits", false) ? "\\p{N}" : "\\p{N}+";
    return add_pattern(l, pattern, strlen(pattern), DS_KEEP_ALL);
}

static ds_status split_metaspace(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    ds_split split = {.kind = DS_SPLIT_METASPACE, .cut = ds_json_bool(part, "split", true)};
    split.mark = ds_json_text(l, part, "replacement", &split.mark_length);
    if (!split.mark || split.mark_length == 0)
        return ds_fail(DS_CORRUPT, "the pre-tokenizer Metaspace has no \"replacement\"");
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    if (!scheme)
        scheme = ds_json_bool(part, "add_prefix_space", true) ? "always" : "never";
    split.prepend = strcmp(scheme, "always") == 0  ? DS_PREPEND_ALWAYS
                    : strcmp(scheme, "first") == 0 ? DS_PREPEND_FIRST
                                                   : DS_PREPEND_NEVER;
    return add_split(l, split);
}

static ds_status split_bert(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)part, (void)depth;
    return add_split(l, (ds_split){.kind = DS_SPLIT_BERT});
}

/* Pre-tokenizers that are one pattern. */
static const struct {
    const char *type, *pattern;
    ds_split_keep keep;
} fixed_splits[] = {
    {"WhitespaceSplit", "\\s+", DS_KEEP_GAPS},
    {"Whitespace", "\\w+|[^\\w\\s]+", DS_KEEP_MATCHES},
    {"Punctuation", "[\\p{P}$+<=>^`|~]", DS_KEEP_ALL},
};

static ds_status split_fixed(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    const char *type = json_string_value(json_object_get(part, "type"));
    const char *behaviour = json_string_value(json_object_get(part, "behavior"));
    if (behaviour && strcmp(behaviour, "Isolated") != 0)
        return ds_fail(DS_UNSUPPORTED,
                       "the pre-tokenizer %s with the behavior \"%s\" is not supported, only "
                       "Isolated",
                       type, behaviour);
    for (size_t i = 0; i < sizeof fixed_splits / sizeof *fixed_splits; i++)
        if (strcmp(fixed_splits[i].type, type) == 0)
            return add_pattern(l, fixed_splits[i].pattern, strlen(fixed_splits[i].pattern),
                               fixed_splits[i].keep);
    return ds_fail(DS_INTERNAL, "no pattern for the pre-tokenizer %s", type);
}

static part_fn split_sequence;

static const part_reader split_readers[] = {
    {"Sequence", split_sequence},     {"ByteLevel", split_byte_level},
    {"Split", split_pattern},         {"Digits", split_digits},
    {"Metaspace", split_metaspace},   {"BertPreTokenizer", split_bert},
    {"WhitespaceSplit", split_fixed}, {"Whitespace", split_fixed},
    {"Punctuation", split_fixed},
};
#define N_SPLITS (sizeof split_readers / sizeof *split_readers)

static ds_status split_sequence(ds_tokenizer_loading *l, json_t *part, int depth) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(part, "pretokenizers"), i, item) {
        if (l->tok->byte_level)
            return ds_fail(DS_UNSUPPORTED, "\"pre_tokenizer\": ByteLevel must be the last step");
        DS_TRY(read_part(l, item, "pre_tokenizer", split_readers, N_SPLITS, depth + 1));
    }
    return DS_OK;
}

/* ---- Decoders ----------------------------------------------------------------------------- */

static ds_status decoder_byte_level(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)part, (void)depth;
    l->decode_byte_level = true;
    return DS_OK;
}

static ds_status decoder_byte_fallback(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)part, (void)depth;
    l->decode_byte_fallback = true;
    return DS_OK;
}

static ds_status decoder_fuse(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)l, (void)part, (void)depth; /* joining tokens is what decoding does anyway */
    return DS_OK;
}

static ds_status decoder_replace(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    size_t from = 0, to = 0;
    l->decode_from = ds_json_text(l, json_object_get(part, "pattern"), "String", &from);
    l->decode_to = ds_json_text(l, part, "content", &to);
    if (!l->decode_from || from == 0 || !l->decode_to)
        return ds_fail(
            DS_UNSUPPORTED,
            "the decoder Replace needs a \"pattern\" with a \"String\", and a \"content\"");
    return DS_OK;
}

static ds_status decoder_strip(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    const char *content = json_string_value(json_object_get(part, "content"));
    const json_int_t start = json_integer_value(json_object_get(part, "start"));
    if (!content || strcmp(content, " ") != 0 || start < 0 || start > 64 ||
        json_integer_value(json_object_get(part, "stop")) != 0)
        return ds_fail(DS_UNSUPPORTED, "the decoder Strip is only supported for leading spaces");
    l->tok->strip_spaces = (size_t)start;
    return DS_OK;
}

static ds_status decoder_metaspace(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    size_t length = 0;
    l->decode_from = ds_json_text(l, part, "replacement", &length);
    l->decode_to = " ";
    if (!l->decode_from || length == 0)
        return ds_fail(DS_CORRUPT, "the decoder Metaspace has no \"replacement\"");
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    l->tok->strip_spaces = scheme && strcmp(scheme, "never") == 0 ? 0 : 1;
    return DS_OK;
}

static ds_status decoder_wordpiece(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    size_t length = 0;
    l->decode_prefix = ds_json_text(l, part, "prefix", &length);
    if (!l->decode_prefix)
        l->decode_prefix = "##";
    l->decode_cleanup = ds_json_bool(part, "cleanup", true);
    l->tok->strip_spaces = 1;
    return DS_OK;
}

static part_fn decoder_sequence;

static const part_reader decoder_readers[] = {
    {"Sequence", decoder_sequence},
    {"ByteLevel", decoder_byte_level},
    {"ByteFallback", decoder_byte_fallback},
    {"Fuse", decoder_fuse},
    {"Replace", decoder_replace},
    {"Strip", decoder_strip},
    {"Metaspace", decoder_metaspace},
    {"WordPiece", decoder_wordpiece},
};
#define N_DECODERS (sizeof decoder_readers / sizeof *decoder_readers)

static ds_status decoder_sequence(ds_tokenizer_loading *l, json_t *part, int depth) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(part, "decoders"), i, item)
        DS_TRY(read_part(l, item, "decoder", decoder_readers, N_DECODERS, depth + 1));
    return DS_OK;
}

/* ---- Post-processors ---------------------------------------------------------------------- */

static ds_status add_mark(ds_tokenizer_loading *l, const char *name, bool after) {
    ds_marks *m = &l->tok->marks;
    int32_t *list = after ? m->after : m->before;
    size_t *n = after ? &m->n_after : &m->n_before;
    const int32_t id = ds_tokenizer_find(l->tok, name);
    if (id < 0)
        return ds_fail(DS_CORRUPT,
                       "\"post_processor\" names the token \"%s\", which the vocabulary has not",
                       name);
    if (*n == DS_MOST_MARKS)
        return ds_fail(DS_UNSUPPORTED, "\"post_processor\" puts more than %d tokens around a text",
                       DS_MOST_MARKS);
    list[(*n)++] = id;
    return DS_OK;
}

/* "single": [{"SpecialToken": {"id": "[CLS]"}}, {"Sequence": {"id": "A"}}, …] */
static ds_status marks_template(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    size_t i;
    json_t *item;
    bool after = false;
    json_array_foreach(json_object_get(part, "single"), i, item) {
        json_t *mark = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(mark, "id"));
        if (json_object_get(item, "Sequence"))
            after = true;
        else if (name)
            DS_TRY(add_mark(l, name, after));
        else
            return ds_fail(DS_CORRUPT,
                           "\"post_processor\": entry %zu of \"single\" is neither a "
                           "SpecialToken nor a Sequence",
                           i);
    }
    return DS_OK;
}

/* "cls": ["[CLS]", 101], "sep": ["[SEP]", 102] */
static ds_status marks_bert(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)depth;
    static const char *const keys[] = {"cls", "sep"};
    for (int i = 0; i < 2; i++) {
        const char *name = json_string_value(json_array_get(json_object_get(part, keys[i]), 0));
        if (!name)
            return ds_fail(DS_CORRUPT, "\"post_processor\" has no \"%s\": [token, id]", keys[i]);
        DS_TRY(add_mark(l, name, i == 1));
    }
    return DS_OK;
}

static ds_status marks_none(ds_tokenizer_loading *l, json_t *part, int depth) {
    (void)l, (void)part, (void)depth;
    return DS_OK;
}

static part_fn marks_sequence;

static const part_reader marks_readers[] = {
    {"Sequence", marks_sequence},   {"TemplateProcessing", marks_template},
    {"BertProcessing", marks_bert}, {"RobertaProcessing", marks_bert},
    {"ByteLevel", marks_none},
};
#define N_MARKS (sizeof marks_readers / sizeof *marks_readers)

static ds_status marks_sequence(ds_tokenizer_loading *l, json_t *part, int depth) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(part, "processors"), i, item)
        DS_TRY(read_part(l, item, "post_processor", marks_readers, N_MARKS, depth + 1));
    return DS_OK;
}

/* ---- The whole ---------------------------------------------------------------------------- */

ds_status ds_tokenizer_read_parts(ds_tokenizer_loading *l, json_t *root) {
    DS_TRY(read_part(l, json_object_get(root, "normalizer"), "normalizer", normaliser_readers,
                     N_NORMALISERS, 0));
    DS_TRY(read_part(l, json_object_get(root, "pre_tokenizer"), "pre_tokenizer", split_readers,
                     N_SPLITS, 0));
    return read_part(l, json_object_get(root, "decoder"), "decoder", decoder_readers, N_DECODERS,
                     0);
}

ds_status ds_tokenizer_read_marks(ds_tokenizer_loading *l, json_t *root) {
    return read_part(l, json_object_get(root, "post_processor"), "post_processor", marks_readers,
                     N_MARKS, 0);
}
