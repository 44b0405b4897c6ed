/* The container: header, values, table of tensors. Integers are read byte-wise (the file aligns
 * nothing before the data), each through one function that knows how much is left. */
#include "base/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

enum { NAME_LIMIT = 65535, VALUE_LIMIT = 4096 }; /* files have some dozens of values */

/* Kinds of values, as the file numbers them. */
typedef enum kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    BOOL,
    STRING,
    ARRAY,
    U64,
    I64,
    F64,
    KINDS
} kind;

static const unsigned char kind_bytes[KINDS] = {
    [U8] = 1,  [I8] = 1,   [U16] = 2, [I16] = 2, [U32] = 4, [I32] = 4,
    [F32] = 4, [BOOL] = 1, [U64] = 8, [I64] = 8, [F64] = 8,
};

typedef struct value {
    const char *key;
    uint32_t kind, item_kind; /* of the items of an array */
    size_t n;                 /* items of an array; bytes of a string */
    const unsigned char *data;
} value;

struct ds_gguf {
    ds_arena *arena;
    const char *path;
    ds_mapped file; /* empty when the memory is the caller's */
    value *values;
    size_t n_values, value_capacity;
    ds_gguf_tensor *tensors; /* sorted by name */
    size_t n_tensors, tensor_capacity;
};

/* ---- reading bytes --------------------------------------------------------------------------- */

typedef struct reader {
    ds_gguf *g;
    const unsigned char *data;
    size_t size, at;
} reader;

static ds_status too_short(const reader *r, const char *what) {
    return ds_fail(DS_CORRUPT, "%s: ends at byte %zu inside %s", r->g->path, r->size, what);
}

static ds_status take(reader *r, void *out, size_t n, const char *what) {
    if (n > r->size - r->at)
        return too_short(r, what);
    memcpy(out, r->data + r->at, n);
    r->at += n;
    return DS_OK;
}

/* A length and as many bytes. */
static ds_status take_string(reader *r, const char **out, size_t *length, const char *what) {
    uint64_t n = 0;
    DS_TRY(take(r, &n, sizeof n, what));
    if (n > r->size - r->at)
        return too_short(r, what);
    *out = (const char *)r->data + r->at;
    *length = (size_t)n;
    r->at += (size_t)n;
    return DS_OK;
}

/* A name, as a zero-terminated copy. */
static ds_status take_name(reader *r, const char **out, const char *what) {
    const char *bytes = NULL;
    size_t n = 0;
    DS_TRY(take_string(r, &bytes, &n, what));
    if (n == 0 || n > NAME_LIMIT || memchr(bytes, 0, n) || ds_utf8_valid(bytes, n) != n)
        return ds_fail(DS_CORRUPT, "%s: %s before byte %zu is no name", r->g->path, what, r->at);
    char *copy = ds_arena_alloc(r->g->arena, n + 1);
    if (!copy)
        return DS_OUT_OF_MEMORY;
    memcpy(copy, bytes, n);
    *out = copy;
    return DS_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

static ds_status skip_strings(reader *r, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++) {
        const char *bytes = NULL;
        size_t length = 0;
        DS_TRY(take_string(r, &bytes, &length, key));
    }
    return DS_OK;
}

static ds_status take_array(reader *r, value *v) {
    uint64_t n = 0;
    DS_TRY(take(r, &v->item_kind, sizeof v->item_kind, v->key));
    DS_TRY(take(r, &n, sizeof n, v->key));
    if (v->item_kind >= KINDS || v->item_kind == ARRAY)
        return ds_fail(DS_UNSUPPORTED, "%s: \"%s\" is a list of the kind %u, which is not known",
                       r->g->path, v->key, v->item_kind);
    v->data = r->data + r->at;
    v->n = (size_t)n;
    const size_t least = v->item_kind == STRING ? 8 : kind_bytes[v->item_kind];
    if (n > (r->size - r->at) / least)
        return too_short(r, v->key);
    if (v->item_kind == STRING)
        return skip_strings(r, v->n, v->key);
    r->at += v->n * least;
    return DS_OK;
}

