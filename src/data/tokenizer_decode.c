/* Ids to text: every token's bytes were worked out at loading, so decoding is copying. As tokens
 * come one by one, a character may be spread over several: its first bytes wait for the rest. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

static ds_status check_id(const ds_tokenizer *tok, int32_t id) {
    if (id >= 0 && (size_t)id < tok->n)
        return DS_OK;
    return ds_fail(DS_INVALID, "token id %d is outside the vocabulary of %zu", id, tok->n);
}

/* How many leading bytes of the token to leave out, given how many spaces are still to go. */
static size_t strip(const ds_token *t, size_t *spaces) {
    size_t n = 0;
    while (n < t->bytes_length && n < *spaces && t->bytes[n] == ' ')
        n++;
    *spaces = n == t->bytes_length ? *spaces - n : 0;
    return n;
}

ds_status ds_tokenizer_decode(const ds_tokenizer *tok, const int32_t *ids, size_t n, char **text,
                              size_t *length) {
    *text = NULL;
    *length = 0;
    ds_text out = {0};
    size_t spaces = tok->strip_spaces;
    ds_text_puts(&out, "");
    for (size_t i = 0; i < n; i++) {
        if (check_id(tok, ids[i]) != DS_OK) {
            ds_text_clear(&out);
            return ds_fail_within(DS_INVALID, "token %zu of %zu", i, n);
        }
        const ds_token *t = &tok->tokens[ids[i]];
        const size_t skip = t->special ? 0 : strip(t, &spaces);
        if (t->bytes_length > skip)
            ds_text_append(&out, t->bytes + skip, t->bytes_length - skip);
    }
    *length = out.length;
    *text = ds_text_take(&out);
    return *text ? DS_OK : DS_OUT_OF_MEMORY;
}

struct ds_detokenizer {
    const ds_tokenizer *tok;
    size_t spaces;
    unsigned char held[4];
    size_t n_held;
    ds_text out;
};

ds_detokenizer *ds_detokenizer_new(const ds_tokenizer *tok) {
    ds_detokenizer *d = ds_calloc(1, sizeof *d);
    if (d) {
        d->tok = tok;
        d->spaces = tok->strip_spaces;
    }
    return d;
}

void ds_detokenizer_free(ds_detokenizer *d) {
    if (d)
        ds_text_clear(&d->out);
    free(d);
}

/* Whether the held bytes, which are no whole character, can still become one. */
static bool can_grow(const unsigned char *held, size_t n) {
    const size_t length = held[0] >= 0xf0 ? 4 : held[0] >= 0xe0 ? 3 : 2;
    if (held[0] < 0xc2 || held[0] > 0xf4 || n >= length)
        return false;
    /* the least and the greatest way to go on: one of them is valid if any is */
    char low[4], high[4];
    for (size_t i = 0; i < length; i++) {
        low[i] = (char)(i < n ? held[i] : 0x80);
        high[i] = (char)(i < n ? held[i] : 0xbf);
    }
    return ds_utf8_valid(low, length) == length || ds_utf8_valid(high, length) == length;
}

static void take_byte(ds_detokenizer *d, unsigned char byte) {
    d->held[d->n_held++] = byte;
    if (ds_utf8_valid((const char *)d->held, d->n_held) == d->n_held) {
        ds_text_append(&d->out, (const char *)d->held, d->n_held);
        d->n_held = 0;
    } else if (!can_grow(d->held, d->n_held)) {
        ds_text_puts(&d->out, "\xef\xbf\xbd");
        const bool retry = d->n_held > 1; /* the byte that broke it may begin another */
        d->n_held = 0;
        if (retry)
            take_byte(d, byte);
    }
}

static ds_status give(ds_detokenizer *d, const char **text, size_t *length) {
    *text = d->out.data ? d->out.data : "";
    *length = d->out.length;
    return d->out.poisoned ? DS_OUT_OF_MEMORY : DS_OK;
}

ds_status ds_detokenizer_push(ds_detokenizer *d, int32_t id, const char **text, size_t *length) {
    *text = "";
    *length = 0;
    DS_TRY(check_id(d->tok, id));
    d->out.length = 0;
    const ds_token *t = &d->tok->tokens[id];
    for (size_t i = t->special ? t->bytes_length : strip(t, &d->spaces); i < t->bytes_length; i++)
        take_byte(d, (unsigned char)t->bytes[i]);
    return give(d, text, length);
}

ds_status ds_detokenizer_finish(ds_detokenizer *d, const char **text, size_t *length) {
    d->out.length = 0;
    if (d->n_held > 0)
        ds_text_puts(&d->out, "\xef\xbf\xbd");
    d->n_held = 0;
    d->spaces = d->tok->strip_spaces;
    return give(d, text, length);
}
