"""Ops that leave pixels where they are: views, joins and sums of channels, linear layers."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP, channels_of, sizes_of
from ..tensor.axes_rules import AXES_RULES, View, axes_after
from ..tensor.block_tensor import BlockTensor
from ..tensor.mirror import Mirror
from ..tensor.pending_map import JoinCall, PendingMap
from ..tensor.view_axes import Reading
from ..torch_internals import schema_of
from .op_table import on_blocks
from .summaries import over_all_pixels

aten = torch.ops.aten

_SQUEEZES = (aten.squeeze.dim, aten.squeeze.dims)
VIEWS = (aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)


@on_blocks(
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.amax.default,
    aten.amin.default,
    aten.linalg_vector_norm.default,
    aten.var.correction,
    aten.std.correction,
    aten.var_mean.correction,
    any_layout=True,
)
@on_blocks(*AXES_RULES)
def over_channels(frame: Frame, func, args, kwargs):
    """Any op of :data:`~..tensor.axes_rules.AXES_RULES`, on the packed blocks.

    Views stay views: writes to them show in their base.
    """
    x = args[0]
    found = None
    if isinstance(x, BlockTensor):
        shape, size = tuple(x.shape), x.size_of_map
        view = View(x.axes, shape, frame.images, size, x.joined, of_tokens=frame.of_tokens)
        found = axes_after(func, view, args, kwargs)
    if found is None:
        return over_all_pixels(frame, func, args, kwargs)
    axes = found.axes
    if func in VIEWS:
        return run_view(frame, x, func, found, args)
    if func is aten.expand.default:
        size = [s if letter == "C" else -1 for s, letter in zip(args[1], axes, strict=True)]
        out = func(x.packed, size, **kwargs)
    elif func in _SQUEEZES:
        # By the dense sizes: any of the packed ones may happen to be 1.
        dims = [args[1]] if isinstance(args[1], int) else args[1]
        out = x.packed.squeeze([d for d in dims if x.shape[d] == 1])
    else:
        out = func(x.packed, *args[1:], **kwargs)
    if func is aten.linear.default:
        count_product(frame, x, args[1])
    version = x.version if schema_of(func).returns[0].alias_info is not None else None
    strides = None
    if version is not None and axes != MAP:
        strides = strides_of_view(x, func, args, kwargs)
    if isinstance(out, Tensor):
        return x.like(out, version, axes, strides)
    return [x.like(part, version, axes, strides) for part in out]


@on_blocks(aten.cat.default)
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
    if dim == 1 and all(value.dtype == template.dtype for value in packed):
        if frame.kernels.joins(template) and packed[0].numel():
            channels = sum(value.shape[1] for value in packed)
            join = PendingMap(JoinCall(packed))
            size, block = template.size_of_map, template.block
            return BlockTensor.of_pending(join, template, channels, size, block)
    return template.like(func(packed, dim))


@on_blocks(aten.stack.default)
def stack(frame: Frame, func, args, kwargs):
    """Concatenation along a new dimension."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    dim %= args[0][0].dim() + 1
    return aten.cat.default([aten.unsqueeze.default(t, dim) for t in args[0]], dim)


@on_blocks(aten.mm.default, aten.addmm.default)
def matrix_product(frame: Frame, func, args, kwargs):
    """The two matrix products that a linear layer becomes: of pixels with a weight."""
    place = 1 if func is aten.addmm.default else 0
    x, weight = args[place], args[place + 1]
    plain = type(weight) is not BlockTensor and (place == 0 or args[0].dim() == 1)
    if not isinstance(x, BlockTensor) or x.axes not in ("RC", "QC", "PC", "SC") or not plain:
        return Decline("it is not a product of pixels with a weight")
    count_product(frame, x, weight)
    return x.like(func(*args[:place], x.packed, *args[place + 1 :], **kwargs))


def count_product(frame: Frame, x: BlockTensor, weight: Tensor) -> None:
    """Count the MACs of a product of each pixel of ``x`` with a matrix."""
    per_pixel = weight.numel()
    frame.count_blocks(
        prod(x.packed.shape[:-1]) * per_pixel, prod(x.shape[:-1]) * per_pixel, x.block
    )


def _joined(frame: Frame, value: Tensor, template: BlockTensor) -> Tensor | None:
    if not isinstance(value, BlockTensor):
        return frame.packed_like(value, template)
    same = value.block == template.block and value.size_of_map == template.size_of_map
    return value.packed if same and value.axes == template.axes else None


def run_view(frame: Frame, x: BlockTensor, func, reading: Reading, args):
    """A view of known axes, whatever the layout of the packed blocks; a copy if necessary."""
    axes, joined, size_of_map = reading
    block = x.block
    if size_of_map != x.size_of_map:
        block = _scaled_block(frame, x, size_of_map)
        if block is None:
            return Decline("it splits or joins rows or columns across blocks")
    size = list(args[1])
    if -1 in size:
        size[size.index(-1)] = prod(x.shape) // -prod(size)
    tile = size_of_map if frame.whole else block
    size = sizes_of(axes, channels_of(axes, size, joined), x.rows, tile)
    strides = None if axes == MAP else strides_of_view(x, func, args, {})

    def made(packed: Tensor, version=None) -> BlockTensor:
        out = BlockTensor(packed, size_of_map, block, frame, version, axes, strides, joined)
        out.cropped = version is not None and x.cropped
        return out

    try:
        out = x.packed.view(size)
    except RuntimeError:  # torch offers no other way to find out
        if func is aten._unsafe_view.default:
            return made(x.packed.reshape(size))
        if not x.make_contiguous():
            out = x.packed.reshape(size)
            view = made(out)
            view.version.mirror = Mirror(x, out)
            return view
        out = x.packed.view(size)
    return made(out, x.version)


def _scaled_block(frame: Frame, x: BlockTensor, size: tuple[int, int]) -> tuple[int, int] | None:
    """Block of a map whose rows or columns were split, or joined to channels."""
    block = []
    for width, before, after in zip(x.block, x.size_of_map, size, strict=True):
        whole, rest = divmod(width * after, before)
        if rest or not whole:
            return None
        block.append(whole)
    block = tuple(block)
    return block if frame.layout(size, block) is x.block_layout else None


def strides_of_view(x: BlockTensor, func, args, kwargs) -> tuple[int, ...] | None:
    """Strides that the view of the dense tensor would have: from them torch sees what is a view.

    ``None`` if there is no such view.
    """
    shadow = torch.empty_strided(x.shape, x.stride(), device="meta", dtype=x.dtype)
    try:
        out = func(shadow, *args[1:], **kwargs)
    except RuntimeError:
        return None
    return (out if isinstance(out, Tensor) else out[0]).stride()
