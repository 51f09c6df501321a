// blockcopy::predict_gain, remember_gain, pick_blocks and merge_picture on CPU: the gain policy's
// computations for each block of a frame. The grid is small, so calls cost time, not arithmetic.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "blockcopy/checked.h"
#include "blockcopy/clones.h"

namespace blockcopy {
namespace {

// The order of MAPS and FEATURES in ops/block_gain.py.
enum Map { kLogGain, kSurprise, kAge, kStale, kOutput, kOutputPeak, kMaps };
constexpr int64_t kFeatures = 12;
constexpr int64_t kHabit = 7;  // the weight of a block's own surprise
constexpr int64_t kParts = 4;  // of a block's side

using Tensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

struct Grid {
  int64_t rows, columns;

  int64_t count() const { return rows * columns; }
};

// The mean over a block and its eight neighbours, or over the neighbours alone; those outside the
// grid are replaced by the nearest inside.
void around(const float* values, const Grid& grid, bool own, float* out) {
  for (int64_t y = 0; y < grid.rows; ++y) {
    for (int64_t x = 0; x < grid.columns; ++x) {
      float nine = 0;
      for (int64_t dy = -1; dy <= 1; ++dy) {
        const float* row =
            values + std::clamp<int64_t>(y + dy, 0, grid.rows - 1) * grid.columns;
        for (int64_t dx = -1; dx <= 1; ++dx) {
          nine += row[std::clamp<int64_t>(x + dx, 0, grid.columns - 1)];
        }
      }
      nine /= 9;
      const int64_t at = y * grid.columns + x;
      out[at] = own ? nine : nine * (9.0F / 8) - values[at] * (1.0F / 8);
    }
  }
}

// sums[i] += |a[i] - b[i]|, totals[i % 16] += a[i].
BLOCKCOPY_CLONES void add_differences(float* __restrict sums, const float* __restrict a,
                                      const float* __restrict b, int64_t count,
                                      float* __restrict totals) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int64_t lane = 0; lane < 16; ++lane) {
      sums[i + lane] += std::abs(a[i + lane] - b[i + lane]);
      totals[lane] += a[i + lane];
    }
  }
  for (; i < count; ++i) {
    sums[i] += std::abs(a[i] - b[i]);
    totals[0] += a[i];
  }
}

// The standard deviation of a picture of three channels, of every fourth cell each way; no less
// than a twentieth of the mean brightness.
float deviation_of(const float* picture, int64_t height, int64_t width) {
  double variance = 0, brightness = 0;
  for (int64_t channel = 0; channel < 3; ++channel) {
    const float* plane = picture + channel * height * width;
    double sum = 0, squares = 0;
    int64_t count = 0;
    // Distances from one of its values: this avoids differences of large sums.
    const double centre = plane[width + 1];
    for (int64_t y = 1; y < height; y += 4) {
      for (int64_t x = 1; x < width; x += 4) {
        const double value = plane[y * width + x] - centre;
        sum += value;
        squares += value * value;
        ++count;
      }
    }
    const double many = static_cast<double>(count);
    variance += std::max(0.0, squares - sum * sum / many) / (many - 1);
    brightness += std::abs(centre + sum / many);
  }
  const double deviation = std::max(std::sqrt(variance / 3), 0.05 * brightness / 3);
  return static_cast<float>(std::max(deviation, 1e-6));
}

