// blockcopy::reduce_picture and sample_picture on CPU: the mean of each square of pixels, or of
// some of its rows, in one pass over the frame.
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "blockcopy/clones.h"
#include "blockcopy/picture_checks.h"

namespace blockcopy {
namespace {

// Squares are dealt to threads in chunks that read about this much.
constexpr int64_t kChunkBytes = 128 * 1024;

// Values of a row that are summed at a time, so that their sums stay in the innermost cache. Long
// strips let the processor fetch ahead.
constexpr int64_t kStrip = 8192;

// sums[i] += rows[0][i] + rows[step][i] + ... over `count` rows. Memory-bound only with wide
// vectors.
BLOCKCOPY_CLONES void add_rows(float* sums, const float* rows, int64_t step, int64_t count,
                               int64_t width) {
  int64_t row = 0;
  for (; row + 4 <= count; row += 4) {
    const float* a = rows + row * step;
    const float* b = a + step;
    const float* c = b + step;
    const float* d = c + step;
    for (int64_t i = 0; i < width; ++i) {
      sums[i] += (a[i] + b[i]) + (c[i] + d[i]);
    }
  }
  for (; row < count; ++row) {
    const float* a = rows + row * step;
    for (int64_t i = 0; i < width; ++i) {
      sums[i] += a[i];
    }
  }
}

// The same for bfloat16, which is the upper half of a float.
BLOCKCOPY_CLONES void add_rows(float* sums, const uint16_t* rows, int64_t step, int64_t count,
                               int64_t width) {
  const auto widen = [](uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  };
  int64_t row = 0;
  for (; row + 4 <= count; row += 4) {
    const uint16_t* a = rows + row * step;
    const uint16_t* b = a + step;
    const uint16_t* c = b + step;
    const uint16_t* d = c + step;
    for (int64_t i = 0; i < width; ++i) {
      sums[i] += (widen(a[i]) + widen(b[i])) + (widen(c[i]) + widen(d[i]));
    }
  }
  for (; row < count; ++row) {
    const uint16_t* a = rows + row * step;
    for (int64_t i = 0; i < width; ++i) {
      sums[i] += widen(a[i]);
    }
  }
}

// sums[i] = values[2 i] + values[2 i + 1]
BLOCKCOPY_CLONES void add_pairs(float* __restrict sums, const float* __restrict values,
                                int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    sums[i] = values[2 * i] + values[2 * i + 1];
  }
}

BLOCKCOPY_CLONES void scale_row(float* __restrict means, const float* __restrict sums, float scale,
                                int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    means[i] = sums[i] * scale;
  }
}

// The sums of `count` squares, `side` values each, times `scale`: pair by pair, in vectors, if
// `side` is a power of two. `sums` and `spare` are written to.
bool add_squares(float* sums, float* spare, int64_t count, int64_t side, float scale,
                 float* means) {
  if (side <= 1 || (side & (side - 1)) != 0) {
    return false;
  }
  for (; side > 1; side /= 2) {
    add_pairs(spare, sums, count * side / 2);
    std::swap(sums, spare);
  }
  scale_row(means, sums, scale, count);
  return true;
}

// A frame as planes of rows of pixels, each pixel with `lanes` values side by side: the channels if
// they come last, else 1.
struct Layout {
  int64_t planes, height, width, lanes;
};

// Where the mean of each lane goes.
struct Target {
  float* first;
  int64_t step;  // from a lane to the next

  void write(int64_t lane, float value) const { first[lane * step] = value; }
};

// Four floats that are added at once.
#if defined(__GNUC__)
typedef float Four __attribute__((vector_size(16)));
#else
struct Four {
  float value[4];
  float operator[](int i) const { return value[i]; }
  Four& operator+=(const Four& other) {
    for (int i = 0; i < 4; ++i) {
      value[i] += other.value[i];
    }
    return *this;
  }
};
#endif

inline Four load_four(const float* from) {
  Four four;
  std::memcpy(&four, from, sizeof(four));
  return four;
}

// The sum of each lane over `columns` pixels, times `scale`. The usual numbers of lanes are
// template arguments, so that their sums stay in registers; 0 is any.
template <int kLanes>
void add_columns(const float* pixels, int64_t columns, int64_t any_lanes, float scale,
                 Target target);

