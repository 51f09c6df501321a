// blockcopy::block_moments and blockcopy::scale_shift on CPU: the two passes of a norm over blocks.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/BFloat16.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/clones.h"
#include "blockcopy/direct_call.h"
#include "blockcopy/moments_checks.h"

namespace blockcopy {
namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

inline float widen(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Sums of distances from `centre`, and of their squares, of each channel over a row of pixels.
BLOCKCOPY_CLONES void add_row(const float* row, int64_t pixels, int64_t channels,
                              const float* centre, float* sums, float* squares) {
  for (int64_t p = 0; p < pixels; ++p, row += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float apart = row[c] - centre[c];
      sums[c] += apart;
      squares[c] += apart * apart;
    }
  }
}

BLOCKCOPY_CLONES void add_row(const uint16_t* row, int64_t pixels, int64_t channels,
                              const float* centre, float* sums, float* squares) {
  for (int64_t p = 0; p < pixels; ++p, row += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float apart = widen(row[c]) - centre[c];
      sums[c] += apart;
      squares[c] += apart * apart;
    }
  }
}

void add_row(const double* row, int64_t pixels, int64_t channels, const double* centre,
             double* sums, double* squares) {
  for (int64_t p = 0; p < pixels; ++p, row += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const double apart = row[c] - centre[c];
      sums[c] += apart;
      squares[c] += apart * apart;
    }
  }
}

BLOCKCOPY_CLONES void scale_row(const float* row, int64_t pixels, int64_t channels,
                                const float* scale, const float* shift, float* out) {
  for (int64_t p = 0; p < pixels; ++p, row += channels, out += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = row[c] * scale[c] + shift[c];
    }
  }
}

BLOCKCOPY_CLONES void scale_row(const uint16_t* row, int64_t pixels, int64_t channels,
                                const float* scale, const float* shift, uint16_t* out) {
  for (int64_t p = 0; p < pixels; ++p, row += channels, out += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float value = widen(row[c]) * scale[c] + shift[c];
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof(bits));
      // To the nearest, ties to even; NaN stays NaN.
      const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
      out[c] = static_cast<uint16_t>(value == value ? rounded : 0x7fc0u);
    }
  }
}

void scale_row(const double* row, int64_t pixels, int64_t channels, const double* scale,
               const double* shift, double* out) {
  for (int64_t p = 0; p < pixels; ++p, row += channels, out += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = row[c] * scale[c] + shift[c];
    }
  }
}

template <typename Run>
void with_types(at::ScalarType dtype, const Run& run) {
  if (dtype == at::kFloat) {
    run(float{}, float{});
  } else if (dtype == at::kBFloat16) {
    run(uint16_t{}, float{});
  } else {
    run(double{}, double{});
  }
}

// float16 has no row functions of its own.
at::Tensor readable(const at::Tensor& map) {
  const auto dtype = map.scalar_type();
  const at::Tensor wide = dtype == at::kHalf ? map.to(at::kFloat) : map;
  return wide.contiguous(kChannelsLast);
}

