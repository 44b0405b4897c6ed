#include "data/charsmap.h"

#include <string.h>

#include "base/error.h"
#include "data/tokenizer.h"

/* A unit of the double array: bit 31 a leaf, bits 0-30 its value; else bits 0-7 its label, bit 8
 * whether a leaf is among its children, and in bits 10-31 the way to them (times 256 if bit 9). */
static uint32_t unit_at(const ds_charsmap *m, size_t i) {
    uint32_t unit;
    memcpy(&unit, m->units + 4 * i, sizeof unit);
    return unit;
}

static size_t children_of(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & 512) >> 6);
}

ds_status ds_charsmap_open(const unsigned char *blob, size_t size, ds_charsmap *out) {
    uint32_t tree_size = 0;
    if (size < 8)
        return ds_fail(DS_CORRUPT, "the table of characters has %zu bytes, too few", size);
    memcpy(&tree_size, blob, sizeof tree_size);
    if (tree_size < 4 || tree_size % 4 != 0 || tree_size > size - 4)
        return ds_fail(DS_CORRUPT, "the table of characters: a tree of %u bytes in %zu", tree_size,
                       size);
    *out = (ds_charsmap){.units = blob + 4,
                         .n_units = tree_size / 4,
                         .texts = (const char *)blob + 4 + tree_size,
                         .texts_size = size - 4 - tree_size};
    if (out->texts_size > 0 && out->texts[out->texts_size - 1] != '\0')
        return ds_fail(DS_CORRUPT, "the table of characters: its texts do not end");
    return DS_OK;
}

/* The longest match at the beginning of text: *length bytes, replaced by the text returned; NULL
 * for none. */
static const char *look_up(const ds_charsmap *m, const char *text, size_t n, size_t *length) {
    const char *found = NULL;
    size_t at = children_of(unit_at(m, 0));
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        at ^= c;
        if (c == 0 || at >= m->n_units)
            break;
        const uint32_t unit = unit_at(m, at);
        if ((unit & 0x800000ffU) != c)
            break;
        at ^= children_of(unit);
        if (!(unit >> 8 & 1))
            continue;
        if (at >= m->n_units)
            break;
        const size_t value = unit_at(m, at) & 0x7fffffffU;
        if (value < m->texts_size) {
            found = m->texts + value;
            *length = i + 1;
        }
    }
    return found;
}

void ds_charsmap_apply(const ds_charsmap *m, const char *text, size_t n, ds_text *out) {
    for (size_t at = 0, length = 0; at < n; at += length) {
        const char *to = look_up(m, text + at, n - at, &length);
        if (to) {
            ds_text_puts(out, to);
        } else {
            length = ds_utf8_length(text + at, n - at);
            ds_text_append(out, text + at, length);
        }
    }
}
