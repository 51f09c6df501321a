// blockcopy::reduce_picture on CUDA.
#include "blockcopy/launch.h"
#include "device.cuh"

namespace blockcopy {
namespace {

// No more than four blocks on a multiprocessor: their registers hold four loads of each thread.
template <typename Value, typename Vector>
__global__ void __launch_bounds__(kThreads, 4)
    strip_kernel(SquaresGeometry geometry, const Value* __restrict__ picture,
                 float* __restrict__ out) {
  __shared__ float sums[kStripValues];
  for (int64_t task = blockIdx.x; task < geometry.tasks(); task += gridDim.x) {
    reduce_strip<Value, Vector>(geometry, picture, out, task, sums, DeviceTeam{});
  }
}

template <typename Value>
__global__ void __launch_bounds__(kThreads)
    wide_kernel(SquaresGeometry geometry, const Value* __restrict__ picture,
                float* __restrict__ out) {
  reduce_wide(geometry, picture, out, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x,
              static_cast<int64_t>(gridDim.x) * kThreads);
}

}  // namespace

cudaError_t launch_reduce_picture(const SquaresGeometry& geometry, ValueType type,
                                  const void* picture, float* out, cudaStream_t stream) {
  with_values(type, geometry.bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    using Vector = decltype(vector);
    const Value* const from = static_cast<const Value*>(picture);
    if (geometry.strip > 0) {
      strip_kernel<Value, Vector>
          <<<teams_for(geometry.tasks()), kThreads, 0, stream>>>(geometry, from, out);
    } else {
      const int64_t blocks = ceil_div(geometry.means(), kThreads);
      wide_kernel<Value><<<teams_for(blocks), kThreads, 0, stream>>>(geometry, from, out);
    }
  });
  return cudaGetLastError();
}

}  // namespace blockcopy
