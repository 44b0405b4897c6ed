/* Chooses among the builds of the inner loops at run time: one program runs on any processor. */
#include "backend/cpu/simd/simd.h"

extern const ds_simd ds_simd_table_baseline;
#ifdef DS_SIMD_X86
extern const ds_simd ds_simd_table_avx2, ds_simd_table_avx512;
#endif

int ds_simd_all(const ds_simd **out, int capacity) {
    int n = 0;
    if (n < capacity)
        out[n++] = &ds_simd_table_baseline;
#ifdef DS_SIMD_X86
    __builtin_cpu_init();
    if (n < capacity && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        out[n++] = &ds_simd_table_avx2;
    if (n < capacity && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        out[n++] = &ds_simd_table_avx512;
#endif
    return n;
}

const ds_simd *ds_simd_best(void) {
    const ds_simd *tables[4];
    return tables[ds_simd_all(tables, 4) - 1];
}
