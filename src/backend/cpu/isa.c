/* Chooses among the builds of the inner loops at run time: one program runs on any processor. */
#include "backend/cpu/simd/simd.h"

extern const ds_simd ds_simd_table_baseline;
#ifdef DS_SIMD_X86
#include <cpuid.h>

extern const ds_simd ds_simd_table_avx2, ds_simd_table_avx512;
extern const ds_simd ds_simd_table_avx2vnni, ds_simd_table_avx512vnni;

/* Products of bytes in 256 bits without AVX-512: CPUID 7.1, EAX, bit 4, which compilers' own test
 * learnt later than they learnt the instructions. */
static bool has_avx_vnni(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
           (a >> 4 & 1u);
}
#endif

int ds_simd_all(const ds_simd *out[DS_SIMD_TABLES]) {
    int n = 0;
    out[n++] = &ds_simd_table_baseline;
#ifdef DS_SIMD_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        out[n++] = &ds_simd_table_avx2;
    if (has_avx_vnni() && __builtin_cpu_supports("fma"))
        out[n++] = &ds_simd_table_avx2vnni;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        out[n++] = &ds_simd_table_avx512;
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl"))
        out[n++] = &ds_simd_table_avx512vnni;
#endif
    return n;
}

const ds_simd *ds_simd_best(void) {
    const ds_simd *tables[DS_SIMD_TABLES];
    return tables[ds_simd_all(tables) - 1];
}
