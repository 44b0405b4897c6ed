/* Philox4x32-10, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy
 * as 1, 2, 3"). A random number is a pure function of (key, counter): any rank, thread or order of
 * evaluation draws the same ones, and nothing has to be saved but the position. */
#ifndef DS_BASE_RNG_H
#define DS_BASE_RNG_H

#include <math.h>
#include <stdint.h>

typedef struct ds_philox_block {
    uint32_t word[4];
} ds_philox_block;

/* The four words that belong to (key, counter). */
static inline ds_philox_block ds_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_low, c1 = (uint32_t)(counter_low >> 32);
    uint32_t c2 = (uint32_t)counter_high, c3 = (uint32_t)(counter_high >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        const uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* the Weyl constants of the paper */
        k1 += 0xBB67AE85u;
    }
    return (ds_philox_block){{c0, c1, c2, c3}};
}

/* Uniform in [0, 1), 24 bits, exact in float. */
static inline float ds_uniform(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

/* Two independent standard normals from two words (Box and Muller 1958). */
static inline void ds_normal_pair(uint32_t a, uint32_t b, float out[2]) {
    const double radius = sqrt(-2.0 * log(((double)a + 1.0) * 0x1p-32));
    const double angle = 6.283185307179586 * ((double)b * 0x1p-32);
    out[0] = (float)(radius * cos(angle));
    out[1] = (float)(radius * sin(angle));
}

/* A well-mixed 64-bit key out of a seed and a name or number (splitmix64 finaliser). */
static inline uint64_t ds_mix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* FNV-1a hash of a zero-terminated name. */
static inline uint64_t ds_hash_name(const char *name) {
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    return h;
}

#endif
