// blockcopy::move_map on CPU: each pixel of a map from where its content was, row by row.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"
#include "blockcopy/elements.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace blockcopy {
namespace {

// Rows that are moved one after the other, channel by channel: neighbours in memory, which the
// processor reads ahead.
constexpr int64_t kTogether = 8;
constexpr float kSteps = 32.0f;
constexpr float kSure = 0.5f;
// A number added to it is rounded to a whole number, half-way to the even one.
constexpr float kRound = 12582912.0f;

// Pixels of a row whose sources also lie side by side, or that are not used. Motion changes slowly
// from pixel to pixel, so there are few such segments, and reading them takes a fraction of the
// time of looking up each pixel.
struct Segment {
  int32_t begin, end;
  int32_t source;  // of its first pixel, -1: not used
  int32_t beside;
  int32_t below;
};

// Where the pixels of one row come from.
struct Row {
  explicit Row(int64_t width)
      : source(width), beside(width), below(width), right(width), down(width), use(width),
        starts(width) {}

  std::vector<int32_t> source;  // the pixel to the upper left, or the nearest
  std::vector<int32_t> beside;  // steps to its neighbours; 0 at the edges
  std::vector<int32_t> below;
  std::vector<float> right;  // weights of these
  std::vector<float> down;
  std::vector<int32_t> use;  // 0 or 1
  std::vector<uint8_t> starts;  // whether a segment begins here
  std::vector<Segment> segments;
  bool any = false;
  bool whole = true;  // no weights
};

// Pixels of a row side by side that lie between the same two columns of cells.
struct Run {
  int32_t begin, end;
  int32_t cell;
};

// Values that are the same for all rows.
struct Place {
  int32_t height, width;
  int32_t everywhere;
  int32_t nearest;
};

// The source of each pixel of a row. `right`, `down` and `sure` are those of the cells at the row's
// height. Returns how many pixels are used, and in `fractions` whether weights are needed.
//
// Within a run the cells' values are constants, so that the loop needs no look-ups.
BLOCKCOPY_CLONES int64_t look_row(const float* __restrict right, const float* __restrict down,
                                  const float* __restrict sure, const Run* __restrict runs,
                                  int64_t count, const float* __restrict weights, int32_t last,
                                  int32_t y, const Place& place, int32_t* __restrict source,
                                  int32_t* __restrict beside, int32_t* __restrict below,
                                  float* __restrict to_right, float* __restrict to_down,
                                  int32_t* __restrict use, int32_t* __restrict fractions) {
  const float height = static_cast<float>(place.height), width = static_cast<float>(place.width);
  const int32_t rows = place.height, row_length = place.width, everywhere = place.everywhere;
  const float shift = place.nearest ? 0.5f : 0.0f, keep = place.nearest ? 0.0f : 1.0f;
  const float row = static_cast<float>(y);
  int32_t used = 0, broken = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t one = runs[i].cell, other = one < last ? one + 1 : one;
    const float right_one = right[one], right_step = right[other] - right_one;
    const float down_one = down[one], down_step = down[other] - down_one;
    const float sure_one = sure[one], sure_step = sure[other] - sure_one;
    const int32_t begin = runs[i].begin, end = runs[i].end;
    for (int32_t x = begin; x < end; ++x) {
      const float weight = weights[x];
      const float moved_x = right_one + weight * right_step;
      const float moved_y = down_one + weight * down_step;
      const float confidence = sure_one + weight * sure_step;
      const float step_x = ((moved_x * kSteps + kRound) - kRound) / kSteps;
      const float step_y = ((moved_y * kSteps + kRound) - kRound) / kSteps;
      float from_x = static_cast<float>(x) - step_x, from_y = row - step_y;
      // Comparisons with NaN are false, so values that are not finite are not used.
      const int32_t is_used = (confidence >= kSure) & (from_x >= -0.5f) & (from_x <= width - 0.5f) &
                              (from_y >= -0.5f) & (from_y <= height - 0.5f) &
                              ((everywhere != 0) | (step_x != 0) | (step_y != 0));
      from_x = is_used ? from_x : 0.0f;
      from_y = is_used ? from_y : 0.0f;
      from_x = from_x < 0 ? 0.0f : from_x > width - 1 ? width - 1 : from_x;
      from_y = from_y < 0 ? 0.0f : from_y > height - 1 ? height - 1 : from_y;
      int32_t at_x = static_cast<int32_t>(from_x + shift);
      int32_t at_y = static_cast<int32_t>(from_y + shift);
      at_x = at_x < row_length ? at_x : row_length - 1;
      at_y = at_y < rows ? at_y : rows - 1;
      source[x] = at_y * row_length + at_x;
      beside[x] = at_x + 1 < row_length ? 1 : 0;
      below[x] = at_y + 1 < rows ? row_length : 0;
      to_right[x] = keep * (from_x - static_cast<float>(at_x));
      to_down[x] = keep * (from_y - static_cast<float>(at_y));
      use[x] = is_used;
      used += is_used;
      broken |= (to_right[x] != 0) | (to_down[x] != 0);
    }
  }
  *fractions = broken;
  return used;
}

