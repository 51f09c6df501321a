// blockcopy::resize_blocks on CPU: the executed blocks of a map that is resized bilinearly.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/direct_call.h"
#include "conv/affine.h"

namespace blockcopy {
namespace {

// Rows are dealt to threads in chunks of about this size.
constexpr int64_t kChunkBytes = 64 * 1024;
constexpr int64_t kRowFloats = 16 * 1024;

void check_weights(const char* name, const at::Tensor& weights, const at::Tensor& table) {
  TORCH_CHECK_VALUE(weights.dim() == 2 && weights.scalar_type() == at::kFloat &&
                        weights.is_contiguous() && weights.size(0) == table.size(0) &&
                        2 * weights.size(1) == table.size(1),
                    "blockcopy::resize_blocks: ", name, " is ", weights.scalar_type(), " ",
                    weights.sizes(), ", expected contiguous float32, one for each two of ",
                    table.sizes());
}

at::Tensor resize_blocks_cpu(const at::Tensor& state, const at::Tensor& blocks,
                             const at::Tensor& rows, const at::Tensor& cols,
                             const at::Tensor& row_weights, const at::Tensor& col_weights) {
  const at::Tensor map = state.contiguous(at::MemoryFormat::ChannelsLast);
  const GatherGeometry g = check_gather(map, blocks, rows, cols);
  check_indices(g, block_data(blocks), rows.const_data_ptr<int32_t>(),
                cols.const_data_ptr<int32_t>());
  check_weights("row_weights", row_weights, rows);
  check_weights("col_weights", col_weights, cols);
  ResizeProblem problem = {};
  problem.element = element_of("resize_blocks", map);
  problem.map = map.const_data_ptr();
  problem.map_h = map.size(2);
  problem.map_w = map.size(3);
  problem.channels = map.size(1);
  problem.blocks = blocks.const_data_ptr<int32_t>();
  problem.rows = rows.const_data_ptr<int32_t>();
  problem.cols = cols.const_data_ptr<int32_t>();
  problem.row_weights = row_weights.const_data_ptr<float>();
  problem.col_weights = col_weights.const_data_ptr<float>();
  problem.block_h = row_weights.size(1);
  problem.block_w = col_weights.size(1);
  const at::Tensor out =
      at::empty({g.count, map.size(1), problem.block_h, problem.block_w},
                map.options().memory_format(at::MemoryFormat::ChannelsLast));
  if (out.numel() == 0) {
    return out;
  }
  problem.out = out.mutable_data_ptr();
  const ConvKernels& kernels = best_kernels("resize_blocks");
  // Wider rows pay where each of their values is read more than once, and may stay in the caches.
  problem.widest = std::min(problem.block_w, kRowFloats / problem.channels);
  const int64_t bytes = problem.block_w * problem.channels * static_cast<int64_t>(out.element_size());
  at::parallel_for(0, g.count * problem.block_h, std::max<int64_t>(1, kChunkBytes / bytes),
                   [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> row(new float[problem.widest * problem.channels + 2 * kernels.lanes]);
    kernels.resize(problem, begin, end, row.get());
  });
  return out;
}

const CalledDirectly<&resize_blocks_cpu> direct_resize_blocks("resize_blocks");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "resize_blocks(Tensor state, Tensor blocks, Tensor rows, Tensor cols, Tensor row_weights, "
      "Tensor col_weights) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("resize_blocks", &resize_blocks_cpu); }

}  // namespace blockcopy
