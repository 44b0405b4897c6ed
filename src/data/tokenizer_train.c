/* Learning byte-pair merges (Sennrich et al. 2016): the most frequent pair of neighbours becomes a
 * token, over and over. Words are counted once (tokenizer_words.c), so a merge costs the words that
 * hold the pair, not the text: each pair knows its count and those words. A pair's count can only
 * fall after the step in which it came up, so the heap may hold counts that are too high: an entry
 * whose count has fallen is put back with the right one when it comes to the top. */
#include "data/tokenizer_words.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/tokenizer.h"
#include "deepseek/tokenizer.h"

#define PROGRESS_MERGES 64 /* merges between two calls of progress */
#define LOWEST_VOCAB    256

typedef struct pair {
    int32_t left, right;
    int64_t count;
    uint32_t *words; /* [n_words], indices that may hold it, each once */
    size_t n_words, capacity;
    bool touched; /* its count rose in the present step */
    bool merged;  /* is in the list of merges */
} pair;

typedef struct symbols {
    int32_t *ids; /* [n], in the one block of all words */
    uint32_t n;
    int64_t count;
} symbols;

typedef struct heap_entry {
    int64_t count;
    uint32_t pair;
} heap_entry;

typedef struct training {
    const ds_bpe_train_opts *opts;
    int32_t *ids; /* of all words */
    symbols *words;
    size_t n_words;
    pair *pairs;
    size_t n_pairs, pair_capacity;
    ds_pair_map index; /* pair → place in pairs */
    heap_entry *heap;
    size_t n_heap, heap_capacity;
    int32_t byte_id[256];
    int32_t (*merges)[2];
    size_t n_merges, merge_capacity;
    size_t n_wanted;   /* tokens, less the special ones */
    uint32_t *touched; /* pairs whose count rose in the present step */
    size_t n_touched, touched_capacity;
    ds_word_table names; /* the tokens' bytes; count is the id + 1 */
    ds_word *tokens;     /* [n_tokens] by id, less the special ones */
    size_t n_tokens;
} training;

/* ---- Heap: greatest count first, then least ids --------------------------------------------- */

static bool goes_before(const training *t, heap_entry a, heap_entry b) {
    if (a.count != b.count)
        return a.count > b.count;
    const pair *x = &t->pairs[a.pair], *y = &t->pairs[b.pair];
    return ds_pair_key(x->left, x->right) < ds_pair_key(y->left, y->right);
}

