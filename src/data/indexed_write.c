/* Writes Megatron-LM's indexed dataset. The tokens stream to PREFIX.bin.part through one buffer;
 * only 4 bytes per sequence and 8 per document stay in memory for the index. At close both files
 * are synced and swapped in together: the former pair is set aside first and put back if a rename
 * fails, so PREFIX is the old pair, the new pair, or (after a power cut between two renames) lacks
 * its .idx and is refused; old and new never mix. */
#include "data/indexed.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

enum {
    BUFFER_BYTES = 1 << 20,
    LONGEST_SEQUENCE = 1 << 30, /* tokens; lengths are i32 in the file */
};

struct ds_indexed_writer {
    char *bin, *idx;           /* final paths */
    char *bin_part, *idx_part; /* written beside them */
    int fd;
    int token_bytes;
    unsigned char *buffer; /* [BUFFER_BYTES] encoded tokens not yet written */
    size_t buffered;
    int32_t *lengths; /* [n_sequences], the last one still growing while a document is open */
    size_t n_sequences, lengths_capacity;
    int64_t *marks; /* [n_documents + 1] first sequence of each document */
    size_t n_documents, marks_capacity;
    int64_t tokens;
    bool document_open;
};

char *ds_indexed_file_name(const char *prefix, const char *ending) {
    size_t n = strlen(prefix);
    if (n > 4 && (!strcmp(prefix + n - 4, ".bin") || !strcmp(prefix + n - 4, ".idx")))
        n -= 4;
    const size_t size = n + strlen(ending) + 1;
    char *name = ds_malloc(size);
    if (name)
        snprintf(name, size, "%.*s%s", (int)n, prefix, ending);
    return name;
}

static void writer_free(ds_indexed_writer *w) {
    if (w->fd >= 0)
        close(w->fd);
    free(w->bin);
    free(w->idx);
    free(w->bin_part);
    free(w->idx_part);
    free(w->buffer);
    free(w->lengths);
    free(w->marks);
    free(w);
}

void ds_indexed_writer_abandon(ds_indexed_writer *w) {
    if (!w)
        return;
    if (w->fd >= 0)
        unlink(w->bin_part);
    if (w->idx_part)
        unlink(w->idx_part);
    writer_free(w);
}