// How much the picture of each block changed: the largest mean over its sixteenths, and the mean of
// these means. Returns the mean of the picture.
double measure_change(const float* picture, const float* executed, const Grid& grid, int64_t cells,
                      float* peak, float* mean) {
  const int64_t height = grid.rows * cells, width = grid.columns * cells;
  const int64_t part = cells / kParts;
  const float deviation = deviation_of(picture, height, width);
  const float scale = 1.0F / static_cast<float>(3 * part * part) / deviation;
  std::vector<float> sums(width);
  std::fill_n(peak, grid.count(), 0.0F);
  std::fill_n(mean, grid.count(), 0.0F);
  double total = 0;
  for (int64_t row = 0; row < grid.rows * kParts; ++row) {
    std::fill(sums.begin(), sums.end(), 0.0F);
    float totals[16] = {};
    for (int64_t channel = 0; channel < 3; ++channel) {
      for (int64_t y = row * part; y < (row + 1) * part; ++y) {
        const int64_t at = (channel * height + y) * width;
        add_differences(sums.data(), picture + at, executed + at, width, totals);
      }
    }
    total += std::accumulate(totals, totals + 16, 0.0);
    const int64_t first = row / kParts * grid.columns;
    for (int64_t column = 0; column < grid.columns * kParts; ++column) {
      float change = 0;
      for (int64_t x = column * part; x < (column + 1) * part; ++x) {
        change += sums[x];
      }
      change *= scale;
      const int64_t block = first + column / kParts;
      peak[block] = std::max(peak[block], change);
      mean[block] += change / (kParts * kParts);
    }
  }
  return total / static_cast<double>(3 * height * width);
}

Tensors predict_gain_cpu(const at::Tensor& picture, const at::Tensor& executed,
                         const at::Tensor& maps, const at::Tensor& weights,
                         const std::optional<at::Tensor>& forbidden, int64_t cells,
                         double difference_floor, double gain_floor, double least_worth,
                         double waiting) {
  TORCH_CHECK_VALUE(maps.dim() == 4, "blockcopy: maps must be (N, ", int{kMaps},
                    ", GH, GW), found ", maps.sizes());
  TORCH_CHECK_VALUE(cells >= kParts && cells % kParts == 0, "blockcopy: cells is ", cells,
                    ", expected a multiple of ", kParts);
  const int64_t images = maps.size(0);
  const Grid grid = {maps.size(2), maps.size(3)};
  const int64_t height = grid.rows * cells, width = grid.columns * cells, blocks = grid.count();
  const at::Tensor kept[] = {
      checked("picture", picture, at::kFloat, {images, 3, height, width}).contiguous(),
      checked("executed", executed, at::kFloat, {images, 3, height, width}).contiguous(),
      checked("maps", maps, at::kFloat, {images, kMaps, grid.rows, grid.columns}).contiguous(),
      checked("weights", weights, at::kDouble, {kFeatures}).contiguous(),
      forbidden ? checked("forbidden", *forbidden, at::kBool, {images, grid.rows, grid.columns})
                      .contiguous()
                : at::Tensor()};
  const auto options = picture.options();
  at::Tensor features = at::empty({images, grid.rows, grid.columns, kFeatures}, options);
  std::array<at::Tensor, 4> found;  // expected, worth, scores, change
  for (at::Tensor& each : found) {
    each = at::empty({images, grid.rows, grid.columns}, options);
  }
  at::Tensor measures = at::empty({4, images}, options);
  float* const measured = measures.mutable_data_ptr<float>();
  const double* const weight = kept[3].const_data_ptr<double>();
  std::vector<float> peak(blocks), change_around(blocks), gain_around(blocks), worth_around(blocks);
  const float floor = static_cast<float>(difference_floor);
  for (int64_t image = 0; image < images; ++image) {
    const float* const own = kept[0].const_data_ptr<float>() + image * 3 * height * width;
    const float* const before = kept[1].const_data_ptr<float>() + image * 3 * height * width;
    const float* const map = kept[2].const_data_ptr<float>() + image * kMaps * blocks;
    const bool* const zone =
        forbidden ? kept[4].const_data_ptr<bool>() + image * blocks : nullptr;
    float* const expected = found[0].mutable_data_ptr<float>() + image * blocks;
    float* const worth = found[1].mutable_data_ptr<float>() + image * blocks;
    float* const score = found[2].mutable_data_ptr<float>() + image * blocks;
    float* const change = found[3].mutable_data_ptr<float>() + image * blocks;
    float* feature = features.mutable_data_ptr<float>() + image * blocks * kFeatures;

    const double mean = measure_change(own, before, grid, cells, peak.data(), change);
    around(change, grid, false, change_around.data());
    around(map + kLogGain * blocks, grid, false, gain_around.data());
    const double all = std::accumulate(change, change + blocks, 0.0);
    const float of_frame = std::log(static_cast<float>(all / static_cast<double>(blocks)) + floor);
    double sum = 0, squares = 0;
    for (int64_t block = 0; block < blocks; ++block, feature += kFeatures) {
      const float of_block[kFeatures] = {
          std::log(peak[block] + floor),
          std::log(change[block] + floor),
          std::log(change_around[block] + floor),
          of_frame,
          std::log(map[kStale * blocks + block] + floor),
          map[kLogGain * blocks + block],
          gain_around[block],
          map[kSurprise * blocks + block],
          std::log(map[kAge * blocks + block]),
          map[kOutput * blocks + block],
          map[kOutputPeak * blocks + block],
          1.0F};
      std::copy_n(of_block, kFeatures, feature);
      double predicted = 0;
      for (int64_t i = 0; i < kFeatures; ++i) {
        predicted += of_block[i] * weight[i];
      }
      expected[block] = std::clamp(static_cast<float>(predicted), -6.0F, 2.0F);
      worth[block] = std::max(std::exp(expected[block]) - static_cast<float>(gain_floor),
                              static_cast<float>(least_worth));
      if (zone != nullptr && zone[block]) {
        worth[block] = static_cast<float>(least_worth);
      }
      sum += worth[block];
      squares += static_cast<double>(worth[block]) * worth[block];
    }
    around(worth, grid, true, worth_around.data());
    for (int64_t block = 0; block < blocks; ++block) {
      score[block] = 0.5F * (worth_around[block] + worth[block]) +
                     static_cast<float>(waiting) * map[kAge * blocks + block];
    }
    const double many = static_cast<double>(blocks);
    const double spread = sum / many * (sum / many) / std::max(squares / many, 1e-20);
    measured[image] = static_cast<float>(spread);
    measured[images + image] = static_cast<float>(sum / many);
    measured[2 * images + image] = 1.0F;
    measured[3 * images + image] = static_cast<float>(mean);
  }
  return {features, found[0], found[1], found[2], found[3], measures};
}

