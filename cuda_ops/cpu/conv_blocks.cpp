// blockcopy::conv_blocks on CPU: convolution of executed blocks straight from the full map.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/direct_call.h"
#include "conv/affine.h"

namespace blockcopy {
namespace {

constexpr int64_t kSamples = 8;
constexpr size_t kAlignment = 64;

// The header before the weights in a prepared tensor.
struct Header {
  int64_t kernels;  // place in kAllKernels: a tensor may be copied to another process
  int64_t winograd;
  int64_t dtype;
  int64_t sizes[4];  // of the weight
  double samples[kSamples];
};
constexpr int64_t kHeaderBytes = 192;
static_assert(sizeof(Header) <= kHeaderBytes, "The header must fit its place");

const ConvKernels& kernels_of(const Header& header) {
  const ConvKernels* kernels = kAllKernels[header.kernels]();
  TORCH_CHECK(kernels != nullptr, "blockcopy::conv_blocks: the weights were prepared on another "
              "processor; prepare them again");
  return *kernels;
}

std::vector<std::string> conv_kernels() {
  std::vector<std::string> names;
  for (const auto kernels : kAllKernels) {
    if (kernels() != nullptr) {
      names.emplace_back(kernels()->name);
    }
  }
  return names;
}

char* aligned(const at::Tensor& bytes) {
  const auto at = reinterpret_cast<uintptr_t>(bytes.mutable_data_ptr());
  return reinterpret_cast<char*>((at + kAlignment - 1) / kAlignment * kAlignment);
}

ConvShape shape_of(const at::Tensor& weight, at::IntArrayRef stride, at::IntArrayRef dilation) {
  return {weight.size(1), weight.size(0), weight.size(2), weight.size(3),
          stride[0],      stride[1],      dilation[0],    dilation[1]};
}

// Where the i-th of a few weights lies, by which changes are noticed that no version counter shows
// (`weight.data`). Of a weight without gaps any order will do, as long as it is always the same.
int64_t sample_place(const at::Tensor& weight, bool without_gaps, int64_t i) {
  int64_t rest = (weight.numel() - 1) * i / (kSamples - 1);
  if (without_gaps) {
    return rest;
  }
  int64_t at = 0;
  for (int64_t axis = weight.dim() - 1; axis >= 0; --axis) {
    at += rest % weight.size(axis) * weight.stride(axis);
    rest /= weight.size(axis);
  }
  return at;
}

// Asks the caches for these weights and for the first of the prepared ones: if another model has run
// since, they are read while shapes are checked. A few of the first lines, and the processor sees the
// others coming.
void fetch_weights(const at::Tensor& weight, const at::Tensor& prepared) {
  constexpr int64_t kLineBytes = 64, kFetched = 8 * 1024;
  const bool without_gaps = weight.is_non_overlapping_and_dense();
  const char* values = static_cast<const char*>(weight.const_data_ptr());
  for (int64_t i = 0; i < kSamples; ++i) {
    __builtin_prefetch(values + sample_place(weight, without_gaps, i) * weight.element_size());
  }
  const char* bytes = static_cast<const char*>(prepared.const_data_ptr());
  for (int64_t at = 0; at < std::min<int64_t>(prepared.nbytes(), kFetched); at += kLineBytes) {
    __builtin_prefetch(bytes + at);
  }
}

void sample(const at::Tensor& weight, double (&samples)[kSamples]) {
  const bool without_gaps = weight.is_non_overlapping_and_dense();
  const auto take = [&](const auto* values) {
    for (int64_t i = 0; i < kSamples; ++i) {
      samples[i] = static_cast<double>(values[sample_place(weight, without_gaps, i)]);
    }
  };
  if (weight.scalar_type() == at::kFloat) {
    take(weight.const_data_ptr<float>());
  } else {
    take(weight.const_data_ptr<at::BFloat16>());
  }
}

void check_weight(const at::Tensor& weight) {
  element_of("conv_prepare", weight);
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.numel() > 0,
                    "blockcopy::conv_prepare: weight has shape ", weight.sizes(),
                    ", expected (C_out, C_in, kh, kw) without empty dimensions");
}

// Bytes of the weights as pack_weight leaves them, which is how those of one input channel begin;
// the depthwise ones follow.
int64_t packed_bytes(const ConvKernels& kernels, const at::Tensor& weight) {
  return static_cast<int64_t>(weight.element_size()) *
             kernels.weight_size(shape_of(weight, {1, 1}, {1, 1})) /
             static_cast<int64_t>(kAlignment) * kAlignment + kAlignment;
}

// Bytes of Winograd's weights.
int64_t winograd_bytes(const ConvKernels& kernels, const at::Tensor& weight) {
  return (4 * kernels.winograd_size(shape_of(weight, {1, 1}, {1, 1})) +
          static_cast<int64_t>(kAlignment) - 1) /
         static_cast<int64_t>(kAlignment) * static_cast<int64_t>(kAlignment);
}

// Whether Winograd's weights are followed by those of direct convolution, see direct_is_faster.
bool has_both(const ConvKernels& kernels, const at::Tensor& weight) {
  return weight.scalar_type() == at::kBFloat16 && kernels.pair > 1;
}

// Winograd's weights, a few points at a time: all of them in double would be eight times as large
// as the weight.
void fill_winograd(const ConvKernels& kernels, const ConvShape& shape, const at::Tensor& weight,
                   float* packed) {
  constexpr int64_t kAtOnce = 6;
  const int64_t of_kernel = shape.kernel_h * shape.kernel_w, all = kernels.winograd_points(shape);
  const at::Tensor points = at::empty({of_kernel, all}, at::kDouble);
  kernels.winograd_matrix(shape, points.mutable_data_ptr<double>());
  // In double, so that the weights bring no rounding but that of their storage.
  const at::Tensor taps = weight.reshape({-1, of_kernel}).to(at::kDouble);
  for (int64_t first = 0; first < all; first += kAtOnce) {
    const int64_t count = std::min(kAtOnce, all - first);
    const at::Tensor values =
        at::matmul(taps, points.narrow(1, first, count)).to(at::kFloat).t().contiguous();
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        kernels.pack_winograd(shape, first + i, values.const_data_ptr<float>() + i * values.size(1),
                              packed);
      }
    });
  }
}

