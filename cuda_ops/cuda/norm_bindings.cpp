// blockcopy::block_moments and blockcopy::scale_shift on CUDA: checks, allocation, device, stream.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "blockcopy/checks.h"
#include "blockcopy/launch.h"
#include "blockcopy/moments_checks.h"
#include "blockcopy/value_type.h"

namespace blockcopy {
namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

void check_device(const char* op, const char* name, const at::Tensor& tensor,
                  const at::Tensor& map) {
  TORCH_CHECK_VALUE(tensor.device() == map.device(), "blockcopy::", op, ": ", name, " is on ",
                    tensor.device(), ", but map is on ", map.device());
}

const Block* listed(const std::optional<at::Tensor>& places) {
  return places ? block_data(*places) : nullptr;
}

at::Tensor block_moments_cuda(const at::Tensor& map, const std::optional<at::Tensor>& places,
                              at::IntArrayRef block, at::IntArrayRef blocks, at::IntArrayRef size,
                              int64_t groups) {
  check_moments(map, places, block, blocks, size, groups);
  if (places) {
    check_device("block_moments", "places", *places, map);
  }
  const ValueType type = value_type("block_moments", map);
  const c10::cuda::CUDAGuard guard(map.device());
  const at::Tensor source = map.contiguous(kChannelsLast);
  MomentsGeometry geometry{};
  geometry.count = places ? map.size(0) : map.size(0) * blocks[0] * blocks[1];
  geometry.channels = map.size(1);
  geometry.groups = groups;
  geometry.block_h = block[0];
  geometry.block_w = block[1];
  geometry.grid_h = places ? 1 : blocks[0];
  geometry.grid_w = places ? 1 : blocks[1];
  geometry.size_h = size[0];
  geometry.size_w = size[1];
  geometry.row_pixels = map.size(3);
  geometry.image_pixels = map.size(2) * map.size(3);
  const at::Tensor out =
      at::empty({geometry.count, 1 + 2 * groups}, map.options().dtype(at::kDouble).memory_format(
                                                      at::MemoryFormat::Contiguous));
  if (geometry.count == 0) {
    return out;
  }
  TORCH_CHECK_VALUE(geometry.channels > 0, "blockcopy::block_moments: map of shape ", map.sizes(),
                    " has no channels");
  deal_moments(geometry, bytes_of(type), source.const_data_ptr());
  C10_CUDA_CHECK(launch_block_moments(geometry, type, source.const_data_ptr(), listed(places),
                                      out.mutable_data_ptr<double>(),
                                      c10::cuda::getCurrentCUDAStream()));
  return out;
}

at::Tensor scale_shift_cuda(const at::Tensor& map, const std::optional<at::Tensor>& places,
                            const at::Tensor& scale, const at::Tensor& shift) {
  check_scale(map, places, scale, shift);
  check_device("scale_shift", "scale", scale, map);
  check_device("scale_shift", "shift", shift, map);
  if (places) {
    check_device("scale_shift", "places", *places, map);
  }
  const ValueType type = value_type("scale_shift", map);
  const c10::cuda::CUDAGuard guard(map.device());
  const at::Tensor source = map.contiguous(kChannelsLast);
  const at::Tensor out = at::empty(map.sizes(), map.options().memory_format(kChannelsLast));
  if (out.numel() == 0) {
    return out;
  }
  const auto work = type == ValueType::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor factors = scale.to(work).contiguous(), offsets = shift.to(work).contiguous();
  const int64_t pixel = map.size(1) * bytes_of(type);
  const int64_t bytes = vector_bytes(pixel, source.const_data_ptr(), out.const_data_ptr());
  const ScaleGeometry geometry{scale.size(0),
                               map.size(0) * map.size(2),
                               map.size(2),
                               map.size(1),
                               static_cast<uint32_t>(map.size(3) * (pixel / bytes)),
                               static_cast<uint32_t>(pixel / bytes)};
  C10_CUDA_CHECK(launch_scale_shift(geometry, type, bytes, source.const_data_ptr(), listed(places),
                                    factors.const_data_ptr(), offsets.const_data_ptr(),
                                    out.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(blockcopy, CUDA, m) {
  m.impl("block_moments", &block_moments_cuda);
  m.impl("scale_shift", &scale_shift_cuda);
}

}  // namespace blockcopy
