// The change of class probabilities in each block, as a team of threads computes it:
// blockcopy::block_divergence; and whether all values are finite: blockcopy::all_finite.
#pragma once

#include <cmath>

#include "blockcopy/team.h"
#include "blockcopy/values.h"

namespace blockcopy {

// Largest number of cells of a block; a float of shared memory each.
constexpr int64_t kMaxCells = 16 * 16;

// A map of log-probabilities, float (classes, height, width).
struct LogsMap {
  const float* logs;
  int64_t height, width;
  double row_scale, column_scale;  // values of the map in a pixel of the picture
};

struct DivergenceGeometry {
  int64_t classes;
  int64_t grid_h, grid_w;  // blocks
  uint32_t cells;          // side of a block
  uint32_t part;           // side of a part of it, in cells, of which the mean is taken
  double cell;             // side of a cell in pixels
  float clip;
};

// The index of the value at a cell's centre.
BLOCKCOPY_HOST_DEVICE int64_t at_centre(int64_t cell, double cell_size, double scale,
                                        int64_t size) {
  const double centre = (static_cast<double>(cell) + 0.5) * cell_size;
  return least(static_cast<int64_t>(centre * scale), size - 1);
}

// The larger of two values, and NaN if one of them is NaN.
BLOCKCOPY_HOST_DEVICE float largest(float a, float b) { return a > b || a != a ? a : b; }

// One block: the largest over its parts of the mean KL divergence of `now` from `before`. The team
// shares `values`, kMaxCells floats.
template <typename Team>
BLOCKCOPY_HOST_DEVICE void block_divergence(const DivergenceGeometry& g, const LogsMap& before,
                                            const LogsMap& now, float* out, int64_t block,
                                            float* values, const Team& team) {
  const int64_t by = block / g.grid_w, bx = block - by * g.grid_w;
  const uint32_t cells = g.cells, parts = cells / g.part;
  team.each([&](uint32_t thread) {
    for (uint32_t index = thread; index < cells * cells; index += kThreads) {
      const uint32_t cell_y = index / cells, cell_x = index - cell_y * cells;
      const int64_t y = by * cells + cell_y, x = bx * cells + cell_x;
      const float* p = now.logs + at_centre(y, g.cell, now.row_scale, now.height) * now.width +
                       at_centre(x, g.cell, now.column_scale, now.width);
      const float* q = before.logs +
                       at_centre(y, g.cell, before.row_scale, before.height) * before.width +
                       at_centre(x, g.cell, before.column_scale, before.width);
      const int64_t p_step = now.height * now.width, q_step = before.height * before.width;
      float total = 0;
      BLOCKCOPY_UNROLL_4
      for (int64_t c = 0; c < g.classes; ++c) {
        const float log = p[c * p_step];
        total += expf(log) * (log - q[c * q_step]);
      }
      values[index] = total;
    }
  });
  team.each([&](uint32_t thread) {
    if (thread < parts * parts) {
      // Written into the part's own first cell, which no other thread reads.
      float* const first = values + thread / parts * g.part * cells + thread % parts * g.part;
      float total = 0;
      for (uint32_t row = 0; row < g.part; ++row) {
        for (uint32_t column = 0; column < g.part; ++column) {
          total += first[row * cells + column];
        }
      }
      *first = total / static_cast<float>(g.part * g.part);
    }
  });
  team.each([&](uint32_t thread) {
    if (thread == 0) {
      // Rounding can make an exact 0 slightly negative.
      float most = 0;
      for (uint32_t i = 0; i < parts * parts; ++i) {
        most = largest(most, values[i / parts * g.part * cells + i % parts * g.part]);
      }
      out[block] = most > g.clip ? g.clip : most;
    }
  });
}

// Whether the vectors first, first + step, ... of `count` values contain only finite values; the
// values after the last whole vector are checked by the first threads.
template <typename Value, typename Vector>
BLOCKCOPY_HOST_DEVICE bool finite_lane(const Value* values, int64_t count, int64_t first,
                                       int64_t step) {
  constexpr int kCount = Values<Value, Vector>::kCount;
  const Vector* vectors = reinterpret_cast<const Vector*>(values);
  bool finite = true;
  BLOCKCOPY_UNROLL_4
  for (int64_t v = first; v < count / kCount; v += step) {
    const auto loaded = unpack<Value>(vectors[v]);
    BLOCKCOPY_UNROLL
    for (int i = 0; i < kCount; ++i) {
      finite = finite && is_finite(widen(loaded.value[i]));
    }
  }
  for (int64_t i = count / kCount * kCount + first; i < count; i += step) {
    finite = finite && is_finite(widen(values[i]));
  }
  return finite;
}

// Number of threads for a launch over this many vectors: enough to fill a device.
inline uint32_t finite_blocks(int64_t count, int64_t of_vector) {
  const int64_t blocks = ceil_div(ceil_div(count, of_vector), 4 * kThreads);
  return static_cast<uint32_t>(greatest(1, least(blocks, 4096)));
}

}  // namespace blockcopy
