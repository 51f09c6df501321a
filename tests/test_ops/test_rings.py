"""Rings of blocks, pixel by pixel, and maps made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import copy_rings_, scatter_rings_
from blockcopy_plugins.ops.rings import map_of_rings, ring_pixels

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
SCATTERS = [
    pytest.param(scatter_rings_, id="op"),
    pytest.param(scatter_rings_.reference, id="twin"),
]
COPIES = [pytest.param(copy_rings_, id="op"), pytest.param(copy_rings_.reference, id="twin")]


def filled(value: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    full = torch.full(shape, value, dtype=dtype)
    return full.contiguous(memory_format=torch.channels_last)


def near_pixels(block, border) -> list[tuple[int, int]]:
    """Pixels of a block nearer than ``border`` to one of its edges, row by row."""
    return [
        (y, x)
        for y in range(block[0])
        for x in range(block[1])
        if min(y, x, block[0] - 1 - y, block[1] - 1 - x) < border
    ]


def places_of(slots, dtype=torch.int32) -> torch.Tensor:
    return torch.tensor([[slot, 0, 0] for slot in slots], dtype=dtype)


@st.composite
def cases(draw):
    border = draw(st.integers(1, 4))
    block = tuple(draw(st.integers(2 * border + 1, 2 * border + 4)) for _ in range(2))
    grid = tuple(draw(st.integers(1, 4)) for _ in range(2))
    missing = tuple(draw(st.integers(0, side - 1)) for side in block)
    return border, block, grid, tuple(grid[i] * block[i] - missing[i] for i in (0, 1))


others = dict(
    slots=st.integers(1, 3),
    channels=st.sampled_from((1, 2, 5, 33)),
    dtype=st.sampled_from(DTYPES),
    last=st.booleans(),
    seed=st.integers(0, 99),
)


def made(case, slots, channels, dtype):
    border, block, grid, size = case
    shape = slots, channels, grid[0] * grid[1], len(near_pixels(block, border))
    rings = torch.randint(0, 2, shape).to(dtype).contiguous(memory_format=torch.channels_last)
    return rings, rings.clone(memory_format=torch.preserve_format)


@pytest.mark.parametrize("scatter", SCATTERS)
def test_scatter_rings(scatter):
    @given(case=cases(), **others)
    @settings(max_examples=60)
    def run(case, slots, channels, dtype, last, seed):
        torch.manual_seed(seed)
        border, block, grid, size = case
        rings, wanted = made(case, slots, channels, dtype)
        mask = torch.rand(slots, *grid) < 0.6
        blocks = mask.nonzero()[torch.randperm(int(mask.sum()))].to(torch.int32)
        packed = torch.randint(2, 120, (len(blocks), channels, *block)).to(dtype)
        if last:
            packed = packed.contiguous(memory_format=torch.channels_last)
        for i, (slot, gy, gx) in enumerate(blocks.tolist()):
            for place, (y, x) in enumerate(near_pixels(block, border)):
                if gy * block[0] + y < size[0] and gx * block[1] + x < size[1]:
                    wanted[slot, :, gy * grid[1] + gx, place] = packed[i, :, y, x]
        before = rings._version
        scatter(rings, packed, blocks, size, border)
        assert torch.equal(rings, wanted)
        assert rings._version > before or not len(blocks)

    run()


@pytest.mark.parametrize("copy", COPIES)
def test_copy_rings(copy):
    @given(case=cases(), images=st.integers(1, 3), **others)
    @settings(max_examples=60)
    def run(case, images, slots, channels, dtype, last, seed):
        torch.manual_seed(seed)
        border, block, grid, size = case
        rings, wanted = made(case, slots, channels, dtype)
        chosen = torch.randperm(slots)[: min(images, slots)].tolist()
        map_ = torch.randint(2, 120, (len(chosen), channels, *size)).to(dtype)
        if last:
            map_ = map_.contiguous(memory_format=torch.channels_last)
        for image, slot in enumerate(chosen):
            for gy in range(grid[0]):
                for gx in range(grid[1]):
                    for place, (y, x) in enumerate(near_pixels(block, border)):
                        row, col = gy * block[0] + y, gx * block[1] + x
                        if row < size[0] and col < size[1]:
                            pixel = map_[image, :, row, col]
                            wanted[slot, :, gy * grid[1] + gx, place] = pixel
        copy(rings, map_, places_of(chosen), block, border)
        assert torch.equal(rings, wanted)
        again = map_of_rings(rings, size, block, border)[chosen]
        near = torch.zeros(grid[0] * block[0], grid[1] * block[1], dtype=torch.bool)
        for y, x in near_pixels(block, border):
            near[y :: block[0], x :: block[1]] = True
        near = near[: size[0], : size[1]]
        assert torch.equal(again, torch.where(near, map_, torch.zeros_like(map_)))

    run()


def test_hand_computed_rings_of_one_pixel():
    block = torch.arange(20.0).view(1, 1, 5, 4)
    edge = [0, 1, 2, 3, 4, 7, 8, 11, 12, 15, 16, 17, 18, 19]
    assert ring_pixels((5, 4), 1) == len(edge)
    rings = filled(-1, 2, 1, 1, 14)
    scatter_rings_(rings, block, places_of([1]), (5, 4), 1)
    assert rings[0].eq(-1).all() and rings[1].flatten().tolist() == edge
    # The last row and column of the block lie beyond the map.
    rings.fill_(-1)
    scatter_rings_(rings, block, places_of([0]), (4, 3), 1)
    on_the_map = [0, 1, 2, -1, 4, -1, 8, -1, 12, -1, -1, -1, -1, -1]
    assert rings[0].flatten().tolist() == on_the_map and rings[1].eq(-1).all()
    rings.fill_(-1)
    copy_rings_(rings, block[:, :, :4, :3], places_of([0]), (5, 4), 1)
    assert rings[0].flatten().tolist() == on_the_map and rings[1].eq(-1).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_rings(threads):
    before = torch.get_num_threads()
    packed = torch.randn(8, 64, 32, 32)
    grid = torch.ones(2, 2, 2).nonzero().to(torch.int32).contiguous()
    map_ = torch.randn(2, 64, 64, 64)
    found, wanted = (filled(0, 2, 64, 4, ring_pixels((32, 32), 2)) for _ in range(2))
    try:
        torch.set_num_threads(threads)
        scatter_rings_(found, packed, grid, (64, 64), 2)
        scatter_rings_.reference(wanted, packed, grid, (64, 64), 2)
        assert torch.equal(found, wanted)
        copy_rings_(found, map_, places_of([1, 0]), (32, 32), 2)
        copy_rings_.reference(wanted, map_, places_of([1, 0]), (32, 32), 2)
        assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(before)


GIVEN = dict(
    rings=(2, 3, 4, 12), packed=(1, 3, 4, 4), blocks=[[0, 0, 0]], size=(8, 8), border=1,
    dtype=torch.float32,
)  # fmt: skip
SCATTER_ERRORS = {
    "border 0": (ValueError, dict(border=0)),
    "negative border": (ValueError, dict(border=-1)),
    "wide border": (ValueError, dict(border=2, rings=(2, 3, 4, 16))),
    "other channels": (ValueError, dict(packed=(1, 2, 4, 4))),
    "other blocks": (ValueError, dict(packed=(1, 3, 4, 5))),
    "another size": (ValueError, dict(size=(8, 9))),
    "fewer blocks": (ValueError, dict(packed=(2, 3, 4, 4))),
    "slot": (IndexError, dict(blocks=[[2, 0, 0]])),
    "block row": (IndexError, dict(blocks=[[0, 2, 0]])),
    "negative block column": (IndexError, dict(blocks=[[0, 0, -1]])),
    "three dimensions": (ValueError, dict(packed=(3, 4, 4))),
    "another dtype": (TypeError, dict(dtype=torch.float64)),
}


@pytest.mark.parametrize("name", SCATTER_ERRORS)
def test_errors_of_scatter(name):
    error, changes = SCATTER_ERRORS[name]
    case = GIVEN | changes
    rings, blocks = filled(0, *case["rings"]), torch.tensor(case["blocks"], dtype=torch.int32)
    packed = torch.ones(case["packed"], dtype=case["dtype"])
    with pytest.raises(error, match=r"\w"):
        scatter_rings_(rings, packed, blocks, case["size"], case["border"])
    assert rings.eq(0).all()


MAP = dict(
    rings=(2, 3, 4, 12), map=(1, 3, 8, 8), slots=[0], block=(4, 4), border=1, dtype=torch.float32
)
COPY_ERRORS = {
    "border 0": (ValueError, dict(border=0)),
    "wide border": (ValueError, dict(border=2, rings=(2, 3, 4, 16))),
    "other channels": (ValueError, dict(map=(1, 2, 8, 8))),
    "other size": (ValueError, dict(map=(1, 3, 8, 9))),
    "three dimensions": (ValueError, dict(map=(3, 8, 8))),
    "another dtype": (TypeError, dict(dtype=torch.float64)),
    "two slots": (ValueError, dict(slots=[0, 1])),
    "slot out of range": (IndexError, dict(slots=[2])),
    "negative slot": (IndexError, dict(slots=[-1])),
    "block of no rows": (ValueError, dict(block=(0, 4))),
    "block of three": (ValueError, dict(block=(4, 4, 4))),
}


@pytest.mark.parametrize("name", COPY_ERRORS)
def test_errors_of_copy(name):
    error, changes = COPY_ERRORS[name]
    case = MAP | changes
    rings, map_ = filled(0, *case["rings"]), torch.ones(case["map"], dtype=case["dtype"])
    with pytest.raises(error, match=r"\w"):
        copy_rings_(rings, map_, places_of(case["slots"]), case["block"], case["border"])
    assert rings.eq(0).all()


def test_rings_that_are_not_channels_last_are_refused():
    rings = torch.zeros(2, 3, 4, 12)
    with pytest.raises(ValueError, match="channels"):
        scatter_rings_(rings, torch.ones(1, 3, 4, 4), places_of([0]), (8, 8), 1)
    with pytest.raises(ValueError, match="channels"):
        copy_rings_(rings, torch.ones(1, 3, 8, 8), places_of([0]), (4, 4), 1)


@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode])
def test_in_every_grad_mode(inside):
    """State that was made outside may be written inside."""
    rings = filled(0, 1, 3, 4, 12)
    with inside():
        scatter_rings_(rings, filled(1, 1, 3, 4, 4), places_of([0]), (8, 8), 1)
        assert rings[0, 0, 0].eq(1).all()
        copy_rings_(rings, filled(2, 1, 3, 8, 8), places_of([0]), (4, 4), 1)
    assert rings.eq(2).all()
