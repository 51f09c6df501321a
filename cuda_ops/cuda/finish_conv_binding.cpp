// blockcopy::finish_conv_ on CUDA: checks, device and stream; the kernel is in finish_conv.cu.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "blockcopy/checks.h"
#include "blockcopy/launch.h"
#include "blockcopy/value_type.h"

namespace blockcopy {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

void check_vector(const char* name, const OptionalTensor& vector, const at::Tensor& sums) {
  if (!vector.has_value()) {
    return;
  }
  TORCH_CHECK_VALUE(vector->dim() == 1 && vector->size(0) == sums.size(1) &&
                        vector->is_contiguous() && vector->device() == sums.device(),
                    "blockcopy::finish_conv_: ", name, " is ", vector->sizes(), " on ",
                    vector->device(), ", expected (", sums.size(1), ",), contiguous, on ",
                    sums.device());
  check_no_grad("finish_conv_", vector->requires_grad());
}

const void* data_of(const OptionalTensor& vector) {
  return vector.has_value() ? vector->const_data_ptr() : nullptr;
}

void finish_conv_cuda(const at::Tensor& sums, const OptionalTensor& bias,
                      const c10::List<OptionalTensor>& norm, double eps,
                      const OptionalTensor& residual, double low, double high) {
  const at::ScalarType type = sums.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kHalf || type == at::kBFloat16,
                   "blockcopy::finish_conv_: sums have dtype ", type,
                   ", expected float32, float16 or bfloat16");
  check_no_grad("finish_conv_", sums.requires_grad());
  TORCH_CHECK_VALUE(sums.dim() == 4 && sums.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "blockcopy::finish_conv_: sums must be channels-last contiguous (n, C, h, w), "
                    "but have shape ", sums.sizes(), " and strides ", sums.strides());
  TORCH_CHECK_VALUE(norm.size() == 0 || norm.size() == 4, "blockcopy::finish_conv_: norm has ",
                    norm.size(), " tensors, expected none, or weight, bias, running mean and "
                    "running variance, the last two not None");
  OptionalTensor vectors[4];
  const char* names[4] = {"weight", "bias", "running mean", "running variance"};
  bool wide = false;
  for (size_t i = 0; i < norm.size(); ++i) {
    vectors[i] = norm.get(i);
    check_vector(names[i], vectors[i], sums);
    if (vectors[i].has_value()) {
      wide = vectors[i]->scalar_type() == at::kFloat;
    }
  }
  TORCH_CHECK_VALUE(norm.size() == 0 || (vectors[2].has_value() && vectors[3].has_value()),
                    "blockcopy::finish_conv_: running mean and variance of norm are None, "
                    "expected tensors");
  for (const OptionalTensor& vector : vectors) {
    TORCH_CHECK_TYPE(!vector.has_value() || vector->scalar_type() == (wide ? at::kFloat : type),
                     "blockcopy::finish_conv_: norm has dtype ", vector->scalar_type(),
                     ", expected that of sums for all of it, or float32 for all of it");
  }
  check_vector("bias", bias, sums);
  TORCH_CHECK_TYPE(!bias.has_value() || bias->scalar_type() == type,
                   "blockcopy::finish_conv_: bias has dtype ", bias->scalar_type(),
                   ", expected that of sums, ", type);
  OptionalTensor added;
  const c10::cuda::CUDAGuard guard(sums.device());
  if (residual.has_value()) {
    TORCH_CHECK_VALUE(residual->sizes() == sums.sizes() && residual->scalar_type() == type &&
                          residual->device() == sums.device(),
                      "blockcopy::finish_conv_: residual is ", residual->scalar_type(), " ",
                      residual->sizes(), " on ", residual->device(), ", expected that of sums, ",
                      type, " ", sums.sizes(), " on ", sums.device());
    check_no_grad("finish_conv_", residual->requires_grad());
    added = residual->contiguous(at::MemoryFormat::ChannelsLast);
  }
  if (sums.numel() == 0) {
    return;
  }
  const FinishCall call = {value_type("finish_conv_", sums),
                           wide,
                           sums.size(0) * sums.size(2) * sums.size(3),
                           sums.size(1),
                           sums.mutable_data_ptr(),
                           data_of(added),
                           {data_of(bias), data_of(vectors[0]), data_of(vectors[1]),
                            data_of(vectors[2]), data_of(vectors[3]), static_cast<float>(eps),
                            static_cast<float>(low), static_cast<float>(high)}};
  C10_CUDA_CHECK(launch_finish(call, c10::cuda::getCurrentCUDAStream()));
  bump_version(sums);
}

}  // namespace

TORCH_LIBRARY_IMPL(blockcopy, CUDA, m) { m.impl("finish_conv_", &finish_conv_cuda); }

}  // namespace blockcopy
