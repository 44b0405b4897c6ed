/* Writes a safetensors file in place: the header follows from the list of tensors alone, so it
 * comes first, the rest of the file is reserved, and every tensor has its address before any data
 * exists. Parts arrive in any order from any thread through pwrite. The layout is the reference
 * implementation's, byte for byte. */
#include "base/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/md5.h"
#include "base/text.h"

typedef struct slot {
    char *name;
    const ds_safetensors_entry *entry; /* the caller's; only while the layout is made */
    size_t index;                      /* in the caller's list */
    int type;                          /* of ds_safetensors_types */
    size_t size_bytes;
    size_t offset;          /* in the file */
    atomic_size_t received; /* bytes written so far */
} slot;

struct ds_safetensors_writer {
    char *path, *part;
    int fd;
    slot *slots; /* [n] in the order of the file */
    size_t n;
    size_t *slot_of; /* [n] from the caller's index */
    size_t end;      /* bytes of the file */

    /* The MD5 sum of the bytes before `hashed`. A write that begins there is hashed from memory;
     * what came in another order is read back when the file is closed, all of it if bytes were
     * written again after they had been hashed. */
    pthread_mutex_t lock;
    ds_md5 *md5;
    size_t hashed;
    bool rewritten;
};

static int type_of(ds_dtype dtype) {
    for (size_t i = ds_safetensors_n_types; i-- > 0;)
        if (ds_safetensors_types[i].dtype == dtype && dtype != DS_DTYPES)
            return (int)i; /* from the end: U8 before BOOL */
    return -1;
}

static int by_layout(const void *a, const void *b) {
    const slot *x = a, *y = b;
    if (x->type != y->type)
        return x->type > y->type ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const slot *const *)a)->name, (*(const slot *const *)b)->name);
}

static ds_status check_unique(const ds_safetensors_writer *w) {
    const slot **sorted = ds_malloc(w->n * sizeof *sorted);
    if (!sorted)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < w->n; i++)
        sorted[i] = &w->slots[i];
    qsort(sorted, w->n, sizeof *sorted, by_name);
    ds_status status = DS_OK;
    for (size_t i = 1; i < w->n && status == DS_OK; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            status = ds_fail(DS_INVALID, "%s: tensor %s is listed twice", w->path, sorted[i]->name);
    free(sorted);
    return status;
}

static ds_status fill_slot(const ds_safetensors_writer *w, const ds_safetensors_entry *entry,
                           slot *s) {
    s->entry = entry;
    s->name = ds_strdup(entry->name);
    if (!s->name)
        return DS_OUT_OF_MEMORY;
    s->type = type_of(entry->dtype);
    if (s->type < 0)
        return ds_fail(DS_INVALID, "%s: %s: no such element type", w->path, s->name);
    if (entry->rank < 0 || entry->rank > DS_MAX_RANK || strcmp(s->name, "__metadata__") == 0)
        return ds_fail(DS_INVALID, "%s: %s: rank %d, or a reserved name", w->path, s->name,
                       entry->rank);
    s->size_bytes = ds_dtype_size(entry->dtype);
    for (int i = 0; i < entry->rank; i++)
        if (entry->dims[i] < 0 ||
            __builtin_mul_overflow(s->size_bytes, (size_t)entry->dims[i], &s->size_bytes))
            return ds_fail(DS_INVALID, "%s: %s: axis %d of size %lld", w->path, s->name, i,
                           (long long)entry->dims[i]);
    return DS_OK;
}

/* Appends text as a JSON string. */
static ds_status put_string(ds_text *header, const char *path, const char *text) {
    json_t *value = json_string(text);
    char *quoted = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    json_decref(value);
    if (!quoted)
        return ds_fail(DS_INVALID, "%s: \"%s\" is not UTF-8", path, text);
    ds_text_puts(header, quoted);
    free(quoted);
    return DS_OK;
}

static ds_status put_metadata(ds_text *header, const char *path, const char *const *metadata) {
    ds_text_puts(header, "\"__metadata__\":{");
    for (size_t i = 0; metadata[i]; i += 2) {
        if (i > 0)
            ds_text_puts(header, ",");
        DS_TRY(put_string(header, path, metadata[i]));
        ds_text_puts(header, ":");
        DS_TRY(put_string(header, path, metadata[i + 1] ? metadata[i + 1] : ""));
        if (!metadata[i + 1])
            break;
    }
    ds_text_puts(header, "}");
    return DS_OK;
}