at::Tensor remember_gain_cpu(const at::Tensor& maps, const at::Tensor& grid,
                             const at::Tensor& change, const at::Tensor& expected,
                             const at::Tensor& weights, const std::optional<at::Tensor>& gain,
                             const std::optional<at::Tensor>& output, bool everywhere,
                             double gain_floor, double step) {
  TORCH_CHECK_VALUE(maps.dim() == 3, "blockcopy: maps must be (", int{kMaps}, ", GH, GW), found ",
                    maps.sizes());
  const Grid shape = {maps.size(1), maps.size(2)};
  const at::IntArrayRef sides = maps.sizes().slice(1);
  const at::Tensor kept[] = {
      checked("maps", maps, at::kFloat, {kMaps, shape.rows, shape.columns}).contiguous(),
      checked("grid", grid, at::kBool, sides).contiguous(),
      checked("change", change, at::kFloat, sides).contiguous(),
      checked("expected", expected, at::kFloat, sides).contiguous(),
      checked("weights", weights, at::kDouble, {kFeatures}).contiguous(),
      gain ? checked("gain", *gain, at::kFloat, sides).contiguous() : at::Tensor(),
      output ? checked("output", *output, at::kFloat, {2, shape.rows, shape.columns}).contiguous()
             : at::Tensor()};
  at::Tensor out = at::empty({kMaps, shape.rows, shape.columns}, maps.options());
  const int64_t blocks = shape.count();
  const float* const before = kept[0].const_data_ptr<float>();
  const bool* const ran = kept[1].const_data_ptr<bool>();
  const float* const changed = kept[2].const_data_ptr<float>();
  const float* const predicted = kept[3].const_data_ptr<float>();
  const float habit = static_cast<float>(kept[4].const_data_ptr<double>()[kHabit]);
  float* const after = out.mutable_data_ptr<float>();
  std::copy_n(before, kMaps * blocks, after);

  std::vector<float> stale(blocks), stale_around(blocks);
  for (int64_t block = 0; block < blocks; ++block) {
    stale[block] = ran[block] ? 0.0F : changed[block];
  }
  around(stale.data(), shape, false, stale_around.data());
  const float floor = static_cast<float>(gain_floor);
  for (int64_t block = 0; block < blocks; ++block) {
    after[kAge * blocks + block] = ran[block] ? 1.0F : before[kAge * blocks + block] + 1;
    if (output && (everywhere || ran[block])) {
      const float* const shown = kept[6].const_data_ptr<float>();
      after[kOutput * blocks + block] = shown[block];
      after[kOutputPeak * blocks + block] = shown[blocks + block];
    }
    if (!ran[block]) {
      continue;
    }
    after[kStale * blocks + block] = stale_around[block];
    if (!gain) {
      continue;
    }
    const float brought = kept[5].const_data_ptr<float>()[block];
    const float seen = std::log(brought + floor);
    const float own = before[kSurprise * blocks + block];
    const float surprise = seen - predicted[block] + (habit - 1) * own;
    // That nothing came where nothing was expected says little.
    const float told = std::max(std::max(brought, std::exp(predicted[block]) - floor), 0.0F);
    const float part = static_cast<float>(step) * told / (told + floor);
    after[kLogGain * blocks + block] = seen;
    after[kSurprise * blocks + block] = std::clamp(own + part * surprise, -4.0F, 4.0F);
  }
  return out;
}

