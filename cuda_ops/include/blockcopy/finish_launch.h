// Launcher of blockcopy::finish_conv_. No PyTorch header is needed to compile the device code.
#pragma once

#include <cuda_runtime_api.h>

#include "blockcopy/finish.h"

namespace blockcopy {

enum class FinishNumber { kFloat, kFloat16, kBFloat16 };

// Device pointers, null where there is nothing; the norm's vectors are of `number`, or float where
// `wide_norm` is set.
struct FinishCall {
  FinishNumber number;
  bool wide_norm;
  int64_t pixels;
  int64_t channels;
  void* sums;
  const void* residual;
  const void* bias;
  const void* weight;
  const void* beta;
  const void* mean;
  const void* variance;
  float eps;
  float low;
  float high;
};

// Nothing waits for the device. The caller has checked shapes and set the device. Returns the
// launch error, if any.
cudaError_t launch_finish(const FinishCall& call, cudaStream_t stream);

}  // namespace blockcopy
