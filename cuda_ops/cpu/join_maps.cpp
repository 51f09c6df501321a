// blockcopy::join_maps on CPU: maps side by side in one, and the ops that follow, in one memory
// pass.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/direct_call.h"
#include "conv/affine.h"

namespace blockcopy {
namespace {

// Pixels are dealt to threads in chunks of about this size.
constexpr int64_t kChunkBytes = 64 * 1024;

// What a map is read from: itself where the channels of a pixel lie side by side, as in a part of
// another map's channels or every second pixel of it, else a copy. Checked to have the shape of the
// result except for the channels.
at::Tensor with_pixels(const char* name, const at::Tensor& value, const at::Tensor& first) {
  TORCH_CHECK_VALUE(value.dim() == 4 && value.scalar_type() == first.scalar_type() &&
                        value.size(0) == first.size(0) && value.size(2) == first.size(2) &&
                        value.size(3) == first.size(3) && value.device().is_cpu(),
                    "blockcopy::join_maps: ", name, " is ", value.scalar_type(), " ",
                    value.sizes(), ", but the first part is ", first.scalar_type(), " ",
                    first.sizes(), "; expected the same but for the channels");
  const bool side_by_side = value.size(1) == 1 || value.stride(1) == 1;
  return side_by_side ? value : value.contiguous(at::MemoryFormat::ChannelsLast);
}

JoinedMap joined(const at::Tensor& map) {
  return {map.const_data_ptr(), map.size(1), map.stride(0), map.stride(2), map.stride(3)};
}

// Whether all pixels of a map follow each other at the distance of two of a row.
bool is_one_row(const JoinedMap& map, at::IntArrayRef sizes) {
  const int64_t row = map.pixel_step * sizes[3];
  return map.data == nullptr || ((map.row_step == row || sizes[2] == 1) &&
                                 (map.block_step == row * sizes[2] || sizes[0] == 1));
}

at::Tensor join_maps_cpu(at::TensorList parts, const std::optional<at::Tensor>& added,
                         const c10::List<std::optional<at::Tensor>>& norm, double eps,
                         const std::optional<at::Tensor>& residual,
                         const std::optional<at::Tensor>& slope, double low, double high,
                         c10::string_view activation) {
  TORCH_CHECK_VALUE(!parts.empty() && parts[0].dim() == 4,
                    "blockcopy::join_maps: expected at least one map (N, C, H, W)");
  const at::Tensor& first = parts[0];
  JoinProblem problem = {};
  problem.element = element_of("join_maps", first);
  std::vector<at::Tensor> held;
  std::vector<JoinedMap> from;
  held.reserve(parts.size() + 2);
  from.reserve(parts.size());
  for (const at::Tensor& part : parts) {
    held.push_back(with_pixels("a part", part, first));
    from.push_back(joined(held.back()));
    problem.channels += part.size(1);
    problem.widest = std::max(problem.widest, part.size(1));
  }
  const at::Tensor out = at::empty({first.size(0), problem.channels, first.size(2), first.size(3)},
                                   first.options().memory_format(at::MemoryFormat::ChannelsLast));
  for (const auto& [name, value] : {std::pair{"added", &added}, std::pair{"residual", &residual}}) {
    if (value->has_value()) {
      held.push_back(with_pixels(name, **value, first));
      TORCH_CHECK_VALUE(held.back().size(1) == problem.channels, "blockcopy::join_maps: ", name,
                        " has ", held.back().size(1), " channels, expected ", problem.channels);
      (value == &added ? problem.added : problem.residual) = joined(held.back());
    }
  }
  const Affine affine("join_maps", std::nullopt, norm, eps, slope, problem.channels);
  affine.write_to(problem.epilogue);
  problem.epilogue.activation = activation_of("join_maps", activation);
  problem.epilogue.low = static_cast<float>(low);
  problem.epilogue.high = static_cast<float>(high);
  problem.count = static_cast<int64_t>(from.size());
  problem.parts = from.data();
  problem.copies = !added.has_value() && norm.empty() && !residual.has_value() && !slope.has_value() &&
                   activation.empty() && std::isinf(low) && low < 0 && std::isinf(high) && high > 0;
  bool one_row = is_one_row(problem.added, first.sizes()) && is_one_row(problem.residual, first.sizes());
  for (const JoinedMap& map : from) {
    one_row = one_row && is_one_row(map, first.sizes());
  }
  const int64_t pixels = first.size(0) * first.size(2) * first.size(3);
  problem.rows = one_row ? 1 : first.size(2);
  problem.row_pixels = one_row ? pixels : first.size(3);
  problem.out = out.mutable_data_ptr();
  if (out.numel() == 0) {
    return out;
  }
  const ConvKernels& kernels = best_kernels("join_maps");
  const int64_t bytes = problem.channels * static_cast<int64_t>(out.element_size());
  at::parallel_for(0, pixels, std::max<int64_t>(1, kChunkBytes / bytes),
                   [&](int64_t begin, int64_t end) { kernels.join(problem, begin, end); });
  return out;
}

const CalledDirectly<&join_maps_cpu> direct_join_maps("join_maps");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "join_maps(Tensor[] parts, Tensor? added, Tensor?[] norm, float eps, Tensor? residual, "
      "Tensor? slope, float low, float high, str activation='') -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("join_maps", &join_maps_cpu); }

}  // namespace blockcopy
