/* GGUF: the file format of ggml and llama.cpp (github.com/ggml-org/ggml, docs/gguf.md): named
 * values (the model's shape, its vocabulary) and named tensors, many of them quantised in blocks.
 * Reading maps the file; versions 2 and 3, little-endian. The whole header is checked before
 * anything is believed: lengths, types, names, each tensor's place and size. */
#ifndef DS_BASE_GGUF_H
#define DS_BASE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "deepseek/tensor.h"

typedef struct ds_gguf ds_gguf;

/* How numbers lie in a block of a tensor. */
typedef struct ds_gguf_type {
    uint32_t id; /* in the file */
    const char *name;
    uint32_t block, block_bytes; /* elements, and the bytes that hold them */
    void (*decode)(const unsigned char *block, float *out); /* one block; NULL: not known here */
} ds_gguf_type;

typedef struct ds_gguf_tensor {
    const char *name;
    const ds_gguf_type *type;
    int rank;
    int64_t dims[DS_MAX_RANK]; /* row-major, the last axis is that of the blocks */
    const unsigned char *data;
    size_t size_bytes;
} ds_gguf_tensor;

/* A list of strings among the values. */
typedef struct ds_gguf_strings {
    size_t n;
    const unsigned char *at; /* of the next one */
} ds_gguf_strings;

/* A list of numbers among the values. */
typedef struct ds_gguf_numbers {
    size_t n;
    uint32_t kind;
    const unsigned char *data;
} ds_gguf_numbers;

/* Whether the file's name or its first bytes say that it is one. */
bool ds_gguf_is(const char *path);

/* DS_CORRUPT says what is wrong, DS_UNSUPPORTED for another version or byte order. */
ds_status ds_gguf_open(const char *path, ds_gguf **out);
/* The same of bytes in memory, which are borrowed; path is for messages. */
ds_status ds_gguf_parse(const unsigned char *data, size_t size, const char *path, ds_gguf **out);
void ds_gguf_close(ds_gguf *file); /* NULL is fine */
const char *ds_gguf_path(const ds_gguf *file);

size_t ds_gguf_count(const ds_gguf *file);
const ds_gguf_tensor *ds_gguf_at(const ds_gguf *file, size_t i); /* in the order of their names */
const ds_gguf_tensor *ds_gguf_find(const ds_gguf *file, const char *name); /* NULL: none */

/* Values by key; false (NULL) where there is none or it is of another kind. What they give is
 * borrowed. Booleans are integers too. */
bool ds_gguf_has(const ds_gguf *file, const char *key);
bool ds_gguf_integer(const ds_gguf *file, const char *key, int64_t *out);
bool ds_gguf_real(const ds_gguf *file, const char *key, float *out);
const char *ds_gguf_text(const ds_gguf *file, const char *key);
bool ds_gguf_list_strings(const ds_gguf *file, const char *key, ds_gguf_strings *out);
bool ds_gguf_list_numbers(const ds_gguf *file, const char *key, ds_gguf_numbers *out);

/* The next of n strings: its bytes, not zero-terminated. To be called n times at most. */
const char *ds_gguf_next_string(ds_gguf_strings *list, size_t *length);
double ds_gguf_number(const ds_gguf_numbers *list, size_t i); /* i < n */

/* All elements of a tensor as `to`, which is DS_F32, DS_BF16 or DS_F16, row-major into out.
 * DS_UNSUPPORTED names the tensor's type and those that can be read. */
ds_status ds_gguf_read(const ds_gguf_tensor *tensor, ds_dtype to, void *out);

/* The type with this number, NULL if there is none (gguf_blocks.c). */
const ds_gguf_type *ds_gguf_type_of(uint32_t id);

#endif
