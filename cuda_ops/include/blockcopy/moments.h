// Mean and spread of groups of channels over blocks, and a scale and shift of each channel, as
// threads compute them: blockcopy::block_moments and blockcopy::scale_shift. Maps are channels
// last.
#pragma once

#include "blockcopy/team.h"
#include "blockcopy/values.h"

namespace blockcopy {

// Neighbouring groups are processed together up to this many bytes of a pixel, so that a team reads
// whole sectors of memory from it.
constexpr int64_t kChunkBytes = 64;
constexpr int64_t kMaxChunkGroups = kChunkBytes / 2;
// Number of pixels that a thread sums in the type of the work before adding to its sum in double.
constexpr int kPixelsOfPart = 32;

struct MomentsGeometry {
  int64_t count;  // blocks
  int64_t channels;
  int64_t groups;
  int64_t block_h, block_w;  // pixels
  int64_t grid_h, grid_w;    // blocks of a map; not looked at where blocks are listed
  int64_t size_h, size_w;    // of the map, pixels
  int64_t row_pixels;        // of the tensor
  int64_t image_pixels;      // of an image or packed block
  int64_t chunk_groups;      // that a team takes
  int64_t bytes;             // of a load

  BLOCKCOPY_HOST_DEVICE int64_t chunks() const { return ceil_div(groups, chunk_groups); }
  BLOCKCOPY_HOST_DEVICE int64_t tasks() const { return count * chunks(); }
};

// Sets how the work is distributed; everything else is set already.
inline void deal_moments(MomentsGeometry& g, int64_t value_bytes, const void* map) {
  const int64_t group = g.channels / g.groups * value_bytes;
  g.bytes = vector_bytes(g.channels * value_bytes, map, map);
  // A vector lies in one group, or holds whole groups.
  while (g.bytes > value_bytes && group % g.bytes != 0 && g.bytes % group != 0) {
    g.bytes /= 2;
  }
  const int64_t of_vector = greatest(1, g.bytes / group);
  g.chunk_groups = greatest(1, kChunkBytes / group);
  g.chunk_groups = greatest(of_vector, g.chunk_groups - g.chunk_groups % of_vector);
}

// A chunk of groups in one block, and how its values are distributed to the threads of a team.
struct MomentsChunk {
  int64_t first_group;
  uint32_t groups;
  uint32_t of_group;    // channels
  uint32_t high, wide;  // pixels of the block on the map
  uint32_t vectors;     // of the chunk in a pixel
  uint32_t runs;        // groups that a vector holds, each a run of its values
  uint32_t of_one;      // vectors that a group has
  uint32_t columns;     // threads of one column have the same groups
  uint32_t threads;     // that work
};

// Adds up a thread's values, or their distances from `means` and the squares of these.
template <typename Value, typename Vector, bool kSquares>
BLOCKCOPY_HOST_DEVICE void add_values(const MomentsChunk& chunk, const Value* base,
                                      int64_t row_values, uint32_t pixel_values,
                                      const double* means, double* slots, uint32_t thread) {
  using Work = typename WorkOf<Value>::type;
  constexpr int kCount = Values<Value, Vector>::kCount;
  const uint32_t vectors = chunk.vectors, wide = chunk.wide, run = kCount / chunk.runs;
  uint32_t pixel = thread / vectors, vector = thread - pixel * vectors;
  uint32_t y = pixel / wide, x = pixel - y * wide;
  const uint32_t pixels = chunk.threads / vectors, more = chunk.threads - pixels * vectors;
  const uint32_t step_y = pixels / wide, step_x = pixels - step_y * wide;
  const uint32_t end = thread < chunk.threads ? chunk.high : 0;
  Work centre[kCount];
  BLOCKCOPY_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const uint32_t group = chunk.runs > 1 ? vector * chunk.runs + i / run : vector / chunk.of_one;
    centre[i] = kSquares ? static_cast<Work>(means[chunk.groups == 1 ? 0 : group]) : Work{0};
  }
  for (uint32_t j = 0; j < chunk.runs; ++j) {
    slots[j * kThreads + thread] = 0;
    slots[(kCount + j) * kThreads + thread] = 0;
  }
  while (y < end) {
    Work total[kCount] = {}, square[kCount] = {};
    for (int n = 0; n < kPixelsOfPart && y < end; ++n) {
      const Vector* from =
          reinterpret_cast<const Vector*>(base + y * row_values + x * pixel_values) + vector;
      const auto loaded = unpack<Value>(*from);
      BLOCKCOPY_UNROLL
      for (int i = 0; i < kCount; ++i) {
        const Work apart = static_cast<Work>(widen(loaded.value[i])) - centre[i];
        total[i] += apart;
        square[i] += apart * apart;
      }
      vector += more;
      const bool over = vector >= vectors;
      vector -= over ? vectors : 0;
      x += step_x + (over ? 1 : 0);
      y += step_y;
      if (x >= wide) {
        x -= wide;
        ++y;
      }
    }
    BLOCKCOPY_UNROLL
    for (int i = 0; i < kCount; ++i) {
      slots[i / run * kThreads + thread] += total[i];
      if (kSquares) {
        slots[(kCount + i / run) * kThreads + thread] += square[i];
      }
    }
  }
}

