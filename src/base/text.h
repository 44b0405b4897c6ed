/* A growing text buffer. An allocation that fails makes it "poisoned": later appends do nothing and
 * ds_text_take returns NULL, so callers check once, at the end. */
#ifndef DS_BASE_TEXT_H
#define DS_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include "deepseek/status.h"

typedef struct ds_text {
    char *data; /* zero-terminated; NULL while empty */
    size_t length, capacity;
    bool poisoned;
} ds_text;

void ds_text_append(ds_text *text, const char *bytes, size_t length);
void ds_text_puts(ds_text *text, const char *string);
void ds_text_printf(ds_text *text, const char *fmt, ...) DS_PRINTF(2, 3);

/* The zero-terminated contents, now the caller's to free(); NULL if poisoned. Leaves text empty. */
char *ds_text_take(ds_text *text);
void ds_text_clear(ds_text *text); /* frees the contents */

/* "1.5 GiB", "312 KiB": size in binary units, at most `size` bytes of out. Returns out. */
const char *ds_format_bytes(char *out, size_t size, double size_bytes);
/* "124.4 M", "67.0 B": count in decimal units. Returns out. */
const char *ds_format_count(char *out, size_t size, double count);
/* "1 h 02 min", "3 min 05 s", "12.3 s", "4.1 ms". Returns out. */
const char *ds_format_duration(char *out, size_t size, double seconds);

/* Of the n names, the one nearest to word by edit distance, or NULL if none is near enough to be a
 * likely misspelling. For "did you mean". */
const char *ds_nearest_name(const char *word, const char *const *names, size_t n);

bool ds_ends_with(const char *text, const char *ending);

/* Bytes of the longest valid UTF-8 at the beginning of text. */
size_t ds_utf8_valid(const char *text, size_t n);

#endif