// The fourth value belongs to the next pixel and is dropped. There is one more value after the last
// pixel.
template <>
void add_columns<3>(const float* pixels, int64_t columns, int64_t, float scale, Target target) {
  Four total = {};
  for (int64_t i = 0; i < columns; ++i) {
    total += load_four(pixels + i * 3);
  }
  for (int lane = 0; lane < 3; ++lane) {
    target.write(lane, total[lane] * scale);
  }
}

template <>
void add_columns<1>(const float* pixels, int64_t columns, int64_t, float scale, Target target) {
  Four part = {};
  const int64_t fours = columns / 4;
  for (int64_t i = 0; i < fours; ++i) {
    part += load_four(pixels + 4 * i);
  }
  float total = (part[0] + part[1]) + (part[2] + part[3]);
  for (int64_t i = 4 * fours; i < columns; ++i) {
    total += pixels[i];
  }
  target.write(0, total * scale);
}

// Many lanes: written side by side, to be dealt to their planes a row at a time.
template <>
void add_columns<0>(const float* pixels, int64_t columns, int64_t lanes, float scale,
                    Target target) {
  float* __restrict total = target.first;
  std::copy_n(pixels, lanes, total);
  for (int64_t i = 1; i < columns; ++i) {
    const float* pixel = pixels + i * lanes;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      total[lane] += pixel[lane];
    }
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    total[lane] *= scale;
  }
}

// Only every `step`-th row of a square is read; `step` divides `side`.
template <int kLanes, typename Value>
void reduce(const Layout& in, const Value* frame, int64_t side, int64_t step, float* out) {
  const int64_t lanes = kLanes ? kLanes : in.lanes;
  const int64_t out_height = (in.height + side - 1) / side;
  const int64_t out_width = (in.width + side - 1) / side;
  const int64_t plane_size = out_height * out_width;
  const int64_t row_values = in.width * lanes;
  // Whole squares, as many as fit into a strip, and at least one.
  const int64_t squares = std::max<int64_t>(1, kStrip / (side * lanes));
  const int64_t row_bytes = std::max<int64_t>(1, side / step * row_values * sizeof(Value));
  at::parallel_for(0, in.planes * out_height, std::max<int64_t>(1, kChunkBytes / row_bytes),
                   [&](int64_t begin, int64_t end) {
    std::vector<float> sums(std::min(squares * side, in.width) * lanes + 1);
    std::vector<float> spare(kLanes == 1 ? sums.size() : 0);
    std::vector<float> means(kLanes ? 0 : std::min(squares, out_width) * lanes);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t plane = index / out_height;
      const int64_t y = index % out_height;
      // If the edge cuts a square, all of its rows inside; with `step`, the last row stands for
      // those outside.
      const int64_t first_row = y * side + step / 2;
      const int64_t inside = std::max<int64_t>(0, (in.height - first_row + step - 1) / step);
      const int64_t rows = step > 1 ? side / step : std::min(side, in.height - y * side);
      const int64_t regular = std::min(rows, inside);
      const Value* top = frame + (plane * in.height + first_row) * row_values;
      const Value* last = frame + ((plane + 1) * in.height - 1) * row_values;
      for (int64_t x = 0; x < out_width; x += squares) {
        const int64_t pixels = std::min(squares * side, in.width - x * side);
        float* target = out + (plane * lanes * out_height + y) * out_width + x;
        std::fill_n(sums.begin(), pixels * lanes, 0.0F);
        add_rows(sums.data(), top + x * side * lanes, step * row_values, regular, pixels * lanes);
        add_rows(sums.data(), last + x * side * lanes, 0, rows - regular, pixels * lanes);
        const int64_t whole = pixels / side;
        const int64_t rest = pixels - whole * side;
        // Where the first square's means go, and the step from a square to the next.
        const Target first = kLanes ? Target{target, plane_size} : Target{means.data(), 1};
        const int64_t apart = kLanes ? 1 : lanes;
        const float scale = 1.0F / static_cast<float>(rows * side);
        const bool summed =
            kLanes == 1 && rest == 0 &&
            add_squares(sums.data(), spare.data(), whole, side, scale, target);
        for (int64_t i = 0; i < whole && !summed; ++i) {
          add_columns<kLanes>(sums.data() + i * side * lanes, side, lanes, scale,
                              {first.first + i * apart, first.step});
        }
        if (rest > 0) {
          add_columns<kLanes>(sums.data() + whole * side * lanes, rest, lanes,
                              1.0F / static_cast<float>(rows * rest),
                              {first.first + whole * apart, first.step});
        }
        if (kLanes == 0) {
          const int64_t count = whole + (rest > 0);
          for (int64_t lane = 0; lane < lanes; ++lane) {
            for (int64_t i = 0; i < count; ++i) {
              target[lane * plane_size + i] = means[i * lanes + lane];
            }
          }
        }
      }
    }
  });
}

