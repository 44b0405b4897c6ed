/* What is done to a text before it is split: the steps of the file's "normalizer", one after the
 * other. Bytes that are no UTF-8 pass every step that looks at characters as they are. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/error.h"

static ds_status prepend(const ds_normaliser *step, ds_matcher *m, const char *text, size_t n,
                         ds_text *out) {
    (void)m;
    if (n > 0)
        ds_text_append(out, step->to, step->to_length);
    ds_text_append(out, text, n);
    return DS_OK;
}

static ds_status replace_all(const ds_normaliser *step, ds_matcher *m, const char *text, size_t n,
                             ds_text *out) {
    (void)m;
    while (n > 0) {
        const char *hit = memmem(text, n, step->from, step->from_length);
        const size_t run = hit ? (size_t)(hit - text) : n;
        ds_text_append(out, text, run);
        if (!hit)
            break;
        ds_text_append(out, step->to, step->to_length);
        text += run + step->from_length;
        n -= run + step->from_length;
    }
    return DS_OK;
}

/* ---- steps of valid UTF-8 ------------------------------------------------------------------- */

static ds_status replace_matches(const ds_normaliser *step, ds_matcher *m, const char *text,
                                 size_t n, ds_text *out) {
    size_t done = 0;
    while (done < n) {
        size_t start = done, end = done;
        DS_TRY(ds_matcher_next(m, step->code, text, n, &start, &end));
        ds_text_append(out, text + done, start - done);
        if (end > start)
            ds_text_append(out, step->to, step->to_length);
        done = end;
    }
    return DS_OK;
}

static ds_status normalise_unicode(const ds_normaliser *step, ds_matcher *m, const char *text,
                                   size_t n, ds_text *out) {
    (void)m;
    utf8proc_uint8_t *mapped = NULL;
    const utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &mapped,
                     (utf8proc_option_t)step->unicode);
    if (length < 0)
        return ds_fail(DS_OUT_OF_MEMORY, "normalising text: %s", utf8proc_errmsg(length));
    ds_text_append(out, (const char *)mapped, (size_t)length);
    free(mapped);
    return DS_OK;
}

static ds_status lower(const ds_normaliser *step, ds_matcher *m, const char *text, size_t n,
                       ds_text *out) {
    (void)step, (void)m;
    for (size_t at = 0, length = 0; at < n; at += length) {
        uint32_t c[2];
        const size_t count = ds_lower_case(ds_utf8_char(text + at, &length), c);
        for (size_t i = 0; i < count; i++)
            ds_text_put_char(out, c[i]);
    }
    return DS_OK;
}

static ds_status strip_accents(const ds_normaliser *step, ds_matcher *m, const char *text, size_t n,
                               ds_text *out) {
    (void)step, (void)m;
    for (size_t at = 0, length = 0; at < n; at += length) {
        const uint32_t c = ds_utf8_char(text + at, &length);
        if (utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_MN)
            ds_text_append(out, text + at, length);
    }
    return DS_OK;
}

static ds_status bert(const ds_normaliser *step, ds_matcher *m, const char *text, size_t n,
                      ds_text *out) {
    (void)m;
    return ds_bert_normalise(step, text, n, out);
}

static ds_status map_characters(const ds_normaliser *step, ds_matcher *m, const char *text,
                                size_t n, ds_text *out) {
    (void)m;
    ds_charsmap_apply(&step->charsmap, text, n, out);
    return DS_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* White space is looked for at the ends only, so invalid bytes between do no harm. */
static ds_status strip(const ds_normaliser *step, ds_matcher *m, const char *text, size_t n,
                       ds_text *out) {
    (void)m;
    size_t start = 0, end = n;
    for (size_t length; step->left && start < n; start += length) {
        length = ds_utf8_length(text + start, n - start);
        size_t unused = 0;
        const bool is_char = (unsigned char)text[start] < 0x80 || length > 1;
        if (!is_char || !ds_is_white_space(ds_utf8_char(text + start, &unused)))
            break;
    }
    while (step->right && end > start) {
        size_t last = end - 1;
        while (last > start && end - last < 4 && ((unsigned char)text[last] & 0xc0) == 0x80)
            last--;
        size_t unused = 0;
        if (ds_utf8_valid(text + last, end - last) != end - last ||
            !ds_is_white_space(ds_utf8_char(text + last, &unused)))
            break;
        end = last;
    }
    ds_text_append(out, text + start, end - start);
    return DS_OK;
}

typedef ds_status step_fn(const ds_normaliser *step, ds_matcher *m, const char *text, size_t n,
                          ds_text *out);

static const struct {
    step_fn *apply;
    bool by_character; /* wants valid UTF-8 */
} steps[] = {
    [DS_NORMALISE_PREPEND] = {prepend, false},
    [DS_NORMALISE_REPLACE] = {replace_all, false},
    [DS_NORMALISE_REGEX] = {replace_matches, true},
    [DS_NORMALISE_UNICODE] = {normalise_unicode, true},
    [DS_NORMALISE_LOWERCASE] = {lower, true},
    [DS_NORMALISE_STRIP_ACCENTS] = {strip_accents, true},
    [DS_NORMALISE_STRIP] = {strip, false},
    [DS_NORMALISE_BERT] = {bert, true},
    [DS_NORMALISE_CHARSMAP] = {map_characters, true},
};

static ds_status normalise_step(const ds_normaliser *step, ds_matcher *m, const char *text,
                                size_t n, ds_text *out) {
    if (!steps[step->kind].by_character) {
        DS_TRY(steps[step->kind].apply(step, m, text, n, out));
        return out->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
    }
    while (n > 0) {
        const size_t valid = ds_utf8_valid(text, n);
        if (valid > 0)
            DS_TRY(steps[step->kind].apply(step, m, text, valid, out));
        if (valid < n)
            ds_text_append(out, text + valid, 1);
        text += valid + (valid < n);
        n -= valid + (valid < n);
    }
    return out->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
}

ds_status ds_tokenizer_normalise(const ds_tokenizer *tok, ds_matcher *m, const char *text, size_t n,
                                 ds_text *out) {
    ds_text now = {0};
    ds_status status = DS_OK;
    const char *at = text;
    for (size_t i = 0; i < tok->n_normalisers && status == DS_OK; i++) {
        ds_text next = {0};
        status = normalise_step(&tok->normalisers[i], m, at, n, &next);
        ds_text_clear(&now);
        now = next;
        at = now.data ? now.data : "";
        n = now.length;
    }
    if (status == DS_OK && tok->n_normalisers > 0 && out->length == 0 && !now.poisoned) {
        ds_text_clear(out); /* nothing is in it: the last step's memory becomes its own */
        *out = now;
        return DS_OK;
    }
    if (status == DS_OK)
        ds_text_append(out, at, n);
    ds_text_clear(&now);
    return out->poisoned ? DS_OUT_OF_MEMORY : status;
}
