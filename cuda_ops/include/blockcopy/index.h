// Index arithmetic of gather and scatter, written once for host and device.
//
// Maps are dense channels-last (NHWC in memory): a pixel is `pixel_bytes` consecutive bytes and its
// index is (slot * height + row) * width + column. Packed tensors follow the same rule with the
// block number instead of the slot. All offsets are 64-bit; only counts inside one row of a window
// are 32-bit. Needs neither PyTorch nor CUDA headers.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define BLOCKCOPY_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define BLOCKCOPY_HOST_DEVICE inline
#endif

namespace blockcopy {

// Entry of a row or column table that lies outside the image.
constexpr int32_t kOutside = -1;

// One row of the `blocks` tensor.
struct Block {
  int32_t slot;
  int32_t grid_y;
  int32_t grid_x;
};
static_assert(sizeof(Block) == 3 * sizeof(int32_t), "Block must match a row of int32 (n, 3)");

// Extent of the full map, in slots and pixels.
struct MapExtent {
  int64_t slots;
  int64_t height;
  int64_t width;
};

struct GatherGeometry {
  MapExtent map;
  int64_t count;     // packed blocks
  int64_t table_h;   // block rows that `rows` describes
  int64_t table_w;   // block columns that `cols` describes
  int64_t window_h;  // pixels
  int64_t window_w;  // pixels
};

struct ScatterGeometry {
  MapExtent map;
  int64_t count;    // packed blocks
  int64_t block_h;  // pixels
  int64_t block_w;  // pixels
};

// Where one row of one window comes from.
struct GatherRow {
  bool valid;            // false: an index is out of range, nothing may be read
  bool outside;          // the whole row lies outside the image
  int64_t source_pixel;  // pixel index of column 0 of the source row (0 if outside)
  int64_t table_offset;  // offset into `cols` of this block column's entries
};

// Where one row of one packed block goes.
struct ScatterRow {
  bool valid;            // false: an index is out of range, nothing may be written
  int64_t target_pixel;  // pixel index of the row's first pixel
  int32_t visible;       // pixels of it inside the map; 0 if the row lies below the map
};

BLOCKCOPY_HOST_DEVICE bool in_range(int64_t value, int64_t end) {
  return value >= 0 && value < end;
}

BLOCKCOPY_HOST_DEVICE bool valid_source(int32_t index, int64_t size) {
  return index == kOutside || in_range(index, size);
}

BLOCKCOPY_HOST_DEVICE int64_t ceil_div(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

BLOCKCOPY_HOST_DEVICE int64_t pixel_index(const MapExtent& map, int64_t slot, int64_t row,
                                          int64_t column) {
  return (slot * map.height + row) * map.width + column;
}

BLOCKCOPY_HOST_DEVICE bool valid_block(const GatherGeometry& g, const Block& block) {
  return in_range(block.slot, g.map.slots) && in_range(block.grid_y, g.table_h) &&
         in_range(block.grid_x, g.table_w);
}

BLOCKCOPY_HOST_DEVICE bool valid_block(const ScatterGeometry& g, const Block& block) {
  return in_range(block.slot, g.map.slots) &&
         in_range(block.grid_y, ceil_div(g.map.height, g.block_h)) &&
         in_range(block.grid_x, ceil_div(g.map.width, g.block_w));
}

// `index` counts window rows: block * window_h + y.
BLOCKCOPY_HOST_DEVICE GatherRow gather_row(const GatherGeometry& g, const Block* blocks,
                                           const int32_t* rows, int64_t index) {
  const int64_t i = index / g.window_h;
  const int64_t y = index - i * g.window_h;
  const Block block = blocks[i];
  GatherRow result{valid_block(g, block), true, 0, 0};
  if (!result.valid) {
    return result;
  }
  const int32_t source = rows[block.grid_y * g.window_h + y];
  result.valid = valid_source(source, g.map.height);
  result.outside = !in_range(source, g.map.height);
  result.source_pixel = result.outside ? 0 : pixel_index(g.map, block.slot, source, 0);
  result.table_offset = block.grid_x * g.window_w;
  return result;
}

// `index` counts packed rows: block * block_h + y.
BLOCKCOPY_HOST_DEVICE ScatterRow scatter_row(const ScatterGeometry& g, const Block* blocks,
                                             int64_t index) {
  const int64_t i = index / g.block_h;
  const int64_t y = index - i * g.block_h;
  const Block block = blocks[i];
  ScatterRow result{valid_block(g, block), 0, 0};
  if (!result.valid) {
    return result;
  }
  const int64_t row = block.grid_y * g.block_h + y;
  const int64_t column = block.grid_x * g.block_w;
  const int64_t room = g.map.width - column;
  if (row < g.map.height) {
    result.target_pixel = pixel_index(g.map, block.slot, row, column);
    result.visible = static_cast<int32_t>(room < g.block_w ? room : g.block_w);
  }
  return result;
}

}  // namespace blockcopy
