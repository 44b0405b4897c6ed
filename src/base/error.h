/* How a function of the library reports failure: it writes the thread's message and returns the
 * status, in one expression: `return ds_fail(DS_CORRUPT, "%s: truncated header", path);` */
#ifndef DS_BASE_ERROR_H
#define DS_BASE_ERROR_H

#include <stdarg.h>
#include "deepseek/status.h"

/* Sets the thread's message (printf style) and returns status. */
ds_status ds_fail(ds_status status, const char *fmt, ...) DS_PRINTF(2, 3);
ds_status ds_vfail(ds_status status, const char *fmt, va_list ap) DS_PRINTF(2, 0);

/* Puts "prefix: " before the thread's present message and returns status unchanged. For callers
 * that know more about the place than the callee did. */
ds_status ds_fail_within(ds_status status, const char *fmt, ...) DS_PRINTF(2, 3);

/* As ds_fail(DS_IO, …) with ": " and strerror(errno) appended. */
ds_status ds_fail_errno(const char *fmt, ...) DS_PRINTF(1, 2);

#ifdef __clang_analyzer__
/* The analyzer sees one file at a time: tell it that a failure is never DS_OK. */
#define ds_fail(status, ...) ((ds_fail)(status, __VA_ARGS__), (status))
#define ds_fail_errno(...)   ((ds_fail_errno)(__VA_ARGS__), DS_IO)
#endif

/* Returns from the enclosing function when the call failed. */
#define DS_TRY(call)                                                                               \
    do {                                                                                           \
        ds_status ds_try_status_ = (call);                                                         \
        if (ds_try_status_ != DS_OK)                                                               \
            return ds_try_status_;                                                                 \
    } while (0)

#endif
