#include "cli/speculate.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "cli/numbers.h"

bool ds_cli_speculate(const char *tool, const char *text, ds_cli_speculation *s) {
    const char *colon = strrchr(text, ':'), *end = text + strlen(text);
    int64_t n = 0;
    /* a colon may also stand in a path */
    if (colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1)) {
        if (!ds_cli_integer(tool, "--speculate …:K, its K", colon + 1, 1, 15, &n))
            return false;
        end = colon;
    }
    *s = (ds_cli_speculation){.opts = {.kind = DS_SPECULATE_DRAFT, .n_tokens = (int)n}};
    const size_t length = (size_t)(end - text);
    if (length == 0 || length >= sizeof s->path) {
        fprintf(stderr, "%s: --speculate '%s': should be ngram or the path of a smaller model\n",
                tool, text);
        return false;
    }
    memcpy(s->path, text, length);
    if (strcmp(s->path, "ngram") == 0) {
        s->opts.kind = DS_SPECULATE_LOOKUP;
        *s->path = '\0';
    }
    return true;
}

ds_status ds_cli_open_draft(ds_cli_speculation *s, ds_model_opts opts) {
    opts.tokenizer = NULL; /* the other model's */
    const ds_status status =
        *s->path ? ds_model_from_pretrained(s->path, opts, &s->opts.draft) : DS_OK;
    return status == DS_OK ? DS_OK : ds_fail_within(status, "--speculate");
}
