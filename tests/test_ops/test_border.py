"""Border writes, pixel by pixel: what must be new, what may be, and what must stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import copy_border_, scatter_border_

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
SCATTERS = [
    pytest.param(scatter_border_, id="op"),
    pytest.param(scatter_border_.reference, id="twin"),
]
COPIES = [pytest.param(copy_border_, id="op"), pytest.param(copy_border_.reference, id="twin")]


def filled(value: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    full = torch.full(shape, value, dtype=dtype)
    return full.contiguous(memory_format=torch.channels_last)


def must_be_new(height: int, width: int, border: int) -> torch.Tensor:
    """Pixels of a block nearer than ``border`` to one of its edges, by the definition."""
    near = torch.zeros(height, width, dtype=torch.bool)
    for y in range(height):
        for x in range(width):
            near[y, x] = min(y, x, height - 1 - y, width - 1 - x) < border
    return near


def check(state, new, old, needed, allowed) -> None:
    """``needed`` and ``allowed``: bool ``(S, H, W)``."""
    needed, allowed = (m.unsqueeze(1).expand_as(state) for m in (needed, allowed))
    assert torch.equal(state[needed], new[needed])
    assert torch.equal(state[~allowed], old[~allowed])
    assert ((state == new) | (state == old)).all()


block_shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
geometry = dict(
    slots=st.integers(1, 3),
    channels=st.sampled_from((1, 2, 5, 33)),
    block=block_shapes,
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    missing=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    border=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)


def sides(block, grid, missing):
    return [max(1, grid[i] * block[i] - missing[i] % block[i]) for i in (0, 1)]


@pytest.mark.parametrize("scatter", SCATTERS)
def test_scatter_border(scatter):
    @given(**geometry, last=st.booleans())
    @settings(max_examples=60)
    def run(slots, channels, block, grid, missing, border, dtype, seed, last):
        torch.manual_seed(seed)
        height, width = sides(block, grid, missing)
        state = torch.randint(0, 2, (slots, channels, height, width)).to(dtype)
        state = state.contiguous(memory_format=torch.channels_last)
        old, new = state.clone(), state.clone()
        mask = torch.rand(slots, *grid) < 0.6
        blocks = mask.nonzero()[torch.randperm(int(mask.sum()))].to(torch.int32)
        packed = torch.randint(2, 120, (len(blocks), channels, *block)).to(dtype)
        if last:
            packed = packed.contiguous(memory_format=torch.channels_last)
        needed = torch.zeros(slots, height, width, dtype=torch.bool)
        allowed = torch.zeros_like(needed)
        near = must_be_new(*block, border)
        for i, (slot, gy, gx) in enumerate(blocks.tolist()):
            rows = slice(gy * block[0], (gy + 1) * block[0])
            cols = slice(gx * block[1], (gx + 1) * block[1])
            on_map = new[slot, :, rows, cols].shape[1:]
            new[slot, :, rows, cols] = packed[i, :, : on_map[0], : on_map[1]]
            needed[slot, rows, cols] = near[: on_map[0], : on_map[1]]
            allowed[slot, rows, cols] = True
        before = state._version
        scatter(state, packed, blocks, border)
        check(state, new, old, needed, allowed)
        assert state._version > before or not len(blocks)

    run()


@pytest.mark.parametrize("copy", COPIES)
def test_copy_border(copy):
    @given(**geometry, images=st.integers(1, 3), last=st.booleans())
    @settings(max_examples=60)
    def run(slots, channels, block, grid, missing, border, dtype, seed, images, last):
        torch.manual_seed(seed)
        images = min(images, slots)
        height, width = sides(block, grid, missing)
        state = torch.randint(0, 2, (slots, channels, height, width)).to(dtype)
        state = state.contiguous(memory_format=torch.channels_last)
        old, new = state.clone(), state.clone()
        chosen = torch.randperm(slots)[:images].tolist()
        map_ = torch.randint(2, 120, (images, channels, height, width)).to(dtype)
        if last:
            map_ = map_.contiguous(memory_format=torch.channels_last)
        new[chosen] = map_
        # Blocks may be cut by the edge of the map; their own edge lies beyond it then.
        near = must_be_new(*block, border).repeat(*grid)[:height, :width]
        needed = torch.zeros(slots, height, width, dtype=torch.bool)
        allowed = torch.zeros_like(needed)
        needed[chosen], allowed[chosen] = near, True
        copy(state, map_, chosen, block, border)
        check(state, new, old, needed, allowed)

    run()


def test_hand_computed_border_of_one_pixel():
    state, packed = filled(0, 1, 1, 5, 4), filled(1, 1, 1, 5, 4)
    scatter_border_(state, packed, torch.zeros(1, 3, dtype=torch.int32), 1)
    edges = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    inner = state[0, 0].clone()
    inner[1:4, 1:3] = 0  # may be written or not
    assert inner.tolist() == edges
    state = filled(0, 2, 1, 5, 4)
    copy_border_(state, packed, [1], (5, 4), 1)
    assert state[0].eq(0).all()
    inner = state[1, 0].clone()
    inner[1:4, 1:3] = 0
    assert inner.tolist() == edges


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_rows(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        state, packed = filled(0, 2, 64, 64, 64), filled(1, 8, 64, 32, 32)
        grid = torch.ones(2, 2, 2).nonzero().to(torch.int32).contiguous()
        scatter_border_(state, packed, grid, 2)
        copied = filled(0, 2, 64, 64, 64)
        copy_border_(copied, filled(1, 2, 64, 64, 64), [1, 0], (32, 32), 2)
    finally:
        torch.set_num_threads(before)
    near = must_be_new(32, 32, 2).repeat(2, 2)
    assert state[:, :, near].eq(1).all() and copied[:, :, near].eq(1).all()


def test_a_wide_border_is_the_whole_block():
    state = filled(0, 1, 3, 8, 8)
    scatter_border_(
        state, filled(1, 4, 3, 4, 4), torch.ones(1, 2, 2).nonzero().int().contiguous(), 1 << 30
    )
    assert state.eq(1).all()
    state = filled(0, 1, 3, 8, 8)
    copy_border_(state, filled(1, 1, 3, 8, 8), [0], (4, 4), 1 << 30)
    assert state.eq(1).all()


STATE = dict(state=(2, 3, 8, 8), packed=(1, 3, 4, 4), blocks=[[0, 0, 0]], border=1)
SCATTER_ERRORS = {
    "border 0": (ValueError, dict(border=0)),
    "negative border": (ValueError, dict(border=-1)),
    "other channels": (ValueError, dict(packed=(1, 2, 4, 4))),
    "fewer blocks": (ValueError, dict(packed=(2, 3, 4, 4))),
    "slot": (IndexError, dict(blocks=[[2, 0, 0]])),
    "block row": (IndexError, dict(blocks=[[0, 2, 0]])),
    "negative block column": (IndexError, dict(blocks=[[0, 0, -1]])),
    "three dimensions": (ValueError, dict(packed=(3, 4, 4))),
}


@pytest.mark.parametrize("name", SCATTER_ERRORS)
def test_errors_of_scatter(name):
    error, changes = SCATTER_ERRORS[name]
    case = STATE | changes
    state = filled(0, *case["state"])
    blocks = torch.tensor(case["blocks"], dtype=torch.int32)
    with pytest.raises(error, match=r"\w"):
        scatter_border_(state, torch.ones(case["packed"]), blocks, case["border"])
    assert state.eq(0).all()


def test_scatter_refuses_other_dtypes_and_layouts():
    blocks = torch.zeros(1, 3, dtype=torch.int32)
    with pytest.raises(TypeError, match="dtype"):
        scatter_border_(filled(0, 1, 3, 8, 8), torch.ones(1, 3, 4, 4).double(), blocks, 1)
    with pytest.raises(ValueError, match="channels"):
        scatter_border_(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 4, 4), blocks, 1)


COPY_ERRORS = {
    "border 0": (ValueError, dict(border=0)),
    "other channels": (ValueError, dict(map=(1, 2, 8, 8))),
    "other size": (ValueError, dict(map=(1, 3, 8, 7))),
    "three dimensions": (ValueError, dict(map=(3, 8, 8))),
    "another dtype": (ValueError, dict(dtype=torch.float64)),
    "two slots": (ValueError, dict(slots=[0, 1])),
    "slot out of range": (IndexError, dict(slots=[2])),
    "negative slot": (IndexError, dict(slots=[-1])),
    "block of no rows": (ValueError, dict(block=(0, 4))),
    "block of three": (ValueError, dict(block=(4, 4, 4))),
}


@pytest.mark.parametrize("name", COPY_ERRORS)
def test_errors_of_copy(name):
    error, changes = COPY_ERRORS[name]
    case = dict(map=(1, 3, 8, 8), slots=[0], block=(4, 4), border=1, dtype=torch.float32) | changes
    state = filled(0, 2, 3, 8, 8)
    map_ = torch.ones(case["map"], dtype=case["dtype"])
    with pytest.raises(error, match=r"\w"):
        copy_border_(state, map_, case["slots"], case["block"], case["border"])
    assert state.eq(0).all()


def test_copy_refuses_a_state_that_is_not_channels_last():
    with pytest.raises(ValueError, match="channels-last"):
        copy_border_(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), [0], (4, 4), 1)


@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode])
def test_in_every_grad_mode(inside):
    """State that was made outside may be written inside."""
    state = filled(0, 1, 3, 8, 8)
    with inside():
        scatter_border_(state, filled(1, 1, 3, 4, 4), torch.zeros(1, 3, dtype=torch.int32), 1)
        copy_border_(state, filled(2, 1, 3, 8, 8), [0], (4, 4), 1)
    assert state[0, 0, 0].eq(2).all()