static ds_status take_value(reader *r) {
    ds_gguf *g = r->g;
    value v = {0};
    DS_TRY(take_name(r, &v.key, "a key"));
    DS_TRY(take(r, &v.kind, sizeof v.kind, v.key));
    if (v.kind >= KINDS)
        return ds_fail(DS_UNSUPPORTED, "%s: \"%s\" is of the kind %u, which is not known", g->path,
                       v.key, v.kind);
    if (ds_gguf_has(g, v.key))
        return ds_fail(DS_CORRUPT, "%s: the key \"%s\" is there twice", g->path, v.key);
    if (v.kind == ARRAY) {
        DS_TRY(take_array(r, &v));
    } else if (v.kind == STRING) {
        const char *bytes = NULL;
        DS_TRY(take_string(r, &bytes, &v.n, v.key));
        char *copy = ds_arena_alloc(g->arena, v.n + 1);
        if (!copy)
            return DS_OUT_OF_MEMORY;
        memcpy(copy, bytes, v.n);
        v.data = (const unsigned char *)copy;
    } else {
        v.data = r->data + r->at;
        v.n = 1;
        if (kind_bytes[v.kind] > r->size - r->at)
            return too_short(r, v.key);
        r->at += kind_bytes[v.kind];
    }
    value *grown = ds_grow(g->values, &g->value_capacity, g->n_values + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    g->values = grown;
    g->values[g->n_values++] = v;
    return DS_OK;
}

static const value *find_value(const ds_gguf *g, const char *key) {
    for (size_t i = 0; i < g->n_values; i++)
        if (strcmp(g->values[i].key, key) == 0)
            return &g->values[i];
    return NULL;
}

bool ds_gguf_has(const ds_gguf *g, const char *key) {
    return find_value(g, key) != NULL;
}

#define READ_AS(type, at)                                                                          \
    do {                                                                                           \
        type x_;                                                                                   \
        memcpy(&x_, at, sizeof x_);                                                                \
        return (double)x_;                                                                         \
    } while (0)

static double number_at(uint32_t which, const unsigned char *at) {
    switch (which) {
    case U8: READ_AS(uint8_t, at);
    case BOOL: return *at != 0;
    case I8: READ_AS(int8_t, at);
    case U16: READ_AS(uint16_t, at);
    case I16: READ_AS(int16_t, at);
    case U32: READ_AS(uint32_t, at);
    case I32: READ_AS(int32_t, at);
    case U64: READ_AS(uint64_t, at);
    case I64: READ_AS(int64_t, at);
    case F32: READ_AS(float, at);
    case F64: READ_AS(double, at);
    default: return 0;
    }
}

bool ds_gguf_integer(const ds_gguf *g, const char *key, int64_t *out) {
    const value *v = find_value(g, key);
    if (!v || v->kind == STRING || v->kind == ARRAY || v->kind == F32 || v->kind == F64)
        return false;
    const double x = number_at(v->kind, v->data); /* exact up to 2^53, far above any size */
    if (!(x >= -9007199254740992.0 && x <= 9007199254740992.0))
        return false;
    *out = (int64_t)x;
    return true;
}

bool ds_gguf_real(const ds_gguf *g, const char *key, float *out) {
    const value *v = find_value(g, key);
    if (!v || v->kind == STRING || v->kind == ARRAY || v->kind == BOOL)
        return false;
    *out = (float)number_at(v->kind, v->data);
    return true;
}

const char *ds_gguf_text(const ds_gguf *g, const char *key) {
    const value *v = find_value(g, key);
    return v && v->kind == STRING ? (const char *)v->data : NULL;
}

bool ds_gguf_list_strings(const ds_gguf *g, const char *key, ds_gguf_strings *out) {
    const value *v = find_value(g, key);
    if (!v || v->kind != ARRAY || v->item_kind != STRING)
        return false;
    *out = (ds_gguf_strings){.n = v->n, .at = v->data};
    return true;
}

bool ds_gguf_list_numbers(const ds_gguf *g, const char *key, ds_gguf_numbers *out) {
    const value *v = find_value(g, key);
    if (!v || v->kind != ARRAY || v->item_kind == STRING)
        return false;
    *out = (ds_gguf_numbers){.n = v->n, .kind = v->item_kind, .data = v->data};
    return true;
}

const char *ds_gguf_next_string(ds_gguf_strings *list, size_t *length) {
    uint64_t n = 0;
    memcpy(&n, list->at, sizeof n); /* checked when the file was opened */
    const char *text = (const char *)list->at + sizeof n;
    *length = (size_t)n;
    list->at += sizeof n + (size_t)n;
    return text;
}

double ds_gguf_number(const ds_gguf_numbers *list, size_t i) {
    return number_at(list->kind, list->data + i * kind_bytes[list->kind]);
}

/* ---- tensors --------------------------------------------------------------------------------- */

static ds_status take_dims(reader *r, ds_gguf_tensor *t, uint64_t *elements) {
    uint32_t rank = 0;
    DS_TRY(take(r, &rank, sizeof rank, t->name));
    if (rank < 1 || rank > DS_MAX_RANK)
        return ds_fail(DS_CORRUPT, "%s: %s: %u axes are not in 1 … %d", r->g->path, t->name, rank,
                       DS_MAX_RANK);
    t->rank = (int)rank;
    *elements = 1;
    for (int i = t->rank - 1; i >= 0; i--) { /* the file lists the fastest axis first */
        uint64_t dim = 0;
        DS_TRY(take(r, &dim, sizeof dim, t->name));
        if (dim < 1 || dim > INT32_MAX || __builtin_mul_overflow(*elements, dim, elements))
            return ds_fail(DS_CORRUPT, "%s: %s: an axis of %llu is not a possible size", r->g->path,
                           t->name, (unsigned long long)dim);
        t->dims[i] = (int64_t)dim;
    }
    return DS_OK;
}

/* The place within the data is kept in t->data until the data's own place is known. */
static ds_status take_tensor(reader *r, uint64_t *place) {
    ds_gguf *g = r->g;
    ds_gguf_tensor t = {0};
    uint64_t elements = 0, bytes = 0;
    uint32_t type = 0;
    DS_TRY(take_name(r, &t.name, "a tensor's name"));
    DS_TRY(take_dims(r, &t, &elements));
    DS_TRY(take(r, &type, sizeof type, t.name));
    DS_TRY(take(r, place, sizeof *place, t.name));
    t.type = ds_gguf_type_of(type);
    if (!t.type)
        return ds_fail(DS_UNSUPPORTED, "%s: %s: there is no type with the number %u", g->path,
                       t.name, type);
    if (t.dims[t.rank - 1] % t.type->block != 0)
        return ds_fail(DS_CORRUPT, "%s: %s: rows of %lld are not whole blocks of %s", g->path,
                       t.name, (long long)t.dims[t.rank - 1], t.type->name);
    if (__builtin_mul_overflow(elements / t.type->block, (uint64_t)t.type->block_bytes, &bytes))
        return ds_fail(DS_CORRUPT, "%s: %s: its size is impossible", g->path, t.name);
    t.size_bytes = (size_t)bytes;
    ds_gguf_tensor *grown =
        ds_grow(g->tensors, &g->tensor_capacity, g->n_tensors + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    g->tensors = grown;
    g->tensors[g->n_tensors++] = t;
    return DS_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ds_gguf_tensor *)a)->name, ((const ds_gguf_tensor *)b)->name);
}

