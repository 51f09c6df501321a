// blockcopy::crop_masks, cover_cells and shared_pixels on CPU: masks as bitmaps of regions.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "blockcopy/clones.h"
#include "blockcopy/regions.h"

namespace blockcopy {
namespace {

struct Range {
  int32_t begin, end;
};

// The bits from `begin` on, and those before `end`, of the byte they lie in.
inline int bits_from(int64_t begin) { return 0xFF << (begin & 7) & 0xFF; }
inline int bits_before(int64_t end) { return 0xFF >> (7 - ((end - 1) & 7)); }

// Eight bools as the bits of a byte.
inline uint8_t pack_eight(const uint8_t* pixels) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  int byte = 0;
  for (int i = 0; i < 8; ++i) {
    byte |= (pixels[i] & 1) << i;
  }
  return static_cast<uint8_t>(byte);
#else
  uint64_t eight;
  std::memcpy(&eight, pixels, sizeof(eight));
  // Brings the lowest bit of byte i to bit 56 + i; no two terms of the sum collide.
  return static_cast<uint8_t>(((eight & 0x0101010101010101U) * 0x0102040810204080U) >> 56);
#endif
}

void pack_row(const uint8_t* pixels, const Region& region, uint8_t* bits) {
  int64_t x = region.left;
  while (x < region.right) {
    const int64_t byte = (x >> 3) - region.first_byte();
    if ((x & 7) == 0 && x + 8 <= region.right) {
      bits[byte] = pack_eight(pixels + x);
      x += 8;
    } else {
      bits[byte] |= static_cast<uint8_t>((pixels[x] & 1) << (x & 7));
      x += 1;
    }
  }
}

void crop_row(const uint8_t* bytes, const Region& region, uint8_t* bits) {
  std::copy_n(bytes + region.first_byte(), region.row_bytes(), bits);
  bits[0] &= bits_from(region.left);
  bits[region.row_bytes() - 1] &= bits_before(region.right);
}

at::Tensor crop_masks_cpu(const at::Tensor& masks, const at::Tensor& indices,
                          const at::Tensor& regions) {
  const bool packed = masks.scalar_type() == at::kByte;
  TORCH_CHECK_TYPE(packed || masks.scalar_type() == at::kBool, "blockcopy::crop_masks: masks have "
                   "dtype ", masks.scalar_type(), ", expected torch.bool, or torch.uint8 for eight "
                   "pixels a byte");
  TORCH_CHECK_TYPE(indices.scalar_type() == at::kLong, "blockcopy::crop_masks: indices have dtype ",
                   indices.scalar_type(), ", expected torch.int64");
  TORCH_CHECK_VALUE(masks.dim() == 3 && indices.dim() == 1 && regions.dim() == 2 &&
                        indices.size(0) == regions.size(0),
                    "blockcopy::crop_masks: masks have shape ", masks.sizes(), ", indices ",
                    indices.sizes(), " and regions ", regions.sizes(),
                    ", expected (m, h, w), (n) and (n, 4)");
  const Region* places = region_data("crop_masks", "regions", regions, masks.size(1),
                                     packed ? 8 * masks.size(2) : masks.size(2));
  const int64_t count = indices.size(0);
  const std::vector<int64_t> starts = bitmap_starts(places, count);
  const at::Tensor out = at::zeros({starts.back()}, masks.options().dtype(at::kByte));
  const at::Tensor source = masks.stride(2) == 1 ? masks : masks.contiguous();
  const at::Tensor which = indices.contiguous();
  const auto* pixels = static_cast<const uint8_t*>(source.const_data_ptr());
  const auto* index = which.const_data_ptr<int64_t>();
  auto* bits = out.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < count; ++i) {
    TORCH_CHECK_INDEX(0 <= index[i] && index[i] < masks.size(0), "blockcopy::crop_masks: index ",
                      index[i], " is out of range, expected 0 <= index < ", masks.size(0));
    const Region& region = places[i];
    const uint8_t* row = pixels + index[i] * source.stride(0) + region.top * source.stride(1);
    for (int64_t y = 0; y < region.rows(); ++y, row += source.stride(1)) {
      (packed ? crop_row : pack_row)(row, region, bits + starts[i] + y * region.row_bytes());
    }
  }
  return out;
}

