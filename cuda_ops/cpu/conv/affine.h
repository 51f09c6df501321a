// The operations on the values of each channel after a convolution or in a separate pass.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/List.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blockcopy/clones.h"
#include "problem.h"

namespace blockcopy {

// Best first.
inline constexpr const ConvKernels* (*kAllKernels[])() = {conv_kernels_avx512_bf16, conv_kernels_avx512,
                                                   conv_kernels_avx2};

// By ConvActivation.
inline constexpr c10::string_view kActivationNames[] = {"",          "sigmoid", "silu",      "hardsigmoid",
                                                 "hardswish", "gelu",    "gelu_tanh", "mish"};

inline ConvActivation activation_of(const char* op, c10::string_view name) {
  int place = 0;
  for (const c10::string_view known : kActivationNames) {
    if (known == name) {
      return static_cast<ConvActivation>(place);
    }
    ++place;
  }
  TORCH_CHECK_VALUE(false, "blockcopy::", op, ": activation is '", std::string(name),
                    "', expected one of sigmoid, silu, hardsigmoid, hardswish, gelu, gelu_tanh, mish, "
                    "or nothing");
}

// The best kernels that are available.
inline const ConvKernels& best_kernels(const char* op) {
  for (const auto candidate : kAllKernels) {
    if (candidate() != nullptr) {
      return *candidate();
    }
  }
  TORCH_CHECK_NOT_IMPLEMENTED(false, "blockcopy::", op,
                              ": this processor has no kernels for it; use torch's own ops");
}

inline ConvElement element_of(const char* op, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16,
                   "blockcopy::", op, ": dtype ", tensor.scalar_type(),
                   ", expected float32 or bfloat16; use torch's own op");
  return tensor.scalar_type() == at::kFloat ? ConvElement::kFloat32 : ConvElement::kBFloat16;
}

// Writes one value for each output channel, in float, and some more to be read with the last of them.
inline void write_values(const char* op, const char* name, const std::optional<at::Tensor>& values,
                         int64_t channels, float otherwise, float* to) {
  std::fill_n(to + (values.has_value() ? channels : 0),
              ConvEpilogue::kSpare + (values.has_value() ? 0 : channels), otherwise);
  if (!values.has_value()) {
    return;
  }
  TORCH_CHECK_VALUE(values->dim() == 1 && values->size(0) == channels &&
                        values->is_contiguous() && values->device().is_cpu(),
                    "blockcopy::", op, ": ", name, " is ", values->sizes(), " on ",
                    values->device(), ", expected contiguous (", channels, ",) on the CPU");
  if (values->scalar_type() == at::kFloat) {
    std::memcpy(to, values->const_data_ptr<float>(), channels * sizeof(float));
  } else {
    element_of(op, *values);
    const at::BFloat16* from = values->const_data_ptr<at::BFloat16>();
    for (int64_t i = 0; i < channels; ++i) {
      to[i] = static_cast<float>(from[i]);
    }
  }
}

// Takes a norm into what sums are multiplied by, its weight before, and what is added to them. Roots
// and quotients of doubles, of each channel in each frame: compiled for wide vectors too.
[[maybe_unused]] BLOCKCOPY_CLONES static void fold_norm(int64_t channels, double eps,
                                                        const float* offset, const float* mean,
                                                        const float* variance,
                                                        float* __restrict__ scale,
                                                        float* __restrict__ shift) {
  for (int64_t i = 0; i < channels; ++i) {
    const double factor = scale[i] / std::sqrt(static_cast<double>(variance[i]) + eps);
    scale[i] = static_cast<float>(factor);
    shift[i] = static_cast<float>((static_cast<double>(shift[i]) - mean[i]) * factor + offset[i]);
  }
}

// Bias and batch norm as one `sum * scale + shift`, and the slope below zero.
class Affine {
 public:
  Affine(const char* op, const std::optional<at::Tensor>& bias,
         const c10::List<std::optional<at::Tensor>>& norm, double eps,
         const std::optional<at::Tensor>& slope_below, int64_t channels) {
    TORCH_CHECK_VALUE(norm.empty() || norm.size() == 4,
                      "blockcopy::", op, ": norm has ", norm.size(),
                      " tensors, expected none or weight, bias, mean and variance");
    const bool shifted = bias.has_value() || !norm.empty();
    const int64_t parts = (slope_below.has_value() ? 1 : 0) + (norm.empty() ? shifted : 5);
    if (parts == 0) {
      return;
    }
    const int64_t width = channels + ConvEpilogue::kSpare;
    values_.reset(new float[parts * width]);
    float* next = values_.get();
    const auto part = [&](const char* name, const std::optional<at::Tensor>& values, float otherwise) {
      write_values(op, name, values, channels, otherwise, next);
      next += width;
      return next - width;
    };
    if (slope_below.has_value()) {
      const bool one = slope_below->dim() == 1 && slope_below->size(0) == 1;
      write_values(op, "slope", slope_below, one ? 1 : channels, 1, next);
      if (one) {
        std::fill_n(next, width, next[0]);
      }
      slope_ = next;
      next += width;
    }
    if (shifted) {
      shift_ = part("bias", bias, 0);
    }
    if (norm.empty()) {
      return;
    }
    scale_ = part("norm weight", norm.get(0), 1);
    const float* offset = part("norm bias", norm.get(1), 0);
    const float* mean = part("norm mean", norm.get(2), 0);
    const float* variance = part("norm variance", norm.get(3), 1);
    fold_norm(channels, eps, offset, mean, variance, scale_, shift_);
  }

  void write_to(ConvEpilogue& epilogue) const {
    epilogue.scale = scale_;
    epilogue.shift = shift_;
    epilogue.slope = slope_;
  }

 private:
  std::unique_ptr<float[]> values_;
  float* scale_ = nullptr;
  float* shift_ = nullptr;
  float* slope_ = nullptr;
};

}  // namespace blockcopy
