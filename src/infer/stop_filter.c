#include "infer/stop_filter.h"

#include <string.h>

/* Where the earliest stop string begins in the held text; its length if none does. */
static size_t find_stop(const ds_stop_filter *f) {
    size_t first = f->held.length;
    for (size_t i = 0; i < f->n_stops; i++) {
        const char *at = memmem(f->held.data, f->held.length, f->stops[i], strlen(f->stops[i]));
        if (at && (size_t)(at - f->held.data) < first)
            first = (size_t)(at - f->held.data);
    }
    return first;
}

/* The longest ending of the held text that begins a stop string. */
static size_t possible_beginning(const ds_stop_filter *f) {
    size_t longest = 0;
    for (size_t i = 0; i < f->n_stops; i++) {
        size_t n = strlen(f->stops[i]) - 1;
        n = n < f->held.length ? n : f->held.length;
        while (n > longest && memcmp(f->held.data + f->held.length - n, f->stops[i], n) != 0)
            n--;
        longest = n > longest ? n : longest;
    }
    return longest;
}

static void release(ds_stop_filter *f, size_t length, ds_text *out) {
    ds_text_append(out, f->held.data, length);
    memmove(f->held.data, f->held.data + length, f->held.length - length + 1);
    f->held.length -= length;
}

void ds_stop_filter_push(ds_stop_filter *f, const char *piece, size_t length, ds_text *out) {
    if (f->stopped || length == 0)
        return;
    ds_text_append(&f->held, piece, length);
    if (f->held.poisoned) {
        out->poisoned = true;
        return;
    }
    const size_t stop = find_stop(f);
    f->stopped = stop < f->held.length;
    release(f, f->stopped ? stop : f->held.length - possible_beginning(f), out);
    if (f->stopped)
        ds_text_clear(&f->held);
}

void ds_stop_filter_finish(ds_stop_filter *f, ds_text *out) {
    if (!f->stopped && f->held.length > 0)
        release(f, f->held.length, out);
}

void ds_stop_filter_clear(ds_stop_filter *f) {
    ds_text_clear(&f->held);
}
