/* Byte-pair merging of one word. The pair of the lowest rank goes first, of equal ones the
 * leftmost. Almost all words are short: there a scan for the best pair beats any structure. A long
 * word (a vocabulary without words, a megabyte of 'a') goes through a heap of pairs over a linked
 * list of symbols, in which entries that later merges made stale are recognised and dropped. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

#define SCAN_LIMIT  48        /* symbols; past this the heap is faster */
#define MERGE_LIMIT (1 << 30) /* positions must fit the low half of a heap entry */

void ds_merger_free(ds_merger *m) {
    free(m->next);
    free(m->previous);
    free(m->heap);
    *m = (ds_merger){0};
}

static size_t merge_by_scan(const ds_pair_map *merges, int32_t *ids, size_t n) {
    uint64_t pair[SCAN_LIMIT];
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = ds_pair_map_get(merges, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pair[i] < pair[best])
                best = i;
        if (pair[best] == DS_PAIR_NONE)
            break;
        ids[best] = (int32_t)(uint32_t)pair[best];
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        memmove(pair + best, pair + best + 1, (n - best - 2) * sizeof *pair);
        n--;
        if (best > 0)
            pair[best - 1] = ds_pair_map_get(merges, ids[best - 1], ids[best]);
        if (best + 1 < n)
            pair[best] = ds_pair_map_get(merges, ids[best], ids[best + 1]);
    }
    return n;
}

static void sift_up(uint64_t *heap, size_t at) {
    const uint64_t entry = heap[at];
    for (; at > 0 && heap[(at - 1) / 2] > entry; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = entry;
}

static uint64_t pop(uint64_t *heap, size_t *n) {
    const uint64_t top = heap[0], last = heap[--*n];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < *n; at = child) {
        if (child + 1 < *n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

static ds_status reserve(ds_merger *m, size_t n) {
    if (n <= m->capacity)
        return DS_OK;
    free(m->next);
    free(m->previous);
    free(m->heap);
    m->next = ds_malloc(n * sizeof *m->next);
    m->previous = ds_malloc(n * sizeof *m->previous);
    /* n - 1 pairs at first; each of at most n - 1 merges takes one away and adds two at most */
    m->heap = ds_malloc(n * 2 * sizeof *m->heap);
    m->capacity = m->next && m->previous && m->heap ? n : 0;
    return m->capacity ? DS_OK : DS_OUT_OF_MEMORY;
}

/* Puts the pair at `left` on the heap if it can be merged: rank above, place below. */
static void offer(const ds_pair_map *merges, ds_merger *m, size_t *heap_n, const int32_t *ids,
                  int32_t left) {
    const uint64_t pair = ds_pair_map_get(merges, ids[left], ids[m->next[left]]);
    if (pair == DS_PAIR_NONE)
        return;
    m->heap[*heap_n] = (pair & ~UINT64_C(0xffffffff)) | (uint32_t)left;
    sift_up(m->heap, (*heap_n)++);
}

static size_t merge_by_heap(const ds_pair_map *merges, ds_merger *m, int32_t *ids, size_t n) {
    size_t heap_n = 0;
    for (size_t i = 0; i < n; i++) {
        m->previous[i] = (int32_t)i - 1;
        m->next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i + 1 < n; i++)
        offer(merges, m, &heap_n, ids, (int32_t)i);
    while (heap_n > 0) {
        const uint64_t entry = pop(m->heap, &heap_n);
        const int32_t left = (int32_t)(uint32_t)entry;
        if (ids[left] < 0 || m->next[left] < 0)
            continue; /* swallowed by its left neighbour, or nothing to its right any more */
        const int32_t right = m->next[left];
        const uint64_t pair = ds_pair_map_get(merges, ids[left], ids[right]);
        if (pair == DS_PAIR_NONE || pair >> 32 != entry >> 32)
            continue; /* one of the two has changed since */
        ids[left] = (int32_t)(uint32_t)pair;
        ids[right] = -1;
        m->next[left] = m->next[right];
        if (m->next[left] >= 0) {
            m->previous[m->next[left]] = left;
            offer(merges, m, &heap_n, ids, left);
        }
        if (m->previous[left] >= 0)
            offer(merges, m, &heap_n, ids, m->previous[left]);
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0)
            ids[kept++] = ids[i];
    return kept;
}

ds_status ds_merge(const ds_pair_map *merges, ds_merger *m, int32_t *ids, size_t *n) {
    if (*n < 2)
        return DS_OK;
    if (*n <= SCAN_LIMIT) {
        *n = merge_by_scan(merges, ids, *n);
        return DS_OK;
    }
    if (*n > MERGE_LIMIT)
        return ds_fail(DS_UNSUPPORTED,
                       "a stretch of %zu symbols without a word boundary; at most %d", *n,
                       MERGE_LIMIT);
    DS_TRY(reserve(m, *n));
    *n = merge_by_heap(merges, m, ids, *n);
    return DS_OK;
}
