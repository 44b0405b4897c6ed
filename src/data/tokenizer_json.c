/* A Hugging Face tokenizer.json into tables. The file describes a pipeline of parts by name; each
 * part that is understood has a reader in a table below, and any other is refused by name rather
 * than passed over, because a tokenizer that is almost right ruins a model silently. */
#include "data/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "base/error.h"

#define NESTING_LIMIT 8 /* sequences within sequences */

typedef struct loading {
    ds_tokenizer *tok;
    bool decode_byte_level, decode_byte_fallback;
    const char *decode_from, *decode_to; /* NULL: no replacement */
} loading;

typedef ds_status part_fn(loading *l, json_t *part, int depth);

typedef struct part_reader {
    const char *type;
    part_fn *read;
} part_reader;

/* ---- Values ------------------------------------------------------------------------------- */

static bool get_bool(json_t *object, const char *key, bool otherwise) {
    json_t *v = json_object_get(object, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

/* The string under key, copied to the arena; NULL when there is none. */
static const char *get_string(loading *l, json_t *object, const char *key, size_t *length) {
    json_t *v = json_object_get(object, key);
    if (!json_is_string(v))
        return NULL;
    *length = json_string_length(v);
    return ds_arena_copy(l->tok->arena, json_string_value(v), *length + 1);
}

static ds_status read_part(loading *l, json_t *part, const char *what, const part_reader *readers,
                           size_t n, int depth) {
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

static ds_status add_normaliser(loading *l, ds_normaliser step) {
    ds_tokenizer *tok = l->tok;
    ds_normaliser *grown =
        ds_grow(tok->normalisers, &tok->normaliser_capacity, tok->n_normalisers + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    tok->normalisers = grown;
    tok->normalisers[tok->n_normalisers++] = step;
    return DS_OK;
}

static ds_status normaliser_prepend(loading *l, json_t *part, int depth) {
    (void)depth;
    ds_normaliser step = {.kind = DS_NORMALISE_PREPEND};
    step.to = get_string(l, part, "prepend", &step.to_length);
    if (!step.to)
        return ds_fail(DS_CORRUPT, "the normalizer Prepend has no string \"prepend\"");
    return add_normaliser(l, step);
}

static ds_status normaliser_replace(loading *l, json_t *part, int depth) {
    (void)depth;
    ds_normaliser step = {.kind = DS_NORMALISE_REPLACE};
    step.from = get_string(l, json_object_get(part, "pattern"), "String", &step.from_length);
    step.to = get_string(l, part, "content", &step.to_length);
    if (!step.from || step.from_length == 0 || !step.to)
        return ds_fail(DS_UNSUPPORTED,
                       "the normalizer Replace needs a \"pattern\" with a \"String\" "
                       "and a \"content\"; patterns are not supported there");
    return add_normaliser(l, step);
}

static ds_status normaliser_unicode(loading *l, json_t *part, int depth) {
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
    {"Sequence", normaliser_sequence}, {"Prepend", normaliser_prepend},
    {"Replace", normaliser_replace},   {"NFC", normaliser_unicode},
    {"NFD", normaliser_unicode},       {"NFKC", normaliser_unicode},
    {"NFKD", normaliser_unicode},
};
#define N_NORMALISERS (sizeof normaliser_readers / sizeof *normaliser_readers)

static ds_status normaliser_sequence(loading *l, json_t *part, int depth) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(part, "normalizers"), i, item)
        DS_TRY(read_part(l, item, "normalizer", normaliser_readers, N_NORMALISERS, depth + 1));
    return DS_OK;
}

/* ---- Pre-tokenizers ----------------------------------------------------------------------- */

static ds_status add_split(loading *l, ds_split split) {
    if (l->tok->n_splits == DS_SPLIT_STAGES) {
        pcre2_code_free(split.code);
        return ds_fail(DS_UNSUPPORTED, "\"pre_tokenizer\" has more than %d steps", DS_SPLIT_STAGES);
    }
    l->tok->splits[l->tok->n_splits++] = split;
    return DS_OK;
}

static ds_status add_pattern(loading *l, const char *pattern, size_t length, ds_split_keep keep) {
    ds_split split = {.kind = DS_SPLIT_REGEX, .keep = keep};
    DS_TRY(ds_pattern_compile(pattern, length, "\"pre_tokenizer\"", &split.code));
    return add_split(l, split);
}

static ds_status split_byte_level(loading *l, json_t *part, int depth) {
    (void)depth;
    l->tok->byte_level = true;
    if (get_bool(part, "add_prefix_space", true))
        DS_TRY(add_split(l, (ds_split){.kind = DS_SPLIT_PREFIX}));
    if (get_bool(part, "use_regex", true))
        DS_TRY(add_pattern(l, ds_gpt2_pattern, strlen(ds_gpt2_pattern), DS_KEEP_ALL));
    return DS_OK;
}

static ds_status split_pattern(loading *l, json_t *part, int depth) {
    (void)depth;
    const char *behaviour = json_string_value(json_object_get(part, "behavior"));
    const bool invert = get_bool(part, "invert", false);
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
    const char *text = get_string(l, pattern, "Regex", &length);
    if (text)
        return add_pattern(l, text, length, keep);
    text = get_string(l, pattern, "String", &length);
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

static ds_status split_digits(loading *l, json_t *part, int depth) {
    (void)depth;
    const char *pattern = get_bool(part, "individual_digits", false) ? "\\p{N}" : "\\p{N}+";
    return add_pattern(l, pattern, strlen(pattern), DS_KEEP_ALL);
}

static ds_status split_metaspace(loading *l, json_t *part, int depth) {
    (void)depth;
    ds_split split = {.kind = DS_SPLIT_METASPACE, .cut = get_bool(part, "split", true)};
    split.mark = get_string(l, part, "replacement", &split.mark_length);
    if (!split.mark || split.mark_length == 0)
        return ds_fail(DS_CORRUPT, "the pre-tokenizer Metaspace has no \"replacement\"");
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    if (!scheme)
        scheme = get_bool(part, "add_prefix_space", true) ? "always" : "never";
    split.prepend = strcmp(scheme, "always") == 0  ? DS_PREPEND_ALWAYS
                    : strcmp(scheme, "first") == 0 ? DS_PREPEND_FIRST
                                                   : DS_PREPEND_NEVER;
    return add_split(l, split);
}

static part_fn split_sequence;

static const part_reader split_readers[] = {
    {"Sequence", split_sequence}, {"ByteLevel", split_byte_level}, {"Split", split_pattern},
    {"Digits", split_digits},     {"Metaspace", split_metaspace},
};
#define N_SPLITS (sizeof split_readers / sizeof *split_readers)

static ds_status split_sequence(loading *l, json_t *part, int depth) {
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

static ds_status decoder_byte_level(loading *l, json_t *part, int depth) {
    (void)part, (void)depth;
    l->decode_byte_level = true;
    return DS_OK;
}

static ds_status decoder_byte_fallback(loading *l, json_t *part, int depth) {
    (void)part, (void)depth;
    l->decode_byte_fallback = true;
    return DS_OK;
}

static ds_status decoder_fuse(loading *l, json_t *part, int depth) {
    (void)l, (void)part, (void)depth; /* joining tokens is what decoding does anyway */
    return DS_OK;
}

static ds_status decoder_replace(loading *l, json_t *part, int depth) {
    (void)depth;
    size_t from = 0, to = 0;
    l->decode_from = get_string(l, json_object_get(part, "pattern"), "String", &from);
    l->decode_to = get_string(l, part, "content", &to);
    if (!l->decode_from || from == 0 || !l->decode_to)
        return ds_fail(
            DS_UNSUPPORTED,
            "the decoder Replace needs a \"pattern\" with a \"String\", and a \"content\"");
    return DS_OK;
}

static ds_status decoder_strip(loading *l, json_t *part, int depth) {
    (void)depth;
    const char *content = json_string_value(json_object_get(part, "content"));
    const json_int_t start = json_integer_value(json_object_get(part, "start"));
    if (!content || strcmp(content, " ") != 0 || start < 0 || start > 64 ||
        json_integer_value(json_object_get(part, "stop")) != 0)
        return ds_fail(DS_UNSUPPORTED, "the decoder Strip is only supported for leading spaces");
    l->tok->strip_spaces = (size_t)start;
    return DS_OK;
}

static ds_status decoder_metaspace(loading *l, json_t *part, int depth) {
    (void)depth;
    size_t length = 0;
    l->decode_from = get_string(l, part, "replacement", &length);
    l->decode_to = " ";
    if (!l->decode_from || length == 0)
        return ds_fail(DS_CORRUPT, "the decoder Metaspace has no \"replacement\"");
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    l->tok->strip_spaces = scheme && strcmp(scheme, "never") == 0 ? 0 : 1;
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
};
#define N_DECODERS (sizeof decoder_readers / sizeof *decoder_readers)

static ds_status decoder_sequence(loading *l, json_t *part, int depth) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(part, "decoders"), i, item)
        DS_TRY(read_part(l, item, "decoder", decoder_readers, N_DECODERS, depth + 1));
    return DS_OK;
}

/* ---- Vocabulary --------------------------------------------------------------------------- */

static ds_status add_token(loading *l, const char *name, size_t length, json_t *id_value) {
    ds_tokenizer *tok = l->tok;
    const json_int_t id = json_integer_value(id_value);
    if (!json_is_integer(id_value) || id < 0 || id >= DS_TOKEN_ID_LIMIT)
        return ds_fail(DS_CORRUPT, "the token \"%s\" should have an id from 0 to %d", name,
                       DS_TOKEN_ID_LIMIT - 1);
    if ((size_t)id >= tok->n) {
        ds_token *grown = ds_grow(tok->tokens, &tok->token_capacity, (size_t)id + 1, sizeof *grown);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        memset(grown + tok->n, 0, ((size_t)id + 1 - tok->n) * sizeof *grown);
        tok->tokens = grown;
        tok->n = (size_t)id + 1;
    }
    ds_token *t = &tok->tokens[id];
    if (t->name && (t->name_length != length || memcmp(t->name, name, length) != 0))
        return ds_fail(DS_CORRUPT, "the tokens \"%s\" and \"%s\" have the same id %lld", t->name,
                       name, (long long)id);
    if (!t->name)
        t->name = ds_arena_copy(tok->arena, name, length + 1);
    t->name_length = (uint32_t)length;
    return t->name ? DS_OK : DS_OUT_OF_MEMORY;
}

static ds_status index_names(ds_tokenizer *tok) {
    size_t slots = 64;
    while (slots < tok->n * 2)
        slots *= 2;
    free(tok->name_slots);
    tok->name_slots = ds_malloc(slots * sizeof *tok->name_slots);
    if (!tok->name_slots)
        return DS_OUT_OF_MEMORY;
    memset(tok->name_slots, 0xff, slots * sizeof *tok->name_slots);
    tok->name_mask = slots - 1;
    for (size_t id = 0; id < tok->n; id++) {
        const ds_token *t = &tok->tokens[id];
        if (!t->name || ds_tokenizer_find_name(tok, t->name, t->name_length) >= 0)
            continue;
        size_t at = ds_bytes_hash(t->name, t->name_length) & tok->name_mask;
        while (tok->name_slots[at] >= 0)
            at = (at + 1) & tok->name_mask;
        tok->name_slots[at] = (int32_t)id;
    }
    return DS_OK;
}

static ds_status read_added_tokens(loading *l, json_t *list) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        size_t length = 0;
        const char *content = get_string(l, item, "content", &length);
        if (!content || length == 0)
            return ds_fail(DS_CORRUPT, "\"added_tokens\" entry %zu has no \"content\"", i);
        DS_TRY(add_token(l, content, length, json_object_get(item, "id")));
        ds_added added = {.content = content,
                          .length = length,
                          .id = (int32_t)json_integer_value(json_object_get(item, "id")),
                          .special = get_bool(item, "special", false),
                          .single_word = get_bool(item, "single_word", false),
                          .lstrip = get_bool(item, "lstrip", false),
                          .rstrip = get_bool(item, "rstrip", false)};
        ds_token *t = &l->tok->tokens[added.id];
        t->special = added.special;
        t->bytes = content;
        t->bytes_length = (uint32_t)length;
        const bool after = get_bool(item, "normalized", !added.special);
        if (after && l->tok->n_normalisers > 0) { /* looked for as normalising leaves it */
            ds_text normal = {0};
            DS_TRY(ds_tokenizer_normalise(l->tok, content, length, &normal));
            added.length = normal.length;
            added.content =
                ds_arena_copy(l->tok->arena, normal.data ? normal.data : "", normal.length + 1);
            ds_text_clear(&normal);
            if (!added.content)
                return DS_OUT_OF_MEMORY;
            if (added.length == 0)
                continue;
        }
        DS_TRY(ds_added_insert(after ? &l->tok->normalised : &l->tok->raw, &added));
    }
    ds_added_sort(&l->tok->raw);
    ds_added_sort(&l->tok->normalised);
    return DS_OK;
}

