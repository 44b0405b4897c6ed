/* Any bytes as a request for embeddings: refused with a message that is UTF-8, or a request whose
 * parts are all there. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "serve/embeddings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ds_embeddings_request r;
    ds_openai_error error;
    char *copy = malloc(size + 1); /* a block of its own, so that ASan sees its end */
    memcpy(copy, data, size);
    if (ds_embeddings_request_parse(copy, size, &r, &error) == DS_OK) {
        if (r.n < 1 || r.n > DS_MOST_EMBEDDINGS || r.dimensions < 0)
            __builtin_trap();
        for (size_t i = 0; i < r.n; i++)
            if (!r.texts[i] == (r.lists[i].n == 0))
                __builtin_trap();
        ds_embeddings_request_clear(&r);
    } else if (!*error.message ||
               ds_utf8_valid(error.message, strlen(error.message)) != strlen(error.message)) {
        __builtin_trap();
    }
    free(copy);
    return 0;
}
