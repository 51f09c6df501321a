// The mean of each square of pixels, as teams of threads compute it: blockcopy::reduce_picture.
#pragma once

#include "blockcopy/team.h"
#include "blockcopy/values.h"

namespace blockcopy {

// Values of a row that a team sums over the rows of their squares; a float of shared memory each.
constexpr int64_t kStripValues = 8 * kThreads;

// A picture as planes of rows of pixels with `lanes` values side by side: the channels if they come
// last, else 1.
struct SquaresGeometry {
  int64_t planes;
  int64_t height;
  int64_t width;
  int64_t lanes;
  int64_t side;   // of a square, pixels
  int64_t strip;  // squares that a team takes; 0: a square is too wide for a team
  int64_t bytes;  // of a load

  BLOCKCOPY_HOST_DEVICE int64_t out_height() const { return ceil_div(height, side); }
  BLOCKCOPY_HOST_DEVICE int64_t out_width() const { return ceil_div(width, side); }
  BLOCKCOPY_HOST_DEVICE int64_t strips() const { return ceil_div(out_width(), strip); }
  BLOCKCOPY_HOST_DEVICE int64_t tasks() const { return planes * out_height() * strips(); }
  BLOCKCOPY_HOST_DEVICE int64_t means() const { return planes * out_height() * out_width() * lanes; }
};

inline SquaresGeometry squares_geometry(int64_t planes, int64_t height, int64_t width,
                                        int64_t lanes, int64_t side, int64_t value_bytes,
                                        const void* picture) {
  // A square wider than the picture is as wide as the picture.
  side = least(side, greatest(height, width));
  SquaresGeometry g{planes, height, width, lanes, side, 0, value_bytes};
  const int64_t square = side * lanes;
  int64_t strip = least(kStripValues / square, g.out_width());
  if (strip == 0) {
    return g;
  }
  g.bytes = vector_bytes(width * lanes * value_bytes, picture, picture);
  const int64_t alone = vector_bytes(square * value_bytes, picture, picture);
  if (alone < g.bytes && strip < g.out_width()) {
    // Strips must begin where a vector does.
    const int64_t step = g.bytes / alone;
    if (strip >= step) {
      strip -= strip % step;
    } else {
      g.bytes = alone;
    }
  }
  g.strip = strip;
  return g;
}

// One strip of squares. `sums` has kStripValues floats that the team shares.
template <typename Value, typename Vector, typename Team>
BLOCKCOPY_HOST_DEVICE void reduce_strip(const SquaresGeometry& g, const Value* picture, float* out,
                                        int64_t task, float* sums, const Team& team) {
  constexpr int kCount = Values<Value, Vector>::kCount;
  const int64_t strips = g.strips();
  const int64_t line = task / strips;
  const int64_t x = (task - line * strips) * g.strip;
  const int64_t plane = line / g.out_height();
  const int64_t y = line - plane * g.out_height();
  const int64_t row_values = g.width * g.lanes;
  const int64_t row_vectors = row_values / kCount;
  const uint32_t lanes = static_cast<uint32_t>(g.lanes), side = static_cast<uint32_t>(g.side);
  const uint32_t rows = static_cast<uint32_t>(least(side, g.height - y * side));
  const uint32_t pixels = static_cast<uint32_t>(least(g.strip * side, g.width - x * side));
  const Vector* const first = reinterpret_cast<const Vector*>(
      picture + (plane * g.height + y * side) * row_values + x * side * lanes);
  team.each([&](uint32_t thread) {
    for (uint32_t v = thread; v < pixels * lanes / kCount; v += kThreads) {
      float total[kCount] = {};
      const Vector* from = first + v;
      BLOCKCOPY_UNROLL_4
      for (uint32_t row = 0; row < rows; ++row, from += row_vectors) {
        const auto values = unpack<Value>(*from);
        BLOCKCOPY_UNROLL
        for (int i = 0; i < kCount; ++i) {
          total[i] += static_cast<float>(widen(values.value[i]));
        }
      }
      BLOCKCOPY_UNROLL
      for (int i = 0; i < kCount; ++i) {
        sums[v * kCount + i] = total[i];
      }
    }
  });
  const uint32_t squares = (pixels + side - 1) / side;
  team.each([&](uint32_t thread) {
    for (uint32_t index = thread; index < squares * lanes; index += kThreads) {
      const uint32_t lane = index / squares, square = index - lane * squares;
      const uint32_t left = pixels - square * side, columns = side < left ? side : left;
      float total = 0;
      for (uint32_t column = 0; column < columns; ++column) {
        total += sums[(square * side + column) * lanes + lane];
      }
      out[((plane * lanes + lane) * g.out_height() + y) * g.out_width() + x + square] =
          total / (static_cast<float>(rows) * static_cast<float>(columns));
    }
  });
}

// The means first, first + step, ... of squares that are too wide for a team: each by one thread.
template <typename Value>
BLOCKCOPY_HOST_DEVICE void reduce_wide(const SquaresGeometry& g, const Value* picture, float* out,
                                       int64_t first, int64_t step) {
  for (int64_t index = first; index < g.means(); index += step) {
    const int64_t square = index / g.lanes, lane = index - square * g.lanes;
    const int64_t line = square / g.out_width(), x = square - line * g.out_width();
    const int64_t plane = line / g.out_height(), y = line - plane * g.out_height();
    const int64_t rows = least(g.side, g.height - y * g.side);
    const int64_t columns = least(g.side, g.width - x * g.side);
    double total = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const Value* from =
          picture + (((plane * g.height + y * g.side + row) * g.width) + x * g.side) * g.lanes + lane;
      float of_row = 0;
      for (int64_t column = 0; column < columns; ++column) {
        of_row += static_cast<float>(widen(from[column * g.lanes]));
      }
      total += of_row;
    }
    out[((plane * g.lanes + lane) * g.out_height() + y) * g.out_width() + x] =
        static_cast<float>(total / (static_cast<double>(rows) * static_cast<double>(columns)));
  }
}

}  // namespace blockcopy
