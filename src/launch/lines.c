#include "launch/lines.h"

#include <string.h>

enum { LONGEST = 64 << 10 };

void ds_lines_finish(ds_text *pending, ds_line_sink *sink, void *context) {
    if (pending->length > 0)
        sink(pending->data, pending->length, context);
    ds_text_clear(pending);
}

void ds_lines_take(ds_text *pending, const char *bytes, size_t n, ds_line_sink *sink,
                   void *context) {
    while (n > 0) {
        const char *end = memchr(bytes, '\n', n);
        const size_t part = end ? (size_t)(end - bytes) : n;
        ds_text_append(pending, bytes, part);
        if (end && pending->length == 0 && !pending->poisoned)
            sink("", 0, context);
        else if (end || pending->poisoned || pending->length > LONGEST)
            ds_lines_finish(pending, sink, context); /* without memory: what there is */
        bytes += part + (end != NULL);
        n -= part + (end != NULL);
    }
}
