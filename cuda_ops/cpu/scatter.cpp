// blockcopy::scatter_ on CPU: a row of a block is one memcpy.
#include <ATen/Parallel.h>
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

void scatter_cpu(const at::Tensor& state, const at::Tensor& packed, const at::Tensor& blocks) {
  const ScatterGeometry g = check_scatter(state, packed, blocks);
  const Block* block_list = block_data(blocks);
  check_indices(g, block_list);
  if (packed.numel() == 0) {
    return;
  }
  const at::Tensor source = dense_source(packed, state);
  const char* source_data = static_cast<const char*>(source.const_data_ptr());
  char* state_data = static_cast<char*>(state.mutable_data_ptr());
  const int64_t pixel_bytes = state.size(1) * static_cast<int64_t>(state.element_size());
  const int64_t row_bytes = g.block_w * pixel_bytes;

  at::parallel_for(0, g.count * g.block_h, std::max<int64_t>(1, kChunkBytes / row_bytes),
                   [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const ScatterRow row = scatter_row(g, block_list, index);
      std::memcpy(state_data + row.target_pixel * pixel_bytes, source_data + index * row_bytes,
                  row.visible * pixel_bytes);
    }
  });
  bump_version(state);
}

const CalledDirectly<&scatter_cpu> direct_scatter("scatter_");

}  // namespace

TORCH_LIBRARY_FRAGMENT(blockcopy, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("scatter_(Tensor(a!) state, Tensor packed, Tensor blocks) -> ()", tags);
}

TORCH_LIBRARY_IMPL(blockcopy, CPU, m) { m.impl("scatter_", &scatter_cpu); }

}  // namespace blockcopy
