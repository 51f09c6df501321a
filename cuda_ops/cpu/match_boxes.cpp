// blockcopy::match_boxes on CPU: the best match of each box among others of its label, searched for
// only where they can overlap.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include "blockcopy/clones.h"

namespace blockcopy {
namespace {

constexpr int64_t kLanes = 16;       // boxes that are compared at a time
constexpr int64_t kQueries = 256;    // boxes of a task
constexpr int32_t kLast = std::numeric_limits<int32_t>::max();

struct Box {
  float x1, y1, x2, y2;

  float area() const { return (x2 - x1) * (y2 - y1); }
};

// Boxes of one label that lie near each other. `order` falls with their index; a lane without a box
// has an empty one, which overlaps nothing.
struct Pack {
  float x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes];
  int32_t order[kLanes];
};

// Packs [begin, end).
struct Label {
  int64_t label, begin, end;
};

struct Index {
  std::vector<Label> labels;  // ascending
  std::vector<Pack> packs;
  std::vector<float> x1, y1, x2, y2;  // around the boxes of each pack
};

// The lower ten bits of a number, with a 0 between each two.
inline uint32_t spread(uint32_t v) {
  v = (v | (v << 8)) & 0x00FF00FFU;
  v = (v | (v << 4)) & 0x0F0F0F0FU;
  v = (v | (v << 2)) & 0x33333333U;
  return (v | (v << 1)) & 0x55555555U;
}

// Sorts boxes by label and within it along a Z-shaped curve, and cuts the labels into packs.
Index build_index(const Box* boxes, const int64_t* labels, int64_t count) {
  struct Entry {
    int64_t label;
    uint32_t place;
    int32_t box;
  };
  double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
  for (int64_t i = 0; i < count; ++i) {
    low[0] = std::min<double>(low[0], boxes[i].x1);
    low[1] = std::min<double>(low[1], boxes[i].y1);
    high[0] = std::max<double>(high[0], boxes[i].x2);
    high[1] = std::max<double>(high[1], boxes[i].y2);
  }
  const auto step = [&](int axis, float from, float to) {
    const double centre = 0.5 * from + 0.5 * to;
    return static_cast<uint32_t>(1023 * (centre - low[axis]) / (high[axis] - low[axis]));
  };
  std::vector<Entry> entries(count);
  for (int64_t i = 0; i < count; ++i) {
    const Box& box = boxes[i];
    const uint32_t place =
        spread(step(0, box.x1, box.x2)) | (spread(step(1, box.y1, box.y2)) << 1);
    entries[i] = {labels[i], place, static_cast<int32_t>(i)};
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.label, a.place, a.box) < std::tie(b.label, b.place, b.box);
  });

  Index index;
  constexpr float kHuge = std::numeric_limits<float>::max();
  int64_t lane = kLanes;
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || entries[i].label != entries[i - 1].label) {
      const auto packs = static_cast<int64_t>(index.packs.size());
      index.labels.push_back({entries[i].label, packs, packs});
      lane = kLanes;
    }
    if (lane == kLanes) {
      Pack& fresh = index.packs.emplace_back();
      std::fill_n(fresh.x1, kLanes, kHuge);
      std::fill_n(fresh.y1, kLanes, kHuge);
      std::fill_n(fresh.x2, kLanes, -kHuge);
      std::fill_n(fresh.y2, kLanes, -kHuge);
      std::fill_n(fresh.area, kLanes, 1.0F);
      index.x1.push_back(kHuge);
      index.y1.push_back(kHuge);
      index.x2.push_back(-kHuge);
      index.y2.push_back(-kHuge);
      index.labels.back().end += 1;
      lane = 0;
    }
    const Box& box = boxes[entries[i].box];
    Pack& pack = index.packs.back();
    pack.x1[lane] = box.x1;
    pack.y1[lane] = box.y1;
    pack.x2[lane] = box.x2;
    pack.y2[lane] = box.y2;
    pack.area[lane] = box.area();
    pack.order[lane] = kLast - entries[i].box;
    index.x1.back() = std::min(index.x1.back(), box.x1);
    index.y1.back() = std::min(index.y1.back(), box.y1);
    index.x2.back() = std::max(index.x2.back(), box.x2);
    index.y2.back() = std::max(index.y2.back(), box.y2);
    ++lane;
  }
  return index;
}

// nearby[p]: whether the box overlaps the bounding box of the boxes of the pack.
BLOCKCOPY_CLONES void find_near(const Index& index, const Box& box, int64_t begin, int64_t end,
                                uint8_t* nearby) {
  const float* __restrict x1 = index.x1.data();
  const float* __restrict y1 = index.y1.data();
  const float* __restrict x2 = index.x2.data();
  const float* __restrict y2 = index.y2.data();
  for (int64_t p = begin; p < end; ++p) {
    nearby[p] = (x1[p] < box.x2) & (x2[p] > box.x1) & (y1[p] < box.y2) & (y2[p] > box.y1);
  }
}

