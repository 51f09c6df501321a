"""What the threads of the kernels that reckon do, run on the host, against sums in float64."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu.host_emulation import INCLUDE, HostEmulation
from benchmarks.gpu.reckoning import arranged, within

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))) or not INCLUDE.is_dir(),
    reason="needs a C++ compiler and the cuda_ops folder",
)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
EPSILON = 2.0**-24


@pytest.fixture(scope="module")
def emulation(tmp_path_factory):
    return HostEmulation(tmp_path_factory.mktemp("emulation"))


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 2),
        st.sampled_from([1, 2, 3, 4, 8, 19, 300]),
        st.integers(1, 20),
        st.integers(1, 40),
    ),  # fmt: skip
    side=st.sampled_from([1, 2, 3, 4, 7, 8, 16, 100]),
    dtype=DTYPES,
    last=st.booleans(),
    offset=st.sampled_from([0, 0, 1, 2, 4]),
    seed=st.integers(0, 2**31),
)
def test_means_of_squares(emulation, shape, side, dtype, last, offset, seed):
    frame = arranged(noise(seed, *shape).to(dtype), last, offset)
    _, _, height, width = shape
    filled = F.pad(frame.double(), (0, -width % side, 0, -height % side), value=float("nan"))
    squares = filled.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    bound = squares.abs().nanmean((3, 5)) * EPSILON * (2 * min(side, max(height, width)) + 3)
    found = emulation.reduce_picture(frame, side)
    assert within(found.double(), squares.nanmean((3, 5)), bound)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((1, 3, 16, 2048), 8),  # strips of a frame
        ((1, 3, 9, 2900), 7),
        ((1, 1, 5, 6001), 3000),  # squares wider than what a team shares
        ((1, 2100, 3, 5), 1),
        ((1, 700, 4, 7), 3),
    ],
)
def test_means_of_wide_pictures(emulation, shape, side, last):
    frame = arranged(noise(0, *shape).half(), last, 0)
    wanted = F.avg_pool2d(frame.double(), side, ceil_mode=True, count_include_pad=False)
    found = emulation.reduce_picture(frame, side).double()
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


@st.composite
def norms(draw):
    """A map or packed blocks, on a map that the last blocks stand out of."""
    group = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 20, 130]))
    groups = draw(st.sampled_from([1, 2, 3, 8, 16, 33]))
    block = draw(st.tuples(st.integers(1, 9), st.integers(1, 20)))
    blocks = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = [draw(st.integers(1, side * count)) for side, count in zip(block, blocks, strict=True)]
    dtype, packed = draw(DTYPES), draw(st.booleans())
    shape = (4, group * groups, *(block if packed else size))
    seed = draw(st.integers(0, 2**31))
    level = draw(st.sampled_from([0.0, 3.0, 100.0]))
    values = noise(seed, *shape) + level * noise(seed + 1, shape[1], 1, 1)
    map_ = arranged(values.to(dtype), True, draw(st.sampled_from([0, 0, 1, 2, 4])))
    places = None
    if packed:
        ends = (2, *blocks)
        columns = [
            torch.randint(0, end, (4,), generator=torch.Generator().manual_seed(seed + i))
            for i, end in enumerate(ends)
        ]
        places = torch.stack(columns, 1).int().contiguous()
    return map_, places, block, blocks, size, groups


@settings(max_examples=150, deadline=None)
@given(case=norms())
def test_moments_of_blocks(emulation, case):
    map_, places, block, blocks, size, groups = case
    found = emulation.block_moments(*case)
    images = range(len(map_)) if places is None else [None]
    cells = [
        (image, by, bx) for image in images for by in range(blocks[0]) for bx in range(blocks[1])
    ]
    if places is not None:
        cells = [(i, *places[i, 1:].tolist()) for i in range(len(places))]
    step = 1e-12 if map_.dtype == torch.float64 else 64 * EPSILON
    for at, (image, by, bx) in enumerate(cells):
        y, x = by * block[0], bx * block[1]
        high, wide = (max(0, min(b, s - o)) for b, s, o in zip(block, size, (y, x), strict=True))
        part = map_[image, :, :high, :wide]
        if places is None:
            part = map_[image, :, y : y + high, x : x + wide]
        part = part.double().reshape(groups, -1)
        assert found[at, 0] == part.shape[1]
        if not part.numel():
            assert (found[at] == 0).all()
            continue
        mean, spread = part.mean(1), part.var(1, unbiased=False) * part.shape[1]
        bound = step * (spread / part.shape[1]).sqrt() + 1e-12 * (1 + mean.abs())
        assert within(found[at, 1 : 1 + groups], mean, bound)
        # A float's distance from a mean that is a float is exact to a rounding of the distance.
        slack = 1e-20 + part.shape[1] * (mean.abs() * EPSILON * 2) ** 2
        assert within(found[at, 1 + groups :], spread, step * spread + slack)


@settings(max_examples=100, deadline=None)
@given(case=norms(), launch=st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_scale_and_shift(emulation, case, launch):
    map_, places, *_ = case
    scale, shift = noise(0, 2, 4, map_.shape[1])
    images = slice(None) if places is None else places[:, 0].long()
    factor, added = (values[images, :, None, None].double() for values in (scale, shift))
    product = map_.double() * factor
    found = emulation.scale_shift(map_, places, scale, shift, launch)
    work = torch.promote_types(map_.dtype, torch.float32)
    bound = torch.finfo(work).eps * 2 * (product.abs() + added.abs())
    bound = bound + torch.finfo(map_.dtype).eps * (product + added).abs() + 2.0**-24
    assert found.dtype == map_.dtype
    assert within(found.double(), product + added, bound)


@pytest.mark.parametrize("image", [-1, 2, 2**31 - 1, -(2**31)])
def test_an_image_that_is_not_there_is_refused(emulation, image):
    map_ = arranged(noise(0, 1, 8, 2, 3), True, 0)
    places = torch.tensor([[1, 0, 0]], dtype=torch.int32)
    scale = torch.ones(2, 8)
    assert emulation.scale_shift(map_, places, scale, scale) is not None
    places[0, 0] = image
    assert emulation.scale_shift(map_, places, scale, scale) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_values_of_16_bits_are_read_and_written(emulation, dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(dtype).view(1, 16, 64, 64).contiguous(memory_format=torch.channels_last)
    one, none = torch.ones(1, 16), torch.full((1, 16), -0.0)
    found = emulation.scale_shift(values, None, one, none)
    numbers = ~values.isnan()
    assert torch.equal(found.isnan(), ~numbers)
    assert torch.equal(found.view(torch.int16)[numbers], values.view(torch.int16)[numbers])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("power", [-30, -24, -20, -14, 0, 10, 15, 16, 100])
def test_rounding_to_16_bits_is_torchs(emulation, dtype, power):
    values = noise(0, 1, 64, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    scale = (1 + noise(1, 1, 64).abs()) * 2.0**power
    found = emulation.scale_shift(values, None, scale, torch.zeros(1, 64))
    expected = (values.float() * scale[:, :, None, None]).to(dtype)
    assert torch.equal(found.contiguous(), expected.contiguous())


def test_what_is_not_finite_shows_where_it_is(emulation):
    frame = torch.zeros(1, 3, 64, 64)
    frame[0, 1, 37, 18] = float("nan")
    bad = ~emulation.reduce_picture(frame, 8).isfinite()
    assert bad.nonzero().tolist() == [[0, 1, 4, 2]]
    packed = arranged(frame, True, 0)
    places = torch.zeros(1, 3, dtype=torch.int32)
    moments = emulation.block_moments(packed, places, (64, 64), (1, 1), (64, 64), 3)
    assert moments.isnan().nonzero().tolist() == [[0, 2], [0, 5]]
