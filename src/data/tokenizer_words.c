/* Text is read in batches; each batch is cut into chunks that threads split into words, each thread
 * counting in a table of its own; at the end the tables are added up. A sum does not depend on who
 * counted what, so neither does the result.
 *
 * Chunks are cut between lines, before a character and after one that are no spaces: no word of the
 * usual patterns reaches across such a place, so the cuts change nothing. */
#include "data/tokenizer_words.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/tokenizer.h"
#include "deepseek/data.h"

#define CHUNK_BYTES ((size_t)256 << 10)
#define BATCH_BYTES ((size_t)16 << 20)

/* ---- The table ---------------------------------------------------------------------------- */

ds_status ds_word_table_init(ds_word_table *t) {
    t->mask = ((size_t)1 << 12) - 1;
    t->slots = ds_calloc(t->mask + 1, sizeof *t->slots);
    t->arena = ds_arena_new();
    return t->slots && t->arena ? DS_OK : DS_OUT_OF_MEMORY;
}

void ds_word_table_free(ds_word_table *t) {
    free(t->slots);
    ds_arena_free(t->arena);
    *t = (ds_word_table){0};
}

static ds_word *table_place(ds_word *slots, size_t mask, const char *bytes, size_t n,
                            uint32_t hash) {
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
        ds_word *w = &slots[at];
        if (!w->bytes || (w->hash == hash && w->length == n && memcmp(w->bytes, bytes, n) == 0))
            return w;
    }
}

static ds_status table_grow(ds_word_table *t) {
    const size_t mask = t->mask * 2 + 1;
    ds_word *slots = ds_calloc(mask + 1, sizeof *slots);
    if (!slots)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i <= t->mask; i++) {
        const ds_word *w = &t->slots[i];
        if (w->bytes)
            *table_place(slots, mask, w->bytes, w->length, w->hash) = *w;
    }
    free(t->slots);
    t->slots = slots;
    t->mask = mask;
    return DS_OK;
}

ds_word *ds_word_table_at(ds_word_table *t, const char *bytes, size_t n) {
    const uint32_t hash = (uint32_t)ds_bytes_hash(bytes, n);
    ds_word *w = table_place(t->slots, t->mask, bytes, n, hash);
    if (w->bytes)
        return w;
    if (t->count * 2 > t->mask) {
        if (table_grow(t) != DS_OK)
            return NULL;
        w = table_place(t->slots, t->mask, bytes, n, hash);
    }
    const char *copy = ds_arena_copy(t->arena, bytes, n);
    if (!copy)
        return NULL;
    *w = (ds_word){.bytes = copy, .length = (uint32_t)n, .hash = hash};
    t->count++;
    return w;
}

static ds_status table_add(ds_word_table *t, const char *bytes, size_t n, int64_t count) {
    if (n > UINT32_MAX)
        return ds_fail(DS_UNSUPPORTED, "a word of %zu bytes", n);
    ds_word *w = ds_word_table_at(t, bytes, n);
    if (!w)
        return DS_OUT_OF_MEMORY;
    w->count += count;
    return DS_OK;
}

/* ---- Splitting ---------------------------------------------------------------------------- */

typedef struct counter {
    ds_word_table table;
    ds_matcher matcher;
    ds_status status;
} counter;

static ds_status count_valid(counter *c, const pcre2_code *code, const char *text, size_t n) {
    for (size_t done = 0; done < n;) {
        size_t start = done, end = done;
        DS_TRY(ds_matcher_next(&c->matcher, code, text, n, &start, &end));
        if (start > done)
            DS_TRY(table_add(&c->table, text + done, start - done, 1));
        if (end > start)
            DS_TRY(table_add(&c->table, text + start, end - start, 1));
        done = end;
    }
    return DS_OK;
}

static ds_status count_chunk(counter *c, const pcre2_code *code, const char *text, size_t n) {
    while (n > 0) {
        const size_t valid = ds_utf8_valid(text, n);
        DS_TRY(count_valid(c, code, text, valid));
        const size_t skip = valid < n; /* a byte that is no UTF-8 belongs to no word */
        text += valid + skip;
        n -= valid + skip;
    }
    return DS_OK;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Where the chunk that begins at `from` ends. */
static size_t chunk_end(const char *text, size_t n, size_t from) {
    size_t at = from + CHUNK_BYTES;
    while (at < n) {
        const char *line = memchr(text + at, '\n', n - at);
        if (!line)
            return n;
        at = (size_t)(line - text) + 1;
        /* an ASCII character on both sides: beyond ASCII there are more kinds of space */
        if (at < n && text[at] > ' ' && text[at - 2] > ' ' && !is_space(text[at]))
            return at;
    }
    return n;
}

typedef struct batch {
    ds_text text;
    size_t *ends; /* [n]: of the chunks */
    size_t n, capacity;
} batch;

static ds_status batch_add(batch *b, const char *text, size_t n) {
    const size_t base = b->text.length;
    ds_text_append(&b->text, text, n);
    if (b->text.poisoned)
        return DS_OUT_OF_MEMORY;
    for (size_t at = 0; at < n;) {
        size_t *grown = ds_grow(b->ends, &b->capacity, b->n + 1, sizeof *grown);
        if (!grown)
            return DS_OUT_OF_MEMORY;
        b->ends = grown;
        at = chunk_end(text, n, at);
        b->ends[b->n++] = base + at;
    }
    return DS_OK;
}

static ds_status batch_count(batch *b, const pcre2_code *code, counter *counters, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t i = 0; i < b->n; i++) {
        counter *c = &counters[omp_get_thread_num()];
        const size_t start = i > 0 ? b->ends[i - 1] : 0;
        if (c->status == DS_OK)
            c->status = count_chunk(c, code, b->text.data + start, b->ends[i] - start);
    }
    b->n = 0;
    b->text.length = 0;
    for (int i = 0; i < threads; i++)
        if (counters[i].status != DS_OK)
            return ds_fail(counters[i].status, "counting words failed: %s",
                           ds_status_string(counters[i].status));
    return DS_OK;
}

