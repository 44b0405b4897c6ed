/* Tensors that outlive a run, by name: parameters, gradients, optimizer state, caches. */
#include "program/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/half.h"
#include "base/rng.h"
#include "graph/ops/ops.h"

typedef struct entry {
    ds_state_entry public;
    char *name;
    void *memory;
    size_t size_bytes;
    bool is_borrowed; /* memory is the owner's, and read-only */
} entry;

typedef struct owner {
    void *object;
    void (*release)(void *object);
} owner;

struct ds_state {
    ds_backend *backend;
    entry *entries;
    size_t n, capacity;
    int64_t *slots; /* open addressing by name: index into entries, or -1 */
    size_t n_slots;
    ds_derived **derived;
    size_t n_derived, derived_capacity;
    owner *owners;
    size_t n_owners, owners_capacity;
    bool is_read_only, int8_inputs;
    uint64_t version;
};

ds_status ds_state_new(ds_backend *backend, ds_state **out) {
    ds_state *state = ds_calloc(1, sizeof *state);
    if (!state)
        return DS_OUT_OF_MEMORY;
    state->backend = backend;
    state->version = 1;
    *out = state;
    return DS_OK;
}

void ds_state_free(ds_state *state) {
    if (!state)
        return;
    ds_backend *b = state->backend;
    for (size_t i = 0; i < state->n; i++) {
        if (state->entries[i].memory && !state->entries[i].is_borrowed)
            b->ops->release(b, DS_SPACE_DEVICE, state->entries[i].memory,
                            state->entries[i].size_bytes);
        free(state->entries[i].name);
    }
    for (size_t i = 0; i < state->n_derived; i++) {
        b->ops->release(b, DS_SPACE_DEVICE, state->derived[i]->memory,
                        state->derived[i]->size_bytes);
        free(state->derived[i]);
    }
    for (size_t i = 0; i < state->n_owners; i++)
        state->owners[i].release(state->owners[i].object);
    free(state->owners);
    free(state->derived);
    free(state->entries);
    free(state->slots);
    free(state);
}

ds_backend *ds_state_backend(const ds_state *state) {
    return state->backend;
}

static size_t slot_of(const ds_state *state, const char *name) {
    size_t i = (size_t)ds_hash_name(name) & (state->n_slots - 1);
    while (state->slots[i] >= 0 && strcmp(state->entries[state->slots[i]].name, name) != 0)
        i = (i + 1) & (state->n_slots - 1);
    return i;
}

int64_t ds_state_find(const ds_state *state, const char *name) {
    return state->n_slots ? state->slots[slot_of(state, name)] : -1;
}

static ds_status make_slots(ds_state *state) {
    const size_t n_slots = state->n_slots ? state->n_slots * 2 : 64;
    int64_t *slots = ds_malloc(n_slots * sizeof *slots);
    if (!slots)
        return DS_OUT_OF_MEMORY;
    free(state->slots);
    state->slots = slots;
    state->n_slots = n_slots;
    for (size_t i = 0; i < n_slots; i++)
        slots[i] = -1;
    for (size_t i = 0; i < state->n; i++)
        slots[slot_of(state, state->entries[i].name)] = (int64_t)i;
    return DS_OK;
}

size_t ds_state_entry_size(const ds_state_entry *e) {
    return ds_dtype_size(e->dtype) * (size_t)ds_count(e->dims, e->rank);
}

static ds_status add_entry(ds_state *state, const ds_node *leaf, ds_dtype dtype) {
    entry *entries = ds_grow(state->entries, &state->capacity, state->n + 1, sizeof *entries);
    if (!entries)
        return DS_OUT_OF_MEMORY;
    state->entries = entries;
    if (2 * (state->n + 1) > state->n_slots)
        DS_TRY(make_slots(state));
    entry e = {.name = ds_strdup(leaf->name)};
    if (!e.name)
        return DS_OUT_OF_MEMORY;
    e.public = (ds_state_entry){.name = e.name,
                                .dtype = dtype,
                                .rank = leaf->type.rank,
                                .init = leaf->init,
                                .is_param = leaf->op == &ds_op_param};
    memcpy(e.public.dims, leaf->type.dims, sizeof e.public.dims);
    e.size_bytes = ds_state_entry_size(&e.public);
    state->entries[state->n] = e;
    state->slots[slot_of(state, e.name)] = (int64_t)state->n++;
    return DS_OK;
}