void fill(const at::Tensor& prepared, const at::Tensor& weight) {
  char* memory = aligned(prepared);
  Header* header = reinterpret_cast<Header*>(memory);
  const ConvKernels& kernels = kernels_of(*header);
  const ConvShape shape = shape_of(weight, {1, 1}, {1, 1});
  const bool winograd = header->winograd != 0;
  if (winograd) {
    fill_winograd(kernels, shape, weight, reinterpret_cast<float*>(memory + kHeaderBytes));
  }
  if (!winograd || has_both(kernels, weight)) {
    // (C_out, kh, kw, C_in)
    const at::Tensor ordered = weight.permute({0, 2, 3, 1}).contiguous();
    kernels.pack_weight(shape, element_of("conv_prepare", weight), ordered.const_data_ptr(),
                        memory + kHeaderBytes + (winograd ? winograd_bytes(kernels, weight) : 0));
  }
  if (weight.size(1) == 1) {
    // (kh, kw, C): one input channel, or one for each output; only the call tells.
    const at::Tensor by_tap = weight.select(1, 0).permute({1, 2, 0}).to(at::kFloat).contiguous();
    std::memcpy(memory + kHeaderBytes + packed_bytes(kernels, weight), by_tap.const_data_ptr(),
                by_tap.nbytes());
  }
  sample(weight, header->samples);
}

