// blockcopy::softmax_change and keep_softmax_ on CPU: what dense logits show in the executed
// blocks, and how much that differs from before. Nothing else of the logits is read.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "blockcopy/checked.h"
#include "blockcopy/clones.h"
#include "blockcopy/softmax_rows.h"

namespace blockcopy {
namespace {

constexpr int64_t kLanes = 16;  // pixels are worked on in multiples of these
constexpr int64_t kAhead = 4;   // planes of which a row is fetched ahead
constexpr int64_t kParts = 4;   // of a block's side, at most
constexpr int64_t kChunk = 4;   // executed blocks of a task

BLOCKCOPY_CLONES void add_pairs(float* __restrict out, const float* __restrict row, int64_t count) {
  for (int64_t x = 0; x < count; ++x) {
    out[x] += row[2 * x] + row[2 * x + 1];
  }
}

BLOCKCOPY_CLONES void add_values(float* __restrict out, const float* __restrict row,
                                 int64_t count) {
  for (int64_t x = 0; x < count; ++x) {
    out[x] += row[x];
  }
}

inline float widen(float value) { return value; }
inline float widen(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Which values of an output make up the mean of one pixel of the summary, along one axis: `each`
// for each pixel.
struct Axis {
  const int32_t* samples;
  int64_t pixels, each;

  // Whether those of `count` pixels from `first` on lie side by side.
  bool adjacent(int64_t first, int64_t count) const {
    return samples[(first + count) * each - 1] - samples[first * each] == count * each - 1;
  }
};

// Logits of any layout: strides from a class, a row and a column to the next.
template <typename T>
struct Logits {
  const T* values;
  int64_t classes, by_class, by_row, by_column;
};

// sums[c * width + x] = the mean of the samples of pixel (y, first + x), x < count; 0 after that.
template <typename T>
void pool(const Logits<T>& in, const Axis& rows, const Axis& columns, int64_t y, int64_t first,
          int64_t count, int64_t width, float* sums, std::vector<float>& line) {
  std::fill_n(sums, in.classes * width, 0.0F);
  const bool adjacent = in.by_column == 1 && columns.adjacent(first, count);
  for (int64_t i = 0; i < rows.each; ++i) {
    const T* const row = in.values + rows.samples[y * rows.each + i] * in.by_row;
    const int32_t* const at = columns.samples + first * columns.each;
    if (in.by_class == 1) {
      for (int64_t x = 0; x < count; ++x) {
        for (int64_t j = 0; j < columns.each; ++j) {
          const T* const pixel = row + at[x * columns.each + j] * in.by_column;
          for (int64_t c = 0; c < in.classes; ++c) {
            sums[c * width + x] += widen(pixel[c]);
          }
        }
      }
      continue;
    }
    const int64_t from = at[0] * in.by_column;
    const int64_t until = at[count * columns.each - 1] * in.by_column;
    for (int64_t c = 0; c < in.classes; ++c) {
      const T* const plane = row + c * in.by_class;
      float* const out = sums + c * width;
#if defined(__GNUC__)
      // Each plane's row is in another page, which the processor does not predict.
      if (c + kAhead < in.classes) {
        const T* const next = plane + kAhead * in.by_class;
        for (int64_t i = from; i <= until; i += static_cast<int64_t>(64 / sizeof(T))) {
          __builtin_prefetch(next + i);
        }
        __builtin_prefetch(next + until);
      }
#endif
      if (adjacent && columns.each <= 2) {
        const int64_t length = count * columns.each;
        line.resize(length);
        for (int64_t x = 0; x < length; ++x) {
          line[x] = widen(plane[at[0] + x]);
        }
        if (columns.each == 1) {
          add_values(out, line.data(), count);
        } else {
          add_pairs(out, line.data(), count);
        }
        continue;
      }
      for (int64_t x = 0; x < count; ++x) {
        for (int64_t j = 0; j < columns.each; ++j) {
          out[x] += widen(plane[at[x * columns.each + j] * in.by_column]);
        }
      }
    }
  }
  const int64_t each = rows.each * columns.each;
  if (each > 1) {
    const float scale = 1.0F / static_cast<float>(each);
    for (int64_t i = 0; i < in.classes * width; ++i) {
      sums[i] *= scale;
    }
  }
}

// Where each cell of a block finds its pixel.
struct Cells {
  const int32_t* rows;
  const int32_t* columns;
  int64_t side;
};

// The pixels of one block.
struct Region {
  int64_t top, left, height, width;
};

Region region_of(const Cells& cells, int64_t gy, int64_t gx) {
  const int32_t* const rows = cells.rows + gy * cells.side;
  const int32_t* const columns = cells.columns + gx * cells.side;
  return {rows[0], columns[0], rows[cells.side - 1] - rows[0] + 1,
          columns[cells.side - 1] - columns[0] + 1};
}

// Log-probabilities, the columns of a row side by side.
template <typename T>
struct Kept {
  T* values;
  int64_t by_class, by_row;

  T* at(int64_t c, int64_t y, int64_t x) const { return values + c * by_class + y * by_row + x; }
};

// Rows of all classes side by side: those of a block are then in few pages.
at::Tensor rows_together(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::empty({shape[1], shape[0], shape[2]}, options).permute({1, 0, 2});
}

// The tensor itself if its columns lie side by side.
at::Tensor with_columns_together(const at::Tensor& value) {
  return value.stride(2) == 1 ? value : value.contiguous();
}

// Results of one block.
struct Found {
  float gain, doubt, doubt_peak;
};

template <typename T>
class Worker {
 public:
  Worker(const Logits<T>& logits, const Axis& rows, const Axis& columns, const Cells& cells,
         const Kept<const float>& previous, const Kept<float>& fresh, float clip)
      : logits_(logits), rows_(rows), columns_(columns), cells_(cells), previous_(previous),
        fresh_(fresh), clip_(clip) {}

  Found block(int64_t gy, int64_t gx) {
    const Region region = region_of(cells_, gy, gx);
    const int64_t width = (region.width + kLanes - 1) / kLanes * kLanes;
    // A single channel is the logit of the foreground; the background's is 0.
    const int64_t classes = std::max<int64_t>(logits_.classes, 2);
    sums_.resize(classes * width);
    powers_.resize(classes * width);
    totals_.resize(width);
    zero_.resize(width);
    scratch_.resize(width);
    divergence_.assign(region.height * region.width, 0.0F);
    doubt_.resize(region.height * region.width);
    float finite = 0;
    for (int64_t y = 0; y < region.height; ++y) {
      pool(logits_, rows_, columns_, region.top + y, region.left, region.width, width,
           sums_.data(), line_);
      std::fill(sums_.begin() + logits_.classes * width, sums_.end(), 0.0F);
      log_softmax(sums_.data(), powers_.data(), totals_.data(), zero_.data(), scratch_.data(),
                  classes, width);
      float* const divergence = divergence_.data() + y * region.width;
      float* const doubt = doubt_.data() + y * region.width;
      for (int64_t c = 0; c < classes; ++c) {
        std::copy_n(sums_.data() + c * width, region.width,
                    fresh_.at(c, region.top + y, region.left));
        if (previous_.values != nullptr) {
          add_divergence(divergence, powers_.data() + c * width, sums_.data() + c * width,
                         previous_.at(c, region.top + y, region.left), region.width);
        }
      }
      for (int64_t x = 0; x < region.width; ++x) {
        // The most probable class has e^0 of the total.
        doubt[x] = 1.0F - 1.0F / totals_[x];
        divergence[x] /= totals_[x];
        finite += zero_[x];
      }
    }
    Found found = reduce(region, gy, gx);
    found.doubt += finite;  // 0, or NaN
    return found;
  }

 private:
  Found reduce(const Region& region, int64_t gy, int64_t gx) const {
    const int64_t part = std::max<int64_t>(cells_.side / kParts, 1);
    const int32_t* const rows = cells_.rows + gy * cells_.side;
    const int32_t* const columns = cells_.columns + gx * cells_.side;
    Found found = {0, 0, 0};
    for (int64_t top = 0; top < cells_.side; top += part) {
      for (int64_t left = 0; left < cells_.side; left += part) {
        float gain = 0;
        for (int64_t y = top; y < top + part; ++y) {
          const int64_t line = (rows[y] - region.top) * region.width - region.left;
          for (int64_t x = left; x < left + part; ++x) {
            const float doubt = doubt_[line + columns[x]];
            gain += divergence_[line + columns[x]];
            found.doubt += doubt;
            found.doubt_peak = std::max(found.doubt_peak, doubt);
          }
        }
        found.gain = std::max(found.gain, gain / static_cast<float>(part * part));
      }
    }
    found.gain = std::min(found.gain, clip_);
    found.doubt /= static_cast<float>(cells_.side * cells_.side);
    return found;
  }

  const Logits<T> logits_;
  const Axis rows_, columns_;
  const Cells cells_;
  const Kept<const float> previous_;
  const Kept<float> fresh_;
  const float clip_;
  std::vector<float> sums_, powers_, totals_, zero_, scratch_, divergence_, doubt_, line_;
};

const int32_t* checked_table(const char* name, const at::Tensor& table, int64_t limit) {
  TORCH_CHECK_TYPE(table.scalar_type() == at::kInt, "blockcopy: ", name, " has dtype ",
                   table.scalar_type(), ", expected torch.int32");
  TORCH_CHECK_VALUE(table.is_contiguous() && table.numel() > 0, "blockcopy: ", name,
                    " must be contiguous and not empty, found shape ", table.sizes());
  const int32_t* const data = table.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < table.numel(); ++i) {
    TORCH_CHECK_INDEX(0 <= data[i] && data[i] < limit && (i == 0 || data[i - 1] <= data[i]),
                      "blockcopy: ", name, " holds ", data[i], " at ", i,
                      ", expected indices below ", limit, " that do not fall");
  }
  return data;
}

Cells checked_cells(const at::Tensor& grid, const at::Tensor& rows, const at::Tensor& columns,
                    int64_t height, int64_t width, int64_t cells) {
  TORCH_CHECK_VALUE(grid.dim() == 2 && cells > 0 && rows.numel() == grid.size(0) * cells &&
                        columns.numel() == grid.size(1) * cells,
                    "blockcopy: ", rows.numel(), " and ", columns.numel(), " cells of ", cells,
                    " a block's side do not fit a grid of ", grid.sizes());
  return {checked_table("cell_rows", rows, height), checked_table("cell_columns", columns, width),
          cells};
}

std::vector<int64_t> executed_blocks(const at::Tensor& grid) {
  const bool* const ran = grid.const_data_ptr<bool>();
  std::vector<int64_t> places;
  for (int64_t i = 0; i < grid.numel(); ++i) {
    if (ran[i]) {
      places.push_back(i);
    }
  }
  return places;
}

std::tuple<at::Tensor, at::Tensor> softmax_change_cpu(
    const at::Tensor& logits, const std::optional<at::Tensor>& previous, const at::Tensor& grid,
    const at::Tensor& rows, const at::Tensor& columns, const at::Tensor& cell_rows,
    const at::Tensor& cell_columns, int64_t cells, double clip) {
  TORCH_CHECK_VALUE(logits.dim() == 3 && logits.numel() > 0, "blockcopy: logits must be (C, h, w), "
                    "not empty, found ", logits.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(logits.scalar_type()), "blockcopy: logits have dtype ",
                   logits.scalar_type(), ", expected a floating point type");
  TORCH_CHECK_VALUE(rows.dim() == 2 && columns.dim() == 2, "blockcopy: rows and columns must be "
                    "(pixels, samples), found ", rows.sizes(), " and ", columns.sizes());
  checked("logits", logits, logits.scalar_type(), logits.sizes());
  const int64_t classes = std::max<int64_t>(logits.size(0), 2);
  const Axis by_rows = {checked_table("rows", rows, logits.size(1)), rows.size(0), rows.size(1)};
  const Axis by_columns = {checked_table("columns", columns, logits.size(2)), columns.size(0),
                           columns.size(1)};
  const at::Tensor ran = checked("grid", grid, at::kBool, grid.sizes()).contiguous();
  const Cells at_cells = checked_cells(ran, cell_rows, cell_columns, by_rows.pixels,
                                       by_columns.pixels, cells);
  const int64_t shape[] = {classes, by_rows.pixels, by_columns.pixels};
  const at::Tensor before =
      previous ? with_columns_together(checked("previous", *previous, at::kFloat, shape))
               : at::Tensor();
  const bool half = logits.scalar_type() == at::kBFloat16;
  const at::Tensor source = half ? logits : logits.to(at::kFloat);

  at::Tensor fresh = rows_together(shape, source.options().dtype(at::kFloat));
  at::Tensor values = at::zeros({3, grid.size(0), grid.size(1)}, fresh.options());
  float* const out = values.mutable_data_ptr<float>();
  const Kept<float> target = {fresh.mutable_data_ptr<float>(), fresh.stride(0), fresh.stride(1)};
  Kept<const float> old = {nullptr, 0, 0};
  if (previous) {
    old = {before.const_data_ptr<float>(), before.stride(0), before.stride(1)};
  }
  const std::vector<int64_t> places = executed_blocks(ran);
  const auto run = [&](const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    const Logits<T> in = {data, source.size(0), source.stride(0), source.stride(1),
                          source.stride(2)};
    at::parallel_for(0, static_cast<int64_t>(places.size()), kChunk,
                     [&](int64_t begin, int64_t end) {
      Worker<T> worker(in, by_rows, by_columns, at_cells, old, target, static_cast<float>(clip));
      for (int64_t i = begin; i < end; ++i) {
        const Found found = worker.block(places[i] / ran.size(1), places[i] % ran.size(1));
        out[places[i]] = found.gain;
        out[ran.numel() + places[i]] = found.doubt;
        out[2 * ran.numel() + places[i]] = found.doubt_peak;
      }
    });
  };
  if (half) {
    // A bfloat16 is a struct with one uint16_t; its bits are needed here.
    run(static_cast<const uint16_t*>(source.const_data_ptr()));
  } else {
    run(source.const_data_ptr<float>());
  }
  return {fresh, values};
}

void keep_softmax_cpu(const at::Tensor& kept, const at::Tensor& fresh, const at::Tensor& grid,
                      const at::Tensor& cell_rows, const at::Tensor& cell_columns, int64_t cells) {
  TORCH_CHECK_VALUE(kept.dim() == 3 && kept.stride(2) == 1, "blockcopy: kept must be (C, h, w) with "
                    "columns side by side, found ", kept.sizes(), " with strides ", kept.strides());
  checked("kept", kept, at::kFloat, kept.sizes());
  const at::Tensor source =
      with_columns_together(checked("fresh", fresh, at::kFloat, kept.sizes()));
  const at::Tensor ran = checked("grid", grid, at::kBool, grid.sizes()).contiguous();
  const Cells at_cells =
      checked_cells(ran, cell_rows, cell_columns, kept.size(1), kept.size(2), cells);
  const Kept<const float> from = {source.const_data_ptr<float>(), source.stride(0),
                                  source.stride(1)};
  const Kept<float> to = {kept.mutable_data_ptr<float>(), kept.stride(0), kept.stride(1)};
  // Blocks that lie side by side are copied together: long pieces.
  std::vector<Region> regions;
  int64_t last = -1;
  for (const int64_t place : executed_blocks(ran)) {
    const Region region = region_of(at_cells, place / ran.size(1), place % ran.size(1));
    if (place == last + 1 && place % ran.size(1) != 0 && !regions.empty()) {
      regions.back().width = region.left + region.width - regions.back().left;
    } else {
      regions.push_back(region);
    }
    last = place;
  }
  at::parallel_for(0, static_cast<int64_t>(regions.size()), kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Region& region = regions[i];
      for (int64_t y = region.top; y < region.top + region.height; ++y) {
        for (int64_t c = 0; c < kept.size(0); ++c) {
          std::memcpy(to.at(c, y, region.left), from.at(c, y, region.left),
                      region.width * sizeof(float));
        }
      }
    }
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "softmax_change(Tensor logits, Tensor? previous, Tensor grid, Tensor rows, Tensor columns, "
      "Tensor cell_rows, Tensor cell_columns, int cells, float clip) -> (Tensor, Tensor)",
      tags);
  m.def(
      "keep_softmax_(Tensor(a!) kept, Tensor fresh, Tensor grid, Tensor cell_rows, "
      "Tensor cell_columns, int cells) -> ()",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("softmax_change", &softmax_change_cpu);
  m.impl("keep_softmax_", &keep_softmax_cpu);
}

}  // namespace blockcopy
