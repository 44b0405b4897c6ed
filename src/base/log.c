#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static ds_log_sink *the_sink;
static void *the_context;

void ds_log_to(ds_log_sink *sink, void *context) {
    the_context = context;
    the_sink = sink;
}

void ds_log(ds_log_level level, const char *fmt, ...) {
    if (!the_sink)
        return;
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    the_sink(level, line, the_context);
}
