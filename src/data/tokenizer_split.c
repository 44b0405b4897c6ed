/* Splitting text into words, by PCRE2 patterns one after the other: each stage splits what the one
 * before it left. The text is known to be valid UTF-8 (the encoder hands invalid bytes around the
 * splits), so PCRE2 need not check it at every match, which would cost the square of its length. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* Radford et al. 2019: contractions, a word with the space before it, numbers, other marks, spaces
 * but for the last one before a word. */
const char ds_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

#define JIT_STACK_BYTES (1 << 20)
#define MATCH_LIMIT     5000000 /* backtracking steps of one match: a hostile pattern must end */

ds_status ds_pattern_compile(const char *pattern, size_t length, const char *what,
                             pcre2_code **out) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, length,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, NULL);
    if (!*out) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(error, message, sizeof message);
        return ds_fail(DS_INVALID, "%s: the pattern is wrong at its byte %zu: %s", what,
                       (size_t)offset, (const char *)message);
    }
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it matching is only slower */
    return DS_OK;
}

ds_status ds_matcher_init(ds_matcher *m) {
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_BYTES, NULL);
    if (!m->data || !m->context) {
        ds_matcher_free(m);
        return ds_fail(DS_OUT_OF_MEMORY, "out of memory for matching patterns");
    }
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    if (m->stack) /* NULL where there is no just-in-time compiler */
        pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return DS_OK;
}

void ds_matcher_free(ds_matcher *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    *m = (ds_matcher){0};
}

ds_status ds_matcher_next(ds_matcher *m, const pcre2_code *code, const char *text, size_t n,
                          size_t *from, size_t *to) {
    size_t at = *from;
    while (at < n) {
        const int rc =
            pcre2_match(code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, m->data, m->context);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0) {
            PCRE2_UCHAR message[160];
            pcre2_get_error_message(rc, message, sizeof message);
            return ds_fail(DS_UNSUPPORTED, "matching the tokenizer's pattern failed: %s",
                           (const char *)message);
        }
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(m->data);
        if (ends[0] < at || ends[1] < ends[0])
            return ds_fail(DS_UNSUPPORTED, "the tokenizer's pattern matches backwards");
        if (ends[1] > ends[0]) {
            *from = ends[0];
            *to = ends[1];
            return DS_OK;
        }
        at = ends[0]; /* an empty match: go on after the next character */
        for (at++; at < n && ((unsigned char)text[at] & 0xc0) == 0x80;)
            at++;
    }
    *from = *to = n;
    return DS_OK;
}

typedef struct split_run {
    const ds_tokenizer *tok;
    ds_matcher *m;
    ds_word_fn *fn;
    void *context;
    bool first;
} split_run;

static ds_status split_from(split_run *r, size_t stage, const char *text, size_t n);

static ds_status split_by_regex(split_run *r, size_t stage, const char *text, size_t n) {
    const ds_split *s = &r->tok->splits[stage];
    size_t done = 0;
    while (done < n) {
        size_t start = done, end = done;
        DS_TRY(ds_matcher_next(r->m, s->code, text, n, &start, &end));
        if (start > done && s->keep != DS_KEEP_MATCHES)
            DS_TRY(split_from(r, stage + 1, text + done, start - done));
        if (end > start && s->keep != DS_KEEP_GAPS)
            DS_TRY(split_from(r, stage + 1, text + start, end - start));
        done = end;
    }
    return DS_OK;
}

static ds_status put_prefix(split_run *r, size_t stage, const char *text, size_t n) {
    if (n == 0 || text[0] == ' ')
        return split_from(r, stage + 1, text, n);
    ds_text longer = {0};
    ds_text_puts(&longer, " ");
    ds_text_append(&longer, text, n);
    ds_status status = DS_OUT_OF_MEMORY;
    if (!longer.poisoned)
        status = split_from(r, stage + 1, longer.data, longer.length);
    ds_text_clear(&longer);
    return status;
}

