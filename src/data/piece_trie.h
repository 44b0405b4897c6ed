/* A tree of byte strings, walked byte by byte: which pieces of a vocabulary begin here. Children
 * are looked up in a hash map of (node, byte), so a tree of any shape costs one cache line a step.
 */
#ifndef DS_DATA_PIECE_TRIE_H
#define DS_DATA_PIECE_TRIE_H

#include "data/pair_map.h"

typedef struct ds_piece_trie {
    ds_pair_map edges; /* (node, byte) → node */
    int32_t *ids;      /* [n_nodes]: of the piece that ends there; -1: none does */
    size_t n_nodes, capacity;
} ds_piece_trie;

/* Nodes 0 … n_roots - 1 are the roots of as many trees. */
ds_status ds_piece_trie_init(ds_piece_trie *trie, size_t n_roots);
void ds_piece_trie_free(ds_piece_trie *trie); /* also of one that is all zero */

/* Of two equal pieces the first counts. n may be 0: then nothing is added. */
ds_status ds_piece_trie_add(ds_piece_trie *trie, int32_t root, const char *bytes, size_t n,
                            int32_t id);

/* The node after this byte, -1 if no piece goes on so. */
static inline int32_t ds_piece_trie_step(const ds_piece_trie *trie, int32_t node, char byte) {
    const uint64_t next = ds_pair_map_get(&trie->edges, node, (unsigned char)byte);
    return next == DS_PAIR_NONE ? -1 : (int32_t)next;
}

#endif
