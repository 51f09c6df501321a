"""The mean of each square of pixels: a frame at the policies' resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _reduce_picture_fake(frame: Tensor, side: int) -> Tensor:
    torch._check_value(
        frame.dim() == 4,
        lambda: (
            f"blockcopy::reduce_picture: frame must be 4-D (N, C, H, W), but has shape "
            f"{tuple(frame.shape)}; add or remove dimensions with unsqueeze/squeeze"
        ),
    )
    torch._check_type(
        frame.is_floating_point(),
        lambda: (
            f"blockcopy::reduce_picture: frame has dtype {frame.dtype}, expected a floating point "
            "type of 16 to 64 bits; convert it first"
        ),
    )
    torch._check_value(
        side >= 1,
        lambda: f"blockcopy::reduce_picture: side is {side}, expected at least 1 (pixels)",
    )
    images, channels, height, width = frame.shape
    return torch.empty(
        (images, channels, -(-height // side), -(-width // side)),
        dtype=torch.float32,
        device=frame.device,
    )


@operator("reduce_picture(Tensor frame, int side) -> Tensor", fake=_reduce_picture_fake)
def reduce_picture(frame: Tensor, side: int) -> Tensor:
    """Average each square of ``side x side`` pixels.

    Sums are taken in float32 whatever the dtype. A NaN or an infinity makes its square not
    finite, so a finite result says that the whole frame is finite.

    Args:
        frame (Tensor): (N, C, H, W) of any floating point dtype (16 to 64 bit), channels last or
            contiguous; another layout is converted first.
        side (int): Side of a square in pixels, at least 1.

    Returns:
        Tensor: float32 (N, C, ceil(H / side), ceil(W / side)), contiguous. Squares that the edge
        cuts hold the mean of the pixels inside.

    Raises:
        ValueError: If the frame is not 4-D or ``side`` is below 1.
        TypeError: If the frame is not of a floating point dtype.
        RuntimeError: If gradients are recorded and the frame requires grad.
    """
    check_no_grad("reduce_picture", frame)
    empty = _reduce_picture_fake(frame, side)
    if empty.numel() == 0:
        return empty
    # This makes a float32 copy of the whole frame; the native kernel does without it.
    means = F.avg_pool2d(frame.float(), side, ceil_mode=True, count_include_pad=False)
    return means.contiguous()
