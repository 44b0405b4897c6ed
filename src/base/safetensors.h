/* What the reader and the writer of safetensors share, and the parser that the fuzzer drives. */
#ifndef DS_BASE_SAFETENSORS_H
#define DS_BASE_SAFETENSORS_H

#include "deepseek/safetensors.h"

enum { DS_SAFETENSORS_HEADER_LIMIT = 100 * 1000 * 1000 }; /* bytes; the reference's limit */

/* The element types of the format. */
typedef struct ds_safetensors_type {
    const char *name;
    ds_dtype dtype; /* DS_DTYPES when the library has no such type */
    int bits;
} ds_safetensors_type;

/* In the order of the reference's layout: a file holds later types first. */
extern const ds_safetensors_type ds_safetensors_types[];
extern const size_t ds_safetensors_n_types;

/* As ds_safetensors_open over one file's bytes, which the caller keeps alive until close. */
ds_status ds_safetensors_from_memory(const unsigned char *data, size_t size, const char *path,
                                     ds_safetensors **out);

/* The tensor of this name, borrowed; NULL if there is none, or of a type that is not supported.
 * Unlike ds_safetensors_find it leaves no message, which takes far longer than the search: for
 * names that need not be there. */
const ds_safetensor *ds_safetensors_look_up(const ds_safetensors *file, const char *name);

#endif
