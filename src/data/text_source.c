/* Documents out of text files. zlib's gzFile reads plain and compressed files alike and knows its
 * place in the file on disk, so there is one reading path; a window over it (filled, consumed,
 * shifted) is cut at line ends, by pieces for .txt and by lines for .jsonl. */
#include "deepseek/data.h"

#include <errno.h>
#include <fts.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/text.h"

enum {
    PIECE_BYTES = 4 << 20,        /* most of a .txt at once */
    LONGEST_LINE_BYTES = 1 << 30, /* of a .jsonl; more is surely not text */
    INFLATE_BYTES = 256 << 10,    /* zlib's own buffer */
    LOOKED_AT_BYTES = 8 << 10,    /* a zero byte among the first so many: not text, as git has it */
};

typedef struct text_file {
    char *path;
    int64_t size_bytes; /* on disk */
} text_file;

struct ds_text_source {
    text_file *files;
    size_t n_files, capacity;
    size_t next_file; /* one past the file being read */
    gzFile stream;    /* NULL between files */
    bool json_lines, at_file_start, file_ended;
    int64_t line; /* of the .jsonl, from 1 */
    char *window; /* [window_capacity]; unread bytes are [begin, end) */
    size_t window_capacity, begin, end;
    json_t *document; /* owner of the text last returned from a .jsonl */
    bool continues, failed;
    int64_t done_bytes, total_bytes; /* done: of the files before this one */
    int64_t modified_ns;             /* of the newest file, since 1970 */
};

static bool is_json_lines(const char *path) {
    return ds_ends_with(path, ".jsonl") || ds_ends_with(path, ".jsonl.gz");
}

static bool is_text(const char *path) {
    return ds_ends_with(path, ".txt") || ds_ends_with(path, ".txt.gz") || is_json_lines(path);
}

static ds_status add_file(ds_text_source *s, const char *path, const struct stat *st) {
    text_file *files = ds_grow(s->files, &s->capacity, s->n_files + 1, sizeof *files);
    if (!files)
        return DS_OUT_OF_MEMORY;
    s->files = files;
    char *copy = ds_strdup(path);
    if (!copy)
        return DS_OUT_OF_MEMORY;
    const int64_t size_bytes = (int64_t)st->st_size;
    const int64_t modified_ns =
        (int64_t)st->st_mtim.tv_sec * 1000000000 + (int64_t)st->st_mtim.tv_nsec;
    s->files[s->n_files++] = (text_file){.path = copy, .size_bytes = size_bytes};
    s->total_bytes += size_bytes;
    s->modified_ns = modified_ns > s->modified_ns ? modified_ns : s->modified_ns;
    return DS_OK;
}

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static ds_status add_entry(ds_text_source *s, const FTSENT *entry) {
    switch (entry->fts_info) {
    case FTS_F: /* the entry named by the caller counts whatever its ending */
        if (entry->fts_level > 0 && !is_text(entry->fts_path))
            return DS_OK;
        return add_file(s, entry->fts_path, entry->fts_statp);
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS:
        if (entry->fts_errno == ENOENT)
            return ds_fail(DS_NOT_FOUND, "%s: no such file or folder", entry->fts_path);
        errno = entry->fts_errno;
        return ds_fail_errno("%s: cannot be read", entry->fts_path);
    case FTS_SLNONE: return ds_fail(DS_NOT_FOUND, "%s: a link to nothing", entry->fts_path);
    default: /* folders on the way in and out, link cycles, sockets */ return DS_OK;
    }
}

static ds_status list_files(ds_text_source *s, const char *path) {
    char *root = ds_strdup(path);
    if (!root)
        return DS_OUT_OF_MEMORY;
    char *const roots[] = {root, NULL};
    FTS *walk = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, by_name);
    ds_status status = walk ? DS_OK : ds_fail_errno("%s: cannot be read", path);
    while (status == DS_OK) {
        errno = 0;
        const FTSENT *entry = fts_read(walk);
        if (!entry) {
            if (errno != 0)
                status = ds_fail_errno("%s: cannot be read", path);
            break;
        }
        status = add_entry(s, entry);
    }
    if (walk)
        fts_close(walk);
    free(root);
    return status;
}

