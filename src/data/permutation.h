/* A permutation of 0 … n-1 that is computed, not stored: a Feistel network over the smallest even
 * number of bits that holds n, walked until it lands inside (Black & Rogaway 2002). */
#ifndef DS_DATA_PERMUTATION_H
#define DS_DATA_PERMUTATION_H

#include "base/rng.h"

static inline uint64_t ds_permute(uint64_t key, uint64_t i, uint64_t n) {
    enum {
        ROUNDS = 8
    }; /* 4 are proven for wide halves (Luby & Rackoff 1988); with 4, narrow
          ones fail a chi-squared test for n = 5 and 10 */
    int half = 1;
    while (half < 31 && (UINT64_C(1) << (2 * half)) < n)
        half++;
    const uint64_t mask = (UINT64_C(1) << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (int round = 0; round < ROUNDS; round++) {
            const uint64_t mixed =
                left ^ (ds_mix64(key + (uint64_t)round * 0x632BE59BD9B4E019u + right) & mask);
            left = right;
            right = mixed;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

#endif