// Adds up the sums of the threads of each column, into those of its first thread.
template <int kCount, typename Team>
BLOCKCOPY_HOST_DEVICE void join_rows(const MomentsChunk& chunk, double* slots, const Team& team) {
  const uint32_t columns = chunk.columns;
  uint32_t rows = chunk.threads / columns, half = 1;
  while (half < rows) {
    half *= 2;
  }
  for (half /= 2; half > 0; half /= 2) {
    team.each([&](uint32_t thread) {
      const uint32_t row = thread / columns;
      if (row < half && row + half < rows) {
        for (uint32_t j = 0; j < chunk.runs; ++j) {
          double* const of_run = slots + j * kThreads + thread;
          of_run[0] += of_run[half * columns];
          of_run[kCount * kThreads] += of_run[kCount * kThreads + half * columns];
        }
      }
    });
    rows = half;
  }
}

// The sum of a group over the columns that have it.
BLOCKCOPY_HOST_DEVICE double of_columns(const MomentsChunk& chunk, const double* slots,
                                        uint32_t group) {
  if (chunk.groups == 1) {
    return slots[0];
  }
  if (chunk.runs > 1) {
    return slots[group % chunk.runs * kThreads + group / chunk.runs];
  }
  double total = 0;
  for (uint32_t i = 0; i < chunk.of_one; ++i) {
    total += slots[group * chunk.of_one + i];
  }
  return total;
}

