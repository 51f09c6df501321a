// The blockcopy:: operators on CUDA: checks, allocation, device and stream; the kernels are in the
// .cu files. The values of the index tensors are checked by the kernels, as reading them back here
// would wait for the device.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "blockcopy/checks.h"
#include "blockcopy/launch.h"

namespace blockcopy {
namespace {

int64_t pixel_bytes(const at::Tensor& map) {
  return map.size(1) * static_cast<int64_t>(map.element_size());
}

// Fills `out`, which has been checked. The caller guards the device.
void gather_into(const GatherGeometry& geometry, const at::Tensor& state,
                 const at::Tensor& blocks, const at::Tensor& rows, const at::Tensor& cols,
                 const FillPattern& pattern, const at::Tensor& out) {
  if (out.numel() == 0) {
    return;
  }
  const at::Tensor source = dense_source(state, out);
  C10_CUDA_CHECK(launch_gather(geometry, source.const_data_ptr(), block_data(blocks),
                               rows.const_data_ptr<int32_t>(), cols.const_data_ptr<int32_t>(),
                               pattern, pixel_bytes(state), out.mutable_data_ptr(),
                               c10::cuda::getCurrentCUDAStream()));
}

at::Tensor gather_cuda(const at::Tensor& state, const at::Tensor& blocks, const at::Tensor& rows,
                       const at::Tensor& cols, double fill) {
  const GatherGeometry geometry = check_gather(state, blocks, rows, cols);
  const FillPattern pattern = fill_pattern(fill, state.scalar_type());
  const c10::cuda::CUDAGuard guard(state.device());
  const at::Tensor out =
      at::empty({geometry.count, state.size(1), geometry.window_h, geometry.window_w},
                state.options().memory_format(at::MemoryFormat::ChannelsLast));
  gather_into(geometry, state, blocks, rows, cols, pattern, out);
  return out;
}

void gather_out_cuda(const at::Tensor& state, const at::Tensor& blocks, const at::Tensor& rows,
                     const at::Tensor& cols, double fill, const at::Tensor& out) {
  const GatherGeometry geometry = check_gather(state, blocks, rows, cols);
  const FillPattern pattern = fill_pattern(fill, state.scalar_type());
  check_gather_out(geometry, state, out);
  const c10::cuda::CUDAGuard guard(state.device());
  gather_into(geometry, state, blocks, rows, cols, pattern, out);
  bump_version(out);
}

void scatter_cuda(const at::Tensor& state, const at::Tensor& packed, const at::Tensor& blocks) {
  const ScatterGeometry geometry = check_scatter(state, packed, blocks);
  if (packed.numel() == 0) {
    return;
  }
  const c10::cuda::CUDAGuard guard(state.device());
  const at::Tensor source = dense_source(packed, state);
  C10_CUDA_CHECK(launch_scatter(geometry, state.mutable_data_ptr(), source.const_data_ptr(),
                                block_data(blocks), pixel_bytes(state),
                                c10::cuda::getCurrentCUDAStream()));
  bump_version(state);
}

}  // namespace

TORCH_LIBRARY_IMPL(blockcopy, CUDA, m) {
  m.impl("gather", &gather_cuda);
  m.impl("gather_out", &gather_out_cuda);
  m.impl("scatter_", &scatter_cuda);
}

}  // namespace blockcopy
