"""softmax_change and keep_softmax_ against a plain float64 computation, block by block."""

from __future__ import annotations

import math

import pytest
import torch

from blockcopy_plugins.ops.softmax_change import (
    keep_softmax_,
    softmax_change,
)

IMPLEMENTATIONS = [
    pytest.param(softmax_change, id="op"),
    pytest.param(softmax_change.reference, id="twin"),
]
KEEPERS = [
    pytest.param(keep_softmax_, id="op"),
    pytest.param(keep_softmax_.reference, id="twin"),
]
GRID = torch.tensor([[True, False, True], [False, True, True]])
CELLS = 8


def tables(pixels, samples, cells, scale):
    """Rising tables: ``samples`` values for each pixel, one pixel for each cell."""
    values = torch.arange(pixels * samples).view(pixels, samples) * scale
    places = (torch.arange(cells) * pixels // cells).clamp_max(pixels - 1)
    return values.int().contiguous(), places.int()


def make_case(classes=5, pixels=(16, 24), samples=1, scale=1, dtype=torch.float32, seed=0):
    """Logits, what was before, and the four tables, of a grid of 2 x 3 blocks."""
    draw = torch.Generator().manual_seed(seed)
    shape = [side * samples * scale for side in pixels]
    logits = 4 * torch.randn(classes, *shape, generator=draw).to(dtype)
    before = torch.randn(max(classes, 2), *pixels, generator=draw).log_softmax(0)
    rows, cell_rows = tables(pixels[0], samples, 2 * CELLS, scale)
    columns, cell_columns = tables(pixels[1], samples, 3 * CELLS, scale)
    return logits, before, GRID, rows, columns, cell_rows, cell_columns


def definition(logits, before, grid, rows, columns, cell_rows, cell_columns, clip):
    """In float64: the log-probabilities of all pixels, and each block's three values."""
    values = logits.double()[:, rows.long().flatten()][:, :, columns.long().flatten()]
    values = values.unflatten(2, (-1, columns.shape[1])).unflatten(1, (-1, rows.shape[1]))
    values = values.mean((2, 4))
    if len(values) == 1:
        values = torch.cat((values, torch.zeros_like(values)))
    log = values - values.logsumexp(0)
    table = torch.zeros(3, *grid.shape, dtype=torch.float64)
    gains = (log.exp() * (log - before.double())).sum(0).tolist()
    doubt = (1 - log.exp().amax(0)).tolist()
    rows, columns = cell_rows.tolist(), cell_columns.tolist()
    for row, column in grid.nonzero().tolist():
        parts, doubts = {}, []
        for y in range(CELLS):
            for x in range(CELLS):
                py, px = rows[row * CELLS + y], columns[column * CELLS + x]
                parts.setdefault((y // 2, x // 2), []).append(gains[py][px])
                doubts.append(doubt[py][px])
        largest = max(sum(part) / len(part) for part in parts.values())
        table[:, row, column] = torch.tensor(
            [min(largest, clip), sum(doubts) / len(doubts), max(doubts)]
        )
    return log, table


def executed_pixels(shape, grid, cell_rows, cell_columns):
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, column in grid.nonzero().tolist():
        rows = cell_rows[row * CELLS : (row + 1) * CELLS]
        columns = cell_columns[column * CELLS : (column + 1) * CELLS]
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return mask


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "columns first"])
@pytest.mark.parametrize(
    ("dtype", "classes"),
    [
        (torch.float32, 19),
        (torch.float32, 1),
        (torch.bfloat16, 5),
        (torch.float16, 2),
        (torch.float64, 2),
    ],
)
@pytest.mark.parametrize(
    ("pixels", "samples", "scale"),
    [((16, 24), 1, 1), ((16, 24), 2, 1), ((16, 24), 2, 3), ((7, 11), 1, 1)],
)
def test_any_layout_dtype_and_resolution(
    implementation, layout, dtype, classes, pixels, samples, scale
):
    logits, before, *tables = make_case(classes, pixels, samples, scale, dtype)
    if layout == "channels last":
        logits = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    elif layout == "columns first":
        logits = logits.mT.contiguous().mT
    kept = before.clone()
    fresh, blocks = implementation(logits, before, *tables, CELLS, 0.5)
    log, expected = definition(logits, before, *tables, 0.5)
    mask = executed_pixels(pixels, tables[0], *tables[3:])
    assert fresh.dtype == blocks.dtype == torch.float32
    torch.testing.assert_close(fresh.double()[:, mask], log[:, mask], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(blocks.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(before, kept) and not blocks[:, ~GRID].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_anything_before_there_is_no_gain(implementation):
    logits, before, *tables = make_case()
    _, blocks = implementation(logits, None, *tables, CELLS, 1.0)
    with_before = implementation(logits, before, *tables, CELLS, 1.0)[1]
    assert not blocks[0].any() and with_before[0][GRID].all()
    assert torch.equal(blocks[1:], with_before[1:])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("with_before", [True, False])
def test_what_is_not_finite_shows_in_its_block_alone(implementation, value, with_before):
    logits, before, *tables = make_case()
    logits[2, 3, 20] = value  # of block (0, 2)
    logits[2, 3, 12] = value  # of block (0, 1), which is not executed
    before = before if with_before else None
    _, blocks = implementation(logits, before, *tables, CELLS, 1.0)
    assert (~blocks[1].isfinite()).nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sure_logits_stay_finite(implementation):
    logits, before, *tables = make_case()
    logits *= 1e4
    fresh, blocks = implementation(logits, before, *tables, CELLS, 1.0)
    assert blocks.isfinite().all() and (blocks >= 0).all() and (blocks <= 1).all()
    mask = executed_pixels((16, 24), GRID, *tables[3:])
    torch.testing.assert_close(fresh[:, mask], logits.log_softmax(0)[:, mask])


@pytest.mark.parametrize("threads", [1, 3])
def test_both_agree_on_any_number_of_threads(threads):
    case = make_case(19, seed=4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        _, blocks = softmax_change(*case, CELLS, 1.0)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(
        blocks, softmax_change.reference(*case, CELLS, 1.0)[1], atol=3e-6, rtol=1e-5
    )


@pytest.mark.parametrize("keep", KEEPERS)
@pytest.mark.parametrize("pixels", [(16, 24), (7, 11)])
@pytest.mark.parametrize("layout", ["contiguous", "rows together"])
def test_executed_pixels_are_written_and_no_others(keep, pixels, layout):
    _, kept, grid, _, _, *places = make_case(pixels=pixels)
    if layout == "rows together":
        kept = kept.transpose(0, 1).contiguous().transpose(0, 1)
    fresh, before = torch.randn(kept.shape), kept.clone()
    keep(kept, fresh, grid, *places, CELLS)
    mask = executed_pixels(pixels, grid, *places)
    assert torch.equal(kept, torch.where(mask, fresh, before))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    logits, before, grid, rows, columns, cell_rows, cell_columns = make_case()
    good = dict(
        logits=logits,
        previous=before,
        grid=grid,
        rows=rows,
        columns=columns,
        cell_rows=cell_rows,
        cell_columns=cell_columns,
        cells=CELLS,
        clip=1.0,
    )
    for error, change in (
        (ValueError, dict(logits=logits[0])),
        (ValueError, dict(previous=before[:3])),
        (ValueError, dict(rows=rows[:, 0])),
        (ValueError, dict(cell_rows=cell_rows[1:])),
        (ValueError, dict(cells=4)),
        (TypeError, dict(logits=logits.long())),
        (TypeError, dict(rows=rows.long())),
        (TypeError, dict(grid=grid.float())),
        (IndexError, dict(rows=rows + 1)),
        (IndexError, dict(columns=columns.flip(0))),
        (IndexError, dict(cell_rows=cell_rows + 1)),
    ):
        with pytest.raises(error):
            implementation(**{**good, **change})
    with pytest.raises(RuntimeError, match="grad"):
        implementation(**{**good, "logits": logits.clone().requires_grad_()})


def test_the_operators_are_well_registered():
    logits, before, _, *tables = make_case()
    grid = torch.ones(2, 3, dtype=torch.bool)
    arguments = (logits, before, grid, *tables, CELLS, 1.0)
    torch.library.opcheck(torch.ops.blockcopy.softmax_change.default, arguments)
    arguments = (before.clone(), before + 1, grid, *tables[2:], CELLS)
    torch.library.opcheck(torch.ops.blockcopy.keep_softmax_.default, arguments)
