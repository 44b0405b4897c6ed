/* See pair_map.h. */
#include "data/pair_map.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

static ds_pair_slot *empty_slots(size_t n) {
    ds_pair_slot *slots = ds_malloc(n * sizeof *slots);
    if (slots)
        memset(slots, 0xff, n * sizeof *slots); /* every key and value DS_PAIR_NONE */
    return slots;
}

ds_status ds_pair_map_init(ds_pair_map *map, size_t expected) {
    size_t n = 64;
    while (n < expected * 2)
        n *= 2;
    map->slots = empty_slots(n);
    map->mask = n - 1;
    map->count = 0;
    return map->slots ? DS_OK : DS_OUT_OF_MEMORY;
}

void ds_pair_map_free(ds_pair_map *map) {
    free(map->slots);
    map->slots = NULL;
}

static ds_pair_slot *place(ds_pair_slot *slots, size_t mask, uint64_t key) {
    size_t at = ds_pair_hash(key) & mask;
    while (slots[at].key != key && slots[at].key != DS_PAIR_NONE)
        at = (at + 1) & mask;
    return &slots[at];
}

static ds_status double_size(ds_pair_map *map) {
    const size_t mask = map->mask * 2 + 1;
    ds_pair_slot *slots = empty_slots(mask + 1);
    if (!slots)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i <= map->mask; i++)
        if (map->slots[i].key != DS_PAIR_NONE)
            *place(slots, mask, map->slots[i].key) = map->slots[i];
    free(map->slots);
    map->slots = slots;
    map->mask = mask;
    return DS_OK;
}

uint64_t *ds_pair_map_at(ds_pair_map *map, int32_t left, int32_t right) {
    if (map->count * 2 > map->mask && double_size(map) != DS_OK)
        return NULL;
    const uint64_t key = ds_pair_key(left, right);
    ds_pair_slot *slot = place(map->slots, map->mask, key);
    if (slot->key == DS_PAIR_NONE) {
        slot->key = key;
        map->count++;
    }
    return &slot->value;
}
