// The check of a tensor argument that has one dtype and one shape, for operators of the policies.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

namespace blockcopy {

// `value` itself, which need not be contiguous.
inline const at::Tensor& checked(const char* name, const at::Tensor& value, at::ScalarType type,
                                 at::IntArrayRef shape) {
  TORCH_CHECK_TYPE(value.scalar_type() == type, "blockcopy: ", name, " has dtype ",
                   value.scalar_type(), ", expected ", type);
  TORCH_CHECK_VALUE(value.sizes() == shape, "blockcopy: ", name, " has shape ", value.sizes(),
                    ", expected ", shape);
  TORCH_CHECK(!value.requires_grad() || !c10::GradMode::is_enabled(), "blockcopy: ", name,
              " requires grad and gradients are recorded, but there is no backward; call it under "
              "torch.no_grad()");
  return value;
}

}  // namespace blockcopy
