// blockcopy::move_map on CPU: each pixel of a map from where its content was, row by row.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace blockcopy {
namespace {

constexpr float kSteps = 32.0f;
constexpr float kSure = 0.5f;

// Where the pixels of one row come from.
struct Row {
  explicit Row(int64_t width)
      : source(width), beside(width), below(width), right(width), down(width), use(width) {}

  std::vector<int32_t> source;  // the pixel to the upper left, or the nearest
  std::vector<int32_t> beside;  // steps to its neighbours; 0 at the edges
  std::vector<int32_t> below;
  std::vector<float> right;  // weights of these
  std::vector<float> down;
  std::vector<uint8_t> use;
  bool any = false;
  bool whole = true;  // no weights
};

struct Field {
  const float* cells;
  const int32_t* rows;
  const int32_t* columns;
  const float* row_weights;
  const float* column_weights;
  int64_t cell_rows, cell_columns, height, width;
  bool nearest, everywhere;

  void look(int64_t y, Row& row) const {
    const int64_t first = rows[y], second = std::min(first + 1, cell_rows - 1);
    const float* top = cells + first * cell_columns * 3;
    const float* bottom = cells + second * cell_columns * 3;
    const float weight = row_weights[y];
    row.any = false;
    row.whole = true;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t left = columns[x], beside = std::min(left + 1, cell_columns - 1);
      float found[3];
      for (int part = 0; part < 3; ++part) {
        const float a = top[left * 3 + part], b = top[beside * 3 + part];
        const float c = bottom[left * 3 + part], d = bottom[beside * 3 + part];
        const float one = a + weight * (c - a), other = b + weight * (d - b);
        found[part] = one + column_weights[x] * (other - one);
      }
      const float right = std::nearbyint(found[0] * kSteps) / kSteps;
      const float down = std::nearbyint(found[1] * kSteps) / kSteps;
      float from_y = static_cast<float>(y) - down, from_x = static_cast<float>(x) - right;
      const bool inside = from_y >= -0.5f && from_y <= static_cast<float>(height) - 0.5f &&
                          from_x >= -0.5f && from_x <= static_cast<float>(width) - 0.5f;
      // Of what is not finite nothing is true, and it is not used.
      const bool use = found[2] >= kSure && inside && (everywhere || right != 0 || down != 0);
      row.use[x] = use;
      row.any |= use;
      if (!use) {
        row.source[x] = row.beside[x] = row.below[x] = 0;
        row.right[x] = row.down[x] = 0;
        continue;
      }
      from_y = std::clamp(from_y, 0.0f, static_cast<float>(height - 1));
      from_x = std::clamp(from_x, 0.0f, static_cast<float>(width - 1));
      const float shift = nearest ? 0.5f : 0.0f;
      const int64_t at_y = std::min(static_cast<int64_t>(from_y + shift), height - 1);
      const int64_t at_x = std::min(static_cast<int64_t>(from_x + shift), width - 1);
      row.source[x] = static_cast<int32_t>(at_y * width + at_x);
      row.beside[x] = at_x + 1 < width ? 1 : 0;
      row.below[x] = at_y + 1 < height ? static_cast<int32_t>(width) : 0;
      row.right[x] = nearest ? 0 : from_x - static_cast<float>(at_x);
      row.down[x] = nearest ? 0 : from_y - static_cast<float>(at_y);
      row.whole &= row.right[x] == 0 && row.down[x] == 0;
    }
  }
};

template <typename T>
void take(const T* value, const T* copied, T* out, const Row& row, int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    out[x] = row.use[x] ? value[row.source[x]] : copied[x];
  }
}

template <typename T>
void interpolate(const T* value, const T* copied, T* out, const Row& row, int64_t width) {
  using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
  for (int64_t x = 0; x < width; ++x) {
    const T* from = value + row.source[x];
    const T first = from[0];
    const A a = first, b = from[row.beside[x]], c = from[row.below[x]],
            d = from[row.below[x] + row.beside[x]];
    const A right = row.right[x], down = row.down[x];
    // Where a weight is 0 the value at hand stands, whatever the other is.
    const A upper = right == 0 ? a : static_cast<A>(static_cast<T>(a + right * (b - a)));
    const A lower = right == 0 ? c : static_cast<A>(static_cast<T>(c + right * (d - c)));
    const T mixed = down == 0 ? static_cast<T>(upper) : static_cast<T>(upper + down * (lower - upper));
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
  at::parallel_for(0, field.height, 8, [&](int64_t begin, int64_t end) {
    Row row(width);
    for (int64_t y = begin; y < end; ++y) {
      field.look(y, row);
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t line = c * area + y * width;
        if (row.any) {
          function(from + c * area, kept + line, to + line, row, width);
        } else {
          std::copy(kept + line, kept + line + width, to + line);
        }
      }
    }
  });
}

at::Tensor move_map_cpu(const at::Tensor& value_, const at::Tensor& copied_,
                        const at::Tensor& cells_, const at::Tensor& rows_,
                        const at::Tensor& columns_, const at::Tensor& row_weights_,
                        const at::Tensor& column_weights_, bool nearest, bool everywhere) {
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
                    columns.const_data_ptr<int32_t>(),
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
                                const Row& row, int64_t count) {
                               if (row.whole) {
                                 take(from, kept, to, row, count);
                               } else {
                                 interpolate(from, kept, to, row, count);
                               }
                             });
        });
    return out;
  }
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    for_rows<T>(field, value, copied, out, take<T>);
  };
  switch (value.element_size()) {
    case 1: run(uint8_t{}); break;
    case 2: run(uint16_t{}); break;
    case 4: run(uint32_t{}); break;
    default: run(uint64_t{}); break;
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("move_map", &move_map_cpu); }

}  // namespace blockcopy
