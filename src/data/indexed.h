/* The .idx file's layout, and the reader's parser over memory, which the fuzzer drives. */
#ifndef DS_DATA_INDEXED_H
#define DS_DATA_INDEXED_H

#include "deepseek/data.h"

enum {
    DS_INDEX_MAGIC_BYTES = 9,   /* "MMIDIDX" and two zero bytes */
    DS_INDEX_HEADER_BYTES = 34, /* magic, u64 version, u8 token type, u64 sequences, u64 marks */
};

/* Token types by their code in the file. */
enum { DS_INDEX_CODE_I32 = 4, DS_INDEX_CODE_U16 = 8, DS_INDEX_CODES = 9 };

/* A checked view of an .idx file. The arrays are little-endian and not aligned. */
typedef struct ds_index_view {
    int code, token_bytes;
    int64_t sequences, documents, tokens;
    const unsigned char *lengths;  /* i32 [sequences], in tokens */
    const unsigned char *pointers; /* i64 [sequences], in bytes */
    const unsigned char *marks;    /* i64 [documents + 1]: each document's first sequence */
} ds_index_view;

/* Checks size bytes of index against a .bin of bin_size bytes. path names the .idx in messages. */
ds_status ds_index_parse(const unsigned char *index, size_t size, uint64_t bin_size,
                         const char *path, ds_index_view *out);

/* As ds_indexed_open over memory that the caller keeps alive until ds_indexed_close. */
ds_status ds_indexed_from_memory(const unsigned char *index, size_t index_size,
                                 const unsigned char *bin, size_t bin_size, ds_indexed **out);

/* prefix without a final ".bin" or ".idx", plus ending; owned by the caller, NULL without memory.
 */
char *ds_indexed_file_name(const char *prefix, const char *ending);

#endif