/* ---- Merges ------------------------------------------------------------------------------- */

/* Both halves of a merge: ["a", "b"] or "a b". */
static bool merge_halves(json_t *merge, const char *half[2], size_t length[2]) {
    if (json_is_array(merge)) {
        for (size_t i = 0; i < 2; i++) {
            half[i] = json_string_value(json_array_get(merge, i));
            length[i] = json_string_length(json_array_get(merge, i));
        }
        return json_array_size(merge) == 2 && half[0] && half[1];
    }
    const char *text = json_string_value(merge);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space)
        return false;
    half[0] = text;
    length[0] = (size_t)(space - text);
    half[1] = space + 1;
    length[1] = json_string_length(merge) - length[0] - 1;
    return true;
}

static ds_status read_merge(loading *l, json_t *merge, size_t rank, ds_text *joined) {
    ds_tokenizer *tok = l->tok;
    const char *half[2] = {NULL, NULL};
    size_t length[2] = {0, 0};
    if (!merge_halves(merge, half, length))
        return ds_fail(DS_CORRUPT, "merge %zu should be two tokens: \"a b\" or [\"a\", \"b\"]",
                       rank);
    joined->length = 0;
    ds_text_append(joined, half[0], length[0]);
    ds_text_append(joined, half[1], length[1]);
    if (joined->poisoned)
        return DS_OUT_OF_MEMORY;
    const int32_t left = ds_tokenizer_find_name(tok, half[0], length[0]);
    const int32_t right = ds_tokenizer_find_name(tok, half[1], length[1]);
    const int32_t whole =
        joined->data ? ds_tokenizer_find_name(tok, joined->data, joined->length) : -1;
    if (left < 0 || right < 0 || whole < 0)
        return ds_fail(DS_CORRUPT,
                       "merge %zu names the token \"%.*s\", which the vocabulary has not", rank,
                       (int)(left < 0    ? length[0]
                             : right < 0 ? length[1]
                                         : joined->length),
                       left < 0    ? half[0]
                       : right < 0 ? half[1]
                                   : joined->data);
    uint64_t *value = ds_pair_map_at(&tok->merges, left, right);
    if (!value)
        return DS_OUT_OF_MEMORY;
    *value = (uint64_t)rank << 32 | (uint32_t)whole; /* of two equal merges the later counts */
    return DS_OK;
}

