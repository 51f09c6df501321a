// blockcopy::finish_conv_ on CUDA.
#include "blockcopy/finish_launch.h"

namespace blockcopy {
namespace {

template <int Width, typename Number, typename Norm>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(FinishGeometry geometry, FinishVectors<Number, Norm> vectors, Number* sums,
                  const Number* residual) {
  finish_thread<Width>(geometry, vectors, sums, residual,
                       static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x);
}

template <int Width, typename Number, typename Norm>
cudaError_t launch(FinishGeometry geometry, const FinishVectors<Number, Norm>& vectors,
                   Number* sums, const Number* residual, cudaStream_t stream) {
  const int64_t groups = geometry.channels / Width;
  geometry.strips = finish_strips(geometry.pixels, groups);
  const int64_t blocks = ceil_div(geometry.strips * groups, kFinishThreads);
  finish_kernel<Width><<<static_cast<unsigned int>(blocks), kFinishThreads, 0, stream>>>(
      geometry, vectors, sums, residual);
  return cudaGetLastError();
}

template <typename Number, typename Norm>
cudaError_t launch_of(const FinishCall& call, cudaStream_t stream) {
  const FinishVectors<Number, Norm> vectors = {
      static_cast<const Number*>(call.bias),   static_cast<const Norm*>(call.weight),
      static_cast<const Norm*>(call.beta),     static_cast<const Norm*>(call.mean),
      static_cast<const Norm*>(call.variance), call.eps,
      call.low,                                call.high};
  const FinishGeometry geometry = {call.pixels, call.channels, 0};
  auto* sums = static_cast<Number*>(call.sums);
  const auto* residual = static_cast<const Number*>(call.residual);
  switch (finish_width(call.channels, sizeof(Number), sums, residual)) {
    case 8:
      if constexpr (sizeof(Number) == 2) {
        return launch<8>(geometry, vectors, sums, residual, stream);
      }
      return cudaErrorInvalidValue;
    case 4:
      return launch<4>(geometry, vectors, sums, residual, stream);
    case 2:
      return launch<2>(geometry, vectors, sums, residual, stream);
    default:
      return launch<1>(geometry, vectors, sums, residual, stream);
  }
}

}  // namespace

cudaError_t launch_finish(const FinishCall& call, cudaStream_t stream) {
  switch (call.number) {
    case FinishNumber::kFloat:
      return launch_of<float, float>(call, stream);
    case FinishNumber::kFloat16:
      return call.wide_norm ? launch_of<Float16, float>(call, stream)
                            : launch_of<Float16, Float16>(call, stream);
    default:
      return call.wide_norm ? launch_of<BFloat16, float>(call, stream)
                            : launch_of<BFloat16, BFloat16>(call, stream);
  }
}

}  // namespace blockcopy
