// blockcopy::suppress_boxes on CPU: greedy non-maximum suppression, many boxes at a time.
//
// Which boxes are kept hangs on comparisons of rounded overlaps, so these are rounded as in the ops
// of mmcv and torchvision: no product is joined with a sum.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"

namespace blockcopy {
namespace {

constexpr int64_t kPack = 64;  // boxes that are compared at a time

// Boxes in their order, each side by itself. What is behind the last has no overlap with any.
struct Boxes {
  explicit Boxes(int64_t count) {
    for (auto* side : {&x1, &y1, &x2, &y2, &area}) {
      side->resize(count + kPack);
    }
  }

  std::vector<float> x1, y1, x2, y2, area;
};

// Marks what overlaps with box `i` by more than the threshold, of kPack boxes from `from` on.
BLOCKCOPY_CLONES void suppress(const Boxes& boxes, int64_t i, int64_t from, double threshold,
                               float offset, uint8_t* is_out) {
  const float left = boxes.x1[i], top = boxes.y1[i], right = boxes.x2[i], bottom = boxes.y2[i];
  const float own = boxes.area[i];
  const float* x1 = boxes.x1.data() + from;
  const float* y1 = boxes.y1.data() + from;
  const float* x2 = boxes.x2.data() + from;
  const float* y2 = boxes.y2.data() + from;
  const float* area = boxes.area.data() + from;
  float shared[kPack];
  int any = 0;
  for (int64_t j = 0; j < kPack; ++j) {
    // As std::max(a, b) of the others: where b is NaN it is a.
    const float from_x = left < x1[j] ? x1[j] : left, from_y = top < y1[j] ? y1[j] : top;
    const float to_x = x2[j] < right ? x2[j] : right, to_y = y2[j] < bottom ? y2[j] : bottom;
    const float across = to_x - from_x + offset, down = to_y - from_y + offset;
    shared[j] = (0.0f < across ? across : 0.0f) * (0.0f < down ? down : 0.0f);
    any |= !(shared[j] == 0.0f);
  }
  // Of no overlap the share is 0 or NaN.
  if (any == 0 && threshold >= 0) {
    return;
  }
  for (int64_t j = 0; j < kPack; ++j) {
    const float share = shared[j] / (own + area[j] - shared[j]);
    is_out[from + j] |= static_cast<double>(share) > threshold;
  }
}

at::Tensor suppress_boxes_cpu(const at::Tensor& boxes_, const at::Tensor& order_,
                              double threshold, double offset_) {
  check_no_grad("suppress_boxes", boxes_.requires_grad());
  TORCH_CHECK_VALUE(boxes_.dim() == 2 && boxes_.size(1) == 4 && order_.dim() == 1 &&
                        order_.size(0) == boxes_.size(0),
                    "blockcopy::suppress_boxes: boxes have shape ", boxes_.sizes(), " and order ",
                    order_.sizes(), ", expected (n, 4) and (n)");
  TORCH_CHECK_TYPE(boxes_.scalar_type() == at::kFloat && order_.scalar_type() == at::kLong,
                   "blockcopy::suppress_boxes: boxes have dtype ", boxes_.scalar_type(),
                   " and order ", order_.scalar_type(),
                   ", expected torch.float32 and torch.int64");
  const at::Tensor boxes = boxes_.contiguous(), order = order_.contiguous();
  const int64_t count = boxes.size(0);
  const float* data = boxes.const_data_ptr<float>();
  const int64_t* places = order.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    TORCH_CHECK_INDEX(places[i] >= 0 && places[i] < count, "blockcopy::suppress_boxes: order[", i,
                      "] is ", places[i], ", expected 0 to ", count - 1);
  }
  const float offset = static_cast<float>(offset_);
  Boxes sorted(count);
  for (int64_t i = 0; i < count; ++i) {
    const float* box = data + 4 * places[i];
    sorted.x1[i] = box[0];
    sorted.y1[i] = box[1];
    sorted.x2[i] = box[2];
    sorted.y2[i] = box[3];
    sorted.area[i] = (box[2] - box[0] + offset) * (box[3] - box[1] + offset);
  }
  std::vector<uint8_t> is_out(count + kPack);
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < count; ++i) {
    if (is_out[i]) {
      continue;
    }
    kept.push_back(places[i]);
    for (int64_t from = i + 1; from < count; from += kPack) {
      suppress(sorted, i, from, threshold, offset, is_out.data());
    }
  }
  at::Tensor out = at::empty({static_cast<int64_t>(kept.size())}, order.options());
  std::copy(kept.begin(), kept.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("suppress_boxes(Tensor boxes, Tensor order, float threshold, float offset) -> Tensor",
        tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("suppress_boxes", &suppress_boxes_cpu); }

}  // namespace blockcopy
