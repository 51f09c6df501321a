// Launchers of the CUDA kernels. Raw pointers and a stream: no PyTorch header is needed to compile
// the device code.
#pragma once

#include <cuda_runtime_api.h>

#include "blockcopy/index.h"
#include "blockcopy/lanes.h"

namespace blockcopy {

// All pointers are device pointers; nothing waits for the device. The caller has checked shapes and
// set the device. Returns the launch error, if any.
cudaError_t launch_gather(const GatherGeometry& geometry, const void* state, const Block* blocks,
                          const int32_t* rows, const int32_t* cols, const FillPattern& fill,
                          int64_t pixel_bytes, void* out, cudaStream_t stream);

cudaError_t launch_scatter(const ScatterGeometry& geometry, void* state, const void* packed,
                           const Block* blocks, int64_t pixel_bytes, cudaStream_t stream);

}  // namespace blockcopy
