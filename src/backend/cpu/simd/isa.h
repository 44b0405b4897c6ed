/* Names of the build at hand: each source here is compiled once per instruction set, with
 * DS_ISA defined as its suffix. */
#ifndef DS_CPU_ISA_H
#define DS_CPU_ISA_H

#define DS_PASTE2(a, b) a##_##b
#define DS_PASTE(a, b)  DS_PASTE2(a, b)
#define SIMD(name)      DS_PASTE(ds_simd_##name, DS_ISA)

#define DS_TEXT2(x) #x
#define DS_TEXT(x)  DS_TEXT2(x)

#endif
