// The convolution kernels with AVX2 and FMA.
#include "problem.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define BLOCKCOPY_INLINE inline __attribute__((always_inline))
#define BLOCKCOPY_LAMBDA __attribute__((always_inline))

// Everything from here on is compiled for other processors than the one that compiles it.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace blockcopy {
namespace {

#include "avx2.inc"

#include "kernels.inc"

constexpr ConvKernels kKernels = make_kernels("avx2");

}  // namespace

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const ConvKernels* conv_kernels_avx2() {
  const bool there =
         __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma");
  return there ? &kKernels : nullptr;
}

}  // namespace blockcopy

#else

namespace blockcopy {
const ConvKernels* conv_kernels_avx2() { return nullptr; }
}  // namespace blockcopy

#endif