static ds_status place_tensors(reader *r, const uint64_t *places) {
    ds_gguf *g = r->g;
    int64_t alignment = 32;
    (void)ds_gguf_integer(g, "general.alignment", &alignment);
    if (alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1)) != 0)
        return ds_fail(DS_CORRUPT, "%s: an alignment of %lld is no power of two", g->path,
                       (long long)alignment);
    const size_t begin = (r->at + (size_t)alignment - 1) & ~((size_t)alignment - 1);
    const size_t room = begin < r->size ? r->size - begin : 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        ds_gguf_tensor *t = &g->tensors[i];
        if (places[i] % (uint64_t)alignment != 0 || places[i] > room ||
            t->size_bytes > room - (size_t)places[i])
            return ds_fail(DS_CORRUPT,
                           "%s: %s: %zu bytes at %llu are not inside the file's %zu bytes of data",
                           g->path, t->name, t->size_bytes, (unsigned long long)places[i], room);
        t->data = r->data + begin + (size_t)places[i];
    }
    if (g->n_tensors > 1)
        qsort(g->tensors, g->n_tensors, sizeof *g->tensors, by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (strcmp(g->tensors[i - 1].name, g->tensors[i].name) == 0)
            return ds_fail(DS_CORRUPT, "%s: the tensor \"%s\" is there twice", g->path,
                           g->tensors[i].name);
    return DS_OK;
}

