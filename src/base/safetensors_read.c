/* Reads safetensors files by mapping them. The header comes from anywhere, so it is believed only
 * after all of it was checked: its JSON, each tensor's type × shape against its byte range, and
 * that the ranges, sorted, tile the data exactly. Then a tensor is a pointer. */
#include "base/safetensors.h"

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

const ds_safetensors_type ds_safetensors_types[] = {
    {"BOOL", DS_U8, 8},        {"U8", DS_U8, 8},          {"I8", DS_I8, 8},
    {"F8_E5M2", DS_DTYPES, 8}, {"F8_E4M3", DS_DTYPES, 8}, {"F8_E8M0", DS_DTYPES, 8},
    {"I16", DS_DTYPES, 16},    {"U16", DS_DTYPES, 16},    {"F16", DS_F16, 16},
    {"BF16", DS_BF16, 16},     {"I32", DS_I32, 32},       {"U32", DS_DTYPES, 32},
    {"F32", DS_F32, 32},       {"C64", DS_DTYPES, 64},    {"F64", DS_DTYPES, 64},
    {"I64", DS_I64, 64},       {"U64", DS_DTYPES, 64},
};
const size_t ds_safetensors_n_types = sizeof ds_safetensors_types / sizeof ds_safetensors_types[0];

typedef struct shard {
    const char *path;
    ds_mapped file;   /* empty when the memory is the caller's */
    json_t *metadata; /* an object, or NULL */
} shard;

struct ds_safetensors {
    ds_arena *arena; /* names, paths */
    shard *shards;
    size_t n_shards, shards_capacity;
    ds_safetensor *tensors; /* shard by shard, in the order of the data */
    size_t n_tensors, tensors_capacity;
    const ds_safetensor **by_name; /* [n_tensors] */
};

static ds_status parse_dims(const json_t *shape, const char *path, ds_safetensor *t,
                            size_t *elements) {
    if (!json_is_array(shape))
        return ds_fail(DS_CORRUPT, "%s: %s: no \"shape\" list", path, t->name);
    if (json_array_size(shape) > DS_MAX_RANK)
        return ds_fail(DS_UNSUPPORTED, "%s: %s: %zu axes; at most %d are supported", path, t->name,
                       json_array_size(shape), DS_MAX_RANK);
    t->rank = (int)json_array_size(shape);
    *elements = 1;
    for (int i = 0; i < t->rank; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        t->dims[i] = json_is_integer(dim) ? (int64_t)json_integer_value(dim) : -1;
        if (t->dims[i] < 0 || __builtin_mul_overflow(*elements, (size_t)t->dims[i], elements))
            return ds_fail(DS_CORRUPT, "%s: %s: axis %d of its shape is not a possible size", path,
                           t->name, i);
    }
    return DS_OK;
}

static ds_status parse_dtype(const json_t *dtype, const char *path, ds_safetensor *t, int *bits) {
    const char *name = json_string_value(dtype);
    for (size_t i = 0; name && i < ds_safetensors_n_types; i++) {
        if (strcmp(name, ds_safetensors_types[i].name) != 0)
            continue;
        t->dtype_name = ds_safetensors_types[i].name;
        t->dtype = ds_safetensors_types[i].dtype;
        *bits = ds_safetensors_types[i].bits;
        return DS_OK;
    }
    return ds_fail(DS_CORRUPT, "%s: %s: unknown \"dtype\" %s", path, t->name, name ? name : "");
}

/* Data of a file: size bytes at data. */
typedef struct data_range {
    const unsigned char *data;
    size_t size;
} data_range;

static ds_status parse_tensor(const json_t *value, const char *path, data_range room,
                              ds_safetensor *t) {
    int bits = 0;
    size_t elements = 0, bytes = 0;
    DS_TRY(parse_dtype(json_object_get(value, "dtype"), path, t, &bits));
    DS_TRY(parse_dims(json_object_get(value, "shape"), path, t, &elements));
    const json_t *offsets = json_object_get(value, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return ds_fail(DS_CORRUPT, "%s: %s: \"data_offsets\" is not a pair of integers", path,
                       t->name);
    const json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > room.size)
        return ds_fail(DS_CORRUPT, "%s: %s: bytes [%lld, %lld) are not inside its %zu data bytes",
                       path, t->name, (long long)from, (long long)to, room.size);
    if (__builtin_mul_overflow(elements, (size_t)bits / 8, &bytes) || bytes != (size_t)(to - from))
        return ds_fail(DS_CORRUPT, "%s: %s: %zu elements of %s do not fill bytes [%lld, %lld)",
                       path, t->name, elements, t->dtype_name, (long long)from, (long long)to);
    t->data = room.data + from;
    t->size_bytes = bytes;
    return DS_OK;
}

