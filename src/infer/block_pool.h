/* Blocks of a key-value cache: who uses them, and what the full ones hold.
 *
 * A block that a request has filled is published under its content: the tokens in it, and the key
 * of the block before it, hence all tokens before. A later request that begins the same way takes
 * it as it is (Kwon et al. 2023; vLLM's automatic prefix caching). Nobody's blocks stay published
 * until they are needed, the one used longest ago first. The tokens themselves are compared, not
 * their hashes, so that no collision can hand over another text's keys. */
#ifndef DS_INFER_BLOCK_POOL_H
#define DS_INFER_BLOCK_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "deepseek/status.h"

typedef struct ds_block_pool ds_block_pool;

enum { DS_NO_BLOCK = -1 };

ds_status ds_block_pool_new(int32_t n_blocks, int32_t block_size, ds_block_pool **out);
void ds_block_pool_free(ds_block_pool *pool);

/* A block with no content, used once; DS_NO_BLOCK when all are in use. */
int32_t ds_block_pool_take(ds_block_pool *pool);
/* The published block with these tokens [block_size] after the block of this key (0: the first
 * block), used once more; DS_NO_BLOCK if there is none. *key becomes its own key. */
int32_t ds_block_pool_find(ds_block_pool *pool, const int32_t *tokens, uint64_t *key);
/* Publishes a block that is in use. *key: of the block before it; becomes its own, or that of a
 * block of the same content that was there first. */
void ds_block_pool_publish(ds_block_pool *pool, int32_t block, const int32_t *tokens,
                           uint64_t *key);
/* One use less. The last block of a text is best released first: its beginning is kept longer. */
void ds_block_pool_release(ds_block_pool *pool, int32_t block);

int32_t ds_block_pool_size(const ds_block_pool *pool);
int32_t ds_block_pool_in_use(const ds_block_pool *pool);
int32_t ds_block_pool_cached(const ds_block_pool *pool); /* published, nobody's */

#endif
