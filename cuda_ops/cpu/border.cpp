// blockcopy::scatter_border_ and copy_border_ on CPU: only the pixels near the edges of blocks.
//
// A convolution reads executed blocks from where they are packed, and only their surroundings from
// the state, so the state needs only the pixels that a neighbour may read.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/direct_call.h"

namespace blockcopy {
namespace {

// Rows are dealt to threads in chunks of about this size.
constexpr int64_t kChunkBytes = 64 * 1024;

void check_border(const char* op, int64_t border) {
  TORCH_CHECK_VALUE(border >= 1, "blockcopy::", op, ": border is ", border,
                    ", expected at least 1 pixel");
}

// Copies the first `width` pixels of a block's row: all, or those at its two ends.
void copy_row(char* target, const char* source, int64_t y, int64_t block_h, int64_t block_w,
              int64_t width, int64_t border, int64_t pixel_bytes) {
  if (y < border || y >= block_h - border || 2 * border >= block_w) {
    std::memcpy(target, source, width * pixel_bytes);
    return;
  }
  std::memcpy(target, source, std::min(border, width) * pixel_bytes);
  const int64_t right = block_w - border;
  if (right < width) {
    std::memcpy(target + right * pixel_bytes, source + right * pixel_bytes,
                (width - right) * pixel_bytes);
  }
}

void scatter_border_cpu(const at::Tensor& state, const at::Tensor& packed,
                        const at::Tensor& blocks, int64_t border) {
  check_border("scatter_border_", border);
  const ScatterGeometry g = check_scatter(state, packed, blocks);
  const Block* block_list = block_data(blocks);
  check_indices(g, block_list);
  if (packed.numel() == 0) {
    return;
  }
  const at::Tensor source = dense_source(packed, state);
  const char* source_data = static_cast<const char*>(source.const_data_ptr());
  char* state_data = static_cast<char*>(state.mutable_data_ptr());
  const int64_t pixel_bytes = state.size(1) * static_cast<int64_t>(state.element_size());
  const int64_t row_bytes = g.block_w * pixel_bytes;
  at::parallel_for(0, g.count * g.block_h, std::max<int64_t>(1, kChunkBytes / row_bytes),
                   [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const ScatterRow row = scatter_row(g, block_list, index);
      copy_row(state_data + row.target_pixel * pixel_bytes, source_data + index * row_bytes,
               index % g.block_h, g.block_h, g.block_w, row.visible, border, pixel_bytes);
    }
  });
  bump_version(state);
}

void copy_border_cpu(const at::Tensor& state, const at::Tensor& map, at::IntArrayRef slots,
                     at::IntArrayRef block, int64_t border) {
  check_border("copy_border_", border);
  TORCH_CHECK_VALUE(state.dim() == 4 && map.dim() == 4 &&
                        state.sizes().slice(1) == map.sizes().slice(1) &&
                        state.scalar_type() == map.scalar_type(),
                    "blockcopy::copy_border_: state is ", state.scalar_type(), " ", state.sizes(),
                    ", but map is ", map.scalar_type(), " ", map.sizes());
  TORCH_CHECK_VALUE(state.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "blockcopy::copy_border_: state must be channels-last contiguous, but has "
                    "strides ", state.strides());
  TORCH_CHECK_VALUE(block.size() == 2 && block[0] > 0 && block[1] > 0,
                    "blockcopy::copy_border_: block is ", block, ", expected (height, width)");
  TORCH_CHECK_VALUE(static_cast<int64_t>(slots.size()) == map.size(0),
                    "blockcopy::copy_border_: ", slots.size(), " slots for ", map.size(0),
                    " images, expected one each");
  for (const int64_t slot : slots) {
    TORCH_CHECK_INDEX(slot >= 0 && slot < state.size(0), "blockcopy::copy_border_: slot ", slot,
                      " is out of range, expected 0 <= slot < ", state.size(0));
  }
  if (map.numel() == 0) {
    return;
  }
  const at::Tensor source = dense_source(map, state);
  const char* source_data = static_cast<const char*>(source.const_data_ptr());
  char* state_data = static_cast<char*>(state.mutable_data_ptr());
  const int64_t pixel_bytes = state.size(1) * static_cast<int64_t>(state.element_size());
  const int64_t height = state.size(2), width = state.size(3);
  const int64_t row_bytes = width * pixel_bytes;
  at::parallel_for(0, map.size(0) * height, std::max<int64_t>(1, kChunkBytes / row_bytes),
                   [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t y = index % height;
      const char* from = source_data + index * row_bytes;
      char* to = state_data + (slots[index / height] * height + y) * row_bytes;
      for (int64_t x = 0; x < width; x += block[1]) {
        copy_row(to + x * pixel_bytes, from + x * pixel_bytes, y % block[0], block[0], block[1],
                 std::min(block[1], width - x), border, pixel_bytes);
      }
    }
  });
  bump_version(state);
}

const CalledDirectly<&scatter_border_cpu> direct_scatter_border("scatter_border_");
const CalledDirectly<&copy_border_cpu> direct_copy_border("copy_border_");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("scatter_border_(Tensor(a!) state, Tensor packed, Tensor blocks, int border) -> ()", tags);
  m.def("copy_border_(Tensor(a!) state, Tensor map, int[] slots, int[] block, int border) -> ()",
        tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("scatter_border_", &scatter_border_cpu);
  m.impl("copy_border_", &copy_border_cpu);
}

}  // namespace blockcopy
