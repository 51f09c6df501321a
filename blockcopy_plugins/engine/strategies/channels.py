"""Ops along the channels: they join and part packed blocks as they would whole maps."""

from __future__ import annotations

from ..block_tensor import BlockTensor
from ..frame import Frame
from .densify import Decline
from .pointwise import _operand


def cat(frame: Frame, func, args, kwargs):
    """Concatenation of BlockTensors and dense maps of one size along the channels."""
    tensors = args[0]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if dim not in (1, -3):
        return Decline(f"it joins along dimension {dim}, not along the channels")
    template = next(t for t in tensors if isinstance(t, BlockTensor))
    packed = []
    for tensor in tensors:
        whole_map = tensor.dim() == 4 and tensor.shape[2:] == template.shape[2:]
        value = None
        if whole_map and isinstance(tensor, BlockTensor):
            value = _operand(frame, tensor, template)
        elif whole_map and tensor.shape[0] == frame.images:
            value = frame.packed_from(tensor, template.block)
        if value is None:
            return Decline("its maps differ in size or block")
        packed.append(value)
    return template.like(func(packed, 1))


def channel_view(frame: Frame, func, args, kwargs):
    """Slices and splits of the channels: views on the same packed memory."""
    x = args[0]
    position = [a.name for a in func._schema.arguments].index("dim")
    dim = args[position] if len(args) > position else kwargs.get("dim", 0)
    if dim not in (1, -3):
        return Decline(f"it cuts along dimension {dim}, not along the channels")
    out = func(x.packed, *args[1:], **kwargs)
    if isinstance(out, (list, tuple)):
        return type(out)(x.like(part, x.version) for part in out)
    return x.like(out, x.version)
