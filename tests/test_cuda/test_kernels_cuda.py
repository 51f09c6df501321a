"""The CUDA kernels that copy against the pure-PyTorch twins on the CPU: copies are exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins import ops
from blockcopy_plugins.ops import gather_reference, scatter_

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64)


@st.composite
def cases(draw):
    """A map, its blocks and tables; channels for each width of a vector, 1 to 16 bytes."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    slots, height, width = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 40)),
    )
    channels = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16, 64, 300]))
    dtype = draw(st.sampled_from(DTYPES))

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int32)

    state = torch.randint(0, 90, (slots, channels, height, width), generator=generator).to(dtype)
    rows = integers(-1, height, draw(st.integers(1, 4)), draw(st.integers(1, 18)))
    cols = integers(-1, width, draw(st.integers(1, 4)), draw(st.integers(1, 34)))
    count = draw(st.integers(0, 9))
    ends = (slots, len(rows), len(cols))
    blocks = torch.stack([integers(0, end, count) for end in ends], 1)
    return state.contiguous(memory_format=torch.channels_last), blocks, rows, cols


def shifted(tensor: torch.Tensor, device, elements: int) -> torch.Tensor:
    """The same values, dense channels last, at an address that many elements behind another."""
    size = tensor.shape
    memory = torch.zeros(tensor.numel() + elements, dtype=tensor.dtype, device=device)[elements:]
    out = memory.view(size[0], size[2], size[3], size[1]).permute(0, 3, 1, 2)
    return out.copy_(tensor)


@given(case=cases(), offset=st.sampled_from([0, 0, 1, 2, 4]), fill=st.sampled_from([0.0, 7.0]))
@settings(max_examples=200, deadline=None)
def test_gather(device, case, offset, fill):
    state, blocks, rows, cols = case
    expected = gather_reference(state, blocks, rows, cols, fill)
    there = [blocks.to(device), rows.to(device), cols.to(device)]
    found = ops.gather(shifted(state, device, offset), *there, fill)
    assert found.is_contiguous(memory_format=torch.channels_last) or found.numel() == 0
    assert torch.equal(found.cpu(), expected)
    out = torch.full_like(expected, 99, memory_format=torch.channels_last).to(device)
    assert ops.gather(shifted(state, device, offset), *there, fill, out=out) is out
    assert torch.equal(out.cpu(), expected)


@given(case=cases(), block=st.tuples(st.integers(1, 9), st.integers(1, 20)), data=st.data())
@settings(max_examples=200, deadline=None)
def test_scatter(device, case, block, data):
    state = case[0]
    every = torch.cartesian_prod(
        torch.arange(state.size(0)),
        torch.arange(-(-state.size(2) // block[0])),
        torch.arange(-(-state.size(3) // block[1])),
    )
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(len(every)))
    blocks = every[order[: data.draw(st.integers(0, len(every)))]].int().contiguous()
    packed = torch.arange(len(blocks) * state.size(1) * block[0] * block[1]).remainder(97)
    packed = packed.view(len(blocks), state.size(1), *block).to(state.dtype)
    packed = packed.contiguous(memory_format=torch.channels_last)
    expected = state.clone(memory_format=torch.preserve_format)
    scatter_.reference(expected, packed, blocks)
    offset = data.draw(st.sampled_from([0, 0, 1, 2, 4]))
    found = shifted(state, device, offset)
    ops.scatter_(found, packed.to(device), blocks.to(device))
    assert torch.equal(found.cpu(), expected)


def large(device, dtype):
    state = torch.randn(2, 64, 256, 512, device=device).to(dtype)
    state = state.contiguous(memory_format=torch.channels_last)
    grid = torch.rand(2, 8, 16, device=device) < 0.3
    blocks = grid.nonzero().int().contiguous()
    rows, cols = (
        ops.window.window_table(blocks=n, block_out=32, size=n * 32, kernel=3, padding=1).to(device)
        for n in (8, 16)
    )
    return state, blocks, rows, cols


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sizes_of_a_network(device, dtype):
    state, blocks, rows, cols = large(device, dtype)
    found = ops.gather(state, blocks, rows, cols)
    expected = gather_reference(state.cpu(), blocks.cpu(), rows.cpu(), cols.cpu(), 0.0)
    assert torch.equal(found.cpu(), expected)
    packed = found[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)
    target = torch.zeros_like(state)
    ops.scatter_(target, packed, blocks)
    again = torch.zeros_like(state.cpu())
    scatter_.reference(again, packed.cpu(), blocks.cpu())
    assert torch.equal(target.cpu(), again)


def test_a_layout_that_is_not_channels_last(device):
    state, blocks, rows, cols = large(device, torch.float32)
    found = ops.gather(state.contiguous(), blocks, rows, cols)
    assert torch.equal(found, ops.gather(state, blocks, rows, cols))


def test_the_current_stream(device):
    """What a side stream computes is read there, and what it gives is used there, in order."""
    if device.type != "cuda":
        pytest.skip("streams are CUDA's")
    state, blocks, rows, cols = large(device, torch.float32)
    expected = ops.gather(state * 2, blocks, rows, cols) + 1
    busy = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(20):
            busy = busy @ busy * 1e-3
        doubled = state * 2
        found = ops.gather(doubled, blocks, rows, cols) + 1
    side.synchronize()
    assert torch.equal(found, expected)


def test_a_capture(device):
    """Both kernels may be part of a graph: nothing in them waits."""
    if device.type != "cuda":
        pytest.skip("graphs are CUDA's")
    state, blocks, rows, cols = large(device, torch.float16)
    ops.gather(state, blocks, rows, cols)
    target = torch.zeros_like(state)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = ops.gather(state, blocks, rows, cols)
        packed = found[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)
        ops.scatter_(target, packed, blocks)
    state.normal_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, ops.gather(state, blocks, rows, cols))
    again = torch.zeros_like(state)
    ops.scatter_(again, found[:, :, 1:-1, 1:-1], blocks)
    assert torch.equal(target, again)


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    second = torch.device("cuda", 1)
    with torch.cuda.device(0):
        state, blocks, rows, cols = large(second, torch.float32)
        found = ops.gather(state, blocks, rows, cols)
        assert found.device == second and torch.cuda.current_device() == 0
        expected = gather_reference(state.cpu(), blocks.cpu(), rows.cpu(), cols.cpu(), 0.0)
        assert torch.equal(found.cpu(), expected)


def test_native_kernels_are_used(device):
    if device.type == "cuda":
        status = ops.extension_status()
        assert "CPU and CUDA" in status, f"{status}; build it with nvcc, see docs/gpu.md"


def test_tensors_of_two_devices_are_refused(device):
    if device.type != "cuda":
        pytest.skip("needs two kinds of device")
    state, blocks, rows, cols = large(device, torch.float32)
    with pytest.raises(ValueError, match="is on cpu"):
        ops.gather(state, blocks.cpu(), rows, cols)
    with pytest.raises(ValueError, match="is on cpu"):
        ops.scatter_(state, torch.zeros(len(blocks), 64, 32, 32), blocks)
