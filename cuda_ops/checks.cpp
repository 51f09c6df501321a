// See include/blockcopy/checks.h.
#include "blockcopy/checks.h"

#include <ATen/Dispatch_v2.h>
#include <c10/core/GradMode.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace blockcopy {
namespace {

// Rows of a window must have fewer 16-byte to 1-byte vectors than a 32-bit counter holds.
constexpr int64_t kMaxRowBytes = std::numeric_limits<int32_t>::max();

bool is_number(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
    case at::kBFloat16:
    case at::kFloat:
    case at::kDouble:
    case at::kByte:
    case at::kChar:
    case at::kShort:
    case at::kInt:
    case at::kLong:
    case at::kBool:
      return true;
    default:
      return false;
  }
}

void check_map(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.dim() == 4, "blockcopy::", op, ": ", name,
                    " must be 4-D (n, C, h, w), but has shape ", tensor.sizes(),
                    "; add or remove dimensions with unsqueeze/squeeze");
  TORCH_CHECK_TYPE(is_number(tensor.scalar_type()), "blockcopy::", op, ": ", name, " has dtype ",
                   tensor.scalar_type(),
                   ", expected a floating point type of 16 to 64 bits, an integer type or bool; "
                   "convert it first");
}

void check_table(const char* op, const char* name, const at::Tensor& table,
                 const at::Tensor& state) {
  TORCH_CHECK_TYPE(table.scalar_type() == at::kInt, "blockcopy::", op, ": ", name, " has dtype ",
                   table.scalar_type(), ", expected torch.int32; pass ", name, ".to(torch.int32)");
  TORCH_CHECK_VALUE(table.dim() == 2, "blockcopy::", op, ": ", name,
                    " must be 2-D, but has shape ", table.sizes());
  TORCH_CHECK_VALUE(table.is_contiguous(), "blockcopy::", op, ": ", name,
                    " must be contiguous, but has strides ", table.strides(), "; pass ", name,
                    ".contiguous()");
  TORCH_CHECK_VALUE(table.device() == state.device(), "blockcopy::", op, ": ", name, " is on ",
                    table.device(), ", but state is on ", state.device(),
                    "; move it to the device of state");
}

}  // namespace

void check_blocks(const char* op, const at::Tensor& blocks, const at::Tensor& state) {
  check_table(op, "blocks", blocks, state);
  TORCH_CHECK_VALUE(blocks.size(1) == 3, "blockcopy::", op,
                    ": blocks must have shape (n, 3) with columns (slot, gy, gx), but has shape ",
                    blocks.sizes());
}