// best[i] = the larger of itself and lane i's key: the bits of the IoU, which as integers have the
// same order as the IoU, and below them the order, so that among equal ones the first box wins.
//
// `shared` is used several times, so that no compiler puts it into a fused multiply-add: the
// rounding is that of the twin.
BLOCKCOPY_CLONES void compare(const Pack& pack, const Box& box, float area, int64_t* best) {
  float overlaps[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    const float width = std::min(box.x2, pack.x2[i]) - std::max(box.x1, pack.x1[i]);
    const float height = std::min(box.y2, pack.y2[i]) - std::max(box.y1, pack.y1[i]);
    const float shared = (width > 0 ? width : 0) * (height > 0 ? height : 0);
    const float overlap = shared / (area + pack.area[i] - shared);
    overlaps[i] = shared > 0 ? overlap : 0;
  }
  int32_t bits[kLanes];
  std::memcpy(bits, overlaps, sizeof(bits));
  for (int64_t i = 0; i < kLanes; ++i) {
    const int64_t key = (static_cast<int64_t>(bits[i]) << 32) | pack.order[i];
    best[i] = std::max(best[i], key);
  }
}

void match(const Index& index, const Box* boxes, const float* areas, const int64_t* labels,
           int64_t begin, int64_t end, float* overlaps, int64_t* matches) {
  // Eight more: flags are read eight at a time.
  std::vector<uint8_t> nearby(index.packs.size() + 8);
  for (int64_t i = begin; i < end; ++i) {
    overlaps[i] = 0;
    matches[i] = -1;
    const auto known =
        std::lower_bound(index.labels.begin(), index.labels.end(), labels[i],
                         [](const Label& a, int64_t label) { return a.label < label; });
    if (known == index.labels.end() || known->label != labels[i]) {
      continue;
    }
    find_near(index, boxes[i], known->begin, known->end, nearby.data());
    int64_t best[kLanes] = {};
    for (int64_t p = known->begin; p < known->end; p += 8) {
      uint64_t any;
      std::memcpy(&any, nearby.data() + p, sizeof(any));
      const int64_t last = any == 0 ? p : std::min(p + 8, known->end);
      for (int64_t q = p; q < last; ++q) {
        if (nearby[q]) {
          compare(index.packs[q], boxes[i], areas[i], best);
        }
      }
    }
    const int64_t key = *std::max_element(best, best + kLanes);
    const auto bits = static_cast<int32_t>(key >> 32);
    if (bits > 0) {
      std::memcpy(&overlaps[i], &bits, sizeof(bits));
      matches[i] = kLast - static_cast<int32_t>(key & kLast);
    }
  }
}

const Box* box_data(const char* name, const at::Tensor& boxes, const at::Tensor& labels) {
  TORCH_CHECK(!boxes.requires_grad() || !c10::GradMode::is_enabled(),
              "blockcopy::match_boxes has no backward, but gradients are recorded and an input "
              "requires grad; call it under torch.no_grad() or torch.inference_mode(), or detach "
              "the input");
  TORCH_CHECK_TYPE(boxes.scalar_type() == at::kFloat && labels.scalar_type() == at::kLong,
                   "blockcopy::match_boxes: ", name, " have dtype ", boxes.scalar_type(),
                   " and labels ", labels.scalar_type(), ", expected torch.float32 and torch.int64");
  TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == 4 && labels.dim() == 1 &&
                        labels.size(0) == boxes.size(0),
                    "blockcopy::match_boxes: ", name, " have shape ", boxes.sizes(),
                    " and labels ", labels.sizes(), ", expected (n, 4) and (n)");
  const auto* data = reinterpret_cast<const Box*>(boxes.const_data_ptr<float>());
  for (int64_t i = 0; i < boxes.size(0); ++i) {
    const Box& box = data[i];
    TORCH_CHECK_VALUE(box.x1 < box.x2 && box.y1 < box.y2 && std::isfinite(box.area()),
                      "blockcopy::match_boxes: ", name, " ", i, " is ", box.x1, ", ", box.y1, ", ",
                      box.x2, ", ", box.y2, ", expected x1 < x2 and y1 < y2 and a finite area");
  }
  return data;
}

std::tuple<at::Tensor, at::Tensor> match_boxes_cpu(const at::Tensor& boxes,
                                                   const at::Tensor& labels,
                                                   const at::Tensor& others,
                                                   const at::Tensor& other_labels) {
  const at::Tensor kept[] = {boxes.contiguous(), labels.contiguous(), others.contiguous(),
                             other_labels.contiguous()};
  const Box* queries = box_data("boxes", kept[0], kept[1]);
  const Box* candidates = box_data("others", kept[2], kept[3]);
  const int64_t count = boxes.size(0);
  const at::Tensor overlaps = at::empty({count}, boxes.options());
  const at::Tensor matches = at::empty({count}, labels.options());
  const Index index =
      build_index(candidates, kept[3].const_data_ptr<int64_t>(), others.size(0));
  std::vector<float> areas(count);
  for (int64_t i = 0; i < count; ++i) {
    areas[i] = queries[i].area();
  }
  const auto* wanted = kept[1].const_data_ptr<int64_t>();
  auto* overlap = overlaps.mutable_data_ptr<float>();
  auto* found = matches.mutable_data_ptr<int64_t>();
  at::parallel_for(0, count, kQueries, [&](int64_t begin, int64_t end) {
    match(index, queries, areas.data(), wanted, begin, end, overlap, found);
  });
  return {overlaps, matches};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "match_boxes(Tensor boxes, Tensor labels, Tensor others, Tensor other_labels) "
      "-> (Tensor, Tensor)",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("match_boxes", &match_boxes_cpu);
}

}  // namespace blockcopy