/* The JSON header, padded with blanks so that the data starts at a multiple of 8. Offsets in slots
 * become those in the data. */
static ds_status make_header(ds_safetensors_writer *w, const char *const *metadata,
                             ds_text *header) {
    ds_text_puts(header, "{");
    if (metadata && metadata[0])
        DS_TRY(put_metadata(header, w->path, metadata));
    size_t offset = 0;
    for (size_t i = 0; i < w->n; i++) {
        slot *s = &w->slots[i];
        if (header->length > 1)
            ds_text_puts(header, ",");
        DS_TRY(put_string(header, w->path, s->name));
        ds_text_printf(header, ":{\"dtype\":\"%s\",\"shape\":[",
                       ds_safetensors_types[s->type].name);
        for (int d = 0; d < s->entry->rank; d++)
            ds_text_printf(header, "%s%lld", d ? "," : "", (long long)s->entry->dims[d]);
        s->offset = offset;
        if (__builtin_add_overflow(offset, s->size_bytes, &offset) || offset > INT64_MAX / 2)
            return ds_fail(DS_INVALID, "%s: more bytes than a file can hold", w->path);
        ds_text_printf(header, "],\"data_offsets\":[%zu,%zu]}", s->offset, offset);
    }
    ds_text_puts(header, "}");
    while (header->length % 8 != 0 && !header->poisoned)
        ds_text_puts(header, " ");
    if (header->poisoned)
        return DS_OUT_OF_MEMORY;
    if (header->length > DS_SAFETENSORS_HEADER_LIMIT)
        return ds_fail(DS_INVALID, "%s: a header of %zu bytes; readers accept %d", w->path,
                       header->length, DS_SAFETENSORS_HEADER_LIMIT);
    return DS_OK;
}

/* Creates the file with its header, and takes the disk blocks for the rest where the file system
 * can: a disk too small is known now and not after minutes of writing. */
