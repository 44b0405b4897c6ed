/* Any bytes as a JSON Schema: refused with a message, or rules whose texts never get stuck. */
#include <stdlib.h>
#include <string.h>

#include "deepseek/status.h"
#include "grammar_walk.h"
#include "infer/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *copy = malloc(size); /* a block of its own, so that ASan sees its end */
    if (size > 0)
        memcpy(copy, data, size);
    ds_rules rules;
    if (ds_json_schema_rules(copy, size, &rules) == DS_OK)
        walk(&rules, data, size);
    else if (!*ds_error())
        __builtin_trap();
    free(copy);
    return 0;
}
