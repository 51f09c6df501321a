// blockcopy::max_positions on CPU: where the largest values of the windows of a max pooling are.
//
// Torch looks for them plane by plane, window by window; here all channels of a pixel are compared
// at once.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"
#include "blockcopy/values.h"

namespace blockcopy {
namespace {

// The taps of a window along an axis that lie on the map.
struct Taps {
  int64_t first, end, step;
};

struct Axis {
  int64_t size, kernel, stride, padding, dilation;

  Taps taps(int64_t output) const {
    int64_t first = output * stride - padding;
    const int64_t end = std::min(first + (kernel - 1) * dilation + 1, size);
    while (first < 0) {
      first += dilation;
    }
    return {first, end, dilation};
  }
};

// A row of windows. The later of equal values is not larger; NaN is larger than all, as in torch.
// `map`: an image, (rows, columns, channels); `found`: (outputs, channels).
template <typename T>
inline __attribute__((always_inline)) void find_in_row(const T* __restrict map, const Taps& down,
                                                       const Axis& along, int64_t outputs,
                                                       int64_t channels, float* __restrict largest,
                                                       int32_t* __restrict found) {
  for (int64_t x = 0; x < outputs; ++x, found += channels) {
    const Taps taps = along.taps(x);
    std::fill_n(found, channels, static_cast<int32_t>(down.first * along.size + taps.first));
    std::fill_n(largest, channels, -std::numeric_limits<float>::infinity());
    for (int64_t row = down.first; row < down.end; row += down.step) {
      for (int64_t column = taps.first; column < taps.end; column += taps.step) {
        const int32_t position = static_cast<int32_t>(row * along.size + column);
        const T* pixel = map + position * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const float value = widen(pixel[c]);
          const bool larger = (value > largest[c]) | (value != value);
          largest[c] = larger ? value : largest[c];
          found[c] = larger ? position : found[c];
        }
      }
    }
  }
}

BLOCKCOPY_CLONES void find_row(const float* map, const Taps& down, const Axis& along,
                               int64_t outputs, int64_t channels, float* largest, int32_t* found) {
  find_in_row(map, down, along, outputs, channels, largest, found);
}

BLOCKCOPY_CLONES void find_row(const BFloat* map, const Taps& down, const Axis& along,
                               int64_t outputs, int64_t channels, float* largest, int32_t* found) {
  find_in_row(map, down, along, outputs, channels, largest, found);
}

template <typename T>
void find(const at::Tensor& map, at::IntArrayRef kernel, at::IntArrayRef stride,
          at::IntArrayRef padding, at::IntArrayRef dilation, const at::Tensor& out) {
  const int64_t channels = map.size(1), high = map.size(2), wide = map.size(3);
  const int64_t rows = out.size(2), columns = out.size(3);
  const T* from = static_cast<const T*>(map.const_data_ptr());
  int64_t* to = out.mutable_data_ptr<int64_t>();
  const Axis down = {high, kernel[0], stride[0], padding[0], dilation[0]};
  const Axis along = {wide, kernel[1], stride[1], padding[1], dilation[1]};
  at::parallel_for(0, map.size(0) * rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> largest(channels);
    std::vector<int32_t> found(columns * channels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / rows, y = task % rows;
      find_row(from + image * high * wide * channels, down.taps(y), along, columns, channels,
               largest.data(), found.data());
      for (int64_t c = 0; c < channels; ++c) {
        int64_t* plane = to + ((image * channels + c) * rows + y) * columns;
        for (int64_t x = 0; x < columns; ++x) {
          plane[x] = found[x * channels + c];
        }
      }
    }
  });
}

at::Tensor max_positions_cpu(const at::Tensor& map, at::IntArrayRef kernel, at::IntArrayRef stride,
                             at::IntArrayRef padding, at::IntArrayRef dilation,
                             at::IntArrayRef size) {
  TORCH_CHECK_VALUE(map.dim() == 4 && map.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "blockcopy::max_positions: map has shape ", map.sizes(), " and strides ",
                    map.strides(), ", expected (N, C, H, W), channels last");
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kBFloat16,
                   "blockcopy::max_positions: map has dtype ", map.scalar_type(),
                   ", expected float32 or bfloat16");
  for (const auto& pair : {kernel, stride, padding, dilation, size}) {
    TORCH_CHECK_VALUE(pair.size() == 2, "blockcopy::max_positions: kernel, stride, padding, "
                      "dilation and size are ", kernel, ", ", stride, ", ", padding, ", ",
                      dilation, " and ", size, ", expected two integers each");
  }
  for (int64_t i = 0; i < 2; ++i) {
    TORCH_CHECK_VALUE(kernel[i] > 0 && stride[i] > 0 && dilation[i] > 0 && padding[i] >= 0 &&
                          2 * padding[i] <= kernel[i] && size[i] >= 0 &&
                          (size[i] == 0 || (size[i] - 1) * stride[i] - padding[i] < map.size(2 + i)),
                      "blockcopy::max_positions: no pooling has kernel ", kernel, ", stride ",
                      stride, ", padding ", padding, ", dilation ", dilation, " and results of ",
                      size, " for a map of ", map.sizes());
  }
  TORCH_CHECK_VALUE(map.size(2) * map.size(3) < std::numeric_limits<int32_t>::max(),
                    "blockcopy::max_positions: map has ", map.size(2), "x", map.size(3),
                    " pixels, more than can be numbered");
  const at::Tensor out = at::empty({map.size(0), map.size(1), size[0], size[1]},
                                   map.options().dtype(at::kLong).memory_format(
                                       at::MemoryFormat::Contiguous));
  if (out.numel() == 0) {
    return out;
  }
  if (map.scalar_type() == at::kFloat) {
    find<float>(map, kernel, stride, padding, dilation, out);
  } else {
    find<BFloat>(map, kernel, stride, padding, dilation, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "max_positions(Tensor map, int[] kernel, int[] stride, int[] padding, int[] dilation, "
      "int[] size) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("max_positions", &max_positions_cpu); }

}  // namespace blockcopy
