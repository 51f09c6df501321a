"""Policies that a sensible engineer would try first: frame difference, every nth frame."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.host_transfer import upload

from .base import Policy, PolicyContext, check_count, check_frame
from .picture import (
    cells_per_block,
    cells_to_grid,
    grid_to_cells,
    picture_statistics,
    reduce_picture,
)
from .threshold_policy import Look, ThresholdPolicy, remembered


class EveryNthFramePolicy(Policy):
    """Executes every nth frame of a stream fully and nothing in between.

    Args:
        n: The period in frames, at least 1. Default: 4.

    Raises:
        ConfigError: If ``n`` is not an integer of at least 1.
    """

    whole_frames_only = True

    def __init__(self, n: int = 4) -> None:
        self.n = check_count("n", n, 1, "frames")

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Execute the images whose frame index is a multiple of n."""
        due = torch.tensor([index % self.n == 0 for index in context.frame_index])
        return upload(due, frame.device)[:, None, None].expand(context.grid_shape).clone()


class FrameDifferencePolicy(ThresholdPolicy):
    """Executes the blocks whose picture differs from the one with which they were last executed.

    Each block is compared with its *last executed* picture, not with the previous frame, so slow
    motion adds up until it is noticed. The comparison is :func:`block_difference`.

    Args:
        threshold: In standard deviations of the frame (of 8-bit video, 0.05 is about 3 grey
            levels). Default, if ``target`` is not given either: 0.1.
        target: Executed rate to hold, above 0 and at most 1; instead of ``threshold``. See
            :class:`~blockcopy_plugins.policy.threshold_policy.ThresholdPolicy`.

    Raises:
        ConfigError: If both are given, or one is out of range.
    """

    def look(self, frame: Tensor, context: PolicyContext) -> Look:
        """Compare the picture with the last executed one."""
        check_frame(frame, context)
        picture = reduce_picture(frame, context.block_size, context.grid_shape)
        kept, known = remembered(
            self.memory, context, lambda last, _: last.shape == picture.shape[1:]
        )
        last = torch.stack([p if k is None else k for p, k in zip(picture, kept, strict=True)])
        scores = block_difference(picture, last, cells_per_block(context.block_size))
        return Look(context, scores, known, (picture, last))

    def commit(self, look: Look, grid: Tensor, threshold: float | Tensor) -> None:
        """Keep the picture of the executed blocks; for a new stream, the whole picture."""
        picture, last = look.seen
        executed = grid_to_cells(grid, cells_per_block(look.context.block_size))
        for image, stream in enumerate(look.context.streams):
            self.memory[stream] = torch.where(executed[image], picture[image], last[image])


def block_difference(picture: Tensor, other: Tensor, cells: int) -> Tensor:
    """Compare two pictures block by block.

    The result is the absolute difference, averaged over channels and over each sixteenth of the
    block (or each cell, if a block has fewer than 4 x 4), in units of ``picture``'s own standard
    deviation; of these values, the largest in each block. A block that cannot be compared, because
    one of its pictures is not finite, differs infinitely: it runs, and is known from then on.

    Args:
        picture: float32 ``(N, C, GH * cells, GW * cells)``, as :func:`.reduce_picture` gives it.
        other: A picture of the same shape.
        cells: Side of a block in cells.

    Returns:
        float32 ``(N, GH, GW)``.
    """
    _, scale = picture_statistics(picture)
    difference = ((picture - other).abs() / scale).mean(1)
    part = max(cells // 4, 1)
    parts = cells_to_grid(difference, part, "mean")
    return cells_to_grid(parts, cells // part, "max").nan_to_num(nan=torch.inf)
