// blockcopy::gather on CUDA.
#include <cstring>

#include "blockcopy/launch.h"
#include "device.cuh"

namespace blockcopy {
namespace {

template <typename Vector>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(GatherGeometry geometry, const Vector* __restrict__ state,
                  const Block* __restrict__ blocks, const int32_t* __restrict__ rows,
                  const int32_t* __restrict__ cols, Vector fill, uint32_t pixel_vectors,
                  Vector* __restrict__ out) {
  if (!gather_lane(geometry, state, blocks, rows, cols, fill, pixel_vectors, out,
                   thread_place())) {
    trap_index("gather");
  }
}

}  // namespace

cudaError_t launch_gather(const GatherGeometry& geometry, const void* state, const Block* blocks,
                          const int32_t* rows, const int32_t* cols, const FillPattern& fill,
                          int64_t pixel_bytes, void* out, cudaStream_t stream) {
  const int64_t bytes = vector_bytes(pixel_bytes, state, out);
  const int64_t pixel_vectors = pixel_bytes / bytes;
  const LaunchShape shape =
      launch_shape(geometry.count * geometry.window_h, geometry.window_w * pixel_vectors);
  dispatch_vector(bytes, [&](auto zero) {
    using Vector = decltype(zero);
    Vector value;
    std::memcpy(&value, fill.byte, sizeof(Vector));
    gather_kernel<Vector><<<grid_of(shape), block_of(shape), 0, stream>>>(
        geometry, static_cast<const Vector*>(state), blocks, rows, cols, value,
        static_cast<uint32_t>(pixel_vectors), static_cast<Vector*>(out));
  });
  return cudaGetLastError();
}

}  // namespace blockcopy
