// What one GPU thread does of blockcopy::finish_conv_, as a plain function of its number.
//
// The sums of a convolution lie channels last: pixels of `channels` values. A thread takes `Width`
// channels of every `strips`-th pixel, so that it reads what belongs to the channels once; threads
// side by side take channels side by side. A test runs all "threads" on the host.
#pragma once

#include "blockcopy/index.h"
#include "blockcopy/number.h"

namespace blockcopy {

struct FinishGeometry {
  int64_t pixels;
  int64_t channels;
  int64_t strips;
};

// Per channel; null where there is none. Of the norm, mean and variance are there together.
template <typename Number, typename Norm>
struct FinishVectors {
  const Number* bias;
  const Norm* weight;
  const Norm* beta;
  const Norm* mean;
  const Norm* variance;
  float eps;
  float low;
  float high;
};

constexpr int64_t kFinishThreads = 256;  // of a block
// Half of what a large GPU runs at a time: more would each do less with what belongs to channels.
constexpr int64_t kFinishBusyThreads = 131072;

// So many pixels apart are those of a thread: as many threads as the GPU runs, no more than pixels.
inline int64_t finish_strips(int64_t pixels, int64_t groups) {
  const int64_t wanted = ceil_div(kFinishBusyThreads, groups);
  return wanted < pixels ? wanted : pixels;
}

// Widest number of values (8 to 1) that divides a pixel and that both addresses are aligned for.
inline int finish_width(int64_t channels, int64_t value_bytes, const void* a, const void* b) {
  const uint64_t bits = static_cast<uint64_t>(channels * value_bytes) |
                        reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | 16u;
  const uint64_t bytes = bits & (~bits + 1);  // lowest bit set
  return static_cast<int>(bytes / static_cast<uint64_t>(value_bytes));
}

// 16 bytes at most are loaded by one instruction.
template <typename Number, int Width>
struct alignas(sizeof(Number) * Width < 16 ? sizeof(Number) * Width : 16) Values {
  Number value[Width];
};

// Values of `Width` channels, `otherwise` where there are none; by one load where they lie so.
template <int Width, typename Number>
BLOCKCOPY_HOST_DEVICE void load_channels(const Number* from, int64_t first, float otherwise,
                                         float* to) {
  using Vector = Values<Number, Width>;
  if (from == nullptr) {
    for (int i = 0; i < Width; ++i) {
      to[i] = otherwise;
    }
  } else if (reinterpret_cast<uintptr_t>(from + first) % alignof(Vector) == 0) {
    const Vector found = *reinterpret_cast<const Vector*>(from + first);
    for (int i = 0; i < Width; ++i) {
      to[i] = to_float(found.value[i]);
    }
  } else {
    for (int i = 0; i < Width; ++i) {
      to[i] = to_float(from[first + i]);
    }
  }
}

template <int Width, typename Number, typename Norm>
BLOCKCOPY_HOST_DEVICE void finish_thread(const FinishGeometry& g,
                                         const FinishVectors<Number, Norm>& v, Number* sums,
                                         const Number* residual, int64_t thread) {
  const int64_t groups = g.channels / Width;
  const int64_t strip = thread / groups;
  if (strip >= g.strips) {
    return;
  }
  const int64_t first = (thread - strip * groups) * Width;
  float scale[Width];
  float shift[Width];
  load_channels<Width>(v.bias, first, 0.0f, shift);
  load_channels<Width>(v.weight, first, 1.0f, scale);
  if (v.mean != nullptr) {
    float mean[Width];
    float variance[Width];
    float beta[Width];
    load_channels<Width>(v.mean, first, 0.0f, mean);
    load_channels<Width>(v.variance, first, 1.0f, variance);
    load_channels<Width>(v.beta, first, 0.0f, beta);
    for (int i = 0; i < Width; ++i) {
      scale[i] *= reciprocal_root(variance[i] + v.eps);
      shift[i] = (shift[i] - mean[i]) * scale[i] + beta[i];
    }
  }
  using Vector = Values<Number, Width>;
  for (int64_t pixel = strip; pixel < g.pixels; pixel += g.strips) {
    const int64_t place = pixel * g.channels + first;
    Vector found = *reinterpret_cast<const Vector*>(sums + place);
    Vector added = {};
    if (residual != nullptr) {
      added = *reinterpret_cast<const Vector*>(residual + place);
    }
    for (int i = 0; i < Width; ++i) {
      float value = to_float(found.value[i]) * scale[i] + shift[i];
      if (residual != nullptr) {
        value += to_float(added.value[i]);
      }
      // Each comparison is false for NaN, which stays.
      value = value < v.low ? v.low : value;
      value = value > v.high ? v.high : value;
      found.value[i] = from_float<Number>(value);
    }
    *reinterpret_cast<Vector*>(sums + place) = found;
  }
}

}  // namespace blockcopy
