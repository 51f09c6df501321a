// blockcopy::paste_masks on CPU: the masks of boxes as masks of the image.
//
// The picture of an image with a hundred masks is hundreds of megabytes of zeros, of which a few are
// written. So memory is taken that the system gives as zeros and fills in when it is first read.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"

namespace blockcopy {
namespace {

constexpr int64_t kBorder = 2;              // zeros around a mask
constexpr int64_t kOwnPages = 1 << 20;      // bytes from which memory is the system's

at::Tensor zero_masks(int64_t count, int64_t height, int64_t width, at::TensorOptions options) {
#if defined(__linux__)
  const size_t bytes = static_cast<size_t>(count) * height * width;
  if (bytes >= kOwnPages) {
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages != MAP_FAILED) {
      return at::from_blob(
          pages, {count, height, width}, [bytes](void* start) { munmap(start, bytes); }, options);
    }
  }
#endif
  return at::zeros({count, height, width}, options);
}

// Where the pixels of one axis of the image lie in a mask: the lower of two pixels and the weight
// of the higher one.
struct Axis {
  void look(float from, float to, int64_t size, int64_t pixels) {
    low.clear();
    beyond.clear();
    first = last = 0;
    if (!std::isfinite(from) || !std::isfinite(to)) {
      return;
    }
    const float all = static_cast<float>(size);
    first = static_cast<int64_t>(std::clamp(std::floor(from) - 1.0f, 0.0f, all));
    last = static_cast<int64_t>(std::clamp(std::ceil(to) + 1.0f, 0.0f, all));
    const float half = static_cast<float>(pixels) / 2.0f, end = static_cast<float>(pixels);
    for (int64_t i = first; i < last; ++i) {
      float at = (static_cast<float>(i) + 0.5f - from) / (to - from) * 2.0f - 1.0f;
      if (std::isinf(at)) {
        at = 0.0f;
      }
      const float place = (at + 1.0f) * half - 0.5f, below = std::floor(place);
      // Far outside, and of no number, both pixels are zeros of the border.
      const bool is_near = below >= -2.0f && below <= end;
      low.push_back(is_near ? static_cast<int32_t>(below) : static_cast<int32_t>(pixels));
      beyond.push_back(place - below);
    }
  }

  int64_t first = 0, last = 0;
  std::vector<int32_t> low;
  std::vector<float> beyond;
};

// One row of the image: the sums in the order of torch's grid_sample.
BLOCKCOPY_CLONES void paste_row(const float* up_left, const float* up_right, const float* low_left,
                                const float* low_right, const float* beyond, float down,
                                float threshold, int64_t count, bool* out) {
  const float up = 1.0f - down;
  for (int64_t i = 0; i < count; ++i) {
    const float right = beyond[i], left = 1.0f - right;
    const float value = up_left[i] * (left * up) + up_right[i] * (right * up) +
                        low_left[i] * (left * down) + low_right[i] * (right * down);
    out[i] = value >= threshold;
  }
}

class Paster {
 public:
  Paster(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {
    width_ = columns + 2 * kBorder;
    padded_.resize((rows + 2 * kBorder) * width_);
  }

  void paste(const float* mask, const float* box, float threshold, int64_t height, int64_t width,
             bool* out) {
    across_.look(box[0], box[2], width, columns_);
    down_.look(box[1], box[3], height, rows_);
    const int64_t count = across_.last - across_.first;
    if (count <= 0 || down_.last <= down_.first) {
      return;
    }
    for (int64_t r = 0; r < rows_; ++r) {
      std::copy(mask + r * columns_, mask + (r + 1) * columns_,
                padded_.begin() + (r + kBorder) * width_ + kBorder);
    }
    // The two rows of the mask that lie around a row of the image, stretched to its columns.
    wide_.resize(4 * count);
    float* rows[2] = {wide_.data(), wide_.data() + 2 * count};
    int32_t held[2] = {-kNone, -kNone};
    for (int64_t y = down_.first; y < down_.last; ++y) {
      const int32_t low = down_.low[y - down_.first];
      if (held[1] == low) {
        std::swap(rows[0], rows[1]);
        std::swap(held[0], held[1]);
      }
      for (int side = 0; side < 2; ++side) {
        if (held[side] != low + side) {
          stretch(low + side, count, rows[side]);
          held[side] = low + side;
        }
      }
      paste_row(rows[0], rows[0] + count, rows[1], rows[1] + count, across_.beyond.data(),
                down_.beyond[y - down_.first], threshold, count,
                out + y * width + across_.first);
    }
  }

 private:
  static constexpr int32_t kNone = 1 << 30;

  void stretch(int32_t row, int64_t count, float* out) const {
    // One beyond the border is also zero.
    const int64_t r = std::min<int64_t>(row, rows_ + 1) + kBorder;
    const float* line = padded_.data() + r * width_ + kBorder;
    for (int64_t i = 0; i < count; ++i) {
      out[i] = line[across_.low[i]];
      out[count + i] = line[across_.low[i] + 1];
    }
  }

  int64_t rows_, columns_, width_;
  std::vector<float> padded_, wide_;
  Axis across_, down_;
};

at::Tensor paste_masks_cpu(const at::Tensor& masks_, const at::Tensor& boxes_, int64_t height,
                           int64_t width, double threshold) {
  check_no_grad("paste_masks", masks_.requires_grad() || boxes_.requires_grad());
  TORCH_CHECK_VALUE(masks_.dim() == 3 && masks_.size(1) > 0 && masks_.size(2) > 0 &&
                        boxes_.dim() == 2 && boxes_.size(1) == 4 &&
                        boxes_.size(0) == masks_.size(0),
                    "blockcopy::paste_masks: masks have shape ", masks_.sizes(), " and boxes ",
                    boxes_.sizes(), ", expected (n, h, w) with pixels and (n, 4)");
  TORCH_CHECK_VALUE(height >= 0 && width >= 0, "blockcopy::paste_masks: the image has ", height,
                    " rows and ", width, " columns, expected 0 or more");
  TORCH_CHECK_TYPE(masks_.scalar_type() == at::kFloat && boxes_.scalar_type() == at::kFloat,
                   "blockcopy::paste_masks: masks have dtype ", masks_.scalar_type(),
                   " and boxes ", boxes_.scalar_type(), ", expected torch.float32");
  const at::Tensor masks = masks_.contiguous(), boxes = boxes_.contiguous();
  const int64_t count = masks.size(0), rows = masks.size(1), columns = masks.size(2);
  const at::Tensor out = zero_masks(count, height, width, masks.options().dtype(at::kBool));
  const float* mask = masks.const_data_ptr<float>();
  const float* box = boxes.const_data_ptr<float>();
  bool* image = out.mutable_data_ptr<bool>();
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Paster paster(rows, columns);
    for (int64_t k = begin; k < end; ++k) {
      paster.paste(mask + k * rows * columns, box + 4 * k, static_cast<float>(threshold), height,
                   width, image + k * height * width);
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "paste_masks(Tensor masks, Tensor boxes, int height, int width, float threshold) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("paste_masks", &paste_masks_cpu); }

}  // namespace blockcopy
