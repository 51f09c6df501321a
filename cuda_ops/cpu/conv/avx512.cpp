// The convolution kernels with AVX-512.
#include "problem.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define BLOCKCOPY_INLINE inline __attribute__((always_inline))
#define BLOCKCOPY_LAMBDA __attribute__((always_inline))

// Everything from here on is compiled for other processors than the one that compiles it.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif

namespace blockcopy {
namespace {

#include "avx512.inc"

#include "kernels.inc"

constexpr ConvKernels kKernels = make_kernels("avx512");

}  // namespace

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const ConvKernels* conv_kernels_avx512() {
  const bool there =
         __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
  return there ? &kKernels : nullptr;
}

}  // namespace blockcopy

#else

namespace blockcopy {
const ConvKernels* conv_kernels_avx512() { return nullptr; }
}  // namespace blockcopy

#endif
