/* Added tokens ("<|endoftext|>") are found in the text before anything else: leftmost first, of
 * several at one place the longest. A vocabulary can have a thousand that begin alike, so the
 * candidates are kept sorted and the range that still matches is narrowed byte by byte. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

ds_status ds_added_insert(ds_added_set *set, const ds_added *item) {
    ds_added *items = ds_grow(set->items, &set->capacity, set->n + 1, sizeof *items);
    if (!items)
        return DS_OUT_OF_MEMORY;
    set->items = items;
    set->items[set->n++] = *item;
    set->begins[(unsigned char)item->content[0]] = true;
    return DS_OK;
}

static int by_content(const void *a, const void *b) {
    const ds_added *x = a, *y = b;
    const size_t n = x->length < y->length ? x->length : y->length;
    const int order = memcmp(x->content, y->content, n);
    return order != 0 ? order : (x->length > y->length) - (x->length < y->length);
}

void ds_added_sort(ds_added_set *set) {
    if (set->n > 1)
        qsort(set->items, set->n, sizeof *set->items, by_content);
}

static bool is_word_byte(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
           (c & 0x80);
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The first item in [lo, hi) whose byte at `depth` is at least c; those before it are shorter or
 * less. All of them agree up to depth. */
static size_t lower_bound(const ds_added_set *set, size_t lo, size_t hi, size_t depth, int c) {
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const ds_added *item = &set->items[mid];
        const int byte = depth < item->length ? (unsigned char)item->content[depth] : -1;
        if (byte < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool stands_alone(const ds_added *item, const char *text, size_t n, size_t at) {
    const size_t end = at + item->length;
    return !item->single_word ||
           ((at == 0 || !is_word_byte(text[at - 1])) && (end == n || !is_word_byte(text[end])));
}

static const ds_added *longest_at(const ds_added_set *set, const char *text, size_t n, size_t at,
                                  bool plain) {
    const ds_added *found = NULL;
    size_t lo = 0, hi = set->n;
    for (size_t depth = 0; at + depth < n && lo < hi; depth++) {
        const int c = (unsigned char)text[at + depth];
        lo = lower_bound(set, lo, hi, depth, c);
        hi = lower_bound(set, lo, hi, depth, c + 1);
        const ds_added *item = &set->items[lo];
        if (lo < hi && item->length == depth + 1 && !(plain && item->special) &&
            stands_alone(item, text, n, at))
            found = item;
    }
    return found;
}

const ds_added *ds_added_next(const ds_added_set *set, const char *text, size_t n, size_t from,
                              bool plain, size_t *start, size_t *end) {
    if (set->n == 0)
        return NULL;
    for (size_t at = from; at < n; at++) {
        if (!set->begins[(unsigned char)text[at]])
            continue;
        const ds_added *found = longest_at(set, text, n, at, plain);
        if (!found)
            continue;
        *start = at;
        *end = at + found->length;
        while (found->lstrip && *start > from && is_space(text[*start - 1]))
            --*start;
        while (found->rstrip && *end < n && is_space(text[*end]))
            ++*end;
        return found;
    }
    return NULL;
}
