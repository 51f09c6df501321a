// blockcopy::pool_blocks on CPU: the executed blocks of a pooled map, straight from the full map.
//
// A pooling is done along rows first and then along columns, so that a kernel of k x k pixels costs
// 2 k steps and not k * k, and no window is copied.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"
#include "blockcopy/values.h"

namespace blockcopy {
namespace {

// Rows of the result that a thread makes at once; with fewer, more rows are pooled twice.
constexpr int64_t kBand = 16;

struct Pooling {
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  bool largest;
  float scale;
  float nothing;  // the result of no pixels
};

// NaN wins, as in torch's max pooling.
inline float larger(float a, float b) { return (b > a) | (b != b) ? b : a; }

// One row of windows: along it, a tap of output `o` is column cols[o * stride + tap * dilation] of
// the map, -1 outside. `pixels`: a row of the map, (columns, channels).
template <typename T>
inline __attribute__((always_inline)) void pool_along(const Pooling& p, const T* pixels,
                                                      const int32_t* cols, int64_t outputs,
                                                      int64_t channels, float* out) {
  for (int64_t o = 0; o < outputs; ++o, out += channels, cols += p.stride_w) {
    std::fill_n(out, channels, p.nothing);
    for (int64_t tap = 0; tap < p.kernel_w; ++tap) {
      const int32_t column = cols[tap * p.dilation_w];
      if (column < 0) {
        continue;
      }
      const T* pixel = pixels + column * channels;
      if (p.largest) {
        for (int64_t c = 0; c < channels; ++c) {
          out[c] = larger(out[c], widen(pixel[c]));
        }
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          out[c] += widen(pixel[c]);
        }
      }
    }
  }
}

// The same for a picture, whose three channels are too few for a loop over vectors: a pixel is one.
typedef float Pixel __attribute__((vector_size(16)));

template <bool Largest, typename T>
void pool_picture(const Pooling& p, const T* pixels, const int32_t* cols, int64_t outputs,
                  float* out) {
  for (int64_t o = 0; o < outputs; ++o, out += 3, cols += p.stride_w) {
    Pixel found = {p.nothing, p.nothing, p.nothing, 0.0f};
    for (int64_t tap = 0; tap < p.kernel_w; ++tap) {
      const int32_t column = cols[tap * p.dilation_w];
      if (column < 0) {
        continue;
      }
      const T* pixel = pixels + column * 3;
      const Pixel value = {widen(pixel[0]), widen(pixel[1]), widen(pixel[2]), 0.0f};
      if constexpr (Largest) {
        found = (value > found) | (value != value) ? value : found;
      } else {
        found += value;
      }
    }
    std::memcpy(out, &found, 3 * sizeof(float));
  }
}

BLOCKCOPY_CLONES void pool_row(const Pooling& p, const float* pixels, const int32_t* cols,
                               int64_t outputs, int64_t channels, float* out) {
  pool_along(p, pixels, cols, outputs, channels, out);
}

BLOCKCOPY_CLONES void pool_row(const Pooling& p, const BFloat* pixels, const int32_t* cols,
                               int64_t outputs, int64_t channels, float* out) {
  pool_along(p, pixels, cols, outputs, channels, out);
}

// One row of the result, of rows that are pooled already; null where a tap lies outside.
template <typename T>
inline __attribute__((always_inline)) void pool_across(const Pooling& p, const float* const* rows,
                                                       int64_t count, float* sums, T* out) {
  std::fill_n(sums, count, p.nothing);
  for (int64_t tap = 0; tap < p.kernel_h; ++tap) {
    const float* row = rows[tap * p.dilation_h];
    if (row == nullptr) {
      continue;
    }
    if (p.largest) {
      for (int64_t i = 0; i < count; ++i) {
        sums[i] = larger(sums[i], row[i]);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        sums[i] += row[i];
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    narrow(sums[i] * p.scale, out[i]);
  }
}

BLOCKCOPY_CLONES void pool_rows(const Pooling& p, const float* const* rows, int64_t count,
                                float* sums, float* out) {
  pool_across(p, rows, count, sums, out);
}

BLOCKCOPY_CLONES void pool_rows(const Pooling& p, const float* const* rows, int64_t count,
                                float* sums, BFloat* out) {
  pool_across(p, rows, count, sums, out);
}

template <typename T>
void pool(const Pooling& p, const at::Tensor& map, const GatherGeometry& g, const Block* blocks,
          const int32_t* rows, const int32_t* cols, const at::Tensor& out) {
  const int64_t channels = map.size(1), map_h = map.size(2), map_w = map.size(3);
  const int64_t high = out.size(2), wide = out.size(3), row_size = wide * channels;
  const int64_t bands = (high + kBand - 1) / kBand;
  const T* from = static_cast<const T*>(map.const_data_ptr());
  T* to = static_cast<T*>(out.mutable_data_ptr());
  at::parallel_for(0, g.count * bands, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> pooled, sums(row_size);
    std::vector<const float*> places;
    for (int64_t task = begin; task < end; ++task) {
      const Block& block = blocks[task / bands];
      const int64_t first = task % bands * kBand, last = std::min(first + kBand, high);
      const int64_t above = first * p.stride_h;
      const int64_t needed = (last - 1 - first) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1;
      pooled.resize(needed * row_size);
      places.assign(needed, nullptr);
      for (int64_t y = 0; y < needed; ++y) {
        const int32_t row = rows[block.grid_y * g.window_h + above + y];
        if (row >= 0) {
          places[y] = pooled.data() + y * row_size;
          const T* pixels = from + (block.slot * map_h + row) * map_w * channels;
          const int32_t* columns = cols + block.grid_x * g.window_w;
          float* into = pooled.data() + y * row_size;
          if (channels != 3) {
            pool_row(p, pixels, columns, wide, channels, into);
          } else if (p.largest) {
            pool_picture<true>(p, pixels, columns, wide, into);
          } else {
            pool_picture<false>(p, pixels, columns, wide, into);
          }
        }
      }
      for (int64_t y = first; y < last; ++y) {
        pool_rows(p, places.data() + (y - first) * p.stride_h, row_size, sums.data(),
                  to + ((task / bands) * high + y) * row_size);
      }
    }
  });
}

int64_t outputs_of(const char* name, int64_t window, int64_t kernel, int64_t stride,
                   int64_t dilation) {
  const int64_t reach = (kernel - 1) * dilation + 1;
  TORCH_CHECK_VALUE(kernel > 0 && stride > 0 && dilation > 0 && window >= reach &&
                        (window - reach) % stride == 0,
                    "blockcopy::pool_blocks: ", name, " has windows of ", window,
                    " pixels, which are none of a kernel of ", kernel, ", stride ", stride,
                    " and dilation ", dilation);
  return (window - reach) / stride + 1;
}

// Block i is slot i.
at::Tensor one_of_each(int64_t slots) {
  const at::Tensor blocks = at::zeros({slots, 3}, at::kInt);
  int32_t* slot = blocks.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < slots; ++i) {
    slot[3 * i] = static_cast<int32_t>(i);
  }
  return blocks;
}

at::Tensor pool_blocks_cpu(const at::Tensor& state, const std::optional<at::Tensor>& chosen,
                           const at::Tensor& rows, const at::Tensor& cols, at::IntArrayRef kernel,
                           at::IntArrayRef stride, at::IntArrayRef dilation, bool largest,
                           double scale) {
  TORCH_CHECK_VALUE(kernel.size() == 2 && stride.size() == 2 && dilation.size() == 2,
                    "blockcopy::pool_blocks: kernel, stride and dilation are ", kernel, ", ",
                    stride, " and ", dilation, ", expected two integers each");
  TORCH_CHECK_TYPE(state.scalar_type() == at::kFloat || state.scalar_type() == at::kBFloat16,
                   "blockcopy::pool_blocks: state has dtype ", state.scalar_type(),
                   ", expected float32 or bfloat16");
  const at::Tensor map = state.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor blocks =
      chosen ? *chosen : one_of_each(state.dim() > 0 ? state.size(0) : 0);
  const GatherGeometry g = check_gather(map, blocks, rows, cols);
  const int32_t* row_table = rows.const_data_ptr<int32_t>();
  const int32_t* col_table = cols.const_data_ptr<int32_t>();
  check_indices(g, block_data(blocks), row_table, col_table);
  const int64_t high = outputs_of("rows", g.window_h, kernel[0], stride[0], dilation[0]);
  const int64_t wide = outputs_of("cols", g.window_w, kernel[1], stride[1], dilation[1]);
  Pooling pooling = {kernel[0],   kernel[1],   stride[0], stride[1],
                     dilation[0], dilation[1], largest,   static_cast<float>(scale), 0.0f};
  if (largest) {
    pooling.scale = 1.0f;
    pooling.nothing = -std::numeric_limits<float>::infinity();
  }
  const at::Tensor out = at::empty({g.count, map.size(1), high, wide},
                                   map.options().memory_format(at::MemoryFormat::ChannelsLast));
  if (out.numel() == 0) {
    return out;
  }
  if (map.scalar_type() == at::kFloat) {
    pool<float>(pooling, map, g, block_data(blocks), row_table, col_table, out);
  } else {
    pool<BFloat>(pooling, map, g, block_data(blocks), row_table, col_table, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "pool_blocks(Tensor state, Tensor? blocks, Tensor rows, Tensor cols, int[] kernel, "
      "int[] stride, int[] dilation, bool largest, float scale) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("pool_blocks", &pool_blocks_cpu); }

}  // namespace blockcopy
