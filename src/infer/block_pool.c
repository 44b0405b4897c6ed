/* One array of blocks; those that nobody uses are in a list ordered by when they were last used,
 * and the published ones in a hash table of chains as well. */
#include "infer/block_pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"

typedef struct block {
    int32_t uses;
    int32_t older, newer;  /* among nobody's blocks */
    int32_t next_in_chain; /* of the hash table */
    bool published;
    uint64_t parent, key;
    uint64_t hash;
} block;

struct ds_block_pool {
    int32_t n, block_size;
    block *blocks;
    int32_t *tokens; /* [n, block_size] of published blocks */
    int32_t *chains; /* [mask + 1] */
    uint64_t mask, last_key;
    int32_t oldest, newest; /* of nobody's blocks */
    int32_t n_free, n_cached;
};

ds_status ds_block_pool_new(int32_t n_blocks, int32_t block_size, ds_block_pool **out) {
    ds_block_pool *p = ds_calloc(1, sizeof *p);
    if (!p)
        return DS_OUT_OF_MEMORY;
    p->n = n_blocks;
    p->block_size = block_size;
    for (p->mask = 15; p->mask < (uint64_t)n_blocks; p->mask = 2 * p->mask + 1)
        continue;
    p->blocks = ds_calloc((size_t)n_blocks + 1, sizeof *p->blocks);
    p->tokens = ds_calloc((size_t)n_blocks * (size_t)block_size + 1, sizeof *p->tokens);
    p->chains = ds_malloc((size_t)(p->mask + 1) * sizeof *p->chains);
    if (!p->blocks || !p->tokens || !p->chains) {
        ds_block_pool_free(p);
        return DS_OUT_OF_MEMORY;
    }
    for (uint64_t i = 0; i <= p->mask; i++)
        p->chains[i] = DS_NO_BLOCK;
    for (int32_t i = 0; i < n_blocks; i++)
        p->blocks[i] = (block){.older = i - 1, .newer = i + 1 < n_blocks ? i + 1 : DS_NO_BLOCK};
    p->oldest = n_blocks > 0 ? 0 : DS_NO_BLOCK;
    p->newest = n_blocks - 1;
    p->n_free = n_blocks;
    *out = p;
    return DS_OK;
}

void ds_block_pool_free(ds_block_pool *p) {
    if (!p)
        return;
    free(p->blocks);
    free(p->tokens);
    free(p->chains);
    free(p);
}

/* ---- nobody's blocks ------------------------------------------------------------------------- */

static void unlink_free(ds_block_pool *p, int32_t i) {
    const block *b = &p->blocks[i];
    if (b->older >= 0)
        p->blocks[b->older].newer = b->newer;
    else
        p->oldest = b->newer;
    if (b->newer >= 0)
        p->blocks[b->newer].older = b->older;
    else
        p->newest = b->older;
    p->n_free--;
    p->n_cached -= b->published;
}

/* Published ones wait for their turn; the others are the first to be taken. */
static void link_free(ds_block_pool *p, int32_t i) {
    block *b = &p->blocks[i];
    b->older = b->published ? p->newest : DS_NO_BLOCK;
    b->newer = b->published ? DS_NO_BLOCK : p->oldest;
    if (b->older >= 0)
        p->blocks[b->older].newer = i;
    else
        p->oldest = i;
    if (b->newer >= 0)
        p->blocks[b->newer].older = i;
    else
        p->newest = i;
    p->n_free++;
    p->n_cached += b->published;
}

/* ---- content --------------------------------------------------------------------------------- */

static uint64_t hash_of(const ds_block_pool *p, uint64_t parent, const int32_t *tokens) {
    uint64_t hash = ds_mix64(parent);
    for (int32_t i = 0; i < p->block_size; i++)
        hash = ds_mix64(hash * 31 + (uint64_t)(uint32_t)tokens[i]);
    return hash;
}

static int32_t look_up(const ds_block_pool *p, uint64_t hash, uint64_t parent,
                       const int32_t *tokens) {
    const size_t bytes = (size_t)p->block_size * sizeof *tokens;
    int32_t i = p->chains[hash & p->mask];
    while (i >= 0 && (p->blocks[i].hash != hash || p->blocks[i].parent != parent ||
                      memcmp(p->tokens + (int64_t)i * p->block_size, tokens, bytes) != 0))
        i = p->blocks[i].next_in_chain;
    return i;
}

static void forget(ds_block_pool *p, int32_t i) {
    int32_t *at = &p->chains[p->blocks[i].hash & p->mask];
    while (*at != i)
        at = &p->blocks[*at].next_in_chain;
    *at = p->blocks[i].next_in_chain;
    p->blocks[i].published = false;
}

/* ---- calls ----------------------------------------------------------------------------------- */

int32_t ds_block_pool_take(ds_block_pool *p) {
    const int32_t i = p->oldest;
    if (i < 0)
        return DS_NO_BLOCK;
    unlink_free(p, i);
    if (p->blocks[i].published)
        forget(p, i);
    p->blocks[i].uses = 1;
    return i;
}

int32_t ds_block_pool_find(ds_block_pool *p, const int32_t *tokens, uint64_t *key) {
    const int32_t i = look_up(p, hash_of(p, *key, tokens), *key, tokens);
    if (i < 0)
        return DS_NO_BLOCK;
    if (p->blocks[i].uses++ == 0)
        unlink_free(p, i);
    *key = p->blocks[i].key;
    return i;
}

void ds_block_pool_publish(ds_block_pool *p, int32_t i, const int32_t *tokens, uint64_t *key) {
    const uint64_t hash = hash_of(p, *key, tokens);
    const int32_t same = look_up(p, hash, *key, tokens);
    if (same >= 0) {
        *key = p->blocks[same].key;
        return;
    }
    block *b = &p->blocks[i];
    b->published = true;
    b->parent = *key;
    b->hash = hash;
    b->key = ++p->last_key;
    memcpy(p->tokens + (int64_t)i * p->block_size, tokens, (size_t)p->block_size * sizeof *tokens);
    b->next_in_chain = p->chains[hash & p->mask];
    p->chains[hash & p->mask] = i;
    *key = b->key;
}

void ds_block_pool_release(ds_block_pool *p, int32_t i) {
    if (--p->blocks[i].uses == 0)
        link_free(p, i);
}

int32_t ds_block_pool_size(const ds_block_pool *p) {
    return p->n;
}

int32_t ds_block_pool_in_use(const ds_block_pool *p) {
    return p->n - p->n_free;
}

int32_t ds_block_pool_cached(const ds_block_pool *p) {
    return p->n_cached;
}