static ds_status read_merges(loading *l, json_t *merges) {
    if (!json_is_array(merges))
        return ds_fail(DS_CORRUPT, "\"model\" has no list \"merges\"");
    DS_TRY(ds_pair_map_init(&l->tok->merges, json_array_size(merges)));
    ds_text joined = {0};
    ds_status status = DS_OK;
    size_t rank;
    json_t *merge;
    json_array_foreach(merges, rank, merge) {
        status = read_merge(l, merge, rank, &joined);
        if (status != DS_OK)
            break;
    }
    ds_text_clear(&joined);
    return status;
}

/* ---- The model ---------------------------------------------------------------------------- */

static ds_status read_model(loading *l, json_t *model) {
    ds_tokenizer *tok = l->tok;
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_object(model) || (type && strcmp(type, "BPE") != 0))
        return ds_fail(type ? DS_UNSUPPORTED : DS_CORRUPT,
                       "\"model\" should be of type \"BPE\", it is \"%s\"",
                       type ? type : "missing");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (affix && *affix)
            return ds_fail(DS_UNSUPPORTED, "\"model\": \"%s\" is not supported", affixes[i]);
    }
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab))
        return ds_fail(DS_CORRUPT, "\"model\" has no object \"vocab\"");
    const char *name;
    json_t *id;
    json_object_foreach(vocab, name, id) DS_TRY(add_token(l, name, strlen(name), id));
    tok->byte_fallback = get_bool(model, "byte_fallback", false);
    tok->fuse_unknown = get_bool(model, "fuse_unk", false);
    tok->ignore_merges = get_bool(model, "ignore_merges", false);
    return DS_OK;
}

