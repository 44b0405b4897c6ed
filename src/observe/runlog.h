/* The record of a run in its folder: `metrics.jsonl`, one JSON object a line, and a TensorBoard
 * event file with the same numbers.
 *
 *     ds_runlog *log;
 *     DS_TRY(ds_runlog_open("out/demo", 0, &log));
 *     const ds_metric metrics[] = {{"loss", 3.2}, {"learning_rate", 1e-3}};
 *     ds_runlog_metrics(log, step, metrics, 2);
 *     ds_runlog_close(log);
 *
 * A line is written whole or not at all, and a run that resumes at an earlier step drops the lines
 * from there on, so the file always tells one story. Not for use from two threads at once. */
#ifndef DS_OBSERVE_RUNLOG_H
#define DS_OBSERVE_RUNLOG_H

#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

typedef struct ds_metric {
    const char *name; /* "loss"; in TensorBoard "train/loss" or as given where it holds a '/' */
    double value;     /* null in JSON where it is not finite */
} ds_metric;

typedef struct ds_runlog ds_runlog;

/* Opens the folder's record (made if absent) for a run whose next step is first_step: lines of that
 * step and later are dropped, and so is a torn last line. 0 begins anew. */
ds_status ds_runlog_open(const char *folder, int64_t first_step, ds_runlog **out);

/* Appends {"step": …, "time": seconds since 1970, name: value, …}. On failure (disk full) the files
 * stay whole and later calls may succeed. */
ds_status ds_runlog_metrics(ds_runlog *log, int64_t step, const ds_metric *metrics, size_t n);

/* Appends {"step": …, "time": …, tag: text}, for samples. The text should be UTF-8; bytes that are
 * not become U+FFFD. */
ds_status ds_runlog_text(ds_runlog *log, int64_t step, const char *tag, const char *text);

/* Closes and frees; NULL is fine. */
void ds_runlog_close(ds_runlog *log);

/* All finite values of one metric in the folder's metrics.jsonl, in order: *steps and *values of *n
 * each, the caller's to free(). */
ds_status ds_runlog_read(const char *folder, const char *name, double **steps, double **values,
                         size_t *n);

#endif
