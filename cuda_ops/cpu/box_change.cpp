// blockcopy::box_change on CPU: what a detector's boxes show in each block, and how much that
// differs from before.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "blockcopy/checked.h"
#include "blockcopy/clones.h"

namespace blockcopy {
namespace {

struct Box {
  float x1, y1, x2, y2;

  bool has_area() const { return x1 < x2 && y1 < y2; }
};

// Detections that have an area, and their places among all.
struct Present {
  at::Tensor boxes, labels;
  std::vector<float> scores;
};

Present present_of(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels) {
  const auto* const box = reinterpret_cast<const Box*>(boxes.const_data_ptr<float>());
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < boxes.size(0); ++i) {
    if (box[i].has_area()) {
      kept.push_back(i);
    }
  }
  const auto count = static_cast<int64_t>(kept.size());
  Present present = {at::empty({count, 4}, boxes.options()), at::empty({count}, labels.options()),
                     std::vector<float>(count)};
  auto* const target = reinterpret_cast<Box*>(present.boxes.mutable_data_ptr<float>());
  for (int64_t i = 0; i < count; ++i) {
    target[i] = box[kept[i]];
    present.labels.mutable_data_ptr<int64_t>()[i] = labels.const_data_ptr<int64_t>()[kept[i]];
    present.scores[i] = scores.const_data_ptr<float>()[kept[i]];
  }
  return present;
}

const Box* boxes_of(const Present& present) {
  return reinterpret_cast<const Box*>(present.boxes.const_data_ptr<float>());
}

struct Grid {
  int64_t rows, columns;
};

// Half-open ranges of the squares of a given side that a box touches; if the side is a quotient of
// small integers, no quotient is rounded over a border.
struct Squares {
  int64_t top, bottom, left, right;
};

Squares touched(const Box& box, double side, const Grid& grid) {
  const auto first = [&](float low) { return static_cast<int64_t>(std::floor(low / side)); };
  const auto stop = [&](float high, int64_t limit) {
    return std::min(static_cast<int64_t>(std::ceil(high / side)), limit);
  };
  return {first(box.y1), stop(box.y2, grid.rows), first(box.x1), stop(box.x2, grid.columns)};
}

BLOCKCOPY_CLONES void raise_row(float* row, float value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    row[i] = row[i] > value ? row[i] : value;
  }
}

// Each box raises the squares that it touches to its value.
void paint(const Box* boxes, const float* values, int64_t count, double side, const Grid& grid,
           float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const Squares squares = touched(boxes[i], side, grid);
    for (int64_t y = squares.top; y < squares.bottom; ++y) {
      raise_row(out + y * grid.columns + squares.left, values[i], squares.right - squares.left);
    }
  }
}

void paint_change(const Present& now, const Present& before, double side, const Grid& grid,
                  float* out) {
  static const auto match =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("blockcopy::match_boxes", "")
          .typed<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&,
                                                    const at::Tensor&, const at::Tensor&)>();
  const auto [overlaps, matches] = match.call(now.boxes, now.labels, before.boxes, before.labels);
  const float* const overlap = overlaps.const_data_ptr<float>();
  const int64_t* const matched = matches.const_data_ptr<int64_t>();
  std::vector<float> values(now.scores.size());
  // For a previous box: the largest move of any box whose match it is, 1 if it has gone.
  std::vector<double> left(before.scores.size(), -1.0);
  for (size_t i = 0; i < values.size(); ++i) {
    const double moved = 1 - static_cast<double>(overlap[i]);
    values[i] = static_cast<float>(moved * now.scores[i]);
    if (matched[i] >= 0) {
      left[matched[i]] = std::max(left[matched[i]], moved);
    }
  }
  paint(boxes_of(now), values.data(), static_cast<int64_t>(values.size()), side, grid, out);
  values.resize(left.size());
  for (size_t i = 0; i < left.size(); ++i) {
    values[i] = static_cast<float>((left[i] < 0 ? 1.0 : left[i]) * before.scores[i]);
  }
  paint(boxes_of(before), values.data(), static_cast<int64_t>(values.size()), side, grid, out);
}

