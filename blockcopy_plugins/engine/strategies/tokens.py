"""Tokens of a map together with tokens of no pixel: joined, and separated again.

A transformer joins a class token, registers or queries to the tokens of a map. From there on they
are a map of single tokens (:class:`~..frame.token_frame.TokenFrame`), until a slice takes the
tokens of the pixels, which are the map again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..decline import Decline
from ..frame.frame import Frame
from ..frame.inner_frame import InnerFrame
from ..frame.token_frame import TokenFrame
from ..tensor.block_tensor import BlockTensor
from ..torch_internals import named_arguments, versions_are_counted
from . import channels, windows
from .op_table import on_blocks

aten = torch.ops.aten

_KEY = "tokens"


@on_blocks(aten.cat.default)
def cat(frame: Frame, func, args, kwargs):
    """Concatenation of channels, or of a map's tokens with tokens of no pixel."""
    out = channels.cat(frame, func, args, kwargs)
    if not isinstance(out, Decline) or isinstance(frame, InnerFrame):
        return out
    tensors = args[0]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    of_map = [i for i, tensor in enumerate(tensors) if isinstance(tensor, BlockTensor)]
    x = tensors[of_map[0]]
    if len(of_map) > 1 or x.axes != "NLC" or dim % x.dim() != 1 or not frame.covers(x):
        return out
    before, behind = tensors[: of_map[0]], tensors[of_map[0] + 1 :]
    if not all(_stands_beside(tensor, x) for tensor in (*before, *behind)):
        return out
    counts = (sum(tensor.shape[1] for tensor in side) for side in (before, behind))
    return TokenFrame.of(frame, x, *counts).joined(x, before, behind)


def _stands_beside(tensor: Tensor, x: BlockTensor) -> bool:
    shape = (x.shape[0], tensor.shape[1], x.shape[2]) if tensor.dim() == 3 else None
    return tuple(tensor.shape) == shape and tensor.dtype == x.dtype


@on_blocks(aten.slice.Tensor, takes_moved=True)
def tokens(frame: Frame, func, args, kwargs):
    """A slice; of tokens, those of all pixels, or some of no pixel."""
    x = args[0]
    _, dim, *shown = named_arguments(func, args, kwargs).values()
    dim = dim % x.dim()
    if not _is_of_tokens(frame, x, dim):
        return windows.crop(frame, func, args, kwargs)
    taken = range(x.shape[dim])[slice(*shown)]
    if taken == range(x.shape[dim]):
        return windows.crop(frame, func, args, kwargs)
    if taken == frame.pixels:
        return windows.stands_for_view(frame.at_home(x), x)
    return _kept(x, func, args, kwargs)


@on_blocks(aten.select.int)
def token(frame: Frame, func, args, kwargs):
    """One channel, or one token."""
    x, dim = (*args, kwargs.get("dim", 0))[:2]
    if not _is_of_tokens(frame, x, dim % x.dim()):
        return channels.over_channels(frame, func, args, kwargs)
    return _kept(x, func, args, kwargs)


@on_blocks(aten.split_with_sizes.default)
def parts(frame: Frame, func, args, kwargs):
    """Channels, or tokens, in several parts."""
    x, sizes, dim = (*args, kwargs.get("dim", 0))[:3]
    if not _is_of_tokens(frame, x, dim % x.dim()):
        return channels.over_channels(frame, func, args, kwargs)
    ends = torch.tensor(sizes, device="cpu").cumsum(0).tolist()
    return [
        aten.slice.Tensor(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)
    ]


def _is_of_tokens(frame: Frame, x: BlockTensor, dim: int) -> bool:
    return isinstance(frame, TokenFrame) and x.axes[dim] == "L"


def _kept(x: BlockTensor, func, args, kwargs) -> Tensor:
    """Some tokens that are not a map, as an ordinary tensor: a view of all tokens."""
    # In inference mode a view made here would not share its base's version count, see ViewedMap.
    with versions_are_counted(torch.is_inference_mode_enabled()):
        return func(x.dense_for_views(_KEY), *args[1:], **kwargs)
