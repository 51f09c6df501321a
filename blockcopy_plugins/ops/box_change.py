"""What a detector's boxes show in each block, and how much that differs from before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator
from blockcopy_plugins.ops.match_boxes import match_boxes
from blockcopy_plugins.ops.paint_regions import paint_regions


def _present(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[keep], scores[keep], labels[keep]


def _painted(boxes: Tensor, values: Tensor, side: float, size: Sequence[int]) -> Tensor:
    """Paint boxes on the squares of a given side that they touch; the largest value is kept."""
    # With 16, 8 or 4 cells a block the side is exact, so no quotient is rounded over a border.
    left, top, right, bottom = (boxes.double() / side).unbind(1)
    regions = torch.stack((top.floor(), bottom.ceil(), left.floor(), right.ceil()), 1).int()
    return paint_regions.reference(values.float(), regions, None, size)


def _box_change_fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    old_boxes: Tensor | None,
    old_scores: Tensor | None,
    old_labels: Tensor | None,
    size: Sequence[int],
    block_size: int,
    cells: int,
) -> tuple[Tensor, Tensor]:
    torch._check_value(
        len(size) == 2 and min(size) > 0 and block_size > 0 and cells > 0,
        lambda: (
            f"blockcopy::box_change: size is {list(size)}, block_size {block_size} and cells "
            f"{cells}, expected (H, W) and numbers above 0"
        ),
    )
    old = (old_boxes, old_scores, old_labels)
    torch._check_value(
        all(value is None for value in old) or all(value is not None for value in old),
        lambda: (
            "blockcopy::box_change: of old_boxes, old_scores and old_labels some are None, "
            "expected all or none"
        ),
    )
    for table, values, kinds in ((boxes, scores, labels), old):
        if table is None:
            continue
        torch._check_type(
            table.dtype == values.dtype == torch.float32 and kinds.dtype == torch.int64,
            lambda table=table, values=values, kinds=kinds: (
                f"blockcopy::box_change: boxes have dtype {table.dtype}, scores {values.dtype} and "
                f"labels {kinds.dtype}, expected torch.float32, torch.float32 and torch.int64"
            ),
        )
        count = values.numel()
        torch._check_value(
            table.shape == (count, 4) and values.shape == kinds.shape == (count,),
            lambda table=table, values=values, kinds=kinds: (
                f"blockcopy::box_change: boxes have shape {tuple(table.shape)}, scores "
                f"{tuple(values.shape)} and labels {tuple(kinds.shape)}, expected (n, 4), (n) and "
                "(n)"
            ),
        )
    grid = [-(-side // block_size) for side in size]
    return torch.empty_like(boxes), boxes.new_empty((3, *grid))


@operator(
    "box_change(Tensor boxes, Tensor scores, Tensor labels, Tensor? old_boxes, "
    "Tensor? old_scores, Tensor? old_labels, int[] size, int block_size, int cells) "
    "-> (Tensor, Tensor)",
    fake=_box_change_fake,
)
def box_change(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    old_boxes: Tensor | None,
    old_scores: Tensor | None,
    old_labels: Tensor | None,
    size: Sequence[int],
    block_size: int,
    cells: int,
) -> tuple[Tensor, Tensor]:
    """Clip boxes to the image, paint them and their changes on its blocks; on the CPU.

    For the painting rules see
    :class:`~blockcopy_plugins.policy.information_gain.detection.DetectionGain`. Boxes without an
    area in the image are skipped.

    Args:
        boxes: float32 ``(n, 4)``, ``x1, y1, x2, y2`` in pixels, finite.
        scores: float32 ``(n,)``.
        labels: int64 ``(n,)``.
        old_boxes: float32 ``(m, 4)``, the previous boxes as this function returned them; None if
            there were none, and so for the next two.
        old_scores: float32 ``(m,)``.
        old_labels: int64 ``(m,)``.
        size: ``(H, W)`` of the image in pixels.
        block_size: Side of a block in pixels.
        cells: Side of a block in cells, a power of two.

    Returns:
        The boxes clipped, float32 ``(n, 4)``; and float32 ``(3, GH, GW)``: the largest change in
        each block (0 if there is nothing to compare with), the mean of the largest score over each
        of its cells, and the largest score.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    check_no_grad("box_change", boxes, scores)
    _box_change_fake(
        boxes, scores, labels, old_boxes, old_scores, old_labels, size, block_size, cells
    )
    height, width = size
    grid = [-(-side // block_size) for side in size]
    limits = torch.tensor([width, height, width, height])
    clipped = torch.minimum(boxes.clamp_min(0), limits)
    now = _present(clipped, scores, labels)
    gain = torch.zeros(grid)
    if old_boxes is not None:
        before = _present(old_boxes, old_scores, old_labels)
        overlaps, matches = match_boxes.reference(now[0], now[2], before[0], before[2])
        moved = 1 - overlaps.double()
        # For a previous box: the largest move of any box whose match it is, 1 if it has gone.
        matched = matches >= 0
        left = torch.full(before[1].shape, -1.0, dtype=torch.float64)
        left.scatter_reduce_(0, matches[matched], moved[matched], "amax")
        left = torch.where(left < 0, 1.0, left)
        gain = torch.maximum(
            _painted(now[0], moved * now[1], block_size, grid),
            _painted(before[0], left * before[1], block_size, grid),
        )
    fine = [side * cells for side in grid]
    shown = _painted(now[0], now[1], block_size / cells, fine)
    shown = shown.unflatten(1, (-1, cells)).unflatten(0, (-1, cells))
    return clipped, torch.stack((gain, shown.mean((1, 3)), shown.amax((1, 3))))
