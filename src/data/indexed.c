/* Reads Megatron-LM's indexed dataset: two mapped files, checked once, then plain arithmetic. A
 * corrupt index has to be found here and not as a wild read in the middle of a run, so opening
 * walks the whole index (12 bytes per sequence; about a second per 100 million). */
#include "data/indexed.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

struct ds_indexed {
    ds_index_view view;
    const unsigned char *bin;
    char *path; /* of the .bin */
    ds_mapped bin_file, idx_file;
    int64_t id_limit; /* every id is known to be in [0, id_limit); 0 before the scan */
};

/* What the type codes of Megatron-LM's DType mean, and whether ids can be stored so. */
static const struct {
    const char *name;
    int bytes;
    bool integer;
} token_types[DS_INDEX_CODES] = {
    [1] = {"uint8", 1, true},    [2] = {"int8", 1, true},   [3] = {"int16", 2, true},
    [4] = {"int32", 4, true},    [5] = {"int64", 8, true},  [6] = {"float64", 8, false},
    [7] = {"float32", 4, false}, [8] = {"uint16", 2, true},
};

static uint64_t load_u64(const unsigned char *p) {
    uint64_t value = 0;
    for (int byte = 7; byte >= 0; byte--)
        value = value << 8 | p[byte];
    return value;
}

static int64_t load_i64(const unsigned char *array, int64_t i) {
    return (int64_t)load_u64(array + 8 * i);
}

static int32_t load_i32(const unsigned char *array, int64_t i) {
    const unsigned char *p = array + 4 * i;
    return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                     (uint32_t)p[3] << 24);
}

static ds_status parse_header(const unsigned char *index, size_t size, const char *path,
                              ds_index_view *view) {
    if (size < DS_INDEX_HEADER_BYTES)
        return ds_fail(DS_CORRUPT, "%s: %zu bytes; an index has at least %d", path, size,
                       DS_INDEX_HEADER_BYTES);
    if (memcmp(index, "MMIDIDX\0", DS_INDEX_MAGIC_BYTES) != 0)
        return ds_fail(DS_CORRUPT, "%s: does not begin with MMIDIDX: not an indexed dataset", path);
    const uint64_t version = load_u64(index + 9);
    if (version != 1)
        return ds_fail(DS_UNSUPPORTED, "%s: version %llu; version 1 is read", path,
                       (unsigned long long)version);
    const int code = index[17];
    if (code >= DS_INDEX_CODES || !token_types[code].bytes)
        return ds_fail(DS_CORRUPT, "%s: unknown token type code %d", path, code);
    if (!token_types[code].integer)
        return ds_fail(DS_INVALID, "%s: holds %s values, not token ids", path,
                       token_types[code].name);
    const uint64_t sequences = load_u64(index + 18), marks = load_u64(index + 26);
    const uint64_t body = size - DS_INDEX_HEADER_BYTES;
    if (sequences > body / 12 || marks > (body - 12 * sequences) / 8 ||
        12 * sequences + 8 * marks != body)
        return ds_fail(DS_CORRUPT,
                       "%s: %zu bytes do not match its counts (%llu sequences, %llu document "
                       "marks): cut short or overwritten",
                       path, size, (unsigned long long)sequences, (unsigned long long)marks);
    if (marks == 0)
        return ds_fail(DS_CORRUPT, "%s: no document marks; there is at least one", path);
    *view = (ds_index_view){.code = code,
                            .token_bytes = token_types[code].bytes,
                            .sequences = (int64_t)sequences,
                            .documents = (int64_t)marks - 1,
                            .lengths = index + DS_INDEX_HEADER_BYTES};
    view->pointers = view->lengths + 4 * sequences;
    view->marks = view->pointers + 8 * sequences;
    return DS_OK;
}

/* Sequences must lie end to end from 0 and fill the .bin exactly. */
static ds_status check_sequences(ds_index_view *view, uint64_t bin_size, const char *path) {
    uint64_t tokens = 0;
    for (int64_t i = 0; i < view->sequences; i++) {
        const int32_t length = load_i32(view->lengths, i);
        if (length < 0)
            return ds_fail(DS_CORRUPT, "%s: sequence %lld has length %d", path, (long long)i,
                           length);
        const uint64_t want = tokens * (uint64_t)view->token_bytes;
        const int64_t pointer = load_i64(view->pointers, i);
        if (pointer != (int64_t)want)
            return ds_fail(DS_CORRUPT,
                           "%s: sequence %lld starts at byte %lld; the lengths before it say %llu",
                           path, (long long)i, (long long)pointer, (unsigned long long)want);
        tokens += (uint64_t)length; /* below 2^31 * 2^60 / 12: the mapped size bounds both */
        if (tokens > (uint64_t)INT64_MAX / 8)
            return ds_fail(DS_CORRUPT, "%s: more tokens than a file can hold", path);
    }
    const uint64_t want = tokens * (uint64_t)view->token_bytes;
    if (want == bin_size) {
        view->tokens = (int64_t)tokens;
        return DS_OK;
    }
    if (tokens && bin_size % tokens == 0 && bin_size / tokens <= 8)
        return ds_fail(DS_CORRUPT,
                       "%s: wrong token width: says %s (%d bytes), but the .bin has %llu bytes for "
                       "each of its %llu tokens",
                       path, token_types[view->code].name, view->token_bytes,
                       (unsigned long long)(bin_size / tokens), (unsigned long long)tokens);
    return ds_fail(DS_CORRUPT,
                   "%s: lists %llu tokens of %d bytes, %llu bytes; the .bin has %llu (cut short, "
                   "or of another dataset)",
                   path, (unsigned long long)tokens, view->token_bytes, (unsigned long long)want,
                   (unsigned long long)bin_size);
}

