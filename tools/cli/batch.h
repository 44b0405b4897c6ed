/* Many prompts from a file through the executor, answers as JSON lines in the order of the prompts.
 * The file has a prompt on each line, or, if its first line begins with "{", JSON lines:
 *
 *     {"prompt": "Once upon a time", "max_tokens": 50, "id": "anything"}
 *
 * with keys of deepseek-generate's options beside the prompt. A line that
 * cannot be answered gives a line with "error"; the others go on. */
#ifndef CLI_BATCH_H
#define CLI_BATCH_H

#include <stdio.h>

#include "deepseek/inference.h"

typedef struct ds_cli_batch {
    const char *tool;
    ds_model *model;
    const char *path;     /* of the prompts; "-": standard input */
    int64_t max_tokens;   /* of an answer, where its line does not say */
    ds_sampling sampling; /* the same; prompt i is drawn with seed + i */
    ds_grammar *grammar;  /* of every answer; NULL: any */
    ds_async_executor_opts executor;
    bool show_progress; /* on standard error, while it runs */
    bool show_summary;  /* at the end */
    FILE *out;
} ds_cli_batch;

/* Answers all. *n_failed: lines that gave an error. DS_IO when the file cannot be read or the
 * answers not be written. */
ds_status ds_cli_batch_run(const ds_cli_batch *batch, int64_t *n_failed);

#endif