// The places of the `count` highest values; among equal ones, those that come first.
void choose(const std::vector<float>& values, int64_t count, std::vector<int64_t>& order) {
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto before = [&](int64_t a, int64_t b) {
    return values[a] > values[b] || (values[a] == values[b] && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), before);
}

at::Tensor pick_blocks_cpu(const at::Tensor& scores, const at::Tensor& ages,
                           const std::optional<at::Tensor>& forbidden,
                           const std::optional<at::Tensor>& required, at::IntArrayRef counts,
                           at::IntArrayRef oldest, double tie) {
  TORCH_CHECK_VALUE(scores.dim() == 3, "blockcopy: scores must be (N, GH, GW), found ",
                    scores.sizes());
  const int64_t images = scores.size(0), blocks = scores.size(1) * scores.size(2);
  const at::Tensor kept[] = {
      checked("scores", scores, at::kFloat, scores.sizes()).contiguous(),
      checked("ages", ages, at::kFloat, scores.sizes()).contiguous(),
      forbidden ? checked("forbidden", *forbidden, at::kBool, scores.sizes()).contiguous()
                : at::Tensor(),
      required ? checked("required", *required, at::kBool, scores.sizes()).contiguous()
               : at::Tensor()};
  TORCH_CHECK_VALUE(static_cast<int64_t>(counts.size()) == images &&
                        static_cast<int64_t>(oldest.size()) == images,
                    "blockcopy: there are ", counts.size(), " counts and ", oldest.size(),
                    " numbers of oldest blocks, expected ", images, " of each");
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  at::Tensor grid = at::zeros(scores.sizes(), scores.options().dtype(at::kBool));
  std::vector<float> score(blocks), waited(blocks);
  std::vector<int64_t> order(blocks);
  for (int64_t image = 0; image < images; ++image) {
    TORCH_CHECK_VALUE(0 <= oldest[image] && oldest[image] <= counts[image] &&
                          counts[image] <= blocks,
                      "blockcopy: of ", blocks, " blocks ", counts[image], " are to be picked and ",
                      oldest[image], " as the oldest");
    const int64_t first = image * blocks;
    const float* const value = kept[0].const_data_ptr<float>() + first;
    const float* const age = kept[1].const_data_ptr<float>() + first;
    bool* const chosen = grid.mutable_data_ptr<bool>() + first;
    const bool* const never = forbidden ? kept[2].const_data_ptr<bool>() + first : nullptr;
    const bool* const always = required ? kept[3].const_data_ptr<bool>() + first : nullptr;
    for (int64_t i = 0; i < blocks; ++i) {
      const bool out = never != nullptr && never[i];
      // NaN would have no place in the order.
      score[i] = out ? -kInfinity : std::isnan(value[i]) ? kInfinity : value[i];
      waited[i] = out ? -kInfinity : age[i] + static_cast<float>(tie) * score[i];
    }
    if (oldest[image] > 0) {
      choose(waited, oldest[image], order);
      for (int64_t i = 0; i < oldest[image]; ++i) {
        score[order[i]] = kInfinity;
      }
    }
    for (int64_t i = 0; always != nullptr && i < blocks; ++i) {
      score[i] = always[i] ? kInfinity : score[i];
    }
    choose(score, counts[image], order);
    for (int64_t i = 0; i < counts[image]; ++i) {
      chosen[order[i]] = true;
    }
  }
  return grid;
}