at::Tensor conv_prepare_cpu(const at::Tensor& weight, bool winograd, c10::string_view kernels) {
  check_weight(weight);
  const ConvKernels* chosen = nullptr;
  int64_t place = 0;
  for (const auto candidate : kAllKernels) {
    if (candidate() != nullptr && (kernels.empty() || kernels == candidate()->name)) {
      chosen = candidate();
      break;
    }
    ++place;
  }
  TORCH_CHECK_VALUE(chosen != nullptr, "blockcopy::conv_prepare: this processor has no kernels '",
                    std::string(kernels), "'; it has ", conv_kernels());
  const ConvShape shape = shape_of(weight, {1, 1}, {1, 1});
  if (winograd) {
    const int64_t taps = std::max(shape.kernel_h, shape.kernel_w);
    const bool is_known = (taps == 3 || taps == 5) &&
                          (shape.kernel_h == taps || shape.kernel_h == 1) &&
                          (shape.kernel_w == taps || shape.kernel_w == 1);
    TORCH_CHECK_VALUE(is_known && shape.channels % chosen->lanes == 0,
                      "blockcopy::conv_prepare: Winograd needs a kernel of 3 or 5 taps along one "
                      "axis or both (3x3, 1x5) and a multiple of ", chosen->lanes,
                      " input channels, found ", weight.sizes(), "; pass winograd=False");
  }
  const int64_t depthwise = weight.size(1) == 1 ? 4 * weight.numel() : 0;
  int64_t bytes = packed_bytes(*chosen, weight) + depthwise;
  if (winograd) {
    bytes = winograd_bytes(*chosen, weight) + (has_both(*chosen, weight) ? bytes : 0);
  }
  const at::Tensor prepared = at::empty({kHeaderBytes + bytes + static_cast<int64_t>(kAlignment)},
                                        weight.options().dtype(at::kByte));
  Header* header = reinterpret_cast<Header*>(aligned(prepared));
  header->kernels = place;
  header->winograd = winograd ? 1 : 0;
  header->dtype = static_cast<int64_t>(weight.scalar_type());
  std::copy(weight.sizes().begin(), weight.sizes().end(), header->sizes);
  fill(prepared, weight);
  return prepared;
}