template <typename Value>
void reduce(const Layout& in, const Value* frame, int64_t side, int64_t step, float* out) {
  switch (in.lanes) {
    case 1:
      return reduce<1>(in, frame, side, step, out);
    case 3:
      return reduce<3>(in, frame, side, step, out);
    default:
      return reduce<0>(in, frame, side, step, out);
  }
}

at::Tensor reduce_rows(const at::Tensor& frame, int64_t side, int64_t step) {
  const at::Tensor out = means_of(frame, side);
  if (out.numel() == 0) {
    return out;
  }
  const bool half = frame.scalar_type() == at::kBFloat16;
  at::Tensor source = half ? frame : frame.to(at::kFloat);
  const bool channels_last = source.is_contiguous(at::MemoryFormat::ChannelsLast);
  if (!channels_last) {
    source = source.contiguous();
  }
  Layout layout = {source.size(0), source.size(2), source.size(3), source.size(1)};
  if (!channels_last) {
    layout = {source.size(0) * source.size(1), source.size(2), source.size(3), 1};
  }
  float* target = out.mutable_data_ptr<float>();
  if (half) {
    // A bfloat16 is a struct with one uint16_t; its bits are needed here.
    reduce(layout, static_cast<const uint16_t*>(source.const_data_ptr()), side, step, target);
  } else {
    reduce(layout, source.const_data_ptr<float>(), side, step, target);
  }
  return out;
}

at::Tensor reduce_picture_cpu(const at::Tensor& frame, int64_t side) {
  return reduce_rows(frame, side, 1);
}

at::Tensor sample_picture_cpu(const at::Tensor& frame, int64_t side, int64_t step,
                              at::IntArrayRef size) {
  TORCH_CHECK_VALUE(step >= 1 && side % step == 0, "blockcopy::sample_picture: step is ", step,
                    ", expected a divisor of the side, ", side);
  const at::Tensor means = reduce_rows(frame, side, step);
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] >= means.size(2) && size[1] >= means.size(3),
                    "blockcopy::sample_picture: size is ", size, ", expected no less than the ",
                    means.size(2), " x ", means.size(3), " squares of the frame");
  TORCH_CHECK_VALUE(frame.numel() > 0 || frame.size(0) == 0 || frame.size(1) == 0,
                    "blockcopy::sample_picture: there is nothing to repeat in an empty frame");
  if (size[0] == means.size(2) && size[1] == means.size(3)) {
    return means;
  }
  at::Tensor out = at::empty({means.size(0), means.size(1), size[0], size[1]}, means.options());
  const int64_t height = means.size(2), width = means.size(3);
  const float* const from = means.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  for (int64_t plane = 0; plane < means.size(0) * means.size(1); ++plane) {
    for (int64_t y = 0; y < size[0]; ++y, to += size[1]) {
      const float* const row = from + (plane * height + std::min(y, height - 1)) * width;
      std::copy_n(row, width, to);
      std::fill_n(to + width, size[1] - width, row[width - 1]);
    }
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("reduce_picture(Tensor frame, int side) -> Tensor", tags);
  m.def("sample_picture(Tensor frame, int side, int step, int[] size) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("reduce_picture", &reduce_picture_cpu);
  m.impl("sample_picture", &sample_picture_cpu);
}

}  // namespace blockcopy
