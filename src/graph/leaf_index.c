#include "graph/leaf_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"

typedef struct leaf_index {
    size_t n, capacity; /* capacity is a power of two, at most half full */
    ds_node **slots;
} leaf_index;

static size_t slot_of(const leaf_index *index, const char *name) {
    size_t i = (size_t)ds_hash_name(name) & (index->capacity - 1);
    while (index->slots[i] && strcmp(index->slots[i]->name, name) != 0)
        i = (i + 1) & (index->capacity - 1);
    return i;
}

ds_node *ds_leaf_index_find(const ds_graph *g, const char *name) {
    const leaf_index *index = g->leaf_index;
    return index && index->capacity ? index->slots[slot_of(index, name)] : NULL;
}

static ds_status enlarge(leaf_index *index) {
    leaf_index larger = {.n = index->n, .capacity = index->capacity ? index->capacity * 2 : 64};
    larger.slots = ds_calloc(larger.capacity, sizeof *larger.slots);
    if (!larger.slots)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < index->capacity; i++)
        if (index->slots[i])
            larger.slots[slot_of(&larger, index->slots[i]->name)] = index->slots[i];
    free(index->slots);
    *index = larger;
    return DS_OK;
}

ds_status ds_leaf_index_add(ds_graph *g, ds_node *leaf) {
    if (!g->leaf_index && !(g->leaf_index = ds_calloc(1, sizeof(leaf_index))))
        return DS_OUT_OF_MEMORY;
    leaf_index *index = g->leaf_index;
    if (2 * (index->n + 1) > index->capacity && enlarge(index) != DS_OK)
        return DS_OUT_OF_MEMORY;
    index->slots[slot_of(index, leaf->name)] = leaf;
    index->n++;
    return DS_OK;
}

void ds_leaf_index_free(ds_graph *g) {
    leaf_index *index = g->leaf_index;
    if (index)
        free(index->slots);
    free(index);
    g->leaf_index = NULL;
}
