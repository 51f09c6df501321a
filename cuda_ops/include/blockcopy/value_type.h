// The value type of a tensor's dtype.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "blockcopy/values.h"

namespace blockcopy {

inline ValueType value_type(const char* op, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ValueType::kFloat;
    case at::kDouble:
      return ValueType::kDouble;
    case at::kHalf:
      return ValueType::kHalf;
    case at::kBFloat16:
      return ValueType::kBFloat;
    default:
      TORCH_CHECK_TYPE(false, "blockcopy::", op, ": dtype ", tensor.scalar_type(), " has no kernel ",
                       "on CUDA; expected a floating point type of 16 to 64 bits");
  }
}

}  // namespace blockcopy
