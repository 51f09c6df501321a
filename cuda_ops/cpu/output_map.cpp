// blockcopy::scatter_planes_ and copy_blocks_ on CPU: how an output that the caller gets is kept.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/direct_call.h"
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

// The blocks of a map that are wanted and not left out; either is a single value or a grid, beyond
// which its last row and column go on.
std::vector<Block> chosen_blocks(const at::Tensor& wanted, const at::Tensor& left_out,
                                 const at::Tensor& map, at::IntArrayRef block) {
  const auto reader = [&](const at::Tensor& grid, const char* name) {
    TORCH_CHECK_VALUE(grid.scalar_type() == at::kBool && grid.device().is_cpu() &&
                          grid.is_contiguous() &&
                          (grid.dim() == 0 || (grid.dim() == 3 && grid.size(0) == map.size(0) &&
                                               grid.size(1) > 0 && grid.size(2) > 0)),
                      "blockcopy::copy_blocks_: ", name, " is ", grid.scalar_type(), " ",
                      grid.sizes(), " on ", grid.device(), ", expected bool () or (",
                      map.size(0), ", GH, GW) without gaps in host memory");
    return [&grid, values = static_cast<const uint8_t*>(grid.const_data_ptr())](
               int64_t slot, int64_t row, int64_t column) {
      if (grid.dim() == 0) {
        return *values != 0;
      }
      const int64_t height = grid.size(1), width = grid.size(2);
      row = std::min(row, height - 1);
      return values[(slot * height + row) * width + std::min(column, width - 1)] != 0;
    };
  };
  const auto is_wanted = reader(wanted, "wanted"), is_left_out = reader(left_out, "left_out");
  std::vector<Block> found;
  for (int64_t slot = 0; slot < map.size(0); ++slot) {
    for (int64_t row = 0; row * block[0] < map.size(2); ++row) {
      for (int64_t column = 0; column * block[1] < map.size(3); ++column) {
        if (is_wanted(slot, row, column) && !is_left_out(slot, row, column)) {
          found.push_back({static_cast<int32_t>(slot), static_cast<int32_t>(row),
                           static_cast<int32_t>(column)});
        }
      }
    }
  }
  return found;
}

void copy_blocks_cpu(const at::Tensor& map, const at::Tensor& source, const at::Tensor& wanted,
                     const at::Tensor& left_out, at::IntArrayRef block) {
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
  const std::vector<Block> blocks = chosen_blocks(wanted, left_out, map, block);
  if (map.numel() == 0 || blocks.empty()) {
    return;
  }
  const ScatterGeometry g{{map.size(0), map.size(2), map.size(3)},
                          static_cast<int64_t>(blocks.size()), block[0], block[1]};
  const int64_t channels = map.size(1), area = g.map.height * g.map.width;
  with_element("copy_blocks_", map, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(source.const_data_ptr());
    T* to = static_cast<T*>(map.mutable_data_ptr());
    at::parallel_for(0, g.count * g.block_h, tasks_of(g.block_w * channels * sizeof(T)),
                     [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const ScatterRow row = scatter_row(g, blocks.data(), index);
        const T* pixels = from + row.target_pixel * channels;
        if (planes) {
          const int64_t slot = blocks[index / g.block_h].slot;
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

const CalledDirectly<&scatter_planes_cpu> direct_scatter_planes("scatter_planes_");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("scatter_planes_(Tensor(a!) state, Tensor packed, Tensor blocks) -> ()", tags);
  m.def(
      "copy_blocks_(Tensor(a!) map, Tensor source, Tensor wanted, Tensor left_out, int[] block) "
      "-> ()",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("scatter_planes_", &scatter_planes_cpu);
  m.impl("copy_blocks_", &copy_blocks_cpu);
}

}  // namespace blockcopy
