// Functions that are compiled for several processors, of which the loader picks one. This needs
// indirect functions: GCC and glibc.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define BLOCKCOPY_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BLOCKCOPY_CLONES
#endif
