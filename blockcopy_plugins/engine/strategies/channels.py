"""Ops that leave pixels where they are: views, joins and sums of channels, linear layers."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..axes import MAP, View, axes_after, sizes_of
from ..block_tensor import BlockTensor
from ..frame import Frame
from .densify import Decline

aten = torch.ops.aten

_SQUEEZES = (aten.squeeze.dim, aten.squeeze.dims)
_VIEWS = (aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)


def over_channels(frame: Frame, func, args, kwargs):
    """Any op of :data:`~blockcopy_plugins.engine.axes.CHANNEL_OPS`, on the packed blocks.

    Views stay views: what is written to them is seen in their base.
    """
    x = args[0]
    axes = None
    if isinstance(x, BlockTensor):
        view = View(x.axes, tuple(x.shape), frame.images, x.size_of_map)
        axes = axes_after(func, view, args, kwargs)
    if axes is None:
        return Decline("it mixes pixels or images")
    if func in _VIEWS:
        return _view(x, func, axes, args)
    if func is aten.expand.default:
        size = [s if letter == "C" else -1 for s, letter in zip(args[1], axes, strict=True)]
        out = func(x.packed, size, **kwargs)
    elif func in _SQUEEZES:
        # By the dense sizes: of the packed ones any may happen to be 1.
        dims = [args[1]] if isinstance(args[1], int) else args[1]
        out = x.packed.squeeze([d for d in dims if x.shape[d] == 1])
    else:
        out = func(x.packed, *args[1:], **kwargs)
    if func is aten.linear.default:
        _count(frame, x, args[1])
    version = x.version if func._schema.returns[0].alias_info is not None else None
    strides = None
    if version is not None and axes != MAP:
        strides = _strides(x, func, args, kwargs)
    if isinstance(out, Tensor):
        return x.like(out, version, axes, strides)
    return [x.like(part, version, axes, strides) for part in out]


def cat(frame: Frame, func, args, kwargs):
    """Concatenation of BlockTensors and dense tensors of one size along channels."""
    tensors = args[0]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    template = next(t for t in tensors if isinstance(t, BlockTensor))
    if len(tensors) == 1:
        return template.like(template.packed.clone())
    dim %= template.dim()
    if template.axes[dim] != "C":
        return Decline(f"it joins along dimension {dim}, not along channels")
    packed = []
    for tensor in tensors:
        value = None
        if tensor.dim() == template.dim() and all(
            i == dim or a == b
            for i, (a, b) in enumerate(zip(tensor.shape, template.shape, strict=True))
        ):
            value = _joined(frame, tensor, template)
        if value is None:
            return Decline("its maps differ in size or block")
        packed.append(value)
    return template.like(func(packed, dim))


def stack(frame: Frame, func, args, kwargs):
    """Concatenation along a new dimension."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    dim %= args[0][0].dim() + 1
    return aten.cat.default([aten.unsqueeze.default(t, dim) for t in args[0]], dim)


def matrix_product(frame: Frame, func, args, kwargs):
    """The two matrix products that a linear layer becomes: of pixels with a weight."""
    place = 1 if func is aten.addmm.default else 0
    x, weight = args[place], args[place + 1]
    plain = type(weight) is not BlockTensor and (place == 0 or args[0].dim() == 1)
    if not isinstance(x, BlockTensor) or x.axes != "RC" or not plain:
        return Decline("it is no product of pixels with a weight")
    _count(frame, x, weight)
    return x.like(func(*args[:place], x.packed, *args[place + 1 :], **kwargs))


def batched_product(frame: Frame, func, args, kwargs):
    """``bmm`` of pixels with a matrix for each image, or one for all as of a linear layer.

    Either ``(N, L, C)`` times a matrix, or a matrix times ``(N, C, L)``: a 1x1 convolution whose
    weights are made of the image.
    """
    first, second = args
    x, weight = (first, second) if isinstance(first, BlockTensor) else (second, first)
    axes = ("NLC", "GWC") if x is first else ("NCL",)
    if x.axes not in axes or isinstance(weight, BlockTensor):
        return Decline("it is no product of pixels with a matrix")
    if x is second:
        mine = weight if frame.whole else weight.index_select(0, x.layout.image_index)
        out = func(mine, x.packed)
        per_pixel = weight[0].numel()
        pixels = out.shape[0] * out.shape[2], x.shape[0] * x.shape[2]
        frame.count_blocks(pixels[0] * per_pixel, pixels[1] * per_pixel, x.block)
        return x.like(out)
    if frame.whole:
        out = func(x.packed, weight)
    elif weight.stride(0) == 0 or len(weight) == 1:
        out = torch.matmul(x.packed, weight[0])
    elif x.axes == "NLC":
        out = func(x.packed, weight.index_select(0, x.layout.image_index))
    else:
        return Decline("each row has a matrix of its own")
    _count(frame, x, weight[0])
    return x.like(out)


def _count(frame: Frame, x: BlockTensor, weight: Tensor) -> None:
    per_pixel = weight.numel()
    frame.count_blocks(
        prod(x.packed.shape[:-1]) * per_pixel, prod(x.shape[:-1]) * per_pixel, x.block
    )


def _joined(frame: Frame, value: Tensor, template: BlockTensor) -> Tensor | None:
    if not isinstance(value, BlockTensor):
        return frame.packed_like(value, template)
    same = value.block == template.block and value.size_of_map == template.size_of_map
    return value.packed if same and value.axes == template.axes else None


def _view(x: BlockTensor, func, axes: str, args) -> BlockTensor:
    """A view, whatever the layout of the packed blocks: with a copy, if it must be."""
    size = list(args[1])
    if -1 in size:
        size[size.index(-1)] = prod(x.shape) // -prod(size)
    channels = [s for s, letter in zip(size, axes, strict=True) if letter == "C"]
    size = sizes_of(axes, channels, x.rows, x.tile)
    strides = None if axes == MAP else _strides(x, func, args, {})
    try:
        out = x.packed.view(size)
    except RuntimeError:  # torch has no other way to ask
        if func is aten._unsafe_view.default:
            return x.like(x.packed.reshape(size), None, axes, strides)
        if not x.make_contiguous():
            return x.like(x.packed.reshape(size), x.version.of_copy(x), axes, strides)
        out = x.packed.view(size)
    return x.like(out, x.version, axes, strides)


def _strides(x: BlockTensor, func, args, kwargs) -> tuple[int, ...] | None:
    """Strides of the view that the dense tensor would have: they tell torch what is a view of it.

    ``None`` if there is no such view.
    """
    shadow = torch.empty_strided(x.shape, x.stride(), device="meta", dtype=x.dtype)
    try:
        out = func(shadow, *args[1:], **kwargs)
    except RuntimeError:
        return None
    return (out if isinstance(out, Tensor) else out[0]).stride()