ds_status ds_text_source_open(const char *path, ds_text_source **out) {
    *out = NULL;
    ds_text_source *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    ds_status status = list_files(s, path);
    if (status == DS_OK && s->n_files == 0)
        status =
            ds_fail(DS_NOT_FOUND, "%s: no .txt, .jsonl, .txt.gz or .jsonl.gz file in it", path);
    if (status != DS_OK) {
        ds_text_source_close(s);
        return status;
    }
    *out = s;
    return DS_OK;
}

void ds_text_source_close(ds_text_source *s) {
    if (!s)
        return;
    if (s->stream)
        gzclose(s->stream);
    for (size_t i = 0; i < s->n_files; i++)
        free(s->files[i].path);
    free(s->files);
    free(s->window);
    json_decref(s->document);
    free(s);
}

bool ds_text_source_continues(const ds_text_source *s) {
    return s->continues;
}

void ds_text_source_progress(const ds_text_source *s, int64_t *done_bytes, int64_t *total_bytes) {
    if (done_bytes)
        *done_bytes = s->done_bytes + (s->stream ? (int64_t)gzoffset(s->stream) : 0);
    if (total_bytes)
        *total_bytes = s->total_bytes;
}

int64_t ds_text_source_modified(const ds_text_source *s) {
    return s->modified_ns;
}

static const char *current_path(const ds_text_source *s) {
    return s->files[s->next_file - 1].path;
}

static ds_status open_next_file(ds_text_source *s) {
    const char *path = s->files[s->next_file++].path;
    s->json_lines = is_json_lines(path);
    s->at_file_start = true;
    s->file_ended = false;
    s->line = 0;
    s->begin = s->end = 0;
    errno = 0;
    s->stream = gzopen(path, "rbe");
    if (!s->stream)
        return errno ? ds_fail_errno("%s: cannot be opened", path) : DS_OUT_OF_MEMORY;
    gzbuffer(s->stream, INFLATE_BYTES);
    return DS_OK;
}

static void close_file(ds_text_source *s) {
    gzclose(s->stream);
    s->stream = NULL;
    s->done_bytes += s->files[s->next_file - 1].size_bytes;
}

static ds_status fail_reading(const ds_text_source *s) {
    int code = Z_OK;
    const char *why = gzerror(s->stream, &code);
    if (code == Z_ERRNO)
        return ds_fail_errno("%s: cannot be read", current_path(s));
    return ds_fail(DS_CORRUPT, "%s: damaged gzip data: %s", current_path(s),
                   code == Z_BUF_ERROR ? "it is cut short" : why);
}

static ds_status check_is_text(const ds_text_source *s) {
    const size_t n = s->end < LOOKED_AT_BYTES ? s->end : LOOKED_AT_BYTES;
    const char *zero = n > 0 ? memchr(s->window, '\0', n) : NULL;
    if (!zero)
        return DS_OK;
    return ds_fail(DS_INVALID,
                   "%s: not text (byte %zu is zero); expected UTF-8 text, JSON lines, or either "
                   "compressed by gzip as .txt.gz or .jsonl.gz",
                   current_path(s), (size_t)(zero - s->window));
}

/* Moves the unread bytes to the window's front and fills it up to `want` bytes or the file's end.
 */
static ds_status fill(ds_text_source *s, size_t want) {
    char *window = ds_grow(s->window, &s->window_capacity, want, 1);
    if (!window)
        return DS_OUT_OF_MEMORY;
    s->window = window;
    memmove(window, window + s->begin, s->end - s->begin);
    s->end -= s->begin;
    s->begin = 0;
    while (s->end < want && !s->file_ended) {
        const int n = gzread(s->stream, window + s->end, (unsigned)(want - s->end));
        if (n < 0)
            return fail_reading(s);
        s->end += (size_t)n;
        if (n == 0) {
            int code = Z_OK;
            gzerror(s->stream, &code);
            if (code != Z_OK && code != Z_STREAM_END)
                return fail_reading(s); /* a .gz that stops in the middle ends quietly otherwise */
            s->file_ended = true;
        }
    }
    if (s->at_file_start) {
        s->at_file_start = false;
        if (ds_ends_with(current_path(s), ".gz") && s->end > 0 && gzdirect(s->stream))
            return ds_fail(DS_CORRUPT, "%s: not gzip data", current_path(s));
        if (s->end >= 3 && memcmp(window, "\xEF\xBB\xBF", 3) == 0)
            s->begin = 3;
        return check_is_text(s);
    }
    return DS_OK;
}

/* Where to cut n bytes that are not the end of their document: after the last line end, else
 * before a UTF-8 character that is not whole. */
