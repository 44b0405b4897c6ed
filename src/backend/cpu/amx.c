/* Tile products of bf16 by AMX: eight registers of 16 rows of 64 bytes, and an instruction that
 * multiplies a tile of 16 × 32 by one of 32 × 16 (Intel SDM, volume 1, chapter 18). The right
 * operand is packed as [n/16][k/2][16][2], so that each of its tiles is 1 KB in a row. */
#include "backend/cpu/tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq")))

typedef struct __attribute__((packed, aligned(64))) tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

AMX static void begin(void) {
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    /* not _tile_loadconfig: gcc 12's tells the compiler of the first 8 bytes only, and the stores
     * to the others are dropped */
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

AMX static void end(void) {
    _tile_release();
}

/* Rows 2i and 2i+1 interleaved, 16 columns at a time. */
AMX static void pack_rows(const void *rows, int64_t stride, int64_t k, int64_t n, void *packed) {
    const uint16_t *from = rows;
    uint16_t *to = packed;
    uint16_t order[32];
    for (int i = 0; i < 16; i++) {
        order[2 * i] = (uint16_t)i;
        order[2 * i + 1] = (uint16_t)(32 + i);
    }
    const __m512i low = _mm512_loadu_si512(order);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t i = 0; i < k; i += 2)
        for (int64_t j = 0; j < n; j += 32) {
            const __m512i a = _mm512_loadu_si512(from + i * stride + j);
            const __m512i b = _mm512_loadu_si512(from + (i + 1) * stride + j);
            uint16_t *out = to + j * k + i * 16;
            _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
            _mm512_storeu_si512(out + 16 * k, _mm512_permutex2var_epi16(a, high, b));
        }
}

/* Columns hold pairs of k already: 16 × 16 pairs are turned. */
AMX static void pack_columns(const void *columns, int64_t stride, int64_t k, int64_t n,
                             void *packed) {
    const uint16_t *from = columns;
    uint16_t *to = packed;
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i offsets = _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)(stride / 2)));
    for (int64_t j = 0; j < n; j += 16)
        for (int64_t i = 0; i < k; i += 2) {
            const __m512i pairs = _mm512_i32gather_epi32(offsets, from + j * stride + i, 4);
            _mm512_storeu_si512(to + j * k + i * 16, pairs);
        }
}

/* 32 × 32 of c in four tiles; m may end with half of that. */
AMX static void block_2x2(const uint16_t *a, int64_t a_stride, const uint16_t *b, float *c,
                          int64_t c_stride, int64_t k, bool accumulate) {
    const int64_t a_bytes = a_stride * 2, c_bytes = c_stride * 4;
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + 16, c_bytes);
        _tile_loadd(2, c + 16 * c_stride, c_bytes);
        _tile_loadd(3, c + 16 * c_stride + 16, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < k; i += 32) {
        _tile_loadd(4, a + i, a_bytes);
        _tile_loadd(6, b + i * 16, 64);
        _tile_loadd(7, b + (k + i) * 16, 64);
        _tile_loadd(5, a + 16 * a_stride + i, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    _tile_stored(2, c + 16 * c_stride, c_bytes);
    _tile_stored(3, c + 16 * c_stride + 16, c_bytes);
}

AMX static void block_1x2(const uint16_t *a, int64_t a_stride, const uint16_t *b, float *c,
                          int64_t c_stride, int64_t k, bool accumulate) {
    const int64_t a_bytes = a_stride * 2, c_bytes = c_stride * 4;
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + 16, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    for (int64_t i = 0; i < k; i += 32) {
        _tile_loadd(4, a + i, a_bytes);
        _tile_loadd(6, b + i * 16, 64);
        _tile_loadd(7, b + (k + i) * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
}

AMX static void multiply(const void *a, int64_t a_stride, const void *b, float *c, int64_t c_stride,
                         int64_t m, int64_t n, int64_t k, bool accumulate) {
    for (int64_t j = 0; j < n; j += 32) {
        const uint16_t *panel = (const uint16_t *)b + j * k;
        int64_t i = 0;
        for (; i + 32 <= m; i += 32)
            block_2x2((const uint16_t *)a + i * a_stride, a_stride, panel, c + i * c_stride + j,
                      c_stride, k, accumulate);
        if (i < m)
            block_1x2((const uint16_t *)a + i * a_stride, a_stride, panel, c + i * c_stride + j,
                      c_stride, k, accumulate);
    }
}

static const ds_tiles tiles = {.dtype = DS_BF16,
                               .pack_rows = pack_rows,
                               .pack_columns = pack_columns,
                               .multiply = multiply,
                               .begin = begin,
                               .end = end};

static bool usable;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* CPUID leaf 7 says whether the processor has it; the system must also be asked for the 8 KB of
 * state per thread (Linux, Documentation/arch/x86/xstate.rst). */
static void ask(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    enum { HAS_BF16 = 1 << 22, HAS_TILES = 1 << 24 };
    unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    if (!(edx & HAS_BF16) || !(edx & HAS_TILES) || !__builtin_cpu_supports("avx512bw"))
        return;
    usable = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

const ds_tiles *ds_tiles_amx(void) {
    pthread_once(&once, ask);
    return usable ? &tiles : NULL;
}

#else

const ds_tiles *ds_tiles_amx(void) {
    return NULL;
}

#endif
