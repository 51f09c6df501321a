// blockcopy::scatter_ on CUDA.
#include "blockcopy/launch.h"
#include "device.cuh"

namespace blockcopy {
namespace {

template <typename Vector>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(ScatterGeometry geometry, Vector* __restrict__ state,
                   const Vector* __restrict__ packed, const Block* __restrict__ blocks,
                   uint32_t pixel_vectors) {
  if (!scatter_lane(geometry, state, packed, blocks, pixel_vectors, thread_place())) {
    trap_index("scatter_");
  }
}

}  // namespace

cudaError_t launch_scatter(const ScatterGeometry& geometry, void* state, const void* packed,
                           const Block* blocks, int64_t pixel_bytes, cudaStream_t stream) {
  const int64_t bytes = vector_bytes(pixel_bytes, state, packed);
  const int64_t pixel_vectors = pixel_bytes / bytes;
  const LaunchShape shape =
      launch_shape(geometry.count * geometry.block_h, geometry.block_w * pixel_vectors);
  dispatch_vector(bytes, [&](auto zero) {
    using Vector = decltype(zero);
    scatter_kernel<Vector><<<grid_of(shape), block_of(shape), 0, stream>>>(
        geometry, static_cast<Vector*>(state), static_cast<const Vector*>(packed), blocks,
        static_cast<uint32_t>(pixel_vectors));
  });
  return cudaGetLastError();
}

}  // namespace blockcopy
