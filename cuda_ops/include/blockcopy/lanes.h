// The work of one GPU thread, as plain functions of its place among the threads.
//
// The CUDA kernels only work out that place and call these; a test compiles the same functions for
// the host and runs every "thread" in a loop. Rows are dealt to groups of threads, and the vectors
// of a row to the `lanes` of its group.
#pragma once

#include "blockcopy/index.h"

namespace blockcopy {

// Unit of copying: `Bytes` bytes that are loaded and stored by one instruction.
template <int Words>
struct alignas(4 * Words) Words32 {
  uint32_t word[Words];
};

// The value for positions outside the image, repeated to the widest vector.
struct alignas(16) FillPattern {
  unsigned char byte[16];
};

constexpr int64_t kMaxVectorBytes = sizeof(FillPattern);

// Widest vector (a power of two) that divides a pixel and to which both pointers are aligned.
inline int64_t vector_bytes(int64_t pixel_bytes, const void* a, const void* b) {
  const uint64_t bits = static_cast<uint64_t>(pixel_bytes) | reinterpret_cast<uintptr_t>(a) |
                        reinterpret_cast<uintptr_t>(b) | static_cast<uint64_t>(kMaxVectorBytes);
  return static_cast<int64_t>(bits & (~bits + 1));  // lowest bit set
}

// A thread's place: its rows are first_row, first_row + row_step, ...; its vectors in each of them
// lane, lane + lanes, ...
struct Place {
  int64_t first_row;
  int64_t row_step;
  uint32_t lane;
  uint32_t lanes;
};

// How the threads of a launch are arranged: x over the vectors of a row, y over rows in a block.
struct LaunchShape {
  uint32_t grid_x;
  uint32_t grid_y;
  uint32_t block_x;
  uint32_t block_y;
};

constexpr uint32_t kThreads = 256;           // of a block
constexpr uint32_t kVectorsPerThread = 4;    // several loads in flight for each thread
constexpr int64_t kMaxGridX = 2147483647;
constexpr int64_t kMaxGridY = 65535;

// Short rows (a window of a few pixels) share a block, so that most of its threads are not idle;
// long rows are shared by several blocks.
inline LaunchShape launch_shape(int64_t total_rows, int64_t row_vectors) {
  uint32_t x = 1;
  while (x < kThreads && x < row_vectors) {
    x *= 2;
  }
  const uint32_t y = kThreads / x;
  const int64_t groups = ceil_div(total_rows, y);
  const int64_t chunks = ceil_div(row_vectors, static_cast<int64_t>(x) * kVectorsPerThread);
  return {static_cast<uint32_t>(groups < kMaxGridX ? groups : kMaxGridX),
          static_cast<uint32_t>(chunks < kMaxGridY ? chunks : kMaxGridY), x, y};
}

BLOCKCOPY_HOST_DEVICE Place place_of(const LaunchShape& shape, uint32_t block_index_x,
                                     uint32_t block_index_y, uint32_t thread_x,
                                     uint32_t thread_y) {
  return {static_cast<int64_t>(block_index_x) * shape.block_y + thread_y,
          static_cast<int64_t>(shape.grid_x) * shape.block_y,
          block_index_y * shape.block_x + thread_x, shape.grid_y * shape.block_x};
}

// Returns false, without having touched memory out of bounds, if an index was out of range.
// `pixel_vectors`: vectors in a pixel. A row must have fewer than 2^31 vectors.
template <typename Vector>
BLOCKCOPY_HOST_DEVICE bool gather_lane(const GatherGeometry& g, const Vector* state,
                                       const Block* blocks, const int32_t* rows,
                                       const int32_t* cols, const Vector& fill,
                                       uint32_t pixel_vectors, Vector* out, const Place& place) {
  const int64_t total_rows = g.count * g.window_h;
  const uint32_t row_vectors = static_cast<uint32_t>(g.window_w) * pixel_vectors;
  bool valid = true;
  for (int64_t index = place.first_row; index < total_rows; index += place.row_step) {
    const GatherRow row = gather_row(g, blocks, rows, index);
    if (!row.valid) {
      return false;
    }
    Vector* target = out + index * row_vectors;
    for (uint32_t v = place.lane; v < row_vectors; v += place.lanes) {
      const uint32_t x = v / pixel_vectors;
      const int32_t column = row.outside ? kOutside : cols[row.table_offset + x];
      valid = valid && valid_source(column, g.map.width);
      const bool inside = in_range(column, g.map.width);
      const int64_t source =
          inside ? (row.source_pixel + column) * pixel_vectors + (v - x * pixel_vectors) : 0;
      target[v] = inside ? state[source] : fill;
    }
  }
  return valid;
}

// Like gather_lane.
template <typename Vector>
BLOCKCOPY_HOST_DEVICE bool scatter_lane(const ScatterGeometry& g, Vector* state,
                                        const Vector* packed, const Block* blocks,
                                        uint32_t pixel_vectors, const Place& place) {
  const int64_t total_rows = g.count * g.block_h;
  const int64_t row_vectors = g.block_w * pixel_vectors;
  for (int64_t index = place.first_row; index < total_rows; index += place.row_step) {
    const ScatterRow row = scatter_row(g, blocks, index);
    if (!row.valid) {
      return false;
    }
    Vector* target = state + row.target_pixel * pixel_vectors;
    const Vector* source = packed + index * row_vectors;
    const uint32_t visible = static_cast<uint32_t>(row.visible) * pixel_vectors;
    for (uint32_t v = place.lane; v < visible; v += place.lanes) {
      target[v] = source[v];
    }
  }
  return true;
}

}  // namespace blockcopy
