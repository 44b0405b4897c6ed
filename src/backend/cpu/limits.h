/* What this machine can do at best, measured: the denominator of "share of peak". */
#ifndef DS_CPU_LIMITS_H
#define DS_CPU_LIMITS_H

#include "deepseek/tensor.h"

typedef struct ds_cpu_limits {
    int n_threads;                         /* with which the rest was measured */
    double f32_flops_per_s;                /* matrix products, a multiply-add counted as two */
    double bf16_flops_per_s, i8_ops_per_s; /* 0: oneDNN has no fast one for this processor */
    double bytes_per_s;                    /* main memory, read and written bytes together */
} ds_cpu_limits;

/* Measures for about budget_s seconds (0.3 is enough for a display, 5 for a table), with as many
 * threads as OpenMP is set to. Keeps the answer: later calls with the same number of threads and no
 * larger a budget cost nothing. A busy machine looks slower than it is. Any thread may call. */
ds_status ds_cpu_limits_measure(ds_cpu_limits *out, double budget_s);

#endif
