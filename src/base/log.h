/* The library prints nothing by itself: notes go to a callback that a tool installs. */
#ifndef DS_BASE_LOG_H
#define DS_BASE_LOG_H

#include "deepseek/status.h"

typedef enum ds_log_level { DS_LOG_DEBUG, DS_LOG_INFO, DS_LOG_WARN } ds_log_level;

typedef void ds_log_sink(ds_log_level level, const char *line, void *context);

/* Installs the sink for the whole process; NULL silences. */
void ds_log_to(ds_log_sink *sink, void *context);
void ds_log(ds_log_level level, const char *fmt, ...) DS_PRINTF(2, 3);

#endif
