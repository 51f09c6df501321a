// Floating point values as kernels load, compute with and store them, on host and device.
//
// A 16-bit value is represented by its bits: neither PyTorch nor CUDA headers are needed. On a
// device the conversions of float16 are one instruction each; on the host they are written out.
#pragma once

#include <cstdint>
#include <cstring>

#include "blockcopy/index.h"
#include "blockcopy/lanes.h"

#if defined(__CUDACC__)
#define BLOCKCOPY_UNROLL _Pragma("unroll")
#define BLOCKCOPY_UNROLL_4 _Pragma("unroll 4")
#else
#define BLOCKCOPY_UNROLL
#define BLOCKCOPY_UNROLL_4
#endif

namespace blockcopy {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

BLOCKCOPY_HOST_DEVICE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

BLOCKCOPY_HOST_DEVICE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

BLOCKCOPY_HOST_DEVICE float widen(float value) { return value; }
BLOCKCOPY_HOST_DEVICE double widen(double value) { return value; }
BLOCKCOPY_HOST_DEVICE float widen(BFloat value) {
  return float_of_bits(static_cast<uint32_t>(value.bits) << 16);
}
BLOCKCOPY_HOST_DEVICE float widen(Half value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = (value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 31u, mantissa = value.bits & 0x3ffu;
  if (exponent == 0) {
    const float small = static_cast<float>(mantissa) * (1.0F / 16777216.0F);
    return sign ? -small : small;
  }
  return float_of_bits(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) |
                       (mantissa << 13));
#endif
}

// To the nearest, ties to even; NaN stays NaN.
BLOCKCOPY_HOST_DEVICE void narrow(float value, float& to) { to = value; }
BLOCKCOPY_HOST_DEVICE void narrow(double value, double& to) { to = value; }
BLOCKCOPY_HOST_DEVICE void narrow(float value, BFloat& to) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>(value == value ? rounded : 0x7fc0u);
}
BLOCKCOPY_HOST_DEVICE void narrow(float value, Half& to) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
#else
  const uint32_t bits = bits_of_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  uint32_t half;
  if (size > 0x7f800000u) {
    half = 0x7fffu;
  } else if (size >= 0x477ff000u) {  // 65520 and more
    half = 0x7c00u;
  } else if (size < 0x38800000u) {  // below 2^-14: in steps of 2^-24, those of floats around 0.5
    half = bits_of_float(float_of_bits(size) + 0.5F) - 0x3f000000u;
  } else {
    half = (size + 0xfffu + ((size >> 13) & 1u) - 0x38000000u) >> 13;
  }
  to.bits = static_cast<uint16_t>(sign | half);
#endif
}

// The type in which sums of a type of value are computed.
template <typename Value>
struct WorkOf {
  using type = float;
};
template <>
struct WorkOf<double> {
  using type = double;
};

BLOCKCOPY_HOST_DEVICE bool is_finite(float value) { return value - value == 0; }
BLOCKCOPY_HOST_DEVICE bool is_finite(double value) { return value - value == 0; }

template <typename Value, typename Vector>
struct Values {
  static constexpr int kCount = sizeof(Vector) / sizeof(Value);
  static_assert(sizeof(Vector) % sizeof(Value) == 0, "a vector must hold whole values");
  Value value[kCount];
};

// Reinterprets the bytes of one type as another: a value of a type from its bits.
template <typename To, typename From>
BLOCKCOPY_HOST_DEVICE To from_bits(From bits) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The type as which a vector's memory is loaded and stored: whole words. Copying bytes would let
// the compiler split a load.
template <typename Vector>
struct WordsOf {
  Vector word[1];
};
template <int Count>
struct WordsOf<Words32<Count>> {
  uint32_t word[Count];
};

template <typename Vector>
BLOCKCOPY_HOST_DEVICE WordsOf<Vector> words_of(Vector vector) {
  return {{vector}};
}
template <int Count>
BLOCKCOPY_HOST_DEVICE WordsOf<Words32<Count>> words_of(Words32<Count> vector) {
  WordsOf<Words32<Count>> words;
  BLOCKCOPY_UNROLL
  for (int i = 0; i < Count; ++i) {
    words.word[i] = vector.word[i];
  }
  return words;
}

