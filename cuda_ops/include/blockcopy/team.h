// A block of threads that work together through shared memory.
//
// A kernel's body is written as steps: `team.each(step)` runs a step in all threads, and then they
// wait for each other. Between steps, values are passed only through shared memory. On the host a
// team is a loop over its threads, so that a test runs the actual body of the kernel.
#pragma once

#include "blockcopy/index.h"
#include "blockcopy/lanes.h"

namespace blockcopy {

struct HostTeam {
  template <typename Step>
  void each(const Step& step) const {
    for (uint32_t thread = 0; thread < kThreads; ++thread) {
      step(thread);
    }
  }
};

#if defined(__CUDACC__)
struct DeviceTeam {
  // Compiled for host and device like the bodies that call it; on the host it is never called.
  template <typename Step>
  BLOCKCOPY_HOST_DEVICE void each([[maybe_unused]] const Step& step) const {
#if defined(__CUDA_ARCH__)
    step(threadIdx.x);
    __syncthreads();
#endif
  }
};
#endif

// Thread blocks for this many tasks; each block takes every n-th of them.
inline uint32_t teams_for(int64_t tasks) {
  return static_cast<uint32_t>(tasks < kMaxGridX ? tasks : kMaxGridX);
}

}  // namespace blockcopy
