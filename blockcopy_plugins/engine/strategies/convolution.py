"""Convolutions: of maps by the planner, of views pixel by pixel."""

from __future__ import annotations

from math import prod

import torch

from ..conv.block_windows import pair
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..torch_internals import named_arguments
from .groups_as_images import takes_groups
from .op_table import always, on_blocks
from .transposed import transposed_convolution

aten = torch.ops.aten


@on_blocks(aten.convolution.default, takes_padded=True, cuts=always)
@takes_groups
def convolution(frame: Frame, func, args, kwargs):
    """2-D convolution of any kernel, stride, padding, dilation and groups."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    if _is_of_each_pixel(x, weight, stride, padding, transposed):
        executed, dense = (len(v) * prod(v.shape[2:]) * weight.numel() for v in (x.packed, x))
        frame.count_blocks(executed, dense, x.block)
        return x.like(func(x.packed, *args[1:], **kwargs))
    if not isinstance(x, BlockTensor) or isinstance(weight, BlockTensor) or weight.dim() != 4:
        return Decline("its weight is a map, or it is not two-dimensional")
    if transposed:
        return transposed_convolution(frame, func, args, kwargs)
    how = (pair(stride), pair(padding), pair(dilation), groups)
    return frame.kernels.convolve(frame, x, weight, bias, *how)


def _is_of_each_pixel(x, weight, stride, padding, transposed) -> bool:
    """Whether it is a 1x1 convolution of a view, in one dimension or two: of tokens, of patches."""
    return (
        isinstance(x, BlockTensor)
        and not isinstance(weight, BlockTensor)
        and x.axes not in (MAP, "BCHW")
        and x.axes[:2] in ("NC", "BC")
        and not transposed
        and set(weight.shape[2:]) == set(stride) == {1}
        and not any(padding)
    )


@on_blocks(aten.conv2d.default, takes_padded=True, cuts=always)
@takes_groups
def conv2d(frame: Frame, func, args, kwargs):
    """``F.conv2d`` as it arrives in inference mode: decomposing it would cost another dispatch."""
    given = named_arguments(func, args, kwargs)
    groups = given.pop("groups")
    args = (*given.values(), False, (0, 0), groups)
    return convolution(frame, aten.convolution.default, args, {})