static int by_place(const void *a, const void *b) {
    const ds_safetensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->size_bytes != y->size_bytes) /* empty ones first */
        return x->size_bytes < y->size_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The sorted ranges must tile the data: then they neither overlap nor leave a gap. */
static ds_status check_tiling(ds_safetensor *tensors, size_t n, const char *path, data_range room) {
    qsort(tensors, n, sizeof *tensors, by_place);
    const unsigned char *at = room.data;
    for (size_t i = 0; i < n; i++) {
        const unsigned char *data = tensors[i].data;
        if (data != at)
            return ds_fail(DS_CORRUPT, "%s: %s starts at data byte %zu; %s %zu", path,
                           tensors[i].name, (size_t)(data - room.data),
                           data < at ? "it overlaps the one before it, which ends at"
                                     : "there is a gap after byte",
                           (size_t)(at - room.data));
        at += tensors[i].size_bytes;
    }
    if (at != room.data + room.size)
        return ds_fail(DS_CORRUPT, "%s: the tensors end at data byte %zu of %zu", path,
                       (size_t)(at - room.data), room.size);
    return DS_OK;
}

static ds_status check_metadata(json_t *metadata, const char *path) {
    const char *key;
    json_t *value;
    if (metadata && !json_is_object(metadata))
        return ds_fail(DS_CORRUPT, "%s: \"__metadata__\" is not an object", path);
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return ds_fail(DS_CORRUPT, "%s: metadata \"%s\" is not a string", path, key);
    }
    return DS_OK;
}

/* Adds the tensors that the header lists. */
static ds_status add_tensors(ds_safetensors *f, json_t *header, const char *path, data_range room) {
    const size_t first = f->n_tensors;
    const char *key;
    json_t *value;
    json_object_foreach(header, key, value) {
        if (strcmp(key, "__metadata__") == 0)
            continue;
        ds_safetensor *tensors =
            ds_grow(f->tensors, &f->tensors_capacity, f->n_tensors + 1, sizeof *tensors);
        if (!tensors)
            return DS_OUT_OF_MEMORY;
        f->tensors = tensors;
        ds_safetensor *t = &tensors[f->n_tensors];
        *t = (ds_safetensor){.name = ds_arena_strdup(f->arena, key), .path = path};
        if (!t->name)
            return DS_OUT_OF_MEMORY;
        DS_TRY(parse_tensor(value, path, room, t));
        f->n_tensors++;
    }
    if (f->n_tensors == first)
        return room.size == 0
                   ? DS_OK
                   : ds_fail(DS_CORRUPT, "%s: %zu data bytes and no tensor", path, room.size);
    return check_tiling(f->tensors + first, f->n_tensors - first, path, room);
}

static ds_status parse_header(const unsigned char *data, size_t size, const char *path,
                              json_t **header, size_t *header_size) {
    if (size < 8)
        return ds_fail(DS_CORRUPT, "%s: %zu bytes; a safetensors file has at least 8", path, size);
    uint64_t length = 0;
    for (int byte = 7; byte >= 0; byte--)
        length = length << 8 | data[byte];
    if (length > DS_SAFETENSORS_HEADER_LIMIT)
        return ds_fail(DS_CORRUPT, "%s: a header of %llu bytes: not a safetensors file", path,
                       (unsigned long long)length);
    if (length > size - 8)
        return ds_fail(DS_CORRUPT, "%s: its header has %llu bytes, the file only %zu: cut short",
                       path, (unsigned long long)length, size);
    json_error_t error;
    *header = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!*header)
        return ds_fail(DS_CORRUPT, "%s: header is not JSON: %s (byte %d)", path, error.text,
                       error.position);
    if (!json_is_object(*header)) {
        json_decref(*header);
        return ds_fail(DS_CORRUPT, "%s: header is not a JSON object", path);
    }
    *header_size = (size_t)length;
    return DS_OK;
}

/* Adds one file's bytes as a shard; owned is what has to be unmapped at the end. On failure the
 * mapping is the shard's already. */
