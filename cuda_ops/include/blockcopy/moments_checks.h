// Argument checks of blockcopy::block_moments and blockcopy::scale_shift, on CPU and CUDA.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <optional>

namespace blockcopy {

inline void check_map(const char* name, const at::Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, "blockcopy::", name, ": map must be 4-D (N, C, H, W), but has ",
                    "shape ", map.sizes());
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble ||
                       map.scalar_type() == at::kHalf || map.scalar_type() == at::kBFloat16,
                   "blockcopy::", name, ": map has dtype ", map.scalar_type(),
                   ", expected a floating point type of 16 to 64 bits");
  TORCH_CHECK(!(map.requires_grad() && c10::GradMode::is_enabled()), "blockcopy::", name,
              " has no gradient; call it under torch.no_grad()");
}

inline void check_places(const char* name, const at::Tensor& map,
                         const std::optional<at::Tensor>& places) {
  TORCH_CHECK_VALUE(!places || (places->dim() == 2 && places->size(0) == map.size(0) &&
                                places->size(1) == 3 && places->is_contiguous()),
                    "blockcopy::", name, ": places has shape ",
                    places ? places->sizes() : at::IntArrayRef(), ", expected (", map.size(0),
                    ", 3), contiguous");
  TORCH_CHECK_TYPE(!places || places->scalar_type() == at::kInt, "blockcopy::", name,
                   ": places has dtype ", places ? places->scalar_type() : at::kInt,
                   ", expected int32");
}

inline void check_moments(const at::Tensor& map, const std::optional<at::Tensor>& places,
                          at::IntArrayRef block, at::IntArrayRef blocks, at::IntArrayRef size,
                          int64_t groups) {
  check_map("block_moments", map);
  check_places("block_moments", map, places);
  TORCH_CHECK_VALUE(block.size() == 2 && blocks.size() == 2 && size.size() == 2 && block[0] > 0 &&
                        block[1] > 0 && groups > 0 && map.size(1) % groups == 0 &&
                        map.sizes().slice(2) == (places ? block : size),
                    "blockcopy::block_moments: map of shape ", map.sizes(), " does not fit blocks ",
                    "of ", block, ", size ", size, " and ", groups, " groups");
}

inline void check_scale(const at::Tensor& map, const std::optional<at::Tensor>& places,
                        const at::Tensor& scale, const at::Tensor& shift) {
  check_map("scale_shift", map);
  check_places("scale_shift", map, places);
  TORCH_CHECK_VALUE(scale.dim() == 2 && scale.size(1) == map.size(1) &&
                        scale.sizes() == shift.sizes() && (places || scale.size(0) == map.size(0)),
                    "blockcopy::scale_shift: scale ", scale.sizes(), " and shift ", shift.sizes(),
                    " do not fit a map of shape ", map.sizes());
}

}  // namespace blockcopy