ds_status ds_indexed_writer_open(const char *prefix, int token_bytes, ds_indexed_writer **out) {
    *out = NULL;
    if (token_bytes != 2 && token_bytes != 4)
        return ds_fail(DS_INVALID, "%s: tokens of %d bytes asked for; 2 and 4 can be written",
                       prefix, token_bytes);
    ds_indexed_writer *w = ds_calloc(1, sizeof *w);
    if (!w)
        return DS_OUT_OF_MEMORY;
    w->fd = -1;
    w->token_bytes = token_bytes;
    w->bin = ds_indexed_file_name(prefix, ".bin");
    w->idx = ds_indexed_file_name(prefix, ".idx");
    w->bin_part = ds_indexed_file_name(prefix, ".bin.part");
    w->idx_part = ds_indexed_file_name(prefix, ".idx.part");
    w->buffer = ds_malloc(BUFFER_BYTES);
    w->marks = ds_grow(NULL, &w->marks_capacity, 1, sizeof *w->marks);
    ds_status status = DS_OK;
    if (!w->bin || !w->idx || !w->bin_part || !w->idx_part || !w->buffer || !w->marks) {
        status = DS_OUT_OF_MEMORY;
    } else {
        w->marks[0] = 0;
        w->fd = open(w->bin_part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (w->fd < 0)
            status = ds_fail_errno("%s: cannot be created", w->bin_part);
    }
    if (status != DS_OK) {
        writer_free(w);
        return status;
    }
    *out = w;
    return DS_OK;
}

static ds_status flush(ds_indexed_writer *w) {
    const size_t n = w->buffered;
    w->buffered = 0;
    return n ? ds_fd_write(w->fd, w->buffer, n, w->bin_part) : DS_OK;
}

/* Encodes n ids, little-endian, into the buffer, which has room for them. */
static ds_status encode(ds_indexed_writer *w, const int32_t *ids, size_t n) {
    unsigned char *to = w->buffer + w->buffered;
    const uint32_t limit = w->token_bytes == 2 ? UINT16_MAX : INT32_MAX;
    for (size_t i = 0; i < n; i++) {
        const uint32_t id = (uint32_t)ids[i];
        if (id > limit)
            return ds_fail(DS_INVALID, "%s: token id %d (document %zu) does not fit in [0, %u]",
                           w->bin, ids[i], w->n_documents, limit);
        for (int byte = 0; byte < w->token_bytes; byte++)
            *to++ = (unsigned char)(id >> 8 * byte);
    }
    w->buffered += n * (size_t)w->token_bytes;
    return DS_OK;
}

static ds_status begin_sequence(ds_indexed_writer *w) {
    int32_t *lengths =
        ds_grow(w->lengths, &w->lengths_capacity, w->n_sequences + 1, sizeof *lengths);
    if (!lengths)
        return DS_OUT_OF_MEMORY;
    w->lengths = lengths;
    w->lengths[w->n_sequences++] = 0;
    w->document_open = true;
    return DS_OK;
}

ds_status ds_indexed_writer_add_tokens(ds_indexed_writer *w, const int32_t *ids, size_t n) {
    if (!w->document_open)
        DS_TRY(begin_sequence(w));
    while (n > 0) {
        if (w->lengths[w->n_sequences - 1] == LONGEST_SEQUENCE)
            DS_TRY(begin_sequence(w));
        int32_t *length = &w->lengths[w->n_sequences - 1];
        size_t part = (BUFFER_BYTES - w->buffered) / (size_t)w->token_bytes;
        if (part > n)
            part = n;
        if (part > (size_t)(LONGEST_SEQUENCE - *length))
            part = (size_t)(LONGEST_SEQUENCE - *length);
        DS_TRY(encode(w, ids, part));
        *length += (int32_t)part;
        w->tokens += (int64_t)part;
        ids += part;
        n -= part;
        if (w->buffered == BUFFER_BYTES)
            DS_TRY(flush(w));
    }
    return DS_OK;
}

ds_status ds_indexed_writer_end_document(ds_indexed_writer *w) {
    if (!w->document_open)
        DS_TRY(begin_sequence(w)); /* an empty document */
    int64_t *marks = ds_grow(w->marks, &w->marks_capacity, w->n_documents + 2, sizeof *marks);
    if (!marks)
        return DS_OUT_OF_MEMORY;
    w->marks = marks;
    w->marks[++w->n_documents] = (int64_t)w->n_sequences;
    w->document_open = false;
    return DS_OK;
}

ds_status ds_indexed_writer_add_document(ds_indexed_writer *w, const int32_t *ids, size_t n) {
    DS_TRY(ds_indexed_writer_add_tokens(w, ids, n));
    return ds_indexed_writer_end_document(w);
}

int64_t ds_indexed_writer_tokens(const ds_indexed_writer *w) {
    return w->tokens;
}

int64_t ds_indexed_writer_documents(const ds_indexed_writer *w) {
    return (int64_t)w->n_documents;
}

/* A small buffered output of little-endian integers, for the index. */
typedef struct index_out {
    unsigned char *buffer; /* [BUFFER_BYTES] */
    size_t used;
    int fd;
    const char *path;
} index_out;

static ds_status put(index_out *out, uint64_t value, int bytes) {
    if (out->used + 8 > BUFFER_BYTES) {
        DS_TRY(ds_fd_write(out->fd, out->buffer, out->used, out->path));
        out->used = 0;
    }
    for (int byte = 0; byte < bytes; byte++)
        out->buffer[out->used++] = (unsigned char)(value >> 8 * byte);
    return DS_OK;
}

static ds_status put_index(const ds_indexed_writer *w, index_out *out) {
    static const char magic[DS_INDEX_MAGIC_BYTES] = "MMIDIDX\0";
    for (int i = 0; i < DS_INDEX_MAGIC_BYTES; i++)
        DS_TRY(put(out, (unsigned char)magic[i], 1));
    DS_TRY(put(out, 1, 8)); /* version */
    DS_TRY(put(out, w->token_bytes == 2 ? DS_INDEX_CODE_U16 : DS_INDEX_CODE_I32, 1));
    DS_TRY(put(out, w->n_sequences, 8));
    DS_TRY(put(out, w->n_documents + 1, 8));
    for (size_t i = 0; i < w->n_sequences; i++)
        DS_TRY(put(out, (uint32_t)w->lengths[i], 4));
    uint64_t pointer = 0;
    for (size_t i = 0; i < w->n_sequences; i++) {
        DS_TRY(put(out, pointer, 8));
        pointer += (uint64_t)w->lengths[i] * (uint64_t)w->token_bytes;
    }
    for (size_t i = 0; i <= w->n_documents; i++)
        DS_TRY(put(out, (uint64_t)w->marks[i], 8));
    DS_TRY(ds_fd_write(out->fd, out->buffer, out->used, out->path));
    return ds_fd_sync(out->fd, out->path);
}

/* Writes PREFIX.idx.part; the token buffer is free for it once the tokens are flushed. */
static ds_status write_index(ds_indexed_writer *w) {
    index_out out = {.buffer = w->buffer, .path = w->idx_part};
    out.fd = open(w->idx_part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (out.fd < 0)
        return ds_fail_errno("%s: cannot be created", w->idx_part);
    ds_status status = put_index(w, &out);
    if (close(out.fd) != 0 && status == DS_OK)
        status = ds_fail_errno("%s: cannot be closed", w->idx_part);
    return status;
}

/* One file of the pair on its way to its place. */
typedef struct swap {
    const char *part, *path;
    char aside[PATH_MAX]; /* where the former file waits */
    bool former_aside;    /* there was a former file */
    bool path_free;       /* whatever is at path now is of the new pair */
} swap;

static ds_status set_aside(swap *s) {
    if (snprintf(s->aside, sizeof s->aside, "%s.old", s->path) >= (int)sizeof s->aside)
        return ds_fail(DS_INVALID, "%s: path too long", s->path);
    if (rename(s->path, s->aside) == 0)
        s->former_aside = true;
    else if (errno != ENOENT)
        return ds_fail_errno("%s: cannot be renamed to %s", s->path, s->aside);
    s->path_free = true;
    return DS_OK;
}

static void put_back(const swap *s) {
    if (s->path_free)
        unlink(s->path);
    if (s->former_aside && rename(s->aside, s->path) != 0)
        ds_log(DS_LOG_WARN, "%s: the former file is now %s", s->path, s->aside);
}

static ds_status publish(const ds_indexed_writer *w) {
    swap idx = {.part = w->idx_part, .path = w->idx};
    swap bin = {.part = w->bin_part, .path = w->bin};
    ds_status status = set_aside(&idx); /* first: without an index nothing can be misread */
    if (status == DS_OK)
        status = set_aside(&bin);
    if (status == DS_OK)
        status = ds_file_rename(bin.part, bin.path);
    if (status == DS_OK)
        status = ds_file_rename(idx.part, idx.path);
    if (status != DS_OK) {
        put_back(&bin);
        put_back(&idx);
        return status;
    }
    if (idx.former_aside)
        unlink(idx.aside);
    if (bin.former_aside)
        unlink(bin.aside);
    return DS_OK;
}

ds_status ds_indexed_writer_close(ds_indexed_writer *w) {
    ds_status status = w->document_open ? ds_indexed_writer_end_document(w) : DS_OK;
    if (status == DS_OK)
        status = flush(w);
    if (status == DS_OK)
        status = ds_fd_sync(w->fd, w->bin_part);
    if (status == DS_OK)
        status = write_index(w);
    if (status == DS_OK)
        status = publish(w);
    if (status == DS_OK)
        writer_free(w);
    else
        ds_indexed_writer_abandon(w);
    return status;
}
