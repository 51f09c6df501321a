// blockcopy::scatter_rings_ and copy_rings_ on CPU: only the pixels near the edges of blocks.
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
#include "blockcopy/rings.h"

namespace blockcopy {
namespace {

// Rings are dealt to threads in chunks of about this size.
constexpr int64_t kChunkBytes = 64 * 1024;

// Checks the rings of a map, and that they are of blocks of a size.
RingShape check_rings(const char* op, const at::Tensor& rings, const at::Tensor& source,
                      at::IntArrayRef size, at::IntArrayRef block, int64_t border) {
  TORCH_CHECK_VALUE(block.size() == 2 && block[0] > 0 && block[1] > 0,
                    "blockcopy::", op, ": block is ", block, ", expected (height, width)");
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] > 0 && size[1] > 0,
                    "blockcopy::", op, ": size is ", size, ", expected (height, width)");
  const RingShape shape = {block[0], block[1], border};
  TORCH_CHECK_VALUE(shape.is_valid(), "blockcopy::", op, ": border is ", border,
                    ", expected at least 1 pixel and less than half of blocks of ", block);
  const int64_t blocks = ceil_div(size[0], block[0]) * ceil_div(size[1], block[1]);
  TORCH_CHECK_VALUE(rings.dim() == 4 && rings.size(2) == blocks && rings.size(3) == shape.pixels(),
                    "blockcopy::", op, ": rings have shape ", rings.sizes(), ", expected (S, C, ",
                    blocks, ", ", shape.pixels(), ") for blocks of ", block, " of a map of ", size);
  TORCH_CHECK_VALUE(rings.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "blockcopy::", op, ": rings must be channels-last contiguous, but have strides ",
                    rings.strides());
  TORCH_CHECK_VALUE(source.dim() == 4 && source.size(1) == rings.size(1),
                    "blockcopy::", op, ": rings have shape ", rings.sizes(),
                    ", but what is written has ", source.sizes());
  TORCH_CHECK_TYPE(source.scalar_type() == rings.scalar_type(),
                   "blockcopy::", op, ": rings are ", rings.scalar_type(),
                   ", but what is written is ", source.scalar_type());
  return shape;
}

// Writes the ring of a block of which `high` rows and `wide` columns are on the map.
// `row_bytes`: from a row of the block to the next.
void write_ring(const RingShape& shape, char* ring, const char* block, int64_t row_bytes,
                int64_t high, int64_t wide, int64_t pixel_bytes) {
  const auto copy = [&](int64_t row, int64_t column, int64_t count) {
    const int64_t width = std::min(count, wide - column);
    if (width > 0) {
      std::memcpy(ring + shape.place_of(row, column) * pixel_bytes,
                  block + row * row_bytes + column * pixel_bytes, width * pixel_bytes);
    }
  };
  for (int64_t row = 0; row < std::min(high, shape.block_h); ++row) {
    if (shape.is_whole(row)) {
      copy(row, 0, shape.block_w);
    } else {
      copy(row, 0, shape.border);
      copy(row, shape.block_w - shape.border, shape.border);
    }
  }
}

