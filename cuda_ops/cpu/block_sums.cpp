// blockcopy::block_sums on CPU: what a mean over all pixels keeps of each block.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"
#include "blockcopy/direct_call.h"
#include "blockcopy/moments_checks.h"
#include "blockcopy/values.h"

namespace blockcopy {
namespace {

// So many pixels are added up in float32, and these sums in float64.
constexpr int64_t kPixels = 64;

template <typename T>
inline __attribute__((always_inline)) void add_pixels_of(const T* row, int64_t pixels,
                                                         int64_t channels, float* sums) {
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4, row += 4 * channels) {
    for (int64_t c = 0; c < channels; ++c) {
      sums[c] += (widen(row[c]) + widen(row[channels + c])) +
                 (widen(row[2 * channels + c]) + widen(row[3 * channels + c]));
    }
  }
  for (; p < pixels; ++p, row += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      sums[c] += widen(row[c]);
    }
  }
}

BLOCKCOPY_CLONES void add_pixels(const float* row, int64_t pixels, int64_t channels, float* sums) {
  add_pixels_of(row, pixels, channels, sums);
}

BLOCKCOPY_CLONES void add_pixels(const BFloat* row, int64_t pixels, int64_t channels, float* sums) {
  add_pixels_of(row, pixels, channels, sums);
}

template <typename T>
void sum_blocks(const at::Tensor& map, const Block* listed, at::IntArrayRef block,
                at::IntArrayRef blocks, at::IntArrayRef size, double scale, int64_t count,
                float* out) {
  const int64_t channels = map.size(1), width = map.size(3), image = map.size(2) * width * channels;
  const T* const values = static_cast<const T*>(map.const_data_ptr());
  const int64_t cells = std::max<int64_t>(1, blocks[0] * blocks[1]);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(channels);
    std::vector<double> total(channels);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t cell = index % cells;
      const int64_t by = listed != nullptr ? listed[index].grid_y : cell / blocks[1];
      const int64_t bx = listed != nullptr ? listed[index].grid_x : cell % blocks[1];
      const int64_t high = std::clamp<int64_t>(size[0] - by * block[0], 0, block[0]);
      const int64_t wide = std::clamp<int64_t>(size[1] - bx * block[1], 0, block[1]);
      const T* const first =
          values + (listed != nullptr ? index * image
                                      : index / cells * image +
                                            (by * block[0] * width + bx * block[1]) * channels);
      std::fill(total.begin(), total.end(), 0.0);
      const int64_t step = std::max<int64_t>(1, kPixels / std::max<int64_t>(1, wide));
      for (int64_t from = 0; from < high; from += step) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t row = from; row < std::min(high, from + step); ++row) {
          add_pixels(first + row * width * channels, wide, channels, sums.data());
        }
        for (int64_t c = 0; c < channels; ++c) {
          total[c] += sums[c];
        }
      }
      for (int64_t c = 0; c < channels; ++c) {
        out[index * channels + c] = static_cast<float>(total[c] * scale);
      }
    }
  });
}

at::Tensor block_sums_cpu(const at::Tensor& map, const std::optional<at::Tensor>& places,
                          at::IntArrayRef block, at::IntArrayRef blocks, at::IntArrayRef size,
                          double scale) {
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kBFloat16,
                   "blockcopy::block_sums: map has dtype ", map.scalar_type(),
                   ", expected float32 or bfloat16");
  TORCH_CHECK_VALUE(map.dim() == 4 && map.size(1) > 0, "blockcopy::block_sums: map must be 4-D (N, C, H, "
                    "W) with channels, but has shape ", map.sizes());
  check_moments(map, places, block, blocks, size, map.size(1));
  const at::Tensor source = map.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t images = map.size(0), channels = map.size(1);
  const int64_t high = places ? 1 : blocks[0], wide = places ? 1 : blocks[1];
  const at::Tensor out =
      at::empty({images, channels, high, wide},
                map.options().dtype(at::kFloat).memory_format(at::MemoryFormat::ChannelsLast));
  const Block* const listed = places ? block_data(*places) : nullptr;
  float* const sums = out.mutable_data_ptr<float>();
  const int64_t count = images * high * wide;
  if (map.scalar_type() == at::kFloat) {
    sum_blocks<float>(source, listed, block, blocks, size, scale, count, sums);
  } else {
    sum_blocks<BFloat>(source, listed, block, blocks, size, scale, count, sums);
  }
  return out;
}

const CalledDirectly<&block_sums_cpu> direct_block_sums("block_sums");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "block_sums(Tensor map, Tensor? places, int[] block, int[] blocks, int[] size, "
      "float scale) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("block_sums", &block_sums_cpu); }

}  // namespace blockcopy
