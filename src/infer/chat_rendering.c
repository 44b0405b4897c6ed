#include "infer/chat_rendering.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json_text.h"

/* As Python's strftime("%d %b %Y") in the C locale. */
static void put_today(ds_text *out) {
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const time_t now = time(NULL);
    struct tm day = {0};
    localtime_r(&now, &day);
    ds_text_printf(out, "%02d %.3s %d", day.tm_mday, months + 3 * (size_t)day.tm_mon,
                   day.tm_year + 1900);
}

void ds_chat_put(ds_chat_rendering *r, const char *s) {
    while (s && *s) {
        const size_t plain = strcspn(s, "{");
        ds_text_append(&r->text, s, plain);
        s += plain;
        if (strncmp(s, "{bos}", 5) == 0) {
            ds_text_puts(&r->text, r->t->bos);
            s += 5;
        } else if (strncmp(s, "{eos}", 5) == 0) {
            ds_text_puts(&r->text, r->t->eos);
            s += 5;
        } else if (strncmp(s, "{today}", 7) == 0) {
            put_today(&r->text);
            s += 7;
        } else if (*s) {
            ds_text_append(&r->text, s++, 1);
        }
    }
}

/* What Jinja's trim takes away of ASCII. */
static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

void ds_chat_put_span(ds_chat_rendering *r, const char *s, size_t length) {
    if (length == 0)
        return;
    ds_chat_span *grown = ds_grow(r->contents, &r->capacity, r->n + 1, sizeof *grown);
    if (!grown) {
        r->failed = true;
        return;
    }
    r->contents = grown;
    r->contents[r->n++] = (ds_chat_span){r->text.length, length};
    ds_text_append(&r->text, s, length);
}

void ds_chat_put_content(ds_chat_rendering *r, const char *s, bool trim) {
    size_t length = strlen(s);
    while (trim && length > 0 && is_space(*s))
        s++, length--;
    while (trim && length > 0 && is_space(s[length - 1]))
        length--;
    ds_chat_put_span(r, s, length);
}

void ds_chat_put_json(ds_chat_rendering *r, const json_t *value, int indent) {
    ds_text text = {0};
    ds_json_put(&text, value, indent);
    r->failed = r->failed || text.poisoned;
    ds_chat_put_span(r, text.data ? text.data : "", text.length);
    ds_text_clear(&text);
}
