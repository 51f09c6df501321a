// blockcopy::paint_regions on CPU: the largest value of the regions over each pixel.
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "blockcopy/clones.h"
#include "blockcopy/regions.h"

namespace blockcopy {
namespace {

// Regions that are together larger than this many pictures are painted in strips.
constexpr int64_t kPictures = 8;

// NaN is not a larger value.
BLOCKCOPY_CLONES void raise_to(float* pixels, int64_t count, float value) {
  for (int64_t i = 0; i < count; ++i) {
    pixels[i] = value > pixels[i] ? value : pixels[i];
  }
}

BLOCKCOPY_CLONES void raise_to(float* pixels, int64_t count, const float* values) {
  for (int64_t i = 0; i < count; ++i) {
    pixels[i] = values[i] > pixels[i] ? values[i] : pixels[i];
  }
}

void raise_where(float* pixels, const Region& region, float value, const uint8_t* bits) {
  for (int64_t x = region.left; x < region.right; ++x) {
    const int64_t byte = (x >> 3) - region.first_byte();
    if ((bits[byte] >> (x & 7)) & 1) {
      pixels[x] = std::max(pixels[x], value);
    }
  }
}

// Pictures of strips: a row of level k stands for itself and the 2^k - 1 rows below it. So a region
// consists of two rows of a level, however high it is.
class Strips {
 public:
  Strips(float* picture, int64_t height, int64_t width, int64_t highest)
      : height_(height), width_(width), levels_{picture}, upper_(highest * height * width) {
    for (int64_t level = 0; level < highest; ++level) {
      levels_.push_back(upper_.data() + level * height * width);
    }
  }

  void paint(const Region& region, float value) {
    int64_t level = 0;
    while (level + 1 < static_cast<int64_t>(levels_.size()) && region.rows() >= 2LL << level) {
      ++level;
    }
    const int64_t high = 1LL << level;
    int64_t y = region.top;
    for (; y + high <= region.bottom; y += high) {
      raise_to(row(level, y) + region.left, region.columns(), value);
    }
    if (y < region.bottom) {
      raise_to(row(level, region.bottom - high) + region.left, region.columns(), value);
    }
  }

  // Brings all levels down to the picture.
  void merge() {
    for (int64_t level = static_cast<int64_t>(levels_.size()) - 1; level > 0; --level) {
      const int64_t half = 1LL << (level - 1);
      for (int64_t y = 0; y + 2 * half <= height_; ++y) {
        raise_to(row(level - 1, y), width_, row(level, y));
        raise_to(row(level - 1, y + half), width_, row(level, y));
      }
    }
  }

 private:
  float* row(int64_t level, int64_t y) { return levels_[level] + y * width_; }

  int64_t height_, width_;
  std::vector<float*> levels_;
  std::vector<float> upper_;
};

at::Tensor paint_regions_cpu(const at::Tensor& values, const at::Tensor& regions,
                             const std::optional<at::Tensor>& bits, at::IntArrayRef size) {
  constexpr const char* kOp = "paint_regions";
  TORCH_CHECK(!values.requires_grad() || !c10::GradMode::is_enabled(),
              "blockcopy::paint_regions has no backward, but gradients are recorded and an input "
              "requires grad; call it under torch.no_grad() or torch.inference_mode(), or detach "
              "the input");
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] >= 0 && size[1] >= 0,
                    "blockcopy::paint_regions: size is ", size, ", expected (height, width)");
  TORCH_CHECK_TYPE(values.scalar_type() == at::kFloat, "blockcopy::paint_regions: values have "
                   "dtype ", values.scalar_type(), ", expected torch.float32");
  const int64_t height = size[0], width = size[1];
  const Region* places = region_data(kOp, "regions", regions, height, width);
  const int64_t count = regions.size(0);
  TORCH_CHECK_VALUE(values.dim() == 1 && values.size(0) == count && values.is_contiguous(),
                    "blockcopy::paint_regions: values have shape ", values.sizes(),
                    ", expected contiguous (", count, "), one for each region");
  const float* value = values.const_data_ptr<float>();
  const at::Tensor out = at::zeros({height, width}, values.options());
  auto* picture = out.mutable_data_ptr<float>();
  if (bits.has_value()) {
    const std::vector<int64_t> starts = bitmap_starts(places, count);
    const uint8_t* set = bitmap_data(kOp, "bits", *bits, starts);
    for (int64_t i = 0; i < count; ++i) {
      const Region& region = places[i];
      for (int64_t y = 0; value[i] > 0 && y < region.rows(); ++y) {
        raise_where(picture + (region.top + y) * width, region, value[i],
                    set + starts[i] + y * region.row_bytes());
      }
    }
    return out;
  }
  int64_t highest = 0, rows = 0, pixels = 0;
  for (int64_t i = 0; i < count; ++i) {
    rows = std::max(rows, places[i].rows());
    pixels += places[i].rows() * places[i].columns();
  }
  while (pixels > kPictures * height * width && rows >= 2LL << highest) {
    ++highest;
  }
  Strips strips(picture, height, width, highest);
  for (int64_t i = 0; i < count; ++i) {
    if (value[i] > 0) {
      strips.paint(places[i], value[i]);
    }
  }
  strips.merge();
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("paint_regions(Tensor values, Tensor regions, Tensor? bits, int[] size) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("paint_regions", &paint_regions_cpu);
}

}  // namespace blockcopy
