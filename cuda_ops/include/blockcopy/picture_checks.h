// Argument checks and result of blockcopy::reduce_picture, on CPU and CUDA.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

namespace blockcopy {

// Where the means of a frame go: float, contiguous. An error if the arguments are wrong.
inline at::Tensor means_of(const at::Tensor& frame, int64_t side) {
  TORCH_CHECK(!frame.requires_grad() || !c10::GradMode::is_enabled(),
              "blockcopy::reduce_picture has no backward, but gradients are recorded and the frame "
              "requires grad; call it under torch.no_grad() or torch.inference_mode(), or detach "
              "the frame");
  TORCH_CHECK_VALUE(frame.dim() == 4, "blockcopy::reduce_picture: frame must be 4-D (N, C, H, W), "
                    "but has shape ", frame.sizes(),
                    "; add or remove dimensions with unsqueeze/squeeze");
  TORCH_CHECK_TYPE(at::isFloatingType(frame.scalar_type()), "blockcopy::reduce_picture: frame has "
                   "dtype ", frame.scalar_type(), ", expected a floating point type of 16 to 64 "
                   "bits; convert it first");
  TORCH_CHECK_VALUE(side >= 1, "blockcopy::reduce_picture: side is ", side,
                    ", expected at least 1 (pixels)");
  const int64_t out_height = (frame.size(2) + side - 1) / side;
  const int64_t out_width = (frame.size(3) + side - 1) / side;
  return at::empty({frame.size(0), frame.size(1), out_height, out_width},
                   frame.options().dtype(at::kFloat));
}

}  // namespace blockcopy
