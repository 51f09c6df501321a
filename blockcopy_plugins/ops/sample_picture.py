"""The mean of some pixels of each square: a frame at the policies' resolution, at less cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _sample_picture_fake(frame: Tensor, side: int, step: int, size: Sequence[int]) -> Tensor:
    torch._check_value(
        frame.dim() == 4,
        lambda: (
            f"blockcopy::sample_picture: frame must be 4-D (N, C, H, W), but has shape "
            f"{tuple(frame.shape)}; add or remove dimensions with unsqueeze/squeeze"
        ),
    )
    torch._check_type(
        frame.is_floating_point(),
        lambda: (
            f"blockcopy::sample_picture: frame has dtype {frame.dtype}, expected a floating point "
            "type of 16 to 64 bits; convert it first"
        ),
    )
    torch._check_value(
        side >= 1,
        lambda: f"blockcopy::sample_picture: side is {side}, expected at least 1 (pixels)",
    )
    torch._check_value(
        step >= 1 and side % step == 0,
        lambda: (
            f"blockcopy::sample_picture: step is {step}, expected a divisor of the side, {side}"
        ),
    )
    images, channels, height, width = frame.shape
    squares = (-(-height // side), -(-width // side))
    torch._check_value(
        len(size) == 2 and size[0] >= squares[0] and size[1] >= squares[1],
        lambda: (
            f"blockcopy::sample_picture: size is {list(size)}, expected no less than the "
            f"{squares[0]} x {squares[1]} squares of the frame"
        ),
    )
    torch._check_value(
        frame.numel() > 0 or not images or not channels,
        lambda: "blockcopy::sample_picture: there is nothing to repeat in an empty frame",
    )
    return torch.empty((images, channels, *size), dtype=torch.float32, device=frame.device)


@operator(
    "sample_picture(Tensor frame, int side, int step, int[] size) -> Tensor",
    fake=_sample_picture_fake,
)
def sample_picture(frame: Tensor, side: int, step: int, size: Sequence[int]) -> Tensor:
    """Average every ``step``-th row of each square of ``side x side`` pixels.

    For a large frame the time is that of reading it, so half the rows take half the time. Among the
    rows that are read, a NaN or an infinity makes its square not finite.

    Args:
        frame (Tensor): (N, C, H, W) of any floating point dtype (16 to 64 bit), channels last or
            contiguous; another layout is converted first.
        side (int): Side of a square in pixels, at least 1.
        step (int): Rows ``step // 2``, ``step // 2 + step``, ... of each square are read; a divisor
            of ``side``. 1 reads all, like :func:`~.reduce_picture.reduce_picture`. The last row of
            the frame stands for those below it.
        size (Sequence[int]): Squares of the picture, (rows, columns), no fewer than the frame has:
            those outside the frame repeat the nearest one inside.

    Returns:
        Tensor: float32 (N, C, rows, columns), contiguous. Squares that the right edge cuts hold
        the mean of the pixels inside.

    Raises:
        ValueError: If the frame is not 4-D or has no pixels, ``side`` is below 1, ``step`` does not
            divide it or ``size`` is too small.
        TypeError: If the frame is not of a floating point dtype.
        RuntimeError: If gradients are recorded and the frame requires grad.
    """
    check_no_grad("sample_picture", frame)
    empty = _sample_picture_fake(frame, side, step, size)
    if empty.numel() == 0:
        return empty
    if step > 1:
        height = -(-frame.shape[2] // side) * side
        rows = torch.arange(step // 2, height, step, device=frame.device)
        frame = frame.index_select(2, rows.clamp_max_(frame.shape[2] - 1))
    window = (side // step, side)
    means = F.avg_pool2d(frame.float(), window, ceil_mode=True, count_include_pad=False)
    below, right = size[0] - means.shape[2], size[1] - means.shape[3]
    if below or right:
        means = F.pad(means, (0, right, 0, below), mode="replicate")
    return means.contiguous()