// What stands at the head of a prepared tensor, if that was prepared for such a weight.
const Header& header_of(const at::Tensor& prepared, const at::Tensor& weight) {
  const bool readable = prepared.scalar_type() == at::kByte && prepared.is_contiguous() &&
                        prepared.numel() >= kHeaderBytes + static_cast<int64_t>(kAlignment);
  const Header* header = readable ? reinterpret_cast<const Header*>(aligned(prepared)) : nullptr;
  TORCH_CHECK_VALUE(header != nullptr && weight.sizes() == at::IntArrayRef(header->sizes, 4) &&
                        header->dtype == static_cast<int64_t>(weight.scalar_type()),
                    "blockcopy::conv_blocks: prepared, ", prepared.scalar_type(), " ",
                    prepared.sizes(), ", was not made of a weight of ", weight.scalar_type(), " ",
                    weight.sizes(), "; make it with conv_prepare(weight)");
  return *header;
}

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
                           at::OptionalIntArrayRef size) {
  const ConvElement element = element_of("conv_blocks", source);
  check_weight(weight);
  fetch_weights(weight, prepared);
  check_pair("stride", stride, 1);
  check_pair("dilation", dilation, 1);
  check_pair("block_out", block_out, 1);
  const Header* header = &header_of(prepared, weight);
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
  from.map_h = map.size(2);
  from.map_w = map.size(3);
  at::Tensor fresh;
  std::vector<int32_t> executed;
  std::vector<int32_t> row_blocks;
  std::vector<int32_t> col_blocks;
  std::vector<int32_t> col_runs;
  if (rows.has_value() || cols.has_value()) {
    TORCH_CHECK_VALUE(blocks.has_value() && rows.has_value() && cols.has_value(),
                      "blockcopy::conv_blocks: rows and cols need each other and blocks");
    const GatherGeometry g = check_gather(map, *blocks, *rows, *cols);
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
      const ScatterGeometry s = check_scatter(map, fresh, *blocks);
      check_indices(s, block_data(*blocks));
      from.packed = fresh.const_data_ptr();
      from.input_h = s.block_h;
      from.input_w = s.block_w;
      from.grid_h = ceil_div(from.map_h, s.block_h);
      from.grid_w = ceil_div(from.map_w, s.block_w);
      executed.assign(map.size(0) * from.grid_h * from.grid_w, -1);
      for (int64_t i = 0; i < s.count; ++i) {
        const Block block = block_data(*blocks)[i];
        executed[(block.slot * from.grid_h + block.grid_y) * from.grid_w + block.grid_x] =
            static_cast<int32_t>(i);
      }
      from.executed = executed.data();
      row_blocks = blocks_of(*rows, s.block_h);
      col_blocks = blocks_of(*cols, s.block_w);
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

  double samples[kSamples];
  sample(weight, samples);
  if (std::memcmp(samples, header->samples, sizeof(samples)) != 0) {
    fill(prepared, weight);
  }
  const ConvKernels& kernels = kernels_of(*header);
  const bool prepared_for_it = header->winograd != 0;
  const bool winograd =
      prepared_for_it && !(has_both(kernels, weight) && kernels.direct_is_faster(problem));
  problem.weight = aligned(prepared) + kHeaderBytes;
  if (depthwise) {
    problem.weight = aligned(prepared) + kHeaderBytes + packed_bytes(kernels, weight);
  } else if (prepared_for_it && !winograd) {
    problem.weight = aligned(prepared) + kHeaderBytes + winograd_bytes(kernels, weight);
  }
  TORCH_CHECK_VALUE(!prepared_for_it || (stride[0] == 1 && stride[1] == 1 && rows.has_value()),
                    "blockcopy::conv_blocks: weights were prepared for Winograd, which needs "
                    "blocks, and stride 1, found ", stride);

  const int64_t threads = at::get_num_threads();
  const int64_t tasks = winograd    ? kernels.winograd_tasks(problem, threads)
                        : depthwise ? kernels.depthwise_tasks(problem, threads)
                                    : kernels.direct_tasks(problem, threads);
  const int64_t scratch = (winograd    ? kernels.winograd_scratch(problem)
                           : depthwise ? kernels.depthwise_scratch(problem)
                                       : kernels.direct_scratch(problem)) /
                              static_cast<int64_t>(kAlignment) * kAlignment + kAlignment;
  const int64_t zeros = (shape.channels * 4 + kAlignment) / kAlignment * kAlignment;
  // The taps of a row of the kernel may be read as one.
  const int64_t beyond = (shape.kernel_w * shape.channels * 4 + kAlignment) / kAlignment * kAlignment;
  const int64_t start = zeros + beyond;
  const int64_t needed = start + scratch * threads + static_cast<int64_t>(kAlignment);
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
  m.def("conv_prepare(Tensor weight, bool winograd, str kernels='') -> Tensor", tags);
  m.def(
      "conv_blocks(Tensor source, Tensor? packed, Tensor? blocks, Tensor? rows, Tensor? cols, "
      "Tensor weight, Tensor(a!) prepared, Tensor? bias, Tensor?[] norm, float eps, int[] stride, "
      "int[] dilation, int[] block_out, Tensor? residual, float low, float high, "
      "Tensor(b!) workspace, Tensor? slope=None, str activation='', int[]? size=None) -> Tensor",
      tags);
  m.def("conv_kernels() -> str[]");
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("conv_prepare", &conv_prepare_cpu);
  m.impl("conv_blocks", &conv_blocks_cpu);
}

TORCH_LIBRARY_IMPL(blockcopy, CatchAll, m) { m.impl("conv_kernels", &conv_kernels); }

}  // namespace blockcopy
