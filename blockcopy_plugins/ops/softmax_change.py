"""What dense logits show in the executed blocks, and how much that differs from before."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad, check_tensor
from blockcopy_plugins.ops.library import operator

_PARTS = 4


def _parts(values: Tensor, side: int) -> Tensor:
    return values.unflatten(1, (-1, side)).unflatten(0, (-1, side))


def _check_tables(limits: tuple[int, ...], *tables: Tensor) -> None:
    for limit, table in zip(limits, tables, strict=True):
        flat = table.flatten().cpu()
        if not bool((flat[1:] >= flat[:-1]).all()) or not 0 <= flat[0] <= flat[-1] < limit:
            raise IndexError(
                f"blockcopy: a table holds {flat.tolist()}, expected indices below {limit} that "
                "do not fall"
            )


def _check_cells(grid: Tensor, rows: Tensor, columns: Tensor, cells: int) -> None:
    torch._check_type(
        grid.dtype == torch.bool, lambda: f"blockcopy: grid has dtype {grid.dtype}, expected bool"
    )
    torch._check_value(
        grid.dim() == 2 and cells > 0,
        lambda: f"blockcopy: grid must be (GH, GW), found {tuple(grid.shape)}",
    )
    for name, table, blocks in (
        ("cell_rows", rows, grid.shape[0]),
        ("cell_columns", columns, grid.shape[1]),
    ):
        check_tensor(name, table, torch.int32, (blocks * cells,))


def _softmax_change_fake(
    logits: Tensor,
    previous: Tensor | None,
    grid: Tensor,
    rows: Tensor,
    columns: Tensor,
    cell_rows: Tensor,
    cell_columns: Tensor,
    cells: int,
) -> tuple[Tensor, Tensor]:
    torch._check_value(
        logits.dim() == 3 and logits.numel() > 0,
        lambda: f"blockcopy: logits must be (C, h, w), not empty, found {tuple(logits.shape)}",
    )
    torch._check_type(
        logits.is_floating_point(),
        lambda: f"blockcopy: logits have dtype {logits.dtype}, expected a floating point type",
    )
    for name, table in (("rows", rows), ("columns", columns)):
        torch._check_value(
            table.dim() == 2 and table.numel() > 0,
            lambda name=name, table=table: (
                f"blockcopy: {name} must be (pixels, samples), found {tuple(table.shape)}"
            ),
        )
        check_tensor(name, table, torch.int32, tuple(table.shape))
    _check_cells(grid, cell_rows, cell_columns, cells)
    shape = (max(logits.shape[0], 2), rows.shape[0], columns.shape[0])
    check_tensor("previous", previous, torch.float32, shape)
    # Rows of all classes side by side: those of a block are then in few pages.
    fresh = logits.new_empty((shape[1], shape[0], shape[2]), dtype=torch.float32).transpose(0, 1)
    return fresh, logits.new_empty((3, *grid.shape), dtype=torch.float32)


@operator(
    "softmax_change(Tensor logits, Tensor? previous, Tensor grid, Tensor rows, Tensor columns, "
    "Tensor cell_rows, Tensor cell_columns, int cells, float clip) -> (Tensor, Tensor)",
    fake=_softmax_change_fake,
)
def softmax_change(
    logits: Tensor,
    previous: Tensor | None,
    grid: Tensor,
    rows: Tensor,
    columns: Tensor,
    cell_rows: Tensor,
    cell_columns: Tensor,
    cells: int,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """Take the softmax of some pixels of dense logits in the executed blocks, and compare it.

    Each pixel of the result is the mean of some logits, those at ``rows`` and ``columns``. Its
    divergence is ``KL(new || previous)`` in nats, and its doubt is 1 - the highest probability. A
    block's cells find their pixels in ``cell_rows`` and ``cell_columns``.

    Args:
        logits: Floating point ``(C, h, w)`` of any layout. A single channel is the logit of
            foreground against background.
        previous: float32 ``(K, ph, pw)``, K = C but at least 2, log-probabilities; None for none.
        grid: bool ``(GH, GW)``.
        rows: int32 ``(ph, samples)``, rising: the rows of the logits over which each pixel is the
            mean.
        columns: int32 ``(pw, samples)``, the same for columns.
        cell_rows: int32 ``(GH * cells,)``, rising.
        cell_columns: int32 ``(GW * cells,)``, rising.
        cells: Side of a block in cells.
        clip: Highest divergence of a block.

    Returns:
        The new log-probabilities, float32 ``(K, ph, pw)``, undefined outside the executed blocks;
        and float32 ``(3, GH, GW)``, 0 there: the largest mean divergence over a block's sixteenths
        (0 without ``previous``), the mean of its cells' doubt, and the highest. If a logit that was
        read is not finite, the mean is not finite either.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If a table does not fit.
        RuntimeError: If gradients are recorded and the logits require grad.
    """
    check_no_grad("softmax_change", logits)
    _softmax_change_fake(logits, previous, grid, rows, columns, cell_rows, cell_columns, cells)
    _check_tables(logits.shape[1:], rows, columns)
    _check_tables((rows.shape[0], columns.shape[0]), cell_rows, cell_columns)
    sampled = logits.index_select(1, rows.flatten()).index_select(2, columns.flatten()).float()
    window = (rows.shape[1], columns.shape[1])
    pooled = sampled.unflatten(1, (-1, window[0])).unflatten(3, (-1, window[1])).mean((2, 4))
    if pooled.shape[0] == 1:
        pooled = torch.cat((pooled, torch.zeros_like(pooled)))
    fresh = pooled.log_softmax(0)
    doubt = 1 - fresh.amax(0).exp()
    divergence = torch.zeros_like(doubt)
    if previous is not None:
        divergence = (fresh.exp() * (fresh - previous)).sum(0)
    # 0, or NaN: a value that is not finite must show in its block's mean.
    finite = (pooled * 0).sum(0)

    gain, doubt, finite = (
        values.index_select(0, cell_rows).index_select(1, cell_columns)
        for values in (divergence, doubt, finite)
    )
    gain = _parts(_parts(gain, max(cells // _PARTS, 1)).mean((1, 3)), _PARTS).amax((1, 3))
    doubt, finite = _parts(doubt, cells), _parts(finite, cells)
    blocks = torch.stack(
        (gain.clamp(0, clip), doubt.mean((1, 3)) + finite.sum((1, 3)), doubt.amax((1, 3)))
    )
    return fresh.transpose(0, 1).contiguous().transpose(0, 1), torch.where(grid, blocks, 0.0)


@operator(
    "keep_softmax_(Tensor(a!) kept, Tensor fresh, Tensor grid, Tensor cell_rows, "
    "Tensor cell_columns, int cells) -> ()",
    fake=lambda: None,
)
def keep_softmax_(
    kept: Tensor,
    fresh: Tensor,
    grid: Tensor,
    cell_rows: Tensor,
    cell_columns: Tensor,
    cells: int,
) -> None:
    """Write the executed blocks of the result of :func:`softmax_change` into the kept values.

    Args:
        kept: float32 ``(K, ph, pw)``, values of a row side by side; written to.
        fresh: Values of the same shape.
        grid: bool ``(GH, GW)``.
        cell_rows: As for :func:`softmax_change`.
        cell_columns: Likewise.
        cells: Likewise.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If a table does not fit.
    """
    check_tensor("kept", kept, torch.float32, tuple(fresh.shape))
    check_tensor("fresh", fresh, torch.float32, tuple(kept.shape))
    _check_cells(grid, cell_rows, cell_columns, cells)
    _check_tables(kept.shape[1:], cell_rows, cell_columns)
    mask = torch.zeros(kept.shape[1:], dtype=torch.bool, device=kept.device)
    for row, column in grid.nonzero().tolist():
        its_rows = cell_rows[row * cells : row * cells + cells]
        its_columns = cell_columns[column * cells : column * cells + cells]
        mask[its_rows[0] : its_rows[-1] + 1, its_columns[0] : its_columns[-1] + 1] = True
    kept.copy_(torch.where(mask, fresh, kept))
