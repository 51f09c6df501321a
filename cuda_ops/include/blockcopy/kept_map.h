// A map of which executed blocks lie packed, and the others in the state: as a map or as rings.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "blockcopy/checks.h"
#include "blockcopy/rings.h"

namespace blockcopy {

struct KeptMap {
  MapExtent extent;
  // Of the packed blocks; zeros without them. With a border the state is rings.
  RingShape ring = {0, 0, 0};
  int64_t grid_h = 0, grid_w = 0;
  std::vector<int32_t> executed;  // (slots, grid_h, grid_w): the place among packed blocks, or -1

  // `rings`: height and width of the map and the border, if the state is rings.
  KeptMap(const char* op, const at::Tensor& state, at::OptionalIntArrayRef rings)
      : extent{state.size(0), state.size(2), state.size(3)} {
    if (!rings.has_value()) {
      return;
    }
    TORCH_CHECK_VALUE(rings->size() == 3, "blockcopy::", op, ": rings is ", *rings,
                      ", expected height and width of the map, and the border");
    extent.height = (*rings)[0];
    extent.width = (*rings)[1];
    ring.border = (*rings)[2];
  }

  // Takes the packed blocks; rings are of blocks like them.
  void add(const char* op, const at::Tensor& state, const at::Tensor& packed,
           const at::Tensor& blocks) {
    ScatterGeometry g = check_scatter(state, packed, blocks, op);
    g.map = extent;
    const Block* list = block_data(blocks);
    check_indices(g, list, op);
    ring.block_h = g.block_h;
    ring.block_w = g.block_w;
    grid_h = ceil_div(extent.height, g.block_h);
    grid_w = ceil_div(extent.width, g.block_w);
    TORCH_CHECK_VALUE(ring.border == 0 || (ring.is_valid() && state.size(2) == grid_h * grid_w &&
                                           state.size(3) == ring.pixels()),
                      "blockcopy::", op, ": the state has shape ", state.sizes(),
                      ", which are no rings of blocks of ", g.block_h, "x", g.block_w,
                      " with a border of ", ring.border, " of a map of ", extent.height, "x",
                      extent.width);
    executed.assign(extent.slots * grid_h * grid_w, -1);
    for (int64_t i = 0; i < g.count; ++i) {
      executed[(list[i].slot * grid_h + list[i].grid_y) * grid_w + list[i].grid_x] =
          static_cast<int32_t>(i);
    }
  }

  // Rings have no pixels but those near packed blocks.
  void check_packed(const char* op, bool packed) const {
    TORCH_CHECK_VALUE(packed || ring.border == 0, "blockcopy::", op, ": rings need packed");
  }
};

}  // namespace blockcopy
