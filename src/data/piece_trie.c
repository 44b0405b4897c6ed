#include "data/piece_trie.h"

#include <stdlib.h>

#include "base/alloc.h"

static ds_status add_node(ds_piece_trie *trie) {
    int32_t *grown = ds_grow(trie->ids, &trie->capacity, trie->n_nodes + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    trie->ids = grown;
    trie->ids[trie->n_nodes++] = -1;
    return DS_OK;
}

ds_status ds_piece_trie_init(ds_piece_trie *trie, size_t n_roots) {
    if (ds_pair_map_init(&trie->edges, 64) != DS_OK)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n_roots; i++)
        if (add_node(trie) != DS_OK)
            return DS_OUT_OF_MEMORY;
    return DS_OK;
}

void ds_piece_trie_free(ds_piece_trie *trie) {
    ds_pair_map_free(&trie->edges);
    free(trie->ids);
    *trie = (ds_piece_trie){0};
}

ds_status ds_piece_trie_add(ds_piece_trie *trie, int32_t root, const char *bytes, size_t n,
                            int32_t id) {
    int32_t node = root;
    for (size_t i = 0; i < n; i++) {
        uint64_t *next = ds_pair_map_at(&trie->edges, node, (unsigned char)bytes[i]);
        if (!next)
            return DS_OUT_OF_MEMORY;
        if (*next == DS_PAIR_NONE) {
            *next = trie->n_nodes;
            if (add_node(trie) != DS_OK)
                return DS_OUT_OF_MEMORY;
        }
        node = (int32_t)*next;
    }
    if (n > 0 && trie->ids[node] < 0)
        trie->ids[node] = id;
    return DS_OK;
}