/* What each token of the vocabulary proper stands for. Added tokens have their bytes already. */
static ds_status set_bytes(loading *l, ds_token *t) {
    ds_text out = {0};
    unsigned byte = 0;
    int read = 0;
    bool plain = !l->decode_byte_level;
    for (size_t i = 0, length = 0; i < t->name_length && !plain; i += length) {
        const int b = ds_char_to_byte(ds_utf8_char(t->name + i, &length));
        ds_text_append(&out, &(char){(char)b}, 1);
        plain = b < 0;
    }
    if (plain) {
        out.length = 0;
        if (l->decode_byte_fallback && t->name_length == 6 &&
            sscanf(t->name, "<0x%2x>%n", &byte, &read) == 1 && read == 6) {
            ds_text_append(&out, &(char){(char)byte}, 1);
        } else if (l->decode_from) {
            const size_t from = strlen(l->decode_from);
            const char *at = t->name, *end = at + t->name_length, *hit;
            for (; (hit = memmem(at, (size_t)(end - at), l->decode_from, from)); at = hit + from) {
                ds_text_append(&out, at, (size_t)(hit - at));
                ds_text_puts(&out, l->decode_to);
            }
            ds_text_append(&out, at, (size_t)(end - at));
        } else {
            ds_text_append(&out, t->name, t->name_length);
        }
    }
    t->bytes_length = (uint32_t)out.length;
    t->bytes = ds_arena_copy(l->tok->arena, out.data ? out.data : "", out.length + 1);
    const bool failed = out.poisoned || !t->bytes;
    ds_text_clear(&out);
    return failed ? DS_OUT_OF_MEMORY : DS_OK;
}

