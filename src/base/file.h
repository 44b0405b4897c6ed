/* Files: read whole, map, write so that a crash at any byte leaves the old file whole. All writes
 * pass the fault injector (base/fault.h). Messages name the path. */
#ifndef DS_BASE_FILE_H
#define DS_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

/* A file mapped read-only. */
typedef struct ds_mapped {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
} ds_mapped;

ds_status ds_file_map(const char *path, ds_mapped *out);
void ds_file_unmap(ds_mapped *mapped);

/* The whole file plus a zero byte, owned by the caller. Refuses more than limit_bytes. */
ds_status ds_file_read(const char *path, size_t limit_bytes, char **out, size_t *out_size);

/* All size_bytes to fd, over short writes and EINTR; path is for the message. */
ds_status ds_fd_write(int fd, const void *data, size_t size_bytes, const char *path);
/* The same at a place of the file; the file's own position stays. Thread-safe. */
ds_status ds_fd_write_at(int fd, const void *data, size_t size_bytes, uint64_t offset,
                         const char *path);
ds_status ds_fd_sync(int fd, const char *path);

/* Writes `path` anew: beside it, synced, renamed over it, folder synced. */
ds_status ds_file_replace(const char *path, const void *data, size_t size_bytes);

/* rename(2) and a sync of the destination's folder. */
ds_status ds_file_rename(const char *from, const char *to);
ds_status ds_folder_sync(const char *path);
ds_status ds_folder_make(const char *path);   /* with its parents; present is fine */
ds_status ds_folder_remove(const char *path); /* with its contents; absent is fine */
bool ds_file_exists(const char *path);
bool ds_folder_exists(const char *path);

#endif
