#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"

void check(ds_status status) {
    if (status == DS_OK)
        return;
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, ds_error());
    exit(1);
}

int answer_cases(bool (*run)(void *context, const char *line), void *context) {
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (!run(context, line)) {
            fprintf(stderr, "%s: no such case: %s", program_invocation_short_name, line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
