/* --speculate WHAT: guess the next tokens by look-up ("ngram") or by a smaller model (its path), at
 * most so many at once (":K" behind either). */
#ifndef CLI_SPECULATE_H
#define CLI_SPECULATE_H

#include <limits.h>

#include "deepseek/inference.h"

typedef struct ds_cli_speculation {
    ds_speculate_opts opts;
    char path[PATH_MAX]; /* of the draft model */
} ds_cli_speculation;

/* Reads the option, or says on standard error what is wrong with it, and returns false. */
bool ds_cli_speculate(const char *tool, const char *text, ds_cli_speculation *out);
/* Opens the draft model if there is to be one; the caller frees opts.draft. */
ds_status ds_cli_open_draft(ds_cli_speculation *s, ds_model_opts opts);

#endif