ds_status ds_state_declare(ds_state *state, const ds_graph *g) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        const ds_node *leaf = g->nodes[i];
        if (leaf->op != &ds_op_param && leaf->op != &ds_op_variable)
            continue;
        const int64_t known = ds_state_find(state, leaf->name);
        if (known < 0) {
            DS_TRY(add_entry(state, leaf, leaf->type.dtype));
            continue;
        }
        const ds_state_entry *e = &state->entries[known].public;
        /* a parameter's own type is the state's to choose */
        const bool is_stored = e->is_param && leaf->op == &ds_op_param;
        const ds_type type = ds_type_of(is_stored ? leaf->type.dtype : e->dtype, e->rank, e->dims);
        char has[96], wants[96];
        if (!ds_type_equal(&type, &leaf->type))
            return ds_fail(DS_INVALID, "\"%s\" is %s in the state, %s in the model", leaf->name,
                           ds_type_text(&type, has, sizeof has),
                           ds_type_text(&leaf->type, wants, sizeof wants));
    }
    return DS_OK;
}

size_t ds_state_count(const ds_state *state) {
    return state->n;
}

const ds_state_entry *ds_state_get(const ds_state *state, size_t i) {
    return i < state->n ? &state->entries[i].public : NULL;
}

void *ds_state_memory(const ds_state *state, size_t i) {
    return state->entries[i].memory;
}

size_t ds_state_size(const ds_state *state) {
    size_t total = 0;
    for (size_t i = 0; i < state->n; i++)
        total += state->entries[i].size_bytes;
    return total;
}

/* ---- first values ---------------------------------------------------------------------------- */

enum { CHUNK = 1 << 20 }; /* elements drawn on the host at a time; a multiple of 4 */

static void draw(const ds_init *init, uint64_t key, int64_t first, int64_t n, float *out) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += 4) {
        const ds_philox_block b = ds_philox(key, (uint64_t)(first + i) / 4, 0);
        float four[4];
        if (init->kind == DS_NORMAL) {
            ds_normal_pair(b.word[0], b.word[1], four);
            ds_normal_pair(b.word[2], b.word[3], four + 2);
        } else {
            for (int k = 0; k < 4; k++)
                four[k] = 2 * ds_uniform(b.word[k]) - 1;
        }
        for (int64_t k = 0; k < 4 && i + k < n; k++)
            out[i + k] = four[k] * init->value;
    }
}

static void convert(ds_dtype dtype, const float *from, int64_t n, void *to) {
    for (int64_t i = 0; i < n; i++)
        switch (dtype) {
        case DS_F32: ((float *)to)[i] = from[i]; break;
        case DS_BF16: ((uint16_t *)to)[i] = ds_f32_to_bf16(from[i]); break;
        case DS_F16: ((uint16_t *)to)[i] = ds_f32_to_f16(from[i]); break;
        case DS_I32: ((int32_t *)to)[i] = (int32_t)from[i]; break;
        case DS_I64: ((int64_t *)to)[i] = (int64_t)from[i]; break;
        default: ((int8_t *)to)[i] = (int8_t)from[i]; break;
        }
}

static ds_status init_entry(ds_state *state, entry *e, uint64_t seed) {
    ds_backend *b = state->backend;
    const ds_init *init = &e->public.init;
    const int64_t n = ds_count(e->public.dims, e->public.rank);
    const int64_t chunk = n < CHUNK ? n : CHUNK;
    float *values = ds_malloc((size_t)chunk * sizeof *values);
    void *converted = ds_malloc((size_t)chunk * ds_dtype_size(e->public.dtype));
    ds_status status = values && converted ? DS_OK : DS_OUT_OF_MEMORY;
    const uint64_t key = ds_mix64(seed ^ ds_mix64(ds_hash_name(e->name)));
    for (int64_t at = 0; at < n && status == DS_OK; at += chunk) {
        const int64_t count = n - at < chunk ? n - at : chunk;
        if (init->kind == DS_FILL)
            for (int64_t i = 0; i < count; i++)
                values[i] = init->value;
        else
            draw(init, key, at, count, values);
        convert(e->public.dtype, values, count, converted);
        const size_t size = ds_dtype_size(e->public.dtype);
        status = b->ops->copy(b, DS_TO_DEVICE, (char *)e->memory + (size_t)at * size, converted,
                              (size_t)count * size, NULL);
        if (status == DS_OK)
            status = b->ops->synchronise(b, NULL);
    }
    free(values);
    free(converted);
    return status;
}