namespace {

void check_row_bytes(const char* op, int64_t width, const at::Tensor& state) {
  const int64_t pixel_bytes = state.size(1) * static_cast<int64_t>(state.element_size());
  TORCH_CHECK_VALUE(pixel_bytes == 0 || width <= kMaxRowBytes / pixel_bytes, "blockcopy::", op,
                    ": one row of a packed block has ", width, " pixels of ", pixel_bytes,
                    " bytes, expected less than 2^31 bytes; use smaller blocks");
}

[[noreturn]] void fail_range(const char* op, const char* name, int64_t value, int64_t low,
                             int64_t high) {
  TORCH_CHECK_INDEX(false, "blockcopy::", op, ": ", name, " ", value,
                    " is out of range, expected ", low, " <= ", name, " < ", high,
                    "; make the index tensors from the geometry of this map");
  __builtin_unreachable();
}

void check_block(const char* op, const Block& block, int64_t slots, int64_t grid_h,
                 int64_t grid_w) {
  if (!in_range(block.slot, slots)) {
    fail_range(op, "slot", block.slot, 0, slots);
  }
  if (!in_range(block.grid_y, grid_h)) {
    fail_range(op, "gy", block.grid_y, 0, grid_h);
  }
  if (!in_range(block.grid_x, grid_w)) {
    fail_range(op, "gx", block.grid_x, 0, grid_w);
  }
}

void check_sources(const char* name, const int32_t* table, int64_t size, int64_t extent) {
  bool valid = true;
  for (int64_t i = 0; i < size; ++i) {  // no early exit, so that it is vectorised
    valid &= valid_source(table[i], extent);
  }
  if (valid) {
    return;
  }
  for (int64_t i = 0; i < size; ++i) {
    if (!valid_source(table[i], extent)) {
      fail_range("gather", name, table[i], kOutside, extent);
    }
  }
}

template <typename Number>
bool holds(double fill) {
  if constexpr (std::is_same_v<Number, bool>) {
    return fill == 0.0 || fill == 1.0;
  } else if constexpr (std::is_integral_v<Number>) {
    // The largest value of a 64-bit type rounds up as a double, hence the exclusive upper end.
    const double end = std::ldexp(1.0, std::numeric_limits<Number>::digits);
    return fill == std::trunc(fill) && fill < end &&
           fill >= static_cast<double>(std::numeric_limits<Number>::lowest());
  } else {
    return !std::isfinite(fill) ||
           std::abs(fill) <= static_cast<double>(std::numeric_limits<Number>::max());
  }
}

template <typename Number>
FillPattern repeat(double fill, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(holds<Number>(fill), "blockcopy::gather: fill ", fill, " cannot be stored in ",
                    dtype, "; use a value of that type, or a floating point map");
  const Number value = static_cast<Number>(fill);
  FillPattern pattern;
  for (size_t offset = 0; offset < sizeof(pattern.byte); offset += sizeof(Number)) {
    std::memcpy(pattern.byte + offset, &value, sizeof(Number));
  }
  return pattern;
}

}  // namespace

void check_no_grad(const char* op, bool requires_grad) {
  TORCH_CHECK(!requires_grad || !c10::GradMode::is_enabled(), "blockcopy::", op,
              " has no backward, but gradients are recorded and an input requires grad; call it "
              "under torch.no_grad() or torch.inference_mode(), or detach the input");
}

GatherGeometry check_gather(const at::Tensor& state, const at::Tensor& blocks,
                            const at::Tensor& rows, const at::Tensor& cols) {
  check_no_grad("gather", state.requires_grad());
  check_map("gather", "state", state);
  check_blocks("gather", blocks, state);
  check_table("gather", "rows", rows, state);
  check_table("gather", "cols", cols, state);
  check_row_bytes("gather", cols.size(1), state);
  return {{state.size(0), state.size(2), state.size(3)},
          blocks.size(0),
          rows.size(0),
          cols.size(0),
          rows.size(1),
          cols.size(1)};
}

void check_gather_out(const GatherGeometry& g, const at::Tensor& state, const at::Tensor& out) {
  check_no_grad("gather_out", out.requires_grad());
  const std::array<int64_t, 4> expected = {g.count, state.size(1), g.window_h, g.window_w};
  TORCH_CHECK_TYPE(out.scalar_type() == state.scalar_type(),
                   "blockcopy::gather_out: out has dtype ", out.scalar_type(),
                   ", but state has ", state.scalar_type(),
                   "; allocate out with the dtype of state");
  TORCH_CHECK_VALUE(out.device() == state.device(), "blockcopy::gather_out: out is on ",
                    out.device(), ", but state is on ", state.device(),
                    "; allocate out on the device of state");
  TORCH_CHECK_VALUE(out.sizes() == at::IntArrayRef(expected),
                    "blockcopy::gather_out: out has shape ", out.sizes(), ", expected ",
                    at::IntArrayRef(expected), "; allocate or view it so");
  TORCH_CHECK_VALUE(out.is_contiguous(at::MemoryFormat::ChannelsLast),
                    "blockcopy::gather_out: out must be channels-last contiguous, but has shape ",
                    out.sizes(), " and strides ", out.strides(),
                    "; allocate it with memory_format=torch.channels_last");
}