static ds_status push(training *t, heap_entry entry) {
    heap_entry *grown = ds_grow(t->heap, &t->heap_capacity, t->n_heap + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    t->heap = grown;
    size_t at = t->n_heap++;
    for (; at > 0 && goes_before(t, entry, t->heap[(at - 1) / 2]); at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = entry;
    return DS_OK;
}

static heap_entry pop(training *t) {
    const heap_entry top = t->heap[0], last = t->heap[--t->n_heap];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->n_heap; at = child) {
        if (child + 1 < t->n_heap && goes_before(t, t->heap[child + 1], t->heap[child]))
            child++;
        if (!goes_before(t, t->heap[child], last))
            break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = last;
    return top;
}

/* ---- Pairs -------------------------------------------------------------------------------- */

/* Counts the pair `count` times more, in word w. Words come in rising order within a step. */
static ds_status count_pair(training *t, int32_t left, int32_t right, int64_t count, uint32_t w) {
    uint64_t *place = ds_pair_map_at(&t->index, left, right);
    if (!place)
        return DS_OUT_OF_MEMORY;
    if (*place == DS_PAIR_NONE) {
        pair *grown = ds_grow(t->pairs, &t->pair_capacity, t->n_pairs + 1, sizeof *grown);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        t->pairs = grown;
        t->pairs[t->n_pairs] = (pair){.left = left, .right = right};
        *place = t->n_pairs++;
    }
    pair *p = &t->pairs[*place];
    p->count += count;
    if (!p->touched) {
        uint32_t *more = ds_grow(t->touched, &t->touched_capacity, t->n_touched + 1, sizeof *more);
        if (!more)
            return DS_OUT_OF_MEMORY;
        t->touched = more;
        t->touched[t->n_touched++] = (uint32_t)*place;
        p->touched = true;
    }
    if (p->n_words > 0 && p->words[p->n_words - 1] == w)
        return DS_OK;
    uint32_t *grown = ds_grow(p->words, &p->capacity, p->n_words + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    p->words = grown;
    p->words[p->n_words++] = w;
    return DS_OK;
}

static void uncount_pair(training *t, int32_t left, int32_t right, int64_t count) {
    const uint64_t at = ds_pair_map_get(&t->index, left, right);
    if (at != DS_PAIR_NONE)
        t->pairs[at].count -= count;
}

static ds_status push_touched(training *t) {
    for (size_t i = 0; i < t->n_touched; i++) {
        pair *p = &t->pairs[t->touched[i]];
        p->touched = false;
        if (p->count > 0)
            DS_TRY(push(t, (heap_entry){.count = p->count, .pair = t->touched[i]}));
    }
    t->n_touched = 0;
    return DS_OK;
}

/* Replaces left right by joined in word w and counts its neighbours anew. */
static ds_status merge_in_word(training *t, uint32_t w, int32_t left, int32_t right,
                               int32_t joined) {
    symbols *s = &t->words[w];
    int32_t *ids = s->ids;
    uint32_t out = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (ids[i] != left || i + 1 == s->n || ids[i + 1] != right) {
            ids[out++] = ids[i];
            continue;
        }
        if (out > 0) {
            uncount_pair(t, ids[out - 1], left, s->count);
            DS_TRY(count_pair(t, ids[out - 1], joined, s->count, w));
        }
        i++;
        if (i + 1 < s->n) {
            uncount_pair(t, right, ids[i + 1], s->count);
            DS_TRY(count_pair(t, joined, ids[i + 1], s->count, w));
        }
        ids[out++] = joined;
    }
    s->n = out;
    return DS_OK;
}

/* ---- The steps ---------------------------------------------------------------------------- */

static ds_status lay_out_words(training *t, const ds_word_table *table) {
    size_t total = 0, at = 0;
    for (size_t i = 0; i <= table->mask; i++)
        total += table->slots[i].bytes ? table->slots[i].length : 0;
    if (table->count > UINT32_MAX)
        return ds_fail(DS_UNSUPPORTED, "%zu different words; at most 2^32", table->count);
    t->ids = ds_malloc((total + 1) * sizeof *t->ids);
    t->words = ds_malloc((table->count + 1) * sizeof *t->words);
    if (!t->ids || !t->words)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i <= table->mask; i++) {
        const ds_word *w = &table->slots[i];
        if (!w->bytes)
            continue;
        t->words[t->n_words++] = (symbols){.ids = t->ids + at, .n = w->length, .count = w->count};
        for (uint32_t k = 0; k < w->length; k++)
            t->ids[at++] = t->byte_id[(unsigned char)w->bytes[k]];
    }
    return DS_OK;
}

static ds_status count_first_pairs(training *t) {
    for (size_t w = 0; w < t->n_words; w++) {
        const symbols *s = &t->words[w];
        for (uint32_t i = 0; i + 1 < s->n; i++)
            DS_TRY(count_pair(t, s->ids[i], s->ids[i + 1], s->count, (uint32_t)w));
    }
    return push_touched(t);
}

/* The id of the token with these bytes, a new one if there is none: "a" + "bc" and "ab" + "c" are
 * the same token. */
static ds_status name_token(training *t, const char *bytes, size_t n, int32_t *id) {
    ds_word *name = ds_word_table_at(&t->names, bytes, n);
    if (!name)
        return DS_OUT_OF_MEMORY;
    if (name->count == 0) {
        name->count = (int64_t)(t->opts->n_special + t->n_tokens) + 1;
        t->tokens[t->n_tokens++] = *name;
    }
    *id = (int32_t)(name->count - 1);
    return DS_OK;
}

static ds_status join(training *t, int32_t left, int32_t right, int32_t *id) {
    const ds_word *a = &t->tokens[(size_t)left - t->opts->n_special];
    const ds_word *b = &t->tokens[(size_t)right - t->opts->n_special];
    const size_t n = (size_t)a->length + b->length;
    char *bytes = ds_malloc(n);
    if (!bytes)
        return DS_OUT_OF_MEMORY;
    memcpy(bytes, a->bytes, a->length);
    memcpy(bytes + a->length, b->bytes, b->length);
    const ds_status status = name_token(t, bytes, n, id);
    free(bytes);
    return status;
}

static ds_status record_merge(training *t, int32_t left, int32_t right) {
    int32_t(*grown)[2] = ds_grow(t->merges, &t->merge_capacity, t->n_merges + 1, sizeof *t->merges);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    t->merges = grown;
    t->merges[t->n_merges][0] = left;
    t->merges[t->n_merges++][1] = right;
    return DS_OK;
}

static ds_status merge_pair(training *t, uint32_t at) {
    const int32_t left = t->pairs[at].left, right = t->pairs[at].right;
    int32_t joined = 0;
    DS_TRY(join(t, left, right, &joined));
    if (!t->pairs[at].merged)
        DS_TRY(record_merge(t, left, right));
    uint32_t *words = t->pairs[at].words;
    const size_t n = t->pairs[at].n_words;
    t->pairs[at].merged = true;
    t->pairs[at].words = NULL; /* the step may move t->pairs */
    t->pairs[at].n_words = t->pairs[at].capacity = 0;
    ds_status status = DS_OK;
    for (size_t i = 0; i < n && status == DS_OK; i++)
        status = merge_in_word(t, words[i], left, right, joined);
    free(words);
    t->pairs[at].count = 0;
    return status == DS_OK ? push_touched(t) : status;
}

static bool report(const training *t) {
    return !t->opts->progress || t->opts->progress(t->opts->progress_context, "merging pairs",
                                                   (int64_t)t->n_tokens - LOWEST_VOCAB,
                                                   (int64_t)t->n_wanted - LOWEST_VOCAB);
}

static ds_status learn(training *t) {
    const int64_t least = t->opts->min_count > 1 ? t->opts->min_count : 1;
    DS_TRY(count_first_pairs(t));
    while (t->n_tokens < t->n_wanted && t->n_heap > 0) {
        heap_entry top = pop(t);
        if (top.count != t->pairs[top.pair].count) {
            top.count = t->pairs[top.pair].count;
            if (top.count >= least)
                DS_TRY(push(t, top));
            continue;
        }
        if (top.count < least)
            break;
        DS_TRY(merge_pair(t, top.pair));
        if (t->n_merges % PROGRESS_MERGES == 0 && !report(t))
            return ds_fail(DS_CANCELLED, "training was stopped after %zu merges", t->n_merges);
    }
    (void)report(t);
    return DS_OK;
}

/* ---- Writing ------------------------------------------------------------------------------ */

/* The token's name: a visible character for each of its bytes. */
static void put_name(const training *t, size_t token, ds_text *json) {
    const ds_word *w = &t->tokens[token];
    char name[2];
    ds_text_puts(json, "\"");
    for (uint32_t i = 0; i < w->length; i++) {
        if (w->bytes[i] == '"' || w->bytes[i] == '\\')
            ds_text_puts(json, "\\");
        ds_text_append(json, name, ds_byte_to_char((unsigned char)w->bytes[i], name));
    }
    ds_text_puts(json, "\"");
}

static void put_special_tokens(const training *t, ds_text *json) {
    for (size_t i = 0; i < t->opts->n_special; i++) {
        const char *name = t->opts->special_tokens[i];
        ds_text_printf(json, "%s\n    {\"id\": %zu, \"content\": ", i ? "," : "", i);
        ds_json_put_string(json, name, strlen(name));
        ds_text_puts(json, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                           "\"normalized\": false, \"special\": true}");
    }
}

static void put_pre_tokenizer(const training *t, ds_text *json) {
    if (!t->opts->pattern) {
        ds_text_puts(json, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                           "\"trim_offsets\": true, \"use_regex\": true}");
        return;
    }
    ds_text_puts(json, "{\"type\": \"Sequence\", \"pretokenizers\": [\n"
                       "    {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
    ds_json_put_string(json, t->opts->pattern, strlen(t->opts->pattern));
    ds_text_puts(json, "}, \"behavior\": \"Isolated\", \"invert\": false},\n"
                       "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                       "\"trim_offsets\": true, \"use_regex\": false}]}");
}

static void put_model(const training *t, ds_text *json) {
    const size_t base = t->opts->n_special;
    ds_text_puts(json, "{\n    \"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,\n"
                       "    \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,\n"
                       "    \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": "
                       "false,\n    \"vocab\": {");
    for (size_t i = 0; i < base; i++) {
        const char *name = t->opts->special_tokens[i];
        ds_text_puts(json, i ? ",\n      " : "\n      ");
        ds_json_put_string(json, name, strlen(name));
        ds_text_printf(json, ": %zu", i);
    }
    for (size_t i = 0; i < t->n_tokens; i++) {
        ds_text_puts(json, base + i ? ",\n      " : "\n      ");
        put_name(t, i, json);
        ds_text_printf(json, ": %zu", base + i);
    }
    ds_text_puts(json, "\n    },\n    \"merges\": [");
    for (size_t i = 0; i < t->n_merges; i++) {
        ds_text_puts(json, i ? ",\n      [" : "\n      [");
        put_name(t, (size_t)t->merges[i][0] - base, json);
        ds_text_puts(json, ", ");
        put_name(t, (size_t)t->merges[i][1] - base, json);
        ds_text_puts(json, "]");
    }
    ds_text_puts(json, "\n    ]\n  }");
}

static ds_status make_tokenizer(const training *t, ds_tokenizer **out) {
    ds_text json = {0};
    ds_text_puts(&json, "{\n  \"version\": \"1.0\", \"truncation\": null, \"padding\": null,\n"
                        "  \"added_tokens\": [");
    put_special_tokens(t, &json);
    ds_text_puts(&json, "],\n  \"normalizer\": null,\n  \"pre_tokenizer\": ");
    put_pre_tokenizer(t, &json);
    ds_text_puts(&json, ",\n  \"post_processor\": null,\n  \"decoder\": {\"type\": "
                        "\"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                        "\"use_regex\": true},\n  \"model\": ");
    put_model(t, &json);
    ds_text_puts(&json, "\n}\n");
    const ds_status status =
        json.poisoned ? DS_OUT_OF_MEMORY : ds_tokenizer_from_json(json.data, json.length, out);
    ds_text_clear(&json);
    return status;
}

/* ---- All of it ---------------------------------------------------------------------------- */

static ds_status check(const ds_bpe_train_opts *opts) {
    const int64_t least = LOWEST_VOCAB + (int64_t)opts->n_special;
    if (opts->vocab_size < least || opts->vocab_size > DS_TOKEN_ID_LIMIT)
        return ds_fail(DS_INVALID,
                       "vocab_size %lld: should be from %lld (256 bytes and %zu special tokens) to "
                       "%d",
                       (long long)opts->vocab_size, (long long)least, opts->n_special,
                       DS_TOKEN_ID_LIMIT);
    for (size_t i = 0; i < opts->n_special; i++) {
        const char *name = opts->special_tokens[i];
        const size_t n = strlen(name);
        if (n < 3 || ds_utf8_valid(name, n) != n)
            return ds_fail(DS_INVALID,
                           "the special token \"%s\" should be UTF-8 of 3 bytes or more", name);
        for (size_t k = 0; k < i; k++)
            if (strcmp(name, opts->special_tokens[k]) == 0)
                return ds_fail(DS_INVALID, "the special token \"%s\" is given twice", name);
    }
    return DS_OK;
}

/* Letters take the ids after the special tokens, in the order of their code points, as in GPT-2's
 * vocabulary: visible bytes first. */
static ds_status number_letters(training *t) {
    for (uint32_t c = 0; c < 0x200; c++) {
        const int byte = ds_char_to_byte(c);
        if (byte >= 0)
            DS_TRY(name_token(t, &(char){(char)byte}, 1, &t->byte_id[byte]));
    }
    return DS_OK;
}

static ds_status prepare(training *t, const ds_word_table *table) {
    DS_TRY(ds_word_table_init(&t->names));
    t->tokens = ds_malloc(t->n_wanted * sizeof *t->tokens);
    if (!t->tokens)
        return DS_OUT_OF_MEMORY;
    DS_TRY(ds_pair_map_init(&t->index, 1 << 16));
    DS_TRY(number_letters(t));
    return lay_out_words(t, table);
}

static void clear(training *t) {
    for (size_t i = 0; i < t->n_pairs; i++)
        free(t->pairs[i].words);
    free(t->ids);
    free(t->words);
    free(t->pairs);
    free(t->heap);
    free(t->merges);
    free(t->touched);
    free(t->tokens);
    ds_word_table_free(&t->names);
    ds_pair_map_free(&t->index);
}

ds_status ds_bpe_train(const char *const *paths, size_t n_paths, const ds_bpe_train_opts *opts,
                       ds_tokenizer **out) {
    *out = NULL;
    DS_TRY(check(opts));
    training t = {.opts = opts, .n_wanted = (size_t)opts->vocab_size - opts->n_special};
    ds_word_table table = {0};
    ds_status status = ds_words_count(paths, n_paths, opts, &table);
    if (status == DS_OK)
        status = prepare(&t, &table);
    ds_word_table_free(&table);
    if (status == DS_OK)
        status = learn(&t);
    if (status == DS_OK)
        status = make_tokenizer(&t, out);
    clear(&t);
    return status;
}
