/* The text cleaning of BERT (Devlin et al. 2019, its "basic tokenizer"): control characters go,
 * every white space is a space, ideographs stand apart, accents and capitals go. Nearly all text is
 * ASCII, for which a table of 128 answers says everything; only the rest asks Unicode. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "base/error.h"

bool ds_is_white_space(uint32_t c) {
    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r');
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

ds_bert_class ds_bert_class_of(uint32_t c) {
    if (ds_is_white_space(c))
        return DS_BERT_SPACE;
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
                       (c >= '{' && c <= '~')
                   ? DS_BERT_MARK
                   : DS_BERT_LETTER;
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO ? DS_BERT_MARK
                                                                                : DS_BERT_LETTER;
}

size_t ds_lower_case(uint32_t c, uint32_t out[2]) {
    if (c == 0x130) { /* the one letter with a lower case of two characters: i and a dot */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

void ds_text_put_char(ds_text *out, uint32_t c) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)c, bytes);
    ds_text_append(out, (const char *)bytes, n > 0 ? (size_t)n : 0);
}

/* Control, format and private characters, and what stands for a broken one. */
static bool is_unwanted(uint32_t c) {
    if (c == '\t' || c == '\n' || c == '\r')
        return false;
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return c == 0 || c == 0xfffd ||
           (category >= UTF8PROC_CATEGORY_CC && category <= UTF8PROC_CATEGORY_CO);
}

/* The blocks that Hugging Face's tokenizers take for ideographs, gap included. */
static bool is_ideograph(uint32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b81f) ||
           (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) ||
           (c >= 0x2f800 && c <= 0x2fa1f);
}

/* The first two steps, on characters beyond ASCII. */
static void clean(const ds_normaliser *step, const char *text, size_t n, ds_text *out) {
    for (size_t at = 0, length = 0; at < n; at += length) {
        const uint32_t c = ds_utf8_char(text + at, &length);
        if (step->clean && is_unwanted(c))
            continue;
        const bool apart = step->space_ideographs && is_ideograph(c);
        if (apart)
            ds_text_puts(out, " ");
        if (step->clean && ds_is_white_space(c))
            ds_text_puts(out, " ");
        else
            ds_text_append(out, text + at, length);
        if (apart)
            ds_text_puts(out, " ");
    }
}

static void put_lowered(const ds_normaliser *step, const char *text, size_t n, ds_text *out) {
    for (size_t at = 0, length = 0; at < n; at += length) {
        uint32_t lower[2];
        const uint32_t c = ds_utf8_char(text + at, &length);
        if (step->strip_accents && utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_MN)
            continue;
        const size_t m = step->lowercase ? ds_lower_case(c, lower) : 0;
        if (m == 0)
            ds_text_append(out, text + at, length);
        for (size_t i = 0; i < m; i++)
            ds_text_put_char(out, lower[i]);
    }
}

/* Characters beyond ASCII, up to the next ASCII one: no step looks further. */
static ds_status normalise_beyond_ascii(const ds_normaliser *step, const char *text, size_t n,
                                        ds_text *out) {
    ds_text cleaned = {0};
    clean(step, text, n, &cleaned);
    if (cleaned.poisoned)
        return DS_OUT_OF_MEMORY;
    if (cleaned.length > 0 && step->strip_accents) {
        utf8proc_uint8_t *parts = NULL;
        const utf8proc_ssize_t length =
            utf8proc_map((const utf8proc_uint8_t *)cleaned.data, (utf8proc_ssize_t)cleaned.length,
                         &parts, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
        ds_text_clear(&cleaned);
        if (length < 0)
            return ds_fail(DS_OUT_OF_MEMORY, "normalising text: %s", utf8proc_errmsg(length));
        put_lowered(step, (const char *)parts, (size_t)length, out);
        free(parts);
    } else if (cleaned.length > 0) {
        put_lowered(step, cleaned.data, cleaned.length, out);
    }
    ds_text_clear(&cleaned);
    return DS_OK;
}

static char ascii_of(const ds_normaliser *step, unsigned char c) {
    if (step->clean && (c == '\t' || c == '\n' || c == '\r'))
        return ' ';
    if (step->clean && (c < 0x20 || c == 0x7f))
        return '\0'; /* goes */
    return (char)(step->lowercase && c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
}

ds_status ds_bert_normalise(const ds_normaliser *step, const char *text, size_t n, ds_text *out) {
    char piece[1024];
    size_t at = 0;
    while (at < n) {
        size_t length = 0;
        for (; at < n && (unsigned char)text[at] < 0x80 && length < sizeof piece; at++) {
            piece[length] = ascii_of(step, (unsigned char)text[at]);
            length += piece[length] != '\0' || !step->clean;
        }
        ds_text_append(out, piece, length);
        size_t beyond = at;
        while (beyond < n && (unsigned char)text[beyond] >= 0x80)
            beyond++;
        if (beyond > at)
            DS_TRY(normalise_beyond_ascii(step, text + at, beyond - at, out));
        at = beyond;
    }
    return out->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
}