/* ---- Files -------------------------------------------------------------------------------- */

static ds_status sizes_on_disk(const char *const *paths, size_t n, int64_t *total) {
    *total = 0;
    for (size_t i = 0; i < n; i++) {
        ds_text_source *source = NULL;
        int64_t size = 0;
        DS_TRY(ds_text_source_open(paths[i], &source));
        ds_text_source_progress(source, NULL, &size);
        ds_text_source_close(source);
        *total += size;
    }
    return DS_OK;
}

static ds_status count_file(ds_text_source *source, const ds_bpe_train_opts *opts, batch *b,
                            const pcre2_code *code, counter *counters, int threads, int64_t before,
                            int64_t total) {
    for (;;) {
        const char *text = NULL;
        size_t n = 0;
        DS_TRY(ds_text_source_next(source, &text, &n));
        if (text)
            DS_TRY(batch_add(b, text, n));
        if (text && b->text.length < BATCH_BYTES)
            continue;
        DS_TRY(batch_count(b, code, counters, threads));
        int64_t done = 0;
        ds_text_source_progress(source, &done, NULL);
        if (opts->progress &&
            !opts->progress(opts->progress_context, "counting words", before + done, total))
            return ds_fail(DS_CANCELLED, "training was stopped while counting words");
        if (!text)
            return DS_OK;
    }
}

static ds_status count_files(const char *const *paths, size_t n_paths,
                             const ds_bpe_train_opts *opts, const pcre2_code *code,
                             counter *counters, int threads) {
    int64_t before = 0, total = 0;
    DS_TRY(sizes_on_disk(paths, n_paths, &total));
    batch b = {0};
    ds_status status = DS_OK;
    for (size_t i = 0; i < n_paths && status == DS_OK; i++) {
        ds_text_source *source = NULL;
        status = ds_text_source_open(paths[i], &source);
        if (status == DS_OK)
            status = count_file(source, opts, &b, code, counters, threads, before, total);
        int64_t size = 0;
        if (source)
            ds_text_source_progress(source, NULL, &size);
        before += size;
        ds_text_source_close(source);
    }
    ds_text_clear(&b.text);
    free(b.ends);
    return status;
}

static ds_status add_up(counter *counters, int threads, ds_word_table *out) {
    for (int i = 1; i < threads; i++) {
        const ds_word_table *t = &counters[i].table;
        for (size_t k = 0; k <= t->mask; k++)
            if (t->slots[k].bytes)
                DS_TRY(table_add(&counters[0].table, t->slots[k].bytes, t->slots[k].length,
                                 t->slots[k].count));
    }
    *out = counters[0].table;
    counters[0].table = (ds_word_table){0};
    return DS_OK;
}

ds_status ds_words_count(const char *const *paths, size_t n_paths, const ds_bpe_train_opts *opts,
                         ds_word_table *out) {
    const int threads = opts->threads > 0 ? opts->threads : omp_get_max_threads();
    const char *pattern = opts->pattern ? opts->pattern : ds_gpt2_pattern;
    pcre2_code *code = NULL;
    DS_TRY(ds_pattern_compile(pattern, strlen(pattern), "the pattern for words", &code));
    counter *counters = ds_calloc((size_t)threads, sizeof *counters);
    ds_status status = counters ? DS_OK : DS_OUT_OF_MEMORY;
    for (int i = 0; i < threads && status == DS_OK; i++) {
        status = ds_word_table_init(&counters[i].table);
        if (status == DS_OK)
            status = ds_matcher_init(&counters[i].matcher);
    }
    if (status == DS_OK)
        status = count_files(paths, n_paths, opts, code, counters, threads);
    if (status == DS_OK)
        status = add_up(counters, threads, out);
    for (int i = 0; counters && i < threads; i++) {
        ds_word_table_free(&counters[i].table);
        ds_matcher_free(&counters[i].matcher);
    }
    free(counters);
    pcre2_code_free(code);
    return status;
}
