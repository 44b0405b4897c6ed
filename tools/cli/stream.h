/* One answer through an executor, its text printed as it comes. */
#ifndef CLI_STREAM_H
#define CLI_STREAM_H

#include "deepseek/inference.h"

/* Answers the request, whose on_event is set here. detokenizer: has passed over the prompt. print:
 * false when no more is wanted, which ends the answer. *stats: the executor's, after it. */
ds_status ds_cli_stream(ds_model *model, ds_async_executor_opts opts, ds_request request,
                        ds_detokenizer *detokenizer,
                        bool (*print)(const char *text, size_t length, void *context),
                        void *context, ds_executor_stats *stats);

#endif