static size_t cut(const char *text, size_t n) {
    const char *line_end = memrchr(text, '\n', n);
    if (line_end)
        return (size_t)(line_end - text) + 1;
    size_t lead = n - 1;
    for (int back = 0; back < 3 && lead > 0 && ((unsigned char)text[lead] & 0xC0) == 0x80; back++)
        lead--;
    return lead > 0 && ((unsigned char)text[lead] & 0xC0) == 0xC0 ? lead : n;
}

/* The next piece of a .txt; *text stays NULL at the file's end. */
static ds_status next_piece(ds_text_source *s, const char **text, size_t *length) {
    DS_TRY(fill(s, PIECE_BYTES + 1)); /* one more, to know whether this piece is the last */
    size_t n = s->end - s->begin;
    s->continues = !s->file_ended;
    if (n == 0)
        return DS_OK;
    if (s->continues)
        n = cut(s->window + s->begin, n - 1);
    *text = s->window + s->begin;
    *length = n;
    s->begin += n;
    return DS_OK;
}

/* The next line of the window without its line end; false at the file's end. */
static ds_status next_line(ds_text_source *s, const char **line, size_t *length, bool *found) {
    size_t searched = 0;
    *found = false;
    for (;;) {
        const size_t have = s->end - s->begin;
        const char *start = have ? s->window + s->begin : "";
        const char *line_end =
            have > searched ? memchr(start + searched, '\n', have - searched) : NULL;
        if (line_end || (s->file_ended && have > 0)) {
            *line = start;
            *length = line_end ? (size_t)(line_end - start) : have;
            s->begin += *length + (line_end != NULL);
            s->line++;
            *found = true;
            return DS_OK;
        }
        if (s->file_ended)
            return DS_OK;
        searched = have;
        if (have >= LONGEST_LINE_BYTES)
            return ds_fail(DS_INVALID, "%s:%lld: a line of more than %d bytes", current_path(s),
                           (long long)s->line + 1, LONGEST_LINE_BYTES);
        const size_t want = 2 * have > INFLATE_BYTES ? 2 * have : INFLATE_BYTES;
        DS_TRY(fill(s, want));
    }
}

static bool is_blank(const char *line, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

/* The "text" of one line of a .jsonl. */
static ds_status parse_line(ds_text_source *s, const char *line, size_t n, const char **text,
                            size_t *length) {
    json_error_t error;
    json_decref(s->document);
    s->document = json_loadb(line, n, JSON_ALLOW_NUL, &error);
    if (!s->document)
        return ds_fail(DS_INVALID, "%s:%lld: not JSON: %s (byte %d)", current_path(s),
                       (long long)s->line, error.text, error.position);
    const json_t *value = json_object_get(s->document, "text");
    if (!json_is_string(value))
        return ds_fail(DS_INVALID, "%s:%lld: %s", current_path(s), (long long)s->line,
                       !json_is_object(s->document) ? "not a JSON object"
                       : value                      ? "\"text\" is not a string"
                                                    : "no \"text\" in this object");
    *text = json_string_value(value);
    *length = json_string_length(value);
    return DS_OK;
}

static ds_status next_json_line(ds_text_source *s, const char **text, size_t *length) {
    s->continues = false;
    for (;;) {
        const char *line = NULL;
        size_t n = 0;
        bool found = false;
        DS_TRY(next_line(s, &line, &n, &found));
        if (!found)
            return DS_OK;
        if (is_blank(line, n))
            continue;
        DS_TRY(parse_line(s, line, n, text, length));
        if (*length > 0)
            return DS_OK;
        *text = NULL; /* an empty document */
    }
}

static ds_status next_text(ds_text_source *s, const char **text, size_t *length) {
    for (;;) {
        if (!s->stream) {
            if (s->next_file == s->n_files)
                return DS_OK;
            DS_TRY(open_next_file(s));
        }
        DS_TRY(s->json_lines ? next_json_line(s, text, length) : next_piece(s, text, length));
        if (*text)
            return DS_OK;
        close_file(s);
    }
}

ds_status ds_text_source_next(ds_text_source *s, const char **text, size_t *length) {
    *text = NULL;
    *length = 0;
    if (s->failed)
        return DS_OK;
    const ds_status status = next_text(s, text, length);
    if (status != DS_OK) {
        s->failed = true;
        *text = NULL;
        *length = 0;
    }
    return status;
}
