"""Weights that are written to behind torch's back, against the dense model."""

from __future__ import annotations

import copy
from weakref import ref

import numpy as np
import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.conv import weight_watch
from blockcopy_plugins.engine.conv.weight_watch import WeightWatch, are_as_seen
from blockcopy_plugins.ops.library import has_extension

pytestmark = pytest.mark.skipif(not bc.ops.conv_kernels(), reason="no kernels for this processor")


@pytest.fixture
def pair():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 300, 3, padding=1)
    ).eval()
    model = bc.blockcopy_(net, bc.BlockCopyConfig(16, "all"))
    frame = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        model(frame)
    return model, frame


def dense(model, frame):
    with bc.dense(model), torch.no_grad():
        return model(frame)


def scale(weight):
    weight.data.mul_(2)


def fill(weight):
    weight.detach().numpy()[:] = 0.25


def swap(weight):
    weight.data.copy_(weight.data.flip(0))


@pytest.mark.parametrize("write", [scale, fill, swap])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_whole_weight_is_seen_in_the_next_frame(pair, write, layer):
    model, frame = pair
    before, version = dense(model, frame), model[layer].weight._version
    write(model[layer].weight)
    assert model[layer].weight._version == version  # torch has not seen it
    with torch.no_grad():
        found = model(frame)
    wanted = dense(model, frame)
    assert (wanted - before).abs().max() > 0.01
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_become_of_another_type(pair, dtype):
    """The parameters stay the same objects."""
    model, frame = pair
    bc.reset_(model)
    model.to(dtype)
    frame = frame.to(dtype)
    for _ in range(4):
        with torch.no_grad():
            out = model(frame)
        wanted = dense(model, frame)
        assert out.dtype == dtype
        scale = wanted.float().abs().max() * torch.finfo(dtype).eps
        torch.testing.assert_close(out.float(), wanted.float(), atol=float(16 * scale), rtol=0)


@pytest.mark.parametrize("place", [(0, 0, 0, 1), (150, 7, 1, 1), (299, 31, 2, 1)])
def test_one_value_is_seen_when_its_part_comes_round(pair, place):
    model, frame = pair
    model[2].weight.data[place] += 3.0
    with torch.no_grad():
        # Two weights, of which the larger one has six parts.
        for _ in range(12):
            found = model(frame)
    wanted = dense(model, frame)
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


def test_one_value_is_seen_in_a_program_too(pair):
    model, frame = pair
    with torch.no_grad():
        for _ in range(6):
            model(frame)
        replayed = bc.report(model).programs.replayed
        assert replayed
        model[2].weight.data[150, 7, 1, 1] += 3.0
        for _ in range(12):
            found = model(frame)
    wanted = dense(model, frame)
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_value_counts(dtype, layout):
    draw = np.random.default_rng(0)
    weight = torch.randn(70, 40, 5, 5).to(dtype).to(memory_format=layout)
    parts = -(-weight.numel() // weight_watch._PART)
    watch = WeightWatch(weight)
    assert parts == 5
    for place in zip(*(draw.integers(0, side, 12) for side in weight.shape), strict=True):
        kept = copy.copy(weight[place].item())
        assert all(watch.next_part_is_the_same() for _ in range(parts))
        weight.data[place] = kept + 1
        assert not all([watch.next_part_is_the_same() for _ in range(parts)])
        weight.data[place] = kept


def test_where_nothing_can_be_seen_nothing_is_said():
    strided = torch.randn(8, 8, 3, 3)[:, ::2]
    for weight in (strided, torch.randn(4, 4, 1, 1, dtype=torch.float64), torch.empty(0, 3, 1, 1)):
        watch = WeightWatch(weight)
        weight.data.add_(1)
        assert watch.next_part_is_the_same()


@pytest.mark.parametrize("is_native", [True, False])
def test_tensors_that_nobody_has_written_to(is_native, monkeypatch):
    if not is_native:
        monkeypatch.setattr(weight_watch, "_NATIVE", None)
    elif not has_extension():
        pytest.skip("the kernels are not built")
    tensors = [torch.zeros(3), torch.ones(2)]
    references = tuple(map(ref, tensors))
    seen = [n for t in tensors for n in (t._version, t.data_ptr())]
    assert are_as_seen(references, seen) and are_as_seen((), [])
    assert not are_as_seen(references[:1], seen)
    tensors[1].add_(0)
    assert not are_as_seen(references, seen)
    seen[2] = tensors[1]._version
    assert are_as_seen(references, seen)
    tensors[0].data = torch.zeros(3)
    assert not are_as_seen(references, seen)
    seen[1] = tensors[0].data_ptr()
    assert are_as_seen(references, seen)
    del tensors[0]
    assert not are_as_seen(references, seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_of_parts_are_torchs(dtype, layout):
    if weight_watch._NATIVE is None:
        pytest.skip("there is no extension")
    # More than a part, and of all kinds of bits.
    bits = {4: torch.int32, 2: torch.int16}[dtype.itemsize]
    limits = torch.iinfo(bits)
    values = torch.randint(limits.min, limits.max, (3, 7, 40, 41), dtype=bits)
    weight = values.view(dtype).contiguous(memory_format=layout)
    flat = weight.as_strided((weight.numel(),), (1,)).view(bits).to(torch.int64)
    for first, count in ((0, 1 << 14), (1 << 14, 1 << 14), (weight.numel() - 5, 100), (0, 0)):
        wanted = int(flat[first : first + count].sum())
        assert weight_watch._NATIVE.sum_of_bits(weight, first, count) == wanted


def test_memory_with_gaps_is_not_summed():
    if weight_watch._NATIVE is None:
        pytest.skip("there is no extension")
    for wrong in (torch.ones(8)[::2], torch.ones(8, dtype=torch.float64)):
        with pytest.raises(ValueError, match="sum_of_bits"):
            weight_watch._NATIVE.sum_of_bits(wrong, 0, 2)
    with pytest.raises(ValueError, match="sum_of_bits"):
        weight_watch._NATIVE.sum_of_bits(torch.ones(8), -1, 2)
