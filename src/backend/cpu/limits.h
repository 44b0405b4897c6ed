/* What this machine can do at best, measured: the denominator of "share of peak". */
#ifndef DS_CPU_LIMITS_H
#define DS_CPU_LIMITS_H

#include "deepseek/status.h"

#include <stddef.h>

typedef enum ds_cpu_limit_kind {
    DS_LIMIT_F32,  /* FLOP/s, a multiply-add counted as two, in registers */
    DS_LIMIT_BF16, /* FLOP/s of matrix products in cache; 0: the processor has no way of its own */
    DS_LIMIT_I8,   /* OP/s, likewise */
    DS_LIMIT_MEMORY, /* bytes a second of main memory, read and written together */
    DS_LIMITS
} ds_cpu_limit_kind;

/* One limit, measured for about budget_s seconds (0.05 is enough for a display, 1 for a table;
 * memory takes half a second at least), with as many threads as OpenMP is set to. Keeps the answer:
 * later calls with the same number of threads and no larger a budget cost nothing. A busy machine
 * looks slower than it is. Any thread may call. */
ds_status ds_cpu_limit(ds_cpu_limit_kind kind, double budget_s, double *per_s);

/* Bytes that DS_LIMIT_MEMORY streams through: four times the last cache and 1 GB at least, but no
 * more than a quarter of the machine's memory. */
size_t ds_cpu_stream_bytes(void);

#endif