// Little-endian, like all hosts and devices of CUDA.
template <typename Value, typename Vector>
BLOCKCOPY_HOST_DEVICE Values<Value, Vector> unpack(Vector vector) {
  Values<Value, Vector> values;
  const WordsOf<Vector> words = words_of(vector);
  BLOCKCOPY_UNROLL
  for (int i = 0; i < Values<Value, Vector>::kCount; ++i) {
    if constexpr (sizeof(Value) == 2) {
      constexpr int kOfWord = sizeof(words.word[0]) / 2;
      values.value[i].bits =
          static_cast<uint16_t>(words.word[i / kOfWord] >> (16 * (i % kOfWord)));
    } else if constexpr (sizeof(Value) == 4) {
      values.value[i] = from_bits<Value>(words.word[i]);
    } else {
      values.value[i] = from_bits<Value>(static_cast<uint64_t>(words.word[2 * i]) |
                                         static_cast<uint64_t>(words.word[2 * i + 1]) << 32);
    }
  }
  return values;
}

template <typename Vector, typename Value>
BLOCKCOPY_HOST_DEVICE Vector pack(const Values<Value, Vector>& values) {
  constexpr int kCount = Values<Value, Vector>::kCount;
  if constexpr (sizeof(Vector) <= 2) {
    return values.value[0].bits;
  } else if constexpr (sizeof(Vector) == 4 && sizeof(Value) == 4) {
    return from_bits<uint32_t>(values.value[0]);
  } else if constexpr (sizeof(Vector) == 4) {
    return values.value[0].bits | static_cast<uint32_t>(values.value[1].bits) << 16;
  } else {
    Vector vector;
    BLOCKCOPY_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if constexpr (sizeof(Value) == 2) {
        if (i % 2 == 0) {
          vector.word[i / 2] =
              values.value[i].bits | static_cast<uint32_t>(values.value[i + 1].bits) << 16;
        }
      } else if constexpr (sizeof(Value) == 4) {
        vector.word[i] = from_bits<uint32_t>(values.value[i]);
      } else {
        const uint64_t bits = from_bits<uint64_t>(values.value[i]);
        vector.word[2 * i] = static_cast<uint32_t>(bits);
        vector.word[2 * i + 1] = static_cast<uint32_t>(bits >> 32);
      }
    }
    return vector;
  }
}

BLOCKCOPY_HOST_DEVICE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
BLOCKCOPY_HOST_DEVICE int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }

// The dtypes of kernels that compute with values.
enum class ValueType { kFloat, kDouble, kHalf, kBFloat };

inline int64_t bytes_of(ValueType type) {
  return type == ValueType::kDouble ? 8 : type == ValueType::kFloat ? 4 : 2;
}

// Calls f with a value of the type and one of the vector that has this many bytes; never fewer than
// the value has.
template <typename Value, typename Function>
void with_vector(int64_t bytes, const Function& f) {
  if (bytes >= 16) {
    return f(Value{}, Words32<4>{});
  }
  if (bytes >= 8) {
    return f(Value{}, Words32<2>{});
  }
  if constexpr (sizeof(Value) <= 4) {
    if (bytes >= 4) {
      return f(Value{}, uint32_t{});
    }
  }
  if constexpr (sizeof(Value) <= 2) {
    return f(Value{}, uint16_t{});
  }
}

template <typename Function>
void with_values(ValueType type, int64_t bytes, const Function& f) {
  switch (type) {
    case ValueType::kFloat:
      return with_vector<float>(bytes, f);
    case ValueType::kDouble:
      return with_vector<double>(bytes, f);
    case ValueType::kHalf:
      return with_vector<Half>(bytes, f);
    default:
      return with_vector<BFloat>(bytes, f);
  }
}

}  // namespace blockcopy
