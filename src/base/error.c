/* The thread's last error message. One fixed buffer per thread: reporting an error must work when
 * memory has run out. */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[2048] = "no error";

static const char *const status_names[] = {
    [DS_OK] = "ok",
    [DS_INVALID] = "invalid",
    [DS_NOT_FOUND] = "not found",
    [DS_OUT_OF_MEMORY] = "out of memory",
    [DS_IO] = "input/output error",
    [DS_CORRUPT] = "corrupt",
    [DS_UNSUPPORTED] = "unsupported",
    [DS_CANCELLED] = "cancelled",
    [DS_NUMERIC] = "not a finite number",
    [DS_BUSY] = "busy",
    [DS_TIMEOUT] = "timeout",
    [DS_UNAVAILABLE] = "unavailable",
    [DS_INTERNAL] = "internal error",
};

const char *ds_status_string(ds_status status) {
    const size_t n = sizeof status_names / sizeof *status_names;
    return (size_t)status < n ? status_names[status] : "unknown status";
}

const char *ds_error(void) {
    return message;
}

ds_status ds_vfail(ds_status status, const char *fmt, va_list ap) {
    char text[sizeof message];
    vsnprintf(text, sizeof text, fmt, ap); /* an argument may be ds_error() itself */
    memcpy(message, text, sizeof text);
    return status;
}

ds_status(ds_fail)(ds_status status, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ds_vfail(status, fmt, ap);
    va_end(ap);
    return status;
}

ds_status ds_fail_within(ds_status status, const char *fmt, ...) {
    char prefix[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    return ds_fail(status, "%s: %s", prefix, message);
}

ds_status(ds_fail_errno)(const char *fmt, ...) {
    const int error = errno;
    char what[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return ds_fail(error == ENOMEM ? DS_OUT_OF_MEMORY : DS_IO, "%s: %s", what, strerror(error));
}