// One block's moments of one chunk of groups, in two passes: the mean, then distances from it.
// Shared by the team: `slots`, 2 * kCount * kThreads doubles, and `means`, kMaxChunkGroups.
template <typename Value, typename Vector, typename Team>
BLOCKCOPY_HOST_DEVICE void chunk_moments(const MomentsGeometry& g, const Value* map,
                                         const Block* places, double* out, int64_t task,
                                         double* slots, double* means, const Team& team) {
  using Work = typename WorkOf<Value>::type;
  constexpr int kCount = Values<Value, Vector>::kCount;
  const int64_t index = task / g.chunks();
  MomentsChunk chunk;
  chunk.first_group = (task - index * g.chunks()) * g.chunk_groups;
  chunk.groups = static_cast<uint32_t>(least(g.chunk_groups, g.groups - chunk.first_group));
  chunk.of_group = static_cast<uint32_t>(g.channels / g.groups);
  int64_t by, bx, source;
  if (places != nullptr) {
    by = places[index].grid_y;
    bx = places[index].grid_x;
    source = index * g.image_pixels;
  } else {
    const int64_t image = index / (g.grid_h * g.grid_w);
    const int64_t cell = index - image * (g.grid_h * g.grid_w);
    by = cell / g.grid_w;
    bx = cell - by * g.grid_w;
    source = image * g.image_pixels + by * g.block_h * g.row_pixels + bx * g.block_w;
  }
  const int64_t below = least(g.size_h - by * g.block_h, g.block_h);
  const int64_t beside = least(g.size_w - bx * g.block_w, g.block_w);
  const bool off = below <= 0 || beside <= 0;  // of the map, wholly
  chunk.high = off ? 0 : static_cast<uint32_t>(below);
  chunk.wide = off ? 1 : static_cast<uint32_t>(beside);
  chunk.vectors = chunk.groups * chunk.of_group / kCount;
  chunk.runs = chunk.of_group < kCount ? kCount / chunk.of_group : 1;
  chunk.of_one = chunk.of_group < kCount ? 1 : chunk.of_group / kCount;
  // A single group belongs to all threads.
  chunk.columns = chunk.groups == 1 ? 1 : chunk.vectors;
  chunk.threads = kThreads / chunk.columns * chunk.columns;
  const Value* const base = map + source * g.channels + chunk.first_group * chunk.of_group;
  const int64_t row_values = g.row_pixels * g.channels;
  const uint32_t pixel_values = static_cast<uint32_t>(g.channels);
  double* const result = out + index * (1 + 2 * g.groups);
  const double values = static_cast<double>(chunk.high) * chunk.wide * chunk.of_group;

  team.each([&](uint32_t thread) {
    add_values<Value, Vector, false>(chunk, base, row_values, pixel_values, means, slots, thread);
  });
  join_rows<kCount>(chunk, slots, team);
  team.each([&](uint32_t thread) {
    if (thread < chunk.groups) {
      means[thread] = off ? 0 : of_columns(chunk, slots, thread) / values;
    }
  });
  team.each([&](uint32_t thread) {
    add_values<Value, Vector, true>(chunk, base, row_values, pixel_values, means, slots, thread);
  });
  join_rows<kCount>(chunk, slots, team);
  team.each([&](uint32_t thread) {
    if (thread < chunk.groups) {
      const double centre = static_cast<double>(static_cast<Work>(means[thread]));
      const double apart = of_columns(chunk, slots, thread);
      const double squares = of_columns(chunk, slots + kCount * kThreads, thread);
      const double mean = is_finite(centre) ? centre + apart / values : centre;
      const double spread = squares - apart * apart / values;
      double* const of_group = result + 1 + chunk.first_group + thread;
      of_group[0] = off ? 0 : mean;
      // NaN stays NaN.
      of_group[g.groups] = off || spread < 0 ? 0 : spread;
    }
    if (thread == 0 && chunk.first_group == 0) {
      result[0] = values;
    }
  });
}

struct ScaleGeometry {
  int64_t images;  // that `scale` and `shift` have
  int64_t rows;    // of all blocks or images together
  int64_t height;  // of one of them
  int64_t channels;
  uint32_t row_vectors;
  uint32_t pixel_vectors;
};

// map * scale + shift; false, with nothing read out of bounds, if an image is out of range.
template <typename Value, typename Vector>
BLOCKCOPY_HOST_DEVICE bool scale_lane(const ScaleGeometry& g, const Vector* map,
                                      const Block* places,
                                      const typename WorkOf<Value>::type* scale,
                                      const typename WorkOf<Value>::type* shift, Vector* out,
                                      const Place& place) {
  using Work = typename WorkOf<Value>::type;
  constexpr int kCount = Values<Value, Vector>::kCount;
  for (int64_t row = place.first_row; row < g.rows; row += place.row_step) {
    const int64_t block = row / g.height;
    const int64_t image = places != nullptr ? places[block].slot : block;
    if (!in_range(image, g.images)) {
      return false;
    }
    Work factor[kCount] = {}, offset[kCount] = {};
    uint32_t loaded = g.pixel_vectors;
    for (uint32_t v = place.lane; v < g.row_vectors; v += place.lanes) {
      const uint32_t at = v % g.pixel_vectors;
      // The usual stride is a number of whole pixels.
      if (at != loaded) {
        const int64_t channel = image * g.channels + static_cast<int64_t>(at) * kCount;
        BLOCKCOPY_UNROLL
        for (int i = 0; i < kCount; ++i) {
          factor[i] = scale[channel + i];
          offset[i] = shift[channel + i];
        }
        loaded = at;
      }
      auto values = unpack<Value>(map[row * g.row_vectors + v]);
      BLOCKCOPY_UNROLL
      for (int i = 0; i < kCount; ++i) {
        const Work value = static_cast<Work>(widen(values.value[i])) * factor[i] + offset[i];
        narrow(value, values.value[i]);
      }
      out[row * g.row_vectors + v] = pack<Vector>(values);
    }
  }
  return true;
}

}  // namespace blockcopy