static ds_status check_marks(const ds_index_view *view, const char *path) {
    int64_t last = 0;
    for (int64_t i = 0; i <= view->documents; i++) {
        const int64_t mark = load_i64(view->marks, i);
        if ((i == 0 && mark != 0) || mark < last || mark > view->sequences)
            return ds_fail(DS_CORRUPT,
                           "%s: document mark %lld is %lld; it should be in [%lld, %lld]", path,
                           (long long)i, (long long)mark, (long long)last,
                           (long long)(i ? view->sequences : 0));
        last = mark;
    }
    if (last != view->sequences)
        return ds_fail(DS_CORRUPT, "%s: the documents end at sequence %lld of %lld", path,
                       (long long)last, (long long)view->sequences);
    return DS_OK;
}

ds_status ds_index_parse(const unsigned char *index, size_t size, uint64_t bin_size,
                         const char *path, ds_index_view *out) {
    ds_index_view view = {0};
    DS_TRY(parse_header(index, size, path, &view));
    DS_TRY(check_sequences(&view, bin_size, path));
    DS_TRY(check_marks(&view, path));
    *out = view;
    return DS_OK;
}

ds_status ds_indexed_from_memory(const unsigned char *index, size_t index_size,
                                 const unsigned char *bin, size_t bin_size, ds_indexed **out) {
    *out = NULL;
    ds_index_view view = {0};
    DS_TRY(ds_index_parse(index, index_size, bin_size, "memory.idx", &view));
    ds_indexed *d = ds_calloc(1, sizeof *d);
    if (!d || !(d->path = ds_strdup("memory.bin"))) {
        free(d);
        return DS_OUT_OF_MEMORY;
    }
    d->view = view;
    d->bin = bin;
    *out = d;
    return DS_OK;
}

static ds_status open_pair(ds_indexed *d, const char *idx_path) {
    DS_TRY(ds_file_map(idx_path, &d->idx_file));
    DS_TRY(ds_file_map(d->path, &d->bin_file));
    d->bin = d->bin_file.data;
    if (!d->idx_file.data)
        return ds_fail(DS_CORRUPT, "%s: empty file", idx_path);
    return ds_index_parse(d->idx_file.data, d->idx_file.size, d->bin_file.size, idx_path, &d->view);
}

ds_status ds_indexed_open(const char *prefix, ds_indexed **out) {
    *out = NULL;
    ds_indexed *d = ds_calloc(1, sizeof *d);
    if (!d)
        return DS_OUT_OF_MEMORY;
    d->path = ds_indexed_file_name(prefix, ".bin");
    char *idx_path = ds_indexed_file_name(prefix, ".idx");
    const ds_status status = d->path && idx_path ? open_pair(d, idx_path) : DS_OUT_OF_MEMORY;
    free(idx_path);
    if (status != DS_OK) {
        ds_indexed_close(d);
        return status;
    }
    *out = d;
    return DS_OK;
}

void ds_indexed_close(ds_indexed *d) {
    if (!d)
        return;
    ds_file_unmap(&d->bin_file);
    ds_file_unmap(&d->idx_file);
    free(d->path);
    free(d);
}

const char *ds_indexed_path(const ds_indexed *d) {
    return d->path;
}

int64_t ds_indexed_tokens(const ds_indexed *d) {
    return d->view.tokens;
}

int64_t ds_indexed_documents(const ds_indexed *d) {
    return d->view.documents;
}

int ds_indexed_token_bytes(const ds_indexed *d) {
    return d->view.token_bytes;
}

/* The stream position where document i starts; i may be the number of documents. */
static int64_t document_start(const ds_index_view *view, int64_t i) {
    const int64_t sequence = load_i64(view->marks, i);
    if (sequence == view->sequences)
        return view->tokens;
    return load_i64(view->pointers, sequence) / view->token_bytes;
}

