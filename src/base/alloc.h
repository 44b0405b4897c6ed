/* Heap allocation with one place to fail on purpose. Every allocation of the library passes here,
 * so a test can let the n-th one fail and see that each caller copes (base/fault.h). */
#ifndef DS_BASE_ALLOC_H
#define DS_BASE_ALLOC_H

#include <stddef.h>

/* As malloc, calloc, realloc, strdup; NULL and a thread message (ds_error) on failure.
 * Free with free(). */
void *ds_malloc(size_t size_bytes);
void *ds_calloc(size_t count, size_t size_bytes);
void *ds_realloc(void *old, size_t size_bytes);
char *ds_strdup(const char *text);

/* Makes room for `need` elements of `size_bytes` in a growing array. Doubles `*capacity`; returns
 * the (moved) array or NULL, leaving the old one whole. */
void *ds_grow(void *array, size_t *capacity, size_t need, size_t size_bytes);

/* size_bytes of zeroed memory aligned to 64, from huge pages where the system gives them.
 * Release with ds_pages_free and the same size. */
void *ds_pages_alloc(size_t size_bytes);
void ds_pages_free(void *pages, size_t size_bytes);
/* Fresh pages shall be small ones: where a little is written here and there, a huge page takes room
 * for all that lies between. */
void ds_pages_keep_small(void *pages, size_t size_bytes);

#endif
