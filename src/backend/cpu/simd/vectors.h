/* Vectors as wide as the registers of the instruction set that is being compiled for. */
#ifndef DS_CPU_VECTORS_H
#define DS_CPU_VECTORS_H

#include <stdint.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
/* The same in memory, aligned as one number is: read and written by plain assignment, which keeps
 * sums in registers where copies of bytes do not. */
typedef float floats_in_memory __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ints_in_memory __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Loops over rows are unrolled, so their number must be known where they are. */
#define INLINE static inline __attribute__((always_inline))

#endif
