/* Bytes of a pipe as whole lines, so that what several ranks print does not run into each other. */
#ifndef DS_LAUNCH_LINES_H
#define DS_LAUNCH_LINES_H

#include "base/text.h"

/* line: without its end; not zero-terminated. */
typedef void ds_line_sink(const char *line, size_t length, void *context);

/* Takes bytes that came, and hands every line that is whole to the sink. A line longer than 64 KiB
 * is cut. */
void ds_lines_take(ds_text *pending, const char *bytes, size_t n, ds_line_sink *sink,
                   void *context);
/* What remains at the end, if anything. */
void ds_lines_finish(ds_text *pending, ds_line_sink *sink, void *context);

#endif
