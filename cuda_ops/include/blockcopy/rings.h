// Where the pixels near the edges of blocks lie, if a map keeps these alone.
//
// The ring of a block is the pixels nearer than `border` to one of its edges, row by row; those of
// all blocks of a map lie one after the other.
#pragma once

#include <cstdint>

// No function of its own is compiled for these, which the linker could take for another processor's.
#define BLOCKCOPY_RING_INLINE inline __attribute__((always_inline))

namespace blockcopy {

struct RingShape {
  int64_t block_h, block_w, border;

  // Twice the border is less than a side of a block; what is left inside is not kept.
  BLOCKCOPY_RING_INLINE bool is_valid() const { return border >= 1 && 2 * border < block_h && 2 * border < block_w; }

  BLOCKCOPY_RING_INLINE int64_t inner_rows() const { return block_h - 2 * border; }

  BLOCKCOPY_RING_INLINE int64_t pixels() const { return 2 * border * (block_w + inner_rows()); }

  // Whether all of a block's row is kept, and not only its two ends.
  BLOCKCOPY_RING_INLINE bool is_whole(int64_t row) const { return row < border || row >= block_h - border; }

  // Where the kept pixels of a row begin.
  BLOCKCOPY_RING_INLINE int64_t start_of(int64_t row) const {
    if (row < border) {
      return row * block_w;
    }
    const int64_t inner = row - border < inner_rows() ? row - border : inner_rows();
    const int64_t below = row - border - inner;
    return border * block_w + inner * 2 * border + below * block_w;
  }

  // Where a kept pixel lies.
  BLOCKCOPY_RING_INLINE int64_t place_of(int64_t row, int64_t column) const {
    const bool right = !is_whole(row) && column >= border;
    return start_of(row) + (right ? column - (block_w - 2 * border) : column);
  }
};

}  // namespace blockcopy

#undef BLOCKCOPY_RING_INLINE
