/* A Hugging Face tokenizer.json into tables: the vocabulary and the model that uses it. The
 * pipeline around them is read by tokenizer_parts.c. */
#include "data/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* ---- Vocabulary --------------------------------------------------------------------------- */

static ds_status add_token(ds_tokenizer_loading *l, const char *name, size_t length,
                           json_int_t id) {
    ds_tokenizer *tok = l->tok;
    if (id < 0 || id >= DS_TOKEN_ID_LIMIT)
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

/* An id as the file has it; -1 for what is none. */
static json_int_t id_of(const json_t *value) {
    return json_is_integer(value) ? json_integer_value(value) : -1;
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

/* The token is looked for in the text as normalising leaves it. */
static ds_status normalise_content(ds_tokenizer_loading *l, ds_added *added) {
    ds_text normal = {0};
    ds_matcher matcher;
    DS_TRY(ds_matcher_init(&matcher));
    const ds_status status =
        ds_tokenizer_normalise(l->tok, &matcher, added->content, added->length, &normal);
    ds_matcher_free(&matcher);
    if (status == DS_OK) {
        added->length = normal.length;
        added->content =
            ds_arena_copy(l->tok->arena, normal.data ? normal.data : "", normal.length + 1);
    }
    ds_text_clear(&normal);
    return status == DS_OK && !added->content ? DS_OUT_OF_MEMORY : status;
}

static ds_status read_added_tokens(ds_tokenizer_loading *l, json_t *list) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        size_t length = 0;
        const char *content = ds_json_text(l, item, "content", &length);
        if (!content || length == 0)
            return ds_fail(DS_CORRUPT, "\"added_tokens\" entry %zu has no \"content\"", i);
        DS_TRY(add_token(l, content, length, id_of(json_object_get(item, "id"))));
        ds_added added = {.content = content,
                          .length = length,
                          .id = (int32_t)json_integer_value(json_object_get(item, "id")),
                          .special = ds_json_bool(item, "special", false),
                          .single_word = ds_json_bool(item, "single_word", false),
                          .lstrip = ds_json_bool(item, "lstrip", false),
                          .rstrip = ds_json_bool(item, "rstrip", false)};
        ds_token *t = &l->tok->tokens[added.id];
        t->special = added.special;
        t->bytes = content;
        t->bytes_length = (uint32_t)length;
        const bool after = ds_json_bool(item, "normalized", !added.special);
        if (after && l->tok->n_normalisers > 0)
            DS_TRY(normalise_content(l, &added));
        if (added.length == 0)
            continue;
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

static ds_status read_merge(ds_tokenizer_loading *l, json_t *merge, size_t rank, ds_text *joined) {
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

static ds_status read_merges(ds_tokenizer_loading *l, json_t *merges) {
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

static ds_status read_vocab(ds_tokenizer_loading *l, json_t *model) {
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab))
        return ds_fail(DS_CORRUPT, "\"model\" has no object \"vocab\"");
    const char *name;
    json_t *id;
    json_object_foreach(vocab, name, id) DS_TRY(add_token(l, name, strlen(name), id_of(id)));
    return DS_OK;
}

static ds_status read_bpe(ds_tokenizer_loading *l, json_t *model) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (affix && *affix)
            return ds_fail(DS_UNSUPPORTED, "\"model\": \"%s\" is not supported", affixes[i]);
    }
    l->tok->model = DS_TOKENS_BPE;
    l->tok->fuse_unknown = ds_json_bool(model, "fuse_unk", false);
    l->tok->ignore_merges = ds_json_bool(model, "ignore_merges", false);
    return read_vocab(l, model);
}

static ds_status read_wordpiece(ds_tokenizer_loading *l, json_t *model) {
    ds_tokenizer *tok = l->tok;
    tok->model = DS_TOKENS_WORDPIECE;
    tok->continuing = ds_json_text(l, model, "continuing_subword_prefix", &tok->continuing_length);
    if (!tok->continuing) {
        tok->continuing = "##";
        tok->continuing_length = 2;
    }
    const json_t *longest = json_object_get(model, "max_input_chars_per_word");
    tok->longest_word = json_is_integer(longest) && json_integer_value(longest) > 0
                            ? (size_t)json_integer_value(longest)
                            : 100;
    return read_vocab(l, model);
}

/* "vocab": [["piece", log probability], …], the place in the list is the id. */
static ds_status read_unigram(ds_tokenizer_loading *l, json_t *model) {
    json_t *vocab = json_object_get(model, "vocab"), *item;
    size_t i;
    l->tok->model = DS_TOKENS_UNIGRAM;
    l->tok->fuse_unknown = true;
    if (!json_is_array(vocab))
        return ds_fail(DS_CORRUPT, "\"model\" has no list \"vocab\"");
    json_array_foreach(vocab, i, item) {
        const json_t *name = json_array_get(item, 0), *score = json_array_get(item, 1);
        const double value = json_number_value(score);
        if (!json_is_string(name) || !json_is_number(score) || !(value > -1e30 && value < 1e30))
            return ds_fail(DS_CORRUPT, "\"vocab\" entry %zu should be [\"piece\", number]", i);
        DS_TRY(add_token(l, json_string_value(name), json_string_length(name), (json_int_t)i));
        l->tok->tokens[i].score = (float)value;
    }
    return DS_OK;
}

