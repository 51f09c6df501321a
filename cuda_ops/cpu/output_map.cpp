// blockcopy::scatter_planes_ and copy_blocks_ on CPU: how an output that the caller gets is kept.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "blockcopy/checks.h"

namespace blockcopy {
namespace {

constexpr int64_t kTaskBytes = 64 * 1024;

int64_t tasks_of(int64_t bytes) { return std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(bytes, 1)); }

template <typename T>
void scatter_planes(const T* packed, T* planes, const ScatterGeometry& g, const Block* blocks,
                    int64_t channels) {
  const int64_t area = g.map.height * g.map.width;
  const int64_t row_bytes = g.block_w * channels * static_cast<int64_t>(sizeof(T));
  at::parallel_for(0, g.count * g.block_h, tasks_of(row_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const ScatterRow row = scatter_row(g, blocks, index);
      const T* from = packed + index * g.block_w * channels;
      // `target_pixel` counts pixels of all slots; a slot has `channels` planes.
      const int64_t slot = blocks[index / g.block_h].slot;
      T* to = planes + slot * (channels - 1) * area + row.target_pixel;
      for (int64_t c = 0; c < channels; ++c, to += area) {
        for (int64_t x = 0; x < row.visible; ++x) {
          to[x] = from[x * channels + c];
        }
      }
    }
  });
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
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    scatter_planes(static_cast<const T*>(source.const_data_ptr()),
                   static_cast<T*>(state.mutable_data_ptr()), g, block_list, state.size(1));
  };
  switch (state.element_size()) {
    case 1: run(uint8_t{}); break;
    case 2: run(uint16_t{}); break;
    case 4: run(uint32_t{}); break;
    case 8: run(uint64_t{}); break;
    default: TORCH_CHECK_TYPE(false, "blockcopy::scatter_planes_: state has dtype ",
                              state.scalar_type(), ", expected one of at most 8 bytes");
  }
  bump_version(state);
}

void copy_blocks_cpu(const at::Tensor& map, const at::Tensor& source, const at::Tensor& blocks,
                     at::IntArrayRef block) {
  const bool planes = map.is_contiguous() && !map.is_contiguous(at::MemoryFormat::ChannelsLast);
  TORCH_CHECK_VALUE(map.dim() == 4 && (planes || map.is_contiguous(at::MemoryFormat::ChannelsLast)),
                    "blockcopy::copy_blocks_: map has shape ", map.sizes(), " and strides ",
                    map.strides(), ", expected (N, C, H, W), channels last or contiguous");
  TORCH_CHECK_VALUE(source.sizes() == map.sizes() && source.strides() == map.strides() &&
                        source.scalar_type() == map.scalar_type(),
                    "blockcopy::copy_blocks_: source is ", source.scalar_type(), " ",
                    source.sizes(), " with strides ", source.strides(), ", but map is ",
                    map.scalar_type(), " ", map.sizes(), " with strides ", map.strides());
  TORCH_CHECK_VALUE(block.size() == 2 && block[0] > 0 && block[1] > 0,
                    "blockcopy::copy_blocks_: block is ", block, ", expected (height, width)");
  check_blocks("copy_blocks_", blocks, map);
  const ScatterGeometry g{{map.size(0), map.size(2), map.size(3)}, blocks.size(0), block[0], block[1]};
  const Block* block_list = block_data(blocks);
  check_indices(g, block_list, "copy_blocks_");
  if (map.numel() == 0 || g.count == 0) {
    return;
  }
  const char* from = static_cast<const char*>(source.const_data_ptr());
  char* to = static_cast<char*>(map.mutable_data_ptr());
  const int64_t element = static_cast<int64_t>(map.element_size()), channels = map.size(1);
  const int64_t area = g.map.height * g.map.width;
  const int64_t pixel_bytes = planes ? element : element * channels;
  at::parallel_for(0, g.count * g.block_h, tasks_of(g.block_w * element * channels),
                   [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const ScatterRow row = scatter_row(g, block_list, index);
      const int64_t slot = block_list[index / g.block_h].slot;
      int64_t pixel = row.target_pixel + (planes ? slot * (channels - 1) * area : 0);
      for (int64_t plane = 0; plane < (planes ? channels : 1); ++plane, pixel += area) {
        std::memcpy(to + pixel * pixel_bytes, from + pixel * pixel_bytes, row.visible * pixel_bytes);
      }
    }
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
