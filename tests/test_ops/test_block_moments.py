"""block_moments and scale_shift against sums over slices in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops.block_moments import (
    block_moments,
    scale_shift,
)

MOMENTS = [pytest.param(block_moments, id="op"), pytest.param(block_moments.reference, id="twin")]
SCALES = [pytest.param(scale_shift, id="op"), pytest.param(scale_shift.reference, id="twin")]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
EPS = {torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6, torch.float64: 1e-12}


def cells(map_, block, blocks):
    """Each block's pixels that are on the map, in float64, image by image and row by row."""
    for image in map_.double():
        for y in range(blocks[0]):
            for x in range(blocks[1]):
                yield image[
                    :,
                    y * block[0] : (y + 1) * block[0],
                    x * block[1] : (x + 1) * block[1],
                ]


def wanted_moments(map_, block, blocks, groups):
    rows = []
    for cell in cells(map_, block, blocks):
        values = cell.reshape(groups, -1)
        count = float(values.shape[1])
        if not count:
            rows.append(torch.zeros(1 + 2 * groups, dtype=torch.float64))
            continue
        mean = values.mean(1)
        spread = (values - mean[:, None]).square().sum(1)
        rows.append(torch.cat((torch.tensor([count], dtype=torch.float64), mean, spread)))
    return torch.stack(rows)


def assert_moments(found, wanted, groups, eps):
    assert found.dtype == torch.float64 and found.shape == wanted.shape
    assert torch.equal(found[:, 0], wanted[:, 0])
    size = 1 + wanted[:, 1 : 1 + groups].abs().amax()
    assert (found - wanted)[:, 1 : 1 + groups].abs().max() <= eps * size
    spread = wanted[:, 1 + groups :]
    assert (found[:, 1 + groups :] - spread).abs().max() <= 10 * eps * (spread.amax() + 1)


