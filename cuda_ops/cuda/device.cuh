// Code that the kernels share on the device side.
#pragma once

#include <cstdio>

#include "blockcopy/lanes.h"

namespace blockcopy {

__device__ __forceinline__ Place thread_place() {
  return place_of({gridDim.x, gridDim.y, blockDim.x, blockDim.y}, blockIdx.x, blockIdx.y,
                  threadIdx.x, threadIdx.y);
}

// An index out of range must never become an access out of bounds: end the launch instead.
__device__ __noinline__ inline void trap_index(const char* op) {
  printf("blockcopy::%s: a slot, gy, gx or table entry is out of range; make the index tensors "
         "from the geometry of this map\n",
         op);
  __trap();
}

inline dim3 grid_of(const LaunchShape& shape) { return dim3(shape.grid_x, shape.grid_y); }
inline dim3 block_of(const LaunchShape& shape) { return dim3(shape.block_x, shape.block_y); }

// Calls f with a value of the vector type that has this many bytes (1, 2, 4, 8 or 16).
template <typename Function>
void dispatch_vector(int64_t bytes, Function&& f) {
  switch (bytes) {
    case 16:
      return f(Words32<4>{});
    case 8:
      return f(Words32<2>{});
    case 4:
      return f(uint32_t{});
    case 2:
      return f(uint16_t{});
    default:
      return f(uint8_t{});
  }
}

}  // namespace blockcopy
