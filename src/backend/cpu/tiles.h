/* Small matrix products on padded tiles, the building blocks of attention. The left operand is
 * row-major, the right one packed, the result f32. m is a multiple of 16, n and k of 32. */
#ifndef DS_CPU_TILES_H
#define DS_CPU_TILES_H

#include <stdbool.h>
#include <stdint.h>

#include "deepseek/tensor.h"

enum { DS_TILE = 32 }; /* what sizes are padded to */

typedef struct ds_tiles {
    ds_dtype dtype; /* of the operands: f32, or bf16 where the processor has matrix units for it */
    /* The right operand out of its rows [k, n], or out of its columns [n, k]; both n·k elements. */
    void (*pack_rows)(const void *rows, int64_t stride, int64_t k, int64_t n, void *packed);
    void (*pack_columns)(const void *columns, int64_t stride, int64_t k, int64_t n, void *packed);
    /* c = a·b, or c += a·b */
    void (*multiply)(const void *a, int64_t a_stride, const void *b, float *c, int64_t c_stride,
                     int64_t m, int64_t n, int64_t k, bool accumulate);
    void (*begin)(void); /* in each thread, before and after; may be NULL */
    void (*end)(void);
} ds_tiles;

/* amx.c: NULL where the processor or the system lacks it. */
const ds_tiles *ds_tiles_amx(void);

#endif