static bool starts_as_zeros(const ds_init *init) {
    return init->kind == DS_FILL && init->value == 0;
}

static ds_status check_writable(const entry *e) {
    if (!e->is_borrowed)
        return DS_OK;
    return ds_fail(DS_INVALID, "\"%s\" lies in the model's own file and cannot be written",
                   e->name);
}

ds_status ds_state_allocate(ds_state *state) {
    ds_backend *b = state->backend;
    for (size_t i = 0; i < state->n; i++) {
        entry *e = &state->entries[i];
        if (e->memory)
            continue;
        DS_TRY(b->ops->alloc(b, DS_SPACE_DEVICE, e->size_bytes, &e->memory)); /* zeroed */
        if (e->public.init.in_parts && b->ops->use_in_parts)
            b->ops->use_in_parts(b, e->memory, e->size_bytes);
        if (e->public.init.kind == DS_FILL && !starts_as_zeros(&e->public.init))
            DS_TRY(init_entry(state, e, 0));
    }
    return DS_OK;
}

ds_status ds_state_init(ds_state *state, uint64_t seed) {
    for (size_t i = 0; i < state->n; i++)
        DS_TRY(check_writable(&state->entries[i]));
    DS_TRY(ds_state_allocate(state));
    for (size_t i = 0; i < state->n; i++)
        DS_TRY(init_entry(state, &state->entries[i], seed));
    ds_state_touch(state);
    return DS_OK;
}

/* ---- reading and writing --------------------------------------------------------------------- */

static ds_status find_entry(const ds_state *state, const char *name, entry **out) {
    const int64_t i = ds_state_find(state, name);
    if (i < 0)
        return ds_fail(DS_NOT_FOUND, "the state has no tensor \"%s\"", name);
    *out = &state->entries[i];
    return DS_OK;
}

static ds_status find_sized(const ds_state *state, const char *name, size_t size_bytes,
                            entry **out) {
    DS_TRY(find_entry(state, name, out));
    if ((*out)->size_bytes != size_bytes)
        return ds_fail(DS_INVALID, "\"%s\" has %zu bytes, not %zu", name, (*out)->size_bytes,
                       size_bytes);
    return DS_OK;
}

/* The entry, if it has these bytes. */
static ds_status find_part(const ds_state *state, const char *name, size_t offset_bytes,
                           size_t size_bytes, entry **out) {
    DS_TRY(find_entry(state, name, out));
    if (offset_bytes > (*out)->size_bytes || size_bytes > (*out)->size_bytes - offset_bytes)
        return ds_fail(DS_INVALID, "\"%s\": bytes [%zu, +%zu) of %zu", name, offset_bytes,
                       size_bytes, (*out)->size_bytes);
    return DS_OK;
}

/* Bytes [offset, +size) of an entry. */
static ds_status read_part(const ds_state *state, const entry *e, size_t offset_bytes, void *data,
                           size_t size_bytes) {
    if (!e->memory)
        return ds_fail(DS_INVALID, "\"%s\" is declared but has no memory yet", e->public.name);
    ds_backend *b = state->backend;
    const char *from = (const char *)e->memory + offset_bytes;
    DS_TRY(b->ops->copy(b, DS_TO_HOST, data, from, size_bytes, NULL));
    return b->ops->synchronise(b, NULL);
}

