#include "infer/scheduler.h"

#include <string.h>

static int64_t blocks_of(const ds_scheduler *s, int64_t tokens) {
    return (tokens + s->block_size - 1) / s->block_size;
}

/* With a window: what it sees and a step's tokens, which may begin and end within a block. */
int64_t ds_scheduler_blocks_for(const ds_scheduler *s, int64_t tokens) {
    const int64_t all = blocks_of(s, tokens);
    const int64_t seen = blocks_of(s, s->window + s->tokens_per_step) + 1;
    return s->window > 0 && seen < all ? seen : all;
}

bool ds_scheduler_has_room(const ds_scheduler *s, const ds_live_request *r) {
    const int64_t n_free = ds_block_pool_size(s->pool) - ds_block_pool_in_use(s->pool);
    return s->running.n == 0 || ds_scheduler_blocks_for(s, r->n_tokens + 1) <= n_free;
}

/* ---- blocks of a request --------------------------------------------------------------------- */

static void publish(ds_scheduler *s, ds_live_request *r) {
    for (; (r->n_published + 1) * s->block_size <= r->computed; r->n_published++)
        ds_block_pool_publish(s->pool, r->blocks[r->n_published],
                              r->tokens + r->n_published * s->block_size, &r->key);
}

/* Blocks that no later token sees. One whole block stays before the token at hand in any case: it
 * stands for those that are gone in the tables, and must hold numbers of this request. */
static void leave_behind(ds_scheduler *s, ds_live_request *r) {
    if (s->window == 0)
        return;
    const int64_t seen = s->window > s->block_size ? s->window : s->block_size + 1;
    const int64_t first = r->computed + 1 - seen;
    for (; (r->n_behind + 1) * s->block_size <= first; r->n_behind++)
        ds_block_pool_release(s->pool, r->blocks[r->n_behind]);
}

/* Whole blocks that are there and come next; one token is left, whose logits are wanted. */
static void reuse(ds_scheduler *s, ds_live_request *r) {
    const int64_t before = r->computed;
    bool all_drafted = s->drafted != NULL && r->drafted == before;
    while ((r->n_blocks + 1) * s->block_size < r->n_tokens) {
        const int32_t block =
            ds_block_pool_find(s->pool, r->tokens + r->n_blocks * s->block_size, &r->key);
        if (block == DS_NO_BLOCK)
            break;
        r->blocks[r->n_blocks++] = block;
        all_drafted = all_drafted && s->drafted[block];
        if (all_drafted)
            r->drafted = r->n_blocks * s->block_size;
    }
    r->n_published = r->n_blocks;
    r->computed = r->n_blocks * s->block_size;
    if (r->n_tokens == r->n_prompt) { /* not one that begins anew */
        r->n_cached += r->computed - before;
        s->n_cached += r->computed - before;
    }
    leave_behind(s, r);
}

static bool take_block(ds_scheduler *s, ds_live_request *r) {
    const int32_t block = ds_block_pool_take(s->pool);
    if (block == DS_NO_BLOCK)
        return false;
    if (s->drafted)
        s->drafted[block] = false;
    r->blocks[r->n_blocks++] = block;
    return true;
}

/* ---- coming and going ------------------------------------------------------------------------ */

void ds_scheduler_admit(ds_scheduler *s, ds_live_request *r) {
    if (r->n_tokens == r->n_prompt)
        r->n_cached = 0; /* what it found before it was preempted it looks for again */
    reuse(s, r);
    ds_request_list_insert(&s->running, r);
}

void ds_scheduler_remove(ds_scheduler *s, ds_live_request *r) {
    publish(s, r);
    while (r->n_blocks > r->n_behind)
        ds_block_pool_release(s->pool, r->blocks[--r->n_blocks]);
    r->n_blocks = r->n_behind = 0;
    r->computed = r->n_published = r->chunk = r->n_draft = r->drafted = 0;
    r->key = 0;
    ds_request_list_remove(&s->running, r);
}

bool ds_scheduler_is_answering(const ds_live_request *r) {
    return r->n_tokens - r->computed == 1;
}

/* ---- the next step --------------------------------------------------------------------------- */

/* What others computed since it began. */
static void reuse_again(ds_scheduler *s) {
    for (ds_live_request *r = s->running.first; r; r = r->next)
        if (r->computed == r->n_blocks * s->block_size)
            reuse(s, r);
}

/* Whether r can take the block that q is computing. */
static bool can_take_from(const ds_scheduler *s, const ds_live_request *r,
                          const ds_live_request *q) {
    const int64_t at = r->computed, size = s->block_size;
    return r != q && r->chunk == 0 && at % size == 0 && at + size < r->n_tokens &&
           q->computed / size == at / size && at + size <= q->n_tokens && r->key == q->key &&
           memcmp(r->tokens + at, q->tokens + at, (size_t)size * sizeof *r->tokens) == 0;
}

