// float16 and bfloat16 as their bits, on the device by its own conversions, on the host by hand.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "blockcopy/index.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace blockcopy {

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

namespace number {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float widen(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -magnitude : magnitude;
  }
  if (exponent == 31) {
    return float_of(sign | 0x7f800000u | (fraction << 13));
  }
  return float_of(sign | ((exponent + 112) << 23) | (fraction << 13));
}

inline float widen(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline Float16 narrow_float16(float value) {
  const uint32_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return {static_cast<uint16_t>(sign | 0x7fffu)};
  }
  if (magnitude >= 0x477ff000u) {  // 65520 and more
    return {static_cast<uint16_t>(sign | 0x7c00u)};
  }
  if (magnitude < 0x38800000u) {  // below 2^-14: multiples of 2^-24
    const float scaled = std::nearbyint(std::ldexp(float_of(magnitude), 24));
    return {static_cast<uint16_t>(sign | static_cast<uint16_t>(scaled))};
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13))};
}

inline BFloat16 narrow_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {static_cast<uint16_t>(((bits >> 16) & 0x8000u) | 0x7fffu)};
  }
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace number

BLOCKCOPY_HOST_DEVICE float to_float(float value) { return value; }

BLOCKCOPY_HOST_DEVICE float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  return number::widen(value);
#endif
}

BLOCKCOPY_HOST_DEVICE float to_float(BFloat16 value) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
#else
  return number::widen(value);
#endif
}

template <typename Number>
BLOCKCOPY_HOST_DEVICE Number from_float(float value);

template <>
BLOCKCOPY_HOST_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
BLOCKCOPY_HOST_DEVICE Float16 from_float<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  return number::narrow_float16(value);
#endif
}

template <>
BLOCKCOPY_HOST_DEVICE BFloat16 from_float<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  return number::narrow_bfloat16(value);
#endif
}

BLOCKCOPY_HOST_DEVICE float reciprocal_root(float value) {
#if defined(__CUDA_ARCH__)
  return rsqrtf(value);
#else
  return 1.0f / std::sqrt(value);
#endif
}

}  // namespace blockcopy