static ds_status add_shard(ds_safetensors *f, const char *path, const unsigned char *data,
                           size_t size, ds_mapped owned) {
    shard *shards = ds_grow(f->shards, &f->shards_capacity, f->n_shards + 1, sizeof *shards);
    if (!shards) {
        ds_file_unmap(&owned);
        return DS_OUT_OF_MEMORY;
    }
    f->shards = shards;
    shard *s = &shards[f->n_shards++];
    *s = (shard){.path = ds_arena_strdup(f->arena, path), .file = owned};
    if (!s->path)
        return DS_OUT_OF_MEMORY;
    json_t *header = NULL;
    size_t header_size = 0;
    DS_TRY(parse_header(data, size, path, &header, &header_size));
    s->metadata = json_incref(json_object_get(header, "__metadata__"));
    ds_status status = check_metadata(s->metadata, path);
    if (status == DS_OK) {
        const size_t data_at = 8 + header_size;
        status = add_tensors(f, header, s->path, (data_range){data + data_at, size - data_at});
    }
    json_decref(header);
    return status;
}

static ds_status add_file(ds_safetensors *f, const char *path) {
    ds_mapped file = {0};
    DS_TRY(ds_file_map(path, &file));
    return add_shard(f, path, file.data, file.size, file);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const ds_safetensor *const *)a)->name,
                  (*(const ds_safetensor *const *)b)->name);
}

static ds_status sort_names(ds_safetensors *f) {
    f->by_name = ds_malloc(f->n_tensors * sizeof *f->by_name);
    if (!f->by_name)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < f->n_tensors; i++)
        f->by_name[i] = &f->tensors[i];
    qsort(f->by_name, f->n_tensors, sizeof *f->by_name, by_name);
    return DS_OK;
}

/* Maps the shard of this name once, whichever tensor asks for it first. */
static ds_status need_shard(ds_safetensors *f, const char *index_path, const char *name) {
    char path[PATH_MAX];
    if (!*name || strchr(name, '/') || strcmp(name, "..") == 0)
        return ds_fail(DS_CORRUPT, "%s: shard \"%s\" is not a plain file name", index_path, name);
    const char *slash = strrchr(index_path, '/');
    const int folder = slash ? (int)(slash - index_path) + 1 : 0;
    if (snprintf(path, sizeof path, "%.*s%s", folder, index_path, name) >= (int)sizeof path)
        return ds_fail(DS_INVALID, "%s: path too long", index_path);
    for (size_t i = f->n_shards; i-- > 0;)
        if (strcmp(f->shards[i].path, path) == 0)
            return DS_OK;
    return add_file(f, path);
}

/* Keeps the tensors that the index assigns to the shard they lie in, and finds that none lacks. */
static ds_status keep_mapped(ds_safetensors *f, const json_t *map, const char *index_path) {
    size_t kept = 0;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const ds_safetensor *t = &f->tensors[i];
        const char *slash = strrchr(t->path, '/');
        const char *file = json_string_value(json_object_get(map, t->name));
        if (file && strcmp(file, slash ? slash + 1 : t->path) == 0)
            f->tensors[kept++] = *t;
    }
    f->n_tensors = kept;
    DS_TRY(sort_names(f));
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, name, value) {
        const ds_safetensor wanted = {.name = name}, *key = &wanted;
        if (!bsearch(&key, f->by_name, f->n_tensors, sizeof *f->by_name, by_name))
            return ds_fail(DS_CORRUPT, "%s: %s is not in %s, where the index puts it", index_path,
                           name, json_string_value(value));
    }
    return DS_OK;
}

static ds_status add_index(ds_safetensors *f, const char *path) {
    char *text = NULL;
    size_t size = 0;
    DS_TRY(ds_file_read(path, DS_SAFETENSORS_HEADER_LIMIT, &text, &size));
    json_error_t error;
    json_t *index = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!index)
        return ds_fail(DS_CORRUPT, "%s:%d: not JSON: %s", path, error.line, error.text);
    json_t *map = json_object_get(index, "weight_map");
    ds_status status =
        json_is_object(map) ? DS_OK : ds_fail(DS_CORRUPT, "%s: no \"weight_map\" object", path);
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        if (status != DS_OK)
            break;
        status = json_is_string(value)
                     ? need_shard(f, path, json_string_value(value))
                     : ds_fail(DS_CORRUPT, "%s: %s: its shard is not a string", path, name);
    }
    if (status == DS_OK)
        status = keep_mapped(f, map, path);
    json_decref(index);
    return status;
}