BLOCKCOPY_CLONES void find_starts(const int32_t* __restrict source,
                                  const int32_t* __restrict beside,
                                  const int32_t* __restrict below, const int32_t* __restrict use,
                                  int64_t width, uint8_t* __restrict starts) {
  starts[0] = 1;
  for (int64_t x = 1; x < width; ++x) {
    const int32_t apart = (source[x] - source[x - 1] - 1) | (beside[x] - beside[x - 1]) |
                          (below[x] - below[x - 1]);
    starts[x] = (use[x] != use[x - 1]) | ((use[x] != 0) & (apart != 0));
  }
}

void find_segments(Row& row) {
  const int32_t width = static_cast<int32_t>(row.starts.size());
  find_starts(row.source.data(), row.beside.data(), row.below.data(), row.use.data(), width,
              row.starts.data());
  row.segments.clear();
  for (int32_t begin = 0; begin < width;) {
    const auto next = std::find(row.starts.begin() + begin + 1, row.starts.end(), uint8_t{1});
    const int32_t end = static_cast<int32_t>(next - row.starts.begin());
    row.segments.push_back({begin, end, row.use[begin] ? row.source[begin] : -1,
                            row.beside[begin], row.below[begin]});
    begin = end;
  }
}

std::vector<Run> runs_of(const int32_t* columns, int64_t width) {
  std::vector<Run> runs;
  for (int32_t x = 0; x < width; ++x) {
    if (x == 0 || columns[x] != columns[x - 1]) {
      runs.push_back({x, x, columns[x]});
    }
    runs.back().end = x + 1;
  }
  return runs;
}

struct Field {
  const float* cells;
  const int32_t* rows;
  std::vector<Run> runs;
  const float* row_weights;
  const float* column_weights;
  int64_t cell_rows, cell_columns, height, width;
  bool nearest, everywhere;

  // `tall` has room for three rows of cells.
  void look(int64_t y, std::vector<float>& tall, Row& row) const {
    const int64_t first = rows[y], second = std::min(first + 1, cell_rows - 1);
    const float weight = row_weights[y];
    for (int64_t part = 0; part < 3; ++part) {
      for (int64_t cell = 0; cell < cell_columns; ++cell) {
        const float one = cells[(first * cell_columns + cell) * 3 + part];
        const float other = cells[(second * cell_columns + cell) * 3 + part];
        tall[part * cell_columns + cell] = one + weight * (other - one);
      }
    }
    const Place place{static_cast<int32_t>(height), static_cast<int32_t>(width), everywhere,
                      nearest};
    int32_t fractions = 0;
    row.any = look_row(tall.data(), tall.data() + cell_columns, tall.data() + 2 * cell_columns,
                       runs.data(), static_cast<int64_t>(runs.size()), column_weights,
                       static_cast<int32_t>(cell_columns - 1), static_cast<int32_t>(y), place, row.source.data(), row.beside.data(),
                       row.below.data(), row.right.data(), row.down.data(), row.use.data(),
                       &fractions) > 0;
    row.whole = fractions == 0;
    find_segments(row);
  }
};

template <typename T>
void take(const T* value, const T* copied, T* out, const Row& row) {
  for (const Segment& part : row.segments) {
    const T* from = part.source < 0 ? copied + part.begin : value + part.source;
    std::copy(from, from + (part.end - part.begin), out + part.begin);
  }
}