static ds_status create_file(ds_safetensors_writer *w, const ds_text *header) {
    unsigned char length[8];
    for (int byte = 0; byte < 8; byte++)
        length[byte] = (unsigned char)((uint64_t)header->length >> 8 * byte);
    w->fd = open(w->part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return ds_fail_errno("%s: cannot be created", w->part);
    DS_TRY(ds_fd_write(w->fd, length, sizeof length, w->part));
    DS_TRY(ds_fd_write(w->fd, header->data, header->length, w->part));
    ds_md5_update(w->md5, length, sizeof length);
    ds_md5_update(w->md5, header->data, header->length);
    w->end = w->hashed = sizeof length + header->length;
    for (size_t i = 0; i < w->n; i++) {
        w->slots[i].offset += sizeof length + header->length;
        w->end = w->slots[i].offset + w->slots[i].size_bytes;
    }
    if (fallocate(w->fd, 0, 0, (off_t)w->end) == 0)
        return DS_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return ds_fail_errno("%s: no room for %zu bytes", w->part, w->end);
    if (ftruncate(w->fd, (off_t)w->end) != 0)
        return ds_fail_errno("%s: cannot be extended to %zu bytes", w->part, w->end);
    return DS_OK;
}

static ds_status lay_out(ds_safetensors_writer *w, const ds_safetensors_entry *entries,
                         const char *const *metadata) {
    for (size_t i = 0; i < w->n; i++) {
        w->slots[i].index = i;
        DS_TRY(fill_slot(w, &entries[i], &w->slots[i]));
    }
    DS_TRY(check_unique(w));
    qsort(w->slots, w->n, sizeof *w->slots, by_layout);
    for (size_t i = 0; i < w->n; i++)
        w->slot_of[w->slots[i].index] = i;
    ds_text header = {0};
    ds_status status = make_header(w, metadata, &header);
    if (status == DS_OK)
        status = create_file(w, &header);
    ds_text_clear(&header);
    return status;
}

static void writer_free(ds_safetensors_writer *w) {
    if (w->fd >= 0)
        close(w->fd);
    for (size_t i = 0; w->slots && i < w->n; i++)
        free(w->slots[i].name);
    ds_md5_free(w->md5);
    pthread_mutex_destroy(&w->lock);
    free(w->slots);
    free(w->slot_of);
    free(w->path);
    free(w->part);
    free(w);
}

void ds_safetensors_writer_abandon(ds_safetensors_writer *w) {
    if (!w)
        return;
    if (w->fd >= 0)
        unlink(w->part);
    writer_free(w);
}

ds_status ds_safetensors_writer_new(const char *path, const ds_safetensors_entry *entries, size_t n,
                                    const char *const *metadata, ds_safetensors_writer **out) {
    *out = NULL;
    ds_safetensors_writer *w = ds_calloc(1, sizeof *w);
    if (!w)
        return DS_OUT_OF_MEMORY;
    w->fd = -1;
    w->n = n;
    pthread_mutex_init(&w->lock, NULL);
    ds_text part = {0};
    ds_text_printf(&part, "%s.part", path);
    w->part = ds_text_take(&part);
    w->path = ds_strdup(path);
    w->slots = ds_calloc(n, sizeof *w->slots);
    w->slot_of = ds_calloc(n, sizeof *w->slot_of);
    ds_status status = DS_OUT_OF_MEMORY;
    if (w->part && w->path && w->slots && w->slot_of)
        status = ds_md5_new(&w->md5);
    if (status == DS_OK)
        status = lay_out(w, entries, metadata);
    if (status != DS_OK) {
        ds_safetensors_writer_abandon(w);
        return status;
    }
    *out = w;
    return DS_OK;
}

size_t ds_safetensors_writer_index(const ds_safetensors_writer *w, size_t place) {
    return w->slots[place].index;
}

/* Hashes what continues the part that is hashed. */
static void hash(ds_safetensors_writer *w, const void *data, size_t size_bytes, size_t offset) {
    pthread_mutex_lock(&w->lock);
    if (offset == w->hashed) {
        ds_md5_update(w->md5, data, size_bytes);
        w->hashed += size_bytes;
    } else if (offset < w->hashed && size_bytes > 0) {
        w->rewritten = true;
    }
    pthread_mutex_unlock(&w->lock);
}

ds_status ds_safetensors_writer_write(ds_safetensors_writer *w, size_t index, size_t offset_bytes,
                                      const void *data, size_t size_bytes) {
    if (index >= w->n)
        return ds_fail(DS_INVALID, "%s: tensor %zu of %zu", w->path, index, w->n);
    slot *s = &w->slots[w->slot_of[index]];
    if (offset_bytes > s->size_bytes || size_bytes > s->size_bytes - offset_bytes)
        return ds_fail(DS_INVALID, "%s: %s: bytes [%zu, +%zu) of %zu", w->path, s->name,
                       offset_bytes, size_bytes, s->size_bytes);
    const size_t offset = s->offset + offset_bytes;
    DS_TRY(ds_fd_write_at(w->fd, data, size_bytes, offset, w->part));
    /* the disk begins at once, so that the sync at the end waits for the last pages only */
    sync_file_range(w->fd, (off_t)offset, (off_t)size_bytes, SYNC_FILE_RANGE_WRITE);
    hash(w, data, size_bytes, offset);
    atomic_fetch_add(&s->received, size_bytes);
    return DS_OK;
}

static ds_status check_whole(ds_safetensors_writer *w) {
    for (size_t i = 0; i < w->n; i++) {
        const size_t received = atomic_load(&w->slots[i].received);
        if (received < w->slots[i].size_bytes)
            return ds_fail(DS_INVALID, "%s: %s: only %zu of its %zu bytes were written", w->path,
                           w->slots[i].name, received, w->slots[i].size_bytes);
    }
    return DS_OK;
}

/* The sum of the whole file, what was not hashed yet read back from it. */
static ds_status finish_sum(ds_safetensors_writer *w, char md5_hex[DS_MD5_HEX]) {
    if (w->rewritten)
        return ds_md5_of_file(w->part, md5_hex);
    if (w->hashed < w->end) {
        ds_mapped file;
        DS_TRY(ds_file_map(w->part, &file));
        ds_md5_update(w->md5, file.data + w->hashed, w->end - w->hashed);
        ds_file_unmap(&file);
    }
    ds_md5_finish(w->md5, md5_hex);
    w->md5 = NULL;
    return DS_OK;
}

ds_status ds_safetensors_writer_close(ds_safetensors_writer *w, char md5_hex[33]) {
    ds_status status = check_whole(w);
    if (status == DS_OK)
        status = ds_fd_sync(w->fd, w->part);
    if (status == DS_OK && md5_hex)
        status = finish_sum(w, md5_hex);
    if (status == DS_OK)
        status = ds_file_rename(w->part, w->path);
    if (status == DS_OK)
        writer_free(w);
    else
        ds_safetensors_writer_abandon(w);
    return status;
}
