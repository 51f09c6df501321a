// The softmax over classes of many pixels at a time, written so that compilers vectorise it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "blockcopy/clones.h"

namespace blockcopy {
namespace {

// exp(x) for x <= 0, to two units in the last place; below e^-87 the value of e^-87. Plain
// arithmetic, which a compiler can vectorise.
inline float exp_of(float x) {
  // A comparison of floats may trap, and is then not vectorised. For negative ones, the bits rise
  // as the numbers fall.
  uint32_t place;
  std::memcpy(&place, &x, sizeof(place));
  place = std::min(place, 0xC2AE0000U);  // -87
  std::memcpy(&x, &place, sizeof(x));
  // Added, this leaves x / ln 2 as an integer in the lowest bits.
  const float shifted = x * 1.44269504F + 12582912.0F;
  const float turns = shifted - 12582912.0F;
  const float rest = (x - turns * 0.693359375F) + turns * 2.12194440e-4F;
  float sum = 1.9875691500e-4F;
  sum = sum * rest + 1.3981999507e-3F;
  sum = sum * rest + 8.3334519073e-3F;
  sum = sum * rest + 4.1665795894e-2F;
  sum = sum * rest + 1.6666665459e-1F;
  sum = sum * rest + 5.0000001201e-1F;
  const float small = sum * rest * rest + rest + 1.0F;
  uint32_t bits, exponent;
  std::memcpy(&bits, &small, sizeof(bits));
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  bits += exponent << 23;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// log(x) for x >= 1, likewise.
inline float log_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  // The exponent, with the mantissa between 1 / sqrt 2 and sqrt 2.
  const uint32_t moved = bits - 0x3F3504F3U;
  const float exponent = static_cast<float>(static_cast<int32_t>(moved) >> 23);
  const uint32_t mantissa = (moved & 0x007FFFFFU) + 0x3F3504F3U;
  float m;
  std::memcpy(&m, &mantissa, sizeof(m));
  m -= 1.0F;
  float sum = 7.0376836292e-2F;
  sum = sum * m - 1.1514610310e-1F;
  sum = sum * m + 1.1676998740e-1F;
  sum = sum * m - 1.2420140846e-1F;
  sum = sum * m + 1.4249322787e-1F;
  sum = sum * m - 1.6668057665e-1F;
  sum = sum * m + 2.0000714765e-1F;
  sum = sum * m - 2.4999993993e-1F;
  sum = sum * m + 3.3333331174e-1F;
  const float square = m * m;
  const float near = sum * m * square - 2.12194440e-4F * exponent - 0.5F * square;
  return m + near + 0.693359375F * exponent;
}

// logits[c] -> log softmax over the classes, powers[c] -> e^(logits[c] - peak), totals -> the sum
// of these; `width` pixels each. finite[x] is 0 if all logits are finite. (Loops over a constant
// number of lanes would be unrolled before they are vectorised.)
BLOCKCOPY_CLONES void log_softmax(float* __restrict logits, float* __restrict powers,
                                  float* __restrict totals, float* __restrict finite,
                                  float* __restrict scratch, int64_t classes, int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    scratch[x] = logits[x];
    totals[x] = 0;
    finite[x] = 0;
  }
  for (int64_t c = 0; c < classes; ++c) {
    const float* __restrict row = logits + c * width;
    for (int64_t x = 0; x < width; ++x) {
      scratch[x] = row[x] > scratch[x] ? row[x] : scratch[x];
      finite[x] += row[x] * 0.0F;
    }
  }
  for (int64_t c = 0; c < classes; ++c) {
    float* __restrict row = logits + c * width;
    float* __restrict power = powers + c * width;
    for (int64_t x = 0; x < width; ++x) {
      const float below = row[x] - scratch[x];
      row[x] = below;
      power[x] = exp_of(below);
      totals[x] += power[x];
    }
  }
  for (int64_t x = 0; x < width; ++x) {
    scratch[x] = log_of(totals[x]);
  }
  for (int64_t c = 0; c < classes; ++c) {
    float* __restrict row = logits + c * width;
    for (int64_t x = 0; x < width; ++x) {
      row[x] -= scratch[x];
    }
  }
}

// sums[x] += powers[x] * (now[x] - before[x])
BLOCKCOPY_CLONES void add_divergence(float* __restrict sums, const float* __restrict powers,
                                     const float* __restrict now, const float* __restrict before,
                                     int64_t count) {
  for (int64_t x = 0; x < count; ++x) {
    sums[x] += powers[x] * (now[x] - before[x]);
  }
}

}  // namespace
}  // namespace blockcopy
