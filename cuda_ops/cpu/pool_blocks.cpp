// blockcopy::pool_blocks on CPU: the executed blocks of a pooled map, straight from the full map.
//
// A pooling is done along columns first, of whole rows of the windows, and then along rows, so that a
// kernel of k x k pixels costs 2 k steps and not k * k, and no window is copied. Blocks that are
// executed may be read where they are packed.
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
#include "blockcopy/direct_call.h"
#include "blockcopy/kept_map.h"
#include "blockcopy/values.h"

namespace blockcopy {
namespace {

constexpr int64_t kBand = 16;    // rows of the result that a thread makes at once
constexpr int64_t kPiece = 6144;  // values of a row of windows at once, which stay in the first cache

struct Pooling {
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  bool largest;
  float scale;
  float nothing;  // the result of no pixels
};

// NaN wins, as in torch's max pooling.
inline float larger(float a, float b) { return (b > a) | (b != b) ? b : a; }

inline float pooled(bool largest, float a, float b) { return largest ? larger(a, b) : a + b; }

// Adds `count` values of a row of the map to what has been found in the rows above it.
template <bool Largest, typename T>
inline __attribute__((always_inline)) void add_row(const T* row, int64_t count, bool first,
                                                   float* found) {
  if (first) {
    for (int64_t i = 0; i < count; ++i) {
      found[i] = widen(row[i]);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    found[i] = pooled(Largest, found[i], widen(row[i]));
  }
}

// One row of the result. Along it, a tap of output `o` is column cols[o * stride + tap * dilation] of
// the map, -1 outside. `found`: what the rows of the window have from column `first` on.
template <bool Largest, typename T>
inline __attribute__((always_inline)) void pool_along(const Pooling& p, const float* found,
                                                      int64_t first, const int32_t* cols,
                                                      int64_t outputs, int64_t channels,
                                                      float* sums, T* out) {
  for (int64_t o = 0; o < outputs; ++o, out += channels, cols += p.stride_w) {
    // Most windows: one loop for all taps.
    const int32_t a = cols[0], b = cols[(p.kernel_w > 1) * p.dilation_w];
    const int32_t c = cols[(p.kernel_w > 2) * 2 * p.dilation_w];
    if (p.kernel_w == 3 && (a | b | c) >= 0) {
      const float* left = found + (a - first) * channels;
      const float* middle = found + (b - first) * channels;
      const float* right = found + (c - first) * channels;
      for (int64_t i = 0; i < channels; ++i) {
        const float value = pooled(Largest, pooled(Largest, left[i], middle[i]), right[i]);
        narrow(value * p.scale, out[i]);
      }
      continue;
    }
    std::fill_n(sums, channels, p.nothing);
    for (int64_t tap = 0; tap < p.kernel_w; ++tap) {
      const int32_t column = cols[tap * p.dilation_w];
      if (column < 0) {
        continue;
      }
      const float* pixel = found + (column - first) * channels;
      for (int64_t i = 0; i < channels; ++i) {
        sums[i] = pooled(Largest, sums[i], pixel[i]);
      }
    }
    for (int64_t i = 0; i < channels; ++i) {
      narrow(sums[i] * p.scale, out[i]);
    }
  }
}

// The same for a picture, whose three channels are too few for a loop over vectors: a pixel is one.
// One value may be read beyond the last pixel.
typedef float Pixel __attribute__((vector_size(16)));

template <bool Largest, typename T>
void pool_picture(const Pooling& p, const float* found, int64_t first, const int32_t* cols,
                  int64_t outputs, T* out) {
  for (int64_t o = 0; o < outputs; ++o, out += 3, cols += p.stride_w) {
    Pixel sum = {p.nothing, p.nothing, p.nothing, 0.0f};
    for (int64_t tap = 0; tap < p.kernel_w; ++tap) {
      const int32_t column = cols[tap * p.dilation_w];
      if (column < 0) {
        continue;
      }
      Pixel value;
      std::memcpy(&value, found + (column - first) * 3, sizeof(value));
      if constexpr (Largest) {
        sum = (value > sum) | (value != value) ? value : sum;
      } else {
        sum += value;
      }
    }
    for (int64_t i = 0; i < 3; ++i) {
      narrow(sum[i] * p.scale, out[i]);
    }
  }
}

// A row of the windows of a block: which columns of the map they have.
struct Columns {
  Columns(const int32_t* cols, int64_t window_w) : cols(cols) {
    for (int64_t x = 0; x < window_w; ++x) {
      if (cols[x] >= 0) {
        first = count == 0 ? cols[x] : std::min<int64_t>(first, cols[x]);
        last = count++ == 0 ? cols[x] : std::max<int64_t>(last, cols[x]);
      }
    }
    count = count == 0 ? 0 : last - first + 1;
  }

  const int32_t* cols;
  int64_t first = 0, last = 0, count = 0;
};

// Columns of the map that lie side by side in memory.
struct Segment {
  int64_t first, count;
};

// `rows`: for each row of the windows where each segment begins, or null.
template <bool Largest, typename T>
inline __attribute__((always_inline)) void pool_row_of(const Pooling& p, const T* const* rows,
                                                       const Columns& columns,
                                                       const std::vector<Segment>& segments,
                                                       int64_t outputs, int64_t channels,
                                                       float* found, float* sums, T* out) {
  const int64_t pieces = static_cast<int64_t>(segments.size());
  bool first = true;
  for (int64_t tap = 0; tap < p.kernel_h; ++tap) {
    const T* const* row = rows + tap * p.dilation_h * pieces;
    if (pieces == 0 || row[0] == nullptr) {
      continue;
    }
    float* target = found;
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t values = segments[i].count * channels;
      add_row<Largest>(row[i], values, first, target);
      target += values;
    }
    first = false;
  }
  if (first) {
    std::fill_n(found, columns.count * channels, p.nothing);
  }
  if (channels == 3) {
    pool_picture<Largest>(p, found, columns.first, columns.cols, outputs, out);
  } else {
    pool_along<Largest>(p, found, columns.first, columns.cols, outputs, channels, sums, out);
  }
}

BLOCKCOPY_CLONES void pool_row(const Pooling& p, const float* const* rows, const Columns& columns,
                               const std::vector<Segment>& segments, int64_t outputs,
                               int64_t channels, float* found, float* sums, float* out) {
  p.largest ? pool_row_of<true>(p, rows, columns, segments, outputs, channels, found, sums, out)
            : pool_row_of<false>(p, rows, columns, segments, outputs, channels, found, sums, out);
}

BLOCKCOPY_CLONES void pool_row(const Pooling& p, const BFloat* const* rows, const Columns& columns,
                               const std::vector<Segment>& segments, int64_t outputs,
                               int64_t channels, float* found, float* sums, BFloat* out) {
  p.largest ? pool_row_of<true>(p, rows, columns, segments, outputs, channels, found, sums, out)
            : pool_row_of<false>(p, rows, columns, segments, outputs, channels, found, sums, out);
}

// Where the pixels of a map lie.
template <typename T>
struct Pixels {
  const KeptMap& kept;
  const T* map;
  const T* packed;  // null: the map has all pixels
  int64_t channels;

