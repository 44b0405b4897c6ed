#include "base/alloc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/fault.h"

static void *refused(size_t size_bytes) {
    ds_fail(DS_OUT_OF_MEMORY, "out of memory: %zu bytes could not be allocated", size_bytes);
    return NULL;
}

void *ds_malloc(size_t size_bytes) {
    void *p = ds_fault_hit(DS_FAULT_ALLOC) ? NULL : malloc(size_bytes ? size_bytes : 1);
    return p ? p : refused(size_bytes);
}

void *ds_calloc(size_t count, size_t size_bytes) {
    void *p = ds_fault_hit(DS_FAULT_ALLOC) ? NULL : calloc(count ? count : 1, size_bytes);
    return p ? p : refused(count * size_bytes);
}

void *ds_realloc(void *old, size_t size_bytes) {
    void *p = ds_fault_hit(DS_FAULT_ALLOC) ? NULL : realloc(old, size_bytes ? size_bytes : 1);
    return p ? p : refused(size_bytes);
}

char *ds_strdup(const char *text) {
    const size_t n = strlen(text) + 1;
    char *copy = ds_malloc(n);
    return copy ? memcpy(copy, text, n) : NULL;
}

void *ds_grow(void *array, size_t *capacity, size_t need, size_t size_bytes) {
    if (need <= *capacity && array)
        return array;
    size_t wanted = *capacity ? *capacity : 8;
    while (wanted < need) {
        if (wanted > SIZE_MAX / 2)
            return refused(SIZE_MAX);
        wanted *= 2;
    }
    if (size_bytes && wanted > SIZE_MAX / size_bytes)
        return refused(SIZE_MAX);
    void *moved = ds_realloc(array, wanted * size_bytes);
    if (moved)
        *capacity = wanted;
    return moved;
}

void *ds_pages_alloc(size_t size_bytes) {
    if (ds_fault_hit(DS_FAULT_ALLOC))
        return refused(size_bytes);
    void *p = mmap(NULL, size_bytes ? size_bytes : 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return refused(size_bytes);
    if (size_bytes >= (size_t)4 << 20)
        madvise(p, size_bytes, MADV_HUGEPAGE); /* advice: it may be refused without harm */
    return p;
}

void ds_pages_keep_small(void *pages, size_t size_bytes) {
    if (pages && size_bytes >= (size_t)4 << 20)
        madvise(pages, size_bytes, MADV_NOHUGEPAGE);
}

void ds_pages_free(void *pages, size_t size_bytes) {
    if (pages)
        munmap(pages, size_bytes ? size_bytes : 1);
}
