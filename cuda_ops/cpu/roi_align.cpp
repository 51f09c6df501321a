// blockcopy::roi_align on CPU: for a channels-last map, one region at a time.
//
// A bin is the mean of samples on a grid, each interpolated between four pixels; this factors into
// rows and columns. Each side of a bin therefore has a short list of pixels with one weight each,
// and every pixel of the bin is read once, whatever the number of samples.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace blockcopy {
namespace {

constexpr int64_t kTile = 16;   // channels that are written together
constexpr float kMost = 1e9f;   // samples of a bin along a side, of a region without an end

#if defined(__GNUC__)
#define BLOCKCOPY_VECTORS
#define BLOCKCOPY_INLINE inline __attribute__((always_inline))
constexpr int kLanes = 16;
using Lanes = float __attribute__((vector_size(4 * kLanes)));
using WideLanes = uint32_t __attribute__((vector_size(4 * kLanes)));
using HalfLanes = uint16_t __attribute__((vector_size(2 * kLanes)));
#else
#define BLOCKCOPY_INLINE inline
#endif

struct Pixel {
  int32_t place;
  float weight;
};

// One side of a region: for each bin the pixels that it reads, in order, and its number of samples.
struct Side {
  void look(float start, float length, int64_t bins, int64_t sampling, int64_t pixels) {
    ends.clear();
    entries.clear();
    const float bin = length / static_cast<float>(bins);
    samples = sampling > 0 ? sampling : static_cast<int64_t>(std::min(std::ceil(bin), kMost));
    for (int64_t b = 0; b < bins; ++b) {
      if (samples > 0) {
        look_bin(start + static_cast<float>(b) * bin, bin, pixels);
      }
      ends.push_back(entries.size());
    }
  }

  std::vector<Pixel> entries;
  std::vector<size_t> ends;  // of each bin's entries
  int64_t samples = 0;

 private:
  void look_bin(float start, float bin, int64_t pixels) {
    const size_t begin = entries.size();
    const float count = static_cast<float>(samples), last = static_cast<float>(pixels);
    // Samples that certainly lie outside are not visited: a region may have any size.
    const float step = bin / count;
    const float first_near = step > 0 ? std::floor((-2.0f - start) / step) : 0.0f;
    const float last_near = step > 0 ? std::ceil((last + 1.0f - start) / step) : count;
    const int64_t from = static_cast<int64_t>(std::clamp(first_near, 0.0f, count));
    const int64_t to = std::min(samples, static_cast<int64_t>(std::clamp(last_near, 0.0f, count)));
    for (int64_t i = from; i < to; ++i) {
      float at = start + (static_cast<float>(i) + 0.5f) * bin / count;
      if (!(at >= -1.0f && at <= last)) {
        continue;
      }
      at = std::max(at, 0.0f);
      int32_t low = static_cast<int32_t>(at), high = low + 1;
      float beyond = at - static_cast<float>(low);
      if (high >= pixels) {
        low = high = static_cast<int32_t>(pixels) - 1;
        beyond = 0.0f;
      }
      add(begin, low, 1.0f - beyond);
      add(begin, high, beyond);
    }
  }

  // Places come in order, except for one step back from the upper pixel of a sample to the lower
  // one of the next.
  void add(size_t begin, int32_t place, float weight) {
    if (weight == 0.0f) {
      return;
    }
    for (size_t i = entries.size(); i > begin && i + 2 > entries.size(); --i) {
      if (entries[i - 1].place == place) {
        entries[i - 1].weight += weight;
        return;
      }
    }
    entries.push_back({place, weight});
  }
};

inline float widen(float value) { return value; }

inline float widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

#if defined(BLOCKCOPY_VECTORS)
template <typename T>
BLOCKCOPY_INLINE void load(const T* from, Lanes& lanes) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(&lanes, from, sizeof lanes);
  } else {
    HalfLanes bits;
    std::memcpy(&bits, from, sizeof bits);
    const WideLanes wide = __builtin_convertvector(bits, WideLanes) << 16;
    std::memcpy(&lanes, &wide, sizeof lanes);
  }
}

// Sums of Vectors * kLanes channels, which stay in registers.
template <int Vectors, typename T>
BLOCKCOPY_INLINE void sum_vectors(const T* const* pixels, const float* weights, size_t count,
                                  int64_t first, float* out) {
  Lanes sums[Vectors] = {};
  for (size_t i = 0; i < count; ++i) {
    for (int v = 0; v < Vectors; ++v) {
      Lanes lanes;
      load(pixels[i] + first + v * kLanes, lanes);
      sums[v] += weights[i] * lanes;
    }
  }
  std::memcpy(out + first, sums, sizeof sums);
}
#endif

template <typename T>
BLOCKCOPY_INLINE void sum_pixels(const T* const* pixels, const float* weights, size_t count,
                                 int64_t channels, float* out) {
  int64_t c = 0;
#if defined(BLOCKCOPY_VECTORS)
  for (; c + 8 * kLanes <= channels; c += 8 * kLanes) {
    sum_vectors<8>(pixels, weights, count, c, out);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    sum_vectors<1>(pixels, weights, count, c, out);
  }
#endif
  for (; c < channels; ++c) {
    float sum = 0.0f;
    for (size_t i = 0; i < count; ++i) {
      sum += weights[i] * widen(pixels[i][c]);
    }
    out[c] = sum;
  }
}

BLOCKCOPY_CLONES void sum_bin(const float* const* pixels, const float* weights, size_t count,
                              int64_t channels, float* out) {
  sum_pixels(pixels, weights, count, channels, out);
}

