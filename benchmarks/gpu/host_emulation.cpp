// The CUDA kernels on the host: every "thread" of a launch in a loop. See host_emulation.py.
#include <cmath>
#include <cstring>
#include <vector>
#include "blockcopy/divergence.h"
#include "blockcopy/finish.h"
#include "blockcopy/lanes.h"
#include "blockcopy/moments.h"
#include "blockcopy/squares.h"
using namespace blockcopy;

template <typename Function>
bool every_thread(const LaunchShape& s, Function f) {
  bool valid = true;
  for (uint32_t bx = 0; bx < s.grid_x; ++bx)
    for (uint32_t by = 0; by < s.grid_y; ++by)
      for (uint32_t ty = 0; ty < s.block_y; ++ty)
        for (uint32_t tx = 0; tx < s.block_x; ++tx)
          valid &= f(place_of(s, bx, by, tx, ty));
  return valid;
}

template <typename Function>
bool dispatch(int64_t bytes, Function f) {
  switch (bytes) {
    case 16: return f(Words32<4>{});
    case 8: return f(Words32<2>{});
    case 4: return f(uint32_t{});
    case 2: return f(uint16_t{});
    default: return f(uint8_t{});
  }
}

// grid_x, grid_y: 0 = as launch_shape says, otherwise fewer blocks than that, each doing more.
static LaunchShape limited(LaunchShape s, uint32_t grid_x, uint32_t grid_y) {
  if (grid_x && grid_x < s.grid_x) s.grid_x = grid_x;
  if (grid_y && grid_y < s.grid_y) s.grid_y = grid_y;
  return s;
}

extern "C" int64_t width_of(int64_t pixel_bytes, const void* a, const void* b) {
  return vector_bytes(pixel_bytes, a, b);
}

extern "C" bool run_gather(const int64_t* g, const void* state, const Block* blocks,
                           const int32_t* rows, const int32_t* cols, const FillPattern* fill,
                           int64_t pixel_bytes, void* out, uint32_t grid_x, uint32_t grid_y) {
  const GatherGeometry geometry{{g[0], g[1], g[2]}, g[3], g[4], g[5], g[6], g[7]};
  const int64_t bytes = vector_bytes(pixel_bytes, state, out);
  const uint32_t per_pixel = pixel_bytes / bytes;
  const LaunchShape shape = limited(
      launch_shape(geometry.count * geometry.window_h, geometry.window_w * per_pixel), grid_x,
      grid_y);
  return dispatch(bytes, [&](auto zero) {
    using Vector = decltype(zero);
    Vector value;
    std::memcpy(&value, fill->byte, sizeof(Vector));
    return every_thread(shape, [&](const Place& place) {
      return gather_lane(geometry, static_cast<const Vector*>(state), blocks, rows, cols, value,
                         per_pixel, static_cast<Vector*>(out), place);
    });
  });
}

extern "C" bool run_scatter(const int64_t* g, void* state, const void* packed,
                            const Block* blocks, int64_t pixel_bytes, uint32_t grid_x,
                            uint32_t grid_y) {
  const ScatterGeometry geometry{{g[0], g[1], g[2]}, g[3], g[4], g[5]};
  const int64_t bytes = vector_bytes(pixel_bytes, state, packed);
  const uint32_t per_pixel = pixel_bytes / bytes;
  const LaunchShape shape = limited(
      launch_shape(geometry.count * geometry.block_h, geometry.block_w * per_pixel), grid_x,
      grid_y);
  return dispatch(bytes, [&](auto zero) {
    using Vector = decltype(zero);
    return every_thread(shape, [&](const Place& place) {
      return scatter_lane(geometry, static_cast<Vector*>(state),
                          static_cast<const Vector*>(packed), blocks, per_pixel, place);
    });
  });
}

// Shared memory is whatever was there before: not a number, so that what reads it unwritten shows.
template <typename Number>
static std::vector<Number> shared_memory(int64_t count) {
  return std::vector<Number>(count, static_cast<Number>(NAN));
}

extern "C" void run_reduce_picture(const int64_t* g, int32_t type, const void* picture,
                                   float* out) {
  const ValueType value_type = static_cast<ValueType>(type);
  const SquaresGeometry geometry =
      squares_geometry(g[0], g[1], g[2], g[3], g[4], bytes_of(value_type), picture);
  with_values(value_type, geometry.bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    const Value* from = static_cast<const Value*>(picture);
    if (geometry.strip == 0) {
      const int64_t threads = kThreads;
      for (int64_t thread = 0; thread < threads; ++thread)
        reduce_wide(geometry, from, out, thread, threads);
      return;
    }
    for (int64_t task = 0; task < geometry.tasks(); ++task) {
      auto sums = shared_memory<float>(kStripValues);
      reduce_strip<Value, decltype(vector)>(geometry, from, out, task, sums.data(), HostTeam{});
    }
  });
}

