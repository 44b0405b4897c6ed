#include "base/text.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

void ds_text_append(ds_text *text, const char *bytes, size_t length) {
    if (text->poisoned)
        return;
    char *data = ds_grow(text->data, &text->capacity, text->length + length + 1, 1);
    if (!data) {
        text->poisoned = true;
        return;
    }
    text->data = data;
    if (length)
        memcpy(data + text->length, bytes, length);
    text->length += length;
    data[text->length] = '\0';
}

void ds_text_puts(ds_text *text, const char *string) {
    ds_text_append(text, string, strlen(string));
}

void ds_text_printf(ds_text *text, const char *fmt, ...) {
    char small[256];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof small) {
        ds_text_append(text, small, (size_t)n);
    } else if (n >= 0) {
        char *big = ds_malloc((size_t)n + 1);
        if (big) {
            vsnprintf(big, (size_t)n + 1, fmt, again);
            ds_text_append(text, big, (size_t)n);
            free(big);
        } else {
            text->poisoned = true;
        }
    }
    va_end(again);
}

char *ds_text_take(ds_text *text) {
    char *data = text->data;
    if (text->poisoned) {
        free(data);
        data = NULL;
    } else if (!data) {
        data = ds_strdup("");
    }
    *text = (ds_text){0};
    return data;
}

void ds_text_clear(ds_text *text) {
    free(text->data);
    *text = (ds_text){0};
}

static const char *scaled(char *out, size_t size, double value, double base,
                          const char *const *units, int n_units) {
    int unit = 0;
    while (fabs(value) >= base * 0.9995 && unit < n_units - 1) {
        value /= base;
        unit++;
    }
    snprintf(out, size,
             unit == 0    ? "%.0f%s%s"
             : value < 10 ? "%.2f%s%s"
                          : "%.1f%s%s",
             value, *units[unit] ? " " : "", units[unit]);
    return out;
}

const char *ds_format_bytes(char *out, size_t size, double size_bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    return scaled(out, size, size_bytes, 1024, units, 6);
}

const char *ds_format_count(char *out, size_t size, double count) {
    static const char *const units[] = {"", "k", "M", "B", "T", "Q"};
    return scaled(out, size, count, 1000, units, 6);
}

const char *ds_format_duration(char *out, size_t size, double seconds) {
    if (!(seconds >= 0) || seconds > 1e9)
        snprintf(out, size, "?");
    else if (seconds < 1e-3)
        snprintf(out, size, "%.1f us", seconds * 1e6);
    else if (seconds < 1)
        snprintf(out, size, "%.1f ms", seconds * 1e3);
    else if (seconds < 60)
        snprintf(out, size, "%.1f s", seconds);
    else if (seconds < 3600)
        snprintf(out, size, "%d min %02d s", (int)seconds / 60, (int)seconds % 60);
    else
        snprintf(out, size, "%ld h %02ld min", (long)seconds / 3600, (long)seconds / 60 % 60);
    return out;
}

/* Levenshtein distance, bytes, case folded; words longer than 63 bytes are far from everything. */
static size_t edit_distance(const char *a, const char *b) {
    const size_t n = strlen(a), m = strlen(b);
    size_t row[64];
    if (n >= 64 || m >= 64)
        return n + m;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const size_t up = row[j];
            const bool same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 1]);
            size_t best = diagonal + !same;
            best = up + 1 < best ? up + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
            diagonal = up;
        }
    }
    return row[m];
}

const char *ds_nearest_name(const char *word, const char *const *names, size_t n) {
    const char *nearest = NULL;
    size_t best = strlen(word) / 3 + 2; /* a third of the letters wrong is no misspelling */
    for (size_t i = 0; i < n; i++) {
        const size_t d = edit_distance(word, names[i]);
        if (d < best) {
            best = d;
            nearest = names[i];
        }
    }
    return nearest;
}

/* Length of the valid character at s, of which left > 0 bytes are there; 0 if it is not valid:
 * RFC 3629, so no overlong forms, no surrogates, nothing past U+10FFFF. */
static size_t valid_char(const unsigned char *s, size_t left) {
    const unsigned char c = s[0];
    if (c < 0x80)
        return 1;
    const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || length > left)
        return 0;
    const unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

bool ds_ends_with(const char *text, const char *ending) {
    const size_t n = strlen(text), n_ending = strlen(ending);
    return n >= n_ending && strcmp(text + n - n_ending, ending) == 0;
}

size_t ds_utf8_valid(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t at = 0;
    while (at < n) {
        uint64_t eight;
        while (n - at >= sizeof eight) {
            memcpy(&eight, s + at, sizeof eight);
            if (eight & UINT64_C(0x8080808080808080))
                break;
            at += sizeof eight;
        }
        if (at == n)
            break;
        const size_t length = valid_char(s + at, n - at);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}
