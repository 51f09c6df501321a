// The CUDA kernels on the host: every "thread" of a launch in a loop. See host_emulation.py.
#include <cstring>
#include "blockcopy/lanes.h"
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
