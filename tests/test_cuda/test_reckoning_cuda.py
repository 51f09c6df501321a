"""The CUDA kernels that reckon, against float64: within rounding, the same bits each time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.reckoning import DTYPES, ReckoningOnDevice, results
from blockcopy_plugins import ops

CHANNELS_LAST = torch.channels_last


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_within_rounding(device, dtype):
    found = list(results(ReckoningOnDevice(str(device)), dtype, quick=False, large=True))
    assert len(found) > 200
    assert [(kernel, case) for kernel, case, fits in found if not fits] == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_values_of_16_bits_are_read_and_written(device, dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(dtype).view(1, 16, 64, 64).contiguous(memory_format=CHANNELS_LAST)
    one, none = torch.ones(1, 16, device=device), torch.full((1, 16), -0.0, device=device)
    found = ops.scale_shift(values.to(device), None, one, none).cpu()
    numbers = ~values.isnan()
    assert torch.equal(found.isnan(), ~numbers)
    assert torch.equal(found.view(torch.int16)[numbers], values.view(torch.int16)[numbers])


def work(device, dtype):
    """All of them on a frame, an output and a map of a network's size."""
    draw = torch.Generator().manual_seed(0)
    frame = torch.randn(1, 3, 1024, 2048, generator=draw).to(device, dtype)
    frame = frame.contiguous(memory_format=CHANNELS_LAST)
    packed = torch.randn(32, 256, 32, 32, generator=draw).to(device, dtype)
    packed = packed.contiguous(memory_format=CHANNELS_LAST)
    places = torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(8)).int()
    places = places.contiguous().to(device)
    scale, shift = torch.randn(2, 2, 256, generator=draw).to(device)
    logits = torch.randn(2, 19, 256, 512, generator=draw).to(device, dtype)
    sizes = ((1024, 2048), (8, 16), 128, 16, 1.0)

    def run():
        cells = ops.reduce_picture(logits, 2).log_softmax(1)
        return (
            ops.reduce_picture(frame, 8),
            ops.block_moments(packed, places, (32, 32), (8, 16), (256, 512), 32),
            ops.scale_shift(packed, places, scale, shift),
            ops.block_divergence(cells[0], cells[1], *sizes),
            ops.all_finite(logits),
        )

    return (frame, packed, logits), run


def test_the_same_bits_each_time(device):
    _, run = work(device, torch.float16)
    first = [value.clone() for value in run()]
    for _ in range(3):
        assert all(map(torch.equal, run(), first))


def test_a_capture(device):
    """All of them may be part of a graph: nothing in them waits, and nothing of the past stays."""
    if device.type != "cuda":
        pytest.skip("graphs are CUDA's")
    inputs, run = work(device, torch.float16)
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    for odd in (float("nan"), 0.0):
        for value in inputs:
            value.normal_()
            value[0, 0, 0, 0] = odd
        graph.replay()
        torch.cuda.synchronize()
        for one, other in zip(found, run(), strict=True):
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
        assert bool(found[-1]) == (odd == 0)


def test_the_current_stream(device):
    if device.type != "cuda":
        pytest.skip("streams are CUDA's")
    inputs, run = work(device, torch.float16)
    before = [value.clone() for value in inputs]
    expected = [value.clone() for value in run()]
    for value in inputs:
        value.zero_()
    busy = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(20):
            busy = busy @ busy * 1e-3
        for value, its in zip(inputs, before, strict=True):
            value.copy_(its)
        found = [value.clone() for value in run()]
    side.synchronize()
    assert all(map(torch.equal, found, expected))


def test_nothing_waits_for_the_device(device):
    if device.type != "cuda":
        pytest.skip("the CPU waits for nobody")
    _, run = work(device, torch.float16)
    run()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def test_tensors_of_two_devices_are_refused(device):
    if device.type != "cuda":
        pytest.skip("needs two kinds of device")
    packed = torch.zeros(1, 8, 2, 2, device=device).contiguous(memory_format=CHANNELS_LAST)
    places = torch.zeros(1, 3, dtype=torch.int32)
    scale = torch.ones(1, 8, device=device)
    with pytest.raises(ValueError, match="places is on cpu"):
        ops.block_moments(packed, places, (2, 2), (1, 1), (2, 2), 2)
    with pytest.raises(ValueError, match="scale is on cpu"):
        ops.scale_shift(packed, places.to(device), scale.cpu(), scale)
    with pytest.raises(ValueError, match="same device"):
        ops.block_divergence(
            torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, device=device), (16, 16), (1, 1), 16, 4, 1.0
        )
