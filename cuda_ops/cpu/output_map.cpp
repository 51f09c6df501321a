// blockcopy::scatter_planes_ and copy_blocks_ on CPU: how an output that the caller gets is kept.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/elements.h"

namespace blockcopy {
namespace {

constexpr int64_t kTaskBytes = 64 * 1024;

int64_t tasks_of(int64_t bytes) { return std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(bytes, 1)); }

// The first pixels of a row as parts of rows of planes.
template <typename T>
void spread_row(const T* row, T* planes, int64_t pixels, int64_t channels, int64_t area) {
  for (int64_t c = 0; c < channels; ++c, planes += area) {
    for (int64_t x = 0; x < pixels; ++x) {
      planes[x] = row[x * channels + c];
    }
  }
}

// Where in planes a pixel lies that has this number among the pixels of all slots.
int64_t first_plane(int64_t slot, int64_t pixel, int64_t channels, int64_t area) {
  return slot * (channels - 1) * area + pixel;
}

void scatter_planes_cpu(const at::Tensor& state, const at::Tensor& packed,
                        const at::Tensor& blocks) {
  const ScatterGeometry g = 
      check_scatter(state, packed, blocks, "scatter_planes_", at::MemoryFormat::Contiguous);
  const Block* block_list = block_data(blocks);
  check_indices(g, block_list, "scatter_planes_");
  if (packed.numel() == 0) {
    return;
  }
  const at::Tensor source = dense_source(packed, state);
  const int64_t channels = state.size(1), area = g.map.height * g.map.width;
  with_element("scatter_planes_", state, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(source.const_data_ptr());
    T* to = static_cast<T*>(state.mutable_data_ptr());
    const int64_t row_size = g.block_w * channels;
    at::parallel_for(0, g.count * g.block_h, tasks_of(row_size * sizeof(T)),
                     [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const ScatterRow row = scatter_row(g, block_list, index);
        const int64_t slot = block_list[index / g.block_h].slot;
        spread_row(from + index * row_size, to + first_plane(slot, row.target_pixel, channels, area),
                   row.visible, channels, area);
      }
    });
  });
  bump_version(state);
}

void copy_blocks_cpu(const at::Tensor& map, const at::Tensor& source, const at::Tensor& blocks,
                     at::IntArrayRef block) {
  const bool planes = !map.is_contiguous(at::MemoryFormat::ChannelsLast);
  TORCH_CHECK_VALUE(map.dim() == 4 && (!planes || map.is_contiguous()),
                    "blockcopy::copy_blocks_: map has shape ", map.sizes(), " and strides ",
                    map.strides(), ", expected (N, C, H, W), channels last or contiguous");
  TORCH_CHECK_VALUE(source.sizes() == map.sizes() && source.scalar_type() == map.scalar_type() &&
                        source.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "blockcopy::copy_blocks_: source is ", source.scalar_type(), " ",
                    source.sizes(), " with strides ", source.strides(), ", but map is ",
                    map.scalar_type(), " ", map.sizes(), "; expected the same, channels last");
  TORCH_CHECK_VALUE(block.size() == 2 && block[0] > 0 && block[1] > 0,
                    "blockcopy::copy_blocks_: block is ", block, ", expected (height, width)");
  check_blocks("copy_blocks_", blocks, map);
  const ScatterGeometry g{
      {map.size(0), map.size(2), map.size(3)}, blocks.size(0), block[0], block[1]};
  const Block* block_list = block_data(blocks);
  check_indices(g, block_list, "copy_blocks_");
  if (map.numel() == 0 || g.count == 0) {
    return;
  }
  const int64_t channels = map.size(1), area = g.map.height * g.map.width;
  with_element("copy_blocks_", map, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(source.const_data_ptr());
    T* to = static_cast<T*>(map.mutable_data_ptr());
    at::parallel_for(0, g.count * g.block_h, tasks_of(g.block_w * channels * sizeof(T)),
                     [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const ScatterRow row = scatter_row(g, block_list, index);
        const T* pixels = from + row.target_pixel * channels;
        if (planes) {
          const int64_t slot = block_list[index / g.block_h].slot;
          spread_row(pixels, to + first_plane(slot, row.target_pixel, channels, area), row.visible,
                     channels, area);
        } else {
          std::memcpy(to + row.target_pixel * channels, pixels, row.visible * channels * sizeof(T));
        }
      }
    });
  });
  bump_version(map);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("scatter_planes_(Tensor(a!) state, Tensor packed, Tensor blocks) -> ()", tags);
  m.def("copy_blocks_(Tensor(a!) map, Tensor source, Tensor blocks, int[] block) -> ()", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("scatter_planes_", &scatter_planes_cpu);
  m.impl("copy_blocks_", &copy_blocks_cpu);
}

}  // namespace blockcopy
