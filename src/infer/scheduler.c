#include "infer/scheduler.h"

#include <string.h>

static int64_t blocks_for(const ds_scheduler *s, int64_t tokens) {
    return (tokens + s->block_size - 1) / s->block_size;
}

bool ds_scheduler_has_room(const ds_scheduler *s, const ds_live_request *r) {
    const int64_t n_free = ds_block_pool_size(s->pool) - ds_block_pool_in_use(s->pool);
    return s->running.n == 0 || blocks_for(s, r->n_tokens + 1) <= n_free;
}

/* Whole blocks of its beginning that are there; one token is left, whose logits are wanted. */
static void reuse(ds_scheduler *s, ds_live_request *r) {
    while ((r->n_blocks + 1) * s->block_size < r->n_tokens) {
        const int32_t block =
            ds_block_pool_find(s->pool, r->tokens + r->n_blocks * s->block_size, &r->key);
        if (block == DS_NO_BLOCK)
            break;
        r->blocks[r->n_blocks++] = block;
    }
    r->n_published = r->n_blocks;
    r->computed = r->n_blocks * s->block_size;
}

void ds_scheduler_admit(ds_scheduler *s, ds_live_request *r) {
    reuse(s, r);
    if (r->n_tokens == r->n_prompt) /* not one that begins anew */
        r->n_cached = r->computed;
    ds_request_list_insert(&s->running, r);
}

void ds_scheduler_remove(ds_scheduler *s, ds_live_request *r) {
    while (r->n_blocks > 0)
        ds_block_pool_release(s->pool, r->blocks[--r->n_blocks]);
    r->computed = r->n_published = r->chunk = 0;
    r->key = 0;
    ds_request_list_remove(&s->running, r);
}

/* Blocks for its chunk, if need be those of requests after it. False: it had to go itself. */
static bool reserve(ds_scheduler *s, ds_live_request *r, ds_request_list *preempted) {
    while (r->n_blocks * s->block_size < r->computed + r->chunk) {
        const int32_t block = ds_block_pool_take(s->pool);
        if (block != DS_NO_BLOCK) {
            r->blocks[r->n_blocks++] = block;
            continue;
        }
        ds_live_request *last = s->running.last;
        ds_scheduler_remove(s, last);
        ds_request_list_insert(preempted, last);
        if (last == r)
            return false;
    }
    return true;
}

static void add_to_batch(const ds_scheduler *s, ds_live_request *r, int32_t owner,
                         ds_step_batch *b) {
    for (int64_t i = 0; i < r->chunk; i++) {
        const int64_t position = r->computed + i, at = b->n_tokens++;
        b->tokens[at] = r->tokens[position];
        b->positions[at] = (int32_t)position;
        b->owners[at] = owner;
        b->slots[at] = (int32_t)(r->blocks[position / s->block_size] * s->block_size +
                                 position % s->block_size);
    }
    memcpy(b->tables + owner * s->blocks_per_sequence, r->blocks,
           (size_t)r->n_blocks * sizeof *r->blocks);
    if (r->computed + r->chunk == r->n_tokens)
        b->rows[b->n_rows++] = (int32_t)b->n_tokens - 1;
}

void ds_scheduler_plan(ds_scheduler *s, ds_step_batch *b, ds_request_list *preempted) {
    int64_t left = s->tokens_per_step;
    for (const ds_live_request *r = s->running.first; r; r = r->next)
        left -= r->n_tokens - r->computed == 1;
    b->n_tokens = b->n_rows = 0;
    for (ds_live_request *r = s->running.first, *next; r; r = next) {
        const int64_t need = r->n_tokens - r->computed;
        r->chunk = need == 1 ? 1 : need < left ? need : left;
        left -= need == 1 ? 0 : r->chunk;
        const bool stays = reserve(s, r, preempted);
        next = stays ? r->next : NULL; /* it was the last one */
    }
    int32_t owner = 0;
    for (ds_live_request *r = s->running.first; r; r = r->next)
        if (r->chunk > 0)
            add_to_batch(s, r, owner++, b);
}

void ds_scheduler_advance(ds_scheduler *s) {
    for (ds_live_request *r = s->running.first; r; r = r->next) {
        r->computed += r->chunk;
        for (; (r->n_published + 1) * s->block_size <= r->computed; r->n_published++)
            ds_block_pool_publish(s->pool, r->blocks[r->n_published],
                                  r->tokens + r->n_published * s->block_size, &r->key);
    }
}
