/* What a call that can fail returns, and the message that goes with it.
 *
 *     #include <deepseek/tokenizer.h>
 *     ds_tokenizer *tok;
 *     if (ds_tokenizer_load("tokenizer.json", &tok) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 */
#ifndef DEEPSEEK_STATUS_H
#define DEEPSEEK_STATUS_H

#if defined(__GNUC__)
#define DS_API               __attribute__((visibility("default")))
#define DS_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define DS_MUST_CHECK        __attribute__((warn_unused_result))
#else
#define DS_API
#define DS_PRINTF(fmt, args)
#define DS_MUST_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ds_status {
    DS_OK = 0,
    DS_INVALID,       /* the caller's argument, shape, or file content is wrong */
    DS_NOT_FOUND,     /* a file, tensor, key or preset that should exist does not */
    DS_OUT_OF_MEMORY, /* an allocation failed, or would exceed a given budget */
    DS_IO,            /* the operating system refused a read, write, sync or rename */
    DS_CORRUPT,       /* stored data contradicts itself: checksum, bounds, torn write */
    DS_UNSUPPORTED,   /* well-formed, but this build or backend cannot do it */
    DS_CANCELLED,     /* stopped on request (signal, deadline) */
    DS_NUMERIC,       /* NaN or Inf where a finite number is required */
    DS_BUSY,          /* no room for another one now: try again later */
    DS_TIMEOUT,       /* it did not happen within the time given */
    DS_UNAVAILABLE,   /* another rank or a server that is needed is gone, or cannot be reached */
    DS_INTERNAL,      /* a broken invariant of the library: a bug */
} ds_status;

/* The constant's name in words, e.g. "corrupt". Borrowed, static. */
DS_API const char *ds_status_string(ds_status status);

/* The calling thread's last error message: what was wrong, where, and what would be right.
 * Borrowed; valid until the thread's next failing call. Never NULL. */
DS_API const char *ds_error(void);

#ifdef __cplusplus
}
#endif
#endif
