// blockcopy::gather on CPU: consecutive columns of a window are one memcpy. A frame, which has few
// channels in planes, is read as it is.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/direct_call.h"

namespace blockcopy {
namespace {

// Rows are dealt to threads in chunks of about this size.
constexpr int64_t kChunkBytes = 64 * 1024;

// Consecutive columns of a window that come from consecutive columns of the map, or all from
// outside the image.
struct Run {
  int32_t source;  // first source column, or kOutside
  int32_t length;  // pixels
};

// The runs of every block column: those of column gx are [first[gx], first[gx + 1]).
struct RunTable {
  std::vector<Run> runs;
  std::vector<size_t> first;

  RunTable(const GatherGeometry& g, const int32_t* cols) {
    first.reserve(g.table_w + 1);
    for (int64_t gx = 0; gx < g.table_w; ++gx) {
      first.push_back(runs.size());
      int32_t next = kOutside - 1;  // no column continues a run that has not begun
      for (int64_t x = 0; x < g.window_w; ++x) {
        const int32_t source = cols[gx * g.window_w + x];
        if (source == next) {
          ++runs.back().length;
        } else {
          runs.push_back({source, 1});
        }
        next = source == kOutside ? kOutside : source + 1;
      }
    }
    first.push_back(runs.size());
  }
};

// Writes pixels of the fill value. `uniform`: all bytes of the pattern are equal.
void write_fill(char* target, int64_t bytes, const FillPattern& fill, bool uniform) {
  if (uniform) {
    std::memset(target, fill.byte[0], bytes);
    return;
  }
  constexpr int64_t step = sizeof(fill.byte);
  int64_t offset = 0;
  for (; offset + step <= bytes; offset += step) {
    std::memcpy(target + offset, fill.byte, step);
  }
  std::memcpy(target + offset, fill.byte, bytes - offset);
}

// Up to so many channels, a map in planes is read as it is; with more it is where the windows have
// far fewer pixels than the map, and else converted first.
constexpr int64_t kPlanes = 4;

bool is_in_planes(const GatherGeometry& g, const at::Tensor& state, const at::Tensor& out) {
  const auto* begin = static_cast<const char*>(state.const_data_ptr());
  const auto* target = static_cast<const char*>(out.const_data_ptr());
  const bool few = state.size(1) <= kPlanes ||
                   3 * g.count * g.window_h * g.window_w <= g.map.slots * g.map.height * g.map.width;
  return few && state.size(1) > 1 && state.is_contiguous() && state.element_size() <= 8 &&
         (begin + state.nbytes() <= target || target + out.nbytes() <= begin);
}

// Columns of planes as pixels; kChannels 0: any number of channels.
template <typename T, int64_t kChannels>
void interleave(const char* source_, int64_t area, int64_t length, int64_t channels, char* target_) {
  const T* source = reinterpret_cast<const T*>(source_);
  T* target = reinterpret_cast<T*>(target_);
  if constexpr (kChannels == 0) {
    for (int64_t c = 0; c < channels; ++c, source += area) {
      for (int64_t x = 0; x < length; ++x) {
        target[x * channels + c] = source[x];
      }
    }
    return;
  }
  for (int64_t x = 0; x < length; ++x) {
    for (int64_t c = 0; c < kChannels; ++c) {
      target[x * kChannels + c] = source[c * area + x];
    }
  }
}

using Interleave = void (*)(const char*, int64_t, int64_t, int64_t, char*);

template <typename T>
Interleave interleave_of(int64_t channels) {
  switch (channels) {
    case 2: return interleave<T, 2>;
    case 3: return interleave<T, 3>;
    case 4: return interleave<T, 4>;
    default: return interleave<T, 0>;
  }
}

Interleave interleave_of(int64_t element, int64_t channels) {
  switch (element) {
    case 1: return interleave_of<uint8_t>(channels);
    case 2: return interleave_of<uint16_t>(channels);
    case 4: return interleave_of<uint32_t>(channels);
    default: return interleave_of<uint64_t>(channels);
  }
}

// Fills `out`, which has been checked.
void gather_into(const GatherGeometry& g, const at::Tensor& state, const at::Tensor& blocks,
                 const at::Tensor& rows, const at::Tensor& cols, const FillPattern& pattern,
                 const at::Tensor& out) {
  if (out.numel() == 0) {
    return;
  }
  const bool planes = is_in_planes(g, state, out);
  const at::Tensor source = planes ? state : dense_source(state, out);
  const Block* block_list = block_data(blocks);
  const int32_t* row_table = rows.const_data_ptr<int32_t>();
  const char* source_data = static_cast<const char*>(source.const_data_ptr());
  char* out_data = static_cast<char*>(out.mutable_data_ptr());
  const auto element = static_cast<int64_t>(state.element_size());
  const int64_t pixel_bytes = state.size(1) * element;
  const int64_t area = state.size(2) * state.size(3);
  const Interleave copy = planes ? interleave_of(element, state.size(1)) : nullptr;
  const int64_t row_bytes = g.window_w * pixel_bytes;
  const RunTable table(g, cols.const_data_ptr<int32_t>());
  const bool uniform = std::all_of(std::begin(pattern.byte), std::end(pattern.byte),
                                   [&](unsigned char byte) { return byte == pattern.byte[0]; });

  at::parallel_for(0, g.count * g.window_h, std::max<int64_t>(1, kChunkBytes / row_bytes),
                   [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const GatherRow row = gather_row(g, block_list, row_table, index);
      char* target = out_data + index * row_bytes;
      if (row.outside) {
        write_fill(target, row_bytes, pattern, uniform);
        continue;
      }
      // A pixel's number counts those of the slots before, each of which has `area` of them.
      const int64_t before = row.source_pixel / std::max<int64_t>(area, 1) * area;
      const char* source_row = source_data + (planes ? before * pixel_bytes +
          (row.source_pixel - before) * element : row.source_pixel * pixel_bytes);
      const int64_t gx = row.table_offset / g.window_w;
      for (size_t r = table.first[gx]; r < table.first[gx + 1]; ++r) {
        const Run run = table.runs[r];
        const int64_t bytes = run.length * pixel_bytes;
        if (run.source == kOutside) {
          write_fill(target, bytes, pattern, uniform);
        } else if (planes) {
          copy(source_row + run.source * element, area, run.length, state.size(1), target);
        } else {
          std::memcpy(target, source_row + run.source * pixel_bytes, bytes);
        }
        target += bytes;
      }
    }
  });
}

at::Tensor gather_cpu(const at::Tensor& state, const at::Tensor& blocks, const at::Tensor& rows,
                      const at::Tensor& cols, double fill) {
  const GatherGeometry g = check_gather(state, blocks, rows, cols);
  const FillPattern pattern = fill_pattern(fill, state.scalar_type());
  check_indices(g, block_data(blocks), rows.const_data_ptr<int32_t>(),
                cols.const_data_ptr<int32_t>());
  const at::Tensor out =
      at::empty({g.count, state.size(1), g.window_h, g.window_w},
                state.options().memory_format(at::MemoryFormat::ChannelsLast));
  gather_into(g, state, blocks, rows, cols, pattern, out);
  return out;
}

void gather_out_cpu(const at::Tensor& state, const at::Tensor& blocks, const at::Tensor& rows,
                    const at::Tensor& cols, double fill, const at::Tensor& out) {
  const GatherGeometry g = check_gather(state, blocks, rows, cols);
  const FillPattern pattern = fill_pattern(fill, state.scalar_type());
  check_gather_out(g, state, out);
  check_indices(g, block_data(blocks), rows.const_data_ptr<int32_t>(),
                cols.const_data_ptr<int32_t>());
  gather_into(g, state, blocks, rows, cols, pattern, out);
  bump_version(out);
}

const CalledDirectly<&gather_cpu> direct_gather("gather");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "gather(Tensor state, Tensor blocks, Tensor rows, Tensor cols, float fill) -> Tensor", tags);
  m.def(
      "gather_out(Tensor state, Tensor blocks, Tensor rows, Tensor cols, float fill, "
      "Tensor(a!) out) -> ()",
      tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) {
  m.impl("gather", &gather_cpu);
  m.impl("gather_out", &gather_out_cpu);
}

}  // namespace blockcopy