at::Tensor merge_picture_cpu(const at::Tensor& before, const at::Tensor& now,
                             const at::Tensor& grid, int64_t cells) {
  TORCH_CHECK_VALUE(grid.dim() == 2 && cells > 0, "blockcopy: grid must be (GH, GW) and cells above "
                    "0, found ", grid.sizes(), " and ", cells);
  TORCH_CHECK_VALUE(before.dim() == 3, "blockcopy: before must be (C, h, w), found ",
                    before.sizes());
  const Grid shape = {grid.size(0), grid.size(1)};
  const int64_t planes = before.size(0), width = shape.columns * cells;
  const int64_t sizes[] = {planes, shape.rows * cells, width};
  const at::Tensor kept[] = {checked("before", before, at::kFloat, sizes).contiguous(),
                             checked("now", now, at::kFloat, sizes).contiguous(),
                             checked("grid", grid, at::kBool, grid.sizes()).contiguous()};
  at::Tensor out = at::empty(sizes, before.options());
  const float* const sources[] = {kept[0].const_data_ptr<float>(),
                                  kept[1].const_data_ptr<float>()};
  const bool* const ran = kept[2].const_data_ptr<bool>();
  float* target = out.mutable_data_ptr<float>();
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int64_t y = 0; y < sizes[1]; ++y) {
      for (int64_t column = 0; column < shape.columns; ++column) {
        const int64_t at = (plane * sizes[1] + y) * width + column * cells;
        const bool chosen = ran[y / cells * shape.columns + column];
        std::memcpy(target + at, sources[chosen] + at, cells * sizeof(float));
      }
    }
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "predict_gain(Tensor picture, Tensor executed, Tensor maps, Tensor weights, "
      "Tensor? forbidden, int cells, float difference_floor, float gain_floor, "
      "float least_worth, float waiting) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      tags);
  m.def(
      "remember_gain(Tensor maps, Tensor grid, Tensor change, Tensor expected, Tensor weights, "
      "Tensor? gain, Tensor? output, bool everywhere, float gain_floor, float step) -> Tensor",
      tags);
  m.def(
      "pick_blocks(Tensor scores, Tensor ages, Tensor? forbidden, Tensor? required, int[] counts, "
      "int[] oldest, float tie) -> Tensor",
      tags);
  m.def("merge_picture(Tensor before, Tensor now, Tensor grid, int cells) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("predict_gain", &predict_gain_cpu);
  m.impl("remember_gain", &remember_gain_cpu);
  m.impl("pick_blocks", &pick_blocks_cpu);
  m.impl("merge_picture", &merge_picture_cpu);
}

}  // namespace blockcopy