BLOCKCOPY_CLONES void sum_bin(const uint16_t* const* pixels, const float* weights, size_t count,
                              int64_t channels, float* out) {
  sum_pixels(pixels, weights, count, channels, out);
}

// From bins of channels to channels of bins.
template <typename Out>
void write(const float* sums, int64_t bins, int64_t channels, Out* out) {
  for (int64_t first = 0; first < channels; first += kTile) {
    const int64_t end = std::min(first + kTile, channels);
    for (int64_t b = 0; b < bins; ++b) {
      for (int64_t c = first; c < end; ++c) {
        out[c * bins + b] = static_cast<Out>(sums[b * channels + c]);
      }
    }
  }
}

struct Geometry {
  int64_t channels, height, width, rows, columns, sampling;
  float scale;
  bool aligned;
};

// T: the type as the kernel reads a value, Out: as it is written.
template <typename T, typename Out>
void align(const Geometry& g, const T* map, const float* rois, int64_t begin, int64_t end,
           Out* out) {
  const int64_t bins = g.rows * g.columns;
  Side down, across;
  std::vector<const T*> pixels;
  std::vector<float> weights, sums(bins * g.channels);
  for (int64_t k = begin; k < end; ++k) {
    const float* roi = rois + 5 * k;
    const float offset = g.aligned ? 0.5f : 0.0f;
    const float left = roi[1] * g.scale - offset, top = roi[2] * g.scale - offset;
    float width = roi[3] * g.scale - offset - left, height = roi[4] * g.scale - offset - top;
    if (!g.aligned) {
      width = std::max(width, 1.0f);
      height = std::max(height, 1.0f);
    }
    Out* const target = out + k * g.channels * bins;
    if (!(std::isfinite(left) && std::isfinite(top) && std::isfinite(width) &&
          std::isfinite(height))) {
      std::fill(target, target + g.channels * bins, static_cast<Out>(0.0f));
      continue;
    }
    down.look(top, height, g.rows, g.sampling, g.height);
    across.look(left, width, g.columns, g.sampling, g.width);
    const float count = std::max(
        static_cast<float>(down.samples) * static_cast<float>(across.samples), 1.0f);
    const T* image = map + static_cast<int64_t>(roi[0]) * g.height * g.width * g.channels;
    for (int64_t r = 0, row = 0; r < g.rows; row = down.ends[r++]) {
      for (int64_t c = 0, column = 0; c < g.columns; column = across.ends[c++]) {
        pixels.clear();
        weights.clear();
        for (size_t y = row; y < down.ends[r]; ++y) {
          const T* line = image + down.entries[y].place * g.width * g.channels;
          for (size_t x = column; x < across.ends[c]; ++x) {
            pixels.push_back(line + across.entries[x].place * g.channels);
            weights.push_back(down.entries[y].weight * across.entries[x].weight / count);
          }
        }
        sum_bin(pixels.data(), weights.data(), pixels.size(), g.channels,
                sums.data() + (r * g.columns + c) * g.channels);
      }
    }
    write(sums.data(), bins, g.channels, target);
  }
}

at::Tensor roi_align_cpu(const at::Tensor& map_, const at::Tensor& rois_, at::IntArrayRef size,
                         double scale, int64_t sampling, bool aligned) {
  check_no_grad("roi_align", map_.requires_grad() || rois_.requires_grad());
  TORCH_CHECK_VALUE(map_.dim() == 4 && rois_.dim() == 2 && rois_.size(1) == 5,
                    "blockcopy::roi_align: map has shape ", map_.sizes(), " and rois ",
                    rois_.sizes(), ", expected (N, C, H, W) and (K, 5)");
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] > 0 && size[1] > 0,
                    "blockcopy::roi_align: size is ", size, ", expected rows and columns above 0");
  TORCH_CHECK_TYPE((map_.scalar_type() == at::kFloat || map_.scalar_type() == at::kBFloat16) &&
                       rois_.scalar_type() == at::kFloat,
                   "blockcopy::roi_align: map has dtype ", map_.scalar_type(), " and rois ",
                   rois_.scalar_type(),
                   ", expected torch.float32 or torch.bfloat16, and torch.float32");
  const at::Tensor map = map_.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor rois = rois_.contiguous();
  const Geometry g{map.size(1), map.size(2), map.size(3), size[0], size[1], sampling,
                   static_cast<float>(scale), aligned};
  const int64_t count = rois.size(0);
  const float* regions = rois.const_data_ptr<float>();
  for (int64_t k = 0; k < count; ++k) {
    const float image = regions[5 * k];
    TORCH_CHECK_INDEX(image >= 0 && image < static_cast<float>(map.size(0)),
                      "blockcopy::roi_align: roi ", k, " is of image ", image, ", expected 0 to ",
                      map.size(0) - 1);
  }
  at::Tensor out = at::empty({count, g.channels, g.rows, g.columns},
                             map.options().memory_format(at::MemoryFormat::Contiguous));
  if (out.numel() == 0) {
    return out;
  }
  if (map.numel() == 0) {
    return out.zero_();
  }
  at::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
    if (map.scalar_type() == at::kFloat) {
      align(g, map.const_data_ptr<float>(), regions, begin, end, out.mutable_data_ptr<float>());
    } else {
      align(g, static_cast<const uint16_t*>(map.const_data_ptr()), regions, begin, end,
            out.mutable_data_ptr<at::BFloat16>());
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "roi_align(Tensor map, Tensor rois, int[] size, float scale, int sampling, bool aligned) "
      "-> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("roi_align", &roi_align_cpu); }

}  // namespace blockcopy