// Where a weight is 0, the result is exactly the first value, whatever the other is.
BLOCKCOPY_CLONES void mix_row(const float* value, const float* copied, float* __restrict out,
                              const float* __restrict to_right, const float* __restrict to_down,
                              const Segment* segments, int64_t count) {
  for (int64_t part = 0; part < count; ++part) {
    const Segment& segment = segments[part];
    const int64_t begin = segment.begin, length = segment.end - begin;
    float* __restrict to = out + begin;
    if (segment.source < 0) {
      std::memcpy(to, copied + begin, length * sizeof(float));
      continue;
    }
    const float* __restrict a = value + segment.source;
    const float* __restrict b = a + segment.beside;
    const float* __restrict c = a + segment.below;
    const float* __restrict d = c + segment.beside;
    for (int64_t x = 0; x < length; ++x) {
      const float right = to_right[begin + x], down = to_down[begin + x];
      // All four are read first: a read that depends on a weight would be one for each pixel.
      const float one = a[x], two = b[x], three = c[x], four = d[x];
      const float mixed_upper = one + right * (two - one), mixed_lower = three + right * (four - three);
      const float upper = right == 0 ? one : mixed_upper;
      const float lower = right == 0 ? three : mixed_lower;
      const float mixed = upper + down * (lower - upper);
      to[x] = down == 0 ? upper : mixed;
    }
  }
}

template <typename T>
void interpolate(const T* value, const T* copied, T* out, const Row& row) {
  if constexpr (std::is_same_v<T, float>) {
    mix_row(value, copied, out, row.right.data(), row.down.data(), row.segments.data(),
            row.segments.size());
    return;
  }
  using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
  for (size_t x = 0; x < row.use.size(); ++x) {
    const T* from = value + row.source[x];
    const T first = from[0];
    const A a = first, b = from[row.beside[x]], c = from[row.below[x]],
            d = from[row.below[x] + row.beside[x]];
    const A right = row.right[x], down = row.down[x];
    const A upper = right == 0 ? a : static_cast<A>(static_cast<T>(a + right * (b - a)));
    const A lower = right == 0 ? c : static_cast<A>(static_cast<T>(c + right * (d - c)));
    const T mixed =
        down == 0 ? static_cast<T>(upper) : static_cast<T>(upper + down * (lower - upper));
    out[x] = row.use[x] ? (right == 0 && down == 0 ? first : mixed) : copied[x];
  }
}

template <typename T, typename Function>
void for_rows(const Field& field, const at::Tensor& value, const at::Tensor& copied,
              at::Tensor& out, const Function& function) {
  const T* from = static_cast<const T*>(value.const_data_ptr());
  const T* kept = static_cast<const T*>(copied.const_data_ptr());
  T* to = static_cast<T*>(out.mutable_data_ptr());
  const int64_t channels = value.size(0), width = field.width, area = field.height * width;
  at::parallel_for(0, field.height, kTogether, [&](int64_t begin, int64_t end) {
    std::vector<Row> found(kTogether, Row(width));
    std::vector<float> tall(3 * field.cell_columns);
    for (int64_t first = begin; first < end; first += kTogether) {
      const int64_t count = std::min(kTogether, end - first);
      for (int64_t i = 0; i < count; ++i) {
        field.look(first + i, tall, found[i]);
      }
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < count; ++i) {
          const int64_t line = c * area + (first + i) * width;
          if (found[i].any) {
            function(from + c * area, kept + line, to + line, found[i]);
          } else {
            std::copy(kept + line, kept + line + width, to + line);
          }
        }
      }
    }
  });
}

