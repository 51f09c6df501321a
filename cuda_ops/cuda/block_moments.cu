// blockcopy::block_moments and blockcopy::scale_shift on CUDA.
#include "blockcopy/launch.h"
#include "device.cuh"

namespace blockcopy {
namespace {

// Few enough blocks on a multiprocessor to leave registers for the sums of a vector.
template <typename Value, typename Vector>
__global__ void __launch_bounds__(kThreads, Values<Value, Vector>::kCount > 4 ? 2 : 3)
    moments_kernel(MomentsGeometry geometry, const Value* __restrict__ map,
                   const Block* __restrict__ places, double* __restrict__ out) {
  __shared__ double slots[2 * Values<Value, Vector>::kCount * kThreads];
  __shared__ double means[kMaxChunkGroups];
  for (int64_t task = blockIdx.x; task < geometry.tasks(); task += gridDim.x) {
    chunk_moments<Value, Vector>(geometry, map, places, out, task, slots, means, DeviceTeam{});
  }
}

template <typename Value, typename Vector>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(ScaleGeometry geometry, const Vector* __restrict__ map,
                 const Block* __restrict__ places,
                 const typename WorkOf<Value>::type* __restrict__ scale,
                 const typename WorkOf<Value>::type* __restrict__ shift,
                 Vector* __restrict__ out) {
  if (!scale_lane<Value>(geometry, map, places, scale, shift, out, thread_place())) {
    trap_index("scale_shift");
  }
}

}  // namespace

cudaError_t launch_block_moments(const MomentsGeometry& geometry, ValueType type, const void* map,
                                 const Block* places, double* out, cudaStream_t stream) {
  with_values(type, geometry.bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    moments_kernel<Value, decltype(vector)>
        <<<teams_for(geometry.tasks()), kThreads, 0, stream>>>(
            geometry, static_cast<const Value*>(map), places, out);
  });
  return cudaGetLastError();
}

cudaError_t launch_scale_shift(const ScaleGeometry& geometry, ValueType type, int64_t bytes,
                               const void* map, const Block* places, const void* scale,
                               const void* shift, void* out, cudaStream_t stream) {
  const LaunchShape shape = launch_shape(geometry.rows, geometry.row_vectors);
  with_values(type, bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    using Vector = decltype(vector);
    using Work = typename WorkOf<Value>::type;
    scale_kernel<Value, Vector><<<grid_of(shape), block_of(shape), 0, stream>>>(
        geometry, static_cast<const Vector*>(map), places, static_cast<const Work*>(scale),
        static_cast<const Work*>(shift), static_cast<Vector*>(out));
  });
  return cudaGetLastError();
}

}  // namespace blockcopy