BLOCKCOPY_CLONES void gather_bits(uint8_t* line, const uint8_t* row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    line[i] |= row[i];
  }
}

// Whether a bit of [begin, end) is set; the line's first byte is the picture's byte `first`.
inline bool any_bit(const uint8_t* line, int64_t first, int64_t begin, int64_t end) {
  const int64_t low = (begin >> 3) - first, high = ((end - 1) >> 3) - first;
  if (low == high) {
    return line[low] & bits_from(begin) & bits_before(end);
  }
  int any = (line[low] & bits_from(begin)) | (line[high] & bits_before(end));
  for (int64_t i = low + 1; i < high; ++i) {
    any |= line[i];
  }
  return any;
}

const Range* range_data(const char* name, const at::Tensor& ranges) {
  TORCH_CHECK_TYPE(ranges.scalar_type() == at::kInt, "blockcopy::cover_cells: ", name,
                   " have dtype ", ranges.scalar_type(), ", expected torch.int32");
  TORCH_CHECK_VALUE(ranges.dim() == 2 && ranges.size(1) == 2 && ranges.is_contiguous(),
                    "blockcopy::cover_cells: ", name, " have shape ", ranges.sizes(),
                    ", expected contiguous (n, 2): first pixel and behind the last");
  return reinterpret_cast<const Range*>(ranges.const_data_ptr<int32_t>());
}

at::Tensor cover_cells_cpu(const at::Tensor& bits, const at::Tensor& regions,
                           const at::Tensor& cells, const at::Tensor& rows,
                           const at::Tensor& columns) {
  constexpr const char* kOp = "cover_cells";
  const Range* down = range_data("rows", rows);
  const Range* across = range_data("columns", columns);
  const Region* pixels = region_data(kOp, "regions", regions);
  const Region* targets = region_data(kOp, "cells", cells, rows.size(0), columns.size(0));
  const int64_t count = regions.size(0);
  TORCH_CHECK_VALUE(cells.size(0) == count, "blockcopy::cover_cells: cells have shape ",
                    cells.sizes(), ", expected (", count, ", 4), one for each region");
  const std::vector<int64_t> starts = bitmap_starts(pixels, count);
  const std::vector<int64_t> ends = bitmap_starts(targets, count);
  const uint8_t* set = bitmap_data(kOp, "bits", bits, starts);
  const at::Tensor out = at::zeros({ends.back()}, bits.options());
  auto* covered = out.mutable_data_ptr<uint8_t>();
  std::vector<uint8_t> line;
  for (int64_t i = 0; i < count; ++i) {
    const Region& from = pixels[i];
    const Region& to = targets[i];
    for (int64_t y = 0; y < to.rows(); ++y) {
      const Range& range = down[to.top + y];
      line.assign(from.row_bytes(), 0);
      for (int32_t row = std::max(range.begin, from.top); row < std::min(range.end, from.bottom);
           ++row) {
        gather_bits(line.data(), set + starts[i] + (row - from.top) * from.row_bytes(),
                    from.row_bytes());
      }
      uint8_t* target = covered + ends[i] + y * to.row_bytes();
      for (int64_t x = to.left; x < to.right; ++x) {
        const int32_t begin = std::max(across[x].begin, from.left);
        const int32_t end = std::min(across[x].end, from.right);
        if (begin < end && any_bit(line.data(), from.first_byte(), begin, end)) {
          target[(x >> 3) - to.first_byte()] |= static_cast<uint8_t>(1 << (x & 7));
        }
      }
    }
  }
  return out;
}

inline int64_t count_ones(uint64_t word) {
#if defined(__GNUC__)
  return __builtin_popcountll(word);
#else
  int64_t ones = 0;
  for (; word != 0; word &= word - 1) {
    ++ones;
  }
  return ones;
#endif
}