def packed_of(map_, block, blocks, chosen):
    """The chosen blocks, with NaN where they reach beyond the map."""
    out = map_.new_full((len(chosen), map_.shape[1], *block), float("nan"))
    parts = list(cells(map_, block, blocks))
    places = []
    for i, number in enumerate(chosen):
        part = parts[number]
        out[i, :, : part.shape[1], : part.shape[2]] = part.to(map_.dtype)
        image, cell = divmod(number, blocks[0] * blocks[1])
        places.append((image, *divmod(cell, blocks[1])))
    return out, torch.tensor(places, dtype=torch.int32).view(-1, 3)


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(
    images=st.integers(1, 2),
    groups=st.sampled_from((1, 2, 3)),
    of_group=st.sampled_from((1, 5, 16)),
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    block=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    more=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    away=st.sampled_from((0.0, 30.0)),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_moments(
    moments, dtype, images, groups, of_group, size, block, more, away, channels_last, seed
):
    torch.manual_seed(seed)
    map_ = (torch.randn(images, groups * of_group, *size) + away).to(dtype)
    if channels_last:
        map_ = map_.contiguous(memory_format=torch.channels_last)
    blocks = tuple(-(-s // b) + m for s, b, m in zip(size, block, more, strict=True))
    wanted = wanted_moments(map_, block, blocks, groups)
    eps = EPS[dtype]
    found = moments(map_, None, block, blocks, size, groups)
    assert_moments(found, wanted, groups, eps)
    chosen = torch.randperm(len(wanted))[: 1 + seed % len(wanted)].tolist()
    packed, places = packed_of(map_, block, blocks, chosen)
    found = moments(packed, places, block, blocks, size, groups)
    assert_moments(found, wanted[chosen], groups, eps)


@pytest.mark.parametrize("moments", MOMENTS)
def test_hand_computed_moments_beside_the_edge(moments):
    """A block of 2x2 of which one column is on the map: 1, 3 and, in the other group, 10, 10."""
    packed = torch.tensor([[[[1.0, 99.0], [3.0, 99.0]], [[10.0, 99.0], [10.0, 99.0]]]])
    places = torch.tensor([[0, 0, 1]], dtype=torch.int32)
    found = moments(packed, places, (2, 2), (1, 2), (2, 3), 2)
    assert found.tolist() == [[2.0, 2.0, 10.0, 2.0, 0.0]]


@pytest.mark.parametrize("moments", MOMENTS)
def test_no_blocks(moments):
    places = torch.zeros(0, 3, dtype=torch.int32)
    assert moments(torch.zeros(0, 4, 2, 2), places, (2, 2), (2, 2), (4, 4), 2).shape == (0, 5)


@pytest.mark.parametrize("scaled", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("with_places", [True, False])
def test_scale_shift(scaled, dtype, channels_last, with_places):
    torch.manual_seed(0)
    map_ = torch.randn(3, 7, 5, 6).to(dtype)
    map_[0, 0, 0, 0], map_[1, 1, 1, 1] = float("nan"), float("inf")
    if channels_last:
        map_ = map_.contiguous(memory_format=torch.channels_last)
    images = [1, 0, 1] if with_places else [0, 1, 2]
    places = None
    if with_places:
        places = torch.tensor([[i, 5, 9] for i in images], dtype=torch.int32)
    scale, shift = torch.rand(2, max(images) + 1, 7, dtype=torch.float64) + 0.5
    found = scaled(map_, places, scale, shift)
    wanted = map_.double() * scale[images][:, :, None, None] + shift[images][:, :, None, None]
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    work = torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(
        found.to(work), wanted.to(work), rtol=torch.finfo(dtype).eps, atol=1e-6, equal_nan=True
    )


def test_bfloat16_is_rounded_to_the_nearest():
    """As torch does it, values half-way between two included."""
    values = torch.linspace(1, 2, 4097).view(1, 1, 1, -1)
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    wide = torch.ones(1, 1, 1, 4097, dtype=torch.bfloat16)
    for value in values.flatten()[::97]:
        found = scale_shift(wide, None, value.view(1, 1), none)
        assert torch.equal(found, value.bfloat16().expand_as(found))
    assert torch.equal(scale_shift(values.bfloat16(), None, one, none), values.bfloat16())


def test_operators_are_well_formed():
    map_ = torch.randn(2, 4, 6, 6)
    places = torch.tensor([[0, 0, 0], [1, 0, 1]], dtype=torch.int32)
    for given_ in (None, places):
        size = (6, 6) if given_ is None else (6, 12)
        torch.library.opcheck(
            torch.ops.blockcopy.block_moments.default, (map_, given_, (6, 6), (1, 2), size, 2)
        )
        torch.library.opcheck(
            torch.ops.blockcopy.scale_shift.default,
            (map_, given_, torch.rand(2, 4), torch.rand(2, 4)),
        )


PLACES = torch.zeros(2, 3, dtype=torch.int32)
MAP = torch.zeros(2, 4, 2, 2)
BAD_MOMENTS = {
    "three dimensions": (ValueError, (MAP[0], PLACES, (2, 2), (2, 2), (4, 4), 2)),
    "integers": (TypeError, (MAP.int(), PLACES, (2, 2), (2, 2), (4, 4), 2)),
    "other blocks": (ValueError, (MAP, PLACES, (4, 2), (2, 2), (4, 4), 2)),
    "another size": (ValueError, (MAP, None, (2, 2), (2, 2), (4, 4), 2)),
    "groups that do not divide": (ValueError, (MAP, PLACES, (2, 2), (2, 2), (4, 4), 3)),
    "too few places": (ValueError, (MAP, PLACES[:1], (2, 2), (2, 2), (4, 4), 2)),
    "places of int64": (TypeError, (MAP, PLACES.long(), (2, 2), (2, 2), (4, 4), 2)),
}


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("name", BAD_MOMENTS)
def test_errors_of_moments(moments, name):
    error, arguments = BAD_MOMENTS[name]
    with pytest.raises(error, match="block_moments"):
        moments(*arguments)


BAD_SCALES = {
    "three dimensions": (ValueError, (MAP[0], PLACES, torch.ones(1, 4), torch.ones(1, 4))),
    "integers": (TypeError, (MAP.int(), PLACES, torch.ones(1, 4), torch.ones(1, 4))),
    "other channels": (ValueError, (MAP, PLACES, torch.ones(1, 3), torch.ones(1, 3))),
    "other images": (ValueError, (MAP, None, torch.ones(1, 4), torch.ones(1, 4))),
    "shift unlike scale": (ValueError, (MAP, PLACES, torch.ones(1, 4), torch.ones(2, 4))),
    "no such image": (IndexError, (MAP, PLACES + 1, torch.ones(1, 4), torch.ones(1, 4))),
}


@pytest.mark.parametrize("scaled", SCALES)
@pytest.mark.parametrize("name", BAD_SCALES)
def test_errors_of_scale_shift(scaled, name):
    error, arguments = BAD_SCALES[name]
    with pytest.raises(error, match="scale_shift|out of range"):
        scaled(*arguments)


def test_no_gradients():
    map_ = MAP.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="no_grad"):
        block_moments(map_, PLACES, (2, 2), (2, 2), (4, 4), 2)
    with pytest.raises(RuntimeError, match="no_grad"):
        scale_shift(map_, PLACES, torch.ones(1, 4), torch.ones(1, 4))
