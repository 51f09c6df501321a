"""Copies of maps, and other tensors like them."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from ..frame.frame import Frame
from ..tensor.axes import MAP
from .op_table import on_blocks

aten = torch.ops.aten


@on_blocks(aten.detach.default, aten.alias.default)
def alias(frame: Frame, func, args, kwargs):
    """``detach`` and the like: another tensor on the same memory."""
    (x, *rest) = args
    out = x.like(func(x.packed, *rest, **kwargs), x.version, strides=x.stride())
    out._full = x._full
    return out


@on_blocks(
    aten.clone.default,
    aten._to_copy.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
)
def copy_like(frame: Frame, func, args, kwargs):
    """``clone``, dtype conversions and ``*_like``: one map in, one of the same blocks out.

    Packed maps are channels last, whatever layout is requested for the dense map.
    """
    (x, *rest) = args
    if x.axes == MAP:
        kwargs = {k: v for k, v in kwargs.items() if k != "memory_format"}
    elif func is aten.clone.default and x.axes[0] == "N" and x.axes.endswith("HW"):
        return x.like(_with_channels_last(x.packed))
    return x.like(func(x.packed, *rest, **kwargs))


def _with_channels_last(packed: Tensor) -> Tensor:
    """A copy of ``(n, ..., h, w)`` in which the channels of a pixel lie side by side.

    So does what a convolution takes; after a channel shuffle it is a map again, by a view.
    """
    if packed.dim() == 5 and packed.device.type == "cpu" and packed.element_size() in (2, 4, 8):
        # Groups of channels that have changed places with the channels of a group.
        map_ = packed.transpose(1, 2)
        if map_.stride(1) == map_.shape[2] * map_.stride(2):
            map_ = map_.flatten(1, 2)
            if map_.is_contiguous(memory_format=torch.channels_last):
                shuffled = ops.shuffle_channels(map_, packed.shape[2])
                return shuffled.unflatten(1, packed.shape[1:3])
    pixels_first = packed.movedim((-2, -1), (1, 2))
    return (
        torch.empty_like(pixels_first, memory_format=torch.contiguous_format)
        .copy_(pixels_first)
        .movedim((1, 2), (-2, -1))
    )


@on_blocks(
    aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default
)
def new_tensor(frame: Frame, func, args, kwargs):
    """``new_zeros`` and the like: an ordinary tensor that shares only dtype and device."""
    x, *rest = args
    return func(x.packed[:0], *rest, **kwargs)
