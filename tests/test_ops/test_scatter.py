"""scatter_ against hand-computed cases, a loop over elements, and the kernels against the twin."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import gather, scatter_

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
]
IMPLEMENTATIONS = [pytest.param(scatter_, id="op"), pytest.param(scatter_.reference, id="twin")]


def index_table(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def scatter_by_loops(state, packed, blocks):
    """The sentence that defines scatter_, element by element, on a copy."""
    state = state.clone()
    height, width = state.shape[2:]
    block_h, block_w = packed.shape[2:]
    for i, (slot, gy, gx) in enumerate(blocks.tolist()):
        for y in range(block_h):
            for x in range(block_w):
                row, col = gy * block_h + y, gx * block_w + x
                if row < height and col < width:
                    state[slot, :, row, col] = packed[i, :, y, x]
    return state


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_computed_edge_block_is_cut(implementation):
    state = torch.zeros(2, 1, 3, 3)
    packed = torch.arange(1.0, 13.0).view(3, 1, 2, 2)
    implementation(state, packed, index_table([[0, 1, 1], [1, 0, 1], [0, 0, 0]]))
    assert state[0, 0].tolist() == [[9, 10, 0], [11, 12, 0], [0, 0, 1]]
    assert state[1, 0].tolist() == [[0, 0, 5], [0, 0, 7], [0, 0, 0]]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_computed_channels(implementation):
    state = channels_last(torch.zeros(1, 2, 1, 2))
    implementation(state, torch.tensor([[[[5.0]], [[6.0]]]]), index_table([[0, 0, 1]]))
    assert state.tolist() == [[[[0, 5]], [[0, 6]]]]


@st.composite
def scatter_cases(draw):
    slots, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 5, 8, 16]))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    block_h, block_w = draw(st.integers(1, 10)), draw(st.integers(1, 10))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    every = torch.cartesian_prod(
        torch.arange(slots), torch.arange(-(-height // block_h)), torch.arange(-(-width // block_w))
    ).to(torch.int32)
    count = draw(st.integers(0, len(every)))
    blocks = every[torch.randperm(len(every), generator=generator)[:count]].contiguous()

    def values(*shape: int) -> torch.Tensor:
        random = torch.randn(shape, generator=generator).mul(40)
        return (random > 0) if dtype == torch.bool else random.abs().to(dtype)

    state = channels_last(values(slots, channels, height, width))
    packed = values(count, channels, block_h, block_w)
    layout = draw(st.sampled_from(["contiguous", "channels_last", "strided"]))
    if layout == "channels_last":
        packed = channels_last(packed)
    elif layout == "strided":
        packed = values(count, channels, block_w, 2 * block_h)[..., ::2].transpose(2, 3)
    return state, packed, blocks


@settings(max_examples=150, deadline=None)
@given(scatter_cases())
def test_kernel_equals_twin_and_loops(case):
    state, packed, blocks = case
    expected = scatter_by_loops(state, packed, blocks)
    twin, native = state.clone(), state.clone()
    assert scatter_.reference(twin, packed, blocks) is None
    assert scatter_(native, packed, blocks) is None
    assert torch.equal(twin, expected)
    assert torch.equal(native, expected)


def test_gather_undoes_scatter():
    torch.manual_seed(0)
    state = channels_last(torch.zeros(2, 7, 8, 12))
    packed = channels_last(torch.randn(12, 7, 4, 4))
    blocks = torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(3)).int()
    scatter_(state, packed, blocks)
    rows = torch.arange(8, dtype=torch.int32).view(2, 4)
    cols = torch.arange(12, dtype=torch.int32).view(3, 4)
    assert torch.equal(gather(state, blocks, rows, cols), packed)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("which", ["slot", "gy", "gx"])
@pytest.mark.parametrize("value", [-1, 2])
def test_index_out_of_range_leaves_the_state_unharmed(implementation, which, value):
    state = channels_last(torch.zeros(2, 3, 3, 3))  # 2 x 2 blocks of 2 pixels
    blocks = index_table([[0, 0, 0], [1, 1, 1]])
    blocks[1, ["slot", "gy", "gx"].index(which)] = value
    with pytest.raises(IndexError, match=rf"{which} {value} is out of range, expected .*< 2"):
        implementation(state, torch.ones(2, 3, 2, 2), blocks)
    assert torch.all(state == 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(state=torch.zeros(1, 2, 4, 4)), ValueError, "state must be channels-last"),
        (dict(state=channels_last(torch.zeros(1, 2, 4, 8))[..., ::2]), ValueError, "channels-last"),
        (dict(state=torch.zeros(2, 4, 4)), ValueError, "state must be 4-D"),
        (dict(packed=torch.zeros(2, 2, 2)), ValueError, "packed must be 4-D"),
        (dict(packed=torch.zeros(1, 2, 2, 2).double()), TypeError, "packed has dtype"),
        (dict(packed=torch.zeros(2, 2, 2, 2)), ValueError, "packed has 2 blocks"),
        (dict(packed=torch.zeros(1, 3, 2, 2)), ValueError, "packed has 3 channels"),
        (dict(packed=torch.zeros(1, 2, 0, 2)), ValueError, "blocks of 0x2 pixels"),
        (dict(blocks=torch.zeros(1, 3)), TypeError, "blocks has dtype"),
        (dict(blocks=torch.zeros(1, 4, dtype=torch.int32)), ValueError, r"shape \(n, 3\)"),
        (dict(blocks=torch.zeros(3, 1, dtype=torch.int32).t()), None, ""),
        (dict(blocks=torch.zeros(1, 6, dtype=torch.int32)[:, ::2]), ValueError, "contiguous"),
        (dict(packed=torch.zeros(1, 2, 2, 2).requires_grad_()), RuntimeError, "has no backward"),
    ],
)
def test_bad_arguments_leave_the_state_unharmed(implementation, change, error, message):
    arguments = (
        dict(
            state=channels_last(torch.zeros(1, 2, 4, 4)),
            packed=torch.ones(1, 2, 2, 2),
            blocks=index_table([[0, 0, 0]]),
        )
        | change
    )
    if error is None:
        implementation(**arguments)
        assert arguments["state"].sum() == 8
        return
    with pytest.raises(error, match=message):
        implementation(**arguments)
    assert torch.all(arguments["state"] == 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_blocks_change_nothing(implementation):
    state = channels_last(torch.randn(1, 2, 4, 4))
    before = state.clone()
    implementation(state, torch.empty(0, 2, 2, 2), torch.empty(0, 3, dtype=torch.int32))
    assert torch.equal(state, before)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_packed_may_overlap_the_state(implementation):
    torch.manual_seed(0)
    state = channels_last(torch.randn(2, 3, 4, 4))
    expected = scatter_by_loops(state, state.clone(), index_table([[1, 0, 0], [0, 0, 0]]))
    implementation(state, state, index_table([[1, 0, 0], [0, 0, 0]]))
    assert torch.equal(state, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_inference_state_may_be_written_outside_inference_mode(implementation):
    with torch.inference_mode():
        state = channels_last(torch.zeros(1, 2, 2, 2))
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            state_before = state.clone()
            implementation(state, torch.ones(1, 2, 1, 1), index_table([[0, 1, 1]]))
            implementation(state_before, torch.ones(1, 2, 1, 1), index_table([[0, 1, 1]]))
            assert torch.equal(state, state_before)
    assert state.sum() == 2


def test_the_write_is_visible_to_autograd():
    state = channels_last(torch.zeros(1, 2, 2, 2))
    factor = torch.ones((), requires_grad=True)
    product = (state * factor).sum()
    scatter_(state, torch.ones(1, 2, 1, 1), index_table([[0, 0, 0]]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_result_does_not_depend_on_threads():
    torch.manual_seed(0)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(8), torch.arange(12)).int()
    blocks = every[torch.randperm(len(every))[:150]].contiguous()
    packed = channels_last(torch.randn(150, 32, 8, 8))
    start = channels_last(torch.randn(2, 32, 61, 93))
    expected = start.clone()
    scatter_.reference(expected, packed, blocks)

    def run(_=None):
        state = start.clone()
        scatter_(state, packed, blocks)
        return state

    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            assert torch.equal(run(), expected)
    finally:
        torch.set_num_threads(threads)
    with ThreadPoolExecutor(4) as pool:
        for state in pool.map(run, range(16)):
            assert torch.equal(state, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("count", [0, 2])
def test_opcheck(dtype, count):
    state = channels_last(torch.zeros(2, 3, 4, 4, dtype=dtype))
    blocks = index_table([[1, 0, 1], [0, 1, 0]])[:count].contiguous()
    packed = torch.ones(count, 3, 2, 2, dtype=dtype)
    torch.library.opcheck(torch.ops.blockcopy.scatter_.default, (state, packed, blocks))


def test_fake_kernel_checks_shapes():
    state = channels_last(torch.empty(1, 2, 4, 4, device="meta"))
    blocks = torch.empty(5, 3, device="meta").int()
    scatter_(state, torch.empty(5, 2, 2, 2, device="meta"), blocks)
    with pytest.raises(ValueError, match="packed has 4 blocks"):
        scatter_(state, torch.empty(4, 2, 2, 2, device="meta"), blocks)
