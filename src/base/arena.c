#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum { BLOCK_BYTES = 64 * 1024, ALIGNMENT = 16 };

typedef struct block {
    struct block *next;
    size_t used, size; /* of data, bytes */
    _Alignas(ALIGNMENT) unsigned char data[];
} block;

struct ds_arena {
    block *head;  /* the block that allocations come from; full ones behind it */
    size_t total; /* bytes of all blocks */
};

ds_arena *ds_arena_new(void) {
    return ds_calloc(1, sizeof(ds_arena));
}

void ds_arena_free(ds_arena *arena) {
    if (!arena)
        return;
    for (block *b = arena->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(arena);
}

void *ds_arena_alloc(ds_arena *arena, size_t size_bytes) {
    if (size_bytes > SIZE_MAX / 2)
        return NULL;
    const size_t size = (size_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    block *b = arena->head;
    if (!b || b->size - b->used < size) {
        const size_t room = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        b = ds_calloc(1, sizeof(block) + room);
        if (!b)
            return NULL;
        b->size = room;
        b->next = arena->head;
        arena->head = b;
        arena->total += sizeof(block) + room;
    }
    void *p = b->data + b->used;
    b->used += size;
    return p;
}

void *ds_arena_copy(ds_arena *arena, const void *from, size_t size_bytes) {
    void *p = ds_arena_alloc(arena, size_bytes);
    if (p && size_bytes)
        memcpy(p, from, size_bytes);
    return p;
}

char *ds_arena_strdup(ds_arena *arena, const char *text) {
    return ds_arena_copy(arena, text, strlen(text) + 1);
}

char *ds_arena_printf(ds_arena *arena, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *text = n < 0 ? NULL : ds_arena_alloc(arena, (size_t)n + 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    return text;
}

size_t ds_arena_size(const ds_arena *arena) {
    return arena->total;
}
