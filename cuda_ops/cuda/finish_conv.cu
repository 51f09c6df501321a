// blockcopy::finish_conv_ on CUDA.
#include "blockcopy/finish.h"
#include "blockcopy/launch.h"

namespace blockcopy {
namespace {

template <typename Vector, typename Value, typename Norm>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(FinishGeometry geometry, FinishVectors<Value, Norm> vectors, Value* sums,
                  const Value* residual) {
  finish_thread<Vector>(geometry, vectors, sums, residual,
                        static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

}  // namespace

cudaError_t launch_finish(const FinishCall& call, cudaStream_t stream) {
  with_finish(call, [&](auto value, auto norm, auto vector) {
    using Value = decltype(value);
    using Vector = decltype(vector);
    constexpr int64_t kCount = Values<Value, Vector>::kCount;
    const FinishGeometry geometry = finish_geometry(call, kCount);
    const int64_t blocks = ceil_div(geometry.strips * (call.channels / kCount), kThreads);
    finish_kernel<Vector><<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(
        geometry, finish_vectors<Value, decltype(norm)>(call), static_cast<Value*>(call.sums),
        static_cast<const Value*>(call.residual));
  });
  return cudaGetLastError();
}

}  // namespace blockcopy
