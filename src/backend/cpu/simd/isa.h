/* Names of the build at hand: each source here is compiled once per instruction set, with
 * DS_ISA defined as its suffix. */
#ifndef DS_CPU_ISA_H
#define DS_CPU_ISA_H

#define DS_PASTE2(a, b) a##_##b
#define DS_PASTE(a, b)  DS_PASTE2(a, b)
#define SIMD(name)      DS_PASTE(ds_simd_##name, DS_ISA)

/* The block of c that stays in registers (strips.c): 24, 12 or 12 vectors of sums. */
#if defined(__AVX512F__)
#define SIMD_STRIP_ROWS    12
#define SIMD_STRIP_COLUMNS 32
#elif defined(__AVX2__)
#define SIMD_STRIP_ROWS    6
#define SIMD_STRIP_COLUMNS 16
#else
#define SIMD_STRIP_ROWS    6
#define SIMD_STRIP_COLUMNS 8
#endif
#define SIMD_STRIP_MOST 32

#define DS_TEXT2(x) #x
#define DS_TEXT(x)  DS_TEXT2(x)

#endif
