// blockcopy::block_divergence and blockcopy::all_finite on CUDA.
#include "blockcopy/launch.h"
#include "device.cuh"

namespace blockcopy {
namespace {

__global__ void __launch_bounds__(kThreads)
    divergence_kernel(DivergenceGeometry geometry, LogsMap before, LogsMap now,
                      float* __restrict__ out) {
  __shared__ float values[kMaxCells];
  for (int64_t block = blockIdx.x; block < geometry.grid_h * geometry.grid_w;
       block += gridDim.x) {
    block_divergence(geometry, before, now, out, block, values, DeviceTeam{});
  }
}

template <typename Value, typename Vector>
__global__ void __launch_bounds__(kThreads)
    finite_kernel(const Value* __restrict__ values, int64_t count, bool* __restrict__ out) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (!finite_lane<Value, Vector>(values, count, first,
                                  static_cast<int64_t>(gridDim.x) * kThreads)) {
    // All threads that write here write the same value.
    *out = false;
  }
}

}  // namespace

cudaError_t launch_block_divergence(const DivergenceGeometry& geometry, const LogsMap& before,
                                    const LogsMap& now, float* out, cudaStream_t stream) {
  divergence_kernel<<<teams_for(geometry.grid_h * geometry.grid_w), kThreads, 0, stream>>>(
      geometry, before, now, out);
  return cudaGetLastError();
}

cudaError_t launch_all_finite(ValueType type, const void* values, int64_t count, bool* out,
                              cudaStream_t stream) {
  const cudaError_t error = cudaMemsetAsync(out, 1, sizeof(bool), stream);
  if (error != cudaSuccess || count == 0) {
    return error;
  }
  const int64_t bytes = vector_bytes(kMaxVectorBytes, values, values);
  with_values(type, bytes, [&](auto value, auto vector) {
    using Value = decltype(value);
    using Vector = decltype(vector);
    finite_kernel<Value, Vector>
        <<<finite_blocks(count, sizeof(Vector) / sizeof(Value)), kThreads, 0, stream>>>(
            static_cast<const Value*>(values), count, out);
  });
  return cudaGetLastError();
}

}  // namespace blockcopy
