"""Ops that work on each pixel by itself: they run on the packed blocks as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from ..block_tensor import BlockTensor
from ..frame import Frame
from .densify import Decline


def pointwise(frame: Frame, func, args, kwargs):
    """Element-wise ops of BlockTensors with each other, with dense maps and with ``(N, C, 1, 1)``.

    A dense map of the same size gives its executed blocks; a tensor that is constant over the
    image gives each block its image's row.
    """
    if "out" in kwargs:
        return Decline("its result goes to a tensor that was given")
    template = _widest([a for a in args if isinstance(a, BlockTensor)])
    if template is None:
        return Decline("its map operands differ in size or block")
    packed = []
    for value in args:
        if isinstance(value, Tensor):
            value = _operand(frame, value, template)
            if value is None:
                return Decline("an operand is neither a map of this size nor constant over it")
        packed.append(value)
    out = func(*packed, **kwargs)
    if func._schema.is_mutable:
        target = args[0]
        if not isinstance(target, BlockTensor):
            return Decline("it writes into a dense tensor")
        target.changed()
        return target
    if isinstance(out, tuple):
        return tuple(template.like(part) for part in out)
    return template.like(out)


def alias(frame: Frame, func, args, kwargs):
    """``detach`` and its like: another tensor on the same memory."""
    (x, *rest) = args
    out = x.like(func(x.packed, *rest, **kwargs), x.version)
    out._full = x._full
    return out


def copy_like(frame: Frame, func, args, kwargs):
    """``clone``, dtype conversions and ``*_like``: one input, as many blocks out.

    Packed memory is channels last whatever layout is asked for: the layout of the logical map has
    no meaning for it.
    """
    (x, *rest) = args
    kwargs = {k: v for k, v in kwargs.items() if k != "memory_format"}
    return x.like(func(x.packed, *rest, **kwargs))


def copy_into(frame: Frame, func, args, kwargs):
    """``copy_`` into a BlockTensor."""
    target, source = args[:2]
    if not isinstance(target, BlockTensor):
        return Decline("it writes into a dense tensor")
    source = _operand(frame, source, target)
    if source is None:
        return Decline("its source is neither a map of this size nor constant over it")
    target.packed.copy_(source)
    target.changed()
    return target


def new_tensor(frame: Frame, func, args, kwargs):
    """``new_zeros`` and its like: an ordinary tensor that shares dtype and device alone."""
    x, *rest = args
    return func(x.packed[:0], *rest, **kwargs)


def batch_norm(frame: Frame, func, args, kwargs):
    """Batch norm by running statistics."""
    names = [a.name for a in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    if given.get("training", given.get("train", False)):
        return Decline("batch norm in training mode needs the statistics of the whole map")
    x = args[0]
    out, *statistics = func(x.packed, *args[1:], **kwargs)
    return (x.like(out), *statistics)


def _widest(tensors: list[BlockTensor]) -> BlockTensor | None:
    """The operand with the channels of the result, or ``None`` if blocks or sizes differ."""
    first = tensors[0]
    for other in tensors[1:]:
        if other.block != first.block or other.shape[2:] != first.shape[2:]:
            return None
    return max(tensors, key=lambda t: t.shape[1])


def _operand(frame: Frame, value: Tensor, template: BlockTensor) -> Tensor | None:
    """What stands for one operand beside the packed blocks, or ``None`` if nothing can."""
    if isinstance(value, BlockTensor):
        same = value.block == template.block and value.shape[2:] == template.shape[2:]
        return value.packed if same else None
    if value.dim() == 0:
        return value
    shape = (1,) * (4 - value.dim()) + tuple(value.shape)
    if value.dim() > 4 or shape[0] not in (1, frame.images):
        return None
    if shape[1] not in (1, template.shape[1]):
        return None
    if shape[2:] == (1, 1):
        value = value.view(shape)
        if shape[0] == 1 or frame.whole:
            return value
        return value.index_select(0, frame.image_index)
    if shape[2:] == tuple(template.shape[2:]):
        value = value.view(shape).expand(frame.images, *shape[1:])
        return frame.packed_from(value, template.block)
    return None


def is_pointwise(func: torch._ops.OpOverload) -> bool:
    """Whether torch itself declares an op to be element-wise."""
    return torch.Tag.pointwise in func.tags
