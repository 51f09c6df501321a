// Operators that policies use, on CUDA: blockcopy::reduce_picture, blockcopy::block_divergence and
// blockcopy::all_finite. Checks, allocation, device and stream.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "blockcopy/launch.h"
#include "blockcopy/picture_checks.h"
#include "blockcopy/value_type.h"

namespace blockcopy {
namespace {

at::Tensor reduce_picture_cuda(const at::Tensor& frame, int64_t side) {
  const c10::cuda::CUDAGuard guard(frame.device());
  const at::Tensor out = means_of(frame, side);
  if (out.numel() == 0) {
    return out;
  }
  const ValueType type = value_type("reduce_picture", frame);
  const bool channels_last = frame.is_contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor source = channels_last ? frame : frame.contiguous();
  const int64_t lanes = channels_last ? frame.size(1) : 1;
  const SquaresGeometry geometry =
      squares_geometry(frame.size(0) * frame.size(1) / lanes, frame.size(2), frame.size(3), lanes,
                       side, bytes_of(type), source.const_data_ptr());
  C10_CUDA_CHECK(launch_reduce_picture(geometry, type, source.const_data_ptr(),
                                       out.mutable_data_ptr<float>(),
                                       c10::cuda::getCurrentCUDAStream()));
  return out;
}

LogsMap logs_map(const at::Tensor& logs, at::IntArrayRef size) {
  return {logs.const_data_ptr<float>(), logs.size(1), logs.size(2),
          static_cast<double>(logs.size(1)) / static_cast<double>(size[0]),
          static_cast<double>(logs.size(2)) / static_cast<double>(size[1])};
}

at::Tensor block_divergence_cuda(const at::Tensor& previous, const at::Tensor& current,
                                 at::IntArrayRef size, at::IntArrayRef grid, int64_t block_size,
                                 int64_t cells, double clip) {
  TORCH_CHECK(!c10::GradMode::is_enabled() ||
                  !(previous.requires_grad() || current.requires_grad()),
              "blockcopy::block_divergence has no backward, but gradients are recorded and an "
              "input requires grad; call it under torch.no_grad() or torch.inference_mode()");
  TORCH_CHECK_TYPE(previous.scalar_type() == at::kFloat && current.scalar_type() == at::kFloat,
                   "blockcopy::block_divergence: previous and current have dtypes ",
                   previous.scalar_type(), " and ", current.scalar_type(),
                   ", expected torch.float32");
  TORCH_CHECK_VALUE(previous.dim() == 3 && current.dim() == 3 &&
                        previous.size(0) == current.size(0) && previous.numel() > 0 &&
                        current.numel() > 0 && previous.device() == current.device(),
                    "blockcopy::block_divergence: previous ", previous.sizes(), " on ",
                    previous.device(), " and current ", current.sizes(), " on ", current.device(),
                    " must be (C, h, w) of the same classes on the same device");
  TORCH_CHECK_VALUE(size.size() == 2 && grid.size() == 2 && size[0] > 0 && size[1] > 0 &&
                        grid[0] > 0 && grid[1] > 0 && block_size > 0 && cells > 0 &&
                        (cells < 4 || cells % 4 == 0) && cells * cells <= kMaxCells,
                    "blockcopy::block_divergence: size ", size, ", grid ", grid, ", block_size ",
                    block_size, " and cells ", cells, " do not fit; sides must be above 0 and "
                    "cells 1, 2, 3, 4, 8, 12 or 16");
  const c10::cuda::CUDAGuard guard(current.device());
  const at::Tensor before = previous.contiguous(), now = current.contiguous();
  const at::Tensor out = at::empty({grid[0], grid[1]}, now.options());
  const int64_t part = greatest(cells / 4, 1);
  const DivergenceGeometry geometry{now.size(0),
                                    grid[0],
                                    grid[1],
                                    static_cast<uint32_t>(cells),
                                    static_cast<uint32_t>(part),
                                    static_cast<double>(block_size) / static_cast<double>(cells),
                                    static_cast<float>(clip)};
  C10_CUDA_CHECK(launch_block_divergence(geometry, logs_map(before, size), logs_map(now, size),
                                         out.mutable_data_ptr<float>(),
                                         c10::cuda::getCurrentCUDAStream()));
  return out;
}

at::Tensor all_finite_cuda(const at::Tensor& values) {
  const ValueType type = value_type("all_finite", values);
  const c10::cuda::CUDAGuard guard(values.device());
  // The order of the values does not matter.
  const at::Tensor source =
      values.is_non_overlapping_and_dense() ? values : values.contiguous();
  const at::Tensor out = at::empty({}, values.options().dtype(at::kBool));
  C10_CUDA_CHECK(launch_all_finite(type, source.const_data_ptr(), source.numel(),
                                   out.mutable_data_ptr<bool>(),
                                   c10::cuda::getCurrentCUDAStream()));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(blockcopy, CUDA, m) {
  m.impl("reduce_picture", &reduce_picture_cuda);
  m.impl("block_divergence", &block_divergence_cuda);
  m.impl("all_finite", &all_finite_cuda);
}

}  // namespace blockcopy