static ds_status open_path(ds_safetensors *f, const char *path) {
    char file[PATH_MAX], index[PATH_MAX + 16];
    const char *inside = ds_folder_exists(path) ? "/model.safetensors" : "";
    if (snprintf(file, sizeof file, "%s%s", path, inside) >= (int)sizeof file)
        return ds_fail(DS_INVALID, "%s: path too long", path);
    if (ds_ends_with(file, ".index.json"))
        return add_index(f, file);
    snprintf(index, sizeof index, "%s.index.json", file);
    if (!ds_file_exists(file) && ds_file_exists(index))
        return add_index(f, index);
    DS_TRY(add_file(f, file));
    return sort_names(f);
}

static ds_safetensors *collection_new(void) {
    ds_safetensors *f = ds_calloc(1, sizeof *f);
    if (f && !(f->arena = ds_arena_new())) {
        free(f);
        f = NULL;
    }
    return f;
}

ds_status ds_safetensors_open(const char *path, ds_safetensors **out) {
    *out = NULL;
    ds_safetensors *f = collection_new();
    if (!f)
        return DS_OUT_OF_MEMORY;
    const ds_status status = open_path(f, path);
    if (status != DS_OK) {
        ds_safetensors_close(f);
        return status;
    }
    *out = f;
    return DS_OK;
}

ds_status ds_safetensors_from_memory(const unsigned char *data, size_t size, const char *path,
                                     ds_safetensors **out) {
    *out = NULL;
    ds_safetensors *f = collection_new();
    if (!f)
        return DS_OUT_OF_MEMORY;
    ds_status status = add_shard(f, path, data, size, (ds_mapped){0});
    if (status == DS_OK)
        status = sort_names(f);
    if (status != DS_OK) {
        ds_safetensors_close(f);
        return status;
    }
    *out = f;
    return DS_OK;
}

void ds_safetensors_close(ds_safetensors *f) {
    if (!f)
        return;
    for (size_t i = 0; i < f->n_shards; i++) {
        ds_file_unmap(&f->shards[i].file);
        json_decref(f->shards[i].metadata);
    }
    free(f->shards);
    free(f->tensors);
    free(f->by_name);
    ds_arena_free(f->arena);
    free(f);
}

size_t ds_safetensors_count(const ds_safetensors *f) {
    return f->n_tensors;
}

const ds_safetensor *ds_safetensors_at(const ds_safetensors *f, size_t i) {
    return i < f->n_tensors ? &f->tensors[i] : NULL;
}

static ds_status not_found(const ds_safetensors *f, const char *name) {
    const char *path = f->n_shards == 1 ? f->shards[0].path : "the shards";
    const char **names = ds_malloc(f->n_tensors * sizeof *names);
    for (size_t i = 0; names && i < f->n_tensors; i++)
        names[i] = f->tensors[i].name;
    const char *near = names ? ds_nearest_name(name, names, f->n_tensors) : NULL;
    free(names);
    return ds_fail(DS_NOT_FOUND, "%s: no tensor %s%s%s%s", path, name,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static const ds_safetensor *search(const ds_safetensors *f, const char *name) {
    const ds_safetensor wanted = {.name = name}, *key = &wanted;
    const ds_safetensor *const *found =
        bsearch(&key, f->by_name, f->n_tensors, sizeof *f->by_name, by_name);
    return found ? *found : NULL;
}

const ds_safetensor *ds_safetensors_look_up(const ds_safetensors *f, const char *name) {
    const ds_safetensor *t = search(f, name);
    return t && t->dtype != DS_DTYPES ? t : NULL;
}

ds_status ds_safetensors_find(const ds_safetensors *f, const char *name,
                              const ds_safetensor **out) {
    *out = NULL;
    const ds_safetensor *t = search(f, name);
    if (!t)
        return not_found(f, name);
    if (t->dtype == DS_DTYPES)
        return ds_fail(DS_UNSUPPORTED, "%s: %s: elements of %s are not supported", t->path, name,
                       t->dtype_name);
    *out = t;
    return DS_OK;
}

const char *ds_safetensors_metadata(const ds_safetensors *f, const char *key) {
    for (size_t i = 0; i < f->n_shards; i++) {
        const char *value = json_string_value(json_object_get(f->shards[i].metadata, key));
        if (value)
            return value;
    }
    return NULL;
}
