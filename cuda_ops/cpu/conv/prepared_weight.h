// A convolution's weight as the kernels of this processor read it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "affine.h"

namespace blockcopy {

inline ConvShape shape_of(const at::Tensor& weight, at::IntArrayRef stride, at::IntArrayRef dilation) {
  return {weight.size(1), weight.size(0), weight.size(2), weight.size(3),
          stride[0],      stride[1],      dilation[0],    dilation[1]};
}

constexpr size_t kMemoryAlignment = 64;

// The first aligned byte of a tensor that has room for it.
inline char* aligned(const at::Tensor& bytes) {
  const auto at = reinterpret_cast<uintptr_t>(bytes.mutable_data_ptr());
  return reinterpret_cast<char*>((at + kMemoryAlignment - 1) / kMemoryAlignment * kMemoryAlignment);
}

// Raises unless `weight` is (C_out, C_in, kh, kw) of a dtype that the kernels know.
void check_conv_weight(const at::Tensor& weight);

// A tensor made by blockcopy::conv_prepare, with the weight that it was made of.
class PreparedWeight {
 public:
  // Asks the caches for the weight and for the first of the prepared values: if another model has run
  // since, they come from memory. Raises if `prepared` was made of a weight of another shape or dtype.
  PreparedWeight(const at::Tensor& prepared, const at::Tensor& weight);

  const ConvKernels& kernels() const;

  // Lays the values out anew if the weight is seen to have changed.
  void follow_changes();

  bool is_for_winograd() const;
  // Whether Winograd's values are followed by those of direct convolution, see direct_is_faster.
  bool has_both() const;

  const void* winograd() const;
  const void* direct() const;
  const void* depthwise() const;

 private:
  const at::Tensor& prepared_;
  const at::Tensor& weight_;
  char* memory_;
};

}  // namespace blockcopy
