// blockcopy::conv_blocks on CPU: convolution of executed blocks straight from the full map.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/direct_call.h"
#include "blockcopy/kept_map.h"
#include "conv/prepared_weight.h"

namespace blockcopy {
namespace {

constexpr int64_t kAlignment = kMemoryAlignment;

void check_pair(const char* name, at::IntArrayRef pair, int64_t least) {
  TORCH_CHECK_VALUE(pair.size() == 2 && pair[0] >= least && pair[1] >= least,
                    "blockcopy::conv_blocks: ", name, " is ", pair, ", expected two integers of at "
                    "least ", least);
}

// The block of every entry of a table; none if the entry lies outside.
std::vector<int32_t> blocks_of(const at::Tensor& table, int64_t block) {
  const int32_t* from = table.const_data_ptr<int32_t>();
  std::vector<int32_t> found(table.numel());
  for (size_t i = 0; i < found.size(); ++i) {
    found[i] = from[i] < 0 ? 0 : from[i] / static_cast<int32_t>(block);
  }
  return found;
}

// How many entries, from each one on, are consecutive columns of one block, or of the map.
std::vector<int32_t> runs_of(const at::Tensor& table, const std::vector<int32_t>& blocks) {
  const int32_t* from = table.const_data_ptr<int32_t>();
  const int64_t width = table.size(1);
  std::vector<int32_t> found(table.numel());
  for (int64_t i = table.numel() - 1; i >= 0; --i) {
    const bool goes_on = (i + 1) % width != 0 && from[i] >= 0 && from[i + 1] == from[i] + 1 &&
                         (blocks.empty() || blocks[i + 1] == blocks[i]);
    found[i] = goes_on ? found[i + 1] + 1 : 1;
  }
  return found;
}

at::Tensor conv_blocks_cpu(const at::Tensor& source, const std::optional<at::Tensor>& packed,
                           const std::optional<at::Tensor>& blocks,
                           const std::optional<at::Tensor>& rows,
                           const std::optional<at::Tensor>& cols, const at::Tensor& weight,
                           const at::Tensor& prepared, const std::optional<at::Tensor>& bias,
                           const c10::List<std::optional<at::Tensor>>& norm, double eps,
                           at::IntArrayRef stride, at::IntArrayRef dilation,
                           at::IntArrayRef block_out, const std::optional<at::Tensor>& residual,
                           double low, double high, const at::Tensor& workspace,
                           const std::optional<at::Tensor>& slope, c10::string_view activation,
                           at::OptionalIntArrayRef size, at::OptionalIntArrayRef rings) {
  const ConvElement element = element_of("conv_blocks", source);
  check_conv_weight(weight);
  PreparedWeight values(prepared, weight);
  check_pair("stride", stride, 1);
  check_pair("dilation", dilation, 1);
  check_pair("block_out", block_out, 1);
  ConvShape shape = shape_of(weight, stride, dilation);
  const bool depthwise = source.dim() == 4 && weight.size(1) == 1 && source.size(1) > 1 &&
                         weight.size(0) % source.size(1) == 0;
  if (depthwise) {
    shape.channels = source.size(1);
  }
  TORCH_CHECK_VALUE(source.dim() == 4 && source.size(1) == shape.channels &&
                        source.scalar_type() == weight.scalar_type(),
                    "blockcopy::conv_blocks: source is ", source.scalar_type(), " ",
                    source.sizes(), ", but weight is ", weight.scalar_type(), " ", weight.sizes());
  const int64_t reach_h = (block_out[0] - 1) * stride[0] + (shape.kernel_h - 1) * dilation[0] + 1;
  const int64_t reach_w = (block_out[1] - 1) * stride[1] + (shape.kernel_w - 1) * dilation[1] + 1;
  const at::Tensor map = source.contiguous(at::MemoryFormat::ChannelsLast);

  ConvProblem problem = {};
  problem.element = element;
  problem.shape = shape;
  problem.block_h = block_out[0];
  problem.block_w = block_out[1];
  ConvSource& from = problem.source;
  from.map = map.const_data_ptr();
  KeptMap kept("conv_blocks", map, rings);
  kept.check_packed("conv_blocks", packed.has_value());
  from.map_h = kept.extent.height;
  from.map_w = kept.extent.width;
  at::Tensor fresh;
  std::vector<int32_t> row_blocks;
  std::vector<int32_t> col_blocks;
  std::vector<int32_t> col_runs;
  if (rows.has_value() || cols.has_value()) {
    TORCH_CHECK_VALUE(blocks.has_value() && rows.has_value() && cols.has_value(),
                      "blockcopy::conv_blocks: rows and cols need each other and blocks");
    GatherGeometry g = check_gather(map, *blocks, *rows, *cols);
    g.map = kept.extent;
    check_indices(g, block_data(*blocks), rows->const_data_ptr<int32_t>(),
                  cols->const_data_ptr<int32_t>());
    TORCH_CHECK_VALUE(g.window_h >= reach_h && g.window_w >= reach_w,
                      "blockcopy::conv_blocks: windows of ", g.window_h, "x", g.window_w,
                      " pixels are smaller than the ", reach_h, "x", reach_w,
                      " that blocks of ", block_out, " read");
    problem.count = g.count;
    from.rows = rows->const_data_ptr<int32_t>();
    from.cols = cols->const_data_ptr<int32_t>();
    from.window_h = g.window_h;
    from.window_w = g.window_w;
    from.blocks = blocks->const_data_ptr<int32_t>();
    if (packed.has_value()) {
      fresh = packed->contiguous(at::MemoryFormat::ChannelsLast);
      kept.add("conv_blocks", map, fresh, *blocks);
      from.packed = fresh.const_data_ptr();
      from.ring = kept.ring;
      from.input_h = kept.ring.block_h;
      from.input_w = kept.ring.block_w;
      from.grid_h = kept.grid_h;
      from.grid_w = kept.grid_w;
      from.executed = kept.executed.data();
      row_blocks = blocks_of(*rows, from.input_h);
      col_blocks = blocks_of(*cols, from.input_w);
      from.row_blocks = row_blocks.data();
      from.col_blocks = col_blocks.data();
    }
    col_runs = runs_of(*cols, col_blocks);
    from.col_runs = col_runs.data();
  } else {
    TORCH_CHECK_VALUE(!packed.has_value(),
                      "blockcopy::conv_blocks: packed needs blocks, rows and cols");
    TORCH_CHECK_VALUE(from.map_h >= reach_h && from.map_w >= reach_w,
                      "blockcopy::conv_blocks: source blocks of ", from.map_h, "x", from.map_w,
                      " pixels are smaller than the ", reach_h, "x", reach_w,
                      " that blocks of ", block_out, " read");
    problem.count = map.size(0);
  }
  if (size.has_value()) {
    check_pair("size", *size, 1);
    TORCH_CHECK_VALUE(blocks.has_value() && blocks->scalar_type() == at::kInt &&
                          blocks->is_contiguous() &&
                          blocks->sizes() == at::IntArrayRef({problem.count, 3}),
                      "blockcopy::conv_blocks: size needs blocks, int32 (", problem.count, ", 3)");
    if ((*size)[0] % block_out[0] != 0 || (*size)[1] % block_out[1] != 0) {
      problem.places = blocks->const_data_ptr<int32_t>();
      problem.map_h = (*size)[0];
      problem.map_w = (*size)[1];
    }
  }

  const at::Tensor out =
      at::empty({problem.count, shape.channels_out, block_out[0], block_out[1]},
                source.options().memory_format(at::MemoryFormat::ChannelsLast));
  at::Tensor added;
  if (residual.has_value()) {
    TORCH_CHECK_VALUE(residual->sizes() == out.sizes() &&
                          residual->scalar_type() == out.scalar_type(),
                      "blockcopy::conv_blocks: residual is ", residual->scalar_type(), " ",
                      residual->sizes(), ", but the result is ", out.scalar_type(), " ",
                      out.sizes());
    added = residual->contiguous(at::MemoryFormat::ChannelsLast);
    problem.epilogue.residual = added.const_data_ptr();
  }
  const Affine affine("conv_blocks", bias, norm, eps, slope, shape.channels_out);
  affine.write_to(problem.epilogue);
  problem.epilogue.activation = activation_of("conv_blocks", activation);
  problem.epilogue.low = static_cast<float>(low);
  problem.epilogue.high = static_cast<float>(high);
  problem.out = out.mutable_data_ptr();
  if (out.numel() == 0) {
    return out;
  }

  values.follow_changes();
  const ConvKernels& kernels = values.kernels();
  const bool winograd =
      values.is_for_winograd() && !(values.has_both() && kernels.direct_is_faster(problem));
  problem.weight = winograd    ? values.winograd()
                   : depthwise ? values.depthwise()
                               : values.direct();
  TORCH_CHECK_VALUE(!values.is_for_winograd() ||
                        (stride[0] == 1 && stride[1] == 1 && rows.has_value()),
                    "blockcopy::conv_blocks: weights were prepared for Winograd, which needs "
                    "blocks, and stride 1, found ", stride);

  const int64_t threads = at::get_num_threads();
  const int64_t tasks = winograd    ? kernels.winograd_tasks(problem, threads)
                        : depthwise ? kernels.depthwise_tasks(problem, threads)
                                    : kernels.direct_tasks(problem, threads);
  const int64_t scratch = (winograd    ? kernels.winograd_scratch(problem)
                           : depthwise ? kernels.depthwise_scratch(problem)
                                       : kernels.direct_scratch(problem)) /
                              kAlignment * kAlignment + kAlignment;
  const int64_t zeros = (shape.channels * 4 + kAlignment) / kAlignment * kAlignment;
  // The taps of a row of the kernel may be read as one.
  const int64_t beyond = (shape.kernel_w * shape.channels * 4 + kAlignment) / kAlignment * kAlignment;
  const int64_t start = zeros + beyond;
  const int64_t needed = start + scratch * threads + kAlignment;
  if (workspace.numel() < needed) {
    workspace.resize_({needed});
  }
  char* memory = aligned(workspace);
  std::memset(memory, 0, start);
  problem.source.zeros = memory;
  problem.source.beyond = memory + zeros;
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    char* own = memory + start + scratch * at::get_thread_num();
    for (int64_t task = begin; task < end; ++task) {
      if (winograd) {
        kernels.winograd(problem, threads, task, own);
      } else if (depthwise) {
        kernels.depthwise(problem, threads, task, own);
      } else {
        kernels.direct(problem, threads, task, own);
      }
    }
  });
  return out;
}

const CalledDirectly<&conv_blocks_cpu> direct_conv_blocks("conv_blocks");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "conv_blocks(Tensor source, Tensor? packed, Tensor? blocks, Tensor? rows, Tensor? cols, "
      "Tensor weight, Tensor(a!) prepared, Tensor? bias, Tensor?[] norm, float eps, int[] stride, "
      "int[] dilation, int[] block_out, Tensor? residual, float low, float high, "
      "Tensor(b!) workspace, Tensor? slope=None, str activation='', int[]? size=None, "
      "int[]? rings=None) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("conv_blocks", &conv_blocks_cpu); }

}  // namespace blockcopy
