/* An arena: many small allocations freed together. A graph owns everything in it through one. */
#ifndef DS_BASE_ARENA_H
#define DS_BASE_ARENA_H

#include <stddef.h>
#include "deepseek/status.h"

typedef struct ds_arena ds_arena;

ds_arena *ds_arena_new(void); /* NULL when out of memory */
void ds_arena_free(ds_arena *arena);

/* Zeroed, aligned to 16; NULL when out of memory. Lives as long as the arena. */
void *ds_arena_alloc(ds_arena *arena, size_t size_bytes);
void *ds_arena_copy(ds_arena *arena, const void *from, size_t size_bytes);
char *ds_arena_strdup(ds_arena *arena, const char *text);
char *ds_arena_printf(ds_arena *arena, const char *fmt, ...) DS_PRINTF(2, 3);

/* Bytes taken from the heap so far. */
size_t ds_arena_size(const ds_arena *arena);

#endif
