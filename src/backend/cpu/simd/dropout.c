/* Philox4x32-10 for many consecutive counters at once (base/rng.h says what it is), and the mask
 * of dropout made from it. */
#include "backend/cpu/simd/loops.h"

enum { LANES = 64 }; /* counters a round; 4 words each */

/* word[w][l] is word w of counter first + l. */
static void draw(uint64_t key, uint64_t first, uint32_t word[4][LANES]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (uint32_t l = 0; l < LANES; l++) {
        word[0][l] = (uint32_t)(first + l);
        word[1][l] = (uint32_t)((first + l) >> 32);
        word[2][l] = word[3][l] = 0;
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * word[0][l];
            const uint64_t p1 = (uint64_t)0xCD9E8D57u * word[2][l];
            word[0][l] = (uint32_t)(p1 >> 32) ^ word[1][l] ^ k0;
            word[1][l] = (uint32_t)p1;
            word[2][l] = (uint32_t)(p0 >> 32) ^ word[3][l] ^ k1;
            word[3][l] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

void SIMD(dropout)(uint64_t key, uint64_t first, float p, const float *x, float *y, int64_t n) {
    const float kept = 1 - p;
    for (int64_t i = 0; i < n;) {
        uint32_t word[4][LANES], row[4 * LANES];
        const uint64_t at = first + (uint64_t)i;
        const int64_t skip = (int64_t)(at % 4);
        draw(key, at / 4, word);
        for (int l = 0; l < LANES; l++)
            for (int w = 0; w < 4; w++)
                row[4 * l + w] = word[w][l];
        const int64_t room = 4 * LANES - skip, m = n - i < room ? n - i : room;
#pragma omp simd
        for (int64_t k = 0; k < m; k++) {
            const float u = (float)(int32_t)(row[skip + k] >> 8) * 0x1p-24f;
            const float v = x[i + k] / kept;
            y[i + k] = u < p ? 0 : v;
        }
        i += m;
    }
}