/* SentencePiece's convention: spaces are written as a visible mark, and a text begins with one. */
static ds_status split_by_mark(split_run *r, size_t stage, const char *text, size_t n) {
    const ds_split *s = &r->tok->splits[stage];
    ds_text marked = {0};
    const bool begins = n >= s->mark_length && memcmp(text, s->mark, s->mark_length) == 0;
    if (n > 0 && text[0] != ' ' && !begins &&
        (s->prepend == DS_PREPEND_ALWAYS || (s->prepend == DS_PREPEND_FIRST && r->first)))
        ds_text_append(&marked, s->mark, s->mark_length);
    for (size_t i = 0; i < n;) {
        const char *space = memchr(text + i, ' ', n - i);
        const size_t run = space ? (size_t)(space - text) - i : n - i;
        ds_text_append(&marked, text + i, run);
        if (space)
            ds_text_append(&marked, s->mark, s->mark_length);
        i += run + (space != NULL);
    }
    ds_status status = marked.poisoned ? DS_OUT_OF_MEMORY : DS_OK;
    size_t done = 0;
    while (status == DS_OK && done < marked.length) {
        size_t end = marked.length;
        if (s->cut && marked.length - done > s->mark_length) {
            const char *next =
                memmem(marked.data + done + s->mark_length, marked.length - done - s->mark_length,
                       s->mark, s->mark_length);
            if (done == 0 && memcmp(marked.data, s->mark, s->mark_length) != 0)
                next = memmem(marked.data, marked.length, s->mark, s->mark_length);
            end = next ? (size_t)(next - marked.data) : marked.length;
        }
        status = split_from(r, stage + 1, marked.data + done, end - done);
        done = end;
    }
    ds_text_clear(&marked);
    return status;
}

static ds_status split_bert(split_run *r, size_t stage, const char *text, size_t n) {
    size_t begin = 0;
    for (size_t at = 0, length = 1; at < n; at += length) {
        const uint32_t c = ds_utf8_char(text + at, &length);
        const ds_bert_class class = ds_bert_class_of(c);
        if (class == DS_BERT_LETTER)
            continue;
        if (at > begin)
            DS_TRY(split_from(r, stage + 1, text + begin, at - begin));
        if (class == DS_BERT_MARK)
            DS_TRY(split_from(r, stage + 1, text + at, length));
        begin = at + length;
    }
    return n > begin ? split_from(r, stage + 1, text + begin, n - begin) : DS_OK;
}

/* Words with the marks before them: no token of the vocabulary reaches across their borders, so
 * that cutting there changes nothing but the time. */
static ds_status split_words(split_run *r, size_t stage, const char *text, size_t n) {
    const ds_split *s = &r->tok->splits[stage];
    for (size_t begin = 0, end = 0; begin < n; begin = end) {
        end = begin;
        while (n - end >= s->mark_length && memcmp(text + end, s->mark, s->mark_length) == 0)
            end += s->mark_length;
        const char *next = memmem(text + end, n - end, s->mark, s->mark_length);
        end = next ? (size_t)(next - text) : n;
        DS_TRY(split_from(r, stage + 1, text + begin, end - begin));
    }
    return DS_OK;
}

static ds_status split_from(split_run *r, size_t stage, const char *text, size_t n) {
    if (stage == r->tok->n_splits)
        return r->fn(r->context, text, n);
    switch (r->tok->splits[stage].kind) {
    case DS_SPLIT_REGEX: return split_by_regex(r, stage, text, n);
    case DS_SPLIT_PREFIX: return put_prefix(r, stage, text, n);
    case DS_SPLIT_METASPACE: return split_by_mark(r, stage, text, n);
    case DS_SPLIT_BERT: return split_bert(r, stage, text, n);
    case DS_SPLIT_WORDS: return split_words(r, stage, text, n);
    }
    return ds_fail(DS_INTERNAL, "no such way to split text");
}

ds_status ds_tokenizer_split(const ds_tokenizer *tok, ds_matcher *m, const char *text, size_t n,
                             bool first, ds_word_fn *fn, void *context) {
    split_run r = {.tok = tok, .m = m, .fn = fn, .context = context, .first = first};
    return split_from(&r, 0, text, n);
}
