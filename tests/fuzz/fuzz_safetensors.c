/* Any bytes as a safetensors file: refused with a message, or every byte of every tensor can be
 * read and is found under its name. */
#include <stddef.h>
#include <stdint.h>

#include "base/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink; /* so that the reads stay */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ds_safetensors *file = NULL;
    if (ds_safetensors_from_memory(data, size, "fuzz", &file) != DS_OK)
        return 0;
    for (size_t i = 0; i < ds_safetensors_count(file); i++) {
        const ds_safetensor *t = ds_safetensors_at(file, i), *found = NULL;
        for (size_t b = 0; b < t->size_bytes; b++)
            sink += ((const unsigned char *)t->data)[b];
        const ds_status status = ds_safetensors_find(file, t->name, &found);
        if (status != DS_OK ? t->dtype != DS_DTYPES : found != t)
            __builtin_trap();
        if (t->dtype != DS_DTYPES &&
            (size_t)ds_count(t->dims, t->rank) * ds_dtype_size(t->dtype) != t->size_bytes)
            __builtin_trap();
    }
    ds_safetensors_close(file);
    return 0;
}