std::tuple<at::Tensor, at::Tensor> box_change_cpu(
    const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& old_boxes, const std::optional<at::Tensor>& old_scores,
    const std::optional<at::Tensor>& old_labels, at::IntArrayRef size, int64_t block_size,
    int64_t cells) {
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] > 0 && size[1] > 0 && block_size > 0 && cells > 0,
                    "blockcopy::box_change: size is ", size, ", block_size ", block_size,
                    " and cells ", cells, ", expected (H, W) and numbers above 0");
  const auto all = [](const at::Tensor& its_boxes, const at::Tensor& its_scores,
                      const at::Tensor& its_labels) {
    const int64_t count = its_scores.numel();
    return std::array<at::Tensor, 3>{
        checked("boxes", its_boxes, at::kFloat, {count, 4}).contiguous(),
        checked("scores", its_scores, at::kFloat, {count}).contiguous(),
        checked("labels", its_labels, at::kLong, {count}).contiguous()};
  };
  const auto given = all(boxes, scores, labels);
  const bool compared = old_boxes && old_scores && old_labels;
  TORCH_CHECK_VALUE(compared || !(old_boxes || old_scores || old_labels),
                    "blockcopy::box_change: of old_boxes, old_scores and old_labels some are None");
  const int64_t count = given[1].numel();
  at::Tensor clipped = at::empty({count, 4}, given[0].options());
  const auto* const source = reinterpret_cast<const Box*>(given[0].const_data_ptr<float>());
  auto* const target = reinterpret_cast<Box*>(clipped.mutable_data_ptr<float>());
  const auto inside = [](float value, int64_t limit) {
    return std::min(std::max(value, 0.0F), static_cast<float>(limit));
  };
  for (int64_t i = 0; i < count; ++i) {
    target[i] = {inside(source[i].x1, size[1]), inside(source[i].y1, size[0]),
                 inside(source[i].x2, size[1]), inside(source[i].y2, size[0])};
  }

  const Grid grid = {(size[0] + block_size - 1) / block_size,
                     (size[1] + block_size - 1) / block_size};
  const int64_t blocks = grid.rows * grid.columns;
  at::Tensor values = at::zeros({3, grid.rows, grid.columns}, given[0].options());
  float* const out = values.mutable_data_ptr<float>();
  const Present now = present_of(clipped, given[1], given[2]);
  const auto side = static_cast<double>(block_size);
  if (compared) {
    const auto old = all(*old_boxes, *old_scores, *old_labels);
    paint_change(now, present_of(old[0], old[1], old[2]), side, grid, out);
  }
  const auto present = static_cast<int64_t>(now.scores.size());
  paint(boxes_of(now), now.scores.data(), present, side, grid, out + 2 * blocks);
  const Grid fine = {grid.rows * cells, grid.columns * cells};
  std::vector<float> painted(fine.rows * fine.columns, 0.0F);
  paint(boxes_of(now), now.scores.data(), present, side / static_cast<double>(cells), fine,
        painted.data());
  for (int64_t y = 0; y < fine.rows; ++y) {
    float* const row = out + blocks + y / cells * grid.columns;
    for (int64_t x = 0; x < grid.columns; ++x) {
      float sum = 0;
      for (int64_t i = 0; i < cells; ++i) {
        sum += painted[y * fine.columns + x * cells + i];
      }
      row[x] += sum / static_cast<float>(cells * cells);
    }
  }
  return {clipped, values};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "box_change(Tensor boxes, Tensor scores, Tensor labels, Tensor? old_boxes, "
      "Tensor? old_scores, Tensor? old_labels, int[] size, int block_size, int cells) "
      "-> (Tensor, Tensor)",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("box_change", &box_change_cpu);
}

}  // namespace blockcopy