static void find_byte_tokens(ds_tokenizer *tok) {
    for (int b = 0; b < 256; b++) {
        char name[8];
        size_t length = 0;
        if (tok->byte_level)
            length = ds_byte_to_char((unsigned char)b, name);
        else
            length = (size_t)snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        tok->byte_ids[b] = ds_tokenizer_find_name(tok, name, length);
    }
}

/* The file itself has no field for them, so by what models call them. */
static int32_t first_of(const ds_tokenizer *tok, const char *const *names) {
    for (; *names; names++) {
        const int32_t id = ds_tokenizer_find(tok, *names);
        if (id >= 0)
            return id;
    }
    return -1;
}

static void find_ends(ds_tokenizer *tok, json_t *post_processor) {
    static const char *const begins[] = {
        "<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<s>", "<bos>",
        "<|startoftext|>",   "<|endoftext|>",           NULL};
    static const char *const ends[] = {"<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>",
                                       "<eos>",           "<|endoftext|>",         NULL};
    tok->bos = first_of(tok, begins);
    tok->eos = first_of(tok, ends);
    json_t *first = json_array_get(json_object_get(post_processor, "single"), 0);
    const char *name =
        json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    if (name && ds_tokenizer_find(tok, name) >= 0)
        tok->bos = ds_tokenizer_find(tok, name);
}

static ds_status read_tokenizer(loading *l, json_t *root) {
    ds_tokenizer *tok = l->tok;
    if (!json_is_object(root))
        return ds_fail(DS_CORRUPT, "should be a JSON object");
    json_t *model = json_object_get(root, "model");
    DS_TRY(read_model(l, model));
    DS_TRY(read_part(l, json_object_get(root, "normalizer"), "normalizer", normaliser_readers,
                     N_NORMALISERS, 0));
    DS_TRY(read_part(l, json_object_get(root, "pre_tokenizer"), "pre_tokenizer", split_readers,
                     N_SPLITS, 0));
    DS_TRY(
        read_part(l, json_object_get(root, "decoder"), "decoder", decoder_readers, N_DECODERS, 0));
    DS_TRY(read_added_tokens(l, json_object_get(root, "added_tokens")));
    if (tok->n == 0)
        return ds_fail(DS_CORRUPT, "the vocabulary is empty");
    DS_TRY(index_names(tok));
    DS_TRY(read_merges(l, json_object_get(model, "merges")));
    for (size_t i = 0; i < tok->n; i++)
        if (tok->tokens[i].name && !tok->tokens[i].bytes)
            DS_TRY(set_bytes(l, &tok->tokens[i]));
    const char *unknown = json_string_value(json_object_get(model, "unk_token"));
    tok->unknown = unknown ? ds_tokenizer_find(tok, unknown) : -1;
    find_byte_tokens(tok);
    find_ends(tok, json_object_get(root, "post_processor"));
    return DS_OK;
}

static ds_tokenizer *new_tokenizer(void) {
    ds_tokenizer *tok = ds_calloc(1, sizeof *tok);
    if (!tok)
        return NULL;
    pthread_mutex_init(&tok->lock, NULL);
    tok->arena = ds_arena_new();
    if (!tok->arena) {
        ds_tokenizer_free(tok);
        return NULL;
    }
    return tok;
}

ds_status ds_tokenizer_from_json(const char *data, size_t size, ds_tokenizer **out) {
    *out = NULL;
    json_error_t error;
    json_t *root = json_loadb(data, size, 0, &error);
    if (!root)
        return ds_fail(DS_CORRUPT, "no valid JSON: line %d, column %d: %s", error.line,
                       error.column, error.text);
    loading l = {.tok = new_tokenizer()};
    ds_status status = l.tok ? read_tokenizer(&l, root) : DS_OUT_OF_MEMORY;
    json_decref(root);
    if (status == DS_OK) {
        l.tok->json = ds_malloc(size + 1);
        if (l.tok->json) {
            memcpy(l.tok->json, data, size);
            l.tok->json_size = size;
        } else {
            status = DS_OUT_OF_MEMORY;
        }
    }
    if (status != DS_OK) {
        ds_tokenizer_free(l.tok);
        return status;
    }
    *out = l.tok;
    return DS_OK;
}
