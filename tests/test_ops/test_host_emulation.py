"""What the CUDA threads do, run on the host: every "thread" of a launch in a loop, against loops.

`lanes.h` holds all of the kernels but the names of the thread registers, so that vector widths, the
dealing of work to threads and the refusal of bad indices are checked without a GPU.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import gather_reference, scatter_reference_

INCLUDE = Path(__file__).resolve().parents[2] / "cuda_ops" / "include"
COMPILER = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(
    COMPILER is None or not INCLUDE.is_dir(), reason="needs a C++ compiler and the cuda_ops folder"
)

SOURCE = r"""
#include <cstring>
#include "blockcopy/lanes.h"
using namespace blockcopy;

template <typename Function>
bool every_thread(const LaunchShape& s, Function f) {
  bool valid = true;
  for (uint32_t bx = 0; bx < s.grid_x; ++bx)
    for (uint32_t by = 0; by < s.grid_y; ++by)
      for (uint32_t ty = 0; ty < s.block_y; ++ty)
        for (uint32_t tx = 0; tx < s.block_x; ++tx)
          valid &= f(place_of(s, bx, by, tx, ty));
  return valid;
}

template <typename Function>
bool dispatch(int64_t bytes, Function f) {
  switch (bytes) {
    case 16: return f(Words32<4>{});
    case 8: return f(Words32<2>{});
    case 4: return f(uint32_t{});
    case 2: return f(uint16_t{});
    default: return f(uint8_t{});
  }
}

// grid_x, grid_y: 0 = as launch_shape says, otherwise fewer blocks than that, each doing more.
static LaunchShape limited(LaunchShape s, uint32_t grid_x, uint32_t grid_y) {
  if (grid_x && grid_x < s.grid_x) s.grid_x = grid_x;
  if (grid_y && grid_y < s.grid_y) s.grid_y = grid_y;
  return s;
}

extern "C" int64_t width_of(int64_t pixel_bytes, const void* a, const void* b) {
  return vector_bytes(pixel_bytes, a, b);
}

extern "C" bool run_gather(const int64_t* g, const void* state, const Block* blocks,
                           const int32_t* rows, const int32_t* cols, const FillPattern* fill,
                           int64_t pixel_bytes, void* out, uint32_t grid_x, uint32_t grid_y) {
  const GatherGeometry geometry{{g[0], g[1], g[2]}, g[3], g[4], g[5], g[6], g[7]};
  const int64_t bytes = vector_bytes(pixel_bytes, state, out);
  const uint32_t per_pixel = pixel_bytes / bytes;
  const LaunchShape shape = limited(
      launch_shape(geometry.count * geometry.window_h, geometry.window_w * per_pixel), grid_x,
      grid_y);
  return dispatch(bytes, [&](auto zero) {
    using Vector = decltype(zero);
    Vector value;
    std::memcpy(&value, fill->byte, sizeof(Vector));
    return every_thread(shape, [&](const Place& place) {
      return gather_lane(geometry, static_cast<const Vector*>(state), blocks, rows, cols, value,
                         per_pixel, static_cast<Vector*>(out), place);
    });
  });
}

