// blockcopy::conv_prepare on CPU: a convolution's weight, laid out for the kernels of this processor.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "conv/prepared_weight.h"

namespace blockcopy {
namespace {

constexpr int64_t kSamples = 8;
constexpr int64_t kAlignment = kMemoryAlignment;

// Before the values in a prepared tensor.
struct Header {
  int64_t kernels;  // place in kAllKernels: a tensor may be copied to another process
  int64_t winograd;
  int64_t dtype;
  int64_t sizes[4];  // of the weight
  double samples[kSamples];
};
constexpr int64_t kHeaderBytes = 192;
static_assert(sizeof(Header) <= kHeaderBytes, "The header must fit its place");

Header& header_at(char* memory) { return *reinterpret_cast<Header*>(memory); }

std::vector<std::string> conv_kernels() {
  std::vector<std::string> names;
  for (const auto kernels : kAllKernels) {
    if (kernels() != nullptr) {
      names.emplace_back(kernels()->name);
    }
  }
  return names;
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

void fetch(const at::Tensor& prepared, const at::Tensor& weight) {
  constexpr int64_t kLineBytes = 64, kFetched = 2048;
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

// Bytes of the values as pack_weight leaves them, which is how those of one input channel begin; the
// depthwise ones follow.
int64_t packed_bytes(const ConvKernels& kernels, const at::Tensor& weight) {
  return static_cast<int64_t>(weight.element_size()) *
             kernels.weight_size(shape_of(weight, {1, 1}, {1, 1})) / kAlignment * kAlignment +
         kAlignment;
}

int64_t winograd_bytes(const ConvKernels& kernels, const at::Tensor& weight) {
  return (4 * kernels.winograd_size(shape_of(weight, {1, 1}, {1, 1})) + kAlignment - 1) / kAlignment *
         kAlignment;
}

bool needs_both(const ConvKernels& kernels, const at::Tensor& weight) {
  return weight.scalar_type() == at::kBFloat16 && kernels.pair > 1;
}

// Winograd's values, a few points at a time: all of them in double would be eight times as large as
// the weight.
void fill_winograd(const ConvKernels& kernels, const ConvShape& shape, const at::Tensor& weight,
                   float* packed) {
  constexpr int64_t kAtOnce = 6;
  const int64_t of_kernel = shape.kernel_h * shape.kernel_w, all = kernels.winograd_points(shape);
  const at::Tensor points = at::empty({of_kernel, all}, at::kDouble);
  kernels.winograd_matrix(shape, points.mutable_data_ptr<double>());
  // In double, so that the values bring no rounding but that of their storage.
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

void fill(char* memory, const ConvKernels& kernels, const at::Tensor& weight) {
  Header& header = header_at(memory);
  const ConvShape shape = shape_of(weight, {1, 1}, {1, 1});
  const bool winograd = header.winograd != 0;
  if (winograd) {
    fill_winograd(kernels, shape, weight, reinterpret_cast<float*>(memory + kHeaderBytes));
  }
  if (!winograd || needs_both(kernels, weight)) {
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
  sample(weight, header.samples);
}

void check_winograd(const ConvKernels& kernels, const at::Tensor& weight) {
  const int64_t down = weight.size(2), across = weight.size(3), taps = std::max(down, across);
  const bool is_known =
      (taps == 3 || taps == 5) && (down == taps || down == 1) && (across == taps || across == 1);
  TORCH_CHECK_VALUE(is_known && weight.size(1) % kernels.lanes == 0,
                    "blockcopy::conv_prepare: Winograd needs a kernel of 3 or 5 taps along one axis "
                    "or both (3x3, 1x5) and a multiple of ", kernels.lanes,
                    " input channels, found ", weight.sizes(), "; pass winograd=False");
}

at::Tensor conv_prepare_cpu(const at::Tensor& weight, bool winograd, c10::string_view kernels) {
  check_conv_weight(weight);
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
  if (winograd) {
    check_winograd(*chosen, weight);
  }
  const int64_t depthwise = weight.size(1) == 1 ? 4 * weight.numel() : 0;
  int64_t bytes = packed_bytes(*chosen, weight) + depthwise;
  if (winograd) {
    bytes = winograd_bytes(*chosen, weight) + (needs_both(*chosen, weight) ? bytes : 0);
  }
  const at::Tensor prepared =
      at::empty({kHeaderBytes + bytes + kAlignment}, weight.options().dtype(at::kByte));
  char* memory = aligned(prepared);
  Header& header = header_at(memory);
  header.kernels = place;
  header.winograd = winograd ? 1 : 0;
  header.dtype = static_cast<int64_t>(weight.scalar_type());
  std::copy(weight.sizes().begin(), weight.sizes().end(), header.sizes);
  fill(memory, *chosen, weight);
  return prepared;
}

}  // namespace

void check_conv_weight(const at::Tensor& weight) {
  element_of("conv_prepare", weight);
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.numel() > 0,
                    "blockcopy::conv_prepare: weight has shape ", weight.sizes(),
                    ", expected (C_out, C_in, kh, kw) without empty dimensions");
}

PreparedWeight::PreparedWeight(const at::Tensor& prepared, const at::Tensor& weight)
    : prepared_(prepared), weight_(weight), memory_(nullptr) {
  fetch(prepared, weight);
  if (prepared.scalar_type() == at::kByte && prepared.is_contiguous() &&
      prepared.numel() >= kHeaderBytes + kAlignment) {
    memory_ = aligned(prepared);
  }
  TORCH_CHECK_VALUE(memory_ != nullptr &&
                        weight.sizes() == at::IntArrayRef(header_at(memory_).sizes, 4) &&
                        header_at(memory_).dtype == static_cast<int64_t>(weight.scalar_type()),
                    "blockcopy::conv_blocks: prepared, ", prepared.scalar_type(), " ",
                    prepared.sizes(), ", was not made of a weight of ", weight.scalar_type(), " ",
                    weight.sizes(), "; make it with conv_prepare(weight)");
}

const ConvKernels& PreparedWeight::kernels() const {
  const ConvKernels* kernels = kAllKernels[header_at(memory_).kernels]();
  TORCH_CHECK(kernels != nullptr, "blockcopy::conv_blocks: the weights were prepared on another "
              "processor; prepare them again");
  return *kernels;
}

void PreparedWeight::follow_changes() {
  double samples[kSamples];
  sample(weight_, samples);
  if (std::memcmp(samples, header_at(memory_).samples, sizeof(samples)) != 0) {
    fill(memory_, kernels(), weight_);
  }
}

bool PreparedWeight::is_for_winograd() const { return header_at(memory_).winograd != 0; }

bool PreparedWeight::has_both() const { return is_for_winograd() && needs_both(kernels(), weight_); }

const void* PreparedWeight::winograd() const { return memory_ + kHeaderBytes; }

const void* PreparedWeight::direct() const {
  return memory_ + kHeaderBytes + (is_for_winograd() ? winograd_bytes(kernels(), weight_) : 0);
}

const void* PreparedWeight::depthwise() const {
  return memory_ + kHeaderBytes + packed_bytes(kernels(), weight_);
}

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("conv_prepare(Tensor weight, bool winograd, str kernels='') -> Tensor", tags);
  m.def("conv_kernels() -> str[]");
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("conv_prepare", &conv_prepare_cpu); }

TORCH_LIBRARY_IMPL(blockcopy, CatchAll, m) { m.impl("conv_kernels", &conv_kernels); }

}  // namespace blockcopy