/* The prompt that takes tokens next: of the highest priority, the one that needs the fewest. */
static ds_live_request *soonest(const ds_scheduler *s) {
    ds_live_request *best = NULL;
    for (ds_live_request *r = s->running.first; r; r = r->next) {
        const int64_t need = r->n_tokens - r->computed - r->chunk;
        if (need > 0 && !r->waits &&
            (!best || r->priority > best->priority ||
             (r->priority == best->priority &&
              need < best->n_tokens - best->computed - best->chunk)))
            best = r;
    }
    return best;
}

static void give(const ds_scheduler *s, ds_live_request *r, int64_t most, int64_t *left) {
    const int64_t need = r->n_tokens - r->computed - r->chunk, n = need < most ? need : most;
    r->chunk += n;
    *left -= n;
    for (ds_live_request *other = s->running.first; other; other = other->next)
        other->waits = other->waits || can_take_from(s, other, r);
}

static void share_out(ds_scheduler *s) {
    int64_t left = s->tokens_per_step;
    ds_live_request *first = NULL;
    for (ds_live_request *r = s->running.first; r; r = r->next) {
        const bool answering = ds_scheduler_is_answering(r);
        r->chunk = answering;
        r->waits = false;
        r->n_draft = answering ? r->n_draft : 0;
        left -= r->chunk + r->n_draft;
        first = first || answering ? first : r;
    }
    if (first && left > 0)
        give(s, first, (left + 1) / 2, &left);
    for (ds_live_request *r; left > 0 && (r = soonest(s));)
        give(s, r, left, &left);
}

/* Blocks for its chunk, if need be those of requests after it. False: it had to go itself. */
static bool reserve(ds_scheduler *s, ds_live_request *r, ds_request_list *preempted) {
    while (r->n_blocks * s->block_size < r->computed + r->chunk) {
        if (take_block(s, r))
            continue;
        ds_live_request *last = s->running.last;
        ds_scheduler_remove(s, last);
        ds_request_list_insert(preempted, last);
        if (last == r)
            return false;
    }
    return true;
}

static void give_up_proposals(ds_scheduler *s, ds_live_request *r) {
    r->n_draft = 0;
    while (r->n_blocks > blocks_of(s, r->computed + r->chunk))
        ds_block_pool_release(s->pool, r->blocks[--r->n_blocks]);
}

/* Nobody goes for the sake of proposals. */
static void reserve_proposals(ds_scheduler *s, ds_live_request *r) {
    while (r->n_draft > 0 && r->n_blocks * s->block_size < r->computed + r->chunk + r->n_draft)
        if (!take_block(s, r))
            give_up_proposals(s, r);
    r->chunk += r->n_draft;
}

void ds_scheduler_plan(ds_scheduler *s, ds_request_list *preempted) {
    reuse_again(s);
    share_out(s);
    for (ds_live_request *r = s->running.first, *next; r; r = next) {
        const bool stays = reserve(s, r, preempted);
        next = stays ? r->next : NULL; /* it was the last one */
    }
    for (ds_live_request *r = s->running.first; r; r = r->next)
        reserve_proposals(s, r);
}

void ds_scheduler_add(const ds_scheduler *s, const ds_live_request *r, int64_t from, int64_t n,
                      int64_t rows, int32_t owner, ds_step_batch *b) {
    int32_t *table = b->tables + owner * s->blocks_per_sequence;
    for (int64_t position = from; position < from + n; position++) {
        const int64_t at = b->n_tokens++;
        b->tokens[at] = r->tokens[position];
        b->positions[at] = (int32_t)position;
        b->owners[at] = owner;
        b->slots[at] = (int32_t)(r->blocks[position / s->block_size] * s->block_size +
                                 position % s->block_size);
    }
    memcpy(table, r->blocks, (size_t)r->n_blocks * sizeof *r->blocks);
    for (int64_t i = 0; i < r->n_behind; i++)
        table[i] = r->blocks[r->n_behind];
    for (int64_t i = rows; i > 0; i--)
        b->rows[b->n_rows++] = (int32_t)(b->n_tokens - i);
}

void ds_scheduler_fill(const ds_scheduler *s, ds_step_batch *b) {
    int32_t owner = 0;
    b->n_tokens = b->n_rows = 0;
    for (const ds_live_request *r = s->running.first; r; r = r->next) {
        const bool whole = r->computed + r->chunk == r->n_tokens + r->n_draft;
        if (r->chunk > 0)
            ds_scheduler_add(s, r, r->computed, r->chunk, whole ? 1 + r->n_draft : 0, owner++, b);
    }
}

void ds_scheduler_advance(ds_scheduler *s) {
    for (ds_live_request *r = s->running.first; r; r = r->next) {
        r->computed += r->chunk - r->n_draft;
        publish(s, r);
        leave_behind(s, r);
    }
}

void ds_scheduler_settle(ds_scheduler *s, ds_live_request *r, int64_t accepted) {
    r->computed += accepted;
    r->drafted = r->drafted < r->computed ? r->drafted : r->computed;
    r->n_draft = 0;
    const int64_t wanted = blocks_of(s, r->n_tokens);
    while (r->n_blocks > wanted)
        ds_block_pool_release(s->pool, r->blocks[--r->n_blocks]);
}
