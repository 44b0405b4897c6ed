/* Any bytes as an indexed dataset: refused with a message, or every document and token can be read.
 * The first two bytes say how much of the input is the index; the rest is the .bin. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/indexed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(ds_indexed *d) {
    const int64_t tokens = ds_indexed_tokens(d);
    int32_t *ids = malloc((size_t)tokens * sizeof *ids + 1);
    if (ds_indexed_read(d, 0, tokens, ids) != DS_OK)
        __builtin_trap();
    int64_t at = 0;
    for (int64_t i = 0; i < ds_indexed_documents(d); i++) {
        int64_t first = -1, length = -1;
        if (ds_indexed_document(d, i, &first, &length) != DS_OK || first != at || length < 0)
            __builtin_trap();
        at += length;
        if (length > 0 && ds_indexed_document_of(d, first) != i)
            __builtin_trap();
    }
    if (ds_indexed_documents(d) > 0 && at != tokens)
        __builtin_trap();
    (void)ds_indexed_check_vocab(d, 1000);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2)
        return 0;
    size_t index_size = (size_t)(data[0] | data[1] << 8);
    if (index_size > size - 2)
        index_size = size - 2;
    const size_t bin_size = size - 2 - index_size;
    unsigned char *index = malloc(index_size + 1), *bin = malloc(bin_size + 1);
    memcpy(index, data + 2, index_size); /* blocks of their own, so that ASan sees their ends */
    memcpy(bin, data + 2 + index_size, bin_size);
    ds_indexed *d = NULL;
    if (ds_indexed_from_memory(index, index_size, bin, bin_size, &d) == DS_OK)
        read_all(d);
    ds_indexed_close(d);
    free(index);
    free(bin);
    return 0;
}