static ds_status write_part(ds_state *state, const entry *e, size_t offset_bytes, const void *data,
                            size_t size_bytes) {
    DS_TRY(check_writable(e));
    DS_TRY(ds_state_allocate(state));
    ds_backend *b = state->backend;
    char *to = (char *)e->memory + offset_bytes;
    DS_TRY(b->ops->copy(b, DS_TO_DEVICE, to, data, size_bytes, NULL));
    if (e->public.is_param)
        ds_state_touch(state);
    return b->ops->synchronise(b, NULL);
}

ds_status ds_state_read(const ds_state *state, const char *name, void *data, size_t size_bytes) {
    entry *e = NULL;
    DS_TRY(find_sized(state, name, size_bytes, &e));
    return read_part(state, e, 0, data, size_bytes);
}

ds_status ds_state_write(ds_state *state, const char *name, const void *data, size_t size_bytes) {
    entry *e = NULL;
    DS_TRY(find_sized(state, name, size_bytes, &e));
    return write_part(state, e, 0, data, size_bytes);
}

ds_status ds_state_read_at(const ds_state *state, const char *name, size_t offset_bytes, void *data,
                           size_t size_bytes) {
    entry *e = NULL;
    DS_TRY(find_part(state, name, offset_bytes, size_bytes, &e));
    return read_part(state, e, offset_bytes, data, size_bytes);
}

ds_status ds_state_write_at(ds_state *state, const char *name, size_t offset_bytes,
                            const void *data, size_t size_bytes) {
    entry *e = NULL;
    DS_TRY(find_part(state, name, offset_bytes, size_bytes, &e));
    return write_part(state, e, offset_bytes, data, size_bytes);
}

/* ---- parameters as their files have them ----------------------------------------------------- */

ds_status ds_state_declare_stored(ds_state *state, const ds_node *param, ds_dtype dtype) {
    if (ds_state_find(state, param->name) >= 0)
        return ds_fail(DS_INVALID, "\"%s\" is in the state already", param->name);
    state->is_read_only = state->is_read_only || dtype != DS_F32;
    return add_entry(state, param, dtype);
}

ds_status ds_state_declare_tensor(ds_state *state, const char *name, const ds_type *type) {
    const ds_node leaf = {.op = &ds_op_param, .name = name, .type = *type};
    return ds_state_declare_stored(state, &leaf, type->dtype);
}

void ds_state_quantise_inputs(ds_state *state, bool quantise) {
    state->int8_inputs = quantise;
}

/* The entry NAME + suffix, NULL if there is none. */
static const ds_state_entry *find_beside(const ds_state *state, const char *param,
                                         const char *suffix) {
    char name[512];
    if ((size_t)snprintf(name, sizeof name, "%s%s", param, suffix) >= sizeof name)
        return NULL;
    const int64_t i = ds_state_find(state, name);
    return i < 0 ? NULL : &state->entries[i].public;
}

int64_t ds_state_group_size(int64_t n_in, int64_t n) {
    if (n <= 1)
        return n_in;
    for (int64_t size = 8; size < n_in; size *= 2)
        if ((n_in + size - 1) / size == n)
            return size;
    return n_in % n == 0 ? n_in / n : 0;
}

bool ds_state_find_quantised(const char *param, int64_t n_in, const void *context,
                             ds_quantised_weight *out) {
    const ds_state *state = context;
    const ds_state_entry *codes = find_beside(state, param, DS_PACKED_WEIGHT);
    codes = codes ? codes : find_beside(state, param, DS_WEIGHT_CODES);
    const ds_state_entry *scale = find_beside(state, param, DS_WEIGHT_SCALE);
    if (!codes || !scale)
        return false;
    const ds_state_entry *outliers = find_beside(state, param, DS_OUTLIERS);
    *out = (ds_quantised_weight){.dtype = codes->dtype,
                                 .scale_dtype = scale->dtype,
                                 .group = ds_state_group_size(n_in, scale->dims[1]),
                                 .n_outliers = outliers ? outliers->dims[1] : 0,
                                 .has_factor = find_beside(state, param, DS_INPUT_FACTOR) != NULL,
                                 .int8_input = state->int8_inputs && codes->dtype == DS_I8 &&
                                               scale->dims[1] == 1};
    return true;
}