ds_status ds_indexed_document(const ds_indexed *d, int64_t i, int64_t *first, int64_t *length) {
    if (i < 0 || i >= d->view.documents)
        return ds_fail(DS_INVALID, "%s: document %lld asked for; there are %lld", d->path,
                       (long long)i, (long long)d->view.documents);
    const int64_t start = document_start(&d->view, i);
    if (first)
        *first = start;
    if (length)
        *length = document_start(&d->view, i + 1) - start;
    return DS_OK;
}

int64_t ds_indexed_document_of(const ds_indexed *d, int64_t t) {
    int64_t low = 0, high = d->view.documents; /* start(low) <= t < start(high) */
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (document_start(&d->view, middle) <= t)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ids[i] = the i-th stored value at from; -1 for what int32 cannot hold. */
static void decode(int code, const unsigned char *from, int64_t count, int32_t *ids) {
    switch (code) {
    case 1:
        for (int64_t i = 0; i < count; i++)
            ids[i] = from[i];
        break;
    case 2:
        for (int64_t i = 0; i < count; i++)
            ids[i] = (int8_t)from[i];
        break;
    case 3:
        for (int64_t i = 0; i < count; i++)
            ids[i] = (int16_t)(from[2 * i] | from[2 * i + 1] << 8);
        break;
    case DS_INDEX_CODE_U16:
        for (int64_t i = 0; i < count; i++)
            ids[i] = from[2 * i] | from[2 * i + 1] << 8;
        break;
    case DS_INDEX_CODE_I32:
        for (int64_t i = 0; i < count; i++)
            ids[i] = load_i32(from, i);
        break;
    default: /* 5, int64: the parser lets no other through */
        for (int64_t i = 0; i < count; i++) {
            const int64_t value = load_i64(from, i);
            ids[i] = value < 0 || value > INT32_MAX ? -1 : (int32_t)value;
        }
    }
}

ds_status ds_indexed_read(const ds_indexed *d, int64_t first, int64_t count, int32_t *ids) {
    if (first < 0 || count < 0 || first > d->view.tokens || count > d->view.tokens - first)
        return ds_fail(DS_INVALID, "%s: tokens [%lld, +%lld) asked for; the stream has %lld",
                       d->path, (long long)first, (long long)count, (long long)d->view.tokens);
    if (count > 0)
        decode(d->view.code, d->bin + first * d->view.token_bytes, count, ids);
    return DS_OK;
}

/* The greatest id, or -1 as soon as a negative one is seen. Threads take chunks of the stream. */
static int64_t greatest_id(const ds_indexed *d) {
    enum { CHUNK = 1 << 14 };
    const int64_t chunks = (d->view.tokens + CHUNK - 1) / CHUNK;
    int32_t greatest = 0, least = 0;
#pragma omp parallel for schedule(static) reduction(max : greatest) reduction(min : least)
    for (int64_t c = 0; c < chunks; c++) {
        int32_t ids[CHUNK];
        const int64_t first = c * CHUNK;
        const int64_t n = d->view.tokens - first < CHUNK ? d->view.tokens - first : CHUNK;
        decode(d->view.code, d->bin + first * d->view.token_bytes, n, ids);
        for (int64_t i = 0; i < n; i++) {
            greatest = ids[i] > greatest ? ids[i] : greatest;
            least = ids[i] < least ? ids[i] : least;
        }
    }
    return least < 0 ? -1 : greatest;
}

/* Finds the first offender for the message; only on the way to a failure. */
static ds_status refuse_id(const ds_indexed *d, int64_t vocab_size) {
    for (int64_t t = 0; t < d->view.tokens; t++) {
        int32_t id = 0;
        decode(d->view.code, d->bin + t * d->view.token_bytes, 1, &id);
        if (id >= 0 && id < vocab_size)
            continue;
        const int64_t document = ds_indexed_document_of(d, t);
        return ds_fail(DS_INVALID,
                       "%s: token %lld (document %lld, position %lld) is id %d; the vocabulary has "
                       "ids 0 to %lld: was it tokenized with another vocabulary?",
                       d->path, (long long)t, (long long)document,
                       (long long)(t - document_start(&d->view, document)), id,
                       (long long)vocab_size - 1);
    }
    return DS_OK;
}

ds_status ds_indexed_check_vocab(ds_indexed *d, int64_t vocab_size) {
    if (d->id_limit == 0) {
        const int64_t greatest = greatest_id(d);
        if (greatest < 0)
            return refuse_id(d, vocab_size);
        d->id_limit = greatest + 1;
    }
    if (d->view.tokens == 0 || d->id_limit <= vocab_size)
        return DS_OK;
    return refuse_id(d, vocab_size);
}
