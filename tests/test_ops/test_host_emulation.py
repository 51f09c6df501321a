"""What the CUDA threads do, run on the host, against the pure-PyTorch twins."""

from __future__ import annotations

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu.host_emulation import INCLUDE, HostEmulation
from blockcopy_plugins.ops import gather_reference, scatter_

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))) or not INCLUDE.is_dir(),
    reason="needs a C++ compiler and the cuda_ops folder",
)


@pytest.fixture(scope="module")
def emulation(tmp_path_factory):
    return HostEmulation(tmp_path_factory.mktemp("emulation"))


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
def test_gather_threads_equal_the_twin(emulation, case):
    *arguments, grid = case
    out = emulation.gather(*arguments, 7.0, grid)
    assert out is not None
    assert torch.equal(out, gather_reference(*arguments, 7.0))


@settings(max_examples=100, deadline=None)
@given(case=cases(), block_h=st.integers(1, 5), block_w=st.integers(1, 10), data=st.data())
def test_scatter_threads_equal_the_twin(emulation, case, block_h, block_w, data):
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
    scatter_.reference(expected, packed, blocks)
    assert emulation.scatter_(state, packed, blocks, grid)
    assert torch.equal(state, expected)


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("value", [-1, 2, 2**31 - 1, -(2**31)])
def test_bad_block_is_refused(emulation, column, value):
    state = torch.zeros(2, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    table = torch.tensor([[0], [1]], dtype=torch.int32)
    blocks = torch.zeros(1, 3, dtype=torch.int32)
    assert emulation.gather(state, blocks, table, table, 0.0) is not None
    packed = torch.ones(1, 4, 1, 1)
    blocks[0, column] = value
    assert emulation.gather(state, blocks, table, table, 0.0) is None
    assert not emulation.scatter_(state, packed, blocks)
    assert torch.all(state == 0)


@pytest.mark.parametrize("value", [-2, 2, 2**31 - 1])
def test_bad_table_entry_is_refused(emulation, value):
    state = torch.zeros(1, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    blocks = torch.zeros(1, 3, dtype=torch.int32)
    good, bad = torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([[0, value]]).int()
    assert emulation.gather(state, blocks, bad, good, 0.0) is None
    assert emulation.gather(state, blocks, good, bad, 0.0) is None


@pytest.mark.parametrize(
    ("size", "a", "b", "expected"),
    [(32, 16, 64, 16), (24, 16, 16, 8), (12, 16, 16, 4), (6, 16, 16, 2), (3, 16, 16, 1),
     (64, 8, 16, 8), (64, 16, 4, 4), (64, 0, 0, 16)],
)  # fmt: skip
def test_vector_width(emulation, size, a, b, expected):
    assert emulation.vector_width(size, a, b) == expected