BLOCKCOPY_CLONES int64_t shared_bits(const uint8_t* a, int64_t a_step, const uint8_t* b,
                                     int64_t b_step, int64_t rows, int64_t bytes) {
  int64_t ones = 0;
  for (int64_t y = 0; y < rows; ++y, a += a_step, b += b_step) {
    int64_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
      uint64_t first, second;
      std::memcpy(&first, a + i, sizeof(first));
      std::memcpy(&second, b + i, sizeof(second));
      ones += count_ones(first & second);
    }
    uint64_t rest = 0;
    for (; i < bytes; ++i) {
      rest = rest << 8 | (a[i] & b[i]);
    }
    ones += count_ones(rest);
  }
  return ones;
}

at::Tensor shared_pixels_cpu(const at::Tensor& bits, const at::Tensor& regions,
                             const at::Tensor& other_bits, const at::Tensor& other_regions,
                             const at::Tensor& pairs) {
  constexpr const char* kOp = "shared_pixels";
  const Region* firsts = region_data(kOp, "regions", regions);
  const Region* seconds = region_data(kOp, "other_regions", other_regions);
  const std::vector<int64_t> starts = bitmap_starts(firsts, regions.size(0));
  const std::vector<int64_t> other_starts = bitmap_starts(seconds, other_regions.size(0));
  const uint8_t* set = bitmap_data(kOp, "bits", bits, starts);
  const uint8_t* other_set = bitmap_data(kOp, "other_bits", other_bits, other_starts);
  TORCH_CHECK_TYPE(pairs.scalar_type() == at::kLong, "blockcopy::shared_pixels: pairs have dtype ",
                   pairs.scalar_type(), ", expected torch.int64");
  TORCH_CHECK_VALUE(pairs.dim() == 2 && pairs.size(1) == 2, "blockcopy::shared_pixels: pairs have "
                    "shape ", pairs.sizes(), ", expected (n, 2)");
  const at::Tensor table = pairs.contiguous();
  const auto* pair = table.const_data_ptr<int64_t>();
  const at::Tensor out = at::empty({pairs.size(0)}, pairs.options());
  auto* shared = out.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < pairs.size(0); ++i) {
    const int64_t one = pair[2 * i], other = pair[2 * i + 1];
    TORCH_CHECK_INDEX(0 <= one && one < regions.size(0) && 0 <= other &&
                          other < other_regions.size(0),
                      "blockcopy::shared_pixels: pair ", i, " is ", one, ", ", other,
                      ", but there are ", regions.size(0), " and ", other_regions.size(0),
                      " regions");
    const Region& a = firsts[one];
    const Region& b = seconds[other];
    const int64_t top = std::max(a.top, b.top), bottom = std::min(a.bottom, b.bottom);
    const int64_t begin = std::max(a.first_byte(), b.first_byte());
    const int64_t end = std::min(a.first_byte() + a.row_bytes(), b.first_byte() + b.row_bytes());
    shared[i] = 0;
    if (top < bottom && begin < end) {
      shared[i] = shared_bits(
          set + starts[one] + (top - a.top) * a.row_bytes() + begin - a.first_byte(),
          a.row_bytes(),
          other_set + other_starts[other] + (top - b.top) * b.row_bytes() + begin - b.first_byte(),
          b.row_bytes(), bottom - top, end - begin);
    }
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("crop_masks(Tensor masks, Tensor indices, Tensor regions) -> Tensor", tags);
  m.def(
      "cover_cells(Tensor bits, Tensor regions, Tensor cells, Tensor rows, Tensor columns) "
      "-> Tensor",
      tags);
  m.def(
      "shared_pixels(Tensor bits, Tensor regions, Tensor other_bits, Tensor other_regions, "
      "Tensor pairs) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("crop_masks", &crop_masks_cpu);
  m.impl("cover_cells", &cover_cells_cpu);
  m.impl("shared_pixels", &shared_pixels_cpu);
}

}  // namespace blockcopy
