/* Text that grows piece by piece and ends where a stop string begins. A stop string may come in
 * several pieces, so an ending that could be the beginning of one is held back until it is known.
 */
#ifndef DS_INFER_STOP_FILTER_H
#define DS_INFER_STOP_FILTER_H

#include "base/text.h"

enum { DS_MOST_STOPS = 5 }; /* a client's four and the template's own */

typedef struct ds_stop_filter {
    const char *stops[DS_MOST_STOPS]; /* borrowed; not empty */
    size_t n_stops;
    ds_text held;
    bool stopped; /* a stop string was found: nothing follows */
} ds_stop_filter;

/* Takes UTF-8 and appends to out what is certain. */
void ds_stop_filter_push(ds_stop_filter *f, const char *piece, size_t length, ds_text *out);
/* The text ends: what was held back is text. */
void ds_stop_filter_finish(ds_stop_filter *f, ds_text *out);
void ds_stop_filter_clear(ds_stop_filter *f);

#endif