at::Tensor move_map_cpu(const at::Tensor& value_, const at::Tensor& copied_,
                        const at::Tensor& cells_, const at::Tensor& rows_,
                        const at::Tensor& columns_, const at::Tensor& row_weights_,
                        const at::Tensor& column_weights_, bool nearest, bool everywhere) {
  check_no_grad("move_map", value_.requires_grad() || copied_.requires_grad());
  TORCH_CHECK_VALUE(value_.dim() == 3 && value_.sizes() == copied_.sizes(),
                    "blockcopy::move_map: value has shape ", value_.sizes(), " and copied ",
                    copied_.sizes(), ", expected (C, h, w) of both");
  TORCH_CHECK_TYPE(value_.scalar_type() == copied_.scalar_type() && !value_.is_complex(),
                   "blockcopy::move_map: value has dtype ", value_.scalar_type(), " and copied ",
                   copied_.scalar_type(), ", expected the same, which is not complex");
  TORCH_CHECK_VALUE(cells_.dim() == 3 && cells_.size(2) == 3 && cells_.numel() > 0,
                    "blockcopy::move_map: cells has shape ", cells_.sizes(),
                    ", expected (R, Q, 3): to the right, down, confidence");
  const int64_t height = value_.size(1), width = value_.size(2);
  TORCH_CHECK_VALUE(rows_.sizes() == at::IntArrayRef({height}) &&
                        columns_.sizes() == at::IntArrayRef({width}) &&
                        row_weights_.sizes() == rows_.sizes() &&
                        column_weights_.sizes() == columns_.sizes(),
                    "blockcopy::move_map: rows, columns and their weights have shapes ",
                    rows_.sizes(), ", ", columns_.sizes(), ", ", row_weights_.sizes(), " and ",
                    column_weights_.sizes(), ", expected [", height, "] and [", width, "] twice");
  TORCH_CHECK_TYPE(cells_.scalar_type() == at::kFloat && row_weights_.scalar_type() == at::kFloat &&
                       column_weights_.scalar_type() == at::kFloat &&
                       rows_.scalar_type() == at::kInt && columns_.scalar_type() == at::kInt,
                   "blockcopy::move_map: cells and weights have dtypes ", cells_.scalar_type(),
                   ", ", row_weights_.scalar_type(), ", ", column_weights_.scalar_type(),
                   " and rows and columns ", rows_.scalar_type(), ", ", columns_.scalar_type(),
                   ", expected torch.float32 and torch.int32");
  TORCH_CHECK_VALUE(height * width < (int64_t{1} << 31), "blockcopy::move_map: a map of ", height,
                    " x ", width, " pixels is too large; move a smaller one");
  const at::Tensor value = value_.contiguous(), copied = copied_.contiguous(),
                   cells = cells_.contiguous(), rows = rows_.contiguous(),
                   columns = columns_.contiguous(), row_weights = row_weights_.contiguous(),
                   column_weights = column_weights_.contiguous();
  at::Tensor out = at::empty(value.sizes(), value.options());
  if (out.numel() == 0) {
    return out;
  }
  const auto check = [](const at::Tensor& table, int64_t count, const char* name) {
    const int32_t* begin = table.const_data_ptr<int32_t>();
    const auto [low, high] = std::minmax_element(begin, begin + table.numel());
    TORCH_CHECK_INDEX(*low >= 0 && *high < count, "blockcopy::move_map: ", name, " are from ",
                      *low, " to ", *high, ", expected 0 to ", count - 1);
  };
  check(rows, cells.size(0), "rows");
  check(columns, cells.size(1), "columns");
  const bool between = !nearest && value.is_floating_point();
  const Field field{cells.const_data_ptr<float>(),
                    rows.const_data_ptr<int32_t>(),
                    runs_of(columns.const_data_ptr<int32_t>(), width),
                    row_weights.const_data_ptr<float>(),
                    column_weights.const_data_ptr<float>(),
                    cells.size(0),
                    cells.size(1),
                    height,
                    width,
                    !between,
                    everywhere};
  if (between) {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, value.scalar_type(), "move_map", [&] {
          for_rows<scalar_t>(field, value, copied, out,
                             [](const scalar_t* from, const scalar_t* kept, scalar_t* to,
                                const Row& row) {
                               if (row.whole) {
                                 take(from, kept, to, row);
                               } else {
                                 interpolate(from, kept, to, row);
                               }
                             });
        });
    return out;
  }
  with_element("move_map", value, [&](auto zero) {
    for_rows<decltype(zero)>(field, value, copied, out, take<decltype(zero)>);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "move_map(Tensor value, Tensor copied, Tensor cells, Tensor rows, Tensor columns, "
      "Tensor row_weights, Tensor column_weights, bool nearest, bool everywhere) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("move_map", &move_map_cpu); }

}  // namespace blockcopy