extern "C" bool run_scatter(const int64_t* g, void* state, const void* packed,
                            const Block* blocks, int64_t pixel_bytes, uint32_t grid_x,
                            uint32_t grid_y) {
  const ScatterGeometry geometry{{g[0], g[1], g[2]}, g[3], g[4], g[5]};
  const int64_t bytes = vector_bytes(pixel_bytes, state, packed);
  const uint32_t per_pixel = pixel_bytes / bytes;
  const LaunchShape shape = limited(
      launch_shape(geometry.count * geometry.block_h, geometry.block_w * per_pixel), grid_x,
      grid_y);
  return dispatch(bytes, [&](auto zero) {
    using Vector = decltype(zero);
    return every_thread(shape, [&](const Place& place) {
      return scatter_lane(geometry, static_cast<Vector*>(state),
                          static_cast<const Vector*>(packed), blocks, per_pixel, place);
    });
  });
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulation")
    source, output = folder / "emulation.cpp", folder / "emulation.so"
    source.write_text(SOURCE)
    command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += [f"-I{INCLUDE}", str(source), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded = ctypes.CDLL(str(output))
    loaded.run_gather.restype = loaded.run_scatter.restype = ctypes.c_bool
    loaded.width_of.restype = ctypes.c_int64
    return loaded


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def sizes(*values: int) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def pixel_bytes(tensor: torch.Tensor) -> ctypes.c_int64:
    return ctypes.c_int64(tensor.size(1) * tensor.element_size())


def emulate_gather(library, state, blocks, rows, cols, fill, grid=(0, 0)):
    """The result, None where a thread found a bad index; and whether nothing else was written."""
    shape = (blocks.size(0), state.size(1), rows.size(1), cols.size(1))
    # A guard zone of one more block finds writes beyond the end.
    memory = torch.full((shape[0] + 1, *shape[1:]), 99.0, dtype=state.dtype)
    memory = memory.contiguous(memory_format=torch.channels_last)
    pattern = torch.full((16 // state.element_size(),), fill, dtype=state.dtype)
    geometry = sizes(state.size(0), *state.shape[2:], blocks.size(0), rows.size(0), cols.size(0),
                     rows.size(1), cols.size(1))  # fmt: skip
    valid = library.run_gather(
        geometry, pointer(state), pointer(blocks), pointer(rows), pointer(cols), pointer(pattern),
        pixel_bytes(state), pointer(memory), *(ctypes.c_uint32(limit) for limit in grid),
    )  # fmt: skip
    assert torch.all(memory[-1] == 99.0)
    return memory[:-1] if valid else None


def emulate_scatter(library, state, packed, blocks, grid=(0, 0)) -> bool:
    geometry = sizes(
        state.size(0), *state.shape[2:], packed.size(0), packed.size(2), packed.size(3)
    )
    return library.run_scatter(
        geometry, pointer(state), pointer(packed), pointer(blocks), pixel_bytes(state),
        *(ctypes.c_uint32(limit) for limit in grid),
    )  # fmt: skip


@st.composite
def cases(draw):
    """A map with random tables and blocks, and limits on the launch."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    slots, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    channels = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16, 300]))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.float64, torch.uint8]))

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int32)

    state = torch.randint(0, 90, (slots, channels, height, width), generator=generator).to(dtype)
    rows = integers(-1, height, draw(st.integers(1, 3)), draw(st.integers(1, 6)))
    cols = integers(-1, width, draw(st.integers(1, 3)), draw(st.integers(1, 12)))
    count = draw(st.integers(1, 5))
    blocks = torch.stack(
        [integers(0, end, count) for end in (slots, rows.size(0), cols.size(0))], dim=1
    )
    grid = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    return state.contiguous(memory_format=torch.channels_last), blocks, rows, cols, grid


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_gather_threads_equal_the_twin(library, case):
    *arguments, grid = case
    out = emulate_gather(library, *arguments, 7.0, grid)
    assert out is not None
    assert torch.equal(out, gather_reference(*arguments, 7.0))


@settings(max_examples=100, deadline=None)
@given(case=cases(), block_h=st.integers(1, 5), block_w=st.integers(1, 10), data=st.data())
def test_scatter_threads_equal_the_twin(library, case, block_h, block_w, data):
    state, _, _, _, grid = case
    every = torch.cartesian_prod(
        torch.arange(state.size(0)),
        torch.arange(-(-state.size(2) // block_h)),
        torch.arange(-(-state.size(3) // block_w)),
    )
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(len(every)))
    blocks = every[order[: data.draw(st.integers(1, len(every)))]].int().contiguous()
    packed = torch.arange(len(blocks) * state.size(1) * block_h * block_w).remainder(97)
    packed = packed.view(len(blocks), state.size(1), block_h, block_w).to(state.dtype)
    packed = packed.contiguous(memory_format=torch.channels_last)
    expected = state.clone()
    scatter_reference_(expected, packed, blocks)
    assert emulate_scatter(library, state, packed, blocks, grid)
    assert torch.equal(state, expected)


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("value", [-1, 2, 2**31 - 1, -(2**31)])
def test_bad_block_is_refused(library, column, value):
    state = torch.zeros(2, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    table = torch.tensor([[0], [1]], dtype=torch.int32)
    blocks = torch.zeros(1, 3, dtype=torch.int32)
    assert emulate_gather(library, state, blocks, table, table, 0.0) is not None
    packed = torch.ones(1, 4, 1, 1)
    blocks[0, column] = value
    assert emulate_gather(library, state, blocks, table, table, 0.0) is None
    assert not emulate_scatter(library, state, packed, blocks)
    assert torch.all(state == 0)


@pytest.mark.parametrize("value", [-2, 2, 2**31 - 1])
def test_bad_table_entry_is_refused(library, value):
    state = torch.zeros(1, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    blocks = torch.zeros(1, 3, dtype=torch.int32)
    good, bad = torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([[0, value]]).int()
    assert emulate_gather(library, state, blocks, bad, good, 0.0) is None
    assert emulate_gather(library, state, blocks, good, bad, 0.0) is None


@pytest.mark.parametrize(
    ("size", "a", "b", "expected"),
    [(32, 16, 64, 16), (24, 16, 16, 8), (12, 16, 16, 4), (6, 16, 16, 2), (3, 16, 16, 1),
     (64, 8, 16, 8), (64, 16, 4, 4), (64, 0, 0, 16)],
)  # fmt: skip
def test_vector_width(library, size, a, b, expected):
    width = library.width_of(ctypes.c_int64(size), ctypes.c_void_p(a), ctypes.c_void_p(b))
    assert width == expected
