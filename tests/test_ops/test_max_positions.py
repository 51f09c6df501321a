"""max_positions against torch's own indices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import max_positions

BOTH = ["op", "twin"]


def run(name, *args):
    return (max_positions if name == "op" else max_positions.reference)(*args)


@st.composite
def poolings(draw):
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size = tuple((kernel[i] - 1) * dilation[i] + draw(st.integers(1, 9)) for i in (0, 1))
    shape = draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 16, 21])), *size
    return shape, kernel, stride, padding, dilation, draw(st.booleans())


@pytest.mark.parametrize("name", BOTH)
@settings(max_examples=80, deadline=None)
@given(poolings(), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_they_are_torchs(name, pooling, special, dtype):
    shape, kernel, stride, padding, dilation, ceil_mode = pooling
    draw = torch.Generator().manual_seed(sum(shape))
    # Few different values, so that there are equal ones in many windows.
    map_ = torch.randint(-3, 4, shape, generator=draw).to(dtype)
    if special:
        where = torch.rand(shape, generator=draw)
        map_[where < 0.2] = float("-inf")
        map_[where > 0.8] = float("nan")
    how = (kernel, stride, padding, dilation)
    _, wanted = F.max_pool2d(map_, *how, ceil_mode, return_indices=True)
    last = map_.contiguous(memory_format=torch.channels_last)
    found = run(name, last, *how, tuple(wanted.shape[2:]))
    assert torch.equal(found, wanted)
    assert found.is_contiguous()


@pytest.mark.parametrize("name", BOTH)
def test_what_is_no_pooling_is_refused(name):
    map_ = torch.zeros(1, 2, 8, 8).contiguous(memory_format=torch.channels_last)
    how = [(2, 2), (2, 2), (0, 0), (1, 1)]
    with pytest.raises(ValueError, match="max_positions: no pooling has"):
        run(name, map_, *how, (9, 4))
    with pytest.raises(ValueError, match="channels last"):
        run(name, torch.zeros(1, 2, 8, 8), *how, (4, 4))
    with pytest.raises(TypeError, match="max_positions: map has dtype"):
        run(name, map_.double(), *how, (4, 4))


def test_opcheck():
    map_ = torch.randn(1, 5, 8, 8).contiguous(memory_format=torch.channels_last)
    args = (map_, [3, 3], [2, 2], [1, 1], [1, 1], [4, 4])
    torch.library.opcheck(torch.ops.blockcopy.max_positions.default, args)