extern "C" void run_block_moments(const int64_t* g, int32_t type, const void* map,
                                  const Block* places, double* out) {
  const ValueType value_type = static_cast<ValueType>(type);
  MomentsGeometry geometry{g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], 0, 0};
  deal_moments(geometry, bytes_of(value_type), map);
  with_values(value_type, geometry.bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    using Vector = decltype(vector);
    for (int64_t task = 0; task < geometry.tasks(); ++task) {
      auto slots = shared_memory<double>(2 * Values<Value, Vector>::kCount * kThreads);
      auto means = shared_memory<double>(kMaxChunkGroups);
      chunk_moments<Value, Vector>(geometry, static_cast<const Value*>(map), places, out, task,
                                   slots.data(), means.data(), HostTeam{});
    }
  });
}

extern "C" bool run_scale_shift(const int64_t* g, int32_t type, const void* map,
                                const Block* places, const void* scale, const void* shift,
                                void* out, uint32_t grid_x, uint32_t grid_y) {
  const ValueType value_type = static_cast<ValueType>(type);
  const int64_t pixel = g[3] * bytes_of(value_type);
  const int64_t bytes = vector_bytes(pixel, map, out);
  const uint32_t per_pixel = pixel / bytes;
  const ScaleGeometry geometry{g[0], g[1] * g[2], g[2], g[3],
                               static_cast<uint32_t>(g[4] * per_pixel), per_pixel};
  const LaunchShape shape =
      limited(launch_shape(geometry.rows, geometry.row_vectors), grid_x, grid_y);
  bool valid = true;
  with_values(value_type, bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    using Vector = decltype(vector);
    using Work = typename WorkOf<Value>::type;
    valid = every_thread(shape, [&](const Place& place) {
      return scale_lane<Value>(geometry, static_cast<const Vector*>(map), places,
                               static_cast<const Work*>(scale), static_cast<const Work*>(shift),
                               static_cast<Vector*>(out), place);
    });
  });
  return valid;
}

extern "C" void run_block_divergence(const int64_t* g, double clip, const float* before,
                                     const float* now, float* out) {
  const int64_t part = greatest(g[8] / 4, 1);
  const DivergenceGeometry geometry{g[0], g[5], g[6], static_cast<uint32_t>(g[8]),
                                    static_cast<uint32_t>(part),
                                    static_cast<double>(g[7]) / static_cast<double>(g[8]),
                                    static_cast<float>(clip)};
  const auto map_of = [&](const float* logs, int64_t height, int64_t width) {
    return LogsMap{logs, height, width, static_cast<double>(height) / static_cast<double>(g[9]),
                   static_cast<double>(width) / static_cast<double>(g[10])};
  };
  for (int64_t block = 0; block < geometry.grid_h * geometry.grid_w; ++block) {
    auto values = shared_memory<float>(kMaxCells);
    block_divergence(geometry, map_of(before, g[1], g[2]), map_of(now, g[3], g[4]), out, block,
                     values.data(), HostTeam{});
  }
}

// v: bias, the norm's weight, bias, mean and variance.
extern "C" void run_finish(const int64_t* g, int32_t type, bool wide_norm, void* sums,
                           const void* residual, const void* const* v, double eps, double low,
                           double high) {
  const FinishCall call{static_cast<ValueType>(type), wide_norm, g[0], g[1], sums, residual,
                        {v[0], v[1], v[2], v[3], v[4], static_cast<float>(eps),
                         static_cast<float>(low), static_cast<float>(high)}};
  with_finish(call, [&](auto value, auto norm, auto vector) {
    using Value = decltype(value);
    using Vector = decltype(vector);
    constexpr int64_t count = Values<Value, Vector>::kCount;
    FinishGeometry geometry = finish_geometry(call, count);
    geometry.strips = least(geometry.strips, g[2]);
    const auto vectors = finish_vectors<Value, decltype(norm)>(call);
    // A launch has whole blocks of threads.
    const int64_t threads = ceil_div(geometry.strips * (g[1] / count), kThreads) * kThreads;
    for (int64_t thread = 0; thread < threads; ++thread)
      finish_thread<Vector>(geometry, vectors, static_cast<Value*>(sums),
                            static_cast<const Value*>(residual), thread);
  });
}

extern "C" bool run_all_finite(int32_t type, const void* values, int64_t count) {
  bool finite = true;
  with_values(static_cast<ValueType>(type), vector_bytes(kMaxVectorBytes, values, values),
              [&](auto value, auto vector) {
    using Value = decltype(value);
    const int64_t threads =
        static_cast<int64_t>(finite_blocks(count, sizeof(vector) / sizeof(value))) * kThreads;
    for (int64_t thread = 0; thread < threads; ++thread)
      if (!finite_lane<Value, decltype(vector)>(static_cast<const Value*>(values), count, thread,
                                                threads))
        finite = false;
  });
  return finite;
}
