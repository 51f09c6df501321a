// Regions of a picture, and bitmaps of the set pixels inside them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <limits>
#include <vector>

namespace blockcopy {

// Rows [top, bottom) and columns [left, right).
struct Region {
  int32_t top, bottom, left, right;

  int64_t rows() const { return bottom - top; }
  int64_t columns() const { return right - left; }

  // A bitmap has a bit for each pixel, the leftmost of a byte lowest. Bytes begin at multiples of 8
  // columns of the picture, so that the bytes of any two bitmaps line up. Bits outside the region
  // are 0.
  int64_t first_byte() const { return left >> 3; }
  int64_t row_bytes() const { return ((right + 7) >> 3) - (left >> 3); }
  int64_t bytes() const { return rows() * row_bytes(); }
};

// Rows of an int32 (n, 4) tensor, each with a pixel inside a picture of height x width.
inline const Region* region_data(const char* op, const char* name, const at::Tensor& regions,
                                 int64_t height = std::numeric_limits<int32_t>::max(),
                                 int64_t width = std::numeric_limits<int32_t>::max()) {
  TORCH_CHECK_TYPE(regions.scalar_type() == at::kInt, "blockcopy::", op, ": ", name, " has dtype ",
                   regions.scalar_type(), ", expected torch.int32");
  TORCH_CHECK_VALUE(regions.dim() == 2 && regions.size(1) == 4 && regions.is_contiguous(),
                    "blockcopy::", op, ": ", name, " has shape ", regions.sizes(), " and strides ",
                    regions.strides(), ", expected contiguous (n, 4): top, bottom, left, right");
  const auto* data = reinterpret_cast<const Region*>(regions.const_data_ptr<int32_t>());
  for (int64_t i = 0; i < regions.size(0); ++i) {
    const Region& r = data[i];
    TORCH_CHECK_INDEX(0 <= r.top && r.top < r.bottom && r.bottom <= height && 0 <= r.left &&
                          r.left < r.right && r.right <= width,
                      "blockcopy::", op, ": ", name, " ", i, " is rows ", r.top, " to ", r.bottom,
                      " and columns ", r.left, " to ", r.right, ", expected at least one of each, "
                      "inside (", height, ", ", width, ")");
  }
  return data;
}

// Where the bitmap of each region begins, and after the last one where it ends.
inline std::vector<int64_t> bitmap_starts(const Region* regions, int64_t count) {
  std::vector<int64_t> starts(count + 1);
  for (int64_t i = 0; i < count; ++i) {
    starts[i + 1] = starts[i] + regions[i].bytes();
  }
  return starts;
}

// The bitmaps of regions, one after the other.
inline const uint8_t* bitmap_data(const char* op, const char* name, const at::Tensor& bits,
                                  const std::vector<int64_t>& starts) {
  TORCH_CHECK_TYPE(bits.scalar_type() == at::kByte, "blockcopy::", op, ": ", name, " has dtype ",
                   bits.scalar_type(), ", expected torch.uint8");
  TORCH_CHECK_VALUE(bits.dim() == 1 && bits.size(0) == starts.back() && bits.is_contiguous(),
                    "blockcopy::", op, ": ", name, " has shape ", bits.sizes(),
                    ", expected contiguous (", starts.back(), "), as its regions have bytes");
  return bits.const_data_ptr<uint8_t>();
}

}  // namespace blockcopy
