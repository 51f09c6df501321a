"""gather against hand-computed cases, a loop over elements, and the kernels against the twin."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import gather, gather_reference

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
IMPLEMENTATIONS = [pytest.param(gather, id="op"), pytest.param(gather_reference, id="twin")]


def index_table(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def halo_table(size: int, block: int, halo: int) -> torch.Tensor:
    """Sources along one axis: the block with a halo, -1 outside the image."""
    blocks = -(-size // block)
    position = torch.arange(blocks)[:, None] * block + torch.arange(-halo, block + halo)
    return torch.where((position < 0) | (position >= size), -1, position).to(torch.int32)


def numbered_map(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = torch.arange(torch.Size(shape).numel()).view(shape)
    return count.to(dtype).contiguous(memory_format=torch.channels_last)


def gather_by_loops(state, blocks, rows, cols, fill):
    """The sentence that defines gather, element by element."""
    n, wh, ww = blocks.size(0), rows.size(1), cols.size(1)
    out = torch.empty(n, state.size(1), wh, ww, dtype=state.dtype)
    for i, (slot, gy, gx) in enumerate(blocks.tolist()):
        for y in range(wh):
            for x in range(ww):
                row, col = int(rows[gy, y]), int(cols[gx, x])
                value = fill if row < 0 or col < 0 else state[slot, :, row, col]
                out[i, :, y, x] = value
    return out


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = torch.cat([a.flatten()]), torch.cat([b.flatten()])  # of unit stride
    return a.numel() == 0 or torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 5, 19])
@pytest.mark.parametrize("blocks", [[[1, 2, 0]], [[0, 0, 0], [1, 3, 2], [1, 2, 1], [0, 3, 0]]])
def test_maps_in_planes(dtype, channels, blocks):
    torch.manual_seed(0)
    state = torch.randint(0, 99, (2, channels, 11, 9)).to(dtype)
    blocks, rows, cols = index_table(blocks), halo_table(11, 3, 1), halo_table(9, 3, 2)
    wanted = gather_by_loops(state, blocks, rows, cols, 7.0)
    found = gather(state, blocks, rows, cols, 7.0)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert same(found, wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_computed_halo_at_the_corner(implementation):
    state = numbered_map(1, 1, 4, 4)
    table = halo_table(4, 2, 1)
    assert table.tolist() == [[-1, 0, 1, 2], [1, 2, 3, -1]]
    out = implementation(state, index_table([[0, 0, 0], [0, 1, 1]]), table, table, -7.0)
    assert out[0, 0].tolist() == [[-7, -7, -7, -7], [-7, 0, 1, 2], [-7, 4, 5, 6], [-7, 8, 9, 10]]
    assert out[1, 0].tolist() == [[5, 6, 7, -7], [9, 10, 11, -7], [13, 14, 15, -7], [-7] * 4]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_computed_channels_slots_and_order(implementation):
    state = numbered_map(2, 2, 1, 3)  # slot 0: channels [0 1 2] [3 4 5]; slot 1: [6 7 8] [9 10 11]
    blocks = index_table([[1, 0, 2], [0, 0, 0], [1, 0, 2]])
    out = implementation(state, blocks, index_table([[0]]), index_table([[0], [1], [2]]))
    assert out.tolist() == [[[[8]], [[11]]], [[[0]], [[3]]], [[[8]], [[11]]]]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_tables_express_reflect_replicate_dilation_and_resize(implementation):
    state = numbered_map(1, 1, 1, 5)
    cols = index_table([[1, 0, 1, 2], [0, 0, 0, 1], [0, 2, 4, -1], [3, 3, 4, 4]])
    blocks = index_table([[0, 0, gx] for gx in range(4)])
    out = implementation(state, blocks, index_table([[0]]), cols, 9.0)
    assert out.view(4, 4).tolist() == [[1, 0, 1, 2], [0, 0, 0, 1], [0, 2, 4, 9], [3, 3, 4, 4]]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fill", [float("-inf"), float("inf"), float("nan"), 0.0, -0.1])
def test_fill_of_floats(implementation, dtype, fill):
    state = numbered_map(1, 3, 2, 2, dtype=dtype)
    table = halo_table(2, 2, 1)
    out = implementation(state, index_table([[0, 0, 0]]), table, table, fill)
    border = torch.ones(4, 4, dtype=torch.bool)
    border[1:3, 1:3] = False
    expected = torch.full((3, 12), fill, dtype=dtype)
    assert same(out[0][:, border], expected)
    assert torch.equal(out[0, :, 1:3, 1:3], state[0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        (torch.uint8, 255.0),
        (torch.int8, -128.0),
        (torch.int16, -5.0),
        (torch.int32, 2.0**31 - 1),
        (torch.int64, -(2.0**63)),
        (torch.bool, 1.0),
    ],
)
def test_fill_of_integers(implementation, dtype, fill):
    state = torch.zeros(1, 2, 1, 1, dtype=dtype)
    out = implementation(
        state, index_table([[0, 0, 0]]), index_table([[0]]), halo_table(1, 1, 1), fill
    )
    assert out[0, 1, 0].tolist() == [fill, 0, fill]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        (torch.uint8, -1.0),
        (torch.uint8, 256.0),
        (torch.int32, 0.5),
        (torch.int64, 2.0**63),
        (torch.int16, float("-inf")),
        (torch.int32, float("nan")),
        (torch.bool, 2.0),
        (torch.float16, 1e6),
        (torch.float32, 1e39),
    ],
)
def test_fill_that_the_dtype_cannot_hold_is_an_error(implementation, dtype, fill):
    state = torch.zeros(1, 2, 1, 1, dtype=dtype)
    with pytest.raises(ValueError, match="cannot be stored"):
        implementation(
            state, index_table([[0, 0, 0]]), index_table([[0]]), index_table([[0]]), fill
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_blocks(implementation):
    blocks = torch.empty(0, 3, dtype=torch.int32)
    table = halo_table(4, 2, 1)
    out = implementation(numbered_map(2, 5, 4, 4), blocks, table, table)
    assert out.shape == (0, 5, 4, 4)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 0, 2, 2), (1, 3, 0, 2), (1, 3, 2, 0), (3, 1, 1, 1)])
def test_degenerate_maps(implementation, shape):
    state = numbered_map(*shape)
    table = index_table([[-1, -1]])
    out = implementation(state, index_table([[0, 0, 0]]), table, table, 4.0)
    assert torch.equal(out, torch.full((1, shape[1], 2, 2), 4.0))


@st.composite
def gather_cases(draw):
    slots, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 5, 8, 16]))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from(FLOATS + INTEGERS))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)

    def table(size: int) -> torch.Tensor:
        if draw(st.booleans()):  # an ordinary halo, also wider than the map
            return halo_table(size, draw(st.integers(1, size + 2)), draw(st.integers(0, 4)))
        shape = (draw(st.integers(1, 4)), draw(st.integers(0, 7)))
        return torch.randint(-1, size, shape, generator=generator, dtype=torch.int32)

    rows, cols = table(height), table(width)
    count = draw(st.integers(0, 6))
    blocks = torch.stack(
        [
            torch.randint(0, limit, (count,), generator=generator, dtype=torch.int32)
            for limit in (slots, rows.size(0), cols.size(0))
        ],
        dim=1,
    )
    state = torch.randn(slots, channels, height, width, generator=generator).mul(40)
    state = (state > 0) if dtype == torch.bool else state.abs().to(dtype)
    if draw(st.booleans()):
        state = state.contiguous(memory_format=torch.channels_last)
    fills = [0.0, 1.0]
    if dtype.is_floating_point:
        fills += [float("-inf"), float("nan"), 0.3]
    elif dtype != torch.bool:
        fills.append(77.0)
    return state, blocks, rows, cols, draw(st.sampled_from(fills))


@settings(max_examples=150, deadline=None)
@given(gather_cases())
def test_kernel_equals_twin_and_loops(case):
    state, blocks, rows, cols, fill = case
    before = state.clone()
    out = gather(*case)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.stride() == gather_reference(*case).stride()
    assert same(out, gather_reference(*case))
    assert same(out, gather_by_loops(*case))
    assert same(state, before)
    reused = torch.empty_like(out)
    assert gather(*case, out=reused) is reused
    assert same(reused, out)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("which", ["slot", "gy", "gx", "source row", "source column"])
@pytest.mark.parametrize("value", [-2, 3])
def test_index_out_of_range(implementation, which, value):
    state = numbered_map(3, 2, 3, 3)
    blocks = index_table([[0, 0, 0], [2, 2, 2]])
    rows, cols = halo_table(3, 1, 0), halo_table(3, 1, 0)
    if which in ("slot", "gy", "gx"):
        blocks[1, ["slot", "gy", "gx"].index(which)] = value
    else:
        {"source row": rows, "source column": cols}[which][1, 0] = value
    with pytest.raises(IndexError, match=rf"{which} {value} is out of range, expected .*< 3"):
        implementation(state, blocks, rows, cols)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_minus_one_is_no_block(implementation):
    state, table = numbered_map(1, 1, 2, 2), halo_table(2, 1, 0)
    with pytest.raises(IndexError, match="gy -1 is out of range"):
        implementation(state, index_table([[0, -1, 0]]), table, table)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(state=torch.zeros(2, 2)), ValueError, "must be 4-D"),
        (dict(state=torch.zeros(1, 1, 2, 2, dtype=torch.complex64)), TypeError, "has dtype"),
        (dict(blocks=torch.zeros(1, 3, dtype=torch.int64)), TypeError, "blocks has dtype"),
        (dict(blocks=torch.zeros(1, 2, dtype=torch.int32)), ValueError, r"shape \(n, 3\)"),
        (dict(blocks=torch.zeros(3, dtype=torch.int32)), ValueError, "blocks must be 2-D"),
        (dict(rows=torch.zeros(2, 2)), TypeError, "rows has dtype"),
        (dict(rows=torch.zeros(4, dtype=torch.int32)), ValueError, "rows must be 2-D"),
        (dict(cols=torch.zeros(2, 2, dtype=torch.int32).t()[:, :1].t()), None, ""),
        (dict(cols=torch.zeros(3, 2, dtype=torch.int32).t()), ValueError, "cols must be contig"),
        (dict(state=torch.zeros(1, 1, 2, 2).requires_grad_()), RuntimeError, "has no backward"),
    ],
)
def test_bad_arguments(implementation, change, error, message):
    arguments = (
        dict(
            state=numbered_map(1, 1, 2, 2),
            blocks=index_table([[0, 0, 0]]),
            rows=index_table([[0, 1]]),
            cols=index_table([[0, 1]]),
        )
        | change
    )
    if error is None:
        implementation(**arguments)
        return
    with pytest.raises(error, match=message):
        implementation(**arguments)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (torch.empty(1, 2, 2, 3), ValueError, "out has shape"),
        (torch.empty(1, 2, 2), ValueError, "out has shape"),
        (torch.empty(1, 2, 2, 2), ValueError, "channels-last"),
        (torch.empty(1, 2, 2, 2, dtype=torch.float64), TypeError, "out has dtype"),
    ],
)
def test_bad_out(implementation, out, error, message):
    state, table = numbered_map(1, 2, 2, 2), index_table([[0, 1]])
    with pytest.raises(error, match=message):
        implementation(state, index_table([[0, 0, 0]]), table, table, out=out)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_out_is_unharmed_by_an_error(implementation):
    state, table = numbered_map(1, 2, 2, 2), index_table([[0, 1]])
    out = torch.full((2, 2, 2, 2), 5.0).contiguous(memory_format=torch.channels_last)
    with pytest.raises(IndexError):
        implementation(state, index_table([[0, 0, 0], [0, 1, 0]]), table, table, out=out)
    assert torch.all(out == 5.0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_out_may_overlap_the_state(implementation):
    state = numbered_map(1, 2, 2, 2)
    flipped = index_table([[1, 0]])
    expected = state.flip(2, 3)
    implementation(state, index_table([[0, 0, 0]]), flipped, flipped, out=state)
    assert torch.equal(state, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_without_grad(mode):
    state, table = numbered_map(1, 2, 2, 2).requires_grad_(), index_table([[1, 0]])
    with mode():
        out = gather(state, index_table([[0, 0, 0]]), table, table)
        assert torch.equal(out, state.flip(2, 3))
        assert not out.requires_grad
        assert out.is_inference() == torch.is_inference_mode_enabled()


def test_result_does_not_depend_on_threads():
    torch.manual_seed(0)
    state = torch.randn(2, 32, 64, 96).contiguous(memory_format=torch.channels_last)
    blocks = torch.cartesian_prod(torch.arange(2), torch.arange(8), torch.arange(12)).int()
    arguments = (
        state,
        blocks[torch.randperm(len(blocks))].contiguous(),
        halo_table(64, 8, 2),
        halo_table(96, 8, 2),
        float("-inf"),
    )
    expected = gather_reference(*arguments)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            assert torch.equal(gather(*arguments), expected)
    finally:
        torch.set_num_threads(threads)
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: gather(*arguments), range(16)):
            assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("count", [0, 2])
def test_opcheck(dtype, count):
    state = numbered_map(2, 3, 4, 4, dtype=dtype)
    table = halo_table(4, 2, 1)
    blocks = index_table([[1, 0, 1], [0, 1, 0]])[:count].contiguous()
    torch.library.opcheck(torch.ops.blockcopy.gather.default, (state, blocks, table, table, 1.0))
    out = torch.empty(count, 3, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(
        torch.ops.blockcopy.gather_out.default, (state, blocks, table, table, 1.0, out)
    )


def test_fake_kernel_checks_shapes():
    state, table = torch.empty(1, 2, 4, 4, device="meta"), torch.empty(2, 4, device="meta").int()
    blocks = torch.empty(5, 3, device="meta").int()
    out = gather(state, blocks, table, table)
    assert out.shape == (5, 2, 4, 4)
    assert out.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(TypeError, match="rows has dtype"):
        gather(state, blocks, table.long(), table)
    with pytest.raises(ValueError, match=r"shape \(n, 3\)"):
        gather(state, blocks.t().contiguous(), table, table)