size_t ds_gguf_count(const ds_gguf *g) {
    return g->n_tensors;
}

const ds_gguf_tensor *ds_gguf_at(const ds_gguf *g, size_t i) {
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const ds_gguf_tensor *ds_gguf_find(const ds_gguf *g, const char *name) {
    const ds_gguf_tensor wanted = {.name = name};
    return g->n_tensors > 0
               ? bsearch(&wanted, g->tensors, g->n_tensors, sizeof *g->tensors, by_name)
               : NULL;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static ds_status take_version(reader *r) {
    unsigned char magic[4] = {0};
    uint32_t version = 0;
    DS_TRY(take(r, magic, sizeof magic, "its first bytes"));
    if (memcmp(magic, "GGUF", 4) != 0)
        return ds_fail(DS_CORRUPT, "%s: is no GGUF file: it does not begin with \"GGUF\"",
                       r->g->path);
    DS_TRY(take(r, &version, sizeof version, "its version"));
    if (version >= 1 << 16)
        return ds_fail(DS_UNSUPPORTED, "%s: is written for big-endian machines", r->g->path);
    if (version != 2 && version != 3)
        return ds_fail(DS_UNSUPPORTED, "%s: version %u of GGUF is not supported; 2 and 3 are",
                       r->g->path, version);
    return DS_OK;
}

static ds_status parse(reader *r) {
    uint64_t n_tensors = 0, n_values = 0;
    DS_TRY(take_version(r));
    DS_TRY(take(r, &n_tensors, sizeof n_tensors, "its header"));
    DS_TRY(take(r, &n_values, sizeof n_values, "its header"));
    /* a tensor takes 33 bytes at least */
    if (n_values > VALUE_LIMIT || n_tensors > r->size / 33)
        return ds_fail(DS_CORRUPT, "%s: %llu values and %llu tensors in %zu bytes are not possible",
                       r->g->path, (unsigned long long)n_values, (unsigned long long)n_tensors,
                       r->size);
    for (uint64_t i = 0; i < n_values; i++)
        DS_TRY(take_value(r));
    uint64_t *places = ds_calloc((size_t)n_tensors + 1, sizeof *places);
    ds_status status = places ? DS_OK : DS_OUT_OF_MEMORY;
    for (uint64_t i = 0; i < n_tensors && status == DS_OK; i++)
        status = take_tensor(r, &places[i]);
    if (status == DS_OK)
        status = place_tensors(r, places);
    free(places);
    return status;
}

ds_status ds_gguf_parse(const unsigned char *data, size_t size, const char *path, ds_gguf **out) {
    *out = NULL;
    ds_gguf *g = ds_calloc(1, sizeof *g);
    if (!g)
        return DS_OUT_OF_MEMORY;
    g->arena = ds_arena_new();
    g->path = g->arena ? ds_arena_strdup(g->arena, path) : NULL;
    ds_status status = g->path ? DS_OK : DS_OUT_OF_MEMORY;
    reader r = {.g = g, .data = data, .size = size};
    if (status == DS_OK)
        status = parse(&r);
    if (status != DS_OK) {
        ds_gguf_close(g);
        return status;
    }
    *out = g;
    return DS_OK;
}

ds_status ds_gguf_open(const char *path, ds_gguf **out) {
    ds_mapped file;
    *out = NULL;
    DS_TRY(ds_file_map(path, &file));
    const ds_status status =
        ds_gguf_parse(file.data ? file.data : (const unsigned char *)"", file.size, path, out);
    if (status == DS_OK)
        (*out)->file = file;
    else
        ds_file_unmap(&file);
    return status;
}

void ds_gguf_close(ds_gguf *g) {
    if (!g)
        return;
    ds_file_unmap(&g->file);
    free(g->values);
    free(g->tensors);
    ds_arena_free(g->arena);
    free(g);
}

const char *ds_gguf_path(const ds_gguf *g) {
    return g->path;
}

bool ds_gguf_is(const char *path) {
    const char *dot = strrchr(path, '.');
    if (ds_folder_exists(path))
        return false;
    if (dot && strcmp(dot, ".gguf") == 0)
        return true;
    unsigned char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    const bool is = f && fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (f)
        fclose(f);
    return is;
}