  // Columns from `first` to `last` in pieces that lie side by side in every row.
  void cut(int64_t first, int64_t last, std::vector<Segment>& segments) const {
    segments.clear();
    const int64_t block = packed == nullptr ? kept.extent.width : kept.ring.block_w;
    while (first <= last) {
      const int64_t end = std::min(last + 1, (first / block + 1) * block);
      segments.push_back({first, end - first});
      first = end;
    }
  }

  const T* at(int64_t slot, int64_t row, int64_t column) const {
    if (packed == nullptr) {
      return map + pixel_index(kept.extent, slot, row, column) * channels;
    }
    const RingShape& ring = kept.ring;
    const int64_t gy = row / ring.block_h, gx = column / ring.block_w;
    const int64_t y = row - gy * ring.block_h, x = column - gx * ring.block_w;
    const int64_t block = (slot * kept.grid_h + gy) * kept.grid_w + gx;
    const int64_t found = kept.executed[block];
    if (found >= 0) {
      return packed + ((found * ring.block_h + y) * ring.block_w + x) * channels;
    }
    return ring.border > 0 ? map + (block * ring.pixels() + ring.place_of(y, x)) * channels
                           : map + pixel_index(kept.extent, slot, row, column) * channels;
  }
};

template <typename T>
void pool(const Pooling& p, const Pixels<T>& pixels, const GatherGeometry& g, const Block* blocks,
          const int32_t* rows, const int32_t* cols, const at::Tensor& out) {
  const int64_t channels = pixels.channels;
  const int64_t high = out.size(2), wide = out.size(3), row_size = wide * channels;
  const int64_t bands = (high + kBand - 1) / kBand;
  const int64_t piece = std::max<int64_t>(8, kPiece / (channels * p.stride_w));
  T* to = static_cast<T*>(out.mutable_data_ptr());
  at::parallel_for(0, g.count * bands, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> found, sums(channels);
    std::vector<const T*> places;
    std::vector<Segment> segments;
    for (int64_t task = begin; task < end; ++task) {
      const Block& block = blocks[task / bands];
      const int64_t first = task % bands * kBand, last = std::min(first + kBand, high);
      const int64_t first_row = first * p.stride_h;
      const int64_t end_row = (last - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1;
      for (int64_t x = 0; x < wide; x += piece) {
        const int64_t outputs = std::min(piece, wide - x);
        const Columns columns(cols + block.grid_x * g.window_w + x * p.stride_w,
                              (outputs - 1) * p.stride_w + (p.kernel_w - 1) * p.dilation_w + 1);
        found.resize(columns.count * channels + 1);
        segments.clear();
        if (columns.count > 0) {
          pixels.cut(columns.first, columns.last, segments);
        }
        places.clear();
        for (int64_t y = first_row; y < end_row; ++y) {
          const int32_t row = rows[block.grid_y * g.window_h + y];
          for (const Segment& segment : segments) {
            places.push_back(row < 0 ? nullptr : pixels.at(block.slot, row, segment.first));
          }
        }
        const int64_t step = p.stride_h * static_cast<int64_t>(segments.size());
        for (int64_t y = first; y < last; ++y) {
          pool_row(p, places.data() + (y - first) * step, columns, segments, outputs, channels,
                   found.data(), sums.data(), to + ((task / bands) * high + y) * row_size + x * channels);
        }
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
                           double scale, const std::optional<at::Tensor>& packed,
                           at::OptionalIntArrayRef rings) {
  TORCH_CHECK_VALUE(kernel.size() == 2 && stride.size() == 2 && dilation.size() == 2,
                    "blockcopy::pool_blocks: kernel, stride and dilation are ", kernel, ", ",
                    stride, " and ", dilation, ", expected two integers each");
  TORCH_CHECK_TYPE(state.scalar_type() == at::kFloat || state.scalar_type() == at::kBFloat16,
                   "blockcopy::pool_blocks: state has dtype ", state.scalar_type(),
                   ", expected float32 or bfloat16");
  const at::Tensor map = state.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor blocks =
      chosen ? *chosen : one_of_each(state.dim() > 0 ? state.size(0) : 0);
  GatherGeometry g = check_gather(map, blocks, rows, cols);
  KeptMap kept("pool_blocks", map, rings);
  kept.check_packed("pool_blocks", packed.has_value());
  g.map = kept.extent;
  at::Tensor fresh;
  if (packed.has_value()) {
    fresh = packed->contiguous(at::MemoryFormat::ChannelsLast);
    kept.add("pool_blocks", map, fresh, blocks);
  }
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
  const auto run = [&](auto value) {
    using T = decltype(value);
    const void* executed = packed.has_value() ? fresh.const_data_ptr() : nullptr;
    const Pixels<T> pixels = {kept, static_cast<const T*>(map.const_data_ptr()),
                              static_cast<const T*>(executed), map.size(1)};
    pool<T>(pooling, pixels, g, block_data(blocks), row_table, col_table, out);
  };
  map.scalar_type() == at::kFloat ? run(float()) : run(BFloat());
  return out;
}

const CalledDirectly<&pool_blocks_cpu> direct_pool_blocks("pool_blocks");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "pool_blocks(Tensor state, Tensor? blocks, Tensor rows, Tensor cols, int[] kernel, "
      "int[] stride, int[] dilation, bool largest, float scale, Tensor? packed=None, "
      "int[]? rings=None) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("pool_blocks", &pool_blocks_cpu); }

}  // namespace blockcopy
