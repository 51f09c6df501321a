// blockcopy::planes on CPU: a channels-last map as contiguous planes, in tiles that fit the caches.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "blockcopy/direct_call.h"

namespace blockcopy {
namespace {

constexpr int64_t kTile = 32;        // pixels and channels
constexpr int64_t kPixels = 1024;    // of a task

template <typename T>
void transpose(const T* source, T* target, int64_t channels, int64_t area, int64_t first,
               int64_t end) {
  for (int64_t c0 = 0; c0 < channels; c0 += kTile) {
    const int64_t c1 = std::min(c0 + kTile, channels);
    for (int64_t p0 = first; p0 < end; p0 += kTile) {
      const int64_t p1 = std::min(p0 + kTile, end);
      for (int64_t c = c0; c < c1; ++c) {
        T* to = target + c * area;
        for (int64_t p = p0; p < p1; ++p) {
          to[p] = source[p * channels + c];
        }
      }
    }
  }
}

at::Tensor planes_cpu(const at::Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4 && map.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "blockcopy::planes: map has shape ", map.sizes(), " and strides ",
                    map.strides(), ", expected (N, C, H, W), channels last");
  const at::Tensor out = at::empty(map.sizes(), map.options().memory_format(at::MemoryFormat::Contiguous));
  const int64_t channels = map.size(1), area = map.size(2) * map.size(3);
  if (out.numel() == 0) {
    return out;
  }
  const int64_t tasks = (area + kPixels - 1) / kPixels;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const T* source = static_cast<const T*>(map.const_data_ptr());
    T* target = static_cast<T*>(out.mutable_data_ptr());
    at::parallel_for(0, map.size(0) * tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t offset = task / tasks * channels * area;
        const int64_t first = task % tasks * kPixels;
        transpose(source + offset, target + offset, channels, area, first,
                  std::min(first + kPixels, area));
      }
    });
  };
  switch (map.element_size()) {
    case 1: run(uint8_t{}); break;
    case 2: run(uint16_t{}); break;
    case 4: run(uint32_t{}); break;
    case 8: run(uint64_t{}); break;
    default: return map.clone(at::MemoryFormat::Contiguous);
  }
  return out;
}

const CalledDirectly<&planes_cpu> direct_planes("planes");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("planes(Tensor map) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("planes", &planes_cpu); }

}  // namespace blockcopy