ScatterGeometry check_scatter(const at::Tensor& state, const at::Tensor& packed,
                              const at::Tensor& blocks, const char* op,
                              at::MemoryFormat layout) {
  check_no_grad(op, state.requires_grad() || packed.requires_grad());
  check_map(op, "state", state);
  check_map(op, "packed", packed);
  check_blocks(op, blocks, state);
  TORCH_CHECK_TYPE(packed.scalar_type() == state.scalar_type(),
                   "blockcopy::", op, ": packed has dtype ", packed.scalar_type(),
                   ", but state has ", state.scalar_type(),
                   "; convert packed to the dtype of state");
  TORCH_CHECK_VALUE(packed.device() == state.device(), "blockcopy::", op, ": packed is on ",
                    packed.device(), ", but state is on ", state.device(),
                    "; move it to the device of state");
  TORCH_CHECK_VALUE(packed.size(0) == blocks.size(0), "blockcopy::", op, ": packed has ",
                    packed.size(0), " blocks, but blocks has ", blocks.size(0),
                    " rows; pass one row (slot, gy, gx) for each packed block");
  TORCH_CHECK_VALUE(packed.size(1) == state.size(1), "blockcopy::", op, ": packed has ",
                    packed.size(1), " channels, but state has ", state.size(1),
                    "; the state belongs to another map");
  TORCH_CHECK_VALUE(packed.size(2) > 0 && packed.size(3) > 0, "blockcopy::", op, ": blocks of ",
                    packed.size(2), "x", packed.size(3), " pixels, expected at least 1x1");
  const bool planes = layout == at::MemoryFormat::Contiguous;
  TORCH_CHECK_VALUE(state.is_contiguous(layout), "blockcopy::", op, ": state must be ",
                    planes ? "contiguous" : "channels-last contiguous", ", but has shape ",
                    state.sizes(), " and strides ", state.strides(),
                    "; allocate it with memory_format=torch.",
                    planes ? "contiguous_format" : "channels_last");
  check_row_bytes(op, packed.size(3), state);
  return {{state.size(0), state.size(2), state.size(3)},
          packed.size(0),
          packed.size(2),
          packed.size(3)};
}

void check_indices(const GatherGeometry& g, const Block* blocks, const int32_t* rows,
                   const int32_t* cols) {
  for (int64_t i = 0; i < g.count; ++i) {
    if (!valid_block(g, blocks[i])) {
      check_block("gather", blocks[i], g.map.slots, g.table_h, g.table_w);
    }
  }
  check_sources("source row", rows, g.table_h * g.window_h, g.map.height);
  check_sources("source column", cols, g.table_w * g.window_w, g.map.width);
}

void check_indices(const ScatterGeometry& g, const Block* blocks, const char* op) {
  for (int64_t i = 0; i < g.count; ++i) {
    if (!valid_block(g, blocks[i])) {
      check_block(op, blocks[i], g.map.slots, ceil_div(g.map.height, g.block_h),
                  ceil_div(g.map.width, g.block_w));
    }
  }
}

FillPattern fill_pattern(double fill, at::ScalarType dtype) {
  return AT_DISPATCH_V2(dtype, "blockcopy::gather",
                        AT_WRAP([&] { return repeat<scalar_t>(fill, dtype); }),
                        AT_EXPAND(AT_ALL_TYPES), at::kHalf, at::kBFloat16, at::kBool);
}

at::Tensor dense_source(const at::Tensor& source, const at::Tensor& target) {
  at::Tensor dense = source.contiguous(at::MemoryFormat::ChannelsLast);
  const auto* source_begin = static_cast<const char*>(dense.const_data_ptr());
  const auto* target_begin = static_cast<const char*>(target.const_data_ptr());
  const bool overlap = source_begin < target_begin + target.nbytes() &&
                       target_begin < source_begin + dense.nbytes();
  return overlap ? dense.clone() : dense;
}

void bump_version(const at::Tensor& state) {
  if (!state.is_inference()) {
    state.unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace blockcopy
