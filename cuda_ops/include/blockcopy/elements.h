// Elements of any dtype by their size alone, for kernels that only move them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace blockcopy {

// Calls `run(zero)` with a number as large as an element of the map.
template <typename Run>
void with_element(const char* op, const at::Tensor& map, const Run& run) {
  switch (map.element_size()) {
    case 1: run(uint8_t{}); break;
    case 2: run(uint16_t{}); break;
    case 4: run(uint32_t{}); break;
    case 8: run(uint64_t{}); break;
    default: TORCH_CHECK_TYPE(false, "blockcopy::", op, ": dtype ", map.scalar_type(),
                              ", expected one of at most 8 bytes");
  }
}

}  // namespace blockcopy
