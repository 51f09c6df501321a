// blockcopy::shuffle_channels on CPU: the channels of each pixel, group by group.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "blockcopy/clones.h"
#include "blockcopy/direct_call.h"
#include "blockcopy/elements.h"

namespace blockcopy {
namespace {

constexpr int64_t kValues = 32 * 1024;  // of a task

template <typename T>
inline __attribute__((always_inline)) void shuffle_of(const T* from, int64_t pixels, int64_t groups,
                                                      int64_t width, T* to) {
  for (int64_t p = 0; p < pixels; ++p, from += groups * width, to += groups * width) {
    if (groups == 2) {
      const T* second = from + width;
      for (int64_t i = 0; i < width; ++i) {
        to[2 * i] = from[i];
        to[2 * i + 1] = second[i];
      }
      continue;
    }
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < width; ++i) {
        to[i * groups + g] = from[g * width + i];
      }
    }
  }
}

BLOCKCOPY_CLONES void shuffle(const uint16_t* from, int64_t pixels, int64_t groups, int64_t width,
                              uint16_t* __restrict__ to) {
  shuffle_of(from, pixels, groups, width, to);
}

BLOCKCOPY_CLONES void shuffle(const uint8_t* from, int64_t pixels, int64_t groups, int64_t width,
                              uint8_t* __restrict__ to) {
  shuffle_of(from, pixels, groups, width, to);
}

BLOCKCOPY_CLONES void shuffle(const uint32_t* from, int64_t pixels, int64_t groups, int64_t width,
                              uint32_t* __restrict__ to) {
  shuffle_of(from, pixels, groups, width, to);
}

BLOCKCOPY_CLONES void shuffle(const uint64_t* from, int64_t pixels, int64_t groups, int64_t width,
                              uint64_t* __restrict__ to) {
  shuffle_of(from, pixels, groups, width, to);
}

at::Tensor shuffle_channels_cpu(const at::Tensor& map, int64_t groups) {
  TORCH_CHECK_VALUE(map.dim() == 4 && map.is_contiguous(at::MemoryFormat::ChannelsLast) &&
                        groups > 0 && map.size(1) % groups == 0,
                    "blockcopy::shuffle_channels: map has shape ", map.sizes(), " and strides ",
                    map.strides(), ", expected (N, C, H, W), channels last, with C a multiple of ",
                    groups, " groups");
  const at::Tensor out =
      at::empty(map.sizes(), map.options().memory_format(at::MemoryFormat::ChannelsLast));
  if (out.numel() == 0) {
    return out;
  }
  const int64_t channels = map.size(1), pixels = map.numel() / channels;
  with_element("shuffle_channels", map, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(map.const_data_ptr());
    T* to = static_cast<T*>(out.mutable_data_ptr());
    const int64_t step = std::max<int64_t>(1, kValues / channels);
    at::parallel_for(0, pixels, step, [&](int64_t begin, int64_t end) {
      shuffle(from + begin * channels, end - begin, groups, channels / groups,
              to + begin * channels);
    });
  });
  return out;
}

const CalledDirectly<&shuffle_channels_cpu> direct_shuffle_channels("shuffle_channels");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("shuffle_channels(Tensor map, int groups) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("shuffle_channels", &shuffle_channels_cpu); }

}  // namespace blockcopy