ds_dtype ds_state_stored_dtype(const ds_state *state, const char *name) {
    const int64_t i = ds_state_find(state, name);
    return i >= 0 && state->entries[i].public.is_param ? state->entries[i].public.dtype : DS_F32;
}

bool ds_state_is_read_only(const ds_state *state) {
    return state->is_read_only;
}

bool ds_state_borrow(ds_state *state, size_t i, const void *data) {
    entry *e = &state->entries[i];
    if (!state->backend->ops->reads_host_memory || e->memory)
        return false;
    e->memory = (void *)(uintptr_t)data;
    e->is_borrowed = state->is_read_only = true;
    ds_state_touch(state);
    return true;
}

ds_status ds_state_keep(ds_state *state, void *object, void (*release)(void *object)) {
    owner *owners =
        ds_grow(state->owners, &state->owners_capacity, state->n_owners + 1, sizeof *owners);
    if (!owners)
        return DS_OUT_OF_MEMORY;
    state->owners = owners;
    owners[state->n_owners++] = (owner){object, release};
    return DS_OK;
}

static void widen(ds_dtype dtype, const unsigned char *from, int64_t n, float *to) {
    if (dtype == DS_F32) {
        memcpy(to, from, (size_t)n * sizeof *to);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        to[i] = dtype == DS_BF16 ? ds_bf16_to_f32(half) : ds_f16_to_f32(half);
    }
}

ds_status ds_state_write_floats(ds_state *state, size_t i, int64_t first, int64_t n, ds_dtype from,
                                const void *data) {
    entry *e = &state->entries[i];
    ds_backend *b = state->backend;
    const size_t size = ds_dtype_size(e->public.dtype), from_size = ds_dtype_size(from);
    DS_TRY(check_writable(e));
    DS_TRY(ds_state_allocate(state));
    ds_state_touch(state);
    char *to = (char *)e->memory + (size_t)first * size;
    if (e->public.dtype == from)
        return b->ops->copy(b, DS_TO_DEVICE, to, data, (size_t)n * size, NULL);
    const int64_t chunk = n < CHUNK ? n : CHUNK;
    float *values = ds_malloc((size_t)chunk * sizeof *values);
    void *converted = ds_malloc((size_t)chunk * size);
    ds_status status = values && converted ? DS_OK : DS_OUT_OF_MEMORY;
    for (int64_t at = 0; at < n && status == DS_OK; at += chunk) {
        const int64_t count = n - at < chunk ? n - at : chunk;
        widen(from, (const unsigned char *)data + (size_t)at * from_size, count, values);
        convert(e->public.dtype, values, count, converted);
        status = b->ops->copy(b, DS_TO_DEVICE, to + (size_t)at * size, converted,
                              (size_t)count * size, NULL);
        if (status == DS_OK)
            status = b->ops->synchronise(b, NULL);
    }
    free(values);
    free(converted);
    return status;
}

uint64_t ds_state_version(const ds_state *state) {
    return state->version;
}

void ds_state_touch(ds_state *state) {
    state->version++;
}

ds_status ds_state_derive(ds_state *state, uint64_t key, size_t size_bytes, ds_derived **out) {
    for (size_t i = 0; i < state->n_derived; i++)
        if (state->derived[i]->key == key && state->derived[i]->size_bytes == size_bytes) {
            *out = state->derived[i];
            return DS_OK;
        }
    ds_derived **list =
        ds_grow(state->derived, &state->derived_capacity, state->n_derived + 1, sizeof *list);
    if (!list)
        return DS_OUT_OF_MEMORY;
    state->derived = list;
    ds_derived *d = ds_calloc(1, sizeof *d);
    if (!d)
        return DS_OUT_OF_MEMORY;
    *d = (ds_derived){.key = key, .size_bytes = size_bytes};
    ds_backend *b = state->backend;
    const ds_status status = b->ops->alloc(b, DS_SPACE_DEVICE, size_bytes, &d->memory);
    if (status != DS_OK) {
        free(d);
        return status;
    }
    list[state->n_derived++] = d;
    *out = d;
    return DS_OK;
}
