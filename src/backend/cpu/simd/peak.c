/* Multiply-adds that touch registers alone: as fast as this instruction set computes in f32. Each
 * chain waits for itself; there are more of them than two units of latency 5 keep busy, and few
 * enough for all to stay in registers. */
#include "backend/cpu/simd/loops.h"

#if defined __AVX512F__
enum { VECTOR_BYTES = 64, CHAINS = 24 };
#elif defined __AVX__
enum { VECTOR_BYTES = 32, CHAINS = 12 };
#elif defined __aarch64__
enum { VECTOR_BYTES = 16, CHAINS = 24 };
#else
enum { VECTOR_BYTES = 16, CHAINS = 12 };
#endif

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));

double SIMD(multiply_adds)(int64_t n_rounds, float *sum) {
    enum { LANES = VECTOR_BYTES / sizeof(float) };
    vector chains[CHAINS], factor, term;
    for (int lane = 0; lane < LANES; lane++) {
        factor[lane] =
            0.75f + *sum; /* with `term` the chains end at 1: no overflow, no denormals */
        term[lane] = 0.25f + *sum;
    }
#pragma GCC unroll 24
    for (int i = 0; i < CHAINS; i++)
        chains[i] = term * (float)i;
    for (int64_t round = 0; round < n_rounds; round++) {
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; i++)
            chains[i] = chains[i] * factor + term;
    }
    vector total = chains[0];
#pragma GCC unroll 24
    for (int i = 1; i < CHAINS; i++)
        total += chains[i];
    *sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        *sum += total[lane];
    return 2.0 * CHAINS * LANES * (double)n_rounds;
}
