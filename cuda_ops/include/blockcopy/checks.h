// Argument checks that the CPU and CUDA implementations share, with the same exception types as the
// pure-PyTorch twins: shapes and layouts ValueError, dtypes TypeError, indices IndexError.
#pragma once

#include <ATen/core/Tensor.h>

#include "blockcopy/index.h"
#include "blockcopy/lanes.h"

namespace blockcopy {

// Checks everything but the values of the index tensors, and returns the geometry.
GatherGeometry check_gather(const at::Tensor& state, const at::Tensor& blocks,
                            const at::Tensor& rows, const at::Tensor& cols);
void check_gather_out(const GatherGeometry& geometry, const at::Tensor& state,
                      const at::Tensor& out);
ScatterGeometry check_scatter(const at::Tensor& state, const at::Tensor& packed,
                              const at::Tensor& blocks, const char* op = "scatter_",
                              at::MemoryFormat layout = at::MemoryFormat::ChannelsLast);
void check_blocks(const char* op, const at::Tensor& blocks, const at::Tensor& state);

// An error if gradients are recorded and an input wants them.
void check_no_grad(const char* op, bool requires_grad);

// Checks the values of index tensors in host memory.
void check_indices(const GatherGeometry& geometry, const Block* blocks, const int32_t* rows,
                   const int32_t* cols);
void check_indices(const ScatterGeometry& geometry, const Block* blocks,
                   const char* op = "scatter_");

// The bytes of `fill` in the dtype of a map, repeated; an error if the dtype cannot hold it.
FillPattern fill_pattern(double fill, at::ScalarType dtype);

// The values to read in channels-last order, copied if their memory overlaps that of `target`.
at::Tensor dense_source(const at::Tensor& source, const at::Tensor& target);

// The state's new version, so that autograd notices the write (inference tensors have none).
void bump_version(const at::Tensor& state);

// Rows of an int32 (n, 3) tensor. Checked to be contiguous.
inline const Block* block_data(const at::Tensor& blocks) {
  return reinterpret_cast<const Block*>(blocks.const_data_ptr<int32_t>());
}

}  // namespace blockcopy