static const struct {
    const char *type;
    ds_status (*read)(ds_tokenizer_loading *l, json_t *model);
} models[] = {{"BPE", read_bpe}, {"WordPiece", read_wordpiece}, {"Unigram", read_unigram}};

static ds_status read_model(ds_tokenizer_loading *l, json_t *model) {
    json_t *type = json_object_get(model, "type");
    const char *name = type ? json_string_value(type) : "BPE"; /* older files do not say */
    l->tok->byte_fallback = ds_json_bool(model, "byte_fallback", false);
    for (size_t i = 0; json_is_object(model) && name && i < sizeof models / sizeof *models; i++)
        if (strcmp(models[i].type, name) == 0)
            return models[i].read(l, model);
    return ds_fail(type ? DS_UNSUPPORTED : DS_CORRUPT,
                   "\"model\" should be of type \"BPE\", \"WordPiece\" or \"Unigram\", it is "
                   "\"%s\"",
                   type && name ? name : "missing");
}

static ds_status find_unknown(ds_tokenizer *tok, json_t *model) {
    const char *name = json_string_value(json_object_get(model, "unk_token"));
    const json_int_t id = id_of(json_object_get(model, "unk_id"));
    tok->unknown = name ? ds_tokenizer_find(tok, name) : -1;
    if (tok->model == DS_TOKENS_UNIGRAM && id >= (json_int_t)tok->n)
        return ds_fail(DS_CORRUPT, "\"unk_id\" %lld is outside the vocabulary of %zu",
                       (long long)id, tok->n);
    if (tok->model == DS_TOKENS_UNIGRAM)
        tok->unknown = (int32_t)id;
    return DS_OK;
}

/* Whether a mark stands in the token after something else. */
static bool reaches_across(const ds_token *t, const char *mark, size_t n) {
    const char *at = t->name, *end = t->name + t->name_length;
    while ((size_t)(end - at) >= n && memcmp(at, mark, n) == 0)
        at += n;
    return memmem(at, (size_t)(end - at), mark, n) != NULL;
}

/* SentencePiece's vocabularies take whole texts. Where all their tokens lie within words, texts are
 * cut into words, which are few and come again. */
static void cut_at_words(ds_tokenizer *tok) {
    static const char mark[] = "▁";
    const size_t n = sizeof mark - 1;
    const bool is_whole =
        tok->n_splits == 0 ||
        (tok->n_splits == 1 && tok->splits[0].kind == DS_SPLIT_METASPACE && !tok->splits[0].cut);
    if (!is_whole || tok->byte_level || tok->ignore_merges || tok->model == DS_TOKENS_WORDPIECE ||
        ds_tokenizer_find_name(tok, mark, n) < 0)
        return;
    for (size_t i = 0; i < tok->n; i++)
        if (tok->tokens[i].name && !tok->tokens[i].special &&
            reaches_across(&tok->tokens[i], mark, n))
            return;
    tok->splits[tok->n_splits++] =
        (ds_split){.kind = DS_SPLIT_WORDS, .mark = mark, .mark_length = n};
}

/* As Hugging Face's decoder has it, token by token. */
static void put_wordpiece(const ds_tokenizer_loading *l, const ds_token *t, ds_text *out) {
    static const char *const close[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    const size_t n = strlen(l->decode_prefix);
    if (t->name_length >= n && n > 0 && memcmp(t->name, l->decode_prefix, n) == 0) {
        ds_text_append(out, t->name + n, t->name_length - n);
        return;
    }
    bool apart = true;
    for (size_t i = 0; l->decode_cleanup && i < sizeof close / sizeof *close; i++)
        apart = apart && strcmp(t->name, close[i]) != 0;
    if (apart)
        ds_text_puts(out, " ");
    ds_text_append(out, t->name, t->name_length);
}

/* What each token of the vocabulary proper stands for. Added tokens have their bytes already. */
static ds_status set_bytes(ds_tokenizer_loading *l, ds_token *t) {
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
        } else if (l->decode_prefix) {
            put_wordpiece(l, t, &out);
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

static ds_status read_tokenizer(ds_tokenizer_loading *l, json_t *root) {
    ds_tokenizer *tok = l->tok;
    if (!json_is_object(root))
        return ds_fail(DS_CORRUPT, "should be a JSON object");
    json_t *model = json_object_get(root, "model");
    DS_TRY(read_model(l, model));
    DS_TRY(ds_tokenizer_read_parts(l, root));
    DS_TRY(read_added_tokens(l, json_object_get(root, "added_tokens")));
    if (tok->n == 0)
        return ds_fail(DS_CORRUPT, "the vocabulary is empty");
    DS_TRY(index_names(tok));
    DS_TRY(find_unknown(tok, model));
    find_byte_tokens(tok);
    if (tok->model == DS_TOKENS_BPE)
        DS_TRY(read_merges(l, json_object_get(model, "merges")));
    else
        DS_TRY(tok->model == DS_TOKENS_UNIGRAM ? ds_unigram_index(tok) : ds_wordpiece_index(tok));
    for (size_t i = 0; i < tok->n; i++)
        if (tok->tokens[i].name && !tok->tokens[i].bytes)
            DS_TRY(set_bytes(l, &tok->tokens[i]));
    find_ends(tok, json_object_get(root, "post_processor"));
    cut_at_words(tok);
    return ds_tokenizer_read_marks(l, root);
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
    ds_tokenizer_loading l = {.tok = new_tokenizer()};
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
