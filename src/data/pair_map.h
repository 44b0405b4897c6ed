/* A map from a pair of token ids to 64 bits, by open addressing: the one table that byte-pair
 * encoding asks all the time. Key and value lie side by side, so a look-up is one cache line. */
#ifndef DS_DATA_PAIR_MAP_H
#define DS_DATA_PAIR_MAP_H

#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

#define DS_PAIR_NONE UINT64_MAX /* no such pair; never a stored value */

typedef struct ds_pair_slot {
    uint64_t key; /* DS_PAIR_NONE: empty */
    uint64_t value;
} ds_pair_slot;

typedef struct ds_pair_map {
    ds_pair_slot *slots; /* [mask + 1], a power of two */
    size_t mask, count;
} ds_pair_map;

/* An empty map with room for `expected` pairs; it grows when there are more. */
ds_status ds_pair_map_init(ds_pair_map *map, size_t expected);
void ds_pair_map_free(ds_pair_map *map);

/* The place of the pair's value; a new pair's value is DS_PAIR_NONE. Valid until the next call.
 * NULL when out of memory. left and right >= 0. */
uint64_t *ds_pair_map_at(ds_pair_map *map, int32_t left, int32_t right);

static inline uint64_t ds_pair_key(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static inline size_t ds_pair_hash(uint64_t key) {
    key *= UINT64_C(0x9e3779b97f4a7c15); /* 2^64 / golden ratio */
    return (size_t)(key ^ key >> 29);
}

/* The pair's value or DS_PAIR_NONE. */
static inline uint64_t ds_pair_map_get(const ds_pair_map *map, int32_t left, int32_t right) {
    const uint64_t key = ds_pair_key(left, right);
    for (size_t at = ds_pair_hash(key) & map->mask;; at = (at + 1) & map->mask) {
        if (map->slots[at].key == key)
            return map->slots[at].value;
        if (map->slots[at].key == DS_PAIR_NONE)
            return DS_PAIR_NONE;
    }
}

#endif
