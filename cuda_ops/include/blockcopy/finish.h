// The work of one GPU thread in blockcopy::finish_conv_, as a plain function of its number.
//
// The sums of a convolution are stored channels last: pixels of `channels` values. A thread takes
// one vector of every `strips`-th pixel, so that it reads the values of its channels once; threads
// side by side take vectors side by side. A test runs all "threads" on the host.
#pragma once

#include <cmath>

#include "blockcopy/values.h"

namespace blockcopy {

struct FinishGeometry {
  int64_t pixels;
  int64_t channels;
  int64_t strips;
};

// Per channel; null if there is none. A norm's mean and variance are given together.
template <typename Value, typename Norm>
struct FinishVectors {
  const Value* bias;
  const Norm* weight;
  const Norm* beta;
  const Norm* mean;
  const Norm* variance;
  float eps;
  float low;
  float high;
};

// As void pointers: `norm` tells whether the norm's vectors are float or of the sums' type.
struct FinishCall {
  ValueType type;
  bool wide_norm;
  int64_t pixels;
  int64_t channels;
  void* sums;
  const void* residual;
  FinishVectors<void, void> vectors;
};

// Half of the threads of a large GPU: with more, each would reuse its channel values for fewer
// pixels.
constexpr int64_t kFinishBusyThreads = 131072;

// The distance between a thread's pixels: as many threads as the GPU runs, no more than pixels.
inline int64_t finish_strips(int64_t pixels, int64_t vectors_of_pixel) {
  return least(ceil_div(kFinishBusyThreads, vectors_of_pixel), pixels);
}

BLOCKCOPY_HOST_DEVICE float reciprocal_root(float value) {
#if defined(__CUDA_ARCH__)
  return rsqrtf(value);
#else
  return 1.0F / std::sqrt(value);
#endif
}

// Values of `Count` channels, `otherwise` if there are none; by wide loads if the layout allows.
template <int Count, typename Value>
BLOCKCOPY_HOST_DEVICE void load_channels(const Value* from, float otherwise, float* to) {
  using Wide = Words32<4>;
  constexpr int kOfWide = sizeof(Wide) / sizeof(Value);
  if (from == nullptr) {
    BLOCKCOPY_UNROLL
    for (int i = 0; i < Count; ++i) {
      to[i] = otherwise;
    }
    return;
  }
  if constexpr (Count % kOfWide == 0) {
    if (reinterpret_cast<uintptr_t>(from) % sizeof(Wide) == 0) {
      BLOCKCOPY_UNROLL
      for (int i = 0; i < Count; i += kOfWide) {
        const auto found = unpack<Value>(*reinterpret_cast<const Wide*>(from + i));
        BLOCKCOPY_UNROLL
        for (int j = 0; j < kOfWide; ++j) {
          to[i + j] = widen(found.value[j]);
        }
      }
      return;
    }
  }
  BLOCKCOPY_UNROLL
  for (int i = 0; i < Count; ++i) {
    to[i] = widen(from[i]);
  }
}

template <typename Vector, typename Value, typename Norm>
BLOCKCOPY_HOST_DEVICE void finish_thread(const FinishGeometry& g,
                                         const FinishVectors<Value, Norm>& v, Value* sums,
                                         const Value* residual, int64_t thread) {
  constexpr int kCount = Values<Value, Vector>::kCount;
  const int64_t vectors = g.channels / kCount;
  const int64_t strip = thread / vectors;
  if (strip >= g.strips) {
    return;
  }
  const int64_t first = (thread - strip * vectors) * kCount;
  const auto of = [&](auto* vector) { return vector == nullptr ? vector : vector + first; };
  float scale[kCount];
  float shift[kCount];
  load_channels<kCount>(of(v.bias), 0.0F, shift);
  load_channels<kCount>(of(v.weight), 1.0F, scale);
  if (v.mean != nullptr) {
    float mean[kCount];
    float variance[kCount];
    float beta[kCount];
    load_channels<kCount>(of(v.mean), 0.0F, mean);
    load_channels<kCount>(of(v.variance), 1.0F, variance);
    load_channels<kCount>(of(v.beta), 0.0F, beta);
    BLOCKCOPY_UNROLL
    for (int i = 0; i < kCount; ++i) {
      scale[i] *= reciprocal_root(variance[i] + v.eps);
      shift[i] = (shift[i] - mean[i]) * scale[i] + beta[i];
    }
  }
  for (int64_t pixel = strip; pixel < g.pixels; pixel += g.strips) {
    const int64_t place = pixel * g.channels + first;
    auto* target = reinterpret_cast<Vector*>(sums + place);
    auto found = unpack<Value>(*target);
    Values<Value, Vector> added = {};
    if (residual != nullptr) {
      added = unpack<Value>(*reinterpret_cast<const Vector*>(residual + place));
    }
    BLOCKCOPY_UNROLL
    for (int i = 0; i < kCount; ++i) {
      float value = widen(found.value[i]) * scale[i] + shift[i];
      if (residual != nullptr) {
        value += widen(added.value[i]);
      }
      // Each comparison is false for NaN, which is kept.
      value = value < v.low ? v.low : value;
      value = value > v.high ? v.high : value;
      narrow(value, found.value[i]);
    }
    *target = pack<Vector>(found);
  }
}

// Calls f with a value of the sums' type, one of the norm's and one of the vector that fits.
template <typename Function>
void with_finish(const FinishCall& call, const Function& f) {
  const int64_t bytes =
      vector_bytes(call.channels * bytes_of(call.type), call.sums, call.residual);
  with_values(call.type, bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    if constexpr (sizeof(Value) == 2) {
      if (!call.wide_norm) {
        return f(value, value, vector);
      }
    }
    if constexpr (sizeof(Value) <= 4) {
      f(value, float{}, vector);
    }
  });
}

template <typename Value, typename Norm>
FinishVectors<Value, Norm> finish_vectors(const FinishCall& call) {
  const auto& v = call.vectors;
  return {static_cast<const Value*>(v.bias), static_cast<const Norm*>(v.weight),
          static_cast<const Norm*>(v.beta),  static_cast<const Norm*>(v.mean),
          static_cast<const Norm*>(v.variance), v.eps, v.low, v.high};
}

// The geometry for vectors of `count` values.
inline FinishGeometry finish_geometry(const FinishCall& call, int64_t count) {
  return {call.pixels, call.channels, finish_strips(call.pixels, call.channels / count)};
}

}  // namespace blockcopy
