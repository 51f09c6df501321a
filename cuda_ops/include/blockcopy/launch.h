// Launchers of the CUDA kernels. Raw pointers and a stream: no PyTorch header is needed to compile
// the device code.
#pragma once

#include <cuda_runtime_api.h>

#include "blockcopy/divergence.h"
#include "blockcopy/finish.h"
#include "blockcopy/index.h"
#include "blockcopy/lanes.h"
#include "blockcopy/moments.h"
#include "blockcopy/squares.h"

namespace blockcopy {

// All pointers are device pointers; nothing waits for the device. The caller has checked shapes and
// set the device. Returns the launch error, if any.
cudaError_t launch_gather(const GatherGeometry& geometry, const void* state, const Block* blocks,
                          const int32_t* rows, const int32_t* cols, const FillPattern& fill,
                          int64_t pixel_bytes, void* out, cudaStream_t stream);

cudaError_t launch_scatter(const ScatterGeometry& geometry, void* state, const void* packed,
                           const Block* blocks, int64_t pixel_bytes, cudaStream_t stream);

cudaError_t launch_reduce_picture(const SquaresGeometry& geometry, ValueType type,
                                  const void* picture, float* out, cudaStream_t stream);

// `places`: null if the blocks are all blocks of a map, row by row.
cudaError_t launch_block_moments(const MomentsGeometry& geometry, ValueType type, const void* map,
                                 const Block* places, double* out, cudaStream_t stream);

// `scale` and `shift` have the type of the computation: double for double, else float.
cudaError_t launch_scale_shift(const ScaleGeometry& geometry, ValueType type, int64_t bytes,
                               const void* map, const Block* places, const void* scale,
                               const void* shift, void* out, cudaStream_t stream);

cudaError_t launch_block_divergence(const DivergenceGeometry& geometry, const LogsMap& before,
                                    const LogsMap& now, float* out, cudaStream_t stream);

cudaError_t launch_all_finite(ValueType type, const void* values, int64_t count, bool* out,
                              cudaStream_t stream);

cudaError_t launch_finish(const FinishCall& call, cudaStream_t stream);

}  // namespace blockcopy