at::Tensor block_moments_cpu(const at::Tensor& map, const std::optional<at::Tensor>& places,
                             at::IntArrayRef block, at::IntArrayRef blocks, at::IntArrayRef size,
                             int64_t groups) {
  check_moments(map, places, block, blocks, size, groups);
  const at::Tensor source = readable(map);
  const int64_t channels = map.size(1), of_group = channels / groups;
  const int64_t count = places ? map.size(0) : map.size(0) * blocks[0] * blocks[1];
  const int64_t width = map.size(3), image = map.size(2) * width * channels;
  at::Tensor out = at::empty({count, 1 + 2 * groups}, map.options().dtype(at::kDouble));
  double* const results = out.mutable_data_ptr<double>();
  const Block* const listed = places ? block_data(*places) : nullptr;
  with_types(source.scalar_type(), [&](auto stored, auto work) {
    using T = decltype(stored);
    using W = decltype(work);
    const T* const values = static_cast<const T*>(source.const_data_ptr());
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      std::vector<W> centre(channels), sums(channels), squares(channels);
      std::vector<double> total(channels), spread(channels);
      for (int64_t index = begin; index < end; ++index) {
        const int64_t cell = index % (blocks[0] * blocks[1]);
        const int64_t by = places ? listed[index].grid_y : cell / blocks[1];
        const int64_t bx = places ? listed[index].grid_x : cell % blocks[1];
        const int64_t high = std::clamp<int64_t>(size[0] - by * block[0], 0, block[0]);
        const int64_t wide = std::clamp<int64_t>(size[1] - bx * block[1], 0, block[1]);
        double* const result = results + index * (1 + 2 * groups);
        result[0] = static_cast<double>(high * wide * of_group);
        if (high * wide == 0) {
          std::fill(result + 1, result + 1 + 2 * groups, 0.0);
          continue;
        }
        const T* first = values;
        if (places) {
          first += index * image;
        } else {
          first += index / (blocks[0] * blocks[1]) * image +
                   (by * block[0] * width + bx * block[1]) * channels;
        }
        // Distances from the block's first pixel: this avoids differences of large sums.
        std::fill(centre.begin(), centre.end(), W{0});
        std::fill(sums.begin(), sums.end(), W{0});
        add_row(first, 1, channels, centre.data(), sums.data(), squares.data());
        centre = sums;
        std::fill(total.begin(), total.end(), 0.0);
        std::fill(spread.begin(), spread.end(), 0.0);
        for (int64_t row = 0; row < high; ++row) {
          std::fill(sums.begin(), sums.end(), W{0});
          std::fill(squares.begin(), squares.end(), W{0});
          add_row(first + row * width * channels, wide, channels, centre.data(), sums.data(),
                  squares.data());
          for (int64_t c = 0; c < channels; ++c) {
            total[c] += sums[c];
            spread[c] += squares[c];
          }
        }
        const double pixels = static_cast<double>(high * wide);
        for (int64_t group = 0; group < groups; ++group) {
          const int64_t from = group * of_group;
          double mean = 0;
          for (int64_t c = from; c < from + of_group; ++c) {
            mean += centre[c] + total[c] / pixels;
          }
          mean /= static_cast<double>(of_group);
          double all = 0;
          for (int64_t c = from; c < from + of_group; ++c) {
            const double apart = centre[c] + total[c] / pixels - mean;
            all += std::max(0.0, spread[c] - total[c] * total[c] / pixels) + pixels * apart * apart;
          }
          result[1 + group] = mean;
          result[1 + groups + group] = all;
        }
      }
    });
  });
  return out;
}

at::Tensor scale_shift_cpu(const at::Tensor& map, const std::optional<at::Tensor>& places,
                           const at::Tensor& scale, const at::Tensor& shift) {
  check_scale(map, places, scale, shift);
  const at::Tensor source = readable(map);
  const auto work = source.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor factors = scale.to(work).contiguous(), offsets = shift.to(work).contiguous();
  at::Tensor out = at::empty(source.sizes(), source.options().memory_format(kChannelsLast));
  const int64_t channels = map.size(1), rows = map.size(2), pixels = map.size(3);
  const Block* const listed = places ? block_data(*places) : nullptr;
  for (int64_t i = 0; places && i < map.size(0); ++i) {
    TORCH_CHECK_INDEX(listed[i].slot >= 0 && listed[i].slot < scale.size(0),
                      "blockcopy::scale_shift: places names image ", listed[i].slot, " of ",
                      scale.size(0));
  }
  with_types(source.scalar_type(), [&](auto stored, auto wide) {
    using T = decltype(stored);
    using W = decltype(wide);
    const T* const from = static_cast<const T*>(source.const_data_ptr());
    T* const to = static_cast<T*>(out.mutable_data_ptr());
    const W* const factor = factors.const_data_ptr<W>();
    const W* const offset = offsets.const_data_ptr<W>();
    at::parallel_for(0, map.size(0) * rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t block = row / rows, at_row = row * pixels * channels;
        const int64_t image = (places ? listed[block].slot : block) * channels;
        scale_row(from + at_row, pixels, channels, factor + image, offset + image, to + at_row);
      }
    });
  });
  return map.scalar_type() == at::kHalf ? out.to(at::kHalf) : out;
}

const CalledDirectly<&block_moments_cpu> direct_block_moments("block_moments");
const CalledDirectly<&scale_shift_cpu> direct_scale_shift("scale_shift");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "block_moments(Tensor map, Tensor? places, int[] block, int[] blocks, int[] size, "
      "int groups) -> Tensor",
      tags);
  m.def("scale_shift(Tensor map, Tensor? places, Tensor scale, Tensor shift) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("block_moments", &block_moments_cpu);
  m.impl("scale_shift", &scale_shift_cpu);
}

}  // namespace blockcopy
