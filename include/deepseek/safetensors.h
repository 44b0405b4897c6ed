/* safetensors: Hugging Face's file format for named tensors (8 bytes of header length, a JSON
 * header, raw little-endian data). Reading maps the file and copies nothing; writing fixes the
 * layout first, so that tensors and parts of tensors can be filled in any order and by any thread.
 *
 *     ds_safetensors *file = NULL;
 *     const ds_safetensor *weight = NULL;
 *     if (ds_safetensors_open("model.safetensors", &file) != DS_OK ||
 *         ds_safetensors_find(file, "wte.weight", &weight) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     else
 *         printf("%s [%lld, …] at %p\n", weight->name, (long long)weight->dims[0], weight->data);
 *     ds_safetensors_close(file);
 */
#ifndef DEEPSEEK_SAFETENSORS_H
#define DEEPSEEK_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"
#include "deepseek/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Reading ------------------------------------------------------------------------------ */

typedef struct ds_safetensors ds_safetensors; /* one file, or the shards of one checkpoint */

typedef struct ds_safetensor {
    const char *name;
    const char *dtype_name; /* as in the file: "F32", "BF16", "BOOL", "F8_E4M3", … */
    ds_dtype dtype;         /* BOOL reads as DS_U8; DS_DTYPES for a type this library has not */
    int rank;
    int64_t dims[DS_MAX_RANK];
    const void *data; /* row-major; aligned to the element unless the writer did not care */
    size_t size_bytes;
    const char *path; /* of the file it lies in */
} ds_safetensor;

/* Opens a checkpoint: a .safetensors file; a .safetensors.index.json with its shards beside it; or
 * a folder that holds model.safetensors or model.safetensors.index.json. Where FILE.safetensors is
 * absent, FILE.safetensors.index.json is tried.
 * The whole header is checked: lengths, types, shapes against byte ranges, no overlap, no gap, no
 * name twice; every tensor of an index must be in its shard. DS_CORRUPT says what is wrong,
 * DS_NOT_FOUND what is missing, DS_UNSUPPORTED for a rank above DS_MAX_RANK.
 * Reading is thread-safe. Close with ds_safetensors_close. */
DS_API ds_status ds_safetensors_open(const char *path, ds_safetensors **out);

/* Number of tensors, and the i-th in the order of the data in the files. Borrowed until close; NULL
 * when i is out of range. */
DS_API size_t ds_safetensors_count(const ds_safetensors *file);
DS_API const ds_safetensor *ds_safetensors_at(const ds_safetensors *file, size_t i);

/* The tensor of this name, borrowed until close. DS_NOT_FOUND names the nearest name there is;
 * DS_UNSUPPORTED when its type has no ds_dtype. */
DS_API ds_status ds_safetensors_find(const ds_safetensors *file, const char *name,
                                     const ds_safetensor **out);

/* The header's "__metadata__" entry of this name, or NULL; of several shards, the first that has
 * it. Borrowed until close. */
DS_API const char *ds_safetensors_metadata(const ds_safetensors *file, const char *key);

/* NULL is fine. The data of all its tensors is gone. */
DS_API void ds_safetensors_close(ds_safetensors *file);

/* ---- Writing ------------------------------------------------------------------------------ */

typedef struct ds_safetensors_writer ds_safetensors_writer;

/* What a file will hold. */
typedef struct ds_safetensors_entry {
    const char *name;
    ds_dtype dtype;
    int rank;
    int64_t dims[DS_MAX_RANK];
} ds_safetensors_entry;

/* Begins PATH.part: header written, room for n tensors reserved on the disk (so that a full disk is
 * known now). metadata is a list of key, value, …, NULL, or NULL. The layout depends on the entries
 * and the metadata alone, and is that of the reference implementation: wider types first, then by
 * name. PATH itself stays as it is before ds_safetensors_writer_close. All arguments are copied.
 * DS_INVALID for a name twice or not in UTF-8 or a bad shape; DS_IO. */
DS_API ds_status ds_safetensors_writer_new(const char *path, const ds_safetensors_entry *entries,
                                           size_t n, const char *const *metadata,
                                           ds_safetensors_writer **out);

/* Writes size_bytes of data at offset_bytes within tensor index (of the list given). Threads may
 * call it at once. DS_INVALID when the range is outside the tensor; DS_IO. */
DS_API ds_status ds_safetensors_writer_write(ds_safetensors_writer *writer, size_t index,
                                             size_t offset_bytes, const void *data,
                                             size_t size_bytes);

/* Which tensor (of the list given) lies at this place, 0 … n − 1, of the file. Writing in this
 * order is fastest: the MD5 sum is then made on the way, else by reading the file again. */
DS_API size_t ds_safetensors_writer_index(const ds_safetensors_writer *writer, size_t place);

/* Syncs the file and renames it over PATH. DS_INVALID when some tensor was not written whole.
 * md5_hex, unless NULL, gets the file's MD5 sum as md5sum(1) prints it: 32 digits and a zero.
 * Frees the writer whatever the outcome; on failure the former file at PATH is still there. */
DS_API ds_status ds_safetensors_writer_close(ds_safetensors_writer *writer, char md5_hex[33]);

/* Removes PATH.part and frees the writer. NULL is fine. */
DS_API void ds_safetensors_writer_abandon(ds_safetensors_writer *writer);

#ifdef __cplusplus
}
#endif
#endif