void scatter_rings_cpu(const at::Tensor& rings, const at::Tensor& packed, const at::Tensor& blocks,
                       at::IntArrayRef size, int64_t border) {
  check_no_grad("scatter_rings_", rings.requires_grad() || packed.requires_grad());
  TORCH_CHECK_VALUE(packed.dim() == 4, "blockcopy::scatter_rings_: packed has shape ",
                    packed.sizes(), ", expected (n, C, bh, bw)");
  check_blocks("scatter_rings_", blocks, rings);
  TORCH_CHECK_VALUE(packed.size(0) == blocks.size(0), "blockcopy::scatter_rings_: packed has ",
                    packed.size(0), " blocks, but blocks has ", blocks.size(0), " rows");
  const RingShape shape =
      check_rings("scatter_rings_", rings, packed, size, packed.sizes().slice(2), border);
  const ScatterGeometry g = {{rings.size(0), size[0], size[1]},
                             packed.size(0), packed.size(2), packed.size(3)};
  const Block* block_list = block_data(blocks);
  check_indices(g, block_list, "scatter_rings_");
  if (packed.numel() == 0) {
    return;
  }
  const at::Tensor source = dense_source(packed, rings);
  const char* from = static_cast<const char*>(source.const_data_ptr());
  char* to = static_cast<char*>(rings.mutable_data_ptr());
  const int64_t pixel_bytes = rings.size(1) * static_cast<int64_t>(rings.element_size());
  const int64_t ring_bytes = shape.pixels() * pixel_bytes, row_bytes = g.block_w * pixel_bytes;
  const int64_t across = ceil_div(size[1], g.block_w);
  at::parallel_for(0, g.count, std::max<int64_t>(1, kChunkBytes / ring_bytes),
                   [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Block& at = block_list[i];
      const int64_t place = at.slot * rings.size(2) + at.grid_y * across + at.grid_x;
      write_ring(shape, to + place * ring_bytes, from + i * g.block_h * row_bytes, row_bytes,
                 size[0] - at.grid_y * g.block_h, size[1] - at.grid_x * g.block_w, pixel_bytes);
    }
  });
  bump_version(rings);
}

void copy_rings_cpu(const at::Tensor& rings, const at::Tensor& map, const at::Tensor& places,
                    at::IntArrayRef block, int64_t border) {
  check_no_grad("copy_rings_", rings.requires_grad() || map.requires_grad());
  TORCH_CHECK_VALUE(map.dim() == 4, "blockcopy::copy_rings_: map has shape ", map.sizes(),
                    ", expected (N, C, H, W)");
  check_blocks("copy_rings_", places, rings);
  TORCH_CHECK_VALUE(places.size(0) == map.size(0), "blockcopy::copy_rings_: ", places.size(0),
                    " places for ", map.size(0), " images, expected one each");
  const RingShape shape =
      check_rings("copy_rings_", rings, map, map.sizes().slice(2), block, border);
  const Block* place_list = block_data(places);
  for (int64_t i = 0; i < places.size(0); ++i) {
    TORCH_CHECK_INDEX(in_range(place_list[i].slot, rings.size(0)), "blockcopy::copy_rings_: slot ",
                      place_list[i].slot, " is out of range, expected 0 <= slot < ", rings.size(0));
  }
  if (map.numel() == 0) {
    return;
  }
  const at::Tensor source = dense_source(map, rings);
  const char* from = static_cast<const char*>(source.const_data_ptr());
  char* to = static_cast<char*>(rings.mutable_data_ptr());
  const int64_t pixel_bytes = rings.size(1) * static_cast<int64_t>(rings.element_size());
  const int64_t ring_bytes = shape.pixels() * pixel_bytes, row_bytes = map.size(3) * pixel_bytes;
  const int64_t blocks = rings.size(2), across = ceil_div(map.size(3), block[1]);
  at::parallel_for(0, map.size(0) * blocks, std::max<int64_t>(1, kChunkBytes / ring_bytes),
                   [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / blocks, y = i % blocks / across * block[0],
                    x = i % blocks % across * block[1];
      const int64_t place = place_list[image].slot * blocks + i % blocks;
      write_ring(shape, to + place * ring_bytes,
                 from + (image * map.size(2) + y) * row_bytes + x * pixel_bytes, row_bytes,
                 map.size(2) - y, map.size(3) - x, pixel_bytes);
    }
  });
  bump_version(rings);
}

const CalledDirectly<&scatter_rings_cpu> direct_scatter_rings("scatter_rings_");
const CalledDirectly<&copy_rings_cpu> direct_copy_rings("copy_rings_");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "scatter_rings_(Tensor(a!) rings, Tensor packed, Tensor blocks, int[] size, int border) -> ()",
      tags);
  m.def(
      "copy_rings_(Tensor(a!) rings, Tensor map, Tensor places, int[] block, int border) -> ()",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("scatter_rings_", &scatter_rings_cpu);
  m.impl("copy_rings_", &copy_rings_cpu);
}

}  // namespace blockcopy
